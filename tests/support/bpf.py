"""The ``bpf`` system call as far as tests need it: run a pinned program on a frame, read maps, make foreign programs.

Written against the kernel's own structures and not against Ironpost, so that a mistake in the native module cannot
hide itself.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path
from typing import Self

_SYSCALL = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_LIBC = ctypes.CDLL(None, use_errno=True)
_MAP_UPDATE, _PROG_LOAD, _OBJ_PIN, _OBJ_GET, _TEST_RUN, _PROG_BY_ID, _OBJ_INFO = 2, 5, 6, 7, 10, 13, 15

PASS, DROP, ABORTED = 2, 1, 0


def _bpf(command: int, attribute: ctypes.Array[ctypes.c_char]) -> int:
    result = _LIBC.syscall(_SYSCALL, command, attribute, len(attribute))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def _attribute(layout: str, *values: int | bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack(layout, *values), struct.calcsize(layout))


def get_pinned(path: str | Path) -> int:
    """Returns a descriptor of the object pinned at ``path``."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, _attribute("<QII", ctypes.addressof(name), 0, 0))


class Program:
    """A loaded XDP program that can be run on frames without any interface."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def pinned(cls, path: str | Path) -> Self:
        """Opens a program by its pin."""
        return cls(get_pinned(path))

    @classmethod
    def by_id(cls, number: int) -> Self:
        """Opens a program by its id, as bpftool shows it."""
        return cls(_bpf(_PROG_BY_ID, _attribute("<III", number, 0, 0)))

    @classmethod
    def returning(cls, action: int, *, name: bytes = b"foreign") -> Self:
        """Loads the two-instruction program ``return action``."""
        instructions = ctypes.create_string_buffer(
            struct.pack("<BBhi", 0xB7, 0, 0, action) + struct.pack("<BBhi", 0x95, 0, 0, 0)
        )
        licence = ctypes.create_string_buffer(b"GPL")
        attribute = _attribute(
            "<IIQQIIQII16s",
            *(6, 2, ctypes.addressof(instructions), ctypes.addressof(licence), 0, 0, 0, 0, 0),
            name,
        )
        return cls(_bpf(_PROG_LOAD, attribute))

    def pin(self, path: str | Path) -> None:
        """Pins the program, for commands that take one by path."""
        name = ctypes.create_string_buffer(os.fsencode(path))
        _bpf(_OBJ_PIN, _attribute("<QII", ctypes.addressof(name), self._descriptor, 0))

    @property
    def number(self) -> int:
        """Id of the program."""
        info = ctypes.create_string_buffer(256)
        _bpf(_OBJ_INFO, _attribute("<IIQ", self._descriptor, len(info), ctypes.addressof(info)))
        return int(struct.unpack_from("<4xI", info.raw)[0])

    def fileno(self) -> int:
        """Descriptor of the program."""
        return self._descriptor

    def run(self, frame: bytes, *, repeat: int = 1) -> tuple[int, int]:
        """Runs the program ``repeat`` times on ``frame``; returns its last verdict and the average nanoseconds."""
        data = ctypes.create_string_buffer(frame, len(frame))
        attribute = _attribute(
            "<IIIIQQIIIIQQIII4x",
            *(self._descriptor, 0, len(frame), 0, ctypes.addressof(data), 0, repeat, 0, 0, 0, 0, 0, 0, 0, 0),
        )
        _bpf(_TEST_RUN, attribute)
        (verdict,) = struct.unpack_from("<I", attribute.raw, 4)
        (duration,) = struct.unpack_from("<I", attribute.raw, 36)
        return verdict, duration

    def close(self) -> None:
        """Lets the kernel forget the program, unless something else holds it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def overwrite(path: str | Path, value: bytes) -> None:
    """Writes element 0 of the array pinned at ``path``."""
    descriptor = get_pinned(path)
    try:
        key, data = ctypes.create_string_buffer(4), ctypes.create_string_buffer(value, len(value))
        _bpf(_MAP_UPDATE, _attribute("<I4xQQQ", descriptor, ctypes.addressof(key), ctypes.addressof(data), 0))
    finally:
        os.close(descriptor)
