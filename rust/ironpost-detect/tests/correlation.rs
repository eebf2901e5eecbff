//! Windows under attack: floods of keys, forged events, wrong clocks, restarts, attacks that go on.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use ironpost_detect::{Compiled, Correlator, Detection, RuleSet, Scratch, SourcePosition, WindowChange};
use ironpost_events::{Cell, EventBatch, FieldId, FieldTable, Logsource, Span, ValueKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const SECOND: i64 = 1_000_000_000;
/// A day in 2026, seconds since the epoch.
const DAY: i64 = 1_790_000_000;

fn compile(plan: &Value) -> Arc<Compiled> {
    let set = Arc::new(RuleSet::from_plan(plan.to_string().as_bytes()).unwrap());
    let table = FieldTable::new(set.field_names().map(str::to_owned).chain(["message".to_owned()]));
    Arc::new(set.bind(table))
}

fn push(batch: &mut EventBatch, event: &[(&str, &str)], time: i64, position: u64) {
    let raw = batch.append(format!("record {position}").as_bytes()).unwrap();
    for (name, value) in event {
        let value = batch.append(value.as_bytes()).unwrap();
        let field = batch.fields().id(name).unwrap_or(FieldId::UNREGISTERED);
        batch.push_cell(Cell { field, kind: ValueKind::Text, name: Span::default(), value });
    }
    let source = batch.logsource_id(&Logsource::default());
    batch.finish_row(raw, Some(time), position, source, 1, "test");
}

fn counting(correlation: Value) -> Value {
    let mut made = json!({"id": "brute", "title": "Brute force", "type": "event_count", "rules": ["failed"],
        "group_by": ["source.ip"], "timespan_ns": 60 * SECOND, "condition": {"gte": 5}, "entity": ["source.ip"]});
    made.as_object_mut().unwrap().extend(correlation.as_object().unwrap().clone());
    json!({"version": 1, "correlations": [made],
        "rules": [{"id": "failed", "emit": false, "condition": {"const": true}}]})
}

struct Run {
    compiled: Arc<Compiled>,
    correlator: Correlator,
    position: u64,
    received: Option<i64>,
}

impl Run {
    fn new(plan: &Value) -> Self {
        let compiled = compile(plan);
        let correlator = Correlator::new(Arc::clone(&compiled)).with_updates();
        Self { correlator, compiled, position: 0, received: None }
    }

    fn batch(&mut self, events: &[(i64, &[(&str, &str)])]) -> Vec<Detection> {
        let mut batch = EventBatch::new(Arc::clone(self.compiled.fields()));
        for (seconds, event) in events {
            push(&mut batch, event, seconds.saturating_mul(SECOND), self.position);
            self.position += 1;
        }
        let (mut found, mut detections) = (Vec::new(), Vec::new());
        self.compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
        let position = SourcePosition { source: "file:x", received: self.received };
        self.correlator.observe(&batch, &found, &position, &mut detections);
        detections
    }

    fn fail(&mut self, ip: &str, trust: &str, seconds: i64) -> Vec<Detection> {
        self.batch(&[(seconds, &[("source.ip", ip), ("ironpost.trust", trust)])])
    }

    /// One failure of each of many addresses.
    fn flood(&mut self, keys: std::ops::Range<u32>, trust: &str, seconds: i64) -> Vec<Detection> {
        let names: Vec<String> = keys.map(|key| std::net::Ipv4Addr::from(key).to_string()).collect();
        let fields: Vec<[(&str, &str); 2]> =
            names.iter().map(|ip| [("source.ip", ip.as_str()), ("ironpost.trust", trust)]).collect();
        let events: Vec<(i64, &[(&str, &str)])> = fields.iter().map(|event| (seconds, &event[..])).collect();
        self.batch(&events)
    }

    /// Failures of one address; how many detections they gave.
    fn fails(&mut self, ip: &str, seconds: impl IntoIterator<Item = i64>) -> usize {
        seconds.into_iter().map(|at| self.fail(ip, "host", at).len()).sum()
    }
}

#[test]
fn a_flood_of_forged_keys_pushes_out_no_believed_group() {
    let mut run = Run::new(&counting(json!({})));
    assert_eq!(run.fails("192.0.2.1", DAY..DAY + 4), 0);
    assert_eq!(run.flood(0..250_000, "spoofable", DAY + 4), []);
    let counts = run.correlator.counts();
    assert_eq!((counts.keys, counts.evictions, counts.evicted_believed), (50_001, 200_000, 0));
    assert_eq!(run.fails("192.0.2.1", [DAY + 5]), 1, "the believed failures are still known");
}

#[test]
fn forged_events_inside_a_group_push_out_no_believed_ones() {
    let mut run = Run::new(&counting(json!({})));
    assert_eq!(run.fails("192.0.2.1", DAY..DAY + 4), 0);
    for _ in 0..20_000 {
        run.fail("192.0.2.1", "spoofable", DAY + 4);
    }
    let found = run.fail("192.0.2.1", "host", DAY + 5);
    assert_eq!(
        found.iter().filter(|one| !one.ongoing).map(|one| one.trust).collect::<Vec<_>>(),
        [Some("host")]
    );
}

#[test]
fn one_busy_correlation_does_not_empty_another() {
    let mut plan = counting(json!({}));
    let mut other = plan["correlations"][0].clone();
    other["id"] = json!("other");
    other["group_by"] = json!(["user.name"]);
    plan["correlations"].as_array_mut().unwrap().push(other);
    let mut run = Run::new(&plan);
    let root: &[(&str, &str)] = &[("user.name", "root"), ("ironpost.trust", "host")];
    assert_eq!(run.batch(&[(DAY, root), (DAY, root), (DAY, root), (DAY, root)]), []);
    run.flood(0..100_100, "host", DAY);
    assert_eq!(run.correlator.counts().evicted_believed, 101);
    assert_eq!(run.batch(&[(DAY, root)]).len(), 1);
}

#[test]
fn windows_of_many_events_stay_within_the_budget_of_entries() {
    let mut run =
        Run::new(&counting(json!({"type": "value_sum", "field": ["bytes"], "condition": {"gte": 1e12}})));
    for round in 0..300 {
        for key in ["a", "b", "c"] {
            let event: &[(&str, &str)] = &[("source.ip", key), ("bytes", "3"), ("ironpost.trust", "host")];
            let events: Vec<(i64, &[(&str, &str)])> = (0..100).map(|_| (DAY + round / 50, event)).collect();
            assert_eq!(run.batch(&events), []);
        }
    }
    assert!(
        run.correlator.counts().approximated > 0,
        "more than 10,000 events in a window are put together and counted"
    );
    let state: Vec<WindowChange> = run.correlator.take_dirty();
    assert!(state.iter().all(|change| change.state.as_ref().unwrap().len() < 1 << 20));
    // What was put together still adds up: 30,000 events of 3 bytes.
    let mut sum =
        Run::new(&counting(json!({"type": "value_sum", "field": ["bytes"], "condition": {"gte": 90_000}})));
    let event: &[(&str, &str)] = &[("source.ip", "a"), ("bytes", "3")];
    let found: Vec<usize> = (0..30_000).filter(|_| !sum.batch(&[(DAY, event)]).is_empty()).collect();
    assert_eq!(found, [29_999]);
}

#[test]
fn one_time_far_ahead_starves_no_group() {
    for ahead in [4_070_908_800, i64::MAX / SECOND] {
        let mut run = Run::new(&counting(json!({})));
        assert_eq!(run.fails("192.0.2.1", [ahead]), 0, "2099");
        assert_eq!(run.fails("192.0.2.1", DAY..DAY + 5), 1, "{ahead}");
        assert_eq!(run.correlator.counts().late, 5);
    }
}

#[test]
fn a_clock_that_steps_back_blinds_no_group_and_widens_no_window() {
    let mut run = Run::new(&counting(json!({})));
    assert_eq!(run.fails("192.0.2.1", DAY..DAY + 3), 0);
    assert_eq!(run.fails("192.0.2.1", DAY - 3600..DAY - 3597), 0, "three before and three after are no five");
    assert_eq!(run.fails("192.0.2.1", DAY - 3597..DAY - 3595), 1, "five after the step are");
    assert_eq!(run.fails("192.0.2.1", [0, 1, 2, 3]), 0, "1970");
    assert_eq!(run.correlator.counts().lost, 4);
}

#[test]
fn a_leap_second_read_twice_counts_like_any_other() {
    let mut run = Run::new(&counting(json!({"timespan_ns": SECOND})));
    // 23:59:60 has no place of its own in Unix time: the second before or after is seen twice.
    assert_eq!(run.fails("192.0.2.1", [DAY - 1, DAY, DAY, DAY]), 0);
    assert_eq!(run.fails("192.0.2.1", [DAY]), 1);
}

#[test]
fn times_before_and_after_all_others_are_harmless() {
    let mut run = Run::new(&counting(json!({"lateness_ns": i64::MAX})));
    for seconds in [i64::MIN / SECOND, -1, 0, i64::MAX / SECOND, DAY, i64::MIN / SECOND] {
        run.fails("192.0.2.1", [seconds]);
    }
    assert_eq!(run.correlator.counts().lost, 0);
}

/// An hour of failures, one a second, then silence.
fn an_hour(run: &mut Run) -> Vec<Detection> {
    let mut found = Vec::new();
    for second in 0..3600 {
        run.received = Some((DAY + second) * SECOND);
        found.extend(run.fail("192.0.2.1", "host", DAY + second));
    }
    found
}

#[test]
fn an_attack_that_goes_on_is_counted_to_the_end_in_few_reports() {
    let mut run = Run::new(&counting(json!({})));
    let mut found = an_hour(&mut run);
    assert_eq!(found.iter().filter(|one| !one.ongoing).count(), 1);
    assert!(found.len() < 1 + 13 + 60, "doublings and minutes: {}", found.len());
    run.correlator.report_quiet((DAY + 3605) * SECOND, &mut found);
    let before = found.len();
    run.correlator.report_quiet((DAY + 3610) * SECOND, &mut found);
    assert!(found.len() > before, "silence of ten seconds brings the rest");
    assert_eq!(found.iter().map(|one| one.count).sum::<u64>(), 3600);
    assert_eq!(found.last().unwrap().timestamp, Some((DAY + 3599) * SECOND));
    let entities: Vec<&str> = found.iter().map(|one| one.entity.as_ref().unwrap().value.as_str()).collect();
    assert!(entities.iter().all(|entity| *entity == "192.0.2.1"));
    let mut ids: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), found.len());
    assert!(found.iter().all(|one| one.trace_id == found[0].trace_id));
    run.correlator.report_quiet((DAY + 9999) * SECOND, &mut found);
    assert_eq!(found.iter().map(|one| one.count).sum::<u64>(), 3600, "nothing is told twice");
}

