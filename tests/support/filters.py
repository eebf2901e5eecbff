"""Opening a filter for a test, and saying what its counters must have done."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ironpost._core import Filter
from support.bpf import Program

DROP, MONITOR = 1, 2
_NUMBERS = itertools.count()


@dataclass(slots=True)
class Lab:
    """A loaded filter without interfaces, and its program to run on frames."""

    filter: Filter
    program: Program
    _noted: dict[str, Any] = field(default_factory=dict)

    def run(self, frame: bytes) -> int:
        """Runs the program once and returns its verdict."""
        return self.program.run(frame)[0]

    def block(self, *targets: str, mode: int = DROP, expires: int = 0, rule: int = 7) -> dict[str, Any]:
        """Blocks targets; returns the report."""
        return json.loads(self.filter.block([(target, expires, rule, mode) for target in targets]))

    def counters(self) -> dict[str, Any]:
        """Reads the counters."""
        return json.loads(self.filter.counters())

    def note(self) -> None:
        """Remembers the counters for :meth:`changes`."""
        self._noted = self.counters()

    def changes(self) -> dict[str, Counter[str]]:
        """What has been counted since :meth:`note`, without zeros: ``packets``, ``reasons``, and one per protocol."""
        now, before = self.counters(), self._noted

        def difference(new: dict[str, int], old: dict[str, int]) -> Counter[str]:
            return Counter({name: value - old[name] for name, value in new.items() if value != old[name]})

        keys = ("packets_total", "packets_passed", "packets_dropped", "events_emitted", "events_lost")
        found = {
            "packets": difference({key: now[key] for key in keys}, {key: before[key] for key in keys}),
            "reasons": difference(now["reasons"], before["reasons"]),
        }
        for name, counts in now["protocols"].items():
            found[name] = difference(counts, before["protocols"][name])
        return found


def pin_directory() -> str:
    """A directory for pins that no other test uses."""
    return f"/sys/fs/bpf/ironpost_test_{os.getpid()}_{next(_NUMBERS)}"


@contextmanager
def lab(*, pin_dir: str | None = None, entries: int = 10_000, ring: int = 262_144, sample: int = 0) -> Iterator[Lab]:
    """Opens a filter on no interface; everything it pinned is gone afterwards."""
    directory = pin_dir or pin_directory()
    opened = Filter.open(
        directory, interfaces=[], mode="auto", ring_buffer_size=ring, blocklist_max_entries=entries, sample_every=sample
    )
    try:
        with Program.pinned(f"{directory}/ironpost_xdp") as program:
            yield Lab(opened, program)
    finally:
        Filter.detach_pins(directory)
