"""The control socket, its limits, and hostile clients."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import subprocess
import sys

import pytest

from ironpost.errors import DaemonUnreachable, IronpostError, TargetRefused
from ironpost.pipeline.client import CommandRefused, ControlClient
from ironpost.pipeline.control import MAX_FRAME_BYTES, ControlLimits, ControlServer


async def until(condition):
    """Waits for a condition, at most five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.005)


async def echo(request):
    return {"said": request.get("word")}


async def refuse(request):
    raise TargetRefused("192.0.2.1", "it is this host", hint="choose another")


async def fail(request):
    raise KeyError("x")


async def count(request):
    for number in range(3):
        yield {"number": number}


async def endless(request):
    while True:
        yield {"tick": 1}
        await asyncio.sleep(0.01)


@pytest.fixture
async def server(tmp_path):
    server = ControlServer(
        tmp_path / "control.sock",
        {"echo": echo, "refuse": refuse, "fail": fail},
        {"count": count, "endless": endless},
        limits=ControlLimits(connections=4, request_seconds=0.5, write_seconds=0.5),
    )
    await server.start()
    yield server
    await server.stop(seconds=1)


def ask(path, command, **arguments):
    with ControlClient([path]) as client:
        return client.request(command, **arguments)


def raw(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(path))
    return connection


async def test_a_command_is_answered(server, tmp_path):
    assert await asyncio.to_thread(ask, tmp_path / "control.sock", "echo", word="hello") == {"said": "hello"}


async def test_several_commands_may_follow_on_one_connection(server, tmp_path):
    def talk():
        with ControlClient([tmp_path / "control.sock"]) as client:
            return [client.request("echo", word=word)["said"] for word in "abc"]

    assert await asyncio.to_thread(talk) == ["a", "b", "c"]


async def test_a_refusal_comes_back_with_its_hint_and_exit_code(server, tmp_path):
    with pytest.raises(CommandRefused, match="it is this host") as caught:
        await asyncio.to_thread(ask, tmp_path / "control.sock", "refuse")
    assert (caught.value.code, caught.value.hint, caught.value.exit_code) == ("target_refused", "choose another", 1)


async def test_a_defect_in_a_command_is_answered_and_the_server_goes_on(server, tmp_path):
    with pytest.raises(CommandRefused) as caught:
        await asyncio.to_thread(ask, tmp_path / "control.sock", "fail")
    assert caught.value.code == "internal"
    assert await asyncio.to_thread(ask, tmp_path / "control.sock", "echo", word="x") == {"said": "x"}


async def test_a_stream_ends_when_its_source_ends(server, tmp_path):
    def read():
        with ControlClient([tmp_path / "control.sock"]) as client:
            return [item["number"] for item in client.stream("count")]

    assert await asyncio.to_thread(read) == [0, 1, 2]


async def test_a_stream_reader_that_leaves_frees_its_place(server, tmp_path):
    def leave():
        with ControlClient([tmp_path / "control.sock"]) as client:
            next(client.stream("endless"))

    for _ in range(8):  # twice as many as there are places
        await asyncio.to_thread(leave)
        await until(lambda: not server.open_connections)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"not json\n", "request_error"),
        (b"[1]\n", "request_error"),
        (b'{"command": "rm -rf"}\n', "request_error"),
        (b'{"command": ["echo"]}\n', "request_error"),
        (b"\xff\xfe\n", "request_error"),
        (b"[" * 200_000 + b"\n", "request_error"),
    ],
)
async def test_nonsense_is_answered_with_an_error(server, tmp_path, line, code):
    def send():
        with raw(tmp_path / "control.sock") as connection:
            connection.sendall(line)
            return json.loads(connection.makefile("rb").readline())

    reply = await asyncio.to_thread(send)
    assert reply["ok"] is False
    assert reply["error"]["code"] == code


