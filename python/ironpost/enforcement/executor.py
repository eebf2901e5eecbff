"""Carries out stored decisions, ends them in time, and writes down every attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from ironpost.enforcement.protocols import Enforcer, EnforcerRegistry, Guard, Order, Outcome, ResponseStore
from ironpost.errors import EnforcementError, EngineUnavailable, IronpostError, StorageError
from ironpost.model import LIVE_STATES, ActionRecord, Decision, DecisionState, Moment, Transition, Verb
from ironpost.model.times import SECOND_NS
from ironpost.system import Clock

_LONGEST_WAIT_SECONDS = 30.0
"""Deadlines are looked at again at least this often, because a suspended machine's timers sleep, too."""

_STORE_PAUSE_SECONDS = 1.0
_LONGEST_REVERT_PAUSE_SECONDS = 300.0


class Executor:
    """Takes decisions from the store and makes them true.

    A decision is stored before the act, the ledger row and the new state after it, together. A crash in between leaves
    it pending, and the next start repeats an act that is idempotent.

    Args:
        store: Decisions and ledger.
        enforcers: Who carries out which verb.
        guard: Whom nothing may touch; asked again right before each act.
        clock: For deadlines.
        attempts: Tries per decision when a failure may pass.
        backoff_seconds: Pause after the first failed try; the n-th is n times as long.
        on_record: Called on the event loop with every ledger row.
        on_expired: Called on the event loop with every decision whose time ended.
        on_problem: Called on the event loop with what kept a lane from working for a moment.
    """

    def __init__(
        self,
        store: ResponseStore,
        enforcers: EnforcerRegistry,
        guard: Guard,
        *,
        clock: Clock,
        attempts: int = 3,
        backoff_seconds: float = 0.5,
        on_record: Callable[[ActionRecord], None] = lambda _: None,
        on_expired: Callable[[Decision], None] = lambda _: None,
        on_problem: Callable[[IronpostError], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._enforcers = enforcers
        self._guard = guard
        self._clock = clock
        self._attempts = max(1, attempts)
        self._backoff_seconds = backoff_seconds
        self._on_record = on_record
        self._on_expired = on_expired
        self._on_problem = on_problem
        self._wakes: list[asyncio.Event] = []
        # One lane per enforcer, so that a slow container engine never delays a ban; within a lane one thing at a time,
        # so that an undo never races the act it takes back.
        self._locks: dict[int, asyncio.Lock] = {}
        self._revert_pauses: dict[str, tuple[int, float]] = {}

    # --- running --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Says that the store holds new work. From another thread: ``loop.call_soon_threadsafe(executor.wake)``."""
        for event in self._wakes:
            event.set()

    async def resume(self) -> list[str]:
        """Makes kernel and containers agree with the store; to be called once, before :meth:`run`.

        Returns the differences that were found and repaired.
        """
        differences: list[str] = []
        for enforcer in self._enforcers:
            async with self._lock(enforcer):
                await self._expire(enforcer)
                live = await asyncio.to_thread(self._store.live_decisions, enforcer.verbs)
                active = [decision for decision in live if decision.state is DecisionState.ACTIVE]
                active = await self._drop_refused(enforcer, active)
                if enforcer.unavailable() is not None:
                    continue
                try:
                    orders = [Order(decision, self._deadline(decision)) for decision in active]
                    differences += await enforcer.reconcile(orders)
                except EnforcementError as error:
                    self._on_problem(error)
                    continue
                await asyncio.to_thread(
                    self._store.settle, [], [self._in_force(order, order.decision.reason) for order in orders]
                )
        return differences

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as lanes:
            for enforcer in self._enforcers:
                lanes.create_task(self._lane(enforcer), name=f"enforce-{'-'.join(sorted(enforcer.verbs))}")
            lanes.create_task(self._orphan_lane(), name="enforce-nothing")

    async def drain(self, verb: Verb | None = None) -> None:
        """Carries out what waits and ends what is due, then returns; with a verb, only in that verb's lane."""
        wanted = [enforcer for enforcer in self._enforcers if verb is None or verb in enforcer.verbs]
        await asyncio.gather(*(self._turn(enforcer) for enforcer in wanted), self._fail_orphans())

    async def _lane(self, enforcer: Enforcer) -> None:
        wake = asyncio.Event()
        self._wakes.append(wake)
        try:
            while True:
                wake.clear()
                try:
                    await self._turn(enforcer)
                    pause = await self._pause(enforcer)
                except StorageError as error:
                    self._on_problem(error)
                    pause = _STORE_PAUSE_SECONDS
                await _wait(wake, pause)
        finally:
            self._wakes.remove(wake)

    async def _orphan_lane(self) -> None:
        wake = asyncio.Event()
        self._wakes.append(wake)
        try:
            while True:
                wake.clear()
                try:
                    await self._fail_orphans()
                except StorageError as error:
                    self._on_problem(error)
                await _wait(wake, _LONGEST_WAIT_SECONDS)
        finally:
            self._wakes.remove(wake)

    async def _turn(self, enforcer: Enforcer) -> None:
        async with self._lock(enforcer):
            await self._expire(enforcer)
            while work := await asyncio.to_thread(self._store.work, enforcer.verbs):
                await self._carry_out(enforcer, work)

    async def _pause(self, enforcer: Enforcer) -> float:
        rest = await asyncio.to_thread(self._store.next_expiry_ns, enforcer.verbs, self._moment())
        pause = _LONGEST_WAIT_SECONDS if rest is None else rest / SECOND_NS
        if self._revert_pauses:
            pause = max(pause, 0.25)
        return min(pause, _LONGEST_WAIT_SECONDS)

    # --- carrying out ---------------------------------------------------------------------------------------------

    async def _carry_out(self, enforcer: Enforcer, work: Sequence[Decision]) -> None:
        ready: list[Order] = []
        refusals = await asyncio.to_thread(self._guard.refusals, work)
        for decision, refusal in zip(work, refusals, strict=True):
            if refusal is not None:
                await self._refuse(enforcer, decision, refusal)
            elif decision.state is DecisionState.ACTIVE and decision.verb.is_on_container:
                # Only the deadline moved; the container is as it should be.
                order = Order(decision, self._fresh_deadline(decision))
                await self._settle([], [self._in_force(order, decision.reason)])
            else:
                prepared = await self._prepared(enforcer, decision)
                if prepared is not None:
                    ready.append(Order(prepared, self._fresh_deadline(prepared)))
        for attempt in range(1, self._attempts + 1):
            if not ready:
                return
            problem = enforcer.unavailable()
            outcomes = (
                [Outcome(_refused_type(order.decision.verb), problem) for order in ready]
                if problem is not None
                else await enforcer.apply(ready)
            )
            ready = await self._write_down(ready, outcomes, attempt)
            if ready:
                await asyncio.sleep(self._backoff_seconds * attempt)

    async def _prepared(self, enforcer: Enforcer, decision: Decision) -> Decision | None:
        if decision.restoration is not None or enforcer.unavailable() is not None:
            return decision
        for attempt in range(1, self._attempts + 1):
            try:
                restoration = await enforcer.prepare(decision)
            except EnforcementError as error:
                outcome = Outcome(_refused_type(decision.verb), error, may_retry=_may_pass(error))
                if not await self._write_down([Order(decision)], [outcome], attempt):
                    return None
                await asyncio.sleep(self._backoff_seconds * attempt)
                continue
            if not restoration:
                return decision
            stored = await asyncio.to_thread(self._store.remember_restoration, decision.id, restoration)
            return replace(decision, restoration=stored)
        return None

    async def _write_down(self, orders: Sequence[Order], outcomes: Sequence[Outcome], attempt: int) -> list[Order]:
        """Writes one ledger row per outcome, moves decisions on, and returns what to try again."""
        again: list[Order] = []
        records: list[ActionRecord] = []
        transitions: list[Transition] = []
        for order, outcome in zip(orders, outcomes, strict=True):
            records.append(self._record(order.decision, outcome, attempt=attempt))
            if outcome.error is None:
                transitions.append(self._in_force(order, outcome.note))
            elif outcome.may_retry and attempt < self._attempts:
                again.append(order)
            else:
                transitions.append(
                    Transition(order.decision.id, LIVE_STATES, DecisionState.FAILED, _explain(outcome.error))
                )
        await self._settle(records, transitions)
        return again

    async def _refuse(self, enforcer: Enforcer, decision: Decision, reason: str) -> None:
        if decision.state is DecisionState.ACTIVE:
            await self._take_back(enforcer, decision, DecisionState.UNDONE, reason, actor="daemon")
            return
        outcome = Outcome(_refused_type(decision.verb), EnforcementError(f"refused: {reason}"))
        await self._settle(
            [self._record(decision, outcome)],
            [Transition(decision.id, (DecisionState.PENDING,), DecisionState.REFUSED, reason)],
        )

    async def _drop_refused(self, enforcer: Enforcer, active: Sequence[Decision]) -> list[Decision]:
        """Takes back what became protected while no daemon ran."""
        kept = []
        refusals = await asyncio.to_thread(self._guard.refusals, active)
        for decision, refusal in zip(active, refusals, strict=True):
            if refusal is None or decision.verb.is_on_container:
                kept.append(decision)
            else:
                await self._take_back(enforcer, decision, DecisionState.UNDONE, refusal, actor="daemon")
        return kept

    async def _fail_orphans(self) -> None:
        orphans = self._enforcers.orphans
        due = await asyncio.to_thread(self._store.due, orphans, self._moment())
        await self._settle(
            [], [Transition(decision.id, LIVE_STATES, DecisionState.EXPIRED, "never carried out") for decision in due]
        )
        for decision in await asyncio.to_thread(self._store.work, orphans):
            error = EnforcementError(
                f"not enforceable here: nothing carries out {decision.verb}",
                "see `ironpost status` for what is enabled",
            )
            await self._write_down([Order(decision)], [Outcome(_refused_type(decision.verb), error)], self._attempts)

    # --- ending ---------------------------------------------------------------------------------------------------

    async def undo(self, decision_id: str, *, actor: str = "operator", reason: str = "") -> Decision:
        """Takes a decision back and returns it as it then stands.

        Raises:
            EnforcementError: When there is no such decision, it is not in force, or taking it back failed.
        """
        decision = await asyncio.to_thread(self._store.decision, decision_id)
        if decision is None:
            raise EnforcementError(f"{decision_id}: no such decision", "list them with `ironpost decisions`")
        enforcer = self._enforcers.get(decision.verb)
        if enforcer is None:
            raise EnforcementError(f"{decision.id}: nothing carries out {decision.verb} here")
        async with self._lock(enforcer):
            decision = await asyncio.to_thread(self._store.decision, decision.id) or decision
            half_done = decision.state is DecisionState.FAILED and decision.restoration is not None
            if not decision.is_live and not half_done:
                raise EnforcementError(
                    f"{decision.id}: is {decision.state}, there is nothing to undo",
                    "list what is in force: ironpost decisions",
                )
            error = await self._take_back(
                enforcer, decision, DecisionState.UNDONE, reason or f"undone by {actor}", actor
            )
            if error is not None:
                raise error
        return await asyncio.to_thread(self._store.decision, decision.id) or decision

    async def _expire(self, enforcer: Enforcer) -> None:
        due = await asyncio.to_thread(self._store.due, enforcer.verbs, self._moment())
        now = self._clock.boot_ns()
        for decision in due:
            if enforcer.ends_by_itself and enforcer.unavailable() is not None:
                step = Transition(decision.id, LIVE_STATES, DecisionState.EXPIRED, "its time was over")
                await self._settle([], [step])
                await self._announce_expired(decision)
                continue
            not_before, pause = self._revert_pauses.get(decision.id, (0, 0.5))
            if now < not_before:
                continue
            carried_out = decision.state is DecisionState.ACTIVE
            reason = "its time was over" if carried_out else "its time was over before it was carried out"
            error = await self._take_back(enforcer, decision, DecisionState.EXPIRED, reason, actor="daemon")
            if error is None:
                self._revert_pauses.pop(decision.id, None)
                await self._announce_expired(decision)
            else:
                pause = min(pause * 2, _LONGEST_REVERT_PAUSE_SECONDS)
                self._revert_pauses[decision.id] = (now + round(pause * SECOND_NS), pause)

    async def _announce_expired(self, decision: Decision) -> None:
        stored = await asyncio.to_thread(self._store.decision, decision.id)
        if stored is not None and stored.state is DecisionState.EXPIRED:
            self._on_expired(stored)

    async def _take_back(
        self, enforcer: Enforcer, decision: Decision, end: DecisionState, reason: str, actor: str
    ) -> EnforcementError | None:
        asked_only = decision.state is DecisionState.PENDING and decision.restoration is None
        if asked_only and decision.verb.is_on_container:
            await self._settle([], [Transition(decision.id, (DecisionState.PENDING,), end, reason)])
            return None
        [outcome] = await enforcer.revert([Order(decision)])
        step = Transition(
            decision.id,
            (*LIVE_STATES, DecisionState.FAILED),
            end,
            f"{reason}; {outcome.note}" if outcome.note else reason,
        )
        record = self._record(decision, outcome, actor=actor)
        await self._settle([record], [step] if outcome.error is None else [])
        return outcome.error

    # --- plumbing -------------------------------------------------------------------------------------------------

    async def _settle(self, records: Sequence[ActionRecord], transitions: Sequence[Transition]) -> None:
        if not records and not transitions:
            return
        settled = await asyncio.to_thread(self._store.settle, records, transitions)
        for record in settled.records:
            self._on_record(record)

    def _record(self, decision: Decision, outcome: Outcome, *, attempt: int = 1, actor: str = "daemon") -> ActionRecord:
        return ActionRecord(
            action_type=outcome.action_type,
            target=decision.target,
            success=outcome.error is None,
            timestamp=self._clock.wall_ns(),
            error="" if outcome.error is None else _explain(outcome.error),
            policy_id=decision.policy_id,
            trace_id=decision.trace_id,
            decision_id=decision.id,
            alert_ids=decision.alert_ids,
            actor=actor,
            attempt=attempt,
        )

    def _in_force(self, order: Order, note: str) -> Transition:
        forever = 2**63 - 1
        expires_at = order.decision.expires_at
        return Transition(
            order.decision.id,
            LIVE_STATES,
            DecisionState.ACTIVE,
            note,
            enforced_until=forever if expires_at is None else expires_at,
            expires_boot_ns=order.expires_boot_ns or None,
            boot_id=self._clock.boot_id(),
        )

    def _deadline(self, decision: Decision) -> int:
        """The deadline that is in force: the one set in this boot, else by wall clock."""
        same_boot = decision.boot_id == self._clock.boot_id() and decision.enforced_until == decision.expires_at
        if same_boot and decision.expires_boot_ns is not None:
            return decision.expires_boot_ns
        return self._fresh_deadline(decision)

    def _fresh_deadline(self, decision: Decision) -> int:
        if decision.expires_at is None:
            return 0
        # At least one nanosecond from now: 0 means never.
        return self._clock.boot_ns() + max(1, decision.expires_at - self._clock.wall_ns())

    def _moment(self) -> Moment:
        return Moment(self._clock.wall_ns(), self._clock.boot_ns(), self._clock.boot_id())

    def _lock(self, enforcer: Enforcer) -> asyncio.Lock:
        return self._locks.setdefault(id(enforcer), asyncio.Lock())


async def _wait(wake: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(wake.wait(), seconds)
    except TimeoutError:
        return


def _refused_type(verb: Verb) -> str:
    names: dict[Verb, str] = {
        Verb.BAN: "ip_ban",
        Verb.RATE_LIMIT: "ip_rate_limit",
        Verb.PAUSE: "container_pause",
        Verb.STOP: "container_stop",
        Verb.KILL: "container_kill",
        Verb.DISCONNECT: "container_network_disconnect",
        Verb.QUARANTINE: "container_quarantine",
        Verb.NOTIFY: "notify",
    }
    return names[verb]


def _explain(error: EnforcementError) -> str:
    return f"{error} (hint: {error.hint})" if error.hint else str(error)


def _may_pass(error: EnforcementError) -> bool:
    return isinstance(error, EngineUnavailable)
