"""`logs` as its users run it, and an extractor of one's own on its way there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXTRACTOR = """\
name: vault
match: {process.name: [vault]}
logsource: {product: linux, service: vault}
patterns:
  - id: denied
    pattern: 'access denied for {user.name:text} from {source.ip:ip}'
    set: {event.action: vault_access, event.outcome: failure}
cases:
  - line: "Nov 20 18:54:46 host vault[9]: access denied for x from 203.0.113.9 from 192.0.2.7"
    expect: {user.name: x from 203.0.113.9, source.ip: 192.0.2.7}
"""


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir(mode=0o755)
    (tmp_path / "own" / "vault.yml").write_text(EXTRACTOR)
    (tmp_path / "c.toml").write_text(f'[log_pipeline]\nextractor_dir = "{tmp_path}/own"\n')
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ironpost", *arguments], capture_output=True, text=True, check=False)


def test_own_extractors_are_tested_and_a_wrong_case_is_named(configured: Path) -> None:
    done = run("logs", "test", "--config", f"{configured}/c.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 failed, 0 refused" in done.stdout
    (configured / "own" / "vault.yml").write_text(EXTRACTOR.replace("source.ip: 192.0.2.7", "source.ip: 203.0.113.9"))
    done = run("logs", "test", "--config", f"{configured}/c.toml")
    assert done.returncode == 1
    assert f"FAIL {configured}/own/vault.yml:9 — source.ip is '192.0.2.7'" in done.stdout


def test_a_bad_or_doubtful_extractor_is_refused_and_the_others_work(configured: Path) -> None:
    (configured / "own" / "bad.yml").write_text("name: [\n")
    (configured / "own" / "open.yml").write_text(EXTRACTOR.replace("name: vault", "name: open", 1))
    (configured / "own" / "open.yml").chmod(0o666)
    done = run("logs", "test", "--config", f"{configured}/c.toml")
    assert done.returncode == 1
    assert f"error: {configured}/own/bad.yml:" in done.stderr
    assert f"{configured}/own/open.yml is writable by everybody" in done.stderr
    assert "0 failed, 2 refused" in done.stdout
    checked = run("config", "validate", "--config", f"{configured}/c.toml")
    assert checked.returncode != 0
    assert "own/bad.yml:" in checked.stdout + checked.stderr


def test_a_line_is_explained_from_its_format_to_the_rules(configured: Path) -> None:
    line = "Nov 20 18:54:46 host vault[9]: access denied for bob from 192.0.2.7"
    done = run("logs", "explain", line, "--config", f"{configured}/c.toml")
    assert done.returncode == 0, done.stderr
    assert "format: syslog" in done.stdout
    assert f"extractor: vault ({configured}/own/vault.yml)" in done.stdout
    assert "source.ip: 192.0.2.7" in done.stdout
    assert "product linux, service vault" in done.stdout
    assert "extractor: none" in run("logs", "explain", "no such shape", "--config", f"{configured}/c.toml").stdout
