"""Packet in, verdict and counters out, through the kernel's own test run. A case's name says why it is there."""

from __future__ import annotations

import ipaddress
import json
import struct
from collections.abc import Iterator

import pytest

from ironpost._core import Filter
from support import frames as f
from support.bpf import ABORTED, DROP, PASS
from support.filters import MONITOR, Lab, lab
from support.oracle import Block, Judgement, Lists, judge

pytestmark = pytest.mark.root

BAD4, BAD6 = "192.0.2.66", "2001:db8:bad::66"
BAD_NET4, BAD_NET6 = "198.51.100.0/24", "2001:db8:beef::/48"
GOOD4, GOOD6 = "203.0.113.5", "2001:db8:900d::5"
WATCHED4 = "192.0.2.77"
EXPIRED4 = "192.0.2.88"
SAVED4 = "198.51.100.9"

LISTS = Lists(
    blocks=(
        Block(ipaddress.ip_network(BAD4)),
        Block(ipaddress.ip_network(BAD6)),
        Block(ipaddress.ip_network(BAD_NET4)),
        Block(ipaddress.ip_network(BAD_NET6)),
        Block(ipaddress.ip_network(WATCHED4), drop=False),
        Block(ipaddress.ip_network(EXPIRED4), live=False),
    ),
    allowed=(ipaddress.ip_network(SAVED4),),
)

TCP, UDP = f.tcp(), f.udp()


def six(source: str, headers: list[int], last: int, payload: bytes, *, units: int = 0) -> bytes:
    """An IPv6 frame with extension headers."""
    first, body = f.chain(headers, last, payload, units=units)
    return f.ethernet(f.ipv6(source, next_header=first, payload=body))


