//! One correlation's windows for one group.

mod compact;
mod entry;
mod group;
mod late;

pub(crate) use entry::{Entry, Trust};
pub(crate) use group::{Group, Place};
use late::Cursor;

use crate::judge::{Judge, UNIT};
use crate::order::Order;
use crate::plan::CorrelationType;
use crate::tally::Tally;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Windows of fewer entries are left alone.
const SMALL: usize = 256;
/// Entries that are counted anew for each event: most keys of a flood have one event, and a tally weighs more.
const FEW: usize = 4;
/// Evidence lines of each trust.
const MAX_LINES: usize = crate::detection::MAX_EVIDENCE;
/// An attack that goes on is reported anew after a timespan, and not more often than this.
const LEAST_PERIOD: i64 = 60_000_000_000;

/// What became of events on their way into windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Groups followed now.
    pub keys: u64,
    /// Groups forgotten because there were too many.
    pub evictions: u64,
    /// Groups of believed events among them.
    pub evicted_believed: u64,
    /// Events older than their group's window reaches; they are judged among their like.
    pub late: u64,
    /// Late events that were too late even for that, and left out.
    pub lost: u64,
    /// Events without a field the correlation groups by or counts.
    pub fieldless: u64,
    /// Events whose value is no number, where one was to be added up.
    pub not_numeric: u64,
    /// Times a window was too full to be kept exactly.
    pub approximated: u64,
}

/// A raw record kept as evidence.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    time: i64,
    trust: Trust,
    record: (u16, u64),
    text: Box<str>,
}

/// What goes on since the condition became true.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Episode {
    /// The first contributing record.
    pub(crate) first: (u16, u64),
    /// Events, values or rules counted.
    pub(crate) total: u64,
    /// How many of them detections have told of.
    pub(crate) reported: u64,
    /// Event time of the last report.
    reported_at: i64,
    /// Time and record of the newest event counted.
    pub(crate) seen: i64,
    pub(crate) last: (u16, u64),
    /// What the detections are about: field and value.
    pub(crate) entity: Option<(String, String)>,
    /// When an event was last received, and whether somebody waits to report it.
    #[serde(skip)]
    pub(crate) heard: i64,
    #[serde(skip)]
    pub(crate) owed: bool,
}

/// More of what was reported before.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    pub(crate) trust: Trust,
    pub(crate) count: u64,
    pub(crate) episode: Episode,
}

/// The condition became true, or true by more believable events alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Crossing {
    /// What was compared, in units.
    pub(crate) measure: i128,
    /// Events, values or rules that made it so.
    pub(crate) count: u64,
    pub(crate) trust: Trust,
    /// End of the window in which it is true.
    pub(crate) end: i64,
    /// The first contributing record.
    pub(crate) first: (u16, u64),
}

/// What an observation did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Told before an episode ended.
    pub(crate) ended: Option<Growth>,
    pub(crate) crossing: Option<Crossing>,
    pub(crate) ongoing: Option<Growth>,
    /// The condition is true with this event: the end of the window, and the trust behind the event and the condition.
    pub(crate) holds: Option<(i64, Trust)>,
    /// The window had to be approximated.
    pub(crate) approximated: bool,
}

/// Contributing events in order of time, and with what trust the group was already reported.
///
/// Entries reach back further than the window, as far as events may be late. An event in order is judged by the window that
/// ends with it. One that comes late is judged by every window that holds it and ends with an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Window {
    entries: VecDeque<Entry>,
    order: Option<Box<Order>>,
    newest: i64,
    fired: Option<Trust>,
    /// In order of time.
    lines: Vec<Line>,
    pub(crate) episode: Option<Box<Episode>>,
    /// First entry inside the window.
    #[serde(skip)]
    start: usize,
    /// Over the entries inside the window; without it, they are counted when a number is needed.
    #[serde(skip)]
    tally: Option<Box<Tally>>,
    /// Late events are judged by the entries of a window that ends earlier.
    #[serde(skip)]
    cursor: Option<Box<Cursor>>,
    /// Stored, so that a restart changes nothing about what is forgotten when.
    compact_at: usize,
    /// Time of the newest entry that a late event might have wanted and that was forgotten; the least time for none.
    thinned: i64,
    /// Row that made the last entry.
    #[serde(skip)]
    row: u64,
    /// That row was passed on to what builds on this.
    #[serde(skip)]
    passed_on: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            order: None,
            newest: i64::MIN,
            fired: None,
            lines: Vec::new(),
            episode: None,
            start: 0,
            tally: None,
            cursor: None,
            compact_at: SMALL,
            thinned: i64::MIN,
            row: 0,
            passed_on: false,
        }
    }
}

