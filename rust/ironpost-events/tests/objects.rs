//! JSON events, Docker's log files, access lines, and what a source may not claim.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use ironpost_events::{Format, FormatError, Logsource, Outcome, SourceFacts};
use serde_json::{Value, json};
use support::{Bench, one};

fn check(row: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(row.get(name).unwrap_or(&Value::Null), value, "{name} of {row:#}");
    }
}

#[test]
fn nested_json_becomes_dotted_fields_with_types() {
    let row = one(
        Format::Json,
        r#"{"message":"a\u00e9\ud83d\ude00\n\ud800","a":{"b":{"c":1}},"list":[1,"two",[3],{"x":4}],"n":null,"t":true,
            "f":1.50e3,"big":123456789012345678901234567890,"neg":-7,"empty":{},"e2":[],"dup":1,"dup":2}"#,
    );
    check(
        &row,
        &json!({
            "message": "aé😀\n\u{fffd}", "a.b.c": 1, "list": [1, "two", 3], "list.x": 4, "n": null, "t": true,
            "f": 1500.0, "neg": -7, "dup": [1, 2], "event.format": "json"
        }),
    );
    assert!(row.get("n").is_some());
    assert!(row.get("empty").is_none());
    let mut bench = Bench::new(Format::Json);
    bench.record(br#"{"big":123456789012345678901234567890}"#);
    assert!(
        String::from_utf8(bench.batch.to_ndjson())
            .unwrap()
            .contains(r#""big":123456789012345678901234567890"#)
    );
}

#[test]
fn json_time_is_found_in_all_its_spellings() {
    for (record, expected) in [
        (r#"{"@timestamp":"2026-01-02T03:04:05.5+01:00","time":1}"#, "2026-01-02T02:04:05.500Z"),
        (r#"{"time":1700000000}"#, "2023-11-14T22:13:20Z"),
        (r#"{"ts":1700000000.125}"#, "2023-11-14T22:13:20.125Z"),
        (r#"{"timestamp":1700000000123}"#, "2023-11-14T22:13:20.123Z"),
        (r#"{"timestamp":"1700000000123456"}"#, "2023-11-14T22:13:20.123456Z"),
        (r#"{"__REALTIME_TIMESTAMP":"1700000000123456"}"#, "2023-11-14T22:13:20.123456Z"),
        (r#"{"UtcTime":"2026-01-02 03:04:05.123"}"#, "2026-01-02T03:04:05.123Z"),
        (r#"{"time":"nonsense","ts":1700000000}"#, ""),
    ] {
        let row = one(Format::Json, record);
        assert_eq!(row.get("@timestamp").and_then(Value::as_str).unwrap_or_default(), expected, "{record}");
    }
}

#[test]
fn a_journal_record_is_read_like_a_syslog_line() {
    let row = one(
        Format::Auto,
        r#"{"MESSAGE":"Failed password for root from 192.0.2.7 port 5 ssh2","SYSLOG_IDENTIFIER":"sshd","_PID":"77","_HOSTNAME":"web","__REALTIME_TIMESTAMP":"1700000000123456"}"#,
    );
    check(
        &row,
        &json!({
            "source.ip": "192.0.2.7", "process.name": "sshd", "host.hostname": "web", "event.action": "ssh_login",
            "message": "Failed password for root from 192.0.2.7 port 5 ssh2", "process.pid": "77"
        }),
    );
}

#[test]
fn hostile_json_is_bounded_and_kept_as_text() {
    let deep = format!("{{\"first\":7,\"a\":{}{},\"last\":8}}", "[".repeat(100_000), "]".repeat(100_000));
    let nearly = format!("{{\"first\":7,\"a\":{}1{},\"last\":8}}", "[".repeat(31), "]".repeat(31));
    let keys = |most| (0..most).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",");
    let wide = format!("{{\"first\":7,{},\"last\":8}}", keys(4095));
    let full = format!("{{\"first\":7,{},\"last\":8}}", keys(4094));
    let long = format!("{{\"first\":7,\"a\":\"{}\",\"last\":8}}", "x".repeat(1 << 20));
    let names = format!("{{\"first\":7,\"{}\":[{}1],\"last\":8}}", "k".repeat(2000), "1,".repeat(4000));
    for (record, reason, last) in [
        (&deep, Some("JSON nested deeper than 32"), true),
        (&wide, Some("JSON with more than 4096 values"), false),
        (&long, Some("JSON longer than 1 MiB"), false),
        (&names, Some("JSON names longer than 4 MiB"), false),
        (&nearly, None, true),
        (&full, None, true),
    ] {
        let mut bench = Bench::new(Format::Auto);
        assert_eq!(bench.record(record.as_bytes()), Outcome::Parsed);
        let row = bench.last();
        assert_eq!(row.get("error.message").and_then(Value::as_str), reason);
        assert_eq!(row.get("ironpost.truncated"), reason.map(|_| &Value::Bool(true)));
        assert_eq!(bench.batch.row(0).info().truncated, reason.is_some());
        assert_eq!(bench.batch.truncated(), u64::from(reason.is_some()));
        assert_eq!(row["first"], 7);
        assert_eq!(row.get("last"), last.then_some(&json!(8)), "{reason:?}");
        assert_eq!(row["event.original"].as_str().unwrap().len(), record.len());
    }
    let mut bench = Bench::new(Format::Auto);
    let inner = format!("{{\"x\":\"evil ]\"{}", ",\"y\":[{}]}");
    let row = bench.json(format!("{{\"a\":{}{inner}{}}}", "[".repeat(31), "]".repeat(31)).as_bytes());
    assert_eq!(row["a"], inner, "what stands too deep is one text");
    for cut in ["{\"a\":[[", "{\"a\":[\"", "{\"a\":{"] {
        let record = format!("{{\"a\":{}{cut}", "[".repeat(40));
        assert_eq!(Bench::new(Format::Auto).record(record.as_bytes()), Outcome::Unparsed, "{cut}");
    }
    for record in [
        "{",
        "{}x",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":01}",
        "{\"a\":\"\\x\"}",
        "{\"a\" 1}",
        "{a:1}",
        "{\"a\":tru}",
        "{\"a\":[1}",
    ] {
        let mut bench = Bench::new(Format::Json);
        assert_eq!(bench.record(record.as_bytes()), Outcome::Unparsed, "{record}");
        check(&bench.last(), &json!({"message": record, "event.original": record}));
    }
}

#[test]
fn an_event_cannot_claim_facts_of_its_source() {
    let facts = SourceFacts {
        fields: vec![("ironpost.trust".into(), "container".into()), ("container.id".into(), "real".into())],
        logsource: Logsource { product: Some("docker".into()), ..Logsource::default() },
    };
    let mut bench = Bench::with_facts(Format::Auto, &facts);
    let row = bench.json(
        br#"{"container":{"id":"fake"},"ironpost":{"trust":"host"},"ironpost.trust":"host","ironpost. trust":"host","container. id":"fake","message":"x"}"#,
    );
    check(&row, &json!({"container.id": "real", "ironpost.trust": "container", "message": "x"}));
    let inner = r#"{"log":"{\"container.id\":\"fake\",\"message\":\"x\"}\n","stream":"stdout","time":"2026-10-11T22:14:15.5Z"}"#;
    check(
        &bench.json(inner.as_bytes()),
        &json!({"container.id": "real", "message": "x", "event.format": "docker"}),
    );
    assert_eq!(bench.batch.row(0).logsource(), &facts.logsource);
}

#[test]
fn an_event_cannot_claim_what_only_the_parser_says() {
    for record in [
        r#"{"k":"a","event":{"repeat":999999}}"#,
        r#"{"k":"a","event.repeat":999999}"#,
        r#"{"k":"a"," event.repeat ":999999}"#,
        r#"{"k":"a","event":{"repeat ":999999}}"#,
        r#"{"k":"a","event.\u0072epeat":999999}"#,
        r#"{"k":"a","event":[{"repeat":999999}]}"#,
        r#"{"k":"a","ironpost":{"truncated":true},"ironpost.truncated":true}"#,
    ] {
        let mut bench = Bench::new(Format::Auto);
        let row = bench.json(record.as_bytes());
        check(&row, &json!({"k": "a", "event.repeat": null, "ironpost.truncated": null}));
        assert_eq!(bench.batch.row(0).info().repeat, 1, "{record}");
        assert!(!bench.batch.row(0).info().truncated, "{record}");
    }
}

#[test]
fn an_empty_key_is_part_of_the_path() {
    check(&one(Format::Json, r#"{"":{"b":"y"},"c":1}"#), &json!({"b": null, ".b": "y", "c": 1}));
}

#[test]
fn docker_lines_carry_the_inner_record_and_the_engines_time() {
    let mut bench = Bench::new(Format::Auto);
    let row = bench.json(br#"{"log":"10.0.0.1 - bob [11/Oct/2000:13:55:36 -0700] \"GET /a?q=%27 HTTP/1.1\" 404 12\n","stream":"stdout","time":"2026-10-11T22:14:15.003000001Z"}"#);
    check(
        &row,
        &json!({
            "event.format": "docker", "@timestamp": "2026-10-11T22:14:15.003000001Z", "source.ip": "10.0.0.1",
            "user.name": "bob", "http.response.status_code": 404, "url.query": "q=%27",
            "ironpost.url.decoded": "/a?q='", "log.iostream": "stdout",
            "message": "10.0.0.1 - bob [11/Oct/2000:13:55:36 -0700] \"GET /a?q=%27 HTTP/1.1\" 404 12"
        }),
    );
    assert_eq!(bench.batch.row(0).logsource().category.as_deref(), Some("webserver"));
    // A container that writes Docker's own format does not choose its time.
    let inner = r#"{"log":"{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"1999-01-01T00:00:00Z\"}\n","stream":"stderr","time":"2026-10-11T22:14:15Z"}"#;
    check(
        &bench.json(inner.as_bytes()),
        &json!({"@timestamp": "2026-10-11T22:14:15Z", "log.iostream": "stderr"}),
    );
    for (log, message) in
        [(r"a\\n", "a\\n"), (r"a\\\n", "a\\"), (r"a\nb\n", "a\nb"), ("a", "a"), ("", ""), (r"\n", "")]
    {
        let record = format!("{{\"log\":\"{log}\",\"stream\":\"stdout\",\"time\":\"2026-10-11T22:14:15Z\"}}");
        assert_eq!(bench.json(record.as_bytes())["message"], message, "{log}");
    }
    let mut strict = Bench::new(Format::Docker);
    assert_eq!(strict.record(b"{\"log\":\"x\"}"), Outcome::Unparsed);
}

#[test]
fn access_lines_give_request_and_client() {
    // Apache HTTP Server 2.4 documentation, "Combined Log Format".
    let row = one(
        Format::Apache,
        r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326 "http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)""#,
    );
    check(
        &row,
        &json!({
            "event.format": "apache", "@timestamp": "2000-10-10T20:55:36Z", "source.ip": "127.0.0.1",
            "user.name": "frank", "http.request.method": "GET", "url.original": "/apache_pb.gif",
            "url.path": "/apache_pb.gif", "url.query": null, "http.version": "1.0",
            "http.response.status_code": 200, "http.response.body.bytes": 2326,
            "http.request.referrer": "http://www.example.com/start.html",
            "user_agent.original": "Mozilla/4.08 [en] (Win98; I ;Nav)"
        }),
    );
    for (line, expected) in [
        (
            r#"::1 - - [10/Oct/2000:13:55:36 +0000] "GET /a b HTTP/1.1" 304 -"#,
            json!({"source.ip": "::1", "url.original": "/a b", "http.response.body.bytes": null}),
        ),
        (
            r#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "\x16\x03\x01" 400 150 "-" "-""#,
            json!({"url.original": r"\x16\x03\x01", "http.request.method": null, "user_agent.original": null}),
        ),
        (
            r#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "-" 408 0 "-" "-""#,
            json!({"http.response.status_code": 408}),
        ),
        (
            r#"host.example - a b [x] [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 1 "-" "say \"hi\"" "9.9.9.9""#,
            json!({"source.ip": null, "source.address": "host.example", "user.name": "a b [x]", "user_agent.original": r#"say \"hi\""#}),
        ),
        (
            r#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /x HTTP/1.1" 200 1 "-" "1.2.3.4 - - [10/Oct/2001:13:55:36 +0000] \"GET""#,
            json!({"@timestamp": "2000-10-10T13:55:36Z", "url.path": "/x"}),
        ),
    ] {
        check(&one(Format::Auto, line), &expected);
    }
    for line in [
        "1.2.3.4 - -",
        "1.2.3.4 - - [99/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 1",
        "1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET / 200 1",
    ] {
        assert_eq!(Bench::new(Format::Nginx).record(line.as_bytes()), Outcome::Unparsed, "{line}");
    }
}

#[test]
fn log_sources_come_from_source_and_program() {
    let facts = SourceFacts {
        fields: vec![],
        logsource: Logsource {
            product: Some("linux".into()),
            service: Some("syslog".into()),
            ..Logsource::default()
        },
    };
    let mut bench = Bench::with_facts(Format::Auto, &facts);
    for (record, service) in [
        ("Nov 20 18:54:43 h sshd[5]: Invalid user a from 192.0.2.7 port 5", "sshd"),
        ("Nov 20 18:54:43 h sshd[5]: Corrupted MAC on input.", "sshd"),
        ("Nov 20 18:54:43 h other[5]: x", "syslog"),
    ] {
        bench.record(record.as_bytes());
        let row = bench.batch.row(bench.batch.len() - 1);
        assert_eq!(row.logsource().service.as_deref(), Some(service), "{record}");
        assert_eq!(row.logsource().product.as_deref(), Some("linux"));
    }
}

#[test]
fn our_own_ndjson_reads_back_the_same() {
    let mut bench = Bench::new(Format::Auto);
    for record in [
        &b"Nov 20 18:54:43 h sshd[5]: message repeated 3 times: [ Failed password for root from 192.0.2.7 port 5 ssh2]"[..],
        b"<34>1 2003-10-11T22:14:15.003Z h su - ID47 - text",
        b"10.0.0.1 - - [11/Oct/2000:13:55:36 -0700] \"GET /a?q=%27 HTTP/1.1\" 404 12",
        b"unknown text",
    ] {
        let first = bench.json(record);
        let mut again = bench.json(serde_json::to_string(&first).unwrap().as_bytes());
        let mut first = first;
        for row in [&mut first, &mut again] {
            row.as_object_mut().unwrap().remove("event.format");
            row.as_object_mut().unwrap().remove("event.repeat"); // no text says of itself how often it counts
        }
        assert_eq!(first, again);
    }
}

#[test]
fn unknown_and_unread_formats_are_told_apart() {
    assert_eq!("nginx".parse(), Ok(Format::Nginx));
    for (name, problem) in [("xml", "not known"), ("cef", "not read by this version"), ("", "not known")] {
        let error: FormatError = name.parse::<Format>().unwrap_err();
        assert_eq!(error.problem, problem);
        assert!(error.to_string().contains("formats are auto, syslog"), "{error}");
    }
}
