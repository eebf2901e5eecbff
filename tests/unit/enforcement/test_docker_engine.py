"""The Docker SDK against engines that fail in ways a real one can't be made to on demand."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from ironpost.enforcement import ContainerEnforcer, ContainerInventory, DockerRuntime, EnforcerRegistry, XdpEnforcer
from ironpost.enforcement.containers import endpoint_to_restore
from ironpost.enforcement.docker_engine import facts_of
from ironpost.errors import ContainerError, ContainerNotFound, EngineUnavailable
from ironpost.system import FixedClock
from support.response import MemoryEngine, unavailable

Answer = tuple[int, object]


@contextmanager
def engine(path: Path, answer: Callable[[str], Answer]) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body = (200, {"ApiVersion": "1.41"}) if self.path.endswith("/version") else answer(self.path)
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET  # noqa: N815 - the name http.server looks for

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "d.sock"


def test_a_missing_engine_is_named_with_the_remedy(socket: Path) -> None:
    with pytest.raises(EngineUnavailable, match="does not answer") as caught:
        DockerRuntime(socket).ping()
    assert str(socket) in str(caught.value)
    assert "systemctl start docker" in caught.value.hint


@pytest.mark.root
def test_a_socket_without_permission_is_named_with_the_remedy(socket: Path) -> None:
    for each in (*socket.parents[:4],):
        if each != Path("/"):
            each.chmod(each.stat().st_mode | 0o055)
    with engine(socket, lambda _: (200, {})):
        socket.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(EngineUnavailable, match="ermission denied") as caught:
                DockerRuntime(socket).ping()
        finally:
            os.seteuid(0)
    assert "group docker" in caught.value.hint


def test_an_engine_that_hangs_is_given_up_after_the_limit(socket: Path) -> None:
    release = threading.Event()

    def hang(_: str) -> Answer:
        release.wait(20)
        return 200, {}

    with engine(socket, hang):
        runtime = DockerRuntime(socket, timeout_seconds=1)
        with pytest.raises(EngineUnavailable, match="does not answer"):
            runtime.inspect("web")
        release.set()
        runtime.close()


def test_an_engine_that_comes_back_is_used_again(socket: Path) -> None:
    runtime = DockerRuntime(socket)
    with pytest.raises(EngineUnavailable):
        runtime.running()
    with engine(socket, lambda _: (200, [{"Id": "f" * 64}])):
        assert runtime.running() == ["f" * 64]
        runtime.close()


@pytest.mark.parametrize(
    ("status", "message", "kind", "text"),
    [
        (404, "No such container: web", ContainerNotFound, "the container is gone"),
        (404, "network front not found", ContainerError, "network front not found"),
        (409, "Container web is not paused", ContainerError, "is not paused"),
        (500, "cannot pause: freezer", ContainerError, "cannot pause: freezer"),
        (503, "overloaded", EngineUnavailable, "overloaded"),
    ],
)
def test_refusals_of_the_engine_are_told_apart(
    socket: Path, status: int, message: str, kind: type[ContainerError], text: str
) -> None:
    with engine(socket, lambda _: (status, {"message": message})):
        runtime = DockerRuntime(socket)
        with pytest.raises(kind, match=text) as caught:
            runtime.pause("web")
        assert type(caught.value) is kind
        runtime.close()


def test_an_answer_without_the_usual_parts_is_still_read() -> None:
    facts = facts_of({"Id": "f" * 64, "State": None, "NetworkSettings": {"Networks": None}, "Config": {"Labels": None}})
    assert (facts.identity.id, facts.status, facts.networks) == ("f" * 64, "", {})


def test_what_reconnects_an_endpoint_leaves_the_engines_own_alias_out() -> None:
    identity = "ab" * 32
    endpoint = {"Aliases": ["www", identity[:12]], "IPAddress": "10.0.0.2", "Links": ["db:database"]}
    assert endpoint_to_restore(identity, "front", endpoint) == {
        "aliases": ["www"],
        "links": [("db", "database")],
        "ipv4_address": "10.0.0.2",
    }
    assert endpoint_to_restore(identity, "bridge", endpoint) == {}


async def test_a_storm_of_alerts_asks_the_engine_once() -> None:
    memory, clock = MemoryEngine(), FixedClock()
    web = memory.add("web")
    inventory = ContainerInventory(memory, clock=clock)
    try:
        for _ in range(100):
            assert await inventory.describe(web.id) == web
        assert len(memory.calls) == 1
        clock.advance(3)
        memory.failures["inspect"] = [unavailable()]
        with pytest.raises(EngineUnavailable):
            await inventory.describe(web.id)
        del memory.containers[web.id]
        assert await inventory.describe(web.id) is None
    finally:
        inventory.close()


async def test_a_call_that_hangs_blocks_no_later_one() -> None:
    memory = MemoryEngine()
    web = memory.add("web")
    release = threading.Event()
    hung = threading.Event()

    def hang_once(_: str) -> None:
        if not hung.is_set():
            hung.set()
            release.wait(20)

    memory.before = hang_once
    inventory = ContainerInventory(memory, clock=FixedClock(), timeout_seconds=0.05)
    try:
        with pytest.raises(EngineUnavailable, match="did not answer within"):
            await inventory.describe(web.id)
        assert await inventory.describe(web.id) == web
    finally:
        release.set()
        inventory.close()


def test_no_two_enforcers_share_a_verb() -> None:
    registry = EnforcerRegistry([XdpEnforcer(None), ContainerEnforcer(MemoryEngine())])
    with pytest.raises(ValueError, match="already carried out by another enforcer: ban"):
        registry.add(XdpEnforcer(None))
    assert {"rate_limit", "quarantine", "notify"} == {str(verb) for verb in registry.orphans}
