//! What holds for all bytes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use ironpost_events::{Format, Outcome};
use proptest::prelude::*;
use support::Bench;

/// Bytes that look enough like logs to reach deep into the parsers.
fn log_like() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just(b"<34>1 2003-10-11T22:14:15.003Z ".to_vec()),
        Just(b"<34>".to_vec()),
        Just(b"Oct 11 22:14:15 ".to_vec()),
        Just(b"2026-11-20T18:30:00+01:00 ".to_vec()),
        Just(b"host sshd[12]: ".to_vec()),
        Just(b"Failed password for invalid user ".to_vec()),
        Just(b" from 192.0.2.7 port 22 ssh2".to_vec()),
        Just(b"message repeated 3 times: [ ".to_vec()),
        Just(b"- ".to_vec()),
        Just(b"[a@1 k=\"v\\\"\"]".to_vec()),
        Just(b"{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"2026-10-11T22:14:15Z\"}".to_vec()),
        Just(b"{\"a\":[1,{\"b\":\"\\u00e9\"}]".to_vec()),
        Just(b"}".to_vec()),
        Just(b"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET /%27?a+b HTTP/1.1\" 200 1".to_vec()),
        Just(b"]".to_vec()),
        Just(b"\r".to_vec()),
        "[ -~]{0,8}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(word, 0..8).prop_map(|words| words.concat())
}

fn formats() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_record_gives_one_row_with_message_and_original(record in log_like(), format in formats()) {
        let mut bench = Bench::new(format);
        let outcome = bench.record(&record);
        let blank = record.strip_suffix(b"\n").unwrap_or(&record);
        let blank = blank.strip_suffix(b"\r").unwrap_or(blank).is_empty();
        prop_assert_eq!(outcome == Outcome::Empty, blank);
        prop_assert_eq!(bench.batch.len(), usize::from(!blank));
        if !blank {
            prop_assert_eq!(bench.batch.row(0).raw(), &record[..]);
            let row = bench.last();
            prop_assert!(row.get("message").is_some());
            prop_assert!(row.get("event.original").is_some());
            prop_assert_eq!(row.get("event.format").is_some(), outcome == Outcome::Parsed);
        }
    }

    #[test]
    fn chunks_and_single_records_give_equal_rows(
        lines in prop::collection::vec(log_like(), 0..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let lines: Vec<Vec<u8>> =
            lines.into_iter().map(|line| line.into_iter().filter(|&byte| byte != b'\n').collect()).collect();
        let whole: Vec<u8> = lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
        let mut single = Bench::new(Format::Auto);
        for line in &lines {
            single.record(line);
        }
        let mut chunked = Bench::new(Format::Auto);
        let at = lines[..cut.index(lines.len() + 1)].iter().map(|line| line.len() + 1).sum::<usize>();
        for (base, chunk) in [(0, &whole[..at]), (at, &whole[at..])] {
            let counts = chunked.parser.parse_lines(chunk, base as u64, &chunked.facts, &mut chunked.batch);
            prop_assert_eq!(counts.refused, 0);
        }
        prop_assert_eq!(single.batch.to_ndjson(), chunked.batch.to_ndjson());
        for row in 0..chunked.batch.len() {
            let row = chunked.batch.row(row);
            let start = row.info().position as usize;
            prop_assert_eq!(&whole[start..start + row.raw().len()], row.raw());
        }
    }

    #[test]
    fn a_formatted_rfc5424_message_reads_back(
        priority in 0_u8..=191,
        host in "[!-~]{1,40}", app in "[!-~]{1,40}", procid in "[!-~]{1,40}", msgid in "[!-~]{1,32}",
        id in "[a-zA-Z0-9@.]{1,32}", name in "[a-zA-Z0-9.]{1,32}", value in "\\PC{0,20}", message in "\\PC{0,40}",
    ) {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
        let record = format!(
            "<{priority}>1 2003-10-11T22:14:15.003Z {host} {app} {procid} {msgid} [{id} {name}=\"{escaped}\"] {message}"
        );
        let mut bench = Bench::new(Format::Rfc5424);
        prop_assert_eq!(bench.record(record.as_bytes()), Outcome::Parsed);
        let row = bench.last();
        prop_assert_eq!(&row["log.syslog.priority"], priority);
        for (field, expected) in [("log.syslog.hostname", &host), ("log.syslog.appname", &app),
            ("log.syslog.procid", &procid), ("log.syslog.msgid", &msgid)] {
            let expected = if expected == "-" { None } else { Some(expected.as_str()) };
            prop_assert_eq!(row.get(field).and_then(|found| found.as_str()), expected);
        }
        prop_assert_eq!(&row["log.syslog.structured_data"][id][name], &value);
        if !message.starts_with("message repeated") {
            prop_assert_eq!(row["message"].as_str(), Some(message.trim_start_matches('\u{feff}')));
        }
    }

    #[test]
    fn json_agrees_with_serde_json(text in "\\PC{0,30}", number in any::<f64>().prop_filter("finite", |n| n.is_finite()), integer: i64) {
        let event = serde_json::json!({"outer": {"text": text, "number": number, "list": [integer, true, null]}});
        let text = event.to_string();
        let row = support::one(Format::Json, &text);
        // Read by serde_json on both sides: it rounds a last digit.
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&row["outer.text"], &event["outer"]["text"]);
        prop_assert_eq!(&row["outer.number"], &event["outer"]["number"]);
        prop_assert_eq!(&row["outer.list"], &event["outer"]["list"]);
    }
}
