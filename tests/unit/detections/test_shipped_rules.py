"""Every shipped rule fires on the real lines kept beside it, and stays silent on those that only look alike."""

import re
from pathlib import Path

import pytest
import yaml

from ironpost.detections import RuleSet
from ironpost.events import parse

ROOT = Path(__file__).parents[3]
CASES = ROOT / "tests" / "rules"
RULES = RuleSet.load(ROOT / "rules")
SHOWN = sorted(rule.id for rule in RULES.rules if rule.plan["emit"])
QUIET = sorted((CASES / "_benign").glob("*.log"))
WRITTEN = {
    document["id"]: document
    for file in (ROOT / "rules").rglob("*.yml")
    for document in yaml.load_all(file.read_text(), yaml.BaseLoader)
}


def found_in(path: Path, rule_id: str) -> list[int]:
    data = parse(path.read_bytes(), year=2026) if path.suffix == ".log" else path.read_bytes()
    return [found.event_index for found in RULES.detect(data) if found.rule_id == rule_id]


def test_every_rule_loads_and_something_feeds_it() -> None:
    assert RULES.refused == ()
    assert RULES.unfed == ()
    assert len(SHOWN) >= 15


def test_every_rule_has_cases_and_every_case_a_rule() -> None:
    assert sorted(path.name for path in CASES.iterdir() if path.name != "_benign") == SHOWN


@pytest.mark.parametrize("rule_id", SHOWN)
def test_a_rule_fires_on_its_lines_and_on_no_others(rule_id: str) -> None:
    folder = CASES / rule_id
    assert (folder / "why.txt").read_text().strip()
    (match,) = folder.glob("match.*")
    (nomatch,) = folder.glob("nomatch.*")
    hits = found_in(match, rule_id)
    assert hits
    if RULES.rule(rule_id).kind == "rule":
        assert hits == list(range(len(match.read_text().splitlines())))
    assert found_in(nomatch, rule_id) == []
    assert len(nomatch.read_text().splitlines()) >= 1


def test_rules_say_what_they_are_about() -> None:
    for rule in RULES.rules:
        assert rule.description, rule.id
        assert rule.plan["entity"], rule.id
        if rule.plan["emit"]:
            assert any(re.fullmatch(r"attack\.t\d{4}(\.\d{3})?", tag) for tag in rule.tags), rule.id
            written = WRITTEN[rule.id]
            assert {"author", "date", "references", "status"} <= set(written), rule.id
            assert all(reference.startswith("https://") for reference in written["references"]), rule.id


@pytest.mark.parametrize("path", QUIET, ids=[path.stem for path in QUIET])
def test_a_quiet_host_raises_nothing_above_low(path: Path) -> None:
    lines = path.read_bytes().splitlines()
    assert len(lines) > 30
    found = [
        (found.rule_id, lines[found.event_index])
        for found in RULES.detect(parse(path.read_bytes(), year=2026))
        if RULES.rule(found.rule_id).plan["level"] not in {"informational", "low"}
    ]
    assert found == []


def test_the_reference_lists_every_rule_and_what_covers_the_founding_ones() -> None:
    asked, listed = (ROOT / "docs" / "reference" / "shipped-rules.md").read_text().split("## All rules")
    levels = {rule.id: (rule.plan["level"], rule.plan["title"]) for rule in RULES.rules if rule.plan["emit"]}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| [\w ]+ \| (.+) \|$", listed, re.MULTILINE)
    assert {name: (level, title) for name, level, title in rows} == levels
    assert len(rows) == len(levels)
    covering = re.findall(r"^\| (sample|example|demo) `\w+` \| ([^|]+) \|", asked, re.MULTILINE)
    assert [kind for kind, _ in covering] == ["sample"] * 5 + ["example"] * 5 + ["demo"] * 15
    assert {name for _, cell in covering for name in re.findall(r"`(\w+)`", cell)} <= set(levels)


def ssh_attempts(address: str, repeated: int) -> list[bytes]:
    """What sshd writes of 1 + ``repeated`` refused passwords in one connection; rsyslog sums up the repeated line."""
    peer = f"from {address} port 40000 ssh2"
    pam = f"; logname= uid=0 euid=0 tty=ssh ruser= rhost={address}  user=root"
    texts = [
        f"pam_unix(sshd:auth): authentication failure{pam}",
        f"Failed password for root {peer}",
        f"message repeated {repeated} times: [ Failed password for root {peer}]",
        f"error: maximum authentication attempts exceeded for root {peer} [preauth]",
        f"Disconnecting authenticating user root {address} port 40000: Too many authentication failures [preauth]",
        f"PAM {repeated} more authentication failures{pam}",
    ]
    return [f"Nov 20 18:30:{second:02} gate sshd[812]: {text}".encode() for second, text in enumerate(texts)]


@pytest.mark.parametrize(("repeated", "fires"), [(3, False), (4, True)])
def test_ssh_brute_force_counts_attempts_and_not_lines(repeated: int, fires: bool) -> None:
    found = RULES.detect(parse(ssh_attempts("203.0.113.7", repeated), year=2026))
    assert ("ssh_brute_force" in {one.rule_id for one in found}) is fires
