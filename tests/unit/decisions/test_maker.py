from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ironpost.decisions import DecisionMaker, Policy, Protections, TargetFilter
from ironpost.model import (
    ContainerIdentity,
    Decision,
    DecisionState,
    Detection,
    Entity,
    Mode,
    Severity,
    Transition,
    Verb,
)
from ironpost.storage import CommitUnit, Store
from ironpost.system import FixedClock
from support.response import MINUTE_NS, container, detection


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "ironpost.db") as opened:
        yield opened


def policy(**facts: Any) -> Policy:
    defaults: dict[str, Any] = {
        "id": "p",
        "name": "policy",
        "verb": Verb.BAN,
        "mode": Mode.ENFORCE,
        "max_targets_per_hour": 100,
        "target_filter": TargetFilter(everything=True),
    }
    return Policy(**(defaults | facts))


def maker(clock: FixedClock, *policies: Policy, mode: Mode = Mode.ENFORCE, **facts: Any) -> DecisionMaker:
    protections = Protections(clock=clock, configured=["198.51.100.0/24"], host=tuple, own_container="f" * 64)
    return DecisionMaker(policies, protections, clock=clock, mode=mode, **facts)


def decide(store: Store, by: DecisionMaker, *found: Detection) -> list[Decision]:
    return list(store.commit(CommitUnit(found), by.decide).decisions)


def test_a_fitting_alert_becomes_a_pending_decision_with_its_reasons(store: Store, clock: FixedClock) -> None:
    [made] = decide(store, maker(clock, policy(duration_ns=MINUTE_NS)), detection(1))
    assert (made.verb, made.target, made.scope, made.state) == (Verb.BAN, "203.0.113.7", "ip", DecisionState.PENDING)
    assert made.policy_id == "p"
    assert made.alert_ids == (store.alerts()[0].id,)
    assert made.trace_id == detection(1).trace_id
    assert (made.created_at, made.expires_at) == (clock.wall, clock.wall + MINUTE_NS)


@pytest.mark.parametrize(
    "facts",
    [
        {"rules": ("port_scan*",)},
        {"tags": ("attack.t1190",)},
        {"severity_threshold": Severity.CRITICAL},
        {"entity": ("user.name",)},
        {"count": 2},
        {"trust": ("container",)},
        {"enabled": False},
    ],
)
def test_a_policy_leaves_other_alerts_alone(store: Store, clock: FixedClock, facts: dict[str, Any]) -> None:
    assert decide(store, maker(clock, policy(**facts)), detection(1)) == []


@pytest.mark.parametrize(
    "facts",
    [
        {"rules": ("ssh_*",)},
        {"tags": ("attack.*",)},
        {"severity_threshold": Severity.HIGH},
        {"entity": ("source.ip",)},
        {"count": 1},
    ],
)
def test_a_policy_takes_up_alerts_that_fit(store: Store, clock: FixedClock, facts: dict[str, Any]) -> None:
    assert len(decide(store, maker(clock, policy(**facts)), detection(1))) == 1


@pytest.mark.parametrize("trust", ["spoofable", "unauthenticated", ""])
def test_records_that_anybody_could_write_ban_nobody_by_default(store: Store, clock: FixedClock, trust: str) -> None:
    assert decide(store, maker(clock, policy()), detection(1, trust=trust)) == []


def test_a_policy_that_names_the_trust_level_acts_on_it(store: Store, clock: FixedClock) -> None:
    by = maker(clock, policy(trust=("spoofable",)))
    assert decide(store, by, detection(1, trust="spoofable"))
    assert decide(store, by, detection(2, trust="host")) == []


@pytest.mark.parametrize(
    ("of_policy", "general", "state", "held_by"),
    [
        (Mode.ENFORCE, Mode.OBSERVE, DecisionState.OBSERVED, "the configuration says observe"),
        (Mode.OBSERVE, Mode.ENFORCE, DecisionState.OBSERVED, "the policy says observe"),
        (Mode.ENFORCE, Mode.ENFORCE, DecisionState.PENDING, ""),
        (Mode.ASK, Mode.ENFORCE, DecisionState.PENDING, ""),
    ],
)
def test_the_weaker_of_both_modes_counts(
    store: Store, clock: FixedClock, of_policy: Mode, general: Mode, state: DecisionState, held_by: str
) -> None:
    [made] = decide(store, maker(clock, policy(mode=of_policy), mode=general), detection(1))
    assert made.state is state
    assert held_by in made.reason
    assert made.mode is min(of_policy, general, key=lambda mode: mode.rank)
    if state is DecisionState.OBSERVED:
        assert made.reason.startswith("would have banned it")


def test_containers_have_a_ceiling_of_their_own(store: Store, clock: FixedClock) -> None:
    web = container("web")
    by = maker(clock, policy(verb=Verb.PAUSE), policy(id="q"), container_mode=Mode.OBSERVE)
    made = decide(store, by, detection(1, container=web, container_id=web.id))
    assert {each.verb: each.state for each in made} == {
        Verb.PAUSE: DecisionState.OBSERVED,
        Verb.BAN: DecisionState.PENDING,
    }


def test_a_protected_address_is_refused_with_the_reason(store: Store, clock: FixedClock) -> None:
    [made] = decide(store, maker(clock, policy()), detection(1, entity=Entity("source.ip", "::ffff:198.51.100.9")))
    assert (made.state, made.target) == (DecisionState.REFUSED, "198.51.100.9")
    assert "allow list of the configuration" in made.reason


