"""A line in a watched file becomes an alert, a decision and something an operator can read."""

from __future__ import annotations

import json
import signal
import socket
import subprocess

from support.host import COMMAND, environment, until


def test_an_sshd_line_becomes_an_alert_and_an_observed_decision(host):
    host.start()
    host.guess_passwords("203.0.113.7")
    until(host.alerts, what="the alert")
    [alert] = host.run("alerts", "--json").json
    assert alert["entity"] == {"kind": "ip", "value": "203.0.113.7", "field": "source.ip"}
    assert alert["severity"] == "high"
    assert "203.0.113.7" in alert["evidence"][0]
    [decision] = host.run("decisions", "--json").json
    assert (decision["verb"], decision["target"], decision["state"]) == ("ban", "203.0.113.7", "observed")
    assert decision["alert_ids"] == [alert["id"]]
    assert decision["trace_id"] == alert["trace_id"]
    assert alert["decisions"] == [decision["id"]]
    shown = (host.directory / "out").read_text()
    assert "ssh_brute_force 203.0.113.7" in shown
    assert host.stop() == 0


def test_alerts_can_be_read_while_the_daemon_is_down(host):
    host.start()
    host.guess_passwords("203.0.113.7")
    until(host.alerts, what="the alert")
    before = host.run("alerts", "--json").json
    assert host.stop() == 0
    assert host.run("alerts", "--json").json == before != []
    assert host.run("status").code == 3


def test_syslog_over_udp_and_tcp_is_seen_but_does_not_ban(host):
    host.start()
    line = b"<38>Nov 20 10:00:00 web sshd[7]: Failed password for root from 203.0.113.%d port 4711 ssh2"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _ in range(6):
            udp.sendto(line % 8, ("127.0.0.1", host.udp))
    with socket.create_connection(("127.0.0.1", host.tcp)) as tcp:
        tcp.sendall(b"".join(line % 9 + b"\n" for _ in range(3)))
        framed = line % 9
        tcp.sendall(b"".join(b"%d %s" % (len(framed), framed) for _ in range(3)))
    alerts = until(lambda: found if len(found := host.alerts()) == 2 else None, what="two alerts")
    assert {alert["entity"]["value"] for alert in alerts} == {"203.0.113.8", "203.0.113.9"}
    assert {alert["trust"] for alert in alerts} == {"unauthenticated"}
    # Anyone may claim anything over the network: no policy bans on that unless it says so.
    assert host.run("decisions", "--json").json == []


def test_live_output_is_one_json_object_per_line(host):
    host.start("--json")
    host.guess_passwords("203.0.113.7")
    until(host.alerts, what="the alert")
    assert host.stop() == 0
    items = [json.loads(line) for line in (host.directory / "out").read_text().splitlines()]
    assert "started" in items[0]
    kinds = [next(iter(item)) for item in items[1:]]
    assert kinds[:2] == ["alert", "decision"]


def test_start_says_where_it_listens_what_it_watches_and_what_it_may_not_do(host):
    host.start()
    said = host.said()
    assert f"udp:127.0.0.1:{host.udp}" in said
    assert f"tcp:127.0.0.1:{host.tcp}" in said
    assert str(host.log) in said
    assert "packets are not filtered" in said
    assert host.stop(signal.SIGINT) == 0


def test_without_any_log_the_line_that_fires_is_shown_and_fires(host):
    host.configure(log_pipeline={"sources": ["syslog"]}).start()
    line = next(line for line in host.said().splitlines() if "logger --server" in line)
    subprocess.run(["/bin/sh", "-c", line.strip()], check=True)
    [alert] = until(host.alerts, what="the alert of the line")
    assert alert["entity"]["value"] == "198.51.100.7"


def test_the_tail_follows_a_running_daemon(host):
    host.start("--quiet")
    follower = subprocess.Popen(
        [COMMAND, "tail", "--json", "--config", str(host.directory / "ironpost.toml")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    until(lambda: host.status()["subscribers"]["subscribers"] == 1, what="the follower is there")
    host.guess_passwords("203.0.113.7")
    assert json.loads(follower.stdout.readline())["alert"]["rule_id"] == "ssh_brute_force"
    assert json.loads(follower.stdout.readline())["decision"]["state"] == "observed"
    assert host.stop() == 0
    assert follower.wait(10) == 0
    follower.stdout.close()


def test_a_daemon_in_the_background_is_ready_when_the_command_returns(host):
    started = host.run("start", "--daemon")
    assert started.code == 0, started.err
    status = host.status()
    assert status["daemon_running"] is True
    assert str(status["pid"]) in started.out
    stopped = host.run("stop", "--json")
    assert stopped.code == 0
    assert stopped.json["stopped"] is True
    assert host.run("status").code == 3


def test_changed_rules_are_taken_over_on_sighup(host):
    rules = host.directory / "rules"
    rules.mkdir()
    rule = (
        "title: {id}\nid: {id}\nlevel: low\nlogsource: {{product: linux}}\n"
        "detection:\n  selection: {{message|contains: {id}}}\n  condition: selection\n"
    )
    (rules / "one.yml").write_text(rule.format(id="needle-one"))
    host.configure(log_pipeline={"rule_dir": str(rules), "rule_reload_secs": 3600}).start()
    (rules / "two.yml").write_text(rule.format(id="needle-two"))
    host.process.send_signal(signal.SIGHUP)
    until(lambda: host.status()["rules"]["loaded"] == 2, what="the new rule")
    with host.log.open("a") as log:
        log.write("Nov 20 10:00:00 web app[1]: here is needle-two\n")
    until(lambda: host.alerts("needle-two"), what="the alert of the new rule")
