"""What the demonstration needs on this host, and the one command that brings what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ironpost.demo import docker_lab, lab, sshd

#: Program → Debian package. util-linux (nsenter, unshare, setpriv) is part of every Debian.
NETWORK_PROGRAMS = {
    "ip": "iproute2",
    "ping": "iputils-ping",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
CONTAINER_PROGRAMS = {
    "containerd": "containerd",
    "dockerd": "docker.io",
    "docker-proxy": "docker.io",
    "iptables": "iptables",
    "runc": "runc",
    "unshare": "util-linux",
}
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Missing:
    """Something the host lacks.

    Attributes:
        thing: What.
        remedy: What to do about it.
        packages: Debian packages that bring it.
    """

    thing: str
    remedy: str
    packages: tuple[str, ...] = ()


def missing(*, with_containers: bool) -> list[Missing]:
    """Lists everything that keeps the demonstration from running here."""
    if os.geteuid() != 0:
        return [Missing("root", "run it as root: it makes network namespaces and loads a packet filter")]
    programs = NETWORK_PROGRAMS | (CONTAINER_PROGRAMS if with_containers else {})
    found = [
        Missing(f"program {name}", "", (package,))
        for name, package in programs.items()
        if shutil.which(name, path=SEARCH_PATH) is None
    ]
    if with_containers and docker_lab.find_static_busybox() is None:
        found.append(Missing("a static busybox", "", ("busybox-static",)))
    if shutil.which("ssh") is not None and not sshd.client_can_ask_without_terminal():
        found.append(Missing("OpenSSH 8.4 or newer (SSH_ASKPASS_REQUIRE)", "", ("openssh-client",)))
    if not any(item.thing in {"program ip", "program nsenter"} for item in found):
        found += _kernel()
    return found


def _kernel() -> list[Missing]:
    """Whether the kernel lets us make what the lab is made of."""
    found = []
    if not Path("/proc/self/ns/net").exists():
        found.append(Missing("network namespaces", "boot a kernel with CONFIG_NET_NS"))
    name = f"{lab.NAME_PREFIX}-{os.getpid()}-trial"
    try:
        lab.run_command(["ip", "netns", "add", name])
        lab.run_command(["ip", "-n", name, "link", "add", "trial0", "type", "veth", "peer", "name", "trial1"])
        lab.run_command(["ip", "-n", name, "link", "add", "trial2", "type", "bridge"])
    except lab.LabError as error:
        found.append(
            Missing(f"veth pairs and bridges in a namespace ({error})", "allow CAP_NET_ADMIN and CAP_SYS_ADMIN")
        )
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=10, check=False)
    if "\tbpf\n" not in Path("/proc/filesystems").read_text():
        found.append(Missing("the bpf file system", "boot a kernel with CONFIG_BPF_SYSCALL"))
    return found


def explain(items: list[Missing]) -> str:
    """What to print: each missing thing, then one command for all packages."""
    lines = [f"error: the demonstration cannot run here, it lacks {len(items)} thing(s)"]
    lines += [f"  - {item.thing}" + (f": {item.remedy}" if item.remedy else "") for item in items]
    packages = sorted({package for item in items for package in item.packages})
    if packages:
        lines.append(f"hint: apt-get install --no-install-recommends {' '.join(packages)}")
    return "\n".join(lines)
