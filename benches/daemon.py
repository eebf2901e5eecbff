"""Throughput of the whole daemon: RFC 5424 over TCP through parsing, every shipped rule and SQLite; CPU and memory.

`ironpost start` runs in its own process, as installed. What it costs is read from /proc. Prints minimum and median.

Usage: python benches/daemon.py [--runs 5] [--messages 2000000]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine import messages

_TICKS = os.sysconf("SC_CLK_TCK")
_COMMAND = [sys.executable, "-m", "ironpost"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status(config: Path) -> dict:
    answer = subprocess.run([*_COMMAND, "status", "--json", "--config", str(config)], capture_output=True, check=False)
    return json.loads(answer.stdout) if answer.returncode == 0 else {}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def run(count: int, block: bytes, lines: int) -> dict[str, float]:
    """One daemon, one connection, as fast as it takes."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "ironpost.toml"
        config.write_text(
            f'[general]\ndata_dir = "{directory}/data"\npid_file = ""\nlog_level = "warn"\n'
            f'[log_pipeline]\nsources = ["syslog_tcp"]\nsyslog_tcp_bind = "127.0.0.1:{port}"\n'
        )
        with subprocess.Popen([*_COMMAND, "start", "--config", str(config), "--quiet"]) as daemon:
            try:
                deadline = time.monotonic() + 30
                while not (now := status(config)):
                    if time.monotonic() > deadline:
                        raise TimeoutError("the daemon does not answer")
                    time.sleep(0.1)
                rounds = max(1, count // lines)
                before, begin = cpu_seconds(daemon.pid), time.monotonic()
                with socket.create_connection(("127.0.0.1", port)) as sender:
                    for _ in range(rounds):
                        sender.sendall(block)
                    deadline = time.monotonic() + 300
                    while (now := status(config)["engine"])["received"] < rounds * lines:
                        if time.monotonic() > deadline:
                            raise TimeoutError(f"{now['received']} of {rounds * lines}")
                        time.sleep(0.05)
                wall = time.monotonic() - begin
                seconds = cpu_seconds(daemon.pid) - before
                assert now["parsed"] + now["unparsed"] + now["empty"] + sum(now["lost"].values()) <= now["received"]
                return {
                    "per_cpu_second": rounds * lines / seconds,
                    "per_second": rounds * lines / wall,
                    "peak_mib": peak_mib(daemon.pid),
                    "detections": now["detections"],
                    "lost": sum(now["lost"].values()),
                }
            finally:
                daemon.terminate()


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--messages", type=int, default=2_000_000)
    options = parser.parse_args()
    texts = messages()
    block = "".join(line + "\n" for line in texts).encode()
    runs = [run(options.messages, block, len(texts)) for _ in range(options.runs)]
    for key in runs[0]:
        values = [one[key] for one in runs]
        sys.stdout.write(f"daemon tcp {key}: min {min(values):,.0f} median {statistics.median(values):,.0f}\n")


if __name__ == "__main__":
    main()
