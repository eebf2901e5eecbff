"""The founding documents' short form: their own rules as they stand there, and every word of the form."""

from __future__ import annotations

from typing import Any

import pytest

import ironpost
from ironpost.detections import RuleSet

# As the founding documents show it (ADR-006).
SSH = """
id: ssh_brute_force
title: SSH Brute Force Attack
severity: high

detection:
  conditions:
    - field: process
      operator: equals
      value: sshd
    - field: message
      operator: contains
      value: "Failed password"

  threshold:
    count: 5
    timeframe_secs: 60
    group_by: src_ip
"""
# The same in the spelling of the code that came before, with capitals and a time with a unit.
SSH_OLD = """
id: ssh_brute_force
title: SSH Brute Force Attack
severity: High
detection:
  conditions:
    - {field: process, modifier: exact, value: sshd}
    - {field: message, modifier: contains, value: Failed password}
  threshold: {field: source_ip, count: 5, timeframe: 60s}
"""
# The form of the README, which the code that came before read as a rule without conditions.
DOCUMENTED = """
id: ssh_failed
title: Failed password
severity: medium
detection:
  condition:
    process: sshd
    message|contains: Failed password
"""
LINES = "".join(
    f"Nov 20 18:54:{second:02} web1 sshd[511]: Failed password for root from {address} port 4242 ssh2\n"
    for second in range(6)
    for address in ("198.51.100.7", "203.0.113.9")
).encode()
OTHERS = (
    b"Nov 20 18:54:43 web1 sshd[511]: Accepted password for root from 198.51.100.7 port 4242 ssh2\n"
    b"Nov 20 18:54:43 web1 app[511]: Failed password for root from 198.51.100.7 port 4242\n"
) * 6


def detected(text: str, lines: bytes) -> list[Any]:
    rules = RuleSet.from_text(text)
    assert rules.refused == ()
    return list(rules.detect(ironpost.parse(lines, year=2026)))


@pytest.mark.parametrize("text", [SSH, SSH_OLD])
def test_the_founding_rule_fires_once_for_each_address_on_real_lines(text: str) -> None:
    found = detected(text, LINES)
    assert [(each.rule_id, str(each.level), each.entity.value, each.count) for each in found] == [
        ("ssh_brute_force", "high", "198.51.100.7", 5),
        ("ssh_brute_force", "high", "203.0.113.9", 5),
    ]
    assert detected(text, OTHERS) == []


def test_the_documented_condition_is_a_condition() -> None:
    assert len(detected(DOCUMENTED, LINES)) == 12
    assert detected(DOCUMENTED, OTHERS) == []


def rule(*conditions: str, more: str = "") -> str:
    listed = "".join(f"    - {condition}\n" for condition in conditions)
    return f"id: r\ntitle: t\nseverity: low\ndetection:\n  conditions:\n{listed}{more}"


def holds(text: str, event: dict[str, Any]) -> bool:
    rules = RuleSet.from_text(text)
    assert rules.refused == ()
    return bool(list(rules.detect([event])))


@pytest.mark.parametrize(
    ("condition", "hits", "misses"),
    [
        ("{field: a, value: x}", ["x"], ["X", "xx", None]),
        ("{field: a, operator: equals, value: x}", ["x"], ["X", "xx"]),
        ("{field: a, operator: exact, value: 'x*'}", ["x*"], ["xy"]),
        ("{field: a, operator: equals, value: 5}", [5, "5"], [50]),
        ("{field: a, operator: contains, value: 'b?'}", ["ab?c"], ["abc", "AB?"]),
        ("{field: a, operator: contains, value: 'c:\\\\d'}", ["xc:\\\\d"], ["c:\\d"]),
        ("{field: a, operator: startswith, value: b}", ["bc"], ["ab", "B"]),
        ("{field: a, operator: starts_with, value: b}", ["bc"], ["ab"]),
        ("{field: a, operator: endswith, value: b}", ["ab"], ["ba"]),
        ("{field: a, operator: ends_with, value: b}", ["ab"], ["ba"]),
        ("{field: a, operator: regex, value: '^b+$'}", ["bb"], ["B", "ab"]),
        ("{field: a, operator: not_equals, value: x}", ["y", "X"], ["x", None]),
        ("{field: a, operator: not_equals, values: [x, y]}", ["z"], ["x", "y", None]),
        ("{field: a, operator: gt, value: 5}", [6, "6"], [5, "x", None]),
        ("{field: a, operator: gte, value: 5}", [5], [4]),
        ("{field: a, operator: lt, value: 5}", [4], [5]),
        ("{field: a, operator: lte, value: 5}", [5], [6]),
        ("{field: a, operator: cidr, value: 10.0.0.0/8}", ["10.1.1.1"], ["11.0.0.1"]),
        ("{field: a, values: [x, y]}", ["x", "y"], ["z"]),
        ("{field: a, operator: contains, value: [x, y]}", ["ax", "ay"], ["a"]),
        ("{any: [{field: a, value: x}, {field: a, value: y}]}", ["x", "y"], ["z"]),
        ("{all: [{field: a, operator: contains, value: x}, {field: a, operator: contains, value: y}]}", ["yx"], ["x"]),
        ("{not: {field: a, value: x}}", ["y", None], ["x"]),
        (
            "{any: [{field: a, value: x}, {all: [{field: a, value: y}, {not: {field: a, value: q}}]}]}",
            ["x", "y"],
            ["z"],
        ),
    ],
)
def test_every_operator(condition: str, hits: list[Any], misses: list[Any]) -> None:
    text = rule(condition)
    assert [value for value in hits if not holds(text, {} if value is None else {"a": value})] == []
    assert [value for value in misses if holds(text, {} if value is None else {"a": value})] == []


