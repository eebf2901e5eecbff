"""Bans by hand in a real kernel, between two network namespaces of our own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess

import pytest

from support.host import Host, until

pytestmark = [pytest.mark.root, pytest.mark.netns]

HERE, THERE, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.3"


def sh(*arguments, check=True):
    return subprocess.run(arguments, check=check, capture_output=True, text=True, timeout=30)


@pytest.fixture
def net(tmp_path):
    """Two namespaces, a link between them, and a place for pins."""
    tag = f"ipd{os.getpid() % 100000}"
    here, there = f"{tag}h", f"{tag}t"
    pins = tmp_path / "bpf"
    pins.mkdir()
    with contextlib.ExitStack() as undo:
        for name in (here, there):
            sh("ip", "netns", "add", name)
            undo.callback(sh, "ip", "netns", "del", name, check=False)
        sh("ip", "-n", here, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1", "netns", there)
        for name, link, address in ((here, "veth0", HERE), (there, "veth1", THERE), (there, "veth1", OTHER)):
            sh("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
            sh("ip", "-n", name, "link", "set", link, "up")
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("mount", "-t", "bpf", "bpf", str(pins))
        undo.callback(sh, "umount", "--lazy", str(pins), check=False)
        yield here, there, pins


@pytest.fixture
def guarded(net, tmp_path):
    here, _, pins = net
    host = Host(tmp_path, prefix=("nsenter", f"--net=/run/netns/{here}"))
    host.configure(
        ebpf={"enabled": True, "interface": "veth0", "xdp_mode": "native", "pin_dir": str(pins / "ironpost")},
        log_pipeline={"sources": ["file"]},
        response={"allowlist": [f"{OTHER}/32"]},
    )
    host.start()
    yield host
    if host.process.poll() is None:
        host.process.kill()
        host.process.wait(10)


def pings(net, source=THERE):
    inside = ("nsenter", f"--net=/run/netns/{net[1]}")
    return sh(*inside, "ping", "-c", "1", "-W", "1", "-I", source, HERE, check=False).returncode == 0


def test_a_ban_drops_and_its_end_lets_through(guarded, net):
    assert pings(net)
    [made] = guarded.run("ban", THERE, "--for", "10m", "--json").json
    assert (made["state"], made["target"], made["policy_id"]) == ("active", THERE, "manual")
    assert not pings(net)
    assert pings(net, OTHER)
    filtered = guarded.status()["filter"]
    assert filtered["attached"] is True
    assert filtered["interfaces"] == ["veth0"]
    assert filtered["mode"] == "native"
    assert filtered["packets_dropped"] >= 1
    assert filtered["packets_total"] == filtered["packets_passed"] + filtered["packets_dropped"]
    [ended] = guarded.run("unban", THERE, "--json").json
    assert ended["state"] == "undone"
    assert pings(net)


def test_a_short_ban_ends_by_itself(guarded, net):
    assert guarded.run("ban", THERE, "--for", "2s").code == 0
    assert not pings(net)
    until(lambda: pings(net), what="the ban is over")
    until(lambda: guarded.ask("decisions")[0]["state"] == "expired", what="the decision says so")


def test_the_allow_list_wins_everywhere(guarded, net):
    refused = guarded.run("ban", OTHER)
    assert refused.code == 1
    assert "allow" in refused.err
    covering = guarded.run("ban", "192.0.2.0/24")
    assert covering.code == 1
    assert guarded.run("ban", THERE).code == 0
    allowed = guarded.run("allow", THERE, "--for", "1h", "--json").json
    assert [decision["target"] for decision in allowed["unbanned"]] == [THERE]
    assert pings(net)
    assert guarded.run("ban", THERE).code == 1


def test_our_own_address_is_refused_and_one_bad_target_bans_none(guarded):
    refused = guarded.run("ban", "203.0.113.1", HERE)
    assert refused.code == 1
    assert HERE in refused.err
    assert guarded.ask("decisions") == []


def test_the_filter_outlives_a_killed_daemon_and_the_next_one_takes_it_over(guarded, net):
    assert guarded.run("ban", THERE, "--for", "10m").code == 0
    guarded.stop(signal.SIGKILL)
    assert not pings(net)
    guarded.start()
    assert not pings(net)
    [decision] = guarded.ask("decisions")
    assert decision["state"] == "active"
    assert guarded.run("undo", decision["id"][:8]).code == 0
    assert pings(net)


def test_stop_leaves_the_filter_and_stop_detach_takes_it_off(guarded, net):
    assert guarded.run("ban", THERE, "--for", "10m").code == 0
    assert guarded.run("stop").code == 0
    assert not pings(net)
    guarded.start()
    stopped = guarded.run("stop", "--detach", "--json").json
    assert stopped["detached"] is True
    assert pings(net)
    links = json.loads(sh("ip", "-n", net[0], "-json", "link", "show", "dev", "veth0").stdout)
    assert "xdp" not in links[0]


def test_a_filter_that_the_next_daemon_cannot_take_over_can_still_be_taken_off(guarded, net):
    assert guarded.run("ban", THERE, "--for", "10m").code == 0
    guarded.stop(signal.SIGKILL)
    text = (guarded.directory / "ironpost.toml").read_text()
    (guarded.directory / "ironpost.toml").write_text(text.replace('"veth0"', '"veth9"'))
    guarded.start()
    assert not pings(net)
    assert "stop --detach" in json.dumps(guarded.module("ebpf-engine"))
    assert guarded.run("stop", "--detach", "--json").json["detached"] is True
    assert pings(net)


def test_without_a_daemon_stop_detach_takes_off_what_it_left(guarded, net):
    assert guarded.run("ban", THERE, "--for", "10m").code == 0
    guarded.stop(signal.SIGTERM)
    config = guarded.directory / "ironpost.toml"
    assert (
        f"The packet filter stays on veth0; `ironpost stop --detach --config {config}` takes it off." in guarded.said()
    )
    assert not pings(net)
    taken = guarded.run("stop", "--detach")
    assert (taken.code, taken.out) == (0, "no daemon runs; the packet filter was taken off veth0\n"), taken.err
    assert pings(net)
    again = guarded.run("stop", "--detach")
    assert again.code == 0
    assert "nothing to take off" in again.out
    assert guarded.run("stop").code == 3


def test_a_daemon_that_does_not_answer_keeps_its_filter(guarded, net):
    assert guarded.run("ban", THERE, "--for", "10m").code == 0
    (guarded.directory / "data" / "control.sock").unlink()
    refused = guarded.run("stop", "--detach")
    assert refused.code == 3
    assert str(guarded.process.pid) in refused.err
    assert not pings(net)


def test_a_list_from_a_file_is_banned_and_monitor_only_counts(guarded, net, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"198.51.{n // 256}.{n % 256}\n" for n in range(2000)) + "# a comment\n\n")
    made = guarded.run("ban", "--file", str(listed), "--json").json
    assert len(made) == 2000
    [watched] = guarded.run("ban", THERE, "--mode", "monitor", "--json").json
    assert watched["state"] == "active"
    assert pings(net)


def test_a_line_in_a_log_drops_in_the_kernel_when_told_to_enforce(net, tmp_path):
    here, _, pins = net
    host = Host(tmp_path, prefix=("nsenter", f"--net=/run/netns/{here}"))
    host.configure(
        general={"mode": "enforce"},
        ebpf={"enabled": True, "interface": "veth0", "xdp_mode": "native", "pin_dir": str(pins / "ironpost")},
        log_pipeline={"sources": ["file"]},
    )
    host.start()
    assert pings(net)
    host.guess_passwords(THERE)
    until(lambda: any(d["state"] == "active" for d in host.ask("decisions")), what="the ban is in force")
    assert not pings(net)
    assert pings(net, OTHER)
    actions = host.ask("actions")
    assert [(row["action_type"], row["target"], row["success"]) for row in actions] == [("ip_ban", THERE, True)]
    assert host.stop() == 0
