"""The container engine, through the official Docker SDK. Calls block; the enforcer gives them a thread of their own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ironpost.errors import ContainerError, ContainerNotFound, EngineUnavailable
from ironpost.model import ContainerIdentity

if TYPE_CHECKING:
    import docker

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """A container as the engine sees it now.

    Attributes:
        status: ``running``, ``paused``, ``exited``, ``restarting`` and so on.
        network_mode: For example ``bridge`` or ``host``.
        networks: Network name → endpoint settings as the engine prints them.
        restart_policy: For example ``{"Name": "always", "MaximumRetryCount": 0}``.
        removes_itself: Started with ``--rm``: it vanishes when it stops.
    """

    identity: ContainerIdentity
    status: str
    network_mode: str = ""
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    restart_policy: Mapping[str, Any] = field(default_factory=dict)
    removes_itself: bool = False

    @property
    def is_running(self) -> bool:
        """Says whether it has processes; a paused one has."""
        return self.status in {"running", "paused"}


class ContainerRuntime(Protocol):
    """What we ask of an engine: typed verbs, nothing that could create or execute.

    Every method raises ``EngineUnavailable`` when the engine does not answer, ``ContainerNotFound`` when the container
    is gone, and ``ContainerError`` when the engine refuses.
    """

    def inspect(self, container: str) -> ContainerFacts:
        """Returns the container as it is now."""
        ...

    def running(self) -> list[str]:
        """Returns the full ids of running and paused containers."""
        ...

    def pause(self, container: str) -> None:
        """Freezes it."""
        ...

    def unpause(self, container: str) -> None:
        """Lets it run again."""
        ...

    def stop(self, container: str) -> None:
        """Ends it, first politely."""
        ...

    def start(self, container: str) -> None:
        """Starts it."""
        ...

    def kill(self, container: str) -> None:
        """Ends it at once."""
        ...

    def set_restart_policy(self, container: str, policy: Mapping[str, Any]) -> None:
        """Changes what happens when it ends."""
        ...

    def disconnect(self, container: str, network: str) -> None:
        """Takes it off a network."""
        ...

    def connect(self, container: str, network: str, endpoint: Mapping[str, Any]) -> None:
        """Puts it on a network."""
        ...


class DockerRuntime:
    """Docker, or an engine with a compatible socket.

    Args:
        path: The engine's Unix socket.
        timeout_seconds: Per request.
        stop_grace_seconds: Between SIGTERM and SIGKILL of a stop.
    """

    def __init__(
        self, path: Path | str = "/var/run/docker.sock", *, timeout_seconds: int = 30, stop_grace_seconds: int = 10
    ) -> None:
        self._socket = str(path)
        self._timeout_seconds = timeout_seconds
        self._stop_grace_seconds = stop_grace_seconds
        self._client: docker.APIClient | None = None

    def close(self) -> None:
        """Closes the connection; the next call opens it again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def ping(self) -> None:
        """Asks whether the engine answers.

        Raises:
            EngineUnavailable: With the remedy.
        """
        self._call("", lambda api: api.ping())

    def inspect(self, container: str) -> ContainerFacts:
        """Returns the container with that full id (or any name the engine accepts)."""
        return facts_of(self._call(container, lambda api: api.inspect_container(container)))

    def running(self) -> list[str]:
        """Returns the full ids of running and paused containers."""
        return [str(item["Id"]) for item in self._call("", lambda api: api.containers())]

    def pause(self, container: str) -> None:
        """Freezes all its processes."""
        self._call(container, lambda api: api.pause(container))

    def unpause(self, container: str) -> None:
        """Lets them run again."""
        self._call(container, lambda api: api.unpause(container))

    def stop(self, container: str) -> None:
        """Ends it, first politely."""
        self._call(container, lambda api: api.stop(container, timeout=self._stop_grace_seconds))

    def start(self, container: str) -> None:
        """Starts it; one that runs already stays so."""
        self._call(container, lambda api: api.start(container))

    def kill(self, container: str) -> None:
        """Ends it at once."""
        self._call(container, lambda api: api.kill(container))

    def set_restart_policy(self, container: str, policy: Mapping[str, Any]) -> None:
        """Changes what the engine does when it ends."""
        self._call(container, lambda api: api.update_container(container, restart_policy=_restart_policy(policy)))

    def disconnect(self, container: str, network: str) -> None:
        """Takes it off a network."""
        self._call(container, lambda api: api.disconnect_container_from_network(container, network, force=True))

    def connect(self, container: str, network: str, endpoint: Mapping[str, Any]) -> None:
        """Puts it on a network; see ``endpoint_to_restore`` for the keys."""
        self._call(container, lambda api: api.connect_container_to_network(container, network, **endpoint))

    def _call(self, container: str, act: Callable[[docker.APIClient], _Result]) -> _Result:
        # The SDK costs 20 MB and 0.1 s, and most hosts run without containers: it is imported with the first call.
        import docker.errors  # noqa: PLC0415
        import requests.exceptions  # noqa: PLC0415

        try:
            if self._client is None:
                # Before the SDK: it wraps a refused connection five times over and leaves its socket to the collector.
                with socket.socket(socket.AF_UNIX) as knock:
                    knock.settimeout(self._timeout_seconds)
                    knock.connect(self._socket)
                self._client = docker.APIClient(
                    base_url=f"unix://{self._socket}", timeout=self._timeout_seconds, version="auto"
                )
            return act(self._client)
        except docker.errors.NotFound as error:
            if "network" in str(error.explanation).lower() and container:
                raise ContainerError(
                    f"{container[:12]}: {error.explanation}", container=container, hint="the network was removed"
                ) from error
            raise ContainerNotFound(
                f"{container[:12]}: the container is gone", container=container, hint="nothing is left to act on"
            ) from error
        except docker.errors.APIError as error:
            if error.is_server_error() and error.status_code in {502, 503, 504}:
                raise self._unavailable(str(error.explanation or error)) from error
            raise ContainerError(
                f"{container[:12]}: the engine refused: {error.explanation or error}",
                container=container,
                hint=f"look with: docker inspect {container[:12]}",
            ) from error
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            # A broken connection is not used again.
            self.close()
            raise self._unavailable(_innermost(error)) from error

    def _unavailable(self, reason: str) -> EngineUnavailable:
        path = Path(self._socket)
        hint = (
            "check with: docker info"
            if path.exists()
            else "start the engine (systemctl start docker), set container.docker_socket, or container.enabled = false"
        )
        if "ermission denied" in reason:
            hint = "run as root or as a member of the group docker"
        return EngineUnavailable(f"{self._socket}: the container engine does not answer ({reason})", hint=hint)


