"""The native engine as the control plane uses it: start, write lines, await detections, kill, start again."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ironpost import _core
from ironpost.detections import RuleSet
from ironpost.errors import ConfigError, SourceError
from ironpost.events.extractors import built_in
from ironpost.model import Detection
from ironpost.storage import CommitUnit, Store

_RULES = """
title: Failed login over SSH
id: 11111111-1111-4111-8111-111111111111
name: ssh_failure
status: stable
level: low
logsource: {product: linux, service: sshd}
detection:
  selection: {event.outcome: failure}
  condition: selection
---
title: Brute force over SSH
id: 22222222-2222-4222-8222-222222222222
status: stable
level: high
correlation:
  type: event_count
  rules: [ssh_failure]
  group-by: [source.ip]
  timespan: 10m
  condition: {gte: 5}
---
title: Marked line
id: 33333333-3333-4333-8333-333333333333
status: stable
level: medium
logsource: {product: linux}
detection:
  selection: {message|contains: MARK}
  condition: selection
"""
_BRUTE = "22222222-2222-4222-8222-222222222222"
_MARK = "33333333-3333-4333-8333-333333333333"


@dataclass
class Kept:
    """What the control plane stores: everything of a batch at once."""

    detections: dict[str, dict[str, Any]] = field(default_factory=dict)
    inserts: int = 0
    checkpoints: dict[str, str] = field(default_factory=dict)
    windows: dict[str, bytes] = field(default_factory=dict)

    def commit(self, batch: _core.EngineBatch) -> None:
        detections = json.loads(batch.detections)
        assert len(detections) == batch.detection_count
        for detection in detections:
            self.inserts += 1
            self.detections[detection["id"]] = detection
        for source, checkpoint in batch.checkpoints.items():
            self.checkpoints[source] = checkpoint
        for key, state in batch.windows:
            if state is None:
                self.windows.pop(key, None)
            else:
                self.windows[key] = state

    def of(self, rule_id: str) -> list[dict[str, Any]]:
        return [detection for detection in self.detections.values() if detection["rule_id"] == rule_id]

    def start(self, settings: dict[str, Any], rules: str = _RULES) -> _core.Engine:
        engine = _core.Engine(json.dumps(settings).encode(), _native(rules), built_in())
        engine.start(self.checkpoints, list(self.windows.items()))
        return engine

    async def until(self, engine: _core.Engine, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not done():
                batch = await engine.next_batch()
                assert batch is not None
                self.commit(batch)
                engine.acknowledge(batch.sequence)


def _native(rules: str) -> _core.RuleSet:
    loaded = RuleSet.from_text(rules)
    assert not loaded.refused
    return loaded.native


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as log:
        log.write(text)


def _failed(second: int, address: str = "198.51.100.7") -> str:
    return f"2026-11-20T10:00:{second:02}Z host sshd[77]: Failed password for root from {address} port 4242 ssh2\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "auth.log"
    path.touch()
    return path


async def test_five_failed_logins_are_awaited_as_one_detection(log: Path) -> None:
    kept = Kept()
    engine = kept.start({"files": [{"path": str(log)}]})
    for second in range(5):
        _append(log, _failed(second))
    await kept.until(engine, lambda: bool(kept.of(_BRUTE)))
    await engine.stop()
    [detection] = kept.of(_BRUTE)
    assert detection["group"] == [["source.ip", "198.51.100.7"]]
    assert detection["entity"]["value"] == "198.51.100.7"
    assert detection["trust"] == "host"
    assert detection["source"] == f"file:{log}"


async def test_a_stopped_engine_gives_what_is_left_and_then_none(log: Path) -> None:
    kept = Kept()
    engine = kept.start({"files": [{"path": str(log)}], "udp": [{"bind": "127.0.0.1:0"}]})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        host, port = engine.addresses()["udp:127.0.0.1:0"].rsplit(":", 1)
        sender.sendto(b"<13>1 2026-11-20T10:00:00Z h sshd - - - Connection closed", (host, int(port)))
    await engine.stop()
    while (batch := await engine.next_batch()) is not None:
        kept.commit(batch)
    assert engine.ended
    counters = json.loads(engine.counters())
    assert counters["sources"]["udp:127.0.0.1:0"]["received"] == 1
    assert counters["parsed"] == 1
    assert engine.next_batch_blocking(0) is None


async def test_killed_runs_together_find_everything_once(log: Path) -> None:
    _append(
        log,
        "".join(f"2026-11-20T10:00:00Z host cron[1]: {'MARK' if n % 7 == 0 else 'line'} {n}\n" for n in range(7000)),
    )
    settings = {"files": [{"path": str(log), "start": "beginning"}]}
    kept = Kept()
    for _ in range(2000):
        engine = kept.start(settings)
        before = kept.inserts
        # Killed after the first stored batch: what this engine found beyond is lost with it.
        await kept.until(engine, lambda before=before: kept.inserts > before)
        if len(kept.detections) == 1000:
            break
    assert len(kept.detections) == 1000
    assert kept.inserts == 1000


async def test_a_half_full_window_goes_on_after_a_restart(log: Path) -> None:
    kept = Kept()
    engine = kept.start({"files": [{"path": str(log)}]})
    _append(log, _failed(0) + _failed(1) + _failed(2))
    await kept.until(engine, lambda: bool(kept.windows))
    del engine
    engine = kept.start({"files": [{"path": str(log)}]})
    _append(log, _failed(3) + _failed(4))
    await kept.until(engine, lambda: bool(kept.of(_BRUTE)))
    assert kept.of(_BRUTE)[0]["count"] == 5


async def test_a_cancelled_await_loses_no_batch(log: Path) -> None:
    kept = Kept()
    engine = kept.start({"files": [{"path": str(log)}]})
    for number in range(300):
        waiting = asyncio.ensure_future(engine.next_batch())
        await asyncio.sleep(0)
        _append(log, f"2026-11-20T10:00:00Z host cron[1]: MARK {number}\n")
        if number % 3:
            await asyncio.sleep(0.001 * (number % 4))
        waiting.cancel()
        try:
            batch = await waiting
        except asyncio.CancelledError:
            continue
        assert batch is not None
        kept.commit(batch)
    await kept.until(engine, lambda: len(kept.of(_MARK)) == 300)


async def test_rules_are_swapped_while_it_runs(log: Path) -> None:
    kept = Kept()
    engine = kept.start({"files": [{"path": str(log)}]})
    _append(log, "2026-11-20T10:00:00Z host cron[1]: MARK\n")
    await kept.until(engine, lambda: len(kept.of(_MARK)) == 1)
    engine.swap_rules(_native(_RULES.replace("Marked line", "Renamed line")))
    _append(log, "2026-11-20T10:00:00Z host cron[1]: MARK\n")
    await kept.until(engine, lambda: len(kept.of(_MARK)) == 2)
    assert {detection["rule_title"] for detection in kept.of(_MARK)} == {"Marked line", "Renamed line"}


def test_a_taken_port_names_source_reason_and_remedy(log: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        engine = Kept().start({"files": [{"path": str(log)}], "udp": [{"bind": bind}]})
        [problem] = engine.problems()
        assert problem["source"] == f"udp:{bind}"
        assert "cannot listen" in problem["reason"]
        assert "stop the program" in problem["remedy"]
        engine.stop_blocking()
        with pytest.raises(SourceError, match="cannot listen") as caught:
            Kept().start({"udp": [{"bind": bind}]})
        assert caught.value.source == f"udp:{bind}"


def test_settings_that_cannot_work_are_refused_by_key() -> None:
    with pytest.raises(ConfigError, match="absolute"):
        Kept().start({"files": [{"path": "auth.log"}]})
    with pytest.raises(ConfigError, match="timezone Nowhere"):
        Kept().start({"timezone": "Nowhere"})
    with pytest.raises(ConfigError, match="cef"):
        Kept().start({"files": [{"path": "/x", "format": "cef"}]})


def test_nothing_happens_at_import() -> None:
    """No thread and no open file beside those Python has."""
    program = textwrap.dedent("""
        import os
        before = set(os.listdir("/proc/self/fd"))
        import ironpost._core
        assert len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
        assert set(os.listdir("/proc/self/fd")) == before
    """)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def test_an_alert_grows_while_an_attack_goes_on_also_over_kills(log: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "ironpost.db")
    for cut in range(4):
        engine = _core.Engine(json.dumps({"files": [{"path": str(log)}]}).encode(), _native(_RULES), built_in())
        engine.start(store.checkpoints(), store.windows())
        _append(log, "".join(_failed(cut * 10 + second) for second in range(10)))
        grown = {0: 10, 1: 20, 2: 20, 3: 40}[cut]  # five, ten, twenty, forty: told when it has doubled
        async with asyncio.timeout(60):
            while sum(alert.count for alert in store.alerts()) < grown or f":{log}" not in str(store.checkpoints()):
                batch = await engine.next_batch()
                assert batch is not None
                found = [Detection.from_json(one) for one in json.loads(batch.detections)]
                store.commit(CommitUnit(found, dict(batch.checkpoints), tuple(batch.windows)))
                engine.acknowledge(batch.sequence)
        del engine  # what was not stored is lost with it, and read again
    (alert,) = (alert for alert in store.alerts() if alert.rule_id == _BRUTE)
    assert (alert.count, alert.last_seen - alert.first_seen) == (40, 35 * 1_000_000_000)
    store.close()
