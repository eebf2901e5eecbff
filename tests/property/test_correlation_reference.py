"""Random correlations over random event streams, late and out of order: the engine reports what the reference does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironpost.detections import RuleSet
from support.correlation_reference import Seen, chained, crossings

SECOND = 1_000_000_000
RULES = ("a", "b", "c")
START = datetime(2026, 1, 1, tzinfo=UTC)
TYPES = (
    "event_count",
    "value_count",
    "value_sum",
    "value_avg",
    "value_median",
    "value_percentile",
    "value_share",
    "temporal",
    "temporal_ordered",
)
LIMITS = {"value_share": st.sampled_from([5, 20, 25, 33, 50]), "value_sum": st.integers(-5, 40)}
EXPRESSIONS = st.recursive(
    st.sampled_from(RULES).map(lambda rule: {"rule": rule}),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: {"and": parts}),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: {"or": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=5,
)


@st.composite
def conditions(draw: st.DrawFn, limits: st.SearchStrategy[float]) -> dict[str, float]:
    if draw(st.booleans()):
        return {draw(st.sampled_from(["gt", "gte"])): draw(limits)}
    names = draw(
        st.lists(st.sampled_from(["gt", "gte", "lt", "lte", "eq", "neq"]), min_size=1, max_size=2, unique=True)
    )
    return {name: draw(limits) for name in names}


@st.composite
def plans(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    plan: dict[str, Any] = {"type": kind, "timespan_ns": draw(st.sampled_from([3, 10, 30])) * SECOND, "condition": {}}
    plan["rules"] = draw(st.lists(st.sampled_from(RULES), min_size=1, max_size=3, unique=kind != "temporal_ordered"))
    if draw(st.booleans()):
        plan["lateness_ns"] = draw(st.sampled_from([5, 40, 100])) * SECOND
    temporal = kind.startswith("temporal")
    if temporal and draw(st.booleans()):
        plan["expression"] = draw(EXPRESSIONS)
        plan["rules"] = [rule for rule in RULES if f"'{rule}'" in str(plan["expression"])]
    elif not temporal or draw(st.booleans()):
        halves = st.integers(-4, 20).map(lambda number: number / 2)
        numeric = kind in {"value_avg", "value_median", "value_percentile"}
        plan["condition"] = draw(conditions(LIMITS.get(kind, halves if numeric else st.integers(1, 6))))
    if kind == "value_percentile":
        plan["percentile"] = draw(st.sampled_from([0, 10, 50, 90, 99.9, 100]))
    return plan


EVENTS = st.lists(
    st.builds(
        Seen,
        time=st.integers(0, 60),
        rules=st.frozensets(st.sampled_from(RULES), min_size=1, max_size=2),
        group=st.sampled_from(["x", "x", "x", "y", None]),
        value=st.one_of(st.integers(-3, 9), st.sampled_from([0.5, 2.25, "word", None])),
        weight=st.just(1),  # only extractors tell another
    ),
    max_size=40,
)


def ordered(events: list[Seen], lateness: int) -> list[Seen]:
    """In order of time but for delays of up to ``lateness`` seconds, the same in every process."""
    delayed = sorted(
        (event.time + (event.time * 7919 + index * 104_729) % (lateness + 1), index)
        for index, event in enumerate(events)
    )
    return [events[index] for _, index in delayed]


def words(expression: dict[str, Any]) -> str:
    if "rule" in expression:
        return str(expression["rule"])
    if "not" in expression:
        return f"not ({words(expression['not'])})"
    name = next(iter(expression))
    return f" {name} ".join(f"({words(part)})" for part in expression[name])


def sigma(plan: dict[str, Any]) -> str:
    documents = [
        f"title: {rule}\nname: {rule}\nlogsource: {{category: test}}\ndetection: {{s: {{kind: {rule}}}, condition: s}}"
        for rule in RULES
    ]
    kind = plan["type"]
    condition: Any = dict(plan["condition"])
    if kind.startswith("value_"):
        condition["field"] = "value"
    if "percentile" in plan:
        condition["percentile"] = plan["percentile"]
    if "expression" in plan:
        condition = words(plan["expression"])
    section = {
        "type": kind.replace("share", "percentile"),
        "rules": plan["rules"],
        "group-by": "group",
        "timespan": f"{plan['timespan_ns'] // SECOND}s",
        **({"condition": condition} if condition else {}),
    }
    own = {"ironpost": {"lateness": f"{plan['lateness_ns'] // SECOND}s"}} if "lateness_ns" in plan else {}
    documents.append(json.dumps({"title": "correlation", "id": "counted", "correlation": section, **own}))
    return "\n---\n".join(documents)


def rows(events: list[Seen]) -> list[dict[str, Any]]:
    made = []
    for event in events:
        row: dict[str, Any] = {"@timestamp": (START + timedelta(seconds=event.time)).isoformat()}
        row |= {"kind": sorted(event.rules), "value": event.value, "group": event.group}
        made.append(row)
    return made


@pytest.mark.parametrize("kind", TYPES)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_the_engine_reports_what_the_reference_does(kind: str, data: st.DataObject) -> None:
    plan = data.draw(plans(kind))
    # What is later than the timespan is judged apart; tests/unit/detections/test_correlation_language.py has its cases.
    late = data.draw(st.sampled_from([0, 0, 3, 20, 60]))
    events = ordered(data.draw(EVENTS), min(late, plan["timespan_ns"] // SECOND))
    if kind.startswith("temporal"):
        # A record that several rules match is judged after each of them (docs/reference/rules.md).
        events = [replace(event, rules=frozenset([min(event.rules)])) for event in events]
    text = sigma(plan)
    rules = RuleSet.from_text(text)
    if rules.refused:
        (refused,) = rules.refused
        assert any(reason in refused.reason for reason in ("no number satisfies", "what must not happen")), refused
        return
    found = [one.event_index for one in rules.detect(rows(events)) if one.rule_id == "counted"]
    scaled = [Seen(event.time * SECOND, event.rules, event.group, event.value, event.weight) for event in events]
    assert found == crossings(plan, scaled), text


INNER = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["event_count", "temporal", "temporal_ordered"]),
        "rules": st.sampled_from([["a"], ["a", "b"], ["b", "a"]]),
        "timespan_ns": st.sampled_from([3 * SECOND, 10 * SECOND, 30 * SECOND]),
    }
)


@settings(deadline=None)
@given(data=st.data())
def test_a_correlation_on_a_correlation_counts_every_event_with_which_that_one_is_true(data: st.DataObject) -> None:
    inner: dict[str, Any] = dict(data.draw(INNER))
    inner["condition"] = {"gte": data.draw(st.integers(1, 4))} if inner["type"] == "event_count" else {}
    outer: dict[str, Any] = {"type": data.draw(st.sampled_from(["event_count", "temporal", "temporal_ordered"]))}
    outer["rules"] = data.draw(st.sampled_from([["inner", "c"], ["c", "inner"], ["inner"]]))
    outer["timespan_ns"] = data.draw(st.sampled_from([3, 10, 30])) * SECOND
    outer["condition"] = {"gte": data.draw(st.integers(1, 6))} if outer["type"] == "event_count" else {}
    kinds = st.sampled_from(RULES).map(lambda rule: frozenset({rule}))
    made = st.builds(Seen, time=st.integers(0, 60), rules=kinds, group=st.sampled_from(["x", "x", "x", "y"]))
    events = ordered(data.draw(st.lists(made, max_size=40)), data.draw(st.sampled_from([0, 0, 3])))
    documents = [
        f"title: {rule}\nname: {rule}\nlogsource: {{category: test}}\ndetection: {{s: {{kind: {rule}}}, condition: s}}"
        for rule in RULES
    ]
    for name, plan in (("inner", inner), ("outer", outer)):
        section = {key: plan[key] for key in ("type", "rules", "condition") if plan[key]}
        section |= {"group-by": "group", "timespan": f"{plan['timespan_ns'] // SECOND}s"}
        own = {"ironpost": {"emit": True}}
        documents.append(json.dumps({"title": name, "id": name, "name": name, "correlation": section, **own}))
    text = "\n---\n".join(documents)
    rules = RuleSet.from_text(text)
    assert not rules.refused, rules.refused
    found = list(rules.detect(rows(events)))
    scaled = [Seen(event.time * SECOND, event.rules, event.group, event.value, event.weight) for event in events]
    wanted = chained(inner, outer, scaled)
    assert [one.event_index for one in found if one.rule_id == "inner"] == wanted[0], text
    assert [one.event_index for one in found if one.rule_id == "outer"] == wanted[1], text


@given(data=st.data())
def test_each_value_that_the_rules_of_one_event_read_counts(data: st.DataObject) -> None:
    plan: dict[str, Any] = {"type": "value_count", "rules": list(RULES), "timespan_ns": 10 * SECOND}
    plan["condition"] = {"gte": data.draw(st.integers(1, 6))}
    reads = st.fixed_dictionaries({rule: st.integers(0, 5) for rule in RULES}).map(lambda read: tuple(read.items()))
    kinds = st.frozensets(st.sampled_from(RULES), min_size=1)
    made = st.builds(Seen, time=st.integers(0, 60), rules=kinds, group=st.sampled_from(["x", "y"]), read=reads)
    events = ordered(data.draw(st.lists(made, max_size=30)), data.draw(st.sampled_from([0, 3, 10])))
    documents = sigma({**plan, "condition": {}}).split("\n---\n")[:-1]
    section: dict[str, Any] = {"type": "value_count", "rules": plan["rules"], "group-by": "group", "timespan": "10s"}
    section |= {
        "condition": plan["condition"] | {"field": "w"},
        "aliases": {"w": {rule: f"of_{rule}" for rule in RULES}},
    }
    documents.append(json.dumps({"title": "correlation", "id": "counted", "correlation": section}))
    rules = RuleSet.from_text("\n---\n".join(documents))
    assert not rules.refused, rules.refused
    written = [
        row | {f"of_{rule}": value for rule, value in event.read}
        for row, event in zip(rows(events), events, strict=True)
    ]
    found = [one.event_index for one in rules.detect(written) if one.rule_id == "counted"]
    scaled = [Seen(event.time * SECOND, event.rules, event.group, read=event.read) for event in events]
    assert found == crossings(plan, scaled)


@settings(max_examples=15, deadline=None)  # the reference takes its time
@given(
    steps=st.lists(st.sampled_from(RULES), min_size=2, max_size=4),
    flood=st.sampled_from(RULES),
    events=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(RULES)), min_size=1, max_size=8),
    late=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(RULES)), min_size=1, max_size=3),
)
def test_steps_before_and_after_a_flood_are_found_whenever_they_come(
    steps: list[str], flood: str, events: list[tuple[int, str]], late: list[tuple[int, str]]
) -> None:
    plan = {"type": "temporal_ordered", "rules": steps, "timespan_ns": 3600 * SECOND, "condition": {}}
    flooded = [(20, flood)] * 270
    made = [
        Seen(time, frozenset({rule}), "x") for time, rule in sorted([*events, *flooded], key=lambda one: one[0]) + late
    ]
    rules = RuleSet.from_text(sigma(plan))
    found = [one.event_index for one in rules.detect(rows(made)) if one.rule_id == "counted"]
    scaled = [Seen(event.time * SECOND, event.rules, event.group) for event in made]
    assert found == crossings(plan, scaled)
