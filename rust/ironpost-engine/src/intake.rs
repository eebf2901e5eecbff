//! The bounded queue between receivers and workers.
//!
//! Every receiver has a lane with its own capacity in bytes, so that a file of ten gigabytes cannot make a UDP
//! socket shed. Workers take chunks from the lanes in turn; taking gives the chunk its sequence number. Order
//! inside a lane is kept, therefore order inside a source is kept.

use crate::origin::{Origin, Runs};
use crate::source::{Source, lock};
use ironpost_xdp::PacketRecord;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Bytes of a fresh buffer. Small enough to stay in a core's cache, large enough to make locks cheap.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// Buffers kept for reuse.
const SPARE_BUFFERS: usize = 64;

/// Where the records of a chunk are.
#[derive(Debug)]
pub(crate) enum Frames {
    /// Newline-terminated lines; the last one may lack its newline.
    Lines,
    /// (first byte, length) of each record.
    Records(Vec<(u32, u32)>),
    /// (first byte, length, position in the source) of each record.
    Placed(Vec<(u32, u32, u64)>),
    /// Packet records, and the position of the ring buffer behind them.
    Packets { records: Vec<PacketRecord>, ring: u64 },
}

/// What holds for all records of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Records as the source wrote them.
    Whole,
    /// One record, cut at the size limit.
    Cut,
    /// Records of a trusted source that anybody on the host may have written.
    Doubtful,
}

/// Bytes of one source, complete records only.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Who sent them.
    pub(crate) source: Arc<Source>,
    /// The buffer; only the first `filled` bytes count.
    pub(crate) buffer: Vec<u8>,
    /// Bytes in use.
    pub(crate) filled: usize,
    /// Where the records are.
    pub(crate) frames: Frames,
    /// Position of the first byte in its source.
    pub(crate) base: u64,
    /// Number of records, as the receiver counted them.
    pub(crate) records: u64,
    /// What holds for all of them.
    pub(crate) kind: Kind,
    /// Who handed them over, by runs; none where only the source is known. [`Frames::Lines`] have one at most.
    pub(crate) origins: Runs,
    /// Where the source continues after this chunk, as stored; empty text means "forget this source".
    pub(crate) checkpoint: Option<String>,
}

impl Chunk {
    /// A chunk that carries only a checkpoint.
    pub(crate) fn checkpoint_only(source: Arc<Source>, checkpoint: String) -> Self {
        Self {
            source,
            buffer: Vec::new(),
            filled: 0,
            frames: Frames::Lines,
            base: 0,
            records: 0,
            kind: Kind::Whole,
            origins: Vec::new(),
            checkpoint: Some(checkpoint),
        }
    }

    /// The bytes in use.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Memory the chunk holds while it waits.
    fn weight(&self) -> usize {
        let frames = match &self.frames {
            Frames::Lines => 0,
            Frames::Records(spans) => spans.len() * size_of::<(u32, u32)>(),
            Frames::Placed(spans) => spans.len() * size_of::<(u32, u32, u64)>(),
            Frames::Packets { records, .. } => records.len() * size_of::<PacketRecord>(),
        };
        self.buffer.len() + frames + self.origins.len() * size_of::<(u32, Origin)>() + 256
    }
}

/// A chunk taken by a worker.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Place in the order the correlator keeps.
    pub(crate) sequence: u64,
    /// The rule set in force when the chunk was taken.
    pub(crate) epoch: u64,
    /// The chunk.
    pub(crate) chunk: Chunk,
}

#[derive(Debug)]
struct LaneState {
    name: String,
    queue: VecDeque<Chunk>,
    bytes: usize,
    capacity: usize,
    pushers_waiting: usize,
}

