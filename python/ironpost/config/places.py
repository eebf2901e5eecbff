"""Where this configuration lives on this host: directories with their fall-backs, decided once and said aloud."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ironpost.config.load import Loaded
from ironpost.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Places:
    """Paths that are in use.

    Attributes:
        data_dir: State: the store, the control socket.
        pid_file: None when none is written.
        control_socket: The Unix socket of the command line.
        rule_dirs: Directories with Sigma rules.
        field_map_dirs: Directories with field maps besides the shipped ones.
        extractor_dirs: Directories with extractors besides the shipped ones.
        policy_dirs: Directories with policies.
        notices: One sentence per fall-back that was taken.
    """

    data_dir: Path
    pid_file: Path | None
    control_socket: Path
    rule_dirs: tuple[Path, ...]
    policy_dirs: tuple[Path, ...]
    field_map_dirs: tuple[Path, ...] = ()
    extractor_dirs: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()


def packaged(name: str) -> Path:
    """Returns a directory of data that comes with Ironpost: ``rules``, ``policies`` or ``extractors``."""
    return Path(str(files("ironpost") / "data" / name))


def decide_places(loaded: Loaded, *, environment: Mapping[str, str]) -> Places:
    """Decides every path of the configuration; creates nothing.

    Args:
        loaded: The configuration, with what is at its default.
        environment: For ``XDG_STATE_HOME``.

    Returns:
        The paths, with a notice for each fall-back.

    Raises:
        ConfigError: When a directory that was set explicitly doesn't exist.
    """
    general = loaded.config.general
    notices: list[str] = []
    data_dir = Path(general.data_dir)
    if loaded.is_default("general.data_dir") and not _can_write(data_dir):
        fallback = _user_state(environment)
        notices.append(f"{data_dir} is not writable for this user, state is kept in {fallback}")
        data_dir = fallback
    pid_file = Path(general.pid_file) if general.pid_file else None
    if pid_file is not None and loaded.is_default("general.pid_file"):
        # Without this, a second daemon with its own data_dir could not run beside the first.
        own_data = not loaded.is_default("general.data_dir")
        if own_data or not _can_write(pid_file.parent):
            pid_file = data_dir / "ironpost.pid"
    return Places(
        data_dir=data_dir,
        pid_file=pid_file,
        control_socket=Path(general.control_socket or data_dir / "control.sock"),
        rule_dirs=(_directory(loaded, "log_pipeline.rule_dir", "rules"),),
        field_map_dirs=_own(loaded, "log_pipeline.field_map_dir", "field_maps"),
        extractor_dirs=_own(loaded, "log_pipeline.extractor_dir", "extractors"),
        policy_dirs=(_directory(loaded, "container.policy_path", "policies"),),
        notices=tuple(notices),
    )


def client_data_dirs(loaded: Loaded, *, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Returns where a command may find the daemon's state, best first.

    A user whose own state lies elsewhere still means the daemon of the host when there is one.
    """
    chosen = Path(loaded.config.general.data_dir)
    if not loaded.is_default("general.data_dir"):
        return (chosen,)
    own = _user_state(environment)
    return (chosen, own) if _can_write(chosen) else (own, chosen)


def client_sockets(loaded: Loaded, *, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Returns where a command may find the daemon's control socket, best first."""
    explicit = loaded.config.general.control_socket
    if explicit:
        return (Path(explicit),)
    return tuple(directory / "control.sock" for directory in client_data_dirs(loaded, environment=environment))


def make_private_directory(path: Path) -> None:
    """Creates a directory (and its parents) for this user alone; refuses one that belongs to somebody else.

    Args:
        path: The directory; it may exist.

    Raises:
        ConfigError: When it can't be made, is a link, or belongs to another user.
    """
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        facts = path.lstat()
    except OSError as error:
        raise ConfigError(
            f"directory can't be used: {error.strerror}",
            path=str(path),
            field="general.data_dir",
            hint="choose a writable one with --data-dir",
        ) from error
    if _is_shared_parent(path.parent) and (stat.S_ISLNK(facts.st_mode) or facts.st_uid != os.geteuid()):
        raise ConfigError(
            "directory belongs to another user",
            path=str(path),
            field="general.data_dir",
            hint="choose another one with --data-dir",
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(
            "directory is not writable for this user",
            path=str(path),
            field="general.data_dir",
            hint="run as its owner, or choose another one with --data-dir",
        )


def _directory(loaded: Loaded, key: str, name: str) -> Path:
    section, _, field = key.partition(".")
    chosen = Path(getattr(getattr(loaded.config, section), field))
    if os.path.isdir(chosen):  # noqa: PTH112 - the method raises where a parent may not be searched
        return chosen
    if loaded.is_default(key):
        return packaged(name)
    raise ConfigError(
        "directory not found" if not os.path.lexists(chosen) else "not a readable directory",
        path=str(chosen),
        field=key,
        hint=f"create it, or leave {key} out to use the {name} that come with Ironpost",
    )


def _own(loaded: Loaded, key: str, name: str) -> tuple[Path, ...]:
    """A directory of the operator's whose shipped counterpart applies beside it, so a missing default is none."""
    chosen = _directory(loaded, key, name)
    return () if chosen == packaged(name) else (chosen,)


def _user_state(environment: Mapping[str, str]) -> Path:
    explicit = environment.get("XDG_STATE_HOME", "")
    if explicit.startswith("/"):
        return Path(explicit) / "ironpost"
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            home = "/nonexistent"
    state = Path(home) / ".local/state/ironpost"
    if _can_write(state):
        return state
    return Path(tempfile.gettempdir()) / f"ironpost-{os.geteuid()}"


def _can_write(path: Path) -> bool:
    while not os.path.exists(path):  # noqa: PTH110 - the method raises where a parent may not be searched
        if path == path.parent:
            return False
        path = path.parent
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)  # noqa: PTH112 - as above


def _is_shared_parent(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False
