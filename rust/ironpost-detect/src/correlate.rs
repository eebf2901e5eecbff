//! Counting over time, and turning matches into detections. One thread, in source order.

use crate::compile::Compiled;
use crate::correlation::{Correlation, Feeder};
use crate::detection::{
    Detection, DetectionKind, Entity, MAX_EVIDENCE, MAX_EVIDENCE_BYTES, digest, digest_number,
};
use crate::event::{Decided, Event, MAX_GROUP_VALUE, network, trace};
use crate::judge::{UNIT, units};
use crate::lru::{CLASSES, Lru};
use crate::plan::CorrelationType;
use crate::window::{Counts, Crossing, Entry, Group, Growth, Outcome, Place, Trust};
use ironpost_events::EventBatch;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// Groups followed at once over all correlations, by whose events they hold: the host's own, containers', anybody's. Beyond,
/// the correlation with the most forgets its least recently active one, which is counted.
const MAX_KEYS: [usize; CLASSES] = [100_000, 50_000, 50_000];
/// Entries of all windows, likewise; one has 32 bytes.
const MAX_ENTRIES: [usize; CLASSES] = [1 << 20, 1 << 19, 1 << 19];
/// Evidence lines of all open windows together.
const MAX_EVIDENCE_TOTAL: usize = 16 << 20;
/// Sources told apart in windows; log files of containers come and go, and the last number stands for all further ones.
const MAX_SOURCES: usize = u16::MAX as usize;
/// Growth that nothing has reported is told when a group was quiet for this long.
const QUIET: i64 = 10_000_000_000;

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
    groups: Lru<Group>,
    /// Entries by class.
    entries: [usize; CLASSES],
    /// Time of the last event and of the one before: both have to pass a window before it is forgotten, so that one wrong
    /// time does not.
    clock: [i64; 2],
}

/// Group with the names of its sources, as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "s")]
    sources: Vec<String>,
    #[serde(rename = "k")]
    class: usize,
    #[serde(flatten)]
    group: Group,
}

/// Keeps the windows of all correlations and reports detections.
#[derive(Debug)]
pub struct Correlator {
    compiled: Arc<Compiled>,
    windows: Vec<Windows>,
    /// Index of a correlation by its fingerprint.
    places: FxHashMap<String, usize>,
    /// Full keys of changed or removed windows; `None` when nobody takes snapshots.
    changed: Option<Vec<String>>,
    /// Groups with growth nobody was told of, and since when; `None` when only crossings are reported.
    owed: Option<VecDeque<(i64, usize, Arc<str>)>>,
    /// Reports that no event gave rise to.
    parting: Vec<Detection>,
    sources: Vec<Arc<str>>,
    source_ids: FxHashMap<Arc<str>, u16>,
    evidence_bytes: usize,
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

impl Correlator {
    /// Empty windows for a rule set; changes are recorded for [`Self::take_dirty`].
    pub fn new(compiled: Arc<Compiled>) -> Self {
        let mut made = Self {
            windows: Vec::new(),
            places: FxHashMap::default(),
            changed: Some(Vec::new()),
            owed: None,
            parting: Vec::new(),
            sources: Vec::new(),
            source_ids: FxHashMap::default(),
            evidence_bytes: 0,
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
        Self { changed: None, ..Self::new(compiled) }
    }

    /// Reports what goes on after it was reported first: when its number has doubled, when a timespan has passed (at least
    /// a minute), when it ends, and by [`Self::report_quiet`].
    #[must_use]
    pub fn with_updates(mut self) -> Self {
        self.owed = Some(VecDeque::new());
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
            let Some((detection, end, trust)) =
                self.count(compiled, index as usize, correlation, event, origin, fed)
            else {
                continue;
            };
            let feeder = Feeder::Correlation(index);
            if compiled.set.feeds.contains_key(&feeder) {
                // Ends: circles are refused at load.
                let fed = Fed { feeder, trust, time: end, weight: 1, group: &detection.group };
                self.feed(compiled, event, origin, &fed, detections);
            }
            if correlation.plan.emit {
                detections.push(detection);
            }
        }
    }

