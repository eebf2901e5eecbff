"""The daemon's log as an operator's collector reads it: one life, in order, with one trace and without secrets."""

from __future__ import annotations

import json
import shutil

from support.host import until

SECRET = "Tr0ub4dor"


def records(host):
    return [json.loads(line) for line in host.said().splitlines() if line.startswith("{")]


def named(found, message):
    return [record for record in found if record["message"] == message]


def test_one_life_is_told_from_start_to_final_statistics(host):
    host.configure(
        general={"mode": "enforce", "log_level": "trace", "health_interval_secs": 1},
        **{"log_pipeline.storage": {"postgres_url": f"postgresql://me:{SECRET}@db/x"}},
    )
    host.start()
    host.guess_passwords("203.0.113.7")
    # There is no filter here, so the ban fails; that is an action, too.
    until(lambda: [d["state"] for d in host.ask("decisions")] == ["failed"], what="the ban has failed")
    until(lambda: len(named(records(host), "health")) > 1, what="health is looked at again")
    assert host.stop() == 0
    found = records(host)
    order = [
        "daemon_started", "alert_opened", "decision_made", "action_recorded", "daemon_stopping", "final_statistics",
        "daemon_stopped",
    ]  # fmt: skip
    first = [next(at for at, record in enumerate(found) if record["message"] == message) for message in order]
    assert first == sorted(first)

    [started] = named(found, "daemon_started")
    assert started["version"]
    assert {record["status"] for record in named(found, "health")} == {"healthy"}
    [alert] = named(found, "alert_opened")
    assert (alert["rule_id"], alert["severity"], alert["entity"]) == ("ssh_brute_force", "high", "203.0.113.7")
    assert alert["alert_id"]
    [action] = named(found, "action_recorded")
    assert (action["action_type"], action["entity"], action["success"]) == ("ip_ban", "203.0.113.7", False)
    assert action["policy_id"] == "ban-ssh-brute-force"
    assert alert["trace_id"] == named(found, "decision_made")[0]["trace_id"] == action["trace_id"] != ""
    assert [named(found, message)[0]["reason"] for message in ("daemon_stopping", "daemon_stopped")] == ["SIGTERM"] * 2
    [last] = named(found, "final_statistics")
    assert (last["new"], last["alerts_opened"], last["decisions"]) == (1, 1, 1)
    for text in (host.said(), (host.directory / "out").read_text()):
        assert SECRET not in text


def test_a_pid_file_that_somebody_removed_keeps_no_daemon_from_ending(host):
    pid_file = host.directory / "run" / "ironpost.pid"
    host.configure(general={"pid_file": str(pid_file)})
    host.start()
    assert pid_file.read_text().strip() == str(host.process.pid)
    shutil.rmtree(pid_file.parent)
    assert host.stop() == 0
