"""What a rule can't mean or may not cost is refused by name and line, and the rules beside it load."""

# ruff: noqa: E501 - the tables have a case a line

from __future__ import annotations

from typing import Any

import pytest

from ironpost.detections import RuleSet

HEAD = "title: t\nid: r\nlogsource: {product: test}\ndetection:\n"


def body(detection: str) -> str:
    return HEAD + "".join(f"  {line}\n" for line in detection.splitlines())


def matched(rules: RuleSet, event: Any) -> bool:
    return bool(list(rules.detect([event])))


# fmt: off
REFUSED = [
    ("a|contains|base64: x", "a|contains|base64: modifier 'base64' can't be combined with 'contains'", "modifiers work in their order: write base64 before contains"),
    ("a|contains|base64offset: x", "'base64offset' can't be combined with 'contains'", "write base64offset before contains"),
    ("a|endswith|utf16: x", "'utf16' can't be combined with 'endswith'", "write utf16 before endswith"),
    ("a|contains|re: x", "'re' can't be combined with 'contains'", ""),
    ("a|re|contains: x", "'contains' can't be combined with 're'", ""),
    ("a|re|cased: x", "'cased' can't be combined with 're'", "case-sensitive unless"),
    ("a|cased|re: x", "'cased' can't be combined with 're'", "case-sensitive unless"),
    ("a|re|base64: x", "'base64' can't be combined with 're'", ""),
    ("a|i|re: x", "'i' only follows 're'", ""),
    ("a|contains|i: x", "'i' only follows 're'", ""),
    ("a|startswith|endswith: x", "'endswith' can't be combined with 'startswith'", ""),
    ("a|contains|contains: x", "'contains' is given twice", ""),
    ("a|all|all: [x, y]", "'all' is given twice", ""),
    ("a|contains|fieldref: x", "'fieldref' can't be combined with 'contains'", "write fieldref first"),
    ("a|fieldref|re: x", "'re' can't be combined with 'fieldref'", ""),
    ("a|fieldref|windash: x", "'windash' can't be combined with 'fieldref'", ""),
    ("a|cidr|contains: 10.0.0.0/8", "'contains' can't be combined with 'cidr'", ""),
    ("a|cased|cidr: 10.0.0.0/8", "'cased' can't be combined with 'cidr'", ""),
    ("a|wide|cidr: 10.0.0.0/8", "'wide' can't be combined with 'cidr'", ""),
    ("a|gt|contains: 5", "'contains' can't be combined with 'gt'", ""),
    ("a|gt|lt: 5", "'lt' can't be combined with 'gt'", ""),
    ("a|gt|cased: 5", "'cased' can't be combined with 'gt'", ""),
    ("a|gt|expand: '%x%'", "'expand' can't be combined with 'gt'", ""),
    ("a|gte|hour: 5", "'hour' can't be combined with 'gte'", "write hour before the comparison"),
    ("a|hour|minute: 5", "'minute' can't be combined with 'hour'", ""),
    ("a|hour|contains: 5", "'hour' only goes with lt, lte, gt and gte", ""),
    ("a|hour: noon", "'hour' takes a number", ""),
    ("a|hour: 1.5", "'hour' takes an integer", ""),
    ("a|exists|contains: true", "'contains' can't be combined with 'exists'", ""),
    ("a|exists: 1", "'exists' takes true or false", ""),
    ("a|gt: nan", "'gt' takes a number, not 'nan'", ""),
    ("a|gt: inf", "'gt' takes a number, not 'inf'", ""),
    ("a|gt: 1_000", "'gt' takes a number, not '1_000'", ""),
    ("a|gt: true", "'gt' takes a number", ""),
    ("a|gt: null", "null can't be combined", ""),
    ("a|contains: null", "null can't be combined", ""),
    ("a: [x, null]", "null can't be part of a list", "a selection of its own"),
    ("a|cidr: fe80::1%eth0/64", "cidr", ""),
    ("a|cidr: nonsense", "cidr", ""),
    ("a|base64: 'x*'", "'base64' takes no wildcards", ""),
    ("a|base64offset: x", "too short", ""),
    ("a|wide: 'ä'", "needs base64 or base64offset after it", ""),
    ("a|wide|utf16: x", "encoded only once", ""),
    ("a|windash: '-a -b -c -d -e -f'", "'windash' makes more than 10,000 values", ""),
    ("a|contain: x", "unknown modifier 'contain'", "did you mean 'contains'?"),
    ("a|: x", "unknown modifier ''", ""),
    ("a: {b: c}", "a value is text, a number, a boolean or null", ""),
    ("a: [[x]]", "a value is text, a number, a boolean or null", ""),
    ("'|exists': true", "keywords have no field", ""),
    ("'|gt': 5", "keywords have no field", ""),
    ("'|hour': 5", "keywords have no field", ""),
    ("'|fieldref': b", "keywords have no field", ""),
    ("'': null", "null can't be combined", ""),
    ("a|re: 'a(?=b)'", "look-around", ""),
    ("a|re: '(?<!a)b'", "look-around", ""),
    ("a|re: '(a)\\1'", "backreferences", ""),
    ("a|re: '(?>a)b'", "regular expression", ""),
    ("a|re: 'a++b'", "possessive", ""),
    ("a|re: 'a{2}+b'", "possessive", ""),
    ("a|re: '['", "unclosed", ""),
    ("a|re: '*a'", "regular expression", ""),
]
REFUSED_CONDITIONS = [
    ("s and nope", "condition names 'nope'", ""),
    ("sel", "condition names 'sel'", ""),
    ("", "condition is empty", ""),
    ("s and", "ends too early", ""),
    ("(s", "not closed", ""),
    ("s)", "unexpected ')'", ""),
    ("()", "unexpected ')'", ""),
    ("and s", "unexpected 'and'", ""),
    ("s s", "unexpected 's'", ""),
    ("s not s", "unexpected 'not'", ""),
    ("s | count() by a > 5", "aggregations after '|'", ""),
    ("1 of z*", "'1 of z*' fits no detection", ""),
    ("2 of s*", "'2 of' is not Sigma", "write '1 of'"),
    ("all of", "ends too early", ""),
    ("1 of (s, t)", "no name or pattern", ""),
    ("s & s", "unexpected '&'", ""),
    ("(" * 61 + "s" + ")" * 61, "nested deeper than 60", ""),
    ("not " * 100 + "s", "nested deeper than 60", ""),
    ("s or " * 1_001 + "s", "more than 2,000 words", ""),
]
# fmt: on


