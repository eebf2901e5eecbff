"""What this host offers and lacks, each with its remedy. Looks only; changes nothing."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ironpost.config import Loaded, client_sockets, decide_places, parse_bind
from ironpost.errors import DaemonUnreachable, IronpostError
from ironpost.ownership import setting_doubt
from ironpost.pipeline.client import ControlClient
from ironpost.pipeline.sources import HostFacts, plan_sources

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39, "CAP_SYS_ADMIN": 21}
_NEEDED_FREE_BYTES = 100 * 1024 * 1024
_WISHED_FREE_BYTES = 1024 * 1024 * 1024
_CLOCK_UNSYNCHRONISED = 0x40


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        check: Short name.
        status: ``ok``, ``warn`` (works with less) or ``fail`` (something configured can't work).
        detail: What was found.
        remedy: What to do; empty when nothing is to be done.
    """

    check: str
    status: str
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Returns the finding as a JSON object."""
        return {"check": self.check, "status": self.status, "detail": self.detail, "remedy": self.remedy}


def diagnose(loaded: Loaded, *, environment: Mapping[str, str]) -> list[Finding]:
    """Runs every check; one that fails unexpectedly becomes a finding itself."""
    checks: list[Callable[[Loaded, Mapping[str, str]], Iterator[Finding]]] = [
        _kernel,
        _capabilities,
        _bpf_file_system,
        _interfaces,
        _docker,
        _logs,
        _ports,
        _data_dir,
        _rules,
        _clock,
    ]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check(loaded, environment)
        except (OSError, ValueError, IronpostError, subprocess.SubprocessError) as error:
            hint = error.hint if isinstance(error, IronpostError) else ""
            findings.append(Finding(check.__name__.strip("_"), "fail", str(error), hint))
    return findings


def _lack(loaded: Loaded) -> str:
    """A missing piece of the filter is only a failure when the filter was asked for."""
    return "fail" if loaded.config.ebpf.enabled else "warn"


def _kernel(loaded: Loaded, _environment: Mapping[str, str]) -> Iterator[Finding]:
    if platform.system() != "Linux":
        yield Finding("kernel", "warn", f"{platform.system()} has no XDP", "logs are watched; the filter needs Linux")
        return
    release = platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version >= (5, 8):
        yield Finding("kernel", "ok", f"Linux {release}")
    else:
        yield Finding(
            "kernel", _lack(loaded), f"Linux {release} is older than 5.8", "use a newer kernel for the filter"
        )
    if Path("/sys/kernel/btf/vmlinux").exists():
        yield Finding("btf", "ok", "the kernel describes its types (/sys/kernel/btf/vmlinux)")
    else:
        yield Finding("btf", "warn", "no /sys/kernel/btf/vmlinux", "use a kernel built with CONFIG_DEBUG_INFO_BTF")


def _capabilities(loaded: Loaded, _environment: Mapping[str, str]) -> Iterator[Finding]:
    status = Path("/proc/self/status")
    if not status.exists():
        return
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status.read_text("ascii", "replace"), re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    held = {name for name, bit in _CAPABILITIES.items() if effective >> bit & 1}
    missing = [name for name in ("CAP_BPF", "CAP_NET_ADMIN") if name not in held and "CAP_SYS_ADMIN" not in held]
    if "CAP_NET_ADMIN" not in held and "CAP_NET_ADMIN" not in missing:
        missing.append("CAP_NET_ADMIN")
    if missing:
        yield Finding(
            "privilege",
            _lack(loaded),
            f"missing {' and '.join(missing)}: no packet filter",
            "run as root, or give the service these capabilities (AmbientCapabilities in systemd)",
        )
    else:
        yield Finding("privilege", "ok", "CAP_BPF and CAP_NET_ADMIN are there")


def _bpf_file_system(loaded: Loaded, _environment: Mapping[str, str]) -> Iterator[Finding]:
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return
    kinds = [line.split()[1:3] for line in mounts.read_text("utf-8", "replace").splitlines()]
    wanted = Path(loaded.config.ebpf.pin_dir)
    if any(kind == "bpf" and wanted.is_relative_to(place) for place, kind in kinds):
        yield Finding("bpffs", "ok", f"a BPF file system holds {wanted}")
    else:
        yield Finding(
            "bpffs",
            _lack(loaded),
            f"no BPF file system is mounted for {wanted}",
            "mount -t bpf bpf /sys/fs/bpf (systemd does it at boot)",
        )


def _interfaces(loaded: Loaded, _environment: Mapping[str, str]) -> Iterator[Finding]:
    present = {name for _, name in socket.if_nameindex()}
    wanted = [name.strip() for name in loaded.config.ebpf.interface.split(",")]
    if loaded.config.ebpf.enabled:
        for name in wanted:
            if name not in present and name != "auto":
                yield Finding(
                    f"interface {name}",
                    "fail",
                    "no such interface",
                    f"set ebpf.interface to one of {', '.join(sorted(present))}",
                )
    program = shutil.which("ip")
    if program is None:
        yield Finding("xdp", "warn", "can't see XDP programs: ip is missing", "install iproute2")
        return
    reply = subprocess.run([program, "-json", "link", "show"], capture_output=True, check=True, timeout=10)
    for link in json.loads(reply.stdout or b"[]"):
        owner = link.get("xdp")
        name = str(link.get("ifname", "?"))
        if not owner:
            if name in wanted:
                yield Finding(f"xdp {name}", "ok", "free")
            continue
        program_name = str((owner.get("prog") or {}).get("name", ""))
        mode = {1: "native", 2: "skb", 3: "hw"}.get(owner.get("mode"), str(owner.get("mode")))
        if program_name.startswith("ironpost"):
            yield Finding(f"xdp {name}", "ok", f"our filter is attached ({mode})")
        else:
            status = _lack(loaded) if name in wanted else "warn"
            yield Finding(
                f"xdp {name}",
                status,
                f"another XDP program is attached ({program_name or 'unnamed'}, {mode}); Ironpost never replaces it",
                f"detach it with its own tool, or `ip link set dev {name} xdp off`",
            )


def _docker(loaded: Loaded, _environment: Mapping[str, str]) -> Iterator[Finding]:
    path = loaded.config.container.docker_socket
    wanted = loaded.config.container.enabled or "docker" in loaded.config.log_pipeline.sources
    lack = "fail" if wanted else "warn"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine:
            engine.settimeout(3)
            engine.connect(path)
            engine.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            reply = engine.recv(4096)
    except FileNotFoundError:
        yield Finding("docker", lack, f"no engine socket at {path}", "install and start Docker to guard containers")
    except OSError as error:
        remedy = "run as root" if error.errno == errno.EACCES else "start the Docker engine"
        yield Finding("docker", lack, f"{path}: {error.strerror or error}", remedy)
    else:
        answered = b" 200 " in reply.split(b"\r\n", 1)[0]
        text = "the engine answers" if answered else "something else answers"
        yield Finding(
            "docker", "ok" if answered else lack, f"{path}: {text}", "" if answered else "check container.docker_socket"
        )


def _logs(loaded: Loaded, _environment: Mapping[str, str]) -> Iterator[Finding]:
    facts = HostFacts()
    plan = plan_sources(loaded, facts=facts, packets=False)
    if plan.watching:
        yield Finding("logs", "ok", f"readable: {', '.join(plan.watching)}")
    elif loaded.config.log_pipeline.enabled:
        yield Finding(
            "logs",
            "warn",
            "no log file or journal of this host is readable",
            "install rsyslog, or send syslog to the port below",
        )
    for problem in plan.problems:
        yield Finding(problem.source, "fail", problem.reason, problem.remedy)
    for doubted in plan.doubted:
        yield Finding(doubted.source, "warn", doubted.reason, doubted.remedy)
    if facts.journal and "journal" in loaded.config.log_pipeline.sources:
        journal = subprocess.run(
            ["/usr/bin/journalctl", "--lines=1", "--quiet", "--output=short-unix"],
            capture_output=True,
            check=False,
            timeout=20,
        )
        if journal.returncode == 0 and journal.stdout:
            yield Finding("journal", "ok", "readable")
        else:
            yield Finding(
                "journal", "warn", "the journal gives no entry to this user", "join the group systemd-journal"
            )


def _ports(loaded: Loaded, environment: Mapping[str, str]) -> Iterator[Finding]:
    try:
        with ControlClient(client_sockets(loaded, environment=environment), timeout_seconds=3) as client:
            client.request("status")
        yield Finding("daemon", "ok", "running; its ports are its own")
    except DaemonUnreachable:
        plan = plan_sources(loaded, facts=HostFacts(), packets=False)
        for address in plan.listening:
            protocol, _, bind = address.partition(":")
            yield _try_socket(bind) if protocol == "unix" else _try_bind(protocol, bind)


def _try_bind(protocol: str, bind: str) -> Finding:
    host, port = parse_bind(bind)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind) as probe:
        if protocol == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            key = "syslog_bind" if protocol == "udp" else "syslog_tcp_bind"
            remedy = "run as root" if error.errno == errno.EACCES else f"free it, or set log_pipeline.{key}"
            return Finding(f"{protocol} {bind}", "fail", error.strerror or str(error), remedy)
    return Finding(f"{protocol} {bind}", "ok", "free")


def _try_socket(path: str) -> Finding:
    """Says whether the daemon can make its socket; a stale one of this user is replaced at the start."""
    place = Path(path)
    if place.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            if probe.connect_ex(path) != errno.ECONNREFUSED:
                remedy = "stop the program that made it, or set log_pipeline.syslog_unix_path"
                return Finding(f"unix {path}", "fail", "a program listens there", remedy)
    elif place.exists() or place.is_symlink():
        return Finding(f"unix {path}", "fail", "something else is there", "set log_pipeline.syslog_unix_path")
    if not os.access(place.parent, os.W_OK):
        remedy = f"make {place.parent}, or run as root" if not place.parent.exists() else "run as root"
        return Finding(f"unix {path}", "fail", f"{place.parent} can't be written", remedy)
    return Finding(f"unix {path}", "ok", "free")


def _data_dir(loaded: Loaded, environment: Mapping[str, str]) -> Iterator[Finding]:
    places = decide_places(loaded, environment=environment)
    for notice in places.notices:
        yield Finding("data directory", "warn", notice, "run as root, or set general.data_dir")
    existing = places.data_dir
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    size = f"{free / 1024**3:.1f} GiB free at {places.data_dir}"
    if free < _NEEDED_FREE_BYTES:
        yield Finding("disk", "fail", size, "free some space: alerts could not be stored")
    else:
        yield Finding("disk", "ok" if free >= _WISHED_FREE_BYTES else "warn", size)


def _rules(loaded: Loaded, environment: Mapping[str, str]) -> Iterator[Finding]:
    places = decide_places(loaded, environment=environment)
    for name, directories, endings in (
        ("rules", places.rule_dirs, ("*.yml", "*.yaml")),
        ("policies", places.policy_dirs, ("*.toml",)),
    ):
        files = [file for directory in directories for ending in endings for file in directory.rglob(ending)]
        count = len(files)
        where = ", ".join(str(directory) for directory in directories)
        if count:
            yield Finding(name, "ok", f"{count} files in {where}")
        else:
            yield Finding(name, "warn", f"no files in {where}", "nothing is detected or answered without them")
        for file in files:
            if (doubt := setting_doubt(file)) is not None:
                yield Finding(name, "fail", f"{file} is not used: {doubt}", doubt.remedy)


def _clock(_loaded: Loaded, _environment: Mapping[str, str]) -> Iterator[Finding]:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex"):
        return
    # struct timex begins: unsigned modes; long offset, freq, maxerror, esterror; int status. Modes 0 only reads.
    buffer = ctypes.create_string_buffer(512)
    libc.adjtimex(buffer)
    (status,) = struct.unpack_from("@i", buffer, struct.calcsize("@Illll"))
    if status & _CLOCK_UNSYNCHRONISED:
        yield Finding(
            "clock",
            "warn",
            "not synchronised: times of events may be off",
            "run a time service (systemd-timesyncd, chrony)",
        )
    else:
        yield Finding("clock", "ok", "synchronised")
