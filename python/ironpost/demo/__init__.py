"""``ironpost demo``: the whole path on real parts, in namespaces of its own, looked at from outside.

Real ``sshd`` and ``ssh``, real packets, a real container engine; no network and no service outside the machine.
A claim counts only when it was observed without the daemon: by probes from the clients' namespaces and by the
container engine's own answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from ironpost.demo import daemon, docker_lab, kills, lab, preflight, steps
from ironpost.demo.timeline import Report
from ironpost.errors import IronpostError

__all__ = ["run"]

EXIT_SUCCESS = 0
EXIT_FAILURE = 1
EXIT_CANNOT_RUN = 2
SCRATCH_PREFIX = "ironpost-demo-"
#: A Unix socket's path has 107 characters; the longest of ours needs 60 of them.
LONGEST_PLACE = 40


def run(
    *,
    as_json: bool = False,
    quiet: bool = False,
    skip_container: bool = False,
    kill_daemon_times: int = 0,
    seed: int | None = None,
    keep: Path | None = None,
) -> int:
    """Runs the demonstration and prints its report on standard output, progress on standard error.

    Args:
        as_json: Print one JSON object instead of text.
        quiet: No progress.
        skip_container: Leave out the container step, for hosts without Docker; the report says so.
        kill_daemon_times: Instead of the scenario, kill the daemon this many times at random moments of attacks and
            count alerts afterwards.
        seed: Makes the random moments repeatable.
        keep: Copies logs, configuration and the daemon's data here before they are removed.

    Returns:
        0 when every claim was observed, 1 when one was not, 2 when this host can't run it.
    """
    report = Report(quiet=quiet)
    with _search_path():
        lacking = preflight.missing(with_containers=not skip_container)
        if lacking:
            sys.stderr.write(preflight.explain(lacking) + "\n")
            return EXIT_CANNOT_RUN
        for name in (*lab.remove_leftovers(), *_remove_old_scratch()):
            report.say(f"removed {name}, left by an earlier run that was killed")
    with _search_path(), _scratch(keep) as directory, _signals_unwind():
        try:
            if skip_container:
                report.leave_out("step c, containers (--skip-container)")
            if kill_daemon_times:
                kills.play(directory, report, times=kill_daemon_times, seed=seed, with_containers=not skip_container)
            else:
                with steps.set_stage(
                    directory, report, ban_duration=f"{steps.BAN_SECONDS}s", with_containers=not skip_container
                ) as stage:
                    steps.play(stage)
                    report.expect("all", "the daemon ends when asked", stage.daemon.stop() == 0)
                    report.say("taking everything down")
        except (IronpostError, OSError, subprocess.SubprocessError) as error:
            report.expect("all", "the demonstration ran to its end", holds=False, observed=str(error))
            if hint := getattr(error, "hint", ""):
                report.say(f"hint: {hint}")
        except KeyboardInterrupt:
            report.expect("all", "the demonstration ran to its end", holds=False, observed="interrupted")
    if not report.holds and keep is None:
        report.say("hint: --keep DIRECTORY keeps the logs, the configuration and the daemon's data of a run")
    sys.stdout.write((json.dumps(report.to_json(), indent=2) if as_json else report.to_text()) + "\n")
    return EXIT_SUCCESS if report.holds else EXIT_FAILURE


@contextlib.contextmanager
def _scratch(keep: Path | None) -> Iterator[Path]:
    """A directory of this run's own, removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-", dir=_places()[0]))
    try:
        yield directory
    finally:
        if keep is not None:
            shutil.copytree(
                directory,
                keep,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("engine", "bpf", "enclosure", "log", "*.sock"),
            )
        shutil.rmtree(directory, ignore_errors=True)


def _places() -> list[Path]:
    """Where a run's directory may be: programs must be executable below it, and socket paths stay short."""
    candidates = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/var/lib")]  # noqa: S108 - mkdtemp goes below it
    hidden = ("/dev", "/run")  # sshd and the engine have their own
    usable = [
        place
        for place in (candidate.resolve() for candidate in candidates if candidate.is_dir())
        if len(str(place)) <= LONGEST_PLACE
        and not any(place.is_relative_to(top) for top in hidden)
        and not os.statvfs(place).f_flag & os.ST_NOEXEC
    ]
    return usable or candidates[-1:]


@contextlib.contextmanager
def _search_path() -> Iterator[None]:
    """The directories of system programs, which a plain environment leaves out, for us and what we start."""
    before = os.environ.get("PATH")
    os.environ["PATH"] = preflight.SEARCH_PATH
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def _remove_old_scratch() -> list[str]:
    """Removes the directories, mounts and control groups of runs whose process is gone."""
    removed = []
    for directory in (found for place in _places() for found in place.glob(f"{SCRATCH_PREFIX}*")):
        name = re.fullmatch(rf"{SCRATCH_PREFIX}(\d+)-\w+", directory.name)
        if name is None or Path("/proc", name[1]).exists() or directory.is_symlink() or directory.stat().st_uid != 0:
            continue
        if (directory / "bpf").is_mount():
            daemon.unmount(directory / "bpf")
        docker_lab.remove_control_groups(int(name[1]))
        shutil.rmtree(directory, ignore_errors=True)
        removed.append(str(directory))
    return removed


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: everything made is removed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        # A second signal must not break the removal off.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
