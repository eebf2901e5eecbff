"""``start --daemon``: the same start in its own session, and the wait until it is ready."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ironpost.cli.output import print_line, say
from ironpost.errors import IronpostError

if TYPE_CHECKING:
    from ironpost.config import Places

_READY_SECONDS = 60.0


def start_in_background(places: Places, *, arguments: list[str]) -> None:
    """Starts the daemon detached, and returns when it is ready.

    Args:
        places: Where its log file goes.
        arguments: Options of ``start``.

    Raises:
        IronpostError: When it isn't ready in time.
        typer.Exit: With the daemon's exit code, when it ended instead; what it said is repeated.
    """
    from ironpost.config import make_private_directory

    make_private_directory(places.data_dir)
    log = places.data_dir / "daemon.log"
    with (
        tempfile.TemporaryDirectory(prefix="ironpost-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
        log.open("ab") as output,
    ):
        address = str(Path(directory) / "ready")
        ready.bind(address)
        before = output.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "ironpost", "start", "--quiet", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "NOTIFY_SOCKET": address},
        )
        if _wait(ready, child):
            print_line(f"started (process {child.pid}), log in {log}")
            return
        if child.poll() is None:
            child.terminate()
            child.wait()
            raise IronpostError(f"the daemon was not ready within {_READY_SECONDS:.0f} s", f"see {log}")
        with log.open("rb") as said:
            said.seek(before)
            for line in said.read().decode("utf-8", "replace").splitlines():
                if not line.startswith("{"):
                    say(line)
        raise typer.Exit(child.returncode if child.returncode > 0 else 1)


def _wait(ready: socket.socket, child: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _READY_SECONDS
    descriptor = os.pidfd_open(child.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(ready, selectors.EVENT_READ)
            selector.register(descriptor, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    if key.fileobj is ready and b"READY=1" in ready.recv(65536):
                        return True
                    if key.fileobj == descriptor:
                        return False
    finally:
        os.close(descriptor)
    return False
