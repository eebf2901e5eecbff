"""The store: one writer thread, one transaction per unit, so that a crash loses nothing and doubles nothing."""

# ruff: noqa: S608 — the text of every query is ours, values are always bound

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ironpost.errors import StorageError
from ironpost.model import (
    LIVE_STATES,
    ActionRecord,
    Alert,
    AlertStatus,
    AllowEntry,
    Decision,
    DecisionHistory,
    DecisionState,
    Detection,
    Mode,
    Settled,
    Transition,
    Verb,
)
from ironpost.storage import ledger, schema
from ironpost.storage.reader import FOREVER, StoreReader, alert_of, decisions_of

_Result = TypeVar("_Result")

Decide = Callable[[Alert, Detection, DecisionHistory], Sequence[Decision]]
"""Called inside the transaction, once per new detection, with the alert as it then stands. Must be quick and pure."""


@dataclass(frozen=True, slots=True)
class CommitUnit:
    """What one batch of the engine brings; it is stored completely or not at all.

    Attributes:
        detections: With containers and tags already filled in.
        checkpoints: Source id → opaque position.
        windows: Key → opaque state of correlation windows; ``None`` removes.
    """

    detections: Sequence[Detection] = ()
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    windows: Sequence[tuple[str, bytes | None]] = ()


