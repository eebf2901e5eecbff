"""The founding documents' short rule form: a list of conditions and a threshold.

```yaml
id: ssh_brute_force
title: SSH Brute Force Attack
severity: high
detection:
  conditions:
    - {field: process, operator: equals, value: sshd}
    - any:
        - {field: message, operator: contains, value: Failed password}
        - {field: message, operator: contains, value: Invalid user}
  threshold: {count: 5, timeframe_secs: 60, group_by: src_ip}
```

It is lowered to the same plan as Sigma. Comparison is case-sensitive, as that form defines it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ironpost.detections.conditions import Expression
from ironpost.detections.documents import Document, Section, refuse_unknown_keys
from ironpost.detections.field_maps import FieldMap, FieldMapper, FieldMaps
from ironpost.detections.lowering import Lowering
from ironpost.detections.regexes import RegexCheck
from ironpost.detections.sigma import ENTITY_FIELDS, Rule
from ironpost.detections.values import Modifiers, Test, tests_of
from ironpost.errors import RuleError
from ironpost.model import Severity

_KEYS = frozenset(
    {"id", "title", "description", "severity", "level", "status", "tags", "detection", "author", "references"}
)
_DETECTION_KEYS = frozenset({"conditions", "condition", "threshold", "logic"})
_CONDITION_KEYS = frozenset({"field", "operator", "modifier", "value", "values", "any", "all", "not"})
_THRESHOLD_KEYS = frozenset({"count", "timeframe_secs", "timeframe", "group_by", "field"})
_OPERATORS = {
    "equals": (),
    "exact": (),
    "contains": ("contains",),
    "startswith": ("startswith",),
    "starts_with": ("startswith",),
    "endswith": ("endswith",),
    "ends_with": ("endswith",),
    "regex": ("re",),
    "not_equals": ("neq",),
    "gt": ("gt",),
    "gte": ("gte",),
    "lt": ("lt",),
    "lte": ("lte",),
    "cidr": ("cidr",),
}
_STATUSES = frozenset({"enabled", "disabled", "test"})
_NAMES = FieldMap(
    "short form",
    fields={
        "hostname": ("host.hostname",),
        "host": ("host.hostname",),
        "process": ("process.name",),
        "source": ("log.file.path",),
        "user": ("user.name",),
        "username": ("user.name",),
        "src_port": ("source.port",),
        "dst_port": ("destination.port",),
        "status": ("http.response.status_code",),
        "path": ("url.original",),
        **dict.fromkeys(("src_ip", "source_ip", "client_ip", "remote_ip", "sd_meta_source_ip"), ("source.ip",)),
        **dict.fromkeys(("dst_ip", "dest_ip", "destination_ip", "target_ip"), ("destination.ip",)),
    },
)
_MAX_TIMEFRAME = 366 * 86_400


def is_short_form(data: Mapping[str, Any]) -> bool:
    """Says whether a document is meant in the short form."""
    detection = data.get("detection")
    if not isinstance(detection, Mapping):
        return "severity" in data
    if "conditions" in detection or "threshold" in detection or isinstance(detection.get("condition"), Mapping):
        return True
    return "severity" in data and "logsource" not in data


def lower_short_form(document: Document, check_regex: RegexCheck) -> tuple[list[Rule], bool]:
    """Lowers a rule in the short form; with a threshold it becomes a base rule and a correlation.

    Returns:
        The rules, and whether the rule is enabled at all.

    Raises:
        RuleError: When the rule can't be used.
    """
    return _ShortForm(document, check_regex).lower()


class _ShortForm:
    def __init__(self, document: Document, check_regex: RegexCheck) -> None:
        self._document = document
        self._data = document.data
        self._path = document.path
        mapper: FieldMapper = FieldMaps([_NAMES]).mapper({})
        self._lowering = Lowering(mapper, {}, check_regex, self._path)

    def _fail(self, reason: str, section: Section, key: str) -> RuleError:
        return RuleError(reason, path=self._path, line=section.line_of(key), field=key)

    def lower(self) -> tuple[list[Rule], bool]:
        data, path = self._data, self._path
        refuse_unknown_keys(data, _KEYS, path=path, where="the rule")
        identifier, title = data.get("id"), data.get("title")
        if not isinstance(identifier, str) or not 1 <= len(identifier) <= 256:
            raise self._fail("id has 1 to 256 characters", data, "id")
        if not isinstance(title, str) or not title:
            raise self._fail("title is missing", data, "title")
        written = data.get("severity", data.get("level", "info"))
        try:
            level = str(Severity.parse(str(written)))
        except ValueError as error:
            raise self._fail(str(error), data, "severity") from None
        status = str(data.get("status") or "enabled")
        if status not in _STATUSES:
            raise self._fail(f"status {status!r} is none of enabled, disabled, test", data, "status")
        tags = data.get("tags") or []
        if not isinstance(tags, list):
            raise self._fail("tags is a list", data, "tags")
        detection = data.get("detection")
        if not isinstance(detection, Section):
            raise self._fail("detection is missing or no mapping", data, "detection")
        refuse_unknown_keys(detection, _DETECTION_KEYS, path=path, where="detection")
        condition = self._conditions(detection)
        base_id = f"{identifier}/event" if "threshold" in detection else identifier
        emit = status == "enabled"
        rule = Rule(
            id=identifier,
            title=title,
            level=level,
            kind="rule",
            path=path,
            line=self._document.line,
            status=status,
            description=str(data.get("description") or ""),
            tags=tuple(str(tag) for tag in tags),
            emit=emit,
            mapper=self._lowering.mapper,
        )
        plan: dict[str, Any] = {
            "id": identifier,
            "title": title,
            "level": level,
            "tags": [str(tag) for tag in tags],
            "path": path,
            "line": self._document.line,
            "emit": emit,
            "entity": list(ENTITY_FIELDS),
        }
        base = {
            **plan,
            "id": base_id,
            "status": status,
            "logsource": {},
            "detections": {"conditions": condition},
            "condition": {"ref": "conditions"},
        }
        enabled = status != "disabled"
        if "threshold" not in detection:
            return [replace(rule, plan=base)], enabled
        base["emit"] = False
        correlation = {**plan, **self._threshold(detection, base_id)}
        return [
            replace(rule, id=base_id, emit=False, plan=base),
            replace(rule, kind="correlation", plan=correlation),
        ], enabled

    def _conditions(self, detection: Section) -> Expression:
        logic = str(detection.get("logic", "and")).lower()
        if logic not in {"and", "or"}:
            raise self._fail("logic is 'and' or 'or'", detection, "logic")
        parts: list[Expression] = []
        conditions = detection.get("conditions")
        if conditions is not None:
            if not isinstance(conditions, list) or not conditions:
                raise self._fail("conditions is a list with at least one condition", detection, "conditions")
            parts += [self._condition(item, detection.line_of("conditions")) for item in conditions]
        if "condition" in detection:
            body = detection["condition"]
            if not isinstance(body, (Section, list)) or not body:
                raise self._fail("condition is a mapping of fields to values", detection, "condition")
            parts.append(self._lowering.selection("condition", body, detection.line_of("condition")))
        if not parts:
            raise self._fail("a rule without conditions would match everything", detection, "conditions")
        return parts[0] if len(parts) == 1 else {logic: parts}

    def _condition(self, item: Any, line: int) -> Expression:
        if not isinstance(item, Section):
            raise RuleError("a condition is a mapping with field, operator and value", path=self._path, line=line)
        refuse_unknown_keys(item, _CONDITION_KEYS, path=self._path, where="a condition")
        for key, combined in (("any", "or"), ("all", "and")):
            if key in item:
                inner = item[key]
                if len(item) != 1 or not isinstance(inner, list) or not inner:
                    raise self._fail(f"{key} stands alone and is a list of conditions", item, key)
                return {combined: [self._condition(part, item.line_of(key)) for part in inner]}
        if "not" in item:
            if len(item) != 1:
                raise self._fail("not stands alone", item, "not")
            return {"not": self._condition(item["not"], item.line_of("not"))}
        field = item.get("field")
        if not isinstance(field, str) or not field:
            raise self._fail("field is missing", item, "field")
        if "operator" in item and "modifier" in item:
            raise self._fail("operator and modifier mean the same, give one of them", item, "modifier")
        operator = item.get("operator", item.get("modifier", "exact"))
        if operator not in _OPERATORS:
            raise self._fail(f"operator {operator!r} is none of {', '.join(sorted(_OPERATORS))}", item, "operator")
        if ("value" in item) == ("values" in item):
            raise self._fail("a condition has one value (or values)", item, "value")
        value = item.get("value", item.get("values"))
        names = _OPERATORS[operator]
        modifiers = Modifiers.parse(
            [*names, "cased"] if names in {(), ("neq",), ("contains",), ("startswith",), ("endswith",)} else names
        )
        parts = []
        for one in value if isinstance(value, list) else [value]:
            if one is None or isinstance(one, (list, dict)):
                raise self._fail("a value is text, a number or a boolean", item, "value")
            try:
                # `*` and `?` are plain characters in this form.
                text = one if operator in {"regex", "cidr"} or not isinstance(one, str) else _plain(one)
                tests = tests_of(
                    text, modifiers, keyword=False, placeholders={}, check_regex=self._lowering.check_regex
                )
                parts += [self._lowering._atom(field, test) for test in tests]  # noqa: SLF001 - one lowering for both forms
            except RuleError as error:
                raise self._fail(error.reason, item, "value") from None
        if not parts:
            raise self._fail("a list of values can't be empty", item, "value")
        found: Expression = parts[0] if len(parts) == 1 else {"or": parts}
        if not modifiers.neq:
            return found
        # In this form a field that is missing never fits, not even as different.
        there = self._lowering._atom(field, Test("exists", value=True))  # noqa: SLF001 - as above
        return {"and": [there, {"not": found}]}

    def _threshold(self, detection: Section, base_id: str) -> dict[str, Any]:
        threshold = detection["threshold"]
        if not isinstance(threshold, Section):
            raise self._fail("threshold is a mapping", detection, "threshold")
        refuse_unknown_keys(threshold, _THRESHOLD_KEYS, path=self._path, where="threshold")
        count = threshold.get("count")
        if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= 1_000_000_000:
            raise self._fail("count is a positive integer", threshold, "count")
        key = "timeframe_secs" if "timeframe_secs" in threshold else "timeframe"
        if "timeframe_secs" in threshold and "timeframe" in threshold:
            raise self._fail("timeframe_secs and timeframe mean the same, give one of them", threshold, "timeframe")
        seconds = threshold.get(key)
        if isinstance(seconds, str) and seconds[-1:] in {"s", "m", "h", "d"} and seconds[:-1].isdigit():
            seconds = int(seconds[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[seconds[-1]]
        if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 < seconds <= _MAX_TIMEFRAME:
            raise self._fail("timeframe_secs is a positive number of seconds", threshold, key)
        if "group_by" in threshold and "field" in threshold:
            raise self._fail("group_by and field mean the same, give one of them", threshold, "field")
        group = threshold.get("group_by", threshold.get("field"))
        names = group if isinstance(group, list) else [] if group is None else [group]
        if not all(isinstance(name, str) and name for name in names):
            raise self._fail("group_by is a field name or a list of them", threshold, "group_by")
        targets = {name: self._lowering.mapper.targets(name) for name in names}
        return {
            "type": "event_count",
            "rules": [base_id],
            "group_by": names,
            "aliases": {name: {base_id: list(found)} for name, found in targets.items()},
            "timespan_ns": seconds * 1_000_000_000,
            "condition": {"gte": count},
            "entity": list(dict.fromkeys([*(found[-1] for found in targets.values()), *ENTITY_FIELDS])),
        }


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")
