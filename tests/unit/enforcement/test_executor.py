from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ironpost.errors import EnforcementError, FilterError, PrivilegeMissing, StorageFull, TargetRefused
from ironpost.model import DecisionState, Mode, Verb
from support.house import House
from support.response import MINUTE_NS, decision, unavailable


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path / "ironpost.db")
    yield built
    built.stop()


async def test_a_pending_ban_is_dropped_in_the_kernel_and_written_down(house: House) -> None:
    made = decision()
    house.add(made)
    await house.executor.drain()
    assert house.filter.drops("203.0.113.7")
    assert not house.filter.drops("203.0.113.8")
    assert house.state(made) is DecisionState.ACTIVE
    [record] = house.records
    assert (record.action_type, record.target, record.success) == ("ip_ban", "203.0.113.7", True)
    assert (record.decision_id, record.policy_id, record.trace_id) == (made.id, "policy", made.trace_id)
    assert house.store.verify_ledger().is_whole


async def test_observing_and_asking_decisions_change_nothing(house: House) -> None:
    house.add(
        decision(mode=Mode.OBSERVE, state=DecisionState.OBSERVED),
        decision("203.0.113.8", mode=Mode.ASK),
    )
    await house.executor.drain()
    assert house.filter.blocked == {}
    assert house.records == []


async def test_an_asking_decision_is_carried_out_once_approved(house: House) -> None:
    made = decision(mode=Mode.ASK)
    house.add(made)
    approved = await house.responder.approve(made.id)
    assert approved.state is DecisionState.ACTIVE
    assert house.filter.drops("203.0.113.7")
    with pytest.raises(EnforcementError, match="does not wait for approval"):
        await house.responder.approve(made.id)


async def test_a_ban_ends_by_the_boot_clock_even_when_wall_time_jumps(house: House) -> None:
    made = decision()
    house.add(made)
    await house.executor.drain()
    house.clock.wall += 3600 * 1_000_000_000
    await house.executor.drain()
    assert house.state(made) is DecisionState.ACTIVE
    assert house.expired == []
    house.clock.wall -= 7200 * 1_000_000_000
    house.clock.boot += 10 * MINUTE_NS
    assert not house.filter.drops("203.0.113.7")  # the kernel needs no daemon for it
    await house.executor.drain()
    assert house.state(made) is DecisionState.EXPIRED
    assert house.filter.blocked == {}
    assert [(each.id, each.state) for each in house.expired] == [(made.id, DecisionState.EXPIRED)]
    assert [record.action_type for record in house.records] == ["ip_ban", "ip_unban"]


async def test_bans_survive_a_reboot_with_what_is_left_of_their_time(house: House) -> None:
    lasting, over = decision("203.0.113.7"), decision("203.0.113.8", expires_at=house.clock.wall + MINUTE_NS)
    house.add(lasting, over)
    await house.executor.drain()
    house.clock.wall += 4 * MINUTE_NS
    house.reboot()
    differences = await house.executor.resume()
    assert differences == ["203.0.113.7: ban restored in the kernel"]
    assert house.filter.blocked["203.0.113.7/32"][0] == house.clock.boot + 6 * MINUTE_NS
    assert house.state(over) is DecisionState.EXPIRED
    house.clock.advance(6 * 60)
    await house.executor.drain()
    assert house.state(lasting) is DecisionState.EXPIRED


async def test_resume_removes_kernel_entries_that_no_decision_explains(house: House) -> None:
    house.filter.block([("198.51.100.9/32", 0, 1, 1)])
    assert await house.executor.resume() == ["198.51.100.9/32: removed from the kernel, no decision explains it"]
    assert house.filter.blocked == {}
    assert await house.executor.resume() == []


async def test_resume_frees_what_became_protected_meanwhile(house: House) -> None:
    made = decision()
    house.add(made)
    await house.executor.drain()
    house.stop()
    house.configured = ("203.0.113.0/24",)
    house.start()
    await house.executor.resume()
    assert house.state(made) is DecisionState.UNDONE
    assert house.filter.blocked == {}


async def test_an_extended_ban_moves_its_end_in_the_kernel(house: House) -> None:
    house.add(decision())
    await house.executor.drain()
    before = house.filter.blocked["203.0.113.7/32"][0]
    house.add(decision(created_at=1, expires_at=house.clock.wall + 30 * MINUTE_NS))
    assert len(house.store.decisions()) == 1
    await house.executor.drain()
    assert house.filter.blocked["203.0.113.7/32"][0] == before + 20 * MINUTE_NS


