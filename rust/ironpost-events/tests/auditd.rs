//! Records of the Linux audit system, as the kernel and auditd write them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use ironpost_events::{Format, Outcome};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{Bench, one};

/// The example of the Red Hat security guide ("Understanding Audit log files"): a refused read of a watched file.
const DENIED: &str = concat!(
    r#"type=SYSCALL msg=audit(1364481363.243:24287): arch=c000003e syscall=2 success=no exit=-13 a0=7fffd19c5592 a1=0 a2=7fffd19c4b50 a3=a items=1 ppid=2686 pid=3538 auid=1000 uid=1000 gid=1000 euid=1000 suid=1000 fsuid=1000 egid=1000 sgid=1000 fsgid=1000 tty=pts0 ses=1 comm="cat" exe="/bin/cat" subj=unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023 key="sshd_config""#,
    "\n",
    r#"type=CWD msg=audit(1364481363.243:24287):  cwd="/home/shadowman""#,
    "\n",
    r#"type=PATH msg=audit(1364481363.243:24287): item=0 name="/etc/ssh/sshd_config" inode=409248 dev=fd:00 mode=0100600 ouid=0 ogid=0 rdev=00:00 obj=system_u:object_r:etc_t:s0 nametype=NORMAL cap_fp=none cap_fi=none cap_fe=0 cap_fver=0"#,
    "\n",
    r#"type=PROCTITLE msg=audit(1364481363.243:24287) : proctitle=636174002F6574632F7373682F737368645F636F6E666967"#,
);

fn fits(row: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(row.get(name).unwrap_or(&Value::Null), value, "{name} of {row:#}");
    }
}

