//! How many groups are followed, and which are forgotten.

use super::Correlator;
use super::snapshot::full_key;
use crate::correlation::Correlation;
use crate::lru::{CLASSES, Lru};
use crate::window::{Entry, Group, Growth};
use std::sync::Arc;

/// Groups followed at once over all correlations, by whose events they hold: the host's own, containers', anybody's. Beyond,
/// the correlation with the most forgets its least recently active one, which is counted.
const MAX_KEYS: [usize; CLASSES] = [100_000, 50_000, 50_000];
/// Entries of all windows, likewise; one has 32 bytes.
const MAX_ENTRIES: [usize; CLASSES] = [1 << 20, 1 << 19, 1 << 19];
/// Bytes of evidence in all open windows, likewise; beyond, events are counted and their records not kept.
pub(super) const MAX_EVIDENCE_TOTAL: [usize; CLASSES] = [8 << 20, 4 << 20, 4 << 20];

/// Windows of one correlation.
#[derive(Debug, Default)]
pub(super) struct Windows {
    pub(super) groups: Lru<Box<Group>>,
    /// Entries by class.
    pub(super) entries: [usize; CLASSES],
    /// Time of the last event and of the one before: both have to pass a window before it is forgotten, so that one wrong
    /// time does not.
    clock: [i64; 2],
    /// Places changed since the last snapshot, each once: a place taken over by another group stays listed.
    changed: Vec<u32>,
    listed: Vec<bool>,
}

impl Windows {
    /// Notes that the group at a place changed.
    pub(super) fn mark(&mut self, place: u32) {
        let at = place as usize;
        if self.listed.len() <= at {
            self.listed.resize(at + 1, false);
        }
        if !std::mem::replace(&mut self.listed[at], true) {
            self.changed.push(place);
        }
    }

    /// The places noted since the last call.
    pub(super) fn take_marked(&mut self) -> Vec<u32> {
        let places = std::mem::take(&mut self.changed);
        for &place in &places {
            self.listed[place as usize] = false;
        }
        places
    }
}

impl Correlator {
    /// The group of a key, made when it is new.
    pub(super) fn group(
        &mut self,
        index: usize,
        correlation: &Correlation,
        key: &str,
        entry: &Entry,
    ) -> Option<u32> {
        let class = entry.trust.class();
        self.forget_expired(index, correlation, class, entry.time);
        let windows = &mut self.windows[index];
        if let Some(at) = windows.groups.find(key) {
            let before = windows.groups.touch(at, class)?;
            if class < before {
                let group = windows.groups.at(at)?;
                let (size, bytes) = (group.size(), group.evidence_bytes());
                windows.entries[before] = windows.entries[before].saturating_sub(size);
                windows.entries[class] += size;
                self.evidence_bytes[before] = self.evidence_bytes[before].saturating_sub(bytes);
                self.evidence_bytes[class] += bytes;
            }
            return Some(at);
        }
        let followed: usize = self.windows.iter().map(|windows| windows.groups.len_of(class)).sum();
        if followed >= MAX_KEYS[class] {
            self.evict(class, |windows| windows.groups.len_of(class));
        }
        Some(self.windows[index].groups.insert(key, class, Box::default()))
    }

    /// Forgets groups until the entries of a class fit; never the one that was just used.
    pub(super) fn make_room(&mut self, class: usize, index: usize, key: &str) {
        while self.windows.iter().map(|windows| windows.entries[class]).sum::<usize>() > MAX_ENTRIES[class] {
            let groups = &self.windows[index].groups;
            let alone = groups.len_of(class) <= 1
                && groups
                    .oldest(class)
                    .and_then(|at| groups.about(at))
                    .is_none_or(|(_, oldest)| oldest == key);
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
                let expired =
                    |group: &mut Box<Group>| group.windows().all(|window| window.newest() < horizon);
                if !windows.groups.at(at).is_some_and(expired) {
                    break;
                }
                self.remove(index, correlation, at);
            }
        }
    }

    fn remove(&mut self, index: usize, correlation: &Correlation, at: u32) {
        let windows = &mut self.windows[index];
        let Some((class, _)) = windows.groups.about(at) else { return };
        let Some((key, mut group)) = windows.groups.remove(at) else { return };
        windows.entries[class] = windows.entries[class].saturating_sub(group.size());
        self.part(correlation, class, &key, &mut group);
    }

    /// Settles what is left to settle of a group that goes.
    pub(super) fn part(&mut self, correlation: &Correlation, class: usize, key: &str, group: &mut Group) {
        let held = &mut self.evidence_bytes[class];
        *held = held.saturating_sub(group.evidence_bytes());
        let growth: Vec<Growth> = group.windows().filter_map(|window| window.take_growth()).collect();
        for growth in growth {
            let names: Vec<String> = serde_json::from_str(key).unwrap_or_default();
            self.report(correlation, &names, &growth);
        }
        if group.stored
            && let Some(changes) = &mut self.changes
        {
            changes.gone.push(full_key(correlation, key));
        }
    }
}
