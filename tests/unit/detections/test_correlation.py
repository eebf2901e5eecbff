"""Counting over time: correlations and the short form's threshold."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ironpost.detections import RuleSet
from ironpost.model import Detection

BASE = """
title: base
id: 11111111-1111-1111-1111-111111111111
name: base
logsource: {category: firewall}
detection: {s: {act: hit}, condition: s}
"""


def correlation(body: str, *, head: str = "id: c\nlevel: high\n") -> str:
    return f"---\ntitle: counted\n{head}correlation:\n" + "\n".join("  " + line for line in body.splitlines()) + "\n"


def events(*seconds: float, **fields: Any) -> list[dict[str, Any]]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [{"@timestamp": (start + timedelta(seconds=s)).isoformat(), "act": "hit", **fields} for s in seconds]


def run(text: str, data: list[dict[str, Any]]) -> list[Detection]:
    rules = RuleSet.from_text(text)
    assert rules.refused == ()
    return list(rules.detect(data))


COUNT = correlation("type: event_count\nrules: base\ngroup-by: [src_ip]\ntimespan: 1m\ncondition: {gte: 3}")


def test_rules_are_found_by_name_and_fields_by_map() -> None:
    (found,) = run(BASE + COUNT, events(1, 2, 3, **{"source.ip": "192.0.2.1"}))
    assert (found.rule_id, found.rule_title, found.kind, str(found.level)) == ("c", "counted", "correlation", "high")
    assert (found.group, found.event_index, found.count) == ((("src_ip", "192.0.2.1"),), 2, 3)
    assert (found.entity.field, found.entity.value) == ("source.ip", "192.0.2.1")
    (found,) = run(BASE + COUNT, events(1, 2, 3, src_ip="192.0.2.1"))
    assert found.group == (("src_ip", "192.0.2.1"),)


def test_matches_of_the_base_rule_are_reported_only_when_asked() -> None:
    data = events(1, 2, 3, src_ip="192.0.2.1")
    assert [found.rule_id for found in run(BASE + COUNT, data)] == ["c"]
    generating = COUNT.replace("condition:", "generate: true\n  condition:")
    assert [found.kind for found in run(BASE + generating, data)] == ["rule", "rule", "rule", "correlation"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("{gte: 3}", [2]), ("{gt: 3}", [3]), ("{eq: 2}", [1]), ("{gte: 2, lt: 4}", [1]), ("{lte: 1}", [0])],
)
def test_each_comparison_fires_when_it_becomes_true(condition: str, expected: list[int]) -> None:
    found = run(BASE + COUNT.replace("{gte: 3}", condition), events(1, 2, 3, 4, src_ip="a"))
    assert [one.event_index for one in found] == expected


def test_the_window_slides_and_its_edge_belongs_to_it() -> None:
    assert len(run(BASE + COUNT, events(0, 30, 60, src_ip="a"))) == 1
    assert len(run(BASE + COUNT, events(0, 30, 60.001, src_ip="a"))) == 0
    assert len(run(BASE + COUNT, events(0, 50, 70, 100, src_ip="a"))) == 1


def test_groups_and_events_without_the_key_are_apart() -> None:
    data = events(1, 2, src_ip="a") + events(3, 4, src_ip="b") + events(5, 6)
    assert run(BASE + COUNT, data) == []


def test_no_event_says_of_itself_how_often_it_counts() -> None:
    assert run(BASE + COUNT, events(1, src_ip="a", **{"event.repeat": 3})) == []
    assert run(BASE + COUNT, events(1, src_ip="a", event={"repeat": 3})) == []


def test_value_count_counts_each_value_once() -> None:
    text = BASE + correlation(
        "type: value_count\nrules: base\ngroup-by: src_ip\ntimespan: 1m\ncondition: {field: dst_port, gte: 3}"
    )
    data = [event for port in (1, 2, 1, 2, 1, 3) for event in events(1, src_ip="a", dst_port=port)]
    assert [found.event_index for found in run(text, data)] == [5]


def test_value_count_takes_several_fields_as_one_value() -> None:
    text = BASE + correlation(
        "type: value_count\nrules: base\ngroup-by: src_ip\ntimespan: 1m\ncondition: {field: [x, y], gte: 3}"
    )
    data = [event for x, y in ((1, 1), (1, 2), (1, 1), (2, 1)) for event in events(1, src_ip="a", x=x, y=y)]
    assert [found.event_index for found in run(text, data)] == [3]


SECOND = BASE.replace("1111", "2222").replace("name: base", "name: other").replace("act: hit", "act: other")


def test_temporal_needs_every_rule_in_any_order() -> None:
    text = BASE + "---\n" + SECOND + correlation("type: temporal\nrules: [base, other]\ngroup-by: u\ntimespan: 10s")
    one, two = events(1, u="a"), events(5, u="a", act="other")
    late = events(30, u="a", act="other")
    assert len(run(text, one + two)) == 1
    assert len(run(text, events(1, u="a", act="other") + events(5, u="a"))) == 1
    assert run(text, one + late) == []


def test_temporal_ordered_needs_the_order() -> None:
    text = (
        BASE
        + "---\n"
        + SECOND
        + correlation("type: temporal_ordered\nrules: [base, other]\ngroup-by: u\ntimespan: 10s")
    )
    assert len(run(text, events(1, u="a") + events(5, u="a", act="other"))) == 1
    assert run(text, events(1, u="a", act="other") + events(5, u="a")) == []


def test_aliases_join_rules_that_name_the_key_differently() -> None:
    body = "type: temporal\nrules: [base, other]\ngroup-by: [who]\ntimespan: 10s\naliases:\n  who: {base: u, other: v}"
    text = BASE + "---\n" + SECOND + correlation(body)
    (found,) = run(text, events(1, u="a") + events(2, v="a", act="other"))
    assert found.group == (("who", "a"),)


def test_a_correlation_may_build_on_another_one() -> None:
    twice = correlation(
        "type: event_count\nrules: c\ngroup-by: src_ip\ntimespan: 1h\ncondition: {gte: 2}", head="id: d\n"
    )
    data = events(1, 2, 3, 200, 201, 202, src_ip="a")
    assert [found.rule_id for found in run(BASE + twice + COUNT, data)] == ["d"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("rules: base", "rules: nope", "there is no rule with id or name 'nope'"),
        ("rules: base", "rules: c", "in a circle: c (c.yml:8) → c (c.yml:8)"),
        ("timespan: 1m", "timespan: 11y", "timespan is longer than ten years"),
        ("timespan: 1m", "timespan: 60", "timespan is a positive number"),
        ("timespan: 1m", "timespan: 0s", "timespan is a positive number"),
        ("{gte: 3}", "{ge: 3}", "unknown comparison 'ge'"),
        ("{gte: 3}", "{gte: many}", "gte takes a number"),
        ("{gte: 3}", "{}", "compares with nothing"),
        ("{gte: 3}", "{gte: 3, field: x}", "the value types need a field, other types take none"),
        ("event_count", "value_count", "the value types need a field"),
        ("event_count", "value_sum", "the value types need a field"),
        ("event_count", "event_cuont", "correlation type is one of"),
        ("timespan:", "timespam: 1\n  timespan:", "unknown key 'timespam'"),
    ],
)
def test_broken_correlations_are_refused_and_their_rules_stay(old: str, new: str, reason: str) -> None:
    rules = RuleSet.from_text(BASE + COUNT.replace(old, new), path="c.yml")
    assert [rule.name for rule in rules.rules] == ["base"]
    (refused,) = rules.refused
    assert reason in refused.reason
    assert (refused.path, refused.rule_id) == ("c.yml", "c")


SHORT = """
id: ssh_brute_force
title: SSH Brute Force Attack
severity: HIGH
detection:
  conditions:
    - {field: process, operator: equals, value: sshd}
    - {field: message, operator: contains, value: "Failed password"}
  threshold: {count: 5, timeframe_secs: 60, group_by: src_ip}
