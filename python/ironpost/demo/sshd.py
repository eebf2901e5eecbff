"""A real sshd, its real log file, and real logins with wrong passwords.

sshd → syslog(3) → ``/dev/log`` of its own mount namespace → :class:`LogKeeper` → ``auth.log`` in the traditional
format. The log keeper does what a host's log daemon does with these lines, and notes when each was written; the log
file is also the independent count of what happened.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ironpost.demo import probe
from ironpost.demo.lab import LabError, Namespace, run_command

SSH_PORT = 22
HOST_NAME = "demo-host"
#: ``ssh`` asks this program for the password: it repeats the question, which is nobody's password.
ASKPASS = "/bin/echo"
PASSWORDS_PER_LOGIN = 3
LOGIN_TIMEOUT_SECONDS = 20
_PRIORITY = re.compile(rb"<\d{1,3}>(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) (?P<rest>.*)", re.DOTALL)
_FAILURE = re.compile(r"sshd(?:-session)?\[\d+\]: Failed password for .* from (?P<address>\S+) port \d+ ssh2$")

CONFIGURATION = """\
Port {port}
HostKey {directory}/host_key
PidFile none
# The host's PAM stack stays out: an attack here must not lock an account there.
UsePAM no
PasswordAuthentication yes
KbdInteractiveAuthentication no
PubkeyAuthentication no
PermitRootLogin no
AllowUsers nobody-may-log-in-here
MaxAuthTries 6
MaxStartups 200
LoginGraceTime 20
SyslogFacility AUTH
LogLevel INFO
"""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of ``auth.log``.

    Attributes:
        written_ns: Wall clock right after it was in the file.
        text: Without its newline.
    """

    written_ns: int
    text: str

    @property
    def failed_from(self) -> str:
        """The address a wrong password came from, or ``""`` when the line says something else."""
        found = _FAILURE.search(self.text)
        return found["address"] if found else ""


class LogKeeper:
    """Listens where sshd logs and appends to a file what arrives, as the traditional format of ``/var/log`` has it."""

    def __init__(self, directory: Path, log_file: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(directory / "log"))
        # sshd's unprivileged child logs here too.
        (directory / "log").chmod(0o666)
        self._socket.settimeout(0.1)
        self._file = log_file.open("ab", buffering=0)
        self._lines: list[LogLine] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="log-keeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()
        self._file.close()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                datagram = self._socket.recv(65536)
            except TimeoutError:
                continue
            found = _PRIORITY.fullmatch(datagram.rstrip(b"\0\n"))
            if found:
                # One line stays one line, whatever a client put into its user name.
                rest = found["rest"].replace(b"\n", b"#012")
                self.write(b"%s %s %s" % (found["time"], HOST_NAME.encode(), rest))

    def write(self, line: bytes) -> int:
        """Appends one line and returns when it was in the file (wall clock, nanoseconds)."""
        with self._lock:
            self._file.write(line + b"\n")
            written_ns = time.time_ns()
            self._lines.append(LogLine(written_ns, line.decode("utf-8", "replace")))
        return written_ns

    def failures_from(self, address: object) -> list[LogLine]:
        """The lines that report a wrong password from an address, oldest first."""
        with self._lock:
            return [line for line in self._lines if line.failed_from == str(address)]

    def count(self) -> Counter[str]:
        """How often each line was written."""
        with self._lock:
            return Counter(line.text for line in self._lines)


def find_sshd() -> str | None:
    """Where sshd is; it is often outside a user's search path."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def serve(host: Namespace, directory: Path) -> Iterator[None]:
    """Runs sshd in a namespace; it logs to the socket ``directory/log``.

    Raises:
        LabError: It did not start.
    """
    program = find_sshd()
    if program is None:
        raise LabError("sshd: not installed", "apt-get install openssh-server")
    run_command(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ironpost demo", "-f", str(directory / "host_key")]
    )
    configuration = directory / "sshd_config"
    configuration.write_text(CONFIGURATION.format(port=SSH_PORT, directory=directory))
    if _accepts(program, configuration, "PerSourcePenalties no", directory):
        # OpenSSH 9.8 began to answer attackers by itself; here the answer has to be ours.
        with configuration.open("a") as file:
            file.write("PerSourcePenalties no\n")
    enclosed = [
        sys.executable,
        "-m",
        "ironpost.demo.enclosure",
        str(directory),
        program,
        "-D",
        "-f",
        str(configuration),
    ]
    with (directory / "sshd.output").open("wb") as output:
        process = subprocess.Popen(
            host.command(*enclosed), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        started = probe.wait_until(
            lambda: process.poll() is not None or probe.connects(host, ipaddress.IPv4Address("127.0.0.1"), SSH_PORT), 10
        )
        if not started or process.poll() is not None:
            said = (directory / "sshd.output").read_text(errors="replace").strip()
            raise LabError(f"sshd did not start: {said or 'it says nothing'}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def _accepts(program: str, configuration: Path, option: str, directory: Path) -> bool:
    """Whether this sshd knows an option."""
    trial = directory / "sshd_config.trial"
    trial.write_text(configuration.read_text() + option + "\n")
    # -T prints the effective configuration; it needs neither /run/sshd nor a free port.
    done = subprocess.run([program, "-T", "-f", str(trial)], capture_output=True, timeout=10, check=False)
    return b"Bad configuration option" not in done.stderr


def start_login(
    client: Namespace, target: probe.Address, *, user: str, source: probe.Address | None = None
) -> subprocess.Popen[bytes]:
    """Starts ``ssh`` that tries three wrong passwords and gives up."""
    options = {
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "GlobalKnownHostsFile": "/dev/null",
        "PreferredAuthentications": "password",
        "PubkeyAuthentication": "no",
        "NumberOfPasswordPrompts": str(PASSWORDS_PER_LOGIN),
        "ConnectTimeout": "5",
        "LogLevel": "ERROR",
    }
    arguments = ["ssh", "-F", "none", "-p", str(SSH_PORT), "-l", user]
    if source is not None:
        arguments += ["-b", str(source)]
    for key, value in options.items():
        arguments += ["-o", f"{key}={value}"]
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "SSH_ASKPASS": ASKPASS,
        "SSH_ASKPASS_REQUIRE": "force",
    }
    return subprocess.Popen(
        client.command(*arguments, str(target), "true"),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_logins(logins: list[subprocess.Popen[bytes]]) -> None:
    """Ends logins that hang because their packets are dropped."""
    for login in logins:
        if login.poll() is None:
            login.kill()
        login.wait(5)


def client_can_ask_without_terminal() -> bool:
    """Whether this ``ssh`` takes passwords from a program even without a display (OpenSSH 8.4)."""
    done = subprocess.run(["ssh", "-V"], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", done.stderr)
    return found is not None and (int(found[1]), int(found[2])) >= (8, 4)
