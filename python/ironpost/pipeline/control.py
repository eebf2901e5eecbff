"""The control socket: one JSON request per line from root or the daemon's own user, within limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ironpost.errors import IronpostError
from ironpost.telemetry import get_logger

#: Largest request; a longer one ends its connection.
MAX_FRAME_BYTES = 1024 * 1024
#: Longest socket path the kernel takes, without its final NUL.
MAX_SOCKET_PATH = 107

_CREDENTIALS = struct.Struct("iII")

Command = Callable[[Mapping[str, Any]], Awaitable[Any]]
Stream = Callable[[Mapping[str, Any]], AsyncIterator[Mapping[str, Any]]]


class RequestError(IronpostError):
    """A request that can't be understood."""

    exit_code = 2


@dataclass(slots=True)
class ControlLimits:
    """What a client may cost."""

    connections: int = 32
    request_seconds: float = 10.0
    write_seconds: float = 10.0


@dataclass(slots=True)
class ControlCounters:
    """What happened at the socket."""

    requests: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str) -> None:
        """Counts a refusal."""
        self.refused[reason] = self.refused.get(reason, 0) + 1


class ControlServer:
    """Answers commands on a Unix socket.

    Args:
        path: Where to listen. A dead socket found there is replaced, anything else refused.
        commands: Name → coroutine function that takes the request and returns its result.
        streams: Name → async generator function whose items go out one per line.
        limits: What a client may cost.
    """

    def __init__(
        self,
        path: Path,
        commands: Mapping[str, Command],
        streams: Mapping[str, Stream],
        *,
        limits: ControlLimits | None = None,
    ) -> None:
        self._path = path
        self._commands = commands
        self._streams = streams
        self._limits = limits or ControlLimits()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()
        self._log = get_logger("ironpost.pipeline.control")
        self.counters = ControlCounters()

    @property
    def open_connections(self) -> int:
        """Returns how many clients are connected."""
        return len(self._connections)

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            IronpostError: When the path can't be used; names the path and the remedy.
        """
        if len(os.fsencode(self._path)) > MAX_SOCKET_PATH:
            raise IronpostError(
                f"{self._path} — control socket path is longer than {MAX_SOCKET_PATH} bytes",
                "set general.control_socket to a shorter path",
            )
        await asyncio.to_thread(_clear_dead_socket, self._path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # Never visible with wider permissions than the final ones, not even for a moment.
            before = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
            self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_FRAME_BYTES)
        except OSError as error:
            listener.close()
            raise IronpostError(
                f"{self._path} — control socket can't be opened: {error.strerror}",
                "set general.control_socket to a path in a directory that only the daemon's user can write",
            ) from error

    async def stop(self, *, seconds: float) -> None:
        """Ends listening, lets answers under way finish for at most ``seconds``, and removes the socket."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for task in self._waiting:
            task.cancel()
        if self._connections:
            _, pending = await asyncio.wait(self._connections, timeout=seconds)
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending, timeout=1)
        with contextlib.suppress(OSError):
            self._path.unlink()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError):
            self.counters.refuse("connection_lost")
        except asyncio.CancelledError:  # only from our own stop(): the connection just ends
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _peer_uid(writer)
        if uid not in {0, os.geteuid()}:
            self.counters.refuse("foreign_user")
            self._log.warning("control_peer_refused", uid=uid)
            await self._send(writer, _failure("forbidden", f"user {uid} may not control the daemon", "use sudo"))
            return
        if len(self._connections) > self._limits.connections:
            self.counters.refuse("too_many_connections")
            await self._send(writer, _failure("busy", "too many control connections", "try again in a moment"))
            return
        task = asyncio.current_task()
        while self._server is not None:
            try:
                async with asyncio.timeout(self._limits.request_seconds):
                    line = await self._request(reader, task)
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                self.counters.refuse("frame_too_large")
                await self._send(
                    writer, _failure("frame_too_large", f"a request is at most {MAX_FRAME_BYTES} bytes", "")
                )
                return
            except TimeoutError:
                self.counters.refuse("timeout")
                return
            self.counters.requests += 1
            if not await self._answer(line, reader, writer):
                return

    async def _request(self, reader: asyncio.StreamReader, task: asyncio.Task[None] | None) -> bytes:
        if task is not None:
            self._waiting.add(task)
        try:
            return await reader.readuntil(b"\n")
        finally:
            self._waiting.discard(task)

    async def _answer(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False ends the connection."""
        try:
            request = _parse(line)
            name = str(request.get("command", ""))
            if name in self._streams:
                await self._stream(self._streams[name](request), reader, writer)
                return False
            command = self._commands.get(name)
            if command is None:
                known = ", ".join(sorted({*self._commands, *self._streams}))
                raise RequestError(f"unknown command {name!r}", f"known commands: {known}")
            reply: dict[str, Any] = {"ok": True, "result": await command(request)}
        except IronpostError as error:
            reply = _failure(_code(error), str(error), error.hint, exit_code=error.exit_code)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._log.exception("control_command_failed")
            reply = _failure("internal", f"{type(error).__name__}: {error}", "see the daemon's log")
        await self._send(writer, reply)
        return True

    async def _stream(
        self, items: AsyncIterator[Mapping[str, Any]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await self._send(writer, {"ok": True, "result": {"streaming": True}})
        gone = asyncio.create_task(reader.read(1), name="ironpost-control-gone")
        try:
            while True:
                item = asyncio.ensure_future(anext(items, None))
                await asyncio.wait({item, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not item.done():
                    item.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await item
                    return
                value = item.result()
                if value is None:
                    return
                await self._send(writer, value)
        finally:
            gone.cancel()
            closing = getattr(items, "aclose", None)
            if closing is not None:
                await closing()

    async def _send(self, writer: asyncio.StreamWriter, reply: Mapping[str, Any]) -> None:
        writer.write(json.dumps(reply, separators=(",", ":")).encode() + b"\n")
        async with asyncio.timeout(self._limits.write_seconds):
            await writer.drain()


def _parse(line: bytes) -> Mapping[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"request is not JSON: {type(error).__name__}", "send one JSON object per line") from None
    if not isinstance(request, dict):
        raise RequestError("request is not a JSON object", 'send for example {"command": "status"}')
    return request


def _failure(code: str, message: str, hint: str, *, exit_code: int = 1) -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "message": message, "hint": hint, "exit_code": exit_code}}


def _code(error: IronpostError) -> str:
    name = type(error).__name__
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    peer = writer.get_extra_info("socket")
    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def _clear_dead_socket(path: Path) -> None:
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise IronpostError(f"{path} — control socket can't be opened: {error.strerror}") from error
    if not stat.S_ISSOCK(facts.st_mode):
        raise IronpostError(
            f"{path} — something that is no socket lies where the control socket belongs",
            "remove it, or set general.control_socket",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise IronpostError(
        f"{path} — a daemon already answers on the control socket",
        "end it with `ironpost stop`, or set general.control_socket",
    )
