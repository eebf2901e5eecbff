"""What the command line prints: data on stdout, talk on stderr, nothing a terminal could obey."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ironpost.errors import IronpostError, PlacedError


def safe(value: object) -> str:
    """Returns text for a terminal: control, bidirectional and other invisible characters become escapes.

    Args:
        value: Anything; attacker text included.

    Returns:
        One line that a terminal can only show.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def print_json(value: object, *, compact: bool = False) -> None:
    """Prints one JSON document, ASCII only, so that it is harmless on a terminal too."""
    sys.stdout.write(json.dumps(value, indent=None if compact else 2) + "\n")
    if compact:
        sys.stdout.flush()


def print_line(text: str) -> None:
    """Prints one line of data, flushed, for readers that follow a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Prints one line of talk on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Prints rows: a table on a terminal, aligned plain lines otherwise.

    Args:
        columns: Headings.
        rows: Cells in the order of the headings.
        empty: What to say on stderr when there are none.
    """
    cells = [[safe(cell) for cell in row] for row in rows]
    if not cells:
        say(empty)
        return
    if sys.stdout.isatty():
        _rich_table(columns, cells)
        return
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for line in [list(columns), *cells]:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _rich_table(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for line in cells:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in line))
    Console(no_color=bool(os.environ.get("NO_COLOR"))).print(table)


def _style(cell: str) -> str:
    """Colour repeats what the word says, never more."""
    return {
        "critical": "bold red",
        "high": "red",
        "medium": "yellow",
        "fail": "red",
        "failed": "red",
        "unhealthy": "red",
        "refused": "yellow",
        "warn": "yellow",
        "degraded": "yellow",
        "ok": "green",
        "healthy": "green",
        "active": "green",
    }.get(cell, "")


def print_error(error: BaseException) -> None:
    """Prints an error: thing — place — reason, and one hint."""
    problems: Sequence[BaseException] = getattr(error, "problems", None) or (error,)
    for problem in problems:
        say(f"error: {safe(error_text(problem))}")
        hint = getattr(problem, "hint", "")
        if hint:
            say(f"hint: {safe(hint)}")


def error_text(error: BaseException) -> str:
    """Returns an error as thing — place — reason."""
    if isinstance(error, PlacedError):
        thing = f"invalid config value for '{error.field}'" if error.field and error.exit_code == 2 else error.field
        place = f"{error.path}:{error.line}" if error.path and error.line else error.path
        return " — ".join(part for part in (thing, place, error.reason) if part)
    if isinstance(error, IronpostError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return " — ".join(str(part) for part in (error.filename, error.strerror) if part)
    return str(error) or type(error).__name__


def show_time(value: Any) -> str:
    """Returns a moment as local time to the second: from nanoseconds, seconds or RFC 3339 text."""
    if value in (None, "", 0):
        return "-"
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return value
    else:
        seconds = value / 1_000_000_000 if value > 10_000_000_000 else value
        moment = datetime.fromtimestamp(seconds, UTC)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
