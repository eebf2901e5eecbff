"""The daemon's life with an engine of our own: start, work, roll-back, stop."""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import os
from dataclasses import dataclass, field

import pytest

from ironpost._core import VERSION
from ironpost.config import decide_places, load
from ironpost.errors import IronpostError, SourceError
from ironpost.pipeline import native
from ironpost.pipeline.client import CommandRefused, ControlClient
from ironpost.pipeline.daemon import Daemon
from ironpost.pipeline.instance import AlreadyRunning, running_pid
from ironpost.storage import StoreReader
from support.batches import batch, detection

RULE = """
title: Failed login
id: failed-login
level: low
logsource: {product: linux, service: sshd}
detection:
  selection: {event.outcome: failure}
  condition: selection
"""


@dataclass
class ScriptedEngine:
    """Hands out what a test puts in, and notes the order of what is done to it."""

    settings: dict
    log: list = field(default_factory=list)
    queue: asyncio.Queue = field(default_factory=asyncio.Queue)
    fails: Exception | None = None
    trouble: list = field(default_factory=list)

    def start(self, checkpoints, windows):
        if self.fails:
            raise self.fails
        self.log.append(("start", checkpoints, windows))

    async def next_batch(self):
        return await self.queue.get()

    def acknowledge(self, sequence):
        self.log.append(("acknowledge", sequence))

    def problems(self):
        return self.trouble

    def counters(self):
        return b"{}"

    def addresses(self):
        return {"udp:127.0.0.1:0": "127.0.0.1:40000"}

    async def stop(self):
        self.log.append(("stop",))
        self.queue.put_nowait(None)


@pytest.fixture
def engines(monkeypatch):
    made = []

    def make(settings, rules, packet_filter, extractors):
        made.append(ScriptedEngine(dict(settings)))
        return made[-1]

    monkeypatch.setattr(native, "make_engine", make)
    return made


@pytest.fixture
def build(tmp_path, engines):
    def build(text="", **changes):
        path = tmp_path / "ironpost.toml"
        rules = tmp_path / "rules"
        rules.mkdir(exist_ok=True)
        (rules / "rule.yml").write_text(RULE)
        if "[log_pipeline]" not in text:
            text += "[log_pipeline]\nenabled = true\n"
        text = text.replace("[log_pipeline]\n", f'[log_pipeline]\nrule_dir = "{rules}"\n')
        path.write_text(f'[general]\ndata_dir = "{tmp_path}/data"\n{text}')
        loaded = load(path, environment={})
        return Daemon(loaded, decide_places(loaded, environment={}), environment={}, **changes)

    return build


