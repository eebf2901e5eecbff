"""A packet filter and a container engine in memory, and builders of nouns."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ironpost.enforcement import ContainerFacts
from ironpost.errors import ContainerError, ContainerNotFound, EngineUnavailable, FilterError
from ironpost.model import (
    ContainerIdentity,
    Decision,
    DecisionState,
    Detection,
    Entity,
    Mode,
    Severity,
    Verb,
)
from ironpost.system import FixedClock

MINUTE_NS = 60_000_000_000


class MemoryFilter:
    """The kernel's filter as a model: allow first, then the longest block, ended by boot clock."""

    def __init__(self, clock: FixedClock, capacity: int = 1_000_000) -> None:
        self.clock = clock
        self.capacity = capacity
        self.blocked: dict[str, tuple[int, int, int]] = {}
        self.allowed: set[str] = set()
        self.calls = 0
        self.broken = ""

    def _enter(self) -> None:
        self.calls += 1
        if self.broken:
            raise FilterError(self.broken, "attach it again")

    def block(self, entries: list[tuple[str, int, int, int]]) -> bytes:
        self._enter()
        refused = []
        for target, expires, rule, mode in entries:
            cidr = self._key(target)
            if cidr not in self.blocked and len(self.blocked) >= self.capacity:
                refused.append({"target": target, "reason": "the list is full"})
            else:
                self.blocked[cidr] = (expires, rule, mode)
        return self._report(len(entries) - len(refused), refused)

    def unblock(self, targets: list[str]) -> bytes:
        self._enter()
        refused = [
            {"target": target, "reason": "not blocked"}
            for target in targets
            if not self.blocked.pop(self._key(target), None)
        ]
        return self._report(len(targets) - len(refused), refused)

    def allow(self, targets: list[str]) -> bytes:
        self._enter()
        self.allowed.update(map(self._key, targets))
        return self._report(len(targets), [])

    def unallow(self, targets: list[str]) -> bytes:
        self._enter()
        self.allowed.difference_update(map(self._key, targets))
        return self._report(len(targets), [])

    @staticmethod
    def _key(target: str) -> str:
        """As in the kernel, IPv4 and its IPv6 form are one key."""
        network = ipaddress.ip_network(target)
        mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
        return f"{mapped}/{network.prefixlen - 96}" if mapped and network.prefixlen >= 96 else str(network)

    @staticmethod
    def _report(written: int, refused: list[dict[str, str]]) -> bytes:
        return json.dumps({"written": written, "refused": refused}).encode()

    def list_blocked(self) -> bytes:
        self._enter()
        now = self.clock.boot_ns()
        return json.dumps(
            [
                {"target": cidr, "expires_boot_ns": end, "mode": mode, "expired": 0 < end <= now}
                for cidr, (end, _, mode) in self.blocked.items()
            ]
        ).encode()

    def list_allowed(self) -> bytes:
        self._enter()
        return json.dumps([{"target": cidr} for cidr in sorted(self.allowed)]).encode()

    def drops(self, address: str) -> bool:
        """Says whether a packet from there would be dropped now."""
        source = ipaddress.ip_address(address)
        if any(source in ipaddress.ip_network(cidr) for cidr in self.allowed):
            return False
        hits = [ipaddress.ip_network(cidr) for cidr in self.blocked if source in ipaddress.ip_network(cidr)]
        if not hits:
            return False
        expires, _, mode = self.blocked[str(max(hits, key=lambda network: network.prefixlen))]
        return mode == 1 and (expires == 0 or expires > self.clock.boot_ns())


