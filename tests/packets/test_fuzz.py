"""Differential fuzzing: generated frames, the kernel program against the oracle, no disagreement.

``IRONPOST_FUZZ_FRAMES`` and ``IRONPOST_FUZZ_SEED`` change amount and seed; the failing frame is printed as hex.
"""

from __future__ import annotations

import ipaddress
import os
import random
from collections import Counter

import pytest

from support import frames as f
from support.bpf import DROP, PASS
from support.filters import MONITOR, lab
from support.oracle import Block, Lists, judge

pytestmark = pytest.mark.root

SOURCES4 = ["10.0.0.1", "10.0.0.2", "10.0.1.7", "10.1.2.3", "172.20.0.9", "192.0.2.1", "192.0.2.200", "203.0.113.9"]
SOURCES6 = [
    *("2001:db8::1", "2001:db8::2", "2001:db8:0:1::9", "2001:db9::1", "2a00:1::1", "fd00::7"),
    *(f"::ffff:{source}" for source in SOURCES4[:4]),
]
NETWORKS = [
    *("10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.0.0.1", "10.1.2.0/23", "172.16.0.0/12", "192.0.2.0/25"),
    *("192.0.2.1", "203.0.113.8/30", "2001:db8::/32", "2001:db8::/64", "2001:db8::1", "2001:db8::/127"),
    *("2a00::/16", "2001:db8::/48", "2a00:1::/33", "2001:d00::/24"),
]
EXTENSIONS = [f.HOP_BY_HOP, f.ROUTING, f.FRAGMENT, f.AUTHENTICATION, f.DESTINATION]


def make_lists(random_: random.Random) -> Lists:
    """Some networks blocked, live or expired, dropping or monitoring; some allowed."""
    blocks = tuple(
        Block(ipaddress.ip_network(network), drop=random_.random() < 0.7, live=random_.random() < 0.7)
        for network in random_.sample(NETWORKS, random_.randint(0, 8))
    )
    allowed = tuple(ipaddress.ip_network(network) for network in random_.sample(NETWORKS, random_.randint(0, 2)))
    return Lists(blocks, allowed)


def make_frame(random_: random.Random) -> bytes:
    """A frame that is mostly well formed and then spoiled a little."""
    transport = random_.choice([f.tcp(flags=random_.randrange(256)), f.udp(), f.icmp(), random_.randbytes(24)])
    protocol = random_.choice([f.TCP, f.UDP, f.ICMP, f.ICMPV6, f.ESP, f.NO_NEXT, random_.randrange(256)])
    if random_.random() < 0.5:
        packet = f.ipv4(
            random_.choice(SOURCES4),
            protocol=protocol,
            payload=transport,
            header_words=random_.choice([5, 5, 5, 6, 15, random_.randrange(16)]),
            fragment_offset=random_.choice([0, 0, 0, 1, 0x1FFF]),
            more_fragments=random_.random() < 0.1,
            total_length=random_.choice([None, None, None, 0, 20, 27, 39, 65_535]),
        )
    else:
        headers = random_.choices(EXTENSIONS, k=random_.choice([0, 0, 1, 2, 3, 7, 8, 9, 12]))
        units = random_.choice([0, 0, 1, 4])
        first, body = f.chain(headers, protocol, transport, units=units)
        if random_.random() < 0.1:
            first = f.FRAGMENT
            body = f.ipv6_fragment(
                protocol, transport, offset=random_.choice([0, 1, 8191]), more=random_.random() < 0.5
            )
        length = random_.choice([None, None, None, 0, 7, 19, len(body) // 2])
        packet = f.ipv6(random_.choice(SOURCES6), next_header=first, payload=body, payload_length=length)
    tags = tuple(
        (random_.choice([f.VLAN, f.QINQ]), random_.randrange(65_536)) for _ in range(random_.choice([0, 0, 0, 1, 2, 3]))
    )
    kind = random_.choice([None] * 20 + [f.ARP, f.IPV4, f.IPV6])
    frame = bytearray(f.ethernet(packet, kind=kind, tags=tags))
    for _ in range(random_.choice([0, 0, 0, 1, 3])):
        frame[random_.randrange(12, len(frame))] = random_.randrange(256)
    if random_.random() < 0.2:
        del frame[random_.randint(14, len(frame)) :]
    if random_.random() < 0.1:
        frame += bytes(random_.randrange(64))
    return bytes(frame)


def fuzz(frames: int, seed: int) -> None:
    """Runs ``frames`` frames over many list settings."""
    random_ = random.Random(seed)
    per_setting = 500 if frames < 100_000 else 5_000
    expected_total: Counter[str] = Counter()
    for _ in range(max(1, frames // per_setting)):
        lists = make_lists(random_)
        with lab() as opened:
            for block in lists.blocks:
                opened.block(str(block.network), mode=1 if block.drop else MONITOR, expires=0 if block.live else 1)
            opened.filter.allow([str(network) for network in lists.allowed])
            reasons: Counter[str] = Counter()
            slots: Counter[str] = Counter()
            for _ in range(per_setting):
                frame = make_frame(random_)
                said = judge(frame, lists)
                reasons[said.reason] += 1
                slots[said.protocol] += 1
                verdict = opened.run(frame)
                assert verdict == (DROP if said.drop else PASS), f"{frame.hex()} {said} {lists}"
            counters = opened.counters()
            assert {name: count for name, count in counters["reasons"].items() if count} == reasons, f"seed {seed}"
            kinds = {name: counts["packets"] for name, counts in counters["protocols"].items() if counts["packets"]}
            assert kinds == {**slots, "total": per_setting}
            assert counters["packets_total"] == counters["packets_passed"] + counters["packets_dropped"] == per_setting
            expected_total += reasons
    # The generator must reach every reason the oracle knows, or it proves less than it seems to.
    if frames >= 5_000:
        assert len(expected_total) >= 13, expected_total


def test_kernel_and_oracle_agree_on_generated_frames() -> None:
    fuzz(6_000, int(os.environ.get("IRONPOST_FUZZ_SEED", "1")))


@pytest.mark.long
def test_kernel_and_oracle_agree_on_a_million_generated_frames() -> None:
    fuzz(int(os.environ.get("IRONPOST_FUZZ_FRAMES", "1000000")), random.SystemRandom().randrange(1 << 32))
