"""Makes the lanes: events as JSON lines, beside them each event's log source. The same bytes on every machine.

Shapes and field sets are those of Sysmon, the Windows Security, PowerShell and System channels, auditd, Sysmon for Linux,
syslog and web servers. Values have high cardinality: no event occurs twice, paths, command lines, hashes, GUIDs, ports and
names are made afresh. Attacks are made from what a rule describes: one of the ways it can hold is chosen and its texts
are put into an event of the rule's log source, with made text around.
"""

# ruff: noqa: E501, SIM905 - tables of event shapes are read in rows; word lists as words

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Event = dict[str, Any]
Source = tuple[str, str, str]
Made = tuple[Event, Source]

_WORDS = (
    "account adapter agent alpha archive backup batch billing bridge broker browser budget cache canvas catalog center chart"
    " client cloud codec config console core data delta desk device digest disk docs driver edge editor engine event export"
    " fabric filter finance folder font forms frame gateway graph grid group health helper host index inventory invoice"
    " kernel layout ledger library license link local logger mail manager media merge mesh meter mobile model module monitor"
    " native node notes office order packet panel patch planner player plugin portal printer profile project proxy query"
    " queue radar reader record relay remote render report roaming router runtime sales scan schedule script sensor server"
    " service session setup shell signal site sketch socket source spool stage status storage stream studio support switch"
    " sync system table target task team telemetry template theme ticket token tools tracker update vendor viewer wallet"
    " watch window worker zone"
).split()
_TOP = ("com", "net", "org", "io", "example", "de", "co.uk")
_SYSTEM = (
    "svchost cmd conhost rundll32 explorer lsass services wmiprvse taskhostw dllhost msiexec reg schtasks sc regsvr32"
    " powershell netsh certutil wuauclt SearchIndexer spoolsv RuntimeBroker backgroundTaskHost smartscreen consent audiodg"
    " fontdrvhost ctfmon sihost MoUsoCoreWorker TiWorker TrustedInstaller CompatTelRunner SgrmBroker WerFault net net1"
).split()
_APPS = (
    "chrome msedge Teams OUTLOOK WINWORD EXCEL OneDrive Code node python java git slack Zoom firefox AcroRd32 notepad++ 7zG"
    " Update setup helper crashpad_handler MsMpEng NisSrv vmtoolsd sqlservr w3wp"
).split()
_GIVEN = (
    "james mary john anna robert jonas michael linda david sofia william emma lukas marta yusuf chen priya omar".split()
)
_FAMILY = (
    "smith mueller garcia rossi jones kowalski brown ivanov davis tanaka wilson nguyen taylor kim martin silva".split()
)


