"""Files as they come: cut, damaged, misnamed, with a byte order mark, in UTF-16, with headings."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from ironpost.cli.reading import Reading, all_pieces, read_pieces
from ironpost.errors import InputError

LINES = "".join(
    f"Nov 20 10:{n // 60:02}:{n % 60:02} web sshd[{n}]: Failed password for root from 203.0.113.7 port {n * 7919}\n"
    for n in range(3000)
).encode()
EVENT = {"Image": "C:\\x\\a.exe", "User": "Jörg"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ironpost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("name", "pack"), [("a.log.gz", gzip.compress), ("a.log.bz2", bz2.compress), ("a.log.xz", lzma.compress)]
)
def test_what_came_before_the_cut_is_read(tmp_path: Path, name: str, pack: object) -> None:
    whole = pack(LINES)  # type: ignore[operator]
    file = tmp_path / name
    file.write_bytes(whole[: len(whole) * 3 // 4] if name != "a.log.bz2" else whole + whole[: len(whole) // 2])
    read, problems = b"", []
    for piece in all_pieces([str(file)], Reading(), problems):
        read += piece.data
    assert LINES.startswith(read[: len(LINES)])
    assert len(read) > 1000
    assert [(one.path, one.reason) for one in problems] == [(str(file), "ends too early (compressed data is cut)")]


def test_detect_and_parse_name_a_cut_file_and_still_judge(tmp_path: Path) -> None:
    file, other = tmp_path / "cut.log.gz", tmp_path / "other.log"
    file.write_bytes(gzip.compress(LINES)[:-2000])
    other.write_text("Nov 20 09:00:00 web sshd[9]: hello\n")
    said = f"{file} — ends too early (compressed data is cut)"
    for files in ((str(file),), (str(file), str(other))):
        reply = run("detect", "--brief", "--year", "2026", *files)
        assert "ssh_brute_force" in reply.stdout
        assert said in reply.stderr
        assert reply.returncode == 10
    assert run("detect", "--year", "2026", "--fail-on", "low", str(file)).returncode == 4
    reply = run("parse", str(file))
    assert (reply.returncode, reply.stdout.count("\n") > 100) == (10, True)
    assert said in reply.stderr


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.log.gz", b"Nov 20 10:00:00 web x: y\n", "is no gzip file in spite of its name"),
        ("a.log.gz", b"", "is empty, not even a compressed file"),
        ("a.log.xz", b"x\n", "is no xz file in spite of its name"),
        ("a.log", b"\x28\xb5\x2f\xfd\x04\x00", "is compressed by zstd, which is not read"),
        ("a.gz", b"PK\x03\x04aaaa", "is a zip archive, which is not read"),
        ("a.evtx", b"ElfFile\x00aaaa", "is a Windows event log (EVTX), which is not read"),
    ],
)
def test_what_is_no_log_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_pieces(str(file)))
    assert caught.value.reason == reason
    assert caught.value.exit_code == 10
    assert caught.value.hint


def test_damaged_data_is_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(LINES))
    packed[-6] ^= 0xFF  # the checksum
    file = tmp_path / "a.gz"
    file.write_bytes(packed)
    with pytest.raises(InputError, match="damaged compressed data"):
        list(read_pieces(str(file)))


def test_byte_order_marks_are_no_text(tmp_path: Path) -> None:
    text = "".join(json.dumps(EVENT, ensure_ascii=False) + "\r\n" for _ in range(3))
    for mark, encoding, offset in (
        (codecs.BOM_UTF8, "utf-8", 3),
        (codecs.BOM_UTF16_LE, "utf-16-le", -1),
        (codecs.BOM_UTF16_BE, "utf-16-be", -1),
    ):
        file = tmp_path / "events.json"
        file.write_bytes(mark + text.encode(encoding))
        [piece] = read_pieces(str(file))
        assert piece.data == text.encode()
        assert Reading().is_events(piece.data)
        assert [piece.place(n)[1] for n in range(3)] == [1, 2, 3]
        assert piece.place(0)[2] == offset


def test_a_character_cut_by_the_end_of_a_piece_is_whole(tmp_path: Path) -> None:
    """Pieces are 4 MiB; a mark of two bytes and characters of four lie across the edge."""
    text = "\U0001f600" * 100 + "\n"
    file = tmp_path / "wide.log"
    file.write_bytes(codecs.BOM_UTF16_LE + (text * 15_000).encode("utf-16-le"))
    assert b"".join(piece.data for piece in read_pieces(str(file))) == (text * 15_000).encode()


@pytest.mark.parametrize("indent", [None, 2])
def test_headings_above_events_are_skipped(tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "dump.json"
    file.write_text("".join(f"Record {n}\n{json.dumps(EVENT | {'n': n}, indent=indent)}\n" for n in range(1, 4)))
    [piece] = read_pieces(str(file))
    assert [json.loads(line)["n"] for line in piece.data.splitlines()] == [1, 2, 3]
    size = 2 if indent is None else 6
    assert [piece.place(n)[1] for n in range(3)] == [2, 2 + size, 2 + 2 * size]
