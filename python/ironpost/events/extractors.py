"""Field extractors: YAML files that say how a program's messages become fields.

An extractor file::

    name: sshd                              # unique
    match: {process.name: [sshd]}           # programs; "*" = all lines; left out = lines without a program
    logsource: {product: linux, service: sshd}
    patterns:                               # tried in order, the first one that matches the whole message wins
      - id: failed
        contains: "Failed "                 # optional: a text without which the pattern is not tried
        pattern: 'Failed password for[ invalid user] {user.name:text} from {source.ip:ip} port {source.port:port}'
        set: {event.outcome: failure}       # constants
    cases:                                  # lines with what they must give; null = the field must be absent
      - line: "Nov 20 18:54:46 host sshd[9]: Failed password for bob from 192.0.2.1 port 5"
        expect: {user.name: bob, source.ip: 192.0.2.1}

In a pattern ``{field:type}`` takes a value (``{-:type}`` drops it), ``[…]`` may be missing, a backslash makes the
punctuation behind it literal. Types: ``word`` (no white space), ``text`` (anything, greedy: what an attacker writes
into it can't move what stands behind it), ``until`` (anything up to the text that follows), ``ip``, ``host``, ``port``,
``integer``, ``quoted``, ``url``. Values are kept as written except that addresses get one spelling.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from ironpost import _core
from ironpost.errors import ExtractorError
from ironpost.ownership import Doubt

#: A larger file is no extractor.
MAX_FILE_BYTES = 1 << 20

#: Extractors that come with Ironpost.
BUILT_IN_DIRECTORY = Path(__file__).resolve().parent.parent / "data" / "extractors"

_LOGSOURCE_PARTS = ("product", "category", "service")
_MAX_DEPTH = 16
_SCALAR_TAGS = frozenset({"str", "int", "float", "bool", "null", "timestamp"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """One shape of message.

    Attributes:
        id: Unique in its extractor.
        pattern: In the language of this module's docstring.
        contains: A text without which the pattern is not tried, or ``""``.
        set: Constant fields of a match.
        line: Where it stands in its file.
    """

    id: str
    pattern: str
    contains: str = ""
    set: Mapping[str, str] = dataclasses.field(default_factory=dict)
    line: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A line and the fields it must give; None means that the field must be absent."""

    record: str
    expect: Mapping[str, str | None]
    line: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """One extractor file, validated.

    Attributes:
        name: Unique among all extractors.
        programs: Values of ``process.name``; ``("*",)`` for all lines, empty for lines without a program.
        logsource: Sigma log source of the programs' lines.
        patterns: In the order in which they are tried.
        cases: Lines that prove it.
        path: The file.
    """

    name: str
    programs: tuple[str, ...]
    logsource: Mapping[str, str]
    patterns: tuple[Pattern, ...]
    cases: tuple[Case, ...] = ()
    path: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Extractors:
    """What was loaded, and what was refused and why.

    Attributes:
        extractors: Usable ones, in load order.
        refused: An error with path, line and reason for each other one.
    """

    extractors: tuple[Extractor, ...]
    refused: tuple[ExtractorError, ...]

    def compile(self) -> _core.Extractors:
        """Compiles the usable extractors for the native parser."""
        return _core.Extractors(plan(self.extractors))


def plan(extractors: Iterable[Extractor]) -> bytes:
    """Lowers extractors to the plan that the native module compiles: JSON, version 1."""
    return json.dumps(
        {
            "version": 1,
            "extractors": [
                {
                    "name": extractor.name,
                    "programs": list(extractor.programs),
                    "logsource": dict(extractor.logsource),
                    "patterns": [
                        {
                            "id": pattern.id,
                            "contains": pattern.contains,
                            "pattern": pattern.pattern,
                            "set": dict(pattern.set),
                        }
                        for pattern in extractor.patterns
                    ],
                }
                for extractor in extractors
            ],
        }
    ).encode()


