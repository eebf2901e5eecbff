"""Correlations the slow and obvious way: every event kept, every window counted anew.

Written from the Sigma correlation specification and ``docs/reference/plan.md``; nothing of the engine is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Seen:
    """One event: when, which rules match it, its group, its value, and how many events it stands for.

    ``read`` has the value that each rule reads where an alias lets them read different fields.
    """

    time: int
    rules: frozenset[str]
    group: str | None
    value: Any = None
    weight: int = 1
    read: tuple[tuple[str, Any], ...] = ()


def holds_numbers(condition: Mapping[str, float], measure: Fraction) -> bool:
    compare = {
        "gt": measure.__gt__,
        "gte": measure.__ge__,
        "lt": measure.__lt__,
        "lte": measure.__le__,
        "eq": measure.__eq__,
        "neq": measure.__ne__,
    }
    return all(compare[name](Fraction(str(number))) for name, number in condition.items())


def holds_rules(expression: Mapping[str, Any], present: frozenset[str]) -> bool:
    if "rule" in expression:
        return expression["rule"] in present
    if "not" in expression:
        return not holds_rules(expression["not"], present)
    parts = [holds_rules(part, present) for part in expression.get("and", expression.get("or"))]
    return all(parts) if "and" in expression else any(parts)


def percentile(values: Sequence[Fraction], which: Fraction) -> Fraction:
    ranked = sorted(values)
    rank = which / 100 * (len(ranked) - 1)
    low = int(rank)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (rank - low)


def longest_run(steps: Sequence[str], events: Sequence[Seen]) -> int:
    """The most of the steps that the events show in order, one event for one step (longest common subsequence)."""
    best = [[0] * (len(steps) + 1) for _ in range(len(events) + 1)]
    for row, event in enumerate(events):
        for column, step in enumerate(steps):
            taken = best[row][column] + 1 if step in event.rules else 0
            best[row + 1][column + 1] = max(best[row][column + 1], best[row + 1][column], taken)
    return best[-1][-1]


def subsets(rules: Sequence[str]) -> Iterator[list[str]]:
    for bits in range(1, 1 << len(rules)):
        yield [rule for place, rule in enumerate(rules) if bits >> place & 1]


def satisfied(plan: Mapping[str, Any], events: Sequence[Seen], newest: Seen) -> bool:
    """Whether a window's events, in order of time, satisfy the condition."""
    kind, condition, rules = plan["type"], plan.get("condition", {}), plan["rules"]
    present = frozenset().union(*(event.rules for event in events))
    expression = plan.get("expression")
    if kind == "temporal":
        if expression:
            return holds_rules(expression, present)
        return holds_numbers(condition or {"gte": len(rules)}, Fraction(len(present)))
    if kind == "temporal_ordered":
        if expression:
            # What is asked for comes in order; what must be absent is absent altogether.
            return any(
                longest_run(chosen, events) == len(chosen) and holds_without(expression, frozenset(chosen), present)
                for chosen in subsets(rules)
            )
        return holds_numbers(condition or {"gte": len(rules)}, Fraction(longest_run(rules, events)))
    values = [event.value for event in events for _ in range(event.weight)]
    if kind == "event_count":
        measure = Fraction(len(values))
    elif kind == "value_count":
        several = {value for event in events for rule, value in event.read if rule in event.rules}
        measure = Fraction(len(several or set(values)))
    elif kind == "value_share":
        measure = Fraction(100 * values.count(newest.value), len(values))
    else:
        numbers = [Fraction(str(value)) for value in values]
        which = {"value_median": Fraction(50), "value_percentile": Fraction(str(plan.get("percentile", 0)))}
        total = sum(numbers, Fraction(0))
        measure = {"value_sum": total, "value_avg": total / len(numbers)}.get(kind) if kind not in which else None
        measure = percentile(numbers, which[kind]) if measure is None else measure
    return holds_numbers(condition, measure)


