"""Alerts on their way to people: completed, and not repeated without need."""

from ironpost.alerts.enrich import enriched
from ironpost.alerts.limits import AlertLimiter, Notice

__all__ = ["AlertLimiter", "Notice", "enriched"]
