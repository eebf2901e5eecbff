"""Sigma values: escaping and wildcards, and what each modifier makes of a value (specification 2.1.0, appendix)."""

from __future__ import annotations

import base64
import codecs
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any

from ironpost.detections.documents import text_of
from ironpost.detections.regexes import RegexCheck, compiled_regex
from ironpost.errors import RuleError


class MissingPlaceholderError(RuleError):
    """A placeholder nobody has given values for, so far."""


class Wild(Enum):
    """A wildcard in a value."""

    MANY = "*"
    ONE = "?"


Piece = str | bytes | Wild
"""Part of a text value; bytes once an encoding modifier was applied."""

MAX_ALTERNATIVES = 10_000
"""Most values that modifiers and placeholders may make of one."""
_DASHES = ("-", "/", "\u2013", "\u2014", "\u2015")
_WINDASH = re.compile(rf"\B[{''.join(_DASHES)}]\b")
_PLACEHOLDER = re.compile(r"%([^%\\]+)%")
_SPECIAL = re.compile(r"\\([*?\\])|([*?])")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")

ATOM_MODIFIERS = {"contains": "contains", "startswith": "startswith", "endswith": "endswith"}
COMPARISONS = frozenset({"lt", "lte", "gt", "gte"})
TIME_PARTS = frozenset({"minute", "hour", "day", "week", "month", "year"})
REGEX_FLAGS = {"i": "i", "ignorecase": "i", "m": "m", "multiline": "m", "s": "s", "dotall": "s"}
ENCODINGS = {"wide": "utf-16-le", "utf16le": "utf-16-le", "utf16be": "utf-16-be", "utf16": "utf-16"}
KNOWN_MODIFIERS = frozenset(
    {"all", "cased", "neq", "exists", "re", "cidr", "fieldref", "base64", "base64offset", "windash", "expand"}
    | set(ATOM_MODIFIERS)
    | COMPARISONS
    | TIME_PARTS
    | set(REGEX_FLAGS)
    | set(ENCODINGS)
)

_BEFORE_ANCHORS = frozenset({"base64", "base64offset", "utf16"})
_EXPANDABLE = frozenset({"equals", "re", "cidr", "fieldref"})


def split_text(text: str) -> tuple[Piece, ...]:
    r"""Splits a value into literals and wildcards.

    ``\*`` and ``\?`` are plain, ``\\`` is one backslash, and a backslash before anything else is itself.
    """
    found = _SPECIAL.search(text)
    if found is None:  # most values
        return (text,)
    pieces: list[Piece] = []
    literal: list[str] = []
    start = 0
    while found is not None:
        literal.append(text[start : found.start()])
        start = found.end()
        escaped, wild = found.groups()
        if escaped:
            literal.append(escaped)
        else:
            if any(literal):
                pieces.append("".join(literal))
            literal = []
            pieces.append(Wild(wild))
        found = _SPECIAL.search(text, start)
    literal.append(text[start:])
    if any(literal) or not pieces:
        pieces.append("".join(literal))
    return tuple(pieces)


