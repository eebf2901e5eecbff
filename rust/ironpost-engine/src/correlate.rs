//! The correlator thread: findings in order in, batches of detections with their checkpoints out.

use crate::intake::Intake;
use crate::outbox::{Batch, Outbox};
use crate::plan::{Plans, now_ns};
use crate::source::{Sources, lock};
use crate::stop::Stop;
use crate::work::{Finding, Next, Reorder};
use ironpost_detect::{Correlator, Counts, Detection, SourcePosition, WindowChange};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Checkpoints without a detection are handed out this often.
const CHECKPOINTS_EVERY: Duration = Duration::from_secs(1);

/// The same in the first second.
const FIRST_CHECKPOINTS_EVERY: Duration = Duration::from_millis(10);

/// With records of the ring buffer sooner: they take its room until they are acknowledged.
const RING_EVERY: Duration = Duration::from_millis(50);

/// Detections waiting for room in the queue of batches; beyond, the correlator waits, and with it the sources.
const PENDING_BYTES: usize = 1 << 20;
const PENDING_DETECTIONS: u64 = 4096;

/// How often attacks that went quiet are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long one wait for a finding lasts at most.
const TICK: Duration = Duration::from_millis(200);

/// Numbers the correlator publishes.
#[derive(Debug, Default)]
pub(crate) struct CorrelatorGauges {
    pub(crate) detections: AtomicU64,
    pub(crate) windows: Mutex<Counts>,
    pub(crate) panics: AtomicU64,
}

/// What was found since the last batch.
#[derive(Debug, Default)]
struct Pending {
    /// The detections as a JSON array without its end.
    json: Vec<u8>,
    detections: u64,
    checkpoints: BTreeMap<String, String>,
    ring: Option<u64>,
}

/// Ring buffer positions by the batch that accounts for them.
pub(crate) type RingPositions = Mutex<BTreeMap<u64, u64>>;

/// Everything the correlator thread works with.
pub(crate) struct Correlating {
    pub(crate) correlator: Correlator,
    pub(crate) epoch: u64,
    pub(crate) plans: Arc<Plans>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) reorder: Arc<Reorder>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) gauges: Arc<CorrelatorGauges>,
    pub(crate) rings: Arc<RingPositions>,
    pub(crate) worker_panics: Arc<AtomicU64>,
    pub(crate) stop: Arc<Stop>,
    /// Keys of stored windows that nothing can use any more.
    pub(crate) useless: Vec<String>,
}

