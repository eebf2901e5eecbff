//! Counting over time, and turning matches into detections. One thread, in source order.

use crate::compile::{Compiled, Correlation, Feeder};
use crate::detection::{
    ALWAYS_READ, CONTAINER_ID, Detection, DetectionKind, Entity, MAX_EVIDENCE, MAX_EVIDENCE_BYTES, Matched,
    TRUST, digest, digest_number, lossy,
};
use crate::evaluate::Match;
use crate::lru::Lru;
use crate::plan::CorrelationType;
use crate::window::{Entry, Outcome, Trust, Window};
use ironpost_events::{EventBatch, RowRef};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Groups a correlation follows at once; beyond, the least recently active is forgotten and counted.
const MAX_KEYS: usize = 100_000;
/// Longer group values are cut.
const MAX_GROUP_VALUE: usize = 512;
/// Evidence lines of all open windows together.
const MAX_EVIDENCE_TOTAL: usize = 16 << 20;

/// Where a batch came from.
#[derive(Clone, Copy, Debug)]
pub struct SourcePosition<'a> {
    /// Source id, for example `file:/var/log/auth.log`.
    pub source: &'a str,
    /// When the batch was received, nanoseconds since the Unix epoch: the time of events that carry none and the limit
    /// for times ahead. `None` when reading old events.
    pub received: Option<i64>,
}

/// A window's state as it shall be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowChange {
    /// Key of the window.
    pub key: String,
    /// New state; `None` when the window is gone.
    pub state: Option<Vec<u8>>,
}

/// Windows of one correlation.
#[derive(Debug, Default)]
struct Windows {
    groups: Lru<Window>,
}

/// Keeps the windows of all correlations and reports detections.
#[derive(Debug)]
pub struct Correlator {
    compiled: Arc<Compiled>,
    windows: Vec<Windows>,
    /// Full keys of changed or removed windows; `None` when nobody takes snapshots.
    changed: Option<Vec<String>>,
    evidence_bytes: usize,
    evictions: u64,
    late: u64,
}

impl Correlator {
    /// Empty windows for a rule set; changes are recorded for [`Self::take_dirty`].
    pub fn new(compiled: Arc<Compiled>) -> Self {
        let windows = compiled.set.correlations.iter().map(|_| Windows::default()).collect();
        Self { compiled, windows, changed: Some(Vec::new()), evidence_bytes: 0, evictions: 0, late: 0 }
    }

    /// Like [`Self::new`] for callers that never store windows.
    pub fn without_snapshots(compiled: Arc<Compiled>) -> Self {
        Self { changed: None, ..Self::new(compiled) }
    }

    /// Groups forgotten because there were too many.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Events that came after their window had closed.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Groups followed now.
    pub fn keys(&self) -> usize {
        self.windows.iter().map(|windows| windows.groups.len()).sum()
    }

    /// Turns the matches of a batch, ordered by row, into detections.
    pub fn observe(
        &mut self,
        batch: &EventBatch,
        matches: &[Match],
        position: &SourcePosition<'_>,
        detections: &mut Vec<Detection>,
    ) {
        let compiled = Arc::clone(&self.compiled);
        for found in matches {
            let Some(rule) = compiled.set.rules.get(found.rule as usize) else { continue };
            let event = Event { row: batch.row(found.row as usize), index: found.row, position };
            if rule.emit {
                detections.push(event.rule_detection(&compiled, found.rule));
            }
            self.feed(&compiled, Feeder::Rule(found.rule), &event, detections);
        }
    }

    fn feed(
        &mut self,
        compiled: &Compiled,
        feeder: Feeder,
        event: &Event<'_>,
        detections: &mut Vec<Detection>,
    ) {
        let Some(fed) = compiled.set.feeds.get(&feeder) else { return };
        for &index in fed {
            let correlation = &compiled.set.correlations[index as usize];
            let Some(detection) = self.count(compiled, index, correlation, feeder, event) else { continue };
            if correlation.plan.emit {
                detections.push(detection);
            }
            self.feed(compiled, Feeder::Correlation(index), event, detections); // ends: cycles are refused at load
        }
    }