def test_repeated_alerts_extend_one_decision(store: Store, clock: FixedClock) -> None:
    for number, mode in ((10, Mode.ENFORCE), (20, Mode.OBSERVE)):
        by = maker(clock, policy(), mode=mode)
        entity = Entity("source.ip", f"203.0.113.{number}")
        [first] = decide(store, by, detection(number, entity=entity))
        clock.advance(60)
        [second] = decide(store, by, detection(number + 1, entity=entity))
        assert second.id == first.id
        assert (second.expires_at or 0) - (first.expires_at or 0) == MINUTE_NS
    assert len(store.decisions()) == 2


def test_an_expired_observation_is_followed_by_a_new_one(store: Store, clock: FixedClock) -> None:
    by = maker(clock, policy(mode=Mode.OBSERVE))
    [first] = decide(store, by, detection(1))
    clock.advance(601)
    [second] = decide(store, by, detection(2))
    assert second.id != first.id


def test_a_storm_of_targets_trips_the_cap_and_only_the_cap(store: Store, clock: FixedClock) -> None:
    by = maker(clock, policy(max_targets_per_hour=3))
    storm = [detection(number, entity=Entity("source.ip", f"203.0.113.{number}")) for number in range(1, 11)]
    made = decide(store, by, *storm)
    assert [each.state for each in made].count(DecisionState.PENDING) == 3
    refused = [each for each in made if each.state is DecisionState.REFUSED]
    assert len(refused) == 7
    assert "acted on 3 targets within an hour" in refused[0].reason
    # Those it acts on already may be extended, ended ones still count, and an hour later it acts again.
    [again] = decide(store, by, detection(20, entity=Entity("source.ip", "203.0.113.1")))
    assert again.state is DecisionState.PENDING
    store.settle([], [Transition(again.id, (DecisionState.PENDING,), DecisionState.UNDONE)])
    clock.advance(60)
    assert (
        decide(store, by, detection(21, entity=Entity("source.ip", "203.0.113.99")))[0].state is DecisionState.REFUSED
    )
    clock.advance(3600)
    assert (
        decide(store, by, detection(22, entity=Entity("source.ip", "203.0.113.98")))[0].state is DecisionState.PENDING
    )


def test_per_kind_of_target_the_first_policy_decides(store: Store, clock: FixedClock) -> None:
    web = container("web")
    by = maker(
        clock,
        policy(id="late", priority=5, verb=Verb.STOP),
        policy(id="first", priority=1, verb=Verb.PAUSE),
        policy(id="ban", priority=9),
        policy(id="never", priority=10),
    )
    made = decide(store, by, detection(1, container=web, container_id=web.id))
    assert [(each.policy_id, each.target) for each in made] == [("first", web.id), ("ban", "203.0.113.7")]


def test_only_the_container_of_the_alert_is_meant(store: Store, clock: FixedClock) -> None:
    by = maker(clock, policy(verb=Verb.PAUSE))
    assert decide(store, by, detection(1)) == []
    [made] = decide(store, by, detection(2, container_id="c" * 64))
    assert made.state is DecisionState.REFUSED
    assert "could not say which container" in made.reason


@pytest.mark.parametrize(
    ("target_filter", "fits"),
    [
        (TargetFilter(container_names=("web*",)), True),
        (TargetFilter(container_names=("db*",)), False),
        (TargetFilter(container_names=("db*", "web")), True),
        (TargetFilter(container_names=("web",), image_patterns=("nginx*",)), False),
        (TargetFilter(image_patterns=("shop/web",)), True),
        (TargetFilter(image_patterns=("shop/web:1.?",)), True),
        (TargetFilter(image_patterns=("web",)), False),
        (TargetFilter(labels=("tier=front",)), True),
        (TargetFilter(labels=("tier",)), True),
        (TargetFilter(labels=("tier=back",)), False),
    ],
)
def test_the_target_filter_narrows(store: Store, clock: FixedClock, target_filter: TargetFilter, fits: bool) -> None:
    web = container("web", image="shop/web:1.2", labels={"tier": "front"})
    by = maker(clock, policy(verb=Verb.PAUSE, target_filter=target_filter))
    assert bool(decide(store, by, detection(1, container=web, container_id=web.id))) is fits


def test_protected_and_own_containers_are_refused(store: Store, clock: FixedClock) -> None:
    by = maker(clock, policy(verb=Verb.KILL))
    protected = container("web", labels={"ironpost.protected": "false"})
    own = ContainerIdentity("f" * 64, name="ironpost")
    made = decide(
        store,
        by,
        detection(1, container=protected, container_id=protected.id),
        detection(2, container=own, container_id=own.id, entity=Entity("container.id", own.id)),
    )
    assert [each.state for each in made] == [DecisionState.REFUSED, DecisionState.REFUSED]
    assert "label ironpost.protected" in made[0].reason
    assert "Ironpost itself runs in" in made[1].reason


def test_an_address_that_only_stands_in_the_evidence_is_not_banned(store: Store, clock: FixedClock) -> None:
    by = maker(clock, policy())
    found = detection(1, entity=Entity("user.name", "root"), fields={"source.ip": "203.0.113.9"})
    assert decide(store, by, found) == []
    grouped = detection(2, entity=Entity("user.name", "root"), group=(("source.ip", "203.0.113.9"),))
    assert [each.target for each in decide(store, by, grouped)] == ["203.0.113.9"]
    garbage = detection(3, entity=Entity("source.ip", "1.2.3.4; reboot"))
    assert decide(store, by, garbage) == []
