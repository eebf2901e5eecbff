"""Builds what the daemon runs. What can't be had becomes a visible fault with a remedy; a useless start fails."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ironpost import _core
from ironpost.config import Loaded, Places
from ironpost.decisions import DecisionMaker, PolicySet, Protections, load_policies
from ironpost.detections import RuleSet
from ironpost.errors import ExtractorError, FilterError, RuleError
from ironpost.events import load as load_extractors
from ironpost.model import Mode, parse_duration
from ironpost.ownership import setting_doubt
from ironpost.pipeline import native
from ironpost.pipeline.health import Health, HealthBoard
from ironpost.pipeline.sources import HostFacts, SourcePlan, doubted_now, plan_sources
from ironpost.storage import Store
from ironpost.system import Clock
from ironpost.telemetry import get_logger

_EMPTY_FILTER: Mapping[str, Any] = {
    "packets_total": 0,
    "packets_passed": 0,
    "packets_dropped": 0,
    "events_emitted": 0,
    "events_lost": 0,
    "protocols": {},
    "reasons": {},
}
_ROUTES = ("/proc/net/route", "/proc/net/ipv6_route")
_NO_INTERFACE = "lo"

_log = get_logger("ironpost.pipeline.parts")


@dataclass(slots=True)
class Parts:
    """Everything that was built from one configuration.

    Attributes:
        rules: Detection rules.
        policies: Response policies.
        protections: Whom nothing may touch.
        maker: From alert to decision.
        filter: The attached packet filter, or None.
        filter_problem: Why there is none.
        engine: The data plane.
        sources: What it reads.
        make_maker: Builds a maker for other policies.
        pin_dir: Where a filter may be pinned, also one this daemon could not take over.
        filter_reattached: How often the filter was attached again after somebody took it off.
        filter_given_up: The filter was taken off on purpose.
    """

    rules: RuleSet
    policies: PolicySet
    protections: Protections
    maker: DecisionMaker
    filter: native.NativeFilter | None
    filter_problem: FilterError | None
    engine: native.NativeEngine
    sources: SourcePlan
    make_maker: Callable[[PolicySet], DecisionMaker]
    filter_reattached: int = 0
    filter_given_up: bool = False
    pin_dir: str = ""
    _source_faults: set[str] = field(default_factory=set)

    def use_policies(self, policies: PolicySet) -> None:
        """Puts other policies in force for everything not yet decided."""
        self.maker = self.make_maker(policies)
        self.policies = policies

    def refresh_health(self, board: HealthBoard) -> None:
        """Brings the faults of the sources up to date."""
        present: set[str] = set()
        for problem in self.engine.problems():
            key = f"source {problem['source']}"
            present.add(key)
            board.report("log-pipeline", key, Health.DEGRADED, problem["reason"], problem.get("remedy", ""))
        for doubted in doubted_now(self.sources):
            present.add(doubted.source)
            board.report("log-pipeline", doubted.source, Health.DEGRADED, doubted.reason, doubted.remedy)
        for key in self._source_faults - present:
            board.clear("log-pipeline", key)
        self._source_faults = present

    def filter_status(self) -> dict[str, Any]:
        """Returns the ``filter`` object of the status."""
        if self.filter is None:
            reason = str(self.filter_problem) if self.filter_problem else ""
            return {"attached": False, "mode": None, "interfaces": [], **_EMPTY_FILTER, "reason": reason}
        attachments = json.loads(self.filter.attached())
        modes = sorted({str(attachment["mode"]) for attachment in attachments if attachment["mode"]})
        return {
            **_EMPTY_FILTER,
            **json.loads(self.filter.counters()),
            "attached": bool(attachments) and all(attachment["mode"] for attachment in attachments),
            "mode": "+".join(modes) or None,
            "interfaces": [attachment["interface"] for attachment in attachments],
            "attachments": attachments,
            "reattached": self.filter_reattached,
        }

    def filter_text(self) -> str:
        """Says where the filter sits, for people."""
        if self.filter is None:
            return ""
        parts = []
        for attachment in json.loads(self.filter.attached()):
            note = f": {attachment['note']}" if attachment.get("note") else ""
            parts.append(f"{attachment['interface']} ({attachment['mode']}{note})")
        return ", ".join(parts)

    def rule_counts(self) -> dict[str, int]:
        """Returns how many rules are loaded, refused and unfed."""
        return {
            "loaded": len(self.rules.rules),
            "refused": len(self.rules.refused),
            "unfed": len(self.rules.unfed),
        }

    def engine_counters(self) -> Any:
        """Returns the engine's counters."""
        return json.loads(self.engine.counters())

    async def detach_filter(self) -> bool:
        """Takes the filter off its interfaces, also one an earlier daemon left; says whether there was one."""
        self.filter_given_up = True
        if self.filter is not None:
            await asyncio.to_thread(self.filter.detach)
            return True
        return await asyncio.to_thread(native.detach_pinned, self.pin_dir)

    def filter_left_on(self) -> tuple[str, ...]:
        """Returns the interfaces on which a filter goes on without this daemon."""
        if self.filter_given_up:
            return ()
        if self.filter is None:
            return native.pinned_interfaces(self.pin_dir)
        return tuple(one["interface"] for one in json.loads(self.filter.attached()) if one["mode"])

    def filter_stays(self) -> bool:
        """Says whether a filter goes on without this daemon."""
        return self.filter is not None or native.is_pinned(self.pin_dir)


