"""Rules of the whole suite: what needs root says so, and a skip is a failure where everything must run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.register_profile("long", derandomize=False, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    """What runs with every change finds the same every time; the long rounds look for what is new."""
    settings.load_profile("long" if "long" in (config.getoption("markexpr") or "") else "repeatable")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("markexpr"):
        deselected = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=deselected)
    privileged = sys.platform == "linux" and os.geteuid() == 0
    for item in items:
        needs = [name for name in ("root", "netns", "docker") if item.get_closest_marker(name)]
        if needs and not privileged:
            item.add_marker(pytest.mark.skip(reason=f"needs root on Linux ({', '.join(needs)}): run make test as root"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a missing test."""
    if not os.environ.get("CI"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{len(skipped)} skipped in CI: every test must run there", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled packs of rules go where no later run finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
