"""Addresses and networks in all the spellings an attacker or operator may use."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

# Few enough that sequences meet the same address again, in each of its spellings.
HOSTS = [
    "203.0.113.7",
    "203.0.113.8",
    "203.0.113.200",
    "198.51.100.20",
    "198.51.100.21",
    "192.0.2.1",
    "192.0.2.2",
    "10.0.0.9",
    "127.0.0.1",
    "224.0.0.5",
    "169.254.169.254",
    "255.255.255.255",
    "0.0.0.0",
    "2001:db8::7",
    "2001:db8::8",
    "2001:db8:1::1",
    "::1",
    "::",
    "fe80::1",
    "ff02::1",
]


def spellings(address: str) -> st.SearchStrategy[str]:
    """One address, spelled in one of its ways, alone or as a network around it."""
    parsed = ipaddress.ip_address(address)
    forms = [address, str(parsed.exploded), address.upper(), f" {address} "]
    if isinstance(parsed, ipaddress.IPv4Address):
        forms += [f"::ffff:{address}", f"::FFFF:{address}", f"::ffff:{int(parsed) >> 16:x}:{int(parsed) & 0xFFFF:x}"]
    networks = st.integers(0, parsed.max_prefixlen).map(lambda length: f"{address}/{length}")
    mapped = (
        st.integers(96, 128).map(lambda length: f"::ffff:{address}/{length}") if parsed.version == 4 else st.nothing()
    )
    return st.one_of(st.sampled_from(forms), networks, mapped)


def targets() -> st.SearchStrategy[str]:
    """Any of the hosts in any spelling."""
    return st.sampled_from(HOSTS).flatmap(spellings)