/// Lines of one event.
fn event(lines: &[(&str, &str)]) -> String {
    let line = |(kind, body): &(&str, &str)| format!("type={kind} msg=audit(1700000000.123:42): {body}");
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

const CALL: &str = "arch=c000003e syscall=59 success=yes exit=0 a0=55d a1=55e a2=0 a3=8 items=2 ppid=10 pid=11 auid=1000 uid=0 gid=0 euid=0 tty=pts1 ses=3 comm=\"wget\" exe=\"/usr/bin/wget\" subj=unconfined key=\"exec\"";

#[test]
fn the_guide_s_example_is_one_event() {
    // The guide prints a blank before the title's colon, which auditd does not write.
    let row = one(Format::Auditd, DENIED.replace(") :", "):"));
    fits(
        &row,
        &json!({
            "@timestamp": "2013-03-28T14:36:03.243Z", "event.format": "auditd", "event.module": "auditd",
            "type": ["SYSCALL", "CWD", "PATH", "PROCTITLE"], "syscall": 2, "SYSCALL": "open", "success": "no", "exit": -13,
            "a1": "0", "a3": "a", "comm": "cat", "exe": "/bin/cat", "key": "sshd_config", "cwd": "/home/shadowman",
            "name": "/etc/ssh/sshd_config", "nametype": "NORMAL", "proctitle": "cat /etc/ssh/sshd_config",
            "process.executable": "/bin/cat", "process.name": "cat", "process.pid": 3538, "process.parent.pid": 2686,
            "process.working_directory": "/home/shadowman", "process.title": "cat /etc/ssh/sshd_config",
            "user.id": "1000", "user.audit.id": "1000", "file.path": "/etc/ssh/sshd_config",
            "event.action": "opened-file", "event.category": "file", "event.outcome": "failure", "tty": "pts0",
        }),
    );
}

#[test]
fn a_command_has_its_arguments_also_in_pieces_over_several_records() {
    let text = event(&[
        ("SYSCALL", CALL),
        ("EXECVE", r#"argc=4 a0="wget" a1=2D2D706F73742D66696C653D2F65746320 a2_len=8 a2[0]=6162"#),
        ("EXECVE", r#"a2[1]=0A63 a3="""#),
        ("CWD", r#"cwd="/root""#),
        ("PROCTITLE", "proctitle=77676574"),
    ]);
    let row = one(Format::Auditd, text);
    fits(
        &row,
        &json!({
            "a0": "wget", "a1": "--post-file=/etc ", "a2": "ab\nc", "a3": "", "argc": 4,
            "process.args": ["wget", "--post-file=/etc ", "ab\nc", ""],
            "process.command_line": "wget --post-file=/etc  ab\nc ", "event.action": "executed",
            "event.category": "process", "event.outcome": "success", "key": "exec",
        }),
    );
}

#[test]
fn the_shell_s_search_for_a_program_is_no_execution() {
    let row = one(Format::Auditd, event(&[("SYSCALL", &CALL.replace("success=yes", "success=no"))]));
    fits(
        &row,
        &json!({"event.action": "execve", "event.outcome": "failure", "a0": "55d", "SYSCALL": "execve"}),
    );
}

#[test]
fn paths_are_named_as_recorded_and_from_the_root() {
    let text = event(&[
        (
            "SYSCALL",
            "arch=c00000b7 syscall=56 success=yes a0=ffffffffffffff9c a1=0 a2=241 a3=1b6 items=2 comm=\"sh\"",
        ),
        ("CWD", r#"cwd="/etc/cron.d""#),
        ("PATH", r#"item=0 name="/etc/" nametype=PARENT"#),
        ("PATH", r#"item=1 name="../ld.so.preload" nametype=CREATE"#),
    ]);
    fits(
        &one(Format::Auditd, text),
        &json!({
            "SYSCALL": "openat", "event.action": "created-file",
            "name": ["/etc/", "../ld.so.preload", "/etc/ld.so.preload"], "nametype": ["PARENT", "CREATE"],
            "file.path": "/etc/ld.so.preload",
        }),
    );
    let opened = |flags: &str| {
        one(
            Format::Auditd,
            event(&[("SYSCALL", &format!("arch=c000003e syscall=257 success=yes a0=0 a1=0 a2={flags}"))]),
        )["event.action"]
            .clone()
    };
    assert_eq!((opened("80000"), opened("241")), (json!("opened-file"), json!("wrote-to-file")));
}

#[test]
fn sockets_are_addresses_and_paths() {
    let socket = |number: u32, saddr: &str| {
        let call = format!("arch=c000003e syscall={number} success=yes a0=3 comm=\"x\"");
        one(Format::Auditd, event(&[("SYSCALL", &call), ("SOCKADDR", &format!("saddr={saddr}"))]))
    };
    fits(
        &socket(42, "02001F90CB0071070000000000000000"),
        &json!({"destination.ip": "203.0.113.7", "destination.port": 8080, "event.action": "connected-to",
            "saddr": "02001F90CB0071070000000000000000", "event.category": "network"}),
    );
    fits(
        &socket(288, "02001F90CB0071070000000000000000"),
        &json!({"source.ip": "203.0.113.7", "source.port": 8080}),
    );
    fits(
        &socket(49, "02001F90000000000000000000000000"),
        &json!({"auditd.socket.addr": "0.0.0.0", "auditd.socket.port": 8080, "source.ip": null, "destination.ip": null}),
    );
    fits(&socket(42, "01002F72756E2F7800"), &json!({"auditd.socket.path": "/run/x", "destination.ip": null}));
}

#[test]
fn messages_of_programs_are_events_by_themselves() {
    let row = one(
        Format::Auditd,
        "type=USER_LOGIN msg=audit(1700000000.001:9): pid=77 uid=0 auid=4294967295 ses=4294967295 subj=sshd msg='op=login \
         acct=28756E6B6E6F776E207573657229 exe=\"/usr/sbin/sshd\" hostname=? addr=203.0.113.9 terminal=ssh res=failed'\
         \u{1d}UID=\"root\" AUID=\"unset\"",
    );
    fits(
        &row,
        &json!({
            "type": "USER_LOGIN", "op": "login", "acct": "(unknown user)", "user.name": "(unknown user)", "hostname": null,
            "addr": "203.0.113.9", "source.ip": "203.0.113.9", "event.action": "user_login", "event.outcome": "failure",
            "event.category": "authentication", "process.executable": "/usr/sbin/sshd", "terminal": "ssh", "UID": "root",
            "AUID": null, "user.audit.id": null, "process.pid": 77,
        }),
    );
    let row = one(
        Format::Auditd,
        "type=USER_CMD msg=audit(1700000000.001:9): pid=77 uid=1000 msg='cwd=\"/home/u\" cmd=6361742078 exe=\"/usr/bin/sudo\" terminal=pts/0 res=success'\u{1d}UID=\"u\"",
    );
    fits(
        &row,
        &json!({"cmd": "cat x", "process.command_line": "cat x", "cwd": "/home/u", "event.outcome": "success"}),
    );
    let row = one(
        Format::Auditd,
        "type=SERVICE_STOP msg=audit(1.001:9): pid=1 uid=0 msg='unit=firewalld comm=\"systemd\" exe=\"/usr/lib/systemd/systemd\" hostname=? addr=? terminal=? res=success'",
    );
    fits(
        &row,
        &json!({"unit": "firewalld", "type": "SERVICE_STOP", "source.ip": null, "event.action": "service_stop"}),
    );
}

#[test]
fn enriched_records_name_users_and_calls() {
    let text = event(&[(
        "SYSCALL",
        "arch=c000003e syscall=999 success=yes auid=1000 uid=33 euid=0 key=657865630172756E\u{1d}ARCH=x86_64 SYSCALL=new_call AUID=\"alice\" UID=\"www-data\" EUID=\"root\"",
    )]);
    fits(
        &one(Format::Auditd, text),
        &json!({
            "SYSCALL": "new_call", "user.name": "www-data", "user.audit.name": "alice", "user.effective.name": "root",
            "key": ["exec", "run"], "event.action": "new_call", "ARCH": "x86_64",
        }),
    );
}

#[test]
fn mandatory_access_control_says_what_was_refused() {
    let row = one(
        Format::Auditd,
        "type=AVC msg=audit(1.002:3): avc:  denied  { read write } for  pid=9 comm=\"httpd\" name=\"shadow\" scontext=a:b tclass=file permissive=0",
    );
    fits(
        &row,
        &json!({"seresult": "denied", "seperms": ["read", "write"], "tclass": "file", "comm": "httpd"}),
    );
}

#[test]
fn text_a_process_chose_forges_neither_fields_nor_records() {
    // What the kernel writes for a name with a newline and a record in it: hexadecimal digits.
    let forged = "x\" uid=0\ntype=USER_LOGIN msg=audit(1.000:1): msg='addr=192.0.2.66'";
    let hex: String = forged.bytes().map(|byte| format!("{byte:02X}")).collect();
    let text = event(&[
        ("SYSCALL", &format!("arch=c000003e syscall=59 success=yes uid=1000 comm={hex}")),
        ("EXECVE", &format!("argc=2 a0=\"x\" a1={hex}")),
        ("PROCTITLE", &format!("proctitle={hex}")),
    ]);
    let mut bench = Bench::new(Format::Auditd);
    let counts = bench.parser.parse_lines(text.as_bytes(), 0, &bench.facts, &mut bench.batch);
    assert_eq!((counts.parsed, bench.batch.len()), (1, 1));
    fits(
        &bench.last(),
        &json!({"comm": forged, "a1": forged, "user.id": "1000", "uid": 1000, "source.ip": null}),
    );
    // Plain names that look like digits stand in quotes and stay what they are.
    fits(
        &one(Format::Auditd, event(&[("SYSCALL", "comm=\"ABCD\" exe=\"/1234\"")])),
        &json!({"comm": "ABCD", "exe": "/1234"}),
    );
}

#[test]
fn what_is_no_event_is_kept_unparsed() {
    let two = format!("{}\n{}", DENIED.lines().next().unwrap(), "type=CWD msg=audit(1.002:3): cwd=\"/\"");
    for record in ["hello", "type=", "type=CWD msg=audit(1.2:3)", &two] {
        let mut bench = Bench::new(Format::Auditd);
        assert_eq!(bench.record(record.as_bytes()), Outcome::Unparsed, "{record}");
        fits(&bench.last(), &json!({"message": record, "event.original": record, "type": null}));
    }
}

#[test]
fn a_single_record_is_told_from_the_line() {
    let row = one(Format::Auto, DENIED.lines().next().unwrap());
    fits(&row, &json!({"event.format": "auditd", "type": "SYSCALL", "key": "sshd_config"}));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_in_quotes_or_digits_reads_back(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..8)) {
        // As `audit_log_untrustedstring` of the kernel decides: digits when a byte is a quote, a blank, a control or 8-bit.
        let written: Vec<String> = words.iter().enumerate().map(|(index, word)| {
            if word.iter().any(|byte| *byte == b'"' || *byte < 0x21 || *byte > 0x7e) {
                let hex: String = word.iter().map(|byte| format!("{byte:02X}")).collect();
                format!("a{index}={hex}")
            } else {
                format!("a{index}=\"{}\"", String::from_utf8_lossy(word))
            }
        }).collect();
        let text = event(&[("SYSCALL", CALL), ("EXECVE", &format!("argc={} {}", words.len(), written.join(" ")))]);
        let mut bench = Bench::new(Format::Auditd);
        prop_assert_eq!(bench.record(text.as_bytes()), Outcome::Parsed);
        let row = bench.batch.row(0);
        let found: Vec<&[u8]> = row
            .cells()
            .iter()
            .filter(|cell| row.name_of(cell) == b"process.args")
            .map(|cell| row.value_of(cell).bytes)
            .collect();
        let expected: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn lines_that_look_like_records_never_harm(
        parts in prop::collection::vec(
            prop_oneof![
                Just("type=SYSCALL msg=audit(1.002:3): ".to_owned()), Just("type=EXECVE msg=audit(1.002:3): a0=".to_owned()),
                Just("\n".to_owned()), Just("msg='".to_owned()), Just("'\u{1d}UID=".to_owned()), Just("a1[2]=41".to_owned()),
                Just("saddr=0A00".to_owned()), Just(" name=\"".to_owned()), Just("cwd=\"/x\" ".to_owned()), "[ -~]{0,6}",
            ],
            0..20,
        )
    ) {
        let text = parts.concat();
        let mut bench = Bench::new(Format::Auditd);
        let counts = bench.parser.parse_lines(text.as_bytes(), 0, &bench.facts, &mut bench.batch);
        prop_assert_eq!(counts.parsed + counts.unparsed, bench.batch.len() as u64);
        // Every line is part of exactly one event.
        let mut given: Vec<&[u8]> = (0..bench.batch.len())
            .flat_map(|row| bench.batch.row(row).raw().split(|byte| *byte == b'\n')).collect();
        let mut lines: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        given.sort_unstable();
        lines.sort_unstable();
        prop_assert_eq!(given, lines);
    }
}
