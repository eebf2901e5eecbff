"""Files as the offline commands read them: plain or compressed, log lines or JSON, one or several in order of time."""

from __future__ import annotations

import bisect
import bz2
import codecs
import gzip
import heapq
import json
import lzma
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeGuard

import typer

from ironpost.errors import ConfigError, InputError, ParseError

_PIECE_BYTES = 4 * 1024 * 1024
#: Pieces of merged files: each is parsed twice, once for its times.
_MERGED_BYTES = 1024 * 1024
#: A line that is longer is handed on in parts.
_LONGEST_LINE_BYTES = 64 * 1024 * 1024
#: One JSON value of a file that is not one value per line.
_LONGEST_VALUE_BYTES = 64 * 1024 * 1024
#: Smaller files are read before anybody could wonder.
_PROGRESS_BYTES = 64 * 1024 * 1024
_PROGRESS_SECONDS = 0.5
#: Lines that are no records to the parser; all others give a row each.
_EMPTY = frozenset({b"", b"\r"})
#: How records of the Linux audit system begin.
_AUDIT = re.compile(rb"(node=\S+ )?type=\S+ msg=audit\(\d+\.\d+:\d+\):")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
_SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}
#: First bytes of files that are no logs as they are: what they are and the way out.
_NO_LOGS = {
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "zstd -dc FILE | ironpost … -"),
    b"\x04\x22\x4d\x18": ("compressed by lz4", "lz4 -dc FILE | ironpost … -"),
    b"PK\x03\x04": ("a zip archive", "unzip -p FILE | ironpost … -"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x -so FILE | ironpost … -"),
    b"ElfFile\x00": ("a Windows event log (EVTX)", "evtx_dump -o jsonl FILE | ironpost … -"),
    b"LPKSHHRH": ("a journal file of systemd", "journalctl -o json --file FILE | ironpost … -"),
}
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
#: What ``evtx_dump -o json`` writes above each event.
_HEADING = re.compile(r"Record \d+[ \t]*\r?\n")

FileArgument = Annotated[str, typer.Argument(metavar="FILE|-", help="Log file, or - for standard input.")]
FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE…|-", help="Log files or JSON events, also .gz, .bz2, .xz; several are read in order of time."
    ),
]
FormatOption = Annotated[
    str, typer.Option("--format", help="auto, syslog, rfc5424, rfc3164, json, apache, nginx, docker, auditd.")
]
YearOption = Annotated[int | None, typer.Option(min=1970, max=9999, help="Year of timestamps without one.")]
TimezoneOption = Annotated[str, typer.Option(help="Zone of timestamps without one: UTC, local or a name.")]
LogsourceOption = Annotated[
    str, typer.Option(help="What the events are: product=…,category=…,service=….", show_default=False)
]


@dataclass(frozen=True, slots=True)
class Reading:
    """How records are to be read."""

    format: str = "auto"
    year: int | None = None
    timezone: str = "UTC"
    extractors: Any = None

    def check(self) -> None:
        """Tries the options on no text: an unknown format or zone is a mistake of usage, not of the file."""
        try:
            self.parse(b"")
        except ParseError as error:
            raise ConfigError(error.reason, hint=error.hint) from None

    def parse(self, data: bytes | list[bytes]) -> Any:
        """Parses log lines, or records that are apart already, to a batch."""
        from ironpost.events import parse

        return parse(data, format=self.format, year=self.year, timezone=self.timezone, extractors=self.extractors)

    def is_events(self, data: bytes | list[bytes]) -> TypeGuard[bytes]:
        """Says whether the records are events in JSON already, and not lines to be parsed."""
        return self.format == "auto" and isinstance(data, bytes) and data.lstrip()[:1] == b"{"


