"""Addresses and networks in one normal form, so that nothing is banned under one spelling and allowed under another."""

from __future__ import annotations

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_network(text: str) -> Network:
    """Reads an address or a network in CIDR form; host bits are cleared, IPv4-mapped IPv6 becomes IPv4.

    Raises:
        ValueError: When the text is neither. A zone (``fe80::1%eth0``) is refused: the packet filter knows none.
    """
    compact = text.strip()
    if "%" in compact:
        raise ValueError(f"{text!r} carries a zone; write the address alone")
    try:
        network = ipaddress.ip_network(compact, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or network; write for example 203.0.113.7 or 2001:db8::/32") from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96 and network.subnet_of(_MAPPED):
        return ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


def is_single(network: Network) -> bool:
    """Says whether the network is one address."""
    return network.prefixlen == network.max_prefixlen


def network_text(network: Network) -> str:
    """Returns the normal form: a plain address for a single one, CIDR otherwise."""
    return str(network.network_address) if is_single(network) else str(network)


def normal_target(text: str) -> str:
    """Returns the normal form of an address or network.

    Raises:
        ValueError: When the text is neither.
    """
    return network_text(parse_network(text))


def scope_of(network: Network) -> str:
    """Returns ``ip`` or ``range``, as decisions name it."""
    return "ip" if is_single(network) else "range"


def overlaps(one: Network, other: Network) -> bool:
    """Says whether they share an address; different families never do."""
    return one.version == other.version and one.overlaps(other)
