"""Batches reach the store once each, whatever fails on the way."""

from __future__ import annotations

import json

import pytest

import ironpost
from ironpost.alerts import AlertLimiter
from ironpost.detections import Judges, RuleSet
from ironpost.errors import StorageError
from ironpost.model import ContainerIdentity, Entity
from ironpost.pipeline.consume import Consumer
from ironpost.pipeline.health import Health, HealthBoard
from ironpost.pipeline.publish import Publisher
from ironpost.pipeline.sources import believed
from ironpost.storage import Store
from ironpost.system import FixedClock
from support.batches import FakeBatch, batch, detection


class FakeEngine:
    def __init__(self, *batches):
        self.batches = list(batches)
        self.acknowledged = []

    async def next_batch(self):
        return self.batches.pop(0) if self.batches else None

    def acknowledge(self, sequence):
        self.acknowledged.append(sequence)


class FailingStore:
    """A store whose disk is full for the first tries."""

    def __init__(self, store, failures):
        self.store = store
        self.failures = failures

    def commit(self, unit, decide):
        if self.failures:
            self.failures -= 1
            raise StorageError("disk full", hint="free some space")
        return self.store.commit(unit, decide)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "ironpost.db")
    yield store
    store.close()


@pytest.fixture
def board():
    board = HealthBoard()
    board.add("log-pipeline", "log-pipeline", enabled=True)
    return board


def consumer(engine, store, board, *, identify=None, publisher=None, limiter=None, judges=Judges):
    return Consumer(
        engine,
        store,
        decide=lambda: None,
        believed=believed,
        identify=identify,
        publisher=publisher or Publisher(),
        limiter=limiter or AlertLimiter(clock=FixedClock(), window_seconds=60, repeats_per_rule=3),
        board=board,
        on_decisions=lambda: None,
        judges=judges,
    )


async def test_a_batch_is_acknowledged_after_its_commit(store, board):
    engine = FakeEngine(batch(1, detection(1), checkpoints={"file:/x": "{}"}, windows=(("k", b"v"),)), batch(2))
    taken = consumer(engine, store, board)
    await taken.run()
    assert engine.acknowledged == [1, 2]
    assert [alert.count for alert in store.alerts()] == [1]
    assert store.checkpoints() == {"file:/x": "{}"}
    assert store.windows() == [("k", b"v")]


async def test_a_detection_read_twice_is_one(store, board):
    engine = FakeEngine(batch(1, detection(1)), batch(2, detection(1)))
    taken = consumer(engine, store, board)
    await taken.run()
    assert (taken.counters.new, taken.counters.duplicates) == (1, 1)
    assert [alert.count for alert in store.alerts()] == [1]


async def test_a_batch_waits_while_the_store_fails_and_is_not_acknowledged(store, board, monkeypatch):
    engine = FakeEngine(batch(7, detection(1)))
    seen = []
    monkeypatch.setattr("ironpost.pipeline.consume._FIRST_RETRY_SECONDS", 0.001)
    watched = HealthBoard(lambda module, _fault: seen.append((str(module.health), list(engine.acknowledged))))
    watched.add("log-pipeline", "log-pipeline", enabled=True)
    taken = consumer(engine, FailingStore(store, 2), watched)
    await taken.run()
    assert seen == [("unhealthy", []), ("healthy", [])]
    assert engine.acknowledged == [7]
    assert taken.counters.retries == 2
    assert watched.health is Health.HEALTHY
    assert len(store.alerts()) == 1


async def test_a_batch_survives_the_death_of_its_task(store, board):
    engine = FakeEngine(batch(1, detection(1, container_id="c" * 64)))
    asked = []

    async def identify(container):
        asked.append(container)
        if len(asked) == 1:
            raise RuntimeError("engine library failed")
        return ContainerIdentity(id=container, name="web")

    taken = consumer(engine, store, board, identify=identify)
    with pytest.raises(RuntimeError):
        await taken.run()
    assert engine.acknowledged == []
    await taken.run()
    assert engine.acknowledged == [1]
    assert store.alerts()[0].container.name == "web"