    /// Counts an event in its group's window; a detection when the condition became true.
    fn count(
        &mut self,
        compiled: &Compiled,
        index: u32,
        correlation: &Correlation,
        feeder: Feeder,
        event: &Event<'_>,
    ) -> Option<Detection> {
        let reads = correlation.feeders.get(&feeder)?;
        let mut group = Vec::with_capacity(reads.groups.len());
        for names in &reads.groups {
            group.push(event.first_text(compiled, names, MAX_GROUP_VALUE)?); // without the field it belongs to no group
        }
        let value = match correlation.plan.kind {
            CorrelationType::EventCount => 0,
            CorrelationType::ValueCount => {
                let mut values = Vec::with_capacity(reads.values.len());
                for names in &reads.values {
                    values.push(event.first_text(compiled, names, MAX_EVIDENCE_BYTES)?);
                }
                let parts: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
                digest_number(&parts) as u64
            }
            CorrelationType::Temporal | CorrelationType::TemporalOrdered => {
                let id = match feeder {
                    Feeder::Rule(rule) => &compiled.set.rules[rule as usize].id,
                    Feeder::Correlation(inner) => &compiled.set.correlations[inner as usize].plan.id,
                };
                correlation.plan.rules.iter().position(|rule| rule == id)? as u64
            }
        };
        let time = event.time().unwrap_or(0);
        let key = serde_json::to_string(&group).ok()?;
        self.forget_expired(index as usize, correlation, time);
        let windows = &mut self.windows[index as usize];
        if windows.groups.touch(&key).is_none() {
            if windows.groups.len() >= MAX_KEYS {
                self.evictions += 1;
                self.remove_oldest(index as usize, correlation);
            }
            self.windows[index as usize].groups.insert(&key, Window::default());
        }
        let window = self.windows[index as usize].groups.peek_mut(&key)?;
        let before = window.evidence_bytes();
        let raw = event.evidence();
        let keeps =
            self.evidence_bytes + raw.len() <= MAX_EVIDENCE_TOTAL && window.entries.len() < 4 * MAX_EVIDENCE;
        let entry = Entry {
            time,
            weight: event.row.info().repeat,
            value,
            trace: event.trace(),
            trust: event.trust(compiled),
            evidence: keeps.then(|| raw.as_str().into()),
        };
        let trace = entry.trace;
        let outcome = window.observe(entry, &correlation.plan);
        let newly_dirty = !std::mem::replace(&mut window.dirty, true);
        let detection = match outcome {
            Outcome::Late => {
                self.late += 1;
                None
            }
            Outcome::Counted => None,
            Outcome::Crossed(measure, trust) => {
                let mut evidence = window.evidence(MAX_EVIDENCE, trust);
                if evidence.last() != Some(&raw) {
                    evidence.truncate(MAX_EVIDENCE - 1);
                    evidence.push(raw);
                }
                let first = window.entries.iter().find(|entry| entry.trust >= trust);
                let first = first.map_or(trace, |entry| entry.trace);
                let detection = event.correlation_detection(
                    compiled,
                    correlation,
                    feeder,
                    &group,
                    Decided { count: measure as u64, evidence, trace_id: format!("{first:032x}"), trust },
                );
                window.trim(&correlation.plan);
                Some(detection)
            }
        };
        self.evidence_bytes = (self.evidence_bytes + window.evidence_bytes()).saturating_sub(before);
        if newly_dirty && let Some(changed) = &mut self.changed {
            changed.push(full_key(correlation, &key));
        }
        detection
    }

    /// Forgets groups whose windows have passed; cheap because the least recently active come first.
    fn forget_expired(&mut self, index: usize, correlation: &Correlation, now: i64) {
        let horizon = now.saturating_sub(correlation.plan.timespan_ns.saturating_mul(2));
        for _ in 0..2 {
            match self.windows[index].groups.oldest() {
                Some(window) if window.newest() < horizon => self.remove_oldest(index, correlation),
                _ => return,
            }
        }
    }

    fn remove_oldest(&mut self, index: usize, correlation: &Correlation) {
        let Some((key, window)) = self.windows[index].groups.pop_oldest() else { return };
        self.evidence_bytes = self.evidence_bytes.saturating_sub(window.evidence_bytes());
        if !window.dirty
            && let Some(changed) = &mut self.changed
        {
            changed.push(full_key(correlation, &key));
        }
    }

