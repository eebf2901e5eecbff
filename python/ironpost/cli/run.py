"""``start``, ``stop``, ``status``: the life of the daemon."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironpost.cli.configure import check_everything
from ironpost.cli.options import ConfigOption, DataDirOption, JsonOption, client, load_configuration, load_for_client
from ironpost.cli.output import print_json, print_line, print_table, safe, say, show_time

if TYPE_CHECKING:
    from ironpost.config import Loaded, Places
    from ironpost.config.models import LogFormat, LogLevel
    from ironpost.pipeline.daemon import StartReport
    from ironpost.pipeline.publish import Subscription

_STOP_SECONDS = 30.0
#: mallopt(3), malloc.h.
_M_ARENA_MAX = -8


class Level(StrEnum):
    """Log levels."""

    TRACE = "trace"
    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class Form(StrEnum):
    """Log formats."""

    JSON = "json"
    PRETTY = "pretty"


class ModeChoice(StrEnum):
    """How far decisions go."""

    OBSERVE = "observe"
    ENFORCE = "enforce"


def start(
    *,
    config: ConfigOption = None,
    daemon: Annotated[bool, typer.Option("--daemon", "-d", help="Go to the background once it is ready.")] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Check configuration, rules and policies, and exit.")
    ] = False,
    mode: Annotated[
        ModeChoice | None, typer.Option(help="observe: change nothing. enforce: carry decisions out.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where state is kept.")] = None,
    pid_file: Annotated[str | None, typer.Option(help="PID file; empty for none.")] = None,
    log_level: Annotated[Level | None, typer.Option(help="Least level of the log on stderr.")] = None,
    log_format: Annotated[Form | None, typer.Option(help="Form of the log on stderr.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what happens as JSON, one object per line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Don't show alerts; the log goes on.")] = False,
) -> None:
    """Watch this host until Ctrl-C; alerts are shown as they come.

    Without a configuration file the embedded defaults watch the logs of this host and a syslog port on loopback.
    Nothing is changed on the host unless the mode is enforce.
    """
    from ironpost.config import decide_places
    from ironpost.ownership import setting_doubt

    flags: dict[str, tuple[str, Any]] = {
        "general.mode": ("--mode", str(mode) if mode else None),
        "general.data_dir": ("--data-dir", str(data_dir.absolute()) if data_dir else None),
        "general.pid_file": ("--pid-file", pid_file),
        "general.log_level": ("--log-level", str(log_level) if log_level else None),
        "general.log_format": ("--log-format", str(log_format) if log_format else None),
    }
    if validate:
        check_everything(config, flags, json=json)
        return
    loaded = load_configuration(config, flags, doubt=setting_doubt)
    places = decide_places(loaded, environment=os.environ)
    if daemon:
        from ironpost.cli.background import start_in_background

        start_in_background(places, arguments=_arguments(flags, config))
        return
    _run(loaded, places, json=json, quiet=quiet)


def stop(
    *,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Also take the packet filter off; without it, it keeps dropping.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """End the daemon and wait until it is gone. The packet filter stays, unless told otherwise.

    With --detach and no daemon, the filter that an earlier one left is taken off.
    """
    from ironpost.errors import DaemonUnreachable
    from ironpost.pipeline.instance import wait_until_gone

    try:
        with client(config, data_dir, timeout_seconds=_STOP_SECONDS) as connection:
            answer = connection.request("stop", detach=detach)
    except DaemonUnreachable:
        if not detach:
            raise
        _detach_left_behind(config, data_dir, json=json)
        return
    wait_until_gone(Path(answer["lock"]), seconds=_STOP_SECONDS)
    if json:
        print_json({"stopped": True, "pid": answer["pid"], "detached": answer["detached"]})
    else:
        kept = (
            "the packet filter was taken off"
            if answer["detached"]
            else f"the packet filter stays; `{_detach_command(config)}` takes it off"
            if answer["filter"]
            else ""
        )
        print_line(f"stopped (process {answer['pid']}){'; ' + kept if kept else ''}")


def _detach_left_behind(config: Path | None, data_dir: Path | None, *, json: bool) -> None:
    """Takes off what a daemon left that is gone; beside a living one it would only be attached again."""
    from ironpost.config import client_data_dirs
    from ironpost.errors import DaemonUnreachable
    from ironpost.pipeline.instance import LOCK_NAME, running_pid
    from ironpost.pipeline.native import detach_left_behind

    loaded = load_for_client(config, data_dir)
    for directory in client_data_dirs(loaded, environment=os.environ):
        if pid := running_pid(directory / LOCK_NAME):
            raise DaemonUnreachable(
                f"{directory} — the daemon (process {pid}) lives and does not answer; the packet filter stays",
                f"end it with kill {pid}, then ask again",
            )
    pin_dir = loaded.config.ebpf.pin_dir
    interfaces = detach_left_behind(pin_dir)
    if json:
        print_json({"stopped": False, "pid": None, "detached": interfaces is not None})
    elif interfaces is None:
        print_line(f"no daemon runs, and no packet filter is pinned in {safe(pin_dir)}: nothing to take off")
    else:
        where = f" {safe(', '.join(interfaces))}" if interfaces else " no interface: only its pins were left"
        print_line(f"no daemon runs; the packet filter was taken off{where}")


def _detach_command(config: Path | None) -> str:
    """Returns the command that takes the filter off, for the same configuration."""
    import shlex

    named = f" --config {shlex.quote(str(config.absolute()))}" if config else ""
    return f"ironpost stop --detach{named}"


def status(*, config: ConfigOption = None, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show what the daemon does and how it is. Exit code 3 when no daemon answers, 1 when it is unhealthy."""
    from ironpost.errors import DaemonUnreachable

    try:
        with client(config, data_dir) as connection:
            answer = connection.request("status")
    except DaemonUnreachable:
        if json:
            print_json({"status": "stopped", "daemon_running": False, "uptime_secs": 0, "modules": []})
        raise
    if json:
        print_json(answer)
    else:
        _show_status(answer)
    if answer["status"] == "unhealthy":
        raise typer.Exit(1)


