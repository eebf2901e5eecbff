"""Structured logging: constant event names, facts as keys, one trace id through all tasks."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from ironpost.errors import ConfigError

LEVELS = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "critical": 50, "off": 100}
FORMATS = ("json", "pretty")


@dataclass(frozen=True, slots=True)
class LevelFilter:
    """Least level per module.

    Attributes:
        default: Level where no module fits.
        modules: (dotted prefix, level), the longest prefix first.
    """

    default: int
    modules: tuple[tuple[str, int], ...] = ()

    @classmethod
    def parse(cls, text: str, *, default: str = "info") -> LevelFilter:
        """Reads ``RUST_LOG`` syntax: ``debug``, ``ironpost.storage=debug``, or several separated by commas.

        Args:
            text: The directives; empty for none. ``::`` and ``.`` both separate modules.
            default: Level where no directive fits.

        Returns:
            The filter.

        Raises:
            ConfigError: When a level is unknown.
        """
        level = _level(default)
        modules: list[tuple[str, int]] = []
        for directive in filter(None, (part.strip() for part in text.split(","))):
            module, equals, name = directive.partition("=")
            if equals:
                modules.append((module.strip().replace("::", "."), _level(name.strip())))
            elif directive.lower() in LEVELS:
                level = _level(directive)
            else:
                modules.append((directive.replace("::", "."), LEVELS["trace"]))
        modules.sort(key=lambda entry: -len(entry[0]))
        return cls(level, tuple(modules))

    def allows(self, module: str, level: int) -> bool:
        """Tells whether a record of this module and level is written."""
        for prefix, least in self.modules:
            if module == prefix or module.startswith(f"{prefix}."):
                return level >= least
        return level >= self.default


def configure_logging(
    *, level: str = "info", form: str = "json", directives: str = "", stream: TextIO | None = None
) -> None:
    """Sets up logging for this process; called once, by the edge that owns the process.

    Args:
        level: Least level.
        form: ``json`` (one object per line) or ``pretty``.
        directives: The ``RUST_LOG`` variable; wins over ``level``.
        stream: Where to write; standard error unless told.

    Raises:
        ConfigError: For an unknown level or format.
    """
    if form not in FORMATS:
        raise ConfigError(f"unknown log format {form!r}", field="general.log_format", hint="use json or pretty")
    levels = LevelFilter.parse(directives, default=level)
    target = stream if stream is not None else sys.stderr

    def keep(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if levels.allows(str(event.get("target", "")), LEVELS.get(method, 20)):
            return event
        raise structlog.DropEvent

    processors: list[Processor] = [
        keep,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        _place,
        structlog.processors.format_exc_info,
    ]
    if form == "json":
        processors += [structlog.processors.EventRenamer("message"), structlog.processors.JSONRenderer()]
    else:
        colors = target.isatty()
        processors += [_escape, structlog.dev.ConsoleRenderer(colors=colors)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(0),  # the level filter is `keep`
        logger_factory=structlog.PrintLoggerFactory(file=_Enduring(target)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(logging.WARNING)


def get_logger(target: str, **bound: Any) -> FilteringBoundLogger:
    """Returns a logger for a component; its name goes out as ``target``."""
    logger: FilteringBoundLogger = structlog.get_logger(target=target, **bound)
    return logger


@contextlib.contextmanager
def bound_trace(trace_id: str) -> Iterator[None]:
    """Carries a trace id in every record of this task until the block ends."""
    with structlog.contextvars.bound_contextvars(trace_id=trace_id):
        yield


def _level(name: str) -> int:
    level = LEVELS.get(name.strip().lower())
    if level is None:
        raise ConfigError(
            f"unknown log level {name!r}", field="general.log_level", hint="use trace, debug, info, warn or error"
        )
    return level


def _place(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["thread"] = threading.get_ident()
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to the caller's place
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("structlog", "ironpost.telemetry")):
        frame = frame.f_back
    event["file"] = f"{frame.f_code.co_filename.rpartition('ironpost/')[2]}:{frame.f_lineno}"
    return event


def _escape(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Makes control characters visible: values may be attacker text, and this goes to a terminal."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event[key] = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return event


class _Enduring:
    """A stream whose reader may go away: a log that can't be written must not stop the daemon."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Forward(logging.Handler):
    """Records of libraries that use the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = get_logger(record.name)
        method = logger.error if record.levelno >= logging.ERROR else logger.warning
        method("library_message", text=record.getMessage())
