"""Findings about the values and modifiers of a selection, as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from ironpost.detections.documents import Section
from ironpost.detections.explanation import regex_needles

Remark: TypeAlias = tuple[str, str, str, int, str]
"""Severity, code, reason, line, hint."""
#: Lists beyond this are compared for equal values only: implied ones cost its square.
_MAX_COMPARED = 400
_INLINE = re.compile(r"\(\?[imsux]+\)")
_TEXT = frozenset({"contains", "startswith", "endswith"})
_ENCODING = frozenset({"base64", "base64offset", "wide", "utf16", "utf16le", "utf16be", "windash", "expand"})


def check_values(body: Any, line: int) -> Iterator[Remark]:
    """Yields remarks about a selection: a mapping, a list of mappings, or keywords."""
    if isinstance(body, Section):
        for key, value in body.items():
            field, *modifiers = (part.strip() for part in key.split("|"))
            values = value if isinstance(value, list) else [value]
            yield from _pair(field, modifiers, values, body.line_of(key))
    elif isinstance(body, list):
        plain = [item for item in body if not isinstance(item, (Section, list))]
        if plain:
            yield from _pair("", [], plain, line)
        for item in body:
            if isinstance(item, (Section, list)):
                yield from check_values(item, item.line if isinstance(item, Section) else line)


def _pair(field: str, modifiers: Sequence[str], values: Sequence[Any], line: int) -> Iterator[Remark]:
    where = field or "keywords"
    names = set(modifiers)
    texts = [value for value in values if isinstance(value, str)]
    yield from _repeated(where, names, values, line)
    if "re" in names:
        yield from _expressions(where, names, texts, line)
        return
    if names & {"cidr", "exists", "fieldref", "lt", "lte", "gt", "gte"}:
        return
    if "cased" in names:
        for text in texts:
            if text.lower() == text.upper():
                yield (
                    "note",
                    "cased-no-effect",
                    f"{where}: {_short(text)} has no case, 'cased' changes nothing",
                    line,
                    "",
                )
    if names & _TEXT:
        for value in values:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                kind = min(names & _TEXT)
                reason = f"{where}: the number {value} is compared as text by {kind!r}"
                yield "note", "value-type", reason, line, "quote it if that is meant"
    if not names & _ENCODING:
        yield from _wildcards(where, names, texts, line, keyword=not field)
    yield from _implied(where, names, texts, line, keyword=not field)


def _repeated(where: str, names: set[str], values: Sequence[Any], line: int) -> Iterator[Remark]:
    seen: set[str] = set()
    cased = "cased" in names or "re" in names or bool(names & {"base64", "base64offset"})
    for value in values:
        if isinstance(value, (Section, list)):
            continue
        text = str(value)
        key = text if cased else text.lower()
        if key in seen:
            yield "warning", "duplicate-value", f"{where}: {_short(text)} stands there twice", line, ""
        seen.add(key)


def _expressions(where: str, names: set[str], texts: Sequence[str], line: int) -> Iterator[Remark]:
    for text in texts:
        if regex_needles(text) is None:
            yield (
                "note",
                "slow-regex",
                f"{where}: expression {_short(text)} demands no text of three characters: it is run on every value",
                line,
                "ask for a literal beside it, for example with contains",
            )
        if _INLINE.match(text) and not names & {"i", "m", "s"}:
            hint = "write the flags as modifiers, for example re|i"
            yield "note", "inline-flags", f"{where}: {_short(text)} sets flags inside the expression", line, hint
        if text.startswith(".*") or text.endswith(".*"):
            hint = "leave it out: an expression is searched anywhere"
            yield "note", "needless-regex", f"{where}: {_short(text)} begins or ends with .*", line, hint


def _wildcards(where: str, names: set[str], texts: Sequence[str], line: int, *, keyword: bool) -> Iterator[Remark]:
    for text in texts:
        if text.strip("*") == "":
            if text and not names:
                hint = f"write {where}|exists: true" if not keyword else ""
                yield "note", "any-value", f"{where}: {text!r} fits every value", line, hint
            continue
        starts = text.startswith("*")
        ends = text.endswith("*") and not text.endswith("\\*")
        inner = text[starts : len(text) - ends]
        if "*" in inner or "?" in inner or not (starts or ends):
            continue
        if "contains" in names or keyword:
            yield "note", "needless-wildcard", f"{where}: {_short(text)}: a search needs no * at its ends", line, ""
        elif not names & {"startswith", "endswith"}:
            meant = "contains" if starts and ends else "endswith" if starts else "startswith"
            hint = f"write {where}|{meant}: {_short(inner)}"
            yield "warning", "wildcard-for-modifier", f"{where}: {_short(text)} is what {meant!r} is for", line, hint


def _implied(where: str, names: set[str], texts: Sequence[str], line: int, *, keyword: bool) -> Iterator[Remark]:
    """A value that another one of the list makes needless: the longer one of an OR, the shorter one of an AND."""
    kind = next(iter(names & _TEXT), "contains" if keyword and not names else "")
    if not kind or names & _ENCODING or not 1 < len(texts) <= _MAX_COMPARED:
        return
    plain = [text for text in texts if text and not set("*?\\") & set(text)]
    folded = [(text if "cased" in names else text.lower(), text) for text in plain]
    holds = {"contains": str.__contains__, "startswith": str.startswith, "endswith": str.endswith}[kind]
    for longer, written in folded:
        for shorter, cause in folded:
            if len(shorter) < len(longer) and holds(longer, shorter):
                if "all" in names:
                    needless, reason = cause, written
                else:
                    needless, reason = written, cause
                text = f"{where}: {_short(needless)} is implied by {_short(reason)} and can go"
                yield "note", "implied-value", text, line, ""
                break


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
