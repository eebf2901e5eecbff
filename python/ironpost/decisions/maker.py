"""From alert to decision: pure, so that live, replay and simulation decide alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from ironpost.decisions.policies import Policy, TargetFilter
from ironpost.decisions.protections import Protections
from ironpost.model import (
    Alert,
    ContainerIdentity,
    Decision,
    DecisionHistory,
    DecisionState,
    Detection,
    Mode,
    Verb,
)
from ironpost.model.address import network_text as text_of
from ironpost.model.address import parse_network, scope_of
from ironpost.model.times import SECOND_NS
from ironpost.system import Clock

_HOUR_NS = 3600 * SECOND_NS
_WOULD = {
    Verb.BAN: "would have banned it",
    Verb.PAUSE: "would have paused it",
    Verb.STOP: "would have stopped it",
    Verb.KILL: "would have killed it",
    Verb.DISCONNECT: "would have disconnected it",
}


class DecisionMaker:
    """Applies policies to alerts.

    :meth:`decide` fits the store's ``decide`` argument.

    Args:
        policies: By priority; see ``load_policies``.
        protections: Whom nothing may touch.
        clock: Gives the moment of the decision.
        mode: ``general.mode``: no policy goes further.
        container_mode: The same for acts on containers (``container.auto_isolate``); ``None`` takes ``mode``.
        default_duration_ns: For policies without a duration.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        protections: Protections,
        *,
        clock: Clock,
        mode: Mode = Mode.OBSERVE,
        container_mode: Mode | None = None,
        default_duration_ns: int = 600 * SECOND_NS,
    ) -> None:
        self._policies = sorted(
            (policy for policy in policies if policy.enabled), key=lambda policy: (policy.priority, policy.id)
        )
        self._protections = protections
        self._clock = clock
        self._mode = mode
        self._container_mode = mode if container_mode is None else _weaker(mode, container_mode)
        self._default_duration_ns = default_duration_ns

    def decide(self, alert: Alert, detection: Detection, history: DecisionHistory) -> list[Decision]:
        """Returns what to store for one new detection of an alert.

        Per kind of target the first policy that fits decides, so at most one decision on the address and one on the
        container. A decision that already stands is returned with its duration renewed instead of a second one.
        """
        made: list[Decision] = []
        kinds: set[bool] = set()
        for policy in self._policies:
            on_container = policy.verb.is_on_container
            if on_container in kinds or not _fits(policy, alert, detection):
                continue
            decision = self._decision(policy, alert, detection, history)
            if decision is not None:
                kinds.add(on_container)
                made.append(decision)
        return made

    def _decision(
        self, policy: Policy, alert: Alert, detection: Detection, history: DecisionHistory
    ) -> Decision | None:
        now = self._clock.wall_ns()
        target = _container_id(detection) if policy.verb.is_on_container else _address(alert, detection)
        if target is None:
            return None
        duration_ns = self._default_duration_ns if policy.duration_ns is None else policy.duration_ns
        ceiling = self._container_mode if policy.verb.is_on_container else self._mode
        draft = Decision(
            id=Decision.identify(policy.id, alert.id, policy.verb, target, detection.id),
            verb=policy.verb,
            target=target,
            scope="container" if policy.verb.is_on_container else scope_of(parse_network(target)),
            mode=_weaker(policy.mode, ceiling),
            state=DecisionState.PENDING,
            policy_id=policy.id,
            alert_ids=(alert.id,),
            created_at=now,
            expires_at=now + duration_ns,
            trace_id=detection.trace_id or alert.trace_id,
            priority=policy.priority,
            container=detection.container if policy.verb.is_on_container else None,
            parameters=policy.parameters,
        )
        decided = self._judged(draft, policy, history, now)
        if decided.is_live:
            return decided
        standing = history.standing(policy.id, policy.verb, target, decided.state, now)
        if standing is None:
            return decided
        return replace(standing, alert_ids=(alert.id,), expires_at=decided.expires_at)

    def _judged(self, draft: Decision, policy: Policy, history: DecisionHistory, now: int) -> Decision:
        refusal = self._refusal(draft)
        if refusal is not None:
            return replace(draft, state=DecisionState.REFUSED, reason=refusal)
        if draft.mode is Mode.OBSERVE:
            held_by = "the policy" if policy.mode is Mode.OBSERVE else "the configuration"
            return replace(
                draft, state=DecisionState.OBSERVED, reason=f"{_WOULD[draft.verb]}, but {held_by} says observe"
            )
        if history.live(draft.verb, draft.target) is None:
            reached = history.targets_since(policy.id, now - _HOUR_NS)
            if draft.target not in reached and len(reached) >= policy.max_targets_per_hour:
                reason = f"the policy has acted on {len(reached)} targets within an hour (max_targets_per_hour)"
                return replace(draft, state=DecisionState.REFUSED, reason=reason)
        return draft

    def _refusal(self, draft: Decision) -> str | None:
        if not draft.verb.is_on_container:
            return self._protections.address_refusal(draft.target)
        if draft.container is None:
            return "the container engine could not say which container this is"
        return self._protections.container_refusal(draft.container)


def _fits(policy: Policy, alert: Alert, detection: Detection) -> bool:
    return (
        alert.severity >= policy.severity_threshold
        and alert.count >= policy.count
        and detection.trust in policy.trust
        and _any_fits(policy.rules, (alert.rule_id,))
        and _any_fits(policy.tags, alert.tags)
        and _any_fits(policy.entity, (alert.entity.kind, alert.entity.field))
        and _filter_fits(policy.target_filter, detection.container)
    )


def _any_fits(patterns: tuple[str, ...], values: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(value, pattern) for pattern in patterns for value in values)


def _filter_fits(target_filter: TargetFilter, container: ContainerIdentity | None) -> bool:
    if target_filter.is_empty:
        return True
    if container is None:
        return False
    return (
        _any_fits(target_filter.container_names, (container.name,))
        and _any_fits(target_filter.image_patterns, tuple(_image_names(container.image)))
        and _any_fits(target_filter.labels, tuple(_label_texts(container)))
    )


def _image_names(image: str) -> Iterator[str]:
    """``nginx`` in a policy means ``nginx:latest`` too, as Docker reads it."""
    yield image
    name, _, tag = image.rpartition(":")
    if name and "/" not in tag:
        yield name


def _label_texts(container: ContainerIdentity) -> Iterator[str]:
    for key, value in container.labels.items():
        yield key
        yield f"{key}={value}"


def _address(alert: Alert, detection: Detection) -> str | None:
    """The address the alert is *about*: its entity, or a group-by field; never one that is merely in the evidence."""
    by_kind = dict(detection.group) | {alert.entity.field: alert.entity.value}
    text = by_kind.get("source.ip", "")
    try:
        return text_of(parse_network(text)) if text else None
    except ValueError:
        return None


def _container_id(detection: Detection) -> str | None:
    return (detection.container.id if detection.container else detection.container_id) or None


def _weaker(one: Mode, other: Mode) -> Mode:
    return min(one, other, key=lambda mode: mode.rank)
