"""`ironpost.parse`: what goes in, what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ironpost
from ironpost.errors import ParseError
from ironpost.events import parse

LINE = b"Nov 20 18:54:46 web sshd[9]: Failed password for bob from 192.0.2.7 port 4242 ssh2"


def test_bytes_a_path_and_lines_give_the_same_rows(tmp_path: Path) -> None:
    file = tmp_path / "auth.log"
    file.write_bytes(LINE + b"\n\n" + LINE + b"\r\n")
    batches = [
        parse(file.read_bytes(), year=2026),
        parse(file, year=2026),
        parse(str(file), year=2026),
        parse(bytearray(file.read_bytes()), year=2026),
    ]
    assert {batch.to_ndjson() for batch in batches} == {batches[0].to_ndjson()}
    assert len(batches[0]) == 2
    lines = parse([LINE, LINE.decode()], year=2026)
    assert [lines.row(index) for index in range(2)] == [batches[0].row(0)] * 2


def test_a_row_is_an_ecs_dict() -> None:
    row = parse(LINE, year=2026).row(-1)
    assert row == {
        "@timestamp": "2026-11-20T18:54:46Z",
        "event.format": "syslog",
        "event.original": LINE.decode(),
        "log.syslog.hostname": "web",
        "host.hostname": "web",
        "log.syslog.appname": "sshd",
        "process.name": "sshd",
        "log.syslog.procid": "9",
        "process.pid": 9,
        "message": "Failed password for bob from 192.0.2.7 port 4242 ssh2",
        "event.action": "ssh_login",
        "event.category": "authentication",
        "event.outcome": "failure",
        "event.method": "password",
        "user.name": "bob",
        "source.ip": "192.0.2.7",
        "source.port": 4242,
    }


def test_rows_columns_and_ndjson_agree() -> None:
    batch = parse([LINE, b'{"a":{"b":[1,2.5,"x",null,true]}}', b"\xff"], year=2026)
    rows = [json.loads(line) for line in batch.to_ndjson().splitlines()]
    assert rows == [batch.row(index) for index in range(3)]
    assert rows[1]["a.b"] == [1, 2.5, "x", None, True]
    assert rows[2]["event.original_base64"] == "/w=="
    assert set(batch.schema) == {name for row in rows for name in row}
    assert batch.column("source.ip") == ["192.0.2.7", None, None]
    assert batch.column("nothing") == [None] * 3
    for index in (3, -4):
        with pytest.raises(IndexError):
            batch.row(index)


def test_a_newline_inside_a_record_is_data() -> None:
    batch = parse([b"Nov 20 18:54:46 web app[9]: one\nNov 20 18:54:46 web sshd[9]: two"])
    assert len(batch) == 1
    assert batch.row(0)["process.name"] == "app"


def test_bytes_that_python_read_as_surrogates_go_back_to_bytes() -> None:
    row = parse([b"caf\xe9".decode("utf-8", "surrogateescape")]).row(0)
    assert row["event.original_base64"] == "Y2Fm6Q=="


def test_year_and_zone_complete_a_timestamp() -> None:
    line = b"Jul  4 12:00:00 web app: x"
    assert parse(line, year=2020, timezone="Europe/Berlin").row(0)["@timestamp"] == "2020-07-04T10:00:00Z"
    assert parse(line, year=2020).row(0)["@timestamp"] == "2020-07-04T12:00:00Z"


def test_what_can_not_be_used_is_named() -> None:
    with pytest.raises(ParseError, match="`xml` is not known; formats are auto, syslog"):
        parse(LINE, format="xml")
    with pytest.raises(ParseError, match="`cef` is not read by this version"):
        parse(LINE, format="cef")
    with pytest.raises(ParseError, match="`Mars/Olympus` is no time zone") as caught:
        parse(LINE, timezone="Mars/Olympus")
    assert "Europe/Berlin" in caught.value.hint
    with pytest.raises(ParseError, match="no such file") as caught:
        parse(LINE.decode())
    assert "bytes" in caught.value.hint


def test_the_package_offers_parse() -> None:
    assert ironpost.parse is parse