class Running:
    """A daemon inside this test."""

    def __init__(self, daemon, tmp_path):
        self.daemon = daemon
        self.socket = tmp_path / "data" / "control.sock"
        self.reports = []

    async def __aenter__(self):
        ready = asyncio.Event()

        def on_ready(report):
            self.reports.append(report)
            ready.set()

        self.daemon._on_ready = on_ready
        self.task = asyncio.create_task(self.daemon.run())
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({self.task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        waiting.cancel()
        if self.task.done():
            self.task.result()
        return self

    async def __aexit__(self, *_):
        self.daemon.ask_to_stop("test")
        async with asyncio.timeout(10):
            await self.task

    async def ask(self, command, **arguments):
        def talk():
            with ControlClient([self.socket]) as client:
                return client.request(command, **arguments)

        return await asyncio.to_thread(talk)


async def test_a_start_needs_no_package_metadata(build, tmp_path, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    async with Running(build(), tmp_path) as running:
        assert (await running.ask("status"))["version"] == VERSION


async def test_a_started_daemon_answers_and_leaves_nothing_behind(build, tmp_path):
    async with Running(build(), tmp_path) as running:
        status = await running.ask("status")
        assert status["daemon_running"] is True
        assert [module["name"] for module in status["modules"]] == [
            "ebpf-engine",
            "log-pipeline",
            "sbom-scanner",
            "container-guard",
        ]
        assert status["filter"]["attached"] is False
        assert running_pid(tmp_path / "data" / "daemon.lock") == status["pid"]
        assert (tmp_path / "data" / "ironpost.pid").exists()
    left = {path.name for path in (tmp_path / "data").iterdir()}
    assert left == {"ironpost.db"}


async def test_a_daemon_with_every_module_off_starts_and_stops(build, tmp_path):
    async with Running(build("[log_pipeline]\nenabled = false\n"), tmp_path) as running:
        status = await running.ask("status")
    assert status["status"] == "healthy"
    assert {module["status"] for module in status["modules"]} == {"disabled"}


async def test_a_detection_becomes_an_alert_that_outlives_the_daemon(build, tmp_path, engines):
    async with Running(build(), tmp_path) as running:
        subscription = running.daemon.publisher.subscribe()
        engines[0].queue.put_nowait(batch(1, detection(1)))
        async with asyncio.timeout(5):
            item = await subscription.get()
        [listed] = await running.ask("alerts")
        assert item["alert"]["id"] == listed["id"]
    with StoreReader(tmp_path / "data" / "ironpost.db") as store:
        assert [alert.id for alert in store.alerts()] == [listed["id"]]


async def test_what_is_in_flight_is_drained_before_the_end(build, tmp_path, engines):
    async with Running(build(), tmp_path):
        for number in range(50):
            engines[0].queue.put_nowait(batch(number, detection(number, rule_id=f"rule-{number}")))
    assert engines[0].log[-1] == ("acknowledge", 49)
    assert ("stop",) in engines[0].log
    with StoreReader(tmp_path / "data" / "ironpost.db") as store:
        assert len(store.alerts()) == 50


async def test_a_restart_begins_where_the_store_says(build, tmp_path, engines):
    async with Running(build(), tmp_path):
        engines[0].queue.put_nowait(batch(1, checkpoints={"file:/x": "here"}, windows=(("k", b"state"),)))
    async with Running(build(), tmp_path):
        assert engines[1].log[0] == ("start", {"file:/x": "here"}, [("k", b"state")])


async def test_a_start_in_vain_takes_everything_down_again(build, tmp_path, monkeypatch):
    def make(settings, rules, packet_filter, extractors):
        return ScriptedEngine(dict(settings), fails=SourceError("nothing can be read", hint="give it something"))

    monkeypatch.setattr(native, "make_engine", make)
    with pytest.raises(SourceError):
        async with Running(build(), tmp_path):
            pass
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"ironpost.db"}


async def test_a_second_daemon_on_the_same_data_is_refused_and_the_first_goes_on(build, tmp_path):
    async with Running(build(), tmp_path) as first:
        with pytest.raises(AlreadyRunning):
            await build().run()
        assert (await first.ask("status"))["daemon_running"]


async def test_a_corrupt_store_is_named_and_nothing_starts(build, tmp_path, engines):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ironpost.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(IronpostError, match=r"ironpost\.db"):
        await build().run()
    assert engines == []


async def test_problems_of_sources_come_and_go_in_the_health(build, tmp_path, engines):
    async with Running(build(), tmp_path) as running:
        engines[0].trouble.append({"source": "udp:127.0.0.1:5514", "reason": "port is taken", "remedy": "free it"})
        status = await running.ask("status")
        assert status["status"] == "degraded"
        [module] = [module for module in status["modules"] if module["name"] == "log-pipeline"]
        assert module["problems"] == [{"status": "degraded", "reason": "port is taken", "remedy": "free it"}]
        engines[0].trouble.clear()
        assert (await running.ask("status"))["status"] == "healthy"


async def test_a_log_that_strangers_write_is_named_at_the_start_and_in_the_status(build, tmp_path, engines):
    log = tmp_path / "open.log"
    log.write_text("")
    log.chmod(0o666)
    places = f'watch_roots = ["{tmp_path}"]\nwatch_paths = ["{log}"]\n'
    async with Running(build(f'[log_pipeline]\nsources = ["file"]\n{places}'), tmp_path) as running:
        [entry] = engines[0].settings["files"]
        assert entry["facts"] == {"ironpost.trust": "unauthenticated"}
        [(reason, remedy)] = [item for item in running.reports[0].lacking if str(log) in item[0]]
        assert reason.startswith(f"{log} bans nobody by default: it is writable by everybody")
        assert remedy == f"chmod o-w {log}, and start again"
        [module] = [module for module in (await running.ask("status"))["modules"] if module["name"] == "log-pipeline"]
        assert {"status": "degraded", "reason": reason, "remedy": remedy} in module["problems"]


async def test_a_rule_that_strangers_write_is_refused_and_the_daemon_starts(build, tmp_path):
    daemon = build()
    (tmp_path / "rules" / "rule.yml").chmod(0o666)
    async with Running(daemon, tmp_path) as running:
        status = await running.ask("status")
        assert status["rules"]["refused"] == 1
        [module] = [module for module in status["modules"] if module["name"] == "log-pipeline"]
        assert f"chmod go-w {tmp_path}/rules/rule.yml" in [problem["remedy"] for problem in module["problems"]]


async def test_an_unknown_interface_leaves_the_rest_running_and_says_so(build, tmp_path):
    text = '[ebpf]\nenabled = true\ninterface = "nonexistent9"\n'
    async with Running(build(text), tmp_path) as running:
        status = await running.ask("status")
        modules = {module["name"]: module for module in status["modules"]}
        assert modules["ebpf-engine"]["status"] == "unhealthy"
        assert "nonexistent9" in modules["ebpf-engine"]["reason"]
        assert modules["ebpf-engine"]["problems"][0]["remedy"]
        assert modules["log-pipeline"]["status"] == "healthy"


# The Docker SDK leaves the socket of a failed connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_missing_container_engine_degrades_the_guard_only(build, tmp_path):
    text = f'[container]\nenabled = true\ndocker_socket = "{tmp_path}/none.sock"\n'
    async with Running(build(text), tmp_path) as running:
        modules = {module["name"]: module for module in (await running.ask("status"))["modules"]}
        assert modules["container-guard"]["status"] == "degraded"
        assert modules["log-pipeline"]["status"] == "healthy"
    gc.collect()


async def test_a_ban_without_a_filter_is_refused_with_the_remedy(build, tmp_path):
    async with Running(build(), tmp_path) as running:
        with pytest.raises(CommandRefused, match="not enforceable") as caught:
            await running.ask("ban", targets=["203.0.113.9"])
        assert "ebpf.enabled" in caught.value.hint
        assert await running.ask("decisions") == []


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("ban", {}),
        ("ban", {"targets": []}),
        ("ban", {"targets": [5]}),
        ("ban", {"targets": "203.0.113.9"}),
        ("ban", {"targets": ["203.0.113.9"], "duration": "soon"}),
        ("ban", {"targets": ["203.0.113.9"], "mode": "nuke"}),
        ("alerts", {"limit": 0}),
        ("alerts", {"limit": "all"}),
        ("undo", {}),
        ("allow", {"target": ""}),
    ],
)
async def test_a_malformed_request_is_refused_as_usage(build, tmp_path, command, arguments):
    async with Running(build(), tmp_path) as running:
        with pytest.raises(CommandRefused) as caught:
            await running.ask(command, **arguments)
        assert caught.value.exit_code == 2


