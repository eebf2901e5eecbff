"""What the command line prints: exact errors, harmless text, stable help."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from ironpost.cli.output import error_text, print_error, print_json, print_table, safe, show_time
from ironpost.cli.run import line_to_try, live_line, log_habits
from ironpost.config import load
from ironpost.errors import ConfigError, IronpostError, TargetRefused


def run(*arguments, **more):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("IRONPOST_")}
    return subprocess.run(
        [sys.executable, "-m", "ironpost", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "COLUMNS": "100", **more},
        stdin=subprocess.DEVNULL,
    )


@given(st.text())
def test_nothing_a_terminal_could_obey_gets_through(text):
    assert safe(text).isprintable()


def test_harmless_text_stays_as_it_is():
    assert safe("Grüße, 世界 ✓") == "Grüße, 世界 ✓"
    assert safe("a\x1b[31mb\n\u202e") == r"a\x1b[31mb\n\u202e"


def test_json_is_ascii(capsys):
    print_json({"user": "\x9b1m\u202eü"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"user": "\x9b1m\u202eü"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ConfigError("must be at most 5", path="/etc/x.toml", line=3, field="general.a"),
            "invalid config value for 'general.a' — /etc/x.toml:3 — must be at most 5",
        ),
        (ConfigError("not found", path="/etc/x.toml"), "/etc/x.toml — not found"),
        (TargetRefused("10.0.0.1", "it is this host"), "10.0.0.1: refused, it is this host"),
        (FileNotFoundError(2, "No such file or directory", "/nope"), "/nope — No such file or directory"),
    ],
)
def test_an_error_names_thing_place_and_reason(error, expected):
    assert error_text(error) == expected


def test_an_error_and_its_hint_go_to_stderr(capsys):
    print_error(IronpostError("it broke\x1b", "mend it"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: it broke\\x1b\nhint: mend it\n"


def test_a_table_is_plain_lines_when_nobody_watches(capsys):
    print_table(("id", "name"), [("1", "short"), ("22", "\x1bx")], empty="none")
    assert capsys.readouterr().out == "id  name\n1   short\n22  \\x1bx\n"


def test_an_empty_table_leaves_stdout_to_the_data(capsys):
    print_table(("id",), [], empty="no alerts")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no alerts\n")


def test_moments_are_shown_in_local_time(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    __import__("time").tzset()
    assert show_time("2026-11-20T18:00:00.123456789Z") == "2026-11-20 18:00:00"
    assert show_time(None) == "-"


def test_a_live_alert_is_one_line_whatever_the_attacker_wrote(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    __import__("time").tzset()
    alert = {
        "id": "0123456789abcdef",
        "last_seen": "2026-11-20T18:00:00Z",
        "severity": "high",
        "rule_id": "ssh_brute_force",
        "entity": {"kind": "source.ip", "value": "203.0.113.7\n\x1b[2J"},
        "container": {"name": "web"},
        "count": 5,
        "title": "SSH brute force",
    }
    assert live_line({"alert": alert}) == snapshot(
        "2026-11-20 18:00:00 HIGH     ssh_brute_force 203.0.113.7\\n\\x1b[2J in web x5: SSH brute force [01234567]"
    )


def test_a_decision_that_ended_carries_the_time_of_its_end(monkeypatch):
    decision = {
        "id": "0123456789abcdef",
        "created_at": "2026-11-20T18:00:00Z",
        "state": "expired",
        "verb": "ban",
        "target": "203.0.113.7",
        "reason": "its time was over",
    }
    made, ended = (
        live_line({"decision": decision}),
        live_line({"decision": {**decision, "changed_at": "2026-11-20T18:10:00Z"}}),
    )
    assert made.startswith(show_time("2026-11-20T18:00:00Z"))
    assert ended.startswith(f"{show_time('2026-11-20T18:10:00Z')} decision expired: ban 203.0.113.7")


def test_the_line_to_try_is_the_one_of_the_front_page(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    front = Path(__file__).resolve().parents[3] / "README.md"
    assert f"\n{line_to_try('127.0.0.1', '5514')}\n" in front.read_text()


def test_help_lists_every_command_with_its_sentence():
    reply = run("--help")
    assert reply.returncode == 0
    assert reply.stdout == snapshot("""\
Usage: python -m ironpost [OPTIONS] COMMAND [ARGS]...

  A Linux host that watches itself and answers.

