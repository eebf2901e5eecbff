"""Sets of rules: loaded, explained, compiled, run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ironpost import _core
from ironpost.detections.correlations import Linker
from ironpost.detections.documents import (
    Document,
    check_readable,
    documents_in,
    parse_documents,
    python_rule_files,
    read_content,
    rule_files,
    section_document,
    with_actions,
)
from ironpost.detections.field_maps import PARTS, FieldMap, FieldMaps, load_maps, shipped_maps
from ironpost.detections.judging import InProcess, Judges, Runner, WorkerProcess
from ironpost.detections.log_sources import shipped_tables
from ironpost.detections.pack import MIN_FILES, Pack, PackDirectory, Recipe, user_cache
from ironpost.detections.short_form import is_short_form, lower_short_form
from ironpost.detections.sigma import Compiler, Filter, PlanText, Rule
from ironpost.detections.supply import Judgement, Supply, judge_rules
from ironpost.detections.values import MissingPlaceholderError
from ironpost.errors import RuleError
from ironpost.model import Detection
from ironpost.model.python_rule import PythonRule
from ironpost.ownership import Doubt, setting_doubt

MAX_FILTER_BYTES = 16 << 20
"""What filters may add to all rules together, as plan text: each rule has a copy. About 75 values in 3,700 rules."""
MAX_RULES = 10_000
"""Further rules are refused."""
_encode = json.JSONEncoder(separators=(",", ":")).encode
_CHUNK_BYTES = 1 << 20
_CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class RefusedRule:
    """A rule, or file, that is not in use."""

    path: str
    line: int
    reason: str
    rule_id: str = ""
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns path, line and reason, and the rule's id and a hint where known."""
        made: dict[str, Any] = {"path": self.path, "line": self.line, "reason": self.reason}
        if self.rule_id:
            made["id"] = self.rule_id
        if self.hint:
            made["hint"] = self.hint
        return made


