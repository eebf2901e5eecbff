"""Random rules over random events: loader and engine together give the reference's answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ironpost.detections import RuleSet
from support.sigma_reference import matches
from support.sigma_rules import EVENTS, PLACEHOLDERS, events_for, rules

EVENTS_PER_RULE = 6


class Agreement:
    """Counts what was compared, so that a round that compares little, or only what never matches, is seen."""

    def __init__(self) -> None:
        self.pairs = self.matched = 0

    def check(self, made: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> None:
        """Every rule with every event."""
        # JSON is YAML: the documents need no writer of their own.
        text = "\n---\n".join(
            json.dumps({"id": f"r{index}", **rule}, ensure_ascii=False) for index, rule in enumerate(made)
        )
        loaded = RuleSet.from_text(text, placeholders=PLACEHOLDERS)
        assert loaded.refused == ()
        found = {(detection.event_index, detection.rule_id) for detection in loaded.detect(events)}
        expected = {
            (row, f"r{index}")
            for row, event in enumerate(events)
            for index, rule in enumerate(made)
            if matches(rule, event, PLACEHOLDERS)
        }
        self.pairs += len(made) * len(events)
        self.matched += len(expected)
        for row, rule_id in sorted(found ^ expected):
            said = "matches" if (row, rule_id) in found else "does not match"
            rule = json.dumps(made[int(rule_id[1:])]["detection"], ensure_ascii=False)
            raise AssertionError(
                f"the engine {said}\nrule  {rule}\nevent {json.dumps(events[row], ensure_ascii=False)}"
            )


def compare(examples: int, *, at_least: int) -> None:
    agreement = Agreement()

    @settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.generate],  # the failure names the one pair at fault: nothing to make smaller
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(rules(), min_size=4, max_size=12), st.lists(EVENTS, max_size=8), st.integers(0, 2**32))
    def round_of(made: list[dict[str, Any]], events: list[dict[str, Any]], seed: int) -> None:
        near = [event for rule in made for event in events_for(rule, seed, EVENTS_PER_RULE)]
        agreement.check(made, events + near)

    round_of()
    assert agreement.pairs >= at_least
    assert agreement.matched / agreement.pairs >= 0.25


def test_loader_and_engine_agree_with_the_reference_on_fifty_thousand_pairs() -> None:
    compare(200, at_least=50_000)


@pytest.mark.long
def test_loader_and_engine_agree_with_the_reference_on_a_million_pairs() -> None:
    compare(4_000, at_least=1_000_000)
