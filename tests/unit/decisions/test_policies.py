from __future__ import annotations

import os
from pathlib import Path

import pytest

from ironpost.decisions import load_policies, parse_policy
from ironpost.decisions.policies import MAX_FILE_BYTES
from ironpost.errors import PolicyError
from ironpost.model import Mode, Severity, Verb

SHIPPED = Path(__file__).parents[3] / "policies"

# The forms of the founding documents and of the ancestor's examples: they load without an edit.
FOUNDING = """
id = "critical-network-isolate"
name = "Critical severity network isolation"
description = "Isolates compromised containers"
enabled = true
severity_threshold = "Critical"
priority = 1

[target_filter]
container_names = ["compromised-*", "suspicious-*"]
image_patterns = []
labels = []

[action]
NetworkDisconnect = { networks = ["bridge", "frontend"] }
"""

SMALL = 'id = "p"\nname = "n"\n'


def test_founding_files_load_unchanged_and_observe() -> None:
    policy = parse_policy(FOUNDING)
    assert (policy.id, policy.severity_threshold, policy.priority) == ("critical-network-isolate", Severity.CRITICAL, 1)
    assert (policy.verb, policy.parameters) == (Verb.DISCONNECT, {"networks": ["bridge", "frontend"]})
    assert policy.target_filter.container_names == ("compromised-*", "suspicious-*")
    assert policy.mode is Mode.OBSERVE


@pytest.mark.parametrize(("action", "verb"), [("Pause", Verb.PAUSE), ("Stop", Verb.STOP), ("Kill", Verb.KILL)])
def test_acts_are_written_as_empty_lists(action: str, verb: Verb) -> None:
    text = (
        f'{SMALL}severity_threshold = "medium"\n[target_filter]\nimage_patterns = ["web-*"]\n[action]\n{action} = []\n'
    )
    assert parse_policy(text).verb is verb


def test_shipped_policies_load_and_name_what_they_match() -> None:
    loaded = load_policies(SHIPPED)
    assert loaded.refused == ()
    by_id = {policy.id: policy for policy in loaded.policies}
    assert {"high-severity-isolate", "block-nginx-containers", "ban-ssh-brute-force", "pause-web-attack"} <= set(by_id)
    assert "spoofable" in by_id["ban-port-scan"].trust
    assert by_id["ban-port-scan"].mode is Mode.OBSERVE
    assert all("spoofable" not in policy.trust for policy in loaded.policies if policy.mode is Mode.ENFORCE)
    assert all(policy.duration_ns and policy.max_targets_per_hour for policy in loaded.policies)


def test_no_policy_bans_an_address_on_the_word_of_a_container_unless_it_says_so() -> None:
    shipped = [policy for policy in load_policies(SHIPPED).policies if policy.verb is Verb.BAN]
    assert shipped
    assert all("container" not in policy.trust for policy in shipped)
    assert parse_policy(SMALL + "[action]\nBan = []").trust == ("host",)
    assert parse_policy(SMALL + "[target_filter]\nall = true\n[action]\nPause = []").trust == ("host", "container")
    assert "container" in parse_policy(SMALL + '[match]\ntrust = ["container"]\n[action]\nBan = []').trust