async def build(loaded: Loaded, places: Places, *, board: HealthBoard, clock: Clock, store: Store) -> Parts:
    """Builds the parts; starts nothing but the filter.

    Raises:
        IronpostError: When nothing useful could run.
    """
    config = loaded.config
    rules = await asyncio.to_thread(_load_rules, places, board)
    extractors = await asyncio.to_thread(_load_extractors, places, board)
    policies = _load_policies(places, board)
    protections = Protections(clock=clock, configured=config.response.allowlist, entries=store.allow_entries)
    mode = Mode(config.general.mode)

    def make_maker(chosen: PolicySet) -> DecisionMaker:
        return DecisionMaker(
            chosen.policies,
            protections,
            clock=clock,
            mode=mode,
            container_mode=mode if config.container.auto_isolate else Mode.OBSERVE,
            default_duration_ns=parse_duration(config.response.default_duration),
        )

    packet_filter, problem = await asyncio.to_thread(_open_filter, loaded, board)
    facts = HostFacts(
        boot_wall_ns=clock.wall_ns() - clock.boot_ns(), docker_root=await asyncio.to_thread(_docker_root, loaded)
    )
    plan = plan_sources(loaded, facts=facts, packets=packet_filter is not None)
    if config.sbom.enabled:
        board.report(
            "sbom-scanner",
            "absent",
            Health.DEGRADED,
            "this version has no periodic scan",
            "set sbom.enabled = false",
        )
    engine = await asyncio.to_thread(native.make_engine, plan.settings, rules, packet_filter, extractors)
    return Parts(
        rules=rules,
        policies=policies,
        protections=protections,
        maker=make_maker(policies),
        filter=packet_filter,
        filter_problem=problem,
        engine=engine,
        sources=plan,
        make_maker=make_maker,
        pin_dir=config.ebpf.pin_dir,
    )


async def start_engine(parts: Parts, store: Store, board: HealthBoard) -> set[str]:
    """Starts the data plane where it left off.

    Returns:
        The files that are read for the first time.

    Raises:
        IronpostError: When not one source can be read.
    """
    checkpoints, windows = await asyncio.to_thread(lambda: (store.checkpoints(), store.windows()))
    # An empty text is the engine's way to say that a source is to be forgotten.
    known = {source: position for source, position in checkpoints.items() if position}
    await asyncio.to_thread(parts.engine.start, known, windows)
    for problem in parts.sources.problems:
        if problem.source.startswith("file:"):
            continue  # the engine watches its files itself: its report ends when the fault does
        board.report("log-pipeline", f"planned {problem.source}", Health.DEGRADED, problem.reason, problem.remedy)
    parts.refresh_health(board)
    troubled = {problem["source"] for problem in parts.engine.problems()}
    return _files(parts.sources) - known.keys() - troubled


def _files(sources: SourcePlan) -> set[str]:
    named = (entry["path"] for entry in sources.settings["files"] if "path" in entry)
    return {f"file:{path}" for path in named if Path(path).is_file()}


def report_attachments(packet_filter: native.NativeFilter, board: HealthBoard) -> bool:
    """Brings the faults of the attachments up to date.

    Returns:
        Whether the filter runs, pinned, on all its interfaces.
    """
    whole = True
    for attachment in json.loads(packet_filter.attached()):
        name, note = attachment["interface"], attachment.get("note")
        if attachment["mode"] is None:
            whole = False
            board.report(
                "ebpf-engine",
                f"attachment {name}",
                Health.UNHEALTHY,
                f"{name} is not filtered: {note}",
                "it is attached again by itself as soon as the interface is there and free",
            )
        elif note:
            whole = whole and "pin of the link" not in note
            board.report("ebpf-engine", f"attachment {name}", Health.DEGRADED, f"{name}: {note}")
        else:
            board.clear("ebpf-engine", f"attachment {name}")
    return whole


def plain(counters: Any) -> dict[str, Any]:
    """Returns a dataclass of counters as a JSON object."""
    return dataclasses.asdict(counters)


