//! Sources: who the bytes came from, what is counted about them, what is wrong with them.

use crate::origin::{PeerCounts, Peers};
use ironpost_events::Logsource;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks, and goes on with the data when another thread panicked while holding it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a record did not become an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The kernel had no room in the socket's receive buffer.
    Kernel,
    /// The engine's own queue was full and the source cannot wait.
    Shed,
    /// Parsing or matching the record panicked.
    Panic,
    /// The event batch had no room.
    BatchFull,
}

const LOSSES: [(Loss, &str); 4] =
    [(Loss::Kernel, "kernel"), (Loss::Shed, "shed"), (Loss::Panic, "panic"), (Loss::BatchFull, "batch_full")];

/// Something worth counting that lost no record by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// A record was longer than the limit and was cut.
    Truncated,
    /// An event of several records was given out with records missing.
    Incomplete,
    /// A file was replaced by another one.
    Rotations,
    /// A file shrank or was rewritten in place.
    Truncations,
    /// The rest of a file read before could not be found again.
    Unfound,
    /// A connection was accepted.
    Connections,
    /// A connection was closed because too many were open.
    Refused,
    /// A connection was closed because its peer had too many open.
    PeerRefused,
    /// A connection was closed because it was silent too long.
    Idle,
    /// A child process was started again.
    Restarts,
}

const NOTES: [(Note, &str); 10] = [
    (Note::Truncated, "truncated"),
    (Note::Incomplete, "incomplete"),
    (Note::Rotations, "rotations"),
    (Note::Truncations, "truncations"),
    (Note::Unfound, "unfound"),
    (Note::Connections, "connections"),
    (Note::Refused, "connections_refused"),
    (Note::PeerRefused, "connections_refused_peer"),
    (Note::Idle, "connections_idle"),
    (Note::Restarts, "restarts"),
];

/// What is counted about one source. `received = parsed + unparsed + empty + lost` once nothing is in flight.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    received: AtomicU64,
    bytes: AtomicU64,
    parsed: AtomicU64,
    unparsed: AtomicU64,
    empty: AtomicU64,
    /// Of the parsed ones: a bound left values out.
    truncated: AtomicU64,
    matched: AtomicU64,
    lost: [AtomicU64; LOSSES.len()],
    notes: [AtomicU64; NOTES.len()],
    peers: Mutex<Peers>,
}

