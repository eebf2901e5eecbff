"""Sigma correlation documents, checked, linked to the rules they build on, and lowered to the plan.

Source: Sigma correlation rules specification 2.1.0; what it leaves open follows its reference converter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from ironpost.detections.conditions import Expression, parse_condition
from ironpost.detections.documents import Document, Section, refuse_unknown_keys
from ironpost.detections.sigma import (
    ENTITY_FIELDS,
    META_KEYS,
    Compiler,
    OwnOptions,
    Rule,
    own_options,
    plan_meta,
    texts,
)
from ironpost.errors import RuleError

CORRELATION_KEYS = META_KEYS | {"correlation"}
_SECTION_KEYS = frozenset({"type", "rules", "group-by", "timespan", "condition", "generate", "aliases"})
_TEMPORAL = frozenset({"temporal", "temporal_ordered"})
_NUMERIC = frozenset({"value_sum", "value_avg", "value_median", "value_percentile"})
_TYPES = _TEMPORAL | _NUMERIC | {"event_count", "value_count"}
_COMPARISONS = frozenset({"gt", "gte", "lt", "lte", "eq", "neq"})
_TIMESPAN = re.compile(r"([0-9]{1,10})([smhdwMy])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "M": 2_629_746, "y": 31_556_952}
_MAX_SECONDS = 10 * 31_556_952
_MAX_RULES = 64
"""Rules of a temporal correlation."""
_MAX_EVENTS = 1_000_000_000
_MAX_NUMBER = 1e15
MAX_DISTINCT = 10_000
"""Distinct values a ``value_count`` may ask for; the engine remembers that many per group."""
_WORD = re.compile(r"[^\s()]+")
_OPERATORS = frozenset({"and", "or", "not"})


@dataclass(frozen=True, slots=True)
class Written:
    """A correlation document whose own text is in order; what it refers to has not been looked at."""

    document: Document
    meta: Rule
    section: Section
    kind: str
    rules: tuple[str, ...]
    group_by: tuple[str, ...]
    seconds: int
    generate: bool
    fields: tuple[str, ...]
    condition: Mapping[str, float]
    expression: Expression | None
    percentile: float | None
    aliases: Mapping[str, Mapping[str, str]]
    options: OwnOptions
    lateness: int
    networks: Mapping[str, Mapping[str, int]]
    evidence: tuple[str, ...]

    def fail(self, reason: str, key: str, hint: str = "") -> RuleError:
        """Returns an error at a key of the correlation."""
        line = self.section.line_of(key)
        return RuleError(reason, path=self.document.path, line=line, field=key, hint=hint)

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.document.path}:{self.document.line}"


def read_correlation(compiler: Compiler, document: Document) -> Written:
    """Checks a correlation document by itself.

    Raises:
        RuleError: When it can't be used, whatever other rules there are.
    """
    data, path = document.data, document.path
    meta = compiler.meta(document, "correlation", CORRELATION_KEYS)
    section = data["correlation"]
    if not isinstance(section, Section):
        raise RuleError("correlation is a mapping", path=path, line=data.line_of("correlation"), field="correlation")
    reader = _Reader(section, path)
    refuse_unknown_keys(section, _SECTION_KEYS, path=path, where="correlation")
    kind = section.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        near = get_close_matches(str(kind), _TYPES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise reader.fail(f"correlation type is one of {', '.join(sorted(_TYPES))}", "type", hint)
    rules = reader.rules(kind)
    expression = reader.expression(kind, rules)
    condition, fields, percentile = ({}, [], None) if expression else reader.comparisons(kind)
    group_by = reader.names("group-by")
    lateness, networks = reader.own(data.get("ironpost"), group_by)
    return Written(
        document=document,
        meta=meta,
        section=section,
        kind="value_share" if kind == "value_percentile" and percentile is None else kind,
        rules=tuple(rules),
        group_by=tuple(group_by),
        seconds=reader.seconds(section.get("timespan"), "timespan"),
        generate=reader.generate(),
        fields=tuple(fields),
        condition=condition,
        expression=expression,
        percentile=percentile,
        aliases=reader.aliases(),
        options=own_options(data, path, more=frozenset({"lateness", "networks"})),
        lateness=lateness,
        networks=networks,
        evidence=tuple(texts(data.get("fields") or [], "fields", path, data.line_of("fields"), empty=True)),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    section: Section
    path: str

    def fail(self, reason: str, key: str, hint: str = "") -> RuleError:
        return RuleError(reason, path=self.path, line=self.section.line_of(key), field=key, hint=hint)

    def rules(self, kind: str) -> list[str]:
        written = self.section.get("rules")
        condition = self.section.get("condition")
        if written is None and kind in _TEMPORAL and isinstance(condition, str):
            words = dict.fromkeys(_WORD.findall(condition))
            found = [word for word in words if word.lower() not in _OPERATORS]
        elif written is None:
            raise self.fail("rules is missing: name the rules the correlation builds on", "rules")
        else:
            found = texts(written, "rules", self.path, self.section.line_of("rules"))
        if kind in _TEMPORAL and len(set(found)) > _MAX_RULES:
            raise self.fail(f"a temporal correlation has at most {_MAX_RULES} rules", "rules")
        if kind != "temporal_ordered":
            self._refuse_twice(found, "rules")
        return found

    def _refuse_twice(self, found: Sequence[str], key: str) -> None:
        twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
        if twice:
            raise self.fail(f"{key} names {twice[0]!r} twice", key)

    def expression(self, kind: str, rules: Sequence[str]) -> Expression | None:
        """A condition over rules (``a and not b``), with the rules' names as written."""
        written = self.section.get("condition")
        if not isinstance(written, str):
            return None
        if kind not in _TEMPORAL:
            raise self.fail("a condition over rules is for temporal and temporal_ordered; write {gte: 5}", "condition")
        words = _WORD.findall(written)
        if any(word.lower() == "of" for word in words):
            raise self.fail("a condition over rules has only and, or, not and brackets", "condition")
        self._refuse_twice(list(rules), "rules")
        try:
            parsed = parse_condition(written, rules)
        except RuleError as error:
            reason = error.reason.replace("no such detection", "no such rule among rules")
            raise self.fail(reason, "condition", error.hint or "") from None
        unused = [name for name in rules if name not in words]
        if unused:
            raise self.fail(f"rules names {unused[0]!r}, but the condition doesn't", "condition")
        return parsed

    def comparisons(self, kind: str) -> tuple[dict[str, float], list[str], float | None]:
        written = self.section.get("condition")
        if written is None and kind in _TEMPORAL:
            return {}, [], None
        if not isinstance(written, Section):
            raise self.fail("condition is a mapping such as {gte: 5}", "condition")
        known = _COMPARISONS | {"field", "percentile"}
        condition: dict[str, float] = {}
        for key, value in written.items():
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else ""
                raise self.fail(f"unknown comparison {key!r}; use {', '.join(sorted(_COMPARISONS))}", "condition", hint)
            if key in _COMPARISONS:
                condition[key] = self._number(key, value, kind)
        if not condition:
            raise self.fail("condition compares with nothing; write for example gte: 5", "condition")
        self._refuse_impossible(condition)
        percentile = None
        if "percentile" in written:
            if kind != "value_percentile":
                raise self.fail("percentile belongs to value_percentile", "condition")
            percentile = self._plain_number("percentile", written["percentile"])
            if not 0 <= percentile <= 100:
                raise self.fail("percentile is a number from 0 to 100", "condition")
        return condition, self._fields(kind, written), percentile

    def _fields(self, kind: str, written: Section) -> list[str]:
        value = written.get("field")
        listed: list[Any] = value if isinstance(value, list) else [value] if "field" in written else []
        if not all(isinstance(name, str) and name for name in listed) or ("field" in written and not listed):
            raise self.fail("field is a name or a list of names", "condition")
        if kind.startswith("value_") != bool(listed):
            raise self.fail("the value types need a field, other types take none", "condition")
        if kind in _NUMERIC and len(listed) > 1:
            raise self.fail(f"{kind} takes one field", "condition")
        return listed

    def _number(self, key: str, value: Any, kind: str) -> float:
        number = self._plain_number(key, value)
        if kind in _NUMERIC:
            if abs(number) > _MAX_NUMBER:
                raise self.fail(f"{key} takes a number up to {_MAX_NUMBER:.0e}, not {value!r}", "condition")
        elif not 0 <= number <= _MAX_EVENTS:
            raise self.fail(f"{key} takes a number from 0 to {_MAX_EVENTS}, not {value!r}", "condition")
        elif kind == "value_count" and number > MAX_DISTINCT:
            raise self.fail(f"value_count compares with at most {MAX_DISTINCT:,}", "condition")
        return number

    def _plain_number(self, key: str, value: Any) -> float:
        try:
            number = float("" if isinstance(value, bool) else str(value))
        except ValueError:
            number = float("nan")
        if not math.isfinite(number):
            raise self.fail(f"{key} takes a number, not {value!r}", "condition")
        return number

    def _refuse_impossible(self, condition: Mapping[str, float]) -> None:
        low = max((condition[key] for key in ("gt", "gte", "eq") if key in condition), default=float("-inf"))
        high = min((condition[key] for key in ("lt", "lte", "eq") if key in condition), default=float("inf"))
        strict = condition.get("gt") == low or condition.get("lt") == high
        if low > high or (low == high and strict) or ("eq" in condition and condition["eq"] == condition.get("neq")):
            raise self.fail("no number satisfies the condition", "condition")

    def seconds(self, value: Any, key: str) -> int:
        found = _TIMESPAN.fullmatch(value) if isinstance(value, str) else None
        if found is None or int(found[1]) == 0:
            raise self.fail(f"{key} is a positive number and s, m, h, d, w, M or y, for example 5m", key)
        seconds = int(found[1]) * _UNIT_SECONDS[found[2]]
        if seconds > _MAX_SECONDS:
            raise self.fail(f"{key} is longer than ten years", key)
        return seconds

    def generate(self) -> bool:
        written = self.section.get("generate", False)
        if not isinstance(written, bool):
            raise self.fail(f"generate is true or false, not {written!r}", "generate")
        return written

    def names(self, key: str) -> list[str]:
        written = self.section.get(key)
        listed = [] if written is None else written if isinstance(written, list) else [written]
        if not all(isinstance(name, str) and name for name in listed):
            raise self.fail(f"{key} is a field name or a list of them", key)
        self._refuse_twice(listed, key)
        return listed

    def aliases(self) -> dict[str, dict[str, str]]:
        given = self.section.get("aliases")
        if given is None:
            return {}
        if not isinstance(given, Section):
            raise self.fail("aliases is a mapping of names to rules to fields", "aliases")
        for alias, per_rule in given.items():
            if not isinstance(per_rule, Section) or not per_rule:
                raise self.fail(f"alias {alias!r} is a mapping of rules to fields", "aliases")
            for rule, name in per_rule.items():
                if not isinstance(name, str) or not name:
                    raise self.fail(f"alias {alias!r}: the field of rule {rule!r} is a name", "aliases")
        return {alias: dict(per_rule) for alias, per_rule in given.items()}

    def own(self, section: Any, group_by: Sequence[str]) -> tuple[int, dict[str, dict[str, int]]]:
        """``lateness`` in seconds and ``networks`` of the ``ironpost`` key."""
        if not isinstance(section, Section):
            return 0, {}
        own = _Reader(section, self.path)
        lateness = own.seconds(section["lateness"], "lateness") if "lateness" in section else 0
        written = section.get("networks", Section(section.line))
        if not isinstance(written, Section):
            raise own.fail("networks is a mapping of group-by fields to {ipv4: 24, ipv6: 64}", "networks")
        networks: dict[str, dict[str, int]] = {}
        for name, prefixes in written.items():
            if name not in group_by:
                raise own.fail(f"networks names {name!r}, which is not in group-by", "networks")
            if not isinstance(prefixes, Section) or not prefixes:
                raise own.fail(f"networks of {name!r} is a mapping such as {{ipv6: 64}}", "networks")
            refuse_unknown_keys(prefixes, frozenset({"ipv4", "ipv6"}), path=self.path, where="networks")
            networks[name] = {"ipv4": 32, "ipv6": 128}
            for version, length in prefixes.items():
                most = networks[name][version]
                if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= most:
                    raise own.fail(f"{version} is a prefix length from 1 to {most}", "networks")
                networks[name][version] = length
        return lateness, networks


