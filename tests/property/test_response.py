"""No sequence of alerts, policies and commands ever cuts off somebody who must not be."""

from __future__ import annotations

import asyncio
import ipaddress
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ironpost.decisions import DecisionMaker, Policy, Protection, Protections
from ironpost.errors import EnforcementError
from ironpost.model import (
    ActionRecord,
    DecisionState,
    Entity,
    Mode,
    Transition,
    Verb,
)
from ironpost.model.address import network_text, parse_network
from ironpost.storage import CommitUnit, Store
from ironpost.system import FixedClock
from support.house import House
from support.response import MINUTE_NS, detection
from support.strategies import HOSTS, spellings, targets

OWN = ("192.0.2.2", "2001:db8:1::1")
CONFIGURED = ("198.51.100.20", "2001:db8::8/127")
ALWAYS_SAFE = [
    ipaddress.ip_network(text)
    for text in (
        *OWN,
        *CONFIGURED,
        "127.0.0.0/8",
        "224.0.0.0/4",
        "0.0.0.0/32",
        "255.255.255.255/32",
        "::1",
        "::",
        "ff00::/8",
    )
]
POLICIES = st.lists(
    st.builds(
        Policy,
        id=st.sampled_from(["a", "b", "c"]),
        name=st.just("policy"),
        verb=st.just(Verb.BAN),
        priority=st.integers(0, 3),
        mode=st.sampled_from(Mode),
        duration_ns=st.integers(1, 60).map(lambda minutes: minutes * MINUTE_NS),
        max_targets_per_hour=st.integers(1, 4),
        trust=st.just(("host", "container", "unauthenticated", "spoofable")),
    ),
    max_size=3,
    unique_by=lambda policy: policy.id,
)


