"""``stop --detach`` without a daemon: what it says and how it ends."""

from __future__ import annotations

import json
import os

import pytest
from typer.testing import CliRunner

from ironpost.cli.app import app
from ironpost.errors import PrivilegeMissing
from ironpost.pipeline import native


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Runs ``stop --detach`` on an empty host whose pins belong in ``tmp_path/pins``."""
    config = tmp_path / "ironpost.toml"
    config.write_text(f'[general]\ndata_dir = "{tmp_path}/data"\n[ebpf]\npin_dir = "{tmp_path}/pins"\n')
    removed = []

    class Filter:
        @staticmethod
        def detach_pins(pin_dir):
            removed.append(pin_dir)

    monkeypatch.setattr(native._core, "Filter", Filter)

    def ask(*more):
        reply = CliRunner().invoke(app, ["stop", "--detach", "--config", str(config), *more])
        return reply, removed

    return ask


def test_it_names_the_interfaces_it_took_the_filter_off(asked, tmp_path):
    (tmp_path / "pins").mkdir()
    for name in ("PROGRAM", "link_1", "link_999999"):
        (tmp_path / "pins" / name).touch()
    reply, removed = asked()
    assert reply.exit_code == 0
    assert reply.stdout == "no daemon runs; the packet filter was taken off lo, interface 999999\n"
    assert removed == [str(tmp_path / "pins")]
    assert json.loads(asked("--json")[0].stdout) == {"stopped": False, "pid": None, "detached": True}


@pytest.mark.parametrize("made", [False, True])
def test_where_nothing_is_pinned_it_says_so(asked, tmp_path, made):
    if made:
        (tmp_path / "pins").mkdir()
    reply, removed = asked()
    assert reply.exit_code == 0
    assert reply.stdout == f"no daemon runs, and no packet filter is pinned in {tmp_path}/pins: nothing to take off\n"
    assert removed == []
    assert json.loads(asked("--json")[0].stdout) == {"stopped": False, "pid": None, "detached": False}


def test_who_may_not_look_is_told_to_be_root(asked, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    reply, removed = asked()
    assert isinstance(reply.exception, PrivilegeMissing)
    assert "root" in reply.exception.hint
    assert removed == []