    /// Continues with another rule set; windows of correlations that mean the same are kept.
    pub fn swap(&mut self, compiled: Arc<Compiled>) {
        let old = std::mem::replace(&mut self.compiled, Arc::clone(&compiled));
        let mut kept: BTreeMap<&str, Windows> = BTreeMap::new();
        for (correlation, windows) in old.set.correlations.iter().zip(std::mem::take(&mut self.windows)) {
            kept.insert(&correlation.fingerprint, windows);
        }
        self.windows = compiled
            .set
            .correlations
            .iter()
            .map(|correlation| kept.remove(correlation.fingerprint.as_str()).unwrap_or_default())
            .collect();
        for (fingerprint, mut windows) in kept {
            while let Some((key, window)) = windows.groups.pop_oldest() {
                self.evidence_bytes = self.evidence_bytes.saturating_sub(window.evidence_bytes());
                if !window.dirty
                    && let Some(changed) = &mut self.changed
                {
                    changed.push(format!("{fingerprint}|{key}"));
                }
            }
        }
    }

    /// Windows that changed since the last call, to be stored together with the source's position.
    pub fn take_dirty(&mut self) -> Vec<WindowChange> {
        let Some(changed) = &mut self.changed else { return Vec::new() };
        let mut keys = std::mem::take(changed);
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter()
            .map(|key| {
                let state = self.find(&key).and_then(|(index, group)| {
                    let window = self.windows[index].groups.peek_mut(group)?;
                    window.dirty = false;
                    serde_json::to_vec(window).ok()
                });
                WindowChange { key, state }
            })
            .collect()
    }

    /// Puts stored windows back; those of changed or removed correlations and unreadable ones are left out and returned by
    /// key, so that the caller can delete them.
    pub fn restore<I>(&mut self, windows: I) -> Vec<String>
    where
        I: IntoIterator<Item = (String, Vec<u8>)>,
    {
        let mut useless = Vec::new();
        let mut found: Vec<(usize, String, Window)> = Vec::new();
        for (key, state) in windows {
            match (self.find(&key), serde_json::from_slice::<Window>(&state)) {
                (Some((index, group)), Ok(window)) => found.push((index, group.to_owned(), window)),
                _ => useless.push(key),
            }
        }
        found.sort_by_key(|(_, _, window)| window.newest()); // least recently active first, as they were
        for (index, group, window) in found {
            let groups = &mut self.windows[index].groups;
            if groups.touch(&group).is_none() {
                self.evidence_bytes += window.evidence_bytes();
                groups.insert(&group, window);
            }
        }
        useless
    }

    /// Correlation and group of a full key.
    fn find<'a>(&self, key: &'a str) -> Option<(usize, &'a str)> {
        let (fingerprint, group) = key.split_once('|')?;
        let index =
            self.compiled.set.correlations.iter().position(|known| known.fingerprint == fingerprint)?;
        Some((index, group))
    }
}

fn full_key(correlation: &Correlation, group: &str) -> String {
    format!("{}|{group}", correlation.fingerprint)
}

/// What a window knows at the moment of crossing.
struct Decided {
    count: u64,
    evidence: Vec<String>,
    trace_id: String,
    trust: Trust,
}

/// The row being judged.
struct Event<'a> {
    row: RowRef<'a>,
    index: u32,
    position: &'a SourcePosition<'a>,
}

