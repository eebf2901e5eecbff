"""``detect``: rules over files, without a daemon."""

from __future__ import annotations

import json as json_module
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ironpost.cli.options import ConfigOption, JsonOption
from ironpost.cli.output import print_error, print_json, print_line, safe, say, show_time
from ironpost.cli.reading import (
    FilesArgument,
    FormatOption,
    LogsourceOption,
    Piece,
    Reading,
    TimezoneOption,
    YearOption,
    all_pieces,
    logsource_of,
)
from ironpost.cli.rules import load_rules, say_refused
from ironpost.errors import InputError

#: Characters of a raw record or a value that are shown; --json has all of it.
_SHOWN = 240


class Level(StrEnum):
    """Levels of rules."""

    INFORMATIONAL = "informational"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


def detect(
    files: FilesArgument,
    *,
    rules: Annotated[list[Path] | None, typer.Option("--rules", "-r", help="Rules; without it, those in use.")] = None,
    logsource: LogsourceOption = "",
    format: FormatOption = "auto",  # noqa: A002 - the option's name
    year: YearOption = None,
    timezone: TimezoneOption = "UTC",
    level: Annotated[
        Level | None, typer.Option("--level", help="Show only this level and higher.", show_default=False)
    ] = None,
    fail_on: Annotated[
        Level | None,
        typer.Option(
            "--fail-on",
            help="Exit with 4 when something of this level or higher is found, whatever else went wrong.",
            show_default=False,
        ),
    ] = None,
    brief: Annotated[bool, typer.Option("--brief", "-b", help="One line per detection, without evidence.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Run rules over log files or events in JSON lines, and print what they find with the evidence.

    Exit code 4 when something at or above --fail-on is found; else 10 when a file can't be read to its end; else 1 when
    a rule is refused or disabled, or raises errors (the others run); 2 when there are no rules at all.

    Example: ironpost detect --rules rules /var/log/auth.log
    """
    from ironpost.model import Severity

    reading = Reading(format, year, timezone)
    reading.check()
    source = logsource_of(logsource)
    chosen = load_rules(rules, config, needed=True)
    say_refused([rule.to_json() for rule in chosen.refused])
    session = chosen.native.session((source.get("product"), source.get("category"), source.get("service")))
    least = Severity.parse(level) if level else Severity.INFO
    found: Counter[str] = Counter()
    highest: Severity | None = None
    problems: list[InputError] = []
    unread = 0
    for piece in all_pieces(files, reading, problems):
        before = session.rows
        if reading.is_events(piece.data):
            detections = session.feed(piece.data)
        else:
            # As parsed: each row keeps its own log source; a rule for one service never sees another's lines.
            batch = reading.parse(piece.data)
            unread += batch.column("event.format").count(None)
            detections = session.feed_batch(batch)
        for value in chosen.judges(json_module.loads(detections)):
            severity = Severity.parse(value["level"])
            if severity < least:
                continue
            highest = severity if highest is None else max(highest, severity)
            found[str(severity)] += 1
            _show(value, piece, before, json=json, brief=brief)
    if format != "auto" and unread and unread == session.rows:
        reason = f"not one of {unread:,} records is {format}"
        problems.append(InputError(reason, path=files[0], hint="without --format it is told from the records"))
    for problem in problems:
        print_error(problem)
    failing = {rule: state for rule, state in chosen.judges.health.items() if state.disabled or state.errors}
    for rule_id, health in failing.items():
        say(f"error: rule {safe(rule_id)} — {safe(health.disabled or health.last_error)}")
    total = found.total()
    by_level = ", ".join(f"{found[str(one)]} {one}" for one in sorted(Severity, reverse=True) if found[str(one)])
    say(
        f"{total} detections{f' ({by_level})' if total else ''} in {session.rows:,} events, {len(chosen.rules):,} rules"
    )
    if unread:
        say(f"{unread:,} records were in no known format: only their text was judged")
    if session.truncated:
        say(f"warning: {session.truncated:,} events have more than is read as fields; keywords search their whole text")
    # Whoever asked for a limit acts on 4: a finding must not hide behind a rule that could not be used.
    if fail_on and highest is not None and highest >= Severity.parse(fail_on):
        raise typer.Exit(4)
    if problems:
        raise typer.Exit(InputError.exit_code)
    if chosen.refused or failing:
        raise typer.Exit(1)


def _show(value: dict[str, Any], piece: Piece, before: int, *, json: bool, brief: bool) -> None:
    from ironpost.model import Detection

    file, line, offset = piece.place(value["row"] - before)
    has_time = value["timestamp"] is not None
    value["timestamp"] = value["timestamp"] or 0
    made = Detection.from_json(value).to_json()
    if json:
        place = {"file": file, "line": line} | ({"offset": offset} if offset >= 0 else {})
        print_json(made | place, compact=True)
        return
    group = ", ".join(f"{name}={text}" for name, text in made["group"].items())
    moment = show_time(made["timestamp"]) if has_time else "-"
    count = f" x{made['count']}" if made["count"] > 1 else ""
    measure = made.get("measure")
    if measure is not None and measure != made["count"]:
        count += f" ({measure:g})"
    head = f"{moment} {made['level'].upper():8} {made['rule_id']}: {made['rule_title']}"
    print_line(f"{safe(head)}{f' [{safe(group)}]' if group else ''}{count}")
    if brief:
        return
    techniques = " ".join(tag.removeprefix("attack.").upper() for tag in made["tags"] if tag.startswith("attack.t"))
    print_line(f"    {safe(file)}:{line}{f'  {safe(techniques)}' if techniques else ''}")
    for reason in made["matched"]:
        name = f"{reason['selection']}: " if reason["selection"] else ""
        asked = " ".join(part for part in (reason["field"] or "keyword", reason["op"], reason["pattern"]) if part)
        shown = "" if reason["op"] == "equals" or not reason["value"] else f"  ← {_cut(reason['value'])}"
        print_line(safe(f"    {name}{asked}{shown}"))
    for record in made["evidence"]:
        print_line(safe(f"    | {_cut(record)}"))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
