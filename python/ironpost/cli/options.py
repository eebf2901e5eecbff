"""Options that many commands share, and the configuration they lead to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ironpost.config import Loaded
    from ironpost.ownership import Doubt
    from ironpost.pipeline.client import ControlClient

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="IRONPOST_CONFIG",
        help="Configuration file; without it /etc/ironpost/ironpost.toml, else the embedded defaults.",
        show_default=False,
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where the daemon keeps its state, as told to start.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DirectoriesArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="[PATH…]", help="Files or directories; without one, those in use.")
]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most this many, newest first.")]


def load_configuration(
    path: Path | None,
    flags: dict[str, tuple[str, Any]] | None = None,
    *,
    doubt: Callable[[Path], Doubt | None] | None = None,
) -> Loaded:
    """Loads the configuration of a command; options that weren't given (None) are left out."""
    from ironpost.config import load

    given = {key: (name, value) for key, (name, value) in (flags or {}).items() if value is not None}
    return load(path, environment=os.environ, flags=given, doubt=doubt)


def load_for_client(path: Path | None, data_dir: Path | None) -> Loaded:
    """Loads the configuration that leads to a running daemon's socket and store."""
    directory = str(data_dir.absolute()) if data_dir else None
    return load_configuration(path, {"general.data_dir": ("--data-dir", directory)})


def client(path: Path | None, data_dir: Path | None = None, *, timeout_seconds: float = 15.0) -> ControlClient:
    """Connects to the daemon of this configuration."""
    from ironpost.config import client_sockets
    from ironpost.pipeline.client import ControlClient

    sockets = client_sockets(load_for_client(path, data_dir), environment=os.environ)
    return ControlClient(sockets, timeout_seconds=timeout_seconds)
