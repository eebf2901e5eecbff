"""The daemon: builds the parts, runs them, and takes them down in the order of the data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironpost.alerts import AlertLimiter
from ironpost.config import Loaded, Places, make_private_directory
from ironpost.pipeline import native, parts
from ironpost.pipeline.commands import Commands
from ironpost.pipeline.consume import Consumer
from ironpost.pipeline.control import ControlServer
from ironpost.pipeline.health import Fault, Health, HealthBoard, Module
from ironpost.pipeline.instance import LOCK_NAME, STORE_NAME, PidFile
from ironpost.pipeline.publish import Publisher
from ironpost.pipeline.respond import Response
from ironpost.pipeline.sources import believed
from ironpost.pipeline.supervise import Supervisor
from ironpost.pipeline.upkeep import FilterWatch, Reloader, keep_attached, keep_reloading, keep_tidy
from ironpost.storage import Store
from ironpost.system import Clock, SystemClock
from ironpost.telemetry import get_logger

#: Seconds each step of the shutdown may take.
DRAIN_SECONDS = 5.0
#: Seconds the start waits for the places of files read for the first time.
PLACED_SECONDS = 1.0
_FORCED_EXIT_CODE = 1


@dataclass(frozen=True, slots=True)
class StartReport:
    """What a started daemon can say about itself, for the person who started it.

    Attributes:
        listening: Addresses that accept syslog.
        watching: Files and journal that are followed.
        lacking: (reason, remedy) of what it may not or cannot do.
        notices: Choices worth a sentence.
        rules: Rules that are loaded, refused and unfed.
        policies: Policies that are loaded.
        mode: ``observe`` or ``enforce``.
        control_socket: Where the command line finds it.
        data_dir: Where state is kept.
        filter_text: Interfaces and mode of the packet filter, or empty.
    """

    listening: tuple[str, ...]
    watching: tuple[str, ...]
    lacking: tuple[tuple[str, str], ...]
    notices: tuple[str, ...]
    rules: int
    rules_refused: int
    rules_unfed: int
    policies: int
    mode: str
    control_socket: str
    data_dir: str
    filter_text: str


class Daemon:
    """One daemon on one configuration.

    Args:
        loaded: The configuration.
        places: Its directories.
        environment: For the notification of the service manager.
        clock: Time.
        on_ready: Called once everything runs.
    """

    def __init__(
        self,
        loaded: Loaded,
        places: Places,
        *,
        environment: Mapping[str, str],
        clock: Clock | None = None,
        on_ready: Callable[[StartReport], None] | None = None,
    ) -> None:
        self._loaded = loaded
        self._places = places
        self._environment = environment
        self._clock = clock or SystemClock()
        self._on_ready = on_ready
        self._log = get_logger("ironpost.pipeline.daemon")
        self._stop = asyncio.Event()
        self._stop_reason = ""
        self._control: ControlServer | None = None
        self._reloader: Reloader | None = None
        self._started_boot_ns = 0
        pipeline = loaded.config.log_pipeline
        self._limiter = AlertLimiter(
            clock=self._clock,
            window_seconds=pipeline.alert_dedup_window_secs,
            repeats_per_rule=pipeline.alert_rate_limit_per_rule,
        )
        self.board = HealthBoard(self._health_changed)
        self.publisher = Publisher()
        self.supervisor = Supervisor(self.board)
        config = loaded.config
        self.board.add("ebpf-engine", "detector", enabled=config.ebpf.enabled)
        self.board.add("log-pipeline", "log-pipeline", enabled=config.log_pipeline.enabled)
        self.board.add("sbom-scanner", "scanner", enabled=config.sbom.enabled)
        self.board.add("container-guard", "enforcer", enabled=config.container.enabled)
        self.store: Store
        self.parts: parts.Parts
        self.response: Response
        self.consumer: Consumer

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Starts, runs until asked to stop, and stops.

        Raises:
            IronpostError: When it can't start; everything that was started is stopped again.
        """
        async with contextlib.AsyncExitStack() as undo:
            await self._start(undo)
            self._log.info("daemon_started", version=native.VERSION, mode=str(self._loaded.config.general.mode))
            for notice in self._loaded.notices:
                self._log.warning("configuration_notice", notice=notice)
            notify(self._environment, READY="1", STATUS="watching")
            if self._on_ready is not None:
                self._on_ready(self._report())
            await self._stop.wait()
            self._log.info("daemon_stopping", reason=self._stop_reason)
            notify(self._environment, STOPPING="1")
        if where := self.filter_left_behind():
            self._log.info("filter_stays", where=where, remedy="ironpost stop --detach takes it off")
        self._log.info("daemon_stopped", reason=self._stop_reason)

    def filter_left_behind(self) -> str:
        """Says on which interfaces the filter goes on without the daemon; empty when on none."""
        return ", ".join(self.parts.filter_left_on())

    def ask_to_stop(self, reason: str) -> None:
        """Begins the shutdown; the same again changes nothing."""
        if not self._stop.is_set():
            self._stop_reason = reason
            self._stop.set()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT begin the shutdown, a second one ends the process at once; SIGHUP takes changed rules."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._ask_to_reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, signal.Signals(number).name)

    def _ask_to_reload(self) -> None:
        if self._reloader is not None:
            self._reloader.ask()

    def _signalled(self, name: str) -> None:
        if self._stop.is_set():
            self._log.error("daemon_forced_to_stop", signal=name)
            # The kernel filter stays, the store is consistent after any kill, and the PID file's lock ends with us.
            os._exit(_FORCED_EXIT_CODE)
        self.ask_to_stop(name)

    async def _start(self, undo: contextlib.AsyncExitStack) -> None:
        """Starts everything; what has been started is on ``undo``, so that a failure takes it down again."""
        make_private_directory(self._places.data_dir)
        undo.enter_context(PidFile(self.lock_path).acquire())
        if self._places.pid_file is not None:
            undo.enter_context(PidFile(self._places.pid_file).acquire())
        self._started_boot_ns = self._clock.boot_ns()
        self.store = await asyncio.to_thread(Store, self._places.data_dir / STORE_NAME)
        undo.push_async_callback(asyncio.to_thread, self.store.close)
        undo.callback(self._final_statistics)
        # Registered here, started last: it answers until everything before it has been drained.
        undo.push_async_callback(self._stop_control)

        self.parts = await parts.build(
            self._loaded, self._places, board=self.board, clock=self._clock, store=self.store
        )
        self.response = Response(
            self._loaded.config,
            store=self.store,
            protections=self.parts.protections,
            clock=self._clock,
            packet_filter=self.parts.filter,
            filter_problem=self.parts.filter_problem,
            publisher=self.publisher,
            board=self.board,
            supervisor=self.supervisor,
        )
        undo.push_async_callback(self.response.stop, seconds=DRAIN_SECONDS)
        await self.response.start()

        self.consumer = Consumer(
            self.parts.engine,
            self.store,
            decide=lambda: self.parts.maker.decide,
            believed=believed,
            identify=self.response.identify,
            publisher=self.publisher,
            limiter=self._limiter,
            board=self.board,
            on_decisions=self.response.wake,
            judges=lambda: self.parts.rules.judges,
        )
        begun = await parts.start_engine(self.parts, self.store, self.board)
        consuming = self.supervisor.spawn("consumer", "log-pipeline", self.consumer.run)
        undo.push_async_callback(self._drain, consuming)
        # Killed before its first place is stored, a file would be begun again, at another end.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PLACED_SECONDS):
                await self.consumer.placed(begun)

        commands = Commands(self)
        self._control = ControlServer(self._places.control_socket, commands.table(), {"tail": self._tail})
        await self._control.start()
        self.supervisor.spawn("health", "log-pipeline", self._watch_health)
        self._reloader = reloader = Reloader(self.parts, self._places, self.board)
        seconds = self._loaded.config.log_pipeline.rule_reload_secs
        self.supervisor.spawn("reload", "log-pipeline", lambda: keep_reloading(reloader, seconds=seconds))
        self.supervisor.spawn(
            "upkeep",
            "log-pipeline",
            lambda: keep_tidy(self.parts, self.store, self._loaded.config, self._clock),
        )
        watch = FilterWatch(self.parts, self.board)
        self.supervisor.spawn("filter", "ebpf-engine", lambda: keep_attached(watch))
        self.supervisor.spawn("containers", "container-guard", self._watch_containers)
        undo.push_async_callback(
            self.supervisor.stop, "health", "reload", "upkeep", "filter", "containers", seconds=1.0
        )

    async def _drain(self, consuming: asyncio.Task[None]) -> None:
        """Stops the producers, then lets the consumer take what is in flight."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.parts.engine.stop()
                await consuming
        except TimeoutError:
            # Nothing is lost: what was not acknowledged is read again at the next start.
            self._log.warning("drain_cut_short", seconds=DRAIN_SECONDS)
            await self.supervisor.stop("consumer", seconds=1.0)

    async def _stop_control(self) -> None:
        self.publisher.close()
        if self._control is not None:
            await self._control.stop(seconds=2.0)

    def _final_statistics(self) -> None:
        counters = {} if not hasattr(self, "consumer") else parts.plain(self.consumer.counters)
        self._log.info("final_statistics", uptime_secs=self.uptime_seconds(), **counters)

    # --- looking at it ------------------------------------------------------------------------------------------

    @property
    def lock_path(self) -> Path:
        """Returns the file this daemon holds while it lives."""
        return self._places.data_dir / LOCK_NAME

    def uptime_seconds(self) -> int:
        """Returns whole seconds since the start."""
        return (self._clock.boot_ns() - self._started_boot_ns) // 1_000_000_000

    def status(self) -> dict[str, Any]:
        """Returns the status as JSON."""
        self.parts.refresh_health(self.board)
        general = self._loaded.config.general
        return {
            "status": str(self.board.health),
            "daemon_running": True,
            "pid": os.getpid(),
            "version": native.VERSION,
            "uptime_secs": self.uptime_seconds(),
            "mode": str(general.mode),
            "config": str(self._loaded.path) if self._loaded.path else "embedded defaults",
            "data_dir": str(self._places.data_dir),
            "modules": self.board.to_json(),
            "filter": self.parts.filter_status(),
            "rules": self.parts.rule_counts(),
            "policies": len(self.parts.policies.policies),
            "engine": self.parts.engine_counters(),
            "consumer": {**parts.plain(self.consumer.counters), "repeats_withheld": self._limiter.held_back},
            "subscribers": self.publisher.counters(),
            "decisions": self.store.decision_counts(),
        }

    async def _watch_health(self) -> None:
        seconds = self._loaded.config.general.health_interval_secs
        while True:
            self.parts.refresh_health(self.board)
            self._log.info("health", status=str(self.board.health), uptime_secs=self.uptime_seconds())
            await asyncio.sleep(seconds)

    async def _watch_containers(self) -> None:
        while True:
            await asyncio.sleep(self._loaded.config.container.poll_interval_secs)
            await self.response.look_at_containers()

    def _health_changed(self, module: Module, fault: Fault | None) -> None:
        if fault is None:
            self._log.info("module_recovered", module=module.name, status=str(module.health))
        else:
            self._log.warning(
                "module_degraded" if fault.health is Health.DEGRADED else "module_unhealthy",
                module=module.name,
                reason=fault.reason,
                remedy=fault.remedy,
            )

    def _report(self) -> StartReport:
        plan = self.parts.sources
        lacking = [
            (str(problem["reason"]), str(problem["remedy"]))
            for module in self.board.to_json()
            if module["enabled"]
            for problem in module["problems"]
        ]
        if not self._loaded.config.ebpf.enabled:
            as_root = "" if os.geteuid() == 0 else ", and run as root"
            remedy = f"set ebpf.enabled = true and ebpf.interface{as_root}"
            lacking.append(("packets are not filtered (ebpf.enabled is false)", remedy))
        if not self._loaded.config.container.enabled:
            lacking.append(("containers are not guarded (container.enabled is false)", "set container.enabled = true"))
        counts = self.parts.rule_counts()
        return StartReport(
            listening=tuple(
                f"{source.partition(':')[0]}:{address}" for source, address in self.parts.engine.addresses().items()
            ),
            watching=tuple(plan.watching),
            lacking=tuple(lacking),
            notices=(*self._loaded.notices, *self._places.notices, *plan.notices),
            rules=counts["loaded"],
            rules_refused=counts["refused"],
            rules_unfed=counts["unfed"],
            policies=len(self.parts.policies.policies),
            mode=str(self._loaded.config.general.mode),
            control_socket=str(self._places.control_socket),
            data_dir=str(self._places.data_dir),
            filter_text=self.parts.filter_text(),
        )

    async def _tail(self, request: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        kinds = set(request.get("kinds") or ("alert", "decision", "action"))
        subscription = self.publisher.subscribe()
        missed = 0
        try:
            while (item := await subscription.get()) is not None:
                if subscription.dropped != missed:
                    missed = subscription.dropped
                    yield {"dropped": missed}
                if kinds & item.keys():
                    yield item
        finally:
            self.publisher.unsubscribe(subscription)


def notify(environment: Mapping[str, str], **state: str) -> bool:
    """Sends a state to the service manager.

    Args:
        environment: Holds ``NOTIFY_SOCKET`` when somebody listens.
        state: For example ``READY="1"``, ``STATUS="watching 3 sources"``, ``STOPPING="1"``.

    Returns:
        Whether it was sent; a manager that isn't there is no error.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    text = "".join(f"{key}={value}\n" for key, value in state.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender, contextlib.suppress(OSError):
        sender.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)
        return True
    return False
