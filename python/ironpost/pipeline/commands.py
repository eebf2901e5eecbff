"""What the control socket can ask for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ironpost.model import Decision, parse_duration
from ironpost.pipeline.control import Command, RequestError

if TYPE_CHECKING:
    from ironpost.pipeline.daemon import Daemon

_MOST_ROWS = 100_000
#: A list of targets has to fit into one request.
_MOST_TARGETS = 50_000


class Commands:
    """The daemon's commands; each takes the request and returns a JSON value."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def table(self) -> dict[str, Command]:
        """Returns the commands by name."""
        return {
            "status": self.status,
            "alerts": self.alerts,
            "decisions": self.decisions,
            "actions": self.actions,
            "ban": self.ban,
            "unban": self.unban,
            "allow": self.allow,
            "unallow": self.unallow,
            "allowed": self.allowed,
            "undo": self.undo,
            "approve": self.approve,
            "stop": self.stop,
        }

    async def status(self, _request: Mapping[str, Any]) -> Any:
        """See ``Daemon.status``."""
        return await asyncio.to_thread(self._daemon.status)

    async def alerts(self, request: Mapping[str, Any]) -> Any:
        """Alerts, latest first."""
        found = await asyncio.to_thread(lambda: self._daemon.store.alerts(limit=_limit(request)))
        return [alert.to_json() for alert in found]

    async def decisions(self, request: Mapping[str, Any]) -> Any:
        """Decisions, latest first."""
        found = await asyncio.to_thread(lambda: self._daemon.store.decisions(limit=_limit(request)))
        return [decision.to_json() for decision in found]

    async def actions(self, request: Mapping[str, Any]) -> Any:
        """Rows of the ledger, latest first."""
        found = await asyncio.to_thread(lambda: self._daemon.store.actions(limit=_limit(request)))
        return [record.to_json() for record in found]

    async def ban(self, request: Mapping[str, Any]) -> Any:
        """Bans targets; all or none."""
        mode = _text(request, "mode", "drop")
        if mode not in {"drop", "monitor"}:
            raise RequestError(f"unknown mode {mode!r}", "use drop or monitor")
        made = await self._daemon.response.by_hand.ban(
            _targets(request),
            duration_ns=_duration(request),
            monitor=mode == "monitor",
            actor=_text(request, "actor", "operator"),
            operator_address=_text(request, "operator_address", ""),
        )
        return [self._announced(decision) for decision in made]

    async def unban(self, request: Mapping[str, Any]) -> Any:
        """Ends bans; all or none."""
        made = await self._daemon.response.by_hand.unban(_targets(request), actor=_text(request, "actor", "operator"))
        return [self._announced(decision) for decision in made]

    async def allow(self, request: Mapping[str, Any]) -> Any:
        """Puts a target on the allow list and ends the bans within it."""
        allowed = await self._daemon.response.by_hand.allow(
            _text(request, "target"),
            duration_ns=_duration(request),
            reason=_text(request, "reason", ""),
            actor=_text(request, "actor", "operator"),
        )
        return {
            "entry": allowed.entry.to_json(),
            "unbanned": [self._announced(decision) for decision in allowed.unbanned],
            "still_covered_by": list(allowed.still_covered_by),
        }

    async def unallow(self, request: Mapping[str, Any]) -> Any:
        """Takes a target off the allow list."""
        await self._daemon.response.by_hand.unallow(_text(request, "target"))
        return {"target": _text(request, "target")}

    async def allowed(self, _request: Mapping[str, Any]) -> Any:
        """Allow entries in force."""
        entries = await asyncio.to_thread(self._daemon.store.allow_entries)
        return [entry.to_json() for entry in entries]

    async def undo(self, request: Mapping[str, Any]) -> Any:
        """Takes a decision back."""
        decision = await self._daemon.response.by_hand.undo(
            _text(request, "id"), actor=_text(request, "actor", "operator")
        )
        return self._announced(decision)

    async def approve(self, request: Mapping[str, Any]) -> Any:
        """Lets a decision that asks be carried out."""
        return self._announced(await self._daemon.response.by_hand.approve(_text(request, "id")))

    async def stop(self, request: Mapping[str, Any]) -> Any:
        """Begins the shutdown."""
        detach = request.get("detach", False) is True
        attached = self._daemon.parts.filter_stays()
        detached = detach and await self._daemon.parts.detach_filter()
        self._daemon.ask_to_stop("command")
        return {
            "pid": os.getpid(),
            "lock": str(self._daemon.lock_path),
            "filter": attached,
            "detached": detached,
        }

    def _announced(self, decision: Decision) -> dict[str, Any]:
        self._daemon.response.announce(decision)
        return decision.to_json()


def _text(request: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = request.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        raise RequestError(f"{key!r} must be a text")
    return value


def _targets(request: Mapping[str, Any]) -> list[str]:
    targets = request.get("targets")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise RequestError("'targets' must be a list of texts")
    if not 0 < len(targets) <= _MOST_TARGETS:
        raise RequestError(f"'targets' must name 1 to {_MOST_TARGETS} targets")
    return targets


def _duration(request: Mapping[str, Any]) -> int | None:
    text = _text(request, "duration", "")
    if not text:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise RequestError(str(error)) from None


def _limit(request: Mapping[str, Any]) -> int:
    limit = request.get("limit", 100)
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 < limit <= _MOST_ROWS:
        raise RequestError(f"'limit' must be a number from 1 to {_MOST_ROWS}")
    return limit