@dataclass(slots=True)
class Piece:
    """Whole records.

    Attributes:
        data: Lines, or a list of records that have several lines.
        file: As it was named.
        line: Number of the first line in the file.
        offset: Byte of the first line, in the unpacked file; negative when the file is no UTF-8.
        places: Per record (file, line, offset), when the records are not simply one after another.
    """

    data: bytes | list[bytes]
    file: str
    line: int = 1
    offset: int = 0
    places: list[tuple[str, int, int]] = field(default_factory=list)
    _found: list[tuple[str, int, int]] | None = None

    def place(self, record: int) -> tuple[str, int, int]:
        """Returns file, line and offset of a record; empty lines are no records."""
        if self._found is None:
            self._found = self.places or list(self._lines())
        return self._found[record] if record < len(self._found) else (self.file, self.line, self.offset)

    def records(self) -> list[bytes]:
        """Returns the records, each apart."""
        if isinstance(self.data, list):
            return self.data
        return [line for line in self.data.split(b"\n") if line not in _EMPTY]

    def _lines(self) -> Iterator[tuple[str, int, int]]:
        offset = self.offset
        # Records that are apart come with their places.
        lines = self.data.split(b"\n") if isinstance(self.data, bytes) else []
        for number, line in enumerate(lines, self.line):
            if line not in _EMPTY:
                yield self.file, number, max(offset, -1)
            offset += len(line) + 1 if offset >= 0 else 0


def logsource_of(text: str) -> dict[str, str]:
    """Reads the option ``--logsource``."""
    source: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or key not in {"product", "category", "service"}:
            raise ConfigError(
                f"{part!r} is no part of a log source", hint="for example --logsource product=linux,service=sshd"
            )
        source[key] = value
    return source


def read_pieces(file: str, *, progress: bool = True) -> Iterator[Piece]:
    """Yields a file in pieces of whole lines, as soon as there is one: standard input may never end.

    Raises:
        InputError: For a file that is no log, and, after all that could be read, for one that is cut or damaged.
    """
    with _opened(file) as raw:
        first = os.read(raw.fileno(), _PIECE_BYTES)
        shown = _Progress(raw, file) if progress else None
        _refuse_no_logs(file, first)
        read = _unpacked(raw, first, file)
        start, read, offset = _as_utf8(read(_PIECE_BYTES), read)
        if _is_one_value(start):
            yield from _values(file, start, read)
            return
        if _AUDIT.match(start):
            yield from _audit_events(file, _whole_lines(start, read), shown)
            return
        line = 1
        for data in _whole_lines(start, read):
            converted = _journal(data) if b'"__REALTIME_TIMESTAMP"' in data[:8192] else data
            yield Piece(converted, file, line, offset)
            line += data.count(b"\n")
            offset += len(data) if offset >= 0 else 0
            if shown:
                shown.step()
        if shown:
            shown.end()


def all_pieces(files: Sequence[str], reading: Reading, problems: list[InputError]) -> Iterator[Piece]:
    """Yields the records of files, of several in order of time; what can't be read is listed and stops no other."""
    if len(files) > 1:
        yield from _in_order(files, reading, problems)
        return
    try:
        yield from read_pieces(files[0])
    except InputError as error:
        problems.append(error)


def _in_order(files: Sequence[str], reading: Reading, problems: list[InputError]) -> Iterator[Piece]:
    """A record without a time follows the one before it."""
    streams = [_timed(number, file, reading, problems) for number, file in enumerate(files)]
    waiting: list[bytes] = []
    places: list[tuple[str, int, int]] = []
    size = 0
    is_events = False
    for _, _, line, place in heapq.merge(*streams, key=lambda item: item[:2]):
        kind = reading.is_events(line)
        if waiting and (kind != is_events or size > _MERGED_BYTES):
            yield _merged(waiting, places, is_events=is_events)
            waiting, places, size = [], [], 0
        is_events = kind
        waiting.append(line)
        places.append(place)
        size += len(line)
    if waiting:
        yield _merged(waiting, places, is_events=is_events)


def _merged(records: list[bytes], places: list[tuple[str, int, int]], *, is_events: bool) -> Piece:
    return Piece(b"\n".join(records) + b"\n" if is_events else records, places[0][0], places=places)


def _timed(
    number: int, file: str, reading: Reading, problems: list[InputError]
) -> Iterator[tuple[str, int, bytes, tuple[str, int, int]]]:
    last = ""
    try:
        for piece in read_pieces(file, progress=False):
            lines = piece.records()
            times = reading.parse(piece.data).column("@timestamp")
            for index, line in enumerate(lines):
                moment = times[index] if index < len(times) else None
                last = moment.removesuffix("Z") if moment else last
                yield last, number, line, piece.place(index)
    except InputError as error:
        problems.append(error)