#[test]
fn what_grew_before_the_window_closed_is_told_when_it_closes() {
    let mut run = Run::new(&counting(json!({})));
    assert_eq!(run.fails("192.0.2.1", DAY..DAY + 8), 1);
    let found = run.fail("192.0.2.1", "host", DAY + 1000);
    assert_eq!(found.iter().map(|one| (one.ongoing, one.count)).collect::<Vec<_>>(), [(true, 3)]);
}

#[test]
fn forged_events_let_no_number_grow() {
    let mut run = Run::new(&counting(json!({})));
    assert_eq!(run.fails("192.0.2.1", DAY..DAY + 5), 1);
    for second in 5..50 {
        assert_eq!(run.fail("192.0.2.1", "spoofable", DAY + second), []);
    }
}

#[test]
fn a_restart_while_an_attack_goes_on_gives_the_same_ids() {
    let plan = counting(json!({}));
    let told = |found: &[Detection]| found.iter().map(|one| (one.id.clone(), one.count)).collect::<Vec<_>>();
    let seconds: Vec<i64> = (0..40).chain(70..75).chain(300..340).collect();
    let mut whole = Run::new(&plan);
    let expected: Vec<Detection> =
        seconds.iter().flat_map(|&at| whole.fail("192.0.2.1", "host", DAY + at)).collect();
    assert!(expected.len() > 5);
    for cut in 0..seconds.len() {
        let mut first = Run::new(&plan);
        let mut stored: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut found = Vec::new();
        for &at in &seconds[..cut] {
            found.extend(first.fail("192.0.2.1", "host", DAY + at));
            for change in first.correlator.take_dirty() {
                match change.state {
                    Some(state) => stored.insert(change.key, state),
                    None => stored.remove(&change.key),
                };
            }
        }
        let mut second = Run::new(&plan);
        second.position = first.position;
        assert_eq!(second.correlator.restore(stored), Vec::<String>::new());
        found.extend(seconds[cut..].iter().flat_map(|&at| second.fail("192.0.2.1", "host", DAY + at)));
        assert_eq!(told(&found), told(&expected), "cut at {cut}");
    }
}

