"""The daemon's own voice: structured log records on standard error."""

from ironpost.telemetry.log import LevelFilter, bound_trace, configure_logging, get_logger

__all__ = ["LevelFilter", "bound_trace", "configure_logging", "get_logger"]
