"""From alerts to decisions: policies, and whom nothing may touch."""

from ironpost.decisions.host import Protection, own_container_id, read_host
from ironpost.decisions.maker import DecisionMaker
from ironpost.decisions.policies import Policy, PolicySet, TargetFilter, load_policies, parse_policy
from ironpost.decisions.protections import PROTECTED_LABEL, Protections

__all__ = [
    "PROTECTED_LABEL",
    "DecisionMaker",
    "Policy",
    "PolicySet",
    "Protection",
    "Protections",
    "TargetFilter",
    "load_policies",
    "own_container_id",
    "parse_policy",
    "read_host",
]
