"""What the filter must say about a frame, written from its specification in plain Python and nothing else.

The kernel program is fast and bounded; this is slow and plain. Where they disagree one of them is wrong.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_TAGS, _MAX_EXTENSIONS = 2, 8
_OPTIONS = {0, 43, 60}
_FRAGMENT, _AUTHENTICATION = 44, 51


@dataclass(frozen=True, slots=True)
class Block:
    """A block entry."""

    network: Network
    drop: bool = True
    live: bool = True


@dataclass(frozen=True, slots=True)
class Lists:
    """What the filter was told."""

    blocks: tuple[Block, ...] = ()
    allowed: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What must happen to a frame and how it must be counted."""

    drop: bool
    reason: str
    protocol: str


@dataclass(slots=True)
class _Facts:
    source: Address | None = None
    protocol: int = -1
    version: int = 0
    note: str = "pass"
    ports: tuple[int, int] | None = None
    flags: int = 0
    transport: bytes = field(default=b"")


def judge(frame: bytes, lists: Lists) -> Judgement:
    """Says what must happen to ``frame``."""
    facts = _read(frame)
    if facts.source is None:
        return Judgement(drop=False, reason=facts.note, protocol="other")
    protocol = {6: "tcp", 17: "udp"}.get(facts.protocol, "other")
    if (facts.version, facts.protocol) in {(4, 1), (6, 58)}:
        protocol = "icmp"
    reason = _by_source(facts.source, lists)
    if reason == "pass":
        reason = facts.note
    return Judgement(drop=reason.startswith("blocked"), reason=reason, protocol=protocol)


def _by_source(source: Address, lists: Lists) -> str:
    def covers(network: Network) -> bool:
        return source.version == network.version and source in network

    if any(covers(network) for network in lists.allowed):
        return "allowed"
    matching = [block for block in lists.blocks if covers(block.network)]
    live = [block for block in matching if block.live]
    if any(block.drop and block.network.num_addresses == 1 for block in live):
        return "blocked_address"
    if any(block.drop for block in live):
        return "blocked_prefix"
    if live:
        return "monitored"
    return "expired" if matching else "pass"


def _read(frame: bytes) -> _Facts:
    facts = _Facts()
    if len(frame) < 14:
        facts.note = "short_frame"
        return facts
    (kind,) = struct.unpack_from("!H", frame, 12)
    rest = frame[14:]
    for _ in range(_MAX_TAGS):
        if kind not in {0x8100, 0x88A8}:
            break
        if len(rest) < 4:
            facts.note = "short_frame"
            return facts
        (kind,) = struct.unpack_from("!H", rest, 2)
        rest = rest[4:]
    if kind == 0x0800:
        _read_ipv4(rest, facts)
    elif kind == 0x86DD:
        _read_ipv6(rest, facts)
    else:
        facts.note = "vlan_depth" if kind in {0x8100, 0x88A8} else "not_ip"
    return facts


def _read_ipv4(packet: bytes, facts: _Facts) -> None:
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[0] & 15 < 5 or len(packet) < (packet[0] & 15) * 4:
        facts.note = "bad_ipv4"
        return
    header = (packet[0] & 15) * 4
    facts.version = 4
    facts.source = ipaddress.IPv4Address(packet[12:16])
    facts.protocol = packet[9]
    total, _, fragment = struct.unpack_from("!HHH", packet, 2)
    if fragment & 0x3FFF:
        facts.note = "fragment"
        return
    _read_transport(packet[header : total or None] if total >= header or not total else b"", facts)


def _read_ipv6(packet: bytes, facts: _Facts) -> None:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        facts.note = "bad_ipv6"
        return
    facts.version = 6
    source = ipaddress.IPv6Address(packet[8:24])
    facts.source = source.ipv4_mapped or source
    (length,) = struct.unpack_from("!H", packet, 4)
    whole, claimed = packet[40:], (length or len(packet))
    number, at = packet[6], 0
    for walked in range(_MAX_EXTENSIONS + 1):
        if number not in _OPTIONS | {_FRAGMENT, _AUTHENTICATION}:
            facts.protocol = number
            _read_transport(whole[at:claimed], facts)
            return
        if walked == _MAX_EXTENSIONS or len(whole) < at + 8:
            break
        following, units = whole[at], whole[at + 1]
        if number == _FRAGMENT:
            if struct.unpack_from("!H", whole, at + 2)[0] & 0xFFF9:
                facts.protocol = following
                facts.note = "fragment"
                return
            at += 8
        else:
            at += (units + 2) * 4 if number == _AUTHENTICATION else (units + 1) * 8
        number = following
    facts.protocol = number
    facts.note = "ipv6_chain"


def _read_transport(segment: bytes, facts: _Facts) -> None:
    needed = {6: 20, 17: 8}.get(facts.protocol)
    if needed is None:
        return
    if len(segment) < needed:
        facts.note = "short_transport"
        return
    source, destination = struct.unpack_from("!HH", segment)
    facts.ports = (source, destination)
    facts.flags = segment[13] if facts.protocol == 6 else 0
