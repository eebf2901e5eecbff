"""Sigma values: escaping and wildcards, and what each modifier makes of a value (specification 2.1.0, appendix)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ironpost.detections.documents import text_of
from ironpost.errors import RuleError


class Wild(Enum):
    """A wildcard in a value."""

    MANY = "*"
    ONE = "?"


Piece = str | bytes | Wild
"""Part of a text value; bytes once an encoding modifier was applied."""

MAX_REGEX = 1000
"""Longer regular expressions are refused."""
_MAX_EXPANSION = 3125
_WINDASH = re.compile(r"\B[-/]\b")
_DASHES = ("-", "/", "\u2013", "\u2014", "\u2015")
_PLACEHOLDER = re.compile(r"%([^%\s]+)%")

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

RegexCheck = Callable[[str], str | None]
"""Says why the engine can't use a regular expression, or ``None``."""


def split_text(text: str) -> tuple[Piece, ...]:
    r"""Splits a value into literals and wildcards.

    ``\*`` and ``\?`` are plain, ``\\`` is one backslash, and a backslash before anything else is itself.
    """
    pieces: list[Piece] = []
    literal: list[str] = []
    index = 0
    while index < len(text):
        character = text[index]
        if character == "\\" and text[index + 1 : index + 2] in {"*", "?", "\\"}:
            literal.append(text[index + 1])
            index += 2
            continue
        if character in "*?":
            if literal:
                pieces.append("".join(literal))
                literal = []
            pieces.append(Wild(character))
        else:
            literal.append(character)
        index += 1
    if literal or not pieces:
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
        switches = {"all": False, "cased": False, "neq": False}
        for name in names:
            if name not in KNOWN_MODIFIERS:
                raise RuleError(f"unknown modifier {name!r}")
            if name in switches:
                switches[name] = True
            elif name in REGEX_FLAGS:
                if operator != "re":
                    raise RuleError(f"modifier {name!r} only follows 're'")
                flags += REGEX_FLAGS[name] if REGEX_FLAGS[name] not in flags else ""
            elif name in ATOM_MODIFIERS:
                if anchor != "equals" or operator not in {"equals", "fieldref"}:
                    raise RuleError(
                        f"modifier {name!r} can't be combined with {anchor if anchor != 'equals' else operator!r}"
                    )
                anchor = name
            elif name in TIME_PARTS:
                time_part = name
            elif name in COMPARISONS or name in {"re", "cidr", "exists", "fieldref"}:
                if operator != "equals" or (anchor != "equals" and name != "fieldref"):
                    other = operator if operator != "equals" else anchor
                    raise RuleError(f"modifier {name!r} can't be combined with {other!r}")
                operator = name
            else:
                transforms.append(name)
        if time_part and (operator not in COMPARISONS | {"equals"} or anchor != "equals"):
            raise RuleError(f"modifier {time_part!r} only goes with lt, lte, gt and gte")
        if transforms and operator != "equals" and set(transforms) != {"expand"}:
            raise RuleError(f"modifier {transforms[0]!r} can't be combined with {operator!r}")
        return cls(
            tuple(transforms), operator, anchor, flags, time_part, switches["all"], switches["cased"], switches["neq"]
        )


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
        return [Test(operator, _number(value, operator))]
    texts = [text_of(value)]
    if "expand" in modifiers.transforms:
        texts = _expand(texts[0], placeholders)
    if operator == "re":
        return [Test("regex", _regex(text, modifiers.flags, check_regex)) for text in texts]
    if operator == "cidr":
        return [Test("cidr", _network(text)) for text in texts]
    if operator == "fieldref":
        return [Test("fieldref", {"field": text.strip(), "match": modifiers.anchor}, modifiers.cased) for text in texts]
    anchor = "contains" if keyword and modifiers.anchor == "equals" else modifiers.anchor
    alternatives: list[tuple[Piece, ...]] = [split_text(text) for text in texts]
    for transform in modifiers.transforms:
        if transform != "expand":
            alternatives = [made for pieces in alternatives for made in _TRANSFORMS[transform](pieces)]
        if len(alternatives) > _MAX_EXPANSION:
            raise RuleError(f"modifier {transform!r} makes more than {_MAX_EXPANSION} values of one")
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
                made.append(piece.decode("utf-8"))
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
            if len(made) * len(alternatives) > _MAX_EXPANSION:
                raise RuleError(f"modifier 'windash' makes more than {_MAX_EXPANSION} values of one")
        alternatives = [(*before, text + piece[last:]) for before in alternatives for text in made]
    return alternatives


def _encoded(encoding: str) -> Callable[[tuple[Piece, ...]], list[tuple[Piece, ...]]]:
    def encode(pieces: tuple[Piece, ...]) -> list[tuple[Piece, ...]]:
        made: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, bytes):
                raise RuleError("a value can be encoded only once")
            if isinstance(piece, Wild):
                made.append(piece)
            elif encoding == "utf-16":
                made.append(b"\xff\xfe" + piece.encode("utf-16-le"))  # the byte order mark of the usual order
            else:
                made.append(piece.encode(encoding))
        return [tuple(made)]

    return encode


_TRANSFORMS: dict[str, Callable[[tuple[Piece, ...]], list[tuple[Piece, ...]]]] = {
    "base64": _base64,
    "base64offset": _base64offset,
    "windash": _windash,
    **{name: _encoded(encoding) for name, encoding in ENCODINGS.items()},
}


def _expand(text: str, placeholders: Mapping[str, Sequence[str]]) -> list[str]:
    names = _PLACEHOLDER.findall(text)
    missing = [name for name in names if name not in placeholders]
    if missing:
        raise RuleError(f"placeholder %{missing[0]}% has no values", hint="give them with placeholders={…}")
    made = [text]
    for name in names:
        given = placeholders[name]
        values = [given] if isinstance(given, str) else [str(value) for value in given]
        made = [before.replace(f"%{name}%", value) for before in made for value in values]
        if len(made) > _MAX_EXPANSION:
            raise RuleError(f"placeholders make more than {_MAX_EXPANSION} values of one")
    return made


def _regex(pattern: str, flags: str, check: RegexCheck) -> str:
    if len(pattern) > MAX_REGEX:
        raise RuleError(f"regular expression has {len(pattern)} characters, at most {MAX_REGEX} are allowed")
    pattern = f"(?{flags}){pattern}" if flags else pattern
    problem = check(pattern)
    if problem:
        raise RuleError(f"regular expression: {problem}")
    return pattern


def _network(text: str) -> str:
    import ipaddress  # noqa: PLC0415 - few rules need it

    try:
        return str(ipaddress.ip_network(text.strip(), strict=False))
    except ValueError as error:
        raise RuleError(f"cidr: {error}") from None


def _number(value: Any, modifier: str) -> int | float:
    if isinstance(value, bool):
        raise RuleError(f"{modifier!r} takes a number")
    try:
        text = str(value).strip()
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    except ValueError:
        raise RuleError(f"{modifier!r} takes a number, not {value!r}") from None


def _integer(value: Any, modifier: str) -> int:
    number = _number(value, modifier)
    if isinstance(number, float):
        raise RuleError(f"{modifier!r} takes an integer")
    return number
