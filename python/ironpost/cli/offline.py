"""``parse``, ``policies``: what works on files, without a daemon."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from ironpost.cli.options import ConfigOption, DirectoriesArgument, JsonOption, load_configuration
from ironpost.cli.output import print_json, print_table, safe, say
from ironpost.cli.reading import FileArgument, FormatOption, Reading, TimezoneOption, YearOption, read_pieces

policies_app = typer.Typer(help="Look at response policies.", no_args_is_help=True)


def parse(
    file: FileArgument,
    *,
    format: FormatOption = "auto",  # noqa: A002 - the option's name
    year: YearOption = None,
    timezone: TimezoneOption = "UTC",
    json: Annotated[bool, typer.Option("--json", help="Print JSON; it always does.")] = False,  # noqa: ARG001
) -> None:
    """Parse a log file and print one ECS event in JSON per line."""
    reading = Reading(format, year, timezone)
    reading.check()
    out = sys.stdout.buffer
    for piece in read_pieces(file):
        out.write(reading.parse(piece.data).to_ndjson())
        out.flush()


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
