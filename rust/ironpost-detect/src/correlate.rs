//! Counting over time, and turning matches into detections. One thread, in source order.

mod memory;
mod ongoing;
mod snapshot;

pub use snapshot::WindowChange;

use crate::compile::Compiled;
use crate::correlation::{Correlation, Feeder};
use crate::detection::{Detection, MAX_EVIDENCE, MAX_EVIDENCE_BYTES, digest_number};
use crate::event::{Decided, Event, MAX_GROUP_VALUE, network};
use crate::judge::{UNIT, units};
use crate::lru::CLASSES;
use crate::plan::CorrelationType;
use crate::window::{Counts, Crossing, Entry, Outcome, Place, Trust};
use ironpost_events::EventBatch;
use memory::{MAX_EVIDENCE_TOTAL, Windows};
use ongoing::Owed;
use rustc_hash::FxHashMap;
use snapshot::Changes;
use std::sync::Arc;

/// Sources told apart in windows; log files of containers come and go, and the last number stands for all further ones.
const MAX_SOURCES: usize = u16::MAX as usize;
/// Where a batch came from.
#[derive(Clone, Copy, Debug)]
pub struct SourcePosition<'a> {
    /// Source id, for example `file:/var/log/auth.log`.
    pub source: &'a str,
    /// When the batch was received, nanoseconds since the Unix epoch: the time of events that carry none and the limit
    /// for times ahead. `None` when reading old events.
    pub received: Option<i64>,
}

/// Keeps the windows of all correlations and reports detections.
#[derive(Debug)]
pub struct Correlator {
    compiled: Arc<Compiled>,
    windows: Vec<Windows>,
    /// Index of a correlation by its fingerprint.
    places: FxHashMap<String, usize>,
    /// What to store; `None` when nobody takes snapshots.
    changes: Option<Changes>,
    /// Growth nobody was told of; `None` when only crossings are reported.
    owed: Option<Owed>,
    /// Reports that no event gave rise to.
    parting: Vec<Detection>,
    sources: Vec<Arc<str>>,
    source_ids: FxHashMap<Arc<str>, u16>,
    /// Evidence held, by class.
    evidence_bytes: [usize; CLASSES],
    rows: u64,
    counts: Counts,
}

/// What one match brings to a correlation.
struct Fed<'a> {
    feeder: Feeder,
    /// Of a correlation that feeds another: the least trust behind it.
    trust: Trust,
    time: i64,
    weight: u32,
    /// Group keys and values of a correlation that feeds another.
    group: &'a [(String, String)],
}

/// What an event did in a correlation.
struct Counted {
    /// The condition became true.
    detection: Option<Detection>,
    /// The condition is true with this event: end of the window and trust, for what builds on it.
    holds: Option<(i64, Trust)>,
    group: Vec<String>,
}

impl Correlator {
    /// Empty windows for a rule set; changes are recorded for [`Self::take_dirty`].
    pub fn new(compiled: Arc<Compiled>) -> Self {
        let mut made = Self {
            windows: Vec::new(),
            places: FxHashMap::default(),
            changes: Some(Changes::default()),
            owed: None,
            parting: Vec::new(),
            sources: Vec::new(),
            source_ids: FxHashMap::default(),
            evidence_bytes: [0; CLASSES],
            rows: 0,
            counts: Counts::default(),
            compiled: Arc::clone(&compiled),
        };
        made.windows = compiled.set.correlations.iter().map(|_| Windows::default()).collect();
        made.places = places(&compiled);
        made
    }

    /// Like [`Self::new`] for callers that never store windows.
    pub fn without_snapshots(compiled: Arc<Compiled>) -> Self {
        Self { changes: None, ..Self::new(compiled) }
    }

    /// Reports what goes on after it was reported first: when its number has doubled, when a timespan has passed (at least
    /// a minute), when it ends, and by [`Self::report_quiet`].
    #[must_use]
    pub fn with_updates(mut self) -> Self {
        self.owed = Some(Owed::default());
        self
    }

    /// What became of events.
    pub fn counts(&self) -> Counts {
        Counts { keys: self.keys() as u64, ..self.counts }
    }

    /// Groups forgotten because there were too many.
    pub fn evictions(&self) -> u64 {
        self.counts.evictions
    }

