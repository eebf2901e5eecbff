"""Sigma evaluated the slow and obvious way, straight from the rule's data: the oracle for the engine.

Written from the Sigma 2.1.0 specification; where that is silent the choices are: a value is compared by its text form,
an object or an empty list is there but has no text (its parts have, under their own names), an IPv4-mapped address is
the IPv4 address it stands for, a number is a time from the year 1 to 9999.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

MANY, ONE = object(), object()
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": lambda left, right: left < right,
    "lte": lambda left, right: left <= right,
    "gt": lambda left, right: left > right,
    "gte": lambda left, right: left >= right,
}
TIME_PARTS: dict[str, Callable[[dt.datetime], int]] = {
    "minute": lambda time: time.minute,
    "hour": lambda time: time.hour,
    "day": lambda time: time.day,
    "week": lambda time: time.isocalendar().week,
    "month": lambda time: time.month,
    "year": lambda time: time.year,
}
FLAGS = {
    "i": re.IGNORECASE,
    "ignorecase": re.IGNORECASE,
    "m": re.MULTILINE,
    "multiline": re.MULTILINE,
    "s": re.DOTALL,
    "dotall": re.DOTALL,
}
ENCODINGS = {"wide": "utf-16-le", "utf16le": "utf-16-le", "utf16be": "utf-16-be", "utf16": "utf-16-le"}

Placeholders = Mapping[str, Sequence[str]]


def matches(rule: Mapping[str, Any], event: Mapping[str, Any], placeholders: Placeholders | None = None) -> bool:
    """Says whether the rule's detection holds for the event; the log source is not looked at."""
    detection = rule["detection"]
    truth = {
        name: selection(body, event, placeholders or {})
        for name, body in detection.items()
        if name not in {"condition", "timeframe"}
    }
    condition = detection["condition"]
    return any(evaluate(text, truth) for text in (condition if isinstance(condition, list) else [condition]))


def evaluate(condition: str, truth: Mapping[str, bool]) -> bool:
    """Turns the condition into a Python expression over True and False, whose precedence is Sigma's."""

    def quantified(found: re.Match[str]) -> str:
        pattern = "*" if found[2].lower() == "them" else found[2]
        chosen = [
            value
            for name, value in truth.items()
            if re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name)
            and (pattern.startswith("_") or not name.startswith("_"))
        ]
        return str(all(chosen) if found[1].lower() == "all" else any(chosen))

    text = re.sub(r"\b(1|all|any)\s+of\s+([\w*.-]+)", quantified, condition, flags=re.IGNORECASE)
    text = re.sub(
        r"[\w.-]+",
        lambda found: str(truth[found[0]]) if found[0] in truth else found[0].lower().capitalize(),
        text,
    )
    text = re.sub(r"\b(And|Or|Not)\b", lambda found: found[0].lower(), text)
    assert re.fullmatch(r"(?:True|False|and|or|not|[()\s])+", text), text
    return bool(eval(text.strip()))


def selection(body: Any, event: Mapping[str, Any], placeholders: Placeholders) -> bool:
    """A map is all of its items, a list any of its parts, a bare value a keyword."""
    if isinstance(body, list):
        return any(selection(part, event, placeholders) for part in body)
    if isinstance(body, dict):
        return all(item(key, value, event, placeholders) for key, value in body.items())
    return item("", body, event, placeholders)


def item(key: str, value: Any, event: Mapping[str, Any], placeholders: Placeholders) -> bool:
    field, *modifiers = key.split("|")
    wanted = value if isinstance(value, list) else [value]
    results = [one(field, modifiers, single, event, placeholders) for single in wanted]
    result = all(results) if "all" in modifiers else any(results)
    return not result if "neq" in modifiers else result


def found_values(field: str, event: Any) -> Iterator[Any]:
    """Everything that stands under a name: a flat one, or a path through mappings and lists; blanks do not count."""
    if isinstance(event, list):
        for part in event:
            yield from found_values(field, part)
    elif isinstance(event, dict):
        for written, inner in event.items():
            name = written.replace(" ", "")
            if name == field:
                yield inner
            elif field.startswith(name + "."):
                yield from found_values(field[len(name) + 1 :], inner)


