"""Records of the audit system become the events that happened, however their lines are mixed and cut."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.audit import command, record

from ironpost import _core
from ironpost.events import parse

ARGUMENT = st.binary(max_size=12).map(lambda value: value.replace(b"\x00", b""))
COMMANDS = st.lists(st.lists(ARGUMENT, min_size=1, max_size=6), min_size=1, max_size=12)


@st.composite
def mixed(draw: st.DrawFn) -> tuple[list[list[bytes]], list[str]]:
    """What was started, and the lines of all records mixed as processors mix them: each event's own stay in order."""
    started = draw(COMMANDS)
    waiting = [command(serial, arguments) for serial, arguments in enumerate(started)]
    lines = []
    while waiting:
        index = draw(st.integers(0, len(waiting) - 1))
        lines.append(waiting[index].pop(0))
        waiting = [rest for rest in waiting if rest]
    return started, lines


def events_by_serial(lines: list[str]) -> dict[int, list[str]]:
    """The slow joiner: every line of a serial, in order."""
    found: dict[int, list[str]] = {}
    for line in lines:
        serial = int(line.split("):", 1)[0].rsplit(":", 1)[1])
        found.setdefault(serial, []).append(line)
    return found


@given(mixed())
@settings(max_examples=200, deadline=None)
def test_every_command_is_one_event_with_its_arguments(happened: tuple[list[list[bytes]], list[str]]) -> None:
    started, lines = happened
    batch = parse("\n".join(lines).encode(), format="auditd")
    rows = [json.loads(row) for row in batch.to_ndjson().splitlines()]
    expected = events_by_serial(lines)
    assert sorted(row["event.original"] for row in rows) == sorted("\n".join(event) for event in expected.values())
    for row in rows:
        arguments = started[int(row["event.original"].split("):", 1)[0].rsplit(":", 1)[1])]
        texts = [argument.decode("utf-8", "replace") for argument in arguments]
        assert row["process.args"] == (texts if len(texts) > 1 else texts[0])
        assert [row[f"a{index}"] for index in range(len(texts))] == texts
        assert row["process.command_line"] == b" ".join(arguments).decode("utf-8", "replace")
        assert row["event.action"] == "executed"


@given(mixed(), st.lists(st.integers(0, 60), max_size=6), st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_where_a_log_is_cut_changes_no_event(
    happened: tuple[list[list[bytes]], list[str]], cuts: list[int], ended: int
) -> None:
    lines = happened[1]
    # Some events never end: only records two seconds later tell so.
    lines = [line for line in lines if not ("PROCTITLE" in line and len(line) % 5 < ended)]
    lines.append(record("USER_END", 99, "msg='op=x'", millis=1_700_000_005_000))
    text = "".join(f"{line}\n" for line in lines).encode()
    whole = _core.AuditJoiner()
    expected = whole.take(text, 0) + whole.finish()
    assert sorted(line for _, event in expected for line in event.decode().split("\n")) == sorted(lines)
    cut_joiner = _core.AuditJoiner()
    found, begin = [], 0
    for cut in sorted({min(cut, len(lines)) for cut in cuts} | {len(lines)}):
        end = sum(len(line.encode()) + 1 for line in lines[:cut])
        found += cut_joiner.take(text[begin:end], begin)
        begin = end
    assert found + cut_joiner.finish() == expected
    assert all(text[place:].startswith(event.split(b"\n")[0]) for place, event in found)