def holds_without(expression: Mapping[str, Any], chosen: frozenset[str], present: frozenset[str]) -> bool:
    """Whether it holds when rules asked for are the chosen ones, and rules ruled out are those that are absent."""
    if "rule" in expression:
        return expression["rule"] in chosen
    if "not" not in expression:
        parts = [holds_without(part, chosen, present) for part in expression.get("and", expression.get("or"))]
        return all(parts) if "and" in expression else any(parts)
    inner = expression["not"]
    if "rule" in inner:
        return inner["rule"] not in present
    if "not" in inner:
        return holds_without(inner["not"], chosen, present)
    name, other = ("and", "or") if "and" in inner else ("or", "and")
    return holds_without({other: [{"not": part} for part in inner[name]]}, chosen, present)


@dataclass
class Window:
    events: list[Seen] = field(default_factory=list)
    fired: bool = False

    @property
    def newest(self) -> int:
        return max((event.time for event in self.events), default=-(1 << 62))

    def take(self, event: Seen, plan: Mapping[str, Any]) -> tuple[bool, int | None]:
        """Whether the condition becomes true with an event, and the end of the first window in which it is true."""
        span, newest = plan["timespan_ns"], self.newest
        in_order = event.time >= newest
        if in_order and newest < event.time - span:
            self.fired = False
        self.events.append(event)
        self.events.sort(key=lambda one: one.time)  # stable: events of one time stay as they came
        ends = {one.time for one in self.events if event.time <= one.time <= event.time + span}
        windows = ((end, [one for one in self.events if end - span <= one.time <= end]) for end in sorted(ends))
        end = next((end for end, window in windows if satisfied(plan, window, event)), None)
        before, self.fired = self.fired, end is not None or (self.fired and not in_order)
        return end is not None and not before, end


def observed(plan: Mapping[str, Any], events: Sequence[Seen]) -> Iterator[tuple[int, bool, int | None]]:
    """What each event that counts does: its index, whether the condition becomes true, where it is true."""
    groups: dict[str, tuple[Window, Window]] = {}
    allowed = max(plan["timespan_ns"], plan.get("lateness_ns", 0))
    numeric = plan["type"] in {"value_sum", "value_avg", "value_median", "value_percentile"}
    for index, event in enumerate(events):
        matched = event.rules & set(plan["rules"])
        valued = plan["type"].startswith("value_") and not event.read
        if event.group is None or not matched or (valued and event.value is None):
            continue
        if numeric and not isinstance(event.value, (int, float)):
            continue
        current, behind = groups.setdefault(event.group, (Window(), Window()))
        for window in (current, behind):
            if event.time >= window.newest - allowed:
                yield index, *window.take(replace(event, rules=matched), plan)
                break


def crossings(plan: Mapping[str, Any], events: Sequence[Seen]) -> list[int]:
    """Indices of the events at which the correlation reports."""
    return [index for index, crossed, _ in observed(plan, events) if crossed]


def chained(inner: Mapping[str, Any], outer: Mapping[str, Any], events: Sequence[Seen]) -> tuple[list[int], list[int]]:
    """Indices at which two correlations report of which the outer one builds on the inner one, named ``inner``.

    The inner one is a match of the outer one at every event with which its condition is true. An event that a rule of
    the outer one matches as well is one step for both, which is left to the caller to avoid.
    """
    true = {index: (crossed, end) for index, crossed, end in observed(inner, events) if end is not None}
    matches, origins = [], []
    for index, event in enumerate(events):
        if event.rules & set(outer["rules"]):
            matches.append(event)
            origins.append(index)
        if index in true:
            matches.append(replace(event, time=true[index][1], rules=frozenset({"inner"}), weight=1))
            origins.append(index)
    reported = [index for index, (crossed, _) in true.items() if crossed]
    return reported, [origins[index] for index in crossings(outer, matches)]
