"""Tables that tell the log source of an event from the event itself, read from data files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ironpost.detections.documents import Document, read_documents, refuse_unknown_keys
from ironpost.detections.field_maps import PARTS
from ironpost.errors import RuleError

_KEYS = frozenset({"name", "description", "keys", "sources"})
_SOURCE_KEYS = frozenset({"when", "is"})
ANY = "*"
"""As a part of a log source: the event may be anything there, and is shown to every rule."""


@cache
def shipped_tables() -> tuple[dict[str, Any], ...]:
    """Returns the tables that come with the package, as the plan has them; they are read once."""
    return tuple(log_source_tables([Path(str(resources.files("ironpost") / "data" / "logsources"))]))


def log_source_tables(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Reads the tables of files and directories, in order of their names.

    Returns:
        The ``derive`` part of the plan.

    Raises:
        RuleError: When a table can't be used; a wrong one would show events to the wrong rules.
    """
    tables: list[dict[str, Any]] = []
    for path in paths:
        for file in sorted(path.glob("*.yml")) if path.is_dir() else [path]:
            for document in read_documents(file):
                if isinstance(document, RuleError):
                    raise document
                tables.append(_table(document))
    return tables


def _table(document: Document) -> dict[str, Any]:
    data, path = document.data, document.path
    refuse_unknown_keys(data, _KEYS, path=path, where="a log source table")
    keys, sources = data.get("keys"), data.get("sources")
    if not isinstance(keys, Mapping) or not keys:
        reason = "keys is a mapping of names to event fields"
        raise RuleError(reason, path=path, line=data.line_of("keys"), field="keys")
    if not isinstance(sources, list) or not sources:
        reason = "sources is a list of {when, is}"
        raise RuleError(reason, path=path, line=data.line_of("sources"), field="sources")
    rows = []
    for source in sources:
        line = getattr(source, "line", document.line)
        if not isinstance(source, Mapping):
            raise RuleError("a source is a mapping with when and is", path=path, line=line, field="sources")
        refuse_unknown_keys(source, _SOURCE_KEYS, path=path, where="a source")
        when, kind = source.get("when"), source.get("is")
        if not isinstance(when, Mapping) or not isinstance(kind, Mapping):
            raise RuleError("when and is are mappings", path=path, line=line, field="sources")
        unknown = [*(key for key in when if key not in keys), *(part for part in kind if part not in PARTS)]
        if unknown:
            raise RuleError(f"{unknown[0]!r} is not known here", path=path, line=line, field="sources")
        rows.append(
            {
                "when": [_wanted(when.get(key), path, line) for key in keys],
                "is": {part: _part(kind.get(part), path, line) for part in PARTS},
            }
        )
    return {
        "name": str(data.get("name") or Path(path).stem),
        "keys": [_texts(fields, path, data.line_of("keys")) for fields in keys.values()],
        "rows": rows,
    }


def _wanted(value: Any, path: str, line: int) -> Any:
    return value if value is None or isinstance(value, bool) else _texts(value, path, line)


def _part(value: Any, path: str, line: int) -> list[str] | None:
    if value is None:
        return []
    return None if value == ANY else _texts(value, path, line)


def _texts(value: Any, path: str, line: int) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in listed) or not listed:
        raise RuleError("expected text or a list of texts", path=path, line=line, field="sources")
    return [str(item) for item in listed]
