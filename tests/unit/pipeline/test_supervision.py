"""Tasks that die, health that shows it, and subscribers that are slow."""

from __future__ import annotations

import asyncio

from ironpost.pipeline.health import Health, HealthBoard
from ironpost.pipeline.publish import Publisher
from ironpost.pipeline.supervise import Supervisor


def board_with(*names):
    board = HealthBoard()
    for name in names:
        board.add(name, "custom:test", enabled=True)
    return board


async def test_a_task_that_dies_comes_back_and_its_neighbour_never_notices():
    board = board_with("sick", "well")
    supervisor = Supervisor(board, first_pause=0.001, proven=60)
    lives = 0
    third_life = asyncio.Event()
    neighbour = asyncio.Event()

    async def sick():
        nonlocal lives
        lives += 1
        if lives < 3:
            raise RuntimeError("ouch")
        third_life.set()
        await asyncio.Event().wait()

    async def well():
        neighbour.set()
        await asyncio.Event().wait()

    supervisor.spawn("sick-task", "sick", sick)
    well_task = supervisor.spawn("well-task", "well", well)
    async with asyncio.timeout(5):
        await third_life.wait()
    assert board.health is Health.UNHEALTHY
    modules = {module["name"]: module for module in board.to_json()}
    assert modules["sick"]["status"] == "unhealthy"
    assert "ouch" in modules["sick"]["reason"]
    assert modules["well"]["status"] == "healthy"
    assert not well_task.done()
    await supervisor.stop(seconds=1)


async def test_a_task_that_keeps_running_is_healthy_again():
    board = board_with("module")
    recovered = asyncio.Event()
    watched = HealthBoard(lambda _module, fault: recovered.set() if fault is None else None)
    watched.add("module", "custom:test", enabled=True)
    supervisor = Supervisor(watched, first_pause=0.001, proven=0.02)
    failed = False

    async def work():
        nonlocal failed
        if not failed:
            failed = True
            raise OSError("once")
        await asyncio.Event().wait()

    supervisor.spawn("task", "module", work)
    async with asyncio.timeout(5):
        await recovered.wait()
    assert watched.health is board.health is Health.HEALTHY
    await supervisor.stop(seconds=1)


async def test_a_task_that_returns_has_ended():
    supervisor = Supervisor(board_with("module"))

    async def work():
        return

    async with asyncio.timeout(5):
        await supervisor.spawn("task", "module", work)


async def test_a_task_that_ignores_its_cancellation_does_not_hold_up_the_stop():
    supervisor = Supervisor(board_with("module"))
    started = asyncio.Event()
    release = asyncio.Event()

    async def stubborn():
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = supervisor.spawn("task", "module", stubborn)
    await started.wait()
    async with asyncio.timeout(5):
        await supervisor.stop(seconds=0.01)
    release.set()
    await asyncio.wait({task})


def test_the_worst_enabled_module_decides():
    board = board_with("a", "b")
    board.add("off", "custom:test", enabled=False)
    assert board.health is Health.HEALTHY
    board.report("off", "x", Health.UNHEALTHY, "nobody asks")
    assert board.health is Health.HEALTHY
    board.report("a", "x", Health.DEGRADED, "slow", "wait")
    assert board.health is Health.DEGRADED
    board.report("b", "y", Health.UNHEALTHY, "dead")
    assert board.health is Health.UNHEALTHY
    board.clear("b", "y")
    board.clear("a", "x")
    assert board.health is Health.HEALTHY


def test_the_same_fault_twice_is_one_change():
    changes = []
    board = HealthBoard(lambda module, fault: changes.append((module.name, fault)))
    board.add("a", "custom:test", enabled=True)
    for _ in range(2):
        board.report("a", "x", Health.DEGRADED, "slow")
    board.clear("a", "x")
    board.clear("a", "x")
    assert [fault is None for _, fault in changes] == [False, True]


async def test_a_slow_subscriber_loses_the_oldest_and_it_is_counted():
    publisher = Publisher(capacity=3)
    slow, quick = publisher.subscribe(), publisher.subscribe()
    seen = []
    for number in range(5):
        publisher.publish("alert", {"n": number})
        seen.append((await quick.get())["alert"]["n"])
    assert seen == [0, 1, 2, 3, 4]
    assert [(await slow.get())["alert"]["n"] for _ in range(3)] == [2, 3, 4]
    assert (slow.dropped, publisher.counters()["dropped"]) == (2, 2)
    publisher.unsubscribe(slow)
    assert publisher.counters()["dropped"] == 2


async def test_subscribers_end_after_what_waits_for_them():
    publisher = Publisher()
    subscription = publisher.subscribe()
    publisher.publish("alert", {"n": 1})
    publisher.close()
    assert await subscription.get() == {"alert": {"n": 1}}
    assert await subscription.get() is None
