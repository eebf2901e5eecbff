"""``detect`` and ``parse`` over audit logs: told by themselves, joined, and shown where each event begins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.audit import command

_RULE = """
title: t
id: r
level: high
logsource: {product: linux, service: auditd}
detection: {s: {type: EXECVE, a0: wget}, condition: s}
"""


def lines_of(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "ironpost", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_events_are_joined_and_shown_at_their_first_line(tmp_path: Path) -> None:
    one, two = command(1, [b"id"]), command(2, [b"wget", b"x"])
    log, rule = tmp_path / "any.name", tmp_path / "r.yml"
    log.write_text("".join(f"{line}\n" for line in [one[0], two[0], one[1], *two[1:], *one[2:]]))
    rule.write_text(_RULE)
    done = lines_of("detect", "--json", "--rules", str(rule), str(log))
    [found] = done
    assert (found["line"], found["offset"]) == (2, len(one[0]) + 1)
    merged = lines_of("detect", "--json", "--rules", str(rule), str(log), str(log))
    assert [found["line"] for found in merged] == [2, 2]
    parsed = lines_of("parse", str(log))
    assert [event["process.command_line"] for event in parsed] == ["wget x", "id"]
