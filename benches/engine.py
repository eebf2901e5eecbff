"""Throughput of the engine: messages per CPU second over TCP and from a file, the UDP rate without loss, memory.

The engine runs in its own process with every rule and extractor that comes with Ironpost; what it costs is read from
/proc, sender and kernel work on the sender's behalf are not counted. Prints minimum and median of several runs.

Usage: python benches/engine.py [--runs 5] [--messages 2000000] [tcp|octets|file|udp ...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
#: Distinct lines sent in a loop.
_LINES = 50_000


def messages() -> list[str]:
    """RFC 5424 messages as a small fleet sends them: one in twenty is a failed login."""
    chance = random.Random(1)
    lines = []
    for number in range(_LINES):
        time_and_host = f"2026-11-20T10:{number // 60 % 60:02}:{number % 60:02}.{number % 1000:03}Z host{number % 50}"
        kind = chance.random()
        if kind < 0.05:
            address = f"198.51.{chance.randrange(100)}.{chance.randrange(256)}"
            message = f"Failed password for root from {address} port {1024 + number % 60000} ssh2"
            text = f"<38>1 {time_and_host} sshd {number} - - {message}"
        elif kind < 0.3:
            message = f"Accepted publickey for user{number % 100} from 10.0.0.{number % 250} port 4000 ssh2"
            text = f"<38>1 {time_and_host} sshd {number} - - {message}"
        elif kind < 0.5:
            message = f"(root) CMD (/usr/lib/something/run --number {number})"
            text = f"<78>1 {time_and_host} CRON {number} - - {message}"
        else:
            message = f"request {number} took {number % 997} ms and gave status 200"
            text = f"<30>1 {time_and_host} app{number % 20} {number} ID{number % 90} - {message}"
        lines.append(text)
    return lines


@dataclass
class Process:
    """The engine's process."""

    child: subprocess.Popen[str]
    addresses: dict[str, str]
    rules: int

    def ask(self, command: str) -> dict[str, Any]:
        """Sends a command and reads the answer."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def done(self) -> int:
        """Records that were worked through."""
        counters = self.ask("counters")
        return counters["parsed"] + counters["unparsed"] + counters["empty"] + sum(counters["lost"].values())

    def cpu(self) -> float:
        """CPU seconds used up to now."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def peak_mib(self) -> float:
        """Largest resident memory up to now."""
        for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return 0.0


@contextlib.contextmanager
def engine(settings: dict[str, Any]) -> Iterator[Process]:
    """Runs the engine in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("engine_process.py")), json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            hello = json.loads(child.stdout.readline())
            yield Process(child, hello["addresses"], hello["rules"])
            child.communicate("stop\n", timeout=60)
        finally:
            if child.poll() is None:
                child.kill()


def wait_for(process: Process, count: int) -> None:
    """Waits until so many records were worked through."""
    deadline = time.monotonic() + 300
    while process.done() < count:
        if time.monotonic() > deadline:
            raise TimeoutError(process.ask("counters"))
        time.sleep(0.05)


def tcp(count: int, *, octets: bool) -> dict[str, float]:
    """One connection, as fast as it takes."""
    framed = [f"{len(line)} {line}" if octets else line + "\n" for line in messages()]
    block = "".join(framed).encode()
    with engine({"tcp": [{"bind": "127.0.0.1:0"}]}) as process:
        host, port = process.addresses["tcp:127.0.0.1:0"].rsplit(":", 1)
        rounds = max(1, count // _LINES)
        before, begin = process.cpu(), time.monotonic()
        with socket.create_connection((host, int(port))) as sender:
            for _ in range(rounds):
                sender.sendall(block)
        wait_for(process, rounds * _LINES)
        seconds, wall = process.cpu() - before, time.monotonic() - begin
        return {
            "per_cpu_second": rounds * _LINES / seconds,
            "per_second": rounds * _LINES / wall,
            "peak_mib": process.peak_mib(),
            "rules": process.rules,
        }


def file(count: int) -> dict[str, float]:
    """A file read from its beginning."""
    rounds = max(1, count // _LINES)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "syslog"
        block = "".join(line + "\n" for line in messages())
        with path.open("w") as log:
            for _ in range(rounds):
                log.write(block)
        # The first part of the work is done before the first look at the clock; the file is long enough.
        with engine({"files": [{"path": str(path), "start": "beginning"}]}) as process:
            first, before, begin = process.done(), process.cpu(), time.monotonic()
            wait_for(process, rounds * _LINES)
            seconds, wall = process.cpu() - before, time.monotonic() - begin
            left = rounds * _LINES - first
            return {
                "per_cpu_second": left / seconds,
                "per_second": left / wall,
                "peak_mib": process.peak_mib(),
                "rules": process.rules,
            }


def udp(count: int, rate: int) -> dict[str, float]:
    """Datagrams at a fixed rate; what was lost, by reason."""
    sender = _ROOT / "target" / "release" / "examples" / "udp_load"
    target = os.environ.get("CARGO_TARGET_DIR")
    if target:
        sender = Path(target) / "release" / "examples" / "udp_load"
    with tempfile.TemporaryDirectory() as directory, engine({"udp": [{"bind": "127.0.0.1:0"}]}) as process:
        lines = Path(directory) / "lines"
        lines.write_text("\n".join(messages()))
        before = process.cpu()
        address = process.addresses["udp:127.0.0.1:0"]
        output = subprocess.run(
            [str(sender), address, str(lines), str(count), str(rate)], check=True, capture_output=True, text=True
        ).stdout.split()
        sent, wall = int(output[0]), float(output[1])
        wait_for(process, sent)
        counters = process.ask("counters")
        return {
            "per_cpu_second": sent / (process.cpu() - before),
            "per_second": sent / wall,
            "lost": sum(counters["lost"].values()),
            "peak_mib": process.peak_mib(),
            "rules": process.rules,
        }


def show(name: str, runs: list[dict[str, float]]) -> None:
    """Prints minimum and median of each number."""
    parts = []
    for key in runs[0]:
        values = [run[key] for run in runs]
        parts.append(f"{key} min {min(values):,.0f} median {statistics.median(values):,.0f} max {max(values):,.0f}")
    sys.stdout.write(f"{name}: " + " | ".join(parts) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["tcp", "octets", "file", "udp"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--messages", type=int, default=2_000_000)
    parser.add_argument("--rates", type=int, nargs="*", default=[100_000, 250_000, 400_000])
    options = parser.parse_args()
    for what in options.what:
        if what == "udp":
            subprocess.run(
                ["cargo", "build", "--release", "--quiet", "-p", "ironpost-engine", "--example", "udp_load"],
                check=True,
                cwd=_ROOT,
            )
            for rate in options.rates:
                show(f"udp at {rate:,}/s", [udp(options.messages, rate) for _ in range(options.runs)])
        elif what == "file":
            show("file", [file(options.messages) for _ in range(options.runs)])
        else:
            show(what, [tcp(options.messages, octets=what == "octets") for _ in range(options.runs)])


if __name__ == "__main__":
    main()