def _load_rules(places: Places, board: HealthBoard) -> RuleSet:
    try:
        rules = RuleSet.load(
            *places.rule_dirs,
            field_maps=places.field_map_dirs,
            doubt=setting_doubt,
            python_files=True,
            cache=places.data_dir / "packs",
        )
        _log.debug("rules_loaded", loaded=len(rules.rules), pack=rules.pack)
    except RuleError as error:  # it went, or became unreadable, after the configuration was checked
        _log.error("rules_not_loaded", path=error.path, reason=error.reason)
        board.report("log-pipeline", "rules", Health.DEGRADED, f"rules are not loaded: {error}", error.hint)
        return RuleSet.load()
    for refused in rules.refused:
        _log.error("rule_refused", path=refused.path, line=refused.line, reason=refused.reason, remedy=refused.hint)
    for unfed in rules.unfed:
        _log.info("rule_unfed", reason=str(unfed))
    if rules.refused:
        first = rules.refused[0]
        board.report(
            "log-pipeline",
            "rules",
            Health.DEGRADED,
            f"{len(rules.refused)} rules are refused, the first: {first.path}:{first.line}: {first.reason}",
            first.hint or "see all with `ironpost rules check`",
        )
    if not rules.rules:
        where = ", ".join(str(directory) for directory in places.rule_dirs)
        board.report(
            "log-pipeline", "no rules", Health.DEGRADED, f"no rule is loaded from {where}", "nothing is detected"
        )
    return rules


def _load_extractors(places: Places, board: HealthBoard) -> _core.Extractors | None:
    """The operator's extractors with the shipped ones; None for these alone."""
    if not places.extractor_dirs:
        return None
    try:
        loaded = load_extractors(*places.extractor_dirs, doubt=setting_doubt)
    except ExtractorError as error:  # it went after the configuration was checked
        board.report("log-pipeline", "extractors", Health.DEGRADED, f"extractors are not loaded: {error}", error.hint)
        return None
    for refused in loaded.refused:
        _log.error("extractor_refused", path=refused.path, line=refused.line, reason=refused.reason)
    if loaded.refused:
        first = loaded.refused[0]
        board.report(
            "log-pipeline",
            "extractors",
            Health.DEGRADED,
            f"{len(loaded.refused)} extractors are refused, the first: {first.path}:{first.line}: {first.reason}",
            first.hint or "see all with `ironpost logs test`",
        )
    return loaded.compile()


def _load_policies(places: Places, board: HealthBoard) -> PolicySet:
    policies = load_policies(*places.policy_dirs, doubt=setting_doubt)
    for refused in policies.refused:
        _log.error(
            "policy_refused",
            path=refused.path,
            line=refused.line,
            field=refused.field,
            reason=refused.reason,
            remedy=refused.hint,
        )
    if policies.refused:
        first = policies.refused[0]
        board.report(
            "log-pipeline",
            "policies",
            Health.DEGRADED,
            f"{len(policies.refused)} policies are refused, the first: {first}",
            first.hint or "see all with `ironpost policies check`",
        )
    return policies


def _open_filter(loaded: Loaded, board: HealthBoard) -> tuple[native.NativeFilter | None, FilterError | None]:
    config = loaded.config.ebpf
    if not config.enabled:
        return None, None
    try:
        opened = native.open_filter(
            pin_dir=config.pin_dir,
            interfaces=_interfaces(config.interface),
            mode=config.xdp_mode,
            ring_buffer_size=config.ring_buffer_size,
            blocklist_max_entries=config.blocklist_max_entries,
            sample_every=config.sample_every,
        )
    except FilterError as error:
        remedy = error.hint or "see `ironpost doctor`"
        if native.is_pinned(config.pin_dir):
            remedy += "; an earlier filter still drops what was banned: `ironpost stop --detach` takes it off"
        board.report("ebpf-engine", "filter", Health.UNHEALTHY, str(error), remedy)
        return None, error
    report_attachments(opened, board)
    return opened, None


def _interfaces(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if "auto" not in names:
        return names
    found = [name for name in names if name != "auto"]
    for path in _ROUTES:
        found += _default_routes(Path(path))
    return list(dict.fromkeys(found)) or [_NO_INTERFACE]


def _default_routes(path: Path) -> list[str]:
    try:
        lines = path.read_text("ascii", "replace").splitlines()
    except OSError:
        return []
    if path.name == "route":
        return [
            parts[0] for parts in map(str.split, lines[1:]) if len(parts) > 7 and parts[1] == parts[7] == "00000000"
        ]
    return [
        parts[9]
        for parts in map(str.split, lines)
        if len(parts) > 9 and parts[0] == "0" * 32 and parts[1] == "00" and parts[9] != "lo"
    ]


def _docker_root(loaded: Loaded) -> Path:
    """Asks the engine where it keeps container logs; its default when it doesn't say."""
    default = Path("/var/lib/docker/containers")
    if "docker" not in loaded.config.log_pipeline.sources:
        return default
    import docker.errors  # noqa: PLC0415 - 20 MB that hosts without containers do without

    client = None
    try:
        client = docker.APIClient(base_url=f"unix://{loaded.config.container.docker_socket}", timeout=5)
        return Path(str(client.info()["DockerRootDir"])) / "containers"
    except (docker.errors.DockerException, OSError, KeyError):
        return default
    finally:
        if client is not None:
            client.close()
