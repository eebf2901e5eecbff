//! Syslog: the examples of the RFCs, and the lines real systems write.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use ironpost_events::{Format, Outcome};
use serde_json::{Value, json};
use support::{Bench, one};

fn check(row: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(row.get(name).unwrap_or(&Value::Null), value, "{name} of {row:#}");
    }
}

#[test]
fn rfc5424_section_6_5_examples() {
    for format in [Format::Rfc5424, Format::Syslog, Format::Auto] {
        let row = one(
            format,
            "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \u{feff}'su root' failed for lonvick on /dev/pts/8",
        );
        check(
            &row,
            &json!({
                "event.format": "rfc5424", "@timestamp": "2003-10-11T22:14:15.003Z", "log.syslog.priority": 34,
                "log.syslog.facility.code": 4, "log.syslog.severity.code": 2, "log.syslog.version": "1",
                "log.syslog.hostname": "mymachine.example.com", "host.hostname": "mymachine.example.com",
                "log.syslog.appname": "su", "process.name": "su", "log.syslog.procid": null, "process.pid": null,
                "log.syslog.msgid": "ID47", "log.syslog.structured_data": null,
                "message": "'su root' failed for lonvick on /dev/pts/8"
            }),
        );
        let row = one(
            format,
            "<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.",
        );
        check(
            &row,
            &json!({
                "@timestamp": "2003-08-24T12:14:15.000003Z", "log.syslog.facility.code": 20,
                "log.syslog.severity.code": 5, "host.hostname": "192.0.2.1", "process.name": "myproc",
                "log.syslog.procid": "8710", "process.pid": 8710, "log.syslog.msgid": null,
                "message": "%% It's time to make the do-nuts."
            }),
        );
        let row = one(
            format,
            "<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut=\"3\" eventSource=\"Application\" eventID=\"1011\"] \u{feff}An application event log entry...",
        );
        check(
            &row,
            &json!({
                "log.syslog.structured_data":
                    {"exampleSDID@32473": {"iut": "3", "eventSource": "Application", "eventID": "1011"}},
                "message": "An application event log entry..."
            }),
        );
        let row = one(
            format,
            "<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut=\"3\" eventSource=\"Application\" eventID=\"1011\"][examplePriority@32473 class=\"high\"]",
        );
        check(
            &row,
            &json!({
                "log.syslog.structured_data": {
                    "exampleSDID@32473": {"iut": "3", "eventSource": "Application", "eventID": "1011"},
                    "examplePriority@32473": {"class": "high"}
                },
                "message": ""
            }),
        );
    }
}

#[test]
fn structured_data_escapes_are_undone_and_nothing_else_is() {
    let row = one(
        Format::Rfc5424,
        r#"<0>1 - - - - - [a@1 q="\"\\\]" other="C:\new" empty="" n="1" n="2"][b.c@2.3] m"#,
    );
    assert_eq!(
        row["log.syslog.structured_data"],
        json!({"a@1": {"q": "\"\\]", "other": "C:\\new", "empty": "", "n": ["1", "2"]}, "b.c@2.3": {}})
    );
    assert_eq!(row["log.syslog.priority"], 0);
    assert_eq!(row["message"], "m");
}