def _show_status(answer: dict[str, Any]) -> None:
    print_line(
        f"{answer['status']}: process {answer['pid']}, up {answer['uptime_secs']} s, mode {answer['mode']}, "
        f"version {answer['version']}, {safe(answer['config'])}"
    )
    print_table(
        ("module", "status", "reason"),
        [(module["name"], module["status"], module["reason"]) for module in answer["modules"]],
        empty="no modules",
    )
    filter_ = answer["filter"]
    if filter_["attached"]:
        print_line(
            f"filter: {filter_['mode']} on {', '.join(filter_['interfaces'])}; packets {filter_['packets_total']}, "
            f"passed {filter_['packets_passed']}, dropped {filter_['packets_dropped']}"
        )
    for module in answer["modules"]:
        for problem in module["problems"] if module["enabled"] else ():
            if problem["remedy"]:
                say(f"hint: {safe(problem['reason'])}: {safe(problem['remedy'])}")


def _arguments(flags: dict[str, tuple[str, Any]], config: Path | None) -> list[str]:
    arguments = [part for name, value in flags.values() if value is not None for part in (name, str(value))]
    return [*arguments, *(("--config", str(config.absolute())) if config else ())]


def _run(loaded: Loaded, places: Places, *, json: bool, quiet: bool) -> None:
    import asyncio

    from ironpost.config.load import DEFAULT_PATH
    from ironpost.pipeline.daemon import Daemon
    from ironpost.telemetry import configure_logging

    share_arenas()
    level, form = log_habits(loaded, on_terminal=sys.stderr.isatty())
    configure_logging(level=level, form=form, directives=os.environ.get("RUST_LOG", ""))

    async def main() -> None:
        daemon = Daemon(
            loaded,
            places,
            environment=os.environ,
            on_ready=lambda report: None if quiet else _show_report(report, json=json),
        )
        daemon.handle_signals()
        shown = None if quiet else asyncio.create_task(_show_live(daemon.publisher.subscribe(), json=json))
        try:
            await daemon.run()
        finally:
            if shown is not None:
                daemon.publisher.close()
                await asyncio.wait({shown}, timeout=2)
        named = None if loaded.path == DEFAULT_PATH else loaded.path
        if not quiet and (where := daemon.filter_left_behind()):
            say(f"The packet filter stays on {safe(where)}; `{_detach_command(named)}` takes it off.")

    asyncio.run(main())