async def test_a_crash_between_act_and_state_repeats_the_act_harmlessly(house: House) -> None:
    web = house.engine.add("web")
    pause, ban = decision(web.id, Verb.PAUSE, container=web), decision()
    house.add(pause, ban)
    settle = house.store.settle
    house.store.settle = _disk_full  # type: ignore[method-assign,assignment]
    with pytest.raises(StorageFull):
        await house.executor.drain(Verb.PAUSE)
    with pytest.raises(StorageFull):
        await house.executor.drain(Verb.BAN)
    house.store.settle = settle  # type: ignore[method-assign]
    assert house.state(pause) is DecisionState.PENDING
    house.stop()
    house.start()
    await house.executor.resume()
    await house.executor.drain()
    assert (house.state(pause), house.state(ban)) == (DecisionState.ACTIVE, DecisionState.ACTIVE)
    assert [call[0] for call in house.engine.calls].count("pause") == 1
    await house.executor.undo(pause.id)
    assert house.engine.containers[web.id].status == "running"


def _disk_full(*_: object) -> None:
    raise StorageFull("no space left", path="ironpost.db", hint="free space")


async def test_without_a_filter_a_ban_fails_with_reason_and_remedy(house: House) -> None:
    made = decision()
    house.add(made)
    house.xdp.replace(None, problem=PrivilegeMissing("CAP_BPF is missing", "CAP_BPF", hint="run as root"))
    await house.executor.drain()
    assert house.state(made) is DecisionState.FAILED
    assert house.reason(made) == "not enforceable here: CAP_BPF is missing (hint: run as root)"
    assert [record.success for record in house.records] == [False]
    with pytest.raises(FilterError, match="not enforceable here: CAP_BPF is missing"):
        await house.responder.ban(["203.0.113.9"])
    assert len(house.store.decisions()) == 1


async def test_a_full_kernel_map_fails_only_the_ban_that_no_longer_fits(house: House) -> None:
    house.filter.capacity = 2
    made = [decision(f"203.0.113.{number}") for number in (1, 2, 3)]
    house.add(*made)
    await house.executor.drain()
    assert sorted(house.state(each) for each in made) == [
        DecisionState.ACTIVE,
        DecisionState.ACTIVE,
        DecisionState.FAILED,
    ]
    assert len(house.filter.blocked) == 2


async def test_the_executor_asks_again_whether_the_target_is_protected(house: House) -> None:
    made = decision()
    house.add(made)
    await house.responder.allow("203.0.113.7")
    house.add(decision("203.0.113.7", created_at=2))
    await house.executor.drain()
    assert house.filter.blocked == {}
    assert {each.state for each in house.store.decisions()} <= {DecisionState.UNDONE, DecisionState.REFUSED}
    refused = [record for record in house.records if record.action_type == "ip_ban"]
    assert [record.success for record in refused] == [False]
    assert "allowed by an operator" in refused[0].error


async def test_a_verb_nobody_carries_out_fails_by_name(house: House) -> None:
    made = decision(verb=Verb.RATE_LIMIT)
    house.add(made)
    await house.executor.drain()
    assert house.state(made) is DecisionState.FAILED
    assert "nothing carries out rate_limit" in house.reason(made)


async def test_undo_unbans_and_a_second_undo_is_refused(house: House) -> None:
    made = decision()
    house.add(made)
    await house.executor.drain()
    undone = await house.executor.undo(made.id[:8], actor="alice")
    assert undone.state is DecisionState.UNDONE
    assert not house.filter.drops("203.0.113.7")
    assert house.records[-1].actor == "alice"
    with pytest.raises(EnforcementError, match="is undone, there is nothing to undo"):
        await house.executor.undo(made.id)
    with pytest.raises(EnforcementError, match="no such decision"):
        await house.executor.undo("ffff")


async def test_a_failed_undo_leaves_the_decision_in_force_and_says_so(house: House) -> None:
    made = decision()
    house.add(made)
    await house.executor.drain()
    house.filter.broken = "the map is gone"
    with pytest.raises(FilterError, match="the map is gone"):
        await house.executor.undo(made.id)
    assert house.state(made) is DecisionState.ACTIVE
    assert not house.records[-1].success


