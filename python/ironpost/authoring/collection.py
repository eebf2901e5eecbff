"""Taking over a collection of rules: what it holds, what of it works here, and copying that."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ironpost.authoring.archives import Member, read_members
from ironpost.authoring.logic import holds_on_nothing
from ironpost.detections import RefusedRule, Rule, RuleSet
from ironpost.detections.documents import rule_files
from ironpost.errors import RuleError

MANIFEST = ".ironpost-import.json"
"""Lies in the target: what was imported, so that a later import can tell its own files from edited ones."""
_RULE = re.compile(rb"^(?:detection|correlation|filter|placeholders|action)[ \t]*:", re.MULTILINE)
_RETIRED = re.compile(rb"^status[ \t]*:[ \t]*['\"]?(?:deprecated|unsupported)\b", re.MULTILINE)
_TECHNIQUE = re.compile(r"attack\.(t\d{4}(?:\.\d{3})?)")
_TACTIC = re.compile(r"attack\.([a-z][a-z-]+)")


@dataclass
class Collection:
    """A collection that was read.

    Attributes:
        files: Rule files by name, unchanged.
        rules: What of them can be used, with names of the collection as paths.
        refused: What can't.
        broad: What can be used and would fire on every event that has none of its fields; left out unless asked for.
        duplicates: Of those, what is refused for an id that is in use already: (id, name, where it is in use).
        skipped: Files that were not looked at, by reason.
    """

    source: str
    files: dict[str, bytes] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    refused: list[RefusedRule] = field(default_factory=list)
    broad: list[Rule] = field(default_factory=list)
    unfed: dict[str, str] = field(default_factory=dict)
    duplicates: list[tuple[str, str, str]] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def coverage(self) -> dict[str, dict[str, int]]:
        """Returns, per ATT&CK tactic, the techniques with the number of rules that can fire here."""
        made: dict[str, Counter[str]] = {}
        for rule in self.rules:
            if rule.id in self.unfed:
                continue
            techniques = [found[1] for tag in rule.tags if (found := _TECHNIQUE.fullmatch(tag))]
            tactics = [found[1] for tag in rule.tags if (found := _TACTIC.fullmatch(tag))]
            for tactic in tactics or (["(no tactic)"] if techniques else []):
                made.setdefault(tactic, Counter()).update(techniques or ["(no technique)"])
        return {tactic: dict(sorted(made[tactic].items())) for tactic in sorted(made)}

    def name_of(self, path: str) -> str:
        """Returns the name in the collection of a path that a rule or refusal carries."""
        return self.names.get(path, path)


@dataclass
class Changes:
    """What an import did to its target, by file name."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns the changes as a JSON object; unchanged files are counted only."""
        listed = {key: getattr(self, key) for key in ("added", "updated", "kept", "gone", "removed")}
        return {**listed, "unchanged": len(self.unchanged)}


def collect(source: Path, *, known: RuleSet | None = None, retired: bool = False, broad: bool = False) -> Collection:
    """Reads a collection and judges every rule in it.

    Args:
        source: Directory, ``.tar`` (also compressed by gzip, bzip2 or xz) or ``.zip``.
        known: Rules in use already, whose ids are taken.
        broad: Take rules that hold on an event with none of their fields, too.
        retired: Take rules whose status is deprecated or unsupported, too.

    Raises:
        RuleError: When the source can't be read or must not be trusted.
    """
    made = Collection(str(source))
    members = list(read_members(source))
    prefix = "" if source.is_dir() else _common_folder(members)
    with tempfile.TemporaryDirectory(prefix="ironpost-import-") as place:
        root = Path(place)
        folders: set[str] = set()
        for member in members:
            name = member.name.removeprefix(prefix)
            reason = member.problem
            if not reason and not _RULE.search(member.content):
                reason = "no rule"
            if not reason and not retired and _RETIRED.search(member.content):
                reason = "deprecated or unsupported"
            if not reason and name in made.files:
                reason = "name is used twice"
            above = {str(folder) for folder in PurePosixPath(name).parents}
            if not reason and (name in folders or not above.isdisjoint(made.files)):
                reason = "name is a file and a folder"
            if reason:
                made.skipped.setdefault(reason, []).append(name)
                continue
            folders |= above
            made.files[name] = member.content
            # Under names of our own: what a member is called decides nothing about where anything is written.
            file = root / f"{len(made.files):06d}.yml"
            file.write_bytes(member.content)
            made.names[str(file)] = name
        rules = RuleSet.load(root, cache=None)  # the place is gone in a moment
        made.unfed = {one.rule_id: one.reason for one in rules.unfed}
        made.refused = list(rules.refused)
    taken = {rule.id: rule for rule in known.rules} if known else {}
    for rule in rules.rules:
        before = taken.get(rule.id)
        # Where a log source is not known such a rule is asked about every event, and says yes.
        if (
            not broad
            and rule.kind == "rule"
            and rule.emit
            and holds_on_nothing(rule.plan["condition"], rule.plan.get("detections", {}))
        ):
            made.broad.append(rule)
        elif before is None:
            made.rules.append(rule)
        else:
            made.duplicates.append((rule.id, made.name_of(rule.path), f"{before.path}:{before.line}"))
    return made


