"""`rules` and `detect` as their users run them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ironpost.storage import CommitUnit, Store
from support.response import detection

ROOT = Path(__file__).parents[3]
FAILED = "Nov 20 10:00:0{0} web sshd[9]: Failed password for root from 203.0.113.7 port 4{0} ssh2\n"
RULE = """\
title: Encoded command
id: encoded_command
level: high
tags: [attack.t1059.001]
logsource: {product: windows, category: process_creation}
detection:
  img: {Image|endswith: ['\\powershell.exe', '\\pwsh.exe']}
  arg: {CommandLine|contains: ' -enc '}
  filter: {User|startswith: 'NT AUTHORITY'}
  condition: img and arg and not filter
---
title: Three encoded commands
id: three_encoded
level: critical
correlation: {type: event_count, rules: encoded_command, group-by: User, timespan: 5m, condition: {gte: 3}}
"""
HIT = {
    "@timestamp": "2026-11-20T10:00:00Z",
    "Image": "C:\\x\\PowerShell.exe",
    "CommandLine": "p -enc QQ",
    "User": "bob",
}
SOURCE = "product=windows,category=process_creation"


def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ironpost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=text, check=False, timeout=60)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "enc.yml").write_text(RULE)
    return folder


def test_check_ends_with_1_on_errors_and_on_warnings_when_strict(rules: Path) -> None:
    reply = run("rules", "check", str(rules))
    assert reply.returncode == 0, reply.stderr
    *findings, summary = reply.stdout.splitlines()
    assert summary.startswith("2 loaded, 0 refused, ")
    assert any(line.endswith("[missing-status]") for line in findings)
    assert "[missing-status]" not in reply.stderr
    assert run("rules", "check", "--strict", str(rules)).returncode == 1
    (rules / "bad.yml").write_text("title: x\nlogsource: {product: x}\ndetection: {a: {b|nope: 1}, condition: a}\n")
    reply = run("rules", "check", "--json", str(rules))
    found = json.loads(reply.stdout)
    assert reply.returncode == 1
    assert [(one["path"], one["line"], one["code"]) for one in found["errors"]] == [
        (str(rules / "bad.yml"), 3, "refused")
    ]


def test_detect_shows_what_held_and_where(rules: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.ndjson"
    harmless = {**HIT, "User": "NT AUTHORITY\\SYSTEM"}
    events.write_text(f"{json.dumps(harmless)}\n\n{json.dumps(HIT)}\n")
    text = RULE.replace("id: encoded_command\n", "id: encoded_command\nironpost: {emit: true}\n")
    (rules / "enc.yml").write_text(text)
    reply = run("detect", "--rules", str(rules), "--logsource", SOURCE, "--json", str(events))
    [found] = [json.loads(line) for line in reply.stdout.splitlines()]
    assert (found["rule_id"], found["file"], found["line"]) == ("encoded_command", str(events), 3)
    assert found["offset"] == len(json.dumps(harmless)) + 2
    assert [(one["selection"], one["op"], one["pattern"], one["value"]) for one in found["matched"]] == [
        ("img", "endswith", "\\powershell.exe", HIT["Image"]),
        ("arg", "contains", " -enc ", HIT["CommandLine"]),
    ]
    assert found["tags"] == ["attack.t1059.001"]
    shown = run("detect", "--rules", str(rules), "--logsource", SOURCE, str(events)).stdout
    assert f"{events}:3  T1059.001\n" in shown
    assert "img: Image endswith \\powershell.exe  ← C:\\x\\PowerShell.exe\n" in shown


@pytest.mark.parametrize(("level", "code"), [("critical", 0), ("high", 4), ("low", 4)])
def test_detect_fails_on_findings_of_a_level(tmp_path: Path, level: str, code: int) -> None:
    log = tmp_path / "auth.log"
    log.write_text("".join(FAILED.format(number) for number in range(6)))
    reply = run("detect", "--year", "2026", "--fail-on", level, str(log))
    assert reply.returncode == code, reply.stderr
    assert "ssh_brute_force" in reply.stdout


def test_detect_reads_several_files_in_order_of_time(tmp_path: Path) -> None:
    """No file alone has five failures; in order of time they are five within the minute."""
    one, two = tmp_path / "one.log", tmp_path / "two.log.gz"
    one.write_text("".join(FAILED.format(number) for number in (0, 2, 4)))
    two.write_bytes(gzip.compress("".join(FAILED.format(number) for number in (1, 3)).encode()))
    reply = run("detect", "--json", "--year", "2026", str(two), str(one))
    [found] = [json.loads(line) for line in reply.stdout.splitlines()]
    assert (found["rule_id"], found["file"], found["line"]) == ("ssh_brute_force", str(one), 3)
    assert [line.split()[2][-1] for line in found["evidence"]] == ["0", "1", "2", "3", "4"]


def test_detect_reads_the_journal_lists_and_indented_json(rules: Path, tmp_path: Path) -> None:
    entry = {
        "MESSAGE": "Failed password for root from 203.0.113.7 port 4 ssh2",
        "SYSLOG_IDENTIFIER": "sshd",
        "_PID": "9",
    }
    start = 1_795_000_000_000_000
    journal = "".join(
        json.dumps({**entry, "_HOSTNAME": "web", "__REALTIME_TIMESTAMP": str(start + number)}) + "\n"
        for number in range(5)
    )
    reply = run("detect", "--json", "-", text=journal)
    assert [json.loads(line)["rule_id"] for line in reply.stdout.splitlines()] == ["ssh_brute_force"], reply.stderr
    for text in (json.dumps([HIT] * 3), json.dumps([HIT] * 3, indent=2), json.dumps(HIT, indent=2) * 3):
        reply = run("detect", "--json", "--rules", str(rules), "--logsource", SOURCE, "-", text=text)
        assert [json.loads(line)["rule_id"] for line in reply.stdout.splitlines()] == ["three_encoded"], reply.stderr


def test_detect_escapes_what_an_attacker_wrote(rules: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.ndjson"
    events.write_text(json.dumps({**HIT, "CommandLine": "\x1b]0;owned\x07 -enc \u202e"}) * 1 + "\n")
    (rules / "enc.yml").write_text(RULE.partition("---")[0])
    reply = run("detect", "--rules", str(rules), "--logsource", SOURCE, str(events))
    assert "-enc" in reply.stdout
    assert "\x1b" not in reply.stdout
    assert "\u202e" not in reply.stdout


def test_explain_names_what_held_and_what_failed(rules: Path) -> None:
    event = json.dumps({**HIT, "CommandLine": "whoami"})
    reply = run("rules", "explain", event, "--rules", str(rules), "--logsource", SOURCE)
    assert reply.returncode == 0, reply.stderr
    assert "1 of 1 rules are for it, 0 match" in reply.stdout
    assert "1 missing  encoded_command" in reply.stdout
    assert "✓ Image endswith \\powershell.exe  ← C:\\x\\PowerShell.exe" in reply.stdout
    assert "✗ CommandLine contains ' -enc '  — the event has whoami" in reply.stdout


def test_explain_says_which_correlation_a_match_counts_for(rules: Path) -> None:
    reply = run("rules", "explain", "-", "--rules", str(rules), "--logsource", SOURCE, "--json", text=json.dumps(HIT))
    [explained] = [json.loads(line) for line in reply.stdout.splitlines()]
    [rule] = explained["rules"]
    assert (rule["id"], rule["holds"], rule["routed"]) == ("encoded_command", True, True)
    assert [(feed["id"], feed["group"]) for feed in rule["feeds"]] == [("three_encoded", {"User": "bob"})]


def test_explain_says_why_a_rule_was_not_asked(rules: Path) -> None:
    arguments = ("--rules", str(rules), "--logsource", "product=linux,category=process_creation")
    reply = run("rules", "explain", json.dumps(HIT), *arguments)
    assert "NOT ASKED  encoded_command" in reply.stdout
    assert "the event's product is another" in reply.stdout


def test_explain_of_a_rule_that_is_not_there_names_the_nearest(rules: Path) -> None:
    reply = run("rules", "explain", "{}", "--rules", str(rules), "--rule", "encoded_comand")
    assert reply.returncode == 2
    assert "did you mean 'encoded_command'?" in reply.stderr


CASES = """\
# Cases of enc.yml.
- name: an encoded command
  rule: encoded_command
  event: {Image: 'C:\\pwsh.exe', CommandLine: 'pwsh -enc QQ'}
  logsource: {product: windows, category: process_creation}
