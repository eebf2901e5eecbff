//! Keeping windows small: forgetting what decides nothing, putting together what is too much.

use super::{Entry, SMALL, Trust, Window};
use crate::judge::Judge;
use crate::plan::CorrelationType;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Entries of each trust in one window where every one of them bears on the measure; beyond, they are put together and
/// counted as approximated.
const MAX_ENTRIES: usize = 10_000;
/// Newest entries of each trust kept beyond what the condition needs, for events that come late.
const SLACK: usize = 64;
/// Parts of what a temporal correlation remembers, in which the first and the last entries of each rule are kept.
const SLOTS: i64 = 64;
/// Entries of each trust that a temporal correlation keeps beyond the newest of each rule.
const MAX_STEPS: usize = 1_024;
/// Distinct values counted exactly, whatever the condition asks for.
const EXACT_DISTINCT: u64 = 1_000;

impl Window {
    /// Forgets what can no longer decide anything. True when more had to go, so that the measure is no longer exact.
    pub(super) fn compact(&mut self, judge: &Judge) -> bool {
        let mut approximated = false;
        match judge.kind {
            CorrelationType::EventCount => {
                let mut weights = [0u64; Trust::COUNT];
                self.keep_from_newest(|entry, newer| {
                    let weight = &mut weights[entry.trust as usize];
                    let wanted = *weight < judge.needed || newer < SLACK;
                    *weight += u64::from(entry.weight);
                    wanted
                });
                approximated = self.coalesce();
            }
            CorrelationType::ValueCount => {
                let most = judge.needed.max(EXACT_DISTINCT) as usize;
                let mut seen: BTreeMap<Trust, BTreeSet<u64>> = BTreeMap::new();
                self.keep_from_newest(|entry, newer| {
                    let seen = seen.entry(entry.trust).or_default();
                    let fresh = !seen.contains(&entry.value);
                    if fresh && seen.len() < most {
                        return seen.insert(entry.value);
                    }
                    approximated |= fresh;
                    newer < SLACK
                });
            }
            CorrelationType::Temporal | CorrelationType::TemporalOrdered => {
                approximated = self.keep_steps(judge)
            }
            CorrelationType::ValueSum | CorrelationType::ValueAvg => approximated = self.coalesce(),
            CorrelationType::ValueShare => {
                self.keep_from_newest(|_, newer| {
                    approximated |= newer >= MAX_ENTRIES;
                    newer < MAX_ENTRIES
                });
            }
            CorrelationType::ValueMedian | CorrelationType::ValuePercentile => approximated = self.thin_out(),
        }
        self.compact_at = (2 * self.entries.len()).max(SMALL);
        self.rebuild(judge);
        approximated
    }

    /// Keeps what can still complete a sequence when an event comes late: of each rule and trust, in each of the slots that
    /// what is remembered is divided into, the first and the last entries, as many as a chain may ask for. So an event that
    /// comes between any two finds what came before it and after; only how long ago that was is off by up to a slot. That
    /// something was forgotten is remembered; that whole slots had to be is said at once.
    fn keep_steps(&mut self, judge: &Judge) -> bool {
        let reach = judge.span.saturating_add(judge.allowed);
        let width = (reach / SLOTS).max(1);
        let mut held = [0; Trust::COUNT];
        let mut after: BTreeMap<(Trust, u64, i64), usize> = BTreeMap::new();
        let slot = |entry: &Entry| (entry.trust, entry.value, entry.time.div_euclid(width));
        let mut before: BTreeMap<(Trust, u64, i64), usize> = BTreeMap::new();
        let early: Vec<bool> = self
            .entries
            .iter()
            .map(|entry| {
                let before = before.entry(slot(entry)).or_default();
                *before += 1;
                *before <= judge.repeats
            })
            .collect();
        let mut at = self.entries.len();
        let (mut thinned, mut crowded) = (self.thinned, false);
        let mut seen = BTreeSet::new();
        self.keep_from_newest(|entry, newer| {
            at -= 1;
            let held = &mut held[entry.trust as usize];
            let after = after.entry(slot(entry)).or_default();
            *after += 1;
            let bears = early[at] || *after <= judge.repeats;
            let newest = seen.insert((entry.trust, entry.value));
            let wanted = newest || newer < SLACK || (bears && *held < MAX_STEPS);
            crowded |= bears && !wanted;
            *held += usize::from(wanted);
            if !wanted {
                thinned = thinned.max(entry.time);
            }
            wanted
        });
        self.thinned = thinned;
        crowded
    }

    /// Keeps the entries that `wanted` says, which is asked from the newest to the oldest with the number of newer entries of
    /// the same trust.
    fn keep_from_newest(&mut self, mut wanted: impl FnMut(&Entry, usize) -> bool) {
        let mut newer = [0; Trust::COUNT];
        let mut kept: VecDeque<Entry> = VecDeque::with_capacity(self.entries.len());
        let mut follows = false; // the entry after this one is kept and of the same record
        for entry in self.entries.iter().rev() {
            let newer = &mut newer[entry.trust as usize];
            if wanted(entry, *newer) {
                kept.push_front(*entry);
                follows = entry.same;
            } else if follows && !entry.same {
                // The record's first entry goes, so the next one is its first.
                if let Some(first) = kept.front_mut() {
                    first.same = false;
                }
                follows = false;
            }
            *newer += 1;
        }
        kept.shrink_to_fit();
        self.entries = kept;
    }

    fn is_crowded(&self) -> bool {
        let mut counts = [0; Trust::COUNT];
        self.entries.iter().for_each(|entry| counts[entry.trust as usize] += 1);
        counts.into_iter().any(|count| count > MAX_ENTRIES)
    }

    /// Halves a crowded window's entries of each trust and keeps their number and sum. Pairs take the earlier time, so that
    /// they leave the window too early and not too late.
    fn coalesce(&mut self) -> bool {
        let crowded = self.is_crowded();
        if crowded {
            self.pair_up(|first, second| {
                let weight = first.weight.saturating_add(second.weight);
                let part = f64::from(second.weight) / f64::from(weight.max(1));
                let number = first.number() + (second.number() - first.number()) * part;
                Entry { weight, value: if number.is_nan() { first.value } else { number.to_bits() }, ..first }
            });
        }
        crowded
    }

    /// Halves a crowded window's entries of each trust: every second one stands for two.
    fn thin_out(&mut self) -> bool {
        let crowded = self.is_crowded();
        if crowded {
            self.pair_up(|first, second| Entry {
                weight: first.weight.saturating_add(second.weight),
                ..first
            });
        }
        crowded
    }

    fn pair_up(&mut self, together: impl Fn(Entry, Entry) -> Entry) {
        let mut kept: VecDeque<Entry> = VecDeque::with_capacity(self.entries.len() / 2 + 1);
        let mut open: BTreeMap<Trust, usize> = BTreeMap::new();
        for entry in self.entries.drain(..) {
            if let Some(first) = open.remove(&entry.trust).and_then(|place| kept.get_mut(place)) {
                *first = together(*first, entry);
            } else {
                open.insert(entry.trust, kept.len());
                kept.push_back(entry);
            }
        }
        self.entries = kept;
    }
}