@pytest.mark.parametrize(
    ("text", "line", "field", "reason", "hint"),
    [
        (
            SMALL + "[action]\nPasue = []",
            4,
            "action.Pasue",
            "no act this version can carry out",
            "did you mean 'Pause'?",
        ),
        (SMALL + "[action]\nQuarantine = []", 4, "action.Quarantine", "no act this version", "known are Ban, Pause"),
        (SMALL + "[action]\nPause = []\nBan = []", 3, "action", "exactly one act", "Pause = []"),
        (SMALL, 0, "action", "exactly one act", "Pause = []"),
        (SMALL + "[action]\nBan = { cidr = 24 }", 4, "action.Ban", "takes no settings", "write Ban = []"),
        (
            SMALL + "[action]\nNetworkDisconnect = []",
            4,
            "action.NetworkDisconnect",
            "needs networks",
            'networks = ["*"]',
        ),
        (SMALL + "prioritiy = 1\n[action]\nBan = []", 3, "prioritiy", "unknown key", "did you mean 'priority'?"),
        (SMALL + '[match]\nrule = ["x"]\n[action]\nBan = []', 4, "match.rule", "unknown key", "did you mean 'rules'?"),
        (SMALL + '[match]\ntrust = ["hosts"]\n[action]\nBan = []', 4, "match.trust", "no trust level", "'host'"),
        (SMALL + "[action]\nStop = []", 0, "target_filter", "would mean every container", "all = true"),
        (
            SMALL + "[target_filter]\nlabels = []\n[action]\nStop = []",
            3,
            "target_filter",
            "every container",
            "all = true",
        ),
        (
            SMALL + '[target_filter]\nall = true\nlabels = ["x"]\n[action]\nStop = []',
            4,
            "target_filter.all",
            "narrow",
            "one",
        ),
        (SMALL + 'severity_threshold = "hihg"\n[action]\nBan = []', 3, "severity_threshold", "no severity", "any case"),
        (SMALL + 'mode = "Enforce"\n[action]\nBan = []', 3, "mode", "'Enforce' is no mode", "observe, ask, enforce"),
        (SMALL + "duration = 10\n[action]\nBan = []", 3, "duration", "is no duration", "quote it"),
        (SMALL + 'enabled = "yes"\n[action]\nBan = []', 3, "enabled", "neither true nor false", "without quotes"),
        (
            SMALL + "max_targets_per_hour = 0\n[action]\nBan = []",
            3,
            "max_targets_per_hour",
            "whole number from 1",
            "digits",
        ),
        ('id = "p"\n[action]\nBan = []', 0, "name", "is missing", 'write name = "…"'),
        ('id = "a b"\nname = "n"\n[action]\nBan = []', 1, "id", "is no id", "letters, digits"),
        (
            'id = "p"\nid = "q"',
            2,
            "",
            "invalid TOML on line 2, at the end of the file: cannot overwrite a value",
            "once in its section",
        ),
        ('id = "p"\nname = [1,', 2, "", "invalid TOML on line 2, at the end of the file: ", "in quotes"),
    ],
)
def test_an_unusable_policy_is_refused_with_place_key_and_remedy(
    text: str, line: int, field: str, reason: str, hint: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, path="policies/p.toml")
    assert (caught.value.path, caught.value.line, caught.value.field) == ("policies/p.toml", line, field)
    assert reason in str(caught.value)
    assert hint in caught.value.hint


def test_one_bad_file_never_stops_the_others(tmp_path: Path) -> None:
    directory = tmp_path / "policies"
    directory.mkdir()
    good = SMALL + "[action]\nBan = []"
    (directory / "1-good.toml").write_text(good)
    (directory / "2-broken.toml").write_text("id = ")
    (directory / "3-same-id.toml").write_text(good)
    (directory / "4-not-text.toml").write_bytes(b'id = "p"\n\xff\xfe')
    (directory / "5-large.toml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    (directory / "6-other.toml").write_text(good.replace('"p"', '"q"'))
    (directory / "notes.txt").write_text("no policy")
    (tmp_path / "outside.toml").write_text(good.replace('"p"', '"outside"'))
    (directory / "7-link.toml").symlink_to(tmp_path / "outside.toml")
    (directory / "8-inside.toml").symlink_to(directory / "6-other.toml")
    (directory / "9-folder.toml").mkdir()
    os.mkfifo(directory / "fifo.toml")
    loaded = load_policies(directory)
    assert [policy.id for policy in loaded.policies] == ["p", "q"]
    reasons = {Path(error.path).name: error.reason for error in loaded.refused}
    assert set(reasons) == {
        "2-broken.toml", "3-same-id.toml", "4-not-text.toml", "5-large.toml", "7-link.toml", "8-inside.toml",
        "9-folder.toml", "fifo.toml",
    }  # fmt: skip
    assert "outside the directory" in reasons["7-link.toml"]
    assert "is the id of" in reasons["3-same-id.toml"]
    assert all(error.hint for error in loaded.refused)


def test_an_operators_file_replaces_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('id = "ban-port-scan"\nname = "mine"\nmode = "enforce"\n[action]\nBan = []')
    loaded = load_policies(SHIPPED, tmp_path)
    assert [policy.name for policy in loaded.policies if policy.id == "ban-port-scan"] == ["mine"]
    assert loaded.refused == ()


def test_a_missing_directory_is_named() -> None:
    [error] = load_policies(Path("/nowhere/policies")).refused
    assert "/nowhere/policies" in str(error)
    assert "container.policy_path" in error.hint
