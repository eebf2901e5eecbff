//! Correlations on correlations, late events in full windows, values of several rules.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use ironpost_detect::{Compiled, Correlator, Detection, RuleSet, Scratch, SourcePosition};
use ironpost_events::{Cell, EventBatch, FieldId, FieldTable, Logsource, Span, ValueKind};
use serde_json::{Value, json};
use std::sync::Arc;

const SECOND: i64 = 1_000_000_000;
/// A day in 2026, nanoseconds since the epoch.
const DAY: i64 = 1_790_000_000 * SECOND;

struct Run {
    compiled: Arc<Compiled>,
    correlator: Correlator,
    position: u64,
}

fn rule(name: &str, kind: &str) -> Value {
    json!({"id": name, "emit": false, "condition": {"atom": {"field": "kind", "op": "equals", "value": kind}}})
}

fn correlation(written: Value) -> Value {
    let mut made = json!({"id": "found", "title": "found", "group_by": ["ip"], "timespan_ns": 60 * SECOND});
    made.as_object_mut().unwrap().extend(written.as_object().unwrap().clone());
    made
}

impl Run {
    fn new(rules: &[(&str, &str)], correlations: Vec<Value>) -> Self {
        let rules: Vec<Value> = rules.iter().map(|(name, kind)| rule(name, kind)).collect();
        let plan = json!({"version": 1, "rules": rules,
            "correlations": correlations.into_iter().map(correlation).collect::<Vec<_>>()});
        let set = Arc::new(RuleSet::from_plan(plan.to_string().as_bytes()).unwrap());
        let table = FieldTable::new(set.field_names().map(str::to_owned).chain(["message".to_owned()]));
        let compiled = Arc::new(set.bind(table));
        Self { correlator: Correlator::new(Arc::clone(&compiled)), compiled, position: 0 }
    }

    fn event(&mut self, at: i64, fields: &[(&str, &str)]) -> Vec<Detection> {
        let mut batch = EventBatch::new(Arc::clone(self.compiled.fields()));
        let raw = batch.append(b"record").unwrap();
        for (name, value) in fields.iter().chain(&[("ip", "192.0.2.1")]) {
            let value = batch.append(value.as_bytes()).unwrap();
            let field = batch.fields().id(name).unwrap_or(FieldId::UNREGISTERED);
            batch.push_cell(Cell { field, kind: ValueKind::Text, name: Span::default(), value });
        }
        let source = batch.logsource_id(&Logsource::default());
        batch.finish_row(raw, Some(DAY + at), self.position, source, 1, "test");
        self.position += 1;
        let (mut found, mut detections) = (Vec::new(), Vec::new());
        self.compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
        let position = SourcePosition { source: "file:x", received: None };
        self.correlator.observe(&batch, &found, &position, &mut detections);
        detections
    }

    /// An event of a kind at a second.
    fn at(&mut self, second: i64, kind: &str, trust: &str) -> Vec<Detection> {
        self.event(second * SECOND, &[("kind", kind), ("ironpost.trust", trust)])
    }
}

fn chain(kind: &str) -> Run {
    Run::new(
        &[("failed", "failed"), ("login", "login")],
        vec![
            json!({"id": "brute", "type": "event_count", "rules": ["failed"], "condition": {"gte": 10}}),
            json!({"id": "chain", "type": kind, "rules": ["brute", "login"]}),
        ],
    )
}

fn names(found: &[Detection]) -> Vec<&str> {
    found.iter().map(|one| one.rule_id.as_str()).collect()
}

#[test]
fn a_correlation_that_stays_true_feeds_what_builds_on_it_to_the_end() {
    for kind in ["temporal", "temporal_ordered"] {
        for seconds in [30, 60, 70, 600] {
            let mut run = chain(kind);
            let failures: Vec<Detection> = (0..seconds).flat_map(|at| run.at(at, "failed", "host")).collect();
            assert_eq!(names(&failures), ["brute"], "{kind}: itself it reports once");
            assert_eq!(names(&run.at(seconds, "login", "host")), ["chain"], "{kind} after {seconds} s");
            assert_eq!(names(&run.at(seconds + 1, "failed", "host")), [""; 0]);
            assert_eq!(names(&run.at(seconds + 2, "login", "host")), [""; 0], "{kind} reports once, too");
        }
    }
}

#[test]
fn what_no_longer_holds_feeds_nothing() {
    let mut run = chain("temporal_ordered");
    (0..30).for_each(|at| drop(run.at(at, "failed", "host")));
    // One failure in a while keeps nothing true: the last time it was true is second 29 and not 100.
    run.at(100, "failed", "host");
    assert_eq!(names(&run.at(101, "login", "host")), [""; 0]);
}

#[test]
fn forged_events_keep_nothing_alive_that_is_believed() {
    let mut run = chain("temporal_ordered");
    (0..10).for_each(|at| drop(run.at(at, "failed", "host")));
    (10..65).for_each(|at| drop(run.at(at, "failed", "spoofable")));
    let found = run.at(75, "login", "host");
    assert_eq!(found.iter().map(|one| one.trust).collect::<Vec<_>>(), [Some("spoofable")]);
}

