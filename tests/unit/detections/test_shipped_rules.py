"""Every shipped rule fires on the real lines kept beside it, and stays silent on those that only look alike."""

from pathlib import Path

import pytest

from ironpost.detections import RuleSet
from ironpost.events import parse

ROOT = Path(__file__).parents[3]
CASES = ROOT / "tests" / "rules"
RULES = RuleSet.load(ROOT / "rules")
SHOWN = sorted(rule.id for rule in RULES.rules if rule.plan["emit"])


def found_in(path: Path, rule_id: str) -> list[int]:
    data = parse(path.read_bytes(), year=2026) if path.suffix == ".log" else path.read_bytes()
    return [found.event_index for found in RULES.detect(data) if found.rule_id == rule_id]


def test_every_rule_loads_and_something_feeds_it() -> None:
    assert RULES.refused == ()
    assert RULES.unfed == ()
    assert len(SHOWN) >= 15


def test_every_rule_has_cases_and_every_case_a_rule() -> None:
    assert sorted(path.name for path in CASES.iterdir()) == SHOWN


@pytest.mark.parametrize("rule_id", SHOWN)
def test_a_rule_fires_on_its_lines_and_on_no_others(rule_id: str) -> None:
    folder = CASES / rule_id
    assert (folder / "why.txt").read_text().strip()
    (match,) = folder.glob("match.*")
    (nomatch,) = folder.glob("nomatch.*")
    hits = found_in(match, rule_id)
    assert hits
    if RULES.rule(rule_id).kind == "rule":
        assert hits == list(range(len(match.read_text().splitlines())))
    assert found_in(nomatch, rule_id) == []
    assert len(nomatch.read_text().splitlines()) >= 1


def test_rules_say_what_they_are_about() -> None:
    for rule in RULES.rules:
        assert rule.description, rule.id
        assert rule.plan["entity"], rule.id
        if rule.plan["emit"]:
            assert any(tag.startswith("attack.t") for tag in rule.tags), rule.id