def load(*paths: str | Path, doubt: Callable[[Path], Doubt | None] | None = None) -> Extractors:
    """Loads extractor files and directories (their ``*.yml``, sorted) after those that come with Ironpost.

    A file that can't be used is refused with its place and reason; the others still work. A name that was
    already loaded is refused too.

    Args:
        paths: Files and directories.
        doubt: Says why a file may be a stranger's, which is then refused; None trusts all.

    Raises:
        ExtractorError: A path does not exist.
    """
    extractors: list[Extractor] = []
    refused: list[ExtractorError] = []
    names: dict[str, str] = {}
    for file in _files((BUILT_IN_DIRECTORY, *paths)):
        if doubt and (found := doubt(file)):
            reason = f"not used, a stranger could change it: {found}"
            refused.append(ExtractorError(reason, path=str(file), line=1, hint=found.remedy))
            continue
        try:
            extractor = read(file)
        except ExtractorError as error:
            refused.append(error)
            continue
        if extractor.name in names:
            reason = f"extractor {extractor.name!r} is already defined in {names[extractor.name]}"
            refused.append(ExtractorError(reason, path=str(file), line=1, field="name", hint="give it another name"))
            continue
        names[extractor.name] = str(file)
        extractors.append(extractor)
    return Extractors(extractors=tuple(extractors), refused=tuple(refused))


@functools.cache
def built_in() -> _core.Extractors:
    """The extractors that come with Ironpost, compiled once."""
    return load().compile()


def failed_cases(extractors: Extractors) -> list[ExtractorError]:
    """Runs the cases of all extractors; returns an error with path and line for each that gives something else."""
    compiled, failed = extractors.compile(), []
    for extractor in extractors.extractors:
        for case in extractor.cases:
            row = _core.parse_records([case.record.encode("utf-8", "surrogateescape")], compiled, format="auto").row(0)
            for name, expected in case.expect.items():
                found = None if row.get(name) is None else str(row[name])
                if found != expected:
                    reason = f"{name} is {found!r}, the case expects {expected!r}"
                    failed.append(ExtractorError(reason, path=extractor.path, line=case.line, field=name))
    return failed