# name → (frame, reason, protocol slot). The oracle must say the same; it is written separately.
CASES: dict[str, tuple[bytes, str, str]] = {
    # ordinary traffic
    "a blocked IPv4 address is dropped": (f.ethernet(f.ipv4(BAD4, payload=TCP)), "blocked_address", "tcp"),
    "a blocked IPv6 address is dropped": (f.ethernet(f.ipv6(BAD6, payload=TCP)), "blocked_address", "tcp"),
    "an address in a blocked IPv4 network is dropped": (
        f.ethernet(f.ipv4("198.51.100.200", protocol=f.UDP, payload=UDP)),
        "blocked_prefix",
        "udp",
    ),
    "an address in a blocked IPv6 network is dropped": (
        f.ethernet(f.ipv6("2001:db8:beef:1:2:3:4:5", next_header=f.ICMPV6, payload=f.icmp())),
        "blocked_prefix",
        "icmp",
    ),
    "the address beside a blocked network passes": (f.ethernet(f.ipv4("198.51.101.0", payload=TCP)), "pass", "tcp"),
    "anybody else passes": (f.ethernet(f.ipv4(GOOD4, protocol=f.ICMP, payload=f.icmp())), "pass", "icmp"),
    "the allow list wins over a blocked network around it": (
        f.ethernet(f.ipv4(SAVED4, payload=TCP)),
        "allowed",
        "tcp",
    ),
    "a monitored address passes and is counted": (f.ethernet(f.ipv4(WATCHED4, payload=TCP)), "monitored", "tcp"),
    "an expired block lets pass": (f.ethernet(f.ipv4(EXPIRED4, payload=TCP)), "expired", "tcp"),
    "a blocked destination means nothing": (f.ethernet(f.ipv4(GOOD4, BAD4, payload=TCP)), "pass", "tcp"),
    "ICMPv6 inside IPv4 is no ICMP": (
        f.ethernet(f.ipv4(GOOD4, protocol=f.ICMPV6, payload=f.icmp())),
        "pass",
        "other",
    ),
    "IPv4 mapped into IPv6 is the IPv4 address it means": (
        f.ethernet(f.ipv6(f"::ffff:{BAD4}", payload=TCP)),
        "blocked_address",
        "tcp",
    ),
    "the allow list holds for mapped addresses too": (
        f.ethernet(f.ipv6(f"::ffff:{SAVED4}", payload=TCP)),
        "allowed",
        "tcp",
    ),
    # VLAN tags
    "one tag hides nothing": (
        f.ethernet(f.ipv4(BAD4, payload=TCP), tags=((f.VLAN, 5),)),
        "blocked_address",
        "tcp",
    ),
    "two tags hide nothing": (
        f.ethernet(f.ipv6(BAD6, payload=TCP), tags=((f.QINQ, 5), (f.VLAN, 6))),
        "blocked_address",
        "tcp",
    ),
    "a priority tag hides nothing": (
        f.ethernet(f.ipv4(BAD4, payload=TCP), tags=((f.VLAN, 0xE000),)),
        "blocked_address",
        "tcp",
    ),
    "three tags are not looked through but counted": (
        f.ethernet(f.ipv4(BAD4, payload=TCP), tags=((f.QINQ, 5), (f.VLAN, 6), (f.VLAN, 7))),
        "vlan_depth",
        "other",
    ),
    "a frame that ends inside its tag is short": (
        f.ethernet(b"", kind=f.IPV4, tags=((f.VLAN, 5),))[:16],
        "short_frame",
        "other",
    ),
    # case 20: short frames and wrong lengths
    "an Ethernet header alone is a bad IPv4 packet": (f.ethernet(b"", kind=f.IPV4), "bad_ipv4", "other"),
    "an Ethernet header alone is a bad IPv6 packet": (f.ethernet(b"", kind=f.IPV6), "bad_ipv6", "other"),
    "ARP is not IP": (f.ethernet(bytes(28), kind=f.ARP), "not_ip", "other"),
    "an 802.3 length field is not IP": (f.ethernet(bytes(46), kind=46), "not_ip", "other"),
    "a header length below five words is not believed": (
        f.ethernet(f.ipv4(BAD4, header_words=4, options=b"", payload=TCP)),
        "bad_ipv4",
        "other",
    ),
    "options that are cut off make a bad header": (
        f.ethernet(f.ipv4(BAD4, header_words=15, options=b"")),
        "bad_ipv4",
        "other",
    ),
    "options are stepped over": (
        f.ethernet(f.ipv4(BAD_NET4.replace("0/24", "1"), header_words=15, payload=TCP)),
        "blocked_prefix",
        "tcp",
    ),
    "version 6 under the type of IPv4 is bad": (
        f.ethernet(f.ipv4(BAD4, version=6, payload=TCP), kind=f.IPV4),
        "bad_ipv4",
        "other",
    ),
    "version 4 under the type of IPv6 is bad": (
        f.ethernet(f.ipv6(BAD6, version=4, payload=TCP), kind=f.IPV6),
        "bad_ipv6",
        "other",
    ),
    "a TCP header that is cut off is noted": (
        f.ethernet(f.ipv4(GOOD4, payload=TCP[:19])),
        "short_transport",
        "tcp",
    ),
    "a cut-off TCP header does not save a blocked source": (
        f.ethernet(f.ipv4(BAD4, payload=TCP[:3])),
        "blocked_address",
        "tcp",
    ),
    "padding behind the packet is no transport header": (
        f.ethernet(f.ipv4(GOOD4, total_length=24, payload=TCP)),
        "short_transport",
        "tcp",
    ),
    "a total length of nought is a packet above 64 KiB": (
        f.ethernet(f.ipv4(GOOD4, total_length=0, payload=TCP)),
        "pass",
        "tcp",
    ),
    "a jumbo frame in several buffers is counted whole": (
        f.ethernet(f.ipv4(GOOD4, protocol=f.UDP, payload=f.udp(payload=bytes(8000)))),
        "pass",
        "udp",
    ),
    "a jumbo frame of a blocked source is dropped": (
        f.ethernet(f.ipv6(BAD6, next_header=f.UDP, payload=f.udp(payload=bytes(8000)))),
        "blocked_address",
        "udp",
    ),
    # case 21: fragments
    "a later fragment passes without its bytes being read as ports": (
        f.ethernet(f.ipv4(GOOD4, fragment_offset=100, payload=TCP)),
        "fragment",
        "tcp",
    ),
    "a first fragment is a fragment too": (
        f.ethernet(f.ipv4(GOOD4, more_fragments=True, payload=TCP)),
        "fragment",
        "tcp",
    ),
    "a tiny first fragment is no short transport header": (
        f.ethernet(f.ipv4(GOOD4, more_fragments=True, payload=TCP[:8])),
        "fragment",
        "tcp",
    ),
    "a later fragment of a blocked source is dropped": (
        f.ethernet(f.ipv4(BAD4, fragment_offset=1, payload=bytes(8))),
        "blocked_address",
        "tcp",
    ),
    "a later IPv6 fragment passes as one": (
        f.ethernet(f.ipv6(GOOD6, next_header=f.FRAGMENT, payload=f.ipv6_fragment(f.UDP, bytes(16), offset=9))),
        "fragment",
        "udp",
    ),
    "a first IPv6 fragment passes as one": (
        f.ethernet(f.ipv6(GOOD6, next_header=f.FRAGMENT, payload=f.ipv6_fragment(f.TCP, TCP))),
        "fragment",
        "tcp",
    ),
    "an atomic fragment is a whole packet": (six(GOOD6, [f.FRAGMENT], f.TCP, TCP), "pass", "tcp"),
    "an IPv6 fragment of a blocked source is dropped": (
        f.ethernet(f.ipv6(BAD6, next_header=f.FRAGMENT, payload=f.ipv6_fragment(f.UDP, bytes(16), offset=9))),
        "blocked_address",
        "udp",
    ),
    # case 22: IPv6 extension headers
    "eight extension headers are walked": (six(GOOD6, [f.HOP_BY_HOP] * 8, f.TCP, TCP), "pass", "tcp"),
    "nine are too many but no way past a block": (
        six(BAD6, [f.DESTINATION] * 9, f.TCP, TCP),
        "blocked_address",
        "other",
    ),
    "twenty hop-by-hop headers pass, counted": (six(GOOD6, [f.HOP_BY_HOP] * 20, f.TCP, TCP), "ipv6_chain", "other"),
    "routing type 0 is walked": (six(GOOD6, [f.ROUTING], f.UDP, UDP), "pass", "udp"),
    "an authentication header counts in words of four bytes": (
        six(GOOD6, [f.AUTHENTICATION], f.TCP, TCP, units=3),
        "pass",
        "tcp",
    ),
    "options of 2 KiB are walked": (six(GOOD6, [f.DESTINATION], f.TCP, TCP, units=255), "pass", "tcp"),
    "a chain that is cut off is noted": (
        f.ethernet(f.ipv6(GOOD6, next_header=f.HOP_BY_HOP, payload=b"\x06\x00")),
        "ipv6_chain",
        "other",
    ),
    "a chain that claims more than there is leaves no transport header": (
        f.ethernet(f.ipv6(GOOD6, next_header=f.DESTINATION, payload=bytes((6, 255, 0, 0, 0, 0, 0, 0)) + TCP)),
        "short_transport",
        "tcp",
    ),
    "ESP ends the walk": (six(GOOD6, [f.HOP_BY_HOP], f.ESP, bytes(16)), "pass", "other"),
    "no next header ends the walk": (six(GOOD6, [], f.NO_NEXT, b""), "pass", "other"),
}