    /// Counts an event in its group's window; a detection when the condition became true, with the end of the window and the
    /// trust behind it.
    fn count(
        &mut self,
        compiled: &Compiled,
        index: usize,
        correlation: &Correlation,
        event: &Event<'_>,
        (row, source): (u64, u16),
        fed: &Fed<'_>,
    ) -> Option<(Detection, i64, Trust)> {
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
        let room = self.evidence_bytes < MAX_EVIDENCE_TOTAL;
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
        let raw = (!window.has_fired() || outcome.crossing.is_some()).then(|| event.evidence());
        if let Some(raw) = raw.as_deref().filter(|_| room) {
            window.keep_line(&entry, raw);
        }
        let Outcome { ended, crossing, ongoing, approximated } = outcome;
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
        let newly_dirty = !std::mem::replace(&mut followed.dirty, true);
        windows.entries[class] = (windows.entries[class] + followed.size()).saturating_sub(size);
        self.evidence_bytes = (self.evidence_bytes + followed.evidence_bytes()).saturating_sub(bytes);
        if owes
            && let Some((_, key)) = windows.groups.about(at)
            && let Some(owed) = &mut self.owed
        {
            owed.push_back((received, index, Arc::clone(key)));
        }
        if newly_dirty && let Some(changed) = &mut self.changed {
            changed.push(full_key(correlation, &key));
        }
        for growth in [ended, ongoing].into_iter().flatten() {
            self.report(correlation, &group, &growth);
        }
        self.make_room(class, index, &key);
        decided.map(|(crossing, evidence, entity)| {
            let Crossing { measure, count, trust, end, first } = crossing;
            let trace_id = format!("{:032x}", self.trace(first));
            let measure = measure as f64 / UNIT as f64;
            let decided = Decided { count, measure, evidence, trace_id, trust, entity };
            let detection = event.correlation_detection(compiled, correlation, fed.feeder, &group, decided);
            (detection, end, trust)
        })
    }

    /// The group of a key, made when it is new.
    fn group(&mut self, index: usize, correlation: &Correlation, key: &str, entry: &Entry) -> Option<usize> {
        let class = entry.trust.class();
        self.forget_expired(index, correlation, class, entry.time);
        let windows = &mut self.windows[index];
        if let Some(at) = windows.groups.find(key) {
            let before = windows.groups.touch(at, class)?;
            if class < before {
                let size = windows.groups.at(at)?.size();
                windows.entries[before] = windows.entries[before].saturating_sub(size);
                windows.entries[class] += size;
            }
            return Some(at);
        }
        let followed: usize = self.windows.iter().map(|windows| windows.groups.len_of(class)).sum();
        if followed >= MAX_KEYS[class] {
            self.evict(class, |windows| windows.groups.len_of(class));
        }
        Some(self.windows[index].groups.insert(key, class, Group::default()))
    }

    /// Forgets groups until the entries of a class fit; never the one that was just used.
    fn make_room(&mut self, class: usize, index: usize, key: &str) {
        while self.windows.iter().map(|windows| windows.entries[class]).sum::<usize>() > MAX_ENTRIES[class] {
            let groups = &self.windows[index].groups;
            let alone = groups.len_of(class) <= 1
                && groups
                    .oldest(class)
                    .and_then(|at| groups.about(at))
                    .is_none_or(|(_, oldest)| &**oldest == key);
            if !self.evict(class, |windows| {
                if alone && windows.groups.len_of(class) <= 1 { 0 } else { windows.entries[class] }
            }) {
                return;
            }
        }
    }

    /// Makes the correlation with the most forget its least recently active group of a class.
    fn evict(&mut self, class: usize, much: impl Fn(&Windows) -> usize) -> bool {
        let most = (0..self.windows.len()).max_by_key(|&index| much(&self.windows[index]));
        let Some(index) = most.filter(|&index| much(&self.windows[index]) > 0) else { return false };
        let Some(at) = self.windows[index].groups.oldest(class) else { return false };
        self.counts.evictions += 1;
        self.counts.evicted_believed += u64::from(class == 0);
        let compiled = Arc::clone(&self.compiled);
        self.remove(index, &compiled.set.correlations[index], at);
        true
    }

    /// Forgets groups whose windows have passed; cheap because the least recently active come first. An event of a worse
    /// class forgets nothing of a better one.
    fn forget_expired(&mut self, index: usize, correlation: &Correlation, class: usize, time: i64) {
        let clock = &mut self.windows[index].clock;
        *clock = [clock[1], time];
        let judge = &correlation.judge;
        let horizon = clock[0].min(clock[1]).saturating_sub(judge.span).saturating_sub(judge.allowed);
        for class in class..CLASSES {
            for _ in 0..2 {
                let windows = &mut self.windows[index];
                let Some(at) = windows.groups.oldest(class) else { break };
                let expired = |group: &mut Group| group.windows().all(|window| window.newest() < horizon);
                if !windows.groups.at(at).is_some_and(expired) {
                    break;
                }
                self.remove(index, correlation, at);
            }
        }
    }

