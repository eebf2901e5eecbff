"""Who else can change a file: what strangers may write is believed less as a log, and not read at all as a setting."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Accounts from here on are people's; below are those of the system and its services (``SYS_UID_MAX`` of login.defs).
_FIRST_PERSON = 1000
#: Groups that may write logs although people belong to them: those who are in them administer the host.
_LOG_GROUPS = frozenset({"root", "adm", "syslog", "systemd-journal"})
_MOST_LINKS = 40
_CODE = os.path.realpath(Path(__file__).parent)

_ACL = "system.posix_acl_access"
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP_OWNER, _ACL_GROUP, _ACL_MASK = 0x02, 0x04, 0x08, 0x10
_ACL_WRITE = 0x02


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a file may hold what a stranger wrote.

    Attributes:
        path: The file, or the directory or link on the way to it, that a stranger can change.
        reason: What is wrong with that path, for example ``is writable by everybody``.
        remedy: The command that mends it.
    """

    path: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


@dataclass(frozen=True, slots=True)
class _Step:
    """One directory, link or file on the way to a path; whoever can change it can change what is read there."""

    path: str
    facts: os.stat_result
    #: In a sticky directory others can add entries, but can't replace the one that the way goes through.
    is_held: bool


def log_doubt(path: str | os.PathLike[str]) -> Doubt | None:
    """Returns how somebody besides root, ourselves and the system's services could write a log, or None.

    Args:
        path: The log; while it doesn't exist, whoever may create it is asked for.
    """
    for step in _way(path):
        owner = step.facts.st_uid
        if not _is_service(owner):
            return Doubt(step.path, f"belongs to {_user(owner)}", f"chown root {step.path}")
        if step.is_held:
            continue
        if step.facts.st_mode & stat.S_IWOTH:
            return Doubt(step.path, "is writable by everybody", f"chmod o-w {step.path}")
        if step.facts.st_mode & stat.S_IWGRP and (writer := _strange_writer(step)):
            return Doubt(step.path, f"is writable by {writer}", f"chmod g-w {step.path}")
    return None


def setting_doubt(path: str | os.PathLike[str]) -> Doubt | None:
    """Returns how somebody besides root and ourselves could change a configuration file, rule or policy, or None.

    What comes with Ironpost is code: it is as good as the program that reads it.

    Args:
        path: An existing file.
    """
    for step in _way(path):
        if _is_code(step.path):
            continue
        owner = step.facts.st_uid
        if owner not in {0, os.geteuid()}:
            return Doubt(step.path, f"belongs to {_user(owner)}", f"chown {_user(os.geteuid())} {step.path}")
        if step.is_held or stat.S_ISCHR(step.facts.st_mode):
            continue
        if step.facts.st_mode & stat.S_IWOTH:
            return Doubt(step.path, "is writable by everybody", f"chmod go-w {step.path}")
        if step.facts.st_mode & stat.S_IWGRP:
            group = _group(step.facts.st_gid)
            return Doubt(step.path, f"is writable by the group {group}", f"chmod go-w {step.path}")
    return None


def _way(path: str | os.PathLike[str]) -> Iterator[_Step]:
    """Yields every step from the root to a path, links followed, as far as it exists."""
    found: list[tuple[str, os.stat_result]] = [("/", os.lstat("/"))]
    here, links, is_whole = "/", 0, False
    waiting = _parts(os.path.join(os.getcwd(), path))  # noqa: PTH109, PTH118 - Path would take ".." for plain text
    while True:
        if not waiting:
            is_whole = True
            break
        part = waiting.pop()
        if part == "..":
            here = os.path.dirname(here)  # noqa: PTH120 - text throughout
            continue
        following = os.path.join(here, part)  # noqa: PTH118 - text throughout
        try:
            facts = os.lstat(following)
            target = os.readlink(following) if stat.S_ISLNK(facts.st_mode) else ""  # noqa: PTH115 - text throughout
        except OSError:
            break
        found.append((following, facts))
        if not target:
            here = following
            continue
        links += 1
        if links > _MOST_LINKS:
            break
        here = "/" if target.startswith("/") else here
        waiting += _parts(target)
    for name, facts in found:
        sticky = bool(facts.st_mode & stat.S_ISVTX) and stat.S_ISDIR(facts.st_mode) and (is_whole or name != here)
        # The mode of a link means nothing; replacing it is a matter of its directory.
        yield _Step(name, facts, is_held=sticky or stat.S_ISLNK(facts.st_mode))


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def _is_code(path: str) -> bool:
    """Says whether a path is in the package, or on the way to it: who can change that can change the program."""
    return os.path.commonpath([path, _CODE]) in {path, _CODE}


def _is_service(uid: int) -> bool:
    return uid < _FIRST_PERSON or uid == os.geteuid()


def _strange_writer(step: _Step) -> str:
    """Names a group or user that the group bits let write and that isn't the system's."""
    entries = _access_list(step.path)
    # With an access list the group bits are its mask: what others than the owner have at most.
    owning_group_writes = not entries
    for tag, permissions, identifier in entries:
        if not permissions & _ACL_WRITE:
            continue
        if tag == _ACL_USER and not _is_service(identifier):
            return _user(identifier)
        if tag == _ACL_GROUP and not _is_service_group(identifier):
            return f"the group {_group(identifier)}"
        owning_group_writes |= tag == _ACL_GROUP_OWNER
    if owning_group_writes and not _is_service_group(step.facts.st_gid):
        return f"the group {_group(step.facts.st_gid)}"
    return ""


def _access_list(path: str) -> list[tuple[int, int, int]]:
    read = getattr(os, "getxattr", None)
    if read is None:
        return []
    try:
        value: bytes = read(path, _ACL)
    except OSError:
        return []
    return [tuple(entry) for entry in _ACL_ENTRY.iter_unpack(value[4:])]


def _is_service_group(gid: int) -> bool:
    """Says whether a group stands for the host: known for it, or the own group of a service without people in it."""
    try:
        group = grp.getgrgid(gid)
        if gid == 0 or group.gr_name in _LOG_GROUPS:
            return True
        account = pwd.getpwnam(group.gr_name)
        members = [account, *map(pwd.getpwnam, group.gr_mem)]
    except KeyError:
        return False
    return account.pw_gid == gid and all(_is_service(member.pw_uid) for member in members)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
