//! One correlation's windows for one group.

use crate::judge::{Judge, UNIT, scaled};
use crate::order::Order;
use crate::plan::CorrelationType;
use crate::tally::Tally;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Entries of each trust in one window where every one of them bears on the measure; beyond, they are put together and
/// counted as approximated.
const MAX_ENTRIES: usize = 10_000;
/// Newest entries of each trust kept beyond what the condition needs, for events that come late.
const SLACK: usize = 64;
/// Distinct values counted exactly, whatever the condition asks for.
const EXACT_DISTINCT: u64 = 1_000;
/// Windows of fewer entries are left alone.
const SMALL: usize = 256;
/// Evidence lines of each trust.
const MAX_LINES: usize = crate::detection::MAX_EVIDENCE;
/// An attack that goes on is reported anew after a timespan, and not more often than this.
const LEAST_PERIOD: i64 = 60_000_000_000;

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
    pub(crate) const ALL: [Self; 5] =
        [Self::Spoofable, Self::Unauthenticated, Self::Container, Self::Host, Self::Unstated];
    pub(crate) const COUNT: usize = Self::ALL.len();

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

    /// Whose budget of memory an event uses: the host's, the containers', anybody's.
    pub(crate) fn class(self) -> usize {
        match self {
            Self::Host | Self::Unstated => 0,
            Self::Container => 1,
            Self::Unauthenticated | Self::Spoofable => 2,
        }
    }
}

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

type Stored = (i64, u64, u64, u32, u16, Trust, bool);

/// One contributing event.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub(crate) struct Entry {
    pub(crate) time: i64,
    /// Hash of the counted value, the bits of the number, or which rule it was.
    pub(crate) value: u64,
    pub(crate) position: u64,
    /// How many events it stands for.
    pub(crate) weight: u32,
    /// Index of the source's name.
    pub(crate) source: u16,
    pub(crate) trust: Trust,
    /// The record is that of the entry before.
    pub(crate) same: bool,
}

impl From<Stored> for Entry {
    fn from((time, value, position, weight, source, trust, same): Stored) -> Self {
        Self { time, value, position, weight, source, trust, same }
    }
}

impl From<Entry> for Stored {
    fn from(entry: Entry) -> Self {
        let Entry { time, value, position, weight, source, trust, same } = entry;
        (time, value, position, weight, source, trust, same)
    }
}

impl Entry {
    pub(crate) fn record(&self) -> (u16, u64) {
        (self.source, self.position)
    }

    pub(crate) fn number(&self) -> f64 {
        f64::from_bits(self.value)
    }

    /// The number as often as the event counts, in units.
    pub(crate) fn amount(&self) -> i128 {
        scaled(self.number()) * i128::from(self.weight)
    }
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
    /// The window had to be approximated.
    pub(crate) approximated: bool,
}

