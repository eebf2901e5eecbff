"""``detect``, ``parse``, ``rules``, ``policies``: what works on files, without a daemon."""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from ironpost.cli.options import ConfigOption, JsonOption, load_configuration
from ironpost.cli.output import print_json, print_line, print_table, safe, say, show_time
from ironpost.errors import ConfigError, ParseError

if TYPE_CHECKING:
    from ironpost.detections import RuleSet

_PIECE_BYTES = 4 * 1024 * 1024
#: A line that is longer is handed on in parts.
_LONGEST_LINE_BYTES = 64 * 1024 * 1024

rules_app = typer.Typer(help="Look at detection rules.", no_args_is_help=True)
policies_app = typer.Typer(help="Look at response policies.", no_args_is_help=True)

FileArgument = Annotated[str, typer.Argument(metavar="FILE|-", help="Log file, or - for standard input.")]
FormatOption = Annotated[
    str, typer.Option("--format", help="auto, syslog, rfc5424, rfc3164, json, apache, nginx, docker.")
]
YearOption = Annotated[int | None, typer.Option(min=1970, max=9999, help="Year of timestamps without one.")]
TimezoneOption = Annotated[str, typer.Option(help="Zone of timestamps without one: UTC, local or a name.")]
DirectoriesArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="[DIR…]", help="Files or directories; without one, those in use.")
]


