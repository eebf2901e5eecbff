//! The public surface: plan in, matches and detections out.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use ironpost_detect::{
    Compiled, Correlator, Detection, DetectionKind, Match, RuleSet, Scratch, SourcePosition,
};
use ironpost_events::{Cell, EventBatch, FieldId, FieldTable, Logsource, Span, ValueKind};
use serde_json::{Value, json};
use std::sync::Arc;

const SECOND: i64 = 1_000_000_000;

fn compile(plan: &Value) -> Arc<Compiled> {
    let set = Arc::new(RuleSet::from_plan(plan.to_string().as_bytes()).unwrap());
    let table = FieldTable::new(set.field_names().map(str::to_owned).chain(["message".to_owned()]));
    Arc::new(set.bind(table))
}

/// Adds a row of text cells; `null` makes a null cell, a list several cells.
fn push(
    batch: &mut EventBatch,
    event: &Value,
    time: Option<i64>,
    position: u64,
    source: &Logsource,
    repeat: u32,
) {
    let raw =
        event["message"].as_str().map_or(Span::default(), |text| batch.append(text.as_bytes()).unwrap());
    for (name, value) in event.as_object().unwrap() {
        let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        for value in values {
            let (kind, text) = match value {
                Value::Null => (ValueKind::Null, String::new()),
                Value::String(text) => (ValueKind::Text, text),
                Value::Bool(flag) => (ValueKind::Bool, flag.to_string()),
                other => (ValueKind::Integer, other.to_string()),
            };
            let span = batch.append(text.as_bytes()).unwrap();
            let known = batch.fields().id(name);
            let spelled =
                if known.is_none() { batch.append(name.as_bytes()).unwrap() } else { Span::default() };
            let field = known.unwrap_or(FieldId::UNREGISTERED);
            batch.push_cell(Cell { field, kind, name: spelled, value: span });
        }
    }
    let source = batch.logsource_id(source);
    batch.finish_row(raw, time, position, source, repeat, "test");
}

fn matches(plan: &Value, event: &Value) -> Vec<String> {
    let compiled = compile(plan);
    let mut batch = EventBatch::new(Arc::clone(compiled.fields()));
    push(&mut batch, event, None, 0, &Logsource::default(), 1);
    let mut found = Vec::new();
    compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
    found.iter().map(|found| compiled.rule_id(found.rule).to_owned()).collect()
}

fn atom(field: &str, op: &str, value: Value) -> Value {
    json!({"atom": {"field": field, "op": op, "value": value}})
}

fn rule(id: &str, condition: Value) -> Value {
    json!({"id": id, "title": id, "condition": condition})
}

fn holds(condition: Value, event: Value) -> bool {
    !matches(&json!({"version": 1, "rules": [rule("r", condition)]}), &event).is_empty()
}

#[test]
fn operators_follow_sigma() {
    let event = || {
        json!({"a": "C:\\Windows\\PowerShell.EXE", "n": 4625, "ip": "10.1.2.3", "v6": "2001:db8::1", "e": "", "z": null,
               "list": ["one", "two"], "other": "c:\\windows\\powershell.exe"})
    };
    for (field, op, value, expected) in [
        ("a", "equals", json!("c:\\windows\\powershell.exe"), true),
        ("a", "equals", json!("powershell.exe"), false),
        ("a", "endswith", json!("\\powershell.exe"), true),
        ("a", "startswith", json!("c:\\WIN"), true),
        ("a", "startswith", json!("windows"), false),
        ("a", "contains", json!("WINDOWS"), true),
        ("a", "wildcard", json!([{"wild": "*"}, "\\power", {"wild": "?"}, "hell", {"wild": "*"}]), true),
        ("a", "wildcard", json!(["power", {"wild": "*"}]), false),
        ("a", "regex", json!("Power.*\\.EXE$"), true),
        ("a", "regex", json!("power"), false),
        ("a", "regex", json!("(?i)power"), true),
        ("n", "equals", json!(4625), true),
        ("n", "equals", json!("4625"), true),
        ("n", "gt", json!(4624), true),
        ("n", "lte", json!("4624.5"), false),
        ("ip", "cidr", json!("10.0.0.0/8"), true),
        ("ip", "cidr", json!("192.168.0.0/16"), false),
        ("v6", "cidr", json!("2001:db8::/32"), true),
        ("e", "equals", json!(""), true),
        ("e", "exists", json!(true), true),
        ("e", "null", json!(null), false),
        ("z", "null", json!(null), true),
        ("z", "exists", json!(true), true),
        ("z", "equals", json!(""), false),
        ("missing", "null", json!(null), true),
        ("missing", "exists", json!(true), false),
        ("missing", "equals", json!(""), false),
        ("list", "equals", json!("TWO"), true),
        ("a", "fieldref", json!("other"), true),
        ("a", "fieldref", json!("e"), false),
        ("a", "fieldref", json!({"field": "e", "match": "contains"}), true),
        ("e", "contains", json!(""), true),
        ("z", "contains", json!(""), false),
    ] {
        assert_eq!(holds(atom(field, op, value.clone()), event()), expected, "{field} {op} {value}");
        // The same condition beside one that never and one that always holds: witnesses must not change the answer.
        let beside =
            json!({"and": [{"not": atom("missing", "exists", json!(true))}, atom(field, op, value.clone())]});
        assert_eq!(holds(beside, event()), expected, "and: {field} {op} {value}");
        assert_eq!(
            holds(json!({"not": atom(field, op, value.clone())}), event()),
            !expected,
            "not: {field} {op} {value}"
        );
    }
}

