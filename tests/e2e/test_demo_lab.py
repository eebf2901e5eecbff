"""The demonstration's own parts, without the daemon: what it builds, what it sees, what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from ironpost.demo import docker_lab, lab, probe, sshd

pytestmark = [pytest.mark.root, pytest.mark.netns]


def left_behind() -> list[str]:
    """What exists on the host and carries this process's id in its name; other runs have other names."""
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("**/ironpost-demo-*")]
    ours = (f"ipdemo-{os.getpid()}-", f"ironpost-demo-{os.getpid()}")
    return [name for name in (*namespaces, *mounts, *groups) if any(part in name for part in ours)]


@pytest.fixture
def unchanged_host(tmp_path):
    yield
    assert left_behind() == []
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(tmp_path) not in mounts
    running = [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path) in read(entry)]
    assert running == []


def read(file: Path) -> str:
    """The text of a file that may vanish any moment."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture
def network(unchanged_host):
    with lab.build() as built:
        yield built


def test_every_client_reaches_the_host_by_both_families(network):
    for client in network.clients.values():
        assert probe.ping(client, network.host.v4)
        assert probe.ping(client, network.host.v6)


def test_a_failure_while_building_leaves_nothing(unchanged_host):
    def fail_inside() -> None:
        with lab.build():
            assert left_behind() != []
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()


def test_prober_tells_the_moment_of_a_drop_and_of_its_end(network):
    port = ["ip", "-n", network.switch.name, "link", "set", "to-attacker"]
    with (
        probe.Prober(network.attacker, network.host.v4) as cut,
        probe.Prober(network.bystander, network.host.v4) as other,
    ):
        assert cut.wait_for_answer(0, 5) is not None
        assert cut.silent_since() is None
        before_ns = time.time_ns()
        lab.run_command([*port, "nomaster"])
        silent_ns = cut.wait_for_silence(5)
        assert silent_ns is not None
        assert -50e6 < silent_ns - before_ns < 500e6
        lab.run_command([*port, "master", "bridge0"])
        assert cut.wait_for_answer(silent_ns, 5) is not None
        assert cut.lost() > 0
        assert other.lost() == 0


def test_sshd_itself_logs_every_wrong_password_with_its_address(network, tmp_path):
    framing = f"admin from {network.bystander.v4} port 22 ssh2"
    with sshd.LogKeeper(tmp_path, tmp_path / "auth.log") as keeper, sshd.serve(network.host, tmp_path):
        logins = [sshd.start_login(network.attacker, network.host.v4, user=user) for user in ("root", framing)]
        assert [login.wait(20) for login in logins] == [255, 255]
        assert probe.wait_until(lambda: len(keeper.failures_from(network.attacker.v4)) == 6, 5)
        assert keeper.failures_from(network.bystander.v4) == []
    text = (tmp_path / "auth.log").read_text()
    assert text.count("Failed password for ") == 6
    assert text.count(f"Failed password for invalid user {framing} from {network.attacker.v4} port ") == 3
    assert not (tmp_path / "enclosure" / "run").exists(), "the mounts of sshd's enclosure are not the host's"


@pytest.mark.docker
def test_pausing_one_web_container_leaves_its_neighbour_serving(network, tmp_path):
    def status(name: str) -> int:
        return probe.http_status(network.visitor, network.host.v4, web[name].port, "/")

    with docker_lab.start_engine(network.host, tmp_path / "engine") as engine:
        docker_lab.import_image(engine)
        ports = {"shop-a": 8081, "shop-b": 8082}
        web = {name: docker_lab.start_web_container(engine, network.host, name, port) for name, port in ports.items()}
        assert (status("shop-a"), status("shop-b")) == (200, 200)
        web["shop-a"].container.pause()
        assert (web["shop-a"].state(), web["shop-b"].state()) == ("paused", "running")
        assert (status("shop-a"), status("shop-b")) == (0, 200)
        assert f"{network.visitor.v4}:" in web["shop-b"].log_file.read_text(), (
            "the log names the client, not the bridge"
        )
