"""What to do about an alert, on whom, why and until when; and the record of each attempt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from ironpost.model import times
from ironpost.model.entity import ContainerIdentity

MANUAL_POLICY = "manual"
"""Policy id of decisions an operator made by hand."""


class Verb(StrEnum):
    """What is done."""

    BAN = "ban"
    RATE_LIMIT = "rate_limit"
    PAUSE = "pause"
    STOP = "stop"
    KILL = "kill"
    DISCONNECT = "disconnect"
    QUARANTINE = "quarantine"
    NOTIFY = "notify"

    @property
    def is_on_container(self) -> bool:
        """Says whether the target is a container."""
        return self in {Verb.PAUSE, Verb.STOP, Verb.KILL, Verb.DISCONNECT, Verb.QUARANTINE}


class Mode(StrEnum):
    """How far a policy may go; ordered by :attr:`rank`."""

    OBSERVE = "observe"
    ASK = "ask"
    ENFORCE = "enforce"

    @property
    def rank(self) -> int:
        """0 for observe, 1 for ask, 2 for enforce."""
        return ("observe", "ask", "enforce").index(self.value)


class DecisionState(StrEnum):
    """Where a decision stands. ``pending`` and ``active`` are live; the others are ends."""

    PENDING = "pending"
    ACTIVE = "active"
    OBSERVED = "observed"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"
    UNDONE = "undone"


LIVE_STATES = (DecisionState.PENDING, DecisionState.ACTIVE)


@dataclass(frozen=True, slots=True)
class Decision:
    """One act on one target, stored before it is carried out.

    Attributes:
        id: 32 hexadecimal digits; the same policy, alert, verb, target and deciding detection give the same id.
        target: Address or network in its normal form, or a full container id.
        scope: ``ip``, ``range`` or ``container``.
        created_at: Nanoseconds, wall clock.
        expires_at: Nanoseconds, wall clock; ``None`` means until undone.
        reason: Why it was refused, failed or ended; “would have …” when observed.
        expires_boot_ns: Deadline by boot clock, set when it is carried out; valid only within :attr:`boot_id`.
        parameters: What the action of the policy asks for, for example ``{"networks": ["*"]}``.
        restoration: What ``undo`` needs to put back, stored before the act.
    """

    id: str
    verb: Verb
    target: str
    scope: str
    mode: Mode
    state: DecisionState
    policy_id: str
    alert_ids: tuple[str, ...]
    created_at: int
    expires_at: int | None
    trace_id: str = ""
    reason: str = ""
    priority: int = 100
    container: ContainerIdentity | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    restoration: Mapping[str, Any] | None = None
    enforced_until: int | None = None
    expires_boot_ns: int | None = None
    boot_id: str = ""

    @staticmethod
    def identify(policy_id: str, alert_id: str, verb: Verb, target: str, detection_id: str) -> str:
        """Returns the id that these parts always give."""
        parts = ("decision", policy_id, alert_id, verb.value, target, detection_id)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    @property
    def is_live(self) -> bool:
        """Says whether it waits to be carried out or is in force."""
        return self.state in LIVE_STATES

    def to_json(self) -> dict[str, Any]:
        """Returns the decision as a JSON object; the keys are stable surface."""
        return {
            "id": self.id,
            "verb": str(self.verb),
            "target": self.target,
            "scope": self.scope,
            "mode": str(self.mode),
            "state": str(self.state),
            "policy_id": self.policy_id,
            "alert_ids": list(self.alert_ids),
            "created_at": times.to_text(self.created_at),
            "expires_at": None if self.expires_at is None else times.to_text(self.expires_at),
            "trace_id": self.trace_id,
            "reason": self.reason,
            "priority": self.priority,
            "container": self.container.to_json() if self.container else None,
            "parameters": dict(self.parameters),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Decision:
        """Reads what :meth:`to_json` wrote; what the executor keeps beside it is not part of the text."""
        container = value.get("container")
        expires_at = value.get("expires_at")
        return cls(
            id=str(value["id"]),
            verb=Verb(value["verb"]),
            target=str(value["target"]),
            scope=str(value["scope"]),
            mode=Mode(value["mode"]),
            state=DecisionState(value["state"]),
            policy_id=str(value["policy_id"]),
            alert_ids=tuple(str(alert) for alert in value["alert_ids"]),
            created_at=times.from_json(value["created_at"]),
            expires_at=None if expires_at is None else times.from_json(expires_at),
            trace_id=str(value.get("trace_id") or ""),
            reason=str(value.get("reason") or ""),
            priority=int(value.get("priority", 100)),
            container=ContainerIdentity.from_json(container) if container else None,
            parameters=dict(value.get("parameters") or {}),
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by both clocks, and the boot in which the boot clock was read."""

    wall_ns: int
    boot_ns: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Transition:
    """A step in the life of a decision, taken only when it still stands where we think (compare and set).

    Attributes:
        expected: States from which the step is allowed.
        enforced_until: Expiry now in force, when the step carried the decision out; ``None`` keeps what is stored.
    """

    decision_id: str
    expected: tuple[DecisionState, ...]
    state: DecisionState
    reason: str = ""
    enforced_until: int | None = None
    expires_boot_ns: int | None = None
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """What one settlement wrote.

    Attributes:
        records: The ledger rows with sequence and hashes.
        lost: Ids of decisions that no longer stood where the transition expected.
    """

    records: tuple[ActionRecord, ...]
    lost: tuple[str, ...] = ()


