"""Moments as nanoseconds since the Unix epoch inside, RFC 3339 text outside."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\d*(Z|z|[+-]\d\d:?\d\d)?")
_DURATION_PART = re.compile(r"(\d+)\s*(ms|s|m|h|d|w)")
_UNIT_NS = {
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}
SECOND_NS = 1_000_000_000
#: A hundred years: a moment so far ahead still fits the store's 64 bits.
MAX_DURATION_NS = 36_500 * _UNIT_NS["d"]


def to_text(moment_ns: int) -> str:
    """Returns RFC 3339 text in UTC with as many decimals as the moment needs (0, 3, 6 or 9)."""
    seconds, nanoseconds = divmod(moment_ns, SECOND_NS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if nanoseconds:
        decimals = f"{nanoseconds:09d}"
        while decimals.endswith("000"):
            decimals = decimals[:-3]
        text += "." + decimals
    return text + "Z"


def from_text(text: str) -> int:
    """Returns the nanoseconds of an RFC 3339 text; no offset means UTC.

    Raises:
        ValueError: When the text is no such time.
    """
    found = _RFC3339.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no RFC 3339 time")
    date, clock, decimals, offset = found.groups()
    offset = "+00:00" if offset in {None, "Z", "z"} else offset
    whole = datetime.fromisoformat(f"{date}T{clock}{offset}")
    return int(whole.timestamp()) * SECOND_NS + int((decimals or "0").ljust(9, "0"))


def from_json(value: object) -> int:
    """Reads a moment from JSON: RFC 3339 text, or a number of nanoseconds.

    Raises:
        ValueError: When it is neither.
    """
    if isinstance(value, str):
        return from_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is no time")


def parse_duration(text: str) -> int:
    """Returns the nanoseconds of a duration such as ``90s``, ``10m``, ``1h30m`` or ``2d``.

    Raises:
        ValueError: When the text is no duration, not above zero, or longer than a hundred years.
    """
    compact = text.strip().lower()
    total = 0
    end = 0
    for part in _DURATION_PART.finditer(compact):
        if part.start() != end:
            break
        total += int(part.group(1)) * _UNIT_NS[part.group(2)]
        end = part.end()
    if end != len(compact) or total <= 0:
        raise ValueError(f"{text!r} is no duration; write for example 90s, 10m, 1h30m or 2d")
    if total > MAX_DURATION_NS:
        raise ValueError(f"{text!r} is too long; 36500d is the longest duration")
    return total
