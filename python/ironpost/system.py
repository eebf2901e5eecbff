"""Time, as one injected object: tests set it, nothing else asks the clock directly."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Two clocks, both in nanoseconds."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump."""
        ...

    def boot_ns(self) -> int:
        """Nanoseconds since boot, sleep included (``CLOCK_BOOTTIME``); never jumps. The kernel filter uses it too."""
        ...

    def boot_id(self) -> str:
        """Names this boot: readings of :meth:`boot_ns` compare only within one."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """See :class:`Clock`."""
        return time.time_ns()

    def boot_ns(self) -> int:
        """See :class:`Clock`."""
        clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        return time.clock_gettime_ns(clock)

    def boot_id(self) -> str:
        """See :class:`Clock`. Without Linux's file there is no boot to name, and wall time decides."""
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            return ""


@dataclass(slots=True)
class FixedClock:
    """A clock for tests that moves only when told."""

    wall: int = 1_700_000_000_000_000_000
    boot: int = 1_000_000_000_000
    boot_name: str = "boot-1"

    def wall_ns(self) -> int:
        """See :class:`Clock`."""
        return self.wall

    def boot_ns(self) -> int:
        """See :class:`Clock`."""
        return self.boot

    def boot_id(self) -> str:
        """See :class:`Clock`."""
        return self.boot_name

    def advance(self, seconds: float) -> None:
        """Moves both clocks forward."""
        step = round(seconds * 1_000_000_000)
        self.wall += step
        self.boot += step
