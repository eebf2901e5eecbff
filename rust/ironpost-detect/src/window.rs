//! One correlation's window for one group.

use crate::plan::{Comparison, CorrelationPlan, CorrelationType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Entries kept in one window.
const MAX_ENTRIES: usize = 10_000;

/// Newest entries of each trust kept where only the order of rules counts: as many as evidence shows.
const MAX_NEWEST: usize = 10;

/// How far an event can be believed, from least to most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Trust {
    Spoofable,
    Unauthenticated,
    Container,
    Host,
    /// The source said nothing: a library call, not a receiver.
    #[default]
    Unstated,
}

impl Trust {
    pub(crate) fn parse(text: &[u8]) -> Self {
        match text {
            b"host" => Self::Host,
            b"container" => Self::Container,
            b"unauthenticated" => Self::Unauthenticated,
            // A trust this version does not know is not trusted.
            _ => Self::Spoofable,
        }
    }

    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Spoofable => Some("spoofable"),
            Self::Unauthenticated => Some("unauthenticated"),
            Self::Container => Some("container"),
            Self::Host => Some("host"),
            Self::Unstated => None,
        }
    }
}

/// One contributing event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(rename = "t")]
    pub(crate) time: i64,
    #[serde(rename = "w")]
    pub(crate) weight: u32,
    /// Hash of the counted value, or which rule it was.
    #[serde(rename = "v")]
    pub(crate) value: u64,
    /// Trace of the record.
    #[serde(rename = "i")]
    pub(crate) trace: u128,
    #[serde(rename = "r")]
    pub(crate) trust: Trust,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub(crate) evidence: Option<Box<str>>,
}

/// Contributing events in order of time, and with what trust the group was already reported.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Window {
    #[serde(rename = "e")]
    pub(crate) entries: Vec<Entry>,
    #[serde(rename = "f")]
    pub(crate) fired: Option<Trust>,
    /// Changed since the last snapshot.
    #[serde(skip)]
    pub(crate) dirty: bool,
}

/// What an observation did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    Counted,
    /// The condition became true, or true by more believable events alone; the measure that made it so, and their trust.
    Crossed(f64, Trust),
    /// Older than the window that is open.
    Late,
}

impl Window {
    /// Time of the newest event.
    pub(crate) fn newest(&self) -> i64 {
        self.entries.last().map_or(i64::MIN, |entry| entry.time)
    }

    /// Bytes of evidence held.
    pub(crate) fn evidence_bytes(&self) -> usize {
        self.entries.iter().filter_map(|entry| entry.evidence.as_ref()).map(|text| text.len()).sum()
    }

    /// Adds an event and evaluates the condition.
    pub(crate) fn observe(&mut self, entry: Entry, plan: &CorrelationPlan) -> Outcome {
        let newest = self.newest().max(entry.time);
        let horizon = newest.saturating_sub(plan.timespan_ns);
        if entry.time < horizon {
            return Outcome::Late;
        }
        let expired = self.entries.partition_point(|known| known.time < horizon);
        self.entries.drain(..expired);
        if self.entries.is_empty() {
            self.fired = None;
        }
        let same = |known: &Entry| known.value == entry.value && known.trust == entry.trust;
        if one_per_value(plan.kind)
            && let Some(known) = self.entries.iter().position(same)
        {
            if self.entries[known].time <= entry.time {
                self.entries.remove(known);
                self.insert(entry);
            }
        } else {
            self.insert(entry);
        }
        let holds = self.holds(plan);
        let before = std::mem::replace(&mut self.fired, holds.map(|(trust, _)| trust));
        match holds {
            Some((trust, measure)) if before < Some(trust) => Outcome::Crossed(measure, trust),
            _ => {
                self.trim(plan);
                Outcome::Counted
            }
        }
    }

    /// The most believable events that satisfy the condition by themselves, and their measure. So what anybody may have
    /// written adds to what is known and takes nothing from it. A condition with an upper bound is about all events.
    fn holds(&self, plan: &CorrelationPlan) -> Option<(Trust, f64)> {
        let weakest = self.trust();
        let mut levels: BTreeSet<Trust> = [weakest].into();
        if at_least(plan).is_some() {
            levels.extend(self.entries.iter().map(|entry| entry.trust));
        }
        levels.into_iter().rev().find_map(|level| {
            let measure = self.measure(plan, level);
            satisfied(plan, measure).then_some((level, measure))
        })
    }

    fn insert(&mut self, entry: Entry) {
        let at = self.entries.partition_point(|known| known.time <= entry.time);
        self.entries.insert(at, entry);
    }

