"""Addresses this host must keep talking to, read from the kernel's own tables."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ironpost.model.address import Network, parse_network

_GATEWAY_FLAG = 0x2
_ESTABLISHED = "01"
_FULL_ID = re.compile(r"[0-9a-f]{64}")
# "sshd: alice@pts/0": a session; a name of a directory service holds an @ itself. "sshd: alice": logged in for tunnels
# only (ssh -N). "sshd: alice [priv]" or "[net]" may not have logged in yet, and names of unknown users are never shown,
# so an attacker can't write these titles. OpenSSH 9.8 and later say sshd-session.
_SESSION_TITLE = re.compile(
    r"sshd(?:-session)?: (?:.+@(?:pts/\d+|notty|tty\w*|internal-sftp)(?:,[^\[\]]*)?|(?!unknown$)[^/\[\s][^\[\]]*)"
)


@dataclass(frozen=True, slots=True)
class Protection:
    """A network that is never banned, and why."""

    network: Network
    reason: str


def read_host(
    *, proc: Path = Path("/proc"), root: Path = Path("/"), environment: Mapping[str, str] | None = None
) -> tuple[Protection, ...]:
    """Returns this host's own addresses, default gateways, resolvers and the peers of logged-in SSH sessions.

    A table that can't be read contributes nothing: what needs privilege to see (other users' SSH sockets) is missing
    without it, and so is the filter that could cut them off.

    Args:
        proc: The proc file system.
        root: Where ``etc/resolv.conf`` is found.
        environment: For ``SSH_CONNECTION``; the process environment when ``None``.
    """
    variables = os.environ if environment is None else environment
    found = dict.fromkeys(
        (
            *_own_addresses(proc),
            *_gateways(proc),
            *_resolvers(root),
            *_ssh_peers(proc),
            *_operator(variables),
        )
    )
    return tuple(found)


def own_container_id(proc: Path = Path("/proc")) -> str:
    """Returns the full id of the container this process runs in, or ``""``."""
    for name in ("self/cgroup", "self/mountinfo"):
        for line in _lines(proc / name):
            place = re.search(r"/(?:docker|containers)[/-]([0-9a-f]{64})", line)
            if place is not None and _FULL_ID.fullmatch(place.group(1)):
                return place.group(1)
    return ""


def _own_addresses(proc: Path) -> Iterator[Protection]:
    address = ""
    for line in _lines(proc / "net/fib_trie"):
        leaf = line.strip()
        if leaf.startswith("|-- "):
            address = leaf[4:]
        elif leaf == "/32 host LOCAL":
            yield from _protection(address, "this host's own address")
    for line in _lines(proc / "net/if_inet6"):
        columns = line.split()
        if len(columns) >= 6:
            yield from _protection(_hex6(columns[0]), f"this host's own address on {columns[5]}")


def _gateways(proc: Path) -> Iterator[Protection]:
    for line in _lines(proc / "net/route")[1:]:
        columns = line.split()
        if len(columns) >= 8 and columns[1] == "00000000" and int(columns[3], 16) & _GATEWAY_FLAG:
            yield from _protection(_hex4(columns[2]), f"default gateway of {columns[0]}")
    for line in _lines(proc / "net/ipv6_route"):
        columns = line.split()
        if len(columns) >= 10 and columns[0] == "0" * 32 and columns[1] == "00" and int(columns[8], 16) & _GATEWAY_FLAG:
            yield from _protection(_hex6(columns[4]), f"default gateway of {columns[9]}")


def _resolvers(root: Path) -> Iterator[Protection]:
    for name in ("etc/resolv.conf", "run/systemd/resolve/resolv.conf"):
        for line in _lines(root / name):
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver":
                yield from _protection(words[1].partition("%")[0], f"resolver in /{name}")


def _ssh_peers(proc: Path) -> Iterator[Protection]:
    """Peers of sessions that have logged in.

    The port alone won't do: a password guesser has an established connection to sshd, too, and must be bannable.
    """
    sockets: set[str] = set()
    for process in _directories(proc):
        if not process.name.isdigit() or not _title(process).startswith("sshd"):
            continue
        if _SESSION_TITLE.fullmatch(_title(process)):
            sockets.update(_sockets(process))
    if not sockets:
        return
    for name in ("net/tcp", "net/tcp6"):
        for line in _lines(proc / name)[1:]:
            columns = line.split()
            if len(columns) >= 10 and columns[3] == _ESTABLISHED and columns[9] in sockets:
                peer = columns[2].partition(":")[0]
                address = _hex4(peer) if len(peer) == 8 else _hex6_words(peer)
                yield from _protection(address, "peer of a live SSH session")


def _operator(environment: Mapping[str, str]) -> Iterator[Protection]:
    words = environment.get("SSH_CONNECTION", "").split()
    if words:
        yield from _protection(words[0].partition("%")[0], "SSH client of the operator (SSH_CONNECTION)")


def _protection(address: str, reason: str) -> Iterator[Protection]:
    try:
        network = parse_network(address)
    except ValueError:
        return
    if not network.network_address.is_unspecified:
        yield Protection(network, reason)


def _title(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().partition(b"\0")[0].decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _sockets(process: Path) -> Iterator[str]:
    try:
        handles = list((process / "fd").iterdir())
    except OSError:
        return
    for handle in handles:
        try:
            place = str(handle.readlink())
        except OSError:
            continue
        if place.startswith("socket:["):
            yield place[8:-1]


def _directories(proc: Path) -> list[Path]:
    try:
        return list(proc.iterdir())
    except OSError:
        return []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _hex4(text: str) -> str:
    """The kernel prints IPv4 as a number of the machine's byte order; ours are little-endian."""
    return str(ipaddress.IPv4Address(bytes.fromhex(text)[::-1]))


def _hex6(text: str) -> str:
    return str(ipaddress.IPv6Address(bytes.fromhex(text)))


def _hex6_words(text: str) -> str:
    """In the TCP tables IPv6 is four numbers of the machine's byte order."""
    raw = bytes.fromhex(text)
    return str(ipaddress.IPv6Address(b"".join(raw[start : start + 4][::-1] for start in range(0, 16, 4))))
