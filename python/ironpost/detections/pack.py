"""Compiled rules kept on disk, named by the content they were made from, so that a start reads no YAML.

A pack holds the plan the engine executes, what else is known of each rule, what was refused, and what nothing feeds.
Its name is a digest of everything the result depends on: the rule files, field maps, extractors, placeholder values and
the compiler itself. A pack is used only when nobody besides root and ourselves could have written it; one that is
damaged is as good as none and is written anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, overload

from ironpost import _core
from ironpost.detections.field_maps import FieldMap, FieldMapper
from ironpost.detections.lowering import RuleWarning
from ironpost.detections.sigma import Rule
from ironpost.errors import RuleError
from ironpost.ownership import setting_doubt

MIN_FILES = 32
"""Fewer rule files are compiled faster than anybody notices; no pack is made of them."""
MAX_PACKS = 8
"""Packs kept in a directory; the least recently used go first."""
MAX_PACK_BYTES = 256 * 1024 * 1024
"""A larger pack is not written, and not read."""
_SUFFIX = ".rules"
_MAGIC = b"ironpost rules 1\n"
_DIGEST_BYTES = 32
_LENGTHS = struct.Struct("<4Q")
#: Not kept: the plan stands elsewhere in the pack, and the mapper is made of it.
_NOT_KEPT = frozenset({"plan", "mapper"})


def user_cache(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Returns where the packs of this user are, ``$XDG_CACHE_HOME/ironpost/rules``, or None without a home."""
    explicit = environment.get("XDG_CACHE_HOME", "")
    if explicit.startswith("/"):
        return Path(explicit) / "ironpost" / "rules"
    home = environment.get("HOME", "")
    return Path(home) / ".cache" / "ironpost" / "rules" if home.startswith("/") else None


class Recipe:
    """The digest of everything compiled rules depend on."""

    def __init__(self, field_maps: Iterable[str | Path | FieldMap], placeholders: Mapping[str, Sequence[str]]) -> None:
        self._digest = hashlib.sha256(_compiler())
        for given in field_maps:
            if isinstance(given, FieldMap):
                self._add("map", repr(given).encode())
            else:
                for name, content in _contents(Path(given)):
                    self._add(f"map {name}", content)
        self._add("placeholders", json.dumps({name: list(placeholders[name]) for name in placeholders}).encode())

    def source(self, path: str, content: bytes | RuleError) -> None:
        """Adds a rule file, or why it is not read."""
        if isinstance(content, RuleError):
            self._add(f"refused {path}", f"{content.reason}\0{content.hint}".encode())
        else:
            self._add(path, content)

    def name(self) -> str:
        """The name of the pack for what was added so far."""
        return self._digest.hexdigest()

    def _add(self, name: str, content: bytes) -> None:
        # With lengths, so that no content can look like the next name.
        self._digest.update(b"%d %d\n" % (len(named := os.fsencode(name)), len(content)) + named)
        self._digest.update(content)


@cache
def _compiler() -> bytes:
    """What this compiler is: its sources, the data it reads, and the engine's binary."""
    digest = hashlib.sha256()
    package = Path(str(resources.files("ironpost")))
    for part in ("detections", "model", "data/field_maps", "data/logsources", "data/feeds", "data/extractors"):
        for name, content in _contents(package / part):
            digest.update(f"{name} {len(content)}\n".encode() + content)
    binary = Path(_core.__file__).stat()
    digest.update(f"{binary.st_size} {binary.st_mtime_ns}".encode())
    return digest.digest()


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    files = sorted(found for found in path.rglob("*") if found.suffix in {".py", ".yml"}) if path.is_dir() else [path]
    for file in files:
        with contextlib.suppress(OSError):  # whoever reads it in earnest says so
            yield str(file), file.read_bytes()


class PackedRules(Sequence[Rule]):
    """The rules of a pack; counted at once, made when one is looked at."""

    def __init__(self, count: int, plan: bytes, facts: bytes) -> None:
        self._count = count
        self._plan = plan
        self._facts = facts

    @cached_property
    def _made(self) -> tuple[Rule, ...]:
        plan = json.loads(self._plan)
        plans = {found["id"]: found for found in (*plan["rules"], *plan["correlations"])}
        mappers = [FieldMapper.from_plan(made) for made in plan["maps"]]
        return tuple(_rule(facts, plans[facts["id"]], mappers) for facts in json.loads(self._facts))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Rule: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Rule]: ...
    def __getitem__(self, index: int | slice) -> Rule | Sequence[Rule]:
        return self._made[index]

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._made)

    def __eq__(self, other: object) -> bool:
        return self._made == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._made)

    def __repr__(self) -> str:
        return f"PackedRules({self._count} rules)"


