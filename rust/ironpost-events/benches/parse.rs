//! Messages parsed per CPU second: `cargo bench -p ironpost-events --bench parse`.
//!
//! Batches are reused, as the engine does; each round parses 1 MiB chunks. Prints minimum and median of the rounds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench reports and may stop")]

use ironpost_events::{EventBatch, ExtractorSet, FieldTable, Format, ParseOptions, Parser, SourceFacts};
use nix::time::{ClockId, clock_gettime};
use std::fmt::Write as _;
use std::sync::Arc;

const ROUNDS: usize = 9;
const LINES: usize = 400_000;

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
}

fn lines(make: impl Fn(usize, &mut String)) -> Vec<u8> {
    let mut text = String::new();
    for number in 0..LINES {
        make(number, &mut text);
        text.push('\n');
    }
    text.into_bytes()
}

fn measure(name: &str, data: &[u8], format: Format, extractors: &Arc<ExtractorSet>) {
    let fields = FieldTable::new(extractors.field_names());
    let options = ParseOptions { format, now: 1_763_600_000_000_000_000, ..ParseOptions::default() };
    let parser = Parser::new(Arc::clone(extractors), Arc::clone(&fields), options);
    let facts = parser.facts(&SourceFacts {
        fields: vec![("ironpost.trust".into(), "host".into())],
        ..SourceFacts::default()
    });
    let mut batch = EventBatch::new(fields);
    let mut rates = Vec::new();
    let (mut parsed, mut cells) = (0, 0);
    for _ in 0..ROUNDS {
        (parsed, cells) = (0, 0);
        let start = cpu_seconds();
        let mut rest = data;
        while !rest.is_empty() {
            let cut = rest.len().min(1 << 20);
            let end = memchr::memrchr(b'\n', &rest[..cut]).map_or(cut, |at| at + 1);
            batch.clear();
            parsed += parser.parse_lines(&rest[..end], 0, &facts, &mut batch).parsed;
            cells += (0..batch.len()).map(|row| batch.row(row).cells().len()).sum::<usize>();
            rest = &rest[end..];
        }
        rates.push(LINES as f64 / (cpu_seconds() - start));
    }
    rates.sort_by(f64::total_cmp);
    println!(
        "{name:<44} min {:>6.2} M  median {:>6.2} M msg/CPU-s   {} of {LINES} parsed, {:.1} cells/row",
        rates[0] / 1e6,
        rates[ROUNDS / 2] / 1e6,
        parsed,
        cells as f64 / LINES as f64,
    );
}

fn main() {
    let plan = include_bytes!("../tests/extractors.json");
    let extractors = Arc::new(ExtractorSet::from_plan(plan).unwrap());
    let none = Arc::new(ExtractorSet::default());
    let clock = |number: usize| (number / 3600 % 24, number / 60 % 60, number % 60);
    let rfc5424 = lines(|number, out| {
        let (hour, minute, second) = clock(number);
        let _ = write!(
            out,
            "<34>1 2026-10-11T{hour:02}:{minute:02}:{second:02}.003Z host{} app{} {number} ID47 - request {number} took 12 ms",
            number % 50,
            number % 20
        );
    });
    let structured = lines(|number, out| {
        let (hour, minute, second) = clock(number);
        let _ = write!(
            out,
            "<165>1 2026-10-11T{hour:02}:{minute:02}:{second:02}.003Z host{} evntslog - ID47 [exampleSDID@32473 iut=\"3\" eventSource=\"Application\" eventID=\"{number}\"] An application event",
            number % 50
        );
    });
    let rfc3164 = lines(|number, out| {
        let (hour, minute, second) = clock(number);
        let _ = write!(
            out,
            "<34>Oct 11 {hour:02}:{minute:02}:{second:02} host{} app{}[{number}]: request {number} took 12 ms",
            number % 50,
            number % 20
        );
    });
    let auth = lines(|number, out| {
        let (hour, minute, second) = clock(number);
        let _ = write!(out, "Nov 11 {hour:02}:{minute:02}:{second:02} host sshd[{}]: ", number % 32768);
        let (a, b, port) = (number / 256 % 256, number % 256, 1024 + number % 60_000);
        let _ = match number % 8 {
            0 => write!(out, "Invalid user user{number} from 198.51.{a}.{b} port {port}"),
            1 => write!(
                out,
                "Failed password for invalid user user{number} from 198.51.{a}.{b} port {port} ssh2"
            ),
            2 => write!(out, "Failed password for root from 198.51.{a}.{b} port {port} ssh2"),
            3 => write!(
                out,
                "Connection closed by authenticating user root 198.51.{a}.{b} port {port} [preauth]"
            ),
            4 => write!(
                out,
                "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=198.51.{a}.{b}  user=root"
            ),
            5 => write!(
                out,
                "Accepted publickey for alice from 198.51.{a}.{b} port {port} ssh2: ED25519 SHA256:PzH8NMLlRmQugh70wdUEc69Ms3ncnAjB2K9dbcgrXDY"
            ),
            6 => write!(out, "pam_unix(sshd:session): session opened for user alice(uid=1000) by (uid=0)"),
            _ => write!(out, "Received disconnect from 198.51.{a}.{b} port {port}:11: Bye Bye [preauth]"),
        };
    });
    let access = lines(|number, out| {
        let _ = write!(
            out,
            "198.51.{}.{} - - [11/Oct/2026:13:55:36 +0000] \"GET /item?id={number}&q=a%20b HTTP/1.1\" 200 2326 \"http://example.com/\" \"Mozilla/5.0 (X11; Linux x86_64)\"",
            number / 256 % 256,
            number % 256
        );
    });
    let json = lines(|number, out| {
        let _ = write!(
            out,
            "{{\"timestamp\":\"2026-10-11T22:14:15.003Z\",\"level\":\"info\",\"host\":\"web1\",\"http\":{{\"method\":\"GET\",\"status\":200}},\"user\":{{\"id\":{number},\"name\":\"u{number}\"}},\"message\":\"request {number} done\"}}"
        );
    });
    let docker = lines(|number, out| {
        let _ = write!(
            out,
            "{{\"log\":\"172.17.0.1:{}: url:/item/{number}\\n\",\"stream\":\"stderr\",\"time\":\"2026-10-11T22:14:15.003000000Z\"}}",
            1024 + number % 60_000
        );
    });
    measure("rfc5424 header, no extractors", &rfc5424, Format::Rfc5424, &none);
    measure("rfc5424 header, auto, all extractors", &rfc5424, Format::Auto, &extractors);
    measure("rfc5424 with structured data, auto", &structured, Format::Auto, &extractors);
    measure("rfc3164 header, auto, all extractors", &rfc3164, Format::Auto, &extractors);
    measure("auth.log sshd, header only", &auth, Format::Auto, &none);
    measure("auth.log sshd, auto, all extractors", &auth, Format::Auto, &extractors);
    measure("access log combined, auto", &access, Format::Auto, &extractors);
    measure("json, auto", &json, Format::Auto, &extractors);
    measure("docker json-file, auto", &docker, Format::Auto, &extractors);
}