def facts_of(document: Mapping[str, Any]) -> ContainerFacts:
    """Reads the engine's ``inspect`` document."""
    state = document.get("State") or {}
    settings = document.get("Config") or {}
    host = document.get("HostConfig") or {}
    return ContainerFacts(
        identity=ContainerIdentity(
            id=str(document["Id"]),
            created=str(document.get("Created", "")),
            started_at=str(state.get("StartedAt", "")),
            name=str(document.get("Name", "")).removeprefix("/"),
            image=str(settings.get("Image", "")),
            labels={str(key): str(value) for key, value in (settings.get("Labels") or {}).items()},
        ),
        status=str(state.get("Status", "")),
        network_mode=str(host.get("NetworkMode", "")),
        networks=(document.get("NetworkSettings") or {}).get("Networks") or {},
        restart_policy=host.get("RestartPolicy") or {},
        removes_itself=bool(host.get("AutoRemove", False)),
    )


def _restart_policy(policy: Mapping[str, Any]) -> Any:  # the SDK's stub has a private type for it
    return {"Name": str(policy.get("Name") or "no"), "MaximumRetryCount": int(policy.get("MaximumRetryCount") or 0)}


def _innermost(error: BaseException) -> str:
    """The SDK wraps ``PermissionError`` three times; the innermost says what happened."""
    seen: BaseException = error
    while True:
        cause = seen.__cause__ or seen.__context__
        if cause is None or not str(cause):
            return str(seen)
        seen = cause