def _facts(rule: Rule) -> dict[str, Any]:
    """What of a rule is not in its plan, as JSON."""
    made: dict[str, Any] = {}
    for known in dataclasses.fields(rule):
        value = getattr(rule, known.name)
        if known.name in _NOT_KEPT or (known.default is not dataclasses.MISSING and value == known.default):
            continue
        made[known.name] = [dataclasses.asdict(warning) for warning in value] if known.name == "warnings" else value
    return made


def _rule(facts: Mapping[str, Any], plan: Mapping[str, Any], mappers: Sequence[FieldMapper]) -> Rule:
    made = dict(facts)
    made["tags"] = tuple(made.get("tags", ()))
    made["warnings"] = tuple(RuleWarning(**warning) for warning in made.get("warnings", ()))
    # The number of a map means something only in the plan of the whole set.
    own = {key: value for key, value in plan.items() if key != "map"}
    return Rule(**made, plan=own, mapper=mappers[plan["map"]] if "map" in plan else None)


@dataclasses.dataclass(frozen=True, slots=True)
class Pack:
    """Compiled rules as they are kept.

    Attributes:
        rules: The rules.
        plan: What the engine executes.
        refused: The refused rules.
        unfed: Gives the rules nothing feeds; read when asked for.
    """

    rules: Sequence[Rule]
    plan: bytes
    refused: list[dict[str, Any]]
    unfed: Callable[[], list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True, slots=True)
class PackDirectory:
    """Where packs are kept."""

    path: Path

    def read(self, name: str) -> Pack | str:
        """Returns the pack of a name, or why there is none to use."""
        file = self.path / (name + _SUFFIX)
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return "not there"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return "not a regular file"
        with os.fdopen(descriptor, "rb") as opened:
            if os.fstat(opened.fileno()).st_size > MAX_PACK_BYTES:
                return "too large"
            # Whoever could write it could choose what is detected.
            if doubt := setting_doubt(file):
                return f"not used, a stranger could change it: {doubt}"
            content = opened.read(MAX_PACK_BYTES)
        found = _unpacked(content)
        if found is None:
            return "damaged"
        with contextlib.suppress(OSError):
            os.utime(file)  # the least recently used goes first
        return found

    def write(self, name: str, rules: Sequence[Rule], plan: bytes, refused: Any, unfed: Any) -> str:
        """Keeps compiled rules; returns ``written``, or why they are not kept. Never a reason to fail."""
        facts = b"[" + b",".join(_json(_facts(rule)) for rule in rules) + b"]"
        parts = (struct.pack("<Q", len(rules)), plan, facts, _json(refused), _json(unfed))
        parts = (parts[0] + _LENGTHS.pack(*map(len, parts[1:])), *parts[1:])
        if sum(map(len, parts)) > MAX_PACK_BYTES:
            return "too large"
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if doubt := setting_doubt(self.path):
                return f"not written, a stranger could change it: {doubt}"
            descriptor, half = tempfile.mkstemp(dir=self.path, prefix=".", suffix=_SUFFIX)  # only we may read it
            try:
                with os.fdopen(descriptor, "wb") as opened:
                    opened.writelines((_MAGIC, digest.digest(), *parts))
                Path(half).replace(self.path / (name + _SUFFIX))
            except BaseException:
                Path(half).unlink(missing_ok=True)
                raise
            self._prune()
        except OSError as error:
            return f"not written: {error.strerror}"
        return "written"

    def _prune(self) -> None:
        """Keeps the packs last used, and no half-written ones of processes that died."""
        packs = []
        for found in self.path.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):  # another process may be pruning, too
                packs.append((found.stat().st_mtime_ns, found))
        for _, old in sorted(packs, reverse=True)[MAX_PACKS:]:
            old.unlink(missing_ok=True)


def _unpacked(content: bytes) -> Pack | None:
    start = len(_MAGIC) + _DIGEST_BYTES
    body = memoryview(content)[start:]
    if not content.startswith(_MAGIC) or hashlib.sha256(body).digest() != content[len(_MAGIC) : start]:
        return None
    # The digest says that these are the bytes we wrote; nothing below needs to be doubted.
    (count,) = struct.unpack_from("<Q", body)
    lengths = _LENGTHS.unpack_from(body, 8)
    pieces = []
    at = 8 + _LENGTHS.size
    for length in lengths:
        pieces.append(bytes(body[at : at + length]))
        at += length
    plan, facts, refused, unfed = pieces
    return Pack(PackedRules(count, plan, facts), plan, json.loads(refused), lambda: json.loads(unfed))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a rule holds {type(value).__name__}, which a pack cannot keep")
