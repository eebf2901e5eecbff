"""What is too much for an event's fields hides nothing, and too many fields of rules are told."""

from __future__ import annotations

import json

import pytest

from ironpost import RuleSet

RULE = """title: t
id: t
logsource: {product: linux}
detection:
  s: DETECTION
  condition: s
"""
MANY = '{"CommandLine":"evil.exe","x":[' + ",".join(["0"] * 5000) + "]}"
DEEP = '{"CommandLine":"evil.exe","d":' + '{"d":' * 40 + "1" + "}" * 40 + "}"
LONG = '{"CommandLine":"evil.exe","d":"' + "A" * (1 << 20) + '","last":1}'


def found(detection: object, event: str) -> int:
    rules = RuleSet.from_text(RULE.replace("DETECTION", json.dumps(detection)))
    return len(list(rules.detect((event + "\n").encode())))


@pytest.mark.parametrize("event", [MANY, DEEP, LONG])
def test_a_large_event_keeps_its_fields_and_is_searched_by_keywords(event: str) -> None:
    assert found({"CommandLine|contains": "evil"}, event) == 1
    assert found(["evil"], event) == 1
    assert found({"ironpost.truncated": True}, event) == 1
    assert found(["good"], event) == 0


@pytest.mark.parametrize("event", ['{"x":"evil', " {'x': evil}", MANY[:-1].replace("0]", '0],"later":"hidden evil"}')])
def test_keywords_find_what_is_no_field(event: str) -> None:
    assert found(["evil"], event) == 1


def test_keys_of_an_object_are_no_keywords() -> None:
    assert found(["CommandLine"], '{"CommandLine":"x"}') == 0
    assert found(["CommandLine"], ' \t{"CommandLine":"x"}') == 0


def test_a_session_counts_cut_events() -> None:
    session = RuleSet.from_text(RULE.replace("DETECTION", "[evil]")).native.session()
    session.feed(f"{MANY}\n{{}}\n{DEEP}\n".encode())
    assert (session.rows, session.truncated) == (3, 2)


def test_the_rule_with_too_many_fields_is_refused_and_the_others_load() -> None:
    def rule(name: str, fields: int) -> str:
        selection = {f"{name}{number}": "x" for number in range(fields)}
        return json.dumps(
            {
                "title": name,
                "id": name,
                "detection": {"s": selection, "condition": "s"},
                "logsource": {"product": "none"},
            }
        )

    # Four rules of 19,000 names of their own: the fourth is one too many for 60,000.
    rules = RuleSet.from_text("\n---\n".join([*(rule(name, 19_000) for name in "abcd"), rule("late", 1)]))
    assert [one.id for one in rules.rules] == ["a", "b", "c", "late"]
    ((refused),) = rules.refused
    assert refused.rule_id == "d"
    assert "60000" in refused.reason
    assert [one.rule_id for one in rules.detect(b'{"late0":"x"}\n')] == ["late"]
