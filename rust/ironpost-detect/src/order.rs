//! In which order rules matched, remembered in a bounded space.
//!
//! For every chain of steps, and every number of its steps that were seen in order up to a certain one, the latest moment
//! at which such a run began. A run that began earlier leaves the window earlier, so nothing else has to be known.

use crate::judge::{Judge, UNIT};
use crate::window::{Entry, Trust};
use serde::{Deserialize, Serialize};

const NEVER: i64 = i64::MIN;

/// What events of at least one trust have shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Table {
    /// Per chain, step and number of steps: when the latest run began.
    latest: Vec<i64>,
    /// The same before the record that came last: one record is one step, however many rules match it.
    before: Vec<i64>,
    /// When each rule was last seen.
    last: Vec<i64>,
}

/// Tables by trust.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Order {
    tables: [Option<Box<Table>>; Trust::COUNT],
}

/// Place of "`length` steps in order, of which `step` is the last" in a chain's part of the table.
fn place(step: usize, length: usize) -> usize {
    step * (step + 1) / 2 + length - 1
}

impl Order {
    /// Takes the next entry in order of time.
    pub(crate) fn add(&mut self, entry: &Entry, judge: &Judge) {
        let level = entry.trust as usize;
        if self.tables[level].is_none() {
            // What more believable events have shown, believable ones have.
            let above = self.tables[level..].iter().flatten().next().cloned();
            self.tables[level] = Some(above.unwrap_or_else(|| Box::new(Table::new(judge))));
        }
        for table in self.tables[..=level].iter_mut().flatten() {
            table.add(entry, judge);
        }
    }

    /// Keeps the later of what both know.
    pub(crate) fn merge(&mut self, other: Self) {
        for (known, other) in self.tables.iter_mut().zip(other.tables) {
            match (known, other) {
                (Some(known), Some(other)) => known.merge(*other),
                (known @ None, Some(other)) => *known = Some(other),
                (_, None) => {}
            }
        }
    }

    pub(crate) fn levels(&self) -> impl Iterator<Item = Trust> + '_ {
        Trust::ALL.into_iter().filter(|&level| self.tables[level as usize].is_some())
    }

    /// The number of steps in order at the end of a window that began at `begin`, if that satisfies the condition.
    pub(crate) fn holds(&self, level: Trust, begin: i64, judge: &Judge) -> Option<i128> {
        let table = self.tables[level as usize].as_ref()?;
        if judge.whole_chains() {
            return table.whole(begin, judge);
        }
        let most = Some(i128::from(table.longest(begin, judge)) * UNIT);
        most.filter(|&measure| judge.accepts(measure))
    }

    /// Memory in numbers.
    pub(crate) fn size(&self) -> usize {
        self.tables.iter().flatten().map(|table| table.latest.len() * 2 + table.last.len()).sum()
    }
}

impl Table {
    fn new(judge: &Judge) -> Self {
        let size = judge.chains.iter().map(|chain| place(chain.steps.len(), 1)).sum();
        Self { latest: vec![NEVER; size], before: vec![NEVER; size], last: vec![NEVER; judge.rules] }
    }

    fn add(&mut self, entry: &Entry, judge: &Judge) {
        if !entry.same {
            self.before.clone_from(&self.latest);
        }
        let rule = entry.value as usize;
        if let Some(last) = self.last.get_mut(rule) {
            *last = entry.time.max(*last);
        }
        let mut start = 0;
        for chain in &judge.chains {
            for (step, _) in chain.steps.iter().enumerate().filter(|&(_, &wanted)| wanted == rule) {
                for length in 1..=step + 1 {
                    let begun = match length {
                        1 => entry.time,
                        _ => (length - 2..step)
                            .map(|earlier| self.before[start + place(earlier, length - 1)])
                            .max()
                            .unwrap_or(NEVER),
                    };
                    let known = &mut self.latest[start + place(step, length)];
                    *known = begun.max(*known);
                }
            }
            start += place(chain.steps.len(), 1);
        }
    }

    fn merge(&mut self, other: Self) {
        let pairs = [
            (&mut self.latest, other.latest),
            (&mut self.before, other.before),
            (&mut self.last, other.last),
        ];
        for (known, other) in pairs {
            for (known, other) in known.iter_mut().zip(other) {
                *known = other.max(*known);
            }
        }
    }

    fn longest(&self, begin: i64, judge: &Judge) -> u32 {
        let Some(chain) = judge.chains.first() else { return 0 };
        let reached =
            (0..chain.steps.len()).flat_map(|step| (1..=step + 1).map(move |length| (step, length)));
        reached
            .filter(|&(step, length)| self.latest[place(step, length)] >= begin)
            .map(|(_, length)| length as u32)
            .max()
            .unwrap_or(0)
    }

    fn whole(&self, begin: i64, judge: &Judge) -> Option<i128> {
        let mut start = 0;
        let mut found = None;
        for chain in &judge.chains {
            let steps = chain.steps.len();
            let absent =
                (0..judge.rules).all(|rule| chain.absent >> rule & 1 == 0 || self.last[rule] < begin);
            let reached = steps == 0 || self.latest[start + place(steps - 1, steps)] >= begin;
            if absent && reached {
                found = found.max(Some(steps as i128 * UNIT));
            }
            start += place(steps, 1);
        }
        found
    }
}
