"""Loads the configuration: defaults, then the file, then the environment, then flags; only the result is checked."""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ironpost.config.models import OPTIONAL_SECTIONS, WITHOUT_EFFECT, Configuration
from ironpost.config.positions import key_lines, line_of
from ironpost.config.values import lies_in_roots
from ironpost.errors import ConfigError, explain_toml
from ironpost.ownership import Doubt

#: Where the configuration is looked for when no file is named; the working directory is not: it may be anyone's.
DEFAULT_PATH = Path("/etc/ironpost/ironpost.toml")
#: A configuration is a page of text; anything larger is a mistake.
MAX_FILE_BYTES = 4 * 1024 * 1024
#: Variables of ours that are no configuration keys.
OTHER_VARIABLES = frozenset({"IRONPOST_CONFIG"})

_PREFIX = "IRONPOST_"
_STORAGE = ("log_pipeline", "storage")
#: What pydantic reports for a key that isn't one, or a value of the wrong type; checked even in disabled sections.
_STRUCTURAL = re.compile(r"extra_forbidden|missing|.*_type|.*_parsing")

Path_ = tuple[str, ...]


class ConfigInvalid(ConfigError):
    """A configuration with one or more mistakes.

    Attributes:
        problems: One error per mistake, in the order of the sections.
    """

    def __init__(self, problems: tuple[ConfigError, ...]) -> None:
        first = problems[0]
        super().__init__(first.reason, path=first.path, line=first.line, field=first.field, hint=first.hint)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked configuration and where it came from.

    Attributes:
        config: The merged, checked values.
        path: The file that was read, or None for embedded defaults.
        origins: Dotted key → the layer that set it (``file:line``, variable or flag); keys at their default are absent.
        notices: Sentences for the operator, for example a variable that looks like ours and is none.
    """

    config: Configuration
    path: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def is_default(self, dotted: str) -> bool:
        """Tells whether no layer set this key."""
        return dotted not in self.origins


def load(
    path: Path | None = None,
    *,
    environment: Mapping[str, str],
    flags: Mapping[str, tuple[str, Any]] | None = None,
    default_path: Path = DEFAULT_PATH,
    doubt: Callable[[Path], Doubt | None] | None = None,
) -> Loaded:
    """Merges the layers and checks the result.

    Args:
        path: A file named by the user, which must exist; None looks at ``default_path``, which need not.
        environment: Usually ``os.environ``.
        flags: Dotted key → (name of the flag, value).
        default_path: Where to look when no file is named.
        doubt: Says why a file may be a stranger's; such a file is refused. None trusts all.

    Returns:
        The configuration with the origin of each value.

    Raises:
        ConfigInvalid: With every mistake found.
        ConfigError: When the file can't be read or isn't TOML.
    """
    text = _read(path if path is not None else default_path, required=path is not None, doubt=doubt)
    used = None if text is None else (path if path is not None else default_path)
    values: dict[str, Any] = {} if text is None else _parse(text, str(used))
    lines = key_lines(text or "")
    origins: dict[Path_, str] = {}
    problems: list[ConfigError] = []
    _note_file_origins(values, (), lines, str(used), origins)
    notices = _apply_environment(values, environment, origins, problems)
    for dotted, (name, value) in (flags or {}).items():
        _put(values, tuple(dotted.split(".")), value)
        origins[tuple(dotted.split("."))] = f"flag {name}"

    place = _Place(path=str(used or ""), lines=lines, origins=origins)
    config, more = _check(values, place)
    problems += more
    if config is not None:
        problems += _check_watch_roots(config, place)
    if problems or config is None:
        raise ConfigInvalid(tuple(problems))
    notices += _without_effect(config, origins)
    return Loaded(
        config=config,
        path=used,
        origins={".".join(key): origin for key, origin in origins.items()},
        notices=tuple(notices),
    )


def environment_variables() -> dict[str, Path_]:
    """Returns every variable that sets a key, with the key's path.

    ``log_pipeline.storage`` is the one exception to ``IRONPOST_<SECTION>_<KEY>``: ``IRONPOST_STORAGE_<KEY>``.
    """
    return {_variable(path): path for path in _leaves(Configuration)}


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    lines: dict[Path_, int]
    origins: dict[Path_, str]

    def error(self, key: Path_, reason: str, hint: str = "") -> ConfigError:
        origin = self.origins.get(key, "")
        if origin.startswith(("environment", "flag")):
            return ConfigError(reason, path=origin, field=".".join(key), hint=hint)
        return ConfigError(reason, path=self.path, line=line_of(self.lines, key), field=".".join(key), hint=hint)


def _read(path: Path, *, required: bool, doubt: Callable[[Path], Doubt | None] | None) -> str | None:
    try:
        with path.open("rb") as file:
            if doubt is not None and (found := doubt(path)) is not None:
                raise ConfigError(
                    f"configuration file is not used, a stranger could change it: {found}",
                    path=str(path),
                    hint=found.remedy,
                )
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if not required:
            return None
        raise ConfigError(
            "configuration file not found",
            path=str(path),
            hint="check the path, or leave --config out to use the embedded defaults",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"configuration file can't be read: {error.strerror}",
            path=str(path),
            hint="give this user read permission, or name another file with --config",
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"configuration file is larger than {MAX_FILE_BYTES} bytes", path=str(path))
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"not UTF-8 text: byte 0x{data[error.start]:02x}", path=str(path), line=line, hint="save the file as UTF-8"
        ) from None


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line, reason = explain_toml(error, text)
        raise ConfigError(
            reason,
            path=path,
            line=line,
            hint="texts stand in quotes, lists in [ ], and a key stands once in its section",
        ) from None


def _note_file_origins(
    values: Mapping[str, Any], path: Path_, lines: dict[Path_, int], name: str, origins: dict[Path_, str]
) -> None:
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, dict):
            _note_file_origins(value, here, lines, name, origins)
        else:
            origins[here] = f"{name}:{line_of(lines, here)}"


def _apply_environment(
    values: dict[str, Any], environment: Mapping[str, str], origins: dict[Path_, str], problems: list[ConfigError]
) -> list[str]:
    known = environment_variables()
    notices: list[str] = []
    for name in sorted(environment):
        if not name.startswith(_PREFIX) or name in OTHER_VARIABLES:
            continue
        path = known.get(name)
        if path is None:
            # Without what all names share: it alone would make any two of them look alike.
            ours = [other.removeprefix(_PREFIX) for other in known]
            near = difflib.get_close_matches(name.removeprefix(_PREFIX), ours, n=1, cutoff=0.8)
            meant = f"; did you mean {_PREFIX}{near[0]}?" if near else ""
            notices.append(f"environment variable {name} is no setting of Ironpost{meant}")
            continue
        try:
            value = _read_variable(environment[name], _leaves(Configuration)[path])
        except ValueError as error:
            problems.append(ConfigError(str(error), path=f"environment {name}", field=".".join(path)))
            value = None
        if value is not None:
            _put(values, path, value)
        origins[path] = f"environment {name}"
    return notices


def _read_variable(text: str, kind: type) -> object:
    stripped = text.strip()
    if kind is bool:
        lowered = stripped.lower()
        if lowered in {"true", "1", "yes", "on"}:
            return True
        if lowered in {"false", "0", "no", "off"}:
            return False
        raise ValueError(f"must be true or false, got {text!r}")
    if kind is int:
        try:
            return int(stripped)
        except ValueError:
            raise ValueError(f"must be a whole number, got {text!r}") from None
    if kind is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _put(values: dict[str, Any], path: Path_, value: object) -> None:
    for part in path[:-1]:
        inner = values.get(part)
        if not isinstance(inner, dict):  # a section given as a plain value: the check names it by its type
            inner = {}
            values[part] = inner
        values = inner
    values[path[-1]] = value


def _check(values: dict[str, Any], place: _Place) -> tuple[Configuration | None, list[ConfigError]]:
    unchecked: dict[Path_, Any] = {}
    try:
        return Configuration.model_validate(values), []
    except ValidationError as error:
        problems = []
        for fault in error.errors(include_url=False):
            key = tuple(str(part) for part in fault["loc"] if isinstance(part, str))
            if _is_disabled(values, key) and not _STRUCTURAL.fullmatch(fault["type"]):
                unchecked[key] = None
                continue
            problems.append(_explain(key, dict(fault), place))
    if problems:
        return None, problems
    # Only faults in disabled sections: those values are kept as they stand, so that `config show` is honest.
    for key in unchecked:
        if len(key) > 1:
            unchecked[key] = _take(values, key)
        else:
            unchecked[key] = values.pop(key[0])
    config = Configuration.model_validate(values)
    for key, value in unchecked.items():
        config = _with(config, key, value)
    return config, []


def _without_effect(config: Configuration, origins: Mapping[Path_, str]) -> list[str]:
    """One sentence for each key that somebody set and that changes nothing."""
    notices = []
    for key, origin in origins.items():
        dotted = ".".join(key)
        instead = WITHOUT_EFFECT.get(dotted) or WITHOUT_EFFECT.get(key[0])
        is_off = key[-1] == "enabled" and getattr(getattr(config, key[0]), "enabled", None) is False
        if instead and not is_off:
            notices.append(f"{dotted} ({origin}) has no effect in this version: {instead}")
    return notices


def _check_watch_roots(config: Configuration, place: _Place) -> list[ConfigError]:
    pipeline = config.log_pipeline
    if not pipeline.enabled or "file" not in pipeline.sources:
        return []
    # Only what is written here is judged: where links lead is for the daemon to look at, for whoever may write beside a
    # log could otherwise put a link there and keep every command from starting.
    return [
        place.error(
            ("log_pipeline", "watch_paths"),
            f"{watched} lies outside {' and '.join(pipeline.watch_roots)}",
            "add its directory to log_pipeline.watch_roots",
        )
        for watched in pipeline.watch_paths
        if not lies_in_roots(watched, pipeline.watch_roots)
    ]


def _is_disabled(values: Mapping[str, Any], key: Path_) -> bool:
    if not key or key[0] not in OPTIONAL_SECTIONS:
        return False
    section = values.get(key[0])
    default = getattr(Configuration(), key[0]).enabled
    return isinstance(section, dict) and section.get("enabled", default) is False


def _take(values: dict[str, Any], key: Path_) -> object:
    for part in key[:-1]:
        values = values[part]
    return values.pop(key[-1], None)


def _with(model: Any, key: Path_, value: object) -> Any:
    if len(key) == 1:
        if isinstance(value, dict):
            return model.model_copy(update={key[0]: getattr(model, key[0]).model_copy(update=value)})
        return model.model_copy(update={key[0]: value})
    return model.model_copy(update={key[0]: _with(getattr(model, key[0]), key[1:], value)})


def _explain(key: Path_, fault: dict[str, Any], place: _Place) -> ConfigError:
    kind = str(fault["type"])
    context = fault.get("ctx", {})
    given = fault.get("input")
    if kind == "extra_forbidden":
        return _unknown_key(key, place)
    reasons = {
        "literal_error": f"must be one of {context.get('expected', '')}, got {given!r}",
        "greater_than_equal": f"must be at least {context.get('ge')}, got {given!r}",
        "less_than_equal": f"must be at most {context.get('le')}, got {given!r}",
        "too_short": "must not be empty",
        "string_too_short": "must not be empty",
        "string_type": f"must be a text in quotes, got {_toml_kind(given)}",
        "int_type": f"must be a whole number, got {_toml_kind(given)}",
        "bool_type": f"must be true or false, got {_toml_kind(given)}",
        "list_type": f"must be a list in [ ], got {_toml_kind(given)}",
        "model_type": f"must be a section, got {_toml_kind(given)}",
        "model_attributes_type": f"must be a section, got {_toml_kind(given)}",
        "value_error": str(context.get("error", fault["msg"])),
    }
    return place.error(key, reasons.get(kind, str(fault["msg"])))


def _unknown_key(key: Path_, place: _Place) -> ConfigError:
    *parents, name = key
    siblings = _names(Configuration, tuple(parents))
    what = "unknown key" if parents else "unknown section or key"
    near = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)
    if near:
        hint = f"did you mean {'.'.join([*parents, near[0]])}?"
    elif homes := [".".join(path) for path in _leaves(Configuration) if path[-1] == name]:
        hint = f"{name} belongs to {' or '.join(homes)}"
    else:
        hint = f"known here: {', '.join(siblings)}"
    return place.error(key, what, hint)


def _toml_kind(value: object) -> str:
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, dict):
        return "a section"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def _names(model: type[BaseModel], path: Path_) -> list[str]:
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _leaves(model: type[BaseModel], path: Path_ = ()) -> dict[Path_, type]:
    found: dict[Path_, type] = {}
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found |= _leaves(annotation, (*path, name))
        else:
            found[(*path, name)] = _plain_type(annotation)
    return found


def _plain_type(annotation: Any) -> type:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _plain_type(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return type(typing.get_args(annotation)[0])
    if origin in {list, types.UnionType, typing.Union}:
        return list
    return annotation if isinstance(annotation, type) else str


def _variable(path: Path_) -> str:
    short = ("storage", *path[2:]) if path[:2] == _STORAGE else path
    return _PREFIX + "_".join(short).upper()