@pytest.fixture(scope="module")
def filled() -> Iterator[Lab]:
    with lab() as opened:
        opened.block(BAD4, BAD6, BAD_NET4, BAD_NET6)
        opened.block(WATCHED4, mode=MONITOR)
        opened.block(EXPIRED4, expires=1)
        opened.filter.allow([SAVED4])
        yield opened


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_and_the_oracle_agree_with_the_table(filled: Lab, name: str) -> None:
    frame, reason, protocol = CASES[name]
    dropped = reason.startswith("blocked")
    assert judge(frame, LISTS) == Judgement(drop=dropped, reason=reason, protocol=protocol)

    filled.note()
    assert filled.run(frame) == (DROP if dropped else PASS)

    changed = filled.changes()
    assert changed["reasons"] == {reason: 1}
    assert changed["packets"]["packets_total"] == 1
    assert changed["packets"]["packets_dropped" if dropped else "packets_passed"] == 1
    expected = {"packets": 1, "bytes": len(frame)} | ({"drops": 1} if dropped else {})
    assert changed[protocol] == expected
    assert changed["total"] == expected


def test_no_prefix_of_any_frame_aborts_and_each_is_counted_once(filled: Lab) -> None:
    """Case 20: a frame cut at every length. The kernel refuses to test-run fewer than 14 bytes."""
    filled.note()
    runs = 0
    for frame, _, _ in CASES.values():
        for length in range(14, min(len(frame), 200)):
            cut = frame[:length]
            verdict = filled.run(cut)
            assert verdict != ABORTED
            assert (verdict == DROP) == judge(cut, LISTS).drop, cut.hex()
            runs += 1
    changed = filled.changes()
    assert changed["packets"]["packets_total"] == runs
    assert sum(changed["reasons"].values()) == runs