def _common_folder(members: Sequence[Member]) -> str:
    """The one folder all of an archive lies in, as archives of repositories have."""
    first = {PurePosixPath(member.name).parts[0] for member in members}
    if len(first) == 1 and all("/" in member.name for member in members):
        return f"{first.pop()}/"
    return ""


def existing_rules(target: Path, others: Sequence[Path]) -> RuleSet:
    """Loads the rules in use that an import must not collide with: all but the target's own imported files.

    Args:
        target: Directory that is imported to; it need not exist.
        others: Further directories of rules in use.
    """
    manifest = _read_manifest(target)
    own = {(target / name).resolve() for name in manifest}
    files: dict[Path, None] = {}
    for directory in (target, *others):
        if directory.exists():
            files |= {file: None for file in rule_files(directory) if file.resolve() not in own}
    return RuleSet.load(*files) if files else RuleSet(())


def store(collection: Collection, target: Path, *, force: bool = False, prune: bool = False) -> Changes:
    """Copies every file with a usable rule to the target.

    Args:
        collection: What was read.
        target: Directory; made when missing.
        force: Overwrite files that were edited, or that no import put there.
        prune: Remove files of an earlier import that the collection no longer has.

    Raises:
        RuleError: When the target leads elsewhere by a link.
    """
    wanted: dict[str, list[str]] = {}
    for rule in collection.rules:
        wanted.setdefault(collection.name_of(rule.path), []).append(rule.id)
    # Filters and placeholders are no rules by themselves; they belong to what they apply to.
    for name, content in collection.files.items():
        if re.search(rb"^(?:filter|placeholders)[ \t]*:", content, re.MULTILINE):
            wanted.setdefault(name, [])
    target.mkdir(parents=True, exist_ok=True)
    root = target.resolve()
    manifest = _read_manifest(target)
    for name in wanted:
        _placeable(target, name)
    changes = Changes()
    for name in sorted(wanted):
        content = collection.files[name]
        place = target / name
        _inside(place, root)
        digest = hashlib.sha256(content).hexdigest()
        present = place.read_bytes() if place.is_file() else None
        if present == content:
            changes.unchanged.append(name)
        elif present is None:
            changes.added.append(name)
        elif force or manifest.get(name, {}).get("sha256") == hashlib.sha256(present).hexdigest():
            changes.updated.append(name)
        else:
            changes.kept.append(name)
            continue
        if present != content:
            place.parent.mkdir(parents=True, exist_ok=True)
            _inside(place, root)
            _replace(place, content)
        manifest[name] = {"sha256": digest, "ids": wanted[name]}
    for name in sorted(set(manifest) - set(wanted)):
        place = target / name
        _inside(place, root)
        if not place.is_file():
            del manifest[name]
        elif prune and hashlib.sha256(place.read_bytes()).hexdigest() == manifest[name].get("sha256"):
            place.unlink()
            changes.removed.append(name)
            del manifest[name]
        else:
            changes.gone.append(name)
    body = {"version": 1, "source": collection.source, "files": manifest}
    _replace(target / MANIFEST, json.dumps(body, indent=1).encode() + b"\n")
    return changes


def _placeable(target: Path, name: str) -> None:
    """Says, before anything is written, that something else stands where a file or its folder must be."""
    place = target / name
    inside = [target / folder for folder in PurePosixPath(name).parents]
    blocking = next((folder for folder in inside if folder.exists() and not folder.is_dir()), None)
    if blocking or place.is_dir():
        what = "no folder" if blocking else "a folder"
        hint = "remove it, or choose another"
        raise RuleError(f"is {what}: {name} cannot be written", path=str(blocking or place), hint=hint)


def _inside(place: Path, root: Path) -> None:
    if not place.parent.resolve().is_relative_to(root) or place.is_symlink():
        raise RuleError("leads out of the target by a link", path=str(place), hint="remove the link, or choose another")


def _replace(place: Path, content: bytes) -> None:
    fresh = place.with_name(f".{place.name}.new")
    fresh.write_bytes(content)
    fresh.replace(place)


def _read_manifest(target: Path) -> dict[str, dict[str, Any]]:
    try:
        body = json.loads((target / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise RuleError(f"record of earlier imports can't be read: {error}", path=str(target / MANIFEST)) from error
    files = body.get("files") if isinstance(body, dict) else None
    if not isinstance(files, dict):
        return {}
    # Our own file, yet in a directory that others may write to: names are checked like an archive's.
    return {
        name: entry
        for name, entry in files.items()
        if isinstance(entry, dict) and not name.startswith("/") and ".." not in name.split("/")
    }
