"""A rule matched: what the native engine reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from ironpost.model import times
from ironpost.model.entity import ContainerIdentity, Entity
from ironpost.model.severity import Severity

MAX_EVIDENCE = 10
"""Lines of evidence kept with a detection and with an alert."""

TRUST_LEVELS = ("host", "container", "unauthenticated", "spoofable")
"""Who could have written a record, the most believable first."""


@dataclass(frozen=True, slots=True)
class MatchedField:
    """One reason of a match: this selection found this value in this field.

    Attributes:
        value: The event's value; empty when its absence was the reason.
        op: What the rule asked, as the plan names it: ``equals``, ``endswith``, ``cidr`` and so on.
        pattern: What the rule compared with.
    """

    selection: str
    field: str
    value: str
    op: str = ""
    pattern: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the reason as a JSON object."""
        return {
            "selection": self.selection,
            "field": self.field,
            "value": self.value,
            "op": self.op,
            "pattern": self.pattern,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MatchedField:
        """Reads what the native engine or :meth:`to_json` wrote; what is missing is empty."""
        return cls(*(str(value.get(key, "")) for key in ("selection", "field", "value", "op", "pattern")))


class Unread(Protocol):
    """A detection as the native engine holds it."""

    def head(self) -> tuple[str, str, str, str, str, int | None, int]:
        """Returns the values of :data:`_HEAD`; the level as text, the time None when nobody knows it."""
        ...

    def json(self) -> bytes:
        """Returns all of it as a JSON object."""
        ...


class _Source:
    """Where a detection that is read when asked comes from; no field of it."""

    __slots__ = ("_unread",)


_HEAD = ("id", "rule_id", "rule_title", "level", "kind", "timestamp", "event_index")


@dataclass(frozen=True, slots=True)
class Detection(_Source):
    """One match of a rule or correlation.

    Attributes:
        id: 32 hexadecimal digits derived from rule, group and the position of the deciding record, so that reading the
            same record again gives the same id.
        timestamp: Event time in nanoseconds, or the time of receipt when the event has none.
        event_index: Row of the event in its batch.
        group: Group-by fields and values of a correlation.
        trust: Who could have written the record: ``host``, ``container``, ``unauthenticated`` or ``spoofable``.
        position: Place of the deciding record in its source, opaque.
        count: Events, values or rules counted; when ``ongoing``, those since the last report, which may be none.
        measure: What a correlation's condition compared: a number of events, values or rules, or a sum, an average or a
            percentile.
        ongoing: More of what an earlier detection of the same trace reported, whose condition has been true since.
        container: The container it came from as it was then, once looked up.
    """

    id: str
    rule_id: str
    rule_title: str
    level: Severity
    kind: str
    timestamp: int
    entity: Entity = field(default_factory=Entity)
    event_index: int = 0
    group: tuple[tuple[str, str], ...] = ()
    matched: tuple[MatchedField, ...] = ()
    evidence: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    count: int = 1
    trace_id: str = ""
    trust: str = ""
    source: str = ""
    position: str = ""
    container_id: str = ""
    tags: tuple[str, ...] = ()
    container: ContainerIdentity | None = None
    measure: float | None = None
    ongoing: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the detection as a JSON object; times are RFC 3339 text."""
        return {
            "id": self.id,
            "rule_id": self.rule_id,
            "rule_title": self.rule_title,
            "level": str(self.level),
            "kind": self.kind,
            "timestamp": times.to_text(self.timestamp),
            "entity": self.entity.to_json(),
            "event_index": self.event_index,
            "group": dict(self.group),
            "matched": [reason.to_json() for reason in self.matched],
            "evidence": list(self.evidence),
            "fields": dict(self.fields),
            "count": self.count,
            "measure": self.measure,
            "ongoing": self.ongoing,
            "trace_id": self.trace_id,
            "trust": self.trust,
            "source": self.source,
            "position": self.position,
            "container_id": self.container_id,
            "tags": list(self.tags),
            "container": self.container.to_json() if self.container else None,
        }

    @classmethod
    def unread(cls, found: Unread) -> Detection:
        """Makes one of what the native engine found, read when it is asked: evidence costs more than matching."""
        made = object.__new__(cls)
        _keep(made, found)
        return made

    if not TYPE_CHECKING:  # to the outside the fields are there

        def __getattr__(self, name: str) -> Any:
            # Called for what has no value: a field that was not read yet, or no field at all.
            if name not in _FIELDS:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            found = object.__getattribute__(self, "_unread")
            if found is not None:  # otherwise another thread has just read it
                (_read_head if name in _HEAD else _read)(self, found)
            return object.__getattribute__(self, name)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Detection:
        """Reads what the native engine or :meth:`to_json` wrote.

        Raises:
            KeyError: When a key that every detection has is missing.
            ValueError: When a level or time can't be read.
        """
        group = value.get("group") or {}
        pairs = group.items() if isinstance(group, Mapping) else group
        container = value.get("container")
        ongoing = bool(value.get("ongoing", False))
        measure = value.get("measure")
        return cls(
            id=str(value["id"]),
            rule_id=str(value["rule_id"]),
            rule_title=str(value.get("rule_title") or value["rule_id"]),
            level=Severity.parse(str(value.get("level") or "info")),
            kind=str(value.get("kind", "rule")),
            timestamp=times.from_json(value["timestamp"]),
            entity=Entity.from_json(value.get("entity")),
            event_index=int(value.get("event_index", value.get("row", 0)) or 0),
            group=tuple((str(name), str(text)) for name, text in pairs),
            matched=tuple(MatchedField.from_json(reason) for reason in value.get("matched") or ()),
            evidence=tuple(str(line) for line in value.get("evidence") or ())[:MAX_EVIDENCE],
            fields={str(name): str(text) for name, text in (value.get("fields") or {}).items()},
            count=int(value.get("count", 1) or (0 if ongoing else 1)),
            measure=None if measure is None else float(measure),
            ongoing=ongoing,
            trace_id=str(value.get("trace_id") or ""),
            trust=str(value.get("trust") or ""),
            source=str(value.get("source") or ""),
            position=str(value.get("position", "") if value.get("position") is not None else ""),
            container_id=str(value.get("container_id") or ""),
            tags=tuple(str(tag) for tag in value.get("tags") or ()),
            container=ContainerIdentity.from_json(container) if container else None,
        )


_FIELDS = frozenset(known.name for known in fields(Detection))
_keep = vars(_Source)["_unread"].__set__
_set = object.__setattr__
_severity = cache(Severity.parse)


def _read_head(made: Detection, found: Unread) -> None:
    identifier, rule, title, level, kind, timestamp, row = found.head()
    values = (identifier, rule, title, _severity(level or "info"), kind, timestamp or 0, row)
    for name, value in zip(_HEAD, values, strict=True):
        _set(made, name, value)


def _read(made: Detection, found: Unread) -> None:
    written = json.loads(found.json())
    written["timestamp"] = written["timestamp"] or 0
    whole = Detection.from_json(written)
    for name in _FIELDS:
        _set(made, name, getattr(whole, name))
    _keep(made, None)


def stronger_trust(one: str, other: str) -> str:
    """Returns the more believable of two levels; an unknown one, or none, is less than any known."""
    return min(one, other, key=lambda trust: TRUST_LEVELS.index(trust) if trust in TRUST_LEVELS else len(TRUST_LEVELS))