def _opened(file: str) -> BinaryIO:
    return os.fdopen(os.dup(0), "rb", buffering=0) if file == "-" else Path(file).open("rb", buffering=0)


class _Joined:
    """What was read already, then the rest of the file."""

    def __init__(self, start: bytes, raw: BinaryIO) -> None:
        self._start = start
        self._raw = raw

    def read(self, size: int = -1) -> bytes:
        if self._start:
            wanted = len(self._start) if size < 0 else size
            found, self._start = self._start[:wanted], self._start[wanted:]
            return found
        return os.read(self._raw.fileno(), _PIECE_BYTES if size < 0 else size)

    def readable(self) -> bool:
        return True


def _refuse_no_logs(file: str, start: bytes) -> None:
    for magic, (what, way) in _NO_LOGS.items():
        if start.startswith(magic):
            raise InputError(f"is {what}, which is not read", path=file, hint=way.replace("FILE", file))
    wanted = _SUFFIXES.get(Path(file).suffix.lower())
    if wanted and not start.startswith(_COMPRESSED):
        reason = f"is no {wanted} file in spite of its name" if start else "is empty, not even a compressed file"
        raise InputError(reason, path=file, hint="give it the name of what it holds, or fetch it again")


def _unpacked(raw: BinaryIO, start: bytes, file: str) -> Callable[[int], bytes]:
    joined: Any = _Joined(start, raw)
    if start.startswith(b"\x1f\x8b"):
        unpack: Callable[[int], bytes] = gzip.GzipFile(fileobj=joined).read1
    elif start.startswith(b"BZh"):
        unpack = bz2.BZ2File(joined).read1
    elif start.startswith(b"\xfd7zXZ\x00"):
        unpack = lzma.LZMAFile(joined).read1  # noqa: SIM115 - what is below it gets closed
    else:
        return joined.read  # type: ignore[no-any-return]

    def read(size: int) -> bytes:
        try:
            return unpack(size)
        except EOFError:
            reason = "ends too early (compressed data is cut)"
        except (OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = f"holds damaged compressed data ({error})"
        hint = "what came before was read; fetch the file again for the rest"
        raise InputError(reason, path=file, hint=hint)

    return read


def _as_utf8(start: bytes, read: Callable[[int], bytes]) -> tuple[bytes, Callable[[int], bytes], int]:
    """The same without a byte order mark and as UTF-8, and the offset of what is first; -1 when it was UTF-16."""
    if start.startswith(codecs.BOM_UTF8):
        return start[len(codecs.BOM_UTF8) :], read, len(codecs.BOM_UTF8)
    encoding = _UTF16.get(start[:2])
    if encoding is None:
        return start, read, 0
    decoder = codecs.getincrementaldecoder(encoding)("replace")

    def decoded(size: int) -> bytes:
        while piece := read(size):
            if text := decoder.decode(piece):
                return text.encode("utf-8", "replace")
        return decoder.decode(b"", final=True).encode("utf-8", "replace")

    return decoder.decode(start[2:]).encode("utf-8", "replace"), decoded, -1


def _whole_lines(start: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    rest = b""
    piece = start
    while piece:
        rest += piece
        whole, found, left = rest.rpartition(b"\n")
        if found:
            yield whole + found
            rest = left
        elif len(rest) > _LONGEST_LINE_BYTES:
            yield rest
            rest = b""
        try:
            piece = read(_PIECE_BYTES)
        except InputError:
            if rest:
                yield rest  # the line in which the file is cut
            raise
    if rest:
        yield rest


def _audit_events(file: str, pieces: Iterator[bytes], shown: _Progress | None) -> Iterator[Piece]:
    """Records of one event as one record, which stands where its first line stands."""
    from ironpost.events import AuditJoiner

    joiner = AuditJoiner()
    offset = 0
    starts: list[int] = []  # where the lines of this piece and of the one before begin
    first_line = 1
    fresh = 0

    def piece_of(events: list[tuple[int, bytes]]) -> Piece:
        # Records that waited for longer than a piece are shown at the first line that is still known.
        places = [(file, first_line + bisect.bisect_left(starts, place), place) for place, _ in events]
        return Piece([record for _, record in events], file, places=places)

    for data in pieces:
        old = len(starts) - fresh
        del starts[:old]
        first_line += old
        known = len(starts)
        begin = 0
        while begin < len(data):
            starts.append(offset + begin)
            begin = data.find(b"\n", begin) + 1 or len(data)
        fresh = len(starts) - known
        if events := joiner.take(data, offset):
            yield piece_of(events)
        offset += len(data)
        if shown:
            shown.step()
    if events := joiner.finish():
        yield piece_of(events)
    if shown:
        shown.end()


def _is_one_value(start: bytes) -> bool:
    """A JSON list of events, an event over several lines, or events under headings."""
    text = start.lstrip(b" \t\r\n")
    if _HEADING.match(text[:64].decode("latin-1")):
        return True
    return (text[:1] == b"[" and text[1:].lstrip()[:1] == b"{") or text.split(b"\n", 1)[0].strip() == b"{"


def _values(file: str, start: bytes, read: Callable[[int], bytes]) -> Iterator[Piece]:
    """One piece per run of JSON values; their place is the line on which they begin."""
    decoder = json.JSONDecoder()
    bytes_in = codecs.getincrementaldecoder("utf-8")("replace")
    text = bytes_in.decode(start)
    line, more = 1, True
    while True:
        made: list[bytes] = []
        places: list[tuple[str, int, int]] = []
        at = 0
        while True:
            begin = at
            while at < len(text):
                if text[at] in " \t\r\n,[]":
                    at += 1
                elif heading := _HEADING.match(text, at):
                    at = heading.end()
                else:
                    break
            line += text.count("\n", begin, at)
            try:
                value, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError:
                break
            places.append((file, line, -1))
            made.append(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))
            line += text.count("\n", at, end)
            at = end
        text = text[at:]
        if made:
            yield Piece(b"\n".join(made) + b"\n", file, places=places)
        if not more:
            if text.strip():
                raise ParseError("JSON ends too early or is none", path=file, line=line)
            return
        if len(text) > _LONGEST_VALUE_BYTES:
            raise ParseError(f"no JSON value ends within {_LONGEST_VALUE_BYTES >> 20} MiB", path=file, line=line)
        fresh = read(_PIECE_BYTES)
        more = bool(fresh)
        text += bytes_in.decode(fresh, final=not more)


def _journal(data: bytes) -> bytes:
    """The lines of ``journalctl -o json`` as syslog lines, which parsers and rules know."""
    made = []
    for line in data.splitlines():
        try:
            entry = json.loads(line)
            seconds = int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000
            moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            message = entry.get("MESSAGE", "")
            # journald writes text that is no UTF-8 as a list of bytes.
            text = bytes(message).decode("utf-8", "replace") if isinstance(message, list) else str(message)
            name = str(entry.get("SYSLOG_IDENTIFIER") or entry.get("_COMM") or "unknown")
            pid = entry.get("SYSLOG_PID") or entry.get("_PID")
            tag = f"{name}[{pid}]" if pid else name
            text = f"{moment} {entry.get('_HOSTNAME') or 'localhost'} {tag}: {text}"
        except (ValueError, KeyError, TypeError, OverflowError):
            made.append(line)
            continue
        made.append(" ".join(text.splitlines()).encode("utf-8", "replace"))
    return b"\n".join(made) + b"\n"


class _Progress:
    """Says on a terminal how far a large file is read."""

    def __init__(self, raw: BinaryIO, file: str) -> None:
        self._raw = raw
        self._file = file
        try:
            self._total = os.fstat(raw.fileno()).st_size
        except OSError:
            self._total = 0
        self._active = sys.stderr.isatty() and self._total > _PROGRESS_BYTES
        self._said = time.monotonic()

    def step(self) -> None:
        now = time.monotonic()
        if self._active and now - self._said > _PROGRESS_SECONDS:
            from ironpost.cli.output import safe

            self._said = now
            share = 100 * os.lseek(self._raw.fileno(), 0, os.SEEK_CUR) // self._total
            sys.stderr.write(f"\r{safe(self._file)}: {share} %\x1b[K")
            sys.stderr.flush()

    def end(self) -> None:
        if self._active:
            sys.stderr.write("\r\x1b[K")
