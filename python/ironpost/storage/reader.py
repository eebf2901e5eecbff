"""Questions to the store; they need no daemon."""

# ruff: noqa: S608 — the text of every query is ours, values are always bound

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ironpost.model import (
    ActionRecord,
    Alert,
    AlertStatus,
    AllowEntry,
    ContainerIdentity,
    Decision,
    DecisionState,
    Detection,
    Entity,
    Mode,
    Moment,
    Severity,
    Verb,
)
from ironpost.storage import ledger, schema

FOREVER = 2**63 - 1
"""Stored for “no expiry” where moments are compared."""


_BY_BOOT = f"INDEXED BY decisions_by_boot_clock WHERE {schema.ENDS_BY_BOOT_CLOCK}"
_BY_WALL = f"INDEXED BY decisions_by_wall_clock WHERE {schema.ENDS_BY_WALL_CLOCK}"


class StoreReader:
    """Read access to the database; safe to use from several threads.

    Opening one does not disturb a running daemon, and works when none runs.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._reading = schema.open_for_reading(self.path)
        self._reading.row_factory = sqlite3.Row
        self._reading_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database; a second call does nothing."""
        with self._reading_lock:
            self._reading.close()

    # --- alerts ---------------------------------------------------------------------------------------------------

    def alerts(
        self,
        *,
        limit: int = 100,
        status: AlertStatus | None = None,
        min_severity: Severity | None = None,
        rule_id: str = "",
        entity: str = "",
        since_ns: int | None = None,
    ) -> list[Alert]:
        """Returns alerts, latest first; filters are ANDed, empty ones don't filter."""
        where = _Where()
        where.add("status = ?", status)
        where.add("severity >= ?", None if min_severity is None else int(min_severity))
        where.add("rule_id = ?", rule_id)
        where.add("entity_value = ?", entity)
        where.add("last_seen >= ?", since_ns)
        rows = self._rows(
            f"SELECT * FROM alerts {where} ORDER BY last_seen DESC, id LIMIT ?", (*where.values, max(0, limit))
        )
        return self._with_decisions(rows)

    def alert(self, alert_id: str) -> Alert | None:
        """Returns the alert with that id, or with the only id that begins so."""
        rows = self._rows("SELECT * FROM alerts WHERE id >= ? AND id < ? LIMIT 2", _beginning(alert_id))
        return self._with_decisions(rows)[0] if alert_id and len(rows) == 1 else None

    def detections_of(self, alert_id: str, *, limit: int = 100) -> list[Detection]:
        """Returns the detections of an alert, oldest first."""
        rows = self._rows(
            "SELECT body FROM detections WHERE alert_id = ? ORDER BY timestamp, id LIMIT ?", (alert_id, limit)
        )
        return [Detection.from_json(json.loads(row["body"])) for row in rows]

    def hits_by_rule(self) -> dict[str, tuple[int, int]]:
        """Returns, per rule id, the number of detections kept and the time of the last one in nanoseconds."""
        rows = self._rows(
            "SELECT rule_id, count(*) AS hits, max(timestamp) AS last FROM detections GROUP BY rule_id", ()
        )
        return {row["rule_id"]: (row["hits"], row["last"]) for row in rows}

    def _with_decisions(self, rows: list[sqlite3.Row]) -> list[Alert]:
        links = self._links("alert_id", "decision_id", (row["id"] for row in rows))
        return [alert_of(row, links.get(row["id"], ())) for row in rows]

    # --- decisions ------------------------------------------------------------------------------------------------

    def decisions(
        self,
        *,
        limit: int = 100,
        states: Iterable[DecisionState] = (),
        verb: Verb | None = None,
        target: str = "",
        policy_id: str = "",
        since_ns: int | None = None,
    ) -> list[Decision]:
        """Returns decisions, latest first; filters are ANDed, empty ones don't filter."""
        where = _Where()
        where.add_any("state", [str(state) for state in states])
        where.add("verb = ?", verb)
        where.add("target = ?", target)
        where.add("policy_id = ?", policy_id)
        where.add("created_at >= ?", since_ns)
        return self._decisions(f"{where} ORDER BY created_at DESC, id LIMIT ?", (*where.values, max(0, limit)))

    def decision(self, decision_id: str) -> Decision | None:
        """Returns the decision with that id, or with the only id that begins so."""
        found = self._decisions("WHERE id >= ? AND id < ? LIMIT 2", _beginning(decision_id))
        return found[0] if decision_id and len(found) == 1 else None

    def live(self, verb: Verb, target: str) -> Decision | None:
        """Returns the pending or active decision for this verb and target."""
        found = self._decisions(f"WHERE verb = ? AND target = ? AND {schema.LIVE}", (str(verb), target))
        return found[0] if found else None

    def live_decisions(self, verbs: Iterable[Verb] = ()) -> list[Decision]:
        """Returns all pending and active decisions, oldest first: what must be resumed after a crash."""
        where = _Where()
        where.add_any("verb", [str(verb) for verb in verbs])
        clause = f"{where} AND {schema.LIVE}" if where.values else f"WHERE {schema.LIVE}"
        return self._decisions(f"{clause} ORDER BY created_at, id", where.values)

    def work(self, verbs: Iterable[Verb], *, limit: int = 1000) -> list[Decision]:
        """Returns what is to be carried out now: pending, or extended since it was carried out; most urgent first."""
        found: list[Decision] = []
        for verb in sorted(verbs):
            # One verb at a time, so that the index gives the order and the limit costs no more than it returns.
            found += self._decisions(
                f"WHERE {schema.OWED} AND verb = ? ORDER BY priority, created_at, id LIMIT ?", (str(verb), limit)
            )
        return sorted(found, key=lambda decision: (decision.priority, decision.created_at, decision.id))[:limit]

    def due(self, verbs: Iterable[Verb], moment: Moment, *, limit: int = 1000) -> list[Decision]:
        """Returns live decisions whose time is over.

        Within the boot in which a decision was carried out the boot clock decides, so a stepped wall clock neither
        frees nor keeps anybody; after a reboot wall time decides.
        """
        names = [str(verb) for verb in verbs]
        # Told which index: SQLite would rather walk all live decisions than the few that end.
        among = f"AND verb IN ({_marks(names)}) LIMIT ?"
        rest = (*names, limit)
        ended = [
            *self._decisions(
                f"{_BY_BOOT} AND boot_id = ? AND expires_boot_ns <= ? {among}",
                (moment.boot_id, moment.boot_ns, *rest),
            ),
            *self._decisions(
                f"{_BY_WALL} AND expires_at <= ? {among}",
                (moment.wall_ns, *rest),
            ),
        ]
        for comparison in ("<", ">"):
            ended += self._decisions(
                f"{_BY_BOOT} AND boot_id {comparison} ? AND expires_at <= ? {among}",
                (moment.boot_id, moment.wall_ns, *rest),
            )
        return ended[:limit]

    def next_expiry_ns(self, verbs: Iterable[Verb], moment: Moment) -> int | None:
        """Returns in how many nanoseconds the next live decision ends, 0 when overdue; ``None`` when none does."""
        names = [str(verb) for verb in verbs]
        among = f"AND verb IN ({_marks(names)})"
        by_boot = (
            f"SELECT expires_boot_ns - ? AS rest FROM decisions {_BY_BOOT} AND boot_id = ?"
            f" {among} ORDER BY expires_boot_ns LIMIT 1"
        )
        by_wall = f"SELECT expires_at - ? AS rest FROM decisions {_BY_WALL} {among} ORDER BY expires_at LIMIT 1"
        rows = [
            *self._rows(by_boot, (moment.boot_ns, moment.boot_id, *names)),
            *self._rows(by_wall, (moment.wall_ns, *names)),
        ]
        rests = [int(row["rest"]) for row in rows]
        return max(0, min(rests)) if rests else None

    def decision_counts(self) -> dict[str, int]:
        """Returns how many decisions stand in each state."""
        rows = self._rows("SELECT state, count(*) AS number FROM decisions GROUP BY state", ())
        return {row["state"]: row["number"] for row in rows}

    def _decisions(self, clause: str, values: tuple[Any, ...]) -> list[Decision]:
        with self._database() as database:
            return decisions_of(database, clause, values)

    # --- ledger, allow list, progress -----------------------------------------------------------------------------

    def actions(
        self, *, limit: int = 100, decision_id: str = "", target: str = "", after_sequence: int = 0
    ) -> list[ActionRecord]:
        """Returns ledger rows, latest first."""
        where = _Where()
        where.add("decision_id = ?", decision_id)
        where.add("target = ?", target)
        where.add("sequence > ?", after_sequence)
        rows = self._rows(
            f"SELECT * FROM ledger {where} ORDER BY sequence DESC LIMIT ?", (*where.values, max(0, limit))
        )
        return [ledger.record_of(row) for row in rows]

    def verify_ledger(self) -> ledger.Verdict:
        """Walks the whole chain and returns whether it is whole, and where it first breaks."""
        with self._database() as database:
            return ledger.verify(database)

    def allow_entries(self, *, now_ns: int | None = None) -> list[AllowEntry]:
        """Returns the allow list; with a moment, only what is in force then."""
        rows = self._rows(
            "SELECT * FROM allow_entries WHERE expires_at IS NULL OR ? IS NULL OR expires_at > ? ORDER BY network",
            (now_ns, now_ns),
        )
        return [
            AllowEntry(row["network"], row["created_at"], row["expires_at"], row["reason"], row["actor"])
            for row in rows
        ]

    def checkpoints(self) -> dict[str, str]:
        """Returns how far each source was read, as the engine wrote it."""
        return {row["source"]: row["position"] for row in self._rows("SELECT * FROM checkpoints ORDER BY source", ())}

    def windows(self) -> list[tuple[str, bytes]]:
        """Returns the correlation windows, as the engine wrote them."""
        return [(row["key"], row["state"]) for row in self._rows("SELECT * FROM windows ORDER BY key", ())]

    def check(self) -> str:
        """Reads the whole file and returns ``ok``, or what is damaged."""
        return str(self._rows("PRAGMA quick_check(1)", ())[0][0])

    # --- plumbing -------------------------------------------------------------------------------------------------

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with self._reading_lock, schema.failures_named(self.path):
            yield self._reading

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        with self._database() as database:
            return database.execute(query, values).fetchall()

    def _links(self, by: str, other: str, ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        with self._database() as database:
            return links(database, by, other, list(ids))


class _Where:
    """Collects conditions; text of the query is ours, values are always bound."""

    def __init__(self) -> None:
        self._conditions: list[str] = []
        self.values: tuple[Any, ...] = ()

    def add(self, condition: str, value: Any) -> None:
        if value is not None and value != "":
            self._conditions.append(condition)
            self.values += (value if isinstance(value, int) else str(value),)

    def add_any(self, column: str, values: list[str]) -> None:
        if values:
            self._conditions.append(f"{column} IN ({_marks(values)})")
            self.values += tuple(values)

    def __str__(self) -> str:
        return "WHERE " + " AND ".join(self._conditions) if self._conditions else ""


def _beginning(prefix: str) -> tuple[str, str]:
    """Returns the range of texts that begin so."""
    return prefix, f"{prefix}\U0010ffff"


def _marks(values: list[str]) -> str:
    return ", ".join("?" * len(values))


def links(database: sqlite3.Connection, by: str, other: str, ids: list[str]) -> dict[str, tuple[str, ...]]:
    """Returns for each id the ids on the other side of the link between alerts and decisions."""
    found: dict[str, list[str]] = {}
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        query = f"SELECT {by}, {other} FROM decision_alerts WHERE {by} IN ({_marks(part)}) ORDER BY {other}"
        for key, value in database.execute(query, part):
            found.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in found.items()}