    /// Events that came after their window had closed.
    pub fn late(&self) -> u64 {
        self.counts.late
    }

    /// Groups followed now.
    pub fn keys(&self) -> usize {
        self.windows.iter().map(|windows| windows.groups.len()).sum()
    }

    /// Turns the matches of a batch, ordered by row, into detections.
    pub fn observe(
        &mut self,
        batch: &EventBatch,
        matches: &[crate::Match],
        position: &SourcePosition<'_>,
        detections: &mut Vec<Detection>,
    ) {
        let compiled = Arc::clone(&self.compiled);
        let source = self.source(position.source);
        for found in matches {
            let Some(rule) = compiled.set.rules.get(found.rule as usize) else { continue };
            let event = Event { row: batch.row(found.row as usize), index: found.row, position };
            if rule.emit {
                detections.push(event.rule_detection(&compiled, found.rule));
            }
            let feeder = Feeder::Rule(found.rule);
            if compiled.set.feeds.contains_key(&feeder) {
                let trust = event.trust(&compiled);
                let (time, weight) = (event.time().unwrap_or(0), event.row.info().repeat);
                let row = self.rows + 1 + u64::from(found.row);
                self.feed(
                    &compiled,
                    &event,
                    (row, source),
                    &Fed { feeder, trust, time, weight, group: &[] },
                    detections,
                );
            }
        }
        self.rows += batch.len() as u64;
        detections.append(&mut self.parting);
    }

    fn source(&mut self, name: &str) -> u16 {
        if let Some(&id) = self.source_ids.get(name) {
            return id;
        }
        let name: Arc<str> = name.into();
        if self.sources.len() <= MAX_SOURCES {
            self.sources.push(Arc::clone(&name));
        }
        let id = (self.sources.len() - 1) as u16;
        if self.source_ids.len() <= MAX_SOURCES {
            self.source_ids.insert(name, id);
        }
        id
    }

    fn feed(
        &mut self,
        compiled: &Compiled,
        event: &Event<'_>,
        origin: (u64, u16),
        fed: &Fed<'_>,
        detections: &mut Vec<Detection>,
    ) {
        let Some(correlations) = compiled.set.feeds.get(&fed.feeder) else { return };
        for &index in correlations {
            let correlation = &compiled.set.correlations[index as usize];
            let Some(counted) = self.count(compiled, index as usize, correlation, event, origin, fed) else {
                continue;
            };
            let feeder = Feeder::Correlation(index);
            if let Some((time, trust)) = counted.holds
                && compiled.set.feeds.contains_key(&feeder)
            {
                // Ends: circles are refused at load, and a group passes a row on once.
                let group: Vec<(String, String)> =
                    correlation.plan.group_by.iter().cloned().zip(counted.group).collect();
                let fed = Fed { feeder, trust, time, weight: 1, group: &group };
                self.feed(compiled, event, origin, &fed, detections);
            }
            if correlation.plan.emit {
                detections.extend(counted.detection);
            }
        }
    }