def share_arenas() -> None:
    """Lets all threads share two of glibc's memory arenas: one for each costs a tenth more memory and saves no time."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def log_habits(loaded: Loaded, *, on_terminal: bool) -> tuple[LogLevel, LogFormat]:
    """Returns level and format of the log.

    On a terminal the alerts are the news: unless configured, the log is for people and only speaks of trouble.
    """
    general = loaded.config.general
    return (
        "warn" if on_terminal and loaded.is_default("general.log_level") else general.log_level,
        "pretty" if on_terminal and loaded.is_default("general.log_format") else general.log_format,
    )


def _show_report(report: StartReport, *, json: bool) -> None:
    if json:
        from dataclasses import asdict

        print_json({"started": asdict(report)}, compact=True)
        return
    say(f"Ironpost is watching this host (mode {report.mode}, state in {safe(report.data_dir)})")
    for what, items in (("listens on", report.listening), ("watches", report.watching)):
        if items:
            say(f"  {what}: {safe(', '.join(items))}")
    say(
        f"  rules: {report.rules} loaded, {report.rules_refused} refused, {report.rules_unfed} unfed; "
        f"policies: {report.policies}"
    )
    if report.filter_text:
        say(f"  filter: {safe(report.filter_text)}")
    for notice in report.notices:
        say(f"  note: {safe(notice)}")
    for reason, remedy in report.lacking:
        say(f"  not: {safe(reason)}{' -> ' + safe(remedy) if remedy else ''}")
    if line := _line_that_fires(report):
        say(f"  no log of this host is readable; this makes an alert:\n    {line}")
    say("Alerts follow; Ctrl-C ends.")


def _line_that_fires(report: StartReport) -> str:
    """On a host with nothing to watch: the one line that shows that it works."""
    udp = next((address for address in report.listening if address.startswith("udp:")), "")
    if report.watching or not udp:
        return ""
    host, _, port = udp.removeprefix("udp:").rpartition(":")
    return line_to_try(host.strip("[]"), port)


def line_to_try(host: str, port: str) -> str:
    """Returns the shell line that makes an alert; the front page shows the same."""
    text = "Failed password for root from 198.51.100.7 port 4242 ssh2"
    if shutil.which("logger"):
        once = f'logger --server {host} --port {port} --tag sshd "{text}"'
    else:
        once = f'echo "<38>sshd: {text}" | nc -u -w1 {host} {port}'
    return f"for i in 1 2 3 4 5; do {once}; done"


async def _show_live(subscription: Subscription, *, json: bool) -> None:
    import asyncio

    while (item := await subscription.get()) is not None:
        try:
            # In a thread: a reader that stalls may stall what is shown, never the daemon.
            await asyncio.to_thread(_show_item, item, json=json)
        except (OSError, ValueError):
            return


def _show_item(item: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(item, compact=True)
    elif line := live_line(item):
        print_line(line)


def live_line(item: dict[str, Any]) -> str:
    """Returns what a live item says on one line, or nothing for what isn't worth one."""
    if alert := item.get("alert"):
        container = (alert.get("container") or {}).get("name") or ""
        entity = alert["entity"]["value"] or "this host"
        place = f" in {safe(container)}" if container else ""
        return (
            f"{show_time(alert['last_seen'])} {alert['severity'].upper():8} {safe(alert['rule_id'])} {safe(entity)}"
            f"{place} x{alert['count']}: {safe(alert['title'])} [{alert['id'][:8]}]"
        )
    if decision := item.get("decision"):
        until = f" until {show_time(decision['expires_at'])}" if decision.get("expires_at") else ""
        why = f" ({safe(decision['reason'])})" if decision.get("reason") else ""
        moment = show_time(decision.get("changed_at") or decision["created_at"])
        what = f"{decision['state']}: {decision['verb']} {safe(decision['target'])}{until}{why}"
        return f"{moment} decision {what} [{decision['id'][:8]}]"
    if action := item.get("action"):
        outcome = "done" if action["success"] else f"failed: {safe(action['error'])}"
        return (
            f"{show_time(action['timestamp'])} action {safe(action['action_type'])} {safe(action['target'])}: {outcome}"
        )
    if "dropped" in item:
        return f"({item['dropped']} items were not shown: the reader is too slow)"
    return ""