@dataclass(frozen=True, slots=True)
class UnfedRule:
    """A rule in use that nothing on this host can make fire."""

    rule_id: str
    path: str
    line: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Returns id, path, line and reason."""
        return {"id": self.rule_id, "path": self.path, "line": self.line, "reason": self.reason}


Events: TypeAlias = Iterable[Mapping[str, Any]] | bytes | str | Path | _core.EventBatch
"""Mappings, newline-separated JSON as bytes, the path of such a file, or a batch made by ``ironpost.parse``."""


@dataclass(frozen=True)
class RuleSet:
    """Rules ready to run.

    Attributes:
        rules: Rules and correlations in use.
        refused: What could not be used, with path, line and reason; it never stops the others.
        supply: What ``unfed`` judges by.
        judges: The Python rules among them, and how they fare.
        pack: What became of the compiled pack: ``used``, or why not and whether it was written; empty without one.
    """

    rules: Sequence[Rule]
    refused: tuple[RefusedRule, ...] = ()
    supply: Supply | None = None
    pack: str = ""
    judges: Judges = field(default_factory=Judges, compare=False)
    _kept_unfed: Callable[[], list[dict[str, Any]]] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(
        cls,
        *paths: str | Path,
        field_maps: Iterable[str | Path | FieldMap] = (),
        placeholders: Mapping[str, Sequence[str]] | None = None,
        doubt: Callable[[Path], Doubt | None] | None = None,
        cache: Path | Literal["user"] | None = "user",
        python_rules: Iterable[PythonRule] = (),
        python_files: bool = False,
    ) -> RuleSet:
        """Loads rules from files and directories (searched for ``.yml`` and ``.yaml``).

        Args:
            paths: Files and directories.
            field_maps: Maps besides the shipped ones, as objects or as paths; they have precedence.
            placeholders: Values for ``%name%`` in values with the ``expand`` modifier, besides those of documents with
                a ``placeholders`` key in the rule files.
            doubt: Says why a file may be a stranger's; such a file is refused. None trusts all.
            cache: The directory of compiled packs; ``user`` is ``ironpost/rules`` in the user's cache directory, None
                compiles every time. Sets of fewer than 32 files, or with Python rules, are not kept. The answers are
                the same with and without; ``pack`` says what became of it.
            python_rules: Functions made rules by ``@ironpost.rule``. They run where the rules are used.
            python_files: Also run the ``.py`` files of directories, in processes of their own. Without it only a file
                that is named itself is run; and none that somebody else could change.

        Raises:
            RuleError: When a named path doesn't exist or can't be read, or a field map can't be used. Rules that can't
                are listed in ``refused``.
        """
        files: list[Path] = []
        python = _PythonSources(tuple(python_rules))
        for path in map(Path, paths):
            check_readable(path)
            if path.suffix == ".py" and not path.is_dir():
                python.files.append((path, True))
            else:
                files += rule_files(path)
                python.files += [(found, python_files) for found in python_rule_files(path)]
        doubts = [doubt(file) if doubt else None for file in files]
        given, values = _own_maps(field_maps, doubt), placeholders or {}
        directory = user_cache() if cache == "user" else cache
        if directory is None or len(files) < MIN_FILES or python:
            return _compiled(files, doubts, given, values, None, python=python)
        packs = PackDirectory(directory)
        recipe = Recipe(given, values)
        for file, found in zip(files, doubts, strict=True):
            recipe.source(str(file), _content(file, found))
        kept = packs.read(recipe.name())
        if isinstance(kept, Pack):
            return cls._from_pack(kept)
        # What is compiled names the pack: a file may have changed since it was read above.
        recipe = Recipe(given, values)
        rules = _compiled(files, doubts, given, values, recipe)
        refused = [found.to_json() for found in rules.refused]
        unfed = [found.to_json() for found in rules.unfed]
        written = packs.write(recipe.name(), rules.rules, rules.plan, refused, unfed)
        made = replace(rules, pack=f"{kept}; {written}")
        vars(made).update(plan=rules.plan, native=rules.native)  # what is known already is not worked out again
        return made

    @classmethod
    def _from_pack(cls, kept: Pack) -> RuleSet:
        refused = tuple(RefusedRule(rule_id=found.pop("id", ""), **found) for found in kept.refused)
        made = cls(kept.rules, refused, pack="used", _kept_unfed=kept.unfed)
        vars(made)["plan"] = kept.plan
        return made

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        path: str = "",
        field_maps: Iterable[str | Path | FieldMap] = (),
        placeholders: Mapping[str, Sequence[str]] | None = None,
        python_rules: Iterable[PythonRule] = (),
    ) -> RuleSet:
        """Like :meth:`load` for YAML text at hand."""
        loader = _Loader(_maps(field_maps), placeholders or {})
        loader.take(parse_documents(text, path))
        loader.take_python(_PythonSources(tuple(python_rules)))
        return loader.finish()

    @cached_property
    def plan(self) -> bytes:
        """The compiled plan the engine executes: JSON, version 1."""
        written: dict[str, list[bytes]] = {"rule": [], "correlation": []}
        maps: dict[str, int] = {}
        known: dict[int, int] = {}
        for rule in self.rules:  # one by one: the encoder's pieces of a whole set take ten times the memory of the text
            text = (rule.plan if isinstance(rule.plan, PlanText) else PlanText(rule.plan)).text
            if rule.mapper is not None and rule.kind == "rule" and (rule.mapper.fields or rule.mapper.forms):
                if id(rule.mapper) not in known:
                    known[id(rule.mapper)] = maps.setdefault(_encode(rule.mapper.plan()), len(maps))
                text = b'%s,"map":%d}' % (text[:-1], known[id(rule.mapper)])
            written[rule.kind].append(text)
        parts = {
            "rules": written["rule"],
            "correlations": written["correlation"],
            "maps": [made.encode() for made in maps],
            "derive": [_encode(table).encode() for table in shipped_tables()],
        }
        lists = (
            piece for name, items in parts.items() for piece in (b',"%s":[' % name.encode(), *_listed(items), b"]")
        )
        return b"".join([b'{"version":1', *lists, b"}"])

    @cached_property
    def native(self) -> _core.RuleSet:
        """The engine's form of the rules."""
        return _core.RuleSet(self.plan)

    @cached_property
    def unfed(self) -> tuple[UnfedRule, ...]:
        """Rules whose fields or log source nothing on this host supplies, with the reason."""
        if self._kept_unfed is not None and self.supply is None:
            return tuple(UnfedRule(rule_id=found.pop("id"), **found) for found in self._kept_unfed())
        return tuple(
            UnfedRule(rule.id, rule.path, rule.line, self.feeding[rule.id].reason)
            for rule in self.rules
            if not self.feeding[rule.id].fed_by
        )

    @cached_property
    def feeding(self) -> Mapping[str, Judgement]:
        """Per rule id, which of this host's sources can make it fire, or why none can and what would."""
        return judge_rules(self.rules, self.supply or Supply.shipped())

    def rule(self, rule_id: str) -> Rule:
        """Returns a rule by id.

        Raises:
            KeyError: When there is none.
        """
        return self._by_id[rule_id]

    @cached_property
    def _by_id(self) -> dict[str, Rule]:
        return {rule.id: rule for rule in self.rules}

    def detect(self, events: Events, *, logsource: Mapping[str, str] | None = None) -> Iterator[Detection]:
        """Runs the rules over events in their order and yields what they find.

        Args:
            events: Mappings, newline-separated JSON as bytes, the path of such a file, or a batch made by
                ``ironpost.parse``.
            logsource: Product, category and service of all events. Without it each event is judged by what it says
                itself, and one that says nothing is shown to every rule.

        Raises:
            OSError: When the file can't be read.
            ValueError: For an unknown key in ``logsource``.
        """
        known = dict(logsource or {})
        for part in known:
            if part not in PARTS:
                raise ValueError(f"logsource has no {part!r}; it has {', '.join(PARTS)}")
        session = self.native.session((known.get("product"), known.get("category"), known.get("service")))
        if not self.judges.runners:
            if isinstance(events, _core.EventBatch):
                yield from map(Detection.unread, session.detect_batch(events))
            else:
                for chunk in _chunks(events):
                    yield from map(Detection.unread, session.detect(chunk))
            return
        if isinstance(events, _core.EventBatch):
            pieces: Iterable[bytes] = (session.feed_batch(events),)
        else:
            pieces = map(session.feed, _chunks(events))
        for piece in pieces:
            for found in self.judges(json.loads(piece)):
                if found["timestamp"] is None:
                    found["timestamp"] = 0
                yield Detection.from_json(found)


