//! The two ways of matching agree; matching is linear; plans are refused with a place.

use super::matcher::{Captures, Matcher};
use super::pattern::{MAX_CAPTURES, parse};
use super::*;
use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;
use std::sync::LazyLock;
use std::time::Duration;

fn captured(matcher: &Matcher, message: &[u8]) -> Option<Vec<Option<(u32, u32)>>> {
    let mut captures: Captures = [None; MAX_CAPTURES];
    matcher.matches(message, &mut captures).then(|| captures.to_vec())
}

const PATTERNS: &[&str] = &[
    "Failed {m:word} for[ invalid user] {u:text} from {a:ip} port {p:port}[ ssh2]",
    "{u:text} from {a:text} to {b:text}",
    "({u:word}) CMD ({c:text})",
    "a={x:word},b={y:integer}[,c={z:text}]",
    "{h:word}:{p:port}: url:{u:url}",
    "{a:ip} {b:ip}",
    "say {q:quoted} to {h:host}",
    "[x]{t:text}[y]",
];

/// Each variant of each pattern, compiled both ways.
static BOTH: LazyLock<Vec<Vec<(Matcher, Matcher)>>> = LazyLock::new(|| {
    let both = |pieces: &Vec<_>| (Matcher::new(pieces).unwrap(), Matcher::with_regex_only(pieces));
    PATTERNS.iter().map(|pattern| parse(pattern).unwrap().variants.iter().map(both).collect()).collect()
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn reading_from_both_ends_equals_the_regex(
        pattern in 0..PATTERNS.len(),
        words in prop::collection::vec(prop::sample::select(&[
            "Failed ", "password", " for", " invalid user", " ", "x", "root", " from ", "192.0.2.7", "::1", " port ",
            "22", " ssh2", " to ", "(", ")", " CMD (", "a=", ",b=", "-5", ",c=", ": url:", ":", "say ", "\"q\\\" \"", "y",
            "\n", "\u{e9}",
        ][..]), 0..10),
    ) {
        let message = words.concat();
        for (fast, slow) in &BOTH[pattern] {
            prop_assert_eq!(captured(fast, message.as_bytes()), captured(slow, message.as_bytes()), "{}", message);
        }
    }
}

#[test]
fn most_patterns_need_no_regex_and_the_doubtful_ones_use_it() {
    let regex = |pattern: &str| {
        parse(pattern).unwrap().variants.iter().any(|pieces| Matcher::new(pieces).unwrap().uses_regex())
    };
    assert!(!PATTERNS.iter().take(5).any(|pattern| regex(pattern)));
    assert!(regex("{u:text} from {a:ip} because {r:text}"));
    assert!(regex("{a:ip}:{p:port}"));
}

#[test]
fn a_long_hostile_message_takes_linear_time() {
    let make =
        |count: usize| "Failed password for ".to_owned() + &" from 1.2.3.4 port 22 ssh2".repeat(count) + " ";
    let matchers: Vec<Matcher> = PATTERNS
        .iter()
        .chain(&["{u:text} from {a:ip} port {p:port} because {r:text}"])
        .flat_map(|pattern| parse(pattern).unwrap().variants)
        .map(|pieces| Matcher::new(&pieces).unwrap())
        .collect();
    // The thread's own CPU time: what else runs on the machine does not count.
    let clock = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32)
    };
    let time = |message: &str| {
        let start = clock();
        for matcher in &matchers {
            captured(matcher, message.as_bytes());
        }
        clock() - start
    };
    let small = make(2000);
    let large = make(32_000);
    let small = (0..3).map(|_| time(&small)).min().unwrap();
    let large = (0..3).map(|_| time(&large)).min().unwrap();
    // 16 times as long: a quadratic matcher would take 256 times as long.
    assert!(large < small * 100 + Duration::from_millis(20), "{small:?} and {large:?}");
}

#[test]
fn wrong_plans_are_refused_with_the_name_of_what_is_wrong() {
    for (plan, expected) in [
        ("", "extractor plan: EOF"),
        (r#"{"version":2,"extractors":[]}"#, "version 2 is not known"),
        (r#"{"version":1,"extractors":[],"more":1}"#, "unknown field `more`"),
        (
            r#"{"version":1,"extractors":[{"name":"a","patterns":[{"id":"b","pattern":"{x:nope}"}]}]}"#,
            "extractor `a`, pattern `b`: column 1: `nope` is no type",
        ),
    ] {
        let error = ExtractorSet::from_plan(plan.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn extractors_speak_for_programs_for_all_lines_or_for_lines_without_a_program() {
    let plan = br#"{"version":1,"extractors":[
        {"name":"one","programs":["p"],"patterns":[{"id":"x","pattern":"hello"}]},
        {"name":"all","programs":["*"],"patterns":[{"id":"x","pattern":"to all"}]},
        {"name":"none","patterns":[{"id":"x","pattern":"hello"},{"id":"y","pattern":"","contains":"never"}]}]}"#;
    let refused = ExtractorSet::from_plan(plan).unwrap_err().to_string();
    assert!(refused.contains("pattern `y`: column 1: the pattern is empty"), "{refused}");
    let plan = String::from_utf8_lossy(plan)
        .replace(r#","contains":"never""#, "")
        .replace(r#""pattern":"""#, r#""pattern":"y""#);
    let set = ExtractorSet::from_plan(plan.as_bytes()).unwrap();
    let found = |program: &str, message: &str| {
        set.find(program.as_bytes(), message.as_bytes()).map(|hit| (hit.extractor, hit.pattern))
    };
    assert_eq!(found("p", "hello"), Some((0, 0)));
    assert_eq!(found("", "hello"), Some((2, 0)));
    assert_eq!(found("q", "hello"), None);
    assert_eq!(found("q", "to all"), Some((1, 0)));
    assert_eq!(found("", "to all"), Some((1, 0)));
    assert_eq!(found("p", "hello "), None);
    assert_eq!(found("", "y"), Some((2, 1)));
    assert_eq!(found("", ""), None);
}