impl Event<'_> {
    fn time(&self) -> Option<i64> {
        match (self.row.info().timestamp, self.position.received) {
            // A clock ahead, or a lie, must not close windows early: nothing happens after it was received.
            (Some(time), Some(received)) => Some(time.min(received)),
            (time, received) => time.or(received),
        }
    }

    /// First value of a field, as text.
    fn text(&self, compiled: &Compiled, field: u32, limit: usize) -> Option<String> {
        let id = compiled.ids.get(field as usize).copied().flatten()?;
        let value = self.row.values(id).find(|value| value.kind.has_value())?;
        Some(lossy(value.bytes, limit))
    }

    /// The first of several fields that the event has, as text.
    fn first_text(&self, compiled: &Compiled, fields: &[u32], limit: usize) -> Option<String> {
        fields.iter().find_map(|&field| self.text(compiled, field, limit))
    }

    fn always(&self, compiled: &Compiled, which: usize) -> Option<String> {
        let value = self.row.values(compiled.always[which]?).find(|value| value.kind.has_value())?;
        Some(lossy(value.bytes, MAX_GROUP_VALUE))
    }

    fn trust(&self, compiled: &Compiled) -> Trust {
        self.always(compiled, TRUST).map_or(Trust::Unstated, |text| Trust::parse(text.as_bytes()))
    }

    fn evidence(&self) -> String {
        lossy(self.row.raw(), MAX_EVIDENCE_BYTES)
    }

    fn trace(&self) -> u128 {
        digest_number(&[b"trace", self.position.source.as_bytes(), &self.row.info().position.to_le_bytes()])
    }

    fn entity(&self, compiled: &Compiled, fields: &[u32]) -> Option<Entity> {
        fields.iter().find_map(|&field| {
            let value = self.text(compiled, field, MAX_GROUP_VALUE).filter(|value| !value.is_empty())?;
            Some(Entity { kind: compiled.set.names[field as usize].clone(), value })
        })
    }

    fn fields(&self, compiled: &Compiled, wanted: &[u32]) -> BTreeMap<String, String> {
        let asked = wanted.iter().filter_map(|&field| {
            Some((compiled.set.names[field as usize].clone(), self.text(compiled, field, MAX_GROUP_VALUE)?))
        });
        let usual = (0..ALWAYS_READ.len())
            .filter_map(|index| Some((ALWAYS_READ[index].to_owned(), self.always(compiled, index)?)));
        usual.chain(asked).collect()
    }

    fn id(&self, rule_id: &str, group: &[String]) -> String {
        let position = self.row.info().position.to_le_bytes();
        let mut parts: Vec<&[u8]> = vec![rule_id.as_bytes(), self.position.source.as_bytes(), &position];
        parts.extend(group.iter().map(|value| value.as_bytes()));
        digest(&parts)
    }

    fn matched(&self, compiled: &Compiled, feeder: Feeder) -> Vec<Matched> {
        match feeder {
            Feeder::Rule(rule) => compiled.explain(rule, self.row),
            Feeder::Correlation(_) => Vec::new(),
        }
    }

    fn rule_detection(&self, compiled: &Compiled, index: u32) -> Detection {
        let rule = &compiled.set.rules[index as usize];
        Detection {
            id: self.id(&rule.id, &[]),
            rule_id: rule.id.clone(),
            rule_title: rule.title.clone(),
            level: rule.level.clone(),
            kind: DetectionKind::Rule,
            timestamp: self.time(),
            row: self.index,
            group: Vec::new(),
            entity: self.entity(compiled, &rule.entity),
            matched: compiled.explain(index, self.row),
            evidence: vec![self.evidence()],
            fields: self.fields(compiled, &rule.fields),
            count: u64::from(self.row.info().repeat),
            trace_id: format!("{:032x}", self.trace()),
            trust: self.trust(compiled).name(),
            source: self.position.source.to_owned(),
            position: self.row.info().position,
            container_id: self.always(compiled, CONTAINER_ID),
            tags: rule.tags.clone(),
            event: rule.event.then(|| self.row.to_json()),
        }
    }

    fn correlation_detection(
        &self,
        compiled: &Compiled,
        correlation: &Correlation,
        feeder: Feeder,
        group: &[String],
        decided: Decided,
    ) -> Detection {
        let plan = &correlation.plan;
        Detection {
            id: self.id(&plan.id, group),
            rule_id: plan.id.clone(),
            rule_title: plan.title.clone(),
            level: plan.level.clone(),
            kind: DetectionKind::Correlation,
            timestamp: self.time(),
            row: self.index,
            group: plan.group_by.iter().cloned().zip(group.iter().cloned()).collect(),
            entity: self.entity(compiled, &correlation.entity),
            matched: self.matched(compiled, feeder),
            evidence: decided.evidence,
            fields: self.fields(compiled, &correlation.fields),
            count: decided.count,
            trace_id: decided.trace_id,
            trust: decided.trust.name(),
            source: self.position.source.to_owned(),
            position: self.row.info().position,
            container_id: self.always(compiled, CONTAINER_ID),
            tags: plan.tags.clone(),
            event: None,
        }
    }
}
