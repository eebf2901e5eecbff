"""``logs``: what is understood of log lines, and by which extractor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ironpost.cli.explain import explain_events
from ironpost.cli.options import ConfigOption, JsonOption, load_configuration
from ironpost.cli.output import error_text, print_json, print_line, safe, say
from ironpost.cli.reading import FormatOption, Reading, TimezoneOption, YearOption
from ironpost.cli.rules import load_rules

if TYPE_CHECKING:
    from ironpost.events import Extractors

logs_app = typer.Typer(help="Look at how log lines are understood.", no_args_is_help=True)
ExtractorsOption = Annotated[
    list[Path] | None, typer.Option("--extractors", "-e", help="Your extractors; without it, those in use.")
]


def load_own(paths: list[Path] | None, config: Path | None) -> Extractors:
    """Loads the named extractors, or those in use, with those that come with Ironpost; says what is refused."""
    from ironpost.config import decide_places
    from ironpost.events import load
    from ironpost.ownership import setting_doubt

    if paths:
        loaded = load(*paths)
    else:
        places = decide_places(load_configuration(config), environment=os.environ)
        loaded = load(*places.extractor_dirs, doubt=setting_doubt)
    for error in loaded.refused:
        say(f"error: {safe(error_text(error))}")
        if error.hint:
            say(f"hint: {safe(error.hint)}")
    return loaded


@logs_app.command("test")
def run_extractor_cases(
    *, extractors: ExtractorsOption = None, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """Run the cases of all extractors. Exit code 1 when one fails or an extractor is refused."""
    from ironpost.events import failed_cases

    loaded = load_own(extractors, config)
    failed = failed_cases(loaded)
    total = sum(len(extractor.cases) for extractor in loaded.extractors)
    if json:
        problems = [{"path": e.path, "line": e.line, "reason": e.reason} for e in (*loaded.refused, *failed)]
        print_json({"extractors": len(loaded.extractors), "cases": total, "problems": problems})
    else:
        for error in failed:
            print_line(f"FAIL {safe(error.path)}:{error.line} — {safe(error.reason)}")
        refused = len(loaded.refused)
        bad = len({(error.path, error.line) for error in failed})
        print_line(f"{len(loaded.extractors)} extractors, {total - bad} cases passed, {bad} failed, {refused} refused")
    if failed or loaded.refused:
        raise typer.Exit(1)


@logs_app.command("explain")
def explain_line(
    line: Annotated[str, typer.Argument(metavar="LINE", help="A log line.")],
    *,
    extractors: ExtractorsOption = None,
    format: FormatOption = "auto",  # noqa: A002 - the option's name
    year: YearOption = None,
    timezone: TimezoneOption = "UTC",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say what becomes of a line: its format, the extractor and pattern that read it, its fields, and the rules.

    With --json: an object for the reading, then one for the rules, each on a line.
    """
    from ironpost.events import Extractors

    loaded = load_own(extractors, config)
    data = line.encode("utf-8", "surrogateescape")
    reading = Reading(format, year, timezone, loaded.compile())
    reading.check()
    batch = reading.parse(data)
    row = batch.row(0) if len(batch) else {}
    found = None
    for one in loaded.extractors:
        # The one without which the line gives other fields is the one that read it.
        rest = tuple(other for other in loaded.extractors if other is not one)
        bare = Reading(format, year, timezone, Extractors(extractors=rest, refused=()).compile()).parse(data)
        if len(bare) and bare.row(0) != row:
            found = one
            break
    format_name = row.get("event.format")
    if json:
        extractor = found and {"name": found.name, "path": found.path}
        print_json({"format": format_name, "extractor": extractor, "fields": row}, compact=True)
    else:
        print_line(f"format: {safe(format_name or 'none, the line is not understood')}")
        print_line(f"extractor: {safe(f'{found.name} ({found.path})' if found else 'none')}")
        for name, value in sorted(row.items()):
            if name != "event.original":
                print_line(f"  {safe(name)}: {safe(value)}")
        print_line("")
    explain_events(load_rules(None, config), batch, logsource={}, rule_ids=[], json=json)
