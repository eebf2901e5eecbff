"""``ironpost demo``: the whole path on real parts, in a lab of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ironpost.cli.options import JsonOption


def demo(
    *,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")] = False,
    skip_container: Annotated[
        bool, typer.Option("--skip-container", help="Leave the container step out, for hosts without Docker.")
    ] = False,
    kill_daemon_times: Annotated[
        int,
        typer.Option(
            min=0, max=200, help="Instead: kill -9 the daemon this often at random moments of attacks and count alerts."
        ),
    ] = 0,
    seed: Annotated[int | None, typer.Option(help="Repeat the random moments of an earlier run.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Copy logs, configuration and the daemon's data here.", file_okay=False)
    ] = None,
) -> None:
    """Attack a real sshd, scan ports and inject a web container, in namespaces of its own (root).

    Shows each attack, the alert, the decision and the kernel drop or paused container, observed from outside, and
    removes everything it made. Exit code 0 only when every step was observed, 2 when something is missing here.
    """
    from ironpost.demo import run

    raise typer.Exit(
        run(
            as_json=json,
            quiet=quiet,
            skip_container=skip_container,
            kill_daemon_times=kill_daemon_times,
            seed=seed,
            keep=keep,
        )
    )
