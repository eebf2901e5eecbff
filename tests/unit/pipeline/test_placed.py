"""A start is over when the beginning of each new file is stored: a kill from then on loses no line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ironpost.storage import StoreReader


def test_a_daemon_that_says_it_watches_has_stored_where_each_file_begins(tmp_path: Path) -> None:
    logs = [tmp_path / f"auth{number}.log" for number in range(3)]
    for log in logs:
        log.write_text("Nov 20 10:00:00 web cron[1]: before\n")
    config = tmp_path / "ironpost.toml"
    config.write_text(
        f'[general]\ndata_dir = "{tmp_path}/data"\npid_file = ""\n'
        f'[log_pipeline]\nsources = ["file"]\nwatch_paths = {json.dumps([str(log) for log in logs])}\n'
        f'watch_roots = ["{tmp_path}"]\n'
    )
    command = [sys.executable, "-m", "ironpost", "start", "--json", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as daemon:
        assert daemon.stdout is not None
        assert "started" in json.loads(daemon.stdout.readline())
        daemon.kill()
    with StoreReader(tmp_path / "data" / "ironpost.db") as reader:
        stored = reader.checkpoints()
    assert set(stored) == {f"file:{log}" for log in logs}
