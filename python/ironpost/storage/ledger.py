"""The ledger: one row per attempt, each holding the hash of the row before it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ironpost.model import ActionRecord


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a walk along the chain found.

    Attributes:
        rows: Rows that were checked.
        broken_at: First sequence number that does not fit, or ``None``.
        reason: What does not fit there.
    """

    rows: int
    broken_at: int | None = None
    reason: str = ""

    @property
    def is_whole(self) -> bool:
        """Says whether nothing was changed, removed or inserted."""
        return self.broken_at is None


def append(database: sqlite3.Connection, records: Sequence[ActionRecord]) -> tuple[ActionRecord, ...]:
    """Appends records inside the caller's transaction and returns them with sequence and hashes."""
    if not records:
        return ()
    sequence, previous = database.execute("SELECT sequence, hash FROM ledger_head").fetchone()
    chained = []
    for record in records:
        sequence += 1
        numbered = replace(record, sequence=sequence, previous_hash=previous)
        previous = _hash(numbered)
        chained.append(replace(numbered, hash=previous))
    database.executemany(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                record.sequence,
                record.timestamp,
                record.action_type,
                record.target,
                record.success,
                record.error,
                record.policy_id,
                record.trace_id,
                record.decision_id,
                json.dumps(record.alert_ids),
                record.actor,
                record.attempt,
                record.previous_hash,
                record.hash,
            )
            for record in chained
        ],
    )
    database.execute("UPDATE ledger_head SET sequence = ?, hash = ?", (sequence, previous))
    return tuple(chained)


def verify(database: sqlite3.Connection) -> Verdict:
    """Recomputes every hash; the head tells when rows at the end are missing."""
    # One snapshot for rows and head, or a row appended in between would look like damage.
    database.execute("BEGIN")
    try:
        previous = ""
        sequence = 0
        for row in database.execute("SELECT * FROM ledger ORDER BY sequence"):
            sequence += 1
            record = record_of(row)
            if record.sequence != sequence:
                return Verdict(sequence - 1, sequence, f"row {sequence} is missing")
            if record.previous_hash != previous:
                return Verdict(sequence - 1, sequence, "the hash of the row before does not fit")
            if record.hash != _hash(record):
                return Verdict(sequence - 1, sequence, "the row was changed")
            previous = record.hash
        last, head = database.execute("SELECT sequence, hash FROM ledger_head").fetchone()
        if (last, head) != (sequence, previous):
            return Verdict(sequence, sequence + 1, f"rows up to {last} are missing")
        return Verdict(sequence)
    finally:
        database.execute("ROLLBACK")


def record_of(row: sqlite3.Row) -> ActionRecord:
    """Returns the record of a row."""
    return ActionRecord(
        action_type=row["action_type"],
        target=row["target"],
        success=bool(row["success"]),
        timestamp=row["timestamp"],
        error=row["error"],
        policy_id=row["policy_id"],
        trace_id=row["trace_id"],
        decision_id=row["decision_id"],
        alert_ids=tuple(json.loads(row["alert_ids"])),
        actor=row["actor"],
        attempt=row["attempt"],
        sequence=row["sequence"],
        previous_hash=row["previous_hash"],
        hash=row["hash"],
    )


def _hash(record: ActionRecord) -> str:
    content = json.dumps(record.content(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{record.previous_hash}\n{content}".encode()).hexdigest()
