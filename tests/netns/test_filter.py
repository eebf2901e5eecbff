"""The filter on real interfaces: two network namespaces, a cable, raw frames, seen from outside."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ironpost import errors
from ironpost._core import Filter
from support import frames as f
from support.bpf import PASS, Program, overwrite
from support.filters import pin_directory
from support.netns import Host, cable, pair, received, send

pytestmark = [pytest.mark.root, pytest.mark.netns]

BAD4, BAD6, BAD_NET = "192.0.2.66", "2001:db8:bad::66", "198.51.100.0/24"
GOOD4 = "203.0.113.5"
TCP = f.tcp(flags=f.ACK)
GOOD = f.ethernet(f.ipv4(GOOD4, payload=TCP))
#: A frame that always passes: what was sent before it has been decided when it arrives.
MARK = f.ethernet(f.ipv4("203.0.113.250", payload=b"mark" * 8, protocol=253))
BAD = {
    "IPv4": f.ethernet(f.ipv4(BAD4, payload=TCP)),
    "IPv6": f.ethernet(f.ipv6(BAD6, payload=TCP)),
    "network": f.ethernet(f.ipv4("198.51.100.77", payload=TCP)),
    "one tag": f.ethernet(f.ipv4(BAD4, payload=TCP), tags=((f.VLAN, 5),)),
    "two tags": f.ethernet(f.ipv6(BAD6, payload=TCP), tags=((f.QINQ, 5), (f.VLAN, 6))),
}


def untagged(frames: Iterable[bytes]) -> list[bytes]:
    """The frames with all VLAN tags removed."""
    bare = []
    for frame in frames:
        while frame[12:14] in {b"\x81\x00", b"\x88\xa8"}:
            frame = frame[:12] + frame[16:]  # noqa: PLW2901 - peeling
        bare.append(frame)
    return bare


class Site:
    """Two hosts and a pin directory."""

    def __init__(self, guard: Host, peer: Host, pins: str) -> None:
        self.guard, self.peer, self.pins = guard, peer, pins
        self.arriving = guard.listen("guard0")
        self.sending = peer.listen("peer0")

    def open(self, **changes: Any) -> Filter:
        settings: dict[str, Any] = {
            "interfaces": ["guard0"],
            "mode": "auto",
            "ring_buffer_size": 262_144,
            "blocklist_max_entries": 1000,
            "sample_every": 0,
        }
        return self.guard.run(Filter.open, self.pins, **(settings | changes))

    def attached(self, opened: Filter) -> list[dict[str, Any]]:
        return json.loads(self.guard.run(opened.attached))

    def counters(self, opened: Filter) -> dict[str, Any]:
        return json.loads(self.guard.run(opened.counters))

    def passing(self, *frames: bytes) -> list[bytes]:
        """Sends frames and returns those that came through, without VLAN tags: the kernel takes the outer one off."""
        send(self.sending, *frames, MARK)
        return untagged(received(self.arriving, until=MARK))

    def program_number(self) -> int:
        with Program.pinned(f"{self.pins}/ironpost_xdp") as program:
            return program.number


@pytest.fixture
def site() -> Iterator[Site]:
    pins = pin_directory()
    with pair() as (guard, peer):
        made = Site(guard, peer, pins)
        yield made
        made.arriving.close()
        made.sending.close()
        guard.run(Filter.detach_pins, pins)


def block(opened: Filter, *targets: str, expires: int = 0) -> None:
    report = json.loads(opened.block([(target, expires, 1, 1) for target in targets]))
    assert report["refused"] == []


def test_blocked_sources_do_not_come_through_and_everybody_else_does(site: Site) -> None:
    opened = site.open()
    assert site.attached(opened) == [{"interface": "guard0", "mode": "native", "note": ""}]
    assert site.passing(*BAD.values(), GOOD) == untagged([*BAD.values(), GOOD])
    block(opened, BAD4, BAD6, BAD_NET)
    assert site.passing(*BAD.values(), GOOD) == [GOOD]


def test_an_allowed_source_comes_through_whatever_is_blocked(site: Site) -> None:
    opened = site.open()
    block(opened, BAD4, BAD6, BAD_NET)
    opened.allow(["198.51.100.77", "2001:db8:bad::/64"])
    allowed = [BAD["IPv6"], BAD["network"], BAD["two tags"]]
    assert site.passing(*BAD.values()) == untagged(allowed)


def test_a_block_ends_by_the_boot_clock_without_any_process(site: Site) -> None:
    opened = site.open()
    expires = Filter.boot_ns() + 800_000_000
    block(opened, BAD4, expires=expires)
    del opened
    assert site.passing(BAD["IPv4"]) == []
    deadline = time.monotonic() + 10
    while not site.passing(BAD["IPv4"]):
        assert time.monotonic() < deadline, "the block did not end"
    assert Filter.boot_ns() >= expires


def test_a_killed_holder_leaves_the_filter_dropping_and_a_new_one_takes_it_over(site: Site) -> None:
    """Case 25 and the promise that the filter outlives the daemon."""
    script = (
        "import sys, time\n"
        "from ironpost._core import Filter\n"
        "opened = Filter.open(sys.argv[1], interfaces=['guard0'], mode='auto', ring_buffer_size=262144,"
        " blocklist_max_entries=1000, sample_every=0)\n"
        f"opened.block([('{BAD4}', 0, 1, 1)])\n"
        "print('ready')\n"
        "time.sleep(600)\n"
    )
    holder = site.guard.start([sys.executable, "-c", script, site.pins])
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    before = site.program_number()
    assert site.passing(BAD["IPv4"], GOOD) == [GOOD]
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert site.passing(BAD["IPv4"], GOOD) == [GOOD]

    opened = site.open()
    assert site.program_number() == before
    assert [entry["target"] for entry in json.loads(opened.list_blocked())] == [BAD4]
    counters = site.counters(opened)
    assert (counters["packets_total"], counters["packets_dropped"]) == (6, 2)
    assert site.passing(BAD["IPv4"], GOOD) == [GOOD]


def test_every_frame_is_counted_exactly_once(site: Site) -> None:
    opened = site.open()
    block(opened, BAD4, BAD6, BAD_NET)
    random_ = random.Random(3)
    odd = [f.ethernet(bytes(50), kind=f.ARP), f.ethernet(f.ipv4(GOOD4, payload=TCP, fragment_offset=4)), GOOD]
    sent = random_.choices([*BAD.values(), *odd], k=20_000)
    arrived = 0
    for start in range(0, len(sent), 500):
        arrived += len(site.passing(*sent[start : start + 500]))
    marks = len(sent) // 500
    dropped = sum(frame in BAD.values() for frame in sent)
    counters = site.counters(opened)
    assert counters["packets_total"] == len(sent) + marks
    assert counters["packets_dropped"] == dropped
    assert counters["packets_passed"] == arrived + marks == len(sent) - dropped + marks
    assert sum(counters["reasons"].values()) == counters["packets_total"]
    assert sum(counters["protocols"][name]["packets"] for name in ("tcp", "udp", "icmp", "other")) == len(sent) + marks
    assert counters["protocols"]["total"]["bytes"] == sum(map(len, sent)) + marks * len(MARK)


def test_a_foreign_program_is_refused_by_name_and_left_alone(site: Site) -> None:
    """Case 27."""
    with Program.returning(PASS, name=b"somebodys") as foreign:
        path = f"{site.pins}_foreign"
        foreign.pin(path)
        try:
            site.guard.ip("link", "set", "dev", "guard0", "xdpdrv", "pinned", path)
        finally:
            Path(path).unlink()
        with pytest.raises(errors.ForeignProgram) as caught:
            site.open()
        assert caught.value.interface == "guard0"
        assert caught.value.program == f'"somebodys" (id {foreign.number})'
        assert "xdp off" in caught.value.hint
        running = json.loads(site.guard.ip("-json", "-details", "link", "show", "guard0"))[0]["xdp"]
        assert running["prog"]["id"] == foreign.number
    assert not Path(site.pins).exists()


def test_an_unknown_interface_is_refused_with_the_known_ones(site: Site) -> None:
    with pytest.raises(errors.InterfaceNotFound, match=r'"nosuch0" does not exist') as caught:
        site.open(interfaces=["nosuch0"])
    assert caught.value.interface == "nosuch0"
    assert set(caught.value.hint.removeprefix("interfaces here: ").split(", ")) >= {"guard0", "lo"}
    assert not Path(site.pins).exists()


def test_a_device_without_native_mode_gets_generic_mode_and_says_so(site: Site) -> None:
    """The loopback device of a namespace is one."""
    site.guard.ip("link", "set", "dev", "lo", "up")
    opened = site.open(interfaces=["lo", "guard0"])
    loopback, guard = site.attached(opened)
    assert (loopback["mode"], guard["mode"]) == ("skb", "native")
    assert loopback["note"].startswith("generic mode, slower: lo refused native mode (")
    assert site.counters(opened)["mode"] == "mixed"
    again = site.attached(site.open(interfaces=["lo", "guard0"]))
    assert again[0]["note"].startswith("generic mode")
    with pytest.raises(errors.FilterError, match="attaching to lo: native mode"):
        site.open(interfaces=["lo"], mode="native")


def test_generic_mode_drops_the_same_frames(site: Site) -> None:
    opened = site.open(mode="skb")
    assert site.attached(opened)[0] == {"interface": "guard0", "mode": "skb", "note": ""}
    block(opened, BAD4, BAD6, BAD_NET)
    assert site.passing(*BAD.values(), GOOD) == [GOOD]
    opened = site.open(mode="native")
    assert site.attached(opened)[0]["mode"] == "native"
    assert site.passing(*BAD.values(), GOOD) == [GOOD]


def test_jumbo_frames_are_filtered_in_native_mode() -> None:
    """Case 26: at this MTU drivers refuse programs that cannot read a frame in several buffers."""
    pins = pin_directory()
    with pair(mtu=9000) as (guard, peer):
        site = Site(guard, peer, pins)
        try:
            opened = site.open(mode="native")
            block(opened, BAD4)
            big = f.udp(payload=bytes(8000))
            bad, good = (f.ethernet(f.ipv4(source, protocol=f.UDP, payload=big)) for source in (BAD4, GOOD4))
            assert site.passing(bad, good) == [good]
            assert site.counters(opened)["protocols"]["udp"]["bytes"] == len(bad) + len(good)
        finally:
            guard.run(Filter.detach_pins, pins)
            site.arriving.close()
            site.sending.close()


def test_replacing_the_program_lets_no_blocked_frame_through(site: Site) -> None:
    """Case 28: other settings mean another program; the link is updated in place."""
    opened = site.open(sample_every=0)
    block(opened, BAD4)
    stop = threading.Event()
    sent = 0

    def flood() -> None:
        nonlocal sent
        while not stop.is_set():
            site.sending.send(BAD["IPv4"])
            sent += 1

    sender = threading.Thread(target=flood)
    sender.start()
    programs = set()
    try:
        for round_ in range(1, 9):
            opened = site.open(sample_every=round_ * 1_000_000)
            programs.add(site.program_number())
    finally:
        stop.set()
        sender.join()
    assert len(programs) == 8
    assert site.passing() == []
    counters = site.counters(opened)
    assert (counters["packets_dropped"], counters["packets_passed"]) == (sent, 1)
    assert sent > 1000


def test_other_sizes_keep_entries_and_counters_without_a_gap(site: Site) -> None:
    opened = site.open()
    block(opened, BAD4, BAD6, BAD_NET)
    opened.allow(["198.51.100.77"])
    assert site.passing(*BAD.values()) == [BAD["network"]]
    opened = site.open(blocklist_max_entries=5000, ring_buffer_size=1 << 20)
    assert site.passing(*BAD.values()) == [BAD["network"]]
    assert len(json.loads(opened.list_blocked())) == 3
    assert site.counters(opened)["packets_dropped"] == 8
    with pytest.raises(errors.ConfigError, match=r"2 entries are in use, only 1 fit"):
        site.open(blocklist_max_entries=1)
    assert site.passing(*BAD.values()) == [BAD["network"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ring_buffer_size": 5000}, r"ebpf\.ring_buffer_size: 5000: expected a power of two"),
        ({"ring_buffer_size": 2048}, r"ebpf\.ring_buffer_size: 2048: expected .* page size"),
        ({"blocklist_max_entries": 0}, r"ebpf\.blocklist_max_entries: 0: expected at least 1"),
        ({"mode": "fast"}, r"ebpf\.mode: \"fast\": expected auto, native or skb"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_by_name(site: Site, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        site.open(**changes)


def test_a_device_that_went_away_is_reported_and_taken_back(site: Site) -> None:
    """Case 26."""
    opened = site.open()
    block(opened, BAD4)
    site.guard.ip("link", "del", "guard0")
    assert site.attached(opened) == [{"interface": "guard0", "mode": None, "note": "the interface is gone"}]
    assert site.counters(opened)["attached"] is False
    site.arriving.close()
    site.sending.close()
    cable(site.guard, site.peer)
    site.arriving, site.sending = site.guard.listen("guard0"), site.peer.listen("peer0")
    assert site.passing(BAD["IPv4"]) == [BAD["IPv4"]]
    opened = site.open()
    assert site.passing(BAD["IPv4"]) == []


def test_a_link_removed_from_outside_is_reported(site: Site) -> None:
    """Case 27."""
    opened = site.open()
    (link,) = Path(site.pins).glob("link_*")
    link.unlink()
    notes = []
    deadline = time.monotonic() + 10
    # The kernel lets go a moment later; what is said until then must be true too.
    while not notes or notes[-1] != "not attached: the link was removed from outside":
        assert time.monotonic() < deadline, notes
        notes.append(site.attached(opened)[0]["note"])
    assert set(notes[:-1]) <= {"attached, but the pin of the link was removed from outside"}
    opened = site.open()
    assert site.attached(opened) == [{"interface": "guard0", "mode": "native", "note": ""}]


@pytest.mark.parametrize("gone", ["link_*", "*"], ids=["the link", "every pin"])
def test_a_filter_taken_off_from_outside_is_attached_again_with_its_entries(site: Site, gone: str) -> None:
    """Case 27."""
    opened = site.open()
    block(opened, BAD4)
    for pin in list(Path(site.pins).glob(gone)):
        pin.unlink()
    site.guard.run(opened.reattach)
    assert site.attached(opened) == [{"interface": "guard0", "mode": "native", "note": ""}]
    assert site.passing(BAD["IPv4"], GOOD) == [GOOD]
    del opened
    again = site.open()
    assert [entry["target"] for entry in json.loads(again.list_blocked())] == [BAD4]
    assert site.passing(BAD["IPv4"], GOOD) == [GOOD]


def test_attaching_again_leaves_a_foreign_program_alone(site: Site) -> None:
    opened = site.open()
    (link,) = Path(site.pins).glob("link_*")
    link.unlink()
    deadline = time.monotonic() + 10
    while site.attached(opened)[0]["mode"] is not None:
        assert time.monotonic() < deadline
    with Program.returning(PASS, name=b"somebodys") as foreign:
        path = f"{site.pins}_foreign"
        foreign.pin(path)
        try:
            site.guard.ip("link", "set", "dev", "guard0", "xdpdrv", "pinned", path)
        finally:
            Path(path).unlink()
        with pytest.raises(errors.ForeignProgram):
            site.guard.run(opened.reattach)
        running = json.loads(site.guard.ip("-json", "-details", "link", "show", "guard0"))[0]["xdp"]
        assert running["prog"]["id"] == foreign.number
        site.guard.ip("link", "set", "dev", "guard0", "xdpdrv", "off")
        site.guard.run(opened.reattach)
        assert site.attached(opened)[0]["mode"] == "native"


def test_opening_right_after_the_link_was_removed_attaches_again(site: Site) -> None:
    opened = site.open()
    block(opened, BAD4)
    for _ in range(5):
        (link,) = Path(site.pins).glob("link_*")
        link.unlink()
        opened = site.open()
        assert site.attached(opened)[0]["mode"] == "native"
        assert site.passing(BAD["IPv4"]) == []


def test_detaching_removes_everything(site: Site) -> None:
    opened = site.open()
    block(opened, BAD4)
    assert site.passing(BAD["IPv4"]) == []
    site.guard.run(opened.detach)
    deadline = time.monotonic() + 10
    # The kernel lets go a moment later.
    while site.attached(opened)[0]["mode"] is not None:
        assert time.monotonic() < deadline
    assert site.passing(BAD["IPv4"]) == [BAD["IPv4"]]
    assert not Path(site.pins).exists()


def test_pins_of_another_schema_are_refused(site: Site) -> None:
    site.open()
    overwrite(f"{site.pins}/CONFIG", struct.pack("<I52x", 2))
    with pytest.raises(errors.FilterError, match="schema version 2, this version reads 1"):
        site.open()
    assert site.passing(GOOD) == [GOOD]


def test_a_scan_over_the_wire_is_reported_port_by_port_and_again_until_committed(site: Site) -> None:
    opened = site.open()
    ports = list(range(20, 45))
    site.passing(*(f.ethernet(f.ipv4(GOOD4, payload=f.tcp(destination_port=port))) for port in ports))
    index = site.guard.run(socket.if_nametoindex, "guard0")
    unix_ns: list[int] = []

    def read() -> list[dict[str, Any]]:
        reader = opened.reader()
        records = [json.loads(line) for line in reader.read(timeout_ms=2000).splitlines()]
        # The wall clock is read with the records, so it is no part of what a record is.
        unix_ns.extend(record.pop("unix_ns") for record in records)
        return [record for record in records if record["event.action"] == "new_port"]

    first = read()
    assert len(first) >= 23
    assert {record["destination.port"] for record in first} <= set(ports)
    assert {record["source.ip"] for record in first} == {GOOD4}
    assert {record["ironpost.interface"] for record in first} == {index}
    assert abs(unix_ns[-1] - time.time_ns()) < 60_000_000_000
    assert read() == first
    opened.reader().commit(first[-1]["next_position"])
    assert read() == first, "a commit of records this reader has not read must change nothing"
    reader = opened.reader()
    reader.read()
    reader.commit(first[-1]["next_position"])
    assert read() == []


def test_waiting_for_records_ends_as_soon_as_one_arrives(site: Site) -> None:
    opened = site.open(sample_every=1)
    block(opened, BAD4)
    reader = opened.reader()
    assert reader.read(timeout_ms=50) == b""
    timer = threading.Timer(0.2, site.sending.send, [BAD["IPv4"]])
    started = time.monotonic()
    timer.start()
    # The second round waits with an uncommitted record in the ring buffer, which must not make it spin or miss.
    for _ in range(2):
        lines: list[bytes] = []
        while not lines:
            lines = reader.read(timeout_ms=20_000).splitlines()
        assert json.loads(lines[0])["source.ip"] == BAD4
        site.sending.send(BAD["IPv4"])
    timer.join()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("capabilities", "missing"), [("", "CAP_BPF"), ("+bpf", "CAP_NET_ADMIN"), ("+net_admin", "CAP_BPF")]
)
def test_a_missing_capability_is_named(site: Site, capabilities: str, missing: str) -> None:
    script = (
        "from ironpost import errors\n"
        "from ironpost._core import Filter\n"
        "try:\n"
        f"    Filter.open({site.pins!r}, interfaces=['guard0'], mode='auto', ring_buffer_size=262144,"
        " blocklist_max_entries=1000, sample_every=0)\n"
        "except errors.PrivilegeMissing as error:\n"
        "    print(error.capability)\n"
    )
    kept = f"-all,{capabilities}".rstrip(",")
    # Root without capabilities: file permissions are not what is tested here.
    command = ["setpriv", "--bounding-set", kept, "--inh-caps", kept, sys.executable, "-c", script]
    child = site.guard.start(command)
    output, _ = child.communicate(timeout=60)
    assert output.strip() == missing
