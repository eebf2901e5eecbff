"""One daemon per place, whatever became of the one before."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import pytest

from ironpost.errors import IronpostError
from ironpost.pipeline.instance import AlreadyRunning, PidFile, PidFileRefused, running_pid, wait_until_gone

HOLD = """
import sys
from pathlib import Path
from ironpost.pipeline.instance import PidFile
PidFile(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def holder(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.stdin.close()
    process.stdout.close()
    process.wait(10)


def test_the_file_holds_our_id_for_us_alone_and_goes_with_us(tmp_path):
    path = tmp_path / "new" / "ironpost.pid"
    with PidFile(path).acquire():
        assert path.read_text() == f"{os.getpid()}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()


def test_a_second_daemon_is_refused_with_the_first_ones_id(tmp_path):
    path = tmp_path / "ironpost.pid"
    first = holder(path)
    with pytest.raises(AlreadyRunning, match=f"process {first.pid}") as caught:
        PidFile(path).acquire()
    assert caught.value.pid == running_pid(path) == first.pid
    end(first)


def test_the_file_of_a_killed_daemon_is_taken_over(tmp_path):
    path = tmp_path / "ironpost.pid"
    first = holder(path)
    first.send_signal(signal.SIGKILL)
    end(first)
    assert path.read_text() == f"{first.pid}\n"
    assert running_pid(path) == 0
    with PidFile(path).acquire():
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", ["1\n", f"{os.getpid()}\n", "99999999999\n", "rubbish", ""])
def test_a_file_nobody_holds_is_stale_whatever_it_says(tmp_path, content):
    path = tmp_path / "ironpost.pid"
    path.write_text(content)
    with PidFile(path).acquire():
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_link_is_refused_and_its_target_untouched(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "ironpost.pid").symlink_to(tmp_path / "precious")
    with pytest.raises(PidFileRefused, match="symbolic link"):
        PidFile(tmp_path / "ironpost.pid").acquire()
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_fifo_is_refused_without_waiting_for_its_other_end(tmp_path):
    os.mkfifo(tmp_path / "ironpost.pid")
    with pytest.raises(PidFileRefused, match="no regular file"):
        PidFile(tmp_path / "ironpost.pid").acquire()


def test_an_unwritable_place_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PidFileRefused, match="can't be written") as caught:
        PidFile(tmp_path / "file" / "ironpost.pid").acquire()
    assert "general.pid_file" in caught.value.hint
    assert caught.value.exit_code == 10


def test_waiting_ends_when_the_holder_ends_and_says_when_it_does_not(tmp_path):
    path = tmp_path / "ironpost.pid"
    first = holder(path)
    with pytest.raises(IronpostError, match="did not end"):
        wait_until_gone(path, seconds=0.05)
    end(first)
    wait_until_gone(path, seconds=5)
