"""What this host's sources can supply, and so which rules could never fire."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ironpost.detections.documents import Document, read_documents
from ironpost.detections.field_maps import PARTS
from ironpost.detections.lowering import can_hold
from ironpost.detections.sigma import Rule

_CAPTURE = re.compile(r"\{([@A-Za-z][A-Za-z0-9_.]*)(?::[^}]*)?\}")

_BASE = """
    @timestamp message event.original event.kind event.category event.action event.outcome event.format event.reason
    event.method event.type host.hostname host.name process.name process.pid user.name user.id log.level log.file.path
    log.iostream
    log.syslog.priority log.syslog.facility.code log.syslog.severity.code log.syslog.appname log.syslog.procid
    log.syslog.msgid log.syslog.structured_data log.syslog.version log.syslog.hostname
    source.ip source.port destination.ip destination.port network.transport network.bytes tcp.flags
    http.request.method http.request.referrer http.response.status_code http.response.body.bytes http.version
    url.original url.path url.query url.domain user_agent.original ironpost.url.decoded
    container.id container.name container.image.name ironpost.trust ironpost.verdict
"""
BASE_FIELDS = frozenset(_BASE.split())
"""Fields that parsers, receivers and the packet filter write themselves."""

_BASE_LOGSOURCES: tuple[Mapping[str, str], ...] = (
    {"product": "linux"},
    {"category": "webserver"},
    {"product": "ironpost", "category": "firewall", "service": "filter"},
)


@dataclass(frozen=True, slots=True)
class Supply:
    """Fields and log sources that can occur on this host."""

    fields: frozenset[str]
    logsources: tuple[Mapping[str, str], ...]

    @classmethod
    def shipped(cls) -> Supply:
        """What the parsers and the extractors of the package supply."""
        return cls.from_extractors([Path(str(resources.files("ironpost") / "data" / "extractors"))])

    @classmethod
    def from_extractors(cls, paths: Iterable[Path]) -> Supply:
        """Adds what extractor files say they capture, set and stand for."""
        fields = set(BASE_FIELDS)
        logsources = list(_BASE_LOGSOURCES)
        for path in paths:
            for file in sorted(path.glob("*.yml")) if path.is_dir() else [path]:
                for document in read_documents(file):
                    if isinstance(document, Document):
                        _collect(document.data, fields, logsources)
        return cls(frozenset(fields), tuple(logsources))

    def feeds(self, plan: Mapping[str, Any]) -> str:
        """Returns why nothing on this host feeds a rule's plan, or ``""``."""
        wanted = plan.get("logsource") or {}
        if not any(_compatible(wanted, source) for source in self.logsources):
            words = ", ".join(f"{part} {'/'.join(wanted[part])}" for part in PARTS if wanted.get(part))
            return f"no source supplies {words}"
        if not can_hold(plan["condition"], plan["detections"], self.fields):
            missing = sorted(
                {field for field in _fields(plan) if field not in self.fields and not field.startswith("ironpost.")}
            )
            return f"no source supplies the fields it needs: {', '.join(missing[:6])}{' …' if len(missing) > 6 else ''}"
        return ""


def unfed_reasons(rules: Sequence[Rule], supply: Supply) -> dict[str, str]:
    """Returns, per rule id that can never fire here, the reason."""
    reasons: dict[str, str] = {}
    for rule in rules:
        if rule.kind == "rule":
            reason = supply.feeds(rule.plan)
            if reason:
                reasons[rule.id] = reason
    changed = True
    while changed:
        changed = False
        for rule in rules:
            if rule.kind != "correlation" or rule.id in reasons:
                continue
            feeding = rule.plan["rules"]
            starved = [name for name in feeding if name in reasons]
            needs_all = rule.plan["type"].startswith("temporal")
            if starved and (needs_all or len(starved) == len(feeding)):
                reasons[rule.id] = f"nothing feeds its rule {starved[0]}: {reasons[starved[0]]}"
                changed = True
    return reasons


def _fields(plan: Mapping[str, Any]) -> list[str]:
    from ironpost.detections.lowering import atoms_of  # noqa: PLC0415 - only to word a reason

    return [made["field"] for made in atoms_of(plan["detections"].values()) if made["field"]]


def _compatible(wanted: Mapping[str, Any], source: Mapping[str, str]) -> bool:
    """The engine's routing, except that a category nobody names is not taken for granted."""
    for part in PARTS:
        words = wanted.get(part)
        if words is None:
            continue
        known = source.get(part)
        if known is not None and known.lower() not in {word.lower() for word in words}:
            return False
        if (
            known is None
            and part == "product"
            and not any(source.get(other) in (wanted.get(other) or ()) for other in PARTS)
        ):
            return False
    return True


def _collect(data: Mapping[str, Any], fields: set[str], logsources: list[Mapping[str, str]]) -> None:
    source = data.get("logsource")
    if isinstance(source, Mapping):
        logsources.append({part: str(source[part]) for part in PARTS if source.get(part)})
    for section in (data, *(item for item in data.get("patterns") or () if isinstance(item, Mapping))):
        fields.update(str(name) for name in section.get("set") or {})
        if isinstance(section.get("pattern"), str):
            fields.update(_CAPTURE.findall(section["pattern"]))
        inner = section.get("logsource")
        if section is not data and isinstance(inner, Mapping):
            logsources.append({part: str(inner[part]) for part in PARTS if inner.get(part)})
