//! What is counted in a window, kept up to date as events come and go.

use crate::judge::{Judge, UNIT, scaled};
use crate::plan::CorrelationType;
use crate::ranks::{ByTrust, Ranks};
use crate::window::{Entry, Trust};
use rustc_hash::FxHashMap;

const LEVELS: usize = Trust::COUNT;

/// Occurrences of each value.
#[derive(Clone, Debug, Default)]
struct Values {
    seen: FxHashMap<u64, ByTrust<u64>>,
    /// How many values have an occurrence of at least a trust.
    distinct: ByTrust<u64>,
}

#[derive(Clone, Debug)]
enum Kind {
    Events,
    Values(Box<Values>),
    Sum(Box<ByTrust<i128>>),
    /// Numbers with their weight, in order.
    Sorted(Box<Ranks>),
    /// Occurrences of each rule.
    Rules(Box<[ByTrust<u32>]>),
    /// Judged elsewhere.
    Nothing,
}

/// Counts over the entries of one window.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Entries.
    present: ByTrust<u32>,
    /// Events: entries, each as often as it stands for.
    weights: ByTrust<u64>,
    kind: Kind,
}

impl Tally {
    pub(crate) fn new(judge: &Judge) -> Self {
        let kind = match judge.kind {
            CorrelationType::EventCount => Kind::Events,
            CorrelationType::ValueCount | CorrelationType::ValueShare => Kind::Values(Box::default()),
            CorrelationType::ValueSum | CorrelationType::ValueAvg => Kind::Sum(Box::default()),
            CorrelationType::ValueMedian | CorrelationType::ValuePercentile => Kind::Sorted(Box::default()),
            CorrelationType::Temporal => Kind::Rules(vec![[0; LEVELS]; judge.rules].into()),
            CorrelationType::TemporalOrdered => Kind::Nothing,
        };
        Self { present: [0; LEVELS], weights: [0; LEVELS], kind }
    }

    pub(crate) fn add(&mut self, entry: &Entry) {
        let trust = entry.trust as usize;
        self.present[trust] += 1;
        self.weights[trust] += u64::from(entry.weight);
        match &mut self.kind {
            Kind::Events | Kind::Nothing => {}
            Kind::Values(values) => {
                let Values { seen, distinct } = &mut **values;
                let known = seen.entry(entry.value).or_default();
                let best = known.iter().rposition(|&count| count > 0);
                known[trust] += u64::from(entry.weight);
                let from = best.map_or(0, |best| best + 1);
                distinct.iter_mut().take(trust + 1).skip(from).for_each(|count| *count += 1);
            }
            Kind::Sum(sums) => sums[trust] += entry.amount(),
            Kind::Sorted(ranks) => ranks.add(entry.number(), trust, u64::from(entry.weight)),
            Kind::Rules(rules) => {
                if let Some(rule) = rules.get_mut(entry.value as usize) {
                    rule[trust] += 1;
                }
            }
        }
    }

    /// Takes out what was added.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        let trust = entry.trust as usize;
        self.present[trust] -= 1;
        self.weights[trust] -= u64::from(entry.weight);
        match &mut self.kind {
            Kind::Events | Kind::Nothing => {}
            Kind::Values(values) => {
                let Values { seen, distinct } = &mut **values;
                let Some(known) = seen.get_mut(&entry.value) else { return };
                let before = known.iter().rposition(|&count| count > 0).unwrap_or(0);
                known[trust] -= u64::from(entry.weight);
                let best = known.iter().rposition(|&count| count > 0);
                let from = best.map_or(0, |best| best + 1);
                distinct.iter_mut().take(before + 1).skip(from).for_each(|count| *count -= 1);
                if best.is_none() {
                    seen.remove(&entry.value);
                }
            }
            Kind::Sum(sums) => sums[trust] -= entry.amount(),
            Kind::Sorted(ranks) => ranks.remove(entry.number(), trust, u64::from(entry.weight)),
            Kind::Rules(rules) => {
                if let Some(rule) = rules.get_mut(entry.value as usize) {
                    rule[trust] -= 1;
                }
            }
        }
    }

    /// Trusts of the entries, the least first.
    pub(crate) fn levels(&self) -> impl Iterator<Item = Trust> + '_ {
        Trust::ALL.into_iter().filter(|&level| self.present[level as usize] > 0)
    }

    /// Events of at least this trust.
    pub(crate) fn events(&self, level: Trust) -> u64 {
        self.weights[level as usize..].iter().sum()
    }

    /// The measure of the events of at least this trust, in units, if it satisfies the condition. `value` is that of the
    /// event that gave rise to the question.
    pub(crate) fn holds(&self, level: Trust, value: u64, judge: &Judge) -> Option<i128> {
        let from = level as usize;
        let measure = match &self.kind {
            Kind::Nothing => return None,
            Kind::Events => i128::from(self.events(level)) * UNIT,
            Kind::Values(values) if judge.kind == CorrelationType::ValueShare => {
                let own: u64 = values.seen.get(&value)?[from..].iter().sum();
                i128::from(own) * 100 * UNIT / i128::from(self.events(level).max(1))
            }
            Kind::Values(values) => i128::from(values.distinct[from]) * UNIT,
            Kind::Sum(sums) => {
                let sum: i128 = sums[from..].iter().sum();
                match judge.kind {
                    CorrelationType::ValueAvg => sum.div_euclid(i128::from(self.events(level).max(1))),
                    _ => sum,
                }
            }
            Kind::Sorted(ranks) => percentile(ranks, from, judge.percentile())?,
            Kind::Rules(rules) => {
                let present = rules.iter().enumerate().fold(0u64, |present, (rule, counts)| {
                    present | u64::from(counts[from..].iter().any(|&count| count > 0)) << rule
                });
                return judge.accepts_rules(present);
            }
        };
        judge.accepts(measure).then_some(measure)
    }
}

/// The percentile, in thousandths of a percent, of weighted numbers of at least a trust: between the two nearest ranks by
/// linear interpolation, so that the fiftieth is the median.
fn percentile(ranks: &Ranks, from: usize, thousandths: u64) -> Option<i128> {
    let total = ranks.total(from);
    let rank = u128::from(total.checked_sub(1)?) * u128::from(thousandths);
    let (low, rest) = ((rank / 100_000) as u64, (rank % 100_000) as i128);
    let lower = scaled(ranks.at(from, low)?);
    if rest == 0 || low + 1 == total {
        return Some(lower);
    }
    Some(lower + (scaled(ranks.at(from, low + 1)?) - lower) * rest / 100_000)
}