def test_conditions_are_joined_by_and_unless_the_rule_says_or() -> None:
    both = ("{field: a, value: x}", "{field: b, value: y}")
    assert not holds(rule(*both), {"a": "x"})
    assert holds(rule(*both), {"a": "x", "b": "y"})
    assert holds(rule(*both, more="  logic: or\n"), {"a": "x"})


@pytest.mark.parametrize(
    ("old", "new"),
    [(name, field) for field, names in {
        "source.ip": ("src_ip", "source_ip", "client_ip", "remote_ip"),
        "destination.ip": ("dst_ip", "dest_ip", "destination_ip", "target_ip"),
        "host.hostname": ("hostname", "host"), "process.name": ("process",), "user.name": ("user", "username"),
        "log.file.path": ("source",), "message": ("message",),
    }.items() for name in names],
)  # fmt: skip
def test_the_old_names_of_fields_read_the_new_ones(old: str, new: str) -> None:
    assert holds(rule(f"{{field: {old}, value: x}}"), {new: "x"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SSH.replace("operator: equals", "operator: equal"), "operator 'equal' is none of"),
        (SSH.replace("count: 5", "count: 0"), "count is a positive integer"),
        (SSH.replace("count: 5", "count: five"), "count is a positive integer"),
        (SSH.replace("timeframe_secs: 60", "timeframe_secs: 0"), "positive number of seconds"),
        (SSH.replace("timeframe_secs: 60", "timeframe_secs: 60\n    timeframe: 1m"), "mean the same"),
        (SSH.replace("group_by: src_ip", "group_by: src_ip\n    field: src_ip"), "mean the same"),
        (SSH.replace("group_by: src_ip", "groupby: src_ip"), "unknown key 'groupby'"),
        (SSH.replace("severity: high", "severity: worst"), "worst"),
        (SSH.replace("detection:", "detections:"), "unknown key 'detections'"),
        (SSH.replace("id: ssh_brute_force\n", ""), "id has 1 to 256"),
        (SSH.replace("value: sshd", "valu: sshd"), "unknown key 'valu'"),
        ("id: r\ntitle: t\nseverity: low\ndetection: {conditions: []}\n", "at least one condition"),
        ("id: r\ntitle: t\nseverity: low\ndetection: {threshold: {count: 1, timeframe_secs: 1}}\n", "match everything"),
        (rule("{field: a, operator: regex, value: '(a'}"), "unclosed group"),
        (rule(f"{{field: a, operator: regex, value: '{'a' * 1001}'}}"), "1001 characters"),
        (rule("{field: a, operator: regex, value: '(a)++'}"), "possessive"),
    ],
)
def test_a_mistake_is_refused_with_its_line(text: str, expected: str) -> None:
    rules = RuleSet.from_text(text, path="r.yaml")
    (refused,) = rules.refused
    assert rules.rules == ()
    assert expected in f"{refused.reason} {refused.hint}"
    assert refused.line > 0


def test_status_disables_a_rule_or_keeps_it_silent() -> None:
    text = rule("{field: a, value: x}")
    assert RuleSet.from_text(text + "status: disabled\n").rules == ()
    silent = RuleSet.from_text(text + "status: test\n")
    assert [found.emit for found in silent.rules] == [False]
    assert list(silent.detect([{"a": "x"}])) == []
