"""Detections are read from the engine when asked; to whoever has one it makes no difference."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest

from ironpost.detections import RuleSet
from ironpost.model import Detection, Severity

RULES = RuleSet.from_text("""
title: Somebody tries
id: tries
level: high
tags: [attack.t1110]
logsource: {product: linux}
detection:
  who:
    user.name|contains: mal
    source.ip|cidr: 10.0.0.0/8
  condition: who
---
title: Many
id: many
correlation:
  type: event_count
  rules: tries
  group-by: user.name
  timespan: 60s
  condition: {gte: 2}
  generate: true
""")
EVENTS = b"".join(
    json.dumps({"@timestamp": f"2026-11-21T12:00:0{second}Z", "user.name": "mallory", "source.ip": "10.1.1.1"}).encode()
    + b"\n"
    for second in range(3)
)


def whole() -> list[Detection]:
    """The same detections, read at once from the engine's JSON."""
    return [Detection.from_json(found) for found in json.loads(RULES.native.session().feed(EVENTS))]


def test_what_is_read_when_asked_is_what_is_written() -> None:
    found = list(RULES.detect(EVENTS))
    assert [hit.rule_id for hit in found] == [hit.rule_id for hit in whole()]
    assert {hit.kind for hit in found} == {"rule", "correlation"}
    assert found == whole()
    assert [hit.to_json() for hit in found] == [hit.to_json() for hit in whole()]


@pytest.mark.parametrize("name", [known.name for known in dataclasses.fields(Detection)])
def test_every_field_may_be_the_first_that_is_read(name: str) -> None:
    for lazy, read in zip(RULES.detect(EVENTS), whole(), strict=True):
        assert getattr(lazy, name) == getattr(read, name)
        assert type(getattr(lazy, name)) is type(getattr(read, name))
        assert lazy == read


def test_an_unread_detection_behaves_as_a_read_one() -> None:
    read = whole()[0]

    def first() -> Detection:
        return next(iter(RULES.detect(EVENTS)))

    assert repr(first()) == repr(read)
    assert pickle.loads(pickle.dumps(first())) == read
    assert copy.deepcopy(first()) == copy.copy(first()) == read
    assert dataclasses.replace(first(), level=Severity.LOW) == dataclasses.replace(read, level=Severity.LOW)
    with pytest.raises(AttributeError, match="'Detection' object has no attribute 'rule'"):
        _ = first().rule  # type: ignore[attr-defined]
    with pytest.raises(dataclasses.FrozenInstanceError):
        first().level = Severity.LOW  # type: ignore[misc]


def test_an_event_without_a_time_is_at_zero() -> None:
    (found,) = RULES.detect(b'{"user.name": "mallory", "source.ip": "10.1.1.1"}')
    assert found.timestamp == 0
    assert found.evidence
    assert found.timestamp == 0
