from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ironpost.errors import (
    StorageBusy,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageVersion,
)
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
    Entity,
    Mode,
    Moment,
    Severity,
    Transition,
    Verb,
)
from ironpost.storage import CommitUnit, Store, StoreReader, schema
from support.response import MINUTE_NS, decision, detection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ironpost.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as opened:
        yield opened


def ban(alert: Alert, found: Detection, history: DecisionHistory) -> list[Decision]:
    del history
    made = Decision.identify("policy", alert.id, Verb.BAN, alert.entity.value, found.id)
    return [decision(alert.entity.value, id=made, alert_ids=(alert.id,), created_at=found.timestamp)]


# --- the main path ----------------------------------------------------------------------------------------------------


def test_detections_of_one_rule_and_entity_gather_in_one_alert(store: Store) -> None:
    first, second = detection(1), detection(2, count=3, level=Severity.CRITICAL)
    other = detection(3, entity=Entity("source.ip", "203.0.113.8"))
    store.commit(CommitUnit([first]))
    result = store.commit(CommitUnit([second, other]))
    assert [(change.alert.entity.value, change.opened) for change in result.alerts] == [
        ("203.0.113.7", False),
        ("203.0.113.8", True),
    ]
    alert = store.alert(result.alerts[0].alert.id)
    assert alert is not None
    assert (alert.count, alert.first_seen, alert.last_seen) == (4, first.timestamp, second.timestamp)
    assert (alert.trace_id, alert.severity, alert.evidence) == (first.trace_id, Severity.CRITICAL, ("line 1", "line 2"))
    assert [found.id for found in store.detections_of(alert.id)] == [first.id, second.id]


def test_reading_a_source_again_changes_nothing(store: Store) -> None:
    unit = CommitUnit([detection(1), detection(2)], {"file:/var/log/auth.log": "17"})
    store.commit(unit, ban)
    before = (store.alerts(), store.decisions())
    again = store.commit(unit, ban)
    assert again.duplicates == 2
    assert (again.alerts, again.decisions, again.new_detections) == ((), (), ())
    assert (store.alerts(), store.decisions()) == before


def test_a_closed_alert_gathers_no_more_and_stays_closed(store: Store) -> None:
    [first] = store.commit(CommitUnit([detection(1)])).alerts
    assert store.set_alert_status(first.alert.id, AlertStatus.ACKNOWLEDGED)
    [joined] = store.commit(CommitUnit([detection(2)])).alerts
    assert (joined.alert.id, joined.alert.status) == (first.alert.id, AlertStatus.ACKNOWLEDGED)
    assert store.set_alert_status(first.alert.id, AlertStatus.CLOSED)
    [second] = store.commit(CommitUnit([detection(3)])).alerts
    assert second.opened
    assert not store.set_alert_status(first.alert.id, AlertStatus.OPEN)


def test_evidence_is_bounded(store: Store) -> None:
    store.commit(CommitUnit([detection(number) for number in range(50)]))
    [alert] = store.alerts()
    assert len(alert.evidence) == 10
    assert alert.count == 50


def test_decisions_are_made_inside_the_transaction_and_name_their_alert(store: Store) -> None:
    result = store.commit(CommitUnit([detection(1)]), ban)
    [alert], [made] = store.alerts(), store.decisions()
    assert result.decisions == (made,)
    assert (alert.decisions, made.alert_ids) == ((made.id,), (alert.id,))


def test_a_second_decision_for_the_same_verb_and_target_extends_the_first(store: Store) -> None:
    first = store.commit(CommitUnit([detection(1)]), ban).decisions[0]
    later = replace(first, id="f" * 32, expires_at=(first.expires_at or 0) + MINUTE_NS, alert_ids=("b" * 32,))
    [extended] = store.add_decisions([later])
    assert extended.id == first.id
    assert extended.expires_at == later.expires_at
    assert set(extended.alert_ids) == {*first.alert_ids, "b" * 32}
    [shorter] = store.add_decisions([replace(later, expires_at=first.expires_at)])
    assert shorter.expires_at == later.expires_at