async def test_the_lanes_pick_up_work_and_deadlines_by_themselves(house: House) -> None:
    running = asyncio.create_task(house.executor.run())
    made = decision()
    try:
        await asyncio.sleep(0)
        house.add(made)
        house.executor.wake()
        await _until(lambda: house.filter.drops("203.0.113.7") and house.state(made) is DecisionState.ACTIVE)
        house.clock.advance(600)
        house.executor.wake()
        await _until(lambda: house.state(made) is DecisionState.EXPIRED)
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_full_disk_stops_no_lane(house: House) -> None:
    settle = house.store.settle
    house.store.settle = _disk_full  # type: ignore[method-assign,assignment]
    house.add(decision())
    running = asyncio.create_task(house.executor.run())
    try:
        await _until(lambda: any(isinstance(problem, StorageFull) for problem in house.problems))
        assert house.filter.drops("203.0.113.7")
        house.store.settle = settle  # type: ignore[method-assign]
        house.executor.wake()
        await _until(lambda: house.state(decision()) is DecisionState.ACTIVE)
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_hanging_container_engine_delays_no_ban(house: House) -> None:
    web = house.engine.add("web")
    hanging = asyncio.Event()
    loop = asyncio.get_running_loop()
    release = asyncio.run_coroutine_threadsafe

    def hang(verb: str) -> None:
        if verb == "pause":
            release(hanging.wait(), loop).result()

    house.engine.before = hang
    pause, ban = decision(web.id, Verb.PAUSE, container=web), decision()
    house.add(pause, ban)
    running = asyncio.create_task(house.executor.run())
    try:
        await _until(lambda: house.state(ban) is DecisionState.ACTIVE)
        assert house.state(pause) is DecisionState.PENDING
        hanging.set()
        await _until(lambda: house.state(pause) is DecisionState.ACTIVE)
    finally:
        hanging.set()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def _until(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - what is awaited is a row in a database
            await asyncio.sleep(0.005)


# --- by hand ----------------------------------------------------------------------------------------------------------


async def test_a_manual_ban_enforces_by_itself_and_expires(house: House) -> None:
    [made] = await house.responder.ban(["::ffff:203.0.113.7"], duration_ns=MINUTE_NS, actor="alice")
    assert (made.state, made.target, made.policy_id) == (DecisionState.ACTIVE, "203.0.113.7", "manual")
    assert house.filter.drops("203.0.113.7")
    house.clock.advance(61)
    await house.executor.drain()
    assert house.state(made) is DecisionState.EXPIRED


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("0.0.0.0/0", "too much of the world"),
        ("::/0", "too much of the world"),
        ("128.0.0.0/1", "too much of the world"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("198.51.100.20", "allow list of the configuration"),
        ("198.51.100.0/24", "it covers 198.51.100.20"),
        ("192.0.2.55", "you are connected from there"),
    ],
)
async def test_a_refused_manual_ban_changes_nothing(tmp_path: Path, target: str, reason: str) -> None:
    house = House(tmp_path / "ironpost.db", configured=("198.51.100.20",))
    try:
        with pytest.raises(TargetRefused, match=reason):
            await house.responder.ban(["203.0.113.7", target], operator_address="192.0.2.55")
        assert house.filter.blocked == {}
        assert house.store.decisions() == []
        assert house.store.actions() == []
    finally:
        house.stop()


async def test_unban_ends_a_ban_and_names_the_wider_one_otherwise(house: House) -> None:
    await house.responder.ban(["203.0.113.0/24"])
    with pytest.raises(EnforcementError, match=r"203\.0\.113\.7: is not banned") as caught:
        await house.responder.unban(["203.0.113.7"])
    assert "203.0.113.0/24 is banned" in caught.value.hint
    await house.responder.unban(["203.0.113.0/24"])
    assert house.filter.blocked == {}


async def test_allow_unbans_and_wins_over_a_wider_ban(house: House) -> None:
    await house.responder.ban(["203.0.113.7", "203.0.113.0/24"])
    allowed = await house.responder.allow("203.0.113.7", duration_ns=MINUTE_NS)
    assert [each.target for each in allowed.unbanned] == ["203.0.113.7"]
    assert allowed.still_covered_by == ("203.0.113.0/24",)
    assert not house.filter.drops("203.0.113.7")
    assert house.filter.drops("203.0.113.8")
    with pytest.raises(TargetRefused, match="allowed by an operator"):
        await house.responder.ban(["203.0.113.7"])
    house.clock.advance(61)
    await house.responder.sync_allowed()
    assert house.filter.drops("203.0.113.7")
    assert house.store.allow_entries() == []


