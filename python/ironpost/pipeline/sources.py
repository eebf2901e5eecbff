"""Which logs are read: the configuration and this host's files turned into the engine's settings."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ironpost.config import Loaded, lies_in_roots
from ironpost.model import Detection
from ironpost.ownership import Doubt, log_doubt

#: Bytes an event takes in the engine's queues, on average: turns a number of events into a number of bytes.
_BYTES_PER_EVENT = 4800
_JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
_JOURNALCTL = "/usr/bin/journalctl"
#: Files that hold what the journal holds too, when a syslog daemon writes them.
_LOGIN_FILES = ("/var/log/auth.log", "/var/log/secure")
#: Beyond so many doubted files the whole pattern is doubted.
_MOST_DOUBTED = 100
#: Names of files whose lines are read as one format, whatever they look like.
_FORMATS = {"audit.log*": "auditd"}
_DOCKER_ROOT = Path("/var/lib/docker/containers")

_TRUST_HOST = {"ironpost.trust": "host"}
_TRUST_CONTAINER = {"ironpost.trust": "container"}
#: Of files, too, that others than the host can write: their lines ban nobody by default.
_TRUST_NETWORK = {"ironpost.trust": "unauthenticated"}


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """A source that can't be read, or not yet."""

    source: str
    reason: str
    remedy: str


@dataclass(slots=True)
class SourcePlan:
    """What the engine shall read.

    Attributes:
        settings: The engine's settings document, without the filter's part.
        watching: What is followed, for people: paths and ``the journal``.
        listening: ``udp:…`` and ``tcp:…`` addresses, ``unix:…`` paths.
        problems: What was asked for and can't be read now.
        doubted: Files that are read and not trusted: others than the host can write them.
        notices: Choices worth a sentence.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    watching: list[str] = field(default_factory=list)
    listening: list[str] = field(default_factory=list)
    problems: list[SourceProblem] = field(default_factory=list)
    doubted: list[SourceProblem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What :func:`plan_sources` asks about the host; tests bring their own."""

    exists: Callable[[str], bool] = os.path.exists
    readable: Callable[[str], bool] = lambda path: os.access(path, os.R_OK)
    modified_ns: Callable[[str], int] = lambda path: os.stat(path).st_mtime_ns  # noqa: PTH116 - takes text
    doubt: Callable[[str], Doubt | None] = log_doubt
    boot_wall_ns: int = 0
    journal: bool = field(default_factory=lambda: _JOURNAL_SOCKET.exists() and shutil.which(_JOURNALCTL) is not None)
    docker_root: Path = _DOCKER_ROOT


def plan_sources(loaded: Loaded, *, facts: HostFacts, packets: bool) -> SourcePlan:
    """Decides what is read.

    With the default paths, a host whose login file is written by a syslog daemon is not also read through its
    journal: the same lines would count twice.

    Args:
        loaded: The configuration, with what is at its default.
        facts: What exists on this host.
        packets: Whether the filter's events are read too.

    Returns:
        The plan; an empty list of files is no error.
    """
    config = loaded.config.log_pipeline
    plan = SourcePlan()
    sources: set[str] = set(config.sources) if config.enabled else set()
    files: list[dict[str, Any]] = []
    if "file" in sources:
        files += _plan_files(loaded, facts, plan)
    if "docker" in sources:
        files += _plan_docker(facts, plan)
    journal = "journal" in sources and _plan_journal(loaded, facts, plan, sources)
    plan.settings = {
        "workers": config.workers,
        "timezone": config.timezone,
        "queue_bytes": max(1 << 20, config.buffer_capacity * _BYTES_PER_EVENT),
        "files": files,
        "udp": [],
        "tcp": [],
        "unix": [],
        "journal": journal,
        "packets": packets,
    }
    if sources & {"syslog", "syslog_udp"}:
        plan.settings["udp"].append({"bind": config.syslog_bind, "facts": _TRUST_NETWORK})
        plan.listening.append(f"udp:{config.syslog_bind}")
    if sources & {"syslog", "syslog_tcp"}:
        plan.settings["tcp"].append(
            {
                "bind": config.syslog_tcp_bind,
                "max_connections": config.syslog_tcp_max_connections,
                "max_connections_per_peer": config.syslog_tcp_max_connections_per_peer,
                "idle_secs": config.syslog_tcp_idle_secs,
                "max_message": config.syslog_tcp_max_message_bytes,
                "facts": _TRUST_NETWORK,
            }
        )
        plan.listening.append(f"tcp:{config.syslog_tcp_bind}")
    if "syslog_unix" in sources:
        mode = int(config.syslog_unix_mode, 8)
        plan.settings["unix"].append({"path": config.syslog_unix_path, "mode": mode, "facts": _TRUST_NETWORK})
        plan.listening.append(f"unix:{config.syslog_unix_path}")
    return plan


def doubted_now(plan: SourcePlan) -> list[SourceProblem]:
    """Returns the files that are not trusted: those of the start, and those that strangers can write since then."""
    found = {problem.source: problem for problem in plan.doubted}
    for entry in plan.settings["files"]:
        if entry["facts"] is not _TRUST_HOST:
            continue
        path = entry.get("path") or entry["glob"]
        for name in (path, *(sorted(glob.glob(path)) if "glob" in entry else ())):  # noqa: PTH207 - takes text
            if (doubt := log_doubt(name)) is not None:
                problem = _doubted(name, doubt, afterwards="")
                found.setdefault(problem.source, problem)
    return list(found.values())


