"""What this host's sources can supply, and so which rules could never fire."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

from ironpost import _core
from ironpost.detections.conditions import Expression
from ironpost.detections.documents import Document, Section, read_documents, refuse_unknown_keys
from ironpost.detections.field_maps import PARTS
from ironpost.detections.lowering import atoms_of
from ironpost.detections.sigma import Rule
from ironpost.errors import RuleError

_CAPTURE = re.compile(r"\{([@A-Za-z][A-Za-z0-9_.]*)(?::[^}]*)?\}")
_KEYS = frozenset(
    {"name", "receivers", "paths", "format", "extractors", "any_field", "remedy", "logsources", "fields", "description"}
)


@dataclass(frozen=True, slots=True)
class Feed:
    """Events of one origin.

    Attributes:
        name: For people.
        logsources: Which log sources its events may have; a part left out may be anything but is not taken for granted.
        fields: Which fields they may have; None for any.
        remedy: What would have to be done for such events to arrive.
        receivers: Kinds of sources that bring them (``journal``, ``docker``, …).
        paths: Patterns of file names that hold them.
        format: The engine's name of the format, when the engine must know one.
    """

    name: str
    logsources: tuple[Mapping[str, str], ...]
    fields: frozenset[str] | None
    remedy: str
    receivers: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()
    format: str = ""

    def is_brought_by(self, receivers: Iterable[str], paths: Iterable[str]) -> bool:
        """Says whether sources that are configured bring such events."""
        if self.format and not _engine_reads(self.format):
            return False
        if not self.receivers.isdisjoint(receivers):
            return True
        names = [PurePath(path).name for path in paths]
        return any(fnmatch(name, pattern) or fnmatch(pattern, name) for name in names for pattern in self.paths)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a rule can fire.

    Attributes:
        fed_by: Names of the feeds that can make it fire; empty when nothing does.
        reason: Why nothing does, and what would.
    """

    fed_by: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Supply:
    """Feeds that are there, and feeds that could be."""

    present: tuple[Feed, ...]
    possible: tuple[Feed, ...] = ()

    @classmethod
    def shipped(cls) -> Supply:
        """Everything the package reads on a host without configuration: all feeds that name a receiver or a path."""
        feeds = _shipped_feeds()
        known = [feed for feed in feeds if feed.fields is not None and (not feed.format or _engine_reads(feed.format))]
        return cls(tuple(known), tuple(feed for feed in feeds if feed not in known))

    @classmethod
    def configured(cls, receivers: Iterable[str], paths: Iterable[str]) -> Supply:
        """What the configured receivers (``journal``, ``syslog``, ``docker``, ``filter``) and watched files bring."""
        receivers, paths = list(receivers), list(paths)
        feeds = _shipped_feeds()
        present = [feed for feed in feeds if feed.is_brought_by(receivers, paths)]
        return cls(tuple(present), tuple(feed for feed in feeds if feed not in present))

    def judge(self, rule: Rule) -> Judgement:
        """Says what feeds a rule."""
        wanted = rule.plan.get("logsource") or {}
        targets = rule.mapper.targets if rule.mapper else lambda name: (name,)
        fitting = [feed for feed in self.present if _routes(wanted, feed)]
        fed_by = tuple(dict.fromkeys(feed.name for feed in fitting if _can_hold(rule.plan, feed.fields, targets)))
        if fed_by:
            return Judgement(fed_by)
        for feed in self.possible:
            if _routes(wanted, feed) and _can_hold(rule.plan, feed.fields, targets):
                unread = feed.format and not _engine_reads(feed.format)
                remedy = f"this version does not read the format {feed.format!r}" if unread else feed.remedy
                return Judgement((), f"needs {feed.name}: {remedy}")
        asked_for = ", ".join(f"{part} {'/'.join(wanted[part])}" for part in PARTS if wanted.get(part))
        if not fitting:
            return Judgement((), f"no source supplies {asked_for}")
        known = frozenset().union(*(feed.fields or () for feed in fitting))
        asked = dict.fromkeys(made["field"] for made in atoms_of(rule.plan["detections"].values()) if made["field"])
        missing = [name for name in asked if known.isdisjoint(targets(name))]
        listed = ", ".join(missing[:6]) + (" …" if len(missing) > 6 else "")
        return Judgement((), f"{fitting[0].name} lack the fields it needs: {listed}" if listed else "it can't hold")