#[derive(Debug, Default)]
struct State {
    lanes: Vec<LaneState>,
    turn: usize,
    next_sequence: u64,
    epoch: u64,
    taken: usize,
    closed: bool,
    workers_waiting: usize,
    spare: Vec<Vec<u8>>,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Intake {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
    max_taken: usize,
}

impl Intake {
    /// A queue that lets at most `max_taken` chunks be between worker and correlator.
    pub(crate) fn new(max_taken: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { epoch: 1, ..State::default() }),
            work: Condvar::new(),
            room: Condvar::new(),
            max_taken: max_taken.max(1),
        })
    }

    /// Opens a lane of `capacity` bytes.
    pub(crate) fn lane(self: &Arc<Self>, name: &str, capacity: usize) -> Lane {
        let mut state = lock(&self.state);
        state.lanes.push(LaneState {
            name: name.to_owned(),
            queue: VecDeque::new(),
            bytes: 0,
            capacity,
            pushers_waiting: 0,
        });
        Lane { intake: Arc::clone(self), index: state.lanes.len() - 1 }
    }

    /// The next chunk, waiting for one; `None` when the queue is closed and empty.
    pub(crate) fn take(&self) -> Option<Ticket> {
        let mut state = lock(&self.state);
        loop {
            if state.taken < self.max_taken
                && let Some(ticket) = self.take_now(&mut state)
            {
                return Some(ticket);
            }
            if state.closed && state.lanes.iter().all(|lane| lane.queue.is_empty()) {
                return None;
            }
            state.workers_waiting += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.workers_waiting -= 1;
        }
    }

    fn take_now(&self, state: &mut State) -> Option<Ticket> {
        let count = state.lanes.len();
        let index = (0..count)
            .map(|step| (state.turn + step) % count)
            .find(|&index| !state.lanes[index].queue.is_empty())?;
        let lane = &mut state.lanes[index];
        let chunk = lane.queue.pop_front()?;
        lane.bytes -= chunk.weight();
        if lane.pushers_waiting > 0 {
            self.room.notify_all();
        }
        state.turn = index + 1;
        state.taken += 1;
        state.next_sequence += 1;
        Some(Ticket { sequence: state.next_sequence - 1, epoch: state.epoch, chunk })
    }

    /// A chunk has passed the correlator.
    pub(crate) fn done(&self) {
        let mut state = lock(&self.state);
        state.taken -= 1;
        if state.workers_waiting > 0 {
            self.work.notify_one();
        }
    }

    /// Gives a buffer back for reuse.
    pub(crate) fn recycle(&self, buffer: Vec<u8>) {
        if buffer.len() != CHUNK_BYTES {
            return;
        }
        let mut state = lock(&self.state);
        if state.spare.len() < SPARE_BUFFERS {
            state.spare.push(buffer);
        }
    }

    /// Chunks taken from now on carry `epoch`.
    pub(crate) fn set_epoch(&self, epoch: u64) {
        lock(&self.state).epoch = epoch;
    }

    /// No more chunks will come: workers end when the lanes are empty.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_all();
        self.room.notify_all();
    }

    /// Depth and capacity of every lane, bytes, and of what is between worker and correlator.
    pub(crate) fn gauges(&self) -> Value {
        let state = lock(&self.state);
        let mut gauges: serde_json::Map<String, Value> = state
            .lanes
            .iter()
            .map(|lane| {
                let gauge = json!({"depth": lane.bytes, "capacity": lane.capacity, "unit": "bytes"});
                (format!("input:{}", lane.name), gauge)
            })
            .collect();
        gauges.insert(
            "work".to_owned(),
            json!({"depth": state.taken, "capacity": self.max_taken, "unit": "chunks"}),
        );
        Value::Object(gauges)
    }
}

/// A receiver's end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    intake: Arc<Intake>,
    index: usize,
}

/// The queue was closed; nothing reads it any more.
#[derive(Debug, thiserror::Error)]
#[error("the engine has stopped taking input")]
pub(crate) struct Closed;