@dataclass(slots=True)
class _PythonSources:
    """Python rules to be taken: functions at hand, and files with whether they may be run."""

    rules: tuple[PythonRule, ...] = ()
    files: list[tuple[Path, bool]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.rules or self.files)


def _content(file: Path, doubt: Doubt | None) -> bytes | RuleError:
    return read_content(file) if doubt is None else _not_ours(file, doubt)


def _compiled(
    files: Iterable[Path],
    doubts: Iterable[Doubt | None],
    field_maps: Iterable[str | Path | FieldMap],
    placeholders: Mapping[str, Sequence[str]],
    recipe: Recipe | None,
    *,
    python: _PythonSources | None = None,
) -> RuleSet:
    loader = _Loader(_maps(field_maps), placeholders)
    for file, doubt in zip(files, doubts, strict=True):
        content = _content(file, doubt)
        if recipe:
            recipe.source(str(file), content)
        loader.take(documents_in(content, str(file)))
    if python:
        loader.take_python(python)
    return loader.finish()


def _listed(items: Iterable[bytes]) -> Iterator[bytes]:
    for index, item in enumerate(items):
        yield b"," if index else b""
        yield item


def _own_maps(
    given: Iterable[str | Path | FieldMap], doubt: Callable[[Path], Doubt | None] | None = None
) -> list[FieldMap]:
    own: list[FieldMap] = []
    for item in given:
        own += [item] if isinstance(item, FieldMap) else load_maps([Path(item)], doubt=doubt)
    return own


def _maps(given: Iterable[str | Path | FieldMap]) -> FieldMaps:
    return FieldMaps([*_own_maps(given), *shipped_maps()])


def _plan_bytes(rule: Rule) -> int:
    return len((rule.plan if isinstance(rule.plan, PlanText) else PlanText(rule.plan)).text)


def _not_ours(file: Path, doubt: Doubt) -> RuleError:
    return RuleError(f"not used, a stranger could change it: {doubt}", path=str(file), hint=doubt.remedy)


def _chunks(events: Any) -> Iterator[bytes]:
    """Pieces of newline-separated JSON that end at a line's end."""
    if isinstance(events, (str, Path)):
        with Path(events).open("rb") as file:
            rest = b""
            while piece := file.read(_CHUNK_BYTES):
                rest += piece
                whole, found, rest = rest.rpartition(b"\n")
                if found:
                    yield whole + found
            if rest:
                yield rest
    elif isinstance(events, (bytes, bytearray, memoryview)):
        content = bytes(events)
        start = 0
        while start < len(content):
            end = content.find(b"\n", min(start + _CHUNK_BYTES, len(content)))
            end = len(content) if end < 0 else end + 1
            yield content[start:end]
            start = end
    else:
        lines: list[str] = []
        size = 0
        for event in events:
            lines.append(json.dumps(event, ensure_ascii=False, separators=(",", ":"), default=str))
            size += len(lines[-1])
            if len(lines) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
                yield ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
                lines, size = [], 0
        if lines:
            yield ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


