from __future__ import annotations

from ironpost.alerts import AlertLimiter, enriched
from ironpost.model import Alert, Entity
from ironpost.system import FixedClock
from support.response import container, detection


def alert(number: int, rule: str = "ssh_brute_force") -> Alert:
    return Alert.opened_by(detection(number, rule_id=rule, entity=Entity("source.ip", f"203.0.113.{number}")))


def test_a_new_alert_is_always_told_however_loud_its_rule_is() -> None:
    limiter = AlertLimiter(clock=FixedClock(), repeats_per_rule=1)
    assert all(limiter.notice(alert(number), opened=True) for number in range(200))


def test_repetitions_are_told_once_per_window_with_how_many_were_held_back() -> None:
    clock = FixedClock()
    limiter = AlertLimiter(clock=clock, window_seconds=60)
    assert limiter.notice(alert(1), opened=True)
    assert [limiter.notice(alert(1), opened=False) for _ in range(5)] == [None] * 5
    clock.advance(60)
    told = limiter.notice(alert(1), opened=False)
    assert told is not None
    assert told.held_back == 5
    assert limiter.held_back == 5


def test_repetitions_of_one_rule_are_bounded_per_minute_and_others_are_not_affected() -> None:
    clock = FixedClock()
    limiter = AlertLimiter(clock=clock, window_seconds=1, repeats_per_rule=3)
    for number in range(10):
        limiter.notice(alert(number), opened=True)
        limiter.notice(alert(number + 100, rule="other"), opened=True)
    clock.advance(2)
    assert sum(limiter.notice(alert(number), opened=False) is not None for number in range(10)) == 3
    assert limiter.notice(alert(100, rule="other"), opened=False) is not None
    clock.advance(60)
    assert limiter.notice(alert(9), opened=False) is not None


def test_a_stepped_wall_clock_changes_nothing() -> None:
    clock = FixedClock()
    limiter = AlertLimiter(clock=clock)
    limiter.notice(alert(1), opened=True)
    clock.wall += 10**15
    assert limiter.notice(alert(1), opened=False) is None


def test_a_detection_gets_its_container_and_keeps_one_it_has() -> None:
    web, other = container("web"), container("other")
    assert enriched(detection(1, container_id=web.id), containers={web.id: web}).container == web
    assert enriched(detection(1, container_id=web.id, container=other), containers={web.id: web}).container == other
    assert enriched(detection(1, container_id=web.id), containers={web.id: None}).container is None
    assert enriched(detection(2), containers={}).container is None
