"""Audit records as the kernel and auditd write them, from what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: A call that starts a program, on x86_64.
EXECVE = 59


def untrusted(value: bytes) -> str:
    """Text that a process chose, as ``audit_log_untrustedstring`` of the kernel writes it."""
    if any(byte in b'"' or byte < 0x21 or byte > 0x7E for byte in value):
        return value.hex().upper()
    return f'"{value.decode("ascii")}"'


def record(kind: str, serial: int, body: str, *, millis: int = 1_700_000_000_123, node: str = "") -> str:
    """One line."""
    return (
        f"{f'node={node} ' if node else ''}type={kind} msg=audit({millis // 1000}.{millis % 1000:03}:{serial}): {body}"
    )


def call(number: int, **values: object) -> str:
    """The body of a SYSCALL record."""
    known: Mapping[str, object] = {
        "arch": "c000003e", "syscall": number, "success": "yes", "exit": 0, "a0": "55d", "a1": "55e", "a2": "0",
        "a3": "8", "items": 0, "ppid": 10, "pid": 11, "auid": 1000, "uid": 0, "gid": 0, "euid": 0, "suid": 0,
        "fsuid": 0, "egid": 0, "sgid": 0, "fsgid": 0, "tty": "pts1", "ses": 3, "comm": '"x"', "exe": '"/usr/bin/x"',
        "subj": "unconfined", "key": "(null)",
    } | values  # fmt: skip
    return " ".join(f"{name}={value}" for name, value in known.items())


def command(serial: int, arguments: Sequence[bytes], *, cwd: bytes = b"/root", **values: object) -> list[str]:
    """The records of a program that starts."""
    listed = " ".join(f"a{index}={untrusted(argument)}" for index, argument in enumerate(arguments))
    return [
        record("SYSCALL", serial, call(EXECVE, **values)),
        record("EXECVE", serial, f"argc={len(arguments)} {listed}"),
        record("CWD", serial, f"cwd={untrusted(cwd)}"),
        record("PROCTITLE", serial, f"proctitle={untrusted(bytes(1).join(arguments)[:128])}"),
    ]
