"""One daemon per place: a PID file that is locked, so that a dead daemon's file never keeps a new one from starting."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Self

from ironpost.errors import IronpostError

#: The database inside data_dir.
STORE_NAME = "ironpost.db"
#: The file inside data_dir that a daemon holds while it lives.
LOCK_NAME = "daemon.lock"


class AlreadyRunning(IronpostError):
    """Another daemon holds the PID file.

    Attributes:
        pid: Its process id, or 0 when the file doesn't say.
    """

    def __init__(self, path: Path, pid: int) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{path} — a daemon is already running ({who})",
            "look at it with `ironpost status`, end it with `ironpost stop`, or use another --data-dir",
        )
        self.pid = pid


class PidFileRefused(IronpostError):
    """The PID file can't be used."""

    exit_code = 10


class PidFile:
    """A locked PID file. The lock belongs to the process: it ends with it, whatever ends it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> Self:
        """Locks the file and writes this process's id into it.

        Returns:
            Itself; usable as a context manager.

        Raises:
            AlreadyRunning: When a living daemon holds it.
            PidFileRefused: When it can't be written, is a link, or is no regular file.
        """
        while self._descriptor < 0:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pid = _read_pid(descriptor)
                os.close(descriptor)
                raise AlreadyRunning(self._path, pid) from None
            # The holder before us may have removed the file between our open and our lock.
            if _is_same_file(descriptor, self._path):
                self._descriptor = descriptor
            else:
                os.close(descriptor)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def release(self) -> None:
        """Removes the file; never fails, because nothing may keep a shutdown from ending."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            reason = "is a symbolic link" if self._path.is_symlink() else error.strerror
            raise PidFileRefused(
                f"{self._path} — PID file can't be written: {reason}",
                'set general.pid_file to a path in a directory of the daemon\'s user, or to "" for none',
            ) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise PidFileRefused(f"{self._path} — PID file is no regular file", "remove it, or set general.pid_file")
        return descriptor


def running_pid(path: Path) -> int:
    """Returns the process id of the daemon that holds a PID file, or 0 when none does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read_pid(descriptor)
    finally:
        os.close(descriptor)
    return 0


def wait_until_gone(path: Path, *, seconds: float) -> None:
    """Waits until no daemon holds the file any more.

    Raises:
        IronpostError: When it still does after that time.
    """
    deadline = time.monotonic() + seconds
    while pid := running_pid(path):
        if time.monotonic() > deadline:
            raise IronpostError(
                f"process {pid} did not end within {seconds:.0f} s", f"kill -KILL {pid} ends it at once"
            )
        time.sleep(0.02)


def _read_pid(descriptor: int) -> int:
    try:
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    except OSError:
        return 0
    return int(text) if text.isascii() and text.isdigit() else 0


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        there = os.lstat(path)
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
