"""What the Sigma correlation specification 2.1.0 says, case by case, and how errors are told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ironpost.detections import RuleSet
from ironpost.model import Detection

START = datetime(2026, 1, 1, tzinfo=UTC)


def base(*names: str) -> str:
    return "\n---\n".join(
        f"title: {name}\nname: {name}\nid: id-{name}\nlogsource: {{category: test}}\n"
        f"detection: {{s: {{act: {name}}}, condition: s}}"
        for name in names
    )


def correlation(identifier: str = "counted", *, meta: dict[str, Any] | None = None, **section: Any) -> str:
    keys = {key.replace("_", "-") if key == "group_by" else key: value for key, value in section.items()}
    return "\n---\n" + json.dumps({"title": identifier, "id": identifier, **(meta or {}), "correlation": keys})


def events(*rows: tuple[float, str] | tuple[float, str, dict[str, Any]]) -> list[dict[str, Any]]:
    made = []
    for second, act, *more in rows:
        stamp = (START + timedelta(seconds=second)).isoformat()
        made.append({"@timestamp": stamp, "act": act, "u": "x", **(more[0] if more else {})})
    return made


def detections(text: str, rows: list[dict[str, Any]]) -> list[Detection]:
    rules = RuleSet.from_text(text, path="rules.yml")
    assert rules.refused == ()
    return list(rules.detect(rows))


def hits(text: str, rows: list[dict[str, Any]]) -> list[int]:
    return [found.event_index for found in detections(text, rows)]


def values(*numbers: Any) -> list[dict[str, Any]]:
    return events(*((second, "a", {"n": number}) for second, number in enumerate(numbers)))


def valued(kind: str, condition: dict[str, Any]) -> str:
    return base("a") + correlation(type=kind, rules=["a"], group_by=["u"], timespan="1m", condition=condition)


def temporal(*rules: str, kind: str = "temporal", span: str = "10s", **more: Any) -> str:
    return base("a", "b", "c") + correlation(type=kind, rules=list(rules), group_by=["u"], timespan=span, **more)


@pytest.mark.parametrize(
    ("kind", "condition", "numbers", "expected"),
    [
        ("value_sum", {"field": "n", "gt": 10}, [4, 6, 1], [2]),
        ("value_sum", {"field": "n", "gte": 0.3}, [0.1, 0.2], [1]),
        ("value_sum", {"field": "n", "gte": 6}, ["4", " 2 "], [1]),
        ("value_sum", {"field": "n", "gte": 6}, [4, "many", None, 2], [3]),
        ("value_sum", {"field": "n", "lt": 0}, [4, -5], [1]),
        ("value_sum", {"field": "n", "gte": 1e15}, [1e300], [0]),
        ("value_avg", {"field": "n", "gt": 500}, [500, 502], [1]),
        ("value_avg", {"field": "n", "lt": 2}, [3, 1, 1], [2]),
        ("value_median", {"field": "n", "gte": 5}, [1, 9, 2, 9], [1, 3]),
        ("value_median", {"field": "n", "eq": 1.5}, [1, 2], [1]),
        ("value_percentile", {"field": "n", "percentile": 50, "eq": 1.5}, [1, 2], [1]),
        ("value_percentile", {"field": "n", "percentile": 90, "gte": 9}, [1, 10, 10], [1]),
        ("value_percentile", {"field": "n", "percentile": 100, "gte": 7}, [1, 2, 7], [2]),
        ("value_percentile", {"field": "n", "lte": 10}, ["common"] * 9 + ["rare"], [9]),
        ("value_count", {"field": "n", "gte": 2}, ["a", "a", "b"], [2]),
        ("value_count", {"field": ["n", "u"], "gte": 2}, ["a", "a", "b"], [2]),
    ],
)
def test_values_are_measured(kind: str, condition: dict[str, Any], numbers: list[Any], expected: list[int]) -> None:
    assert hits(valued(kind, condition), values(*numbers)) == expected


def test_what_was_measured_is_told_with_the_number_of_events() -> None:
    (found,) = detections(valued("value_sum", {"field": "n", "gt": 10}), values(4, 6.5))
    assert (found.measure, found.count, found.ongoing) == (10.5, 2, False)


def test_an_event_that_two_rules_match_counts_once() -> None:
    text = base("a", "b") + correlation(
        type="event_count", rules=["a", "b"], group_by=["u"], timespan="1m", condition={"gte": 2}
    )
    both = {"act": ["a", "b"]}
    assert hits(text, events((0, "a", both))) == []
    assert hits(text, events((0, "a", both), (1, "b"))) == [1]


@pytest.mark.parametrize(
    ("condition", "rows", "expected"),
    [
        ("a and b", "a.b", [2]),
        ("a or b", "b", [0]),
        ("a and (b or c)", "ac", [1]),
        ("a and not b", "a", [0]),
        ("a and not b", "ba", []),
        ("a and b and not c", "cab", []),
        ("not (b or c) and a", "a", [0]),
        ("not not a", "a", [0]),
    ],
)
def test_temporal_takes_an_expression_over_rules(condition: str, rows: str, expected: list[int]) -> None:
    names = [name for name in "abc" if name in condition.replace("and", "").replace("not", "")]
    data = events(*((second, act) for second, act in enumerate(rows)))
    assert hits(temporal(*names, condition=condition), data) == expected
    document = json.loads(temporal(*names, condition=condition).split("---\n")[-1])
    del document["correlation"]["rules"]
    assert hits(base("a", "b", "c") + "\n---\n" + json.dumps(document), data) == expected, "rules may be left out"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [("abc", [2]), ("acb", []), ("bac", []), ("abbbc", [4]), ("ababac", [5]), ("cabc", [3]), ("aabbcc", [4])],
)
def test_temporal_ordered_holds_for_the_third_rule_too(rows: str, expected: list[int]) -> None:
    data = events(*((second, act) for second, act in enumerate(rows)))
    assert hits(temporal("a", "b", "c", kind="temporal_ordered"), data) == expected


def test_order_is_that_of_event_time_not_of_arrival() -> None:
    text = temporal("a", "b", "c", kind="temporal_ordered")
    assert hits(text, events((3, "c"), (1, "a"), (2, "b"))) == [2]
    assert hits(text, events((1, "b"), (2, "a"), (3, "c"))) == []


def test_a_step_named_twice_has_to_happen_twice() -> None:
    text = temporal("a", "b", "a", kind="temporal_ordered")
    assert hits(text, events((1, "a"), (2, "b"))) == []
    assert hits(text, events((1, "a"), (2, "b"), (3, "a"))) == [2]


def test_one_record_is_one_step() -> None:
    text = temporal("a", "b", kind="temporal_ordered")
    both = {"act": ["a", "b"]}
    assert hits(text, events((1, "a", both))) == []
    assert hits(text, events((1, "a", both), (2, "b"))) == [1]
    assert hits(temporal("a", "b"), events((1, "a", both))) == [0], "without order one record is enough"


def test_an_ordered_expression_asks_for_what_it_needs_in_order() -> None:
    text = temporal("a", "b", "c", kind="temporal_ordered", condition="a and (b or c)")
    assert hits(text, events((1, "a"), (2, "c"))) == [1]
    assert hits(text, events((1, "c"), (2, "a"))) == []
    silent = temporal("a", "b", "c", kind="temporal_ordered", condition="a and b and not c")
    assert hits(silent, events((1, "c"), (2, "a"), (3, "b"))) == []
    assert hits(silent, events((1, "a"), (2, "b"))) == [1]


def test_a_count_of_rules_may_be_asked_for() -> None:
    assert hits(temporal("a", "b", "c", condition={"gte": 2}), events((1, "a"), (2, "c"))) == [1]
    ordered = temporal("a", "b", "c", kind="temporal_ordered", condition={"gte": 2})
    assert hits(ordered, events((1, "b"), (2, "c"))) == [1]
    assert hits(ordered, events((1, "c"), (2, "b"))) == []


@pytest.mark.parametrize("kind", ["temporal", "temporal_ordered"])
def test_groups_are_kept_apart_and_the_window_is_no_longer_than_said(kind: str) -> None:
    text = temporal("a", "b", "c", kind=kind)
    other = {"u": "y"}
    assert hits(text, events((1, "a"), (2, "b"), (3, "c", other))) == []
    assert hits(text, events((1, "a"), (2, "b"), (11, "c"))) == [2], "both ends belong to the window"
    assert hits(text, events((1, "a"), (2, "b"), (11.001, "c"))) == []
    assert hits(text, events((1, "a"), (8, "b"), (15, "c"))) == [], "not from one event to the next"


@pytest.mark.parametrize(
    ("timespan", "seconds"),
    [("90m", 5400), ("24h", 86_400), ("2d", 172_800), ("1w", 604_800), ("1M", 2_629_746), ("1y", 31_556_952)],
)
def test_timespans(timespan: str, seconds: int) -> None:
    text = temporal("a", "b", span=timespan)
    assert hits(text, events((0, "a"), (seconds, "b"))) == [1]
    assert hits(text, events((0, "a"), (seconds + 1, "b"))) == []


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"gt": 2, "lte": 4}, [2]),
        ({"gte": 2, "lte": 3}, [1]),
        ({"eq": 3}, [2]),
        ({"neq": 1}, [1]),
        ({"lt": 2}, [0]),
    ],
)
def test_ranges(condition: dict[str, int], expected: list[int]) -> None:
    text = base("a") + correlation(type="event_count", rules=["a"], group_by=["u"], timespan="1m", condition=condition)
    assert hits(text, events(*((second, "a") for second in range(6)))) == expected


def test_group_by_may_be_left_out_and_null_is_no_group() -> None:
    section: dict[str, Any] = {"type": "event_count", "rules": "a", "timespan": "1m", "condition": {"gte": 2}}
    rows = events((0, "a", {"u": "x"}), (1, "a", {"u": "y"}))
    assert hits(base("a") + correlation(**section), rows) == [1]
    nulls = events((0, "a", {"u": None}), (1, "a", {"u": None}), (2, "a", {"u": ""}), (3, "a", {"u": ""}))
    assert hits(base("a") + correlation(**section, group_by="u"), nulls) == [3], "null is none, empty is a value"


def test_the_example_of_the_specification_for_aliases() -> None:
    text = """
