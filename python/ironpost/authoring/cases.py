"""Cases beside rules: events a rule must find, and events it must leave alone.

For ``web.yml`` they stand in ``web.test.yml`` (a list of cases), in a folder ``web/`` with ``match.log``,
``match.ndjson``, ``nomatch.log`` or ``nomatch.ndjson``, or in such a folder named by the rule's id elsewhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ironpost.detections import Explanations, Rule, RuleSet
from ironpost.detections.documents import (
    MAX_FILE_BYTES,
    Document,
    Section,
    check_readable,
    parse_documents,
    refuse_unknown_keys,
)
from ironpost.detections.field_maps import PARTS
from ironpost.errors import ParseError, RuleError
from ironpost.events import parse

_KEYS = frozenset(
    {"name", "rule", "event", "events", "line", "lines", "file", "logsource", "format", "year", "expect", "count"}
)
_INPUTS = ("event", "events", "line", "lines", "file")
_EXPECTATIONS = frozenset({"match", "no-match"})
_FOLDER_FILES = ("match", "nomatch")
_CASE_SUFFIXES = (".log", ".ndjson", ".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        rule_id: The rule it is for.
        data: Log lines or JSON lines.
        every: Every record must match (or none); otherwise one is enough.
        count: Exactly so many detections, or None.
    """

    path: str
    line: int
    name: str
    rule_id: str
    data: bytes = b""
    expect: str = "match"
    every: bool = False
    count: int | None = None
    logsource: dict[str, str] = field(default_factory=dict)
    format: str = "auto"
    year: int | None = None


@dataclass(frozen=True, slots=True)
class CaseReport:
    """What became of a case.

    Attributes:
        found: Detections of the rule.
        reason: Why it failed; empty when it passed.
        explained: The event that decided, explained, as :meth:`Explanations.explain` gives it; None for correlations.
    """

    case: Case
    found: int
    reason: str = ""
    explained: dict[str, Any] | None = None

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.reason

    def to_json(self) -> dict[str, Any]:
        """Returns the report as a JSON object."""
        case = self.case
        made = {"rule": case.rule_id, "name": case.name, "path": case.path, "line": case.line, "expect": case.expect}
        return {**made, "passed": self.passed, "found": self.found, "reason": self.reason, "explained": self.explained}


def find_cases(rules: RuleSet, folders: Sequence[Path] = ()) -> tuple[list[Case], list[RuleError]]:
    """Finds the cases of every rule.

    Args:
        rules: The rules.
        folders: Directories with a folder per rule id, besides what stands next to the rule files.

    Returns:
        The cases, and what can't be used.
    """
    cases: list[Case] = []
    broken: list[RuleError] = []
    by_file: dict[str, list[Rule]] = {}
    for rule in rules.rules:
        by_file.setdefault(rule.path, []).append(rule)
    for path, listed in by_file.items():
        stem = Path(path).with_suffix("")
        for file in (stem.with_name(stem.name + ".test.yml"), stem.with_name(stem.name + ".test.yaml")):
            if file.is_file():
                for found in _listed(file, listed):
                    (broken if isinstance(found, RuleError) else cases).append(found)  # type: ignore[arg-type]
        if stem.is_dir():
            try:
                cases += _folder(stem, _the_rule(listed, "", str(stem), 0))
            except RuleError as error:
                broken.append(error)
    for folder in folders:
        check_readable(folder)
        for rule in rules.rules:
            if "/" not in rule.id and (folder / rule.id).is_dir():
                cases += _folder(folder / rule.id, rule)
    return cases, broken


def run_cases(rules: RuleSet, cases: Sequence[Case], *, year: int | None = None) -> Iterator[CaseReport]:
    """Runs cases, each against its rule and what a correlation builds on.

    Args:
        rules: The rules.
        cases: As :func:`find_cases` gave them.
        year: Year of timestamps without one, where the case doesn't say.
    """
    sets: dict[str, tuple[RuleSet, Explanations]] = {}
    for case in cases:
        if case.rule_id not in sets:
            needed = tuple(_loud(rule) for rule in _needed(rules, case.rule_id))
            alone = RuleSet(needed, judges=rules.judges)
            sets[case.rule_id] = (alone, Explanations(alone))
        alone, explanations = sets[case.rule_id]
        try:
            yield _run(alone, explanations, case, year)
        except ParseError as error:
            yield CaseReport(case, 0, error.reason)


def _run(rules: RuleSet, explanations: Explanations, case: Case, year: int | None) -> CaseReport:
    is_events = case.format == "auto" and case.data.lstrip()[:1] == b"{"
    records = case.data if is_events else parse(case.data, format=case.format, year=case.year or year)
    total = len(parse(case.data, format="json")) if is_events else len(records)
    if not total:
        return CaseReport(case, 0, "there is no event in it")
    logsource = case.logsource or None
    hits = list(rules.detect(records, logsource=logsource))
    own = [found for found in hits if found.rule_id == case.rule_id]
    rule = rules.rule(case.rule_id)
    matched = {found.event_index for found in own}
    reason, row = "", 0
    if case.expect == "no-match":
        if own:
            row = min(matched)
            reason = f"event {row + 1} of {total} matches"
    elif case.count is not None:
        if len(own) != case.count:
            reason = f"{len(own)} detections instead of {case.count}"
            row = next((index for index in range(total) if index not in matched), 0)
    elif not own or (case.every and rule.kind == "rule" and len(matched) < total):
        row = next(index for index in range(total) if index not in matched)
        reason = f"event {row + 1} of {total} does not match"
    if not reason:
        return CaseReport(case, len(own))
    if rule.kind == "correlation":
        counts = Counter(found.rule_id for found in hits)
        fed = ", ".join(f"{name} {counts[name]}" for name in rule.plan["rules"])
        return CaseReport(case, len(own), f"{reason}; matches of what it counts: {fed}")
    explained = explanations.explain(records, logsource=logsource, rule_ids=[rule.id])
    return CaseReport(case, len(own), reason, explained[row] if row < len(explained) else None)


