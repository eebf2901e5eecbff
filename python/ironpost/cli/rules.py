"""``rules``: check, test, explain, import, list and show detection rules."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ironpost.cli.options import (
    ConfigOption,
    DataDirOption,
    DirectoriesArgument,
    JsonOption,
    load_configuration,
    load_for_client,
)
from ironpost.cli.output import print_json, print_line, print_table, safe, say, show_time
from ironpost.cli.reading import YearOption
from ironpost.cli.trees import tree_lines, value_text
from ironpost.errors import ConfigError, IronpostError, RuleError

if TYPE_CHECKING:
    from ironpost.authoring import Finding
    from ironpost.detections import Rule, RuleSet

rules_app = typer.Typer(help="Check, test, explain, import and list detection rules.", no_args_is_help=True)

#: Reasons and findings of one kind that are shown before the rest is summed up.
SHOWN = 20
RulesOption = Annotated[list[Path] | None, typer.Option("--rules", "-r", help="Rules; without it, those in use.")]


def load_rules(
    directories: list[Path] | None, config: Path | None, *, cached: bool = True, needed: bool = False
) -> RuleSet:
    """Loads the named rules, or those in use; when they are needed, finding none at all is an error."""
    from ironpost.config import decide_places
    from ironpost.detections import RuleSet

    cache: Literal["user"] | None = "user" if cached else None
    if directories:
        rules = RuleSet.load(*directories, cache=cache)
    else:
        places = decide_places(load_configuration(config), environment=os.environ)
        directories = list(places.rule_dirs)
        rules = RuleSet.load(*directories, field_maps=places.field_map_dirs, cache=cache, python_files=True)
    if needed and not rules.rules and not rules.refused:
        # A wrong path in a pipeline must not look like a host on which nothing happened.
        raise ConfigError(
            f"no rules in {', '.join(map(str, directories))}",
            hint="name a .yml file with rules, or a directory that has some; without a path the rules in use are taken",
        )
    return rules


def rule_directories(config: Path | None) -> tuple[Path, ...]:
    """Returns the directories of the rules in use."""
    from ironpost.config import decide_places

    return decide_places(load_configuration(config), environment=os.environ).rule_dirs


def say_refused(refused: list[dict[str, Any]]) -> None:
    """Says what can't be used, one line each, with hints."""
    for rule in refused:
        say(f"error: {safe(rule['path'])}:{rule['line']} — {safe(rule['reason'])}")
        if rule.get("hint"):
            say(f"hint: {safe(rule['hint'])}")


