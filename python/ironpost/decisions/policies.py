"""Policies: TOML files that say which alert leads to which act. One bad file never stops the others."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ironpost.errors import PolicyError, explain_toml
from ironpost.model import TRUST_LEVELS, Mode, Severity, Verb, parse_duration
from ironpost.ownership import Doubt

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_POLICIES = 1000
DEFAULT_TRUST = ("host", "container")
#: A container may write any address into its own log: only a policy that says so bans on its word.
DEFAULT_TRUST_ON_ADDRESSES = ("host",)

_VERBS = {
    "Ban": Verb.BAN,
    "Pause": Verb.PAUSE,
    "Stop": Verb.STOP,
    "Kill": Verb.KILL,
    "NetworkDisconnect": Verb.DISCONNECT,
}
_TOP_KEYS = (
    "id", "name", "description", "enabled", "severity_threshold", "priority", "mode", "duration",
    "max_targets_per_hour", "match", "target_filter", "action",
)  # fmt: skip
_MATCH_KEYS = ("rules", "tags", "entity", "trust", "count")
_FILTER_KEYS = ("container_names", "image_patterns", "labels", "all")


@dataclass(frozen=True, slots=True)
class TargetFilter:
    """Which containers a policy may act on: lists are ANDed, patterns in a list are ORed, an empty list fits all."""

    container_names: tuple[str, ...] = ()
    image_patterns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    everything: bool = False

    @property
    def is_empty(self) -> bool:
        """Says whether no list names anything."""
        return not (self.container_names or self.image_patterns or self.labels)


@dataclass(frozen=True, slots=True)
class Policy:
    """From alert to decision.

    Attributes:
        severity_threshold: Alerts below it are none of its business.
        priority: Smaller first; per target kind (address, container) the first policy that fits decides.
        duration_ns: How long the act lasts; ``None`` takes ``response.default_duration``.
        max_targets_per_hour: Cap on distinct targets, so that a storm of alerts can't take everything down.
        rules: Patterns of rule ids; empty fits all. The same for ``tags`` and ``entity`` (kinds).
        trust: Trust levels of the deciding record that it acts on.
        count: Least count of the alert.
    """

    id: str
    name: str
    verb: Verb
    path: str = ""
    description: str = ""
    enabled: bool = True
    severity_threshold: Severity = Severity.INFO
    priority: int = 100
    mode: Mode = Mode.OBSERVE
    duration_ns: int | None = None
    max_targets_per_hour: int = 0
    rules: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    entity: tuple[str, ...] = ()
    trust: tuple[str, ...] = DEFAULT_TRUST
    count: int = 1
    target_filter: TargetFilter = field(default_factory=TargetFilter)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the policy for lists."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "enabled": self.enabled,
            "mode": str(self.mode),
            "verb": str(self.verb),
            "severity_threshold": str(self.severity_threshold),
            "priority": self.priority,
            "max_targets_per_hour": self.max_targets_per_hour,
            "path": self.path,
        }


@dataclass(frozen=True, slots=True)
class PolicySet:
    """What a directory gave.

    Attributes:
        policies: Usable ones, by priority, then id.
        refused: One error per file or policy that is not used, with place and remedy.
    """

    policies: tuple[Policy, ...] = ()
    refused: tuple[PolicyError, ...] = ()


def load_policies(*directories: Path, doubt: Callable[[Path], Doubt | None] | None = None) -> PolicySet:
    """Loads all ``*.toml`` files of the directories.

    A policy of a later directory replaces one with the same id of an earlier one: so an operator's file overrides a
    shipped one. Within one directory the second of two is refused.

    Args:
        directories: Where to look.
        doubt: Says why a file may be a stranger's; such a file is refused. None trusts all.
    """
    chosen: dict[str, Policy] = {}
    refused: list[PolicyError] = []
    for directory in directories:
        here: dict[str, Policy] = {}
        try:
            paths = sorted(path for path in directory.iterdir() if path.suffix == ".toml")
        except OSError as error:
            refused.append(
                PolicyError(
                    f"cannot be listed ({error.strerror})",
                    path=str(directory),
                    hint="make the directory, or set container.policy_path",
                )
            )
            continue
        for path in paths:
            try:
                if doubt is not None and (found := doubt(path)) is not None:
                    reason = f"not used, a stranger could change it: {found}"
                    raise PolicyError(reason, path=str(path), hint=found.remedy)  # noqa: TRY301 - kept like any other
                policy = _load_file(path, directory)
            except PolicyError as error:
                refused.append(error)
                continue
            reason, hint = "", ""
            if policy.id in here:
                reason, hint = f"{policy.id!r} is the id of {here[policy.id].path}, too", "give it another id"
            elif len(chosen) + len(here) >= MAX_POLICIES:
                reason, hint = f"more than {MAX_POLICIES} policies", "remove some"
            if reason:
                refused.append(PolicyError(reason, path=str(path), field="id", hint=hint))
            else:
                here[policy.id] = policy
        chosen |= here
    ordered = sorted(chosen.values(), key=lambda policy: (policy.priority, policy.id))
    return PolicySet(tuple(ordered), tuple(refused))


def _load_file(path: Path, directory: Path) -> Policy:
    if not path.resolve().is_relative_to(directory.resolve()):
        raise PolicyError(
            f"is a link to {path.resolve()}, outside the directory", path=str(path), hint="copy the file in instead"
        )
    try:
        # Without waiting for a writer: a named pipe in the directory must not stop the start.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PolicyError("is no regular file", path=str(path), hint="remove it from the directory")
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"cannot be read ({error.strerror})", path=str(path), hint="check its permissions") from error
    if len(raw) > MAX_FILE_BYTES:
        raise PolicyError(f"is larger than {MAX_FILE_BYTES} bytes", path=str(path), hint="one policy per file")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PolicyError("is not UTF-8", path=str(path), line=line, hint="save it as UTF-8") from error
    return parse_policy(text, path=str(path))


def parse_policy(text: str, *, path: str = "") -> Policy:
    """Reads one policy.

    Raises:
        PolicyError: With path, line where known, key and remedy.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line, reason = explain_toml(error, text)
        hint = "texts stand in quotes, lists in [ ], and a key stands once in its section"
        raise PolicyError(reason, path=path, line=line, hint=hint) from error
    return _Reader(text, path).policy(document)


