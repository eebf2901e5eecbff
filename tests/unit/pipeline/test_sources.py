"""Which logs are read on which host."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from ironpost.config import ConfigInvalid, load
from ironpost.pipeline.sources import HostFacts, believed, doubted_now, plan_sources
from support.batches import detection

NOWHERE = Path("/nonexistent")


def plan(tmp_path, text="", *, files=(), unreadable=(), journal=False, modified_ns=10, boot_ns=5, packets=False):
    path = tmp_path / "ironpost.toml"
    path.write_text(text)
    facts = HostFacts(
        exists=lambda name: name in files or name in unreadable,
        readable=lambda name: name in files,
        doubt=lambda _name: None,
        modified_ns=lambda _name: modified_ns,
        boot_wall_ns=boot_ns,
        journal=journal,
        docker_root=Path("/docker/containers"),
    )
    return plan_sources(load(path, environment={}), facts=facts, packets=packets)


def watched(planned):
    return [entry.get("path", entry.get("glob")) for entry in planned.settings["files"]]


def test_of_the_default_files_those_that_exist_are_watched(tmp_path):
    planned = plan(tmp_path, files={"/var/log/auth.log", "/var/log/syslog"})
    assert watched(planned) == ["/var/log/auth.log", "/var/log/syslog"]
    assert planned.problems == []


def test_the_audit_log_is_read_as_auditd_writes_it(tmp_path):
    [entry] = plan(tmp_path, files={"/var/log/audit/audit.log"}).settings["files"]
    assert (entry["path"], entry["format"]) == ("/var/log/audit/audit.log", "auditd")
    planned = plan(tmp_path, '[log_pipeline]\nwatch_paths = ["/var/log/audit/audit.log*"]\n')
    assert [entry["format"] for entry in planned.settings["files"]] == ["auditd"]


def test_syslog_listens_on_loopback_over_udp_and_tcp(tmp_path):
    planned = plan(tmp_path)
    assert planned.listening == ["udp:127.0.0.1:5514", "tcp:127.0.0.1:5514"]
    assert planned.settings["udp"][0]["facts"] == {"ironpost.trust": "unauthenticated"}


def test_the_limits_of_connections_reach_the_receiver(tmp_path):
    text = (
        '[log_pipeline]\nsources = ["syslog_tcp"]\nsyslog_tcp_max_connections = 9\n'
        "syslog_tcp_max_connections_per_peer = 2\nsyslog_tcp_idle_secs = 7\nsyslog_tcp_max_message_bytes = 70000\n"
    )
    (entry,) = plan(tmp_path, text).settings["tcp"]
    limits = ("max_connections", "max_connections_per_peer", "idle_secs", "max_message")
    assert [entry[limit] for limit in limits] == [9, 2, 7, 70_000]


def test_the_socket_of_programs_on_this_host_is_asked_for_and_not_trusted_as_a_whole(tmp_path):
    assert plan(tmp_path).settings["unix"] == []
    text = '[log_pipeline]\nsources = ["syslog_unix"]\nsyslog_unix_path = "/dev/log"\nsyslog_unix_mode = "0660"\n'
    planned = plan(tmp_path, text)
    trust = {"ironpost.trust": "unauthenticated"}
    assert planned.settings["unix"] == [{"path": "/dev/log", "mode": 0o660, "facts": trust}]
    assert planned.listening == ["unix:/dev/log"]


@pytest.mark.parametrize("mode", ["666", "rw", "08", "01777", "0o666", ""])
def test_the_permissions_of_the_socket_are_octal(tmp_path, mode):
    text = f'[log_pipeline]\nsources = ["syslog_unix"]\nsyslog_unix_mode = "{mode}"\n'
    if mode == "666":
        assert plan(tmp_path, text).settings["unix"][0]["mode"] == 0o666
    else:
        with pytest.raises(ConfigInvalid, match="no octal permission"):
            plan(tmp_path, text)


def test_a_host_with_a_journal_and_no_files_is_read_through_its_journal(tmp_path):
    planned = plan(tmp_path, journal=True)
    assert planned.settings["journal"] is True
    assert planned.watching == ["the systemd journal"]


def test_lines_that_stand_in_file_and_journal_are_not_read_twice(tmp_path):
    planned = plan(tmp_path, files={"/var/log/auth.log"}, journal=True)
    assert planned.settings["journal"] is False
    assert "/var/log/auth.log carries the same lines" in planned.notices[0]


def test_a_file_left_over_from_before_the_boot_does_not_hide_the_journal(tmp_path):
    planned = plan(tmp_path, files={"/var/log/auth.log"}, journal=True, modified_ns=4)
    assert planned.settings["journal"] is True


def test_whoever_names_both_gets_both(tmp_path):
    text = '[log_pipeline]\nsources = ["file", "journal"]\n'
    assert plan(tmp_path, text, files={"/var/log/auth.log"}, journal=True).settings["journal"] is True


def test_a_journal_that_was_asked_for_and_is_not_there_is_a_problem(tmp_path):
    planned = plan(tmp_path, '[log_pipeline]\nsources = ["journal"]\n')
    assert [problem.source for problem in planned.problems] == ["journal"]


def test_files_that_were_named_are_waited_for(tmp_path):
    text = '[log_pipeline]\nwatch_paths = ["/var/log/new.log", "/var/log/closed.log"]\n'
    planned = plan(tmp_path, text, unreadable={"/var/log/closed.log"})
    assert watched(planned) == ["/var/log/new.log", "/var/log/closed.log"]
    assert [problem.reason for problem in planned.problems] == [
        "/var/log/new.log does not exist yet",
        "/var/log/closed.log is not readable for this user",
    ]


def test_patterns_are_handed_on(tmp_path):
    planned = plan(tmp_path, '[log_pipeline]\nwatch_paths = ["/var/log/nginx/*.log"]\n')
    assert planned.settings["files"][0]["glob"] == "/var/log/nginx/*.log"


def test_container_logs_are_trusted_as_what_they_are(tmp_path):
    planned = plan(tmp_path, '[log_pipeline]\nsources = ["docker"]\n', files={"/docker/containers"})
    [entry] = planned.settings["files"]
    assert entry["glob"] == "/docker/containers/*/*-json.log"
    assert (entry["format"], entry["facts"]) == ("docker", {"ironpost.trust": "container"})


@pytest.mark.parametrize(("sources", "udp", "tcp"), [("syslog_udp", 1, 0), ("syslog_tcp", 0, 1), ("syslog", 1, 1)])
def test_each_kind_of_syslog_can_be_had_alone(tmp_path, sources, udp, tcp):
    settings = plan(tmp_path, f'[log_pipeline]\nsources = ["{sources}"]\n').settings
    assert (len(settings["udp"]), len(settings["tcp"])) == (udp, tcp)


def test_a_disabled_pipeline_reads_nothing_but_packets(tmp_path):
    settings = plan(tmp_path, "[log_pipeline]\nenabled = false\n", files={"/var/log/auth.log"}, packets=True).settings
    assert (settings["files"], settings["udp"], settings["tcp"], settings["journal"]) == ([], [], [], False)
    assert settings["packets"] is True


def test_a_directory_that_leads_out_of_the_roots_is_named_and_not_read(tmp_path):
    (tmp_path / "logs").symlink_to("/etc")
    text = (
        f'[log_pipeline]\nwatch_roots = ["{tmp_path}"]\nwatch_paths = ["{tmp_path}/logs/passwd", "{tmp_path}/b.log"]\n'
    )
    planned = plan(tmp_path, text, files={f"{tmp_path}/logs/passwd", f"{tmp_path}/b.log"})
    assert watched(planned) == [f"{tmp_path}/b.log"]
    assert "leads to /etc, outside" in planned.problems[0].reason


def real_plan(tmp_path, *paths):
    """A plan over files of this machine, with their owners and modes."""
    names = ", ".join(f'"{path}"' for path in paths)
    path = tmp_path / "ironpost.toml"
    path.write_text(f'[log_pipeline]\nsources = ["file"]\nwatch_roots = ["{tmp_path}"]\nwatch_paths = [{names}]\n')
    return plan_sources(load(path, environment={}), facts=HostFacts(journal=False), packets=False)


def trusts(planned):
    return [
        (entry.get("path") or entry["glob"], entry["facts"]["ironpost.trust"]) for entry in planned.settings["files"]
    ]


@pytest.mark.root
def test_a_file_that_strangers_write_bans_nobody_and_is_named(tmp_path):
    ours, open_to_all, nobodys = (tmp_path / name for name in ("ours.log", "open.log", "nobodys.log"))
    for path in (ours, open_to_all, nobodys):
        path.write_text("")
    open_to_all.chmod(0o666)
    os.chown(nobodys, pwd.getpwnam("nobody").pw_uid, 0)
    planned = real_plan(tmp_path, ours, open_to_all, nobodys)
    assert trusts(planned) == [
        (str(ours), "host"), (str(open_to_all), "unauthenticated"), (str(nobodys), "unauthenticated"),
    ]  # fmt: skip
    assert [(problem.source, problem.remedy) for problem in planned.doubted] == [
        (f"trust of {open_to_all}", f"chmod o-w {open_to_all}, and start again"),
        (f"trust of {nobodys}", f"chown root {nobodys}, and start again"),
    ]
    assert "bans nobody by default: it is writable by everybody" in planned.doubted[0].reason


@pytest.mark.root
@pytest.mark.parametrize(
    ("mode", "existing", "later"),
    [(0o777, "unauthenticated", "unauthenticated"), (0o1777, "host", "unauthenticated"), (0o700, "host", "host")],
)
def test_a_shared_directory_makes_doubtful_what_strangers_may_put_there(tmp_path, mode, existing, later):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a.log").write_text("")
    shared.chmod(mode)
    planned = real_plan(tmp_path, shared / "a.log", shared / "later.log", shared / "*.txt")
    assert [trust for _, trust in trusts(planned)] == [existing, later, later]


@pytest.mark.root
def test_a_strangers_file_takes_nothing_from_others_of_its_pattern(tmp_path):
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_text("")
    (tmp_path / "b.log").chmod(0o666)
    planned = real_plan(tmp_path, tmp_path / "*.log")
    assert trusts(planned) == [(f"{tmp_path}/b.log", "unauthenticated"), (f"{tmp_path}/*.log", "host")]


@pytest.mark.root
@pytest.mark.parametrize("pattern", ["a.log", "*.log"])
def test_a_file_that_becomes_a_strangers_later_is_named_and_believed_no_more(tmp_path, pattern):
    path = tmp_path / "a.log"
    path.write_text("")
    planned = real_plan(tmp_path, tmp_path / pattern)
    found = detection(1, source=f"file:{path}")
    assert doubted_now(planned) == []
    assert believed(found).trust == "host"
    path.chmod(0o666)
    [problem] = doubted_now(planned)
    assert problem.remedy == f"chmod o-w {path}"
    assert believed(found).trust == "unauthenticated"
    path.chmod(0o640)
    assert doubted_now(planned) == []
    assert believed(found).trust == "host"


@pytest.mark.root
def test_belief_in_files_changes_nothing_for_other_sources_and_lifts_nothing(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("")
    path.chmod(0o666)
    for source, trust in (
        ("journal", "host"),
        ("udp:127.0.0.1:5514", "unauthenticated"),
        (f"file:{path}", "container"),
    ):
        found = detection(1, source=source, trust=trust)
        assert believed(found) is found