    fn remove(&mut self, index: usize, correlation: &Correlation, at: usize) {
        let windows = &mut self.windows[index];
        let Some((class, _)) = windows.groups.about(at) else { return };
        let Some((key, mut group)) = windows.groups.remove(at) else { return };
        windows.entries[class] = windows.entries[class].saturating_sub(group.size());
        self.part(correlation, &key, &mut group);
    }

    /// Settles what is left to settle of a group that goes.
    fn part(&mut self, correlation: &Correlation, key: &str, group: &mut Group) {
        self.evidence_bytes = self.evidence_bytes.saturating_sub(group.evidence_bytes());
        let growth: Vec<Growth> = group.windows().filter_map(|window| window.take_growth()).collect();
        for growth in growth {
            let names: Vec<String> = serde_json::from_str(key).unwrap_or_default();
            self.report(correlation, &names, &growth);
        }
        if !group.dirty
            && let Some(changed) = &mut self.changed
        {
            changed.push(full_key(correlation, key));
        }
    }

    /// Reports growth of groups that have been quiet since, by the clock of receipt; to be called now and then.
    pub fn report_quiet(&mut self, now: i64, detections: &mut Vec<Detection>) {
        let compiled = Arc::clone(&self.compiled);
        while let Some((since, index, key)) = self.owed.as_mut().and_then(VecDeque::pop_front) {
            // A clock that was set back must not keep anybody waiting.
            if (since..since.saturating_add(QUIET)).contains(&now) {
                if let Some(owed) = &mut self.owed {
                    owed.push_front((since, index, key));
                }
                break;
            }
            let Some(windows) = self.windows.get_mut(index) else { continue };
            let Some(at) = windows.groups.find(&key) else { continue };
            let Some(group) = windows.groups.at(at) else { continue };
            let mut waits = None;
            let mut told = Vec::new();
            for window in group.windows() {
                let Some(episode) = window.episode.as_deref_mut().filter(|episode| episode.owed) else {
                    continue;
                };
                let heard = episode.heard;
                if (heard..heard.saturating_add(QUIET)).contains(&now) {
                    waits = Some(heard);
                    continue;
                }
                episode.owed = false;
                told.extend(window.take_growth());
            }
            if let Some(heard) = waits
                && let Some(owed) = &mut self.owed
            {
                owed.push_back((heard.max(since), index, Arc::clone(&key)));
            }
            if told.is_empty() {
                continue;
            }
            let newly_dirty = !std::mem::replace(&mut group.dirty, true);
            let correlation = &compiled.set.correlations[index];
            if newly_dirty && let Some(changed) = &mut self.changed {
                changed.push(full_key(correlation, &key));
            }
            let names: Vec<String> = serde_json::from_str(&key).unwrap_or_default();
            for growth in told {
                self.report(correlation, &names, &growth);
            }
        }
        detections.append(&mut self.parting);
    }

    /// A detection that tells more of what was reported before. Its id follows from what it tells.
    fn report(&mut self, correlation: &Correlation, group: &[String], growth: &Growth) {
        let plan = &correlation.plan;
        let episode = &growth.episode;
        let first = self.trace(episode.first);
        let trace_id = format!("{first:032x}");
        let mut parts: Vec<&[u8]> = vec![b"ongoing", plan.id.as_bytes(), trace_id.as_bytes()];
        let (total, seen) = (episode.total.to_le_bytes(), episode.seen.to_le_bytes());
        parts.extend([&total[..], &seen[..]]);
        parts.extend(group.iter().map(|value| value.as_bytes()));
        if !plan.emit {
            return;
        }
        let detection = Detection {
            id: digest(&parts),
            rule_id: plan.id.clone(),
            rule_title: plan.title.clone(),
            level: plan.level.clone(),
            kind: DetectionKind::Correlation,
            timestamp: Some(episode.seen),
            row: 0,
            group: plan.group_by.iter().cloned().zip(group.iter().cloned()).collect(),
            entity: episode.entity.clone().map(|(kind, value)| Entity { kind, value }),
            matched: Vec::new(),
            evidence: Vec::new(),
            fields: std::collections::BTreeMap::new(),
            count: growth.count,
            measure: None,
            ongoing: true,
            trace_id,
            trust: growth.trust.name(),
            source: self
                .sources
                .get(usize::from(episode.last.0))
                .map_or_else(String::new, |name| name.to_string()),
            position: episode.last.1,
            container_id: None,
            tags: plan.tags.clone(),
            event: None,
        };
        self.parting.push(detection);
    }

    fn trace(&self, (source, position): (u16, u64)) -> u128 {
        trace(self.sources.get(usize::from(source)).map_or("", |name| name), position)
    }