async def test_allow_is_stored_listed_and_taken_back(build, tmp_path):
    async with Running(build(), tmp_path) as running:
        made = await running.ask("allow", target="198.51.100.0/24", duration="2h", reason="office")
        assert made["entry"]["network"] == "198.51.100.0/24"
        assert [entry["network"] for entry in await running.ask("allowed")] == ["198.51.100.0/24"]
        await running.ask("unallow", target="198.51.100.0/24")
        assert await running.ask("allowed") == []


async def test_stop_by_command_ends_the_daemon_and_its_tails(build, tmp_path):
    async with Running(build(), tmp_path) as running:

        def follow():
            with ControlClient([running.socket]) as client:
                return list(client.stream("tail"))

        following = asyncio.create_task(asyncio.to_thread(follow))
        async with asyncio.timeout(5):
            while not running.daemon.publisher.counters()["subscribers"]:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.005)
        answer = await running.ask("stop")
        assert answer["detached"] is False
        async with asyncio.timeout(10):
            await running.task
            assert await following == []


async def test_a_rule_directory_that_went_is_a_visible_fault_and_no_end(build, tmp_path):
    daemon = build()
    (tmp_path / "rules" / "rule.yml").unlink()
    (tmp_path / "rules").rmdir()
    async with Running(daemon, tmp_path) as running:
        reasons = [reason for reason, _ in running.reports[0].lacking]
        assert any(str(tmp_path / "rules") in reason and "not loaded" in reason for reason in reasons), reasons
        assert daemon.status()["status"] == "degraded"


@pytest.mark.parametrize(
    ("uid", "remedy"),
    [
        (0, "set ebpf.enabled = true and ebpf.interface"),
        (1000, "set ebpf.enabled = true and ebpf.interface, and run as root"),
    ],
)
async def test_the_start_names_what_is_off_and_how_this_user_switches_it_on(build, tmp_path, monkeypatch, uid, remedy):
    async with Running(build(), tmp_path) as running:
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        lacking = dict(running.daemon._report().lacking)
        monkeypatch.undo()
    assert lacking["packets are not filtered (ebpf.enabled is false)"] == remedy
    assert lacking["containers are not guarded (container.enabled is false)"] == "set container.enabled = true"
