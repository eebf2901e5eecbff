//! A flood of forged correlation keys, in a process of its own because its memory is measured.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use ironpost_detect::{Correlator, RuleSet, Scratch, SourcePosition};
use ironpost_events::{Cell, EventBatch, FieldTable, Logsource, Span, ValueKind};
use serde_json::json;
use std::sync::Arc;

const SECOND: i64 = 1_000_000_000;
const START: i64 = 1_790_000_000 * SECOND;
/// Events in one batch, each of another key; a snapshot is taken after each batch.
const BATCH: u64 = 10_000;
/// Groups kept of events that anybody may have written.
const KEPT: u64 = 50_000;
/// What all the flood may take, whatever its length. Kept are 50,000 keys, that is about 1 KB for each with its snapshot.
const MOST_BYTES: u64 = 60 << 20;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn memory_stays_bounded_whatever_the_number_of_keys() {
    let keys: u64 = std::env::var("IRONPOST_FLOOD_KEYS").map_or(300_000, |text| text.parse().unwrap());
    let plan = json!({"version": 1,
        "rules": [{"id": "failed", "emit": false, "condition": {"const": true}}],
        "correlations": [{"id": "brute", "title": "Brute force", "type": "event_count", "rules": ["failed"],
            "group_by": ["source.ip"], "timespan_ns": 600 * SECOND, "condition": {"gte": 5},
            "entity": ["source.ip"]}]});
    let set = Arc::new(RuleSet::from_plan(plan.to_string().as_bytes()).unwrap());
    let table = FieldTable::new(set.field_names().map(str::to_owned).chain(["message".to_owned()]));
    let compiled = Arc::new(set.bind(table));
    let mut correlator = Correlator::new(Arc::clone(&compiled)).with_updates();
    let mut batch = EventBatch::new(Arc::clone(compiled.fields()));
    let (mut scratch, mut matches, mut found) = (Scratch::new(), Vec::new(), Vec::new());
    let mut position = 0;
    let mut observe = |events: &mut dyn Iterator<Item = (String, &'static str)>| {
        batch.clear();
        for (ip, trust) in events {
            let text = format!(
                "Failed password for root from {ip} port 4242 ssh2, as anybody may write who can send"
            );
            let raw = batch.append(text.as_bytes()).unwrap();
            for (name, value) in [("source.ip", ip.as_str()), ("ironpost.trust", trust)] {
                let value = batch.append(value.as_bytes()).unwrap();
                let field = batch.fields().id(name).unwrap();
                batch.push_cell(Cell { field, kind: ValueKind::Text, name: Span::default(), value });
            }
            let source = batch.logsource_id(&Logsource::default());
            batch.finish_row(raw, Some(START + position as i64), position, source, 1, "test");
            position += 1;
        }
        matches.clear();
        compiled.evaluate(&batch, &mut scratch, &mut matches);
        correlator.observe(&batch, &matches, &SourcePosition { source: "udp:x", received: None }, &mut found);
        let stored = correlator.take_dirty().iter().filter(|change| change.state.is_some()).count();
        (found.len(), stored, correlator.counts())
    };
    observe(&mut (0..4).map(|_| ("192.0.2.1".to_owned(), "host")));
    let before = resident();
    let mut most = before;
    for first in (0..keys).step_by(BATCH as usize) {
        let flood = (first..first + BATCH).map(|key| (format!("2001:db8::{key:x}"), "spoofable"));
        let (found, stored, _) = observe(&mut { flood });
        assert_eq!((found, stored as u64), (0, BATCH), "every key that was followed is stored, none crosses");
        most = most.max(resident());
    }
    let (found, _, counts) = observe(&mut std::iter::once(("192.0.2.1".to_owned(), "host")));
    println!("{keys} keys: {} KB for {} kept, {counts:?}", (most - before) >> 10, counts.keys);
    assert_eq!(found, 1, "the believed failures are still known");
    assert_eq!((counts.keys, counts.evictions), (KEPT + 1, keys - KEPT));
    assert_eq!(counts.evicted_believed, 0);
    assert!(most - before < MOST_BYTES, "{} bytes more", most - before);
}
