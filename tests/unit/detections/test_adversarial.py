"""Rules and events written to harm: each is refused with a reason or bounded, and what follows it still works.

Nothing here is timed: what is bounded badly takes hours instead of milliseconds, and the suite's time limit says so.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ironpost.detections import RuleSet

MILLION = 1_000_000
FOLLOWING = b'{"g": "x"}\n'
ONE_SELECTION = {"s": {"g": "x"}, "condition": "s"}


def rules(detection: dict[str, Any]) -> RuleSet:
    """The rule at fault, and a good one behind it."""
    head = {"title": "t", "logsource": {"product": "test"}}
    documents = [{**head, "id": "r", "detection": detection}, {**head, "id": "good", "detection": ONE_SELECTION}]
    return RuleSet.from_text("\n---\n".join(json.dumps(document) for document in documents), path="r.yml")


def rows(detection: dict[str, Any], events: Any) -> list[int]:
    loaded = rules(detection)
    assert loaded.refused == ()
    return [found.event_index for found in loaded.detect(events) if found.rule_id == "r"]


def refusal(detection: dict[str, Any]) -> str:
    loaded = rules(detection)
    assert [rule.id for rule in loaded.rules] == ["good"]
    (refused,) = loaded.refused
    assert refused.path == "r.yml"
    assert refused.rule_id in {"r", ""}  # nothing is known of a document that is too large to be read
    assert refused.line > 0
    return refused.reason


# --- 12: expressions that take exponential time elsewhere ---------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(a+)+$", False),
        ("^(a+)+!$", True),
        ("(a|a)*b", False),
        ("(a|aa)+$", False),
        ("(.*a){20}", True),
        ("(x+x+)+y", False),
        ("a*a*a*a*a*a*b", False),
        ("(?i)(a|b|ab)*c", False),
        ("^(([a-z])+.)+[A-Z]([a-z])+$", False),
    ],
)
def test_an_expression_that_backtracks_elsewhere_is_linear_on_a_line_of_a_million(pattern: str, expected: bool) -> None:
    event = {"f": "a" * MILLION + "!"}
    assert rows({"s": {"f|re": pattern}, "condition": "s"}, [event]) == [0] * expected


@pytest.mark.parametrize("pattern", ["*a" * 50 + "*b", "a?" * 50 + "b", "*a?a" * 25 + "b*"])
def test_wildcards_do_not_backtrack_either(pattern: str) -> None:
    text = "a" * MILLION
    assert rows({"s": {"f": f"*{pattern}*"}, "condition": "s"}, [{"f": text}, {"f": text[:-1] + "b"}]) == [1]


# --- 13: rules that grow -------------------------------------------------------------------------------------------


def test_a_rule_has_as_many_values_as_a_list_of_indicators_and_no_more() -> None:
    values = [f"indicator{number}" for number in range(100_000)]
    assert rows(
        {"s": {"f": values[:15_000]}, "condition": "s"}, [{"f": "INDICATOR14999"}, {"f": "indicator15000"}]
    ) == [0]
    assert "values" in refusal({"s": {"f": values}, "condition": "s"})


@pytest.mark.parametrize("nested", ["({})", "not {}", "not ({})"])
def test_conditions_nest_fifty_deep_and_no_depth_ends_the_process(nested: str) -> None:
    condition = "s"
    for _ in range(50 if "not (" not in nested else 24):
        condition = nested.format(condition)
    assert rows({"s": {"f": "x"}, "condition": condition}, [{"f": "x"}, {"f": "y"}]) == [0]
    opening, closing = nested.split("{}")
    deep = opening * 100_000 + "s" + closing * 100_000
    assert "condition" in refusal({"s": {"f": "x"}, "condition": deep})


def test_many_times_one_of_many_is_refused() -> None:
    many = {f"s{number}": {"f": f"x{number}"} for number in range(2_000)}
    assert rows({**many, "condition": "1 of *"}, [{"f": "x1999"}, {"f": "x2000"}]) == [0]
    assert "condition" in refusal({**many, "condition": " and ".join(["1 of *"] * 1_000)})
    assert "condition" in refusal({**many, "condition": ["1 of s*"] * 1_000})


def test_a_pattern_of_names_is_matched_without_backtracking() -> None:
    name = "s" * 200
    assert rows({name: {"f": "x"}, "condition": f"1 of {'*s' * 100}*"}, [{"f": "x"}]) == [0]
    assert "fits no detection" in refusal({name: {"f": "x"}, "condition": f"1 of {'*s' * 100}*t"})


def test_values_that_multiply_are_refused() -> None:
    assert "windash" in refusal({"s": {"f|windash": " -a" * 12}, "condition": "s"})
    assert "comparisons" in refusal({"s": {"f|windash": [" -a -b -c"] * 1_000}, "condition": "s"})


# --- 14: YAML that harms its reader --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)), "aliases"),
        ("title: t\nid: r\nid: s\n", "given twice"),
        ("title: !!python/object/apply:os.system ['id']\n", "not allowed"),
        ("title: !!python/name:os.system\n", "not allowed"),
        ("a: &a [*a]\n", "nested deeper"),
        ("a: " + "[" * 100_000, "nested"),
        ("a:\n" + "".join(" " * depth + "a:\n" for depth in range(1, 3_000)), "nested"),
    ],
)
def test_yaml_that_harms_its_reader_is_refused_and_the_next_document_is_read(text: str, reason: str) -> None:
    good = json.dumps({"title": "t", "id": "good", "logsource": {"product": "test"}, "detection": ONE_SELECTION})
    loaded = RuleSet.from_text(good + "\n---\n" + text, path="r.yml")
    assert [rule.id for rule in loaded.rules] == ["good"]
    assert any(reason in refused.reason for refused in loaded.refused), loaded.refused


# --- 15: events that harm their reader -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b'{"f":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"f":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"f":' + b"[" * 100_000,
        b"{" + b",".join(b'"k%d":%d' % (number, number) for number in range(MILLION)) + b"}",
        b"{" + b'"g":"y",' * MILLION + b'"z":1}',
        b'{"f":[' + b"1," * MILLION + b"1]}",
        b'{"f":"' + b"a" * 20 * MILLION + b'"}',
        b'{"' + b"a." * 500_000 + b'":1}',
        b'{"f":' + b"9" * 100_000 + b"}",
        b'{"f":1e' + b"9" * 100_000 + b"}",
        b'{"f":"\\ud800\\udc00\\ud800 \\u0000"}',
        b"\x00\xff\xfe\x1b[2J",
    ],
    ids=[
        "objects", "lists", "unclosed", "keys", "same_key", "elements", "long", "name", "digits", "exponent", "pairs",
        "bytes",
    ],
)  # fmt: skip
def test_a_hostile_event_is_bounded_and_the_next_one_is_seen(line: bytes) -> None:
    assert rows(ONE_SELECTION, line + b"\n" + FOLLOWING) == [1]


def test_a_key_given_twice_hides_nothing() -> None:
    for wanted in ("x", "y"):
        assert rows({"s": {"g": wanted}, "condition": "s"}, b'{"g":"x","g":"y"}\n') == [0]


def test_a_number_beyond_all_bounds_is_still_larger_than_a_limit() -> None:
    lines = [b"9" * 400, b"1e99999", b"-1e99999", b"1e-99999", b"6", b"-" + b"9" * 400, b'"nan"', b'"inf"']
    events = b"".join(b'{"n":' + number + b"}\n" for number in lines)
    assert rows({"s": {"n|gt": 5}, "condition": "s"}, events) == [0, 1, 4]
    assert rows({"s": {"n|lt": 0}, "condition": "s"}, events) == [2, 5]
    # Beyond a double's precision.
    assert rows({"s": {"n|gt": 2**53}, "condition": "s"}, [{"n": 2**53}, {"n": 2**53 + 1}]) == [1]


# --- 17 to 19: counting over time ----------------------------------------------------------------------------------


def counting(group: str = "src") -> RuleSet:
    loaded = RuleSet.from_text(
        f"""