@dataclass(slots=True)
class Linked:
    """Correlations that can be used and that can't, and rules that are silent because of them."""

    made: list[tuple[Document, Rule]] = field(default_factory=list)
    refused: list[tuple[Document, RuleError]] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)


class Linker:
    """Finds what correlations refer to, wherever it stands, and lowers them.

    Args:
        compiler: Reads what all documents have.
        rules: Rules in use.
        refused: Id or name to why a rule is not.
    """

    def __init__(self, compiler: Compiler, rules: Iterable[Rule], refused: Mapping[str, RuleError]) -> None:
        self._compiler = compiler
        self._by_id: dict[str, Rule | Written] = {}
        self._by_name: dict[str, list[Rule | Written]] = {}
        self._refused = dict(refused)
        self._made: dict[str, Rule] = {}
        self._broken: dict[str, RuleError] = {}
        self._path: list[Written] = []
        for rule in rules:
            self._by_id[rule.id] = rule
            self._by_name.setdefault(rule.name, []).append(rule)

    def link(self, documents: Iterable[Document]) -> Linked:
        """Lowers correlation documents; those that others build on come first."""
        linked = Linked()
        written: list[Written] = []
        for document in documents:
            try:
                read = self._read(document)
            except RuleError as error:
                linked.refused.append((document, error))
                for key in ("id", "name"):
                    self._refused.setdefault(str(document.data.get(key) or ""), error)
                continue
            written.append(read)
            self._by_id[read.meta.id] = read
            self._by_name.setdefault(read.meta.name, []).append(read)
        loud: set[str] = set()
        for one in written:
            try:
                made = self._lower(one)
            except RuleError as error:
                linked.refused.append((one.document, error))
                continue
            (loud if one.generate else linked.silent).update(made.plan["rules"])
        linked.silent -= loud
        places = {one.meta.id: one.document for one in written}
        linked.made = [(places[key], made) for key, made in self._made.items()]
        return linked

    def _read(self, document: Document) -> Written:
        read = read_correlation(self._compiler, document)
        before = self._by_id.get(read.meta.id)
        if before is not None:
            reason = f"id {read.meta.id!r} is already used at {_place(before)}"
            raise RuleError(reason, path=document.path, line=document.data.line_of("id"), field="id")
        return read

    def _lower(self, written: Written) -> Rule:
        key = written.meta.id
        if key in self._made:
            return self._made[key]
        if key in self._broken:
            raise self._broken[key]
        try:
            if written in self._path:
                chain = [*self._path[self._path.index(written) :], written]
                names = " → ".join(f"{one.meta.name or one.meta.id} ({one.place})" for one in chain)
                raise written.fail(f"correlations build on each other in a circle: {names}", "rules")
            self._path.append(written)
            try:
                self._made[key] = self._plan(written, [self._find(written, name) for name in written.rules])
            finally:
                self._path.pop()
        except RuleError as error:
            self._broken.setdefault(key, error)
            raise self._broken[key] from None
        return self._made[key]

    def _find(self, written: Written, name: str) -> Rule:
        """The rule of an id or name, lowered."""
        named = self._by_name.get(name, []) if name else []
        found = self._by_id.get(name) or (named[0] if len(named) == 1 else None)
        if isinstance(found, Rule):
            return found
        if found is not None:
            if found in self._path:
                return self._lower(found)  # reports the circle
            try:
                return self._lower(found)
            except RuleError as error:
                if "in a circle" in error.reason and error.path == written.document.path:
                    circle = self._circle(written, error)
                    if circle is not None:
                        raise circle from None
                raise written.fail(f"builds on {name!r}, which is refused: {_placed(error)}", "rules") from None
        if named:
            places = " and ".join(_place(one) for one in named[:2])
            raise written.fail(f"{name!r} is the name of more than one rule: {places}", "rules", "refer to it by id")
        if name in self._refused:
            raise written.fail(f"builds on {name!r}, which is refused: {_placed(self._refused[name])}", "rules")
        near = get_close_matches(name, [key for key in (*self._by_id, *self._by_name) if key], n=1)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise written.fail(f"there is no rule with id or name {name!r}", "rules", hint)

    @staticmethod
    def _circle(written: Written, error: RuleError) -> RuleError | None:
        """The circle's error at another of its members."""
        return written.fail(error.reason, "rules") if f"({written.place})" in error.reason else None

    def _plan(self, written: Written, referred: Sequence[Rule]) -> Rule:
        for rule in referred:
            if rule.python:
                raise written.fail(f"{rule.id!r} is a Python rule, and a correlation can't build on one", "rules")
        ids = [rule.id for rule in referred]
        by_name = dict(zip(written.rules, ids, strict=True))
        if written.kind != "temporal_ordered" and len(set(ids)) < len(ids):
            twice = next(rule for rule in ids if ids.count(rule) > 1)
            raise written.fail(f"rules names {twice!r} twice, by id and by name", "rules")
        names = [*written.group_by, *written.fields]
        aliases = self._aliases(written, referred, names)
        wanted = [*_entity_groups(written.group_by, aliases), *ENTITY_FIELDS]
        plan: dict[str, Any] = {
            **{key: value for key, value in plan_meta(written.meta, written.document).items() if key != "status"},
            "type": written.kind,
            "rules": ids,
            "group_by": list(written.group_by),
            "field": list(written.fields),
            "timespan_ns": written.seconds * 1_000_000_000,
            "condition": dict(written.condition),
            "aliases": aliases,
            "entity": written.options.entity or list(dict.fromkeys(wanted)),
            "fields": list(written.evidence),
        }
        if written.expression is not None:
            plan["expression"] = _by_rule(written.expression, by_name)
        if written.percentile is not None:
            plan["percentile"] = written.percentile
        if written.lateness:
            plan["lateness_ns"] = written.lateness * 1_000_000_000
        if written.networks:
            plan["networks"] = {name: dict(lengths) for name, lengths in written.networks.items()}
        return replace(written.meta, always_emit=written.options.emit, plan=plan)

    def _aliases(
        self, written: Written, referred: Sequence[Rule], names: Sequence[str]
    ) -> dict[str, dict[str, list[str]]]:
        """Per name and rule id: the event fields to read, of which the first present counts.

        Field maps and the document's aliases meet here.
        """
        given: dict[str, dict[str, str]] = {}
        for alias, per_rule in written.aliases.items():
            for rule_name, field_name in per_rule.items():
                rule = next((one for one in referred if rule_name in {one.id, one.name}), None)
                if rule is None:
                    raise written.fail(f"alias {alias!r} names {rule_name!r}, which is none of its rules", "aliases")
                given.setdefault(alias, {})[rule.id] = field_name
        made: dict[str, dict[str, list[str]]] = {}
        for name in dict.fromkeys(names):
            for rule in referred:
                wanted = given.get(name, {}).get(rule.id, name)
                targets = rule.mapper.targets(wanted) if rule.mapper else (wanted,)
                if targets != (name,):
                    made.setdefault(name, {})[rule.id] = list(targets)
        return made


def _place(rule: Rule | Written) -> str:
    return rule.place if isinstance(rule, Written) else f"{rule.path}:{rule.line}"


def _placed(error: RuleError) -> str:
    return f"{error.path}:{error.line}: {error.reason}" if error.line else f"{error.path}: {error.reason}"


def _by_rule(expression: Expression, ids: Mapping[str, str]) -> Expression:
    if "ref" in expression:
        return {"rule": ids[expression["ref"]]}
    if "not" in expression:
        return {"not": _by_rule(expression["not"], ids)}
    return {key: [_by_rule(part, ids) for part in parts] for key, parts in expression.items()}


def _entity_groups(group_by: Sequence[str], aliases: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """Event fields of the group keys that can name an entity."""
    fields = [
        target for name in group_by for targets in (*aliases.get(name, {}).values(), (name,)) for target in targets
    ]
    return [name for name in dict.fromkeys(fields) if name in ENTITY_FIELDS or name.endswith((".ip", "user.name"))]
