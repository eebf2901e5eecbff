"""Random correlations over random event streams, late and out of order: the engine reports what the reference does."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironpost.detections import RuleSet
from support.correlation_reference import Seen, crossings

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
        weight=st.sampled_from([1, 1, 1, 2]),
    ),
    max_size=40,
)


def ordered(events: list[Seen], lateness: int) -> list[Seen]:
    """In order of time but for delays of up to ``lateness`` seconds."""
    delayed = sorted((event.time + (hash(event) % (lateness + 1)), index) for index, event in enumerate(events))
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
        row |= {"kind": sorted(event.rules), "value": event.value, "group": event.group, "event.repeat": event.weight}
        made.append(row)
    return made


@pytest.mark.parametrize("kind", TYPES)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_the_engine_reports_what_the_reference_does(kind: str, data: st.DataObject) -> None:
    plan = data.draw(plans(kind))
    events = ordered(data.draw(EVENTS), data.draw(st.sampled_from([0, 0, 3, 20, 60])))
    text = sigma(plan)
    rules = RuleSet.from_text(text)
    if rules.refused:
        (refused,) = rules.refused
        assert any(reason in refused.reason for reason in ("no number satisfies", "what must not happen")), refused
        return
    found = [one.event_index for one in rules.detect(rows(events)) if one.rule_id == "counted"]
    scaled = [Seen(event.time * SECOND, event.rules, event.group, event.value, event.weight) for event in events]
    assert found == crossings(plan, scaled), text
