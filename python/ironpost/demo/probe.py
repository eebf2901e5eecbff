"""Looking from outside: echo requests and connections from inside a client's namespace.

Nothing here asks the daemon anything. A drop is what a client sees: no answer.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from ironpost.demo.lab import Namespace

#: Echo request and reply by IP version (RFC 792, RFC 4443).
ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: A reply crosses a veth pair in microseconds; after this long a missing one is lost, even on a loaded machine.
LOST_AFTER_SECONDS = 0.25
#: So many lost in a row, and none answered, is a drop and no accident.
SILENCE_COUNT = 5


def ping(client: Namespace, target: Address, *, count: int = 1) -> bool:
    """Whether ``ping`` gets an answer within a second."""
    arguments = client.command("ping", "-n", "-q", "-c", str(count), "-i", "0.2", "-W", "1", str(target))
    done = subprocess.run(arguments, capture_output=True, timeout=10 + count, check=False, stdin=subprocess.DEVNULL)
    return done.returncode == 0


def connects(client: Namespace, target: Address, port: int) -> bool:
    """Whether a TCP connection opens within a second (a refusal is an answer too, but no connection)."""
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with client.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        return connection.connect_ex((str(target), port)) == 0


def scan(
    client: Namespace,
    target: ipaddress.IPv4Address,
    ports: range,
    *,
    source: ipaddress.IPv4Address | None = None,
) -> int:
    """Sends one real SYN to each port and returns how many were sent; answers are not waited for."""

    def send_all() -> int:
        with contextlib.ExitStack() as stack:
            for port in ports:
                attempt = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                if source is not None:
                    attempt.bind((str(source), 0))
                attempt.setblocking(False)
                attempt.connect_ex((str(target), port))
        return len(ports)

    return client.inside(send_all)


def wait_until(condition: Callable[[], bool], timeout_seconds: float, *, interval_seconds: float = 0.01) -> bool:
    """Waits until a condition holds; tells whether it did in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_seconds)
    return True


@dataclass(slots=True)
class Probe:
    """One echo request.

    Attributes:
        sent_ns: Wall clock, nanoseconds, taken right before sending.
        answered: Whether its reply came.
    """

    sent_ns: int
    answered: bool = False


class Prober:
    """Sends an echo request every few milliseconds from one address and remembers which were answered."""

    def __init__(
        self,
        client: Namespace,
        target: Address,
        *,
        source: Address | None = None,
        interval_seconds: float = 0.005,
    ) -> None:
        self.client = client
        self._target = str(target)
        self._version = target.version
        self._interval_seconds = interval_seconds
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP) if target.version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        self._socket = client.socket(family, socket.SOCK_RAW, protocol)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if source is not None:
            self._socket.bind((str(source), 0))
        # Several probers may share a namespace: each knows its own replies by this number.
        self._identifier = self._socket.fileno() & 0xFFFF
        self._probes: list[Probe] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"probe-{client.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def _work(self) -> None:
        following = time.monotonic()
        while not self._stopping.is_set():
            self._send()
            following += self._interval_seconds
            # A loaded machine may fall behind: then the next request goes out at once, without a burst of old ones.
            following = max(following, time.monotonic())
            while (left := following - time.monotonic()) > 0:
                if select.select([self._socket], [], [], left)[0]:
                    self._receive()
            self._receive()
        deadline = time.monotonic() + LOST_AFTER_SECONDS
        while self.unanswered_at_end() and time.monotonic() < deadline:
            select.select([self._socket], [], [], 0.01)
            self._receive()

    def _send(self) -> None:
        with self._lock:
            sequence = len(self._probes)
            self._probes.append(Probe(time.time_ns()))
        # The sequence number has 16 bits; the whole number travels as the payload.
        rest = struct.pack("!HHQ", self._identifier, sequence & 0xFFFF, sequence)
        request = ECHO_REQUEST[self._version]
        # Over IPv6 the kernel fills the checksum in, because it covers addresses too.
        checksum = _checksum(struct.pack("!BBH", request, 0, 0) + rest) if self._version == 4 else 0
        try:
            self._socket.sendto(struct.pack("!BBH", request, 0, checksum) + rest, (self._target, 0))
        except BlockingIOError:
            with self._lock:
                self._probes[sequence].answered = True  # never sent: proves nothing either way

    def _receive(self) -> None:
        while True:
            try:
                packet = self._socket.recv(2048)
            except BlockingIOError:
                return
            # Over IPv4 a raw socket delivers the IP header too.
            message = packet[(packet[0] & 0x0F) * 4 :] if self._version == 4 else packet
            if len(message) < 16 or message[0] != ECHO_REPLY[self._version]:
                continue
            identifier, _, sequence = struct.unpack("!HHQ", message[4:16])
            with self._lock:
                if identifier == self._identifier and sequence < len(self._probes):
                    self._probes[sequence].answered = True

    def unanswered_at_end(self) -> int:
        """How many of the newest requests in a row have no answer."""
        with self._lock:
            count = 0
            for probe in reversed(self._probes):
                if probe.answered:
                    break
                count += 1
            return count

    def sent(self) -> int:
        """How many requests went out so far."""
        with self._lock:
            return len(self._probes)

    def lost(self, *, since_ns: int = 0, until_ns: int = 1 << 63) -> int:
        """How many requests sent in that time have no answer, the newest quarter of a second left out."""
        until_ns = min(until_ns, time.time_ns() - int(LOST_AFTER_SECONDS * 1e9))
        with self._lock:
            return sum(1 for probe in self._probes if since_ns <= probe.sent_ns < until_ns and not probe.answered)

    def answered(self, *, since_ns: int = 0, until_ns: int = 1 << 63) -> int:
        """How many requests sent in that time were answered."""
        with self._lock:
            return sum(1 for probe in self._probes if since_ns <= probe.sent_ns < until_ns and probe.answered)

    def silent_since(self) -> int | None:
        """When the first request of the present silence was sent, or None while there are answers."""
        with self._lock:
            last_answered = next((i for i in range(len(self._probes) - 1, -1, -1) if self._probes[i].answered), -1)
            silent = self._probes[last_answered + 1 :]
            if len(silent) <= SILENCE_COUNT:
                return None
            if time.time_ns() - silent[0].sent_ns < LOST_AFTER_SECONDS * 1e9:
                return None
            return silent[0].sent_ns

    def first_answer_after(self, moment_ns: int) -> int | None:
        """When the first answered request after a moment was sent."""
        with self._lock:
            return next((probe.sent_ns for probe in self._probes if probe.sent_ns > moment_ns and probe.answered), None)

    def wait_for_silence(self, timeout_seconds: float) -> int | None:
        """Waits until nothing is answered any more; returns when the first lost request was sent."""
        wait_until(lambda: self.silent_since() is not None, timeout_seconds)
        return self.silent_since()

    def wait_for_answer(self, after_ns: int, timeout_seconds: float) -> int | None:
        """Waits until a request sent after a moment is answered; returns when it was sent."""
        wait_until(lambda: self.first_answer_after(after_ns) is not None, timeout_seconds)
        return self.first_answer_after(after_ns)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def http_status(client: Namespace, target: ipaddress.IPv4Address, port: int, path: str) -> int:
    """Asks a web server for a page; the status it answers with, or 0 when there is no answer within a second."""
    with client.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect((str(target), port))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n".encode())
            answer = connection.recv(64)
        except OSError:
            return 0
    parts = answer.split(b" ", 2)
    return int(parts[1]) if answer.startswith(b"HTTP/1.") and len(parts) == 3 and parts[1].isdigit() else 0
