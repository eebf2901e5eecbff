"""What the daemon does now and then: changed rules and policies, a filter taken off, expired entries, old rows."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ironpost.decisions import load_policies
from ironpost.detections import RuleSet
from ironpost.errors import FilterError, IronpostError
from ironpost.ownership import setting_doubt
from ironpost.pipeline.health import Health
from ironpost.pipeline.parts import report_attachments
from ironpost.telemetry import get_logger

if TYPE_CHECKING:
    from ironpost.config import Configuration, Places
    from ironpost.pipeline.health import HealthBoard
    from ironpost.pipeline.parts import Parts
    from ironpost.storage import Store
    from ironpost.system import Clock

_WATCH_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_SWEEP_SECONDS = 10.0
_PRUNE_SECONDS = 3600.0
_DAY_NS = 86_400_000_000_000

Trait = tuple[str, int, int, int]
Fingerprint = tuple[Trait, ...]


class Reloader:
    """Takes changed rules and policies without a restart; a broken file changes nothing and is named."""

    def __init__(self, parts: Parts, places: Places, board: HealthBoard) -> None:
        self._parts = parts
        self._places = places
        self._board = board
        self._log = get_logger("ironpost.pipeline.upkeep")
        self._asked = asyncio.Event()
        self._rules_seen = fingerprint((*places.rule_dirs, *places.field_map_dirs))
        self._policies_seen = fingerprint(places.policy_dirs)

    def ask(self) -> None:
        """Asks for a look now."""
        self._asked.set()

    async def wait(self, seconds: float) -> None:
        """Waits until somebody asks, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        self._asked.clear()

    async def look(self) -> None:
        """Looks once, and takes over what has changed."""
        watched = (*self._places.rule_dirs, *self._places.field_map_dirs)
        rules_now = await asyncio.to_thread(fingerprint, watched)
        if rules_now != self._rules_seen:
            self._rules_seen = rules_now
            await self._take_rules()
        policies_now = await asyncio.to_thread(fingerprint, self._places.policy_dirs)
        if policies_now != self._policies_seen:
            self._policies_seen = policies_now
            await self._take_policies()

    async def _take_rules(self) -> None:
        try:
            packs = self._places.data_dir / "packs"
            rules = await asyncio.to_thread(
                RuleSet.load,
                *self._places.rule_dirs,
                field_maps=self._places.field_map_dirs,
                doubt=setting_doubt,
                python_files=True,
                cache=packs,
            )
            known = {refused.path for refused in self._parts.rules.refused}
            broken = next((refused for refused in rules.refused if refused.path not in known), None)
            if broken is not None:
                self._keep("rules", f"{broken.path}:{broken.line}: {broken.reason}", broken.hint)
                return
            await asyncio.to_thread(self._parts.engine.swap_rules, await asyncio.to_thread(lambda: rules.native))
        except IronpostError as error:
            self._keep("rules", str(error), error.hint)
            return
        self._parts.rules = rules
        self._board.clear("log-pipeline", "reload of rules")
        if not rules.refused:
            self._board.clear("log-pipeline", "rules")
        if rules.rules:
            self._board.clear("log-pipeline", "no rules")
        self._log.info("rules_reloaded", loaded=len(rules.rules), refused=len(rules.refused), unfed=len(rules.unfed))

    async def _take_policies(self) -> None:
        policies = await asyncio.to_thread(load_policies, *self._places.policy_dirs, doubt=setting_doubt)
        known = {refused.path for refused in self._parts.policies.refused}
        broken = next((refused for refused in policies.refused if refused.path not in known), None)
        if broken is not None:
            self._keep("policies", str(broken), broken.hint)
            return
        self._parts.use_policies(policies)
        self._board.clear("log-pipeline", "reload of policies")
        if not policies.refused:
            self._board.clear("log-pipeline", "policies")
        self._log.info("policies_reloaded", loaded=len(policies.policies), refused=len(policies.refused))

    def _keep(self, what: str, reason: str, hint: str) -> None:
        self._board.report(
            "log-pipeline",
            f"reload of {what}",
            Health.DEGRADED,
            f"changed {what} are not taken over: {reason}",
            f"the {what} from before stay in force; mend the file and it is looked at again{hint and f': {hint}'}",
        )


async def keep_reloading(reloader: Reloader, *, seconds: float) -> None:
    """Looks for changes for ever."""
    while True:
        await reloader.wait(seconds)
        await reloader.look()


class FilterWatch:
    """Sees when somebody took the filter off its interfaces, and attaches it again; replaces nobody's program."""

    def __init__(self, parts: Parts, board: HealthBoard) -> None:
        self._parts = parts
        self._board = board
        self._log = get_logger("ironpost.pipeline.upkeep")
        self._failures = 0

    async def look(self) -> float:
        """Looks once, and attaches again what is off.

        Returns:
            Seconds until the next look: longer after each attempt that failed.
        """
        packet_filter = self._parts.filter
        if packet_filter is None or self._parts.filter_given_up:
            return _LONGEST_PAUSE_SECONDS
        try:
            if await asyncio.to_thread(report_attachments, packet_filter, self._board):
                self._failures = 0
                return _WATCH_SECONDS
            await asyncio.to_thread(packet_filter.reattach)
        except FilterError as error:
            if self._parts.filter_given_up:
                return _LONGEST_PAUSE_SECONDS
            self._failures += 1
            self._board.report("ebpf-engine", "reattach", Health.UNHEALTHY, str(error), error.hint)
            return min(_WATCH_SECONDS * 2.0 ** min(self._failures, 10), _LONGEST_PAUSE_SECONDS)
        self._failures = 0
        self._parts.filter_reattached += 1
        self._log.warning("filter_reattached", times=self._parts.filter_reattached, where=self._parts.filter_text())
        self._board.clear("ebpf-engine", "reattach")
        await asyncio.to_thread(report_attachments, packet_filter, self._board)
        return _WATCH_SECONDS


async def keep_attached(watch: FilterWatch) -> None:
    """Looks for ever."""
    while True:
        seconds = await watch.look()
        await asyncio.sleep(seconds)


async def keep_tidy(parts: Parts, store: Store, config: Configuration, clock: Clock) -> None:
    """Sweeps expired entries out of the kernel's maps, and old rows out of the store, for ever."""
    log = get_logger("ironpost.pipeline.upkeep")
    retention_ns = config.log_pipeline.storage.retention_days * _DAY_NS
    until_prune = 0.0
    while True:
        if parts.filter is not None:
            await asyncio.to_thread(parts.filter.sweep)
        if until_prune <= 0:
            removed = await asyncio.to_thread(store.prune, clock.wall_ns() - retention_ns)
            if removed:
                log.info("store_pruned", rows=removed, retention_days=config.log_pipeline.storage.retention_days)
            until_prune = _PRUNE_SECONDS
        await asyncio.sleep(_SWEEP_SECONDS)
        until_prune -= _SWEEP_SECONDS


def fingerprint(directories: tuple[Path, ...]) -> Fingerprint:
    """Returns what changes when a file below the directories is written, added, removed, replaced or given away."""
    found: list[Trait] = []
    for directory in directories:
        for path in (directory, *sorted(directory.rglob("*"))):
            try:
                facts = path.stat()
            except OSError:
                continue
            is_ours = path.suffix in {".yml", ".yaml", ".toml", ".py"}
            if is_ours:
                found.append((str(path), facts.st_mtime_ns, facts.st_size, facts.st_ino))
            if is_ours or stat.S_ISDIR(facts.st_mode):
                found.append((str(path), facts.st_mode, facts.st_uid, facts.st_gid))
    return tuple(found)