def test_an_exception_while_deciding_stores_nothing(store: Store) -> None:
    def fail(*_: object) -> list[Decision]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.commit(CommitUnit([detection(1)], {"s": "1"}, [("w", b"x")]), fail)
    assert (store.alerts(), store.checkpoints(), store.windows()) == ([], {}, [])
    assert store.commit(CommitUnit([detection(1)])).new_detections


def test_history_sees_decisions_of_the_same_unit(store: Store) -> None:
    seen: list[bool] = []

    def once(alert: Alert, found: Detection, history: DecisionHistory) -> list[Decision]:
        seen.append(history.live(Verb.BAN, alert.entity.value) is None)
        return ban(alert, found, history)

    store.commit(CommitUnit([detection(1), detection(2)]), once)
    assert seen == [True, False]
    assert len(store.decisions()) == 1


def test_windows_and_checkpoints_follow_the_engine(store: Store) -> None:
    store.commit(CommitUnit(checkpoints={"a": "1", "b": "1"}, windows=[("x", b"\0\xff"), ("y", b"")]))
    store.commit(CommitUnit(checkpoints={"a": "2"}, windows=[("y", None), ("z", None)]))
    assert store.checkpoints() == {"a": "2", "b": "1"}
    assert store.windows() == [("x", b"\0\xff")]


# --- decisions --------------------------------------------------------------------------------------------------------


def test_a_transition_needs_the_state_it_expects(store: Store) -> None:
    [made] = store.add_decisions([decision()])
    assert store.settle([], [Transition(made.id, LIVE_STATES, DecisionState.EXPIRED, "over")]).lost == ()
    assert store.settle([], [Transition(made.id, LIVE_STATES, DecisionState.ACTIVE)]).lost == (made.id,)
    assert store.decisions()[0].state is DecisionState.EXPIRED


def test_work_is_what_waits_or_was_extended(store: Store) -> None:
    [made] = store.add_decisions([decision(expires_at=100)])
    store.add_decisions([decision("203.0.113.9", mode=Mode.ASK)])
    assert [each.id for each in store.work([Verb.BAN])] == [made.id]
    store.settle([], [Transition(made.id, LIVE_STATES, DecisionState.ACTIVE, enforced_until=100, expires_boot_ns=7)])
    assert store.work([Verb.BAN]) == []
    store.add_decisions([decision(expires_at=200, id="e" * 32)])
    assert [each.id for each in store.work([Verb.BAN])] == [made.id]
    assert store.work([Verb.PAUSE]) == []


def test_due_follows_the_boot_clock_within_the_boot_and_wall_time_after_it(store: Store) -> None:
    [made] = store.add_decisions([decision(expires_at=100)])
    step = Transition(made.id, LIVE_STATES, DecisionState.ACTIVE, enforced_until=100, expires_boot_ns=50, boot_id="b1")
    store.settle([], [step])
    assert store.due([Verb.BAN], Moment(wall_ns=1000, boot_ns=49, boot_id="b1")) == []
    assert store.due([Verb.BAN], Moment(wall_ns=0, boot_ns=50, boot_id="b1")) != []
    assert store.due([Verb.BAN], Moment(wall_ns=99, boot_ns=10_000, boot_id="b2")) == []
    assert store.due([Verb.BAN], Moment(wall_ns=100, boot_ns=0, boot_id="b2")) != []
    assert store.next_expiry_ns([Verb.BAN], Moment(wall_ns=1000, boot_ns=20, boot_id="b1")) == 30
    assert store.next_expiry_ns([Verb.PAUSE], Moment(0, 0, "")) is None


def test_a_restoration_is_remembered_once(store: Store) -> None:
    [made] = store.add_decisions([decision()])
    assert store.remember_restoration(made.id, {"networks": {"front": {}}}) == {"networks": {"front": {}}}
    assert store.remember_restoration(made.id, {"networks": {}}) == {"networks": {"front": {}}}