#[test]
fn many_ways_from_one_event_to_one_correlation_are_gone_once() {
    // Thirty floors of two correlations each on both of the floor below: 2^30 ways.
    let mut floors = vec![];
    for floor in 0..30 {
        let below = match floor {
            0 => json!(["failed"]),
            _ => json!([format!("{}a", floor - 1), format!("{}b", floor - 1)]),
        };
        for half in ["a", "b"] {
            floors.push(json!({"id": format!("{floor}{half}"), "type": "event_count", "rules": below,
                "condition": {"gte": 1}}));
        }
    }
    let mut run = Run::new(&[("failed", "failed")], floors);
    assert_eq!(run.at(0, "failed", "host").len(), 60);
    assert_eq!(run.at(1, "failed", "host").len(), 0);
}

#[test]
fn a_restart_while_the_inner_condition_holds_gives_the_same_ids() {
    let play = |restart: Option<i64>| {
        let mut run = chain("temporal_ordered");
        let mut found = Vec::new();
        for at in 0..700 {
            if restart == Some(at) {
                let stored = run.correlator.take_dirty();
                run.correlator = Correlator::new(Arc::clone(&run.compiled));
                let stored = stored.into_iter().filter_map(|change| Some((change.key, change.state?)));
                assert_eq!(run.correlator.restore(stored), [""; 0]);
            }
            found.extend(run.at(at, if at % 100 == 99 { "login" } else { "failed" }, "host"));
        }
        found.into_iter().map(|one| (one.id, one.trace_id, one.count)).collect::<Vec<_>>()
    };
    let whole = play(None);
    assert_eq!(whole.len(), 8, "one of the failures, one for each login");
    for at in [5, 99, 100, 333, 699] {
        assert_eq!(play(Some(at)), whole);
    }
}

#[test]
fn a_late_step_completes_a_sequence_in_a_flood_of_another() {
    let steps = [("a", "a"), ("b", "b"), ("c", "c")];
    for flood in [10, 300, 5_000] {
        let mut run = Run::new(
            &steps,
            vec![json!({"type": "temporal_ordered", "rules": ["a", "b", "c"], "timespan_ns": 600 * SECOND})],
        );
        assert_eq!(names(&run.at(0, "a", "host")), [""; 0]);
        for at in 0..flood {
            let time = 2 * SECOND + at * SECOND / 1000;
            assert_eq!(names(&run.event(time, &[("kind", "c"), ("ironpost.trust", "host")])), [""; 0]);
        }
        assert_eq!(names(&run.at(1, "b", "host")), ["found"], "{flood}");
        assert_eq!(run.correlator.counts().approximated, 0);
    }
}

#[test]
fn a_late_step_that_finds_part_of_the_window_forgotten_is_counted() {
    let mut run = Run::new(
        &[("a", "a"), ("b", "b")],
        vec![json!({"type": "temporal_ordered", "rules": ["a", "b", "a", "b"], "timespan_ns": 600 * SECOND})],
    );
    (0..300).for_each(|at| drop(run.event(at * SECOND / 100, &[("kind", "a"), ("ironpost.trust", "host")])));
    assert_eq!(run.correlator.counts().approximated, 0);
    run.at(1, "b", "host");
    assert_eq!(run.correlator.counts().approximated, 1);
}

#[test]
fn late_events_of_a_full_window_are_judged_by_the_windows_next_to_them_and_the_newest() {
    let median = json!({"type": "value_median", "rules": ["a"], "field": ["v"], "condition": {"gte": 50},
        "timespan_ns": 3600 * SECOND});
    let mut run = Run::new(&[("a", "a")], vec![median]);
    let value = |run: &mut Run, at: i64, value: &str| {
        run.event(at, &[("kind", "a"), ("v", value), ("ironpost.trust", "host")])
    };
    for at in 0..5_000 {
        assert_eq!(names(&value(&mut run, at * SECOND / 1000, "1")), [""; 0]);
    }
    assert_eq!(names(&value(&mut run, -20 * SECOND, "49")), [""; 0]);
    assert_eq!(run.correlator.counts().approximated, 1, "not every window was looked at");
    assert_eq!(names(&value(&mut run, -4000 * SECOND, "50")), ["found"], "a window of its own, far back");
}

#[test]
fn an_event_brings_every_value_that_its_rules_read() {
    let values = json!({"type": "value_count", "rules": ["a", "b"], "field": ["w"], "condition": {"gte": 2},
        "aliases": {"w": {"a": ["src"], "b": ["dst"]}}});
    let mut run = Run::new(&[("a", "x"), ("b", "x")], vec![values]);
    let event = |run: &mut Run, at: i64, src: &str, dst: &str| {
        run.event(at * SECOND, &[("kind", "x"), ("src", src), ("dst", dst), ("ironpost.trust", "host")]).len()
    };
    assert_eq!(event(&mut run, 0, "1", "1"), 0, "one value, read twice");
    assert_eq!(event(&mut run, 100, "1", "2"), 1);
    assert_eq!(event(&mut run, 200, "3", "3"), 0);
    assert_eq!(event(&mut run, 201, "3", "4"), 1);
}