async def test_a_ban_that_drops_replaces_one_that_only_counts(house: House) -> None:
    await house.responder.ban(["203.0.113.7"], monitor=True)
    assert not house.filter.drops("203.0.113.7")
    await house.responder.ban(["203.0.113.7"])
    assert house.filter.drops("203.0.113.7")


async def test_allowing_everybody_is_refused(house: House) -> None:
    with pytest.raises(TargetRefused, match="switches the response off"):
        await house.responder.allow("0.0.0.0/0")
    assert house.store.allow_entries() == []


async def test_garbage_is_named(house: House) -> None:
    with pytest.raises(EnforcementError, match="'nonsense' is no address or network"):
        await house.responder.ban(["nonsense"])


async def test_a_long_list_is_banned_in_few_calls_into_the_kernel(house: House) -> None:
    targets = [f"10.{high}.{low}.1" for high in range(10) for low in range(200)]
    made = await house.responder.ban(targets)
    assert len(made) == len(house.filter.blocked) == 2000
    assert house.filter.calls < 10


# --- containers -------------------------------------------------------------------------------------------------------


async def test_exactly_the_named_container_is_paused_and_undo_resumes_it(house: House) -> None:
    web, neighbour = house.engine.add("web"), house.engine.add("neighbour")
    made = decision(web.id, Verb.PAUSE, container=web)
    house.add(made)
    await house.executor.drain()
    assert house.engine.containers[web.id].status == "paused"
    assert house.engine.containers[neighbour.id].status == "running"
    assert house.records[-1].action_type == "container_pause"
    await house.executor.undo(made.id)
    assert house.engine.containers[web.id].status == "running"
    assert house.records[-1].action_type == "container_unpause"


async def test_a_container_made_anew_or_restarted_is_refused_as_stale(house: House) -> None:
    for field_name in ("created", "started_at"):
        web = house.engine.add("web")
        house.engine.change(web.id, identity=replace(web, **{field_name: "2026-02-02T00:00:00Z"}))
        made = decision(web.id, Verb.PAUSE, container=web, created_at=house.clock.wall + len(field_name))
        house.add(made)
        await house.executor.drain()
        assert house.state(made) is DecisionState.FAILED
        assert "restarted since the alert" in house.reason(made)
        assert house.engine.containers[web.id].status == "running"


async def test_a_protected_container_is_never_touched(house: House) -> None:
    web = house.engine.add("web", labels={"ironpost.protected": ""})
    for verb in (Verb.PAUSE, Verb.STOP, Verb.KILL, Verb.DISCONNECT):
        # The alert may carry an identity without the label: what counts is the container itself.
        made = decision(web.id, verb, container=replace(web, labels={}))
        house.add(made)
        await house.executor.drain()
        assert house.state(made) is DecisionState.FAILED
        assert "ironpost.protected" in house.reason(made)
    assert {call[0] for call in house.engine.calls} == {"inspect"}


async def test_stop_neutralises_the_restart_policy_and_undo_brings_both_back(house: House) -> None:
    policy = {"Name": "always", "MaximumRetryCount": 0}
    web = house.engine.add("web", restart_policy=policy)
    made = decision(web.id, Verb.STOP, container=web)
    house.add(made)
    await house.executor.drain()
    assert house.engine.containers[web.id].status == "exited"
    await house.executor.undo(made.id)
    assert house.engine.containers[web.id].status == "running"
    assert house.engine.containers[web.id].restart_policy == policy


async def test_disconnect_remembers_addresses_and_aliases(house: House) -> None:
    house.engine.static_networks = {"front"}
    networks = {
        "front": {"Aliases": ["web", "www"], "IPAddress": "10.5.0.9", "IPAMConfig": {"IPv4Address": "10.5.0.9"}},
        "back": {"Aliases": ["db-client"], "IPAddress": "10.6.0.9"},
    }
    web = house.engine.add("web", networks=networks)
    made = decision(web.id, Verb.DISCONNECT, container=web, parameters={"networks": ["*"]})
    house.add(made)
    await house.executor.drain()
    assert house.engine.containers[web.id].networks == {}
    undone = await house.executor.undo(made.id)
    restored = house.engine.containers[web.id].networks
    assert restored["front"] == {"Aliases": ["web", "www"], "IPAddress": "10.5.0.9"}
    assert restored["back"]["Aliases"] == ["db-client"]
    assert "back: connected, but not with 10.6.0.9" in undone.reason


