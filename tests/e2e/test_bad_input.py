"""Each bad input gives an error naming thing, place and remedy, or a visible degradation; nothing else stops."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support.host import Host, environment, until


def assert_error(result, code, *words):
    assert result.code == code, (result.code, result.err)
    assert "Traceback" not in result.err
    first, *rest = [line for line in result.err.splitlines() if line.startswith(("error:", "hint:"))]
    assert first.startswith("error: ")
    assert any(line.startswith("hint: ") for line in rest), result.err
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[general\n", ["ironpost.toml:1", "line 1, column 9"]),
        ('[general]\nlog_levl = "info"\n', ["ironpost.toml:2", "general.log_levl", "did you mean general.log_level?"]),
        ('[log_pipeline]\nrule_dir = "/nonexistent/rules"\n', ["/nonexistent/rules", "log_pipeline.rule_dir"]),
    ],
)
def test_a_broken_configuration_starts_nothing(host, text, words):
    (host.directory / "ironpost.toml").write_text(text)
    assert_error(host.run("start"), 2, *words)
    assert not (host.directory / "data").exists()


def test_a_configuration_that_is_missing_is_no_reason_to_guess(host):
    (host.directory / "ironpost.toml").unlink()
    assert_error(host.run("start"), 2, "not found", "ironpost.toml")
    assert_error(host.run("status"), 2, "not found")


def test_a_start_in_the_background_that_fails_says_why(host):
    (host.directory / "data").write_text("in the way")
    assert_error(host.run("start", "--daemon"), 2, "data")


def test_a_broken_rule_is_named_and_the_others_work(host):
    rules = host.directory / "rules"
    rules.mkdir()
    (rules / "good.yml").write_text(
        "title: needle\nid: needle\nlevel: low\nlogsource: {product: linux}\n"
        "detection:\n  selection: {message|contains: needle}\n  condition: selection\n"
    )
    (rules / "broken.yml").write_text("title: broken\ndetection: [\n")
    host.configure(log_pipeline={"rule_dir": str(rules)}).start()
    module = host.module("log-pipeline")
    assert module["status"] == "degraded"
    assert "broken.yml" in module["reason"]
    assert "broken.yml" in host.said()
    with host.log.open("a") as log:
        log.write("Nov 20 10:00:00 web app[1]: a needle\n")
    until(lambda: host.alerts("needle"), what="the alert of the good rule")
    checked = host.run("rules", "check", str(rules), "--json", config=False)
    assert checked.code == 1
    assert checked.json["loaded"] == 1
    assert checked.json["refused"][0]["path"].endswith("broken.yml")


def test_a_broken_policy_is_named_and_the_others_work(host):
    policies = host.directory / "policies"
    policies.mkdir()
    (policies / "broken.toml").write_text('id = "x"\nactoin = 1\n')
    host.configure(container={"policy_path": str(policies)}).start()
    module = host.module("log-pipeline")
    assert module["status"] == "degraded"
    assert "broken.toml" in module["reason"]
    checked = host.run("policies", "check", str(policies), "--json", config=False)
    assert (checked.code, checked.json["loaded"]) == (1, 0)


def test_validate_checks_rules_and_policies_and_starts_nothing(host):
    good = host.run("start", "--validate", "--json")
    assert (good.code, good.json["valid"]) == (0, True)
    rules = host.directory / "rules"
    rules.mkdir()
    (rules / "broken.yml").write_text("title: broken\n")
    host.configure(log_pipeline={"rule_dir": str(rules)})
    assert host.run("start", "--validate").code == 2
    assert not (host.directory / "data").exists()


def test_a_taken_port_degrades_and_the_file_is_still_watched(host):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", host.tcp))
        taken.listen()
        host.start()
        module = host.module("log-pipeline")
        assert module["status"] == "degraded"
        assert str(host.tcp) in module["reason"]
        assert module["problems"][0]["remedy"]
        assert str(host.tcp) in host.said()
        host.guess_passwords("203.0.113.7")
        until(host.alerts, what="the alert from the file")


def test_when_nothing_can_be_read_the_start_fails(host):
    host.configure(log_pipeline={"sources": ["syslog_tcp"]})
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", host.tcp))
        taken.listen()
        assert_error(host.run("start"), 10, str(host.tcp))
    assert not (host.directory / "data" / "control.sock").exists()
    assert not (host.directory / "data" / "daemon.lock").exists()


def test_a_file_that_does_not_exist_yet_is_shown_and_read_when_it_appears(host):
    late = host.directory / "late.log"
    host.configure(log_pipeline={"watch_paths": [str(late)]}).start()
    assert "late.log" in host.module("log-pipeline")["reason"]
    host.log = late
    host.guess_passwords("203.0.113.7")
    until(host.alerts, what="the alert from the late file")
    until(lambda: host.module("log-pipeline")["status"] == "healthy", what="the fault is over")


def test_an_unknown_interface_leaves_the_logs_watched(host):
    host.configure(ebpf={"enabled": True, "interface": "nonexistent9"}).start()
    module = host.module("ebpf-engine")
    assert module["status"] == "unhealthy"
    assert "nonexistent9" in module["reason"]
    status = host.run("status")
    assert status.code == 1
    host.guess_passwords("203.0.113.7")
    until(host.alerts, what="the alert")
    banned = host.run("ban", "203.0.113.7")
    assert_error(banned, 1, "not enforceable")
    assert [d["state"] for d in host.run("decisions", "--json").json] == ["observed"]


def test_a_missing_container_engine_is_shown_with_its_remedy(host):
    host.configure(container={"enabled": True, "docker_socket": str(host.directory / "none.sock")}).start()
    module = host.module("container-guard")
    assert module["status"] == "degraded"
    assert module["problems"][0]["remedy"]
    assert host.module("log-pipeline")["status"] == "healthy"


UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.mark.root
def test_without_privilege_it_runs_with_less_and_says_what(open_to_others):
    directory = open_to_others / "home"
    directory.mkdir()
    host = Host(directory, prefix=UNPRIVILEGED)
    secret = directory / "secret.log"
    secret.touch()
    host.configure(
        ebpf={"enabled": True, "interface": "lo"}, log_pipeline={"watch_paths": [str(host.log), str(secret)]}
    )
    for path in (directory, host.log, directory / "ironpost.toml"):
        os.chown(path, 65534, 65534)
    secret.chmod(0o600)
    for name in ("out", "err"):
        (directory / name).touch()
    try:
        host.start()
        said = host.said()
        assert "CAP_" in said
        assert "secret.log" in said
        assert host.module("ebpf-engine")["status"] == "unhealthy"
        host.guess_passwords("203.0.113.7")
        until(host.alerts, what="the alert")
        assert stat.S_IMODE((directory / "data" / "control.sock").stat().st_mode) == 0o600
    finally:
        assert host.stop() == 0


def test_a_line_of_64_mib_on_the_tcp_port_is_cut_and_the_next_one_counts(host):
    host.start()
    line = b"<38>Nov 20 10:00:00 web sshd[7]: Failed password for root from 203.0.113.9 port 4711 ssh2\n"
    with socket.create_connection(("127.0.0.1", host.tcp)) as tcp:
        chunk = b"A" * (1 << 20)
        for _ in range(64):
            tcp.sendall(chunk)
        tcp.sendall(b"\n" + line * 6)
    until(host.alerts, what="the alert after the long line")
    resident = next(
        int(row.split()[1])
        for row in Path(f"/proc/{host.process.pid}/status").read_text().splitlines()
        if row.startswith("VmHWM")
    )
    assert resident < 400 * 1024, f"{resident} KiB at the most"


def test_rubbish_and_invalid_utf8_are_stored_as_they_are_and_hurt_nobody(host):
    host.start()
    escape = b"\x1b]0;owned\x07\x1b[2J\xff\xfe\xc3\x28 \xe2\x80\xae"
    with host.log.open("ab") as log:
        log.write(b"\x00\x01\xff\xfe\n" * 50)
        for number in range(6):
            log.write(
                b"Nov 20 10:00:00 web sshd[%d]: Failed password for invalid user %s from 203.0.113.7 port 1 ssh2\n"
                % (number, escape)
            )
    until(host.alerts, what="the alert")
    for arguments in (("alerts",), ("alerts", "--json"), ("decisions",)):
        shown = host.run(*arguments)
        assert shown.code == 0
        assert shown.out.isascii() or all(c.isprintable() or c == "\n" for c in shown.out)
        assert "\x1b" not in shown.out
    assert "\x1b" not in (host.directory / "out").read_text()


def test_a_client_that_floods_the_control_socket_does_not_stop_the_others(host):
    host.start()
    path = str(host.directory / "data" / "control.sock")
    hostile = []
    for _ in range(40):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        hostile.append(client)
    for client in hostile:
        client.close()
    until(lambda: host.run("status").code == 0, what="an honest client is served")


def test_a_second_daemon_is_refused_and_the_first_goes_on(host):
    host.start()
    second = host.run("start")
    assert_error(second, 1, f"process {host.process.pid}")
    assert host.status()["pid"] == host.process.pid


def test_a_port_out_of_range_and_a_wrong_option_are_usage_errors(host):
    assert host.run("alerts", "--limit", "0").code == 2
    assert host.run("start", "--mode", "panic").code == 2
    assert host.run("nonsense", config=False).code == 2
    assert_error(host.run("ban"), 2, "no target")


def test_every_kind_of_ban_target_that_makes_no_sense_is_refused(host):
    host.start()
    for target in ("rubbish", "0.0.0.0/0", "127.0.0.1", "300.1.1.1", "203.0.113.7; rm -rf /"):
        refused = host.run("ban", target)
        assert refused.code != 0
        assert refused.err.startswith("error: ")
    assert host.run("decisions", "--json").json == []


def test_the_version_needs_no_heavy_import():
    code = (
        "import sys; sys.argv = ['ironpost', '--version']; from ironpost.cli import main; main(); print(*sys.modules)"
    )
    reply = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    version, _, modules = reply.stdout.partition("\n")
    assert version.startswith("ironpost ")
    assert not {"typer", "pydantic", "ironpost._core"} & set(modules.split())