    /// Counts an event in its group's window.
    fn count(
        &mut self,
        compiled: &Compiled,
        index: usize,
        correlation: &Correlation,
        event: &Event<'_>,
        (row, source): (u64, u16),
        fed: &Fed<'_>,
    ) -> Option<Counted> {
        let reads = correlation.feeders.get(&fed.feeder)?;
        let plan = &correlation.plan;
        // What a correlation reports has its group keys for fields, and behind them those of the deciding event.
        let read = |name: &String, fields: &[u32], limit: usize| {
            let inherited = fed.group.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            inherited.or_else(|| event.first_text(compiled, fields, limit))
        };
        let mut group = Vec::with_capacity(reads.groups.len());
        for ((name, fields), cut) in plan.group_by.iter().zip(&reads.groups).zip(&correlation.networks) {
            let Some(value) = read(name, fields, MAX_GROUP_VALUE) else {
                self.counts.fieldless += 1; // without the field it belongs to no group
                return None;
            };
            group.push(match cut {
                Some(cut) => network(value, *cut),
                None => value,
            });
        }
        let value = match plan.kind {
            CorrelationType::EventCount => 0,
            CorrelationType::Temporal | CorrelationType::TemporalOrdered => reads.rule as u64,
            _ => {
                let mut values = Vec::with_capacity(reads.values.len());
                for (name, fields) in plan.field.iter().zip(&reads.values) {
                    let Some(value) = read(name, fields, MAX_EVIDENCE_BYTES) else {
                        self.counts.fieldless += 1;
                        return None;
                    };
                    values.push(value);
                }
                match plan.kind {
                    CorrelationType::ValueCount | CorrelationType::ValueShare => {
                        let parts: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
                        digest_number(&parts) as u64
                    }
                    _ => match values.first().and_then(|value| units(value)) {
                        Some(number) => number.to_bits(),
                        None => {
                            self.counts.not_numeric += 1;
                            return None;
                        }
                    },
                }
            }
        };
        let key = serde_json::to_string(&group).ok()?;
        let entry = Entry {
            time: fed.time,
            value,
            position: event.row.info().position,
            weight: fed.weight,
            source,
            trust: fed.trust,
            same: false,
        };
        let at = self.group(index, correlation, &key, &entry)?;
        let updates = self.owed.is_some();
        let windows = &mut self.windows[index];
        let class = windows.groups.about(at)?.0;
        let room = self.evidence_bytes[class] < MAX_EVIDENCE_TOTAL[class];
        let followed = windows.groups.at(at)?;
        let place = followed.place(entry.time, &correlation.judge);
        if place != Place::Current {
            self.counts.late += 1;
        }
        if place == Place::Nowhere {
            self.counts.lost += 1;
            return None;
        }
        let (size, bytes) = (followed.size(), followed.evidence_bytes());
        let window = followed.window(place);
        let once = matches!(fed.feeder, Feeder::Rule(_));
        let outcome = window.observe(entry, row, once, &correlation.judge);
        let wanted = !window.has_fired() && !window.needs_no_line(&correlation.judge);
        let raw = (wanted || outcome.crossing.is_some()).then(|| event.evidence());
        if let Some(raw) = raw.as_deref().filter(|_| room) {
            window.keep_line(&entry, raw);
        }
        let Outcome { ended, crossing, ongoing, holds, approximated } = outcome;
        self.counts.approximated += u64::from(approximated);
        let mut decided = None;
        if let Some(crossing) = crossing {
            let entity = event.group_entity(compiled, correlation, fed.feeder, &group);
            if updates {
                let about = entity.as_ref().map(|entity| (entity.kind.clone(), entity.value.clone()));
                window.begin_episode(&crossing, &entry, about);
            }
            let mut evidence = window.evidence(&crossing, &correlation.judge);
            if let Some(raw) = raw.filter(|raw| evidence.last() != Some(raw)) {
                evidence.truncate(MAX_EVIDENCE - 1);
                evidence.push(raw);
            }
            decided = Some((crossing, evidence, entity));
        }
        let received = event.position.received.unwrap_or(0);
        let mut owes = false;
        if let Some(episode) = window.episode.as_deref_mut() {
            episode.heard = received;
            owes = episode.total > episode.reported && !std::mem::replace(&mut episode.owed, true);
        }
        let followed = windows.groups.at(at)?;
        windows.entries[class] = (windows.entries[class] + followed.size()).saturating_sub(size);
        let held = &mut self.evidence_bytes[class];
        *held = (*held + followed.evidence_bytes()).saturating_sub(bytes);
        windows.mark(at);
        if owes && let Some(owed) = &mut self.owed {
            owed.push_back((received, index, key.as_str().into()));
        }
        for growth in [ended, ongoing].into_iter().flatten() {
            self.report(correlation, &group, &growth);
        }
        self.make_room(class, index, &key);
        let detection = decided.map(|(crossing, evidence, entity)| {
            let Crossing { measure, count, trust, first, .. } = crossing;
            let trace_id = format!("{:032x}", self.trace(first));
            let measure = measure as f64 / UNIT as f64;
            let decided = Decided { count, measure, evidence, trace_id, trust, entity };
            event.correlation_detection(compiled, correlation, fed.feeder, &group, decided)
        });
        Some(Counted { detection, holds, group })
    }
}

fn places(compiled: &Compiled) -> FxHashMap<String, usize> {
    let correlations = compiled.set.correlations.iter().enumerate();
    correlations.map(|(index, correlation)| (correlation.fingerprint.clone(), index)).collect()
}