def judge_rules(rules: Sequence[Rule], supply: Supply) -> dict[str, Judgement]:
    """Returns, per rule id, whether something feeds it; a correlation lives on its rules."""
    judged = {rule.id: supply.judge(rule) for rule in rules if rule.kind == "rule"}
    waiting = [rule for rule in rules if rule.kind == "correlation"]
    while waiting:
        ready = [rule for rule in waiting if all(name in judged for name in rule.plan["rules"])]
        if not ready:
            break
        for rule in ready:
            feeding = list(rule.plan["rules"])
            starved = [name for name in feeding if not judged[name].fed_by]
            if starved and (rule.plan["type"].startswith("temporal") or len(starved) == len(feeding)):
                judged[rule.id] = Judgement((), f"nothing feeds its rule {starved[0]}: {judged[starved[0]].reason}")
            else:
                feeds = dict.fromkeys(name for fed in feeding for name in judged[fed].fed_by)
                judged[rule.id] = Judgement(tuple(feeds))
        waiting = [rule for rule in waiting if rule.id not in judged]
    return judged


def _engine_reads(log_format: str) -> bool:
    try:
        _core.RuleSet(b'{"version":1}').session(format=log_format)
    except ValueError:
        return False
    return True


def _routes(wanted: Mapping[str, Any], feed: Feed) -> bool:
    return any(_compatible(wanted, source) for source in feed.logsources)


def _compatible(wanted: Mapping[str, Any], source: Mapping[str, str]) -> bool:
    """The engine's routing, except that of what a rule asks for at least one part must be named by the source."""
    met = False
    for part in PARTS:
        words, known = wanted.get(part), source.get(part)
        if words is None or known is None:
            continue
        if known.lower() not in {word.lower() for word in words}:
            return False
        met = True
    return met or not any(wanted.get(part) for part in PARTS)


def _can_hold(
    plan: Mapping[str, Any], supplied: frozenset[str] | None, targets: Callable[[str], tuple[str, ...]]
) -> bool:
    """Says whether the rule can be true when only the ``supplied`` fields ever occur."""

    def holds(expression: Expression) -> bool | None:
        if "atom" in expression:
            made = expression["atom"]
            if made["field"] is None or not supplied or not supplied.isdisjoint(targets(made["field"])):
                return None
            return bool(made["op"] == "null")
        if "ref" in expression:
            return holds(plan["detections"][expression["ref"]])
        if "const" in expression:
            return bool(expression["const"])
        if "not" in expression:
            inner = holds(expression["not"])
            return None if inner is None else not inner
        kind = "and" if "and" in expression else "or"
        decisive = kind == "or"
        unknown = False
        for part in expression[kind]:
            value = holds(part)
            if value is decisive:
                return decisive
            unknown |= value is None
        return None if unknown else not decisive

    return holds(plan["condition"]) is not False


def _shipped_feeds() -> list[Feed]:
    data = Path(str(resources.files("ironpost") / "data"))
    extracted: list[tuple[frozenset[str], tuple[Mapping[str, str], ...]]] = []
    for file in sorted((data / "extractors").glob("*.yml")):
        for document in read_documents(file):
            if isinstance(document, Document):
                fields: set[str] = set()
                logsources: list[Mapping[str, str]] = []
                _collect(document.data, fields, logsources)
                extracted.append((frozenset(fields), tuple(logsources)))
    feeds = []
    for file in sorted((data / "feeds").glob("*.yml"), reverse=True):  # the host's own feeds explain first
        for document in read_documents(file):
            if isinstance(document, RuleError):
                raise document
            feed = _feed(document)
            if document.data.get("extractors") is True and feed.fields is not None:
                # One line is read by one extractor: its fields do not meet those of another.
                for captured, sources in extracted:
                    own = tuple(source for source in sources if _compatible_any(source, feed.logsources))
                    if own:
                        feeds.append(replace(feed, fields=feed.fields | captured, logsources=own))
            feeds.append(feed)
    return feeds


def _compatible_any(source: Mapping[str, str], others: Iterable[Mapping[str, str]]) -> bool:
    """True when a feed's log source says the same product, or the same category, as an extractor's."""
    return any(source.get(part) and source.get(part) == other.get(part) for other in others for part in PARTS[:2])


def _feed(document: Document) -> Feed:
    data, path = document.data, document.path
    refuse_unknown_keys(data, _KEYS, path=path, where="a feed")
    sources = data.get("logsources")
    if not isinstance(sources, list) or not all(isinstance(source, Section) for source in sources):
        reason = "logsources is a list of mappings"
        raise RuleError(reason, path=path, line=data.line_of("logsources"), field="logsources")
    return Feed(
        name=str(data["name"]),
        logsources=tuple({part: str(source[part]) for part in PARTS if part in source} for source in sources),
        fields=None if data.get("any_field") is True else frozenset(map(str, data.get("fields") or ())),
        remedy=str(data.get("remedy") or ""),
        receivers=frozenset(map(str, data.get("receivers") or ())),
        paths=tuple(map(str, data.get("paths") or ())),
        format=str(data.get("format") or ""),
    )


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
