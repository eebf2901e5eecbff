"""Sigma conditions: ``selection and not 1 of filter_*``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from ironpost.errors import RuleError

Expression = dict[str, Any]
"""An expression of the plan."""

_TOKEN = re.compile(r"\s*(?:([()|])|([^\s()|]+))")
_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
_PATTERN = re.compile(r"[A-Za-z0-9_.\-*]+")
_WORDS = frozenset({"and", "or", "not", "of", "all", "any", "1", "them"})
_MAX_DEPTH = 60
_MAX_WORDS = 2_000
"""Words and brackets of one condition; the longest public one has 38."""
_MAX_REFERENCES = 20_000
"""Detections a condition may name, those that patterns stand for included."""
_QUANTITY = re.compile(r"[0-9]+")


def parse_condition(text: str, names: Iterable[str]) -> Expression:
    """Parses a condition over the named detections.

    ``or`` binds weakest, then ``and``, ``not`` and ``x of y``.

    Raises:
        RuleError: For a syntax error or a name that is no detection of the rule.
    """
    return _Parser(text, list(names)).parse()


class _Parser:
    def __init__(self, text: str, names: list[str]) -> None:
        self._names = names
        self._tokens: list[str] = []
        position = 0
        stripped = text.rstrip()
        while position < len(stripped):
            found = _TOKEN.match(stripped, position)
            if found is None:  # pragma: no cover - the pattern takes any character
                raise RuleError(f"condition can't be read at {stripped[position:]!r}")
            self._tokens.append(found.group(1) or found.group(2))
            position = found.end()
            if len(self._tokens) > _MAX_WORDS:
                raise RuleError(f"condition has more than {_MAX_WORDS:,} words")
        self._at = 0
        self._depth = 0
        self._references = 0

    def parse(self) -> Expression:
        if not self._tokens:
            raise RuleError("condition is empty")
        if "|" in self._tokens:
            raise RuleError("aggregations after '|' are no longer part of Sigma; write a correlation rule instead")
        expression = self._or()
        if self._at < len(self._tokens):
            raise RuleError(f"condition: unexpected {self._tokens[self._at]!r}")
        return expression

    def _peek(self) -> str:
        return self._tokens[self._at].lower() if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise RuleError("condition ends too early")
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _or(self) -> Expression:
        parts = [self._and()]
        while self._peek() == "or":
            self._next()
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else {"or": parts}

    def _and(self) -> Expression:
        parts = [self._not()]
        while self._peek() == "and":
            self._next()
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else {"and": parts}

    def _not(self) -> Expression:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise RuleError(f"condition is nested deeper than {_MAX_DEPTH} levels")
        try:
            if self._peek() == "not":
                self._next()
                return {"not": self._not()}
            return self._term()
        finally:
            self._depth -= 1

    def _term(self) -> Expression:
        word = self._next()
        if word == "(":
            inner = self._or()
            if self._at >= len(self._tokens) or self._next() != ")":
                raise RuleError("condition: a bracket is not closed")
            return inner
        lowered = word.lower()
        if lowered in {"1", "all", "any"} and self._peek() == "of":
            self._next()
            return self._of(lowered)
        if _QUANTITY.fullmatch(word) and self._peek() == "of":
            raise RuleError(f"condition: '{word} of' is not Sigma", hint="write '1 of', 'any of' or 'all of'")
        if lowered in _WORDS - {"1", "all", "any", "them"} or word == ")":
            raise RuleError(f"condition: unexpected {word!r}")
        if not _NAME.fullmatch(word):
            raise RuleError(f"condition: {word!r} is no name of a detection")
        if word not in self._names:
            near = get_close_matches(word, self._names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else ""
            raise RuleError(f"condition names {word!r}, but there is no such detection", hint=hint)
        self._count(1)
        return {"ref": word}

    def _count(self, references: int) -> None:
        self._references += references
        if self._references > _MAX_REFERENCES:
            raise RuleError(f"condition stands for more than {_MAX_REFERENCES:,} detections")

    def _of(self, quantity: str) -> Expression:
        target = self._next()
        if target.lower() == "them":
            chosen = [name for name in self._names if not name.startswith("_")]
        else:
            if not _PATTERN.fullmatch(target):
                raise RuleError(f"condition: {target!r} is no name or pattern")
            hidden = target.startswith("_")
            chosen = [name for name in self._names if _fits(target, name) and (hidden or not name.startswith("_"))]
        if not chosen:
            raise RuleError(f"condition: '{quantity} of {target}' fits no detection")
        self._count(len(chosen))
        references: list[Expression] = [{"ref": name} for name in chosen]
        if len(references) == 1:
            return references[0]
        return {"and": references} if quantity == "all" else {"or": references}


def _fits(pattern: str, name: str) -> bool:
    """Says whether a pattern with ``*`` is the whole name; a regular expression could take forever."""
    first, *pieces = pattern.split("*")
    if not pieces:
        return pattern == name
    last = pieces.pop()
    if not name.startswith(first) or len(name) < len(first) + len(last) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in pieces:
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True
