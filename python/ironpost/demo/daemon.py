"""The daemon under demonstration: its configuration, its process, and its command line as an operator uses it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironpost.demo import probe
from ironpost.demo.lab import WATCHED_INTERFACE, Lab, LabError, Namespace, run_command

START_SECONDS = 20
STOP_SECONDS = 10
COMMAND_SECONDS = 20

BAN_POLICY = """\
id = "demo-ban"
name = "Ban who attacks"
description = "Short bans, so that one can watch them end."
enabled = true
severity_threshold = "low"
priority = 10
mode = "enforce"
duration = "{ban}"
max_targets_per_hour = 1000

[match]
rules = ["ssh_brute_force", "port_scan"]
# A port scan is known from packets alone, and a packet's sender can be forged: naming it here is a choice.
trust = ["host", "spoofable"]

[action]
Ban = []
"""

PAUSE_POLICY = """\
id = "demo-pause"
name = "Pause a web container that is being injected"
description = "Only the demonstration's own containers."
enabled = true
severity_threshold = "low"
priority = 20
mode = "enforce"
duration = "10m"
max_targets_per_hour = 1000

[match]
rules = ["sql_injection"]
trust = ["host", "container"]

[target_filter]
container_names = ["shop-*"]

[action]
Pause = []
"""


@contextlib.contextmanager
def pin_file_system(directory: Path) -> Iterator[Path]:
    """A bpf file system of this run's own: its pins are not the host's, and go when it is unmounted."""
    directory.mkdir()
    run_command(["mount", "-t", "bpf", "ironpost-demo", str(directory)])
    try:
        yield directory
    finally:
        unmount(directory)


def unmount(directory: Path) -> None:
    """Unmounts a pin file system: the filter pinned there goes with it."""
    run_command(["umount", "--lazy", str(directory)])


@dataclass(frozen=True, slots=True)
class Settings:
    """What one run tells the daemon.

    Attributes:
        directory: Configuration, policies and data go below it.
        auth_log: The log file of sshd.
        pin_directory: Where the filter keeps its maps and link.
        ban_duration: For example ``8s``.
        docker_socket: Of the private engine, or ``None`` without containers.
        allow: Addresses never to act on.
    """

    directory: Path
    auth_log: Path
    pin_directory: Path
    ban_duration: str
    docker_socket: Path | None
    allow: tuple[str, ...]

    @property
    def file(self) -> Path:
        """The configuration file."""
        return self.directory / "ironpost.toml"

    @property
    def database(self) -> Path:
        """The daemon's store."""
        return self.directory / "data" / "ironpost.db"

    def write(self) -> None:
        """Writes the configuration and the policies."""
        policies = self.directory / "policies"
        policies.mkdir(exist_ok=True)
        (policies / "demo-ban.toml").write_text(BAN_POLICY.format(ban=self.ban_duration))
        (policies / "demo-pause.toml").write_text(PAUSE_POLICY)
        sources = ["file"] if self.docker_socket is None else ["file", "docker"]
        tables: Mapping[str, Mapping[str, object]] = {
            "general": {
                "mode": "enforce",
                "data_dir": str(self.directory / "data"),
                "pid_file": str(self.directory / "ironpost.pid"),
                "log_format": "json",
            },
            "ebpf": {
                "enabled": True,
                "interface": WATCHED_INTERFACE,
                "xdp_mode": "native",
                "pin_dir": str(self.pin_directory),
            },
            "log_pipeline": {
                "enabled": True,
                "sources": sources,
                "watch_paths": [str(self.auth_log)],
                "watch_roots": [str(self.directory)],
            },
            "container": {
                "enabled": self.docker_socket is not None,
                "docker_socket": str(self.docker_socket or "/nonexistent/docker.sock"),
                "policy_path": str(policies),
                "auto_isolate": True,
            },
            "response": {"allowlist": list(self.allow)},
        }
        # A JSON string is a TOML basic string, and the same holds for our numbers, truth values and lists of strings.
        lines = []
        for name, table in tables.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        self.file.write_text("\n".join(lines) + "\n")


