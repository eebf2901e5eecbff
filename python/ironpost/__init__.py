"""A Linux host that watches itself and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ironpost.detections import RuleSet
    from ironpost.events import EventBatch
    from ironpost.events.parsing import parse
    from ironpost.model import Detection
    from ironpost.model.python_rule import rule

__all__ = ["Detection", "EventBatch", "RuleSet", "parse", "rule"]

_HOMES = {
    "Detection": "ironpost.model",
    "EventBatch": "ironpost.events",
    "RuleSet": "ironpost.detections",
    "parse": "ironpost.events",
    "rule": "ironpost.model.python_rule",
}


if not TYPE_CHECKING:  # checkers see the imports above, and that other names don't exist

    def __getattr__(name: str) -> object:
        """Imports a public name when it is first asked for: the command line starts through here, too."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib  # noqa: PLC0415 - as late as what it imports

        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
