"""``alerts``, ``decisions``, ``ban``, ``unban``, ``allow``, ``undo``, ``approve``: what was seen and done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironpost.cli.options import ConfigOption, DataDirOption, JsonOption, LimitOption, client, load_for_client
from ironpost.cli.output import print_json, print_line, print_table, safe, say, show_time
from ironpost.errors import DaemonUnreachable, IronpostError, TargetInvalid

if TYPE_CHECKING:
    from ironpost.storage import StoreReader

_LIST_BYTES = 16 * 1024 * 1024
#: Targets per request to the daemon: keeps a request well below the largest frame.
_PER_REQUEST = 10_000


class BanMode(StrEnum):
    """What a ban does."""

    DROP = "drop"
    MONITOR = "monitor"


TargetsArgument = Annotated[list[str] | None, typer.Argument(help="Addresses or networks.", show_default=False)]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", help="Read more targets from this file, one per line, # begins a comment; - is stdin."
    ),
]
ForOption = Annotated[str, typer.Option("--for", help="How long, for example 10m or 2h.", show_default=False)]


def alerts(
    *, config: ConfigOption = None, data_dir: DataDirOption = None, limit: LimitOption = 100, json: JsonOption = False
) -> None:
    """List alerts, latest first; works also while the daemon is down."""
    with _store(config, data_dir) as store:
        found = [alert.to_json() for alert in store.alerts(limit=limit)]
    if json:
        print_json(found)
        return
    rows = [
        (
            alert["id"][:8],
            show_time(alert["last_seen"]),
            alert["severity"],
            alert["rule_id"],
            alert["entity"]["value"] or "-",
            (alert.get("container") or {}).get("name") or "-",
            alert["count"],
            alert["status"],
            alert["title"],
        )
        for alert in found
    ]
    columns = ("id", "last seen", "severity", "rule", "entity", "container", "count", "status", "title")
    print_table(columns, rows, empty="no alerts")


def decisions(
    *, config: ConfigOption = None, data_dir: DataDirOption = None, limit: LimitOption = 100, json: JsonOption = False
) -> None:
    """List decisions, latest first; works also while the daemon is down."""
    with _store(config, data_dir) as store:
        found = [decision.to_json() for decision in store.decisions(limit=limit)]
    if json:
        print_json(found)
    else:
        _show_decisions(found, empty="no decisions")


def ban(
    targets: TargetsArgument = None,
    *,
    duration: ForOption = "",
    file: FileOption = None,
    mode: Annotated[BanMode, typer.Option(help="drop, or monitor: count what would be dropped.")] = BanMode.DROP,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Ban addresses or networks in the kernel, now, in any mode of the daemon.

    All targets are banned or none: one that is protected refuses the command.
    """
    named = _targets(targets, file)
    duration = _checked_duration(duration)
    made: list[dict[str, Any]] = []
    with client(config, data_dir, timeout_seconds=60) as connection:
        for start in range(0, len(named), _PER_REQUEST):
            made += connection.request(
                "ban",
                targets=named[start : start + _PER_REQUEST],
                duration=duration,
                mode=str(mode),
                actor=_actor(),
                operator_address=os.environ.get("SSH_CONNECTION", "").partition(" ")[0],
            )
    _show_made(made, json=json)