#[test]
fn time_parts_of_a_log_line_are_those_of_its_own_time() {
    let late = json!({"atom": {"field": "@timestamp", "op": "timepart", "value": {"part": "hour", "compare": "gte", "number": 22}}});
    let compiled = compile(&json!({"version": 1, "rules": [rule("late", late)]}));
    let mut batch = EventBatch::new(Arc::clone(compiled.fields()));
    // 1970-01-01 21:59:59, 22:00:00 and 23:59:59 UTC, the last hour before 1970, and no time at all.
    let seconds = [Some(79_199), Some(79_200), Some(86_399), Some(-1), None];
    for time in seconds {
        let time = time.map(|seconds: i64| seconds * 1_000_000_000);
        push(&mut batch, &json!({"message": "x"}), time, 0, &Logsource::default(), 1);
    }
    let mut found = Vec::new();
    compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
    assert_eq!(found.iter().map(|found| found.row).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn case_matters_only_when_asked() {
    let cased =
        |value: &str| json!({"atom": {"field": "a", "op": "contains", "value": value, "cased": true}});
    assert!(holds(cased("Ab"), json!({"a": "xAbx"})));
    assert!(!holds(cased("Ab"), json!({"a": "xabx"})));
    assert!(holds(atom("a", "contains", json!("ÄÖ")), json!({"a": "xäöx"})));
}

#[test]
fn keywords_search_every_value_and_the_raw_line() {
    let keyword = |value: &str| json!({"atom": {"field": null, "op": "contains", "value": value}});
    assert!(holds(keyword("needle"), json!({"a": "hay NEEDLE hay"})));
    assert!(holds(keyword("raw line"), json!({"message": "a raw line"})));
    assert!(!holds(keyword("absent"), json!({"a": "present", "message": "m"})));
}

#[test]
fn rules_see_only_events_of_their_log_source() {
    let plan = json!({"version": 1, "rules": [
        {"id": "linux", "logsource": {"product": ["linux"]}, "condition": atom("a", "equals", json!("x"))},
        {"id": "sshd", "logsource": {"product": ["linux"], "service": ["sshd", "auth"]}, "condition": atom("a", "equals", json!("x"))},
        {"id": "windows", "logsource": {"product": ["windows"]}, "condition": {"not": atom("a", "equals", json!("y"))}},
    ]});
    let compiled = compile(&plan);
    let run = |source: &Logsource| {
        let mut batch = EventBatch::new(Arc::clone(compiled.fields()));
        push(&mut batch, &json!({"a": "X"}), None, 0, source, 1);
        let mut found = Vec::new();
        compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
        found.iter().map(|found| compiled.rule_id(found.rule)).collect::<Vec<_>>()
    };
    let source = |product: &str, service: Option<&str>| Logsource {
        product: Some(product.into()),
        category: None,
        service: service.map(Into::into),
    };
    assert_eq!(run(&source("linux", Some("cron"))), ["linux"]);
    assert_eq!(run(&source("linux", Some("sshd"))), ["linux", "sshd"]);
    assert_eq!(run(&source("windows", None)), ["windows"]);
    assert_eq!(
        run(&Logsource::default()),
        ["linux", "sshd", "windows"],
        "an unknown source is checked by every rule"
    );
}

fn brute_force() -> Value {
    json!({"version": 1,
        "rules": [{"id": "failed", "emit": false, "entity": ["source.ip"],
                   "detections": {"selection": atom("message", "contains", json!("failed"))}, "condition": {"ref": "selection"}}],
        "correlations": [{"id": "brute", "title": "Brute force", "level": "high", "type": "event_count", "rules": ["failed"],
                          "group_by": ["source.ip"], "timespan_ns": 60 * SECOND, "condition": {"gte": 5}, "entity": ["source.ip"]}]})
}

struct Run {
    compiled: Arc<Compiled>,
    correlator: Correlator,
    position: u64,
}

impl Run {
    fn new(plan: &Value) -> Self {
        let compiled = compile(plan);
        Self { correlator: Correlator::new(Arc::clone(&compiled)), compiled, position: 0 }
    }

    fn event(&mut self, event: Value, seconds: i64, repeat: u32) -> Vec<Detection> {
        let mut batch = EventBatch::new(Arc::clone(self.compiled.fields()));
        push(&mut batch, &event, Some(seconds * SECOND), self.position, &Logsource::default(), repeat);
        self.position += 100;
        let mut found: Vec<Match> = Vec::new();
        self.compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
        let mut detections = Vec::new();
        self.correlator.observe(
            &batch,
            &found,
            &SourcePosition { source: "file:x", received: None },
            &mut detections,
        );
        detections
    }

    fn fail(&mut self, ip: &str, seconds: i64) -> Vec<Detection> {
        self.event(json!({"message": "failed login", "source.ip": ip}), seconds, 1)
    }
}

#[test]
fn the_fifth_failure_within_the_window_is_reported_once() {
    let mut run = Run::new(&brute_force());
    for second in 0..4 {
        assert_eq!(run.fail("192.0.2.1", second), []);
    }
    assert_eq!(run.fail("192.0.2.2", 4), [], "another group counts for itself");
    let found = run.fail("192.0.2.1", 5);
    assert_eq!(found.len(), 1);
    let detection = &found[0];
    assert_eq!(
        (detection.rule_id.as_str(), detection.kind, detection.count),
        ("brute", DetectionKind::Correlation, 5)
    );
    assert_eq!(detection.group, [("source.ip".to_owned(), "192.0.2.1".to_owned())]);
    assert_eq!(
        detection.entity.as_ref().map(|entity| (entity.kind.as_str(), entity.value.as_str())),
        Some(("source.ip", "192.0.2.1"))
    );
    assert_eq!(detection.evidence.len(), 5);
    assert_eq!(detection.matched[0].selection, "selection");
    assert_eq!((detection.id.len(), detection.trace_id.len()), (32, 32));
    for second in 6..30 {
        assert_eq!(run.fail("192.0.2.1", second), [], "one detection per crossing");
    }
    for second in 1000..1004 {
        assert_eq!(run.fail("192.0.2.1", second), []);
    }
    assert_eq!(run.fail("192.0.2.1", 1004).len(), 1, "after the window emptied a new crossing counts");
}

#[test]
fn events_older_than_the_window_do_not_count() {
    let mut run = Run::new(&brute_force());
    for second in [0, 1, 2, 3, 64, 65, 66] {
        assert_eq!(run.fail("192.0.2.1", second), []);
    }
    assert_eq!(run.fail("192.0.2.1", 5), [], "late, but 5 seconds are still inside 66 - 60 only as late");
    assert_eq!(run.correlator.late(), 1);
}

#[test]
fn events_out_of_order_inside_the_window_count() {
    let mut run = Run::new(&brute_force());
    for second in [50, 40, 30, 20] {
        assert_eq!(run.fail("192.0.2.1", second), []);
    }
    assert_eq!(run.fail("192.0.2.1", 10).len(), 1);
}

#[test]
fn a_repeated_line_counts_as_often_as_it_says() {
    let mut run = Run::new(&brute_force());
    assert_eq!(run.event(json!({"message": "failed", "source.ip": "192.0.2.9"}), 0, 4), []);
    assert_eq!(run.fail("192.0.2.9", 1).len(), 1);
}

#[test]
fn a_restart_from_stored_windows_neither_loses_nor_repeats() {
    // Whatever the moment of the restart, the detections are those of the run without one.
    let seconds: Vec<i64> = vec![0, 1, 2, 3, 4, 5, 6, 7, 200, 201, 202, 203, 204, 205];
    let mut whole = Run::new(&brute_force());
    let expected: Vec<String> =
        seconds.iter().flat_map(|&s| whole.fail("192.0.2.1", s)).map(|d| d.id + &d.trace_id).collect();
    assert_eq!(expected.len(), 2);
    for cut in 0..seconds.len() {
        let mut first = Run::new(&brute_force());
        let mut stored = std::collections::BTreeMap::new();
        let mut found = Vec::new();
        for &second in &seconds[..cut] {
            found.extend(first.fail("192.0.2.1", second));
            for change in first.correlator.take_dirty() {
                match change.state {
                    Some(state) => stored.insert(change.key, state),
                    None => stored.remove(&change.key),
                };
            }
        }
        let mut second = Run::new(&brute_force());
        second.position = first.position;
        assert_eq!(second.correlator.restore(stored), Vec::<String>::new());
        found.extend(seconds[cut..].iter().flat_map(|&s| second.fail("192.0.2.1", s)));
        let ids: Vec<String> = found.into_iter().map(|d| d.id + &d.trace_id).collect();
        assert_eq!(ids, expected, "cut at {cut}");
    }
}

#[test]
fn a_swap_keeps_windows_of_unchanged_correlations_only() {
    let mut run = Run::new(&brute_force());
    (0..4).for_each(|second| assert_eq!(run.fail("192.0.2.1", second), []));
    run.correlator.take_dirty();
    let mut renamed = brute_force();
    renamed["rules"].as_array_mut().unwrap().push(rule("new", atom("message", "contains", json!("zzz"))));
    renamed["correlations"][0]["title"] = json!("Other title");
    run.compiled = compile(&renamed);
    run.correlator.swap(Arc::clone(&run.compiled));
    assert_eq!(run.fail("192.0.2.1", 5).len(), 1);
    let mut changed = brute_force();
    changed["correlations"][0]["condition"] = json!({"gte": 6});
    run.compiled = compile(&changed);
    run.correlator.swap(Arc::clone(&run.compiled));
    assert_eq!(run.correlator.keys(), 0);
    assert!(
        run.correlator.take_dirty().iter().all(|change| change.state.is_none()),
        "the stored windows go as well"
    );
}

#[test]
fn distinct_values_are_counted_once_each() {
    let plan = json!({"version": 1,
        "rules": [{"id": "port", "emit": false, "condition": atom("event.action", "equals", json!("new_port"))}],
        "correlations": [{"id": "scan", "type": "value_count", "rules": ["port"], "field": ["destination.port"],
                          "group_by": ["source.ip"], "timespan_ns": 60 * SECOND, "condition": {"gte": 20}}]});
    let mut run = Run::new(&plan);
    let mut visit = |port: i64, second| {
        run.event(
            json!({"event.action": "new_port", "source.ip": "192.0.2.7", "destination.port": port}),
            second,
            1,
        )
        .len()
    };
    for second in 0..100 {
        assert_eq!(visit(second % 19, second), 0, "nineteen ports, however often");
    }
    assert_eq!(visit(1000, 100), 1);
    assert_eq!(visit(1001, 101), 0);
}

#[test]
fn keys_are_bounded_and_evictions_counted() {
    let mut run = Run::new(&brute_force());
    let mut batch = EventBatch::new(Arc::clone(run.compiled.fields()));
    for index in 0..100_100u32 {
        let ip = std::net::Ipv4Addr::from(index).to_string();
        push(
            &mut batch,
            &json!({"message": "failed", "source.ip": ip}),
            Some(SECOND),
            u64::from(index),
            &Logsource::default(),
            1,
        );
    }
    let mut found = Vec::new();
    run.compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
    let mut detections = Vec::new();
    run.correlator.observe(
        &batch,
        &found,
        &SourcePosition { source: "udp", received: None },
        &mut detections,
    );
    assert_eq!((run.correlator.keys(), run.correlator.evictions(), detections.len()), (100_000, 100, 0));
}

/// Failures of one address, one a second, each of the trust its letter says; the trusts that were reported.
fn trusts(events: &str) -> Vec<&'static str> {
    let mut run = Run::new(&brute_force());
    let mut found = Vec::new();
    for (second, letter) in events.chars().enumerate() {
        let trust = if letter == 'h' { "host" } else { "unauthenticated" };
        let event = json!({"message": "failed", "source.ip": "192.0.2.1", "ironpost.trust": trust});
        found.extend(run.event(event, second as i64 / 2, 1));
    }
    found.iter().map(|detection| detection.trust.unwrap()).collect()
}

#[test]
fn the_weakest_trust_of_a_window_is_reported() {
    assert_eq!(trusts("uhhhh"), ["unauthenticated"]);
    assert_eq!(trusts("hhhhh"), ["host"]);
}

#[test]
fn forged_events_do_not_weaken_what_believable_ones_show_alone() {
    assert_eq!(trusts("uhhhhh"), ["unauthenticated", "host"]);
    assert_eq!(trusts("uuuuuuuhhhhhhh"), ["unauthenticated", "host"]);
    assert_eq!(trusts("uhuuhuuuuuhuuuuhuuuuuuuh"), ["unauthenticated", "host"]);
}

#[test]
fn a_time_ahead_does_not_close_the_window_of_others() {
    for ahead in [i64::MAX, 1299 * SECOND, 1061 * SECOND] {
        let mut run = Run::new(&brute_force());
        let mut at = |time: i64| {
            let mut batch = EventBatch::new(Arc::clone(run.compiled.fields()));
            let event = json!({"message": "failed", "source.ip": "192.0.2.1"});
            push(&mut batch, &event, Some(time), run.position, &Logsource::default(), 1);
            run.position += 1;
            let (mut found, mut detections) = (Vec::new(), Vec::new());
            run.compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
            let position = SourcePosition { source: "udp", received: Some(1000 * SECOND) };
            run.correlator.observe(&batch, &found, &position, &mut detections);
            detections.len()
        };
        assert_eq!(at(ahead), 0);
        let real: usize = (0..5).map(|second| at((995 + second) * SECOND)).sum();
        assert_eq!(real, 1, "{ahead}");
    }
}

#[test]
fn detections_are_json_objects() {
    let mut run = Run::new(&json!({"version": 1, "rules": [
        {"id": "r", "level": "low", "detections": {"sel": atom("message", "contains", json!("x")), "filter": atom("a", "equals", json!("b"))},
         "condition": {"and": [{"ref": "sel"}, {"not": {"ref": "filter"}}]}, "fields": ["a"]}]}));
    let found = run.event(json!({"message": "a x \u{1}", "a": "c"}), 5, 1);
    let mut text = Vec::new();
    found[0].to_json(&mut text);
    let value: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        value["matched"],
        json!([{"selection": "sel", "field": "message", "value": "a x \u{1}", "op": "contains", "pattern": "x"}])
    );
    assert_eq!(value["fields"]["a"], "c");
    assert_eq!(
        (&value["kind"], &value["timestamp"], &value["source"]),
        (&json!("rule"), &json!(5 * SECOND), &json!("file:x"))
    );
}

#[test]
fn broken_plans_name_the_rule() {
    for (plan, needle) in [
        (json!({"version": 2}), "version 2"),
        (json!({"version": 1, "rules": [rule("r", json!({"ref": "nope"}))]}), "nope"),
        (json!({"version": 1, "rules": [rule("r", atom("a", "regex", json!("(")))]}), "rule r"),
        (json!({"version": 1, "rules": [rule("r", atom("a", "cidr", json!("10.0.0.0/99")))]}), "rule r"),
        (
            json!({"version": 1, "rules": [rule("r", json!({"const": true})), rule("r", json!({"const": true}))]}),
            "twice",
        ),
        (
            json!({"version": 1, "correlations": [{"id": "c", "type": "event_count", "rules": ["x"], "timespan_ns": 1, "condition": {"gte": 1}}]}),
            "\"x\"",
        ),
    ] {
        let error = RuleSet::from_plan(plan.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }
}
