"""Store, filter, engine and executor, wired as a daemon wires them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ironpost.decisions import Protections
from ironpost.enforcement import (
    ContainerEnforcer,
    ContainerRuntime,
    EnforcerRegistry,
    Executor,
    Responder,
    XdpEnforcer,
)
from ironpost.errors import IronpostError
from ironpost.model import ActionRecord, Decision, DecisionState
from ironpost.storage import Store
from ironpost.system import FixedClock
from support.response import MemoryEngine, MemoryFilter


@dataclass
class House:
    """One host; ``stop`` and ``start`` are a restart of the daemon."""

    path: Path
    clock: FixedClock = field(default_factory=FixedClock)
    configured: tuple[str, ...] = ()
    runtime: ContainerRuntime | None = None
    records: list[ActionRecord] = field(default_factory=list)
    expired: list[Decision] = field(default_factory=list)
    problems: list[IronpostError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.filter = MemoryFilter(self.clock)
        self.engine = MemoryEngine()
        self.start()

    def start(self) -> None:
        """A daemon starts: everything in memory is new, filter, engine and file are what they were."""
        self.store = Store(self.path)
        self.protections = Protections(
            clock=self.clock, configured=self.configured, entries=self.store.allow_entries, host=tuple, own_container=""
        )
        self.xdp = XdpEnforcer(self.filter)
        self.containers = ContainerEnforcer(self.runtime or self.engine)
        self.registry = EnforcerRegistry([self.xdp, self.containers])
        self.executor = Executor(
            self.store,
            self.registry,
            self.protections,
            clock=self.clock,
            backoff_seconds=0,
            on_record=self.records.append,
            on_expired=self.expired.append,
            on_problem=self.problems.append,
        )
        self.responder = Responder(
            self.executor,
            self.store,
            self.registry,
            self.protections,
            clock=self.clock,
            allowed_networks=lambda: [protection.network for protection in self.protections.networks()],
            xdp=self.xdp,
        )

    def stop(self) -> None:
        self.store.close()
        self.containers.close()

    def reboot(self) -> None:
        self.stop()
        self.filter.blocked.clear()
        self.filter.allowed.clear()
        self.clock.boot = 5
        self.clock.boot_name = "boot-2"
        self.start()

    def add(self, *decisions: Decision) -> None:
        self.store.add_decisions(decisions)

    def state(self, made: Decision) -> DecisionState:
        found = self.store.decision(made.id)
        assert found is not None
        return found.state

    def reason(self, made: Decision) -> str:
        found = self.store.decision(made.id)
        assert found is not None
        return found.reason