def unban(
    targets: TargetsArgument = None,
    *,
    file: FileOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """End bans now."""
    named = _targets(targets, file)
    with client(config, data_dir, timeout_seconds=60) as connection:
        _show_made(connection.request("unban", targets=named, actor=_actor()), json=json)


def allow(
    target: Annotated[str, typer.Argument(help="Address or network; without one, list what is allowed.")] = "",
    *,
    duration: ForOption = "",
    remove: Annotated[bool, typer.Option("--remove", help="Take it off the allow list again.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Never act on an address or network, and end the bans within it."""
    if target:
        _checked_target(target)
    duration = _checked_duration(duration)
    with client(config, data_dir) as connection:
        if not target:
            _show_allowed(connection.request("allowed"), json=json)
            return
        if remove:
            result = connection.request("unallow", target=target)
        else:
            result = connection.request("allow", target=target, duration=duration, reason=reason, actor=_actor())
    if json:
        print_json(result)
    elif remove:
        print_line(f"{safe(result['target'])}: no longer on the allow list")
    else:
        until = f" until {show_time(result['entry']['expires_at'])}" if result["entry"].get("expires_at") else ""
        print_line(f"{safe(result['entry']['network'])}: allowed{until}")
        for decision in result["unbanned"]:
            print_line(f"{safe(decision['target'])}: unbanned")
        for wider in result["still_covered_by"]:
            say(f"note: the wider ban {safe(wider)} stays for everybody else")


def undo(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Id of a decision, or its beginning.")],
    *,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Take a decision back: unban, resume a container, reconnect it."""
    _settle("undo", identifier, config, data_dir, json=json)


def approve(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Id of a decision, or its beginning.")],
    *,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Carry out a decision of a policy that asks first."""
    _settle("approve", identifier, config, data_dir, json=json)


def _settle(command: str, identifier: str, config: Path | None, data_dir: Path | None, *, json: bool) -> None:
    """Asks for a change of one decision and shows what became of it."""
    with client(config, data_dir, timeout_seconds=60) as connection:
        decision = connection.request(command, id=identifier, actor=_actor())
    if json:
        print_json(decision)
    else:
        _show_decisions([decision], empty="")


def tail(*, config: ConfigOption = None, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show alerts, decisions and actions of the running daemon as they come, until Ctrl-C."""
    from ironpost.cli.run import live_line

    with client(config, data_dir) as connection:
        for item in connection.stream("tail"):
            if json:
                print_json(item, compact=True)
            elif line := live_line(item):
                print_line(line)


@contextmanager
def _store(config: Path | None, data_dir: Path | None) -> Iterator[StoreReader]:
    from ironpost.config import client_data_dirs
    from ironpost.pipeline.instance import STORE_NAME
    from ironpost.storage import StoreReader

    directories = client_data_dirs(load_for_client(config, data_dir), environment=os.environ)
    for directory in directories:
        if os.path.exists(directory / STORE_NAME):  # noqa: PTH110 - the method raises where nothing may be searched
            with StoreReader(directory / STORE_NAME) as store:
                yield store
            return
    places = " nor ".join(str(directory / STORE_NAME) for directory in directories)
    raise DaemonUnreachable(
        f"no store — {places}: no daemon has run here yet",
        "start it with `ironpost start`, or name its place with --config or --data-dir",
    )


def _targets(targets: list[str] | None, file: Path | None) -> list[str]:
    named = list(targets or ())
    if file is not None:
        if str(file) == "-":
            text = typer.get_text_stream("stdin").read(_LIST_BYTES)
        else:
            with file.open(encoding="utf-8", errors="replace") as source:
                text = source.read(_LIST_BYTES)
        named += [line for line in (part.partition("#")[0].strip() for part in text.splitlines()) if line]
    if not named:
        raise _Usage("no target given", "for example: ironpost ban 203.0.113.7 --for 10m")
    return [_checked_target(target) for target in dict.fromkeys(named)]


def _checked_target(target: str) -> str:
    """Finds a slip here: a daemon need not run to say so."""
    from ironpost.model.address import parse_network

    try:
        parse_network(target)
    except ValueError as error:
        raise TargetInvalid(str(error), "addresses and networks only") from None
    return target


def _checked_duration(text: str) -> str:
    from ironpost.model import parse_duration

    try:
        if text:
            parse_duration(text)
    except ValueError as error:
        raise _Usage(str(error), "for example --for 10m") from None
    return text


class _Usage(IronpostError):
    exit_code = 2


def _actor() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.geteuid()}"


def _show_made(made: list[dict[str, Any]], *, json: bool) -> None:
    if json:
        print_json(made)
    else:
        _show_decisions(made, empty="nothing changed")


def _show_decisions(found: list[dict[str, Any]], *, empty: str) -> None:
    rows = [
        (
            decision["id"][:8],
            show_time(decision["created_at"]),
            decision["verb"],
            (decision.get("container") or {}).get("name") or decision["target"],
            decision["state"],
            show_time(decision["expires_at"]),
            decision["policy_id"],
            decision.get("reason") or "-",
        )
        for decision in found
    ]
    print_table(("id", "made", "verb", "target", "state", "until", "policy", "reason"), rows, empty=empty)


def _show_allowed(entries: list[dict[str, Any]], *, json: bool) -> None:
    if json:
        print_json(entries)
        return
    rows = [
        (e["network"], show_time(e.get("expires_at")), e.get("actor") or "-", e.get("reason") or "-") for e in entries
    ]
    print_table(("network", "until", "by", "reason"), rows, empty="nothing is on the allow list of `ironpost allow`")
