//! Batches waiting for the control plane.

use crate::source::lock;
use crate::stop::Stop;
use ironpost_detect::WindowChange;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Batches that may wait. Few, because what follows joins the next batch while they wait.
const CAPACITY: usize = 2;

/// Detections and everything that has to be stored together with them.
#[derive(Debug)]
pub struct Batch {
    /// Counts the batches of this run, from 1.
    pub sequence: u64,
    /// The detections, a JSON array.
    pub detections: Vec<u8>,
    /// How many they are.
    pub detection_count: u64,
    /// Source id → where it continues, as of exactly these detections; empty text: forget the source.
    pub checkpoints: BTreeMap<String, String>,
    /// Windows changed since the batch before; no state: the window is gone.
    pub windows: Vec<WindowChange>,
    /// Everything counted so far, JSON.
    pub counters: Vec<u8>,
}

/// What waiting for a batch gave.
#[derive(Debug)]
pub enum NextBatch {
    /// A batch.
    Batch(Box<Batch>),
    /// None in that time.
    Late,
    /// The engine has stopped and everything was taken.
    Ended,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Batch>,
    closed: bool,
}

/// The queue of batches.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    changed: Condvar,
    arrived: Notify,
}

impl Outbox {
    /// Adds a batch; whether there is room was asked before.
    pub(crate) fn put(&self, batch: Batch) {
        lock(&self.queue).batches.push_back(batch);
        self.changed.notify_all();
        self.arrived.notify_one();
    }

    /// Puts a batch in front again.
    pub(crate) fn put_back(&self, batch: Batch) {
        lock(&self.queue).batches.push_front(batch);
        self.changed.notify_all();
        self.arrived.notify_one();
    }

    pub(crate) fn close(&self) {
        lock(&self.queue).closed = true;
        self.changed.notify_all();
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }

    pub(crate) fn has_room(&self) -> bool {
        lock(&self.queue).batches.len() < CAPACITY
    }

    /// Waits for room. A stopping engine does not wait: what is left is bounded by what was in its queues.
    pub(crate) fn wait_for_room(&self, stop: &Stop) {
        let mut queue = lock(&self.queue);
        while queue.batches.len() >= CAPACITY && !stop.given() {
            let waited = self.changed.wait_timeout(queue, Duration::from_millis(100));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn try_take(&self) -> NextBatch {
        let mut queue = lock(&self.queue);
        match queue.batches.pop_front() {
            Some(batch) => {
                self.changed.notify_all();
                NextBatch::Batch(Box::new(batch))
            }
            None if queue.closed => NextBatch::Ended,
            None => NextBatch::Late,
        }
    }

    /// The next batch, waiting at most `timeout`.
    pub(crate) fn take(&self, timeout: Duration) -> NextBatch {
        let deadline = Instant::now() + timeout;
        let mut queue = lock(&self.queue);
        loop {
            if !queue.batches.is_empty() || queue.closed {
                drop(queue);
                match self.try_take() {
                    NextBatch::Late => queue = lock(&self.queue),
                    taken => return taken,
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return NextBatch::Late;
            }
            queue = self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The next batch, awaited; `None` when the engine has stopped. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&self) -> Option<Batch> {
        loop {
            let arrived = self.arrived.notified();
            match self.try_take() {
                NextBatch::Batch(batch) => {
                    // Another one may wait for a second consumer.
                    self.arrived.notify_one();
                    return Some(*batch);
                }
                NextBatch::Ended => {
                    self.arrived.notify_one();
                    return None;
                }
                NextBatch::Late => arrived.await,
            }
        }
    }

    /// True when nothing will come any more.
    pub(crate) fn ended(&self) -> bool {
        let queue = lock(&self.queue);
        queue.closed && queue.batches.is_empty()
    }

    pub(crate) fn depth(&self) -> usize {
        lock(&self.queue).batches.len()
    }

    pub(crate) fn capacity(&self) -> usize {
        CAPACITY
    }
}