@dataclass(frozen=True, slots=True)
class AlertChange:
    """An alert that was opened or joined by new detections."""

    alert: Alert
    opened: bool


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What the commit changed.

    Attributes:
        new_detections: Detections not seen before.
        duplicates: Detections that were already stored: read again after a restart.
        alerts: Alerts opened or joined.
        decisions: Decisions made or extended.
    """

    new_detections: tuple[Detection, ...] = ()
    duplicates: int = 0
    alerts: tuple[AlertChange, ...] = ()
    decisions: tuple[Decision, ...] = ()


class Store(StoreReader):
    """The database with write access. Calls block: from asyncio use ``asyncio.to_thread``.

    Raises:
        StorageError: Every method, when the database can't be used; a failed write has changed nothing.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self._writing = schema.open_for_writing(path)
        self._writing.row_factory = sqlite3.Row
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ironpost-store")
        try:
            super().__init__(path)
        except BaseException:
            self._writer.shutdown()
            self._writing.close()
            raise

    def close(self) -> None:
        """Waits for the running write and closes the database; a second call does nothing."""
        self._writer.shutdown(wait=True)
        # The writing connection last: the last one to close folds the log into the file, and readers can't.
        super().close()
        self._writing.close()

    # --- the main path --------------------------------------------------------------------------------------------

    def commit(self, unit: CommitUnit, decide: Decide | None = None) -> CommitResult:
        """Stores a unit in one transaction.

        Only detections not stored before open or join alerts and lead to decisions, so reading a source again after a
        crash changes nothing.
        """
        return self._write(lambda database: _commit(database, unit, decide))

    def add_decisions(self, decisions: Sequence[Decision]) -> tuple[Decision, ...]:
        """Stores decisions made by hand; one whose verb and target are already live extends that one instead."""
        return self._write(lambda database: tuple(_put_decision(database, decision) for decision in decisions))

    def settle(self, records: Sequence[ActionRecord], transitions: Sequence[Transition]) -> Settled:
        """Appends ledger rows and moves decisions on, together."""

        def write(database: sqlite3.Connection) -> Settled:
            lost = tuple(step.decision_id for step in transitions if not _move(database, step))
            return Settled(ledger.append(database, records), lost)

        return self._write(write)

    def remember_restoration(self, decision_id: str, restoration: Mapping[str, object]) -> Mapping[str, object]:
        """Stores what ``undo`` will need, once, and returns it: a second attempt keeps what the first one saw."""

        def write(database: sqlite3.Connection) -> Mapping[str, object]:
            database.execute(
                "UPDATE decisions SET restoration = ? WHERE id = ? AND restoration IS NULL",
                (json.dumps(dict(restoration)), decision_id),
            )
            row = database.execute("SELECT restoration FROM decisions WHERE id = ?", (decision_id,)).fetchone()
            stored: Mapping[str, object] = json.loads(row[0]) if row and row[0] else {}
            return stored

        return self._write(write)

    def approve(self, decision_id: str) -> bool:
        """Turns a pending decision that asks into one that is carried out; says whether it still could be."""

        def write(database: sqlite3.Connection) -> bool:
            return (
                database.execute(
                    "UPDATE decisions SET mode = 'enforce' WHERE id = ? AND state = 'pending' AND mode = 'ask'",
                    (decision_id,),
                ).rowcount
                == 1
            )

        return self._write(write)

    def set_alert_status(self, alert_id: str, status: AlertStatus) -> bool:
        """Moves an alert on; a closed one is never opened again, because a newer one may gather in its place."""

        def write(database: sqlite3.Connection) -> bool:
            return (
                database.execute(
                    "UPDATE alerts SET status = ? WHERE id = ? AND status <> 'closed'", (str(status), alert_id)
                ).rowcount
                == 1
            )

        return self._write(write)

    # --- allow list -----------------------------------------------------------------------------------------------

    def add_allow_entries(self, entries: Sequence[AllowEntry]) -> None:
        """Stores allow entries; the same network again replaces the older entry."""
        self._write(
            lambda database: database.executemany(
                "INSERT OR REPLACE INTO allow_entries VALUES (?, ?, ?, ?, ?)",
                [(entry.network, entry.created_at, entry.expires_at, entry.reason, entry.actor) for entry in entries],
            )
        )

    def remove_allow_entry(self, network: str) -> bool:
        """Removes an entry; says whether there was one."""
        return self._write(
            lambda database: database.execute("DELETE FROM allow_entries WHERE network = ?", (network,)).rowcount == 1
        )

    def remove_expired_allow_entries(self, now_ns: int) -> tuple[str, ...]:
        """Removes entries whose time is over and returns their networks."""
        return self._write(
            lambda database: tuple(
                row[0]
                for row in database.execute(
                    "DELETE FROM allow_entries WHERE expires_at <= ? RETURNING network", (now_ns,)
                ).fetchall()
            )
        )

    # --- upkeep ---------------------------------------------------------------------------------------------------

    def prune(self, before_ns: int) -> int:
        """Removes closed alerts and ended decisions older than that, and detections of alerts that are gone.

        The ledger stays. Returns how many rows went.
        """

        def write(database: sqlite3.Connection) -> int:
            ended = [str(state) for state in DecisionState if state not in LIVE_STATES]
            removed = database.execute(
                f"DELETE FROM decisions WHERE state IN ({', '.join('?' * len(ended))})"
                " AND coalesce(expires_at, created_at) < ? AND created_at < ?",
                (*ended, before_ns, before_ns),
            ).rowcount
            removed += database.execute(
                "DELETE FROM alerts WHERE last_seen < ? AND id NOT IN (SELECT alert_id FROM decision_alerts"
                " JOIN decisions ON decisions.id = decision_id)",
                (before_ns,),
            ).rowcount
            removed += database.execute(
                "DELETE FROM detections WHERE timestamp < ? AND alert_id NOT IN (SELECT id FROM alerts)", (before_ns,)
            ).rowcount
            database.execute("DELETE FROM decision_alerts WHERE decision_id NOT IN (SELECT id FROM decisions)")
            return removed

        return self._write(write)

    # --- plumbing -------------------------------------------------------------------------------------------------

    def _write(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        def run() -> _Result:
            with schema.failures_named(self.path), _transaction(self._writing):
                return work(self._writing)

        try:
            future = self._writer.submit(run)
        except RuntimeError as error:
            raise StorageError(f"{self.path}: the store is closed", path=str(self.path)) from error
        return future.result()


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # A full disk may already have rolled back by itself.
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


class _History:
    """Earlier decisions as the running transaction sees them."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def live(self, verb: Verb, target: str) -> Decision | None:
        return _live(self._database, verb, target)

    def standing(self, policy_id: str, verb: Verb, target: str, state: DecisionState, now_ns: int) -> Decision | None:
        found = decisions_of(
            self._database,
            "WHERE target = ? AND policy_id = ? AND verb = ? AND state = ? AND coalesce(expires_at, ?) > ?"
            " ORDER BY created_at DESC LIMIT 1",
            (target, policy_id, str(verb), str(state), FOREVER, now_ns),
        )
        return found[0] if found else None

    def targets_since(self, policy_id: str, since_ns: int) -> frozenset[str]:
        rows = self._database.execute(
            "SELECT DISTINCT target FROM decisions WHERE policy_id = ? AND created_at > ?"
            " AND state IN ('pending', 'active', 'expired', 'undone', 'failed')",
            (policy_id, since_ns),
        )
        return frozenset(row[0] for row in rows)


def _commit(database: sqlite3.Connection, unit: CommitUnit, decide: Decide | None) -> CommitResult:
    history = _History(database)
    gathered: dict[tuple[str, str, str], Alert] = {}
    opened: set[str] = set()
    fresh: list[Detection] = []
    decided: dict[str, Decision] = {}
    for detection in unit.detections:
        if database.execute("SELECT 1 FROM detections WHERE id = ?", (detection.id,)).fetchone():
            continue
        fresh.append(detection)
        key = (detection.rule_id, detection.entity.field, detection.entity.value)
        before = gathered.get(key) or _gathering(database, key)
        alert = Alert.opened_by(detection) if before is None else before.joined_by(detection)
        if before is None:
            opened.add(alert.id)
        gathered[key] = alert
        database.execute(
            "INSERT INTO detections VALUES (?, ?, ?, ?, ?)",
            (detection.id, alert.id, detection.rule_id, detection.timestamp, json.dumps(detection.to_json())),
        )
        for decision in decide(alert, detection, history) if decide else ():
            stored = _put_decision(database, decision)
            decided[stored.id] = stored
    for alert in gathered.values():
        _put_alert(database, alert)
    database.executemany("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", list(unit.checkpoints.items()))
    for key_text, state in unit.windows:
        if state is None:
            database.execute("DELETE FROM windows WHERE key = ?", (key_text,))
        else:
            database.execute("INSERT OR REPLACE INTO windows VALUES (?, ?)", (key_text, state))
    return CommitResult(
        new_detections=tuple(fresh),
        duplicates=len(unit.detections) - len(fresh),
        alerts=tuple(AlertChange(alert, alert.id in opened) for alert in gathered.values()),
        decisions=tuple(decided.values()),
    )


def _gathering(database: sqlite3.Connection, key: tuple[str, str, str]) -> Alert | None:
    row = database.execute(
        "SELECT * FROM alerts WHERE rule_id = ? AND entity_kind = ? AND entity_value = ? AND status <> 'closed'", key
    ).fetchone()
    return None if row is None else alert_of(row)


def _put_alert(database: sqlite3.Connection, alert: Alert) -> None:
    database.execute(
        "INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " severity = excluded.severity, first_seen = excluded.first_seen, last_seen = excluded.last_seen,"
        " count = excluded.count, trust = excluded.trust, source = excluded.source, tags = excluded.tags,"
        " evidence = excluded.evidence, container = excluded.container",
        (
            alert.id,
            alert.rule_id,
            alert.title,
            int(alert.severity),
            alert.entity.field,
            alert.entity.value,
            str(alert.status),
            alert.first_seen,
            alert.last_seen,
            alert.count,
            alert.trace_id,
            alert.trust,
            alert.source,
            json.dumps(alert.tags),
            json.dumps(alert.evidence),
            json.dumps(alert.container.to_json()) if alert.container else None,
        ),
    )


def _live(database: sqlite3.Connection, verb: Verb, target: str) -> Decision | None:
    found = decisions_of(database, f"WHERE verb = ? AND target = ? AND {schema.LIVE}", (str(verb), target))
    return found[0] if found else None


def _put_decision(database: sqlite3.Connection, decision: Decision) -> Decision:
    """Stores a decision, or extends the one that already stands for it: there is never a second live one."""
    row = database.execute(
        f"SELECT id, expires_at, mode FROM decisions WHERE verb = ? AND target = ? AND {schema.LIVE} AND ?"
        " UNION ALL SELECT id, expires_at, mode FROM decisions WHERE id = ?",
        (str(decision.verb), decision.target, decision.is_live, decision.id),
    ).fetchone()
    if row is None:
        database.execute(
            "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                decision.id,
                str(decision.verb),
                decision.target,
                decision.scope,
                str(decision.mode),
                str(decision.state),
                decision.policy_id,
                decision.created_at,
                decision.expires_at,
                decision.trace_id,
                decision.reason,
                decision.priority,
                json.dumps(decision.container.to_json()) if decision.container else None,
                json.dumps(dict(decision.parameters)),
                None,
                None,
                None,
                "",
            ),
        )
        stored_id = decision.id
    else:
        later = max(_end(row["expires_at"]), _end(decision.expires_at))
        standing = Mode(row["mode"])
        # Asking is the weaker form: a decision that may act at once lifts a standing one that still asks.
        mode = decision.mode if decision.is_live and decision.mode.rank > standing.rank else standing
        database.execute(
            "UPDATE decisions SET expires_at = ?, mode = ? WHERE id = ?",
            (None if later == FOREVER else later, str(mode), row["id"]),
        )
        stored_id = row["id"]
    database.executemany(
        "INSERT OR IGNORE INTO decision_alerts VALUES (?, ?)", [(stored_id, alert) for alert in decision.alert_ids]
    )
    return decision if row is None else decisions_of(database, "WHERE id = ?", (stored_id,))[0]


def _end(expires_at: int | None) -> int:
    return FOREVER if expires_at is None else expires_at


def _move(database: sqlite3.Connection, step: Transition) -> bool:
    expected = [str(state) for state in step.expected]
    changed = database.execute(
        "UPDATE decisions SET state = ?, reason = ?, enforced_until = coalesce(?, enforced_until),"
        " expires_boot_ns = CASE WHEN ? IS NULL THEN expires_boot_ns ELSE ? END,"
        " boot_id = CASE WHEN ? IS NULL THEN boot_id ELSE ? END"
        f" WHERE id = ? AND state IN ({', '.join('?' * len(expected))})",
        (
            str(step.state),
            step.reason,
            step.enforced_until,
            step.enforced_until,
            step.expires_boot_ns,
            step.enforced_until,
            step.boot_id,
            step.decision_id,
            *expected,
        ),
    )
    return changed.rowcount == 1