#[test]
fn structured_parameters_are_fields_for_rules() {
    let mut bench = Bench::new(Format::Auto);
    bench.record(br#"<13>1 - h a - - [x@1 k="v\"w"] m"#);
    let row = bench.batch.row(0);
    let found =
        row.cells().iter().find(|cell| row.name_of(cell) == b"log.syslog.structured_data.x@1.k").unwrap();
    assert_eq!(row.value_of(found).bytes, b"v\"w");
}

#[test]
fn what_is_not_rfc5424_is_unparsed_in_that_format_but_kept() {
    for record in [
        "<192>1 - - - - - -",
        "<034>1 - - - - - -",
        "<>1 - - - - - -",
        "<34>2 2003-10-11T22:14:15.003Z h a - - - m",
        "<34>1 2003-08-24T05:14:15.000000003-07:00 h a - - - m",
        "<34>1 2003-10-11t22:14:15.003Z h a - - - m",
        "<34>1 2003-10-11T24:00:00Z h a - - - m",
        "<34>1 - h a - - [x y=\"]\"] m",
        "<34>1 - h a - - [x y=\"1\" m",
        "<34>1 - h a - - [x y=1] m",
        "<34>1 - h a - - [] m",
        "<34>1 - h a - - -m",
        "<34>1 - h  - - - m",
        "<34>1 - h a - -",
        "<34>1 - h\u{fc} a - - - m",
        "<34>Oct 11 22:14:15 h su: m",
    ] {
        let mut bench = Bench::new(Format::Rfc5424);
        assert_eq!(bench.record(record.as_bytes()), Outcome::Unparsed, "{record}");
        check(&bench.last(), &json!({"message": record, "event.original": record, "event.format": null}));
    }
    let long = format!("<34>1 - {} a - - - m", "h".repeat(256));
    assert_eq!(Bench::new(Format::Rfc5424).record(long.as_bytes()), Outcome::Unparsed);
}

#[test]
fn rfc3164_section_5_4_examples() {
    // The year is that of the present, 2026-11-20: October and February are past.
    check(
        &one(Format::Auto, "<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8"),
        &json!({
            "event.format": "rfc3164", "@timestamp": "2026-10-11T22:14:15Z", "log.syslog.facility.code": 4,
            "log.syslog.severity.code": 2, "host.hostname": "mymachine", "process.name": "su", "process.pid": null,
            "message": "'su root' failed for lonvick on /dev/pts/8"
        }),
    );
    check(
        &one(Format::Auto, "<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!"),
        &json!({
            "@timestamp": "2026-02-05T17:32:18Z", "host.hostname": "10.0.0.99", "process.name": null,
            "message": "Use the BFG!", "log.syslog.priority": 13
        }),
    );
    // §5.4 example 2 before a relay completes it: no priority, no header at all.
    let mut bench = Bench::new(Format::Auto);
    assert_eq!(bench.record(b"Use the BFG!"), Outcome::Unparsed);
    check(&bench.last(), &json!({"message": "Use the BFG!"}));
    check(
        &one(
            Format::Auto,
            "<165>Aug 24 05:34:00 CST 1987 mymachine myproc[10]: %% It's time to make the do-nuts.  %%  Ingredients: Mix=OK, Jelly=OK",
        ),
        &json!({
            "@timestamp": "1987-08-24T11:34:00Z", "host.hostname": "mymachine", "process.name": "myproc",
            "process.pid": 10,
            "message": "%% It's time to make the do-nuts.  %%  Ingredients: Mix=OK, Jelly=OK"
        }),
    );
    // "The first field is not a TIMESTAMP": all of it is content.
    check(
        &one(
            Format::Auto,
            "<0>1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's All Folks!",
        ),
        &json!({
            "@timestamp": null, "log.syslog.priority": 0, "host.hostname": null,
            "message": "1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's All Folks!"
        }),
    );
}

#[test]
fn header_shapes_that_real_systems_write() {
    // record, format, host, process, pid, message
    for (record, format, host, process, pid, message) in [
        ("Jan  5 01:02:03 web sshd[123]: x", "syslog", "web", "sshd", "123", "x"),
        ("Jan 5 01:02:03 web sshd[123]: x", "syslog", "web", "sshd", "123", "x"),
        ("2026-11-20T18:30:00.123456+00:00 web sshd[1]: x", "syslog", "web", "sshd", "1", "x"),
        ("2026-11-20T18:30:00Z web kernel: [    1.5] x", "syslog", "web", "kernel", "", "[    1.5] x"),
        ("Jan  5 01:02:03 web kernel:[    1.5] x", "syslog", "web", "kernel", "", "[    1.5] x"),
        (
            "<38>Nov 20 18:54:41 sshd[15858]: no host, as /dev/log has it",
            "rfc3164",
            "",
            "sshd",
            "15858",
            "no host, as /dev/log has it",
        ),
        ("<13>app[9]: no time", "rfc3164", "", "app", "9", "no time"),
        ("<13>plain text", "rfc3164", "", "", "", "plain text"),
        ("Jan  5 01:02:03 web postfix/smtpd[7]: x", "syslog", "web", "postfix/smtpd", "7", "x"),
        ("Jan  5 01:02:03 web su(pam_unix)[19939]: x", "syslog", "web", "su(pam_unix)", "19939", "x"),
        ("Jan  5 01:02:03 web systemd-logind[12]:x", "syslog", "web", "systemd-logind", "12", "x"),
        ("Jan  5 01:02:03 web CRON[99]: (root) x", "syslog", "web", "CRON", "99", "(root) x"),
        ("Jan  5 01:02:03 2001:db8::1 sshd[3]: x", "syslog", "2001:db8::1", "sshd", "3", "x"),
        ("Jan  5 01:02:03 fe80:: sshd[3]: x", "syslog", "fe80::", "sshd", "3", "x"),
        ("Jan  5 01:02:03 web sudo:   alice : y", "syslog", "web", "sudo", "", "  alice : y"),
        ("Jan  5 01:02:03 web a[b][12]: x", "syslog", "web", "a[b]", "12", "x"),
        ("Jan  5 01:02:03 web no tag here", "syslog", "web", "", "", "no tag here"),
        ("Jan  5 01:02:03 web [: x", "syslog", "web", "[", "", "x"),
        (
            "Jan  5 01:02:03 web last message repeated 2 times",
            "syslog",
            "web",
            "",
            "",
            "last message repeated 2 times",
        ),
        ("Jan  5 01:02:03 web app[4294967296x]: x", "syslog", "web", "app", "4294967296x", "x"),
    ] {
        let row = one(Format::Auto, record);
        let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert_eq!(
            (
                text("event.format"),
                text("host.hostname"),
                text("process.name"),
                text("log.syslog.procid"),
                text("message")
            ),
            (format.into(), host.into(), process.into(), pid.into(), message.into()),
            "{record}"
        );
        assert_eq!(row["event.original"], record);
    }
}

#[test]
fn a_repeated_message_is_its_inner_message_n_times() {
    let row = one(
        Format::Auto,
        "Nov 20 18:54:43 h sshd[5]: message repeated 3 times: [ Failed password for root from 192.0.2.7 port 5 ssh2]",
    );
    check(
        &row,
        &json!({
            "event.repeat": 3, "message": "Failed password for root from 192.0.2.7 port 5 ssh2",
            "source.ip": "192.0.2.7", "event.action": "ssh_login"
        }),
    );
    for message in [
        "message repeated 0 times: [ x]",
        "message repeated  times: [ x]",
        "message repeated 9999999999 times: [ x]",
        "message repeated 3 times: [ x",
    ] {
        let row = one(Format::Auto, format!("Nov 20 18:54:43 h a: {message}"));
        check(&row, &json!({"message": message, "event.repeat": null}));
    }
}

#[test]
fn a_users_fake_address_never_becomes_the_source() {
    let fake = "from 203.0.113.9 port 22 ssh2";
    for user in [
        format!("root {fake}"),
        format!("root {fake}: RSA SHA256:abc"),
        format!("x {fake} {fake}"),
        "x 203.0.113.9 port 22".to_owned(),
        "x 203.0.113.9 port 22 [preauth]".to_owned(),
        "] from 203.0.113.9 port 22".to_owned(),
        "from 203.0.113.9".to_owned(),
        " ".to_owned(),
    ] {
        for message in [
            format!("Failed password for invalid user {user} from 192.0.2.7 port 4711 ssh2"),
            format!("Failed password for {user} from 192.0.2.7 port 4711 ssh2"),
            format!("Failed none for invalid user {user} from 192.0.2.7 port 4711 ssh2"),
            format!("Failed publickey for invalid user {user} from 192.0.2.7 port 4711 ssh2: RSA SHA256:q"),
            format!("Failed keyboard-interactive/pam for invalid user {user} from 192.0.2.7 port 4711 ssh2"),
            format!("Invalid user {user} from 192.0.2.7 port 4711"),
            format!("Connection closed by invalid user {user} 192.0.2.7 port 4711 [preauth]"),
            format!("Connection reset by invalid user {user} 192.0.2.7 port 4711 [preauth]"),
            format!("Disconnected from invalid user {user} 192.0.2.7 port 4711 [preauth]"),
            format!(
                "Disconnecting invalid user {user} 192.0.2.7 port 4711: Too many authentication failures [preauth]"
            ),
            format!(
                "error: maximum authentication attempts exceeded for invalid user {user} from 192.0.2.7 port 4711 ssh2 [preauth]"
            ),
            format!(
                "message repeated 2 times: [ Failed password for invalid user {user} from 192.0.2.7 port 4711 ssh2]"
            ),
        ] {
            let row = one(Format::Auto, format!("Nov 20 18:54:43 h sshd[5]: {message}"));
            assert_eq!(row["source.ip"], "192.0.2.7", "{message}");
            assert_eq!(row["source.port"], 4711, "{message}");
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_kept() {
    let record = b"<13>Nov 20 18:54:43 h app: \xff\xfe \x00 \x1b[31m \xc0\xaf";
    let mut bench = Bench::new(Format::Auto);
    assert_eq!(bench.record(record), Outcome::Parsed);
    assert_eq!(bench.batch.row(0).raw(), record);
    let row = bench.last();
    use base64::Engine as _;
    let kept = base64::engine::general_purpose::STANDARD
        .decode(row["event.original_base64"].as_str().unwrap())
        .unwrap();
    assert_eq!(kept, record);
    assert_eq!(row["message"], "\u{fffd}\u{fffd} \0 \u{1b}[31m \u{fffd}\u{fffd}");
}
