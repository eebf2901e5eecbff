"""The native parts the pipeline drives, as protocols: tests bring their own, and other systems lack some."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from ironpost import _core
from ironpost.detections import RuleSet
from ironpost.enforcement import PacketFilter
from ironpost.errors import PrivilegeMissing, UnsupportedPlatform
from ironpost.events import built_in
from ironpost.pipeline.consume import Batch, BatchSource

#: The version of this build; needs no package metadata.
VERSION = _core.VERSION
#: Beginning of the name of a pinned attachment; the index of its interface follows.
_LINK = "link_"


class NativeEngine(BatchSource, Protocol):
    """``_core.Engine``."""

    def start(self, checkpoints: Mapping[str, str], windows: Sequence[tuple[str, bytes]]) -> None:
        """Starts the receivers; raises only when nothing at all can start."""
        ...

    def problems(self) -> Sequence[Mapping[str, str]]:
        """Returns what is wrong now: source, reason, remedy."""
        ...

    def counters(self) -> bytes:
        """Returns counters as JSON."""
        ...

    def addresses(self) -> Mapping[str, str]:
        """Returns source id → bound address."""
        ...

    def swap_rules(self, rules: Any) -> None:
        """Uses another rule set from the next batch on."""
        ...

    async def stop(self) -> None:
        """Stops the receivers and drains what is in flight."""
        ...


class IdleEngine:
    """Stands where nothing is to be read."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    async def next_batch(self) -> Batch | None:
        """Waits for the end."""
        await self._stopped.wait()
        return None

    def acknowledge(self, sequence: int) -> None:
        """There is nothing to acknowledge."""

    def start(self, checkpoints: Mapping[str, str], windows: Sequence[tuple[str, bytes]]) -> None:
        """There is nothing to start."""

    def problems(self) -> Sequence[Mapping[str, str]]:
        """Returns none."""
        return ()

    def counters(self) -> bytes:
        """Returns none."""
        return b"{}"

    def addresses(self) -> Mapping[str, str]:
        """Returns none."""
        return {}

    def swap_rules(self, rules: Any) -> None:
        """There is nobody to use them."""

    async def stop(self) -> None:
        """Ends the wait."""
        self._stopped.set()


class NativeFilter(PacketFilter, Protocol):
    """``_core.Filter``."""

    def attached(self) -> bytes:
        """Returns JSON: interface, mode, note of each attachment."""
        ...

    def reattach(self) -> None:
        """Attaches again where the program was attached and is not any more; replaces nobody's program."""
        ...

    def counters(self) -> bytes:
        """Returns the counters of the ``filter`` object as JSON."""
        ...

    def sweep(self) -> int:
        """Removes expired entries; returns how many."""
        ...

    def detach(self) -> None:
        """Takes the program off its interfaces."""
        ...


def make_engine(
    settings: Mapping[str, Any],
    rules: RuleSet,
    packet_filter: NativeFilter | None,
    extractors: _core.Extractors | None = None,
) -> NativeEngine:
    """Builds the engine; starts nothing.

    Raises:
        IronpostError: When the settings or rules can't be used.
    """
    if not any(settings[key] for key in ("files", "udp", "tcp", "unix", "journal", "packets")):
        return IdleEngine()
    # The protocols are what tests implement; the native classes ask for their own kind.
    native_filter = cast("_core.Filter | None", packet_filter)
    engine = _core.Engine(json.dumps(settings).encode(), rules.native, extractors or built_in(), native_filter)
    return cast("NativeEngine", engine)


def is_pinned(pin_dir: str) -> bool:
    """Says whether a filter stays in a pin directory. Where one can't look, one has none."""
    return bool(pinned_interfaces(pin_dir))


def pinned_interfaces(pin_dir: str) -> tuple[str, ...]:
    """Returns the interfaces of the filter in a pin directory. Where one can't look, there are none."""
    try:
        return tuple(_interface_name(pin.removeprefix(_LINK)) for pin in _pins(pin_dir) if pin.startswith(_LINK))
    except OSError:
        return ()


def detach_pinned(pin_dir: str) -> bool:
    """Takes a filter off that nobody has open; says whether there was one.

    Raises:
        FilterError: When it can't be taken off.
    """
    if not is_pinned(pin_dir):
        return False
    _core.Filter.detach_pins(pin_dir)
    return True


def open_filter(
    *,
    pin_dir: str,
    interfaces: Sequence[str],
    mode: str,
    ring_buffer_size: int,
    blocklist_max_entries: int,
    sample_every: int,
) -> NativeFilter:
    """Attaches the filter, or takes over the one that is pinned.

    Raises:
        FilterError: With the remedy.
    """
    if not hasattr(_core, "Filter"):
        raise UnsupportedPlatform("this build has no packet filter", "use Linux and a build with XDP")
    opened: NativeFilter = _core.Filter.open(
        pin_dir,
        interfaces=list(interfaces),
        mode=mode,
        ring_buffer_size=ring_buffer_size,
        blocklist_max_entries=blocklist_max_entries,
        sample_every=sample_every,
    )
    return opened


def detach_left_behind(pin_dir: str) -> tuple[str, ...] | None:
    """Takes off the filter that is pinned in a directory, and whatever pins are left of one, without a daemon.

    Returns:
        The interfaces it was attached to; None when nothing is pinned there.

    Raises:
        FilterError: With the remedy.
    """
    try:
        if not _pins(pin_dir):
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise PrivilegeMissing(
            f"{pin_dir} — the packet filter can't be taken off by this user",
            "CAP_BPF",
            "run it as root: sudo ironpost stop --detach",
        ) from None
    interfaces = pinned_interfaces(pin_dir)
    _core.Filter.detach_pins(pin_dir)
    return interfaces


def _pins(pin_dir: str) -> list[str]:
    return sorted(os.listdir(pin_dir))  # noqa: PTH208 - names only


def _interface_name(index: str) -> str:
    try:
        return socket.if_indextoname(int(index))
    except (OSError, ValueError, OverflowError):  # it is gone, or in another network namespace
        return f"interface {index}"
