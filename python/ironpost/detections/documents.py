"""Rule files as plain data with line numbers, read safely.

PyYAML's C scanner gives events; the data is made here, so that nothing depends on YAML's surprises: ``on``, ``no``
and ``yes`` stay text, dates stay text, numbers keep the form in which they were written, tags, merge keys and
duplicate keys are refused, and aliases may not multiply a small file into a large one. Reading stops at the first value
too many or too deep: PyYAML's own tree builder recurses in C and ends the process on deep nesting.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from ironpost.errors import RuleError

MAX_FILE_BYTES = 10 * 1024 * 1024
"""Larger rule files are refused."""

MAX_VALUES = 20_000
"""Documents with more values, those that aliases repeat included, are refused. The largest public rule has 4,433."""
_MAX_DEPTH = 40
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null"))
_TEXT_TAG = "tag:yaml.org,2002:str"
_CONTAINER_TAGS = frozenset({None, "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"})
_DOCUMENT_START = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)
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


def is_case_file(name: str) -> bool:
    """Says whether a file of that name holds cases for the rules beside it (``x.test.yml``), not rules."""
    return name.lower().endswith((".test.yml", ".test.yaml"))


def _is_rule_file(name: str) -> bool:
    return name.lower().endswith((".yml", ".yaml")) and name[0] != "." and not is_case_file(name)


def rule_files(path: Path) -> Iterator[Path]:
    """Yields the rule files below a directory (``.yml`` and ``.yaml``), or the file itself, in a stable order."""
    if path.is_dir():
        yield from map(Path, _files_below(str(path)))
    else:
        yield path


def _files_below(folder: str) -> Iterator[str]:
    """As text: thousands of path objects cost more than listing. Links to directories are not followed."""
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except PermissionError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path)
        elif _is_rule_file(entry.name) and entry.is_file():
            yield entry.path


def python_rule_files(path: Path) -> Iterator[Path]:
    """Yields the Python files below a directory, in a stable order."""
    if path.is_dir():
        for found in sorted(path.rglob("*.py")):
            if found.is_file() and not found.name.startswith((".", "_")):
                yield found


def section_document(data: Mapping[str, Any], path: str, line: int) -> Document:
    """Returns plain data as a document all of whose keys stand on one line.

    Raises:
        RuleError: When it holds what YAML could not.
    """
    return Document(path, line, _as_section(data, path, line, 0))


def _as_section(data: Mapping[str, Any], path: str, line: int, depth: int) -> Section:
    section = Section(line)
    for key, value in data.items():
        if not isinstance(key, str):
            raise RuleError(f"a key is text, not {key!r}", path=path, line=line)
        section[key] = _as_data(value, path, line, depth + 1)
        section.key_lines[key] = line
    return section


def _as_data(value: Any, path: str, line: int, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise RuleError(f"nested deeper than {_MAX_DEPTH} levels", path=path, line=line)
    if isinstance(value, Mapping):
        return _as_section(value, path, line, depth)
    if isinstance(value, (list, tuple)):
        return [_as_data(item, path, line, depth + 1) for item in value]
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return str(value)
    raise RuleError(f"a value is text, a number, a boolean or None, not {value!r}", path=path, line=line)


def read_content(path: Path) -> bytes | RuleError:
    """Returns the bytes of a rule file, or why it is not read."""
    try:
        # Without waiting for a writer, should it be a named pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            wanted = min(os.fstat(descriptor).st_size, MAX_FILE_BYTES) + 1
            content = os.read(descriptor, wanted)
            while len(content) <= MAX_FILE_BYTES and (more := os.read(descriptor, wanted)):
                content += more
        finally:
            os.close(descriptor)
    except OSError as error:
        return RuleError(f"cannot be read: {error.strerror}", path=str(path))
    if len(content) > MAX_FILE_BYTES:
        return RuleError(f"file is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB", path=str(path))
    return content


def read_documents(path: Path) -> Iterator[Document | RuleError]:
    """Yields every document of a file; what can't be read is yielded as an error, and the rest of the file goes on."""
    yield from documents_in(read_content(path), str(path))


def documents_in(content: bytes | RuleError, path: str) -> Iterator[Document | RuleError]:
    """Like :func:`read_documents` for what :func:`read_content` returned."""
    if isinstance(content, RuleError):
        yield content
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        yield RuleError("is not UTF-8 text", path=path, line=line)
        return
    yield from parse_documents(text, path)