def _needed(rules: RuleSet, rule_id: str) -> list[Rule]:
    """The rule and everything it builds on, in the order of the set."""
    wanted, waiting = set(), [rule_id]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            rule = rules.rule(name)
            waiting += rule.plan["rules"] if rule.kind == "correlation" else ()
    return [rule for rule in rules.rules if rule.id in wanted]


def _loud(rule: Rule) -> Rule:
    return replace(rule, emit=True, plan={**rule.plan, "emit": True})


def _the_rule(listed: Sequence[Rule], named: str, path: str, line: int) -> Rule:
    """The rule of a file that a case is for: the named one, else the only one that reports."""
    chosen = [rule for rule in listed if named in {rule.id, rule.name}] if named else [r for r in listed if r.emit]
    if len(chosen) == 1:
        return chosen[0]
    ids = ", ".join(rule.id for rule in listed)
    reason = f"there is no rule {named!r}" if named else "the file has several rules"
    raise RuleError(reason, path=path, line=line, field="rule", hint=f"say rule: with one of {ids}")


def _folder(folder: Path, rule: Rule) -> list[Case]:
    made = []
    for kind in _FOLDER_FILES:
        for suffix in _CASE_SUFFIXES:
            file = folder / (kind + suffix)
            if file.is_file():
                expect = "match" if kind == "match" else "no-match"
                made.append(Case(str(file), 1, kind, rule.id, _read(file), expect, every=True))
    return made


def _read(file: Path) -> bytes:
    if file.stat().st_size > MAX_FILE_BYTES:
        raise RuleError(f"file is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB", path=str(file))
    return file.read_bytes()


def _listed(file: Path, rules: Sequence[Rule]) -> Iterator[Case | RuleError]:
    path = str(file)
    try:
        text = _read(file).decode("utf-8-sig")
    except (RuleError, UnicodeDecodeError) as error:
        yield error if isinstance(error, RuleError) else RuleError("is not UTF-8 text", path=path)
        return
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    shift = 0
    if first.startswith("-") and not first.startswith("---"):
        # The YAML reader takes mappings only: a list becomes the value of a key, one line further down.
        text, shift = f"cases:\n{text}", 1
    for document in parse_documents(text, path):
        if isinstance(document, RuleError):
            yield RuleError(document.reason, path=path, line=max(1, document.line - shift))
            continue
        listed = document.data.get("cases", [document.data])
        for item in listed if isinstance(listed, list) else [listed]:
            try:
                yield _case(item, document, file, rules, shift)
            except RuleError as error:
                yield RuleError(
                    error.reason, path=path, line=max(1, error.line - shift), field=error.field, hint=error.hint
                )
            except OSError as error:
                yield RuleError(f"{error.filename}: {error.strerror}", path=path, line=document.line)


def _case(item: Any, document: Document, file: Path, rules: Sequence[Rule], shift: int) -> Case:
    path = document.path
    if not isinstance(item, Section):
        raise RuleError("a case is a mapping", path=path, line=document.line)
    refuse_unknown_keys(item, _KEYS, path=path, where="a case")

    def fail(reason: str, key: str, hint: str = "") -> RuleError:
        return RuleError(reason, path=path, line=item.line_of(key), field=key, hint=hint)

    given = [key for key in _INPUTS if key in item]
    if len(given) != 1:
        raise fail("a case has one of event, events, line, lines and file", given[0] if given else "name")
    [key] = given
    expect = str(item.get("expect", "match"))
    if expect not in _EXPECTATIONS:
        raise fail(f"expect is match or no-match, not {expect!r}", "expect")
    count, year = item.get("count"), item.get("year")
    for name, number in (("count", count), ("year", year)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
            raise fail(f"{name} is a number", name)
    logsource = item.get("logsource") or {}
    if not isinstance(logsource, dict) or set(logsource) - set(PARTS):
        raise fail("logsource is a mapping with product, category and service", "logsource")
    return Case(
        path=path,
        line=item.line - shift,
        name=str(item.get("name") or f"case of line {item.line - shift}"),
        rule_id=_the_rule(rules, str(item.get("rule") or ""), path, item.line).id,
        data=_data(item[key], key, file, fail),
        expect=expect,
        every=key in {"event", "line"},
        count=count,
        logsource={part: str(word) for part, word in logsource.items()},
        format=str(item.get("format", "auto")),
        year=year,
    )


def _data(value: Any, key: str, file: Path, fail: Any) -> bytes:
    if key == "file":
        place = file.parent / str(value)
        if Path(str(value)).is_absolute() or not place.resolve().is_relative_to(file.parent.resolve()):
            raise fail("file lies beside the cases", key)
        return _read(place)
    listed = value if key in {"events", "lines"} else [value]
    if not isinstance(listed, list) or not listed:
        raise fail(f"{key} is a list", key)
    if key in {"event", "events"}:
        if not all(isinstance(event, dict) for event in listed):
            raise fail("an event is a mapping of fields to values", key)
        return "".join(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n" for event in listed).encode()
    if not all(isinstance(line, str) and line for line in listed):
        raise fail("a line is text", key, "put it in quotes")
    return "".join(line + "\n" for line in listed).encode()
