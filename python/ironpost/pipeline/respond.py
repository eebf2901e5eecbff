"""The answering half: enforcers, executor and what an operator does by hand, wired and supervised."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ironpost.decisions import Protections
from ironpost.enforcement import (
    ContainerEnforcer,
    ContainerInventory,
    DockerRuntime,
    EnforcerRegistry,
    Executor,
    Responder,
    XdpEnforcer,
)
from ironpost.errors import EnforcementError, IronpostError
from ironpost.model import ActionRecord, ContainerIdentity, Decision, parse_duration, times
from ironpost.pipeline.health import Health, HealthBoard
from ironpost.telemetry import bound_trace, get_logger

if TYPE_CHECKING:
    from ironpost.config import Configuration
    from ironpost.enforcement import PacketFilter
    from ironpost.model.address import Network
    from ironpost.pipeline.publish import Publisher
    from ironpost.pipeline.supervise import Supervisor
    from ironpost.storage import Store
    from ironpost.system import Clock

#: SSH sessions come and go; so often the kernel's allow map follows.
_ALLOW_SYNC_SECONDS = 5.0
_INVENTORY_SECONDS = 5.0


class Response:
    """Carries out decisions on this host.

    Args:
        config: Container settings and default duration.
        packet_filter: The attached filter, or None.
        filter_problem: Why there is none.
    """

    def __init__(
        self,
        config: Configuration,
        *,
        store: Store,
        protections: Protections,
        clock: Clock,
        packet_filter: PacketFilter | None,
        filter_problem: EnforcementError | None,
        publisher: Publisher,
        board: HealthBoard,
        supervisor: Supervisor,
    ) -> None:
        self._publisher = publisher
        self._clock = clock
        self._board = board
        self._supervisor = supervisor
        self._config = config
        self._log = get_logger("ironpost.pipeline.respond")
        self._runtimes: list[DockerRuntime] = []
        self._xdp = XdpEnforcer(packet_filter, problem=filter_problem)
        self._containers: ContainerEnforcer | None = None
        self._inventory: ContainerInventory | None = None
        enforcers = EnforcerRegistry([self._xdp])
        container = config.container
        if container.enabled:
            self._containers = ContainerEnforcer(self._runtime(), timeout_seconds=container.action_timeout_secs)
            self._inventory = ContainerInventory(self._runtime(), clock=clock, timeout_seconds=_INVENTORY_SECONDS)
            enforcers.add(self._containers)
        self._executor = Executor(
            store,
            enforcers,
            protections,
            clock=clock,
            attempts=container.retry_max_attempts + 1,
            backoff_seconds=container.retry_backoff_base_ms / 1000,
            on_record=self._recorded,
            on_expired=self.announce,
            on_problem=self._troubled,
        )

        def allowed() -> Iterable[Network]:
            return (protection.network for protection in protections.networks(max_age_seconds=_ALLOW_SYNC_SECONDS / 2))

        self.by_hand = Responder(
            self._executor,
            store,
            enforcers,
            protections,
            clock=clock,
            allowed_networks=allowed,
            xdp=self._xdp,
            default_duration_ns=parse_duration(config.response.default_duration),
        )

    async def start(self) -> None:
        """Makes kernel and containers agree with the store, then works."""
        await self.look_at_containers()
        await self._sync_allowed()
        for difference in await self._executor.resume():
            self._log.warning("difference_repaired", what=difference)
        self._supervisor.spawn("executor", self._module, self._executor.run)
        self._supervisor.spawn("allow-list", self._module, self._keep_allowed)

    async def stop(self, *, seconds: float) -> None:
        """Carries out what was decided, then ends."""
        try:
            async with asyncio.timeout(seconds):
                await self._executor.drain()
        except (TimeoutError, IronpostError) as error:
            # Nothing is lost: what is pending in the store is carried out after the next start.
            self._log.warning("executor_drain_cut_short", reason=str(error) or "timeout")
        await self._supervisor.stop("executor", "allow-list", seconds=1.0)
        for part in (self._containers, self._inventory):
            if part is not None:
                part.close()
        for runtime in self._runtimes:
            await asyncio.to_thread(runtime.close)

    def announce(self, decision: Decision) -> None:
        """Publishes a step in the life of a decision, with its time."""
        self._publisher.publish("decision", {**decision.to_json(), "changed_at": times.to_text(self._clock.wall_ns())})

    def wake(self) -> None:
        """Says that the store holds new decisions."""
        self._executor.wake()

    async def identify(self, container_id: str) -> ContainerIdentity | None:
        """Returns who a container is, or None when that can't be said now."""
        if self._inventory is None:
            return None
        try:
            identity = await self._inventory.describe(container_id)
        except EnforcementError as error:
            self._board.report("container-guard", "engine", Health.DEGRADED, str(error), error.hint)
            return None
        self._board.clear("container-guard", "engine")
        return identity

    async def look_at_containers(self) -> None:
        """Asks whether the container engine answers; shows in the health of the guard."""
        if self._inventory is None:
            return
        try:
            await self._inventory.running()
        except EnforcementError as error:
            self._board.report("container-guard", "engine", Health.DEGRADED, str(error), error.hint)
        else:
            self._board.clear("container-guard", "engine")

    @property
    def _module(self) -> str:
        return "container-guard" if self._config.container.enabled else "log-pipeline"

    def _runtime(self) -> DockerRuntime:
        container = self._config.container
        runtime = DockerRuntime(container.docker_socket, timeout_seconds=container.action_timeout_secs)
        self._runtimes.append(runtime)
        return runtime

    async def _keep_allowed(self) -> None:
        while True:
            await asyncio.sleep(_ALLOW_SYNC_SECONDS)
            await self._sync_allowed()

    async def _sync_allowed(self) -> None:
        try:
            await self.by_hand.sync_allowed()
        except EnforcementError as error:
            self._board.report("ebpf-engine", "allow map", Health.UNHEALTHY, str(error), error.hint)
        else:
            self._board.clear("ebpf-engine", "allow map")

    def _recorded(self, record: ActionRecord) -> None:
        with bound_trace(record.trace_id):
            (self._log.info if record.success else self._log.error)(
                "action_recorded",
                action_type=record.action_type,
                entity=record.target,
                success=record.success,
                reason=record.error,
                policy_id=record.policy_id,
                decision_id=record.decision_id,
                attempt=record.attempt,
            )
        self._publisher.publish("action", record.to_json())

    def _troubled(self, error: IronpostError) -> None:
        self._log.error(
            "executor_troubled",
            stage="processing",
            error_type=type(error).__name__,
            reason=str(error),
            remedy=error.hint,
        )
