"""Rule files out of a directory, a tar archive or a zip file, none of which is trusted.

Nothing is unpacked to disk here: a member's name is only ever compared, and its bytes are bounded while they are
read. A member whose name leads outside makes the whole archive suspect, and it is refused.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ironpost.detections.documents import MAX_FILE_BYTES
from ironpost.errors import RuleError

MAX_MEMBERS = 100_000
"""Archives and directories with more entries are refused."""
MAX_UNPACKED = 1 << 30
"""Bytes an archive may unpack to; SigmaHQ's whole repository has a tenth of that."""
_MAX_NAME = 1024
_SUFFIXES = frozenset({".yml", ".yaml"})


@dataclass(frozen=True, slots=True)
class Member:
    """A rule file of a source.

    Attributes:
        name: Relative path with ``/``.
        problem: Why it is not taken; empty when it is.
    """

    name: str
    content: bytes = b""
    problem: str = ""


def read_members(path: Path) -> Iterator[Member]:
    """Yields every YAML file of a source.

    Raises:
        RuleError: When the source is no directory and no archive that can be read, is too large, or has a member that
            would be written outside.
    """
    if path.is_dir():
        yield from _directory(path)
        return
    try:
        with path.open("rb") as file:
            start = file.read(6)
            file.seek(0)
            if start.startswith(b"PK"):
                yield from _zip(path, file)
            else:
                yield from _tar(path, file, start)
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, EOFError, zipfile.LargeZipFile) as error:
        raise RuleError(f"archive can't be read: {error}", path=str(path)) from error
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile) or error.errno is None:
            raise RuleError(f"archive can't be read: {error}", path=str(path)) from error
        raise RuleError(f"cannot be read: {error.strerror}", path=str(path)) from error


def _directory(root: Path) -> Iterator[Member]:
    count = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            count += 1
            if count > MAX_MEMBERS:
                raise RuleError(f"more than {MAX_MEMBERS:,} files", path=str(root))
            place = Path(folder) / name
            if place.suffix.lower() not in _SUFFIXES or name.startswith("."):
                continue
            relative = place.relative_to(root).as_posix()
            try:
                status = place.lstat()
                if not stat.S_ISREG(status.st_mode):
                    yield Member(relative, problem="no regular file, links are not followed")
                elif status.st_size > MAX_FILE_BYTES:
                    yield Member(relative, problem=f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
                else:
                    yield Member(relative, place.read_bytes())
            except OSError as error:
                yield Member(relative, problem=f"cannot be read: {error.strerror}")


def _tar(path: Path, file: IO[bytes], start: bytes) -> Iterator[Member]:
    opened: IO[bytes]
    if start.startswith(b"\x1f\x8b"):
        opened = gzip.GzipFile(fileobj=file)  # type: ignore[assignment]
    elif start.startswith(b"BZh"):
        opened = bz2.BZ2File(file)
    elif start.startswith(b"\xfd7zXZ\x00"):
        opened = lzma.LZMAFile(file)  # noqa: SIM115 - lives as long as the file it reads
    else:
        opened = file
    bounded = io.BufferedReader(_Bounded(opened, path))
    with tarfile.open(fileobj=bounded, mode="r|") as archive:
        count = 0
        for member in archive:
            count += 1
            name = _checked(member.name, path, count)
            if PurePosixPath(name).suffix.lower() not in _SUFFIXES or member.isdir():
                continue
            if not member.isreg():
                yield Member(name, problem="no regular file, links are not followed")
            elif member.size > MAX_FILE_BYTES:
                yield Member(name, problem=f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
            else:
                content = archive.extractfile(member)
                yield Member(name, content.read() if content else b"")


def _zip(path: Path, file: IO[bytes]) -> Iterator[Member]:
    total = 0
    with zipfile.ZipFile(file) as archive:
        for count, member in enumerate(archive.infolist(), 1):
            # The name as stored: the library itself turns backslashes and drops what follows a null.
            name = _checked(member.orig_filename, path, count)
            if member.is_dir() or PurePosixPath(name).suffix.lower() not in _SUFFIXES:
                continue
            mode = member.external_attr >> 16
            if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
                yield Member(name, problem="no regular file, links are not followed")
                continue
            if member.flag_bits & 1:
                yield Member(name, problem="encrypted")
                continue
            try:
                with archive.open(member) as content:
                    data = content.read(MAX_FILE_BYTES + 1)
            except NotImplementedError as error:
                yield Member(name, problem=str(error))
                continue
            total += len(data)
            if total > MAX_UNPACKED:
                raise _too_large(path)
            if len(data) > MAX_FILE_BYTES:
                yield Member(name, problem=f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
            else:
                yield Member(name, data)


def _checked(name: str, path: Path, count: int) -> str:
    """Refuses an archive with a name that could lead outside, however a system might read it."""
    if count > MAX_MEMBERS:
        raise RuleError(f"archive has more than {MAX_MEMBERS:,} members", path=str(path))
    parts = name.split("/")
    is_outside = name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]
    if is_outside or len(name) > _MAX_NAME or any(ord(character) < 32 for character in name):
        raise RuleError(
            f"archive has a member that would be written outside, or with a name that is none: {name[:80]!r}",
            path=str(path),
            hint="nothing was taken from it; don't trust where it came from",
        )
    return str(PurePosixPath(*(part for part in parts if part not in {"", "."})))


def _too_large(path: Path) -> RuleError:
    return RuleError(f"archive unpacks to more than {MAX_UNPACKED >> 30} GiB", path=str(path))


class _Bounded(io.RawIOBase):
    """A stream that ends with an error where an archive has unpacked too much."""

    def __init__(self, inner: IO[bytes], path: Path) -> None:
        self._inner = inner
        self._path = path
        self._left = MAX_UNPACKED

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._inner.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._path)
        buffer[: len(data)] = data
        return len(data)
