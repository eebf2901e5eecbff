"""Where a key stands in a TOML text, so that an error about a *value* can name its line.

The standard library reads TOML without positions. This finds them by walking over the text; it is only
used on text that the standard library has accepted, so it needs no opinion on what is valid.
"""

from __future__ import annotations

import re

_KEY_PART = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*""")
_STRING = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL)


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Finds the line of every key and table header.

    Args:
        text: Valid TOML.

    Returns:
        Key path → line, the first line being 1. Keys inside inline tables are not listed: look up their parent.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    position = 0
    while position < len(text):
        character = text[position]
        if character in " \t\r\n":
            position += 1
        elif character == "#":
            position = _line_end(text, position)
        elif character == "[":
            line = text.count("\n", 0, position) + 1
            start = position + (2 if text.startswith("[[", position) else 1)
            table, position = _key(text, start)
            lines.setdefault(table, line)
            position = _line_end(text, position)
        else:
            line = text.count("\n", 0, position) + 1
            key, after = _key(text, position)
            lines.setdefault((*table, *key), line)
            position = _value_end(text, max(after, position + 1))
    return lines


def line_of(lines: dict[tuple[str, ...], int], path: tuple[str, ...]) -> int:
    """Returns the line of the longest known beginning of ``path``, or 0."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 0


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _key(text: str, position: int) -> tuple[tuple[str, ...], int]:
    parts: list[str] = []
    while (found := _KEY_PART.match(text, position)) is not None:
        parts.append(next(group for group in found.groups() if group is not None))
        position = found.end()
        if position >= len(text) or text[position] != ".":
            break
        position += 1
    return tuple(parts), position


def _value_end(text: str, position: int) -> int:
    depth = 0
    while position < len(text):
        character = text[position]
        if character in "\"'" and (found := _STRING.match(text, position)) is not None:
            position = found.end()
            continue
        if character == "#":
            newline = text.find("\n", position)
            position = len(text) if newline < 0 else newline
            continue
        if character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "\n" and depth <= 0:
            return position + 1
        position += 1
    return position