@dataclass(frozen=True, slots=True)
class Modifiers:
    """The modifiers of a key, checked and sorted by what they do."""

    transforms: tuple[str, ...] = ()
    operator: str = "equals"
    anchor: str = "equals"
    flags: str = ""
    time_part: str = ""
    all: bool = False
    cased: bool = False
    neq: bool = False

    @classmethod
    def parse(cls, names: Sequence[str]) -> Modifiers:
        """Reads modifier names in the order in which the key has them.

        Raises:
            RuleError: For an unknown or impossible combination.
        """
        transforms: list[str] = []
        operator = anchor = "equals"
        flags = time_part = ""
        for index, name in enumerate(names):
            if name not in KNOWN_MODIFIERS:
                near = get_close_matches(name, KNOWN_MODIFIERS, n=1)
                raise RuleError(f"unknown modifier {name!r}", hint=f"did you mean {near[0]!r}?" if near else "")
            if name in names[:index] and name not in _TRANSFORMS:
                raise RuleError(f"modifier {name!r} is given twice")
            if name in {"all", "cased", "neq"}:
                continue
            if name in REGEX_FLAGS:
                if operator != "re":
                    raise RuleError(f"modifier {name!r} only follows 're'")
                flags += REGEX_FLAGS[name] if REGEX_FLAGS[name] not in flags else ""
            elif name in ATOM_MODIFIERS:
                if anchor != "equals" or operator not in {"equals", "fieldref"}:
                    raise _not_with(name, anchor if anchor != "equals" else operator)
                anchor = name
            elif name in TIME_PARTS:
                if time_part or operator in COMPARISONS:
                    raise _not_with(name, time_part or operator, f"write {name} before the comparison")
                time_part = name
            elif name in COMPARISONS or name in {"re", "cidr", "exists", "fieldref"}:
                if operator != "equals" or anchor != "equals":
                    hint = f"write {name} first" if name == "fieldref" and operator == "equals" else ""
                    raise _not_with(name, operator if operator != "equals" else anchor, hint)
                operator = name
            else:
                if anchor != "equals" and name in _BEFORE_ANCHORS:
                    raise _not_with(name, anchor, f"modifiers work in their order: write {name} before {anchor}")
                transforms.append(name)
        if time_part and (operator not in COMPARISONS | {"equals"} or anchor != "equals"):
            raise RuleError(f"modifier {time_part!r} only goes with lt, lte, gt and gte")
        if transforms and (
            time_part or (operator != "equals" and (set(transforms) != {"expand"} or operator not in _EXPANDABLE))
        ):
            raise _not_with(transforms[0], time_part or operator)
        if "cased" in names and (time_part or operator not in {"equals", "fieldref"}):
            hint = "regular expressions are case-sensitive unless they have the i modifier" if operator == "re" else ""
            raise _not_with("cased", time_part or operator, hint)
        return cls(
            tuple(transforms), operator, anchor, flags, time_part, "all" in names, "cased" in names, "neq" in names
        )


def _not_with(name: str, other: str, hint: str = "") -> RuleError:
    return RuleError(f"modifier {name!r} can't be combined with {other!r}", hint=hint)


@dataclass(frozen=True, slots=True)
class Test:
    """What is asked of a field, still without the field."""

    op: str
    value: Any = None
    cased: bool = False


def tests_of(
    value: Any,
    modifiers: Modifiers,
    *,
    keyword: bool,
    placeholders: Mapping[str, Sequence[str]],
    check_regex: RegexCheck,
) -> list[Test]:
    """Lowers one value; several tests are alternatives.

    Raises:
        RuleError: When the value does not fit the modifiers.
    """
    if isinstance(value, (list, dict)):
        raise RuleError("a value is text, a number, a boolean or null, not a list or mapping")
    operator = modifiers.operator
    if operator == "exists":
        if not isinstance(value, bool):
            raise RuleError("'exists' takes true or false")
        return [Test("exists", value)]
    if value is None:
        if operator != "equals" or modifiers.anchor != "equals" or modifiers.transforms or keyword:
            raise RuleError("null can't be combined with a modifier")
        return [Test("null")]
    if modifiers.time_part:
        number = _integer(value, modifiers.time_part)
        compare = "eq" if operator == "equals" else operator
        return [Test("timepart", {"part": modifiers.time_part, "compare": compare, "number": number})]
    if operator in COMPARISONS:
        bound = _number(value, operator)
        # JSON readers make a float of a larger integer; as text it stays exact.
        is_large = isinstance(bound, int) and abs(bound) >= 1 << 63
        return [Test(operator, str(bound) if is_large else bound)]
    text = text_of(value)
    expands = "expand" in modifiers.transforms
    if operator in {"re", "cidr", "fieldref"}:
        made = _expanded_text(text, placeholders) if expands else [text]
        if operator == "re":
            return [Test("regex", compiled_regex(each, modifiers.flags, check_regex)) for each in made]
        if operator == "cidr":
            return [Test("cidr", _network(each)) for each in made]
        reference = {"match": modifiers.anchor}
        return [Test("fieldref", {"field": each.strip(), **reference}, modifiers.cased) for each in made]
    anchor = "contains" if keyword and modifiers.anchor == "equals" else modifiers.anchor
    alternatives = [split_text(text)]
    if expands:
        alternatives = _expanded(alternatives[0], placeholders)
    for transform in modifiers.transforms:
        if transform != "expand":
            alternatives = [made for pieces in alternatives for made in _TRANSFORMS[transform](pieces)]
        if len(alternatives) > MAX_ALTERNATIVES:
            raise RuleError(f"modifier {transform!r} makes more than {MAX_ALTERNATIVES:,} values of one")
    return [_anchored(_as_text(pieces), anchor, cased=modifiers.cased) for pieces in alternatives]