Options:
  --install-completion  Install completion for the current shell.
  --show-completion     Show completion for the current shell, to copy it or
                        customize the installation.
  -h, --help            Show this message and exit.

Commands:
  start      Watch this host until Ctrl-C; alerts are shown as they come.
  stop       End the daemon and wait until it is gone.
  status     Show what the daemon does and how it is.
  alerts     List alerts, latest first; works also while the daemon is down.
  decisions  List decisions, latest first; works also while the daemon is...
  tail       Show alerts, decisions and actions of the running daemon as...
  ban        Ban addresses or networks in the kernel, now, in any mode of...
  unban      End bans now.
  allow      Never act on an address or network, and end the bans within it.
  undo       Take a decision back: unban, resume a container, reconnect it.
  approve    Carry out a decision of a policy that asks first.
  detect     Run rules over log files or events in JSON lines, and print...
  parse      Parse a log file and print one ECS event in JSON per line.
  doctor     Check kernel, privilege, interfaces, Docker, logs, ports,...
  demo       Attack a real sshd, scan ports and inject a web container,...
  config     Show and check the configuration.
  rules      Check, test, explain, import and list detection rules.
  logs       Look at how log lines are understood.
  policies   Look at response policies.
""")


COMMANDS = [
    "start",
    "stop",
    "status",
    "alerts",
    "decisions",
    "tail",
    "ban",
    "unban",
    "allow",
    "undo",
    "approve",
    "detect",
    "parse",
]


@pytest.mark.parametrize("command", [*COMMANDS, "doctor", "demo"])
def test_every_command_explains_itself(command):
    reply = run(command, "--help")
    assert reply.returncode == 0
    assert f" {command} [OPTIONS]" in reply.stdout.splitlines()[0]


def test_a_closed_pipe_is_no_error_to_talk_about():
    reader, writer = os.pipe()
    os.close(reader)
    reply = subprocess.run(
        [sys.executable, "-m", "ironpost", "config", "example"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert reply.stderr == ""
    assert reply.returncode != 0


def test_colour_is_never_written_to_a_pipe():
    assert "\x1b" not in run("doctor").stdout


def test_config_show_says_where_a_value_comes_from(tmp_path):
    path = tmp_path / "ironpost.toml"
    path.write_text('[general]\nlog_level = "warn"\n')
    reply = run("config", "show", "--json", "--origin", "--config", str(path), IRONPOST_GENERAL_MODE="enforce")
    shown = json.loads(reply.stdout)
    assert shown["general"]["log_level"] == "warn"
    assert shown["origin"] == {
        "general.log_level": f"{path}:2",
        "general.mode": "environment IRONPOST_GENERAL_MODE",
    }


def test_config_validate_lists_every_mistake_as_json(tmp_path):
    path = tmp_path / "ironpost.toml"
    path.write_text('[general]\nlog_levl = "warn"\nmode = "panic"\n')
    reply = run("config", "validate", "--json", "--config", str(path))
    assert reply.returncode == 2
    result = json.loads(reply.stdout)
    assert result["valid"] is False
    assert {(error["field"], error["line"]) for error in result["errors"]} == {
        ("general.log_levl", 2),
        ("general.mode", 3),
    }


def test_detect_prints_one_json_line_per_detection(tmp_path):
    log = tmp_path / "auth.log"
    line = "Nov 20 10:00:0{0} web sshd[9]: Failed password for root from 203.0.113.7 port 4{0} ssh2\n"
    log.write_text("".join(line.format(number) for number in range(6)))
    reply = run("detect", "--json", "--year", "2026", str(log))
    found = [json.loads(line) for line in reply.stdout.splitlines()]
    assert [(one["rule_id"], one["group"]) for one in found] == [("ssh_brute_force", {"source.ip": "203.0.113.7"})]
    assert reply.returncode == 0


def test_parse_prints_one_event_per_line(tmp_path):
    log = tmp_path / "auth.log"
    log.write_text("Nov 20 10:00:00 web sshd[9]: Failed password for root from 203.0.113.7 port 44 ssh2\nnonsense\n")
    events = [json.loads(line) for line in run("parse", "--year", "2026", str(log)).stdout.splitlines()]
    assert events[0]["source.ip"] == "203.0.113.7"
    assert events[0]["@timestamp"] == "2026-11-20T10:00:00Z"
    assert events[1]["message"] == "nonsense"


@pytest.mark.parametrize(("arguments", "code"), [(["detect", "/nonexistent"], 10), (["parse", "/nonexistent"], 10)])
def test_a_file_that_can_not_be_read_is_an_input_error(arguments, code):
    reply = run(*arguments)
    assert reply.returncode == code
    assert reply.stderr == "error: /nonexistent — No such file or directory\n"


RULE = """
title: {id}
id: {id}
level: low
logsource: {logsource}
detection:
  keywords: [root]
  condition: keywords
