"""Sigma rule, correlation and filter documents, checked and lowered to the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
_META = frozenset(_META_TEXT.split())
RULE_KEYS = _META | {"logsource", "detection"}
CORRELATION_KEYS = _META | {"correlation"}
FILTER_KEYS = _META | {"logsource", "filter"}
_CORRELATION_SECTION = frozenset({"type", "rules", "group-by", "timespan", "condition", "generate", "aliases"})
_CORRELATION_TYPES = frozenset({"event_count", "value_count", "temporal", "temporal_ordered"})
_LATER_TYPES = frozenset({"value_sum", "value_avg", "value_percentile", "value_median"})
_COMPARISONS = frozenset({"gt", "gte", "lt", "lte", "eq", "neq"})
_TIMESPAN = re.compile(r"([0-9]+)([smhdw])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_RETIRED = {"deprecated": "another rule replaces it", "unsupported": "its author says that it can't be used as it is"}

_PLACEHOLDER_KEYS = frozenset({"title", "description", "placeholders"})

ENTITY_FIELDS = ("container.id", "source.ip", "user.name", "host.hostname")
"""What an alert of a rule is about, unless the rule says otherwise: the first of these that the event has."""
MAX_DISTINCT = 5_000
"""Distinct values a ``value_count`` may ask for; the engine remembers that many per group."""
_MAX_ID = 256
_MAX_EVIDENCE_FIELDS = 24


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
        meta = self._meta(document, "rule", RULE_KEYS)
        logsource = _logsource(data, path)
        mapper = self.maps.mapper(logsource, meta.taxonomy)
        lowering = self._lowering(mapper, path)
        named, condition = lowering.detection_section(data.get("detection"), data.line_of("detection"))
        options = _own_options(data, path)
        return replace(
            meta,
            logsource=logsource,
            mapper=mapper,
            always_emit=options.emit,
            warnings=(*meta.warnings, *lowering.account.warnings),
            plan={
                **_plan_meta(meta, document),
                "logsource": _routes(logsource, mapper),
                "fields": _evidence_fields(data, named, mapper, path),
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
        lowering = self._lowering(mapper, added.path)
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
        meta = self._meta(document, "filter", FILTER_KEYS)
        section = data["filter"]
        line = data.line_of("filter")
        if not isinstance(section, Section):
            raise RuleError("filter is a mapping", path=path, line=line, field="filter")
        rules = section.get("rules")
        if rules is None:
            hint = "name rules by id or name, or write 'rules: any'"
            raise RuleError("filter has no rules", path=path, line=line, field="rules", hint=hint)
        every = rules == [] or (isinstance(rules, str) and rules.lower() == "any")
        chosen = None if every else tuple(_texts(rules, "rules", path, section.line_of("rules")))
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

    def correlation(self, document: Document, rules: Mapping[str, Rule]) -> Rule:
        """Lowers a correlation; ``rules`` finds what it may refer to by id and by name.

        Raises:
            RuleError: When the correlation can't be used.
        """
        data, path = document.data, document.path
        meta = self._meta(document, "correlation", CORRELATION_KEYS)
        section = data["correlation"]
        if not isinstance(section, Section):
            raise RuleError(
                "correlation is a mapping", path=path, line=data.line_of("correlation"), field="correlation"
            )
        refuse_unknown_keys(section, _CORRELATION_SECTION, path=path, where="correlation")

        def fail(reason: str, key: str) -> RuleError:
            return RuleError(reason, path=path, line=section.line_of(key), field=key)

        kind = section.get("type")
        if kind in _LATER_TYPES:
            raise fail(f"correlation type {kind!r} is not supported yet", "type")
        if kind not in _CORRELATION_TYPES:
            raise fail(f"correlation type is one of {', '.join(sorted(_CORRELATION_TYPES))}", "type")
        referred = []
        for name in _texts(section.get("rules"), "rules", path, section.line_of("rules")):
            if name not in rules:
                raise fail(f"there is no rule with id or name {name!r}", "rules")
            referred.append(rules[name])
        timespan = _TIMESPAN.fullmatch(str(section.get("timespan", "")))
        if timespan is None or int(timespan[1]) == 0:
            raise fail("timespan is a positive number and s, m, h, d or w, for example 5m", "timespan")
        seconds = int(timespan[1]) * _UNIT_SECONDS[timespan[2]]
        if seconds > 366 * 86_400:
            raise fail("timespan is longer than a year", "timespan")
        group_by = _texts(section.get("group-by", []), "group-by", path, section.line_of("group-by"), empty=True)
        condition, fields = _correlation_condition(section, str(kind), fail)
        aliases = self._aliases(section, rules, referred, [*group_by, *fields], fail)
        options = _own_options(data, path)
        entity = options.entity or list(dict.fromkeys([*_mapped_groups(group_by, aliases), *ENTITY_FIELDS]))
        return replace(
            meta,
            always_emit=options.emit,
            plan={
                **{key: value for key, value in _plan_meta(meta, document).items() if key != "status"},
                "type": kind,
                "rules": [rule.id for rule in referred],
                "group_by": group_by,
                "field": fields,
                "timespan_ns": seconds * 1_000_000_000,
                "condition": condition,
                "aliases": aliases,
                "entity": entity,
                "fields": _texts(data.get("fields") or [], "fields", path, data.line_of("fields"), empty=True),
            },
        )

    @staticmethod
    def _aliases(
        section: Section, rules: Mapping[str, Rule], referred: Sequence[Rule], names: Sequence[str], fail: Any
    ) -> dict[str, dict[str, list[str]]]:
        """Per name and rule id: the event fields to read, of which the first present counts.

        Field maps and the document's aliases meet here.
        """
        given = section.get("aliases") or Section(section.line)
        if not isinstance(given, Section):
            raise fail("aliases is a mapping of names to rules to fields", "aliases")
        written: dict[str, dict[str, str]] = {}
        for alias, per_rule in given.items():
            if not isinstance(per_rule, Section):
                raise fail(f"alias {alias!r} is a mapping of rules to fields", "aliases")
            for rule_name, field_name in per_rule.items():
                if rule_name not in rules or not isinstance(field_name, str):
                    raise fail(f"alias {alias!r}: there is no rule with id or name {rule_name!r}", "aliases")
                written.setdefault(alias, {})[rules[rule_name].id] = field_name
        made: dict[str, dict[str, list[str]]] = {}
        for name in dict.fromkeys(names):
            for rule in referred:
                wanted = written.get(name, {}).get(rule.id, name)
                targets = rule.mapper.targets(wanted) if rule.mapper else (wanted,)
                if targets != (name,):
                    made.setdefault(name, {})[rule.id] = list(targets)
        return made

    def _meta(self, document: Document, kind: str, known: frozenset[str]) -> Rule:
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


def _correlation_condition(section: Section, kind: str, fail: Any) -> tuple[dict[str, float], list[str]]:
    written = section.get("condition")
    if written is None and kind.startswith("temporal"):
        return {}, []
    if not isinstance(written, Section):
        raise fail("condition is a mapping such as {gte: 5}", "condition")
    fields: list[str] = []
    condition: dict[str, float] = {}
    for key, value in written.items():
        if key == "field":
            listed: list[Any] = value if isinstance(value, list) else [value]
            if not listed or not all(isinstance(name, str) and name for name in listed):
                raise fail("field is a name or a list of names", "condition")
            fields = [str(name) for name in listed]
            continue
        if key not in _COMPARISONS:
            raise fail(f"unknown comparison {key!r}; use {', '.join(sorted(_COMPARISONS))}", "condition")
        try:
            condition[key] = float(str(value))
        except ValueError:
            raise fail(f"{key} takes a number, not {value!r}", "condition") from None
        if not abs(condition[key]) <= 1e9:  # also refuses "nan"
            raise fail(f"{key} takes a number up to 1000000000, not {value!r}", "condition")
    if not condition:
        raise fail("condition compares with nothing; write for example gte: 5", "condition")
    if kind == "value_count" and max(condition.values()) > MAX_DISTINCT:
        raise fail(f"value_count compares with at most {MAX_DISTINCT:,}", "condition")
    if (kind == "value_count") != bool(fields):
        raise fail("value_count needs a field, other types take none", "condition")
    return condition, fields


def _mapped_groups(group_by: Sequence[str], aliases: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """Event fields of the group keys that can name an entity."""
    fields = [
        target for name in group_by for targets in (*aliases.get(name, {}).values(), (name,)) for target in targets
    ]
    return [name for name in dict.fromkeys(fields) if name in ENTITY_FIELDS or name.endswith((".ip", "user.name"))]


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
        tags=tuple(_texts(data.get("tags") or [], "tags", path, data.line_of("tags"), empty=True)),
    )


def _plan_meta(meta: Rule, document: Document) -> dict[str, Any]:
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


def _texts(value: Any, key: str, path: str, line: int, *, empty: bool = False) -> list[str]:
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
class _OwnOptions:
    """What the ``ironpost`` key of a rule says."""

    entity: list[str] = field(default_factory=list)
    emit: bool = False


def _own_options(data: Section, path: str) -> _OwnOptions:
    section = data.get("ironpost")
    if section is None:
        return _OwnOptions()
    line = data.line_of("ironpost")
    if not isinstance(section, Section):
        raise RuleError("ironpost is a mapping", path=path, line=line, field="ironpost")
    refuse_unknown_keys(section, frozenset({"entity", "emit"}), path=path, where="ironpost")
    emit = section.get("emit", False)
    if not isinstance(emit, bool):
        raise RuleError("emit is true or false", path=path, line=section.line_of("emit"), field="emit")
    entity = section.get("entity", [])
    return _OwnOptions(_texts(entity, "entity", path, section.line_of("entity"), empty=True), emit)


def _evidence_fields(data: Section, named: Mapping[str, Expression], mapper: FieldMapper, path: str) -> list[str]:
    written = _texts(data.get("fields") or [], "fields", path, data.line_of("fields"), empty=True)
    wanted = [target for name in written for target in mapper.targets(name)]
    wanted += [made["field"] for made in atoms_of(named.values()) if made["field"]]
    return list(dict.fromkeys(wanted))[:_MAX_EVIDENCE_FIELDS]
