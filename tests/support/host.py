"""A daemon as an operator runs it: the installed command, its own directory, real files and ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from ironpost.errors import DaemonUnreachable
from ironpost.pipeline.client import ControlClient
from ironpost.storage import StoreReader

COMMAND = shutil.which("ironpost", path=str(Path(sys.executable).parent)) or "ironpost"
PATIENCE_SECONDS = 30.0


def until(condition, *, what, seconds=PATIENCE_SECONDS):
    """Waits until a condition gives something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.02)


def environment(**more):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("IRONPOST_", "NOTIFY_", "SSH_"))}
    return {**kept, **more}


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@dataclass
class Host:
    """A directory that plays the host: logs, rules, configuration, state."""

    directory: Path
    prefix: tuple[str, ...] = ()
    process: subprocess.Popen | None = None
    extra: dict[str, dict[str, object]] = field(default_factory=dict)

    def __post_init__(self):
        self.log = self.directory / "auth.log"
        self.log.touch()
        self.udp = free_port(socket.SOCK_DGRAM)
        self.tcp = free_port()

    def configure(self, **sections):
        tables = {
            "general": {"data_dir": str(self.directory / "data"), "log_format": "json"},
            "log_pipeline": {
                "sources": ["file", "syslog"],
                "watch_paths": [str(self.log)],
                "watch_roots": [str(self.directory)],
                "syslog_bind": f"127.0.0.1:{self.udp}",
                "syslog_tcp_bind": f"127.0.0.1:{self.tcp}",
            },
        }
        for name, table in sections.items():
            tables.setdefault(name, {}).update(table)
        lines = []
        for name, table in tables.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        (self.directory / "ironpost.toml").write_text("\n".join(lines) + "\n")
        return self

    def run(self, *arguments, config=True, timeout=60, **more):
        named = ("--config", str(self.directory / "ironpost.toml")) if config else ()
        reply = subprocess.run(
            [*self.prefix, COMMAND, *arguments, *named],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
        )
        return Result(reply.returncode, reply.stdout, reply.stderr)

    def start(self, *arguments, ready=True):
        if self.process is not None:
            self.process.wait(15)
        out, err = (self.directory / name for name in ("out", "err"))
        with out.open("ab") as stdout, err.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*self.prefix, COMMAND, "start", "--config", str(self.directory / "ironpost.toml"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment(),
            )
        if ready:
            until(lambda: self.process.poll() is not None or self.ask("status"), what="the daemon answers")
            assert self.process.poll() is None, self.said()
        return self

    def said(self):
        return (self.directory / "err").read_text(errors="replace")

    def stop(self, number=signal.SIGTERM, seconds=15):
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def ask(self, command, **arguments):
        """Asks the daemon without the cost of a process; None when it doesn't answer."""
        try:
            with ControlClient([self.directory / "data" / "control.sock"]) as client:
                return client.request(command, **arguments)
        except DaemonUnreachable:
            return None

    def status(self):
        return self.ask("status")

    def module(self, name):
        return next(module for module in self.status()["modules"] if module["name"] == name)

    def alerts(self, rule="ssh_brute_force"):
        store = self.directory / "data" / "ironpost.db"
        if not store.exists():
            return []
        with StoreReader(store) as reader:
            return [alert.to_json() for alert in reader.alerts(limit=1000, rule_id=rule)]

    def guess_passwords(self, address, times=6, *, start=0):
        stamp = time.strftime("%b %e %H:%M:%S")
        with self.log.open("a") as log:
            for number in range(start, start + times):
                text = f"Failed password for root from {address} port {40000 + number} ssh2"
                log.write(f"{stamp} web sshd[{1000 + number}]: {text}\n")
