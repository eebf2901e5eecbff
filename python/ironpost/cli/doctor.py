"""``ironpost doctor``: what this host offers and lacks."""

from __future__ import annotations

import os

import typer

from ironpost.cli.options import ConfigOption, JsonOption, load_configuration
from ironpost.cli.output import print_json, print_table


def doctor(*, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check kernel, privilege, interfaces, Docker, logs, ports, disk and clock; each finding with its remedy.

    Exit code 1 when something that the configuration asks for can't work.
    """
    from ironpost.pipeline.doctor import diagnose

    findings = diagnose(load_configuration(config), environment=os.environ)
    if json:
        print_json([finding.to_json() for finding in findings])
    else:
        rows = [(finding.status, finding.check, finding.detail, finding.remedy) for finding in findings]
        print_table(("status", "check", "found", "remedy"), rows, empty="nothing to check")
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)