def _files(paths: Iterable[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(path.glob("*.yml"))
        elif path.exists():
            yield path
        else:
            raise ExtractorError("no such file or directory", path=str(path))


def read(path: Path) -> Extractor:
    """Reads and validates one extractor file.

    Raises:
        ExtractorError: With path, line and reason.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ExtractorError(f"can't be read: {error.strerror}", path=str(path)) from error
    return parse_text(text, path=str(path))


def parse_text(text: bytes, *, path: str = "<text>") -> Extractor:
    """Validates the text of one extractor file and compiles its patterns once to prove them.

    Raises:
        ExtractorError: With path, line and reason.
    """
    if len(text) > MAX_FILE_BYTES:
        raise ExtractorError(f"larger than {MAX_FILE_BYTES} bytes", path=path)
    reader = _Reader(path)
    top = reader.mapping(
        reader.document(text), required=("name", "patterns"), optional=("description", "match", "logsource", "cases")
    )
    extractor = Extractor(
        name=reader.text(top["name"]),
        programs=_programs(reader, top.get("match")),
        logsource=_logsource(reader, top.get("logsource")),
        patterns=_patterns(reader, top["patterns"]),
        cases=_cases(reader, top.get("cases")),
        path=path,
    )
    for pattern in extractor.patterns:
        try:
            _core.Extractors(plan([dataclasses.replace(extractor, patterns=(pattern,))]))
        except ExtractorError as error:
            raise ExtractorError(error.reason, path=path, line=pattern.line, field="pattern") from error
    return extractor


def _programs(reader: _Reader, node: yaml.Node | None) -> tuple[str, ...]:
    if node is None:
        return ()
    names = reader.mapping(node, required=("process.name",))["process.name"]
    return tuple(reader.text(name) for name in reader.sequence(names))


def _logsource(reader: _Reader, node: yaml.Node | None) -> dict[str, str]:
    if node is None:
        return {}
    return {part: reader.text(value) for part, value in reader.mapping(node, optional=_LOGSOURCE_PARTS).items()}


def _patterns(reader: _Reader, node: yaml.Node) -> tuple[Pattern, ...]:
    patterns: dict[str, Pattern] = {}
    for entry in reader.sequence(node):
        keys = reader.mapping(entry, required=("id", "pattern"), optional=("contains", "set"))
        identifier = reader.text(keys["id"])
        if identifier in patterns:
            raise reader.error(keys["id"], f"pattern id {identifier!r} occurs twice")
        constants = reader.mapping(keys["set"]) if "set" in keys else {}
        patterns[identifier] = Pattern(
            id=identifier,
            pattern=reader.text(keys["pattern"]),
            contains=reader.text(keys["contains"]) if "contains" in keys else "",
            set={name: reader.text(value) for name, value in constants.items()},
            line=entry.start_mark.line + 1,
        )
    if not patterns:
        raise reader.error(node, "an extractor needs at least one pattern")
    return tuple(patterns.values())


def _cases(reader: _Reader, node: yaml.Node | None) -> tuple[Case, ...]:
    if node is None:
        return ()
    cases = []
    for entry in reader.sequence(node):
        keys = reader.mapping(entry, required=("line", "expect"))
        expect = {
            name: None if value.tag == "tag:yaml.org,2002:null" else reader.text(value)
            for name, value in reader.mapping(keys["expect"]).items()
        }
        cases.append(Case(record=reader.text(keys["line"]), expect=expect, line=entry.start_mark.line + 1))
    return tuple(cases)


class _Reader:
    """Walks YAML nodes, so that every complaint has a line. Scalars are taken as they are written."""

    def __init__(self, path: str) -> None:
        self._path = path

    def error(self, node: yaml.Node, reason: str, *, field: str = "") -> ExtractorError:
        return ExtractorError(reason, path=self._path, line=node.start_mark.line + 1, field=field)

    def document(self, text: bytes) -> yaml.Node:
        try:
            # Refused before composing: aliases make a small file large, deep nesting makes it slow.
            depth = 0
            for event in yaml.parse(text, Loader=yaml.CSafeLoader):
                line = event.start_mark.line + 1 if event.start_mark else 0
                if isinstance(event, yaml.AliasEvent):
                    raise ExtractorError("YAML aliases are not used here; write it out", path=self._path, line=line)
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > _MAX_DEPTH:
                    raise ExtractorError(f"nested deeper than {_MAX_DEPTH}", path=self._path, line=line)
            node = yaml.compose(text, Loader=yaml.CSafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            raise ExtractorError(f"not YAML: {error.problem}", path=self._path, line=line) from error
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise ExtractorError(f"not YAML: {error}", path=self._path) from error
        if node is None:
            raise ExtractorError("the file is empty", path=self._path, line=1)
        return node

    def mapping(
        self, node: yaml.Node, *, required: Sequence[str] = (), optional: Sequence[str] = ()
    ) -> dict[str, yaml.Node]:
        """The entries of a mapping; with neither list any text key is allowed."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, "expected a mapping")
        entries: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self.text(key)
            if name in entries:
                raise self.error(key, "the key occurs twice", field=name)
            if (required or optional) and name not in (*required, *optional):
                raise self.error(key, f"unknown key; expected {', '.join((*required, *optional))}", field=name)
            entries[name] = value
        for name in required:
            if name not in entries:
                raise self.error(node, "the key is missing", field=name)
        return entries

    def sequence(self, node: yaml.Node) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, "expected a list")
        return list(node.value)

    def text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag.removeprefix("tag:yaml.org,2002:") not in _SCALAR_TAGS:
            raise self.error(node, "expected a text")
        return str(node.value)