impl Window {
    /// Time of the newest event.
    pub(crate) fn newest(&self) -> i64 {
        self.newest
    }

    /// Memory, in entries.
    pub(crate) fn size(&self) -> usize {
        self.entries.len() + self.order.as_ref().map_or(0, |order| order.size() / 4)
    }

    /// Bytes of evidence held.
    pub(crate) fn evidence_bytes(&self) -> usize {
        self.lines.iter().map(|line| line.text.len()).sum()
    }

    /// More evidence would tell nothing new.
    pub(crate) fn has_fired(&self) -> bool {
        self.fired.is_some()
    }

    /// A crossing is so far away that this event's record will not be among the evidence. Events may come out of order, so
    /// twice as many are kept as are shown.
    pub(crate) fn needs_no_line(&self, judge: &Judge) -> bool {
        let counted = matches!(judge.kind, CorrelationType::EventCount | CorrelationType::ValueCount);
        counted && judge.by_trust && (self.entries.len() - self.start + 2 * MAX_LINES) < judge.needed as usize
    }

    /// Sources that entries and lines name by index.
    pub(crate) fn sources(&self) -> impl Iterator<Item = u16> {
        let episode = self.episode.iter().flat_map(|episode| [episode.first.0, episode.last.0]);
        let lines = self.lines.iter().map(|line| line.record.0);
        self.entries.iter().map(|entry| entry.source).chain(lines).chain(episode)
    }

    /// The same, to be changed.
    pub(crate) fn sources_mut(&mut self) -> impl Iterator<Item = &mut u16> {
        let episode = self.episode.iter_mut().flat_map(|episode| [&mut episode.first.0, &mut episode.last.0]);
        let lines = self.lines.iter_mut().map(|line| &mut line.record.0);
        self.entries.iter_mut().map(|entry| &mut entry.source).chain(lines).chain(episode)
    }

    /// Makes a stored window whole again.
    pub(crate) fn revive(&mut self, judge: &Judge) {
        self.row = 0;
        self.rebuild(judge);
    }

    fn rebuild(&mut self, judge: &Judge) {
        self.cursor = None;
        let horizon = self.newest.saturating_sub(judge.span);
        self.start = self.entries.partition_point(|entry| entry.time < horizon);
        self.tally = (self.entries.len() > FEW).then(|| Box::new(self.counted(judge)));
    }

    fn counted(&self, judge: &Judge) -> Tally {
        let mut tally = Tally::new(judge);
        self.entries.range(self.start..).for_each(|entry| tally.add(entry));
        tally
    }

