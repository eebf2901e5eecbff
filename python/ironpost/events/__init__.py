"""Bytes in, ECS events out: formats, field extractors, batches."""

from ironpost._core import AuditJoiner, EventBatch
from ironpost.events.extractors import Case, Extractor, Extractors, Pattern, built_in, failed_cases, load
from ironpost.events.parsing import parse

__all__ = [
    "AuditJoiner",
    "Case",
    "EventBatch",
    "Extractor",
    "Extractors",
    "Pattern",
    "built_in",
    "failed_cases",
    "load",
    "parse",
]
