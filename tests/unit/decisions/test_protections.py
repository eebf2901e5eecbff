from __future__ import annotations

import socket
import struct
import subprocess
from pathlib import Path

import pytest

from ironpost.decisions import Protection, Protections, own_container_id, read_host
from ironpost.errors import ConfigError
from ironpost.model import AllowEntry
from ironpost.model.address import parse_network
from ironpost.system import FixedClock

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 192.0.2.0/24 2 0 1
        |-- 192.0.2.0
           /24 link UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.44
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
"""


def hex4(address: str) -> str:
    return f"{struct.unpack('<I', socket.inet_aton(address))[0]:08X}"


def hex6_words(address: str) -> str:
    raw = socket.inet_pton(socket.AF_INET6, address)
    return "".join(f"{word:08X}" for word in struct.unpack("<4I", raw))


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A proc tree: one NIC, a gateway, and sshd with a logged-in session and two that have not logged in."""
    net = tmp_path / "proc/net"
    net.mkdir(parents=True)
    (net / "fib_trie").write_text(FIB_TRIE)
    (net / "if_inet6").write_text(
        "20010db8000000000000000000000044 02 40 00 80     eth0\n00000000000000000000000000000001 01 80 10 80       lo\n"
    )
    (net / "route").write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        f"eth0\t00000000\t{hex4('192.0.2.1')}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        f"eth0\t{hex4('198.51.100.0')}\t{hex4('192.0.2.7')}\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        f"eth0\t{hex4('192.0.2.0')}\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    zero = "0" * 32
    gateway = "20010db8000000000000000000000001"
    (net / "ipv6_route").write_text(
        f"{zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00000003     eth0\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
    )
    sockets = [
        (hex4("192.0.2.44"), hex4("203.0.113.5"), "01", "1001"),
        (hex4("192.0.2.44"), hex4("203.0.113.66"), "01", "1002"),
        (hex4("192.0.2.44"), hex4("203.0.113.67"), "01", "1003"),
        (hex4("192.0.2.44"), hex4("203.0.113.68"), "06", "1001"),
        (hex4("192.0.2.44"), hex4("203.0.113.7"), "01", "1006"),
        (hex4("192.0.2.44"), hex4("203.0.113.8"), "01", "1007"),
    ]
    header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    line = "   0: {local}:0016 {remote}:C001 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"
    (net / "tcp").write_text(
        header
        + "".join(
            line.format(local=local, remote=remote, state=state, inode=inode) for local, remote, state, inode in sockets
        )
    )
    mapped, six = hex6_words("::ffff:203.0.113.6"), hex6_words("2001:db8:5::5")
    (net / "tcp6").write_text(
        header
        + line.format(local=six, remote=mapped, state="01", inode="1004")
        + line.format(local=six, remote=six, state="01", inode="1005")
    )
    for pid, title, inodes in (
        ("10", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", ["900"]),
        ("11", "sshd: alice [priv]", ["1001"]),
        ("12", "sshd: alice@pts/0", ["1001", "1004"]),
        ("13", "sshd: root [priv]", ["1002"]),
        ("14", "sshd: root [net]", ["1002"]),
        ("15", "sshd: unknown [net]", ["1003"]),
        ("16", "sshd-session: bob@notty", ["1005"]),
        ("17", "bash", ["1003"]),
        ("18", "sshd: root@pts/1 [net]", ["1003"]),
        ("19", "sshd: bob@corp.example@notty", ["1006"]),
        ("20", "sshd: tunnel", ["1007"]),
        ("21", "sshd: unknown", ["1003"]),
        ("22", "sshd: [accepted]", ["1003"]),
    ):
        process = tmp_path / "proc" / pid
        (process / "fd").mkdir(parents=True)
        (process / "cmdline").write_bytes(title.encode() + b"\0")
        for number, inode in enumerate(inodes):
            (process / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("# x\nnameserver 192.0.2.53\nnameserver fe80::53%eth0\nsearch example\n")
    return tmp_path


def seen(host: Path, **environment: str) -> dict[str, str]:
    found = read_host(proc=host / "proc", root=host, environment=environment)
    return {str(protection.network.network_address): protection.reason for protection in found}


def test_own_addresses_gateways_and_resolvers_are_found(host: Path) -> None:
    found = seen(host)
    assert found["192.0.2.44"] == "this host's own address"
    assert found["2001:db8::44"] == "this host's own address on eth0"
    assert found["192.0.2.1"] == "default gateway of eth0"
    assert found["2001:db8::1"] == "default gateway of eth0"
    assert found["192.0.2.53"] == "resolver in /etc/resolv.conf"
    assert found["fe80::53"] == "resolver in /etc/resolv.conf"


def test_neighbours_and_other_routes_are_not_protected(host: Path) -> None:
    assert not {"192.0.2.0", "192.0.2.7", "192.0.2.255", "198.51.100.0"} & set(seen(host))


def test_peers_of_logged_in_sessions_are_found_and_password_guessers_are_not(host: Path) -> None:
    peers = {address for address, reason in seen(host).items() if "SSH" in reason}
    assert peers == {"203.0.113.5", "203.0.113.6", "203.0.113.7", "203.0.113.8", "2001:db8:5::5"}


def test_the_operators_own_connection_is_found(host: Path) -> None:
    assert "operator" in seen(host, SSH_CONNECTION="203.0.113.99 50000 192.0.2.44 22")["203.0.113.99"]


def test_nothing_readable_protects_nothing_and_raises_nothing(tmp_path: Path) -> None:
    assert read_host(proc=tmp_path, root=tmp_path, environment={"SSH_CONNECTION": "garbage"}) == ()
    assert own_container_id(tmp_path) == ""


def test_this_very_host_is_read_as_the_ip_command_reads_it() -> None:
    found = {str(protection.network.network_address) for protection in read_host(environment={})}
    shown = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True).stdout
    own = {line.split()[3].partition("/")[0] for line in shown.splitlines() if line.split()[2] in {"inet", "inet6"}}
    assert own <= found


def test_the_container_the_daemon_runs_in_is_known(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/\n")
    (tmp_path / "self/mountinfo").write_text(
        f"600 599 254:1 /var/lib/docker/containers/{'ab' * 32}/hostname /etc/hostname rw - ext4 /dev/vda1 rw\n"
    )
    assert own_container_id(tmp_path) == "ab" * 32


def protections(**facts: object) -> Protections:
    own = Protection(parse_network("192.0.2.44"), "this host's own address")
    return Protections(clock=FixedClock(), host=lambda: (own,), own_container="", **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("192.0.2.44", "this host's own address"),
        ("192.0.2.0/24", "it covers 192.0.2.44: this host's own address"),
        ("::ffff:192.0.2.44", "this host's own address"),
        ("10.1.2.3", "it lies in 10.0.0.0/8: on the allow list of the configuration"),
        ("0.0.0.0/0", "takes in too much of the world"),
        ("64.0.0.0/7", "takes in too much of the world"),
        ("2000::/3", "takes in too much of the world"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("::", "the unspecified address"),
        ("0.0.0.0", "no sender"),
        ("239.1.1.1", "multicast"),
        ("255.255.255.255", "reserved or broadcast"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("nonsense", "is no address"),
    ],
)
def test_a_refusal_says_why(target: str, reason: str) -> None:
    assert reason in (protections(configured=["10.0.0.0/8"]).address_refusal(target) or "")


@pytest.mark.parametrize("target", ["192.0.2.45", "192.0.2.128/25", "203.0.113.7", "2001:db8::/32"])
def test_everybody_else_may_be_banned(target: str) -> None:
    assert protections(configured=["10.0.0.0/8"]).address_refusal(target) is None


def test_allow_entries_count_until_they_end() -> None:
    clock = FixedClock()
    entry = AllowEntry("203.0.113.7/32", clock.wall, clock.wall + 1_000_000_000)
    guard = Protections(clock=clock, host=tuple, entries=lambda: [entry], own_container="")
    assert "allowed by an operator" in (guard.address_refusal("203.0.113.7") or "")
    clock.advance(1)
    assert guard.address_refusal("203.0.113.7") is None


def test_an_entry_of_the_configuration_that_is_no_address_is_named() -> None:
    with pytest.raises(ConfigError, match=r"response\.allowlist: 'office' is no address"):
        protections(configured=["office"])


def test_the_host_is_read_again_when_its_picture_is_old() -> None:
    clock = FixedClock()
    addresses = ["192.0.2.44"]
    guard = Protections(
        clock=clock,
        host=lambda: tuple(Protection(parse_network(address), "own") for address in addresses),
        own_container="",
    )
    assert guard.address_refusal("192.0.2.45") is None
    addresses.append("192.0.2.45")
    assert guard.address_refusal("192.0.2.45") is None
    clock.advance(2)
    assert guard.address_refusal("192.0.2.45") == "own"