def believed(detection: Detection) -> Detection:
    """Returns a detection as trusted as the file of its deciding line is now.

    A file can become a stranger's while it is followed, for example by a rotation: then its lines decide nothing more.
    """
    kind, _, path = detection.source.partition(":")
    if kind != "file" or detection.trust != "host" or log_doubt(path) is None:
        return detection
    return replace(detection, trust=_TRUST_NETWORK["ironpost.trust"])


def _plan_files(loaded: Loaded, facts: HostFacts, plan: SourcePlan) -> list[dict[str, Any]]:
    by_default = loaded.is_default("log_pipeline.watch_paths")
    files: list[dict[str, Any]] = []
    roots = [os.path.realpath(root) for root in loaded.config.log_pipeline.watch_roots]
    for path in loaded.config.log_pipeline.watch_paths:
        # The last part is the reader's: it opens no link, also one that is put there later.
        directory = os.path.realpath(os.path.dirname(path))  # noqa: PTH120 - takes text
        if not lies_in_roots(directory, roots):
            plan.problems.append(
                SourceProblem(
                    f"directory of {path}",
                    f"{path} leads to {directory}, outside log_pipeline.watch_roots, and is not read",
                    f"add {directory} to log_pipeline.watch_roots and start again",
                )
            )
            continue
        is_pattern = any(character in path for character in "*?[")
        if is_pattern:
            files += _plan_pattern(path, facts, plan)
            plan.watching.append(path)
            continue
        if not facts.exists(path):
            if by_default:
                continue
            plan.problems.append(
                SourceProblem(f"file:{path}", f"{path} does not exist yet", "it is read as soon as it appears")
            )
        elif not facts.readable(path):
            plan.problems.append(
                SourceProblem(
                    f"file:{path}",
                    f"{path} is not readable for this user",
                    "run as root, or join its group (often adm)",
                )
            )
        else:
            plan.watching.append(path)
        files.append({"path": path, "facts": _trust(path, facts, plan), **_format(path)})
    return files


def _plan_pattern(pattern: str, facts: HostFacts, plan: SourcePlan) -> list[dict[str, Any]]:
    """One stranger's file takes nothing from its neighbours: it gets an entry of its own, before the pattern's."""
    if (doubt := facts.doubt(pattern)) is not None:
        plan.doubted.append(_doubted(pattern, doubt))
        return [{"glob": pattern, "facts": _TRUST_NETWORK, **_format(pattern)}]
    entries: list[dict[str, Any]] = []
    for path in sorted(glob.glob(pattern)):  # noqa: PTH207 - takes text
        if (doubt := facts.doubt(path)) is None:
            continue
        plan.doubted.append(_doubted(path, doubt))
        if len(entries) == _MOST_DOUBTED or glob.has_magic(path):
            return [{"glob": pattern, "facts": _TRUST_NETWORK, **_format(pattern)}]
        entries.append({"glob": path, "facts": _TRUST_NETWORK, **_format(path)})
    return [*entries, {"glob": pattern, "facts": _TRUST_HOST, **_format(pattern)}]


def _format(path: str) -> dict[str, str]:
    name = os.path.basename(path)  # noqa: PTH119 - takes text
    return next(({"format": form} for shape, form in _FORMATS.items() if fnmatch(name, shape)), {})


def _trust(path: str, facts: HostFacts, plan: SourcePlan) -> dict[str, str]:
    doubt = facts.doubt(path)
    if doubt is None:
        return _TRUST_HOST
    plan.doubted.append(_doubted(path, doubt))
    return _TRUST_NETWORK


def _doubted(path: str, doubt: Doubt, *, afterwards: str = ", and start again") -> SourceProblem:
    where = "it" if doubt.path == path else doubt.path
    return SourceProblem(
        f"trust of {path}",
        f"{path} bans nobody by default: {where} {doubt.reason}, so others than the host could write its lines",
        f"{doubt.remedy}{afterwards}",
    )


def _plan_journal(loaded: Loaded, facts: HostFacts, plan: SourcePlan, sources: set[str]) -> bool:
    by_default = loaded.is_default("log_pipeline.sources")
    if not facts.journal:
        if not by_default:
            plan.problems.append(
                SourceProblem("journal", "this host has no systemd journal", "take journal out of log_pipeline.sources")
            )
        return False
    if by_default and "file" in sources:
        for path in _LOGIN_FILES:
            if path in plan.watching and facts.modified_ns(path) >= facts.boot_wall_ns:
                plan.notices.append(
                    f"the journal is not read: {path} carries the same lines "
                    "(set log_pipeline.sources explicitly to read both)"
                )
                return False
    plan.watching.append("the systemd journal")
    return True


def _plan_docker(facts: HostFacts, plan: SourcePlan) -> list[dict[str, Any]]:
    root = str(facts.docker_root)
    if not facts.exists(root):
        plan.problems.append(
            SourceProblem(
                "docker", f"{root} does not exist", "start the Docker engine, or take docker out of the sources"
            )
        )
    elif not facts.readable(root):
        plan.problems.append(
            SourceProblem("docker", f"{root} is not readable for this user", "run as root to read container logs")
        )
    else:
        plan.watching.append("container logs of the Docker engine")
    return [{"glob": f"{root}/*/*-json.log", "format": "docker", "facts": _TRUST_CONTAINER}]