def parse_documents(text: str, path: str = "") -> Iterator[Document | RuleError]:
    """Like :func:`read_documents` for text at hand."""
    for line, piece in _pieces(text):
        yield from _parse(piece, path, line)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The documents as text with the number of lines before each, so that a syntax error ends only its own document.

    ``---`` at the start of a line begins a document whatever stands around it (YAML 1.2.2, rule c-forbidden).
    Directives stand before that mark; a text that may have some is read as one piece.
    """
    starts = [] if _DIRECTIVE.search(text) else [found.start() for found in _DOCUMENT_START.finditer(text)]
    line = previous = 0
    for start in starts:
        if start > previous:
            yield line, text[previous:start]
            line += text.count("\n", previous, start)
            previous = start
    yield line, text[previous:]


def _parse(text: str, path: str, lines_before: int) -> Iterator[Document | RuleError]:
    try:
        loader = _Loader(text)
    except (yaml.YAMLError, ValueError) as error:
        yield RuleError(f"YAML: {str(error).splitlines()[0]}", path=path, line=lines_before + 1)
        return
    try:
        while True:
            event = loader.get_event()
            if isinstance(event, yaml.StreamEndEvent):
                return
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            event = loader.get_event()
            line = lines_before + event.start_mark.line + 1
            try:
                data = _Builder(path, lines_before, loader.get_event).build(event, 0)
            except _TooLargeError as error:
                yield error
                return  # reading on would cost what the limit is there to save
            except RuleError as error:
                yield error
                while not isinstance(event, yaml.DocumentEndEvent):
                    event = loader.get_event()
                continue
            if data is None:
                continue  # an empty document between two separators
            if not isinstance(data, Section):
                yield RuleError("a rule is a mapping of keys to values", path=path, line=line)
                continue
            yield Document(path, line, data)
    except yaml.MarkedYAMLError as error:
        line = lines_before + (error.problem_mark.line + 1 if error.problem_mark else 0)
        yield RuleError(f"YAML: {error.problem or error.context}", path=path, line=line)
    except (yaml.YAMLError, ValueError) as error:
        yield RuleError(f"YAML: {str(error).splitlines()[0]}", path=path, line=lines_before + 1)
    finally:
        loader.dispose()


class _TooLargeError(RuleError):
    """The rest of the document is not worth reading."""


class _Builder:
    """Makes the data of one document from parser events."""

    def __init__(self, path: str, lines_before: int, next_event: Callable[[], Any]) -> None:
        self._path = path
        self._first_line = lines_before + 1
        self._next = next_event
        self._values = 0
        self._anchors: dict[str, tuple[Any, int] | None] = {}

    def _line(self, event: Any) -> int:
        return int(self._first_line + event.start_mark.line)

    def _fail(self, reason: str, event: Any) -> RuleError:
        return RuleError(reason, path=self._path, line=self._line(event))

    def _count(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            reason = f"more than {MAX_VALUES:,} values, aliases included"
            raise _TooLargeError(
                reason,
                path=self._path,
                line=self._line(event),
                hint="split the document into several rules",
            )

    def build(self, event: Any, depth: int) -> Any:
        self._count(1, event)
        kind = type(event)
        if kind is yaml.ScalarEvent:
            value = self._scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = (value, 1)
            return value
        if kind is yaml.AliasEvent:
            return self._alias(event)
        if depth > _MAX_DEPTH:
            raise _TooLargeError(
                f"nested deeper than {_MAX_DEPTH} levels",
                path=self._path,
                line=self._line(event),
            )
        if event.tag not in _CONTAINER_TAGS:
            raise self._fail(f"YAML tag {event.tag} is not allowed", event)
        before = self._values
        if event.anchor:
            self._anchors[event.anchor] = None
        value = self._list(depth) if kind is yaml.SequenceStartEvent else self._section(event, depth)
        if event.anchor:
            self._anchors[event.anchor] = (value, self._values - before + 1)
        return value

    def _list(self, depth: int) -> list[Any]:
        made = []
        following = self._next
        while (kind := type(event := following())) is not yaml.SequenceEndEvent:
            made.append(self._text(event) if kind is yaml.ScalarEvent else self.build(event, depth + 1))
        return made

    def _text(self, event: Any) -> Any:
        """The short way for what nearly every value is: a scalar without tag and anchor."""
        if event.tag is not None or event.anchor or self._values >= MAX_VALUES:
            return self.build(event, 0)
        self._values += 1
        return event.value if event.style else _plain(event.value)

    def _section(self, start: Any, depth: int) -> Section:
        section = Section(self._line(start))
        while type(event := self._next()) is not yaml.MappingEndEvent:
            if type(event) is not yaml.ScalarEvent:
                raise self._fail("a key is text, not a list, a mapping or an alias", event)
            key = event.value
            if key in section:
                raise self._fail(f"key {key!r} is given twice", event)
            if key == "<<" and not event.style:
                raise self._fail("merge keys ('<<') are not allowed; write the keys out", event)
            if event.tag not in (None, _TEXT_TAG):
                raise self._fail(f"YAML tag {event.tag} is not allowed", event)
            section.key_lines[key] = self._line(event)
            event = self._next()
            section[key] = self._text(event) if type(event) is yaml.ScalarEvent else self.build(event, depth + 1)
        return section

    def _scalar(self, event: Any) -> Any:
        if event.tag is None:
            return event.value if event.style else _plain(event.value)
        if event.tag in _PLAIN_TAGS:
            return _plain(event.value)
        if event.tag != _TEXT_TAG:
            raise self._fail(f"YAML tag {event.tag} is not allowed", event)
        return event.value

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise self._fail(f"YAML: found undefined alias {event.anchor!r}", event)
        found = self._anchors[event.anchor]
        if found is None:
            raise self._fail(f"alias {event.anchor!r} stands within itself and would be nested deeper for ever", event)
        self._count(found[1] - 1, event)
        return found[0]


def _plain(text: str) -> Any:
    """An unquoted scalar: null, true, false and plain decimal integers are typed, all else is the text as written."""
    if text in _NULLS:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if text[0] in "-0123456789" and len(text) < 40 and _INTEGER.fullmatch(text):
        return int(text)
    return text


_ACTIONS = frozenset({"global", "reset", "repeat"})


def with_actions(documents: Iterable[Document | RuleError]) -> Iterator[Document | RuleError]:
    """Resolves the ``action`` documents of older Sigma files: the documents of one file in, whole rules out.

    ``global`` is merged into every later rule of the file until ``reset``, and ``repeat`` changes a copy of the rule
    before it. What is merged in wins, as in the reference converter.
    """
    template: Section | None = None
    previous: Section | None = None
    for document in documents:
        if isinstance(document, RuleError):
            yield document
            continue
        data = document.data
        action = data.get("action")
        if action is None:
            if "correlation" in data or "filter" in data or "placeholders" in data:
                yield document
                continue
            previous = _merged(data, template) if template else data
            yield Document(document.path, document.line, previous)
        elif action not in _ACTIONS:
            reason = f"action {action!r} is none of {', '.join(sorted(_ACTIONS))}"
            yield RuleError(reason, path=document.path, line=data.line_of("action"), field="action")
        elif action == "global":
            template = previous = _without_action(data)
        elif action == "reset":
            template = None
        elif previous is None:
            reason = "action 'repeat' has no rule before it to repeat"
            yield RuleError(reason, path=document.path, line=data.line_of("action"), field="action")
        else:
            previous = _merged(previous, _without_action(data))
            yield Document(document.path, document.line, previous)


def _without_action(data: Section) -> Section:
    made = Section(data.line)
    for key, value in data.items():
        if key != "action":
            made[key] = value
            made.key_lines[key] = data.line_of(key)
    return made


def _merged(below: Section, above: Section) -> Section:
    made = Section(below.line)
    for section in (below, above):
        for key, value in section.items():
            under = made.get(key)
            made[key] = _merged(under, value) if isinstance(under, Section) and isinstance(value, Section) else value
            made.key_lines[key] = section.line_of(key)
    return made


def text_of(value: Any) -> str:
    """The text form of a scalar, as events would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


_MISSPELT = 0.75
"""Likeness from which on an unknown key is taken for a known one written wrongly."""


def custom_keys(section: Section, known: frozenset[str], *, path: str, where: str) -> list[str]:
    """Returns keys the specification leaves to everybody, for parts where it allows such.

    Raises:
        RuleError: For a key that looks like a known one written wrongly; it would be silently without effect.
    """
    custom = [key for key in section if key not in known]
    for key in custom:
        near = get_close_matches(key.lower(), known, n=1, cutoff=_MISSPELT)
        if near:
            hint = f"did you mean {near[0]!r}?"
            reason = f"unknown key {key!r} in {where}"
            raise RuleError(reason, path=path, line=section.line_of(key), field=key, hint=hint)
    return custom


def refuse_unknown_keys(section: Mapping[str, Any], known: frozenset[str], *, path: str, where: str) -> None:
    """Raises for the first key that is not known, naming the nearest known one."""
    for key in section:
        if key in known:
            continue
        near = get_close_matches(key, known, n=1)
        line = section.line_of(key) if isinstance(section, Section) else 0
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise RuleError(f"unknown key {key!r} in {where}", path=path, line=line, field=key, hint=hint)