    /// Continues with another rule set; windows of correlations that mean the same are kept.
    pub fn swap(&mut self, compiled: Arc<Compiled>) {
        let old = std::mem::replace(&mut self.compiled, Arc::clone(&compiled));
        self.places = places(&compiled);
        let before = std::mem::take(&mut self.windows);
        self.windows = compiled.set.correlations.iter().map(|_| Windows::default()).collect();
        let mut moved = vec![None; before.len()];
        for (index, (correlation, mut windows)) in old.set.correlations.iter().zip(before).enumerate() {
            if let Some(&place) = self.places.get(&correlation.fingerprint) {
                self.windows[place] = windows;
                moved[index] = Some(place);
                continue;
            }
            for class in 0..CLASSES {
                while let Some((key, mut group)) =
                    windows.groups.oldest(class).and_then(|at| windows.groups.remove(at))
                {
                    self.part(correlation, &key, &mut group);
                }
            }
        }
        if let Some(owed) = &mut self.owed {
            owed.retain_mut(|(_, index, _)| {
                moved.get(*index).copied().flatten().is_some_and(|place| {
                    *index = place;
                    true
                })
            });
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
                let state = self.state(&key);
                WindowChange { key, state }
            })
            .collect()
    }

    fn state(&mut self, key: &str) -> Option<Vec<u8>> {
        let (index, group) = self.find(key)?;
        let groups = &mut self.windows[index].groups;
        let at = groups.find(group)?;
        let class = groups.about(at)?.0;
        let followed = groups.at(at)?;
        followed.dirty = false;
        let mut group = followed.clone();
        let mut known: FxHashMap<u16, u16> = FxHashMap::default();
        let mut sources: Vec<String> = Vec::new();
        for source in group.windows().flat_map(|window| window.sources_mut()) {
            *source = *known.entry(*source).or_insert_with(|| {
                sources.push(
                    self.sources.get(usize::from(*source)).map_or_else(String::new, |name| name.to_string()),
                );
                (sources.len() - 1) as u16
            });
        }
        serde_json::to_vec(&Stored { sources, class, group }).ok()
    }

    /// Puts stored windows back; those of changed or removed correlations and unreadable ones are left out and returned by
    /// key, so that the caller can delete them.
    pub fn restore<I>(&mut self, windows: I) -> Vec<String>
    where
        I: IntoIterator<Item = (String, Vec<u8>)>,
    {
        let compiled = Arc::clone(&self.compiled);
        let mut useless = Vec::new();
        let mut found: Vec<(usize, String, Stored)> = Vec::new();
        for (key, state) in windows {
            match (self.find(&key), serde_json::from_slice::<Stored>(&state)) {
                (Some((index, group)), Ok(stored)) if stored.class < CLASSES => {
                    found.push((index, group.to_owned(), stored));
                }
                _ => useless.push(key),
            }
        }
        // Least recently active first, as they were.
        found.sort_by_key(|(_, _, stored)| stored.group.current.newest());
        for (index, key, stored) in found {
            let ids: Vec<u16> = stored.sources.iter().map(|name| self.source(name)).collect();
            let (class, mut group) = (stored.class, stored.group);
            let judge = &compiled.set.correlations[index].judge;
            let mut owes = false;
            for window in group.windows() {
                for source in window.sources_mut() {
                    *source = ids.get(usize::from(*source)).copied().unwrap_or(0);
                }
                window.revive(judge);
                if let Some(episode) = window.episode.as_deref_mut() {
                    episode.owed = episode.total > episode.reported;
                    owes |= episode.owed;
                }
            }
            let windows = &mut self.windows[index];
            if windows.groups.find(&key).is_some() {
                continue;
            }
            self.evidence_bytes += group.evidence_bytes();
            windows.entries[class] += group.size();
            let at = windows.groups.insert(&key, class, group);
            if owes
                && let Some((_, key)) = windows.groups.about(at)
                && let Some(owed) = &mut self.owed
            {
                owed.push_back((0, index, Arc::clone(key)));
            }
        }
        useless
    }

    /// Correlation and group of a full key.
    fn find<'a>(&self, key: &'a str) -> Option<(usize, &'a str)> {
        let (fingerprint, group) = key.split_once('|')?;
        Some((*self.places.get(fingerprint)?, group))
    }
}

fn places(compiled: &Compiled) -> FxHashMap<String, usize> {
    let correlations = compiled.set.correlations.iter().enumerate();
    correlations.map(|(index, correlation)| (correlation.fingerprint.clone(), index)).collect()
}

fn full_key(correlation: &Correlation, group: &str) -> String {
    format!("{}|{group}", correlation.fingerprint)
}