def test_filters_and_limits_narrow_lists(store: Store) -> None:
    store.commit(
        CommitUnit(
            [detection(n, entity=Entity("source.ip", f"203.0.113.{n}"), level=Severity(n % 5)) for n in range(20)]
        ),
        ban,
    )
    assert len(store.alerts(limit=7)) == 7
    assert [alert.entity.value for alert in store.alerts(entity="203.0.113.3")] == ["203.0.113.3"]
    assert {alert.severity for alert in store.alerts(min_severity=Severity.HIGH)} == {Severity.HIGH, Severity.CRITICAL}
    assert store.alerts(status=AlertStatus.CLOSED) == []
    assert [each.target for each in store.decisions(limit=1)] == ["203.0.113.19"]
    assert len(store.decisions(states=[DecisionState.PENDING, DecisionState.ACTIVE])) == 20
    assert store.decisions(verb=Verb.PAUSE) == []
    alert = store.alerts()[0]
    assert store.alert(alert.id[:10]) == alert
    assert store.alert("") is None
    assert store.decision("' OR 1=1 --") is None


def test_allow_entries_expire(store: Store) -> None:
    store.add_allow_entries([AllowEntry("203.0.113.7/32", 1, 100, "office", "alice"), AllowEntry("192.0.2.0/24", 1)])
    assert [entry.network for entry in store.allow_entries(now_ns=99)] == ["192.0.2.0/24", "203.0.113.7/32"]
    assert [entry.network for entry in store.allow_entries(now_ns=100)] == ["192.0.2.0/24"]
    assert store.remove_expired_allow_entries(100) == ("203.0.113.7/32",)
    assert store.remove_allow_entry("192.0.2.0/24")
    assert not store.remove_allow_entry("192.0.2.0/24")


def test_pruning_keeps_what_is_in_force_and_the_ledger(store: Store) -> None:
    store.commit(CommitUnit([detection(1), detection(2, entity=Entity("source.ip", "203.0.113.8"))]), ban)
    gone, kept = sorted(store.decisions(), key=lambda each: each.target)
    store.settle(
        [ActionRecord("ip_ban", gone.target, success=True, timestamp=1, decision_id=gone.id)],
        [Transition(gone.id, LIVE_STATES, DecisionState.UNDONE)],
    )
    assert store.prune(2**62) == 3
    assert [each.id for each in store.decisions()] == [kept.id]
    assert [alert.entity.value for alert in store.alerts()] == [kept.target]
    assert store.verify_ledger().rows == 1


# --- ledger -----------------------------------------------------------------------------------------------------------


def fill_ledger(store: Store) -> None:
    store.settle(
        [ActionRecord("ip_ban", f"203.0.113.{number}", success=True, timestamp=number) for number in range(5)], []
    )


@pytest.mark.parametrize(
    ("edit", "broken_at"),
    [
        ("UPDATE ledger SET target = '203.0.113.99' WHERE sequence = 3", 3),
        ("UPDATE ledger SET success = 0 WHERE sequence = 1", 1),
        ("DELETE FROM ledger WHERE sequence = 2", 2),
        ("DELETE FROM ledger WHERE sequence = 5", 5),
        ("UPDATE ledger SET sequence = 9 WHERE sequence = 5", 5),
    ],
)
def test_any_edit_of_the_ledger_is_found(store: Store, path: Path, edit: str, broken_at: int) -> None:
    fill_ledger(store)
    assert store.verify_ledger().rows == 5
    raw = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="the ledger only grows"):
        raw.execute(edit)
    raw.execute("DROP TRIGGER ledger_keeps_rows")
    raw.execute("DROP TRIGGER ledger_keeps_text")
    raw.execute(edit)
    raw.commit()
    raw.close()
    verdict = store.verify_ledger()
    assert not verdict.is_whole
    assert verdict.broken_at == broken_at


def test_two_stores_on_one_file_keep_one_chain(store: Store, path: Path) -> None:
    with Store(path) as other:
        writers = [threading.Thread(target=lambda at=at: [fill_ledger(at) for _ in range(10)]) for at in (store, other)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    verdict = store.verify_ledger()
    assert (verdict.rows, verdict.is_whole) == (100, True)


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_only(store: Store, path: Path) -> None:
    store.commit(CommitUnit([detection(1)]))
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) & 0o077 == 0