def decisions_of(database: sqlite3.Connection, clause: str, values: tuple[Any, ...]) -> list[Decision]:
    """Returns the decisions that a clause selects."""
    rows = database.execute(f"SELECT * FROM decisions {clause}", values).fetchall()
    alerts = links(database, "decision_id", "alert_id", [row["id"] for row in rows])
    return [_decision_of(row, alerts.get(row["id"], ())) for row in rows]


def alert_of(row: sqlite3.Row, decisions: tuple[str, ...] = ()) -> Alert:
    """Returns the alert of a row."""
    return Alert(
        id=row["id"],
        rule_id=row["rule_id"],
        title=row["title"],
        severity=Severity(row["severity"]),
        entity=Entity(row["entity_kind"], row["entity_value"]),
        first_seen=row["first_seen"],
        last_seen=row["last_seen"],
        count=row["count"],
        trace_id=row["trace_id"],
        status=AlertStatus(row["status"]),
        tags=tuple(json.loads(row["tags"])),
        evidence=tuple(json.loads(row["evidence"])),
        trust=row["trust"],
        source=row["source"],
        container=_container_of(row["container"]),
        decisions=decisions,
    )


def _decision_of(row: sqlite3.Row, alert_ids: tuple[str, ...]) -> Decision:
    restoration = row["restoration"]
    parameters: Mapping[str, Any] = {} if row["parameters"] == "{}" else json.loads(row["parameters"])
    return Decision(
        id=row["id"],
        verb=Verb(row["verb"]),
        target=row["target"],
        scope=row["scope"],
        mode=Mode(row["mode"]),
        state=DecisionState(row["state"]),
        policy_id=row["policy_id"],
        alert_ids=alert_ids,
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        trace_id=row["trace_id"],
        reason=row["reason"],
        priority=row["priority"],
        container=_container_of(row["container"]),
        parameters=parameters,
        restoration=None if restoration is None else json.loads(restoration),
        enforced_until=row["enforced_until"],
        expires_boot_ns=row["expires_boot_ns"],
        boot_id=row["boot_id"],
    )


def _container_of(text: str | None) -> ContainerIdentity | None:
    return None if text is None else ContainerIdentity.from_json(json.loads(text))