title: internal error
name: internal_error
logsource: {category: webserver}
detection: {selection: {http.response.status_code: 500}, condition: selection}
---
title: new connection
name: new_network_connection
logsource: {category: network}
detection: {selection: {event.category: network, event.type: connection}, condition: selection}
---
title: error, then a connection back
id: back
correlation:
  type: temporal
  rules: [internal_error, new_network_connection]
  group-by: [internal_ip, remote_ip]
  timespan: 10s
  aliases:
    internal_ip: {internal_error: destination.ip, new_network_connection: source.ip}
    remote_ip: {internal_error: source.ip, new_network_connection: destination.ip}
"""
    inside, outside = "10.0.0.1", "203.0.113.5"
    error = {"http.response.status_code": 500, "destination.ip": inside, "source.ip": outside}
    there = {"event.category": "network", "event.type": "connection", "source.ip": inside, "destination.ip": outside}
    elsewhere = there | {"destination.ip": "203.0.113.6"}
    times = [{"@timestamp": (START + timedelta(seconds=second)).isoformat()} for second in range(3)]
    found = detections(text, [times[0] | error, times[1] | elsewhere, times[2] | there])
    assert [(one.event_index, dict(one.group)) for one in found] == [(2, {"internal_ip": inside, "remote_ip": outside})]


def failed_then_succeeded() -> str:
    many = correlation(
        "many",
        meta={"name": "many"},
        type="event_count",
        rules=["a"],
        group_by=["u"],
        timespan="10m",
        condition={"gte": 3},
    )
    then = correlation(
        "then", meta={"level": "high"}, type="temporal_ordered", rules=["many", "b"], group_by=["u"], timespan="10m"
    )
    return then.removeprefix("\n---\n") + many + "\n---\n" + base("a", "b")  # everything before what it refers to


def test_the_example_of_the_specification_for_chains() -> None:
    rows = events((0, "a"), (1, "a"), (2, "a"), (3, "b"))
    (found,) = detections(failed_then_succeeded(), rows)
    assert (found.rule_id, found.event_index, str(found.level)) == ("then", 3, "high")
    assert hits(failed_then_succeeded(), events((0, "b"), (1, "a"), (2, "a"), (3, "a"))) == []
    assert hits(failed_then_succeeded(), events((0, "a"), (1, "a"), (2, "b"), (3, "a"))) == []


def test_a_chain_groups_by_the_keys_of_what_it_builds_on() -> None:
    inner = correlation(
        "inner",
        type="event_count",
        rules=["a"],
        group_by=["who"],
        timespan="1m",
        condition={"gte": 2},
        aliases={"who": {"a": "u"}},
    )
    outer = correlation(
        "outer", type="event_count", rules=["inner"], group_by=["who"], timespan="1h", condition={"gte": 1}
    )
    (found,) = detections(base("a") + inner + outer, events((0, "a"), (1, "a")))
    assert (found.rule_id, dict(found.group)) == ("outer", {"who": "x"})


def test_chains_of_any_depth_and_across_files(tmp_path: Path) -> None:
    depth = 40
    for level in range(depth):
        rules = ["a"] if level == 0 else [f"c{level - 1}"]
        text = correlation(f"c{level}", type="event_count", rules=rules, timespan="1m", condition={"gte": 1})
        (tmp_path / f"{depth - level:03}.yml").write_text(text.removeprefix("\n---\n"))
    (tmp_path / "zzz.yml").write_text(base("a"))
    rules = RuleSet.load(tmp_path)
    assert rules.refused == ()
    assert [found.rule_id for found in rules.detect(events((0, "a")))] == [f"c{depth - 1}"]


def test_generate_lets_the_rules_speak() -> None:
    section: dict[str, Any] = {"type": "event_count", "rules": ["id-a"], "timespan": "1m", "condition": {"gte": 2}}
    rows = events((0, "a"), (1, "a"))
    assert [one.kind for one in detections(base("a") + correlation(**section), rows)] == ["correlation"]
    loud = detections(base("a") + correlation(**section, generate=True), rows)
    assert [one.kind for one in loud] == ["rule", "rule", "correlation"]


COUNT: dict[str, Any] = {"type": "event_count", "rules": ["a"], "timespan": "1m", "condition": {"gte": 2}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"generate": "yes"}, "generate is true or false"),
        ({"group_by": {"u": 1}}, "group-by is a field name"),
        ({"group_by": ["u", "u"]}, "group-by names 'u' twice"),
        ({"rules": []}, "rules is text or a list of texts"),
        ({"rules": ["a", "a"]}, "rules names 'a' twice"),
        ({"rules": ["a", "id-a"]}, "twice, by id and by name"),
        ({"timespan": "5 minutes"}, "timespan is a positive number"),
        ({"timespan": "5S"}, "timespan is a positive number"),
        ({"condition": {"gte": True}}, "gte takes a number"),
        ({"condition": {"gte": "NaN"}}, "gte takes a number"),
        ({"condition": {"gte": -1}}, "gte takes a number from 0"),
        ({"condition": {"gt": 5, "lt": 5}}, "no number satisfies"),
        ({"condition": "a and a"}, "for temporal and temporal_ordered"),
        ({"condition": {"gte": 2, "percentile": 5}}, "percentile belongs to value_percentile"),
        ({"type": "value_percentile", "condition": {"gte": 2, "field": "n", "percentile": 101}}, "from 0 to 100"),
        ({"type": "value_sum", "condition": {"gte": 2, "field": ["n", "m"]}}, "value_sum takes one field"),
        ({"type": "value_count", "condition": {"gte": 10_001, "field": "n"}}, "at most 10,000"),
        ({"type": "temporal", "condition": "a and"}, "ends too early"),
        ({"type": "temporal", "condition": "a and b"}, "no such rule among rules"),
        ({"type": "temporal", "condition": "not a"}, "what must not happen"),
        ({"type": "temporal", "condition": "1 of a"}, "only and, or, not and brackets"),
        ({"type": "temporal", "condition": "a", "rules": ["a", "b"]}, "rules names 'b', but the condition doesn't"),
        ({"aliases": ["a"]}, "aliases is a mapping"),
        ({"aliases": {"who": {"b": "u"}}}, "alias 'who' names 'b', which is none of its rules"),
        ({"aliases": {"who": {"a": 5}}}, "the field of rule 'a' is a name"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change: dict[str, Any], reason: str) -> None:
    rules = RuleSet.from_text(base("a", "b") + correlation(**(COUNT | change)), path="rules.yml")
    (refused,) = rules.refused
    assert reason in refused.reason
    assert (refused.path, refused.rule_id) == ("rules.yml", "counted")
    assert refused.line > 0
    assert len(rules.rules) == 2


def test_circles_are_refused_with_all_their_members_and_what_stands_behind_them() -> None:
    text = base("a")
    for name, rule in (("c1", "c2"), ("c2", "c3"), ("c3", "c1"), ("outside", "c1"), ("fine", "a")):
        text += correlation(name, **(COUNT | {"rules": [rule]}))
    rules = RuleSet.from_text(text, path="r.yml")
    assert [rule.id for rule in rules.rules] == ["id-a", "fine"]
    reasons = {refused.rule_id: refused.reason for refused in rules.refused}
    for name in ("c1", "c2", "c3"):
        assert "in a circle: c1 (r.yml:7) → c2 (r.yml:9) → c3 (r.yml:11) → c1 (r.yml:7)" in reasons[name]
    assert "builds on 'c1', which is refused: r.yml:" in reasons["outside"]


def test_a_correlation_of_a_refused_rule_says_so() -> None:
    broken = base("a").replace("condition: s", "condition: nothing")
    text = broken + correlation(**COUNT) + correlation("second", **(COUNT | {"rules": ["counted"]}))
    rules = RuleSet.from_text(text, path="r.yml")
    reasons = {refused.rule_id: refused.reason for refused in rules.refused}
    assert "builds on 'a', which is refused: r.yml:5" in reasons["counted"]
    assert "builds on 'counted', which is refused: r.yml:" in reasons["second"]


def test_a_name_of_two_rules_is_no_reference() -> None:
    text = base("a") + "\n---\n" + base("a").replace("id-a", "id-b") + correlation(**COUNT)
    (refused,) = RuleSet.from_text(text, path="r.yml").refused
    assert "'a' is the name of more than one rule: r.yml:1 and r.yml:7" in refused.reason


def test_an_unknown_reference_gets_a_hint() -> None:
    (refused,) = RuleSet.from_text(base("login_failed") + correlation(**(COUNT | {"rules": ["login_faild"]}))).refused
    assert refused.hint == "did you mean 'login_failed'?"


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"networks": {"v": {"ipv6": 64}}}, "networks names 'v', which is not in group-by"),
        ({"networks": {"u": {"ipv6": 129}}}, "ipv6 is a prefix length from 1 to 128"),
        ({"networks": {"u": {"ipv5": 1}}}, "unknown key 'ipv5'"),
        ({"networks": {"u": 64}}, "is a mapping such as"),
        ({"lateness": 5}, "lateness is a positive number"),
        ({"netwrks": {}}, "unknown key 'netwrks'"),
    ],
)
def test_our_own_keys_are_as_strict(own: dict[str, Any], reason: str) -> None:
    text = base("a") + correlation(meta={"ironpost": own}, **(COUNT | {"group_by": ["u"]}))
    (refused,) = RuleSet.from_text(text, path="r.yml").refused
    assert reason in refused.reason


def test_networks_are_groups_and_what_the_alert_is_about() -> None:
    own = {"ironpost": {"networks": {"source.ip": {"ipv6": 64}}}}
    text = base("a") + correlation(meta=own, **(COUNT | {"group_by": ["source.ip"]}))
    rows = events((0, "a", {"source.ip": "2001:db8::1"}), (1, "a", {"source.ip": "2001:db8::ffff"}))
    (found,) = detections(text, rows)
    assert (found.entity.field, found.entity.value) == ("source.ip", "2001:db8::/64")


def test_lateness_lets_old_windows_be_completed() -> None:
    rows = events((0, "a"), (100, "a"), (10, "a"))
    text = base("a") + correlation(**(COUNT | {"timespan": "20s"}))
    late = base("a") + correlation(meta={"ironpost": {"lateness": "2m"}}, **(COUNT | {"timespan": "20s"}))
    assert hits(text, rows) == []
    assert hits(late, rows) == [2]