class _Loader:
    """Collects documents, then resolves what refers to other documents."""

    def __init__(self, maps: FieldMaps, placeholders: Mapping[str, Sequence[str]]) -> None:
        self._check = _core.check_regex
        self._placeholders = dict(placeholders)
        self._compiler = Compiler(maps, self._placeholders, self._check)
        self._unexpanded: list[Document] = []
        self._rules: list[Rule] = []
        self._refused: list[RefusedRule] = []
        self._correlations: list[Document] = []
        self._filters: list[Filter] = []
        self._places: dict[str, Rule] = {}
        self._unusable: dict[str, RuleError] = {}
        self._finishing = False
        self._runners: dict[str, Runner] = {}

    def take_python(self, python: _PythonSources) -> None:
        """Takes the functions, and imports the files in processes of their own."""
        at_hand = {rule.id: rule for rule in python.rules}
        for rule in python.rules:
            self._take_python_rule(rule, InProcess(at_hand))
        for file, allowed in python.files:
            try:
                self._take_python_file(file, allowed=allowed)
            except RuleError as error:
                self._refuse(error, "")

    def _take_python_file(self, file: Path, *, allowed: bool) -> None:
        if not allowed:
            raise RuleError("Python files are not run from here", path=str(file), hint="name the file itself to run it")
        doubt = setting_doubt(file)
        if doubt is not None:
            raise _not_ours(file, doubt)
        worker = WorkerProcess(file)
        rules = worker.rules()
        if not rules:
            worker.close()
            raise RuleError("has no rules", path=str(file), hint="make one with @ironpost.rule(…)")
        for rule in rules:
            self._take_python_rule(rule, worker)

    def _take_python_rule(self, rule: PythonRule, runner: Runner) -> None:
        try:
            made = self._compiler.rule(section_document(rule.document(), rule.path, rule.line))
            self._add(replace(made, python=True, plan={**made.plan, "event": True}))
        except RuleError as error:
            self._refuse(error, rule.id)
        else:
            self._runners[rule.id] = runner

    def take(self, documents: Iterable[Document | RuleError]) -> None:
        for document in with_actions(documents):
            if isinstance(document, RuleError):
                self._refuse(document, "")
                continue
            try:
                self._take_one(document)
            except MissingPlaceholderError as error:
                if self._finishing:
                    self._refuse(error, str(document.data.get("id") or document.data.get("name") or ""), document)
                else:
                    self._unexpanded.append(document)  # another file may still give the values
            except RuleError as error:
                data = document.data
                self._refuse(error, str(data.get("id") or data.get("name") or ""), document)

    def _take_one(self, document: Document) -> None:
        data = document.data
        if "placeholders" in data:
            self._compiler.take_placeholders(document, self._placeholders)
        elif "correlation" in data:
            self._correlations.append(document)
        elif "filter" in data:
            self._filters.append(self._compiler.filter(document))
        elif is_short_form(data):
            rules, enabled = lower_short_form(document, self._check)
            if enabled:
                for rule in rules:
                    self._add(rule)
        else:
            self._add(self._compiler.rule(document))

    def finish(self) -> RuleSet:
        self._finishing = True
        self.take(self._unexpanded)
        self._apply_filters()
        self._resolve_correlations()
        judges = Judges.of(self._runners.items())
        rules = RuleSet(tuple(self._rules), tuple(self._refused), judges=judges)
        try:
            _ = rules.native
        except RuleError:
            # The engine is the last judge. What it refuses alone is taken out; the others stay.
            self._rules = [rule for rule in self._rules if rule.kind != "rule" or self._is_executable(rule)]
            usable = {rule.id: rule for rule in self._rules if rule.kind == "rule"}
            for rule in self._rules:  # correlations stand behind those they build on
                if rule.kind == "correlation" and self._is_executable(rule, usable):
                    usable[rule.id] = rule
            self._rules = list(usable.values())
            return self._together(judges)
        return rules

    def _together(self, judges: Judges) -> RuleSet:
        """What is usable alone may be too much for the others: the rule the engine names is taken out, and so again."""
        while True:
            rules = RuleSet(tuple(self._rules), tuple(self._refused), judges=judges)
            try:
                _ = rules.native
            except RuleError as error:
                named = [
                    rule
                    for rule in self._rules
                    if error.reason.startswith((f"rule {rule.id}: ", f"correlation {rule.id}: "))
                ]
                if not named:
                    raise
                for rule in named:
                    self._rules.remove(rule)
                    self._refused.append(RefusedRule(rule.path, rule.line, error.reason, rule.id))
            else:
                return rules

    def _is_executable(self, rule: Rule, usable: Mapping[str, Rule] | None = None) -> bool:
        try:
            _ = RuleSet(tuple(self._with_inner(rule, usable or {}))).native
        except RuleError as error:
            self._refused.append(RefusedRule(rule.path, rule.line, error.reason, rule.id))
            return False
        return True

    @staticmethod
    def _with_inner(rule: Rule, usable: Mapping[str, Rule]) -> list[Rule]:
        """The rule and everything it builds on."""
        found = {rule.id: rule}
        waiting = [rule]
        while waiting:
            for name in waiting.pop().plan.get("rules", ()):
                if name in usable and name not in found:
                    found[name] = usable[name]
                    waiting.append(usable[name])
        return list(found.values())

    def _add(self, rule: Rule) -> None:
        before = self._places.get(rule.id)
        if before is not None:
            reason = f"id {rule.id!r} is already used at {before.path}:{before.line}"
            raise RuleError(reason, path=rule.path, line=rule.line, field="id")
        if len(self._rules) >= MAX_RULES:
            raise RuleError(f"more than {MAX_RULES:,} rules", path=rule.path, line=rule.line)
        rule = replace(rule, plan=PlanText(rule.plan))
        self._places[rule.id] = rule
        self._rules.append(rule)

    def _refuse(self, error: RuleError, rule_id: str, document: Document | None = None) -> None:
        for key in ("id", "name") if document else ():
            self._unusable.setdefault(str(document.data.get(key) or "") if document else "", error)
        reason = f"{error.field}: {error.reason}" if error.field else error.reason
        line = error.line or (document.line if document else 0)
        self._refused.append(RefusedRule(error.path, line, reason, rule_id, error.hint))

    def _apply_filters(self) -> None:
        room = MAX_FILTER_BYTES
        for added in self._filters:
            used = False
            made: dict[int, Rule] = {}
            for index, rule in enumerate(self._rules):
                named = added.rules is None or rule.id in added.rules or rule.name in added.rules
                contained = all(rule.logsource.get(part) == word for part, word in added.logsource.items())
                if rule.kind == "rule" and rule.mapper is not None and named and contained:
                    used = True
                    filtered = self._compiler.filtered(rule, added)
                    plan = PlanText(filtered.plan)
                    made[index] = replace(filtered, plan=plan)
                    room -= len(plan.text) - _plan_bytes(rule)
                    if room < 0:
                        break
            if room < 0:
                reason = (
                    f"with its copies in {len(made):,} rules and more, filters take more than "
                    f"{MAX_FILTER_BYTES >> 20} MiB"
                )
                hint = "name fewer rules, or say the values as a pattern"
                self._refused.append(RefusedRule(added.path, added.line, reason, added.id, hint))
                room += sum(_plan_bytes(each) - _plan_bytes(self._rules[index]) for index, each in made.items())
                continue
            for index, each in made.items():
                self._rules[index] = each
            if not used and added.rules is not None:
                reason = f"filter fits no rule; it names {', '.join(added.rules)}"
                self._refused.append(RefusedRule(added.path, added.line, reason, added.id))

    def _resolve_correlations(self) -> None:
        refused = {name: error for name, error in self._unusable.items() if name not in self._places}
        linked = Linker(self._compiler, self._rules, refused).link(self._correlations)
        for document, error in linked.refused:
            self._refuse(error, str(document.data.get("id") or document.data.get("name") or ""), document)
        for document, made in linked.made:
            try:
                self._add(made)
            except RuleError as error:
                self._refuse(error, made.id, document)
        for index, rule in enumerate(self._rules):
            if rule.id in linked.silent and rule.emit and not rule.always_emit:
                self._rules[index] = replace(rule, emit=False, plan={**rule.plan, "emit": False})
