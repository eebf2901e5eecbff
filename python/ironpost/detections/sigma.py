"""Sigma rule and filter documents, checked and lowered to the plan."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from ironpost.detections.conditions import Expression
from ironpost.detections.documents import Document, Section, custom_keys, refuse_unknown_keys, text_of
from ironpost.detections.field_maps import PARTS, FieldMapper, FieldMaps
from ironpost.detections.lowering import Lowering, RuleWarning, atoms_of
from ironpost.detections.regexes import RegexCheck
from ironpost.errors import RuleError
from ironpost.model import Severity

_META_TEXT = """
title id name taxonomy related status description license references author date modified tags scope fields
falsepositives level simulation regression_tests_path ironpost
"""
META_KEYS = frozenset(_META_TEXT.split())
RULE_KEYS = META_KEYS | {"logsource", "detection"}
FILTER_KEYS = META_KEYS | {"logsource", "filter"}
_RETIRED = {"deprecated": "another rule replaces it", "unsupported": "its author says that it can't be used as it is"}

_PLACEHOLDER_KEYS = frozenset({"title", "description", "placeholders"})

ENTITY_FIELDS = ("container.id", "source.ip", "user.name", "host.hostname")
"""What an alert of a rule is about, unless the rule says otherwise: the first of these that the event has."""
_MAX_ID = 256
_MAX_EVIDENCE_FIELDS = 24


class PlanText(Mapping[str, Any]):
    """A rule's plan as JSON text, read when looked at: as objects the plans of a large collection take 40 MB."""

    __slots__ = ("text",)

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.text = _encode(dict(plan)).encode()

    def __getitem__(self, key: str) -> Any:
        return _decoded(self.text)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(_decoded(self.text))

    def __len__(self) -> int:
        return len(_decoded(self.text))


_encode = json.JSONEncoder(separators=(",", ":")).encode


@lru_cache(maxsize=1)  # whoever looks at one part of a plan mostly looks at another
def _decoded(text: bytes) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(text)
    return made


