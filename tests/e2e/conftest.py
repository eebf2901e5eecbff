"""A host of one's own for every black-box test."""

from __future__ import annotations

import contextlib

import pytest

from support.host import Host


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path).configure()
    yield host
    if host.process is not None and host.process.poll() is None:
        host.process.kill()
        host.process.wait(10)


@pytest.fixture
def open_to_others(tmp_path):
    """Lets an unprivileged user walk to the test's directory."""
    for directory in (tmp_path, *tmp_path.parents):
        if str(directory).startswith("/tmp/"):
            with contextlib.suppress(PermissionError):
                directory.chmod(directory.stat().st_mode | 0o055)
    return tmp_path