#[test]
fn addresses_that_change_within_their_network_are_one_group() {
    let networks = json!({"networks": {"source.ip": {"ipv4": 24, "ipv6": 64}}});
    let mut run = Run::new(&counting(networks));
    let found: Vec<Detection> =
        (0..5).flat_map(|key| run.fail(&format!("2001:db8:0:7::{key:x}"), "host", DAY + key)).collect();
    assert_eq!(found[0].group, [("source.ip".to_owned(), "2001:db8:0:7::/64".to_owned())]);
    assert_eq!(found[0].entity.as_ref().unwrap().value, "2001:db8:0:7::/64");
    let mapped = ["192.0.2.1", "::ffff:192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"];
    let found: Vec<Detection> = mapped.iter().flat_map(|ip| run.fail(ip, "host", DAY)).collect();
    assert_eq!(found[0].group[0].1, "192.0.2.0/24");
    assert_eq!(run.fails("no address", DAY..DAY + 5), 1, "other text stays as it is");
}

#[test]
fn circles_name_everyone_in_them() {
    let correlation = |id: &str, rule: &str| json!({"id": id, "type": "event_count", "rules": [rule], "timespan_ns": 1, "condition": {"gte": 1}});
    let plan = json!({"version": 1, "correlations":
        [correlation("outside", "a"), correlation("a", "b"), correlation("b", "c"), correlation("c", "a")]});
    let error = RuleSet::from_plan(plan.to_string().as_bytes()).unwrap_err().to_string();
    assert!(error.contains("a → b → c → a"), "{error}");
}

#[test]
fn distinct_values_are_exact_up_to_the_bound_and_then_said_to_be_approximate() {
    let plan = counting(json!({"type": "value_count", "field": ["user.name"], "condition": {"gte": 10_000}}));
    let mut run = Run::new(&plan);
    let mut visit =
        |user: usize| run.batch(&[(DAY, &[("source.ip", "a"), ("user.name", &user.to_string())])]);
    let found: Vec<usize> = (0..12_000).filter(|&user| visit(user).iter().any(|one| !one.ongoing)).collect();
    assert_eq!(found, [9_999]);
    let small = counting(json!({"type": "value_count", "field": ["user.name"], "condition": {"gte": 3}}));
    let mut run = Run::new(&small);
    let mut told = 0;
    for user in 0..5_000 {
        let found = run.batch(&[(DAY, &[("source.ip", "a"), ("user.name", &user.to_string())])]);
        told += found.iter().map(|one| one.count).sum::<u64>();
    }
    assert!(told >= 1_000, "{told}");
    assert!(run.correlator.counts().approximated > 0);
}