async def test_a_frame_beyond_the_limit_ends_the_connection_not_the_server(server, tmp_path):
    def send():
        with raw(tmp_path / "control.sock") as connection:
            try:
                for _ in range(2 * MAX_FRAME_BYTES // 65536):
                    connection.sendall(b"x" * 65536)
            except OSError:
                return
            connection.makefile("rb").read()

    await asyncio.to_thread(send)
    assert server.counters.refused.get("frame_too_large") == 1
    assert await asyncio.to_thread(ask, tmp_path / "control.sock", "echo", word="x") == {"said": "x"}


async def test_a_client_that_sends_slowly_is_dropped_in_time(server, tmp_path):
    def drip():
        with raw(tmp_path / "control.sock") as connection:
            connection.sendall(b'{"command"')
            return connection.recv(100)

    async with asyncio.timeout(5):
        assert await asyncio.to_thread(drip) == b""
    assert server.counters.refused == {"timeout": 1}


async def test_more_clients_than_places_are_told_so(server, tmp_path):
    held = [await asyncio.to_thread(raw, tmp_path / "control.sock") for _ in range(4)]
    await until(lambda: server.open_connections == 4)
    with pytest.raises(CommandRefused) as caught:
        await asyncio.to_thread(ask, tmp_path / "control.sock", "echo")
    assert caught.value.code == "busy"
    for connection in held:
        connection.close()


@pytest.mark.root
async def test_another_user_is_refused_by_the_kernels_word(server, tmp_path):
    path = tmp_path / "control.sock"
    path.chmod(0o666)
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    script = (
        "import socket,sys; c=socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]);"
        "sys.stdout.buffer.write(c.recv(4096))"
    )
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", script, str(path)),
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert json.loads(output)["error"]["code"] == "forbidden"
    assert server.counters.refused == {"foreign_user": 1}


async def test_the_socket_is_for_its_owner_alone_and_goes_away(tmp_path):
    server = ControlServer(tmp_path / "control.sock", {}, {})
    await server.start()
    assert stat.S_IMODE((tmp_path / "control.sock").stat().st_mode) == 0o600
    await server.stop(seconds=1)
    assert not (tmp_path / "control.sock").exists()


async def test_a_dead_socket_is_replaced(tmp_path):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "control.sock"))
    dead.close()
    server = ControlServer(tmp_path / "control.sock", {"echo": echo}, {})
    await server.start()
    assert await asyncio.to_thread(ask, tmp_path / "control.sock", "echo", word=1) == {"said": 1}
    await server.stop(seconds=1)


@pytest.mark.parametrize("kind", ["file", "link"])
async def test_what_is_no_socket_is_never_touched(tmp_path, kind):
    path = tmp_path / "control.sock"
    if kind == "file":
        path.write_text("precious")
    else:
        (tmp_path / "precious").write_text("precious")
        path.symlink_to(tmp_path / "precious")
    with pytest.raises(IronpostError, match="no socket"):
        await ControlServer(path, {}, {}).start()
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_the_kernel_is_named(tmp_path):
    with pytest.raises(IronpostError, match="longer than"):
        await ControlServer(tmp_path / ("x" * 120), {}, {}).start()


async def test_a_second_server_on_the_same_path_is_refused(server, tmp_path):
    with pytest.raises(IronpostError, match="already answers"):
        await ControlServer(tmp_path / "control.sock", {}, {}).start()


async def test_stopping_ends_idle_clients_and_streams_at_once(server, tmp_path):
    idle = await asyncio.to_thread(raw, tmp_path / "control.sock")
    await until(lambda: server.open_connections == 1)
    await server.stop(seconds=1)
    assert await asyncio.to_thread(idle.recv, 10) == b""
    idle.close()


def test_a_client_without_a_daemon_says_where_it_looked(tmp_path):
    with pytest.raises(DaemonUnreachable, match=r"control\.sock: No such file") as caught:
        ControlClient([tmp_path / "control.sock"])
    assert caught.value.exit_code == 3


def test_a_client_does_not_follow_a_planted_link(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "real.sock"))
    listener.listen()
    (tmp_path / "control.sock").symlink_to(tmp_path / "real.sock")
    with pytest.raises(DaemonUnreachable, match="no socket"):
        ControlClient([tmp_path / "control.sock"])
    listener.close()