/// Contributing events in order of time, and with what trust the group was already reported.
///
/// Entries reach back further than the window, as far as events may be late. An event in order is judged by the window that
/// ends with it. One that comes late is judged by every window that holds it and ends with an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Window {
    #[serde(rename = "e")]
    entries: VecDeque<Entry>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    order: Option<Box<Order>>,
    #[serde(rename = "n")]
    newest: i64,
    #[serde(rename = "f")]
    fired: Option<Trust>,
    #[serde(rename = "l")]
    lines: VecDeque<Line>,
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub(crate) episode: Option<Box<Episode>>,
    /// First entry inside the window.
    #[serde(skip)]
    start: usize,
    /// Over the entries inside the window.
    #[serde(skip)]
    tally: Option<Tally>,
    #[serde(skip)]
    compact_at: usize,
    /// Row that made the last entry.
    #[serde(skip)]
    row: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            order: None,
            newest: i64::MIN,
            fired: None,
            lines: VecDeque::new(),
            episode: None,
            start: 0,
            tally: None,
            compact_at: SMALL,
            row: 0,
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

    /// Sources that entries and lines name by index.
    pub(crate) fn sources_mut(&mut self) -> impl Iterator<Item = &mut u16> {
        let episode = self.episode.iter_mut().flat_map(|episode| [&mut episode.first.0, &mut episode.last.0]);
        let lines = self.lines.iter_mut().map(|line| &mut line.record.0);
        self.entries.iter_mut().map(|entry| &mut entry.source).chain(lines).chain(episode)
    }

    /// Makes a stored window whole again.
    pub(crate) fn revive(&mut self, judge: &Judge) {
        self.row = 0;
        self.rebuild(judge);
        self.compact_at = (2 * self.entries.len()).max(SMALL);
    }

    fn rebuild(&mut self, judge: &Judge) {
        let horizon = self.newest.saturating_sub(judge.span);
        self.start = self.entries.partition_point(|entry| entry.time < horizon);
        let mut tally = Tally::new(judge);
        self.entries.range(self.start..).for_each(|entry| tally.add(entry));
        self.tally = Some(tally);
    }

    /// Adds an event and judges it. `row` tells rows apart; rules that match one row count it `once`, correlations that
    /// became true with it do not.
    pub(crate) fn observe(&mut self, mut entry: Entry, row: u64, once: bool, judge: &Judge) -> Outcome {
        let mut outcome = Outcome::default();
        let temporal = matches!(judge.kind, CorrelationType::Temporal | CorrelationType::TemporalOrdered);
        entry.same = self.row == row;
        if entry.same && once && !temporal {
            return outcome;
        }
        self.row = row;
        let in_order = entry.time >= self.newest;
        if in_order {
            self.slide(entry.time, judge, &mut outcome);
        }
        let at = self.entries.partition_point(|known| known.time <= entry.time);
        self.entries.insert(at, entry);
        if entry.time < self.newest.saturating_sub(judge.span) {
            self.start += 1;
        } else {
            self.tally.get_or_insert_with(|| Tally::new(judge)).add(&entry);
        }
        let holds = if in_order { self.in_order(&entry, judge) } else { self.late(&entry, judge) };
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
            outcome.approximated = self.compact(judge);
        }
        outcome
    }

    /// Moves the window to a later end.
    fn slide(&mut self, end: i64, judge: &Judge, outcome: &mut Outcome) {
        self.newest = end;
        let horizon = end.saturating_sub(judge.span);
        let tally = self.tally.get_or_insert_with(|| Tally::new(judge));
        while let Some(entry) = self.entries.get(self.start).filter(|entry| entry.time < horizon) {
            tally.remove(entry);
            self.start += 1;
        }
        let oldest = horizon.saturating_sub(judge.allowed);
        while self.entries.front().is_some_and(|entry| entry.time < oldest) {
            self.entries.pop_front();
            self.start = self.start.saturating_sub(1);
        }
        while self.lines.front().is_some_and(|line| line.time < oldest) {
            self.lines.pop_front();
        }
        if self.start == self.entries.len() {
            let before = self.fired.take(); // nothing is left of what was reported
            self.end_episode(before, outcome);
        }
    }

    fn in_order(&mut self, entry: &Entry, judge: &Judge) -> Option<Crossing> {
        if judge.kind == CorrelationType::TemporalOrdered {
            self.order.get_or_insert_default().add(entry, judge);
        }
        self.judge(self.tally.as_ref()?, self.order.as_deref(), self.newest, entry, judge)
    }

    /// Judges every window that holds a late event and ends with an event; the first that satisfies the condition counts.
    fn late(&mut self, entry: &Entry, judge: &Judge) -> Option<Crossing> {
        let mut tally = Tally::new(judge);
        let mut order = (judge.kind == CorrelationType::TemporalOrdered).then(Order::default);
        let last = entry.time.saturating_add(judge.span);
        let (mut first, mut next, mut found) = (0, 0, None);
        while let Some(end) = self.entries.get(next).map(|entry| entry.time) {
            while let Some(entry) = self.entries.get(next).filter(|entry| entry.time == end) {
                tally.add(entry);
                if let Some(order) = &mut order {
                    order.add(entry, judge);
                }
                next += 1;
            }
            if end < entry.time || end > last || found.is_some() {
                if order.is_none() && (end > last || found.is_some()) {
                    break;
                }
                continue; // the order of rules is read to its end: it is what later events build on
            }
            let begin = end.saturating_sub(judge.span);
            while let Some(entry) = self.entries.get(first).filter(|entry| entry.time < begin) {
                tally.remove(entry);
                first += 1;
            }
            found = self.judge(&tally, order.as_ref(), end, entry, judge);
        }
        if let Some(order) = order {
            self.order.get_or_insert_default().merge(order);
        }
        found
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

    /// Forgets what can no longer decide anything. True when more had to go, so that the measure is no longer exact.
    fn compact(&mut self, judge: &Judge) -> bool {
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
            CorrelationType::Temporal => {
                let mut seen = BTreeSet::new();
                self.keep_from_newest(|entry, newer| {
                    seen.insert((entry.trust, entry.value)) || newer < SLACK
                });
            }
            CorrelationType::TemporalOrdered => self.keep_from_newest(|_, newer| newer < SLACK),
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

    /// Keeps the entries that `wanted` says, which is asked from the newest to the oldest with the number of newer entries of
    /// the same trust.
    fn keep_from_newest(&mut self, mut wanted: impl FnMut(&Entry, usize) -> bool) {
        let mut newer = [0; Trust::COUNT];
        let mut kept: VecDeque<Entry> = VecDeque::with_capacity(self.entries.len());
        for entry in self.entries.iter().rev() {
            let newer = &mut newer[entry.trust as usize];
            if wanted(entry, *newer) {
                kept.push_front(*entry);
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

fn growth(episode: &mut Episode, trust: Trust) -> Growth {
    let count = episode.total - episode.reported;
    episode.reported = episode.total;
    episode.reported_at = episode.seen;
    Growth { trust, count, episode: episode.clone() }
}

/// The windows of a group: the one of the newest events, and one for events that came too late for it. So neither a time
/// far ahead nor a clock that steps back blinds the group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Group {
    #[serde(rename = "c")]
    pub(crate) current: Window,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub(crate) behind: Option<Box<Window>>,
    /// Changed since the last snapshot.
    #[serde(skip)]
    pub(crate) dirty: bool,
}

/// Which of a group's windows takes an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Current,
    Behind,
    /// Too old for both.
    Nowhere,
}

impl Group {
    pub(crate) fn place(&self, time: i64, judge: &Judge) -> Place {
        let reaches = |window: &Window| time >= window.newest.saturating_sub(judge.allowed);
        if reaches(&self.current) {
            Place::Current
        } else if self.behind.as_deref().is_none_or(reaches) {
            Place::Behind
        } else {
            Place::Nowhere
        }
    }

    pub(crate) fn window(&mut self, place: Place) -> &mut Window {
        match place {
            Place::Behind => self.behind.get_or_insert_default(),
            Place::Current | Place::Nowhere => &mut self.current,
        }
    }

    pub(crate) fn windows(&mut self) -> impl Iterator<Item = &mut Window> {
        std::iter::once(&mut self.current).chain(self.behind.as_deref_mut())
    }

    /// Memory in entries.
    pub(crate) fn size(&self) -> usize {
        self.current.size() + self.behind.as_ref().map_or(0, |window| window.size())
    }

    pub(crate) fn evidence_bytes(&self) -> usize {
        self.current.evidence_bytes() + self.behind.as_ref().map_or(0, |window| window.evidence_bytes())
    }
}
