"""Whom nothing may touch. Asked by the decision maker, by the executor, and mirrored into the kernel's allow map."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from ironpost.decisions.host import Protection, own_container_id, read_host
from ironpost.errors import ConfigError
from ironpost.model import AllowEntry, ContainerIdentity, Decision, Verb
from ironpost.model.address import Network, network_text, overlaps, parse_network
from ironpost.model.times import SECOND_NS
from ironpost.system import Clock

PROTECTED_LABEL = "ironpost.protected"
"""A container with this label, whatever its value, is never touched."""

_RESERVED = tuple(
    Protection(parse_network(text), reason)
    for text, reason in (
        ("0.0.0.0/8", "“this network”, no sender"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved or broadcast"),
        ("::/128", "the unspecified address"),
        ("::1/128", "loopback"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)
_SHORTEST_PREFIX = {4: 8, 6: 16}


class Protections:
    """Answers whether a target may be acted on.

    Safe to call from several threads.

    Args:
        configured: ``response.allowlist`` of the configuration: addresses and networks.
        entries: Returns the allow entries of ``ironpost allow`` that are in force.
        clock: Ages what was read from the host.
        host: Reads the host's own addresses, gateways, resolvers and SSH peers.
        own_container: Full id of the container the daemon runs in, ``""`` for none.

    Raises:
        ConfigError: When a configured entry is no address or network.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        configured: Iterable[str] = (),
        entries: Callable[[], Iterable[AllowEntry]] = tuple,
        host: Callable[[], Sequence[Protection]] = read_host,
        own_container: str | None = None,
    ) -> None:
        self._clock = clock
        self._configured = tuple(self._read_configured(text) for text in configured)
        self._entries = entries
        self._host = host
        self._own_container = own_container_id() if own_container is None else own_container
        self._lock = threading.Lock()
        self._host_seen: tuple[Protection, ...] = ()
        self._host_seen_at: int | None = None

    @staticmethod
    def _read_configured(text: str) -> Protection:
        try:
            return Protection(parse_network(text), "on the allow list of the configuration (response.allowlist)")
        except ValueError as error:
            raise ConfigError(
                str(error), field="response.allowlist", hint="list addresses and networks only"
            ) from error

    def networks(self, *, max_age_seconds: float = 2.0) -> tuple[Protection, ...]:
        """Returns all networks of this host and of the allow lists, for the kernel's allow map."""
        return (*self._configured, *self._allowed(), *self._host_protections(max_age_seconds))

    def address_refusal(self, target: str) -> str | None:
        """Returns why an address or network (in any spelling) must not be banned, or ``None`` when it may.

        A network is refused when it *covers* something protected, too.
        """
        return _address_refusal(target, self.networks())

    def address_refusals(self, targets: Sequence[str]) -> list[str | None]:
        """The same for many at once. Reads the host anew."""
        networks = self.networks(max_age_seconds=0.5)
        return [_address_refusal(target, networks) for target in targets]

    def container_refusal(self, container: ContainerIdentity) -> str | None:
        """Returns why a container must not be touched, or ``None`` when it may."""
        if PROTECTED_LABEL in container.labels:
            return f"the container carries the label {PROTECTED_LABEL}"
        if container.id and container.id == self._own_container:
            return "it is the container Ironpost itself runs in"
        return None

    def refusals(self, decisions: Sequence[Decision]) -> list[str | None]:
        """Returns for each decision why it must not be carried out now, or ``None``. Reads the host anew."""
        networks = self.networks(max_age_seconds=0.5)
        return [self._refusal(decision, networks) for decision in decisions]

    def _refusal(self, decision: Decision, networks: Sequence[Protection]) -> str | None:
        if decision.verb.is_on_container:
            if decision.container is None:
                return "no identity of the container was recorded with the alert"
            return self.container_refusal(decision.container)
        if decision.verb in {Verb.BAN, Verb.RATE_LIMIT}:
            return _address_refusal(decision.target, networks)
        return None

    def _allowed(self) -> tuple[Protection, ...]:
        now = self._clock.wall_ns()
        return tuple(
            Protection(parse_network(entry.network), "allowed by an operator (ironpost allow)")
            for entry in self._entries()
            if entry.expires_at is None or entry.expires_at > now
        )

    def _host_protections(self, max_age_seconds: float) -> tuple[Protection, ...]:
        with self._lock:
            now = self._clock.boot_ns()
            if self._host_seen_at is None or now - self._host_seen_at >= max_age_seconds * SECOND_NS:
                self._host_seen = tuple(self._host())
                self._host_seen_at = now
            return self._host_seen


def _address_refusal(target: str, networks: Sequence[Protection]) -> str | None:
    try:
        network = parse_network(target)
    except ValueError as error:
        return str(error)
    if network.prefixlen < _SHORTEST_PREFIX[network.version]:
        return f"a network wider than /{_SHORTEST_PREFIX[network.version]} takes in too much of the world"
    for protection in (*_RESERVED, *networks):
        if overlaps(network, protection.network):
            return _explain(network, protection)
    return None


def _explain(network: Network, protection: Protection) -> str:
    protected = network_text(protection.network)
    if network == protection.network:
        return protection.reason
    if network.supernet_of(protection.network):  # type: ignore[arg-type]  # they overlap: same family
        return f"it covers {protected}: {protection.reason}"
    return f"it lies in {protected}: {protection.reason}"
