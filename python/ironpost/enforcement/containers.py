"""Acts on containers: on exactly the one the alert is about, and so that they can be taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

from ironpost.enforcement.docker_engine import ContainerFacts, ContainerRuntime
from ironpost.enforcement.protocols import Order, Outcome
from ironpost.errors import (
    ContainerError,
    ContainerNotFound,
    EnforcementError,
    EngineUnavailable,
    StaleIdentity,
    TargetRefused,
)
from ironpost.model import ContainerIdentity, Decision, Verb
from ironpost.model.times import SECOND_NS
from ironpost.system import Clock

_Result = TypeVar("_Result")

PROTECTED_LABEL = "ironpost.protected"
_DESCRIPTION_AGE_SECONDS = 2.0
_NO_RESTART = {"Name": "no", "MaximumRetryCount": 0}
_APPLY_NAMES = {
    Verb.PAUSE: "container_pause",
    Verb.STOP: "container_stop",
    Verb.KILL: "container_kill",
    Verb.DISCONNECT: "container_network_disconnect",
}
_REVERT_NAMES = {
    Verb.PAUSE: "container_unpause",
    Verb.STOP: "container_start",
    Verb.KILL: "container_start",
    Verb.DISCONNECT: "container_network_connect",
}


class ContainerEnforcer:
    """Pauses, stops, kills and disconnects containers, and takes it back.

    All calls to the engine run on one thread: the event loop never waits for it.

    Args:
        runtime: The engine.
        timeout_seconds: For one act as a whole; the engine's own request limit should be no longer.
    """

    verbs = frozenset(_APPLY_NAMES)
    ends_by_itself = False

    def __init__(self, runtime: ContainerRuntime, *, timeout_seconds: float = 30.0) -> None:
        self._runtime = runtime
        self._thread = _EngineThread("ironpost-containers", timeout_seconds)

    def close(self) -> None:
        """Gives the thread back; a call that hangs in the engine ends with its request limit."""
        self._thread.close()

    def unavailable(self) -> EnforcementError | None:
        """Whether the engine answers shows when it is asked."""
        return None

    async def prepare(self, decision: Decision) -> Mapping[str, Any]:
        """Returns restart policy and networks as they are before the act.

        Raises:
            EnforcementError: When the container is not the one of the alert, is protected, or can't be treated so.
        """
        return await self._thread.call(partial(self._prepare, decision))

    async def apply(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """See ``Enforcer``."""
        return [await self._outcome(_APPLY_NAMES, order, self._apply) for order in orders]

    async def revert(self, orders: Sequence[Order]) -> Sequence[Outcome]:
        """See ``Enforcer``. A container that is gone needs nothing put back."""
        return [await self._outcome(_REVERT_NAMES, order, self._revert) for order in orders]

    async def reconcile(self, orders: Sequence[Order]) -> Sequence[str]:
        """Carries out again what did not survive, for example a pause over a restart of the engine.

        Only on the same run of the container: what was started anew by an operator is left alone and named.
        """
        differences = []
        for order in orders:
            name = order.decision.container.name if order.decision.container else order.decision.target
            try:
                found = await self._thread.call(partial(self._runtime.inspect, order.decision.target))
                if _is_done(order.decision, found):
                    continue
                if order.decision.container is None or not found.identity.is_same_run(order.decision.container):
                    differences.append(f"{name}: runs anew since the {order.decision.verb}, left alone")
                    continue
                await self._thread.call(partial(self._apply, order.decision))
                differences.append(f"{name}: {order.decision.verb} carried out again")
            except ContainerNotFound:
                differences.append(f"{name}: the container is gone")
        return differences

    async def _outcome(self, names: Mapping[Verb, str], order: Order, act: Callable[[Decision], str]) -> Outcome:
        name = names[order.decision.verb]
        try:
            return Outcome(name, note=await self._thread.call(partial(act, order.decision)))
        except EngineUnavailable as error:
            return Outcome(name, error, may_retry=True)
        except (StaleIdentity, ContainerNotFound, TargetRefused) as error:
            return Outcome(name, error)
        except EnforcementError as error:
            # The engine refuses for reasons that pass (a container in transition), too.
            return Outcome(name, error, may_retry=True)

    # --- on the thread --------------------------------------------------------------------------------------------

    def _prepare(self, decision: Decision) -> dict[str, Any]:
        found = self._same_container(decision)
        match decision.verb:
            case Verb.DISCONNECT:
                if found.network_mode in {"host", "none"} or found.network_mode.startswith("container:"):
                    raise ContainerError(
                        f"{found.identity.name}: has network mode {found.network_mode}, there is no network to leave",
                        container=found.identity.id,
                        hint="let the policy pause it instead",
                    )
                return {"networks": {name: dict(found.networks[name]) for name in _chosen(decision, found)}}
            case Verb.STOP | Verb.KILL:
                if found.removes_itself:
                    raise ContainerError(
                        f"{found.identity.name}: was started with --rm, ending it would destroy it beyond undo",
                        container=found.identity.id,
                        hint="let the policy pause it instead",
                    )
                return {"restart_policy": dict(found.restart_policy)}
            case _:
                return {"status": found.status}

    def _apply(self, decision: Decision) -> str:
        found = self._same_container(decision)
        container = found.identity.id
        if _is_done(decision, found):
            return "it was so already"
        match decision.verb:
            case Verb.PAUSE:
                if not found.is_running:
                    raise ContainerError(
                        f"{found.identity.name}: is {found.status}, not running",
                        container=container,
                        hint="nothing runs in it that could be paused",
                    )
                self._runtime.pause(container)
            case Verb.STOP | Verb.KILL:
                # First the restart policy, or the engine brings it back the moment it ends.
                if found.restart_policy.get("Name", "no") not in {"", "no"}:
                    self._runtime.set_restart_policy(container, _NO_RESTART)
                if found.status == "paused":
                    # A frozen process can't end; a frozen container refuses a stop for the whole grace time.
                    self._runtime.unpause(container)
                if decision.verb is Verb.STOP:
                    self._runtime.stop(container)
                else:
                    self._runtime.kill(container)
            case Verb.DISCONNECT:
                for network in _chosen(decision, found):
                    self._runtime.disconnect(container, network)
            case _:
                raise ContainerError(f"{decision.verb}: no act on containers", container=container)
        after = self._runtime.inspect(container)
        if not _is_done(decision, after):
            raise ContainerError(
                f"{found.identity.name}: is {after.status} after {decision.verb}",
                container=container,
                hint="see docker logs",
            )
        return ""

    def _revert(self, decision: Decision) -> str:
        restoration = decision.restoration or {}
        try:
            found = self._runtime.inspect(decision.target)
        except ContainerNotFound:
            return "the container is gone, nothing to put back"
        container = found.identity.id
        match decision.verb:
            case Verb.PAUSE:
                if found.status != "paused":
                    return f"it was {found.status} already"
                if restoration.get("status") == "paused":
                    return "it was paused before us and stays so"
                self._runtime.unpause(container)
            case Verb.STOP | Verb.KILL:
                if not found.is_running:
                    self._runtime.start(container)
                policy = restoration.get("restart_policy") or {}
                if policy.get("Name", "no") not in {"", "no"}:
                    self._runtime.set_restart_policy(container, policy)
            case Verb.DISCONNECT:
                return "; ".join(
                    note
                    for name, endpoint in (restoration.get("networks") or {}).items()
                    if name not in found.networks and (note := self._connect(container, name, endpoint))
                )
            case _:
                raise ContainerError(f"{decision.verb}: no act on containers", container=container)
        return ""

    def _connect(self, container: str, network: str, endpoint: Mapping[str, Any]) -> str:
        settings = endpoint_to_restore(container, network, endpoint)
        try:
            self._runtime.connect(container, network, settings)
        except EngineUnavailable:
            raise
        except ContainerError as error:
            addresses = {key: settings.pop(key) for key in ("ipv4_address", "ipv6_address") if key in settings}
            if not addresses:
                raise
            # A network without a configured subnet grants no wishes, and a static address may be taken by now.
            self._runtime.connect(container, network, settings)
            return f"{network}: connected, but not with {', '.join(addresses.values())} ({error})"
        return ""

    def _same_container(self, decision: Decision) -> ContainerFacts:
        """Returns the container as it is now, if it still is the one the alert is about."""
        wanted = decision.container
        if wanted is None:
            raise TargetRefused(decision.target, "no identity was recorded with the alert", "a new alert is needed")
        found = self._runtime.inspect(wanted.id)
        if PROTECTED_LABEL in found.identity.labels:
            raise TargetRefused(found.identity.name, f"it carries the label {PROTECTED_LABEL}")
        if not found.identity.is_same_run(wanted):
            raise StaleIdentity(
                f"{found.identity.name}: was made anew or restarted since the alert",
                container=wanted.id,
                hint="nothing was done; if it misbehaves again, a new alert will say so",
            )
        return found


class ContainerInventory:
    """Says who a container is, for alerts. It has a thread and a connection of its own: a slow stop delays no alert.

    Args:
        runtime: The engine; not the one an enforcer uses.
        clock: Ages answers.
        timeout_seconds: For one question.
    """

    def __init__(self, runtime: ContainerRuntime, *, clock: Clock, timeout_seconds: float = 5.0) -> None:
        self._runtime = runtime
        self._clock = clock
        self._thread = _EngineThread("ironpost-inventory", timeout_seconds)
        self._described: dict[str, tuple[int, ContainerIdentity | None]] = {}

    def close(self) -> None:
        """Gives the thread back."""
        self._thread.close()

    async def describe(self, container_id: str) -> ContainerIdentity | None:
        """Returns who a container is right now, for alerts; ``None`` when it is gone.

        Answers are kept for two seconds, so that a storm of alerts asks once.

        Raises:
            EngineUnavailable: When the engine does not answer.
        """
        now = self._clock.boot_ns()
        known = self._described.get(container_id)
        if known is not None and now - known[0] < _DESCRIPTION_AGE_SECONDS * SECOND_NS:
            return known[1]
        try:
            found = (await self._thread.call(partial(self._runtime.inspect, container_id))).identity
        except ContainerNotFound:
            found = None
        if len(self._described) >= 1024:
            self._described.clear()
        self._described[container_id] = (now, found)
        return found

    async def running(self) -> list[str]:
        """Returns the full ids of running and paused containers.

        Raises:
            EngineUnavailable: When the engine does not answer.
        """
        return await self._thread.call(self._runtime.running)


class _EngineThread:
    """One thread for calls that block; the event loop waits at most so long for each."""

    def __init__(self, name: str, timeout_seconds: float) -> None:
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    async def call(self, act: Callable[[], _Result]) -> _Result:
        waiting = asyncio.get_running_loop().run_in_executor(self._threads, act)
        try:
            return await asyncio.wait_for(waiting, self._timeout_seconds)
        except TimeoutError as error:
            # The thread may be stuck in the engine until the request's own limit; others must not queue behind it.
            self._threads.shutdown(wait=False)
            self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)
            raise EngineUnavailable(
                f"the container engine did not answer within {self._timeout_seconds:g} s",
                hint="check with: docker info",
            ) from error


def endpoint_to_restore(container: str, network: str, endpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a connect needs so that the container gets its aliases and addresses back.

    Args:
        container: Full id; the engine adds its short form as an alias by itself.
        network: Name. The engine's default networks take neither aliases nor addresses.
        endpoint: Endpoint settings as the engine printed them.
    """
    if network == "bridge":
        return {}
    wishes = endpoint.get("IPAMConfig") or {}
    aliases = [alias for alias in endpoint.get("Aliases") or [] if alias != container[:12]]
    candidates = {
        "aliases": aliases,
        "links": [tuple(link.split(":", 1)) for link in endpoint.get("Links") or [] if ":" in link],
        "ipv4_address": wishes.get("IPv4Address") or endpoint.get("IPAddress"),
        "ipv6_address": wishes.get("IPv6Address") or endpoint.get("GlobalIPv6Address"),
    }
    return {key: value for key, value in candidates.items() if value}


def _chosen(decision: Decision, found: ContainerFacts) -> list[str]:
    patterns = decision.parameters.get("networks") or ["*"]
    return [name for name in found.networks if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _is_done(decision: Decision, found: ContainerFacts) -> bool:
    match decision.verb:
        case Verb.PAUSE:
            return found.status == "paused"
        case Verb.STOP | Verb.KILL:
            return found.status in {"exited", "dead"} and found.restart_policy.get("Name", "no") in {"", "no"}
        case Verb.DISCONNECT:
            return not _chosen(decision, found)
        case _:
            return False
