"""The nouns, in the order of the data: detection, alert, decision, action."""

from ironpost.model.alert import Alert, AlertStatus
from ironpost.model.decision import (
    LIVE_STATES,
    MANUAL_POLICY,
    ActionRecord,
    AllowEntry,
    Decision,
    DecisionHistory,
    DecisionState,
    Mode,
    Moment,
    Settled,
    Transition,
    Verb,
)
from ironpost.model.detection import MAX_EVIDENCE, TRUST_LEVELS, Detection, MatchedField
from ironpost.model.entity import ContainerIdentity, Entity
from ironpost.model.severity import Severity
from ironpost.model.times import parse_duration

__all__ = [
    "LIVE_STATES",
    "MANUAL_POLICY",
    "MAX_EVIDENCE",
    "TRUST_LEVELS",
    "ActionRecord",
    "Alert",
    "AlertStatus",
    "AllowEntry",
    "ContainerIdentity",
    "Decision",
    "DecisionHistory",
    "DecisionState",
    "Detection",
    "Entity",
    "MatchedField",
    "Mode",
    "Moment",
    "Settled",
    "Severity",
    "Transition",
    "Verb",
    "parse_duration",
]
