"""Which changes of alerts are told to people, so that one loud attacker drowns nobody out. The store keeps them all."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from ironpost.model import Alert
from ironpost.model.times import SECOND_NS
from ironpost.system import Clock

MAX_TRACKED = 100_000
_MINUTE_NS = 60 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Notice:
    """What to say about a change.

    Attributes:
        alert: As it stands now.
        opened: It is new.
        held_back: Changes of this alert that were not told since the last one that was.
    """

    alert: Alert
    opened: bool
    held_back: int = 0


@dataclass(slots=True)
class _Told:
    at_ns: int
    held_back: int = 0


class AlertLimiter:
    """Holds repeated notices of one alert back.

    A *new* alert is always told: a second attacker is never hidden by the first. Repetitions are told at most once per
    window and alert, and at most so many per rule and minute.

    Args:
        clock: Boot clock is used: a stepped wall clock neither floods nor silences.
        window_seconds: ``alert_dedup_window_secs``.
        repeats_per_rule: ``alert_rate_limit_per_rule``, per minute.
    """

    def __init__(self, *, clock: Clock, window_seconds: int = 60, repeats_per_rule: int = 10) -> None:
        self._clock = clock
        self._window_ns = window_seconds * SECOND_NS
        self._repeats_per_rule = repeats_per_rule
        self._told: OrderedDict[str, _Told] = OrderedDict()
        self._repeats: dict[str, deque[int]] = {}
        self.held_back = 0
        """Notices held back since the start."""

    def notice(self, alert: Alert, *, opened: bool) -> Notice | None:
        """Returns what to say about a change, or ``None`` when it is held back for now."""
        now = self._clock.boot_ns()
        told = self._told.get(alert.id)
        if (
            not opened
            and told is not None
            and (now - told.at_ns < self._window_ns or self._is_loud(alert.rule_id, now))
        ):
            told.held_back += 1
            self.held_back += 1
            return None
        if not opened:
            self._repeats.setdefault(alert.rule_id, deque(maxlen=self._repeats_per_rule)).append(now)
        self._told[alert.id] = _Told(now)
        self._told.move_to_end(alert.id)
        if len(self._told) > MAX_TRACKED:
            self._told.popitem(last=False)
        return Notice(alert, opened, told.held_back if told else 0)

    def _is_loud(self, rule_id: str, now: int) -> bool:
        recent = self._repeats.get(rule_id)
        return recent is not None and len(recent) == self._repeats_per_rule and now - recent[0] < _MINUTE_NS
