"""Explained conditions as trees of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ironpost.cli.output import safe

#: Values of a list that are shown when none of them held.
_SHOWN_VALUES = 4
#: Characters of one value.
_SHOWN_TEXT = 120
_MARKS = {True: "✓", False: "✗"}
_WORDS = {"and": "all of", "or": "any of"}


def tree_lines(node: dict[str, Any], depth: int = 0) -> Iterator[str]:
    """Yields a condition line by line: ``✓`` held, ``✗`` did not."""
    kind = node["kind"]
    if kind == "atom":
        yield _line(node["holds"], depth, f"{_asked(node)}{_answer(node)}")
    elif kind == "const":
        yield _line(node["holds"], depth, "always" if node["holds"] else "never")
    elif kind == "selection":
        yield _line(node["holds"], depth, safe(node["name"]))
        yield from _parts(node["parts"][0], depth + 1)
    elif kind == "not":
        inner = node["parts"][0]
        name = f" {safe(inner['name'])}" if inner["kind"] == "selection" else ""
        yield _line(node["holds"], depth, f"not{name}")
        # Why it held is no news: the absence of what is excluded. Why it did not is.
        if not node["holds"]:
            yield from _parts(inner["parts"][0] if name else inner, depth + 1)
    elif depth == 0:
        yield from _parts(node, depth)
    else:
        yield _line(node["holds"], depth, _WORDS[kind])
        yield from _parts(node, depth + 1)


def _parts(node: dict[str, Any], depth: int) -> Iterator[str]:
    """The parts of a conjunction stand side by side; alternatives are drawn together."""
    if node["kind"] == "and":
        for part in node["parts"]:
            yield from tree_lines(part, depth)
    elif node["kind"] == "or":
        yield from _alternatives(node, depth)
    else:
        yield from tree_lines(node, depth)


def _alternatives(node: dict[str, Any], depth: int) -> Iterator[str]:
    held = [part for part in node["parts"] if part["holds"]]
    if held:
        for part in held:
            yield from tree_lines(part, depth)
        left = len(node["parts"]) - len(held)
        if left:
            yield f"{'  ' * depth}  (or {left} more)"
        return
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    others = []
    for part in node["parts"]:
        if part["kind"] == "atom":
            groups.setdefault((part["field"], part["op"], part["cased"]), []).append(part)
        else:
            others.append(part)
    if len(groups) + len(others) > 1:
        yield _line(False, depth, "any of")
        depth += 1
    for atoms in groups.values():
        shown = ", ".join(value_text(part["value"]) for part in atoms[:_SHOWN_VALUES] if part["value"] is not None)
        more = len(atoms) - _SHOWN_VALUES
        values = f"{shown}{f' … and {more} more' if more > 0 else ''}"
        yield _line(False, depth, f"{_asked(atoms[0], values)}{_answer(atoms[0])}")
    for part in others:
        yield from tree_lines(part, depth)


def _line(holds: bool, depth: int, text: str) -> str:
    return f"{'  ' * depth}{_MARKS[holds]} {text}"


def _asked(atom: dict[str, Any], values: str | None = None) -> str:
    field = safe(atom["field"]) if atom["field"] is not None else "keyword"
    value = values if values is not None else value_text(atom["value"]) if atom["value"] is not None else ""
    cased = " (cased)" if atom["cased"] else ""
    return f"{field} {atom['op']}{cased}{' ' + value if value else ''}"


def _answer(atom: dict[str, Any]) -> str:
    found = atom["found"]
    if atom["holds"]:
        if found is None:
            return "  ← not in the event"
        other = f" in {safe(found['field'])}" if found["field"] != atom["field"] else ""
        return f"  ← {value_text(found['value'])}{other}"
    if atom["field"] is None:
        return "  — nowhere in the event"
    if not atom["event"]:
        return "  — the event has no such field"
    return f"  — the event has {', '.join(value_text(value) for value in atom['event'])}"


def value_text(value: Any) -> str:
    """Returns a value for a line of talk: safe, cut, in quotes where its ends could not be seen."""
    if value is None:
        return "null"
    text = safe(value)
    return (
        repr(text)
        if not text or text != text.strip()
        else text[:_SHOWN_TEXT] + ("…" if len(text) > _SHOWN_TEXT else "")
    )
