"""Detections and batches for the tests of this room."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ironpost.model import Detection, Entity, Severity


def detection(number, **changes):
    facts = {
        "id": f"{number:032x}",
        "rule_id": "ssh_brute_force",
        "rule_title": "SSH brute force",
        "level": Severity.HIGH,
        "kind": "correlation",
        "timestamp": 1_700_000_000_000_000_000 + number,
        "entity": Entity("source.ip", "203.0.113.7"),
        "trace_id": "ab" * 16,
        "trust": "host",
    }
    return Detection(**{**facts, **changes})


@dataclass
class FakeBatch:
    sequence: int
    detections: bytes = b"[]"
    checkpoints: dict[str, str] = field(default_factory=dict)
    windows: tuple = ()


def batch(sequence, *detections, **rest):
    return FakeBatch(sequence, json.dumps([found.to_json() for found in detections]).encode(), **rest)
