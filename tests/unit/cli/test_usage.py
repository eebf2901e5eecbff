"""Mistakes of the person at the keyboard end with 2, before anything is asked of a daemon or a file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ironpost", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["ban", "notanip"], "notanip"),
        (["unban", "203.0.113.7/40"], "203.0.113.7/40"),
        (["allow", "notanip"], "notanip"),
        (["ban", "203.0.113.7", "--for", "soon"], "soon"),
        (["allow", "203.0.113.7", "--for", "soon"], "soon"),
        (["detect", "/dev/null", "--timezone", "Mars"], "Mars"),
        (["detect", "/dev/null", "--format", "morse"], "morse"),
        (["detect", "/dev/null", "--year", "x"], "--year"),
        (["detect", "/dev/null", "--rules", "/nonexistent"], "/nonexistent"),
        (["parse", "/dev/null", "--timezone", "Mars"], "Mars"),
        (["rules", "check", "/nonexistent"], "/nonexistent"),
    ],
)
def test_a_slip_ends_with_2_and_is_named(arguments, word):
    reply = run(*arguments)
    assert reply.returncode == 2, reply.stderr
    assert word in reply.stderr
    assert "Traceback" not in reply.stderr


@pytest.fixture
def broken(tmp_path):
    """A configuration without a mistake that names a rule and a policy with one each."""
    for name in ("rules", "policies"):
        (tmp_path / name).mkdir()
    (tmp_path / "rules" / "half.yml").write_text("title: half a rule\n")
    (tmp_path / "policies" / "half.toml").write_text("id = \n")
    config = tmp_path / "ironpost.toml"
    config.write_text(
        f'[general]\ndata_dir = "{tmp_path}/data"\n[log_pipeline]\nrule_dir = "{tmp_path}/rules"\n'
        f'[container]\npolicy_path = "{tmp_path}/policies"\n'
    )
    return config


COMMANDS = pytest.mark.parametrize("command", [["config", "validate"], ["start", "--validate"]])


@COMMANDS
def test_what_a_start_would_refuse_is_not_called_valid(broken, command):
    reply = run(*command, "--config", str(broken))
    assert reply.returncode == 2
    assert "half.yml:1" in reply.stderr
    assert "half.toml:1" in reply.stderr
    assert reply.stdout == f"{broken}: refused: 2; 0 rules, 0 policies\n"
    found = json.loads(run(*command, "--json", "--config", str(broken)).stdout)
    assert (found["valid"], found["rules"], found["policies"]) == (False, 0, 0)
    assert {error["path"].rpartition("/")[2] for error in found["errors"]} == {"half.yml", "half.toml"}


@COMMANDS
def test_a_mistake_in_the_configuration_is_told_the_same_way(broken, command):
    broken.write_text("[general]\nmode = 3\n")
    reply = run(*command, "--config", str(broken))
    assert reply.returncode == 2
    assert f"{broken}:2" in reply.stderr
    assert reply.stdout == f"{broken}: refused: 1\n"
    assert json.loads(run(*command, "--json", "--config", str(broken)).stdout)["errors"][0]["field"] == "general.mode"


@COMMANDS
def test_what_is_whole_is_valid(tmp_path, command):
    config = tmp_path / "ironpost.toml"
    config.write_text(f'[general]\ndata_dir = "{tmp_path}/data"\n')
    reply = run(*command, "--config", str(config))
    assert reply.returncode == 0, reply.stderr
    assert reply.stdout.startswith(f"{config}: valid; ")
