from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.model import ActionRecord, Alert, ContainerIdentity, Decision, Detection, Entity, Severity, Verb, times
from ironpost.model.address import network_text, parse_network
from support.response import container, decision, detection


def test_nouns_survive_json() -> None:
    web = container("web", labels={"tier": "front"})
    found = detection(1, container=web, group=(("source.ip", "203.0.113.7"),), fields={"user.name": "root"})
    alert = Alert.opened_by(found)
    made = decision(web.id, Verb.DISCONNECT, container=web, parameters={"networks": ["*"]}, expires_at=None)
    record = ActionRecord("ip_ban", "203.0.113.7", success=False, timestamp=1, error="full", sequence=3, hash="f")
    for noun, kind in ((found, Detection), (alert, Alert), (made, Decision), (record, ActionRecord)):
        assert kind.from_json(json.loads(json.dumps(noun.to_json()))) == noun


def test_an_alert_has_the_keys_others_build_on() -> None:
    value = Alert.opened_by(detection(1)).to_json()
    assert list(value)[:13] == [
        "id", "rule_id", "title", "severity", "entity", "first_seen", "last_seen", "count", "status", "trace_id",
        "tags", "evidence", "decisions",
    ]  # fmt: skip
    assert value["entity"] == {"kind": "ip", "value": "203.0.113.7", "field": "source.ip"}
    assert (value["severity"], value["status"]) == ("high", "open")
    assert value["first_seen"] == "2023-11-14T22:13:20.000000001Z"


def test_a_decision_and_an_action_have_the_keys_others_build_on() -> None:
    assert set(decision().to_json()) >= {
        "id", "verb", "target", "scope", "mode", "state", "policy_id", "alert_ids", "created_at", "expires_at",
        "trace_id",
    }  # fmt: skip
    assert set(ActionRecord("ip_ban", "x", success=True, timestamp=1).to_json()) >= {
        "action_type", "target", "success", "error", "policy_id", "trace_id",
    }  # fmt: skip


def test_a_detection_reads_what_the_engine_writes() -> None:
    found = Detection.from_json(
        {
            "id": "a" * 32, "rule_id": "ssh_brute_force", "rule_title": "SSH", "level": "HIGH", "kind": "correlation",
            "timestamp": 1_700_000_000_000_000_001, "row": 3, "group": [["source.ip", "203.0.113.7"]],
            "entity": ["source.ip", "203.0.113.7"], "matched": [{"selection": "s", "field": "f", "value": "v"}],
            "evidence": ["x"] * 30, "fields": {"user.name": "root"}, "count": 5, "trace_id": "b" * 32, "trust": "host",
            "source": "file:/var/log/auth.log", "position": 77, "container_id": None,
        }
    )  # fmt: skip
    assert (found.level, found.event_index, found.position) == (Severity.HIGH, 3, "77")
    assert found.entity == Entity("source.ip", "203.0.113.7")
    assert found.group == (("source.ip", "203.0.113.7"),)
    assert len(found.evidence) == 10
    assert found.container_id == ""


@pytest.mark.parametrize(
    ("text", "level"),
    [("High", 3), ("CRITICAL", 4), ("informational", 0), ("Info", 0), ("med", 2), ("crit", 4), ("low", 1)],
)
def test_severity_is_read_in_any_case(text: str, level: int) -> None:
    assert Severity.parse(text) == level


def test_a_word_that_is_no_severity_is_named() -> None:
    with pytest.raises(ValueError, match="'hihg' is no severity; use info, low"):
        Severity.parse("hihg")


def test_decision_ids_depend_on_every_part() -> None:
    base = ("policy", "alert", Verb.BAN, "target", "detection")
    others = [(*base[:at], Verb.KILL if at == 2 else "other", *base[at + 1 :]) for at in range(5)]
    ids = {Decision.identify(*parts) for parts in (base, *others)}  # type: ignore[arg-type]
    assert len(ids) == 6
    # Parts can't be shifted into one another.
    assert Decision.identify("a", "b", Verb.BAN, "c", "d") != Decision.identify("ab", "", Verb.BAN, "c", "d")


def test_an_alert_keeps_the_trace_of_its_first_detection() -> None:
    joined = Alert.opened_by(detection(5)).joined_by(detection(3, level=Severity.LOW))
    assert joined.trace_id == detection(5).trace_id
    assert joined.severity is Severity.HIGH
    assert (joined.first_seen, joined.last_seen) == (detection(3).timestamp, detection(5).timestamp)


@pytest.mark.parametrize(
    ("trusts", "shown"),
    [
        (("host", "spoofable"), "host"),
        (("spoofable", "host", "unauthenticated"), "host"),
        (("spoofable", "container"), "container"),
        (("unauthenticated", "spoofable"), "unauthenticated"),
        (("", "spoofable"), "spoofable"),
        (("host", ""), "host"),
    ],
)
def test_an_alert_is_as_trusted_as_its_best_detection(trusts: tuple[str, ...], shown: str) -> None:
    first, *others = (detection(number, trust=trust) for number, trust in enumerate(trusts))
    alert = Alert.opened_by(first)
    for other in others:
        alert = alert.joined_by(other)
    assert alert.trust == shown


@given(st.integers(min_value=0, max_value=4_000_000_000 * 10**9))
def test_times_survive_text(moment: int) -> None:
    text = times.to_text(moment)
    assert times.from_text(text) == moment
    assert int(datetime.fromisoformat(text).astimezone(UTC).timestamp()) == moment // 10**9


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("1w", 604_800), (" 5M ", 300)]
)
def test_durations_are_read(text: str, seconds: int) -> None:
    assert times.parse_duration(text) == seconds * 10**9


@pytest.mark.parametrize("text", ["", "10", "m", "0s", "-5m", "10 parsecs", "1h-5m", "5m5"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration; write for example"):
        times.parse_duration(text)


def test_a_moment_after_the_longest_duration_still_fits_the_store() -> None:
    assert 2 * 10**18 + times.parse_duration("36500d") < 2**63
    for text in ("36501d", "300000d", "99999999999999d"):
        with pytest.raises(ValueError, match="too long; 36500d is the longest"):
            times.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:cb00:7107", "203.0.113.7"),
        ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
        ("203.0.113.7/24", "203.0.113.0/24"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("2001:db8::7/64", "2001:db8::/64"),
    ],
)
def test_addresses_have_one_normal_form(text: str, normal: str) -> None:
    assert network_text(parse_network(text)) == normal


@pytest.mark.parametrize(
    "text", ["", "nonsense", "203.0.113", "203.0.113.7/33", "fe80::1%eth0", "0x7f.1", "1.2.3.4;reboot"]
)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"no address or network|carries a zone"):
        parse_network(text)


def test_two_runs_of_a_container_are_not_the_same() -> None:
    web = container("web")
    assert web.is_same_run(ContainerIdentity.from_json(web.to_json() | {"name": "renamed", "labels": {}}))
    assert not web.is_same_run(ContainerIdentity.from_json(web.to_json() | {"started_at": "later"}))
