"""What an operator does by hand: ban, unban, allow, undo. A refusal raises and changes nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ironpost.enforcement.executor import Executor
from ironpost.enforcement.protocols import EnforcerRegistry, Guard, ResponseStore
from ironpost.enforcement.xdp import XdpEnforcer
from ironpost.errors import EnforcementError, FilterError, IronpostError, TargetInvalid, TargetRefused
from ironpost.model import MANUAL_POLICY, AllowEntry, Decision, DecisionState, Mode, Verb
from ironpost.model.address import Network, is_single, network_text, overlaps, parse_network, scope_of
from ironpost.model.times import SECOND_NS
from ironpost.system import Clock

_NOTABLE_REFUSALS = 3
_SHORTEST_ALLOWED = {4: 8, 6: 7}


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an ``allow`` did.

    Attributes:
        entry: The entry now on the allow list.
        unbanned: Bans it ended.
        still_covered_by: Wider bans that stay for everybody else; the entry wins over them in the kernel.
    """

    entry: AllowEntry
    unbanned: tuple[Decision, ...] = ()
    still_covered_by: tuple[str, ...] = ()


class Responder:
    """Manual response. It enforces by itself, whatever ``general.mode`` says.

    Args:
        executor: Carries decisions out; shares its lanes, so manual and automatic acts never race.
        store: Decisions and allow entries.
        enforcers: To see whether a ban can be enforced here at all.
        guard: Whom nothing may touch.
        allowed_networks: Returns everything that belongs into the kernel's allow map.
        xdp: The enforcer whose allow map is kept; ``None`` without a filter.
        default_duration_ns: ``response.default_duration``.
    """

    def __init__(
        self,
        executor: Executor,
        store: ResponseStore,
        enforcers: EnforcerRegistry,
        guard: Guard,
        *,
        clock: Clock,
        allowed_networks: Callable[[], Iterable[Network]],
        xdp: XdpEnforcer | None = None,
        default_duration_ns: int = 600 * SECOND_NS,
    ) -> None:
        self._executor = executor
        self._store = store
        self._enforcers = enforcers
        self._guard = guard
        self._clock = clock
        self._allowed_networks = allowed_networks
        self._xdp = xdp
        self._default_duration_ns = default_duration_ns

    async def ban(
        self,
        targets: Sequence[str],
        *,
        duration_ns: int | None = None,
        monitor: bool = False,
        actor: str = "operator",
        operator_address: str = "",
    ) -> list[Decision]:
        """Bans addresses and networks now.

        Args:
            targets: Addresses or networks in any spelling; all are banned or none.
            duration_ns: How long; ``None`` takes the configured default.
            monitor: Count what would be dropped, drop nothing.
            actor: For the ledger.
            operator_address: Address the operator is connected from; never banned.

        Raises:
            TargetRefused: When one of them must never be banned.
            TargetInvalid: When one text is no address.
            EnforcementError: When this host can't enforce it.
        """
        networks = _read(targets)
        await self._refuse_protected(networks, operator_address)
        enforcer = self._enforcers.get(Verb.BAN)
        problem = FilterError("not enforceable here: no packet filter") if enforcer is None else enforcer.unavailable()
        if problem is not None:
            raise problem
        now = self._clock.wall_ns()
        expires_at = now + (self._default_duration_ns if duration_ns is None else duration_ns)
        parameters = {"mode": "monitor"} if monitor else {}
        await self._end_unlike(networks, parameters, actor)
        stored = await asyncio.to_thread(
            self._store.add_decisions,
            [
                Decision(
                    id=secrets.token_hex(16),
                    verb=Verb.BAN,
                    target=network_text(network),
                    scope=scope_of(network),
                    mode=Mode.ENFORCE,
                    state=DecisionState.PENDING,
                    policy_id=MANUAL_POLICY,
                    alert_ids=(),
                    created_at=now,
                    expires_at=expires_at,
                    reason=f"banned by {actor}",
                    priority=0,
                    parameters=parameters,
                )
                for network in networks
            ],
        )
        await self._executor.drain(Verb.BAN)
        made = await asyncio.to_thread(self._again, stored)
        failed = next((decision for decision in made if decision.state is not DecisionState.ACTIVE), None)
        if failed is not None:
            raise FilterError(f"{failed.target}: {failed.state}, {failed.reason}")
        return made

    async def unban(self, targets: Sequence[str], *, actor: str = "operator") -> list[Decision]:
        """Ends bans now.

        Raises:
            EnforcementError: When one of the targets is not banned; then nothing is changed.
        """
        networks = _read(targets)
        found = []
        for network in networks:
            decision = await asyncio.to_thread(self._store.live, Verb.BAN, network_text(network))
            if decision is None:
                raise EnforcementError(f"{network_text(network)}: is not banned", await self._covering_hint(network))
            found.append(decision)
        return [
            await self._executor.undo(decision.id, actor=actor, reason=f"unbanned by {actor}") for decision in found
        ]

    async def allow(
        self, target: str, *, duration_ns: int | None = None, reason: str = "", actor: str = "operator"
    ) -> Allowed:
        """Puts an address or network on the allow list and ends the bans within it.

        Raises:
            EnforcementError: When the text is no address, or the network is so wide that nothing could be banned.
        """
        [network] = _read([target])
        if network.prefixlen < _SHORTEST_ALLOWED[network.version]:
            raise TargetRefused(
                str(network), "allowing so much of the world switches the response off", 'set general.mode = "observe"'
            )
        now = self._clock.wall_ns()
        entry = AllowEntry(str(network), now, None if duration_ns is None else now + duration_ns, reason, actor)
        # First the entry: from here on no decision can ban it again.
        await asyncio.to_thread(self._store.add_allow_entries, [entry])
        await self.sync_allowed()
        live = await asyncio.to_thread(self._store.live_decisions, [Verb.BAN])
        unbanned = []
        wider = []
        for decision in live:
            banned = parse_network(decision.target)
            if not overlaps(banned, network):
                continue
            if banned.prefixlen >= network.prefixlen:
                unbanned.append(await self._executor.undo(decision.id, actor=actor, reason=f"allowed by {actor}"))
            else:
                wider.append(decision.target)
        return Allowed(entry, tuple(unbanned), tuple(wider))

    async def unallow(self, target: str) -> None:
        """Takes an entry off the allow list.

        Raises:
            EnforcementError: When there is no such entry.
        """
        [network] = _read([target])
        if not await asyncio.to_thread(self._store.remove_allow_entry, str(network)):
            raise EnforcementError(f"{network_text(network)}: is not on the allow list", "list it with: ironpost allow")
        await self.sync_allowed()

    async def undo(self, decision_id: str, *, actor: str = "operator") -> Decision:
        """Takes any decision back. See ``Executor.undo``."""
        return await self._executor.undo(decision_id, actor=actor)

    async def approve(self, decision_id: str) -> Decision:
        """Lets a decision in mode ``ask`` be carried out.

        Raises:
            EnforcementError: When it does not wait for approval.
        """
        decision = await asyncio.to_thread(self._store.decision, decision_id)
        if decision is None or not await asyncio.to_thread(self._store.approve, decision.id):
            raise EnforcementError(f"{decision_id}: does not wait for approval", "list what does: ironpost decisions")
        await self._executor.drain(decision.verb)
        return (await asyncio.to_thread(self._again, [decision]))[0]

    async def sync_allowed(self) -> None:
        """Drops allow entries whose time is over and mirrors the rest, with this host's own addresses, into the kernel.

        To be called at the start and every few seconds: SSH sessions come and go.
        """
        await asyncio.to_thread(self._store.remove_expired_allow_entries, self._clock.wall_ns())
        if self._xdp is not None and self._xdp.unavailable() is None:
            await self._xdp.sync_allowed(await asyncio.to_thread(lambda: list(self._allowed_networks())))

    async def _refuse_protected(self, networks: Sequence[Network], operator_address: str) -> None:
        targets = [network_text(network) for network in networks]
        refusals = await asyncio.to_thread(self._guard.address_refusals, targets)
        if operator_address:
            [operator] = _read([operator_address])
            refusals = [
                refusal or ("you are connected from there" if overlaps(network, operator) else None)
                for network, refusal in zip(networks, refusals, strict=True)
            ]
        refused = [(target, reason) for target, reason in zip(targets, refusals, strict=True) if reason]
        if refused:
            target, reason = refused[0]
            others = ", ".join(other for other, _ in refused[1:_NOTABLE_REFUSALS])
            more = f"also refused: {others}{' …' if len(refused) > _NOTABLE_REFUSALS else ''}" if others else ""
            raise TargetRefused(target, reason, more)

    async def _end_unlike(self, networks: Sequence[Network], parameters: dict[str, str], actor: str) -> None:
        """A ban that drops is no longer the same decision as one that counts: the standing one makes way."""
        live = {
            decision.target: decision for decision in await asyncio.to_thread(self._store.live_decisions, [Verb.BAN])
        }
        for network in networks:
            standing = live.get(network_text(network))
            if standing is not None and standing.parameters.get("mode") != parameters.get("mode"):
                await self._executor.undo(standing.id, actor=actor, reason=f"replaced by {actor}")

    async def _covering_hint(self, network: Network) -> str:
        for decision in await asyncio.to_thread(self._store.live_decisions, [Verb.BAN]):
            banned = parse_network(decision.target)
            if overlaps(banned, network) and not is_single(banned):
                return f"{decision.target} is banned: unban that, or let this one through with `ironpost allow`"
        return "list what is banned: ironpost decisions"

    def _again(self, decisions: Iterable[Decision]) -> list[Decision]:
        return [self._store.decision(decision.id) or decision for decision in decisions]


def _read(targets: Sequence[str]) -> list[Network]:
    networks = []
    for target in targets:
        try:
            networks.append(parse_network(target))
        except ValueError as error:
            raise TargetInvalid(str(error), "addresses and networks only") from None
    if not networks:
        raise IronpostError("no address given", "for example: ironpost ban 203.0.113.7 --for 10m")
    return list(dict.fromkeys(networks))