    /// Adds an event and judges it. `row` tells rows apart; rules that match one row count it `once`, or each of its
    /// values once, correlations that are true with it do not.
    pub(crate) fn observe(&mut self, mut entry: Entry, row: u64, once: bool, judge: &Judge) -> Outcome {
        let mut outcome = Outcome::default();
        let temporal = matches!(judge.kind, CorrelationType::Temporal | CorrelationType::TemporalOrdered);
        entry.same = self.row == row;
        if entry.same
            && once
            && !temporal
            && (judge.kind != CorrelationType::ValueCount || self.knows(&entry))
        {
            return outcome;
        }
        self.passed_on &= entry.same;
        self.row = row;
        let in_order = entry.time >= self.newest;
        if in_order {
            self.slide(entry.time, judge, &mut outcome);
        }
        if self.entries.is_empty() {
            self.entries.reserve_exact(1);
        }
        let at = self.entries.partition_point(|known| known.time <= entry.time);
        self.entries.insert(at, entry);
        if let Some(cursor) = &mut self.cursor {
            cursor.inserted(at, &entry);
        }
        let inside = entry.time >= self.newest.saturating_sub(judge.span);
        self.start += usize::from(!inside);
        match &mut self.tally {
            Some(tally) if inside => tally.add(&entry),
            None if self.entries.len() > FEW => self.tally = Some(Box::new(self.counted(judge))),
            _ => {}
        }
        let holds = if in_order {
            self.in_order(&entry, judge)
        } else {
            let (holds, exact) = self.late(&entry, judge);
            outcome.approximated = holds.is_none() && !exact;
            holds
        };
        if let Some(crossing) = &holds {
            let crosses = self.fired < Some(crossing.trust);
            // What may be forged passes on no more than that it may be. However many ways lead here, one is gone on.
            let trust = if crosses { crossing.trust } else { crossing.trust.min(entry.trust) };
            if crosses || !std::mem::replace(&mut self.passed_on, true) {
                self.passed_on = true;
                outcome.holds = Some((crossing.end, trust));
            }
        }
        let before = self.fired;
        self.fired = match holds {
            Some(ref crossing) => {
                before.max(Some(crossing.trust)).filter(|_| !in_order).or(Some(crossing.trust))
            }
            None if in_order => None,
            None => before,
        };
        match holds {
            Some(crossing) if before < Some(crossing.trust) => {
                self.end_episode(before, &mut outcome);
                outcome.crossing = Some(crossing);
            }
            holds => {
                if self.fired.is_none() {
                    self.end_episode(before, &mut outcome);
                }
                outcome.ongoing = self.grow(&entry, holds.as_ref(), judge);
            }
        }
        if self.entries.len() >= self.compact_at {
            outcome.approximated |= self.compact(judge);
        }
        outcome
    }

    /// Moves the window to a later end.
    fn slide(&mut self, end: i64, judge: &Judge, outcome: &mut Outcome) {
        self.newest = end;
        let horizon = end.saturating_sub(judge.span);
        while let Some(entry) = self.entries.get(self.start).filter(|entry| entry.time < horizon) {
            if let Some(tally) = &mut self.tally {
                tally.remove(entry);
            }
            self.start += 1;
        }
        let oldest = horizon.saturating_sub(judge.allowed);
        while let Some(gone) = self.entries.pop_front_if(|entry| entry.time < oldest) {
            if let Some(cursor) = &mut self.cursor {
                cursor.lost_first(&gone);
            }
            self.start = self.start.saturating_sub(1);
        }
        let gone = self.lines.partition_point(|line| line.time < oldest);
        self.lines.drain(..gone);
        if self.start == self.entries.len() {
            let before = self.fired.take(); // nothing is left of what was reported
            self.end_episode(before, outcome);
        }
    }

    fn in_order(&mut self, entry: &Entry, judge: &Judge) -> Option<Crossing> {
        if judge.kind == CorrelationType::TemporalOrdered {
            self.order.get_or_insert_default().add(entry, judge);
        }
        match &self.tally {
            Some(tally) => self.judge(tally, self.order.as_deref(), self.newest, entry, judge),
            None => self.judge(&self.counted(judge), self.order.as_deref(), self.newest, entry, judge),
        }
    }

    /// The record has brought this value already.
    fn knows(&self, entry: &Entry) -> bool {
        let at = self.entries.partition_point(|known| known.time <= entry.time);
        let same = self.entries.range(..at).rev().take_while(|known| known.record() == entry.record());
        same.into_iter().any(|known| known.value == entry.value)
    }

    /// The most believable events that satisfy the condition by themselves. So what anybody may have written adds to what
    /// is known and takes nothing from it. A condition with an upper bound is about all events.
    fn judge(
        &self,
        tally: &Tally,
        order: Option<&Order>,
        end: i64,
        entry: &Entry,
        judge: &Judge,
    ) -> Option<Crossing> {
        let begin = end.saturating_sub(judge.span);
        let mut levels = [Trust::Unstated; Trust::COUNT];
        let mut count = 0;
        let mut note = |level| {
            levels[count] = level;
            count += 1;
        };
        match order {
            Some(order) => order.levels().for_each(&mut note),
            None => tally.levels().for_each(&mut note),
        }
        let levels = if judge.by_trust { &levels[..count] } else { &levels[..count.min(1)] };
        let (trust, measure) = levels.iter().rev().find_map(|&level| {
            let measure = match order {
                Some(order) => order.holds(level, begin, judge),
                None => tally.holds(level, entry.value, judge),
            };
            measure.map(|measure| (level, measure))
        })?;
        let from = self.entries.partition_point(|entry| entry.time < begin);
        let first = self.entries.range(from..).find(|entry| entry.trust >= trust).unwrap_or(entry);
        let count = match judge.kind {
            CorrelationType::EventCount
            | CorrelationType::ValueCount
            | CorrelationType::Temporal
            | CorrelationType::TemporalOrdered => (measure / UNIT) as u64,
            _ => tally.events(trust),
        };
        Some(Crossing { measure, count, trust, end, first: first.record() })
    }