    /// What the condition is about, from events of at least this trust.
    fn measure(&self, plan: &CorrelationPlan, level: Trust) -> f64 {
        let believed = self.entries.iter().filter(|entry| entry.trust >= level);
        match plan.kind {
            CorrelationType::EventCount => believed.map(|entry| u64::from(entry.weight)).sum::<u64>() as f64,
            CorrelationType::ValueCount | CorrelationType::Temporal => {
                if self.entries.iter().all(|entry| entry.trust == level) {
                    return self.entries.len() as f64;
                }
                believed.map(|entry| entry.value).collect::<BTreeSet<_>>().len() as f64
            }
            CorrelationType::TemporalOrdered => {
                let mut next = 0;
                for entry in believed {
                    if entry.value == next {
                        next += 1;
                    }
                }
                next as f64
            }
        }
    }

    /// Forgets what can no longer decide anything: conditions of the form "at least n" look at the newest n only.
    pub(crate) fn trim(&mut self, plan: &CorrelationPlan) {
        if plan.kind == CorrelationType::Temporal {
            return; // at most one entry per rule and trust
        }
        if plan.kind == CorrelationType::TemporalOrdered {
            self.keep_chains(plan.rules.len());
        }
        if let Some(needed) = at_least(plan).filter(|_| plan.kind != CorrelationType::TemporalOrdered) {
            let mut kept: BTreeMap<Trust, u64> = BTreeMap::new();
            self.keep_from_newest(|entry| {
                let total = kept.entry(entry.trust).or_default();
                let wanted = *total < needed;
                *total += if one_per_value(plan.kind) { 1 } else { u64::from(entry.weight) };
                wanted
            });
        }
        if self.entries.len() <= MAX_ENTRIES {
            return;
        }
        if plan.kind == CorrelationType::EventCount {
            self.coalesce();
        } else {
            self.entries.drain(..self.entries.len() - MAX_ENTRIES);
        }
    }

    /// Where only the order of rules counts, keeps for each trust and number of steps the chain that began last, and the
    /// newest entries. A chain that began earlier leaves the window earlier, so for events in order of time nothing is
    /// lost by this. An event that arrives late may miss one that was forgotten: the report comes later then, never wrongly.
    fn keep_chains(&mut self, rules: usize) {
        let levels: BTreeSet<Trust> = self.entries.iter().map(|entry| entry.trust).collect();
        let enough = levels.len() * (rules * (rules + 1) / 2 + MAX_NEWEST);
        if self.entries.len() <= 2 * enough {
            return; // rarely, so that it costs little for each event
        }
        let mut kept: BTreeSet<usize> = BTreeSet::new();
        for level in levels {
            let mut latest: Vec<Vec<usize>> = vec![Vec::new(); rules];
            for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| entry.trust >= level) {
                let step = usize::try_from(entry.value).unwrap_or(rules);
                if step >= rules || (step > 0 && latest[step - 1].is_empty()) {
                    continue;
                }
                let mut chain = if step > 0 { latest[step - 1].clone() } else { Vec::new() };
                chain.push(index);
                latest[step] = chain;
            }
            kept.extend(latest.into_iter().flatten());
        }
        let (mut place, mut newer) = (self.entries.len(), BTreeMap::<Trust, usize>::new());
        self.keep_from_newest(|entry| {
            place -= 1;
            let newer = newer.entry(entry.trust).or_default();
            *newer += 1;
            *newer <= MAX_NEWEST || kept.contains(&place)
        });
    }

    /// Keeps the entries that `wanted` says, which is asked from the newest to the oldest.
    fn keep_from_newest(&mut self, mut wanted: impl FnMut(&Entry) -> bool) {
        self.entries.reverse();
        self.entries.retain(|entry| wanted(entry));
        self.entries.reverse();
    }

    /// Halves the number of entries of each trust and keeps their sum. Pairs take the earlier time, so that a count near the
    /// edge of the window is never too high.
    fn coalesce(&mut self) {
        let mut kept: Vec<Entry> = Vec::with_capacity(self.entries.len() / 2 + 1);
        let mut open: BTreeMap<Trust, usize> = BTreeMap::new();
        for entry in self.entries.drain(..) {
            if let Some(first) = open.remove(&entry.trust).and_then(|place| kept.get_mut(place)) {
                first.weight = first.weight.saturating_add(entry.weight);
            } else {
                open.insert(entry.trust, kept.len());
                kept.push(entry);
            }
        }
        self.entries = kept;
    }

    /// The weakest trust among the contributing events: a chain is as believable as its weakest link.
    fn trust(&self) -> Trust {
        self.entries.iter().map(|entry| entry.trust).min().unwrap_or_default()
    }

    /// Evidence of the newest records of at least this trust, oldest first.
    pub(crate) fn evidence(&self, limit: usize, level: Trust) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.entries
            .iter()
            .rev()
            .filter(|entry| entry.trust >= level)
            .filter(|entry| seen.insert(entry.trace))
            .filter_map(|entry| entry.evidence.as_deref())
            .take(limit)
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect()
    }
}