def _anchored(pieces: tuple[str | Wild, ...], anchor: str, *, cased: bool) -> Test:
    if not any(isinstance(piece, Wild) for piece in pieces):
        return Test(anchor, "".join(piece for piece in pieces if isinstance(piece, str)), cased)
    parts: list[Any] = [piece if isinstance(piece, str) else {"wild": piece.value} for piece in pieces]
    many = {"wild": "*"}
    if anchor in {"contains", "endswith"} and parts[0] != many:
        parts.insert(0, many)
    if anchor in {"contains", "startswith"} and parts[-1] != many:
        parts.append(many)
    # "*text*", the usual way to write contains before modifiers existed, and its halves need no wildcard engine.
    inner = [part for part in parts if part != many]
    if len(inner) == 1 and isinstance(inner[0], str):
        starts, ends = parts[0] == many, parts[-1] == many
        if len(parts) == 1 + starts + ends:
            return Test("contains" if starts and ends else "endswith" if starts else "startswith", inner[0], cased)
    return Test("wildcard", parts, cased)


def _as_text(pieces: Iterable[Piece]) -> tuple[str | Wild, ...]:
    made: list[str | Wild] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            try:
                # In an event's text the byte order mark is a character.
                mark = "\ufeff" if piece.startswith(codecs.BOM_UTF16_LE) else ""
                made.append(mark + piece[2 * len(mark) :].decode("utf-8"))
            except UnicodeDecodeError:
                raise RuleError("an encoded value that is not text needs base64 or base64offset after it") from None
        else:
            made.append(piece)
    return tuple(made)


def _literal_bytes(pieces: tuple[Piece, ...], modifier: str) -> bytes:
    if any(isinstance(piece, Wild) for piece in pieces):
        raise RuleError(f"modifier {modifier!r} takes no wildcards")
    return b"".join(
        piece.encode() if isinstance(piece, str) else piece for piece in pieces if not isinstance(piece, Wild)
    )


def _base64(pieces: tuple[Piece, ...]) -> list[tuple[Piece, ...]]:
    return [(base64.b64encode(_literal_bytes(pieces, "base64")).decode(),)]


def _base64offset(pieces: tuple[Piece, ...]) -> list[tuple[Piece, ...]]:
    content = _literal_bytes(pieces, "base64offset")
    made: list[tuple[Piece, ...]] = []
    for offset, start in enumerate((0, 2, 3)):
        # Only characters that depend on nothing but the value itself.
        end = (None, -3, -2)[(len(content) + offset) % 3]
        encoded = base64.b64encode(b" " * offset + content).decode()[start:end]
        if not encoded:
            raise RuleError("value is too short for 'base64offset'")
        made.append((encoded,))
    return made


def _windash(pieces: tuple[Piece, ...]) -> list[tuple[Piece, ...]]:
    alternatives: list[tuple[Piece, ...]] = [()]
    for piece in pieces:
        if not isinstance(piece, str):
            alternatives = [(*before, piece) for before in alternatives]
            continue
        made = [""]
        last = 0
        for found in _WINDASH.finditer(piece):
            made = [text + piece[last : found.start()] + dash for text in made for dash in _DASHES]
            last = found.end()
            if len(made) * len(alternatives) > MAX_ALTERNATIVES:
                raise RuleError(f"modifier 'windash' makes more than {MAX_ALTERNATIVES:,} values of one")
        alternatives = [(*before, text + piece[last:]) for before in alternatives for text in made]
    return alternatives


