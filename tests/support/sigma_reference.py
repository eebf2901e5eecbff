"""Sigma evaluated the slow and obvious way, straight from the rule's data: the oracle for the engine."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any


def fold(text: str) -> str:
    """Lower case, one character for one."""
    return "".join({"\u017f": "s", "\u03c2": "\u03c3"}.get(c, c.lower() if len(c.lower()) == 1 else c) for c in text)


def matches(rule: dict[str, Any], event: dict[str, Any]) -> bool:
    detection = {name: body for name, body in rule["detection"].items() if name != "condition"}
    truth = {name: selection(body, event) for name, body in detection.items()}
    condition = rule["detection"]["condition"]
    return any(evaluate(text, truth) for text in (condition if isinstance(condition, list) else [condition]))


def evaluate(condition: str, truth: dict[str, bool]) -> bool:
    """Turns the condition into a Python expression over True and False."""

    def quantified(found: re.Match[str]) -> str:
        pattern = found[2]
        if pattern.lower() == "them":
            chosen = [value for name, value in truth.items() if not name.startswith("_")]
        else:
            chosen = [
                value
                for name, value in truth.items()
                if re.fullmatch(pattern.replace("*", ".*"), name)
                and (pattern.startswith("_") or not name.startswith("_"))
            ]
        return str(all(chosen) if found[1].lower() == "all" else any(chosen))

    text = re.sub(r"\b(1|all|any) of ([\w*]+)", quantified, condition, flags=re.IGNORECASE)
    text = re.sub(r"\b(and|or|not)\b", lambda found: found[0].lower(), text, flags=re.IGNORECASE)
    text = re.sub(r"\b\w+\b", lambda found: str(truth.get(found[0], found[0])), text)
    assert re.fullmatch(r"(?:True|False|and|or|not|[() ])+", text), text
    return bool(eval(text))


def selection(body: Any, event: dict[str, Any]) -> bool:
    if isinstance(body, list):
        return any(selection(item, event) for item in body)
    if isinstance(body, dict):
        return all(item(key, value, event) for key, value in body.items())
    return item("", body, event)


def item(key: str, value: Any, event: dict[str, Any]) -> bool:
    field, *modifiers = key.split("|")
    values = value if isinstance(value, list) else [value]
    results = [one(field, modifiers, wanted, event) for wanted in values]
    result = all(results) if "all" in modifiers else any(results)
    return not result if "neq" in modifiers else result


def found_values(field: str, event: Any) -> Iterator[Any]:
    """Every value of a field: a flat name, or a path through mappings and lists."""
    if isinstance(event, list):
        for part in event:
            yield from found_values(field, part)
    elif isinstance(event, dict):
        for name, inner in event.items():
            if name == field:
                yield from scalars(inner)
            elif field.startswith(name + "."):
                yield from found_values(field[len(name) + 1 :], inner)


def is_there(field: str, event: Any) -> bool:
    """Whether a field is there at all, be it null, empty, or an object."""
    if isinstance(event, list):
        return any(is_there(field, part) for part in event)
    return isinstance(event, dict) and any(
        name == field or (field.startswith(name + ".") and is_there(field[len(name) + 1 :], inner))
        for name, inner in event.items()
    )


def scalars(value: Any) -> Iterator[Any]:
    """What a field holds: an object is not a value of it, only what stands in the object is, under its own name."""
    if isinstance(value, list):
        for inner in value:
            yield from scalars(inner)
    elif not isinstance(value, dict):
        yield value


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def text_of(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def one(field: str, modifiers: list[str], wanted: Any, event: dict[str, Any]) -> bool:
    values = list(found_values(field, event)) if field else list(leaves(event))
    if "exists" in modifiers:
        return is_there(field, event) is wanted
    if wanted is None:
        return not is_there(field, event) or None in values
    texts = [text_of(value) for value in values if value is not None]
    for name, comparison in COMPARISONS.items():
        if name in modifiers:
            numbers = [float(text) for text in texts if re.fullmatch(r"-?\d+(\.\d+)?", text)]
            return any(comparison(number, float(wanted)) for number in numbers)
    if "re" in modifiers:
        flags = sum({"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}.get(name, 0) for name in modifiers)
        return any(re.search(wanted, text, flags) for text in texts)
    if "cidr" in modifiers:
        return any(in_network(text, wanted) for text in texts)
    if "fieldref" in modifiers:
        others = [text_of(other) for other in found_values(wanted, event) if other is not None]
        return any(fits([*other], text, modifiers, field=field) for other in others for text in texts)
    patterns = [tokens(text_of(wanted))]
    if "windash" in modifiers:
        patterns = [spelled for pattern in patterns for spelled in dashes(pattern)]
    if "base64" in modifiers:
        patterns = [[*base64.b64encode("".join(map(str, pattern)).encode()).decode()] for pattern in patterns]
    return any(fits(pattern, text, modifiers, field=field) for pattern in patterns for text in texts)


COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "lt": lambda left, right: left < right,
    "lte": lambda left, right: left <= right,
    "gt": lambda left, right: left > right,
    "gte": lambda left, right: left >= right,
}
MANY, ONE = object(), object()


def in_network(text: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(text) in ipaddress.ip_network(network)
    except ValueError:
        return False


def tokens(text: str) -> list[Any]:
    made: list[Any] = []
    while text:
        if re.match(r"\\[\\*?]", text):
            made.append(text[1])
            text = text[2:]
        else:
            made.append({"*": MANY, "?": ONE}.get(text[0], text[0]))
            text = text[1:]
    return made


def dashes(pattern: list[Any]) -> Iterator[list[Any]]:
    """Every spelling: a dash or slash that begins a word may be any of five."""
    word = [isinstance(token, str) and (token.isalnum() or token == "_") for token in pattern]
    spots = [
        index
        for index, token in enumerate(pattern)
        if token in ("-", "/") and index + 1 < len(pattern) and word[index + 1] and not (index > 0 and word[index - 1])
    ]

    def spell(at: int, made: list[Any]) -> Iterator[list[Any]]:
        if at == len(spots):
            yield made
            return
        for dash in "-/\u2013\u2014\u2015":
            yield from spell(at + 1, [*made[: spots[at]], dash, *made[spots[at] + 1 :]])

    yield from spell(0, pattern)


def fits(pattern: list[Any], text: str, modifiers: list[str], *, field: str) -> bool:
    cased = "cased" in modifiers
    loose = "contains" in modifiers or not (field or {"startswith", "endswith"} & set(modifiers))
    before = [MANY] if loose or "endswith" in modifiers else []
    after = [MANY] if loose or "startswith" in modifiers else []
    expression = "".join(
        "(?s:.*)" if token is MANY else "(?s:.)" if token is ONE else re.escape(token if cased else fold(token))
        for token in [*before, *pattern, *after]
    )
    return re.fullmatch(expression, text if cased else fold(text)) is not None
