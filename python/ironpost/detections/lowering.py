"""Sigma detections to expressions of the plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ironpost.detections.conditions import Expression, parse_condition
from ironpost.detections.documents import Section
from ironpost.detections.field_maps import FieldMapper
from ironpost.detections.values import Modifiers, RegexCheck, Test, tests_of
from ironpost.errors import RuleError

MAX_ITEMS = 100_000
"""Most conditions one rule may have after expansion."""
_NOT_DETECTIONS = frozenset({"condition", "timeframe"})


@dataclass(frozen=True, slots=True)
class Lowering:
    """What lowering needs to know besides the rule."""

    mapper: FieldMapper
    placeholders: Mapping[str, Sequence[str]]
    check_regex: RegexCheck
    path: str = ""

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
            raise RuleError(error.reason, path=self.path, line=condition_line, field="condition") from None
        return named, parsed[0] if len(parsed) == 1 else {"or": parsed}

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
            try:
                parsed = Modifiers.parse(modifiers)
            except RuleError as error:
                raise RuleError(error.reason, path=self.path, line=line, field=key, hint=error.hint) from None
            values = value if isinstance(value, list) else [value]
            parts.append(self._values(key, field, parsed, values, line))
        return _all(parts)

    def _values(self, key: str, field: str, modifiers: Modifiers, values: Sequence[Any], line: int) -> Expression:
        if not values:
            raise RuleError("a list of values can't be empty", path=self.path, line=line, field=key)
        parts = []
        for value in values:
            try:
                tests = tests_of(
                    value, modifiers, keyword=not field, placeholders=self.placeholders, check_regex=self.check_regex
                )
                parts.append(_any([self._atom(field, test) for test in tests]))
            except RuleError as error:
                raise RuleError(error.reason, path=self.path, line=line, field=key, hint=error.hint) from None
        combined = _all(parts) if modifiers.all else _any(parts)
        return {"not": combined} if modifiers.neq else combined

    def _atom(self, field: str, test: Test) -> Expression:
        if not field:
            if test.op in {"exists", "null"}:
                raise RuleError("a keyword can't be null or exist")
            return atom(None, test)
        targets = self.mapper.targets(field)
        if test.op == "exists":
            found = _any([atom(target, test) for target in targets])
            return found if test.value else {"not": found}
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


def can_hold(expression: Expression, named: Mapping[str, Expression], supplied: frozenset[str]) -> bool:
    """Says whether the expression can be true when only the ``supplied`` fields ever occur."""
    return _three_valued(expression, named, supplied) is not False


def _three_valued(expression: Expression, named: Mapping[str, Expression], supplied: frozenset[str]) -> bool | None:
    if "atom" in expression:
        made = expression["atom"]
        if made["field"] is None or made["field"] in supplied:
            return None
        return bool(made["op"] == "null")
    if "ref" in expression:
        return _three_valued(named[expression["ref"]], named, supplied)
    if "const" in expression:
        return bool(expression["const"])
    if "not" in expression:
        inner = _three_valued(expression["not"], named, supplied)
        return None if inner is None else not inner
    kind = "and" if "and" in expression else "or"
    decisive = kind == "or"
    unknown = False
    for part in expression[kind]:
        value = _three_valued(part, named, supplied)
        if value is decisive:
            return decisive
        unknown |= value is None
    return None if unknown else not decisive
