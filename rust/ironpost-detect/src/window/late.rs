//! Judging events that come late, by every window that holds them and ends with an event.

use super::{Crossing, Entry, SMALL, Window};
use crate::judge::Judge;
use crate::order::Order;
use crate::plan::CorrelationType;
use crate::tally::Tally;
use std::collections::VecDeque;

/// Entries that are taken into account or left out for one late event. In a window of more, the windows that end soonest
/// after the event are judged, and the newest; that not all were is counted, if none satisfies the condition.
const MAX_STEPS: usize = 512;

/// What is counted in a window that ended earlier. It stays where it is: events of a source that lags come one after the other.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    tally: Tally,
    /// The first entry inside and the first after.
    first: usize,
    next: usize,
}

impl Cursor {
    fn new(at: usize, judge: &Judge) -> Self {
        Self { tally: Tally::new(judge), first: at, next: at }
    }

    /// An entry came into the list.
    pub(super) fn inserted(&mut self, at: usize, entry: &Entry) {
        if at <= self.first {
            self.first += 1;
            self.next += 1;
        } else if at < self.next {
            self.next += 1;
            self.tally.add(entry);
        }
    }

    /// The list's first entry went.
    pub(super) fn lost_first(&mut self, entry: &Entry) {
        if self.first == 0 && self.next > 0 {
            self.tally.remove(entry);
        }
        self.first = self.first.saturating_sub(1);
        self.next = self.next.saturating_sub(1);
    }

    /// Counts the entries from `first` to `next`, if that takes no more than so many steps.
    fn cover(
        &mut self,
        (first, next): (usize, usize),
        entries: &VecDeque<Entry>,
        steps: &mut usize,
        judge: &Judge,
    ) -> bool {
        if self.first.abs_diff(first) + self.next.abs_diff(next) > next - first {
            *self = Self::new(first, judge); // it is less work to begin anew, where it ends as well
        }
        loop {
            let (entry, comes) = if self.next < next {
                self.next += 1;
                (self.next - 1, true)
            } else if self.first > first {
                self.first -= 1;
                (self.first, true)
            } else if self.next > next {
                self.next -= 1;
                (self.next, false)
            } else if self.first < first {
                self.first += 1;
                (self.first - 1, false)
            } else {
                return true;
            };
            let entry = &entries[entry];
            if comes {
                self.tally.add(entry);
            } else {
                self.tally.remove(entry);
            }
            if *steps == 0 {
                return false;
            }
            *steps -= 1;
        }
    }
}

impl Window {
    /// Judges the windows that hold a late event; the first that satisfies the condition counts. False when some could not
    /// be judged, or not by all that was there.
    pub(super) fn late(&mut self, entry: &Entry, judge: &Judge) -> (Option<Crossing>, bool) {
        let whole = self.thinned == i64::MIN || self.thinned < entry.time.saturating_sub(judge.span);
        if judge.kind == CorrelationType::TemporalOrdered {
            return (self.late_in_order(entry, judge), whole);
        }
        let mut cursor = self.cursor.take().unwrap_or_else(|| Box::new(Cursor::new(0, judge)));
        let last = entry.time.saturating_add(judge.span);
        let (mut end, mut steps) = (entry.time, MAX_STEPS);
        let mut found = None;
        let exact = loop {
            let begin = end.saturating_sub(judge.span);
            let first = self.entries.partition_point(|known| known.time < begin);
            let next = self.entries.partition_point(|known| known.time <= end);
            if !cursor.cover((first, next), &self.entries, &mut steps, judge) {
                break false;
            }
            found = self.judge(&cursor.tally, None, end, entry, judge);
            end = match self.entries.get(next) {
                Some(known) if found.is_none() && known.time <= last => known.time,
                _ => break true,
            };
        };
        if self.entries.len() > SMALL {
            self.cursor = Some(cursor);
        }
        if !exact
            && self.newest <= last
            && let Some(tally) = &self.tally
        {
            found = self.judge(tally, None, self.newest, entry, judge);
        }
        (found, exact && whole)
    }

    /// The order of rules is read anew to its end: it is what later events build on.
    fn late_in_order(&mut self, entry: &Entry, judge: &Judge) -> Option<Crossing> {
        let (tally, mut order) = (Tally::new(judge), Order::default());
        let last = entry.time.saturating_add(judge.span);
        let (mut next, mut found) = (0, None);
        while let Some(end) = self.entries.get(next).map(|known| known.time) {
            while let Some(known) = self.entries.get(next).filter(|known| known.time == end) {
                order.add(known, judge);
                next += 1;
            }
            if found.is_none() && (entry.time..=last).contains(&end) {
                found = self.judge(&tally, Some(&order), end, entry, judge);
            }
        }
        self.order.get_or_insert_default().merge(order);
        found
    }
}