impl Lane {
    /// A buffer of [`CHUNK_BYTES`] bytes, all usable.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        let spare = lock(&self.intake.state).spare.pop();
        spare.unwrap_or_else(|| vec![0; CHUNK_BYTES])
    }

    /// The first `filled` bytes for a chunk: the buffer itself, or a copy of fitting size when they are few, so that
    /// waiting messages take the memory they need and no more.
    pub(crate) fn fitted(&self, buffer: &mut Vec<u8>, filled: usize) -> (Vec<u8>, usize) {
        if filled < CHUNK_BYTES / 16 {
            return (buffer[..filled].to_vec(), filled);
        }
        (std::mem::replace(buffer, self.buffer()), filled)
    }

    /// Gives back a buffer that was not needed.
    pub(crate) fn recycle(&self, buffer: Vec<u8>) {
        self.intake.recycle(buffer);
    }

    /// Hands a chunk over, waiting for room: back-pressure for sources that can wait.
    ///
    /// # Errors
    /// When the engine takes no more input.
    pub(crate) fn push(&self, chunk: Chunk) -> Result<(), Closed> {
        let weight = chunk.weight();
        let mut state = lock(&self.intake.state);
        loop {
            if state.closed {
                return Err(Closed);
            }
            let lane = &mut state.lanes[self.index];
            // A chunk heavier than the whole lane still passes through an empty one.
            if lane.bytes + weight <= lane.capacity || lane.queue.is_empty() {
                break;
            }
            lane.pushers_waiting += 1;
            state = self.intake.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.lanes[self.index].pushers_waiting -= 1;
        }
        self.put(&mut state, chunk, weight);
        Ok(())
    }

    /// Hands a chunk over if there is room, or gives it back: for sources that cannot wait.
    ///
    /// # Errors
    /// The chunk itself, when the lane is full or the engine takes no more input.
    pub(crate) fn try_push(&self, chunk: Chunk) -> Result<(), Box<Chunk>> {
        let weight = chunk.weight();
        let mut state = lock(&self.intake.state);
        let lane = &state.lanes[self.index];
        if state.closed || (lane.bytes + weight > lane.capacity && !lane.queue.is_empty()) {
            return Err(Box::new(chunk));
        }
        self.put(&mut state, chunk, weight);
        Ok(())
    }

    fn put(&self, state: &mut State, chunk: Chunk, weight: usize) {
        let lane = &mut state.lanes[self.index];
        lane.bytes += weight;
        lane.queue.push_back(chunk);
        if state.workers_waiting > 0 {
            self.intake.work.notify_one();
        }
    }

    /// True while chunks wait: then it is better to fill the next one than to hurry it.
    pub(crate) fn is_backlogged(&self) -> bool {
        !lock(&self.intake.state).lanes[self.index].queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Sources;
    use ironpost_events::Logsource;

    fn chunk(source: &Arc<Source>, base: u64) -> Chunk {
        Chunk {
            base,
            buffer: vec![0; 1000],
            filled: 1000,
            ..Chunk::checkpoint_only(source.clone(), String::new())
        }
    }

    #[test]
    fn lanes_are_served_in_turn_and_each_keeps_its_order() {
        let sources = Sources::default();
        let source = sources.add("x", "", vec![], Logsource::default());
        let intake = Intake::new(100);
        let (one, two) = (intake.lane("one", 1 << 20), intake.lane("two", 1 << 20));
        for base in 0..3 {
            one.push(chunk(&source, base)).unwrap();
        }
        two.push(chunk(&source, 100)).unwrap();
        let order: Vec<(u64, u64)> = (0..4)
            .map(|_| intake.take().map(|ticket| (ticket.sequence, ticket.chunk.base)).unwrap())
            .collect();
        assert_eq!(order, [(0, 0), (1, 100), (2, 1), (3, 2)]);
    }

    #[test]
    fn a_full_lane_sheds_for_those_who_cannot_wait_and_blocks_the_others() {
        let sources = Sources::default();
        let source = sources.add("x", "", vec![], Logsource::default());
        let intake = Intake::new(100);
        let lane = intake.lane("one", 3000);
        lane.push(chunk(&source, 0)).unwrap();
        lane.push(chunk(&source, 1)).unwrap();
        assert!(lane.try_push(chunk(&source, 2)).is_err());
        let blocked = {
            let (lane, source) = (lane.clone(), source.clone());
            std::thread::spawn(move || lane.push(chunk(&source, 2)).is_ok())
        };
        assert_eq!(intake.take().unwrap().chunk.base, 0);
        assert!(blocked.join().unwrap());
        assert_eq!(intake.take().unwrap().chunk.base, 1);
        assert_eq!(intake.take().unwrap().chunk.base, 2);
    }

    #[test]
    fn closing_lets_workers_finish_what_is_queued() {
        let sources = Sources::default();
        let source = sources.add("x", "", vec![], Logsource::default());
        let intake = Intake::new(100);
        let lane = intake.lane("one", 3000);
        lane.push(chunk(&source, 7)).unwrap();
        intake.close();
        assert!(lane.push(chunk(&source, 8)).is_err());
        assert_eq!(intake.take().unwrap().chunk.base, 7);
        assert!(intake.take().is_none());
    }
}
