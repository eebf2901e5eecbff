"""From the engine to the store: each batch is committed in one transaction, and only then acknowledged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ironpost.alerts import AlertLimiter, enriched
from ironpost.detections import Judges
from ironpost.errors import StorageError
from ironpost.model import ContainerIdentity, Detection
from ironpost.pipeline.health import Health, HealthBoard
from ironpost.pipeline.publish import Publisher
from ironpost.storage import CommitResult, CommitUnit, Decide, Store
from ironpost.telemetry import bound_trace, get_logger

_FIRST_RETRY_SECONDS = 0.2
_LONGEST_RETRY_SECONDS = 10.0


class Batch(Protocol):
    """What the engine hands over."""

    @property
    def sequence(self) -> int:
        """Number to acknowledge."""
        ...

    @property
    def detections(self) -> bytes:
        """JSON array."""
        ...

    @property
    def checkpoints(self) -> Mapping[str, str]:
        """Source id → position."""
        ...

    @property
    def windows(self) -> Sequence[tuple[str, bytes | None]]:
        """Changed correlation windows; None removes."""
        ...


class BatchSource(Protocol):
    """The engine, as far as the consumer knows it."""

    async def next_batch(self) -> Batch | None:
        """Waits for a batch; None after the end."""
        ...

    def acknowledge(self, sequence: int) -> None:
        """Lets the sources move on."""
        ...


@dataclass(slots=True)
class ConsumerCounters:
    """What went through; ``detections = new + duplicates + unreadable + declined``.

    Attributes:
        declined: Taken back by Python rules: not confirmed, or the rule is disabled.
    """

    batches: int = 0
    detections: int = 0
    new: int = 0
    duplicates: int = 0
    unreadable: int = 0
    declined: int = 0
    alerts_opened: int = 0
    alerts_joined: int = 0
    decisions: int = 0
    retries: int = 0


class Consumer:
    """Takes batches, one after the other, and loses none: a batch that can't be stored waits.

    Args:
        source: The engine.
        store: Where to commit.
        decide: Called inside the transaction for each new detection; None decides nothing.
        believed: Says how far a detection is trusted now.
        identify: Looks up the container of a detection; None where there is no engine to ask.
        publisher: Live subscribers.
        limiter: Which changes of alerts they, and the log, are told of.
        board: Shows a store that fails.
        on_decisions: Called after a commit that made decisions.
        judges: The Python rules in use.
    """

    def __init__(
        self,
        source: BatchSource,
        store: Store,
        *,
        decide: Callable[[], Decide | None],
        believed: Callable[[Detection], Detection],
        identify: Callable[[str], Awaitable[ContainerIdentity | None]] | None,
        publisher: Publisher,
        limiter: AlertLimiter,
        board: HealthBoard,
        on_decisions: Callable[[], None],
        judges: Callable[[], Judges] = Judges,
    ) -> None:
        self._source = source
        self._store = store
        self._decide = decide
        self._believed = believed
        self._identify = identify
        self._publisher = publisher
        self._limiter = limiter
        self._board = board
        self._on_decisions = on_decisions
        self._judges = judges
        self._disabled: dict[str, str] = {}
        self._waiting: Batch | None = None
        self._log = get_logger("ironpost.pipeline.consume")
        self._stored: set[str] = set()
        self._progress = asyncio.Event()
        self.counters = ConsumerCounters()

    async def placed(self, sources: Iterable[str]) -> None:
        """Waits until the place of each source is stored: from here on a kill loses nothing they are given."""
        wanted = set(sources)
        while not wanted <= self._stored:
            self._progress.clear()
            await self._progress.wait()

    async def run(self) -> None:
        """Consumes until the engine has ended and is drained."""
        while True:
            # Kept here, so that a failure and restart of this task takes the same batch again.
            if self._waiting is None:
                self._waiting = await self._source.next_batch()
            if self._waiting is None:
                return
            await self._take(self._waiting)
            self._waiting = None

    async def _take(self, batch: Batch) -> None:
        detections = await self._complete(self._read(await self._judged(batch.detections)))
        unit = CommitUnit(detections, dict(batch.checkpoints), tuple(batch.windows))
        result = await self._commit(unit)
        self._source.acknowledge(batch.sequence)
        self._stored.update(unit.checkpoints)
        self._progress.set()
        self.counters.batches += 1
        self._count(result)
        self._publish(result)
        if result.decisions:
            self._on_decisions()

    async def _judged(self, data: bytes) -> list[Any]:
        """What the engine found and, where a Python rule has the last word, that rule confirms."""
        values: list[Any] = json.loads(data or b"[]")
        self.counters.detections += len(values)
        if not any(isinstance(value, dict) and "event" in value for value in values):
            return values
        judges = self._judges()
        kept = await asyncio.to_thread(judges, values)
        self.counters.declined += len(values) - len(kept)
        self._tell_disabled({rule_id: health.disabled for rule_id, health in judges.health.items() if health.disabled})
        return kept

    def _tell_disabled(self, disabled: dict[str, str]) -> None:
        for rule_id in self._disabled.keys() - disabled.keys():  # the rules were loaded anew
            self._board.clear("log-pipeline", f"rule {rule_id}")
        for rule_id in disabled.keys() - self._disabled.keys():
            reason = disabled[rule_id]
            self._log.error("python_rule_disabled", stage="processing", rule_id=rule_id, reason=reason)
            self._board.report(
                "log-pipeline",
                f"rule {rule_id}",
                Health.DEGRADED,
                f"the Python rule {rule_id} is disabled: {reason}",
                "mend its file; changed rules are loaded by themselves",
            )
        self._disabled = disabled

    def _read(self, values: Iterable[Any]) -> list[Detection]:
        read: list[Detection] = []
        for value in values:
            try:
                read.append(Detection.from_json(value))
            except (AttributeError, KeyError, ValueError, TypeError) as error:
                self.counters.unreadable += 1
                self._log.error(
                    "detection_unreadable", stage="processing", error_type=type(error).__name__, reason=str(error)
                )
        return read

    async def _complete(self, detections: Sequence[Detection]) -> list[Detection]:
        containers: dict[str, ContainerIdentity | None] = {}
        for detection in detections:
            container = detection.container_id
            if container and self._identify is not None and detection.container is None and container not in containers:
                containers[container] = await self._identify(container)
        return [self._believed(enriched(detection, containers=containers)) for detection in detections]

    async def _commit(self, unit: CommitUnit) -> CommitResult:
        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                result = await asyncio.to_thread(self._store.commit, unit, self._decide())
            except StorageError as error:
                self.counters.retries += 1
                self._board.report("log-pipeline", "store", Health.UNHEALTHY, str(error), error.hint)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_RETRY_SECONDS)
            else:
                self._board.clear("log-pipeline", "store")
                return result

    def _count(self, result: CommitResult) -> None:
        self.counters.new += len(result.new_detections)
        self.counters.duplicates += result.duplicates
        self.counters.decisions += len(result.decisions)
        opened = sum(1 for change in result.alerts if change.opened)
        self.counters.alerts_opened += opened
        self.counters.alerts_joined += len(result.alerts) - opened

    def _publish(self, result: CommitResult) -> None:
        for change in result.alerts:
            notice = self._limiter.notice(change.alert, opened=change.opened)
            if notice is None:
                continue
            alert = notice.alert
            with bound_trace(alert.trace_id):
                self._log.info(
                    "alert_opened" if notice.opened else "alert_joined",
                    alert_id=alert.id,
                    rule_id=alert.rule_id,
                    severity=str(alert.severity),
                    entity_kind=alert.entity.kind,
                    entity=alert.entity.value,
                    container_id=alert.container.id if alert.container else None,
                    count=alert.count,
                    withheld=notice.held_back,
                )
            item: dict[str, Any] = alert.to_json()
            item["opened"] = notice.opened
            item["withheld"] = notice.held_back
            self._publisher.publish("alert", item)
        for decision in result.decisions:
            with bound_trace(decision.trace_id):
                self._log.info(
                    "decision_made",
                    decision_id=decision.id,
                    verb=str(decision.verb),
                    entity=decision.target,
                    state=str(decision.state),
                    policy_id=decision.policy_id,
                    reason=decision.reason,
                )
            self._publisher.publish("decision", decision.to_json())
