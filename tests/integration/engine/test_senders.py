"""Who wrote to the daemon's own log socket decides what may come of it (adversarial case 3)."""

from __future__ import annotations

import os
import subprocess

import pytest

from support.host import Host, until

#: ``nobody``: an account without rights.
STRANGER = 65_534
LINE = "Failed password for root from {} port 4242 ssh2"


@pytest.fixture
def host(tmp_path):
    played = Host(tmp_path)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != parent.parent:
            parent.chmod(parent.stat().st_mode | 0o111)
    yield played.configure(
        log_pipeline={"sources": ["syslog_unix", "syslog_tcp"], "syslog_unix_path": str(tmp_path / "log")}
    )
    if played.process is not None and played.process.poll() is None:
        played.stop()


def log(host, user, address):
    """Five failed logins as the real logger writes them."""
    switch = {"user": user, "group": user} if os.geteuid() == 0 else {}
    for _ in range(5):
        command = [
            "logger",
            "-u",
            str(host.directory / "log"),
            "-p",
            "auth.info",
            "-t",
            "sshd[77]",
            LINE.format(address),
        ]
        subprocess.run(command, check=True, timeout=30, **switch)


def test_a_local_user_cannot_get_an_address_banned_and_root_can(host):
    host.start()
    log(host, STRANGER, "203.0.113.9")
    log(host, 0, "203.0.113.10")
    alerts = until(
        lambda: (
            {alert["entity"]["value"]: alert for alert in host.ask("alerts")} if len(host.ask("alerts")) >= 2 else None
        ),
        what="both attacks are seen",
    )
    as_root = os.geteuid() == 0
    assert alerts["203.0.113.9"]["trust"] == "unauthenticated"
    assert alerts["203.0.113.10"]["trust"] == ("host" if as_root else "unauthenticated")
    banned = until(lambda: {decision["target"] for decision in host.ask("decisions")} or not as_root, what="a decision")
    assert banned == ({"203.0.113.10"} if as_root else True)
    host.stop()
    assert not (host.directory / "log").exists()