class _Reader:
    """Reads one document; keeps text and path so that every refusal has its place."""

    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path

    def policy(self, document: Mapping[str, Any]) -> Policy:
        self._known("", document, _TOP_KEYS)
        match = self._table(document, "match")
        self._known("match", match, _MATCH_KEYS)
        verb, parameters = self._action(document)
        target_filter = self._target_filter(document, verb)
        identifier = self._text_of("id", document.get("id"))
        if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,256}", identifier):
            raise self._refuse("id", f"{identifier!r} is no id", "use 1 to 256 letters, digits, and _ . : -")
        cap = self._number(
            "max_targets_per_hour", document.get("max_targets_per_hour", 5 if verb.is_on_container else 100), 1
        )
        default_trust = DEFAULT_TRUST if verb.is_on_container else DEFAULT_TRUST_ON_ADDRESSES
        trust = self._texts("match.trust", match.get("trust", list(default_trust)))
        for word in trust:
            if word not in TRUST_LEVELS:
                raise self._refuse("match.trust", f"{word!r} is no trust level", _nearest(word, TRUST_LEVELS))
        return Policy(
            id=identifier,
            name=self._text_of("name", document.get("name")),
            description=self._text_of("description", document.get("description", ""), empty=True),
            verb=verb,
            path=self._path,
            enabled=self._bool("enabled", document.get("enabled", True)),
            severity_threshold=self._severity(document.get("severity_threshold", "info")),
            priority=self._number("priority", document.get("priority", 100), 0),
            mode=self._mode(document.get("mode", "observe")),
            duration_ns=self._duration(document.get("duration")),
            max_targets_per_hour=cap,
            rules=self._texts("match.rules", match.get("rules", [])),
            tags=self._texts("match.tags", match.get("tags", [])),
            entity=self._texts("match.entity", match.get("entity", [])),
            trust=trust,
            count=self._number("match.count", match.get("count", 1), 1),
            target_filter=target_filter,
            parameters=parameters,
        )

    def _action(self, document: Mapping[str, Any]) -> tuple[Verb, dict[str, Any]]:
        action = self._table(document, "action")
        if len(action) != 1:
            raise self._refuse(
                "action", "must name exactly one act", f"one of {', '.join(_VERBS)}, for example Pause = []"
            )
        word, value = next(iter(action.items()))
        verb = _VERBS.get(word)
        if verb is None:
            raise self._refuse(
                f"action.{word}", f"{word!r} is no act this version can carry out", _nearest(word, _VERBS)
            )
        if verb is not Verb.DISCONNECT:
            if value not in ([], {}):
                raise self._refuse(f"action.{word}", "takes no settings", f"write {word} = []")
            return verb, {}
        networks = value.get("networks") if isinstance(value, dict) else None
        if networks is None or set(value) != {"networks"}:
            raise self._refuse(
                f"action.{word}", "needs networks", f'write {word} = {{ networks = ["*"] }} for all of them'
            )
        names = self._texts(f"action.{word}.networks", networks)
        if not names:
            raise self._refuse(f"action.{word}.networks", "is empty", 'name networks, or write ["*"] for all of them')
        return verb, {"networks": list(names)}

    def _target_filter(self, document: Mapping[str, Any], verb: Verb) -> TargetFilter:
        table = self._table(document, "target_filter")
        self._known("target_filter", table, _FILTER_KEYS)
        found = TargetFilter(
            container_names=self._texts("target_filter.container_names", table.get("container_names", [])),
            image_patterns=self._texts("target_filter.image_patterns", table.get("image_patterns", [])),
            labels=self._texts("target_filter.labels", table.get("labels", [])),
            everything=self._bool("target_filter.all", table.get("all", False)),
        )
        if found.everything and not found.is_empty:
            raise self._refuse("target_filter.all", "stands beside lists that narrow it", "remove one or the other")
        if verb.is_on_container and found.is_empty and not found.everything:
            raise self._refuse(
                "target_filter",
                "names no container, which would mean every container",
                "name container_names, image_patterns or labels, or write all = true",
            )
        return found

    def _known(self, table: str, value: Mapping[str, Any], known: Iterable[str]) -> None:
        for key in value:
            if key not in known:
                name = f"{table}.{key}" if table else key
                raise self._refuse(name, "unknown key", _nearest(key, known))

    def _table(self, document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = document.get(key, {})
        if not isinstance(value, dict):
            raise self._refuse(key, "must be a table", f"write [{key}]")
        return value

    def _text_of(self, key: str, value: object, *, empty: bool = False) -> str:
        if not isinstance(value, str) or not (empty or value.strip()):
            raise self._refuse(
                key, "is missing" if value is None else "must be a text, not empty", f'write {key} = "…"'
            )
        return value

    def _texts(self, key: str, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self._refuse(key, "must be a list of texts", 'for example ["web-*"]')
        return tuple(value)

    def _bool(self, key: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise self._refuse(key, f"{value!r} is neither true nor false", "write true or false without quotes")
        return value

    def _number(self, key: str, value: object, least: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._refuse(key, f"{value!r} is no whole number from {least}", "write digits without quotes")
        return value

    def _severity(self, value: object) -> Severity:
        try:
            return Severity.parse(value if isinstance(value, str) else repr(value))
        except ValueError as error:
            raise self._refuse("severity_threshold", str(error), "any case will do") from error

    def _mode(self, value: object) -> Mode:
        try:
            return Mode(value if isinstance(value, str) else repr(value))
        except ValueError as error:
            raise self._refuse("mode", f"{value!r} is no mode", "one of observe, ask, enforce") from error

    def _duration(self, value: object) -> int | None:
        if value is None:
            return None
        try:
            return parse_duration(value if isinstance(value, str) else repr(value))
        except ValueError as error:
            raise self._refuse("duration", str(error), "quote it, and use s, m, h, d or w") from error

    def _refuse(self, key: str, reason: str, hint: str) -> PolicyError:
        return PolicyError(reason, path=self._path, line=self._line_of(key), field=key, hint=hint)

    def _line_of(self, key: str) -> int:
        """Finds the line a dotted key stands on; 0 when it can't be told."""
        *tables, last = key.split(".")
        section = ""
        for number, line in enumerate(self._text.splitlines(), 1):
            header = re.match(r"\s*\[([^\[\]]+)\]", line)
            if header:
                section = header.group(1).strip()
                if section == key:
                    return number
                continue
            wanted = [(".".join(tables), last)]
            if tables and section == "":
                wanted.append(("", key.split(".", maxsplit=1)[0]))
            if len(tables) > 1:
                wanted.append((tables[0], tables[1]))
            if any(section == place and re.match(rf'\s*"?{re.escape(name)}"?\s*[=.]', line) for place, name in wanted):
                return number
        return 0


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"did you mean {by_lower[near[0]]!r}?" if near else f"known are {', '.join(names)}"
