"""From a line in a log file to a drop in the kernel, many times, seen by packets."""

from __future__ import annotations

import ipaddress
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ironpost.demo import probe, sshd, steps
from ironpost.demo.daemon import Settings, pin_file_system, run_daemon
from ironpost.demo.lab import LabError, build

#: Benchmark network (RFC 2544): every repetition attacks from an address of its own.
SOURCES = ipaddress.IPv4Network("198.18.0.0/16")
PROBE_INTERVAL_SECONDS = 0.001
TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Latency:
    """Delays in milliseconds, in the order they were measured."""

    milliseconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """The shortest."""
        return min(self.milliseconds)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.milliseconds)

    @property
    def p99(self) -> float:
        """Not more than one in a hundred is longer."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, -(-len(ordered) * 99 // 100) - 1)]


def measure(repetitions: int) -> Latency:
    """Measures the time from a deciding log line to the first packet that gets no answer.

    Lines are written as sshd writes them; the last of five completes a brute force. The address it names sends an
    echo request every millisecond, and the first one of the lasting silence ends the measurement: the figure is at
    most one interval too long.

    Raises:
        LabError: The lab could not be built, or an address was not dropped in time.
    """
    with tempfile.TemporaryDirectory(prefix="ironpost-latency-") as name, build() as lab:
        directory = Path(name)
        auth_log = directory / "auth.log"
        lab.give_network(lab.attacker, SOURCES)
        with sshd.LogKeeper(directory, auth_log) as keeper, pin_file_system(directory / "bpf") as pins:
            settings = Settings(
                directory=directory,
                auth_log=auth_log,
                pin_directory=pins,
                ban_duration="30m",
                docker_socket=None,
                allow=(str(lab.allowed.v4),),
            )
            with run_daemon(lab, settings):
                results = []
                for number in range(repetitions):
                    source = SOURCES[256 + number]
                    interval = PROBE_INTERVAL_SECONDS
                    with probe.Prober(lab.attacker, lab.host.v4, source=source, interval_seconds=interval) as prober:
                        if prober.wait_for_answer(0, TIMEOUT_SECONDS) is None:
                            raise LabError(f"{source}: no answer even before the attack")
                        written_ns = [
                            keeper.write(_failure(source, attempt)) for attempt in range(steps.DECIDING_FAILURE)
                        ]
                        silent_ns = prober.wait_for_silence(TIMEOUT_SECONDS)
                    if silent_ns is None:
                        raise LabError(f"{source}: not dropped within {TIMEOUT_SECONDS} s after its fifth failure")
                    results.append((silent_ns - written_ns[-1]) / 1e6)
    return Latency(tuple(results))


def _failure(source: ipaddress.IPv4Address, attempt: int) -> bytes:
    """A line as sshd and the host's log daemon write it, now."""
    now = datetime.fromtimestamp(time.time()).astimezone()
    stamp = f"{now:%b} {now.day:2d} {now:%H:%M:%S}"
    port = 40000 + attempt
    return f"{stamp} {sshd.HOST_NAME} sshd[4711]: Failed password for root from {source} port {port} ssh2".encode()
