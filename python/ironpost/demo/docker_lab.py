"""A private container engine inside the lab, and two identical web containers in it.

The engine is a second one beside any the host has: its own containerd, state, socket and process ids. It lives in the
lab's host namespace, so its bridge and firewall rules are not the host's; it lives in its own mount and process
namespaces, so when it ends its mounts and containers end with it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException
from docker.models.containers import Container

from ironpost.demo import probe
from ironpost.demo.lab import LabError, Namespace

CONTROL_GROUP_PREFIX = "ironpost-demo-"
IMAGE = "ironpost-demo-web"
WEB_PORT_IN_CONTAINER = 8080
ENGINE_START_SECONDS = 40
ENGINE_STOP_SECONDS = 15
#: TEST-NET-3; inside the lab's namespace it can collide with nothing.
BRIDGE_ADDRESS = "203.0.113.1/24"
BUSYBOX_PATHS = ("/usr/bin/busybox", "/bin/busybox")
PAGE = b"<!doctype html><title>shop</title><p>Seven products.</p>\n"

CONTAINERD_CONFIGURATION = """\
version = 2
root = "{directory}/containerd"
state = "{directory}/containerd-state"
# "opt" would make a directory on the host's /opt.
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{directory}/containerd.sock"
[ttrpc]
  address = "{directory}/containerd.sock.ttrpc"
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running container engine.

    Attributes:
        client: Speaks to it; the demonstration's own eyes, not the daemon's.
        socket: Its API socket.
        data_root: Where the engine keeps its containers' logs.
    """

    client: docker.DockerClient
    socket: Path
    data_root: Path


@dataclass(frozen=True, slots=True)
class WebContainer:
    """A web server in a container.

    Attributes:
        container: As the engine knows it.
        port: Where the lab's host publishes it.
    """

    container: Container
    port: int

    @property
    def id(self) -> str:
        """The full container id."""
        return str(self.container.id)

    @property
    def log_file(self) -> Path:
        """The engine's log of what the container wrote."""
        return Path(self.container.attrs["LogPath"])

    def state(self) -> str:
        """What the engine says now: ``running``, ``paused`` and so on."""
        self.container.reload()
        return str(self.container.status)


def find_static_busybox() -> Path | None:
    """A busybox that needs no other file, so that it can be a whole image."""
    return next((Path(name) for name in BUSYBOX_PATHS if os.path.lexists(name) and _is_static(Path(name))), None)