async def test_a_half_done_disconnect_still_remembers_all_networks(house: House) -> None:
    web = house.engine.add("web", networks={"front": {}, "back": {}})
    made = decision(web.id, Verb.DISCONNECT, container=web, parameters={"networks": ["*"]})
    house.add(made)
    house.engine.failures["disconnect"] = [unavailable()] * 3
    house.engine.before = _after_first_disconnect(house)
    await house.executor.drain()
    assert house.state(made) is DecisionState.FAILED
    await house.executor.undo(made.id)
    assert sorted(house.engine.containers[web.id].networks) == ["back", "front"]


def _after_first_disconnect(house: House) -> object:
    seen: list[str] = []

    def before(verb: str) -> None:
        seen.append(verb)
        if verb == "disconnect" and seen.count("disconnect") == 1:
            [identity] = house.engine.containers
            house.engine.change(identity, networks={"back": {}})

    return before


async def test_a_failure_that_passes_is_tried_three_times_with_a_row_each(house: House) -> None:
    web = house.engine.add("web")
    made = decision(web.id, Verb.PAUSE, container=web)
    house.add(made)
    house.engine.failures["pause"] = [unavailable(), unavailable()]
    await house.executor.drain()
    assert house.state(made) is DecisionState.ACTIVE
    assert [(record.attempt, record.success) for record in house.records] == [(1, False), (2, False), (3, True)]


async def test_an_engine_that_never_answers_ends_in_a_named_state(house: House) -> None:
    web = house.engine.add("web")
    made = decision(web.id, Verb.PAUSE, container=web)
    house.add(made)
    house.engine.failures["inspect"] = [unavailable() for _ in range(9)]
    await house.executor.drain()
    assert house.state(made) is DecisionState.FAILED
    assert "does not answer" in house.reason(made)
    assert len(house.records) == 3


async def test_a_container_that_is_gone_ends_in_a_named_state(house: House) -> None:
    web = house.engine.add("web")
    made = decision(web.id, Verb.PAUSE, container=web)
    house.add(made)
    await house.executor.drain()
    del house.engine.containers[web.id]
    undone = await house.executor.undo(made.id)
    assert undone.state is DecisionState.UNDONE
    assert "the container is gone" in undone.reason
    late = decision(web.id, Verb.PAUSE, container=web, created_at=5)
    house.add(late)
    await house.executor.drain()
    assert house.state(late) is DecisionState.FAILED
    assert "the container is gone" in house.reason(late)


async def test_an_expired_pause_is_ended_by_the_executor_even_after_an_outage(house: House) -> None:
    web = house.engine.add("web")
    made = decision(web.id, Verb.PAUSE, container=web)
    house.add(made)
    await house.executor.drain()
    house.clock.advance(601)
    house.engine.failures["inspect"] = [unavailable()]
    await house.executor.drain()
    assert house.state(made) is DecisionState.ACTIVE
    house.clock.advance(2)
    await house.executor.drain()
    assert house.state(made) is DecisionState.EXPIRED
    assert house.engine.containers[web.id].status == "running"


async def test_a_container_paused_by_somebody_else_before_stays_paused_on_undo(house: House) -> None:
    web = house.engine.add("web", status="paused")
    made = decision(web.id, Verb.PAUSE, container=web)
    house.add(made)
    await house.executor.drain()
    assert house.state(made) is DecisionState.ACTIVE
    assert "it was so already" in house.reason(made)
    await house.executor.undo(made.id)
    assert house.engine.containers[web.id].status == "paused"


async def test_a_container_on_the_hosts_network_is_not_disconnected_but_named(house: House) -> None:
    web = house.engine.add("web", network_mode="host", networks={"host": {}})
    made = decision(web.id, Verb.DISCONNECT, container=web)
    house.add(made)
    await house.executor.drain()
    assert "has network mode host" in house.reason(made)
    assert "pause it instead" in house.reason(made)


async def test_a_container_that_would_vanish_is_not_stopped(house: House) -> None:
    web = house.engine.add("web", removes_itself=True)
    made = decision(web.id, Verb.STOP, container=web)
    house.add(made)
    await house.executor.drain()
    assert "--rm" in house.reason(made)
    assert house.engine.containers[web.id].status == "running"


async def test_a_pause_that_did_not_survive_is_carried_out_again_at_start(house: House) -> None:
    web = house.engine.add("web")
    made = decision(web.id, Verb.PAUSE, container=web)
    house.add(made)
    await house.executor.drain()
    house.engine.change(web.id, status="running")
    assert await house.executor.resume() == ["web: pause carried out again"]
    assert house.engine.containers[web.id].status == "paused"
