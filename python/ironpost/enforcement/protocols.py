"""The joints of this room: what an enforcer offers, and what the executor needs from store and protections."""

# ruff: noqa: D102 — ResponseStore says once where its methods are described

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ironpost.errors import EnforcementError
from ironpost.model import ActionRecord, AllowEntry, Decision, Moment, Settled, Transition, Verb


@dataclass(frozen=True, slots=True)
class Order:
    """A decision to carry out or to take back.

    Attributes:
        expires_boot_ns: When it ends by boot clock; 0 for never.
    """

    decision: Decision
    expires_boot_ns: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an order.

    Attributes:
        action_type: For the ledger, for example ``ip_ban``.
        error: Why it failed; ``None`` when the target now is as ordered, even if it was so before.
        may_retry: The failure may pass by itself.
        note: What else is worth knowing of a success, for example that the container is gone.
    """

    action_type: str
    error: EnforcementError | None = None
    may_retry: bool = False
    note: str = ""


class Enforcer(Protocol):
    """Carries out one family of verbs.

    It does not retry, keeps no state of its own that matters after a crash, and never touches what it was not ordered
    to. Every call is idempotent: the executor repeats it when it can't know whether it took effect.
    """

    @property
    def verbs(self) -> frozenset[Verb]:
        """The verbs it carries out; no two enforcers share one."""
        ...

    @property
    def ends_by_itself(self) -> bool:
        """Whether an act ends at its deadline without us."""
        ...

    def unavailable(self) -> EnforcementError | None:
        """Returns why nothing can be enforced here, with the remedy, or ``None``."""
        ...

    async def prepare(self, decision: Decision) -> Mapping[str, Any]:
        """Returns what taking the act back will need. Changes nothing.

        Raises:
            EnforcementError: When the act can't or must not be done.
        """
        ...

    async def apply(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """Carries out orders and returns one outcome for each, in order. Raises nothing of ours."""
        ...

    async def revert(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """Takes orders back and returns one outcome for each, in order. Raises nothing of ours."""
        ...

    async def reconcile(self, orders: Sequence[Order]) -> Sequence[str]:
        """Makes the world agree with the active decisions after a start; returns the differences it repaired.

        Raises:
            EnforcementError: When it can't.
        """
        ...


class EnforcerRegistry:
    """Which enforcer carries out which verb.

    Raises:
        ValueError: When two enforcers claim one verb.
    """

    def __init__(self, enforcers: Iterable[Enforcer] = ()) -> None:
        self._by_verb: dict[Verb, Enforcer] = {}
        self._enforcers: list[Enforcer] = []
        for enforcer in enforcers:
            self.add(enforcer)

    def add(self, enforcer: Enforcer) -> None:
        """Registers an enforcer."""
        taken = sorted(verb.value for verb in enforcer.verbs if verb in self._by_verb)
        if taken:
            raise ValueError(f"already carried out by another enforcer: {', '.join(taken)}")
        self._enforcers.append(enforcer)
        self._by_verb |= dict.fromkeys(enforcer.verbs, enforcer)

    def get(self, verb: Verb) -> Enforcer | None:
        """Returns the enforcer of a verb, or ``None``."""
        return self._by_verb.get(verb)

    def __iter__(self) -> Iterator[Enforcer]:
        return iter(self._enforcers)

    @property
    def orphans(self) -> frozenset[Verb]:
        """The verbs nobody carries out."""
        return frozenset(Verb) - frozenset(self._by_verb)


class ResponseStore(Protocol):
    """The part of the store this room uses; calls block. See ``ironpost.storage.Store`` for what each promises."""

    def work(self, verbs: Iterable[Verb], *, limit: int = ...) -> list[Decision]: ...
    def due(self, verbs: Iterable[Verb], moment: Moment, *, limit: int = ...) -> list[Decision]: ...
    def next_expiry_ns(self, verbs: Iterable[Verb], moment: Moment) -> int | None: ...
    def decision(self, decision_id: str) -> Decision | None: ...
    def live(self, verb: Verb, target: str) -> Decision | None: ...
    def live_decisions(self, verbs: Iterable[Verb] = ...) -> list[Decision]: ...
    def add_decisions(self, decisions: Sequence[Decision]) -> tuple[Decision, ...]: ...
    def settle(self, records: Sequence[ActionRecord], transitions: Sequence[Transition]) -> Settled: ...
    def remember_restoration(self, decision_id: str, restoration: Mapping[str, Any]) -> Mapping[str, Any]: ...
    def approve(self, decision_id: str) -> bool: ...
    def add_allow_entries(self, entries: Sequence[AllowEntry]) -> None: ...
    def remove_allow_entry(self, network: str) -> bool: ...
    def remove_expired_allow_entries(self, now_ns: int) -> tuple[str, ...]: ...


class Guard(Protocol):
    """Whom nothing may touch; ``ironpost.decisions.Protections`` is one."""

    def refusals(self, decisions: Sequence[Decision]) -> list[str | None]:
        """Returns for each decision why it must not be carried out now, or ``None``. Reads the host anew."""
        ...

    def address_refusals(self, targets: Sequence[str]) -> list[str | None]:
        """Returns for each address or network why it must not be banned, or ``None``."""
        ...
