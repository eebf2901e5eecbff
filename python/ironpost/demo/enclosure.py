"""``python -m ironpost.demo.enclosure DIRECTORY COMMAND…``: a command with its own ``/run`` and ``/dev/log``.

sshd reports through syslog(3), and syslog(3) knows one place only: ``/dev/log``. On the host that belongs to the
host's own log daemon. So sshd gets a mount namespace in which ``/dev/log`` is the socket ``DIRECTORY/log``.
``/run`` is empty but for the directory sshd wants: a container engine started in here finds neither the sockets of
the host's engine nor the message bus through which it would ask the host's firewall service for rules.
Nothing of it is visible outside, and it ends with the process.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
MS_NOSUID = 0x2
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x4_0000
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def _call(number: int, what: str) -> None:
    if number != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), what)


def _mount(libc: ctypes.CDLL, source: Path | str, target: Path | str, kind: str, flags: int) -> None:
    arguments = (str(source).encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(flags), None)
    _call(libc.mount(*arguments), str(target))


def enter(directory: Path) -> None:
    """Moves this process into a mount namespace with its own ``/run`` and ``/dev/log``.

    Args:
        directory: May hold a listening datagram socket ``log``; without it ``/dev`` stays as it is. Its
            sub-directory ``enclosure`` is made and mounted on.

    Raises:
        OSError: A mount failed; the path is its file name.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.unshare(CLONE_NEWNS), "unshare")
    _mount(libc, "none", "/", "none", MS_REC | MS_PRIVATE)
    staging = directory / "enclosure"
    staging.mkdir()
    _mount(libc, "tmpfs", staging, "tmpfs", MS_NOSUID)
    (staging / "run" / "sshd").mkdir(parents=True, mode=0o755)
    if (directory / "log").exists():
        _replace_devices(libc, staging / "dev", directory / "log")
    _mount(libc, staging / "run", "/run", "none", MS_BIND | MS_REC)


def _replace_devices(libc: ctypes.CDLL, devices: Path, log_socket: Path) -> None:
    """Mounts a small ``/dev`` over the present one: on the host's own, ``/dev/log`` could not be added unseen."""
    devices.mkdir(mode=0o755)
    for name in DEVICES:
        (devices / name).touch()
        _mount(libc, f"/dev/{name}", devices / name, "none", MS_BIND)
    (devices / "pts").mkdir()
    _mount(libc, "/dev/pts", devices / "pts", "none", MS_BIND)
    for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stderr", "/proc/self/fd/2")):
        (devices / name).symlink_to(target)
    (devices / "log").touch()
    _mount(libc, log_socket, devices / "log", "none", MS_BIND)
    _mount(libc, devices, "/dev", "none", MS_BIND | MS_REC)


if __name__ == "__main__":
    enter(Path(sys.argv[1]))
    # The new program's argv[0] has to be its full path: sshd executes itself again.
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - no shell is the point