@dataclass
class MemoryEngine:
    """A container engine in memory. ``script`` holds what the next calls raise, by verb."""

    containers: dict[str, ContainerFacts] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    before: Callable[[str], None] = lambda _: None
    static_networks: set[str] = field(default_factory=set)

    def add(self, name: str, **facts: Any) -> ContainerIdentity:
        identity = container(name, **{key: facts.pop(key) for key in ("labels", "image") if key in facts})
        facts.setdefault("networks", {"bridge": {"IPAddress": "172.17.0.2"}})
        self.containers[identity.id] = ContainerFacts(identity, facts.pop("status", "running"), **facts)
        return identity

    def change(self, container_id: str, **facts: Any) -> None:
        self.containers[container_id] = dataclasses.replace(self.containers[container_id], **facts)

    def _enter(self, verb: str, container_id: str, *rest: str) -> ContainerFacts:
        self.before(verb)
        self.calls.append((verb, container_id, *rest))
        if self.failures.get(verb):
            raise self.failures[verb].pop(0)
        if container_id not in self.containers:
            raise ContainerNotFound(f"{container_id[:12]}: the container is gone", container=container_id)
        return self.containers[container_id]

    def inspect(self, container: str) -> ContainerFacts:
        return self._enter("inspect", container)

    def running(self) -> list[str]:
        return [key for key, facts in self.containers.items() if facts.is_running]

    def pause(self, container: str) -> None:
        if self._enter("pause", container).status == "paused":
            raise ContainerError("already paused")
        self.change(container, status="paused")

    def unpause(self, container: str) -> None:
        if self._enter("unpause", container).status != "paused":
            raise ContainerError("not paused")
        self.change(container, status="running")

    def stop(self, container: str) -> None:
        facts = self._enter("stop", container)
        policy = facts.restart_policy.get("Name", "no")
        self.change(container, status="running" if policy == "always" else "exited")

    kill = stop

    def start(self, container: str) -> None:
        self._enter("start", container)
        self.change(container, status="running")

    def set_restart_policy(self, container: str, policy: Mapping[str, Any]) -> None:
        self._enter("set_restart_policy", container, str(policy["Name"]))
        self.change(container, restart_policy=dict(policy))

    def disconnect(self, container: str, network: str) -> None:
        facts = self._enter("disconnect", container, network)
        self.change(container, networks={name: end for name, end in facts.networks.items() if name != network})

    def connect(self, container: str, network: str, endpoint: Mapping[str, Any]) -> None:
        facts = self._enter("connect", container, network)
        if endpoint.get("ipv4_address") and network not in self.static_networks:
            raise ContainerError("user specified IP address is supported only on networks with configured subnets")
        settings = {"Aliases": list(endpoint.get("aliases", [])), "IPAddress": endpoint.get("ipv4_address", "new")}
        self.change(container, networks={**facts.networks, network: settings})


def unavailable() -> EngineUnavailable:
    return EngineUnavailable("the container engine does not answer", hint="start it")


def container(name: str, **facts: Any) -> ContainerIdentity:
    digits = name.encode().hex()
    return ContainerIdentity(
        id=(digits * 64)[:64],
        created="2026-01-01T00:00:00.000000001Z",
        started_at="2026-01-01T00:00:01.000000001Z",
        name=name,
        image=facts.get("image", "web:1"),
        labels=facts.get("labels", {}),
    )


def detection(number: int = 1, **facts: Any) -> Detection:
    defaults: dict[str, Any] = {
        "id": f"{number:032x}",
        "rule_id": "ssh_brute_force",
        "rule_title": "SSH brute force",
        "level": Severity.HIGH,
        "kind": "correlation",
        "timestamp": 1_700_000_000_000_000_000 + number,
        "entity": Entity("source.ip", "203.0.113.7"),
        "evidence": (f"line {number}",),
        "trace_id": f"{number:032x}",
        "trust": "host",
        "source": "file:/var/log/auth.log",
        "tags": ("attack.t1110",),
    }
    return Detection(**(defaults | facts))


def decision(target: str = "203.0.113.7", verb: Verb = Verb.BAN, **facts: Any) -> Decision:
    defaults: dict[str, Any] = {
        "id": Decision.identify("policy", "alert", verb, target, str(facts.get("created_at", 0))),
        "verb": verb,
        "target": target,
        "scope": "container" if verb.is_on_container else "ip",
        "mode": Mode.ENFORCE,
        "state": DecisionState.PENDING,
        "policy_id": "policy",
        "alert_ids": ("a" * 32,),
        "created_at": FixedClock().wall,
        "expires_at": FixedClock().wall + 10 * MINUTE_NS,
        "trace_id": "t" * 32,
    }
    return Decision(**(defaults | facts))