class HostUnderFire(RuleBasedStateMachine):
    """A daemon that sees alerts, obeys an operator, and is restarted and rebooted, with a model of the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.house = House(Path(self.directory.name) / "ironpost.db", configured=CONFIGURED)
        self.number = 0
        self.allowed: dict[str, int] = {}

    def do(self, act: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(act)

    @initialize(policies=POLICIES, mode=st.sampled_from(Mode))
    def begin(self, policies: list[Policy], mode: Mode) -> None:
        self.policies, self.mode = policies, mode
        self.wire()

    def wire(self) -> None:
        house = self.house
        house.protections = Protections(
            clock=house.clock,
            configured=CONFIGURED,
            entries=house.store.allow_entries,
            host=lambda: tuple(Protection(parse_network(address), "own") for address in OWN),
            own_container="",
        )
        house.executor._guard = house.protections
        house.responder._guard = house.protections
        self.maker = DecisionMaker(self.policies, house.protections, clock=house.clock, mode=self.mode)
        self.do(house.responder.sync_allowed())

    @rule(host=st.sampled_from(HOSTS), data=st.data(), again=st.booleans())
    def an_alert_arrives(self, host: str, data: st.DataObject, again: bool) -> None:
        self.number += 0 if again else 1
        entity = Entity("source.ip", data.draw(spellings(host)))
        self.house.store.commit(CommitUnit([detection(self.number, entity=entity)]), self.maker.decide)
        self.do(self.house.executor.drain())

    @rule(wanted=st.lists(targets(), min_size=1, max_size=3), minutes=st.integers(1, 60), monitor=st.booleans())
    def the_operator_bans(self, wanted: list[str], minutes: int, monitor: bool) -> None:
        before = dict(self.house.filter.blocked)
        try:
            self.do(self.house.responder.ban(wanted, duration_ns=minutes * MINUTE_NS, monitor=monitor))
        except EnforcementError:
            assert self.house.filter.blocked == before

    @rule(wanted=targets(), minutes=st.none() | st.integers(1, 60))
    def the_operator_allows(self, wanted: str, minutes: int | None) -> None:
        try:
            self.do(self.house.responder.allow(wanted, duration_ns=minutes and minutes * MINUTE_NS))
        except EnforcementError:
            return
        network = str(parse_network(wanted))
        self.allowed[network] = 2**63 if minutes is None else self.house.clock.wall + minutes * MINUTE_NS

    @rule(wanted=targets())
    def the_operator_takes_back(self, wanted: str) -> None:
        for act in (self.house.responder.unban([wanted]), self.house.responder.unallow(wanted)):
            try:
                self.do(act)
            except EnforcementError:
                continue
            if act.__name__ == "unallow":
                self.allowed.pop(str(parse_network(wanted)), None)

    @rule(data=st.data())
    @precondition(lambda self: self.house.store.live_decisions())
    def the_operator_undoes(self, data: st.DataObject) -> None:
        live = sorted(self.house.store.live_decisions(), key=lambda each: each.target)
        self.do(self.house.executor.undo(data.draw(st.sampled_from(live)).id))

    @rule(seconds=st.integers(1, 4000))
    def time_passes(self, seconds: int) -> None:
        self.house.clock.advance(seconds)
        self.do(self.house.responder.sync_allowed())
        self.do(self.house.executor.drain())

    @rule(reboot=st.booleans())
    def the_daemon_starts_anew(self, reboot: bool) -> None:
        if reboot:
            self.house.reboot()
        else:
            self.house.stop()
            self.house.start()
        self.wire()
        self.do(self.house.executor.resume())

    @invariant()
    def nobody_protected_is_dropped(self) -> None:
        now = self.house.clock.wall
        safe = [*ALWAYS_SAFE, *(ipaddress.ip_network(text) for text, end in self.allowed.items() if end > now)]
        for address in HOSTS:
            if any(ipaddress.ip_address(address) in network for network in safe):
                assert not self.house.filter.drops(address), address

    @invariant()
    def the_kernel_holds_what_the_store_says(self) -> None:
        active = {
            str(parse_network(each.target))
            for each in self.house.store.live_decisions([Verb.BAN])
            if each.state is DecisionState.ACTIVE
        }
        now = self.house.clock.boot
        held = {cidr for cidr, (end, _, _) in self.house.filter.blocked.items() if end == 0 or end > now}
        assert held <= active

    @invariant()
    def the_ledger_is_whole(self) -> None:
        assert self.house.store.verify_ledger().is_whole

    def teardown(self) -> None:
        self.house.stop()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.directory.cleanup()


TestHostUnderFire = HostUnderFire.TestCase
TestHostUnderFire.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@given(target=targets())
def test_normal_form_is_one_per_network_and_keeps_its_addresses(target: str) -> None:
    network = parse_network(target)
    assert parse_network(network_text(network)) == network
    assert parse_network(str(network)) == network
    given_network = ipaddress.ip_network(target.strip(), strict=False)
    if given_network.version == network.version:
        assert given_network == network
    else:
        assert given_network.network_address.ipv4_mapped == network.network_address


@given(
    units=st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=6),
    cut=st.integers(0, 6),
)
@settings(deadline=None, max_examples=60)
def test_reading_again_after_any_cut_gives_the_same_store(units: list[list[int]], cut: int) -> None:
    clock = FixedClock()
    maker = DecisionMaker(
        [Policy("p", "policy", Verb.BAN, mode=Mode.ENFORCE, max_targets_per_hour=100)],
        Protections(clock=clock, host=tuple, own_container=""),
        clock=clock,
        mode=Mode.ENFORCE,
    )

    def picture(sequence: list[list[int]]) -> tuple[Any, ...]:
        with tempfile.TemporaryDirectory() as directory, Store(Path(directory) / "db") as store:
            for unit in sequence:
                items = [detection(number, entity=Entity("source.ip", f"203.0.113.{number // 2}")) for number in unit]
                store.commit(CommitUnit(items, {"source": "end"}), maker.decide)
            decisions = [replace(each, alert_ids=()) for each in store.decisions()]
            return store.alerts(), sorted(decisions, key=lambda each: each.id), store.checkpoints()

    assert picture(units) == picture(units[:cut] + units)


@given(
    records=st.lists(
        st.lists(st.tuples(st.text(max_size=20), st.booleans(), st.text(max_size=20)), max_size=4), max_size=5
    )
)
@settings(deadline=None, max_examples=40)
def test_the_ledger_chain_verifies_for_any_content(records: list[list[tuple[str, bool, str]]]) -> None:
    with tempfile.TemporaryDirectory() as directory, Store(Path(directory) / "db") as store:
        for group in records:
            store.settle(
                [
                    ActionRecord("ip_ban", target, success=success, timestamp=1, error=error)
                    for target, success, error in group
                ],
                [Transition("missing", (DecisionState.PENDING,), DecisionState.FAILED)],
            )
        verdict = store.verify_ledger()
        assert verdict.is_whole
        assert verdict.rows == sum(len(group) for group in records)