def detect(
    file: FileArgument,
    *,
    rules: Annotated[list[Path] | None, typer.Option("--rules", "-r", help="Rules; without it, those in use.")] = None,
    logsource: Annotated[
        str, typer.Option(help="What the events are: product=…,category=…,service=….", show_default=False)
    ] = "",
    format: FormatOption = "auto",  # noqa: A002 - the option's name
    year: YearOption = None,
    timezone: TimezoneOption = "UTC",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Run rules over a log file or events in JSON lines, and print what they find.

    Exit code 1 when a rule is refused; the others run.

    Example: ironpost detect --rules rules /var/log/auth.log
    """
    from ironpost.events import parse as parse_events
    from ironpost.model import Detection

    _check_reading(format, year, timezone)
    chosen = _load(rules, config)
    _say_refused([rule.to_json() for rule in chosen.refused])
    source = _logsource(logsource)
    session = chosen.native.session((source.get("product"), source.get("category"), source.get("service")))
    found = 0
    with _opened(file) as stream:
        for piece in _pieces(stream):
            is_events = format == "auto" and piece.lstrip()[:1] == b"{"
            if is_events:
                detections = session.feed(piece)
            else:
                # As parsed: each row keeps its own log source; a rule for one service never sees another's lines.
                detections = session.feed_batch(parse_events(piece, format=format, year=year, timezone=timezone))
            for value in chosen.judges(json_module.loads(detections)):
                value["timestamp"] = value["timestamp"] or 0
                found += 1
                _print_detection(Detection.from_json(value).to_json(), json=json)
    for rule_id, health in chosen.judges.health.items():
        if health.disabled or health.errors:
            say(f"error: rule {safe(rule_id)} — {safe(health.disabled or health.last_error)}")
    if not json:
        say(f"{found} detections")
    if chosen.refused:
        raise typer.Exit(1)


def parse(
    file: FileArgument,
    *,
    format: FormatOption = "auto",  # noqa: A002 - the option's name
    year: YearOption = None,
    timezone: TimezoneOption = "UTC",
    json: Annotated[bool, typer.Option("--json", help="Print JSON; it always does.")] = False,  # noqa: ARG001
) -> None:
    """Parse a log file and print one ECS event in JSON per line."""
    from ironpost.events import parse as parse_events

    _check_reading(format, year, timezone)
    out = sys.stdout.buffer
    with _opened(file) as stream:
        for piece in _pieces(stream):
            out.write(parse_events(piece, format=format, year=year, timezone=timezone).to_ndjson())
            out.flush()


@rules_app.command("check")
def check_rules(
    *, directories: DirectoriesArgument = None, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """Load rules and say what is refused and why, and what nothing here can feed. Exit code 1 when one is refused."""
    rules = _load(directories, config)
    refused = [rule.to_json() for rule in rules.refused]
    unfed = [rule.to_json() for rule in rules.unfed]
    if json:
        print_json({"loaded": len(rules.rules), "refused": refused, "unfed": unfed})
    else:
        _say_refused(refused)
        for rule in unfed:
            say(f"unfed: {safe(rule['path'])}:{rule['line']} — {safe(rule['reason'])}")
        print_line(f"{len(rules.rules)} loaded, {len(refused)} refused, {len(unfed)} unfed")
    if refused:
        raise typer.Exit(1)


@rules_app.command("list")
def list_rules(
    *, directories: DirectoriesArgument = None, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """List rules with level and log source."""
    rules = _load(directories, config)
    unfed = {rule.rule_id for rule in rules.unfed}
    found = [
        {
            "id": rule.id,
            "title": rule.title,
            "level": rule.level,
            "severity": rule.level,
            "kind": rule.kind,
            "status": rule.status,
            "tags": list(rule.tags),
            "logsource": dict(rule.logsource),
            "reports": rule.emit,
            "unfed": rule.id in unfed,
            "path": rule.path,
            "line": rule.line,
        }
        for rule in rules.rules
    ]
    if json:
        print_json({"total": len(found), "rules": found})
        return
    rows = [
        (rule["id"], rule["level"], rule["kind"], "unfed" if rule["unfed"] else "in use", rule["title"])
        for rule in found
    ]
    print_table(("id", "level", "kind", "state", "title"), rows, empty="no rules")


@policies_app.command("check")
def check_policies(
    *, directories: DirectoriesArgument = None, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """Load policies and say what is refused and why. Exit code 1 when one is refused."""
    from ironpost.cli.output import error_text
    from ironpost.config import decide_places
    from ironpost.decisions import load_policies

    chosen = directories or decide_places(load_configuration(config), environment=os.environ).policy_dirs
    loaded = load_policies(*chosen)
    if json:
        refused = [{"path": e.path, "line": e.line, "field": e.field, "reason": e.reason} for e in loaded.refused]
        print_json(
            {"loaded": len(loaded.policies), "refused": refused, "policies": [p.to_json() for p in loaded.policies]}
        )
    else:
        for error in loaded.refused:
            say(f"error: {safe(error_text(error))}")
            if error.hint:
                say(f"hint: {safe(error.hint)}")
        rows = [
            (
                policy.id,
                policy.priority,
                policy.verb,
                policy.mode,
                "enabled" if policy.enabled else "disabled",
                policy.name,
            )
            for policy in loaded.policies
        ]
        print_table(("id", "priority", "verb", "mode", "state", "name"), rows, empty="no policies")
        say(f"{len(loaded.policies)} loaded, {len(loaded.refused)} refused")
    if loaded.refused:
        raise typer.Exit(1)


def _load(directories: list[Path] | None, config: Path | None) -> RuleSet:
    from ironpost.config import decide_places
    from ironpost.detections import RuleSet

    if directories:
        return RuleSet.load(*directories)
    places = decide_places(load_configuration(config), environment=os.environ)
    return RuleSet.load(*places.rule_dirs, python_files=True)


def _check_reading(format: str, year: int | None, timezone: str) -> None:  # noqa: A002 - the option's name
    """Tries the options on no text: an unknown format or zone is a mistake of usage, not of the file."""
    from ironpost.events import parse as parse_events

    try:
        parse_events(b"", format=format, year=year, timezone=timezone)
    except ParseError as error:
        raise ConfigError(error.reason, hint=error.hint) from None


def _say_refused(refused: list[dict[str, Any]]) -> None:
    for rule in refused:
        say(f"error: {safe(rule['path'])}:{rule['line']} — {safe(rule['reason'])}")
        if rule.get("hint"):
            say(f"hint: {safe(rule['hint'])}")


def _logsource(text: str) -> dict[str, str]:
    source: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or key not in {"product", "category", "service"}:
            raise ConfigError(
                f"{part!r} is no part of a log source", hint="for example --logsource product=linux,service=sshd"
            )
        source[key] = value
    return source


def _opened(file: str) -> BinaryIO:
    return os.fdopen(os.dup(0), "rb") if file == "-" else Path(file).open("rb")


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    """Pieces that end at a line's end, as soon as there is one: standard input may never end."""
    rest = b""
    while piece := os.read(stream.fileno(), _PIECE_BYTES):
        rest += piece
        whole, found, left = rest.rpartition(b"\n")
        if found:
            yield whole + found
            rest = left
        elif len(rest) > _LONGEST_LINE_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest


def _print_detection(found: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(found, compact=True)
        return
    group = ", ".join(f"{name}={value}" for name, value in found["group"].items())
    moment = show_time(found["timestamp"]) if found["timestamp"] != "1970-01-01T00:00:00Z" else "-"
    title = f"{found['rule_id']}: {found['rule_title']}"
    print_line(f"{moment} {found['level'].upper():8} {safe(title)}{' [' + safe(group) + ']' if group else ''}")
