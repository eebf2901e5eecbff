"""Bans in the kernel's packet filter."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from ironpost.enforcement.protocols import Order, Outcome
from ironpost.errors import EnforcementError, FilterError
from ironpost.model import Decision, Verb
from ironpost.model.address import Network, parse_network

_Result = TypeVar("_Result")

DROP = 1
MONITOR = 2

BATCH = 4096
"""Entries per call into the kernel; bounds how long one call holds the maps."""


class PacketFilter(Protocol):
    """The part of ``ironpost._core.Filter`` this room uses. Targets are addresses or CIDR text; answers are JSON."""

    def block(self, entries: list[tuple[str, int, int, int]]) -> bytes:
        """Adds or replaces (target, end by boot clock or 0, rule number, 1 drop or 2 monitor).

        Returns ``{"written": n, "refused": [{"target", "reason"}]}``; a refused target changed nothing.
        """
        ...

    def unblock(self, targets: list[str]) -> bytes:
        """Removes entries and returns as ``block``; a target that was not blocked is among the refused."""
        ...

    def allow(self, targets: list[str]) -> bytes:
        """Adds networks that always pass; returns as ``block``."""
        ...

    def unallow(self, targets: list[str]) -> bytes:
        """Removes them; returns as ``unblock``."""
        ...

    def list_blocked(self) -> bytes:
        """Returns an array of objects with ``target``, ``expires_boot_ns`` and ``expired``."""
        ...

    def list_allowed(self) -> bytes:
        """Returns an array of objects with ``target``."""
        ...


class XdpEnforcer:
    """Bans and unbans through the packet filter.

    The kernel ends a ban by itself at its deadline, even when no daemon runs.

    Args:
        packet_filter: The filter, or ``None`` when there is none here.
        problem: Why there is none, and the remedy.
    """

    verbs = frozenset({Verb.BAN})
    ends_by_itself = True

    def __init__(self, packet_filter: PacketFilter | None, *, problem: EnforcementError | None = None) -> None:
        self._filter = packet_filter
        self._problem = problem

    def replace(self, packet_filter: PacketFilter | None, *, problem: EnforcementError | None = None) -> None:
        """Puts another filter in place, for example after it was attached again."""
        self._filter = packet_filter
        self._problem = problem

    def unavailable(self) -> EnforcementError | None:
        """See ``Enforcer``."""
        if self._filter is not None:
            return None
        reason = str(self._problem) if self._problem else "the packet filter is not attached"
        hint = self._problem.hint if self._problem else "set ebpf.enabled = true and ebpf.interface, and run as root"
        return FilterError(f"not enforceable here: {reason}", hint)

    async def prepare(self, decision: Decision) -> Mapping[str, Any]:
        """A ban is taken back by its target alone."""
        del decision
        return {}

    async def apply(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """See ``Enforcer``; one call into the kernel for up to 4096 bans."""
        outcomes: list[Outcome] = []
        for part in _parts(orders):
            try:
                refused = _refused(await self._call(partial(_block, part)))
            except EnforcementError as error:
                outcomes += [Outcome("ip_ban", error)] * len(part)
            else:
                outcomes += [Outcome("ip_ban", _refusal(order, refused)) for order in part]
        return outcomes

    async def revert(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """See ``Enforcer``. A target the kernel no longer holds is as it should be."""
        outcomes: list[Outcome] = []
        for part in _parts(orders):
            try:
                await self._call(partial(_unblock, [_cidr(order.decision.target) for order in part]))
            except EnforcementError as error:
                outcomes += [Outcome("ip_unban", error)] * len(part)
            else:
                outcomes += [Outcome("ip_unban")] * len(part)
        return outcomes

    async def reconcile(self, orders: Sequence[Order]) -> Sequence[str]:
        """Adds what the kernel lost (a reboot) and removes what no active decision explains."""
        wanted = {_cidr(order.decision.target): order for order in orders}
        held = await self._call(_blocked)
        missing = [order for cidr, order in wanted.items() if cidr not in held]
        changed = [order for cidr, order in wanted.items() if cidr in held and held[cidr] != order.expires_boot_ns]
        unexplained = [cidr for cidr in held if cidr not in wanted]
        for part in _parts([*missing, *changed]):
            await self._call(partial(_block, part))
        for names in _parts(unexplained):
            await self._call(partial(_unblock, names))
        return [
            *(f"{order.decision.target}: ban restored in the kernel" for order in missing),
            *(f"{order.decision.target}: end of the ban corrected in the kernel" for order in changed),
            *(f"{cidr}: removed from the kernel, no decision explains it" for cidr in unexplained),
        ]

    async def sync_allowed(self, networks: Iterable[Network]) -> bool:
        """Makes the kernel's allow map hold exactly these networks; says whether anything changed.

        Raises:
            FilterError: When there is no filter, or it refuses.
        """
        wanted = {str(network) for network in networks}
        held = await self._call(_allowed)
        # Add before removing: an address that moves from one entry to another is never without one.
        if wanted - held:
            refused = _refused(await self._call(lambda packet_filter: packet_filter.allow(sorted(wanted - held))))
            if refused:
                target, reason = next(iter(refused.items()))
                raise FilterError(
                    f"{target}: the packet filter can't allow it: {reason}", "narrow the entry of the allow list"
                )
        if held - wanted:
            await self._call(lambda packet_filter: packet_filter.unallow(sorted(held - wanted)))
        return wanted != held

    async def _call(self, act: Callable[[PacketFilter], _Result]) -> _Result:
        packet_filter = self._filter
        if packet_filter is None:
            raise self.unavailable() or FilterError("the packet filter is not attached")
        try:
            # Thousands of map writes take a moment, and the event loop has none to give.
            return await asyncio.to_thread(act, packet_filter)
        except EnforcementError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise FilterError(f"the packet filter refused: {error}", "see `ironpost status`") from error


def _parts(items: Sequence[_Result]) -> Iterable[list[_Result]]:
    return (list(items[start : start + BATCH]) for start in range(0, len(items), BATCH))


def _cidr(target: str) -> str:
    return str(parse_network(target))


def _entries(orders: Sequence[Order]) -> list[tuple[str, int, int, int]]:
    return [
        (
            _cidr(order.decision.target),
            order.expires_boot_ns,
            rule_number(order.decision.policy_id),
            MONITOR if order.decision.parameters.get("mode") == "monitor" else DROP,
        )
        for order in orders
    ]


def rule_number(policy_id: str) -> int:
    """Returns the number that stands for a policy in kernel entries and packet events; the same in every run."""
    return zlib.crc32(policy_id.encode())


def _block(orders: Sequence[Order], packet_filter: PacketFilter) -> bytes:
    return packet_filter.block(_entries(orders))


def _unblock(targets: list[str], packet_filter: PacketFilter) -> bytes:
    return packet_filter.unblock(targets)


def _refused(report: bytes) -> dict[str, str]:
    return {_cidr(str(entry["target"])): str(entry["reason"]) for entry in json.loads(report)["refused"]}


def _refusal(order: Order, refused: dict[str, str]) -> FilterError | None:
    reason = refused.get(_cidr(order.decision.target))
    if reason is None:
        return None
    return FilterError(
        f"{order.decision.target}: the packet filter refused: {reason}",
        "end other bans, or raise ebpf.blocklist_max_entries if the list is full",
    )


def _blocked(packet_filter: PacketFilter) -> dict[str, int]:
    """Returns what is in force: target → end by boot clock."""
    return {
        _cidr(str(entry["target"])): int(entry["expires_boot_ns"])
        for entry in json.loads(packet_filter.list_blocked())
        if not entry.get("expired")
    }


def _allowed(packet_filter: PacketFilter) -> set[str]:
    return {_cidr(str(entry["target"])) for entry in json.loads(packet_filter.list_allowed())}