def test_the_store_is_readable_beside_a_writer_and_after_it(path: Path) -> None:
    with Store(path) as store, StoreReader(path) as reader:
        store.commit(CommitUnit([detection(1)], {"s": "1"}))
        assert len(reader.alerts()) == 1
        store.commit(CommitUnit([detection(2, entity=Entity("user.name", "root"))]))
        assert len(reader.alerts()) == 2
    with StoreReader(path) as reader:
        assert len(reader.alerts()) == 2


def test_a_missing_database_names_path_and_remedy(path: Path) -> None:
    with pytest.raises(StorageError, match="no such database") as caught:
        StoreReader(path)
    assert str(path) in str(caught.value)
    assert "start the daemon" in caught.value.hint


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be one" * 100, b"SQLite format 3\0junk"]
)
def test_garbage_in_place_of_the_database_is_named(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for opener in (Store, StoreReader):
        with pytest.raises(StorageCorrupt, match=str(path)) as caught:
            opener(path)
        assert "move the file" in caught.value.hint
    assert path.read_bytes() == content


def test_a_damaged_page_is_named_when_it_is_met(path: Path) -> None:
    with Store(path) as store:
        store.commit(CommitUnit([detection(n, entity=Entity("source.ip", f"10.0.0.{n}")) for n in range(200)]))
    raw = bytearray(path.read_bytes())
    for page in range(2, len(raw) // 4096):
        raw[page * 4096 : page * 4096 + 100] = os.urandom(100)
    path.write_bytes(raw)
    with pytest.raises(StorageCorrupt, match="damaged"), StoreReader(path) as reader:
        reader.alerts(limit=1000)


def test_another_programs_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir(parents=True)
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE theirs (x)")
    foreign.close()
    with pytest.raises(StorageCorrupt, match="a database of another program"):
        Store(path)


def test_a_newer_schema_is_refused(path: Path) -> None:
    Store(path).close()
    raw = sqlite3.connect(path)
    raw.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    raw.close()
    with pytest.raises(StorageVersion, match="made by a newer Ironpost"):
        Store(path)


def test_a_full_disk_writes_nothing_and_passes(store: Store) -> None:
    store.commit(CommitUnit([detection(1)], {"s": "1"}))
    pages = store._writing.execute("PRAGMA page_count").fetchone()[0]
    store._writing.execute(f"PRAGMA max_page_count = {pages}")
    heavy = CommitUnit(
        [detection(n, evidence=("x" * 8000,), entity=Entity("", str(n))) for n in range(2, 40)], {"s": "2"}
    )
    with pytest.raises(StorageFull, match="no space left") as caught:
        store.commit(heavy)
    assert "free space" in caught.value.hint
    assert store.checkpoints() == {"s": "1"}
    store._writing.execute("PRAGMA max_page_count = 1000000")
    assert len(store.commit(heavy).new_detections) == 38
    assert store.checkpoints() == {"s": "2"}


def test_a_locked_database_is_named_and_the_next_try_succeeds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_SECONDS", 0.05)
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageBusy, match="locked by another process"):
            store.commit(CommitUnit([detection(1)]))
        other.execute("ROLLBACK")
        other.close()
        assert store.commit(CommitUnit([detection(1)])).new_detections


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageReadOnly) as caught:
        Store(tmp_path / "file" / "ironpost.db")
    assert isinstance(caught.value, PermissionError)
    assert "general.data_dir" in caught.value.hint


@pytest.mark.root
def test_a_read_only_directory_is_named_and_still_readable(path: Path) -> None:
    with Store(path) as store:
        store.commit(CommitUnit([detection(1)]))
    for each in (*path.parent.parents[:4], path.parent):
        if each != Path("/"):
            each.chmod(each.stat().st_mode | 0o055)
    path.chmod(0o644)
    os.seteuid(65534)
    try:
        with pytest.raises(StorageReadOnly, match="Permission denied"):
            Store(path)
        with StoreReader(path) as reader:
            assert len(reader.alerts()) == 1
    finally:
        os.seteuid(0)


def test_a_closed_store_says_so(path: Path) -> None:
    store = Store(path)
    store.close()
    store.close()
    with pytest.raises(StorageError, match="the store is closed"):
        store.commit(CommitUnit())
