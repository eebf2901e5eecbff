"""The other end of the control socket; imports little, because every command starts through here."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from ironpost.errors import DaemonUnreachable, IronpostError

_CREDENTIALS = struct.Struct("iII")


class CommandRefused(IronpostError):
    """The daemon answered with an error.

    Attributes:
        code: Its bounded name, for example ``target_refused``.
    """

    def __init__(self, message: str, *, code: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message, hint)
        self.code = code
        self.exit_code = exit_code


class ControlClient:
    """A connection to the daemon.

    Raises:
        DaemonUnreachable: When nobody answers, or somebody who is neither root nor this user does.
    """

    def __init__(self, candidates: Sequence[Path], *, timeout_seconds: float = 10.0) -> None:
        self._socket = _connect(candidates, timeout_seconds)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._file.close()
        self._socket.close()

    def request(self, command: str, **arguments: Any) -> Any:
        """Sends a command and returns its result.

        Raises:
            CommandRefused: When the daemon says no.
            DaemonUnreachable: When the answer doesn't come.
        """
        try:
            # A daemon that refuses this user says so and hangs up, perhaps before we have finished writing.
            with contextlib.suppress(BrokenPipeError):
                self._socket.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            line = self._file.readline()
        except OSError as error:
            raise _gone(f"no answer to {command!r}: {error}") from error
        if not line:
            raise _gone(f"the connection ended without an answer to {command!r}")
        reply = json.loads(line)
        if reply.get("ok"):
            return reply.get("result")
        error_data = reply.get("error", {})
        raise CommandRefused(
            str(error_data.get("message", "refused")),
            code=str(error_data.get("code", "")),
            hint=str(error_data.get("hint", "")),
            exit_code=int(error_data.get("exit_code", 1)),
        )

    def stream(self, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Sends a command whose result is a stream, and yields its items until the daemon ends it."""
        self.request(command, **arguments)
        self._socket.settimeout(None)
        for line in self._file:
            yield json.loads(line)


def _connect(candidates: Sequence[Path], timeout_seconds: float) -> socket.socket:
    reasons: list[str] = []
    for path in candidates:
        try:
            facts = path.lstat()
            if not stat.S_ISSOCK(facts.st_mode):
                reasons.append(f"{path} is no socket")
                continue
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            connection.settimeout(timeout_seconds)
            try:
                connection.connect(str(path))
                raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            except OSError:
                connection.close()
                raise
        except OSError as error:
            reasons.append(f"{path}: {error.strerror or error}")
            continue
        owner = _CREDENTIALS.unpack(raw)[1]
        if owner in {0, os.geteuid(), _keeper(path)}:
            return connection
        connection.close()
        reasons.append(f"{path} belongs to user {owner}")
    raise _gone("; ".join(reasons))


def _keeper(path: Path) -> int:
    """Returns who alone could have put a socket there: root may well ask a daemon that runs as a user of its own."""
    try:
        place, above = path.parent.stat(), path.parent.parent.stat()
    except OSError:
        return -1
    return -1 if (place.st_mode | above.st_mode) & stat.S_IWOTH else place.st_uid


def _gone(reason: str) -> DaemonUnreachable:
    return DaemonUnreachable(
        f"daemon not reachable — {reason}", "start it with `ironpost start`, or name its configuration with --config"
    )
