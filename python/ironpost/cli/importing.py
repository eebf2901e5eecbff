"""``rules import``: a collection of Sigma rules, judged and copied."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironpost.cli.options import ConfigOption, JsonOption
from ironpost.cli.output import print_json, print_line, safe, say
from ironpost.cli.rules import SHOWN, rule_directories

if TYPE_CHECKING:
    from ironpost.authoring import Collection


def import_rules(
    source: Annotated[Path, typer.Argument(metavar="DIR|ARCHIVE", help="Directory, .tar.xz, .tar.gz, .tar or .zip.")],
    *,
    to: Annotated[
        Path | None, typer.Option("--to", help="Copy what works to this directory; without it, only report.")
    ] = None,
    refused: Annotated[bool, typer.Option("--refused", help="List every refused rule.")] = False,
    coverage: Annotated[bool, typer.Option("--coverage", help="List ATT&CK techniques by tactic.")] = False,
    retired: Annotated[bool, typer.Option("--retired", help="Take deprecated and unsupported rules, too.")] = False,
    broad: Annotated[
        bool, typer.Option("--broad", help="Take rules that hold on any event without their fields, too.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that were edited.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove imported files that are gone.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say what of a collection of Sigma rules works here, and copy it with --to; a later import updates.

    File names, ids and tags are kept. Exit code 1 when something was refused, 2 when the source can't be used.
    """
    from ironpost.authoring.collection import collect, existing_rules, store

    known = existing_rules(to, rule_directories(config)) if to else None
    found = collect(source, known=known, retired=retired, broad=broad)
    changes = store(found, to, force=force, prune=prune) if to else None
    if json:
        print_json(_import_json(found) | {"to": str(to) if to else None, "changes": changes and changes.to_json()})
    else:
        _show_import(found, list_refused=refused, list_coverage=coverage)
        if changes is None:
            say("nothing was copied: --to DIR copies the rules that work")
        else:
            for word in ("added", "updated", "removed"):
                for name in getattr(changes, word)[: SHOWN if word == "added" else None]:
                    print_line(f"{word}: {safe(name)}")
            for name in changes.kept:
                say(f"kept: {safe(name)} was edited here; --force overwrites it")
            for name in changes.gone:
                say(f"gone: {safe(name)} is no longer in the source; --prune removes it")
            counts = {
                word: len(getattr(changes, word)) for word in ("added", "updated", "unchanged", "kept", "removed")
            }
            print_line(", ".join(f"{count} {word}" for word, count in counts.items()) + f" in {safe(to)}")
    if found.refused or found.duplicates:
        raise typer.Exit(1)


def _reason_kind(reason: str) -> str:
    """A reason without what differs from rule to rule, for counting."""
    return re.sub(r"%[^%]+%", "%…%", re.sub(r"'[^']*'|\"[^\"]*\"", "…", re.sub(r"^\S+: ", "", reason)))


def _import_json(found: Collection) -> dict[str, Any]:
    return {
        "source": found.source,
        "files": len(found.files),
        "passed": len(found.rules),
        "fed": sum(rule.id not in found.unfed for rule in found.rules),
        "refused": [{**one.to_json(), "path": found.name_of(one.path)} for one in found.refused],
        "broad": [{"id": rule.id, "title": rule.title, "path": found.name_of(rule.path)} for rule in found.broad],
        "unfed": found.unfed,
        "duplicates": [{"id": one, "path": name, "used_at": place} for one, name, place in found.duplicates],
        "skipped": found.skipped,
        "coverage": found.coverage(),
    }


def _show_import(found: Collection, *, list_refused: bool, list_coverage: bool) -> None:
    fed = sum(rule.id not in found.unfed for rule in found.rules)
    print_line(f"{len(found.files)} rule files in {safe(found.source)}")
    print_line(f"{len(found.rules)} rules work, {fed} of them are fed by this host")
    for title, reasons in (
        ("refused", Counter(_reason_kind(one.reason) for one in found.refused)),
        ("unfed", Counter(_reason_kind(reason) for reason in found.unfed.values())),
        ("skipped files", Counter({reason: len(names) for reason, names in found.skipped.items()})),
    ):
        if reasons:
            print_line(f"{reasons.total()} {title}")
            for reason, count in reasons.most_common(10):
                print_line(f"  {count:5}  {safe(reason)}")
            if len(reasons) > 10:
                print_line(f"         … and {len(reasons) - 10} other reasons")
    for rule in found.broad:
        say(
            f"left out: {safe(found.name_of(rule.path))} — {safe(rule.title)} holds on any event that has none of its "
            "fields; --broad takes it"
        )
    if list_refused:
        for one in found.refused:
            say(f"error: {safe(found.name_of(one.path))}:{one.line} — {safe(one.reason)}")
    for identifier, name, place in found.duplicates:
        say(f"error: {safe(name)} — id {safe(identifier)} is in use at {safe(place)}; not copied")
    table = found.coverage()
    if table:
        total = len({technique for techniques in table.values() for technique in techniques})
        print_line(f"ATT&CK: {len(table)} tactics, {total} techniques by rules that are fed")
        for tactic, techniques in table.items() if list_coverage else ():
            listed = ", ".join(f"{name.upper()} {count}" for name, count in techniques.items())
            print_line(f"  {tactic}: {safe(listed)}")
