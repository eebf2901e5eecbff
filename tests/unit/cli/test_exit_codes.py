"""What `detect` and `rules` end with: nothing that went wrong looks like a host on which nothing happened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAILED = "Nov 20 10:00:0{0} web sshd[9]: Failed password for root from 203.0.113.7 port 4{0} ssh2\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ironpost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "auth.log"
    file.write_text("".join(FAILED.format(number) for number in range(6)))
    return file


@pytest.mark.parametrize(
    "command",
    [
        ("detect", "--fail-on", "low", "LOG", "-r", "EMPTY"),
        ("rules", "check", "EMPTY"),
        ("rules", "test", "EMPTY"),
        ("rules", "explain", "a line", "-r", "EMPTY"),
    ],
)
def test_no_rule_at_all_is_a_mistake(tmp_path: Path, log: Path, command: tuple[str, ...]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    reply = run(*(word.replace("LOG", str(log)).replace("EMPTY", str(empty)) for word in command))
    assert reply.returncode == 2
    assert f"no rules in {empty}" in reply.stderr
    assert "hint: " in reply.stderr


@pytest.mark.parametrize("name", ["nofile.json", "logs/nofile", "/var/log/nofile.log.gz"])
def test_explain_does_not_take_a_missing_file_for_a_log_line(name: str) -> None:
    reply = run("rules", "explain", name)
    assert reply.returncode == 2
    assert f"there is no file '{name}'" in reply.stderr
    assert "hint: " in reply.stderr


def test_explain_still_takes_log_lines_that_name_files() -> None:
    reply = run("rules", "explain", "Nov 20 10:00:00 web cron[1]: /etc/cron.d/x.sh failed")
    assert reply.returncode == 0, reply.stderr


PYTHON_RULE = """\
import ironpost


@ironpost.rule(
    id="raises",
    title="Raises",
    level="low",
    logsource={"product": "linux"},
    prefilter={"sel": {"user.name": "root"}, "condition": "sel"},
)
def raises(event):
    raise ValueError("no such thing")
"""
SIGMA = """\
title: A failure
id: failure
level: high
logsource: {product: linux}
detection: {a: {user.name: root}, condition: a}
"""


@pytest.mark.parametrize(("more", "code"), [((), 1), (("--fail-on", "critical"), 1), (("--fail-on", "high"), 4)])
def test_a_python_rule_that_fails_is_no_success_and_findings_win(
    tmp_path: Path, log: Path, more: tuple[str, ...], code: int
) -> None:
    (tmp_path / "raises.py").write_text(PYTHON_RULE)
    (tmp_path / "failure.yml").write_text(SIGMA)
    rules = ("-r", str(tmp_path / "raises.py"), "-r", str(tmp_path / "failure.yml"))
    reply = run("detect", *rules, *more, str(log))
    assert "error: rule raises — " in reply.stderr
    assert reply.returncode == code, reply.stderr


def test_findings_win_over_refused_rules(tmp_path: Path, log: Path) -> None:
    (tmp_path / "failure.yml").write_text(SIGMA)
    (tmp_path / "bad.yml").write_text("title: x\nlogsource: {product: x}\ndetection: {a: {b|nope: 1}, condition: a}\n")
    for more, code in ((("--fail-on", "high"), 4), ((), 1)):
        reply = run("detect", "-r", str(tmp_path), *more, str(log))
        assert "bad.yml" in reply.stderr
        assert reply.returncode == code


def test_records_in_another_format_are_counted(tmp_path: Path, log: Path) -> None:
    reply = run("detect", "--format", "json", str(log))
    assert reply.returncode == 10
    assert f"{log} — not one of 6 records is json" in reply.stderr
    log.write_text('{"a": 1}\n{"a":\n')
    reply = run("detect", "--format", "json", str(log))
    assert reply.returncode == 0
    assert "1 records were in no known format" in reply.stderr