def scalars(value: Any, *, through_mappings: bool) -> Iterator[Any]:
    """The values in lists; those in mappings have names of their own and are no values of this one."""
    if isinstance(value, list):
        for inner in value:
            yield from scalars(inner, through_mappings=through_mappings)
    elif not isinstance(value, dict):
        yield value
    elif through_mappings:
        for inner in value.values():
            yield from scalars(inner, through_mappings=True)


def text_of(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def one(
    field: str, modifiers: Sequence[str], wanted: Any, event: Mapping[str, Any], placeholders: Placeholders
) -> bool:
    """Asks one value of one field, or without a field of every value of the event."""
    found = list(found_values(field, event)) if field else [event]
    if "exists" in modifiers:
        return bool(found) is wanted
    values = [value for part in found for value in scalars(part, through_mappings=not field)]
    if wanted is None:
        return not found or None in values
    texts = [text_of(value) for value in values if value is not None]
    compare = next((COMPARISONS[name] for name in modifiers if name in COMPARISONS), None)
    part = next((TIME_PARTS[name] for name in modifiers if name in TIME_PARTS), None)
    if part is not None:
        if {"minute", "hour"} & set(modifiers):  # a date has neither
            texts = [text for text in texts if not re.fullmatch(r"\d{4}-\d\d-\d\d", text.strip())]
        times = [time for time in map(time_of, texts) if time is not None]
        return any((compare or int.__eq__)(part(time), int(wanted)) for time in times)
    if compare is not None:
        numbers = [number for number in map(number_of, texts) if number is not None]
        return any(compare(number, number_of(text_of(wanted))) for number in numbers)
    if "re" in modifiers:
        flags = re.NOFLAG
        for name in modifiers:
            flags |= FLAGS.get(name, re.NOFLAG)
        # Unicode has no simple folding of U+0130; Python alone takes it for an i.
        return any(re.search(wanted, text.replace("\u0130", "\ufffd"), flags) for text in texts)
    if "cidr" in modifiers:
        return any(in_network(text, wanted) for text in texts)
    if "fieldref" in modifiers:
        others = [
            text_of(value)
            for part_found in found_values(wanted, event)
            for value in scalars(part_found, through_mappings=False)
            if value is not None
        ]
        return any(fits([*other], text, modifiers, keyword=False) for other in others for text in texts)
    patterns = expanded(text_of(wanted), placeholders) if "expand" in modifiers else [tokens(text_of(wanted))]
    for name in modifiers:
        if name == "windash":
            patterns = [spelled for pattern in patterns for spelled in dashes(pattern)]
        elif name in ENCODINGS:
            patterns = [encoded(pattern, name) for pattern in patterns]
        elif name in {"base64", "base64offset"}:
            charset = "latin-1" if ENCODINGS.keys() & set(modifiers) else "utf-8"
            contents = ["".join(pattern).encode(charset) for pattern in patterns]
            patterns = [[*text] for content in contents for text in as_base64(content, every=name == "base64offset")]
    return any(fits(pattern, text, modifiers, keyword=not field) for pattern in patterns for text in texts)


def number_of(text: str) -> Fraction | None:
    """A decimal number exactly; anything else is none."""
    return Fraction(text.strip()) if re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?\s*", text) else None


def time_of(text: str) -> dt.datetime | None:
    """A time as it is written, without moving it to another zone; a number is seconds since 1970 in UTC."""
    number = number_of(text)
    try:
        if number is not None:
            return dt.datetime(1970, 1, 1) + dt.timedelta(seconds=int(number // 1))  # noqa: DTZ001
        return dt.datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None


def in_network(text: str, network: str) -> bool:
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
        within = ipaddress.ip_network(network.strip(), strict=False)
    except ValueError:
        return False
    if isinstance(within, ipaddress.IPv6Network) and within.prefixlen >= 96 and within.network_address.ipv4_mapped:
        within = ipaddress.ip_network(f"{within.network_address.ipv4_mapped}/{within.prefixlen - 96}")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address in within or (mapped is not None and mapped in within)


@lru_cache(10_000)
def tokens(text: str) -> tuple[Any, ...]:
    """Characters and wildcards; a backslash takes the meaning from a wildcard or another backslash."""
    parts = re.findall(r"\\[\\*?]|.", text, re.DOTALL)
    return tuple({"*": MANY, "?": ONE}.get(part, part[-1]) for part in parts)


def expanded(text: str, placeholders: Placeholders) -> Iterator[list[Any]]:
    """The value with each value of each of its placeholders; a backslash before one is a backslash."""
    found = re.match(r"([^%]*)%([^%\\*?]+)%", text)
    if found is None:
        yield [*tokens(text)]
        return
    for value in placeholders[found[2]]:
        for rest in expanded(text[found.end() :], placeholders):
            yield [*tokens(found[1]), *tokens(value), *rest]


def literals(pattern: Sequence[Any]) -> Iterator[Any]:
    """The pattern with neighbouring characters joined."""
    run = ""
    for token in pattern:
        if isinstance(token, str):
            run += token
            continue
        if run:
            yield run
        run = ""
        yield token
    if run:
        yield run


def dashes(pattern: Sequence[Any]) -> Iterator[list[Any]]:
    """Every spelling: a dash or slash that begins a word may be any of five, each on its own."""
    spellings: list[list[Any]] = [[]]
    for part in literals(pattern):
        spots = (
            {found.start() for found in re.finditer(r"\B[-/\u2013-\u2015]\b", part)} if isinstance(part, str) else set()
        )
        for index, token in enumerate(part if isinstance(part, str) else [part]):
            choices = "-/\u2013\u2014\u2015" if index in spots else [token]
            spellings = [[*before, choice] for before in spellings for choice in choices]
    yield from spellings


def encoded(pattern: Sequence[Any], name: str) -> list[Any]:
    """Bytes, one for one in Latin-1 so that they can still be cut and joined, and the wildcards."""
    mark = ["\xff", "\xfe"] if name == "utf16" else []
    made: list[Any] = []
    for part in literals(pattern):
        made += [*part.encode(ENCODINGS[name]).decode("latin-1")] if isinstance(part, str) else [part]
    return [*mark, *made]


def as_base64(content: bytes, *, every: bool) -> Iterator[str]:
    """The base64 form; with ``every``, what stays the same of it wherever the value stands in a longer text."""
    if not every:
        yield base64.b64encode(content).decode()
        return
    for before in range(3):
        bits = "".join(f"{byte:08b}" for byte in bytes(before) + content)
        whole = [bits[at : at + 6] for at in range(0, len(bits), 6)]
        kept = [six for at, six in enumerate(whole) if at * 6 >= before * 8 and len(six) == 6]
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        yield "".join(alphabet[int(six, 2)] for six in kept)


@lru_cache(10_000)
def fold(text: str) -> str:
    """Lower case, one character for one."""
    return "".join({"\u017f": "s", "\u03c2": "\u03c3"}.get(c, c.lower() if len(c.lower()) == 1 else c) for c in text)


def fits(pattern: Sequence[Any], text: str, modifiers: Sequence[str], *, keyword: bool) -> bool:
    """Compares the whole text with the pattern; a keyword may stand anywhere."""
    cased = "cased" in modifiers
    loose = "contains" in modifiers or (keyword and not {"startswith", "endswith"} & set(modifiers))
    before = [MANY] if loose or "endswith" in modifiers else []
    after = [MANY] if loose or "startswith" in modifiers else []
    expression = compiled((*before, *pattern, *after), cased=cased)
    return expression.fullmatch(text if cased else fold(text)) is not None


@lru_cache(10_000)
def compiled(pattern: tuple[Any, ...], *, cased: bool) -> re.Pattern[str]:
    parts = {MANY: ".*", ONE: "."}
    return re.compile("".join(parts.get(t) or re.escape(t if cased else fold(t)) for t in pattern), re.DOTALL)
