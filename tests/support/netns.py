"""Hosts made of a network namespace each, inside this process.

A host is one thread that has left the common network namespace; what runs on it (also child processes) sees only its
interfaces. The mount namespace stays the same, so pins in the BPF file system are seen by all: ``ip netns exec`` would
mount a fresh ``/sys`` on each call and hide them.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_CLONE_NEWNET = 0x40000000
_ALL_FRAMES = 3
_LIBC = ctypes.CDLL(None, use_errno=True)


class Host:
    """A thread in a network namespace of its own."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_leave)
        self.thread_id = self.run(threading.get_native_id)
        self.run(_silence)

    def run(self, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls ``work`` on this host."""
        return self._executor.submit(work, *args, **kwargs).result()

    def ip(self, *arguments: str) -> str:
        """Runs ``ip`` on this host."""
        done = self.run(subprocess.run, ["ip", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Starts a child process on this host; its output is read from ``stdout``."""
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        return self.run(subprocess.Popen, command, stdout=subprocess.PIPE, text=True, env=environment)

    def listen(self, interface: str) -> socket.socket:
        """A socket that gets every frame the filter let pass, and sends raw ones."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES))
            made.bind((interface, _ALL_FRAMES))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
            made.settimeout(5)
            return made

        return self.run(make)

    def close(self) -> None:
        """Ends the thread; the namespace and its interfaces go with it."""
        self._executor.shutdown()


def _leave() -> None:
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _silence() -> None:
    """No packets but ours: no router solicitations, no neighbour discovery."""
    for place in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{place}/disable_ipv6").write_text("1")


@contextmanager
def pair(*, mtu: int = 1500) -> Iterator[tuple[Host, Host]]:
    """Two hosts with a cable: ``guard0`` on the first, ``peer0`` on the second. Exact frames, no offloads."""
    guard, peer = Host("guard"), Host("peer")
    try:
        cable(guard, peer, mtu=mtu)
        yield guard, peer
    finally:
        guard.close()
        peer.close()


def cable(guard: Host, peer: Host, *, mtu: int = 1500) -> None:
    """Makes the cable of :func:`pair`."""
    guard.ip("link", "add", "guard0", "type", "veth", "peer", "name", "peer0", "netns", str(peer.thread_id))
    for host, name in ((guard, "guard0"), (peer, "peer0")):
        host.ip("link", "set", "dev", name, "mtu", str(mtu), "arp", "off", "multicast", "off", "up")


def send(through: socket.socket, *frames: bytes) -> None:
    """Sends frames as they are."""
    for frame in frames:
        through.send(frame)


def received(on: socket.socket, *, until: bytes) -> list[bytes]:
    """Frames that arrived before the frame ``until``, which must arrive: frames of a cable keep their order."""
    frames = []
    while (frame := on.recv(65_536)) != until:
        frames.append(frame)
    return frames
