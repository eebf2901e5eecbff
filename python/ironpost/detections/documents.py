"""Rule files as plain data with line numbers, read safely.

PyYAML's C parser builds the node tree; the data is made here, so that nothing depends on YAML's surprises: ``on``,
``no`` and ``yes`` stay text, dates stay text, numbers keep the form in which they were written, tags are refused,
duplicate keys are refused, and aliases may not multiply a small file into a large one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ironpost.errors import RuleError

MAX_FILE_BYTES = 10 * 1024 * 1024
"""Larger rule files are refused."""

_MAX_NODES = 200_000
_MAX_DEPTH = 40
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)
_CONTAINER_TAGS = frozenset({"tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"})
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Section(dict[str, Any]):
    """A mapping that knows on which line it and each of its keys stands."""

    __slots__ = ("key_lines", "line")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.key_lines: dict[str, int] = {}

    def line_of(self, key: str) -> int:
        """The line of a key, or of the section when there is no such key."""
        return self.key_lines.get(key, self.line)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document of a rule file."""

    path: str
    line: int
    data: Section


def check_readable(path: Path) -> None:
    """Makes sure that a file or directory that somebody named is there: a typing error is no empty set of rules.

    Raises:
        RuleError: When it isn't, or can't be read.
    """
    try:
        # Without waiting for a writer, should it be a named pipe; opens directories, too.
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError:
        raise RuleError(
            "no such file or directory", path=str(path), hint="name a directory of rules, or a rule file"
        ) from None
    except OSError as error:
        raise RuleError(
            f"cannot be read: {error.strerror}", path=str(path), hint="give this user read permission"
        ) from error


def rule_files(path: Path) -> Iterator[Path]:
    """Yields the rule files below a directory (``.yml`` and ``.yaml``), or the file itself, in a stable order."""
    if not path.is_dir():
        yield path
        return
    for found in sorted(path.rglob("*")):
        if found.suffix.lower() in {".yml", ".yaml"} and found.is_file() and not found.name.startswith("."):
            yield found


def read_documents(path: Path) -> Iterator[Document | RuleError]:
    """Yields every document of a file; what can't be read is yielded as an error, and the rest of the file goes on.

    Only a syntax error ends a file, because nothing after it can be told apart.
    """
    name = str(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            yield RuleError(f"file is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB", path=name)
            return
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        yield RuleError(f"cannot be read: {error.strerror}", path=name)
        return
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        yield RuleError("is not UTF-8 text", path=name, line=line)
        return
    yield from parse_documents(text, name)


def parse_documents(text: str, path: str = "") -> Iterator[Document | RuleError]:
    """Like :func:`read_documents` for text at hand."""
    loader = _Loader(text)
    try:
        while True:
            try:
                if not loader.check_node():
                    return
                node = loader.get_node()
            except yaml.MarkedYAMLError as error:
                line = error.problem_mark.line + 1 if error.problem_mark else 0
                yield RuleError(f"YAML: {error.problem or error.context}", path=path, line=line)
                return
            except (yaml.YAMLError, RecursionError, ValueError) as error:
                yield RuleError(f"YAML: {str(error).splitlines()[0]}", path=path)
                return
            line = node.start_mark.line + 1
            try:
                data = _Builder(path).build(node, 0)
            except RuleError as error:
                yield error
                continue
            if data is None:
                continue  # an empty document between two separators
            if not isinstance(data, Section):
                yield RuleError("a rule is a mapping of keys to values", path=path, line=line)
                continue
            yield Document(path, line, data)
    finally:
        loader.dispose()


class _Builder:
    def __init__(self, path: str) -> None:
        self._path = path
        self._nodes = 0

    def build(self, node: Any, depth: int) -> Any:
        self._nodes += 1
        line = node.start_mark.line + 1
        if self._nodes > _MAX_NODES:
            raise RuleError(f"more than {_MAX_NODES:,} values, aliases included", path=self._path, line=line)
        if depth > _MAX_DEPTH:
            raise RuleError(f"nested deeper than {_MAX_DEPTH} levels", path=self._path, line=line)
        if isinstance(node, yaml.ScalarNode):
            if node.tag not in _PLAIN_TAGS:
                raise RuleError(f"YAML tag {node.tag} is not allowed", path=self._path, line=line)
            return _plain(node.value) if not node.style else node.value
        if node.tag not in _CONTAINER_TAGS:
            raise RuleError(f"YAML tag {node.tag} is not allowed", path=self._path, line=line)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, depth + 1) for item in node.value]
        section = Section(line)
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise RuleError("a key is text, not a list or mapping", path=self._path, line=key_line)
            key = key_node.value
            if key in section:
                raise RuleError(f"key {key!r} is given twice", path=self._path, line=key_line)
            section[key] = self.build(value_node, depth + 1)
            section.key_lines[key] = key_line
        return section


def _plain(text: str) -> Any:
    """An unquoted scalar: null, true, false and plain decimal integers are typed, all else is the text as written."""
    if text in _NULLS:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INTEGER.fullmatch(text) and len(text) < 40 and not text.startswith("+"):
        return int(text)
    return text


def text_of(value: Any) -> str:
    """The text form of a scalar, as events would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def refuse_unknown_keys(section: Mapping[str, Any], known: frozenset[str], *, path: str, where: str) -> None:
    """Raises for the first key that is not known, naming the nearest known one."""
    for key in section:
        if key in known:
            continue
        from difflib import get_close_matches  # noqa: PLC0415 - only needed to word an error

        near = get_close_matches(key, known, n=1)
        line = section.line_of(key) if isinstance(section, Section) else 0
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise RuleError(f"unknown key {key!r} in {where}", path=path, line=line, field=key, hint=hint)