def _encoded(encoding: str) -> Callable[[tuple[Piece, ...]], list[tuple[Piece, ...]]]:
    def encode(pieces: tuple[Piece, ...]) -> list[tuple[Piece, ...]]:
        # The byte order mark of the usual order, once and in front.
        made: list[Piece] = [codecs.BOM_UTF16_LE] if encoding == "utf-16" else []
        for piece in pieces:
            if isinstance(piece, bytes):
                raise RuleError("a value can be encoded only once")
            if isinstance(piece, Wild):
                made.append(piece)
            else:
                made.append(piece.encode("utf-16-le" if encoding == "utf-16" else encoding))
        return [tuple(made)]

    return encode


_TRANSFORMS: dict[str, Callable[[tuple[Piece, ...]], list[tuple[Piece, ...]]]] = {
    "base64": _base64,
    "base64offset": _base64offset,
    "windash": _windash,
    **{name: _encoded(encoding) for name, encoding in ENCODINGS.items()},
}


def _values_of(name: str, placeholders: Mapping[str, Sequence[str]]) -> list[str]:
    given = placeholders.get(name)
    values = [given] if isinstance(given, str) else [text_of(value) for value in given or ()]
    if not values:
        hint = f"give them in a rule file: 'placeholders: {{{name}: [value, …]}}'"
        raise MissingPlaceholderError(f"placeholder %{name}% has no values", hint=hint)
    return values


def _expanded(pieces: tuple[Piece, ...], placeholders: Mapping[str, Sequence[str]]) -> list[tuple[Piece, ...]]:
    r"""Replaces ``%name%`` by each of its values, which may have wildcards of their own.

    A backslash before ``%name%`` is a backslash, as in paths (pySigma, ``SigmaString.insert_placeholders``).
    """
    alternatives: list[tuple[Piece, ...]] = [()]
    for piece in pieces:
        if not isinstance(piece, str):
            alternatives = [(*before, piece) for before in alternatives]
            continue
        for index, part in enumerate(_PLACEHOLDER.split(piece)):
            values = [split_text(value) for value in _values_of(part, placeholders)] if index % 2 else [(part,)]
            if len(alternatives) * len(values) > MAX_ALTERNATIVES:
                raise RuleError(f"placeholders make more than {MAX_ALTERNATIVES:,} values of one")
            alternatives = [(*before, *value) for before in alternatives for value in values]
    return [_joined(made) for made in alternatives]


def _joined(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """Neighbouring literals as one: what modifiers look for may begin in one and end in the other."""
    made: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and made and isinstance(made[-1], str):
            made[-1] += piece
        else:
            made.append(piece)
    return tuple(made)


def _expanded_text(text: str, placeholders: Mapping[str, Sequence[str]]) -> list[str]:
    """Replaces ``%name%`` in a value that is no pattern of wildcards; regular expressions take values as they are."""
    alternatives = [""]
    for index, part in enumerate(_PLACEHOLDER.split(text)):
        values = _values_of(part, placeholders) if index % 2 else [part]
        if len(alternatives) * len(values) > MAX_ALTERNATIVES:
            raise RuleError(f"placeholders make more than {MAX_ALTERNATIVES:,} values of one")
        alternatives = [before + value for before in alternatives for value in values]
    return alternatives


def _network(text: str) -> str:
    import ipaddress  # noqa: PLC0415 - few rules need it

    try:
        if "%" in text:
            raise RuleError("cidr: a network has no zone")
        return str(ipaddress.ip_network(text.strip(), strict=False))
    except ValueError as error:
        raise RuleError(f"cidr: {error}") from None


def _number(value: Any, modifier: str) -> int | float:
    text = "" if isinstance(value, bool) else str(value).strip()
    if _INTEGER.fullmatch(text):
        return int(text)
    number = float(text) if _DECIMAL.fullmatch(text) else math.inf
    if not math.isfinite(number):
        raise RuleError(f"{modifier!r} takes a number, not {value!r}")
    return number


def _integer(value: Any, modifier: str) -> int:
    number = _number(value, modifier)
    if isinstance(number, float):
        raise RuleError(f"{modifier!r} takes an integer")
    return number
