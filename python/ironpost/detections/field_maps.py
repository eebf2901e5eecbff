"""Field maps: which names an event may use for a field a rule asks for, chosen by log source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

from ironpost.detections.documents import Document, read_documents, refuse_unknown_keys
from ironpost.errors import RuleError
from ironpost.ownership import Doubt

PARTS = ("product", "category", "service")
"""The parts of a log source."""
_KEYS = frozenset({"name", "description", "taxonomy", "logsource", "reads", "fields", "forms"})

Entry: TypeAlias = "str | tuple[str, ...]"
"""An event field, or several that are looked at together."""


@dataclass(frozen=True, slots=True)
class FieldMap:
    """One map.

    Attributes:
        logsource: What a rule's log source must say for the map to apply; per part the accepted words.
        reads: Which log sources of events such a rule really reads, where that differs; ``None`` for a part means any.
        fields: Rule field to the event fields that carry it, besides the rule's own name; the first present counts.
        forms: How a name without a dot is also written in events, ``{}`` standing for the name.
        taxonomy: Whose field names these are; a rule's ``taxonomy`` chooses.
    """

    name: str
    logsource: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reads: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    fields: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    forms: tuple[str, ...] = ()
    taxonomy: str = "sigma"

    def applies_to(self, logsource: Mapping[str, str]) -> bool:
        """Says whether the map is meant for rules of this log source."""
        return all(logsource.get(part, "").lower() in words for part, words in self.logsource.items())


@dataclass(frozen=True, slots=True)
class FieldMapper:
    """All maps that apply to one log source, merged; earlier maps come first."""

    fields: Mapping[str, tuple[Entry, ...]]
    reads: Mapping[str, tuple[str, ...] | None]
    forms: tuple[str, ...] = ()

    def targets(self, name: str) -> tuple[str, ...]:
        """Returns every event field that may carry the rule's field, in the engine's order; the own name is first."""
        targets: list[str] = []
        for entry in (name, *self.fields.get(name, ())):
            if isinstance(entry, tuple):
                targets += entry
            else:
                targets.append(entry)
                if "." not in entry:
                    targets += [form.replace("{}", entry) for form in self.forms]
        return tuple(dict.fromkeys(targets))

    @classmethod
    def from_plan(cls, made: Mapping[str, Any]) -> FieldMapper:
        """Reads what :meth:`plan` wrote; what rules of the map read is said by their own plans."""
        fields = {
            name: tuple(tuple(entry) if isinstance(entry, list) else entry for entry in entries)
            for name, entries in made["fields"].items()
        }
        return cls(fields, {}, tuple(made["forms"]))

    def plan(self) -> dict[str, Any]:
        """Returns the map as the plan has it."""
        fields = {
            name: [name, *(list(entry) if isinstance(entry, tuple) else entry for entry in entries if entry != name)]
            for name, entries in self.fields.items()
        }
        return {"fields": fields, "forms": list(self.forms)}


class FieldMaps:
    """The maps in use; of two that apply to a log source the earlier has precedence."""

    def __init__(self, maps: Sequence[FieldMap]) -> None:
        self._maps = tuple(maps)
        self._mappers: dict[tuple[str, ...], FieldMapper] = {}
        self.taxonomies = frozenset({"sigma", "ecs", *(mapping.taxonomy for mapping in maps)})

    def mapper(self, logsource: Mapping[str, str], taxonomy: str = "sigma") -> FieldMapper:
        """Returns the merged map for a log source and the taxonomy of the rule's field names."""
        key = (taxonomy, *(logsource.get(part, "") for part in PARTS))
        found = self._mappers.get(key)
        if found is None:
            fields: dict[str, tuple[Entry, ...]] = {}
            reads: dict[str, tuple[str, ...] | None] = {}
            forms: dict[str, None] = {}
            for mapping in self._maps:
                if not mapping.applies_to(logsource):
                    continue
                for part, words in mapping.reads.items():
                    reads.setdefault(part, words)
                if mapping.taxonomy == taxonomy:
                    forms.update(dict.fromkeys(mapping.forms))
                    for name, entries in mapping.fields.items():
                        fields[name] = tuple(dict.fromkeys((*fields.get(name, ()), *entries)))
            found = self._mappers[key] = FieldMapper(fields, reads, tuple(forms))
        return found


@cache
def shipped_maps() -> tuple[FieldMap, ...]:
    """Returns the maps that come with the package; they are read once."""
    return tuple(load_maps([Path(str(resources.files("ironpost") / "data" / "field_maps"))]))


def load_maps(paths: Iterable[Path], *, doubt: Callable[[Path], Doubt | None] | None = None) -> list[FieldMap]:
    """Reads field maps from files and directories.

    Args:
        paths: Files and directories.
        doubt: Says why a file may be a stranger's; None trusts all.

    Raises:
        RuleError: When a map can't be used, or may be a stranger's; a wrong map would silently blind rules, so none is
            skipped.
    """
    maps: list[FieldMap] = []
    for path in paths:
        files = sorted(path.glob("*.yml")) if path.is_dir() else [path]
        for file in files:
            if doubt and (found := doubt(file)):
                reason = f"not used, a stranger could change it: {found}"
                raise RuleError(reason, path=str(file), hint=found.remedy)
            for document in read_documents(file):
                if isinstance(document, RuleError):
                    raise document
                maps.append(_field_map(document))
    return maps


def _field_map(document: Document) -> FieldMap:
    data, path = document.data, document.path
    refuse_unknown_keys(data, _KEYS, path=path, where="a field map")

    def words(value: Any, key: str) -> tuple[str, ...]:
        listed = value if isinstance(value, list) else [value]
        if not listed or not all(isinstance(item, str) and item for item in listed):
            raise RuleError(f"{key} is text or a list of texts", path=path, line=data.line_of(key), field=key)
        return tuple(listed)

    def entries(value: Any) -> tuple[Entry, ...]:
        return tuple(
            words(item, "fields") if isinstance(item, list) else words(item, "fields")[0]
            for item in (value if isinstance(value, list) and value else [value])
        )

    def parts(key: str) -> dict[str, Any]:
        section = data.get(key) or {}
        if not isinstance(section, dict):
            raise RuleError(f"{key} is a mapping", path=path, line=data.line_of(key), field=key)
        refuse_unknown_keys(section, frozenset(PARTS), path=path, where=key)
        return section

    fields = data.get("fields") or {}
    if not isinstance(fields, dict):
        raise RuleError("fields is a mapping", path=path, line=data.line_of("fields"), field="fields")
    return FieldMap(
        name=str(data.get("name") or Path(path).stem),
        logsource={
            part: tuple(word.lower() for word in words(value, "logsource"))
            for part, value in parts("logsource").items()
        },
        reads={part: None if value is None else words(value, "reads") for part, value in parts("reads").items()},
        fields={name: entries(targets) for name, targets in fields.items()},
        forms=_forms(document),
        taxonomy=str(data.get("taxonomy") or "sigma"),
    )


def _forms(document: Document) -> tuple[str, ...]:
    forms = document.data.get("forms") or []
    if not isinstance(forms, list) or not all(isinstance(form, str) and form.count("{}") == 1 for form in forms):
        line = document.data.line_of("forms")
        reason = "forms is a list of texts with {} where the name stands, for example EventData.{}"
        raise RuleError(reason, path=document.path, line=line, field="forms")
    return tuple(forms)
