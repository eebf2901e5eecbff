"""Log text in, ECS events out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ironpost import _core
from ironpost.errors import ParseError
from ironpost.events.extractors import built_in


def parse(
    data: bytes | bytearray | memoryview | str | os.PathLike[str] | Iterable[str | bytes],
    *,
    format: str = "auto",  # noqa: A002  the name that the command line and the configuration use
    year: int | None = None,
    timezone: str = "UTC",
    extractors: _core.Extractors | None = None,
) -> _core.EventBatch:
    """Parses log records into ECS events.

    Every record that is not empty gives one row, understood or not: nothing is dropped. A row that no parser
    understood has ``message`` and ``event.original`` only.

    Args:
        data: Log text as bytes (one record per line), the path of a file (``str`` or path-like), or an iterable of
            records, in which a newline inside a record is data.
        format: ``auto``, ``syslog``, ``rfc5424``, ``rfc3164``, ``json``, ``apache``, ``nginx``, ``docker`` or
            ``auditd`` (records of one event give one row).
        year: Year of timestamps without one; None means the latest year that is not in the future.
        timezone: IANA name of the zone of timestamps without one, or ``local``.
        extractors: Field extractors; None means those that come with Ironpost.

    Returns:
        One row per record, in order.

    Raises:
        ParseError: Unknown format or zone, or a text that is neither bytes nor the path of a file.
        OSError: The file can't be read.

    Example:
        >>> batch = parse([b"Nov 20 18:54:46 web sshd[9]: Invalid user bob from 192.0.2.7 port 4242"], year=2026)
        >>> batch.row(0)["source.ip"], batch.row(0)["user.name"]
        ('192.0.2.7', 'bob')
    """
    chosen = built_in() if extractors is None else extractors
    if isinstance(data, (str, os.PathLike)):
        try:
            text = Path(data).read_bytes()
        except (FileNotFoundError, ValueError) as error:
            raise ParseError(
                "no such file", path=os.fspath(data)[:200], hint="pass log text as bytes or as a list of lines"
            ) from error
        return _core.parse(text, chosen, format=format, year=year, timezone=timezone)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return _core.parse(bytes(data), chosen, format=format, year=year, timezone=timezone)
    # Surrogates are how Python reads bytes that are no UTF-8 from a text file: they go back to those bytes.
    records = [
        record.encode("utf-8", "surrogateescape") if isinstance(record, str) else bytes(record) for record in data
    ]
    return _core.parse_records(records, chosen, format=format, year=year, timezone=timezone)