def _is_static(program: Path) -> bool:
    """Whether an ELF file names no interpreter, by its program headers."""
    try:
        with program.open("rb") as file:
            header = file.read(64)
            if header[:5] != b"\x7fELF\x02":
                return False
            table, size, count = (int.from_bytes(header[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
            file.seek(table)
            interpreter = 3  # PT_INTERP
            return all(int.from_bytes(file.read(size)[:4], "little") != interpreter for _ in range(count))
    except OSError:
        return False


@contextlib.contextmanager
def start_engine(host: Namespace, directory: Path) -> Iterator[Engine]:
    """Runs containerd and dockerd below ``directory`` and ends them and their containers afterwards.

    Raises:
        LabError: One of them did not start.
    """
    directory.mkdir()
    configuration = directory / "containerd.toml"
    configuration.write_text(CONTAINERD_CONFIGURATION.format(directory=directory))
    control_groups = f"/{CONTROL_GROUP_PREFIX}{os.getpid()}"
    with contextlib.ExitStack() as stack:
        stack.callback(remove_control_groups, os.getpid())
        stack.enter_context(_without_trace(Path("/etc/docker/key.json")))
        containerd = stack.enter_context(
            _service(
                # Its own process and mount namespaces: what it starts ends with it, mounts included.
                host.command(
                    *(
                        "unshare",
                        "--mount",
                        "--propagation",
                        "private",
                        "--pid",
                        "--fork",
                        "--kill-child",
                        "--mount-proc",
                    ),
                    *(sys.executable, "-m", "ironpost.demo.enclosure", str(directory)),
                    *(find_program("containerd"), "--config", str(configuration)),
                ),
                directory / "containerd.output",
                directory / "containerd.sock",
            )
        )
        engine_socket = directory / "docker.sock"
        stack.enter_context(
            _service(
                _in_namespaces_of(
                    host,
                    containerd.pid,
                    *(
                        "dockerd",
                        "--config-file",
                        str(_empty_configuration(directory)),
                        "--host",
                        f"unix://{engine_socket}",
                    ),
                    *("--containerd", str(directory / "containerd.sock"), "--storage-driver", "vfs"),
                    *("--data-root", str(directory / "data"), "--exec-root", str(directory / "run")),
                    *("--pidfile", str(directory / "docker.pid"), "--bip", BRIDGE_ADDRESS, "--log-driver", "json-file"),
                    *("--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", control_groups),
                    *("--shutdown-timeout", "2", "--log-level", "warn"),
                ),
                directory / "dockerd.output",
                engine_socket,
            )
        )
        client = docker.DockerClient(base_url=f"unix://{engine_socket}", timeout=20)
        stack.callback(client.close)
        if not probe.wait_until(lambda: _answers(client), ENGINE_START_SECONDS):
            raise LabError(f"dockerd does not answer: {_tail(directory / 'dockerd.output')}")
        yield Engine(client, engine_socket, directory / "data")


def find_program(name: str) -> str:
    """The full path of a program that is often outside a user's search path.

    Raises:
        LabError: It is not installed.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        raise LabError(f"{name}: not installed", "apt-get install docker.io")
    return found


@contextlib.contextmanager
def _without_trace(file: Path) -> Iterator[None]:
    """Removes a file and its directory afterwards if they were not there before.

    dockerd before version 23 writes its identity to this fixed place.
    """
    new = [path for path in (file, file.parent) if not path.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in new:
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()


def _empty_configuration(directory: Path) -> Path:
    """The host's ``/etc/docker/daemon.json`` is for the host's engine."""
    path = directory / "daemon.json"
    path.write_text("{}\n")
    return path


def _in_namespaces_of(host: Namespace, unshare_pid: int, *arguments: str) -> list[str]:
    """The command line that joins the namespaces made by ``unshare --fork`` with this process id."""
    children = Path(f"/proc/{unshare_pid}/task/{unshare_pid}/children").read_text().split()
    if not children:
        raise LabError("containerd: ended while starting")
    joined = ["nsenter", f"--target={children[0]}", "--mount", "--pid", "--", *arguments]
    return host.command(*joined)


@contextlib.contextmanager
def _service(arguments: list[str], output_file: Path, ready: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a long-lived program; it has started when somebody listens on its socket."""
    with output_file.open("wb") as output:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        if not probe.wait_until(lambda: _listens(ready) or process.poll() is not None, ENGINE_START_SECONDS):
            raise LabError(f"nobody listens on {ready.name}: {_tail(output_file)}")
        if process.poll() is not None:
            raise LabError(f"{output_file.stem} ended while starting: {_tail(output_file)}")
        yield process
    finally:
        _end(process)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        return connection.connect_ex(str(path)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the program behind ``unshare`` or ``nsenter`` to end, and insists after a while."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(OSError, ValueError):
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGTERM)
    try:
        process.wait(ENGINE_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError, ValueError):
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        process.kill()
        process.wait(5)


def _tail(file: Path) -> str:
    lines = file.read_text(errors="replace").strip().splitlines() if file.exists() else []
    return " / ".join(lines[-3:]) or "it says nothing"


def _answers(client: docker.DockerClient) -> bool:
    try:
        return bool(client.ping())
    except (DockerException, OSError):
        return False


def remove_control_groups(run_pid: int) -> None:
    """Removes what the engine of a run left below its own control group; the kernel refuses what is still in use."""
    roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
    for root in roots:
        top = root / f"{CONTROL_GROUP_PREFIX}{run_pid}"
        if not top.is_dir():
            continue
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()


def _image(busybox: Path) -> bytes:
    """A file system with one program and one page, as a tar archive."""
    archive = io.BytesIO()
    files: Mapping[str, tuple[bytes, int]] = {
        "bin/busybox": (busybox.read_bytes(), 0o755),
        "www/index.html": (PAGE, 0o644),
        "etc/passwd": (b"www:x:1000:1000::/:/bin/false\n", 0o644),
    }
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("bin", "www", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def import_image(engine: Engine) -> None:
    """Brings the web server's image into the engine, made here from one static program.

    Raises:
        LabError: There is no static busybox, or the engine refused.
    """
    busybox = find_static_busybox()
    if busybox is None:
        raise LabError("busybox: no static one found", "apt-get install busybox-static")
    try:
        engine.client.api.import_image_from_data(_image(busybox), repository=IMAGE, tag="1")
    except (DockerException, OSError) as error:
        raise LabError(f"container engine: {error}") from error


def start_web_container(engine: Engine, host: Namespace, name: str, port: int) -> WebContainer:
    """Starts a web server and waits until it serves on a port of the lab's host.

    Raises:
        LabError: The engine refused, or the server does not answer.
    """
    try:
        container = engine.client.containers.run(
            f"{IMAGE}:1",
            ["/bin/busybox", "httpd", "-f", "-vv", "-p", f"0.0.0.0:{WEB_PORT_IN_CONTAINER}", "-h", "/www"],
            name=name,
            user="1000:1000",
            read_only=True,
            # The first process of a container ignores a signal it has no handler for, and busybox has none.
            stop_signal="SIGKILL",
            ports={f"{WEB_PORT_IN_CONTAINER}/tcp": port},
            detach=True,
        )
        container.reload()
    except (DockerException, OSError) as error:
        raise LabError(f"container engine: {error}") from error
    if not probe.wait_until(lambda: probe.http_status(host, host.v4, port, "/") == 200, 10):
        raise LabError(f"container {name}: does not answer on port {port}")
    return WebContainer(container, port)
