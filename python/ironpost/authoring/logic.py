"""Conditions that can't fail, or can't hold, whatever the event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from typing import Any

#: Distinct conditions up to which every combination is tried; beyond, whole selections are the unknowns.
_MAX_ATOMS = 8
_MAX_SELECTIONS = 10


def constant_condition(condition: Mapping[str, Any], named: Mapping[str, Any]) -> bool | None:
    """Returns what the condition is for every event, or None when that depends on the event.

    Two comparisons of one field count as dependent when one text contains the other, or when both are whole values.
    """
    atoms = _atoms(condition, named)
    if len(atoms) <= _MAX_ATOMS:
        return _over_atoms(condition, named, atoms)
    references = sorted(_used(condition))
    if not references or len(references) > _MAX_SELECTIONS:
        return None
    # Equal selections under two names are one unknown.
    bodies = {name: json.dumps(named[name], sort_keys=True, default=str) for name in references}
    unknowns = sorted(set(bodies.values()))
    found = set()
    for values in product((False, True), repeat=len(unknowns)):
        state = dict(zip(unknowns, values, strict=True))
        found.add(
            _value(condition, {}, lambda part, state=state: state[bodies[part["ref"]]] if "ref" in part else None)
        )
        if len(found) > 1:
            return None
    return found.pop()


def holds_on_nothing(condition: Mapping[str, Any], named: Mapping[str, Any]) -> bool:
    """Says whether the condition holds on an event without any field."""
    return _value(condition, named, lambda part: part["atom"]["op"] == "null" if "atom" in part else None)


def _over_atoms(condition: Mapping[str, Any], named: Mapping[str, Any], atoms: dict[str, Any]) -> bool | None:
    keys = list(atoms)
    implied = [
        (one, other)
        for one in keys
        for other in keys
        if one != other and _implies(atoms[one]["atom"], atoms[other]["atom"])
    ]
    exclusive = [
        (one, other)
        for index, one in enumerate(keys)
        for other in keys[index + 1 :]
        if _excludes(atoms[one]["atom"], atoms[other]["atom"])
    ]
    found = set()
    for values in product((False, True), repeat=len(keys)):
        state = dict(zip(keys, values, strict=True))
        if any(state[one] and not state[other] for one, other in implied):
            continue
        if any(state[one] and state[other] for one, other in exclusive):
            continue
        found.add(_value(condition, named, lambda part, state=state: state[_key(part)] if "atom" in part else None))
        if len(found) > 1:
            return None
    return found.pop() if found else None


def _value(expression: Mapping[str, Any], named: Mapping[str, Any], leaf: Any) -> bool:
    known = leaf(expression)
    if known is not None:
        return bool(known)
    if "ref" in expression:
        return _value(named[expression["ref"]], named, leaf)
    if "const" in expression:
        return bool(expression["const"])
    if "not" in expression:
        return not _value(expression["not"], named, leaf)
    if "and" in expression:
        return all(_value(part, named, leaf) for part in expression["and"])
    return any(_value(part, named, leaf) for part in expression.get("or", ()))


def _key(part: Mapping[str, Any]) -> str:
    return json.dumps(part["atom"], sort_keys=True, default=str)


def _atoms(condition: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    stack = [condition]
    while stack and len(found) <= _MAX_ATOMS:
        part = stack.pop()
        if "atom" in part:
            found[_key(part)] = part
        elif "ref" in part:
            stack.append(named[part["ref"]])
        elif "not" in part:
            stack.append(part["not"])
        else:
            stack += (*part.get("and", ()), *part.get("or", ()))
    return found


def _used(condition: Mapping[str, Any]) -> set[str]:
    if "ref" in condition:
        return {condition["ref"]}
    if "not" in condition:
        return _used(condition["not"])
    return {name for part in (*condition.get("and", ()), *condition.get("or", ())) for name in _used(part)}


def _comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    same = one["field"] is not None and one["field"] == other["field"]
    return same and all(isinstance(atom.get("value"), str) and not atom.get("cased") for atom in (one, other))


def _implies(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether every value that fits the one fits the other."""
    if one["field"] is not None and one["field"] == other["field"] and other["op"] == "exists":
        return one["op"] not in {"null", "exists"}
    if not _comparable(one, other) or one["op"] not in {"equals", "contains", "startswith", "endswith"}:
        return False
    text, part = one["value"].lower(), other["value"].lower()
    if other["op"] == "contains":
        return part in text
    if other["op"] == "startswith":
        return bool(one["op"] in {"equals", "startswith"} and text.startswith(part))
    if other["op"] == "endswith":
        return bool(one["op"] in {"equals", "endswith"} and text.endswith(part))
    return False


def _excludes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether no single value fits both."""
    if {one["op"], other["op"]} == {"null", "exists"}:
        return False  # a null is both
    if "null" in {one["op"], other["op"]} and one["field"] == other["field"]:
        return bool(one["op"] != other["op"])
    if not _comparable(one, other):
        return False
    whole, rest = (one, other) if one["op"] == "equals" else (other, one)
    if whole["op"] != "equals":
        return False
    text, part = whole["value"].lower(), rest["value"].lower()
    outcomes: dict[str, bool] = {
        "equals": text != part,
        "contains": part not in text,
        "startswith": not text.startswith(part),
        "endswith": not text.endswith(part),
    }
    return outcomes.get(str(rest["op"]), False)
