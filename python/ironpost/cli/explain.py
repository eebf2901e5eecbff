"""``rules explain``: why rules match an event, or don't."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironpost.cli.options import ConfigOption, JsonOption
from ironpost.cli.output import print_json, print_line, safe, say
from ironpost.cli.reading import FormatOption, LogsourceOption, Reading, TimezoneOption, YearOption, logsource_of
from ironpost.cli.rules import RulesOption, load_rules, no_rule, say_refused, source_text
from ironpost.cli.trees import tree_lines
from ironpost.errors import ConfigError

if TYPE_CHECKING:
    from ironpost.detections import RuleSet

#: Events of a file that are explained.
_MAX_EXPLAINED = 1000
#: One word with a slash, or with a suffix as files of records have one: no log line is like that.
_LIKE_A_PATH = re.compile(r"[^\s{]*(?:/|\.[A-Za-z][A-Za-z0-9]{0,9}$)[^\s{]*")


def explain_rules(
    event: Annotated[str, typer.Argument(metavar="EVENT|FILE|-", help="A JSON event, a log line, a file, or - .")],
    *,
    rules: RulesOption = None,
    rule: Annotated[list[str] | None, typer.Option("--rule", help="Only this rule, by id or title.")] = None,
    nearest: Annotated[int, typer.Option("--nearest", "-n", min=0, help="Near misses to show.")] = 3,
    logsource: LogsourceOption = "",
    format: FormatOption = "auto",  # noqa: A002 - the option's name
    year: YearOption = None,
    timezone: TimezoneOption = "UTC",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say of every rule whether an event matches and why: which condition held, which failed, why it was not asked.

    Shows the rules that match and the nearest of the others. Exit code 1 when a rule is refused.
    """
    reading = Reading(format, year, timezone)
    reading.check()
    source = logsource_of(logsource)
    data = _event_data(event)
    chosen = load_rules(rules, config, needed=True)
    say_refused([one.to_json() for one in chosen.refused])
    ids = _chosen_ids(chosen, rule or [])
    events = data if reading.is_events(data) else reading.parse(data)
    explain_events(chosen, events, logsource=source, rule_ids=ids, nearest=nearest, json=json)
    if chosen.refused:
        raise typer.Exit(1)


def explain_events(
    chosen: RuleSet,
    events: Any,
    *,
    logsource: Mapping[str, str],
    rule_ids: list[str],
    nearest: int = 3,
    json: bool = False,
) -> None:
    """Prints, per event of JSON text or of a batch, which rules match and which nearly did."""
    from ironpost.detections import Explanations

    explained = Explanations(chosen).explain(events, logsource=logsource, rule_ids=rule_ids, nearest=nearest)
    for number, one in enumerate(explained, 1):
        for shown in one["rules"]:
            about = chosen.rule(shown["id"])
            shown |= {"title": about.title, "level": about.level, "logsource": dict(about.logsource)}
            shown |= {"path": about.path, "line": about.line, "feeds": _feeds(chosen, about.id, one["event"])}
        if json:
            print_json({"number": number, "rules_total": len(chosen.rules), **one}, compact=True)
        else:
            _show_explained(chosen, number, one)
    if not explained:
        raise ConfigError("there is no event in it", hint="give a JSON object, a log line, or a file of them")


def _event_data(event: str) -> bytes:
    if event == "-":
        lines = typer.get_binary_stream("stdin").readlines(_MAX_EXPLAINED * 4096)
    elif event.lstrip()[:1] == "{" or not _is_file(event):
        if _LIKE_A_PATH.fullmatch(event):
            raise ConfigError(
                f"there is no file {event!r}",
                hint="a log line is read from standard input too: ironpost rules explain -",
            )
        lines = [event.encode("utf-8", "surrogateescape")]
    else:
        with Path(event).open("rb") as file:
            lines = [line for _, line in zip(range(_MAX_EXPLAINED + 1), file, strict=False)]
    if len(lines) > _MAX_EXPLAINED:
        say(f"only the first {_MAX_EXPLAINED} events are explained")
        lines = lines[:_MAX_EXPLAINED]
    return b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a null: a line
        return False


def _chosen_ids(rules: RuleSet, wanted: list[str]) -> list[str]:
    ids = []
    for name in wanted:
        found = [rule for rule in rules.rules if name in {rule.id, rule.name, rule.title}]
        if not found:
            raise no_rule(rules, name)
        for rule in found:
            # A correlation is explained by what it counts.
            ids += [rule.id] if rule.kind == "rule" else list(rule.plan["rules"])
    return ids


def _feeds(rules: RuleSet, rule_id: str, event: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The correlations a match of the rule counts for, with the group it would count in."""
    made = []
    for rule in rules.rules:
        plan = rule.plan
        if rule.kind == "correlation" and rule_id in plan["rules"]:
            group = {}
            for name in plan.get("group_by", ()):
                names = plan.get("aliases", {}).get(name, {}).get(rule_id, [name])
                names = [names] if isinstance(names, str) else names
                group[name] = next((event[one] for one in names if one in event), None)
            made.append(
                {
                    "id": rule.id,
                    "title": rule.title,
                    "type": plan["type"],
                    "condition": plan.get("condition") or {},
                    "expression": plan.get("expression"),
                    "timespan_seconds": plan["timespan_ns"] / 1e9,
                    "group": group,
                }
            )
            made += _feeds(rules, rule.id, event)
    return made


def _show_explained(rules: RuleSet, number: int, one: dict[str, Any]) -> None:
    told = {part: word for part, word in one["told"].items() if word}
    how = "told from the event" if one["derived"] else "from the source or the parser" if told else "not known"
    total = sum(rule.kind == "rule" for rule in rules.rules)
    print_line(f"event {number}: {source_text(one['logsource'])} ({how})")
    print_line(f"{one['routed']} of {total} rules are for it, {one['held']} match")
    for shown in one["rules"]:
        print_line("")
        if shown["holds"] and shown["routed"]:
            state = "MATCH"
        elif shown["holds"]:
            state = "NOT ASKED"
        else:
            state = f"{shown['missing']} missing"
        print_line(f"{state}  {safe(shown['id'])}: {safe(shown['title'])} ({safe(shown['level'])})")
        if not shown["routed"]:
            wanted = ", ".join(f"{part} {safe(word)}" for part, word in shown["logsource"].items())
            parts = " and ".join(shown["refused_by"])
            print_line(f"  its log source is {wanted}; the event's {parts} is another")
        for line in tree_lines(shown["tree"]):
            print_line(f"  {line}")
        if shown["holds"] and shown["routed"]:
            for feed in shown["feeds"]:
                _show_feed(feed)


def _show_feed(feed: dict[str, Any]) -> None:
    group = ", ".join(f"{name}={safe(value)}" for name, value in feed["group"].items() if value is not None)
    missing = [name for name, value in feed["group"].items() if value is None]
    needs = " and ".join(
        f"{name} {value:g}" for name, value in feed["condition"].items() if isinstance(value, float | int)
    )
    counted = f"does not count: the event has no {safe(', '.join(missing))}" if missing else f"counts {group or 'all'}"
    print_line(
        f"  → {safe(feed['id'])} ({feed['type']}): {counted}; {needs or 'all'} within {feed['timespan_seconds']:g} s"
    )