"""


def test_detect_judges_each_line_by_its_own_log_source(tmp_path):
    """A part of the log source that a line does have excludes rules that ask for another one."""
    rules = tmp_path / "rules"
    rules.mkdir()
    for identifier, logsource in {
        "sshd": "{product: linux, service: sshd}",
        "sudo": "{product: linux, service: sudo}",
        "web": "{category: webserver}",
        "firewall": "{category: firewall}",
    }.items():
        (rules / f"{identifier}.yml").write_text(RULE.format(id=identifier, logsource=logsource))
    log = tmp_path / "mixed.log"
    access = '192.0.2.7 - - [20/Nov/2026:10:00:0{0} +0000] "GET /root HTTP/1.1" 200 1 "-" "curl"\n'
    auth = "Nov 20 10:00:0{0} web sshd[9]: Failed password for root from 203.0.113.7 port 4{0} ssh2\n"
    log.write_text("".join(auth.format(number) + access.format(number) for number in range(3)))
    reply = run("detect", "--json", "--year", "2026", "--rules", str(rules), str(log))
    found = [json.loads(line) for line in reply.stdout.splitlines()]
    on_auth = {one["rule_id"] for one in found if "Failed password" in one["evidence"][0]}
    on_access = {one["rule_id"] for one in found if "GET" in one["evidence"][0]}
    assert "sshd" in on_auth
    assert "sudo" not in on_auth
    assert "web" in on_access
    assert "firewall" not in on_access


@pytest.mark.parametrize("command", ["stop", "status", "alerts", "decisions", "tail", "allow"])
def test_commands_look_in_the_data_directory_they_are_told(tmp_path, command):
    reply = run(command, "--data-dir", str(tmp_path / "state"))
    assert reply.returncode == 3
    assert str(tmp_path / "state") in reply.stderr


@pytest.mark.parametrize(
    ("text", "on_terminal", "expected"),
    [
        ("", True, ("warn", "pretty")),
        ("", False, ("info", "json")),
        ('log_format = "json"', True, ("warn", "json")),
        ('log_level = "debug"', True, ("debug", "pretty")),
    ],
)
def test_a_terminal_gets_a_log_for_people_unless_configured(tmp_path, text, on_terminal, expected):
    path = tmp_path / "ironpost.toml"
    path.write_text(f"[general]\n{text}\n")
    assert log_habits(load(path, environment={}), on_terminal=on_terminal) == expected


def leaves(command, path=()):
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), {option for parameter in command.params for option in parameter.opts}


def test_every_command_that_the_front_page_says_takes_json():
    import typer.main

    from ironpost.cli.app import app

    without = [name for name, options in leaves(typer.main.get_command(app)) if "--json" not in options]
    assert without == ["config example"]


def test_detect_names_refused_rules_and_does_not_count_as_success(tmp_path):
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "broken.yml").write_text("title: x\ndetection:\n  sel: [\n")
    log = tmp_path / "auth.log"
    log.write_text("Nov 20 10:00:01 host sshd[71]: Failed password for root from 198.51.100.7 port 4241 ssh2\n")
    done = run("detect", "--rules", str(rules), str(log))
    assert done.returncode == 1
    assert f"error: {rules}/broken.yml:" in done.stderr


def test_the_logger_line_of_the_front_page_makes_an_alert(tmp_path):
    """The line runs as it stands, with the real logger, against a socket in place of the daemon."""
    if not shutil.which("logger"):
        pytest.skip("logger is not installed")
    page = Path(__file__).parents[3] / "README.md"
    line = next(line for line in page.read_text().splitlines() if "; do logger " in line)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind(("127.0.0.1", 0))
        port.settimeout(10)
        there = line.replace("--port 5514", f"--port {port.getsockname()[1]}")
        assert there != line
        subprocess.run(["/bin/sh", "-c", there], check=True, timeout=30)
        records = [port.recv(65536).decode() for _ in range(5)]
    log = tmp_path / "received.log"
    log.write_text("".join(f"{record}\n" for record in records))
    done = run("detect", str(log))
    assert "ssh_brute_force" in done.stdout, done