impl Counters {
    pub(crate) fn received(&self, records: u64, bytes: u64) {
        self.received.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn parsed(&self, parsed: u64, unparsed: u64, empty: u64) {
        self.parsed.fetch_add(parsed, Ordering::Relaxed);
        self.unparsed.fetch_add(unparsed, Ordering::Relaxed);
        self.empty.fetch_add(empty, Ordering::Relaxed);
    }

    pub(crate) fn truncated(&self, records: u64) {
        self.truncated.fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn matched(&self, rows: u64) {
        self.matched.fetch_add(rows, Ordering::Relaxed);
    }

    pub(crate) fn lost(&self, loss: Loss, records: u64) {
        self.lost[loss as usize].fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn note(&self, note: Note) {
        self.note_many(note, 1);
    }

    pub(crate) fn note_many(&self, note: Note, times: u64) {
        self.notes[note as usize].fetch_add(times, Ordering::Relaxed);
    }

    /// Counts what a sender did, beside the sums of the source.
    pub(crate) fn peer(&self, peer: IpAddr, more: PeerCounts) {
        lock(&self.peers).add(peer, more);
    }

    /// The same for many of them.
    pub(crate) fn peers(&self, all: impl IntoIterator<Item = (IpAddr, PeerCounts)>) {
        let mut peers = lock(&self.peers);
        for (peer, more) in all {
            peers.add(peer, more);
        }
    }

    fn add_from(&self, other: &Self) {
        let pairs = [
            (&self.received, &other.received),
            (&self.bytes, &other.bytes),
            (&self.parsed, &other.parsed),
            (&self.unparsed, &other.unparsed),
            (&self.empty, &other.empty),
            (&self.truncated, &other.truncated),
            (&self.matched, &other.matched),
        ];
        let lost = self.lost.iter().zip(&other.lost);
        let notes = self.notes.iter().zip(&other.notes);
        for (mine, theirs) in pairs.into_iter().chain(lost).chain(notes) {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let lost: Map<String, Value> = LOSSES
            .iter()
            .map(|(loss, name)| ((*name).to_owned(), json!(get(&self.lost[*loss as usize]))))
            .collect();
        let mut object = json!({
            "received": get(&self.received), "bytes": get(&self.bytes), "parsed": get(&self.parsed),
            "unparsed": get(&self.unparsed), "empty": get(&self.empty),
            "truncated": get(&self.truncated), "matched": get(&self.matched),
            "lost": lost,
        });
        for (note, name) in NOTES {
            let value = get(&self.notes[note as usize]);
            if value > 0 {
                object[name] = json!(value);
            }
        }
        if let Some(peers) = lock(&self.peers).to_json() {
            object["peers"] = peers;
        }
        object
    }
}

/// One source of bytes.
#[derive(Debug)]
pub(crate) struct Source {
    /// `file:<path>`, `udp:<bind>`, `tcp:<bind>`, `unix:<path>`, `journal`, `packets`.
    pub(crate) id: String,
    /// Small number, unique in this run.
    pub(crate) index: u32,
    /// Parser name.
    pub(crate) format: String,
    /// Constant fields of every event.
    pub(crate) facts: Vec<(String, String)>,
    /// Sigma log source of every event.
    pub(crate) logsource: Logsource,
    /// What is counted.
    pub(crate) counters: Counters,
}

/// Something an operator should know about a source, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The source's id.
    pub source: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

/// All sources of a running engine and the current problems.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    next: AtomicU32,
    list: Mutex<BTreeMap<String, Arc<Source>>>,
    retired: Counters,
    problems: Mutex<BTreeMap<String, Problem>>,
}

impl Sources {
    /// Registers a source; a second registration of the same id keeps the counters of the first.
    pub(crate) fn add(
        &self,
        id: &str,
        format: &str,
        facts: Vec<(String, String)>,
        logsource: Logsource,
    ) -> Arc<Source> {
        let mut list = lock(&self.list);
        if let Some(known) = list.get(id) {
            return Arc::clone(known);
        }
        let source = Arc::new(Source {
            id: id.to_owned(),
            index: self.next.fetch_add(1, Ordering::Relaxed),
            format: if format.is_empty() { "auto".to_owned() } else { format.to_owned() },
            facts,
            logsource,
            counters: Counters::default(),
        });
        list.insert(id.to_owned(), Arc::clone(&source));
        source
    }

    /// Takes a source off the list; what it counted stays in the totals.
    pub(crate) fn retire(&self, id: &str) {
        if let Some(source) = lock(&self.list).remove(id) {
            self.retired.add_from(&source.counters);
        }
        self.clear_problem(id);
    }

    /// Sets the problem of a source; the newest one counts.
    pub(crate) fn problem(&self, source: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        let problem = Problem { source: source.to_owned(), reason: reason.into(), remedy: remedy.into() };
        lock(&self.problems).insert(source.to_owned(), problem);
    }

    /// Takes the problem of a source away.
    pub(crate) fn clear_problem(&self, source: &str) {
        lock(&self.problems).remove(source);
    }

    /// The current problems, by source.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        lock(&self.problems).values().cloned().collect()
    }

    /// The counters of every source, and the sums.
    pub(crate) fn counters(&self) -> (Value, Value) {
        let sums = Counters::default();
        sums.add_from(&self.retired);
        let mut each = Map::new();
        for (id, source) in lock(&self.list).iter() {
            sums.add_from(&source.counters);
            each.insert(id.clone(), source.counters.to_json());
        }
        (Value::Object(each), sums.to_json())
    }
}
