"""The database file: how it is opened, what is in it, and what its failures mean."""

# ruff: noqa: S608 — no text but our own

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ironpost import errors

APPLICATION_ID = 0x49504F53
"""``IPOS``: tells our file from any other SQLite database."""

BUSY_TIMEOUT_SECONDS = 10.0

# Conditions that indexes and queries must spell alike, or SQLite does not use the one for the other.
LIVE = "state IN ('pending', 'active')"
OWED = (
    f"{LIVE} AND mode = 'enforce' AND (state = 'pending' OR enforced_until IS NULL"
    " OR enforced_until < coalesce(expires_at, 9223372036854775807))"
)
ENDS_BY_BOOT_CLOCK = f"{LIVE} AND expires_boot_ns IS NOT NULL AND enforced_until = expires_at"
ENDS_BY_WALL_CLOCK = f"{LIVE} AND expires_at IS NOT NULL AND (expires_boot_ns IS NULL OR enforced_until <> expires_at)"

_MIGRATIONS = (
    # 1: the first shape. Moments are nanoseconds since the Unix epoch.
    f"""
    CREATE TABLE detections (
        id TEXT PRIMARY KEY, alert_id TEXT NOT NULL, rule_id TEXT NOT NULL, timestamp INTEGER NOT NULL,
        body TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX detections_by_alert ON detections (alert_id, timestamp);

    CREATE TABLE alerts (
        id TEXT PRIMARY KEY, rule_id TEXT NOT NULL, title TEXT NOT NULL, severity INTEGER NOT NULL,
        entity_kind TEXT NOT NULL, entity_value TEXT NOT NULL, status TEXT NOT NULL,
        first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL, count INTEGER NOT NULL,
        trace_id TEXT NOT NULL, trust TEXT NOT NULL, source TEXT NOT NULL,
        tags TEXT NOT NULL, evidence TEXT NOT NULL, container TEXT
    );
    CREATE UNIQUE INDEX alerts_gathering ON alerts (rule_id, entity_kind, entity_value) WHERE status <> 'closed';
    CREATE INDEX alerts_by_time ON alerts (last_seen);

    CREATE TABLE decisions (
        id TEXT PRIMARY KEY, verb TEXT NOT NULL, target TEXT NOT NULL, scope TEXT NOT NULL, mode TEXT NOT NULL,
        state TEXT NOT NULL, policy_id TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER,
        trace_id TEXT NOT NULL, reason TEXT NOT NULL, priority INTEGER NOT NULL, container TEXT,
        parameters TEXT NOT NULL, restoration TEXT, enforced_until INTEGER, expires_boot_ns INTEGER,
        boot_id TEXT NOT NULL
    );
    CREATE UNIQUE INDEX decisions_live ON decisions (verb, target) WHERE {LIVE};
    CREATE INDEX decisions_owed ON decisions (verb, priority, created_at, id) WHERE {OWED};
    CREATE INDEX decisions_by_boot_clock ON decisions (boot_id, expires_boot_ns) WHERE {ENDS_BY_BOOT_CLOCK};
    CREATE INDEX decisions_by_wall_clock ON decisions (expires_at) WHERE {ENDS_BY_WALL_CLOCK};
    CREATE INDEX decisions_by_state ON decisions (state, created_at);
    CREATE INDEX decisions_by_policy ON decisions (policy_id, created_at);
    CREATE INDEX decisions_by_target ON decisions (target, created_at);
    CREATE INDEX decisions_by_time ON decisions (created_at);
    CREATE TABLE decision_alerts (
        decision_id TEXT NOT NULL, alert_id TEXT NOT NULL, PRIMARY KEY (decision_id, alert_id)
    ) WITHOUT ROWID;
    CREATE INDEX decisions_of_alert ON decision_alerts (alert_id);

    CREATE TABLE ledger (
        sequence INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, action_type TEXT NOT NULL, target TEXT NOT NULL,
        success INTEGER NOT NULL, error TEXT NOT NULL, policy_id TEXT NOT NULL, trace_id TEXT NOT NULL,
        decision_id TEXT NOT NULL, alert_ids TEXT NOT NULL, actor TEXT NOT NULL, attempt INTEGER NOT NULL,
        previous_hash TEXT NOT NULL, hash TEXT NOT NULL
    );
    CREATE INDEX ledger_by_decision ON ledger (decision_id);
    CREATE TABLE ledger_head (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1), sequence INTEGER NOT NULL, hash TEXT NOT NULL
    );
    INSERT INTO ledger_head VALUES (1, 0, '');
    CREATE TRIGGER ledger_keeps_rows BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
    CREATE TRIGGER ledger_keeps_text BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;

    CREATE TABLE checkpoints (source TEXT PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE windows (key TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE allow_entries (
        network TEXT PRIMARY KEY, created_at INTEGER NOT NULL, expires_at INTEGER, reason TEXT NOT NULL,
        actor TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
)

VERSION = len(_MIGRATIONS)


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into ours, with path and remedy.

    Raises:
        StorageError: Or the subclass that fits.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _named(path, error) from error


def _named(path: Path, error: sqlite3.Error) -> errors.StorageError:
    place = str(path)
    # Extended codes carry the primary code in the low byte.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    match code:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return errors.StorageCorrupt(
                f"{place}: the database is damaged or no database ({error})",
                path=place,
                hint="stop the daemon and move the file with its -wal and -shm aside; the next start makes a new one",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return errors.StorageBusy(
                f"{place}: the database is locked by another process",
                path=place,
                hint=f"find it with: fuser -v {place}",
            )
        case sqlite3.SQLITE_FULL:
            return errors.StorageFull(f"{place}: no space left", path=place, hint=f"free space under {path.parent}")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return errors.StorageReadOnly(
                f"{place}: can't be written ({error})",
                path=place,
                hint="run as the user that owns it, or set general.data_dir to a directory that can be written",
            )
        case sqlite3.SQLITE_CANTOPEN:
            return errors.StorageReadOnly(
                f"{place}: can't be opened ({error})",
                path=place,
                hint=f"check that {path.parent} exists and that this user may use it, or set general.data_dir",
            )
        case sqlite3.SQLITE_IOERR:
            return errors.StorageError(
                f"{place}: the disk reports an error ({error})", path=place, hint="check the disk and the kernel log"
            )
        case _:
            return errors.StorageError(f"{place}: {error}", path=place, hint="report this as a defect of Ironpost")


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Opens the database, makes it when missing, and brings it to the present version.

    Raises:
        StorageError: Or the subclass that fits; nothing was changed.
    """
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        # Made here so that alerts and evidence are never readable by others, whatever the umask.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise errors.StorageReadOnly(
            f"{path}: {error.strerror}",
            path=str(path),
            hint="run as a user that may write there, or set general.data_dir to a directory that can be written",
        ) from error
    with failures_named(path):
        # Without check_same_thread the closing thread may differ; only the writer thread executes.
        database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _refuse_strangers(path, database)
            database.execute("PRAGMA journal_mode = WAL")
            # A decision must be on the disk before the host is changed: FULL, not NORMAL.
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA journal_size_limit = 67108864")
            _migrate(database)
        except BaseException:
            database.close()
            raise
    return database


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Opens an existing database for queries only, whether or not a daemon is writing.

    Raises:
        StorageError: Or the subclass that fits.
    """
    if not path.exists():
        raise errors.StorageError(
            f"{path}: no such database",
            path=str(path),
            hint="start the daemon once, or set general.data_dir",
        )
    uri = path.absolute().as_uri()
    with failures_named(path):
        # A cleanly closed WAL database in a directory we can't write has no -shm file and we can't make one:
        # immutable is then right, because nobody writes.
        quiet = not Path(f"{path}-wal").exists() and not os.access(path.parent, os.W_OK, effective_ids=True)
        database = sqlite3.connect(
            f"{uri}?mode=ro{'&immutable=1' if quiet else ''}",
            uri=True,
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _refuse_strangers(path, database)
        except BaseException:
            database.close()
            raise
    return database


def _refuse_strangers(path: Path, database: sqlite3.Connection) -> None:
    version = _pragma(database, "user_version")
    application = _pragma(database, "application_id")
    if version > VERSION:
        raise errors.StorageVersion(
            f"{path}: made by a newer Ironpost (schema {version}, this one knows {VERSION})",
            path=str(path),
            hint="install the newer version again, or set general.data_dir to another directory",
        )
    empty = database.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0]
    if application != APPLICATION_ID and not empty:
        raise errors.StorageCorrupt(
            f"{path}: a database of another program",
            path=str(path),
            hint="set general.data_dir to a directory of its own",
        )


def _migrate(database: sqlite3.Connection) -> None:
    while (version := _pragma(database, "user_version")) < VERSION:
        # The version is part of the transaction: a crash between two steps leaves a database that goes on here.
        database.executescript(
            f"BEGIN IMMEDIATE; {_MIGRATIONS[version]}; PRAGMA user_version = {version + 1}; "
            f"PRAGMA application_id = {APPLICATION_ID}; COMMIT;"
        )


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])