def test_an_expired_or_monitoring_entry_hides_no_wider_block() -> None:
    with lab() as opened:
        opened.block("10.1.2.3", expires=1)
        opened.block("10.1.2.0/24", mode=MONITOR)
        opened.block("10.1.0.0/16", expires=1)
        frame = f.ethernet(f.ipv4("10.1.2.3", payload=TCP))
        assert opened.run(frame) == PASS
        opened.block("10.0.0.0/8")
        assert opened.run(frame) == DROP
        reasons = opened.counters()["reasons"]
        assert (reasons["monitored"], reasons["blocked_prefix"]) == (1, 1)


def test_the_same_holds_for_ipv6_at_every_kind_of_length() -> None:
    with lab() as opened:
        frame = f.ethernet(f.ipv6("2001:db8:1:2:3:4:5:6", payload=TCP))
        opened.block("2001:db8:1:2:3:4:5:6", expires=1)
        opened.block("2001:db8:1:2::/64", mode=MONITOR)
        opened.block("2001:db8:1:2:3::/80", expires=1)
        assert opened.run(frame) == PASS
        for network in ("2001:db8:1:2:3:4::/96", "2001:db8::/32", "2001:d00::/24", "2001::/16"):
            opened.block(network)
            assert opened.run(frame) == DROP, network
            opened.filter.unblock([network])
            assert opened.run(frame) == PASS, network