impl Correlating {
    /// Works until all workers have ended, then hands out the last batch.
    pub(crate) fn run(mut self) {
        let mut pending = Pending::default();
        let mut sequence = 0;
        let started = Instant::now();
        let mut last_batch = started;
        let mut looked = started;
        loop {
            let wait = if pending.is_empty() { TICK } else { self.wait(&pending, started, last_batch) };
            match self.reorder.next(wait) {
                Next::Finding(finding) => {
                    self.take(*finding, &mut pending);
                    self.intake.done();
                }
                Next::Late => {}
                Next::Ended => break,
            }
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                let mut detections: Vec<Detection> = Vec::new();
                self.correlator.report_quiet(now_ns(), &mut detections);
                self.add(&detections, &mut pending);
            }
            if !pending.is_due(started, last_batch) {
                continue;
            }
            if pending.is_full() {
                self.outbox.wait_for_room(&self.stop);
            }
            if self.outbox.has_room() {
                sequence += 1;
                self.emit(std::mem::take(&mut pending), sequence);
                last_batch = Instant::now();
            }
        }
        if !pending.is_empty() {
            self.emit(pending, sequence + 1);
        }
        self.outbox.close();
    }

    fn wait(&self, pending: &Pending, started: Instant, last_batch: Instant) -> Duration {
        if pending.detections > 0 {
            // Waiting for room only; the consumer is at work.
            return Duration::from_millis(5);
        }
        pending.every(started).saturating_sub(last_batch.elapsed()).min(TICK).max(Duration::from_millis(1))
    }

    fn take(&mut self, finding: Finding, pending: &mut Pending) {
        if finding.epoch != self.epoch {
            self.change_plan(finding.epoch);
        }
        if let Some((batch, matches)) = finding.matched {
            let mut detections: Vec<Detection> = Vec::new();
            let position = SourcePosition { source: &finding.source.id, received: Some(now_ns()) };
            let observed = catch_unwind(AssertUnwindSafe(|| {
                self.correlator.observe(&batch, &matches, &position, &mut detections);
            }));
            if observed.is_err() {
                self.gauges.panics.fetch_add(1, Ordering::Relaxed);
            }
            self.add(&detections, pending);
            self.reorder.recycle(batch);
        }
        if let Some(checkpoint) = finding.checkpoint {
            match pending.checkpoints.get_mut(&finding.source.id) {
                Some(known) => *known = checkpoint,
                None => {
                    pending.checkpoints.insert(finding.source.id.clone(), checkpoint);
                }
            }
        }
        pending.ring = finding.ring.or(pending.ring);
    }

    fn add(&self, detections: &[Detection], pending: &mut Pending) {
        for detection in detections {
            pending.push(detection);
        }
        self.gauges.detections.fetch_add(detections.len() as u64, Ordering::Relaxed);
    }

    fn change_plan(&mut self, epoch: u64) {
        if let Some(plan) = self.plans.get(epoch) {
            self.correlator.swap(Arc::clone(&plan.compiled));
        }
        self.epoch = epoch;
        // Chunks are taken in order, so none of an older plan follows.
        self.plans.forget_before(epoch);
    }

    fn emit(&mut self, mut pending: Pending, sequence: u64) {
        pending.json.extend_from_slice(if pending.detections == 0 { b"[]" } else { b"]" });
        let mut windows = self.correlator.take_dirty();
        windows.extend(self.useless.drain(..).map(|key| WindowChange { key, state: None }));
        *lock(&self.gauges.windows) = self.correlator.counts();
        if let Some(ring) = pending.ring {
            lock(&self.rings).insert(sequence, ring);
        }
        let counters = counters(&self.sources, &self.intake, &self.outbox, &self.gauges, &self.worker_panics);
        self.outbox.put(Batch {
            sequence,
            detections: pending.json,
            detection_count: pending.detections,
            checkpoints: pending.checkpoints,
            windows,
            counters: serde_json::to_vec(&counters).unwrap_or_default(),
        });
    }
}

impl Pending {
    fn push(&mut self, detection: &Detection) {
        self.json.push(if self.detections == 0 { b'[' } else { b',' });
        detection.to_json(&mut self.json);
        self.detections += 1;
    }

    fn is_empty(&self) -> bool {
        self.detections == 0 && self.checkpoints.is_empty() && self.ring.is_none()
    }

    fn is_full(&self) -> bool {
        self.json.len() >= PENDING_BYTES || self.detections >= PENDING_DETECTIONS
    }

    fn is_due(&self, started: Instant, last_batch: Instant) -> bool {
        self.detections > 0 || (!self.is_empty() && last_batch.elapsed() >= self.every(started))
    }

    /// How long positions wait for company. Where each source begins is stored at once: killed before that, the next start
    /// would begin at another place.
    fn every(&self, started: Instant) -> Duration {
        if started.elapsed() < CHECKPOINTS_EVERY {
            FIRST_CHECKPOINTS_EVERY
        } else if self.ring.is_some() {
            RING_EVERY
        } else {
            CHECKPOINTS_EVERY
        }
    }
}

/// Everything counted, as one document.
pub(crate) fn counters(
    sources: &Sources,
    intake: &Intake,
    outbox: &Outbox,
    gauges: &CorrelatorGauges,
    worker_panics: &AtomicU64,
) -> Value {
    let (each, sums) = sources.counters();
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let windows = *lock(&gauges.windows);
    let mut queues = intake.gauges();
    queues["output"] = json!({"depth": outbox.depth(), "capacity": outbox.capacity(), "unit": "batches"});
    json!({
        "sources": each,
        "received": sums["received"], "bytes": sums["bytes"], "parsed": sums["parsed"],
        "unparsed": sums["unparsed"], "empty": sums["empty"], "truncated": sums["truncated"], "matched": sums["matched"], "lost": sums["lost"],
        "detections": get(&gauges.detections),
        "windows": {
            "keys": windows.keys, "evictions": windows.evictions, "evicted_believed": windows.evicted_believed,
            "late": windows.late, "lost": windows.lost, "fieldless": windows.fieldless,
            "not_numeric": windows.not_numeric, "approximated": windows.approximated,
        },
        "panics": {"workers": get(worker_panics), "correlator": get(&gauges.panics)},
        "queues": queues,
    })
}
