"""The demonstration's own small network: namespaces, links, addresses, sockets inside them.

Shape of the lab (every run has its own names; no link, address or route is made in the host's own namespace)::

    attacker ─┐
    bystander ─┤
    allowed  ─┼─ switch (bridge) ── host: wan0, the XDP filter, sshd, the daemon, the container engine
    scanner  ─┤
    visitor  ─┘

The watched side is *one* interface in *one* namespace. A process enters that namespace with ``nsenter --net`` and
nothing else: ``ip netns exec`` would also give it a fresh ``/sys`` and so hide the pins of the filter, while the
mount namespace has to stay the one of the caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ironpost.errors import IronpostError

Result = TypeVar("Result")

CLONE_NEWNET = 0x4000_0000
NAMESPACE_DIRECTORY = Path("/run/netns")
#: Names begin with this and the process id of their run, so that a later run can tell leftovers from neighbours.
NAME_PREFIX = "ipdemo"
#: TEST-NET-2 and the documentation prefix: the addresses exist inside the lab's namespaces only.
NETWORK_V4 = ipaddress.IPv4Network("198.51.100.0/24")
NETWORK_V6 = ipaddress.IPv6Network("2001:db8:1909::/64")
WATCHED_INTERFACE = "wan0"
CLIENTS = {"attacker": 66, "bystander": 20, "allowed": 30, "scanner": 77, "visitor": 88}
COMMAND_TIMEOUT_SECONDS = 15
#: No address of a lab may wait for duplicate detection or come from an advertisement.
NO_AUTOMATIC_V6 = {"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/default/accept_ra": "0"}
#: Whether this kernel speaks IPv6; without it the lab has IPv4 only.
IPV6 = Path("/proc/net/if_inet6").exists()


class LabError(IronpostError):
    """A part of the demonstration could not be built."""


def run_command(
    arguments: Sequence[str],
    *,
    timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Runs a command to its end and returns its standard output.

    Raises:
        LabError: It does not exist, failed, or took too long.
    """
    try:
        done = subprocess.run(
            list(arguments),
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(arguments)}: {error}") from error
    if done.returncode != 0:
        raise LabError(f"{' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace with one address per family.

    Attributes:
        name: As ``ip netns list`` shows it.
        v4: Its main IPv4 address.
        v6: Its main IPv6 address.
    """

    name: str
    v4: ipaddress.IPv4Address
    v6: ipaddress.IPv6Address

    @property
    def path(self) -> Path:
        """The file that keeps the namespace."""
        return NAMESPACE_DIRECTORY / self.name

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs ``arguments`` in this namespace and in no other new one.

        ``setpriv --pdeathsig`` ends the child when the demonstration is killed in a way it can't clean up after.
        """
        return ["setpriv", "--pdeathsig", "KILL", "--", "nsenter", f"--net={self.path}", "--", *arguments]

    def inside(self, function: Callable[[], Result]) -> Result:
        """Calls ``function`` in a short-lived thread that has entered the namespace.

        A socket keeps the namespace it was made in, so what this returns can be used from any thread.
        """
        results: list[Result] = []
        failures: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if libc.setns(descriptor, CLONE_NEWNET) != 0:
                        number = ctypes.get_errno()
                        raise OSError(number, os.strerror(number), str(self.path))
                finally:
                    os.close(descriptor)
                results.append(function())
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread below
                failures.append(error)

        thread = threading.Thread(target=enter_and_call, name=f"enter-{self.name}", daemon=True)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A new socket that lives in this namespace."""
        return self.inside(lambda: socket.socket(family, kind, protocol))


@dataclass(frozen=True, slots=True)
class Lab:
    """All namespaces of one run.

    Attributes:
        host: Where the filter, sshd, the daemon and the containers live.
        switch: Only a bridge.
        clients: By role.
    """

    host: Namespace
    switch: Namespace
    clients: dict[str, Namespace]

    @property
    def attacker(self) -> Namespace:
        """Guesses passwords."""
        return self.clients["attacker"]

    @property
    def bystander(self) -> Namespace:
        """Does nothing wrong."""
        return self.clients["bystander"]

    @property
    def allowed(self) -> Namespace:
        """Guesses passwords too, but stands on the allow list."""
        return self.clients["allowed"]

    @property
    def scanner(self) -> Namespace:
        """Tries one port after the other."""
        return self.clients["scanner"]

    @property
    def visitor(self) -> Namespace:
        """Sends a web server what it should not."""
        return self.clients["visitor"]

    def give_network(self, client: Namespace, network: ipaddress.IPv4Network) -> None:
        """Gives a client a whole network to send from, so that it can be many attackers."""
        run_command(["ip", "-n", client.name, "route", "add", "local", str(network), "dev", "lo"])
        run_command(["ip", "-n", self.host.name, "route", "add", str(network), "via", str(client.v4)])


def _namespace(name: str, number: int) -> Namespace:
    return Namespace(name, NETWORK_V4[number], NETWORK_V6[number])


def _add_namespace(stack: contextlib.ExitStack, name: str, number: int) -> Namespace:
    namespace = _namespace(name, number)
    run_command(["ip", "netns", "add", name])
    stack.callback(remove_namespace, name)
    if IPV6:
        namespace.inside(lambda: _write_settings(NO_AUTOMATIC_V6))
    run_command(["ip", "-n", name, "link", "set", "lo", "up"])
    return namespace


def _write_settings(settings: dict[str, str]) -> None:
    for key, value in settings.items():
        (Path("/proc/sys") / key).write_text(value)


def _plug(switch: Namespace, namespace: Namespace, interface: str, port: str) -> None:
    """Connects a namespace to the switch and gives it its addresses."""
    pair = [
        "ip",
        "link",
        "add",
        interface,
        "netns",
        namespace.name,
        "type",
        "veth",
        "peer",
        "name",
        port,
        "netns",
        switch.name,
    ]
    run_command(pair)
    run_command(["ip", "-n", switch.name, "link", "set", port, "master", "bridge0", "up"])
    add_address = ["ip", "-n", namespace.name, "address", "add"]
    run_command([*add_address, f"{namespace.v4}/{NETWORK_V4.prefixlen}", "dev", interface])
    if IPV6:
        run_command([*add_address, f"{namespace.v6}/{NETWORK_V6.prefixlen}", "dev", interface, "nodad"])
    run_command(["ip", "-n", namespace.name, "link", "set", interface, "up"])


@contextlib.contextmanager
def build() -> Iterator[Lab]:
    """Builds the lab and removes it again, whatever happens in between."""
    run_name = f"{NAME_PREFIX}-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        switch = _add_namespace(stack, f"{run_name}-switch", 254)
        run_command(["ip", "-n", switch.name, "link", "add", "bridge0", "type", "bridge", "mcast_snooping", "0"])
        run_command(["ip", "-n", switch.name, "link", "set", "bridge0", "up"])
        host = _add_namespace(stack, f"{run_name}-host", 1)
        _plug(switch, host, WATCHED_INTERFACE, "to-host")
        clients = {}
        for role, number in CLIENTS.items():
            clients[role] = _add_namespace(stack, f"{run_name}-{role}", number)
            _plug(switch, clients[role], "eth0", f"to-{role}")
        yield Lab(host, switch, clients)


def remove_namespace(name: str) -> None:
    """Ends what still runs in a namespace and removes it; its links and firewall rules go with it."""
    listed = subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SECONDS, check=False
    )
    for pid in listed.stdout.split():
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=COMMAND_TIMEOUT_SECONDS, check=False)


def remove_leftovers() -> list[str]:
    """Removes namespaces of earlier runs whose process is gone (killed before it could clean up)."""
    removed: list[str] = []
    if not NAMESPACE_DIRECTORY.is_dir():
        return removed
    for entry in sorted(NAMESPACE_DIRECTORY.iterdir()):
        found = re.fullmatch(rf"{NAME_PREFIX}-(\d+)-[a-z]+", entry.name)
        if found and not Path("/proc", found[1]).exists():
            remove_namespace(entry.name)
            removed.append(entry.name)
    return removed