class Maker:
    """Makes events from one stream of random numbers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = 1_790_000_000.0
        self.record = 100_000

    # --- texts ---

    def one(self, words: Sequence[T]) -> T:
        return words[int(self.random.random() * len(words))]

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def number(self, below: int) -> int:
        return int(self.random.random() * below)

    def word(self) -> str:
        made = self.one(_WORDS)
        return f"{made}{self.number(10_000)}" if self.chance(0.4) else made

    def hexadecimal(self, digits: int) -> str:
        return f"{self.random.getrandbits(digits * 4):0{digits}X}"

    def guid(self) -> str:
        text = self.hexadecimal(32)
        return f"{{{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}}}"

    def user(self) -> str:
        return f"{self.one(_GIVEN)}.{self.one(_FAMILY)}{self.number(60)}"

    def account(self) -> str:
        if self.chance(0.45):
            return self.one(("NT AUTHORITY\\SYSTEM", "NT AUTHORITY\\LOCAL SERVICE", "NT AUTHORITY\\NETWORK SERVICE"))
        return f"CORP\\{self.user()}"

    def host(self) -> str:
        return f"WS-{self.number(2000):04}.corp.example"

    def name(self) -> str:
        return f"{self.word()}.{self.word()}.{self.one(_TOP)}"

    def address(self) -> str:
        if self.chance(0.5):
            return f"10.{self.number(256)}.{self.number(256)}.{self.number(256)}"
        return f"{1 + self.number(222)}.{self.number(256)}.{self.number(256)}.{self.number(256)}"

    def time(self) -> str:
        self.clock += self.random.random() * 0.2
        second = int(self.clock)
        return (
            f"2026-09-{1 + second // 86400 % 28:02} {second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
            f".{int(self.clock * 1000) % 1000:03}"
        )

    def image(self) -> str:
        kind = self.random.random()
        if kind < 0.45:
            return f"C:\\Windows\\{'SysWOW64' if self.chance(0.1) else 'System32'}\\{self.one(_SYSTEM)}.exe"
        if kind < 0.75:
            side = " (x86)" if self.chance(0.3) else ""
            return f"C:\\Program Files{side}\\{self.word().title()}\\{self.word().title()}\\{self.one(_APPS)}.exe"
        if kind < 0.92:
            return f"C:\\Users\\{self.user()}\\AppData\\Local\\{self.word()}\\{self.word()}\\{self.one(_APPS)}.exe"
        return f"D:\\{self.word()}\\{self.word()}\\{self.word()}.exe"

    def document(self) -> str:
        ending = self.one(
            ("docx", "xlsx", "pdf", "txt", "ps1", "py", "json", "log", "tmp", "dll", "lnk", "zip", "dat", "db")
        )
        place = self.one(
            ("Documents", "Downloads", "Desktop", "AppData\\Local\\Temp", "AppData\\Roaming\\" + self.word())
        )
        return f"C:\\Users\\{self.user()}\\{place}\\{self.word()}\\{self.word()}-{self.number(99999)}.{ending}"

    def argument(self) -> str:
        kind = self.number(8)
        if kind == 0:
            return f"--{self.word()}={self.word()}"
        if kind == 1:
            return self.one(("-k", "-s", "-p", "-c", "-Embedding", "-secured32", "-ServerName:App", "-t", "-NoExit"))
        if kind == 2:
            return f'"{self.document()}"'
        if kind == 3:
            return self.one(("/c", "/q", "/s", "/i", "/all", "/n", "/d", "/v", "/noconsole", "/prefetch:5"))
        if kind == 4:
            kind_of = self.one(("renderer", "utility", "gpu-process"))
            handle = f"{self.number(9999)},{self.random.getrandbits(60)},{self.random.getrandbits(60)}"
            return f"--type={kind_of} --lang=en-US --field-trial-handle={handle} --mojo-platform-channel-handle={self.number(9999)}"
        if kind == 5:
            return self.hexadecimal(8 + self.number(32)).lower()
        if kind == 6:
            return f"https://{self.name()}/{self.word()}/{self.word()}?{self.word()}={self.number(10**9)}"
        return self.word()

    def command(self, image: str) -> str:
        start = f'"{image}"' if self.chance(0.6) else image.rsplit("\\", 1)[1]
        return " ".join([start, *(self.argument() for _ in range(self.number(8)))])

    def hashes(self) -> str:
        h = self.hexadecimal
        return f"SHA1={h(40)},MD5={h(32)},SHA256={h(64)},IMPHASH={h(32)}"

    # --- Windows ---

    def windows(self, number: int, channel: str) -> Event:
        self.record += 1
        return {
            "EventID": number, "Channel": channel, "Provider_Name": channel.split("/", maxsplit=1)[0], "Computer": self.host(),
            "EventRecordID": self.record, "UtcTime": self.time(),
        }  # fmt: skip

    def sysmon(self, number: int, category: str, image: str | None = None) -> Made:
        made = self.windows(number, "Microsoft-Windows-Sysmon/Operational")
        made |= {
            "RuleName": "-", "ProcessGuid": self.guid(), "ProcessId": self.number(30000), "Image": image or self.image(),
            "User": self.account(),
        }  # fmt: skip
        return made, ("windows", category, "sysmon")

    def process(self) -> Made:
        image, parent = self.image(), self.image()
        made, source = self.sysmon(1, "process_creation", image)
        made |= {
            "FileVersion": f"{self.number(20)}.{self.number(10)}.{self.number(30000)}.{self.number(4000)}",
            "Description": f"{self.word().title()} {self.word().title()}",
            "Product": "Microsoft\u00ae Windows\u00ae Operating System" if self.chance(0.4) else self.word().title(),
            "Company": "Microsoft Corporation" if self.chance(0.5) else f"{self.word().title()} Inc.",
            "OriginalFileName": image.rsplit("\\", 1)[1] if self.chance(0.7) else f"{self.word()}.exe",
            "CommandLine": self.command(image),
            "CurrentDirectory": "C:\\Windows\\system32\\" if self.chance(0.5) else f"C:\\Users\\{self.user()}\\",
            "LogonGuid": self.guid(), "LogonId": hex(self.random.getrandbits(24)),
            "TerminalSessionId": self.number(4), "IntegrityLevel": self.one(("System", "Medium", "High", "Low")),
            "Hashes": self.hashes(), "ParentProcessGuid": self.guid(), "ParentProcessId": self.number(30000),
            "ParentImage": parent, "ParentCommandLine": self.command(parent), "ParentUser": self.account(),
        }  # fmt: skip
        return made, source

    def file(self) -> Made:
        made, source = self.sysmon(11, "file_event")
        return made | {"TargetFilename": self.document(), "CreationUtcTime": self.time()}, source

    def registry(self) -> Made:
        made, source = self.sysmon(13, "registry_set")
        hive = self.one(
            (
                "HKLM\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion", "HKLM\\System\\CurrentControlSet\\Services",
                "HKCR\\CLSID\\" + self.guid(), "HKLM\\SOFTWARE\\WOW6432Node\\" + self.word().title(),
                f"HKU\\S-1-5-21-{self.random.getrandbits(31)}-{self.random.getrandbits(31)}-1{self.number(999):03}\\Software",
            )
        )  # fmt: skip
        key = "\\".join(self.word().title() for _ in range(1 + self.number(4)))
        details = self.one(
            (f"DWORD (0x{self.random.getrandbits(32):08x})", self.word(), self.document(), "Binary Data", self.guid())
        )
        return made | {"EventType": "SetValue", "TargetObject": f"{hive}\\{key}", "Details": details}, source

    def library(self) -> Made:
        made, source = self.sysmon(7, "image_load")
        folder = self.one(
            ("C:\\Windows\\System32", "C:\\Windows\\SysWOW64", f"C:\\Program Files\\{self.word().title()}",
             f"C:\\Windows\\WinSxS\\amd64_{self.word()}_{self.hexadecimal(16).lower()}")
        )  # fmt: skip
        name = f"{self.word()}.dll"
        signed = self.chance(0.9)
        made |= {
            "ImageLoaded": f"{folder}\\{name}", "FileVersion": f"10.0.{self.number(30000)}.{self.number(4000)}",
            "Description": f"{self.word()} {self.word()}", "Product": self.word().title(), "OriginalFileName": name,
            "Company": "Microsoft Corporation" if signed else "-", "Hashes": self.hashes(),
            "Signed": "true" if signed else "false", "Signature": "Microsoft Windows" if signed else "-",
            "SignatureStatus": "Valid" if signed else "Unavailable",
        }  # fmt: skip
        return made, source

    def connection(self) -> Made:
        made, source = self.sysmon(3, "network_connection")
        made |= {
            "Protocol": "tcp" if self.chance(0.8) else "udp", "Initiated": "true" if self.chance(0.8) else "false",
            "SourceIsIpv6": "false", "SourceIp": self.address(), "SourceHostname": self.host(),
            "SourcePort": 1024 + self.number(64000), "SourcePortName": "-", "DestinationIsIpv6": "false",
            "DestinationIp": self.address(), "DestinationHostname": self.name(),
            "DestinationPort": self.one((443, 443, 443, 80, 53, 445, 8080, self.number(65535))), "DestinationPortName": "-",
        }  # fmt: skip
        return made, source

    def resolution(self) -> Made:
        made, source = self.sysmon(22, "dns_query")
        return made | {
            "QueryName": self.name(),
            "QueryStatus": "0",
            "QueryResults": f"::ffff:{self.address()};",
        }, source

    def access(self) -> Made:
        made = self.windows(10, "Microsoft-Windows-Sysmon/Operational")
        trace = "|".join(
            f"C:\\Windows\\System32\\{name}.dll+{self.hexadecimal(5).lower()}"
            for name in ("ntdll", "KERNELBASE", self.word(), self.word())
        )
        made |= {
            "RuleName": "-", "SourceProcessGUID": self.guid(), "SourceProcessId": self.number(30000),
            "SourceThreadId": self.number(9999), "SourceImage": self.image(), "TargetProcessGUID": self.guid(),
            "TargetProcessId": self.number(30000), "TargetImage": self.image(), "CallTrace": trace,
            "GrantedAccess": self.one(("0x1000", "0x1400", "0x1410", "0x1fffff", "0x40")), "SourceUser": self.account(),
            "TargetUser": self.account(),
        }  # fmt: skip
        return made, ("windows", "process_access", "sysmon")

    def pipe(self) -> Made:
        made, source = self.sysmon(17, "pipe_created")
        name = f"\\{self.word()}.{self.number(9999)}.{self.hexadecimal(8).lower()}"
        return made | {"EventType": "CreatePipe", "PipeName": name}, source

    def security(self) -> Made:
        number = self.one((4624, 4624, 4624, 4634, 4672, 4625, 4688, 5156, 4769, 4663))
        made = self.windows(number, "Security") | {
            "SubjectUserSid": f"S-1-5-21-{self.random.getrandbits(31)}-{self.random.getrandbits(31)}-{self.number(9999)}",
            "SubjectUserName": self.user(), "SubjectDomainName": "CORP", "SubjectLogonId": hex(self.random.getrandbits(28)),
        }  # fmt: skip
        if number in {4624, 4625, 4634, 4672}:
            made |= {
                "TargetUserName": self.user(), "TargetDomainName": "CORP", "TargetLogonId": hex(self.random.getrandbits(28)),
                "LogonType": self.one((2, 3, 3, 3, 5, 7, 10)), "LogonProcessName": self.one(("Advapi", "Kerberos", "User32")),
                "AuthenticationPackageName": self.one(("Negotiate", "Kerberos", "NTLM")), "WorkstationName": self.host(),
                "LogonGuid": self.guid(), "KeyLength": 0, "ProcessName": self.image(), "IpAddress": self.address(),
                "IpPort": self.number(65535), "ImpersonationLevel": "%%1833",
            }  # fmt: skip
        elif number == 4688:
            image = self.image()
            made |= {"NewProcessName": image, "CommandLine": self.command(image), "ParentProcessName": self.image()}
        elif number == 5156:
            made |= {
                "Application": f"\\device\\harddiskvolume3\\{self.word()}\\{self.word()}.exe", "Direction": "%%14593",
                "SourceAddress": self.address(), "SourcePort": str(self.number(65535)), "DestAddress": self.address(),
                "DestPort": str(self.number(65535)), "Protocol": "6",
            }  # fmt: skip
        elif number == 4769:
            made |= {"ServiceName": f"{self.host()}$", "TicketEncryptionType": "0x12", "TicketOptions": "0x40810000"}
        else:
            made |= {
                "ObjectName": self.document(),
                "ObjectType": "File",
                "AccessMask": "0x2",
                "ProcessName": self.image(),
            }
        return made, ("windows", "", "security")

    def script(self) -> Made:
        shapes = (
            "${} = Get-{} -{} '{}'",
            "function {}-{} {{ param(${}) Write-Output {} }}",
            "if (${} -eq {}) {{ ${}.{} }}",
        )
        lines = [self.one(shapes).format(*(self.word() for _ in range(4))) for _ in range(3 + self.number(20))]
        made = self.windows(4104, "Microsoft-Windows-PowerShell/Operational") | {
            "MessageNumber": 1, "MessageTotal": 1, "ScriptBlockText": "\n".join(lines), "ScriptBlockId": self.guid(),
            "Path": self.document(),
        }  # fmt: skip
        return made, ("windows", "ps_script", "powershell")

    def installed(self) -> Made:
        made = self.windows(self.one((7045, 7036, 7040)), "System") | {
            "ServiceName": self.word(), "ImagePath": self.image(), "ServiceType": "user mode service",
            "StartType": "auto start", "AccountName": "LocalSystem",
        }  # fmt: skip
        return made, ("windows", "", "system")

    # --- Linux ---

    def linux_path(self) -> str:
        folder = self.one(
            (
                "/usr/bin",
                "/usr/sbin",
                "/opt/" + self.word(),
                f"/home/{self.user()}/.local/bin",
                "/usr/lib/" + self.word(),
            )
        )
        program = self.one(
            ("bash", "sh", "python3", "ls", "cat", "grep", "systemd", "cron", "sshd", "node", "java", self.word())
        )
        return f"{folder}/{program}"

    def linux_command(self, image: str) -> str:
        def argument() -> str:
            return self.one(
                (f"--{self.word()}", f"-{self.one('abcdefnrvx')}", f"/var/{self.word()}/{self.word()}.{self.number(999)}",
                 f"/home/{self.user()}/{self.word()}.txt", self.word(), f"{self.word()}={self.hexadecimal(12).lower()}")
            )  # fmt: skip

        return " ".join([image, *(argument() for _ in range(self.number(9)))])

    def linux_process(self) -> Made:
        image, parent = self.linux_path(), self.linux_path()
        made = {
            "EventID": 1, "Channel": "Linux-Sysmon/Operational", "Provider_Name": "Linux-Sysmon",
            "Computer": f"srv-{self.number(900)}", "UtcTime": self.time(), "ProcessGuid": self.guid(),
            "ProcessId": self.number(99999), "Image": image, "CommandLine": self.linux_command(image),
            "CurrentDirectory": f"/home/{self.user()}", "User": self.one(("root", "www-data", self.user())),
            "LogonId": self.number(9999), "ParentProcessId": self.number(99999), "ParentImage": parent,
            "ParentCommandLine": self.linux_command(parent), "ParentUser": "root",
        }  # fmt: skip
        return made, ("linux", "process_creation", "")

    def linux_file(self) -> Made:
        made = {
            "EventID": 11, "Channel": "Linux-Sysmon/Operational", "Provider_Name": "Linux-Sysmon",
            "Computer": f"srv-{self.number(900)}", "UtcTime": self.time(), "ProcessGuid": self.guid(),
            "Image": self.linux_path(), "User": self.user(),
            "TargetFilename": f"/{self.one(('tmp', 'var/log', 'home', 'opt', 'srv'))}/{self.word()}/{self.word()}.{self.number(9999)}",
        }  # fmt: skip
        return made, ("linux", "file_event", "")

    def audit(self) -> Made:
        kind = self.one(("SYSCALL", "SYSCALL", "EXECVE", "PATH", "USER_AUTH", "CRED_ACQ", "PROCTITLE"))
        made: Event = {
            "type": kind,
            "msg": f"audit({int(self.clock)}.{self.number(999):03}:{self.number(10**6)})",
            "node": self.word(),
        }
        self.time()
        if kind == "SYSCALL":
            image = self.linux_path()
            made |= {
                "arch": "c000003e", "syscall": self.number(330), "success": "yes", "exit": self.number(9),
                "a0": self.hexadecimal(12).lower(), "a1": self.hexadecimal(12).lower(), "a2": self.hexadecimal(4).lower(),
                "items": 2, "ppid": self.number(99999), "pid": self.number(99999), "auid": 1000 + self.number(50),
                "uid": self.number(1000), "gid": self.number(1000), "euid": 0, "tty": f"pts{self.number(9)}",
                "ses": self.number(999), "comm": image.rsplit("/", 1)[1], "exe": image, "key": self.word(),
            }  # fmt: skip
        elif kind == "EXECVE":
            words = self.linux_command(self.linux_path()).split()
            made |= {"argc": len(words), **{f"a{index}": word for index, word in enumerate(words)}}
        elif kind == "PATH":
            made |= {
                "item": 0,
                "name": self.linux_path(),
                "inode": self.number(10**7),
                "nametype": "NORMAL",
                "mode": "0100755",
            }
        elif kind == "PROCTITLE":
            made |= {"proctitle": self.linux_command(self.linux_path()).encode().hex()}
        else:
            made |= {
                "pid": self.number(99999),
                "acct": self.user(),
                "exe": "/usr/sbin/sshd",
                "addr": self.address(),
                "res": "success",
            }
        return made, ("linux", "", "auditd")

    def line(self) -> Made:
        user, address, port = self.user(), self.address(), 1024 + self.number(64000)
        program, text = self.one(
            (
                ("sshd", f"Failed password for invalid user {user} from {address} port {port} ssh2"),
                ("sshd", f"Accepted publickey for {user} from {address} port {port} ssh2: ED25519 SHA256:{self.hexadecimal(40)}"),
                ("sshd", f"Connection closed by authenticating user {user} {address} port {port} [preauth]"),
                ("sshd", f"pam_unix(sshd:session): session opened for user {user}(uid={self.number(9999)}) by (uid=0)"),
                ("sudo", f"{user} : TTY=pts/{self.number(9)} ; PWD=/home/{user} ; USER=root ; COMMAND={self.linux_command(self.linux_path())}"),
                ("CRON", f"({user}) CMD ({self.linux_command(self.linux_path())})"),
                ("systemd", f"Started {self.word()}.service - {self.word().title()} {self.word().title()}."),
                ("kernel", f"[{self.number(99999)}.{self.number(999999)}] eth0: renamed from veth{self.hexadecimal(6).lower()}"),
            )
        )  # fmt: skip
        service = {"sshd": "sshd", "sudo": "sudo", "CRON": "cron"}.get(program, "syslog")
        made = {
            "@timestamp": self.time(), "host.hostname": f"srv-{self.number(900)}", "process.name": program,
            "process.pid": self.number(99999), "message": text,
        }  # fmt: skip
        return made, ("linux", "", service)

    def request(self) -> Made:
        query = f"{self.word()}={self.hexadecimal(12).lower()}&{self.word()}={self.number(10**8)}"
        stem = f"/{self.word()}/{self.word()}/{self.number(10**6)}.{self.one(('html', 'php', 'js', 'png', 'json'))}"
        made = {
            "date": self.time(), "c-ip": self.address(), "cs-method": self.one(("GET", "GET", "POST", "HEAD")),
            "cs-uri-stem": stem, "cs-uri-query": query, "cs-uri": f"{stem}?{query}", "cs-host": self.name(),
            "cs-user-agent": f"Mozilla/5.0 (X11; Linux x86_64; rv:{self.number(140)}.0) Gecko/20100101 Firefox/{self.number(140)}.0",
            "cs-referer": f"https://{self.name()}/{self.word()}", "sc-status": self.one((200, 200, 200, 304, 404, 500)),
            "sc-bytes": self.number(10**6),
        }  # fmt: skip
        return made, ("", "webserver", "")


def _windows_benign(make: Maker) -> Callable[[], Made]:
    """The mixture that Sysmon with a usual configuration gives on an office machine, with Security and PowerShell."""
    shares = (
        (make.process, 18), (make.registry, 22), (make.file, 16), (make.library, 14), (make.connection, 9), (make.resolution, 6),
        (make.access, 4), (make.pipe, 1), (make.security, 7), (make.script, 2), (make.installed, 1),
    )  # fmt: skip
    kinds = [kind for kind, share in shares for _ in range(share)]
    return lambda: make.one(kinds)()  # noqa: PLW0108 - a new choice per call


def _linux_benign(make: Maker) -> Callable[[], Made]:
    shares = ((make.line, 34), (make.audit, 30), (make.linux_process, 20), (make.linux_file, 6), (make.request, 10))
    kinds = [kind for kind, share in shares for _ in range(share)]
    return lambda: make.one(kinds)()  # noqa: PLW0108 - a new choice per call


class Attacks:
    """Events that a rule describes, for the log sources that have a maker."""

    def __init__(self, make: Maker, plan: dict[str, Any], system: str) -> None:
        self.make = make
        bases: dict[Source, Callable[[], Made]]
        if system == "windows":
            bases = {
                ("windows", "process_creation", ""): make.process, ("windows", "file_event", ""): make.file,
                ("windows", "registry_set", ""): make.registry, ("windows", "registry_event", ""): make.registry,
                ("windows", "image_load", ""): make.library, ("windows", "network_connection", ""): make.connection,
                ("windows", "dns_query", ""): make.resolution, ("windows", "process_access", ""): make.access,
                ("windows", "pipe_created", ""): make.pipe, ("windows", "ps_script", ""): make.script,
                ("windows", "", "security"): make.security, ("windows", "", "system"): make.installed,
            }  # fmt: skip
        else:
            bases = {
                ("linux", "process_creation", ""): make.linux_process, ("linux", "file_event", ""): make.linux_file,
                ("linux", "", "auditd"): make.audit, ("linux", "", "sshd"): make.line, ("linux", "", "syslog"): make.line,
                ("", "webserver", ""): make.request,
            }  # fmt: skip
        self.rules = []
        for rule in plan["rules"]:
            told = rule["logsource"]
            own = tuple((told[part] or [""])[0] for part in ("product", "category", "service"))
            base = bases.get(own)
            if base:
                self.rules.append((rule, base))

    def event(self) -> Made:
        rule, base = self.make.one(self.rules)
        event, source = base()
        texts: dict[str, list[tuple[str, str]]] = {}
        self._choose(rule, rule["condition"], texts)
        for field, wanted in texts.items():
            event[field] = self._value(wanted, str(event.get(field, "")))
        return event, source

    def _choose(
        self, rule: dict[str, Any], expression: dict[str, Any], texts: dict[str, list[tuple[str, str]]]
    ) -> None:
        """Takes every part of an ``and``, one of an ``or``, nothing of a ``not``."""
        if "ref" in expression:
            self._choose(rule, rule["detections"][expression["ref"]], texts)
        elif "and" in expression:
            for part in expression["and"]:
                self._choose(rule, part, texts)
        elif "or" in expression:
            # A name that a field map adds comes after the rule's own; attacks use the rule's.
            parts = expression["or"]
            values = [json.dumps(part.get("atom", {}).get("value")) for part in parts]
            same = len(set(values)) == 1 and "atom" in parts[0]
            self._choose(rule, parts[0] if same else self.make.one(parts), texts)
        elif "atom" in expression:
            made = expression["atom"]
            value = made.get("value")
            if made["op"] == "wildcard":
                value = "".join(part if isinstance(part, str) else self.make.word() for part in value)
            if made["field"] and isinstance(value, (str, int)) and made["op"] in {
                "equals", "contains", "startswith", "endswith", "wildcard"
            }:  # fmt: skip
                texts.setdefault(made["field"], []).append((made["op"], str(value)))
            elif made["field"] is None and isinstance(value, str):
                texts.setdefault("message", []).append(("contains", value))

    def _value(self, wanted: list[tuple[str, str]], before: str) -> str:
        for op, value in wanted:
            if op in {"equals", "wildcard"}:
                return value
        start = "".join(value for op, value in wanted if op == "startswith")
        end = next((value for op, value in wanted if op == "endswith"), "")
        inner = [value for op, value in wanted if op == "contains"]
        middle = self.make.word().join(inner) if inner else ""
        return f"{start}{before[:40] if not start else ''}{middle}{self.make.word() if not end else ''}{end}"


def _mixture(
    benign: Callable[[], Made], attacks: Attacks | None, share: float, make: Maker, count: int
) -> Iterator[Made]:
    for _ in range(count):
        yield attacks.event() if attacks and make.chance(share) else benign()


def _flood(make: Maker, size: int) -> Iterator[Made]:
    """Long values that look like the beginning of much: one field at a time, then all text in a keyword's reach."""
    pieces = (
        "powershell -enc ",
        "http://",
        "${jndi:ldap://",
        "..\\..\\",
        "aaaa",
        "\\\\?\\",
        "(((((",
        "%2e%2e%2f",
        "JAB",
        "cmd.exe /c ",
    )
    for base, field in (
        (make.process, "CommandLine"), (make.script, "ScriptBlockText"), (make.registry, "Details"), (make.file, "TargetFilename"),
        (make.request, "cs-uri-query"), (make.line, "message"), (make.linux_process, "CommandLine"), (make.installed, "ImagePath"),
    ):  # fmt: skip
        event, source = base()
        text = ""
        while len(text) < size:
            text += make.one(pieces) * (1 + make.number(40)) + make.word()
        event[field] = text[:size].replace("\\", "/")
        yield event, source