/// Kinds that count each value once.
fn one_per_value(kind: CorrelationType) -> bool {
    matches!(kind, CorrelationType::ValueCount | CorrelationType::Temporal)
}

fn satisfied(plan: &CorrelationPlan, measure: f64) -> bool {
    if plan.condition.is_empty() {
        return measure >= plan.rules.len() as f64; // temporal kinds: every rule was seen
    }
    plan.condition.iter().all(|(comparison, &number)| match comparison {
        Comparison::Gt => measure > number,
        Comparison::Gte => measure >= number,
        Comparison::Lt => measure < number,
        Comparison::Lte => measure <= number,
        Comparison::Eq => measure == number,
        Comparison::Neq => measure != number,
    })
}

/// The smallest whole measure that satisfies a condition made of lower bounds only.
fn at_least(plan: &CorrelationPlan) -> Option<u64> {
    let mut needed = 1.0f64;
    for (comparison, &number) in &plan.condition {
        needed = needed.max(match comparison {
            Comparison::Gte => number.ceil(),
            Comparison::Gt => number.floor() + 1.0,
            _ => return None,
        });
    }
    Some(needed as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const SPAN: i64 = 100;

    fn plan(rules: usize) -> CorrelationPlan {
        let names: Vec<String> = (0..rules).map(|rule| format!("r{rule}")).collect();
        serde_json::from_value(serde_json::json!({
            "id": "c", "title": "C", "level": "high", "tags": [], "type": "temporal_ordered", "rules": names,
            "group_by": [], "field": [], "timespan_ns": SPAN, "condition": {}, "aliases": {}, "emit": true,
            "entity": [], "fields": [],
        }))
        .unwrap()
    }

    fn entry(time: i64, value: u64, trust: Trust) -> Entry {
        Entry { time, weight: 1, value, trace: time as u128, trust, evidence: None }
    }

    /// Keeps everything inside the window.
    #[derive(Default)]
    struct Slow {
        events: VecDeque<(i64, u64, Trust)>,
        fired: Option<Trust>,
    }

    impl Slow {
        fn crosses(&mut self, event: (i64, u64, Trust), rules: usize) -> Option<Trust> {
            self.events.push_back(event);
            self.events.retain(|(known, ..)| *known >= event.0 - SPAN);
            let holds = [Trust::Host, Trust::Spoofable].into_iter().find(|level| {
                let mut next = 0;
                for (_, value, _) in self.events.iter().filter(|(.., trust)| trust >= level) {
                    next += u64::from(*value == next);
                }
                next as usize >= rules
            });
            let before = std::mem::replace(&mut self.fired, holds);
            holds.filter(|_| before < holds)
        }
    }

    #[test]
    fn forgetting_changes_no_outcome_of_ordered_rules_for_events_in_order() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut crossings = 0;
        for round in 0..200 {
            let rules = 2 + (round % 4) as usize;
            let (plan, mut window, mut slow, mut time) = (plan(rules), Window::default(), Slow::default(), 0);
            for _ in 0..600 {
                // Long runs of the first steps, many events in one window, the last step rarely.
                time += i64::from(next(8) == 0) * (1 + next(12) as i64);
                let value = if next(60) == 0 { rules as u64 - 1 } else { next(rules as u64 - 1) };
                let trust = if next(3) == 0 { Trust::Spoofable } else { Trust::Host };
                let crossed = match window.observe(entry(time, value, trust), &plan) {
                    Outcome::Crossed(_, trust) => Some(trust),
                    _ => None,
                };
                window.trim(&plan);
                assert_eq!(crossed, slow.crosses((time, value, trust), rules), "{rules} rules, time {time}");
                crossings += u32::from(crossed.is_some());
            }
        }
        assert!(crossings > 200, "{crossings}");
    }

    #[test]
    fn ordered_windows_stay_short_whatever_comes() {
        for pattern in [vec![0], vec![0, 1], vec![1, 0], vec![0, 0, 1, 1]] {
            let (plan, mut window) = (plan(3), Window::default());
            for index in 0..10_000 {
                window.observe(
                    entry(index / 1000, pattern[index as usize % pattern.len()], Trust::Host),
                    &plan,
                );
                assert!(window.entries.len() <= 2 * (6 + MAX_NEWEST) + 1, "{pattern:?}");
            }
        }
    }
}
