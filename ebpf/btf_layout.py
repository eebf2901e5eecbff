"""Prints the maps and records of an eBPF object as its BTF has them, one line each, without type numbers.

Used by ``build.sh --check`` to compare two objects and by the test that compares the records with Rust's layout.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_KIND_NAMES = {1: "int", 2: "pointer", 3: "array", 4: "struct", 5: "union", 6: "enum", 8: "typedef", 19: "enum64"}
#: Extra bytes after the common 12-byte header of a type, per member where a kind has members.
_EXTRA = {1: 4, 3: 12, 14: 4, 17: 4}
_PER_MEMBER = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}


def section(elf: bytes, name: str) -> bytes:
    """Returns the bytes of an ELF64 section, ``b""`` when there is none."""
    offset, entry_size, count, names_index = struct.unpack_from("<Q10xHHH", elf, 0x28)
    headers = [struct.unpack_from("<IIQQQQ", elf, offset + index * entry_size) for index in range(count)]
    names = headers[names_index][4]
    for name_offset, _, _, _, start, size in headers:
        begin = names + name_offset
        if elf[begin : elf.index(b"\0", begin)].decode() == name:
            return elf[start : start + size]
    return b""


class Btf:
    """The types of one object."""

    def __init__(self, data: bytes) -> None:
        header_length, types_at, types_length, strings_at, strings_length = struct.unpack_from("<4xIIIII", data)
        self._strings = data[header_length + strings_at :][:strings_length]
        types = data[header_length + types_at :][:types_length]
        self.types: list[tuple[str, int, int, list[tuple[str, int, int]], bytes]] = [("void", 0, 0, [], b"")]
        at = 0
        while at < len(types):
            name, info, size = struct.unpack_from("<III", types, at)
            kind, members = (info >> 24) & 0x1F, info & 0xFFFF
            at += 12
            extra_length = _EXTRA.get(kind, 0) + _PER_MEMBER.get(kind, 0) * members
            extra = types[at : at + extra_length]
            at += extra_length
            fields = []
            if kind in {4, 5}:
                for index in range(members):
                    field, type_number, bit = struct.unpack_from("<III", extra, index * 12)
                    fields.append((self._text(field), type_number, bit & 0xFFFFFF))
            self.types.append((self._text(name), kind, size, fields, extra))

    def _text(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def describe(self, number: int) -> str:
        """Says a type in words that do not depend on its number."""
        name, kind, size, _, extra = self.types[number]
        if kind == 3:
            element, _, count = struct.unpack("<III", extra)
            return f"[{self.describe(element)}; {count}]"
        if kind == 2:
            return f"*{self.describe(size)}"
        return name or _KIND_NAMES.get(kind, str(kind))

    def structs(self) -> dict[str, tuple[int, list[tuple[str, int, str]]]]:
        """Maps struct names to their size and (field, byte offset, type) in order."""
        found = {}
        for name, kind, size, fields, _ in self.types:
            if kind == 4 and name:
                found[name] = (size, [(field, bit // 8, self.describe(number)) for field, number, bit in fields])
        return found


def layout(path: Path) -> list[str]:
    """Returns one sorted line per struct of the object at ``path``."""
    btf = Btf(section(path.read_bytes(), ".BTF"))
    lines = []
    for name, (size, fields) in sorted(btf.structs().items()):
        members = ", ".join(f"{field}@{offset}: {kind}" for field, offset, kind in fields)
        lines.append(f"{name} ({size} bytes): {members}")
    return lines


if __name__ == "__main__":
    print("\n".join(layout(Path(sys.argv[1]))))
