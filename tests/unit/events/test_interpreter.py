"""Parsing and matching leave the interpreter to others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ironpost.detections import RuleSet
from ironpost.events import parse

LINE = b"Nov 20 18:54:46 web sshd[9]: Failed password for bob from 192.0.2.7 port 4242 ssh2\n"
RULE = """
title: Failed login
id: failed
logsource: {product: linux, service: sshd}
detection:
  failed: {event.outcome: failure, user.name|re: '^nobody$'}
  condition: failed
"""


def others_run_during(prepare: Callable[[int], Callable[[], object]]) -> bool:
    """Whether Python runs elsewhere in the middle third of a native call that is long enough to tell."""
    lines = 20_000
    while True:
        work = prepare(lines)
        marks = []

        def call(work: Callable[[], object] = work, marks: list[float] = marks) -> None:
            marks.append(time.monotonic())
            work()
            marks.append(time.monotonic())

        thread = threading.Thread(target=call)
        thread.start()
        seen = []
        while thread.is_alive():
            seen.append(time.monotonic())
        thread.join()
        begin, end = marks
        if end - begin >= 0.1 or lines >= 1_000_000:
            third = (end - begin) / 3
            return any(begin + third < moment < end - third for moment in seen)
        lines *= 2


def test_parsing_leaves_the_interpreter_to_others() -> None:
    def prepare(lines: int) -> Callable[[], object]:
        data = LINE * lines
        return lambda: parse(data, year=2026)

    assert others_run_during(prepare)


def test_matching_leaves_the_interpreter_to_others() -> None:
    rules = RuleSet.from_text(RULE)
    assert rules.refused == ()

    def prepare(lines: int) -> Callable[[], object]:
        batch = parse(LINE * lines, year=2026)
        return lambda: list(rules.detect(batch))

    assert others_run_during(prepare)


def test_a_call_that_keeps_the_interpreter_is_told_apart() -> None:
    """The measure itself: sorting is one call that holds the interpreter."""

    def prepare(lines: int) -> Callable[[], object]:
        numbers = [(number * 2_654_435_761) % 4_294_967_291 for number in range(lines)]
        return lambda: sorted(numbers)

    assert not others_run_during(prepare)
