"""Killed at any moment, started again: nothing lost, nothing doubled."""

from __future__ import annotations

import random
import signal

from ironpost.storage import StoreReader
from support.host import until


def counted(host):
    return {alert["entity"]["value"]: alert["count"] for alert in host.alerts()}


def test_a_killed_daemon_starts_again_beside_its_own_leftovers(host):
    host.start()
    host.guess_passwords("203.0.113.7")
    until(host.alerts, what="the alert")
    assert host.stop(signal.SIGKILL) == -signal.SIGKILL
    left = {path.name for path in (host.directory / "data").iterdir()}
    assert {"control.sock", "daemon.lock", "ironpost.pid"} <= left
    assert host.run("status").code == 3
    host.start()
    assert host.status()["daemon_running"]
    host.guess_passwords("203.0.113.8")
    until(lambda: len(host.alerts()) == 2, what="the alert after the restart")


def test_lines_written_while_it_was_dead_are_read_and_old_ones_not_again(host):
    host.start()
    host.guess_passwords("203.0.113.7")
    until(host.alerts, what="the alert")
    before = counted(host)
    host.stop(signal.SIGKILL)
    host.guess_passwords("203.0.113.8")
    host.start()
    until(lambda: "203.0.113.8" in counted(host), what="the alert of the lines in between")
    assert counted(host) == {**before, "203.0.113.8": before["203.0.113.7"]}


def test_a_count_begun_before_the_kill_is_finished_after_it(host):
    host.start()
    host.guess_passwords("203.0.113.7", 3)
    until(lambda: host.status()["consumer"]["batches"] > 0, what="three guesses are stored as a window")
    host.stop(signal.SIGKILL)
    host.start()
    host.guess_passwords("203.0.113.7", 2, start=3)
    until(host.alerts, what="the alert of three and two guesses")


def test_ten_kills_at_random_moments_lose_and_double_nothing(host):
    moments = random.Random(7)
    addresses = [f"198.51.100.{number}" for number in range(1, 31)]
    host.start("--quiet")
    for round_number in range(10):
        for address in addresses[round_number * 3 : round_number * 3 + 3]:
            host.guess_passwords(address)
        wanted = moments.randrange(4)
        # Anything from "nothing stored yet" to "all three stored".
        until(lambda wanted=wanted, n=round_number: len(host.alerts()) >= n * 3 + wanted, what="so many alerts")
        host.stop(signal.SIGKILL)
        host.start("--quiet")
        until(lambda n=round_number: len(host.alerts()) == n * 3 + 3, what="all alerts of the round")
    assert set(counted(host)) == set(addresses)
    with StoreReader(host.directory / "data" / "ironpost.db") as store:
        detections = {alert.entity.value: len(store.detections_of(alert.id)) for alert in store.alerts(limit=1000)}
        decisions = [decision.target for decision in store.decisions(limit=1000)]
        assert store.check() == "ok"
    assert set(detections.values()) == {1}
    assert sorted(decisions) == sorted(addresses)


def test_a_second_signal_ends_it_at_once(host):
    host.start()
    host.process.send_signal(signal.SIGSTOP)
    host.process.send_signal(signal.SIGTERM)
    host.process.send_signal(signal.SIGINT)
    host.process.send_signal(signal.SIGCONT)
    assert host.process.wait(15) in {0, 1}
    host.start()
    assert host.status()["daemon_running"]
