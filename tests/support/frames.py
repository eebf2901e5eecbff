"""A builder of frames that reads like the frame: ``ethernet(ipv4("192.0.2.1", payload=tcp(40000, 22)))``.

Nothing is checked: the point is to be able to build what no sane stack sends.
"""

from __future__ import annotations

import ipaddress
import struct

IPV4, IPV6, VLAN, QINQ, ARP = 0x0800, 0x86DD, 0x8100, 0x88A8, 0x0806
HOP_BY_HOP, ICMP, TCP, UDP, ROUTING, FRAGMENT, ESP, AUTHENTICATION, ICMPV6, NO_NEXT, DESTINATION = (
    *(0, 1, 6, 17, 43, 44, 50, 51, 58, 59, 60),
)
FIN, SYN, RST, PUSH, ACK, URG = 1, 2, 4, 8, 16, 32

HOST4, HOST6 = "198.18.0.1", "2001:db8:ffff::1"


def ethernet(payload: bytes, *, kind: int | None = None, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """A frame. ``tags`` are (ethertype, VLAN id) from outside in; ``kind`` defaults to the payload's IP version."""
    if kind is None:
        kind = IPV6 if payload[:1] and payload[0] >> 4 == 6 else IPV4
    header = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01"
    for tag_kind, number in tags:
        header += struct.pack("!HH", tag_kind, number)
    # Each tag's type stands before its number: shift the types by one place.
    types = [tag_kind for tag_kind, _ in tags] + [kind]
    header = header[:12] + struct.pack("!H", types[0])
    for (_, number), inner in zip(tags, types[1:], strict=True):
        header += struct.pack("!HH", number, inner)
    return header + payload


def ipv4(
    source: str,
    destination: str = HOST4,
    *,
    protocol: int = TCP,
    payload: bytes = b"",
    header_words: int = 5,
    version: int = 4,
    options: bytes | None = None,
    more_fragments: bool = False,
    fragment_offset: int = 0,
    total_length: int | None = None,
) -> bytes:
    """An IPv4 packet. ``header_words`` is what the header claims; ``options`` what it holds (fitting by default)."""
    if options is None:
        options = bytes(max(header_words - 5, 0) * 4)
    length = 20 + len(options) + len(payload) if total_length is None else total_length
    flags = (0x2000 if more_fragments else 0) | fragment_offset
    return (
        struct.pack("!BBHHHBBH", version << 4 | header_words, 0, length & 0xFFFF, 1, flags, 64, protocol, 0)
        + ipaddress.IPv4Address(source).packed
        + ipaddress.IPv4Address(destination).packed
        + options
        + payload
    )


def ipv6(
    source: str,
    destination: str = HOST6,
    *,
    next_header: int = TCP,
    payload: bytes = b"",
    version: int = 6,
    payload_length: int | None = None,
) -> bytes:
    """An IPv6 packet; build extension headers with :func:`chain`."""
    length = len(payload) if payload_length is None else payload_length
    return (
        struct.pack("!IHBB", version << 28, length & 0xFFFF, next_header, 64)
        + ipaddress.IPv6Address(source).packed
        + ipaddress.IPv6Address(destination).packed
        + payload
    )


def chain(headers: list[int], last: int, payload: bytes, *, units: int = 0) -> tuple[int, bytes]:
    """Returns the first header number and the bytes of a chain of extension headers ending in ``last``.

    ``units`` is the length field of the options headers; a fragment header is the atomic one (offset 0, no more).
    """
    numbers = [*headers, last]
    body = b""
    for number, following in zip(headers, numbers[1:], strict=True):
        if number == FRAGMENT:
            body += struct.pack("!BBHI", following, 0, 0, 7)
        elif number == AUTHENTICATION:
            body += struct.pack("!BBHII", following, units + 1, 0, 1, 1) + bytes(units * 4)
        else:
            body += struct.pack("!BB", following, units) + bytes(6 + units * 8)
    return numbers[0], body + payload


def ipv6_fragment(following: int, payload: bytes, *, offset: int = 0, more: bool = True) -> bytes:
    """A fragment header (number :data:`FRAGMENT`) and what follows it; ``offset`` in units of 8 bytes."""
    return struct.pack("!BBHI", following, 0, offset << 3 | int(more), 7) + payload


def tcp(source_port: int = 40_000, destination_port: int = 22, *, flags: int = SYN, offset: int = 5) -> bytes:
    """A TCP header."""
    return struct.pack("!HHIIBBHHH", source_port, destination_port, 1, 0, offset << 4, flags, 1024, 0, 0)


def udp(source_port: int = 40_000, destination_port: int = 53, payload: bytes = b"") -> bytes:
    """A UDP datagram."""
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def icmp() -> bytes:
    """An echo request."""
    return struct.pack("!BBHHH", 8, 0, 0, 1, 1)
