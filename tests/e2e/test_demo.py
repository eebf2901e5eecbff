"""``ironpost demo`` as a user runs it: it shows what it claims, and leaves nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ironpost.demo import daemon, run

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(180)]


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ironpost", "demo", *arguments]


def left_behind(pid: int) -> list[str]:
    """What a run with this process id left on the host: everything it makes carries the id in its name."""
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("**/ironpost-demo-*")]
    places = [
        str(path) for place in (tempfile.gettempdir(), "/var/tmp") for path in Path(place).glob("ironpost-demo-*")
    ]
    ours = (f"ipdemo-{pid}-", f"ironpost-demo-{pid}")
    return [name for name in (*namespaces, *mounts, *groups, *places) if any(part in name for part in ours)]


@pytest.mark.docker
def test_demo_observes_every_step_from_outside_and_cleans_up():
    with subprocess.Popen(demo("--json"), stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=150)
    report = json.loads(output)
    failed = [
        f"{check['step']}: {check['claim']} ({check['observed']})" for check in report["checks"] if not check["holds"]
    ]
    assert failed == []
    assert process.returncode == 0
    assert report["ok"]
    assert report["not_shown"] == []
    assert {check["step"] for check in report["checks"]} == {"0", "a", "b", "c", "all"}
    assert [entry["at_ms"] for entry in report["timeline"]] == sorted(entry["at_ms"] for entry in report["timeline"])
    for step in "abc":
        assert {"attack", "decided", "done"} <= {entry["kind"] for entry in report["timeline"] if entry["step"] == step}
    assert report["seconds"] < 90
    assert left_behind(process.pid) == []


def test_demo_fails_when_nothing_is_enforced(monkeypatch, capsys):
    """The claims are looked at from outside: a daemon that only says what it would do does not pass."""
    write = daemon.Settings.write

    def write_observing(settings: daemon.Settings) -> None:
        write(settings)
        text = settings.file.read_text()
        assert 'mode = "enforce"' in text
        settings.file.write_text(text.replace('mode = "enforce"', 'mode = "observe"'))

    monkeypatch.setattr(daemon.Settings, "write", write_observing)
    assert run(as_json=True, quiet=True, skip_container=True) == 1
    report = json.loads(capsys.readouterr().out)
    holds = {check["claim"]: check["holds"] for check in report["checks"]}
    assert not holds["attacker: ping and connect fail"]
    assert not holds["scanner: ping and connect fail"]
    assert holds["bystander: ping and connect succeed (IPv4)"]
    assert report["not_shown"] == ["step c, containers (--skip-container)"]


def test_interrupted_demo_fails_and_cleans_up():
    with subprocess.Popen(
        demo("--skip-container"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " a) " in line:
                assert left_behind(process.pid) != []
                process.send_signal(signal.SIGINT)
                break
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted" in output
    assert left_behind(process.pid) == []


def test_demo_names_what_is_missing_with_one_command(tmp_path):
    # A search path with nothing in it but what the interpreter itself needs: no ssh, no dockerd.
    done = subprocess.run(demo(), env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "program ssh" in done.stderr
    assert "hint: apt-get install --no-install-recommends " in done.stderr
    assert "openssh-client" in done.stderr.split("hint:")[1]
