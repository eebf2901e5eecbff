"""Lines that a real sshd and su wrote (see tests/data/auth/SOURCES.md)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ironpost.events import EventBatch, parse

DATA = Path(__file__).parents[2] / "data" / "auth"
FILES = ["openssh-9.2-pam.log", "openssh-9.2-nopam.log", "openssh-9.2-kbd.log"]


def rows(batch: EventBatch) -> list[dict[str, object]]:
    return [batch.row(index) for index in range(len(batch))]


@pytest.mark.parametrize("name", FILES)
def test_no_source_address_comes_out_of_a_user_name(name: str) -> None:
    data = (DATA / name).read_bytes()
    assert b"203.0.113.9" in data
    sources = {row.get("source.ip") for row in rows(parse(data, year=2026))}
    # 192.0.2.1 is what `logger` wrote into the one line that is not sshd's.
    assert sources == {None, "127.0.0.1", "192.0.2.1"}


@pytest.mark.parametrize("name", FILES)
def test_every_line_that_ends_with_the_peer_names_it(name: str) -> None:
    peer = re.compile(r" 127\.0\.0\.1 port (\d+)( ssh2)?( \[preauth\])?$")
    seen = 0
    for row in rows(parse(DATA / name, year=2026)):
        if row.get("process.name") == "sshd" and (match := peer.search(str(row["message"]))):
            seen += 1
            assert (row.get("source.ip"), str(row.get("source.port"))) == ("127.0.0.1", match[1]), row["message"]
    assert seen > 40


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("openssh-9.2-pam.log", " Failed password for "),
        ("openssh-9.2-nopam.log", " Failed password for "),
        # With keyboard-interactive, sshd reports one password through PAM and, when the client then changes its
        # method, another one by itself.
        ("openssh-9.2-kbd.log", r" (error: PAM: Authentication failure|Failed password) for "),
    ],
)
def test_a_tried_password_counts_once(name: str, text: str) -> None:
    data = (DATA / name).read_text()
    tried = len(re.findall(text, data))
    counted = [
        row
        for row in rows(parse(data.encode(), year=2026))
        if (row.get("event.action"), row.get("event.outcome")) == ("ssh_login", "failure")
    ]
    assert tried > 15
    assert len(counted) == tried


@pytest.mark.parametrize("name", FILES)
def test_successes_are_the_accepted_logins(name: str) -> None:
    data = (DATA / name).read_text()
    accepted = [
        (row["event.method"], row["user.name"])
        for row in rows(parse(data.encode(), year=2026))
        if (row.get("event.action"), row.get("event.outcome")) == ("ssh_login", "success")
    ]
    assert accepted == re.findall(r"Accepted (\S+) for (\S+) from", data)
    assert len(accepted) == 2


def test_su_outcomes_name_both_users() -> None:
    found = [
        (row["event.outcome"], row["user.name"], row["user.effective.name"])
        for row in rows(parse(DATA / "openssh-9.2-pam.log", year=2026))
        if row.get("event.action") == "su"
    ]
    assert ("failure", "alice", "bob") in found
    assert ("success", "alice", "bob") in found
    assert ("failure", "alice", "root") in found


def test_terminal_escapes_stay_data() -> None:
    batch = parse(DATA / "openssh-9.2-nopam.log", year=2026)
    (row,) = [row for row in rows(batch) if row.get("process.name") == "evil"]
    assert row["message"] == "bidi \u202e and esc \x1b[31m"
    assert b"\x1b" not in batch.to_ndjson()
