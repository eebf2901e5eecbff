"""Directories in use on this host, with their fall-backs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ironpost.config import client_sockets, decide_places, load, make_private_directory, packaged
from ironpost.errors import ConfigError


def loaded_from(tmp_path, text):
    path = tmp_path / "ironpost.toml"
    path.write_text(text)
    return load(path, environment={})


def test_an_explicit_data_directory_also_holds_socket_and_pid_file(tmp_path):
    places = decide_places(loaded_from(tmp_path, f'[general]\ndata_dir = "{tmp_path}/state"\n'), environment={})
    assert places.control_socket == tmp_path / "state/control.sock"
    assert places.pid_file == tmp_path / "state/ironpost.pid"
    assert places.notices == ()


def test_an_empty_pid_file_means_none(tmp_path):
    assert decide_places(loaded_from(tmp_path, '[general]\npid_file = ""\n'), environment={}).pid_file is None


def test_rules_that_come_with_ironpost_are_used_when_none_are_installed(tmp_path):
    places = decide_places(loaded_from(tmp_path, ""), environment={})
    assert places.rule_dirs == (packaged("rules"),)
    assert places.field_map_dirs == ()  # the shipped ones apply anyway


def test_the_operators_field_maps_are_read_where_the_configuration_says(tmp_path):
    (tmp_path / "maps").mkdir()
    loaded = loaded_from(tmp_path, f'[log_pipeline]\nfield_map_dir = "{tmp_path}/maps"\n')
    assert decide_places(loaded, environment={}).field_map_dirs == (tmp_path / "maps",)


def test_the_operators_extractors_are_read_where_the_configuration_says(tmp_path):
    (tmp_path / "own").mkdir()
    loaded = loaded_from(tmp_path, f'[log_pipeline]\nextractor_dir = "{tmp_path}/own"\n')
    assert decide_places(loaded, environment={}).extractor_dirs == (tmp_path / "own",)
    assert decide_places(loaded_from(tmp_path, ""), environment={}).extractor_dirs == ()


@pytest.mark.parametrize(
    "key",
    ["log_pipeline.rule_dir", "log_pipeline.field_map_dir", "log_pipeline.extractor_dir", "container.policy_path"],
)
def test_an_explicit_directory_that_is_missing_is_an_error_naming_the_key(tmp_path, key):
    section, _, name = key.partition(".")
    loaded = loaded_from(tmp_path, f'[{section}]\n{name} = "{tmp_path}/none"\n')
    with pytest.raises(ConfigError, match="not found") as caught:
        decide_places(loaded, environment={})
    assert caught.value.field == key


def test_a_client_of_the_same_configuration_finds_the_daemons_socket(tmp_path):
    loaded = loaded_from(tmp_path, f'[general]\ndata_dir = "{tmp_path}/state"\n')
    assert client_sockets(loaded, environment={}) == (decide_places(loaded, environment={}).control_socket,)


PROBE = """
import os
from pathlib import Path
from ironpost.config import decide_places, load, make_private_directory
places = decide_places(load(environment={}, default_path=Path("/nonexistent")), environment=ENVIRONMENT)
make_private_directory(places.data_dir)
print(places.data_dir)
print(places.pid_file)
print(*places.notices)
"""


@pytest.mark.root
@pytest.mark.parametrize("with_home", [True, False])
def test_a_user_without_the_host_directory_gets_a_private_one_and_a_notice(tmp_path, with_home):
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to("/tmp/pytest-of-root") or parent.name.startswith("pytest-of"):
            parent.chmod(parent.stat().st_mode | 0o055)
    environment = {"XDG_STATE_HOME": str(home)} if with_home else {"HOME": "/nonexistent"}
    script = PROBE.replace("ENVIRONMENT", repr(environment))
    reply = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]},
    )
    directory, pid_file, notice = reply.stdout.strip().split("\n")
    assert directory == (f"{home}/ironpost" if with_home else "/tmp/ironpost-65534")
    assert pid_file == f"{directory}/ironpost.pid"
    assert "not writable" in notice


def test_a_directory_planted_by_somebody_else_is_refused(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "ironpost-0").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="another user"):
        make_private_directory(shared / "ironpost-0")