"""


def short_events(count: int) -> list[dict[str, Any]]:
    fields = {"process.name": "sshd", "source.ip": "192.0.2.1", "message": "Failed password for root"}
    return events(*range(count), **fields)


def test_the_founding_sample_rule_fires_at_its_threshold() -> None:
    (found,) = run(SHORT, short_events(7))
    assert (found.rule_id, found.event_index, str(found.level)) == ("ssh_brute_force", 4, "high")
    assert (found.entity.field, found.entity.value) == ("source.ip", "192.0.2.1")


def test_both_spellings_of_the_short_form_mean_the_same() -> None:
    other = SHORT.replace("operator:", "modifier:").replace("equals", "exact")
    other = other.replace("timeframe_secs: 60", "timeframe: 60").replace("group_by", "field")
    assert [found.id for found in run(other, short_events(5))] == [found.id for found in run(SHORT, short_events(5))]


def test_the_short_form_knows_alternatives_and_is_case_sensitive() -> None:
    text = """
id: s
title: t
severity: info
detection:
  conditions:
    - any:
        - {field: a, operator: contains, value: [One, T*o]}
        - not: {field: b, modifier: regex, value: '^x'}
"""
    assert run(text, [{"a": "xOnex", "b": "x"}])
    assert run(text, [{"a": "T*o", "b": "x"}])
    assert not run(text, [{"a": "one Two", "b": "x"}])
    assert run(text, [{"b": "y"}])


def test_the_documented_map_form_has_conditions() -> None:
    text = "id: s\ntitle: t\nseverity: high\ndetection:\n  condition: {process: sshd, message|contains: Failed}\n"
    assert run(text, [{"process.name": "sshd", "message": "Failed x"}])
    assert not run(text, [{"process.name": "cron", "message": "Failed x"}])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("conditions:", "condition_s:", "unknown key 'condition_s'"),
        ("operator: equals", "operatr: equals", "unknown key 'operatr'"),
        ("operator: equals", "operator: is", "operator 'is' is none of"),
        ("severity: HIGH", "severity: huge", "is no severity"),
        ("count: 5", "count: 0", "count is a positive integer"),
        ("timeframe_secs: 60", "timeframe_secs: -1", "timeframe_secs is a positive number"),
        ("group_by: src_ip", "group_by: a, field: b", "mean the same"),
        ("{field: process, operator: equals, value: sshd}", "{field: process, operator: equals}", "has one value"),
        ("operator: equals, value: sshd", "operator: regex, value: '(a'", "unclosed group"),
    ],
)
def test_a_broken_short_rule_is_refused_instead_of_matching_everything(old: str, new: str, reason: str) -> None:
    rules = RuleSet.from_text(SHORT.replace(old, new))
    assert rules.rules == ()
    assert reason in rules.refused[0].reason


def test_an_empty_short_rule_is_refused() -> None:
    (refused,) = RuleSet.from_text("id: s\ntitle: t\nseverity: high\ndetection: {}\n").refused
    assert "would match everything" in refused.reason


def test_disabled_rules_are_left_out_and_rules_on_trial_stay_silent() -> None:
    assert run(SHORT + "status: disabled\n", short_events(6)) == []
    assert run(SHORT + "status: test\n", short_events(6)) == []


def test_ndjson_bytes_a_path_and_mappings_give_the_same(tmp_path: Path) -> None:
    rules = RuleSet.from_text(BASE + COUNT)
    data = events(*range(20_000), src_ip="a", pad="x" * 100)
    text = "\n".join(json.dumps(event, separators=(",", ":")) for event in data).encode()
    path = tmp_path / "events.ndjson"
    path.write_bytes(text)
    expected = [(one.event_index, one.rule_id, one.evidence) for one in rules.detect(data)]
    assert expected
    for source in (text, path, str(path)):
        assert [(one.event_index, one.rule_id, one.evidence) for one in rules.detect(source)] == expected
