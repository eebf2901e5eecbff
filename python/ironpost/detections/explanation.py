"""Why rules hold or fail on an event."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from ironpost import _core
from ironpost.detections.ruleset import RuleSet


def regex_needles(pattern: str) -> list[str] | None:
    """Returns the literals that spare the engine from searching most values with an expression; None without any."""
    return _core.regex_needles(pattern)


class Explanations:
    """Explains rules on events, one event at a time and completely: slower than detecting, milliseconds an event."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules

    @cached_property
    def _native(self) -> _core.Explainer:
        return _core.Explainer(self._rules.plan)

    def explain(
        self,
        events: bytes | _core.EventBatch,
        *,
        logsource: Mapping[str, str] | None = None,
        rule_ids: Sequence[str] = (),
        nearest: int = 5,
    ) -> list[dict[str, Any]]:
        """Explains events.

        Args:
            events: Newline-separated JSON, or a batch made by ``ironpost.parse``.
            logsource: Product, category and service of all events; without it each event is judged by itself.
            rule_ids: Only these rules. Without any: those whose condition holds, and the nearest others.
            nearest: How many of the rules that did not hold.

        Returns:
            Per event ``event``, ``logsource`` (per part a list, or None for any), ``told``, ``derived``, ``routed`` and
            ``held`` (numbers of rules) and ``rules``; see ``rust/ironpost-detect/src/explainer.rs``.
        """
        known = logsource or {}
        told = (known.get("product"), known.get("category"), known.get("service"))
        found: list[dict[str, Any]] = json.loads(self._native.explain(events, told, list(rule_ids), nearest))
        return found