async def test_a_detection_that_can_not_be_read_is_counted_and_its_neighbours_stay(store, board):
    broken = json.dumps([{"id": "x"}, detection(1).to_json(), 5]).encode()
    taken = consumer(FakeEngine(FakeBatch(1, broken)), store, board)
    await taken.run()
    assert (taken.counters.detections, taken.counters.unreadable, taken.counters.new) == (3, 2, 1)


async def heard_from(*batches, store, board, limiter):
    publisher = Publisher()
    subscription = publisher.subscribe()
    taken = consumer(FakeEngine(*batches), store, board, publisher=publisher, limiter=limiter)
    await taken.run()
    publisher.close()
    heard = []
    while (item := await subscription.get()) is not None:
        heard.append(item["alert"])
    return heard


def attack(number, attacker, **changes):
    return detection(number, entity=Entity("source.ip", f"203.0.113.{attacker}"), **changes)


async def test_an_alert_that_keeps_gathering_is_told_once_per_window(store, board):
    clock = FixedClock()
    limiter = AlertLimiter(clock=clock, window_seconds=60)
    batches = [batch(number, detection(number)) for number in range(1, 6)]
    [first] = await heard_from(*batches, store=store, board=board, limiter=limiter)
    assert (first["opened"], first["count"], first["withheld"]) == (True, 1, 0)
    assert limiter.held_back == 4
    clock.advance(61)
    [later] = await heard_from(batch(6, detection(6)), store=store, board=board, limiter=limiter)
    assert (later["opened"], later["count"], later["withheld"]) == (False, 6, 4)


async def test_no_attacker_hides_behind_others_of_the_same_rule(store, board):
    attackers = [f"203.0.113.{number}" for number in range(30)]
    batches = [batch(number, attack(number, number)) for number in range(30)]
    limiter = AlertLimiter(clock=FixedClock(), repeats_per_rule=3)
    heard = await heard_from(*batches, store=store, board=board, limiter=limiter)
    assert [alert["entity"]["value"] for alert in heard if alert["opened"]] == attackers
    assert limiter.held_back == 0


async def test_repeats_of_one_rule_are_told_in_part_and_stored_whole(store, board):
    clock = FixedClock()
    limiter = AlertLimiter(clock=clock, window_seconds=60, repeats_per_rule=3)
    await heard_from(batch(1, *(attack(n, n) for n in range(10))), store=store, board=board, limiter=limiter)
    clock.advance(61)
    again = batch(2, *(attack(100 + n, n) for n in range(10)), detection(999, rule_id="other"))
    heard = await heard_from(again, store=store, board=board, limiter=limiter)
    assert [alert["rule_id"] for alert in heard] == ["ssh_brute_force"] * 3 + ["other"]
    assert limiter.held_back == 7
    assert sorted(alert.count for alert in store.alerts()) == [1] + [2] * 10


async def test_each_container_is_looked_up_once_per_batch(store, board):
    asked = []

    async def identify(container):
        asked.append(container)
        return ContainerIdentity(id=container, name=f"name of {container[0]}")

    found = [attack(n, n, container_id="ab"[n % 2] * 64) for n in range(6)]
    await consumer(FakeEngine(batch(1, *found)), store, board, identify=identify).run()
    assert asked == ["a" * 64, "b" * 64]
    assert {alert.container.name for alert in store.alerts()} == {"name of a", "name of b"}


async def test_a_python_rule_has_the_last_word_and_is_named_when_it_is_disabled(store, board):
    rule = ironpost.rule(
        id="p", title="t", prefilter={"s": {"a": "x"}, "condition": "s"}, logsource={"product": "test"}
    )
    rules = RuleSet.from_text("", python_rules=[rule(lambda event: event["a"] != "n")])
    found = [
        {**detection(index).to_json(), "rule_id": "p", "event": json.dumps({"a": value} if value else {})}
        for index, value in enumerate(["x", "n", *[""] * 10, "x"])
    ]
    taken = consumer(FakeEngine(FakeBatch(1, json.dumps(found).encode())), store, board, judges=lambda: rules.judges)
    await taken.run()
    assert (taken.counters.detections, taken.counters.new, taken.counters.declined) == (13, 1, 12)
    assert store.alerts()[0].rule_id == "p"
    fault = board.faults("log-pipeline")["rule p"]
    assert "raised 10 exceptions, the last KeyError: 'a'" in fault.reason