LANES = {"win_mixed": 100_000, "win_attack": 8_500, "win_benign": 20_000, "linux": 12_000}
"""Events by lane."""
FLOODS = {"flood_quarter": 250_000, "flood_half": 500_000, "flood": 1_000_000}
"""Length of the long value of each event, characters."""
VERSION = 1
"""Raised when lanes change."""


def make_lanes(folder: Path, plan: dict[str, Any]) -> None:
    """Writes ``NAME.ndjson`` and ``NAME.sources`` for every lane."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, count) in enumerate(LANES.items()):
        make = Maker(7_000 + number)
        system = "linux" if name == "linux" else "windows"
        benign = (_linux_benign if system == "linux" else _windows_benign)(make)
        attacks = Attacks(make, plan, system)
        share = {"win_mixed": 0.05, "win_attack": 1.0, "win_benign": 0.0, "linux": 0.05}[name]
        _write(folder, name, _mixture(benign, attacks, share, make, count))
    for name, size in FLOODS.items():
        _write(folder, name, _flood(Maker(8_000), size))


def _write(folder: Path, name: str, made: Iterator[Made]) -> None:
    with (folder / f"{name}.ndjson").open("w") as events, (folder / f"{name}.sources").open("w") as sources:
        for event, source in made:
            events.write(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n")
            sources.write(",".join(source) + "\n")