    /// Remembers what is reported, so that more of it can be told.
    pub(crate) fn begin_episode(
        &mut self,
        crossing: &Crossing,
        entry: &Entry,
        entity: Option<(String, String)>,
    ) {
        self.episode = Some(Box::new(Episode {
            first: crossing.first,
            total: crossing.count,
            reported: crossing.count,
            reported_at: entry.time,
            seen: entry.time,
            last: entry.record(),
            entity,
            heard: 0,
            owed: false,
        }));
    }

    fn grow(&mut self, entry: &Entry, holds: Option<&Crossing>, judge: &Judge) -> Option<Growth> {
        let trust = self.fired.filter(|&trust| entry.trust >= trust)?; // what may be forged lets no number grow
        let episode = self.episode.as_deref_mut()?;
        match judge.kind {
            CorrelationType::Temporal | CorrelationType::TemporalOrdered => {}
            CorrelationType::ValueCount => {
                episode.total = episode.total.max(holds.map_or(0, |crossing| crossing.count));
            }
            _ => episode.total = episode.total.saturating_add(u64::from(entry.weight)),
        }
        if entry.time >= episode.seen {
            (episode.seen, episode.last) = (entry.time, entry.record());
        }
        let period = judge.span.max(LEAST_PERIOD);
        let doubled = episode.total / 2 >= episode.reported.max(1);
        let due = doubled || entry.time >= episode.reported_at.saturating_add(period);
        due.then(|| growth(episode, trust))
    }

    /// What was counted since the last report, if anything.
    pub(crate) fn take_growth(&mut self) -> Option<Growth> {
        let trust = self.fired?;
        let episode = self.episode.as_deref_mut()?;
        (episode.total > episode.reported).then(|| growth(episode, trust))
    }

    fn end_episode(&mut self, trust: Option<Trust>, outcome: &mut Outcome) {
        let Some(mut episode) = self.episode.take() else { return };
        if let Some(trust) = trust
            && episode.total > episode.reported
        {
            outcome.ended = Some(growth(&mut episode, trust));
        }
    }

    /// Keeps a record as evidence.
    pub(crate) fn keep_line(&mut self, entry: &Entry, text: &str) {
        if self.lines.iter().any(|line| line.record == entry.record()) {
            return;
        }
        let of_trust = self.lines.iter().filter(|line| line.trust == entry.trust).count();
        if of_trust >= MAX_LINES
            && let Some(oldest) = self.lines.iter().position(|line| line.trust == entry.trust)
        {
            self.lines.remove(oldest);
        }
        let at = self.lines.partition_point(|line| line.time <= entry.time);
        let line = Line { time: entry.time, trust: entry.trust, record: entry.record(), text: text.into() };
        self.lines.reserve_exact(1);
        self.lines.insert(at, line);
    }

    /// Evidence of the newest records of a crossing, oldest first.
    pub(crate) fn evidence(&self, crossing: &Crossing, judge: &Judge) -> Vec<String> {
        let begin = crossing.end.saturating_sub(judge.span);
        let inside =
            |line: &&Line| (begin..=crossing.end).contains(&line.time) && line.trust >= crossing.trust;
        let mut found: Vec<String> = self
            .lines
            .iter()
            .rev()
            .filter(inside)
            .take(MAX_LINES)
            .map(|line| line.text.to_string())
            .collect();
        found.reverse();
        found
    }
}

fn growth(episode: &mut Episode, trust: Trust) -> Growth {
    let count = episode.total - episode.reported;
    episode.reported = episode.total;
    episode.reported_at = episode.seen;
    Growth { trust, count, episode: episode.clone() }
}
