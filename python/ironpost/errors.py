"""Every error Ironpost raises on purpose.

One root, :class:`IronpostError`. An error says three things a reader needs at night: what (the message),
where (``path``, ``line``, ``field`` and the like, as attributes) and what to do about it (``hint``).
Errors caused by the operating system are also the fitting :class:`OSError`, so ``except OSError`` works.
"""

from __future__ import annotations

import re

_TOML_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")


class IronpostError(Exception):
    """Root of all errors raised on purpose.

    Attributes:
        hint: The remedy in one sentence, or ``""``.
    """

    #: Exit code of the command line when this error ends a command.
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InternalError(IronpostError):
    """A defect of Ironpost itself, for example a caught panic of the native module."""


class PlacedError(IronpostError):
    """An error in a text that has a place.

    Attributes:
        path: File, or ``""`` for text that came from elsewhere.
        line: First line is 1; 0 when unknown.
        field: Dotted key, or ``""``.
        reason: What is wrong, without the place.
    """

    def __init__(self, reason: str, *, path: str = "", line: int = 0, field: str = "", hint: str = "") -> None:
        place = f"{path}:{line}" if path and line else path
        super().__init__(": ".join(part for part in (place, field, reason) if part), hint)
        self.reason = reason
        self.path = path
        self.line = line
        self.field = field


class ConfigError(PlacedError):
    """Configuration that cannot be used."""

    exit_code = 2


class RuleError(PlacedError):
    """A detection rule or compiled plan that cannot be used."""

    exit_code = 2


class ExtractorError(PlacedError):
    """A field extractor that cannot be used."""

    exit_code = 2


class PolicyError(PlacedError):
    """A response policy that cannot be used."""

    exit_code = 2


class ParseError(PlacedError):
    """Input that cannot be parsed in the format that was asked for."""


class InputError(ParseError):
    """A file that cannot be read to its end, or is no log: cut or damaged compressed data, a binary format."""

    exit_code = 10


def explain_toml(error: ValueError, text: str) -> tuple[int, str]:
    """Returns the line of a TOML syntax error, and line, column and the parser's reason as one sentence.

    Args:
        error: What ``tomllib`` raised.
        text: What it was to read.
    """
    message = str(error)
    found = _TOML_PLACE.search(message)
    reason = _TOML_PLACE.sub("", message)
    line = int(found[1]) if found and found[1] else text.count("\n") + 1
    column = f", column {found[2]}" if found and found[2] else ", at the end of the file"
    return line, f"invalid TOML on line {line}{column}: {reason[:1].lower()}{reason[1:]}"


class SourceError(IronpostError):
    """A log source that cannot be read.

    Attributes:
        source: Source id, for example ``udp:127.0.0.1:5514``.
    """

    exit_code = 10

    def __init__(self, message: str, *, source: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.source = source


class StorageError(IronpostError):
    """The store cannot be opened, read or written.

    Attributes:
        path: The database file.
    """

    exit_code = 10

    def __init__(self, message: str, *, path: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.path = path


class StorageCorrupt(StorageError):
    """The file is damaged or no database of ours: nothing more can be trusted to it."""


class StorageBusy(StorageError):
    """Another process holds the database for longer than we wait. The same call may succeed later."""


class StorageFull(StorageError):
    """No space left. Nothing of the failed transaction was written; the same call may succeed later."""


class StorageReadOnly(StorageError, PermissionError):
    """The file or its directory can't be written by this user."""

    def __init__(self, message: str, *, path: str = "", hint: str = "") -> None:
        StorageError.__init__(self, message, path=path, hint=hint)


class StorageVersion(StorageError):
    """The database was made by a newer Ironpost."""


class EnforcementError(IronpostError):
    """An action on the host or on a container failed."""


class TargetRefused(EnforcementError):
    """A target that must never be acted on (allow list, own address, protected container, reserved network).

    Attributes:
        target: The address, network or container.
        reason: Why it is protected.
    """

    def __init__(self, target: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{target}: refused, {reason}", hint)
        self.target = target
        self.reason = reason


class TargetInvalid(EnforcementError):
    """A text that is no address and no network."""

    exit_code = 2


class FilterError(EnforcementError):
    """The packet filter cannot do what was asked."""


class UnsupportedPlatform(FilterError):
    """This system has no XDP."""


class PrivilegeMissing(FilterError, PermissionError):
    """A capability is missing.

    Attributes:
        capability: For example ``CAP_BPF``.
    """

    def __init__(self, message: str, capability: str = "", hint: str = "") -> None:
        FilterError.__init__(self, message, hint)
        self.capability = capability


class InterfaceNotFound(FilterError):
    """A network interface that does not exist.

    Attributes:
        interface: Its name.
    """

    def __init__(self, message: str, interface: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.interface = interface


class ForeignProgram(FilterError):
    """Another XDP program is attached to the interface; Ironpost never replaces it by itself.

    Attributes:
        interface: The interface.
        program: Name and id of the program found there.
    """

    def __init__(self, message: str, interface: str = "", program: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.interface = interface
        self.program = program


class ContainerError(EnforcementError):
    """The container engine refused or failed.

    Attributes:
        container: Full container id, or ``""``.
    """

    def __init__(self, message: str, *, container: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.container = container


class ContainerNotFound(ContainerError):
    """The container is gone, or another one now carries its name."""


class EngineUnavailable(ContainerError):
    """The container engine does not answer. The same call may succeed later."""


class StaleIdentity(ContainerError):
    """The container was made anew or restarted since the alert: it is not the one the alert is about."""


class DaemonUnreachable(IronpostError):
    """No daemon answers on the control socket."""

    exit_code = 3
