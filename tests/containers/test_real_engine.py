"""Acts on real containers, seen through a second client that knows nothing of ours."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from ironpost.enforcement import ContainerInventory, DockerRuntime
from ironpost.model import ContainerIdentity, Decision, DecisionState, Verb
from ironpost.system import FixedClock
from support.house import House
from support.response import decision

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.docker]

IMAGE = "ironpost-test:1"


def run(client: docker.DockerClient, name: str, **settings: Any) -> Container:
    return client.containers.run(
        IMAGE,
        ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do /bin/busybox sleep 1 & wait; done"],
        name=name,
        detach=True,
        **settings,
    )


def state(container: Container) -> str:
    container.reload()
    return str(container.status)


def picture(container: Container) -> dict[str, Any]:
    """What an undo must bring back: everything but moments, process ids and the ids of endpoints."""
    container.reload()
    document = container.attrs
    networks = {
        name: {key: end.get(key) for key in ("IPAMConfig", "Aliases", "IPAddress", "Gateway", "NetworkID")}
        for name, end in document["NetworkSettings"]["Networks"].items()
    }
    for end in networks.values():
        end["Aliases"] = sorted(end["Aliases"] or [])
    return {
        "running": document["State"]["Running"],
        "paused": document["State"]["Paused"],
        "host": document["HostConfig"],
        "config": document["Config"],
        "networks": networks,
    }


async def identity_of(house: House, container: Container) -> ContainerIdentity:
    runtime = house.runtime
    assert runtime is not None
    found = await asyncio.to_thread(runtime.inspect, container.id)
    return found.identity


async def carry_out(
    house: House, container: Container, verb: Verb, *, seen: ContainerIdentity | None = None
) -> Decision:
    """Has a decision carried out; ``seen`` is who the container was when the alert was raised."""
    identity = seen or await identity_of(house, container)
    made = decision(identity.id, verb, container=identity, created_at=time.time_ns())
    house.add(made)
    await house.executor.drain()
    stored = house.store.decision(made.id)
    assert stored is not None
    return stored


@pytest.mark.parametrize("verb", [Verb.PAUSE, Verb.STOP, Verb.KILL, Verb.DISCONNECT])
async def test_every_act_hits_one_container_and_undo_brings_everything_back(
    house: House, client: docker.DockerClient, verb: Verb
) -> None:
    network = client.networks.create(
        "front",
        ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.77.0.0/24", gateway="10.77.0.1")]),
    )
    back = client.networks.create("back")
    web, neighbour = (run(client, name, restart_policy={"Name": "always"}) for name in ("web", "neighbour"))
    network.connect(web, aliases=["www", "shop"], ipv4_address="10.77.0.9")
    back.connect(web, aliases=["db-client"])
    network.connect(neighbour)
    before, before_neighbour = picture(web), picture(neighbour)

    made = await carry_out(house, web, verb)
    assert made.state is DecisionState.ACTIVE, made.reason
    after = picture(web)
    seen = {
        Verb.PAUSE: after["paused"],
        Verb.STOP: not after["running"],
        Verb.KILL: not after["running"],
        Verb.DISCONNECT: after["networks"] == {},
    }
    assert seen[verb]
    assert picture(neighbour) == before_neighbour

    undone = await house.executor.undo(made.id)
    assert undone.state is DecisionState.UNDONE
    assert picture(web) == before
    assert picture(neighbour) == before_neighbour
    assert house.store.verify_ledger().is_whole


async def test_a_stopped_container_stays_stopped_whatever_its_restart_policy(
    house: House, client: docker.DockerClient
) -> None:
    web = run(client, "web", restart_policy={"Name": "always"})
    await carry_out(house, web, Verb.KILL)
    await asyncio.sleep(1.5)  # the engine's first restart comes after 100 ms, the second after 200
    assert state(web) == "exited"


async def test_a_container_recreated_under_the_same_name_is_left_alone(
    house: House, client: docker.DockerClient
) -> None:
    web = run(client, "web")
    seen = await identity_of(house, web)
    web.remove(force=True)
    again = run(client, "web")
    made = await carry_out(house, again, Verb.PAUSE, seen=seen)
    assert made.state is DecisionState.FAILED
    assert "the container is gone" in made.reason
    assert state(again) == "running"


async def test_a_restarted_container_is_another_run_and_left_alone(house: House, client: docker.DockerClient) -> None:
    web = run(client, "web")
    seen = await identity_of(house, web)
    web.restart(timeout=1)
    made = await carry_out(house, web, Verb.PAUSE, seen=seen)
    assert made.state is DecisionState.FAILED
    assert "restarted since the alert" in made.reason
    assert state(web) == "running"


async def test_a_name_protects_nobody_and_a_label_does(house: House, client: docker.DockerClient) -> None:
    protected = run(client, "plain", labels={"ironpost.protected": "true"})
    web = run(client, "web")
    seen = await identity_of(house, web)
    web.rename("ironpost.protected")
    made = await carry_out(house, web, Verb.PAUSE, seen=seen)
    assert made.state is DecisionState.ACTIVE
    for verb in (Verb.PAUSE, Verb.STOP, Verb.KILL, Verb.DISCONNECT):
        bare = replace(await identity_of(house, protected), labels={})
        refused = await carry_out(house, protected, verb, seen=bare)
        assert "ironpost.protected" in refused.reason
    assert state(protected) == "running"


async def test_a_paused_container_can_be_stopped_and_killed(house: House, client: docker.DockerClient) -> None:
    for verb in (Verb.STOP, Verb.KILL):
        web = run(client, f"web-{verb}")
        web.pause()
        made = await carry_out(house, web, verb)
        assert made.state is DecisionState.ACTIVE, made.reason
        assert state(web) == "exited"


async def test_a_container_that_vanishes_between_decision_and_act_ends_in_a_named_state(
    house: House, client: docker.DockerClient
) -> None:
    web = run(client, "web")
    seen = await identity_of(house, web)
    web.remove(force=True)
    for verb in (Verb.PAUSE, Verb.STOP, Verb.KILL, Verb.DISCONNECT):
        made = await carry_out(house, web, verb, seen=seen)
        assert made.state is DecisionState.FAILED
        assert "the container is gone" in made.reason


async def test_a_container_that_removes_itself_is_not_stopped(house: House, client: docker.DockerClient) -> None:
    web = run(client, "web", auto_remove=True)
    made = await carry_out(house, web, Verb.STOP)
    assert made.state is DecisionState.FAILED
    assert "--rm" in made.reason
    assert state(web) == "running"


async def test_an_address_taken_meanwhile_is_named_and_the_network_is_joined_anyway(
    house: House, client: docker.DockerClient
) -> None:
    network = client.networks.create(
        "front", ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.78.0.0/24")])
    )
    web = run(client, "web", network="front")
    network.disconnect(web)
    network.connect(web, ipv4_address="10.78.0.9")
    made = await carry_out(house, web, Verb.DISCONNECT)
    thief = run(client, "thief")
    network.connect(thief, ipv4_address="10.78.0.9")
    undone = await house.executor.undo(made.id)
    assert "but not with 10.78.0.9" in undone.reason
    assert list(picture(web)["networks"]) == ["front"]


async def test_a_container_is_described_by_its_id(engine: Any, client: docker.DockerClient) -> None:
    web = run(client, "web", labels={"tier": "front"})
    inventory = ContainerInventory(DockerRuntime(engine.socket), clock=FixedClock())
    try:
        found = await inventory.describe(str(web.id))
        assert found is not None
        assert (found.id, found.name, found.image, found.labels["tier"]) == (web.id, "web", IMAGE, "front")
        assert web.id in await inventory.running()
        assert await inventory.describe("f" * 64) is None
    finally:
        inventory.close()


async def chaos(house: House, client: docker.DockerClient, rounds: int, seed: int) -> None:
    """Containers are renamed, restarted, recreated and removed between alert and act; only the one meant is touched."""
    dice = random.Random(seed)
    for number in range(rounds):
        web, neighbour = run(client, f"web-{number}"), run(client, f"neighbour-{number}")
        before, before_neighbour = picture(web), picture(neighbour)
        seen = await identity_of(house, web)
        trick = dice.choice(["none", "rename", "restart", "recreate", "remove", "swap", "crash"])
        if trick == "rename":
            web.rename(f"other-{number}")
        elif trick == "restart":
            web.restart(timeout=0)
        elif trick in {"recreate", "remove"}:
            web.remove(force=True)
            web = run(client, f"web-{number}") if trick == "recreate" else web
        elif trick == "swap":
            web.rename(f"away-{number}")
            neighbour.rename(f"web-{number}")
        verb = dice.choice([Verb.PAUSE, Verb.KILL, Verb.DISCONNECT])
        made = await carry_out(house, web, verb, seen=seen)
        if trick == "crash":
            house.stop()
            house.start()
            assert await house.executor.resume() == []
        same_run = trick in {"none", "rename", "swap", "crash"}
        assert made.state is (DecisionState.ACTIVE if same_run else DecisionState.FAILED), (trick, made.reason)
        assert picture(neighbour) == before_neighbour, trick
        if same_run:
            assert picture(web) != before
            await house.executor.undo(made.id)
            assert picture(web) == before, (trick, verb)
        elif trick != "remove":
            assert state(web) == "running"
        for container in (web, neighbour):
            try:
                container.remove(force=True)
            except docker.errors.NotFound:
                assert trick == "remove"


async def test_no_chaos_between_alert_and_act_hits_the_wrong_container(
    house: House, client: docker.DockerClient
) -> None:
    await chaos(house, client, rounds=12, seed=1)


@pytest.mark.long
async def test_a_thousand_rounds_of_chaos_hit_no_wrong_container(house: House, client: docker.DockerClient) -> None:
    await chaos(house, client, rounds=1000, seed=2)