- name: the system itself
  rule: encoded_command
  event: {Image: 'C:\\pwsh.exe', CommandLine: 'pwsh -enc QQ', User: 'NT AUTHORITY\\SYSTEM'}
  expect: no-match
- rule: three_encoded
  events:
    - {Image: '\\pwsh.exe', CommandLine: 'x -enc ', User: a}
    - {Image: '\\pwsh.exe', CommandLine: 'y -enc ', User: a}
    - {Image: '\\pwsh.exe', CommandLine: 'z -enc ', User: a}
  count: 1
"""


def test_cases_beside_a_rule_run(rules: Path) -> None:
    (rules / "enc.test.yml").write_text(CASES)
    reply = run("rules", "test", str(rules))
    assert reply.returncode == 0, reply.stdout + reply.stderr
    assert reply.stdout == (
        "ok   encoded_command: 2 of 2 cases\nok   three_encoded: 1 of 1 cases\n"
        "3 passed, 0 failed, 0 rules without cases\n"
    )
    # The case file is no rule.
    assert json.loads(run("rules", "check", "--json", str(rules)).stdout)["refused"] == []


def test_a_case_that_fails_says_which_condition(rules: Path) -> None:
    (rules / "enc.test.yml").write_text(CASES.replace("pwsh -enc QQ'}", "pwsh -c ls'}").replace("count: 1", "count: 2"))
    reply = run("rules", "test", str(rules))
    assert reply.returncode == 1
    assert "FAIL encoded_command: 1 of 2 cases" in reply.stdout
    assert f"{rules}/enc.test.yml:2 an encoded command should match: event 1 of 1 does not match" in reply.stdout
    assert "✗ CommandLine contains ' -enc '  — the event has pwsh -c ls" in reply.stdout
    assert "1 detections instead of 2; matches of what it counts: encoded_command 3" in reply.stdout


def test_a_folder_of_cases_must_match_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "root.yml").write_text(
        "title: r\nid: r\nlogsource: {product: linux}\ndetection: {s: {message|contains: root}, condition: s}\n"
    )
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "match.log").write_text(FAILED.format(1) + FAILED.format(2).replace("root", "bob"))
    (tmp_path / "root" / "nomatch.ndjson").write_text('{"message": "nobody"}\n')
    reply = run("rules", "test", str(tmp_path))
    assert reply.returncode == 1
    assert "FAIL r: 1 of 2 cases" in reply.stdout
    assert "event 2 of 2 does not match" in reply.stdout


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("- {name: a, event: {x: 1}, expekt: match, rule: encoded_command}\n", 1, "expekt"),
        ("- {name: a, rule: encoded_command}\n", 1, "one of event"),
        ("- {name: a, event: {x: 1}}\n", 1, "several rules"),
        ("- {rule: encoded_command, line: x}\n- {rule: nope, line: x}\n", 2, "nope"),
        ("- {rule: encoded_command, file: ../../etc/passwd}\n", 1, "beside"),
        ("- {rule: encoded_command, line: x, line: y}\n", 1, "twice"),
    ],
)
def test_a_case_that_can_not_be_used_is_named_by_line(rules: Path, text: str, line: int, word: str) -> None:
    text = text.replace("several", "")
    if word == "several rules":
        (rules / "enc.yml").write_text(
            RULE.replace("id: encoded_command\n", "id: encoded_command\nironpost: {emit: true}\n")
        )
    (rules / "enc.test.yml").write_text(text)
    reply = run("rules", "test", str(rules))
    assert reply.returncode == 1
    assert f"error: {rules}/enc.test.yml:{line} — " in reply.stderr
    assert word in reply.stderr


def test_the_shipped_rules_pass_their_cases() -> None:
    reply = run("rules", "test", str(ROOT / "rules"), "--cases", str(ROOT / "tests/rules"), "--year", "2026", "--json")
    found = json.loads(reply.stdout)
    assert reply.returncode == 0, found
    assert found["failed"] == 0
    assert found["passed"] >= 50
    assert found["untested"] == []


def test_list_filters_and_says_what_is_unfed(rules: Path, tmp_path: Path) -> None:
    (rules / "syslog.yml").write_text(
        "title: s\nid: s\nlevel: low\nstatus: test\nlogsource: {product: linux}\n"
        "detection: {a: {message|contains: x}, condition: a}\n"
    )

    def ids(*options: str) -> set[str]:
        reply = run("rules", "list", "--json", "--data-dir", str(tmp_path / "none"), *options, str(rules))
        return {one["id"] for one in json.loads(reply.stdout)["rules"]}

    assert ids() == {"encoded_command", "three_encoded", "s"}
    assert ids("--level", "high", "--level", "low") == {"encoded_command", "s"}
    assert ids("--status", "test") == {"s"}
    assert ids("--tag", "attack.t1059") == {"encoded_command"}
    assert ids("--search", "ENCODED") == {"encoded_command", "three_encoded"}
    assert ids("--fed") | ids("--unfed") == ids()
    assert "s" in ids("--fed")


def test_hits_of_the_daemon_are_counted_by_rule(rules: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "data" / "ironpost.db") as store:
        store.commit(CommitUnit([detection(number, rule_id="encoded_command") for number in (1, 2, 3)]))
    reply = run("rules", "list", "--json", "--data-dir", str(tmp_path / "data"), str(rules))
    hits = {one["id"]: (one["hits"], one["last_hit"]) for one in json.loads(reply.stdout)["rules"]}
    assert hits == {"encoded_command": (3, detection(3).timestamp), "three_encoded": (0, None)}
    shown = run("rules", "show", "encoded_command", "--rules", str(rules), "--data-dir", str(tmp_path / "data")).stdout
    assert "hits        3, last " in shown
    assert "203.0.113.7 x3\n" in shown


def test_show_tells_how_a_rule_was_lowered(rules: Path, tmp_path: Path) -> None:
    reply = run("rules", "show", "Encoded command", "--rules", str(rules), "--data-dir", str(tmp_path / "none"))
    assert reply.returncode == 0, reply.stderr
    assert f"{rules}/enc.yml:1\n" in reply.stdout
    assert "counted by  three_encoded\n" in reply.stdout
    assert "arg:\n  CommandLine contains ' -enc '\n" in reply.stdout


@pytest.mark.slow
def test_the_public_rules_are_imported_checked_and_explained(tmp_path: Path) -> None:
    """On the real collection: all is accounted for, and an event is explained by rules it is known to hit."""
    archive = ROOT.parent / "shared" / "data" / "sigmahq-rules.tar.xz"
    if not archive.exists():
        pytest.skip(f"the public Sigma rules are not at {archive}")
    target = tmp_path / "rules"
    reply = run("rules", "import", str(archive), "--to", str(target), "--json")
    found = json.loads(reply.stdout)
    assert found["files"] == 3780
    assert found["passed"] + len(found["refused"]) + len(found["broad"]) == 3780
    assert [rule["title"] for rule in found["broad"]] == ["Publicly Accessible RDP Service"]
    assert all("placeholder" in one["reason"] for one in found["refused"])
    assert len(found["changes"]["added"]) == found["passed"]
    again = json.loads(run("rules", "import", str(archive), "--to", str(target), "--json").stdout)["changes"]
    assert (again["added"], again["updated"], again["unchanged"]) == ([], [], found["passed"])
    checked = json.loads(run("rules", "check", "--json", str(target)).stdout)
    assert (checked["loaded"], checked["errors"]) == (found["passed"], [])
    # Hundreds of authors' reviewed rules: warnings must be the exception.
    assert 0 < len(checked["warnings"]) < found["passed"] / 20
    event = {**HIT, "CommandLine": "powershell.exe -nop -w hidden -enc SQBFAFgA", "ParentImage": "C:\\x\\winword.exe"}
    reply = run("rules", "explain", json.dumps(event), "--rules", str(target), "--logsource", SOURCE, "--json")
    [explained] = [json.loads(line) for line in reply.stdout.splitlines()]
    titles = {rule["title"] for rule in explained["rules"] if rule["holds"] and rule["routed"]}
    assert "Suspicious Microsoft Office Child Process" in titles
