"""What is wrong, where, and since when: faults per module, and the worst of them as the daemon's health."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Health(IntEnum):
    """Ordered: the worst wins."""

    HEALTHY = 0
    DEGRADED = 1
    UNHEALTHY = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        health: How bad.
        reason: What, in one sentence without a full stop.
        remedy: What to do about it; may be empty.
    """

    health: Health
    reason: str
    remedy: str = ""


@dataclass(slots=True)
class Module:
    """One module and its present faults."""

    name: str
    type: str
    enabled: bool
    faults: dict[str, Fault] = field(default_factory=dict)

    @property
    def health(self) -> Health:
        """Returns the worst of the faults."""
        return max((fault.health for fault in self.faults.values()), default=Health.HEALTHY)

    def to_json(self) -> dict[str, Any]:
        """Returns the module's row of ``status``."""
        faults = sorted(self.faults.values(), key=lambda fault: -fault.health)
        return {
            "name": self.name,
            "type": self.type,
            "enabled": self.enabled,
            "status": str(self.health) if self.enabled else "disabled",
            "reason": "; ".join(fault.reason for fault in faults),
            "problems": [{"status": str(f.health), "reason": f.reason, "remedy": f.remedy} for f in faults],
        }


class HealthBoard:
    """The modules of the daemon in the order in which they start: producers first."""

    def __init__(self, on_change: Callable[[Module, Fault | None], None] | None = None) -> None:
        self._modules: dict[str, Module] = {}
        self._on_change = on_change

    def add(self, name: str, kind: str, *, enabled: bool) -> None:
        """Adds a module."""
        self._modules[name] = Module(name, kind, enabled)

    def report(self, module: str, key: str, health: Health, reason: str, remedy: str = "") -> None:
        """Notes a fault; the same key again replaces it.

        Args:
            module: Name of the module.
            key: What the fault is about, for example ``source file:/var/log/auth.log``.
            health: Degraded or unhealthy.
            reason: What is wrong.
            remedy: What to do about it.
        """
        entry = self._modules[module]
        fault = Fault(health, reason, remedy)
        if entry.faults.get(key) == fault:
            return
        entry.faults[key] = fault
        if self._on_change is not None:
            self._on_change(entry, fault)

    def clear(self, module: str, key: str) -> None:
        """Removes a fault that is over."""
        entry = self._modules[module]
        if entry.faults.pop(key, None) is not None and self._on_change is not None:
            self._on_change(entry, None)

    def faults(self, module: str) -> dict[str, Fault]:
        """Returns a module's present faults by key."""
        return dict(self._modules[module].faults)

    @property
    def health(self) -> Health:
        """Returns the worst health of the enabled modules."""
        return max((m.health for m in self._modules.values() if m.enabled), default=Health.HEALTHY)

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the modules in their order."""
        return [module.to_json() for module in self._modules.values()]