def no_rule(rules: RuleSet, name: str) -> IronpostError:
    """Returns the error for a rule that is not there, with the nearest name."""
    from difflib import get_close_matches

    near = get_close_matches(name, [rule.id for rule in rules.rules] + [rule.title for rule in rules.rules], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "ironpost rules list --search WORD finds rules"
    return ConfigError(f"there is no rule {name!r}", hint=hint)


def source_text(source: Mapping[str, Any]) -> str:
    """Returns the log source of an explained event in words."""
    parts = [
        f"{part} {safe('/'.join(words)) if words else 'none'}" for part, words in source.items() if words is not None
    ]
    return ", ".join(parts) or "of no known log source"


@rules_app.command("check")
def check_rules(
    *,
    directories: DirectoriesArgument = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings, too.")] = False,
    notes: Annotated[bool, typer.Option("--notes", help="Show notes, too: style and speed.")] = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0, for code hosts.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say what is refused and why, what is probably not meant, and how much nothing here can feed.

    Findings go to stdout, the summary is the last line of it. Exit code 1 when a rule is refused, with --strict also on
    warnings; 2 when there are no rules at all.
    """
    from ironpost.authoring import lint, to_sarif
    from ironpost.cli import _version

    paths = directories or list(rule_directories(config))
    rules = load_rules(paths, config, cached=False, needed=True)
    found = lint(rules, paths)
    counts = Counter(finding.severity for finding in found)
    if sarif:
        print_json(to_sarif(found, version=_version()))
    elif json:
        by_severity = {
            f"{name}s": [one.to_json() for one in found if one.severity == name]
            for name in ("error", "warning", "note")
        }
        refused = [rule.to_json() for rule in rules.refused]
        unfed = [rule.to_json() for rule in rules.unfed]
        print_json({"loaded": len(rules.rules), "refused": refused, "unfed": unfed, **by_severity})
    else:
        _show_findings(found, notes=notes)
        if rules.unfed:
            say(f"{len(rules.unfed)} rules are fed by nothing here: ironpost rules list --unfed says why")
        if counts["note"] and not notes:
            say(f"{counts['note']} notes: --notes shows them")
        print_line(
            f"{len(rules.rules)} loaded, {len(rules.refused)} refused, {counts['warning']} warnings, "
            f"{len(rules.unfed)} unfed"
        )
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(1)


def _show_findings(found: list[Finding], *, notes: bool) -> None:
    for finding in found:
        if finding.severity == "note" and not notes:
            continue
        print_line(
            f"{finding.severity}: {safe(finding.path)}:{finding.line} — {safe(finding.reason)} [{finding.code}]"
            if finding.code != "refused"
            else f"error: {safe(finding.path)}:{finding.line} — {safe(finding.reason)}"
        )
        if finding.hint:
            print_line(f"hint: {safe(finding.hint)}")


@rules_app.command("test")
def run_rule_cases(
    *,
    directories: DirectoriesArgument = None,
    cases: Annotated[
        list[Path] | None, typer.Option("--cases", help="Directories with a folder of cases per rule id, too.")
    ] = None,
    require: Annotated[bool, typer.Option("--require-cases", help="Exit with 1 when a rule has no case.")] = False,
    year: YearOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Run the cases that stand beside rules: x.test.yml, or x/match.log and x/nomatch.ndjson, for x.yml.

    Exit code 1 when a case fails or can't be used, or a rule is refused; 2 when there are no rules at all.
    """
    from ironpost.authoring import find_cases, run_cases

    rules = load_rules(directories, config, needed=True)
    found, broken = find_cases(rules, cases or ())
    reports = list(run_cases(rules, found, year=year))
    tested = {report.case.rule_id for report in reports}
    # What a tested correlation counts is tested with it.
    tested |= {name for rule in rules.rules if rule.id in tested for name in rule.plan.get("rules", ())}
    untested = [rule.id for rule in rules.rules if rule.id not in tested]
    failed = [report for report in reports if not report.passed]
    refused = [rule.to_json() for rule in rules.refused]
    if json:
        problems = [{"path": e.path, "line": e.line, "reason": e.reason, "hint": e.hint} for e in broken]
        print_json(
            {
                "passed": len(reports) - len(failed),
                "failed": len(failed),
                "cases": [report.to_json() for report in reports],
                "broken": problems,
                "untested": untested,
                "refused": refused,
            }
        )
    else:
        say_refused(refused)
        for error in broken:
            say(f"error: {safe(error.path)}:{error.line} — {safe(error.reason)}")
            if error.hint:
                say(f"hint: {safe(error.hint)}")
        for rule_id in dict.fromkeys(report.case.rule_id for report in reports):
            own = [report for report in reports if report.case.rule_id == rule_id]
            bad = [report for report in own if not report.passed]
            print_line(f"{'FAIL' if bad else 'ok  '} {safe(rule_id)}: {len(own) - len(bad)} of {len(own)} cases")
            for report in bad:
                case = report.case
                expected = "should match" if case.expect == "match" else "should not match"
                print_line(f"     {safe(case.path)}:{case.line} {safe(case.name)} {expected}: {safe(report.reason)}")
                for line in _why(report.explained):
                    print_line(f"       {line}")
        if untested:
            listed = ", ".join(safe(name) for name in untested[:SHOWN])
            more = f" … and {len(untested) - SHOWN} more" if len(untested) > SHOWN else ""
            say(f"without cases: {listed}{more}")
        print_line(f"{len(reports) - len(failed)} passed, {len(failed)} failed, {len(untested)} rules without cases")
    if failed or broken or refused or (require and untested):
        raise typer.Exit(1)


def _why(explained: dict[str, Any] | None) -> Iterator[str]:
    for rule in explained["rules"] if explained else ():
        if not rule["routed"]:
            yield f"not asked: the event is {source_text(explained['logsource'] if explained else {})}"
        yield from tree_lines(rule["tree"])


@rules_app.command("list")
def list_rules(
    *,
    directories: DirectoriesArgument = None,
    level: Annotated[list[str] | None, typer.Option("--level", help="Only this level; may be repeated.")] = None,
    status: Annotated[list[str] | None, typer.Option("--status", help="Only this status; may be repeated.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only rules with a tag that begins so.")] = None,
    search: Annotated[str, typer.Option("--search", help="Only rules with this text in id, title or path.")] = "",
    fed: Annotated[bool, typer.Option("--fed", help="Only rules that something here feeds.")] = False,
    unfed: Annotated[
        bool, typer.Option("--unfed", help="Only rules that nothing here feeds, with the reason.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List rules: level, log source, whether anything feeds them and why not, and how often they hit."""
    rules = load_rules(directories, config)
    reasons = {rule.rule_id: rule.reason for rule in rules.unfed}
    hits = _hits(config, data_dir)
    wanted_tags = [one.lower() for one in tag or ()]
    word = search.lower()
    found = [
        _about(rule, reasons, hits)
        for rule in rules.rules
        if (not level or rule.level in level)
        and (not status or rule.status in status)
        and (not wanted_tags or any(own.lower().startswith(one) for own in rule.tags for one in wanted_tags))
        and (not word or word in f"{rule.id}\n{rule.title}\n{rule.path}".lower())
        and (not fed or rule.id not in reasons)
        and (not unfed or rule.id in reasons)
    ]
    if json:
        print_json({"total": len(found), "rules": found})
        return
    rows = [
        (
            one["id"],
            one["level"],
            one["kind"],
            "unfed" if one["unfed"] else "in use",
            "-" if one["hits"] is None else one["hits"],
            one["reason"] if unfed else ", ".join(one["logsource"].values()) or "-",
            one["title"],
        )
        for one in found
    ]
    columns = ("id", "level", "kind", "state", "hits", "why" if unfed else "log source", "title")
    print_table(columns, rows, empty="no rules")


def _about(rule: Rule, unfed: Mapping[str, str], hits: Mapping[str, tuple[int, int]] | None) -> dict[str, Any]:
    count, last = (None, None) if hits is None else hits.get(rule.id, (0, None))
    return {
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
        "reason": unfed.get(rule.id, ""),
        "hits": count,
        "last_hit": last,
        "path": rule.path,
        "line": rule.line,
    }


def _hits(config: Path | None, data_dir: Path | None) -> dict[str, tuple[int, int]] | None:
    """Detections and the time of the last one (nanoseconds) per rule id; None where no daemon has run."""
    from ironpost.config import client_data_dirs
    from ironpost.pipeline.instance import STORE_NAME
    from ironpost.storage import StoreReader

    for directory in client_data_dirs(load_for_client(config, data_dir), environment=os.environ):
        if (directory / STORE_NAME).is_file() and os.access(directory / STORE_NAME, os.R_OK):
            with StoreReader(directory / STORE_NAME) as store:
                return store.hits_by_rule()
    return None


@rules_app.command("show")
def show_rule(
    name: Annotated[str, typer.Argument(metavar="ID", help="Id or title of a rule.")],
    *,
    rules: RulesOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show a rule: its text, what it was compiled to, what feeds it, and its last hits."""
    chosen = load_rules(rules, config)
    found = next((rule for rule in chosen.rules if name in {rule.id, rule.name, rule.title}), None)
    if found is None:
        refused = next((one for one in chosen.refused if one.rule_id == name), None)
        if refused:
            raise RuleError(refused.reason, path=refused.path, line=refused.line, hint=refused.hint)
        raise no_rule(chosen, name)
    about = _about(found, {one.rule_id: one.reason for one in chosen.unfed}, _hits(config, data_dir))
    alerts = _last_alerts(found.id, config, data_dir)
    feeds = [rule.id for rule in chosen.rules if rule.kind == "correlation" and found.id in rule.plan["rules"]]
    if json:
        print_json(
            {**about, "description": found.description, "plan": dict(found.plan), "feeds": feeds, "alerts": alerts}
        )
        return
    state = ", ".join(word for word in (found.level, found.status) if word)
    print_line(f"{safe(found.id)}: {safe(found.title)} ({safe(state)})")
    print_line(f"{safe(found.path)}:{found.line}")
    if found.description:
        print_line(safe(" ".join(found.description.split())))
    source = ", ".join(f"{part} {safe(word)}" for part, word in found.logsource.items())
    rows = [
        ("log source", source),
        ("fed", about["reason"] or "yes"),
        ("reports", "yes" if found.emit else "no, it only feeds correlations"),
        ("counted by", ", ".join(feeds)),
        ("counts", ", ".join(found.plan.get("rules", ()))),
        ("tags", ", ".join(found.tags)),
        ("entity", ", ".join(found.plan["entity"])),
        ("hits", "" if about["hits"] is None else f"{about['hits']}, last {show_time(about['last_hit'])}"),
    ]
    for label, text in rows:
        if text:
            print_line(f"{label:10}  {safe(text)}")
    print_line("")
    for selection, body in found.plan.get("detections", {}).items():
        print_line(f"{safe(selection)}:")
        for line in _lowered(body, 1):
            print_line(line)
    if found.kind == "rule":
        print_line("condition:")
        for line in _lowered(found.plan["condition"], 1):
            print_line(line)
    else:
        seconds = found.plan["timespan_ns"] / 1e9
        group = ", ".join(found.plan.get("group_by", ())) or "nothing"
        asked = found.plan.get("expression") or found.plan.get("condition") or "every rule was seen"
        print_line(f"{found.plan['type']} by {safe(group)} within {seconds:g} s")
        print_line(f"condition: {safe(asked)}")
    for alert in alerts:
        print_line(f"{show_time(alert['last_seen'])} {safe(alert['entity']['value'] or '-')} x{alert['count']}")


def _last_alerts(rule_id: str, config: Path | None, data_dir: Path | None) -> list[dict[str, Any]]:
    from ironpost.config import client_data_dirs
    from ironpost.pipeline.instance import STORE_NAME
    from ironpost.storage import StoreReader

    for directory in client_data_dirs(load_for_client(config, data_dir), environment=os.environ):
        if (directory / STORE_NAME).is_file() and os.access(directory / STORE_NAME, os.R_OK):
            with StoreReader(directory / STORE_NAME) as store:
                return [alert.to_json() for alert in store.alerts(rule_id=rule_id, limit=5)]
    return []


def _lowered(expression: Mapping[str, Any], depth: int) -> Iterator[str]:
    """A lowered expression as lines."""
    pad = "  " * depth
    if "atom" in expression:
        made = expression["atom"]
        value = made.get("value")
        if isinstance(value, list):
            value = "".join(part if isinstance(part, str) else part["wild"] for part in value)
        cased = " (cased)" if made.get("cased") else ""
        shown = f" {value_text(value)}" if "value" in made else ""
        yield f"{pad}{safe(made['field'] or 'keyword')} {made['op']}{cased}{shown}"
    elif "ref" in expression:
        yield f"{pad}{safe(expression['ref'])}"
    elif "const" in expression:
        yield f"{pad}{'always' if expression['const'] else 'never'}"
    elif "not" in expression:
        yield f"{pad}not"
        yield from _lowered(expression["not"], depth + 1)
    else:
        [(kind, parts)] = expression.items()
        yield f"{pad}{'all of' if kind == 'and' else 'any of'}"
        for part in parts[:SHOWN]:
            yield from _lowered(part, depth + 1)
        if len(parts) > SHOWN:
            yield f"{pad}  … and {len(parts) - SHOWN} more"
