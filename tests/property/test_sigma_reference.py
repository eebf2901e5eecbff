"""Random rules over random events: loader and engine together give the reference's answers."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironpost.detections import RuleSet
from support.sigma_reference import matches

FIELDS = ["f", "g", "h.i", "missing"]
TEXT = st.text(alphabet="aAbB-/ äÄ*?\\._0", max_size=6)
NUMBERS = st.integers(-3, 12)
SCALARS = st.one_of(TEXT, NUMBERS, st.booleans())
REGEXES = st.sampled_from(["a+b", "^b", "a.b$", "(a|b){2}", "[ab]+ ?-", "\\.", "^$", "b*a"])
NETWORKS = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"])
ADDRESSES = st.sampled_from(["10.1.2.3", "10.200.0.1", "11.0.0.1", "2001:db8::5", "a10.1.2.3", ""])

VALUES = st.recursive(
    st.one_of(SCALARS, ADDRESSES, st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["i", "j"]), inner, max_size=2)
    ),
    max_leaves=4,
)
EVENTS = st.dictionaries(st.sampled_from(["f", "g", "h", "h.i"]), VALUES, max_size=4)


def with_words(*choices: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(["|".join(["", *choice]) for choice in choices])


@st.composite
def items(draw: st.DrawFn) -> tuple[str, Any]:
    """A key and its value or values."""
    field = draw(st.sampled_from([*FIELDS, ""]))
    kinds = ["text", "text", "text", "re", "cidr"]
    kinds += ["number", "exists", "null", "fieldref"] if field else []
    kind = draw(st.sampled_from(kinds))
    if kind == "text":
        names = draw(st.sampled_from([[], [], ["windash"], ["base64"]]))
        names = names + draw(st.sampled_from([[], ["contains"], ["startswith"], ["endswith"]]))
        names = names + draw(st.sampled_from([[], [], ["cased"]])) + draw(st.sampled_from([[], ["all"], ["neq"]]))
        values = SCALARS
        if "base64" in names:
            values = st.text(alphabet="abäB0", min_size=1, max_size=5)
        return "|".join([field, *names]), draw(st.one_of(values, st.lists(values, min_size=1, max_size=3)))
    if kind == "re":
        return field + draw(with_words(["re"], ["re", "i"], ["re", "s", "m"])), draw(REGEXES)
    if kind == "cidr":
        return f"{field}|cidr", draw(NETWORKS)
    if kind == "number":
        return field + draw(with_words(["lt"], ["lte"], ["gt"], ["gte"])), draw(NUMBERS)
    if kind == "exists":
        return f"{field}|exists", draw(st.booleans())
    if kind == "fieldref":
        names = draw(
            with_words(["fieldref"], ["fieldref", "contains"], ["fieldref", "startswith"], ["fieldref", "neq"])
        )
        return field + names, draw(st.sampled_from(FIELDS))
    return field, None


MAPS = st.lists(items(), min_size=1, max_size=3).map(dict)
SELECTIONS = st.one_of(MAPS, st.lists(MAPS, min_size=1, max_size=2), st.lists(TEXT, min_size=1, max_size=2))
CONDITIONS = st.recursive(
    st.sampled_from(["one", "two", "_three", "1 of them", "all of them", "1 of t*", "any of one*", "all of _*"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or", "AND"]), inner).map(" ".join),
        inner.map(lambda text: f"not ({text})"),
        inner.map(lambda text: f"({text})"),
    ),
    max_leaves=5,
)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    names = ["one", "two", "_three"]
    detection: dict[str, Any] = {name: draw(SELECTIONS) for name in names}
    detection["condition"] = draw(CONDITIONS)
    return {"title": "t", "logsource": {"product": "test"}, "detection": detection}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(rules(), min_size=1, max_size=6), st.lists(EVENTS, min_size=1, max_size=8))
def test_loader_and_engine_agree_with_the_reference(made: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
    # JSON is YAML: the documents need no writer of their own.
    text = "\n---\n".join(json.dumps({"id": f"r{index}", **rule}) for index, rule in enumerate(made))
    loaded = RuleSet.from_text(text)
    assert loaded.refused == ()
    found = {(detection.event_index, detection.rule_id) for detection in loaded.detect(events)}
    expected = {
        (row, f"r{index}")
        for row, event in enumerate(events)
        for index, rule in enumerate(made)
        if matches(rule, event)
    }
    assert found == expected