@dataclass(frozen=True, slots=True)
class Told:
    """What ``ironpost`` says it has."""

    alerts: list[dict[str, Any]]
    decisions: list[dict[str, Any]]

    def alerts_by_entity(self, rule_id: str) -> dict[str, list[dict[str, Any]]]:
        """The alerts of one rule by what they are about."""
        grouped: dict[str, list[dict[str, Any]]] = {}
        for alert in self.alerts:
            if alert["rule_id"] == rule_id:
                grouped.setdefault(alert["entity"]["value"], []).append(alert)
        return grouped

    def decisions_on(self, *targets: object) -> list[dict[str, Any]]:
        """The decisions on some targets."""
        wanted = {str(target) for target in targets}
        return [decision for decision in self.decisions if decision["target"] in wanted]


class Daemon:
    """A daemon in the lab's host namespace. It can be killed and started again on the same data."""

    def __init__(self, host: Namespace, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._output = settings.directory / "daemon.output"
        # What the caller's environment says about Ironpost is about the caller's own daemon.
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("IRONPOST_")}

    def command(self, *arguments: str) -> list[str]:
        """The command line of an ``ironpost`` command for this daemon, as run in the lab's host namespace."""
        return self._host.command(sys.executable, "-m", "ironpost", *arguments, "--config", str(self._settings.file))

    def launch(self) -> None:
        """Starts it and does not wait."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command("start"),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def start(self) -> None:
        """Starts it and waits until it answers.

        Raises:
            LabError: It ended, or does not answer in time.
        """
        self.launch()
        ready = probe.wait_until(lambda: not self.runs() or self._answers(), START_SECONDS, interval_seconds=0.05)
        if not self.runs():
            raise LabError(f"the daemon ended while starting: {self.last_words()}")
        if not ready:
            raise LabError(f"the daemon does not answer: {self.last_words()}")

    def runs(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        try:
            return bool(self.ask("status").get("daemon_running"))
        except LabError:
            return False

    def last_words(self) -> str:
        """The end of what it printed."""
        lines = self._output.read_text(errors="replace").strip().splitlines() if self._output.exists() else []
        return " / ".join(lines[-5:]) or "it says nothing"

    def kill(self) -> None:
        """Kills it as nothing can prepare for (SIGKILL), and waits until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """Asks it to end (SIGTERM); returns its exit code, or -9 when it had to be killed."""
        if self._process is None:
            return 0
        if self.runs():
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def ask(self, *arguments: str) -> Any:
        """Runs an ``ironpost`` command with ``--json`` and returns what it prints.

        Raises:
            LabError: It failed or printed no JSON.
        """
        command = self.command(*arguments, "--json")
        text = run_command(command, timeout_seconds=COMMAND_SECONDS, environment=self._environment)
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise LabError(f"ironpost {' '.join(arguments)} --json: {error}: {text[:200]}") from error

    def told(self) -> Told:
        """All alerts and decisions, as the command line lists them."""
        decisions = self.ask("decisions", "--limit", "10000")
        return Told(
            self.ask("alerts", "--limit", "10000"), [one | {"target": _bare(one["target"])} for one in decisions]
        )

    def detections(self) -> list[tuple[str, str]]:
        """Rule and alert of every detection in the store's own table, read past the daemon and the command line.

        What only tells more of an attack that was reported before is left out: it is no second alarm.
        """
        with contextlib.closing(sqlite3.connect(f"file:{self._settings.database}?mode=ro", uri=True)) as store:
            first = "SELECT rule_id, alert_id FROM detections WHERE NOT coalesce(body ->> '$.ongoing', 0)"
            return [(str(rule), str(alert)) for rule, alert in store.execute(first)]


def _bare(target: str) -> str:
    """A single address without its prefix length."""
    return target.removesuffix("/32").removesuffix("/128")


@contextlib.contextmanager
def run_daemon(lab: Lab, settings: Settings) -> Iterator[Daemon]:
    """Starts the daemon and ends it afterwards."""
    settings.write()
    daemon = Daemon(lab.host, settings)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()
