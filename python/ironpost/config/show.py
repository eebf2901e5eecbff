"""Shows a configuration: as TOML, as plain data, and as the commented example file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from ironpost.config.load import DEFAULT_PATH, environment_variables
from ironpost.config.models import Configuration
from ironpost.config.values import mask_secrets

_HEADER = f"""\
# Ironpost configuration. Every key is shown with its default; a file with only the keys you change is enough.
#
# Looked for at: --config FILE, else the variable IRONPOST_CONFIG, else {DEFAULT_PATH}; without any of these the
# defaults below apply. Each key can be set by the environment variable named behind it (lists: separated by
# commas), which wins over this file; command-line options win over both. Unknown keys are errors.
# Check a file with: ironpost config validate --config FILE
"""


def to_plain(config: Configuration, *, section: str = "") -> dict[str, Any]:
    """Returns the configuration as plain data, passwords masked.

    Args:
        config: What to show.
        section: Only this section; empty for all.

    Returns:
        Section → key → value.
    """
    data = config.model_dump(mode="json")
    masked: dict[str, Any] = _mask(data)
    return {section: masked[section]} if section else masked


def to_toml(config: Configuration, *, section: str = "") -> str:
    """Returns the configuration as TOML text, passwords masked."""
    return "\n".join(_tables(to_plain(config, section=section), ())) + "\n"


def example() -> str:
    """Returns the text of ``ironpost.toml.example``."""
    variables = {path: name for name, path in environment_variables().items()}
    return _HEADER + "\n".join(_documented(Configuration, Configuration(), (), variables)) + "\n"


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mask(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_mask(inner) for inner in value]
    return mask_secrets(value) if isinstance(value, str) else value


def _tables(values: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    if path and plain:
        yield f"[{'.'.join(path)}]"
    for key, value in plain.items():
        yield f"{key} = {_toml_value(value)}"
    if plain:
        yield ""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _tables(value, (*path, key))


def _documented(
    model: type[BaseModel], values: BaseModel, path: tuple[str, ...], variables: dict[tuple[str, ...], str]
) -> Iterator[str]:
    inner: list[tuple[str, type[BaseModel]]] = []
    if path:
        yield ""
        yield f"# {(model.__doc__ or '').strip()}"
        yield f"[{'.'.join(path)}]"
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            inner.append((name, annotation))
            continue
        yield f"# {(info.description or '').strip()} [{variables[(*path, name)]}]"
        yield f"{name} = {_toml_value(getattr(values, name))}"
    for name, nested in inner:
        yield from _documented(nested, getattr(values, name), (*path, name), variables)


def _toml_value(value: Any) -> str:
    # JSON's texts, numbers, truth values and flat lists of them are TOML's too; DEL is the one exception.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