title: base
id: base
logsource: {{product: test}}
detection: {{s: {{act: hit}}, condition: s}}
---
title: counted
id: counted
correlation: {{type: event_count, rules: base, group-by: {group}, timespan: 60s, condition: {{gte: 3}}}}
"""
    )
    assert loaded.refused == ()
    return loaded


def hit(moment: datetime | str, src: str = "a") -> dict[str, Any]:
    return {"@timestamp": moment if isinstance(moment, str) else moment.isoformat(), "act": "hit", "src": src}


NOON = datetime(2026, 6, 30, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "moment",
    ["1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2099-01-01T00:00:00Z", "2026-06-30T23:59:60Z", "", "yesterday"],
)
def test_times_that_cannot_be_widen_no_window(moment: str) -> None:
    """One event with a strange time and two usual ones are no three events within a minute."""
    events = [
        hit(NOON),
        hit(moment),
        hit(NOON + timedelta(seconds=61)),
        hit(moment),
        hit(NOON + timedelta(seconds=122)),
    ]
    found = [found.event_index for found in counting().detect(events) if found.rule_id == "counted"]
    assert found == []


@pytest.mark.parametrize("moment", ["1970-01-01T00:00:00Z", "", "yesterday"])
def test_an_event_with_a_strange_time_starves_no_window(moment: str) -> None:
    events = [hit(moment, "b"), hit(NOON), hit(moment), *(hit(NOON + timedelta(seconds=s)) for s in (1, 2))]
    assert [found.event_index for found in counting().detect(events)][-1] == 4


def test_a_leap_second_is_a_second_like_others() -> None:
    moments = ["2026-06-30T11:59:59Z", "2026-06-30T11:59:60Z", "2026-06-30T12:00:00Z"]
    assert [found.event_index for found in counting().detect([hit(moment) for moment in moments])] == [2]


def test_time_zones_and_summer_time_do_not_move_an_event() -> None:
    berlin = ["2026-10-25T02:59:30+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T01:00:10Z"]
    assert [found.event_index for found in counting().detect([hit(moment) for moment in berlin])] == [2]


def many_sources(count: int) -> None:
    """Feeds one hit from each of many sources, three of one of them at the end."""
    chunk = 10_000

    def lines() -> Any:
        for start in range(0, count, chunk):
            yield from (hit(NOON, f"s{number}") for number in range(start, start + chunk))
        yield from [hit(NOON, "attacker")] * 3

    assert [found.group for found in counting().detect(lines())] == [(("src", "attacker"),)]


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096


def test_more_sources_than_are_remembered_take_no_more_memory() -> None:
    many_sources(110_000)  # more than the 100,000 groups a correlation remembers
    before = resident_bytes()
    many_sources(300_000)
    assert resident_bytes() - before < 100 * 1024 * 1024


@pytest.mark.long
def test_ten_million_sources_take_no_more_memory() -> None:
    many_sources(110_000)
    before = resident_bytes()
    many_sources(10_000_000)
    assert resident_bytes() - before < 100 * 1024 * 1024


# --- rules of all kinds over events of all kinds ---------------------------------------------------------------------


def test_no_hostile_event_ends_a_run_of_all_kinds_of_rules() -> None:
    selections = [
        {"|re": "(a+)+$"}, {"f|re": "^.{0,100}$"}, {"f|cidr": "::/0"}, {"f|lt": 1e308}, {"f|hour": 3}, {"f": None},
        {"f|exists": True}, {"f|fieldref": "g"}, {"f|base64offset|contains": "abc"}, {"f|windash|contains": " -a"},
        {"f": "*?*?*"}, {"|all": ["a", "b"]}, {"f.f.f|contains": ""}, {"f|fieldref|contains": "f"},
    ]  # fmt: skip
    head = {"title": "t", "logsource": {"product": "test"}}
    documents = [
        {**head, "id": str(number), "detection": {"s": body, "condition": "s"}}
        for number, body in enumerate(selections)
    ]
    loaded = RuleSet.from_text("\n---\n".join(map(json.dumps, documents)))
    assert loaded.refused == ()
    chance = random.Random(7)
    pieces = [
        b'{"f":', b"}", b"[", b"]", b'"', b"\\", b"\\u", b"d800", b",", b":", b"1e9", b"-", b"null", b"\xff", b"a" * 99,
        b"\x00", b'"f"', b'"g":"', "\u0130".encode(), b" -a", b"::1", b"9999-99-99T99:99:99Z",
    ]  # fmt: skip
    lines = [b"".join(chance.choices(pieces, k=chance.randint(1, 30))) for _ in range(5_000)]
    texts = (b"".join(chance.choices(pieces[10:], k=8)).replace(b'"', b"") for _ in range(5_000))
    lines += [b'{"f":"' + text + b'"}' for text in texts]
    data = b"\n".join(line.replace(b"\n", b"") for line in lines) + b"\n" + b'{"f":"ab"}\n'
    last = {found.rule_id for found in loaded.detect(data) if found.event_index == len(lines)}
    assert {"1", "6", "10", "11"} <= last
