"""What an operator reads: detections of one rule about one entity, grouped while open."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ironpost.model import times
from ironpost.model.detection import MAX_EVIDENCE, Detection, stronger_trust
from ironpost.model.entity import ContainerIdentity, Entity
from ironpost.model.severity import Severity


class AlertStatus(StrEnum):
    """The life of an alert. New detections join it until it is closed."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule, one entity.

    Attributes:
        id: 32 hexadecimal digits derived from the detection that opened it.
        first_seen: Earliest event time of its detections, nanoseconds.
        last_seen: Latest event time of its detections, nanoseconds.
        count: Detections in it, each counted as often as it says.
        trace_id: Of the detection that opened it: the chain from packet or line to action.
        evidence: At most ten raw lines, the first ones.
        trust: The best among its detections, for people: decisions go by the trust of the detection that leads to them.
        container: Container of the latest detection that had one.
        decisions: Ids of the decisions it led to.
    """

    id: str
    rule_id: str
    title: str
    severity: Severity
    entity: Entity
    first_seen: int
    last_seen: int
    count: int
    trace_id: str
    status: AlertStatus = AlertStatus.OPEN
    tags: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    trust: str = ""
    source: str = ""
    container: ContainerIdentity | None = None
    decisions: tuple[str, ...] = field(default=())

    @classmethod
    def opened_by(cls, detection: Detection) -> Alert:
        """Returns the alert that a detection opens."""
        return cls(
            id=hashlib.sha256(b"alert\0" + detection.id.encode()).hexdigest()[:32],
            rule_id=detection.rule_id,
            title=detection.rule_title,
            severity=detection.level,
            entity=detection.entity,
            first_seen=detection.timestamp,
            last_seen=detection.timestamp,
            count=detection.count,
            trace_id=detection.trace_id,
            tags=detection.tags,
            evidence=detection.evidence[:MAX_EVIDENCE],
            trust=detection.trust,
            source=detection.source,
            container=detection.container,
        )

    def joined_by(self, detection: Detection) -> Alert:
        """Returns this alert with one more detection in it."""
        fresh = tuple(line for line in detection.evidence if line not in self.evidence)
        return replace(
            self,
            severity=max(self.severity, detection.level),
            first_seen=min(self.first_seen, detection.timestamp),
            last_seen=max(self.last_seen, detection.timestamp),
            count=self.count + detection.count,
            tags=tuple(dict.fromkeys((*self.tags, *detection.tags))),
            evidence=(*self.evidence, *fresh)[:MAX_EVIDENCE],
            trust=stronger_trust(self.trust, detection.trust),
            source=detection.source or self.source,
            container=detection.container or self.container,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the alert as a JSON object; the keys are stable surface."""
        return {
            "id": self.id,
            "rule_id": self.rule_id,
            "title": self.title,
            "severity": str(self.severity),
            "entity": self.entity.to_json(),
            "first_seen": times.to_text(self.first_seen),
            "last_seen": times.to_text(self.last_seen),
            "count": self.count,
            "status": str(self.status),
            "trace_id": self.trace_id,
            "tags": list(self.tags),
            "evidence": list(self.evidence),
            "decisions": list(self.decisions),
            "trust": self.trust,
            "source": self.source,
            "container": self.container.to_json() if self.container else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Alert:
        """Reads what :meth:`to_json` wrote."""
        container = value.get("container")
        return cls(
            id=str(value["id"]),
            rule_id=str(value["rule_id"]),
            title=str(value["title"]),
            severity=Severity.parse(str(value["severity"])),
            entity=Entity.from_json(value["entity"]),
            first_seen=times.from_json(value["first_seen"]),
            last_seen=times.from_json(value["last_seen"]),
            count=int(value["count"]),
            status=AlertStatus(value["status"]),
            trace_id=str(value["trace_id"]),
            tags=tuple(str(tag) for tag in value.get("tags") or ()),
            evidence=tuple(str(line) for line in value.get("evidence") or ()),
            decisions=tuple(str(decision) for decision in value.get("decisions") or ()),
            trust=str(value.get("trust") or ""),
            source=str(value.get("source") or ""),
            container=ContainerIdentity.from_json(container) if container else None,
        )