@pytest.mark.parametrize(("item", "reason", "hint"), REFUSED)
def test_what_cannot_be_meant_is_refused_by_name_and_line(item: str, reason: str, hint: str) -> None:
    rules = RuleSet.from_text(f"{HEAD}  t: {{b: x}}\n  s:\n    {item}\n  condition: s or t\n", path="r.yml")
    (refused,) = rules.refused
    assert rules.rules == ()
    assert (refused.path, refused.line) == ("r.yml", 7)
    assert reason in refused.reason
    assert hint in refused.hint


@pytest.mark.parametrize(("condition", "reason", "hint"), REFUSED_CONDITIONS)
def test_conditions_that_say_nothing_are_refused(condition: str, reason: str, hint: str) -> None:
    (refused,) = RuleSet.from_text(f"{HEAD}  s: {{a: x}}\n  condition: '{condition}'\n").refused
    assert refused.line == 6
    assert reason in refused.reason
    assert hint in refused.hint


def test_a_misspelt_selection_names_the_nearest() -> None:
    (refused,) = RuleSet.from_text(HEAD + "  selection: {a: x}\n  condition: selektion\n").refused
    assert refused.hint == "did you mean 'selection'?"


# What a rule may cost: (detection, what is said). Each is refused before the work it asks for is done.
BOMBS = {
    "values": ("s:\n  a:\n" + "    - x\n" * 100_000 + "condition: s", "more than 20,000 values"),
    "windash": (
        "s:\n  a|windash:\n" + "".join(f"    - '-a -b -c -d {i}'\n" for i in range(1_000)) + "condition: s",
        "more than 20,000 comparisons",
    ),
    "regexes": (
        "s:\n  a|re:\n" + "".join(f"    - 'x{i}y+'\n" for i in range(15_000)) + "condition: s",
        "more than 200",
    ),
    "large regex": ("s: {a|re: '((\\w{1,900}){1,900}){1,900}'}\ncondition: s", "too large when compiled"),
    "1 of": (
        "".join(f"s{i}: {{a: x{i}}}\n" for i in range(1_000)) + "condition: " + " or ".join(["1 of *"] * 400),
        "stands for more than 20,000 detections",
    ),
    "names": (
        "s:\n  a:\n" + "".join(f"    - x{i}\n" for i in range(10_000)) + "condition: s" + " or s" * 200,
        "at most 100,000 are allowed",
    ),
    "brackets": ("s: {a: x}\ncondition: " + "(" * 100_000 + "s" + ")" * 100_000, "more than 2,000 words"),
    "depth": ("s: " + "[" * 100_000, "nested deeper than 40"),
    "placeholders": ("s: {a|expand: '%p%%p%%p%'}\ncondition: s", "placeholders make more than 10,000"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_and_the_rules_beside_it_load(name: str) -> None:
    detection, expected = BOMBS[name]
    values = "placeholders: {p: [" + ", ".join(f"v{i}" for i in range(100)) + "]}\n---\n"
    good = HEAD.replace("id: r", "id: q") + "  s: {a: x}\n  condition: s\n"
    rules = RuleSet.from_text(values + body(detection) + "---\n" + good, path="bomb.yml")
    (refused,) = rules.refused
    assert expected in refused.reason
    assert refused.path == "bomb.yml"
    assert refused.line >= 7
    assert [rule.id for rule in rules.rules] == ["q"]


def test_a_rule_at_its_limit_loads_and_matches() -> None:
    detection = "s:\n  a:\n" + "".join(f"    - v{i}\n" for i in range(19_000)) + "condition: s"
    rules = RuleSet.from_text(body(detection))
    assert rules.refused == ()
    assert matched(rules, {"a": "V18999"})
    assert not matched(rules, {"a": "v19000"})
