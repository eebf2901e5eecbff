"""Findings about rules: what is refused, and what is allowed and probably not meant."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ironpost.authoring.logic import constant_condition, holds_on_nothing
from ironpost.authoring.values import check_values
from ironpost.detections import Rule, RuleSet
from ironpost.detections.documents import Document, Section, read_documents, rule_files
from ironpost.detections.lowering import RuleWarning

#: Fewer rules of a log source say nothing about which fields it has.
_MIN_PEERS = 20
#: A field that this many rules of a log source use is no slip.
_MIN_USES = 4
_STATUSES = frozenset({"stable", "test", "experimental", "deprecated", "unsupported"})
_SHORT_STATUSES = frozenset({"enabled", "disabled", "test"})
_TACTICS_TEXT = """
reconnaissance resource-development initial-access execution persistence privilege-escalation defense-evasion
credential-access discovery lateral-movement collection command-and-control exfiltration impact stealth
defense-impairment
"""
_TACTICS = frozenset(_TACTICS_TEXT.split())
_TAGS = re.compile(
    r"attack\.(?:t\d{4}(?:\.\d{3})?|[gs]\d{4}|ds\d{4}|c\d{4}|ta\d{4})"
    r"|car\.\d{4}-\d{2}-\d{3}|cve\.\d{4}[-.]\d{4,}|d3fend\.\S+|detection\.(?:dfir|emerging-threats|threat-hunting)"
    r"|stp\.\S+|tlp\.(?:clear|white|green|amber|amber-strict|red)"
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        severity: ``error`` (refused), ``warning`` or ``note``.
        code: Stable name of the check, for example ``unused-selection``.
    """

    path: str
    line: int
    severity: str
    code: str
    reason: str
    hint: str = ""
    rule_id: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the finding as a JSON object; an empty hint or id is left out."""
        made = {"path": self.path, "line": self.line, "severity": self.severity, "code": self.code}
        made |= {"reason": self.reason, "hint": self.hint, "id": self.rule_id}
        return {key: value for key, value in made.items() if value not in ("", None)}


def lint(rules: RuleSet, paths: Sequence[Path]) -> list[Finding]:
    """Checks rules.

    Args:
        rules: What ``RuleSet.load(*paths)`` gave.
        paths: The same files and directories; they are read again for what loading does not keep.

    Returns:
        Findings by path and line.
    """
    found = [
        Finding(one.path, one.line, "error", "refused", one.reason, one.hint, one.rule_id) for one in rules.refused
    ]
    by_place = {(rule.path, rule.line): rule for rule in rules.rules}
    for path in paths:
        for file in rule_files(path):
            for document in read_documents(file):
                if isinstance(document, Document):
                    found += _document(document, by_place.get((document.path, document.line)))
    for rule in rules.rules:
        found += [
            Finding(rule.path, one.line, *_language_code(one), f"{one.field}: {one.reason}", one.hint, rule.id)
            for one in rule.warnings
        ]
        if rule.kind == "rule":
            found += _conditions(rule)
    found += _same_logic(rules.rules)
    found += _odd_fields(rules.rules)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(set(found), key=lambda one: (one.path, one.line, order[one.severity], one.code, one.reason))


def _language_code(warning: RuleWarning) -> tuple[str, str]:
    """Severity and code of what reading the rule remarked already."""
    if "custom key" in warning.reason:
        return "note", "custom-key"
    for words, code in (
        ("never names", "unused-selection"),
        ("has no effect on a single value", "needless-modifier"),
        ("has no effect", "deprecated"),
    ):
        if words in warning.reason:
            return "warning", code
    return "warning", "retired" if warning.field == "status" else "language"


def _document(document: Document, rule: Rule | None) -> Iterator[Finding]:
    data = document.data
    identifier = rule.id if rule else str(data.get("id") or "")

    def say(severity: str, code: str, reason: str, line: int, hint: str = "") -> Finding:
        return Finding(document.path, line, severity, code, reason, hint, identifier)

    if not {"detection", "correlation", "filter"} & set(data):
        return
    detection = data.get("detection")
    is_short = isinstance(detection, Section) and ("conditions" in detection or "logsource" not in data)
    if not is_short and "filter" not in data:
        yield from _metadata(data, say)
    status = data.get("status")
    known = _STATUSES | _SHORT_STATUSES if is_short else _STATUSES
    if isinstance(status, str) and status not in known:
        near = get_close_matches(status, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(sorted(known))}"
        yield say("warning", "status", f"status {status!r} is not one of Sigma's", data.line_of("status"), hint)
    tags = data.get("tags")
    for tag in tags if isinstance(tags, list) else ():
        yield from _tag(str(tag), data.line_of("tags"), say)
    if isinstance(detection, Section) and not is_short:
        yield from _detection(detection, say)


def _metadata(data: Section, say: Any) -> Iterator[Finding]:
    for key in ("id", "status", "level", "date", "author", "description"):
        if key == "level" and "correlation" in data:
            continue
        if not data.get(key):
            severity = "note" if key in {"description", "author", "date"} else "warning"
            yield say(severity, f"missing-{key}", f"{key} is missing", data.line)
    identifier = data.get("id")
    if isinstance(identifier, str) and identifier and not _UUID.fullmatch(identifier):
        yield say("note", "id-shape", f"id {identifier!r} is no UUID, as Sigma wants it", data.line_of("id"))
    for key in ("date", "modified"):
        value = data.get(key)
        if isinstance(value, str) and value and not _DATE.fullmatch(value):
            yield say("warning", "date-shape", f"{key} {value!r} is not written as 2026-11-21", data.line_of(key))


def _tag(tag: str, line: int, say: Any) -> Iterator[Finding]:
    if _TAGS.fullmatch(tag) or (tag.startswith("attack.") and tag[7:] in _TACTICS):
        return
    hint = ""
    lowered = tag.lower().replace("_", "-")
    if lowered != tag and (_TAGS.fullmatch(lowered) or lowered[7:] in _TACTICS):
        hint = f"write {lowered}"
    elif tag.startswith("attack."):
        near = get_close_matches(tag[7:], _TACTICS, n=1)
        hint = f"did you mean attack.{near[0]}?" if near else "a tactic's name, or for example attack.t1059.004"
    elif "." not in tag:
        hint = "a tag is a namespace, a dot and a name, for example attack.execution"
    namespaces = ("attack", "car", "cve", "d3fend", "detection", "stp", "tlp")
    severity = "warning" if tag.split(".", maxsplit=1)[0] in namespaces or "." not in tag else "note"
    yield say(severity, "tag-shape", f"tag {tag!r} has no shape Sigma knows", line, hint)


def _detection(detection: Section, say: Any) -> Iterator[Finding]:
    written = detection.get("condition")
    conditions = [text for text in (written if isinstance(written, list) else [written]) if isinstance(text, str)]
    names = [name for name in detection if name not in {"condition", "timeframe"}]
    for text in conditions:
        if re.search(r"\b(?:1|any|all) of them\b", text, re.IGNORECASE) and len(names) > 1:
            yield say(
                "note",
                "of-them",
                "'of them' also takes every selection that is added later",
                detection.line_of("condition"),
                "name them by a pattern, for example 1 of selection_*",
            )
    if len(conditions) > 1:
        hint = "join them with or in one text"
        yield say("note", "condition-list", "a list of conditions is OR", detection.line_of("condition"), hint)
    for name in names:
        for severity, code, reason, line, hint in check_values(detection[name], detection.line_of(name)):
            yield say(severity, code, f"{name}: {reason}", line, hint)


def _conditions(rule: Rule) -> Iterator[Finding]:
    constant = constant_condition(rule.plan["condition"], rule.plan["detections"])
    if constant is not None:
        code, word = ("always-true", "always") if constant else ("never-true", "never")
        yield Finding(rule.path, rule.line, "warning", code, f"the condition {word} holds", rule_id=rule.id)
    elif holds_on_nothing(rule.plan["condition"], rule.plan["detections"]):
        yield Finding(
            rule.path,
            rule.line,
            "warning",
            "holds-on-nothing",
            "the condition holds on an event that has none of the rule's fields",
            "ask for at least one value that must be there",
            rule.id,
        )


def _same_logic(rules: Sequence[Rule]) -> Iterator[Finding]:
    seen: dict[str, Rule] = {}
    for rule in rules:
        if rule.kind != "rule":
            continue
        plan = rule.plan
        bodies = sorted(repr(body) for body in plan["detections"].values())
        names = {name: repr(body) for name, body in plan["detections"].items()}
        key = repr((plan["logsource"], bodies, _resolved(plan["condition"], names)))
        first = seen.setdefault(key, rule)
        if first is not rule:
            place = f"{first.path}:{first.line}"
            reason = f"asks the same as {first.id!r} at {place}"
            yield Finding(rule.path, rule.line, "warning", "same-logic", reason, rule_id=rule.id)


def _resolved(expression: dict[str, Any], names: dict[str, str]) -> Any:
    if "ref" in expression:
        return names[expression["ref"]]
    if "not" in expression:
        return ("not", _resolved(expression["not"], names))
    if "and" in expression or "or" in expression:
        [(kind, parts)] = expression.items()
        return (kind, sorted(repr(_resolved(part, names)) for part in parts))
    return repr(expression)


def _odd_fields(rules: Sequence[Rule]) -> Iterator[Finding]:
    """Field names that look like a slip of one that the log source's map or its other rules use."""
    fields_of = {rule.id: _field_names(rule) for rule in rules if rule.kind == "rule"}
    groups: dict[tuple[tuple[str, str], ...], list[Rule]] = defaultdict(list)
    for rule in rules:
        if rule.kind == "rule":
            groups[tuple(sorted(rule.logsource.items()))].append(rule)
    everywhere = Counter(name for names in fields_of.values() for name in names)
    for members in groups.values():
        mapper = members[0].mapper
        mapped = set(mapper.fields) if mapper else set()
        counts = Counter(name for rule in members for name in fields_of[rule.id])
        known = mapped | {name for name, uses in counts.items() if uses >= _MIN_USES}
        if not mapped and len(members) < _MIN_PEERS:
            continue
        for rule in members:
            for name in sorted(fields_of[rule.id] - known):
                # Used for other log sources too: a name, if a rare one here.
                if everywhere[name] > counts[name] + 1:
                    continue
                folded = {other.lower(): other for other in known}
                near = folded.get(name.lower()) or next(iter(get_close_matches(name, known, n=1, cutoff=0.88)), "")
                # NewTargetUserName beside TargetUserName, File1 beside File2: names of their own.
                if not near or name.endswith(near) or near.endswith(name):
                    continue
                if near.rstrip("0123456789s") == name.rstrip("0123456789s"):
                    continue
                reason = f"field {name!r} is not known for {_source_words(rule)}"
                yield Finding(
                    rule.path, rule.line, "warning", "unknown-field", reason, f"did you mean {near!r}?", rule.id
                )


def _field_names(rule: Rule) -> set[str]:
    names: set[str] = set()
    targets: set[str] = set()
    if rule.mapper:
        for name in rule.mapper.fields:
            targets |= set(rule.mapper.targets(name)) - {name}
    stack = list(rule.plan["detections"].values())
    while stack:
        part = stack.pop()
        if "atom" in part:
            name = part["atom"]["field"]
            if name and name not in targets:
                names.add(name)
        elif "not" in part:
            stack.append(part["not"])
        else:
            stack += (*part.get("and", ()), *part.get("or", ()))
    return names


def _source_words(rule: Rule) -> str:
    return ", ".join(f"{part} {word}" for part, word in rule.logsource.items())
