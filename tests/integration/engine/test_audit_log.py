"""The audit log, followed live: every event once and whole, over kills, rotation and records that come late."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from tests.integration.engine.test_engine import Kept
from tests.support.audit import command, record

_RULES = """
title: A program was started
id: 44444444-4444-4444-8444-444444444444
status: stable
level: low
logsource: {product: linux, category: process_creation}
detection:
  selection: {CommandLine|startswith: "run "}
  condition: selection
"""
_RUN = "44444444-4444-4444-8444-444444444444"


def _settings(log: Path) -> dict[str, object]:
    return {"files": [{"path": str(log), "start": "beginning", "format": "auditd"}]}


def _mixed(count: int) -> list[str]:
    """The records of `count` commands, those of three neighbours mixed."""
    lines: list[str] = []
    for first in range(0, count, 3):
        events = [command(serial, [b"run", str(serial).encode()]) for serial in range(first, min(first + 3, count))]
        lines += [line for step in itertools.zip_longest(*events) for line in step if line]
    return lines


def _serials(kept: Kept) -> list[int]:
    return sorted(int(found["evidence"][0].split("):", 1)[0].rsplit(":", 1)[1]) for found in kept.of(_RUN))


async def test_killed_runs_together_find_every_event_once_and_whole(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    lines = _mixed(900)
    log.write_text("".join(f"{line}\n" for line in lines))
    kept, runs = Kept(), 0
    while len(kept.detections) < 900:
        engine = kept.start(_settings(log), _RULES)
        before = kept.inserts
        await kept.until(engine, lambda before=before: kept.inserts > before)
        runs += 1
        assert runs < 2000
    assert runs > 1
    assert kept.inserts == 900
    assert _serials(kept) == list(range(900))
    assert all(len(found["evidence"][0].split("\n")) == 4 for found in kept.of(_RUN))


async def test_an_event_is_whole_over_a_rotation_and_a_restart(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    one, two = command(1, [b"run", b"one"]), command(2, [b"run", b"two"])
    log.write_text(f"{one[0]}\n{two[0]}\n{two[1]}\n{two[2]}\n{two[3]}\n{one[1]}\n")
    kept = Kept()
    engine = kept.start(_settings(log), _RULES)
    await kept.until(engine, lambda: _serials(kept) == [2])
    assert json.loads(kept.checkpoints[f"file:{log}"])["held"]
    del engine
    log.rename(tmp_path / "audit.log.1")
    log.write_text(f"{one[2]}\n{one[3]}\n")
    engine = kept.start(_settings(log), _RULES)
    await kept.until(engine, lambda: _serials(kept) == [1, 2])
    assert "\n".join(one) in [found["evidence"][0] for found in kept.of(_RUN)]
    await engine.stop()


async def test_an_event_without_an_end_is_given_out_and_counted(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    unended = [record("SYSCALL", 2, "arch=c000003e syscall=2 success=yes items=1"), *command(1, [b"run", b"x"])[:2]]
    log.write_text("".join(f"{line}\n" for line in unended))
    kept = Kept()
    engine = kept.start(_settings(log), _RULES)
    await kept.until(engine, lambda: _serials(kept) == [1])
    await engine.stop()
    while (batch := await engine.next_batch()) is not None:
        kept.commit(batch)
    # One names a path that never came; the other lacks nothing but its title.
    assert json.loads(engine.counters())["sources"][f"file:{log}"]["incomplete"] == 1