class DecisionHistory(Protocol):
    """What a decision maker may ask about earlier decisions."""

    def live(self, verb: Verb, target: str) -> Decision | None:
        """Returns the pending or active decision for this verb and target."""
        ...

    def standing(self, policy_id: str, verb: Verb, target: str, state: DecisionState, now_ns: int) -> Decision | None:
        """Returns this policy's decision in that (ended) state whose duration still runs."""
        ...

    def targets_since(self, policy_id: str, since_ns: int) -> frozenset[str]:
        """Returns the targets that the policy acted on, or is about to, since then."""
        ...


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """One attempt to change something, or to put it back; a row of the ledger.

    Attributes:
        action_type: ``ip_ban``, ``ip_unban``, ``container_pause`` and so on.
        timestamp: Nanoseconds, wall clock.
        attempt: 1 for the first try.
        sequence: Row number in the ledger; 0 until appended.
        previous_hash: Hash of the row before it.
        hash: SHA-256 over the previous hash and this record.
    """

    action_type: str
    target: str
    success: bool
    timestamp: int
    error: str = ""
    policy_id: str = ""
    trace_id: str = ""
    decision_id: str = ""
    alert_ids: tuple[str, ...] = ()
    actor: str = "daemon"
    attempt: int = 1
    sequence: int = 0
    previous_hash: str = ""
    hash: str = ""

    def content(self) -> dict[str, Any]:
        """Returns what the hash covers."""
        return {
            "sequence": self.sequence,
            "timestamp": times.to_text(self.timestamp),
            "action_type": self.action_type,
            "target": self.target,
            "success": self.success,
            "error": self.error,
            "policy_id": self.policy_id,
            "trace_id": self.trace_id,
            "decision_id": self.decision_id,
            "alert_ids": list(self.alert_ids),
            "actor": self.actor,
            "attempt": self.attempt,
        }

    def to_json(self) -> dict[str, Any]:
        """Returns the record as a JSON object; the keys are stable surface."""
        return self.content() | {"previous_hash": self.previous_hash, "hash": self.hash}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ActionRecord:
        """Reads what :meth:`to_json` wrote."""
        return cls(
            action_type=str(value["action_type"]),
            target=str(value["target"]),
            success=bool(value["success"]),
            timestamp=times.from_json(value["timestamp"]),
            error=str(value.get("error") or ""),
            policy_id=str(value.get("policy_id") or ""),
            trace_id=str(value.get("trace_id") or ""),
            decision_id=str(value.get("decision_id") or ""),
            alert_ids=tuple(str(alert) for alert in value.get("alert_ids") or ()),
            actor=str(value.get("actor") or ""),
            attempt=int(value.get("attempt", 1)),
            sequence=int(value.get("sequence", 0)),
            previous_hash=str(value.get("previous_hash") or ""),
            hash=str(value.get("hash") or ""),
        )


@dataclass(frozen=True, slots=True)
class AllowEntry:
    """An address or network that an operator promised never to ban.

    Attributes:
        network: Normal form, for example ``203.0.113.7/32``.
        expires_at: Nanoseconds, wall clock; ``None`` means until removed.
    """

    network: str
    created_at: int
    expires_at: int | None = None
    reason: str = ""
    actor: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the entry as a JSON object."""
        return {
            "network": self.network,
            "created_at": times.to_text(self.created_at),
            "expires_at": None if self.expires_at is None else times.to_text(self.expires_at),
            "reason": self.reason,
            "actor": self.actor,
        }