@dataclass(frozen=True, slots=True)
class Rule:
    """A loaded rule or correlation.

    Attributes:
        id: Its ``id``, else ``name``, else made from the title.
        kind: ``rule`` or ``correlation``.
        emit: Whether its matches are reported; ``False`` for rules that only feed correlations.
        always_emit: The rule asks to be reported although a correlation builds on it (``ironpost: {emit: true}``).
        logsource: As written.
        plan: What the engine executes.
        taxonomy: Whose field names the rule uses.
        warnings: What its author probably did not mean.
        python: A function judges what the plan finds.
    """

    id: str
    title: str
    level: str
    kind: str
    path: str
    line: int
    name: str = ""
    status: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    logsource: Mapping[str, str] = field(default_factory=dict)
    emit: bool = True
    always_emit: bool = False
    taxonomy: str = "sigma"
    warnings: tuple[RuleWarning, ...] = ()
    python: bool = False
    plan: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    mapper: FieldMapper | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter document: a condition that is added to rules."""

    id: str
    path: str
    line: int
    rules: tuple[str, ...] | None
    logsource: Mapping[str, str]
    section: Section
    taxonomy: str = "sigma"


@dataclass(frozen=True, slots=True)
class Compiler:
    """Lowers documents one by one."""

    maps: FieldMaps
    placeholders: Mapping[str, Sequence[str]]
    check_regex: RegexCheck

    def rule(self, document: Document) -> Rule:
        """Lowers a Sigma detection rule.

        Raises:
            RuleError: When the rule can't be used.
        """
        data, path = document.data, document.path
        meta = self.meta(document, "rule", RULE_KEYS)
        logsource = _logsource(data, path)
        mapper = self.maps.mapper(logsource, meta.taxonomy)
        lowering = self._lowering(mapper, path)
        named, condition = lowering.detection_section(data.get("detection"), data.line_of("detection"))
        options = own_options(data, path)
        return replace(
            meta,
            logsource=logsource,
            mapper=mapper,
            always_emit=options.emit,
            warnings=(*meta.warnings, *lowering.account.warnings),
            plan={
                **plan_meta(meta, document),
                "logsource": _routes(logsource, mapper),
                "fields": _evidence_fields(data, named, path),
                "entity": options.entity or list(ENTITY_FIELDS),
                "detections": named,
                "condition": condition,
            },
        )

    def filtered(self, rule: Rule, added: Filter) -> Rule:
        """Adds a filter's condition to a rule.

        Raises:
            RuleError: Placed in the filter, when it can't be used.
        """
        mapper = self.maps.mapper(rule.logsource, added.taxonomy)
        lowering = replace(self._lowering(mapper, added.path), spelled_out=mapper != rule.mapper)
        body = Section(added.section.line)
        for key, value in added.section.items():
            if key != "rules":
                body[key] = value
                body.key_lines[key] = added.section.line_of(key)
        named, condition = lowering.detection_section(body, added.line, what="filter")
        prefix = f"{added.id}/"
        plan = dict(rule.plan)
        plan["detections"] = {**plan["detections"], **{prefix + name: body for name, body in named.items()}}
        plan["condition"] = {"and": [plan["condition"], _renamed(condition, prefix)]}
        return replace(rule, plan=plan)

    def filter(self, document: Document) -> Filter:
        """Reads a filter document.

        Raises:
            RuleError: When the document is no filter.
        """
        data, path = document.data, document.path
        meta = self.meta(document, "filter", FILTER_KEYS)
        section = data["filter"]
        line = data.line_of("filter")
        if not isinstance(section, Section):
            raise RuleError("filter is a mapping", path=path, line=line, field="filter")
        rules = section.get("rules")
        if rules is None:
            hint = "name rules by id or name, or write 'rules: any'"
            raise RuleError("filter has no rules", path=path, line=line, field="rules", hint=hint)
        every = rules == [] or (isinstance(rules, str) and rules.lower() == "any")
        chosen = None if every else tuple(texts(rules, "rules", path, section.line_of("rules")))
        if not isinstance(section.get("condition"), str):
            raise RuleError(
                "a filter has one condition", path=path, line=section.line_of("condition"), field="condition"
            )
        logsource = _logsource(data, path)
        found = Filter(meta.id, path, line, chosen, logsource, section, meta.taxonomy)
        # Lowered once without a rule, so that a broken filter is refused even when no rule uses it.
        body = Rule("filter", "", "", "rule", path, line, plan={"detections": {}, "condition": {"const": True}})
        self.filtered(replace(body, logsource=logsource), found)
        return found

    def meta(self, document: Document, kind: str, known: frozenset[str]) -> Rule:
        """Reads what every kind of document has.

        Raises:
            RuleError: When something of it can't be used.
        """
        data, path = document.data, document.path
        if "severity" in data:
            reason, hint = "Sigma has no 'severity'", "write 'level'"
            raise RuleError(reason, path=path, line=data.line_of("severity"), field="severity", hint=hint)
        custom = custom_keys(data, known, path=path, where=f"the {kind}")
        warnings = [RuleWarning(data.line_of(key), key, "custom key, without effect here") for key in custom]
        meta = _meta(document, kind)
        if meta.taxonomy not in self.maps.taxonomies:
            reason = f"taxonomy {meta.taxonomy!r} is not known; there are {', '.join(sorted(self.maps.taxonomies))}"
            hint = f"give a field map that says 'taxonomy: {meta.taxonomy}'"
            raise RuleError(reason, path=path, line=data.line_of("taxonomy"), field="taxonomy", hint=hint)
        if meta.status in _RETIRED:
            warnings.append(RuleWarning(data.line_of("status"), "status", f"{meta.status}: {_RETIRED[meta.status]}"))
        return replace(meta, warnings=tuple(warnings))

    def take_placeholders(self, document: Document, into: dict[str, Sequence[str]]) -> None:
        """Reads a document of values for placeholders.

        Raises:
            RuleError: When it is none, or gives a name again.
        """
        data, path = document.data, document.path
        refuse_unknown_keys(data, _PLACEHOLDER_KEYS, path=path, where="placeholders")
        section = data["placeholders"]
        if not isinstance(section, Section):
            line = data.line_of("placeholders")
            raise RuleError("placeholders is a mapping of names to values", path=path, line=line, field="placeholders")
        for name, written in section.items():
            values = written if isinstance(written, list) else [written]
            line = section.line_of(name)
            if not values or any(isinstance(value, (list, dict)) or value is None for value in values):
                raise RuleError("a placeholder has a value or a list of them", path=path, line=line, field=name)
            if name in into:
                raise RuleError(f"placeholder %{name}% has its values already", path=path, line=line, field=name)
            into[name] = [text_of(value) for value in values]

    def _lowering(self, mapper: FieldMapper, path: str) -> Lowering:
        return Lowering(mapper, self.placeholders, self.check_regex, path)


def _renamed(expression: Expression, prefix: str) -> Expression:
    if "ref" in expression:
        return {"ref": prefix + expression["ref"]}
    if "not" in expression:
        return {"not": _renamed(expression["not"], prefix)}
    return {key: [_renamed(part, prefix) for part in parts] for key, parts in expression.items()}


def _meta(document: Document, kind: str) -> Rule:
    data, path = document.data, document.path

    def text(key: str) -> str:
        value = data.get(key)
        if value is None:
            return ""
        if isinstance(value, (list, dict)):
            raise RuleError(f"{key} is text", path=path, line=data.line_of(key), field=key)
        return str(value).strip()

    title = text("title")
    if not title:
        raise RuleError("title is missing", path=path, line=document.line, field="title")
    level = text("level") or "medium"
    try:
        Severity.parse(level)
    except ValueError:
        reason = f"level {level!r} is none of informational, low, medium, high, critical"
        raise RuleError(reason, path=path, line=data.line_of("level"), field="level") from None
    slug = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
    identifier = text("id") or text("name") or slug
    if not identifier or len(identifier) > _MAX_ID:
        raise RuleError(f"id has 1 to {_MAX_ID} characters", path=path, line=data.line_of("id"), field="id")
    return Rule(
        id=identifier,
        title=title,
        level=level.lower(),
        kind=kind,
        path=path,
        line=document.line,
        name=text("name"),
        taxonomy=text("taxonomy") or "sigma",
        status=text("status"),
        description=text("description"),
        tags=tuple(texts(data.get("tags") or [], "tags", path, data.line_of("tags"), empty=True)),
    )


def plan_meta(meta: Rule, document: Document) -> dict[str, Any]:
    """Returns what the plan has of every rule and correlation."""
    return {
        "id": meta.id,
        "title": meta.title,
        "level": meta.level,
        "status": meta.status,
        "tags": list(meta.tags),
        "path": document.path,
        "line": document.line,
        "emit": True,
    }


def texts(value: Any, key: str, path: str, line: int, *, empty: bool = False) -> list[str]:
    """Returns a text or a list of texts as a list.

    Raises:
        RuleError: When it is neither, or empty and must not be.
    """
    listed = value if isinstance(value, list) else [value]
    if (not listed and not empty) or not all(isinstance(item, (str, int)) and str(item) for item in listed):
        raise RuleError(f"{key} is text or a list of texts", path=path, line=line, field=key)
    return [str(item) for item in listed]


def _logsource(data: Section, path: str) -> dict[str, str]:
    section = data.get("logsource")
    line = data.line_of("logsource")
    if not isinstance(section, Section):
        raise RuleError("logsource is missing or no mapping", path=path, line=line, field="logsource")
    custom_keys(section, frozenset({*PARTS, "definition"}), path=path, where="logsource")
    made = {}
    for part in PARTS:
        value = section.get(part)
        if value is None:
            continue
        if not isinstance(value, str) or not value:
            raise RuleError(f"{part} is text", path=path, line=section.line_of(part), field=part)
        made[part] = value
    if not made:
        raise RuleError("logsource names no product, category or service", path=path, line=line, field="logsource")
    return made


def _routes(logsource: Mapping[str, str], mapper: FieldMapper) -> dict[str, list[str] | None]:
    routes: dict[str, list[str] | None] = {part: [logsource[part]] if part in logsource else None for part in PARTS}
    for part, words in mapper.reads.items():
        routes[part] = None if words is None else list(words)
    return routes


@dataclass(frozen=True, slots=True)
class OwnOptions:
    """What the ``ironpost`` key of a rule says."""

    entity: list[str] = field(default_factory=list)
    emit: bool = False


def own_options(data: Section, path: str, *, more: frozenset[str] = frozenset()) -> OwnOptions:
    """Reads the ``ironpost`` key of a rule; ``more`` names keys that the caller reads.

    Raises:
        RuleError: When it can't be used.
    """
    section = data.get("ironpost")
    if section is None:
        return OwnOptions()
    line = data.line_of("ironpost")
    if not isinstance(section, Section):
        raise RuleError("ironpost is a mapping", path=path, line=line, field="ironpost")
    refuse_unknown_keys(section, frozenset({"entity", "emit"}) | more, path=path, where="ironpost")
    emit = section.get("emit", False)
    if not isinstance(emit, bool):
        raise RuleError("emit is true or false", path=path, line=section.line_of("emit"), field="emit")
    entity = section.get("entity", [])
    return OwnOptions(texts(entity, "entity", path, section.line_of("entity"), empty=True), emit)


def _evidence_fields(data: Section, named: Mapping[str, Expression], path: str) -> list[str]:
    written = texts(data.get("fields") or [], "fields", path, data.line_of("fields"), empty=True)
    read = (made["field"] for made in atoms_of(named.values()) if made["field"])
    return list(dict.fromkeys([*written, *read]))[:_MAX_EVIDENCE_FIELDS]