@pytest.mark.parametrize(
    ("allowed", "source"),
    [
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("fc00::/7", "fd00::1"),
        ("2001:db8::/32", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
    ],
)
def test_nothing_that_is_blocked_overrides_the_allow_list(allowed: str, source: str) -> None:
    address = ipaddress.ip_address(source)
    wide = ipaddress.ip_network(source).supernet(new_prefix=16 if address.version == 4 else 24)
    packet = f.ipv4(source, payload=TCP) if address.version == 4 else f.ipv6(source, payload=TCP)
    with lab() as opened:
        opened.filter.allow([allowed])
        report = opened.block(source, str(wide))
        assert (report["written"], report["refused"]) == (2, [])
        assert opened.run(f.ethernet(packet)) == PASS
        opened.filter.unallow([allowed])
        assert opened.run(f.ethernet(packet)) == DROP


def test_an_allow_entry_that_has_expired_protects_no_longer() -> None:
    with lab() as opened:
        opened.block("10.1.2.3")
        opened.filter.allow(["10.1.2.0/24"], expires_boot_ns=1)
        assert opened.run(f.ethernet(f.ipv4("10.1.2.3", payload=TCP))) == DROP
        opened.filter.allow(["10.1.0.0/16"])
        assert opened.run(f.ethernet(f.ipv4("10.1.2.3", payload=TCP))) == PASS


def test_a_full_list_keeps_its_entries_and_names_what_did_not_fit() -> None:
    """Case 23."""
    with lab(entries=64) as opened:
        sources = [f"10.0.0.{number}" for number in range(1, 101)]
        report = opened.block(*sources)
        assert report["written"] == 64
        assert [refused["target"] for refused in report["refused"]] == sources[64:]
        assert report["refused"][0]["reason"] == "the list is full, blocklist_max_entries = 64"
        verdicts = [opened.run(f.ethernet(f.ipv4(source, payload=TCP))) for source in sources]
        assert verdicts == [DROP] * 64 + [PASS] * 36
        again = opened.block(sources[0], sources[70])
        assert (again["written"], len(again["refused"])) == (1, 1)


def test_refused_targets_are_named_and_change_nothing() -> None:
    """Case 7."""
    targets = ["0.0.0.0/0", "::/0", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "fe80::1", "255.255.255.255", "x"]
    with lab() as opened:
        report = opened.block(*targets, "192.0.2.1")
        assert report["written"] == 1
        assert [refused["target"] for refused in report["refused"]] == targets
        assert all(refused["reason"] for refused in report["refused"])
        assert [entry["target"] for entry in json.loads(opened.filter.list_blocked())] == ["192.0.2.1"]


def test_sweeping_removes_what_has_expired_and_nothing_else() -> None:
    with lab() as opened:
        opened.block("192.0.2.1", "2001:db8::/40", expires=1)
        opened.block("192.0.2.2", "2001:db8::2")
        opened.block("192.0.2.3", expires=Filter.boot_ns() + 3_600_000_000_000)
        assert opened.filter.sweep() == 2
        left = {entry["target"] for entry in json.loads(opened.filter.list_blocked())}
        assert left == {"192.0.2.2", "2001:db8::2", "192.0.2.3"}
        assert opened.run(f.ethernet(f.ipv4("192.0.2.2", payload=TCP))) == DROP


def test_sampled_records_say_how_many_packets_they_stand_for() -> None:
    with lab(sample=10) as opened:
        opened.block(BAD4, rule=99)
        opened.program.run(f.ethernet(f.ipv4(BAD4, payload=TCP), tags=((f.VLAN, 42),)), repeat=100)
        records = [json.loads(line) for line in opened.filter.reader().read().splitlines()]
        assert sum(record["ironpost.stands_for"] for record in records) == 100
        first = records[0]
        assert (first["event.action"], first["ironpost.verdict"], first["ironpost.rule_id"]) == ("drop", "drop", 99)
        assert (first["source.ip"], first["destination.ip"]) == (BAD4, f.HOST4)
        assert (first["source.port"], first["destination.port"], first["tcp.flags"]) == (40_000, 22, f.SYN)
        assert (first["network.transport"], first["network.bytes"], first["network.vlan.id"]) == ("tcp", 58, 42)
        assert first["ironpost.trust"] == "spoofable"


def test_every_record_is_delivered_or_counted_as_lost() -> None:
    """Case 24: a flood over a ring buffer of one page. Sum of emitted and lost is exact."""
    with lab(sample=1, ring=4096) as opened:
        opened.block(BAD4)
        opened.note()
        opened.program.run(f.ethernet(f.ipv4(BAD4, payload=TCP)), repeat=20_000)
        changed = opened.changes()["packets"]
        assert changed["packets_dropped"] == 20_000
        assert changed["events_emitted"] + changed["events_lost"] == 20_000
        reader = opened.filter.reader()
        records = [json.loads(line) for line in reader.read().splitlines()]
        assert len(records) == changed["events_emitted"] == 4096 // 80
        reader.commit(records[-1]["next_position"])
        opened.program.run(f.ethernet(f.ipv4(BAD4, payload=TCP)))
        assert len(reader.read().splitlines()) == 1


def test_records_are_read_again_until_they_are_committed() -> None:
    with lab(sample=1) as opened:
        opened.block(BAD4)
        opened.program.run(f.ethernet(f.ipv4(BAD4, payload=TCP)), repeat=5)
        first = opened.filter.reader().read().splitlines()
        reader = opened.filter.reader()
        again = reader.read().splitlines()

        def positions(lines: list[bytes]) -> list[int]:
            return [json.loads(line)["position"] for line in lines]

        assert positions(first) == positions(again)
        assert len(first) == 5
        reader.commit(json.loads(again[2])["next_position"])
        assert positions(opened.filter.reader().read().splitlines()) == positions(first)[3:]


def scan(opened: Lab, packets: list[bytes]) -> list[int]:
    """Runs packets and returns the destination ports of the ``new_port`` records."""
    reader = opened.filter.reader()
    reader.read()
    for packet in packets:
        assert opened.run(f.ethernet(packet)) == PASS
    records = [json.loads(line) for line in reader.read().splitlines()]
    return [record["destination.port"] for record in records if record["event.action"] == "new_port"]


def test_a_port_scan_is_one_record_per_port() -> None:
    ports = list(range(1, 26))
    with lab() as opened:
        seen = scan(opened, [f.ipv4(GOOD4, payload=f.tcp(destination_port=port)) for port in ports * 3])
        # A Bloom filter may take a port for a known one, hardly ever at this fill.
        assert set(seen) <= set(ports)
        assert len(seen) == len(set(seen)) >= 23
        udp = scan(opened, [f.ipv6(GOOD6, next_header=f.UDP, payload=f.udp(destination_port=port)) for port in ports])
        assert len(set(udp)) >= 23


@pytest.mark.parametrize(
    ("name", "packet", "seen"),
    [
        ("SYN", f.tcp(flags=f.SYN), True),
        ("FIN scan", f.tcp(flags=f.FIN), True),
        ("null scan", f.tcp(flags=0), True),
        ("Xmas scan", f.tcp(flags=f.FIN | f.PUSH | f.URG), True),
        ("SYN with ACK, an answer", f.tcp(flags=f.SYN | f.ACK), False),
        ("ACK, a running connection", f.tcp(flags=f.ACK), False),
        ("RST, an end", f.tcp(flags=f.RST), False),
    ],
)
def test_only_openings_count_as_touching_a_port(name: str, packet: bytes, seen: bool) -> None:
    with lab() as opened:
        assert bool(scan(opened, [f.ipv4(GOOD4, payload=packet)])) is seen, name


def test_answers_to_our_own_datagrams_are_no_scan() -> None:
    """A resolver that answers 30 questions reaches 30 of our ephemeral ports."""
    with lab() as opened:
        answers = [f.udp(source_port=53, destination_port=60_000 + number) for number in range(30)]
        assert scan(opened, [f.ipv4(GOOD4, protocol=f.UDP, payload=answer) for answer in answers]) == []


def test_one_source_cannot_fill_the_ring_with_ports() -> None:
    with lab() as opened:
        opened.note()
        packets = [f.ipv4(GOOD4, payload=f.tcp(destination_port=port)) for port in range(1, 401)]
        assert len(scan(opened, packets)) == 128
        counted = opened.counters()["events"]["ports_capped"]
        assert 200 <= counted <= 272


def test_allowed_blocked_and_fragmented_packets_touch_no_port() -> None:
    with lab() as opened:
        opened.filter.allow([SAVED4])
        assert scan(opened, [f.ipv4(SAVED4, payload=TCP)]) == []
        assert scan(opened, [f.ipv4(GOOD4, payload=TCP, fragment_offset=3)]) == []
        assert scan(opened, [f.ipv4(GOOD4, payload=TCP, more_fragments=True)]) == []


def test_256_thousand_networks_work_at_once_and_leave_by_name() -> None:
    networks = [f"{11 + (n >> 16)}.{n >> 8 & 255}.{n & 255}.0/24" for n in range(256 * 1024)]
    with lab(entries=300_000) as opened:
        assert opened.block(*networks)["written"] == len(networks)
        for network in (networks[0], networks[77_777], networks[-1]):
            source = network.replace(".0/24", ".9")
            assert opened.run(f.ethernet(f.ipv4(source, payload=TCP))) == DROP
        assert opened.run(f.ethernet(f.ipv4("15.0.0.1", payload=TCP))) == PASS
        opened.filter.unblock([networks[77_777]])
        assert opened.run(f.ethernet(f.ipv4(networks[77_777].replace(".0/24", ".9"), payload=TCP))) == PASS


def test_struct_layout_of_the_builder_is_the_one_of_the_rfc() -> None:
    """The builder is itself an oracle: check it against fixed bytes once."""
    packet = f.ipv4("192.0.2.1", "198.18.0.1", payload=f.tcp(1, 2))
    assert packet[:20].hex() == "4500002800010000" + "40060000" + "c0000201" + "c6120001"
    assert struct.unpack("!HH", packet[20:24]) == (1, 2)
