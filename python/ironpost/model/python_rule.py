"""Rules written in Python: a Sigma detection chooses the events, a function judges them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

CALL_SECONDS = 1.0
"""A call that takes longer is ended, and its rule disabled."""
LOAD_SECONDS = 10.0
"""A file that takes longer to import is refused."""
MAX_FACTS = 16
"""Facts of one verdict that are reported."""
MAX_FACT_CHARACTERS = 1024
"""Longer facts are cut."""

Verdict: TypeAlias = bool | str | Mapping[str, Any] | None
"""What a function says of an event: false or ``None`` is no match; text is a reason and a mapping facts to report."""

Judge: TypeAlias = Callable[[Mapping[str, Any]], Verdict]


@dataclass(frozen=True, slots=True)
class PythonRule:
    """A function with what it needs to be a rule; it can still be called.

    Attributes:
        prefilter: A Sigma ``detection``: selections and their condition. Only events it holds for reach the function.
        function: Gets the event: an immutable mapping of dotted names to text, numbers, booleans, ``None`` or tuples of
            them.
    """

    id: str
    title: str
    level: str
    prefilter: Mapping[str, Any]
    logsource: Mapping[str, str]
    function: Judge
    description: str = ""
    tags: tuple[str, ...] = ()
    entity: tuple[str, ...] = ()
    path: str = ""
    line: int = 0

    def __call__(self, event: Mapping[str, Any]) -> Verdict:
        """Judges an event, as the function does."""
        return self.function(event)

    def document(self) -> dict[str, Any]:
        """Returns the rule as the Sigma document that its prefilter is."""
        made: dict[str, Any] = {
            "title": self.title,
            "id": self.id,
            "level": self.level,
            "description": self.description,
            "tags": list(self.tags),
            "logsource": dict(self.logsource),
            "detection": dict(self.prefilter),
        }
        if self.entity:
            made["ironpost"] = {"entity": list(self.entity)}
        return made


def rule(
    *,
    id: str,  # noqa: A002 - Sigma's word
    title: str,
    prefilter: Mapping[str, Any],
    logsource: Mapping[str, str],
    level: str = "medium",
    tags: tuple[str, ...] | list[str] = (),
    entity: tuple[str, ...] | list[str] = (),
) -> Callable[[Judge], PythonRule]:
    """Makes a rule of a function.

    Args:
        id: Unique among all rules.
        title: As alerts show it.
        prefilter: A Sigma ``detection``: selections and their ``condition``. It is executed by the engine, and only the
            events it holds for reach the function.
        logsource: Product, category and service of the events.
        level: ``informational``, ``low``, ``medium``, ``high`` or ``critical``.
        tags: As in Sigma, for example ``attack.t1110``.
        entity: Fields of which the first present names what an alert is about.

    Returns:
        A decorator. The function's docstring becomes the description.
    """

    def decorate(function: Judge) -> PythonRule:
        code = getattr(function, "__code__", None)
        return PythonRule(
            id=id,
            title=title,
            level=level,
            prefilter=prefilter,
            logsource=logsource,
            function=function,
            description=(function.__doc__ or "").strip(),
            tags=tuple(tags),
            entity=tuple(entity),
            path=code.co_filename if code else "",
            line=code.co_firstlineno if code else 0,
        )

    return decorate


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call: facts to report (``None``: no match), or an error."""

    facts: Mapping[str, str] | None
    seconds: float
    error: str = ""


def judged(rule: PythonRule, event: str | bytes) -> Answer:
    """Calls a rule's function with an event given as JSON; whatever it raises is part of the answer."""
    values = json.loads(event)
    frozen = MappingProxyType({name: _frozen(value) for name, value in values.items()})
    began = time.perf_counter()
    facts: dict[str, str] | None = None
    error = ""
    try:
        facts = facts_of(rule.function(frozen))
    except (Exception, SystemExit) as raised:  # noqa: BLE001 - a rule's errors are counted and named, not ours to handle
        error = f"{type(raised).__name__}: {raised}"[:MAX_FACT_CHARACTERS]
    return Answer(facts, time.perf_counter() - began, error)


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return MappingProxyType({name: _frozen(item) for name, item in value.items()}) if isinstance(value, dict) else value


def facts_of(verdict: Verdict) -> dict[str, str] | None:
    """Returns what a verdict reports; ``None`` when it is no match.

    Raises:
        TypeError: For a verdict that is none.
    """
    if verdict is None or verdict is False:
        return None
    if verdict is True:
        return {}
    if isinstance(verdict, str):
        return {"ironpost.reason": verdict[:MAX_FACT_CHARACTERS]} if verdict else None
    if isinstance(verdict, Mapping):
        pairs = list(verdict.items())[:MAX_FACTS]
        return {str(name)[:MAX_FACT_CHARACTERS]: str(value)[:MAX_FACT_CHARACTERS] for name, value in pairs}
    raise TypeError(f"a rule returns a bool, text, a mapping or None, not {type(verdict).__name__}")
