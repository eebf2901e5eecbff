"""pySigma, the reference converter, as arbiter of parsing: its reading of a rule and ours in one comparable form.

A form is a nested tuple: ``("and", {…})``, ``("or", {…})``, ``("not", form)``, ``("name", detection)`` or an atom
``(field, operator, value, cased)``. Text is a tuple of literals and wildcards: ``contains`` and ``*…*`` are the same.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sigma.conditions import ConditionAND, ConditionIdentifier, ConditionNOT, ConditionOR, ConditionSelector
from sigma.modifiers import SigmaEndswithModifier, SigmaStartswithModifier
from sigma.rule import SigmaDetection, SigmaDetectionItem, SigmaRule
from sigma.types import (
    Placeholder,
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SigmaTimestampPart,
    SpecialChars,
)

from support.sigma_reference import number_of

Form = tuple[Any, ...]
MANY, ONE = ("*",), ("?",)
FLAGS = {"IGNORECASE": "i", "MULTILINE": "m", "DOTALL": "s"}


def joined(kind: str, parts: Iterable[Form]) -> Form:
    """Flat, without repetition, and a single part for itself."""
    flat: set[Form] = set()
    for part in parts:
        flat |= part[1] if part[0] == kind else {part}
    return next(iter(flat)) if len(flat) == 1 else (kind, frozenset(flat))


def text_form(parts: Iterable[Any]) -> Form:
    made: list[Any] = []
    for part in parts:
        if part == "" or (part == MANY and made and made[-1] == MANY):
            continue
        if isinstance(part, str) and made and isinstance(made[-1], str):
            made[-1] += part
        else:
            made.append(part)
    return tuple(made)


def regex_form(pattern: str, flags: Iterable[str]) -> Form:
    """Dialects differ in what needs a backslash; what it means is compared by running it."""
    flags = set(flags)
    while found := re.match(r"\(\?([ims]+)\)", pattern):
        flags |= set(found[1])
        pattern = pattern[found.end() :]
    return (pattern.replace("\\", ""), frozenset(flags))


# --- theirs ---------------------------------------------------------------------------------------------------------


def theirs(text: str) -> tuple[dict[str, Form], Form]:
    """Their detections by name, and its condition over the names.

    Raises:
        SigmaError: When pySigma refuses the rule.
    """
    rule = SigmaRule.from_yaml(text)
    named = {name: _detection(body) for name, body in rule.detection.detections.items() if name != "timeframe"}
    for condition in rule.detection.parsed_condition:
        condition.parse()  # also resolves the names
    conditions = [_condition(parsed.parse(postprocess=False), rule) for parsed in rule.detection.parsed_condition]
    return named, joined("or", conditions)


def _condition(node: Any, rule: SigmaRule) -> Form:
    if isinstance(node, ConditionIdentifier):
        return ("name", node.identifier)
    if isinstance(node, ConditionSelector):
        chosen = [("name", found.identifier) for found in node.resolve_referenced_detections(rule.detection)]
        return joined("and" if node.cond_class is ConditionAND else "or", chosen)
    if isinstance(node, ConditionNOT):
        return ("not", _condition(node.args[0], rule))
    assert isinstance(node, (ConditionAND, ConditionOR))
    return joined("and" if isinstance(node, ConditionAND) else "or", [_condition(arg, rule) for arg in node.args])


def _detection(body: SigmaDetection | SigmaDetectionItem) -> Form:
    if isinstance(body, SigmaDetection):
        kind = "and" if body.item_linking is ConditionAND else "or"
        return joined(kind, [_detection(part) for part in body.detection_items])
    kind = "and" if body.value_linking is ConditionAND else "or"
    anchored = bool({SigmaStartswithModifier, SigmaEndswithModifier} & set(body.modifiers))
    form = joined(kind, [_value(body.field or "", value, anchored=anchored) for value in body.value])
    return ("not", form) if body.negated else form


def _value(field: str, value: Any, *, anchored: bool) -> Form:
    if isinstance(value, SigmaExpansion):
        return joined("or", [_value(field, part, anchored=anchored) for part in value.values])
    if isinstance(value, SigmaString):
        named = {SpecialChars.WILDCARD_MULTI: MANY, SpecialChars.WILDCARD_SINGLE: ONE}
        parts = [f"<{part.name}>" if isinstance(part, Placeholder) else named.get(part, part) for part in value.s]
        loose = [] if field or anchored else [MANY]
        return (field, "text", text_form([*loose, *parts, *loose]), isinstance(value, SigmaCasedString))
    if isinstance(value, SigmaTimestampPart):
        return (field, "time", (value.timestamp_part.name.lower(), "eq", int(value.number)), False)
    if isinstance(value, SigmaCompareExpression):
        if isinstance(value.number, SigmaTimestampPart):
            part = value.number.timestamp_part.name.lower()
            return (field, "time", (part, value.op.name.lower(), int(value.number.number)), False)
        return (field, value.op.name.lower(), number_of(str(value.number.number)), False)
    if isinstance(value, (SigmaNumber, SigmaBool)):
        loose = [] if field else [MANY]
        return (field, "text", text_form([*loose, str(value).lower(), *loose]), False)
    if isinstance(value, SigmaNull):
        return (field, "null", None, False)
    if isinstance(value, SigmaExists):
        form = (field, "exists", None, False)
        return form if value.exists else ("not", form)
    if isinstance(value, SigmaRegularExpression):
        named = {SpecialChars.WILDCARD_MULTI: "*", SpecialChars.WILDCARD_SINGLE: "?"}
        parts = [
            f"<{part.name}>" if isinstance(part, Placeholder) else named.get(part, part) for part in value.regexp.s
        ]
        return (field, "regex", regex_form("".join(parts), (FLAGS[flag.name] for flag in value.flags)), False)
    if isinstance(value, SigmaCIDRExpression):
        return (field, "cidr", ipaddress.ip_network(value.cidr, strict=False), False)
    assert isinstance(value, SigmaFieldReference), value
    how = {(False, False): "equals", (True, False): "startswith", (False, True): "endswith", (True, True): "contains"}
    return (field, "fieldref", (value.field, how[value.starts_with, value.ends_with]), False)


# --- ours -----------------------------------------------------------------------------------------------------------


def ours(plan: Mapping[str, Any]) -> tuple[dict[str, Form], Form]:
    """The same of a rule of our plan."""
    return {name: _expression(body) for name, body in plan["detections"].items()}, _expression(plan["condition"])


def _expression(expression: Mapping[str, Any]) -> Form:
    ((kind, inner),) = expression.items()
    if kind in {"and", "or"}:
        return joined(kind, [_expression(part) for part in inner])
    if kind == "not":
        return ("not", _expression(inner))
    return ("name", inner) if kind == "ref" else _atom(inner)


def _atom(atom: Mapping[str, Any]) -> Form:
    field, value, cased = atom["field"] or "", atom.get("value"), atom.get("cased", False)
    match atom["op"]:
        case "equals" | "contains" | "startswith" | "endswith" as anchor:
            before = [MANY] if anchor in {"contains", "endswith"} else []
            after = [MANY] if anchor in {"contains", "startswith"} else []
            return (field, "text", text_form([*before, value, *after]), cased)
        case "wildcard":
            parts = [part if isinstance(part, str) else (part["wild"],) for part in value]
            return (field, "text", text_form(parts), cased)
        case "regex":
            return (field, "regex", regex_form(value.replace(r"(?:\n?$)", "$"), ""), False)
        case "cidr":
            return (field, "cidr", ipaddress.ip_network(value, strict=False), False)
        case "lt" | "lte" | "gt" | "gte" as compare:
            return (field, compare, number_of(str(value)), False)
        case "timepart":
            return (field, "time", (value["part"], value["compare"], value["number"]), False)
        case "fieldref":
            return (field, "fieldref", (value["field"], value["match"]), False)
        case other:
            return (field, other, None, False)
