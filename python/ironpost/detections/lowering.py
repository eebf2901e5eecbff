"""Sigma detections to expressions of the plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ironpost.detections.conditions import Expression, parse_condition
from ironpost.detections.documents import Section
from ironpost.detections.field_maps import FieldMapper
from ironpost.detections.regexes import RegexCheck
from ironpost.detections.values import Modifiers, Test, tests_of
from ironpost.errors import RuleError

MAX_COMPARISONS = 20_000
"""Most values one rule may compare with, counted after modifiers and placeholders multiplied them. The largest public
rule has 4,433."""
MAX_EXECUTED = 100_000
"""The same counted again each time the condition names their selection."""
MAX_REGEXES = 200
"""Most regular expressions of one rule; each costs the engine up to a few megabytes."""
_NOT_DETECTIONS = frozenset({"condition", "timeframe"})
_NEED_A_FIELD = {
    "exists": "could exist",
    "null": "could be null",
    "fieldref": "could equal another",
    "timepart": "could be a time",
    **dict.fromkeys(("lt", "lte", "gt", "gte"), "could be compared"),
}


@dataclass(frozen=True, slots=True)
class RuleWarning:
    """Something in a rule that is allowed and probably not meant."""

    line: int
    field: str
    reason: str
    hint: str = ""


@dataclass(slots=True)
class Account:
    """What a rule has used of its limits, and what a reader of it should know."""

    comparisons: int = 0
    regexes: int = 0
    warnings: list[RuleWarning] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lowering:
    """What lowering needs to know besides the rule."""

    mapper: FieldMapper
    placeholders: Mapping[str, Sequence[str]]
    check_regex: RegexCheck
    path: str = ""
    account: Account = field(default_factory=Account)
    spelled_out: bool = False
    """The conditions name the event fields themselves, because the rule they join has another field map."""

    def detection_section(
        self, section: Any, line: int, *, what: str = "detection"
    ) -> tuple[dict[str, Expression], Expression]:
        """Lowers a whole ``detection`` mapping to named expressions and the condition over them.

        Raises:
            RuleError: With the line at fault.
        """
        if not isinstance(section, Section):
            raise RuleError(f"{what} is a mapping", path=self.path, line=line, field=what)
        named: dict[str, Expression] = {}
        for name, body in section.items():
            if name in _NOT_DETECTIONS:
                continue
            named[name] = self.selection(name, body, section.line_of(name))
        if not named:
            raise RuleError(f"{what} has no selection", path=self.path, line=section.line, field=what)
        if "condition" not in section:
            raise RuleError(f"{what} has no condition", path=self.path, line=section.line, field="condition")
        condition_line = section.line_of("condition")
        written = section["condition"]
        conditions = written if isinstance(written, list) else [written]
        if not conditions or not all(isinstance(text, str) for text in conditions):
            raise RuleError(
                "condition is text or a list of texts", path=self.path, line=condition_line, field="condition"
            )
        try:
            parsed = [parse_condition(text, named) for text in conditions]
        except RuleError as error:
            raise RuleError(
                error.reason, path=self.path, line=condition_line, field="condition", hint=error.hint
            ) from None
        sizes = {name: sum(1 for _ in atoms_of([body])) for name, body in named.items()}
        total = sum(sizes[name] for name in references_of(parsed))
        if total > MAX_EXECUTED:
            reason = f"the condition stands for {total:,} comparisons, at most {MAX_EXECUTED:,} are allowed"
            raise RuleError(reason, path=self.path, line=condition_line, field="condition")
        used = set(references_of(parsed))
        for name in named:
            if name not in used:
                self._warn(section.line_of(name), name, "the condition never names this selection")
        if "timeframe" in section:
            self._warn(section.line_of("timeframe"), "timeframe", "has no effect", "write a correlation with timespan")
        return named, parsed[0] if len(parsed) == 1 else {"or": parsed}

    def _warn(self, line: int, field: str, reason: str, hint: str = "") -> None:
        self.account.warnings.append(RuleWarning(line, field, reason, hint))

    def selection(self, name: str, body: Any, line: int) -> Expression:
        """Lowers one named detection."""
        if isinstance(body, Section):
            return self._mapping(name, body)
        if isinstance(body, list):
            if not body:
                raise RuleError("a selection can't be empty", path=self.path, line=line, field=name)
            return _any([self.selection(name, item, item.line if isinstance(item, Section) else line) for item in body])
        if body is None:
            raise RuleError("a selection can't be empty", path=self.path, line=line, field=name)
        return self._values(name, "", Modifiers(), [body], line)

    def _mapping(self, name: str, body: Section) -> Expression:
        if not body:
            raise RuleError("a selection can't be empty", path=self.path, line=body.line, field=name)
        parts = []
        for key, value in body.items():
            line = body.line_of(key)
            field, *modifiers = (part.strip() for part in key.split("|"))
            field = field.replace(" ", "")  # the specification leaves blanks out of names; events may have them
            try:
                parsed = Modifiers.parse(modifiers)
            except RuleError as error:
                raise RuleError(error.reason, path=self.path, line=line, field=key, hint=error.hint) from None
            values = value if isinstance(value, list) else [value]
            if parsed.all and len(values) == 1:
                self._warn(line, key, "'all' has no effect on a single value", "leave it out")
            parts.append(self._values(key, field, parsed, values, line))
        return _all(parts)

    def _values(self, key: str, field: str, modifiers: Modifiers, values: Sequence[Any], line: int) -> Expression:
        if not values:
            raise RuleError("a list of values can't be empty", path=self.path, line=line, field=key)
        if len(values) > 1 and None in values:
            hint = "ask for null in a selection of its own and join the two in the condition"
            raise RuleError("null can't be part of a list of values", path=self.path, line=line, field=key, hint=hint)
        parts = []
        for value in values:
            try:
                tests = tests_of(
                    value, modifiers, keyword=not field, placeholders=self.placeholders, check_regex=self.check_regex
                )
                self._count(tests)
                parts.append(_any([self._atom(field, test) for test in tests]))
            except RuleError as error:
                raise type(error)(error.reason, path=self.path, line=line, field=key, hint=error.hint) from None
        combined = _all(parts) if modifiers.all else _any(parts)
        return {"not": combined} if modifiers.neq else combined

    def _count(self, tests: Sequence[Test]) -> None:
        self.account.comparisons += len(tests)
        if self.account.comparisons > MAX_COMPARISONS:
            hint = "split it into several rules"
            raise RuleError(f"the rule's values make more than {MAX_COMPARISONS:,} comparisons", hint=hint)
        self.account.regexes += sum(test.op == "regex" for test in tests)
        if self.account.regexes > MAX_REGEXES:
            raise RuleError(f"the rule has more than {MAX_REGEXES} regular expressions")

    def _atom(self, field: str, test: Test) -> Expression:
        if not field:
            if test.op in _NEED_A_FIELD:
                raise RuleError(f"keywords have no field that {_NEED_A_FIELD[test.op]}")
            return atom(None, test)
        if test.op == "exists" and not test.value:
            return {"not": self._atom(field, Test("exists", True))}
        if not self.spelled_out:
            return atom(field, test)
        # A condition that joins a rule whose names mean something else: every name an event may use, one by one.
        targets = self.mapper.targets(field)
        if test.op == "null":
            return _all([atom(target, test) for target in targets])
        if test.op == "fieldref":
            other = self.mapper.targets(test.value["field"])
            pairs = [(target, reference) for target in targets for reference in other]
            return _any([atom(t, Test("fieldref", {**test.value, "field": o}, test.cased)) for t, o in pairs])
        return _any([atom(target, test) for target in targets])


def atom(field: str | None, test: Test) -> Expression:
    """One condition of the plan."""
    made: dict[str, Any] = {"field": field, "op": test.op}
    if test.op not in {"exists", "null"}:
        made["value"] = test.value
    if test.cased:
        made["cased"] = True
    return {"atom": made}


def _any(parts: list[Expression]) -> Expression:
    return parts[0] if len(parts) == 1 else {"or": parts}


def _all(parts: list[Expression]) -> Expression:
    return parts[0] if len(parts) == 1 else {"and": parts}


def atoms_of(expressions: Iterable[Expression]) -> Iterator[dict[str, Any]]:
    """Yields every atom of the expressions."""
    stack = list(expressions)
    while stack:
        expression = stack.pop()
        if "atom" in expression:
            yield expression["atom"]
        elif "not" in expression:
            stack.append(expression["not"])
        else:
            stack.extend(expression.get("and", ()))
            stack.extend(expression.get("or", ()))


def references_of(expressions: Iterable[Expression]) -> Iterator[str]:
    """Yields the name of a detection each time the expressions refer to it."""
    stack = list(expressions)
    while stack:
        expression = stack.pop()
        if "ref" in expression:
            yield expression["ref"]
        elif "not" in expression:
            stack.append(expression["not"])
        else:
            stack.extend(expression.get("and", ()))
            stack.extend(expression.get("or", ()))
