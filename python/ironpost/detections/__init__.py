"""Rules to detections: Sigma and the short form are loaded here and executed by the native engine."""

from ironpost.detections.explanation import Explanations
from ironpost.detections.field_maps import FieldMap, load_maps
from ironpost.detections.judging import Judges
from ironpost.detections.ruleset import RefusedRule, RuleSet, UnfedRule
from ironpost.detections.sigma import Rule
from ironpost.detections.supply import Supply

__all__ = ["Explanations", "FieldMap", "Judges", "RefusedRule", "Rule", "RuleSet", "Supply", "UnfedRule", "load_maps"]
