//! Workers: parse and match in parallel; what they found goes back into order for the correlator.

use crate::intake::{Chunk, Frames, Intake, Kind, Ticket};
use crate::origin::{self, Origin, is_program_of, origin_of, ranges};
use crate::packets::write_rows;
use crate::plan::{Plan, Plans, now_ns};
use crate::source::{Loss, Source, lock};
use ironpost_detect::{Match, Scratch};
use ironpost_events::{CompiledFacts, EventBatch, Outcome, Parser, ecs};
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Event batches kept for reuse.
const SPARE_BATCHES: usize = 16;

/// A batch that grew beyond this is not kept.
const SPARE_BATCH_BYTES: usize = 1 << 20;

/// Origins whose facts are kept ready; when there are more, all are made anew.
const READY_FACTS: usize = 1024;

/// What a worker made of a chunk.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) epoch: u64,
    pub(crate) source: Arc<Source>,
    /// The events, only when something matched.
    pub(crate) matched: Option<(EventBatch, Vec<Match>)>,
    pub(crate) checkpoint: Option<String>,
    /// Position of the ring buffer behind these events.
    pub(crate) ring: Option<u64>,
}

#[derive(Debug, Default)]
struct Waiting {
    findings: BTreeMap<u64, Finding>,
    next: u64,
    closed: bool,
    spare: Vec<EventBatch>,
}

/// Findings on their way to the correlator, which gets them in the order the chunks were taken.
#[derive(Debug, Default)]
pub(crate) struct Reorder {
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

/// What waiting for a finding gave.
#[derive(Debug)]
pub(crate) enum Next {
    Finding(Box<Finding>),
    /// Nothing in that time.
    Late,
    /// All workers have ended and everything was taken.
    Ended,
}

impl Reorder {
    fn put(&self, sequence: u64, finding: Finding) {
        let mut waiting = lock(&self.waiting);
        waiting.findings.insert(sequence, finding);
        if sequence == waiting.next {
            self.ready.notify_one();
        }
    }

    /// The next finding in order.
    pub(crate) fn next(&self, timeout: Duration) -> Next {
        let waiting = lock(&self.waiting);
        let (mut waiting, _) = self
            .ready
            .wait_timeout_while(waiting, timeout, |waiting| {
                !waiting.closed && !waiting.findings.contains_key(&waiting.next)
            })
            .unwrap_or_else(PoisonError::into_inner);
        let next = waiting.next;
        match waiting.findings.remove(&next) {
            Some(finding) => {
                waiting.next += 1;
                Next::Finding(Box::new(finding))
            }
            None if waiting.closed => Next::Ended,
            None => Next::Late,
        }
    }

    /// No more findings will come.
    pub(crate) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.ready.notify_all();
    }

    /// Keeps a batch for the next worker that needs one.
    pub(crate) fn recycle(&self, mut batch: EventBatch) {
        if batch.bytes() > SPARE_BATCH_BYTES {
            return;
        }
        batch.clear();
        let mut waiting = lock(&self.waiting);
        if waiting.spare.len() < SPARE_BATCHES {
            waiting.spare.push(batch);
        }
    }

    fn spare(&self, plan: &Plan) -> EventBatch {
        let mut waiting = lock(&self.waiting);
        waiting.spare.retain(|batch| Arc::ptr_eq(batch.fields(), plan.compiled.fields()));
        waiting.spare.pop().unwrap_or_else(|| EventBatch::new(Arc::clone(plan.compiled.fields())))
    }
}

/// One parse and match thread.
pub(crate) struct Worker {
    intake: Arc<Intake>,
    plans: Arc<Plans>,
    reorder: Arc<Reorder>,
    panics: Arc<AtomicU64>,
    plan: Option<Arc<Plan>>,
    facts: HashMap<(u32, Kind, Option<Origin>), Facts>,
    batch: Option<EventBatch>,
    scratch: Scratch,
}

impl Worker {
    pub(crate) fn new(
        intake: Arc<Intake>,
        plans: Arc<Plans>,
        reorder: Arc<Reorder>,
        panics: Arc<AtomicU64>,
    ) -> Self {
        Self {
            intake,
            plans,
            reorder,
            panics,
            plan: None,
            facts: HashMap::new(),
            batch: None,
            scratch: Scratch::new(),
        }
    }

    /// Works until the queue is closed and empty. A record that makes parsing or matching panic is counted as lost;
    /// the thread goes on with fresh working memory, so that no state of the accident stays.
    pub(crate) fn run(mut self) {
        while let Some(ticket) = self.intake.take() {
            let Ticket { sequence, epoch, mut chunk } = ticket;
            let found = catch_unwind(AssertUnwindSafe(|| self.work(epoch, &chunk)));
            let matched = found.unwrap_or_else(|_| {
                self.forget();
                self.rescue(epoch, &chunk)
            });
            let ring = match chunk.frames {
                Frames::Packets { ring, .. } => Some(ring),
                _ => None,
            };
            let finding = Finding {
                epoch,
                source: Arc::clone(&chunk.source),
                matched,
                checkpoint: chunk.checkpoint.take(),
                ring,
            };
            self.intake.recycle(std::mem::take(&mut chunk.buffer));
            self.reorder.put(sequence, finding);
        }
    }

    fn forget(&mut self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.plan = None;
        self.facts.clear();
        self.batch = None;
        self.scratch = Scratch::new();
    }

    /// Parses and matches a chunk and counts what became of its records.
    fn work(&mut self, epoch: u64, chunk: &Chunk) -> Option<(EventBatch, Vec<Match>)> {
        if chunk.filled == 0 && chunk.records == 0 {
            return None;
        }
        let plan = self.prepare(epoch)?;
        let mut batch = self.batch.take().unwrap_or_else(|| self.reorder.spare(&plan));
        batch.clear();
        let mut matches = Vec::new();
        let facts = self.facts_of(&plan, chunk)?;
        let counts = parse(&plan, chunk, &facts, &mut batch);
        plan.compiled.evaluate(&batch, &mut self.scratch, &mut matches);
        let counters = &chunk.source.counters;
        counters.parsed(counts.parsed, counts.unparsed, counts.empty);
        counters.truncated(batch.truncated());
        counters.lost(Loss::BatchFull, counts.refused);
        if matches.is_empty() {
            self.batch = Some(batch);
            return None;
        }
        counters.matched(matches.len() as u64);
        Some((batch, matches))
    }

    fn prepare(&mut self, epoch: u64) -> Option<Arc<Plan>> {
        if self.plan.as_ref().is_none_or(|plan| plan.epoch != epoch) {
            self.plan = self.plans.get(epoch);
            self.facts.clear();
            self.batch = None;
        }
        self.plan.clone()
    }

    /// The facts of each run of a chunk's records.
    fn facts_of(&mut self, plan: &Plan, chunk: &Chunk) -> Option<Vec<(u32, Facts)>> {
        if chunk.origins.is_empty() {
            return Some(vec![(0, self.facts_for(plan, chunk, None)?)]);
        }
        let origins = chunk.origins.iter();
        origins.map(|(first, origin)| Some((*first, self.facts_for(plan, chunk, Some(origin))?))).collect()
    }

    fn facts_for(&mut self, plan: &Plan, chunk: &Chunk, origin: Option<&Origin>) -> Option<Facts> {
        let key = (chunk.source.index, chunk.kind, origin.cloned());
        if let Some(ready) = self.facts.get(&key) {
            return Some(ready.clone());
        }
        let facts = |trust| plan.facts(&chunk.source, chunk.kind, origin, trust).map(Arc::new);
        let made = Facts {
            usual: facts(origin.and_then(Origin::trust))?,
            about_itself: match origin.and_then(Origin::account) {
                Some(account) => Some((Arc::clone(account), facts(Some("host"))?)),
                None => None,
            },
        };
        if self.facts.len() >= READY_FACTS {
            self.facts.clear();
        }
        self.facts.insert(key, made.clone());
        Some(made)
    }

    /// Works through a chunk that made a worker panic, record by record: only the record to blame is lost.
    fn rescue(&mut self, epoch: u64, chunk: &Chunk) -> Option<(EventBatch, Vec<Match>)> {
        let mut all: Option<(EventBatch, Vec<Match>)> = None;
        let base = chunk.base;
        let place = |(start, length): (u32, u32)| (start, length, base + u64::from(start));
        let spans: Vec<(u32, u32, u64)> = match &chunk.frames {
            Frames::Records(spans) => spans.iter().copied().map(place).collect(),
            Frames::Lines => line_spans(chunk.bytes()).into_iter().map(place).collect(),
            Frames::Placed(spans) => spans.clone(),
            Frames::Packets { .. } => {
                chunk.source.counters.lost(Loss::Panic, chunk.records);
                return None;
            }
        };
        let mut good = Vec::with_capacity(spans.len());
        let mut origins = origin::Runs::new();
        for (record, span) in spans.into_iter().enumerate() {
            // The lines of a chunk without spans have one origin at most.
            let origin = origin_of(&chunk.origins, record);
            let of_single = origin.map(|origin| (0, origin.clone())).into_iter().collect();
            let single = with_spans(chunk, vec![span], of_single);
            let tried = catch_unwind(AssertUnwindSafe(|| {
                let plan = self.prepare(epoch)?;
                let mut batch = EventBatch::new(Arc::clone(plan.compiled.fields()));
                let facts = self.facts_of(&plan, &single)?;
                parse(&plan, &single, &facts, &mut batch);
                plan.compiled.evaluate(&batch, &mut self.scratch, &mut Vec::new());
                Some(())
            }));
            match tried {
                Ok(_) => {
                    if let Some(origin) = origin {
                        origin::mark(&mut origins, good.len(), origin);
                    }
                    good.push(span);
                }
                Err(_) => {
                    self.forget();
                    chunk.source.counters.lost(Loss::Panic, 1);
                }
            }
        }
        if !good.is_empty() {
            let rest = with_spans(chunk, good, origins);
            let records = rest.records;
            all = catch_unwind(AssertUnwindSafe(|| self.work(epoch, &rest))).unwrap_or_else(|_| {
                self.forget();
                chunk.source.counters.lost(Loss::Panic, records);
                None
            });
        }
        all
    }
}

fn with_spans(chunk: &Chunk, spans: Vec<(u32, u32, u64)>, origins: origin::Runs) -> Chunk {
    Chunk {
        source: Arc::clone(&chunk.source),
        buffer: chunk.bytes().to_vec(),
        filled: chunk.filled,
        records: spans.len() as u64,
        frames: Frames::Placed(spans),
        base: chunk.base,
        kind: chunk.kind,
        origins,
        checkpoint: None,
    }
}

fn line_spans(bytes: &[u8]) -> Vec<(u32, u32)> {
    let mut spans = Vec::new();
    let mut start = 0;
    for newline in memchr::memchr_iter(b'\n', bytes).chain([bytes.len()]) {
        if newline > start || newline < bytes.len() {
            spans.push((start as u32, (newline - start) as u32));
        }
        start = newline + 1;
    }
    spans
}

#[derive(Debug, Default)]
struct Counted {
    parsed: u64,
    unparsed: u64,
    empty: u64,
    refused: u64,
}

impl Counted {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Parsed => self.parsed += 1,
            Outcome::Unparsed => self.unparsed += 1,
            Outcome::Empty => self.empty += 1,
            Outcome::Full => self.refused += 1,
        }
    }
}

fn record(chunk: &Chunk, start: u32, length: u32) -> &[u8] {
    without_ending(&chunk.bytes()[start as usize..(start + length) as usize])
}

/// The constant fields of an origin's records.
#[derive(Debug, Clone)]
struct Facts {
    usual: Arc<CompiledFacts>,
    /// A service's account, and the facts of records in which it speaks for a program of its own.
    about_itself: Option<(Arc<str>, Arc<CompiledFacts>)>,
}

impl Facts {
    /// The facts of one record.
    fn of(&self, parser: &Parser, record: &[u8]) -> &CompiledFacts {
        match &self.about_itself {
            Some((account, own)) if speaks_for_itself(parser, record, account, &self.usual) => own,
            _ => &self.usual,
        }
    }
}

/// Whether the parser itself, and no second reading of ours, finds a plain syslog message of the account's program.
fn speaks_for_itself(parser: &Parser, record: &[u8], account: &str, facts: &CompiledFacts) -> bool {
    let mut batch = EventBatch::new(Arc::clone(parser.fields()));
    if parser.parse_record(record, 0, facts, &mut batch) != Outcome::Parsed {
        return false;
    }
    let row = batch.row(0);
    let mut programs = row.values(ecs::PROCESS_NAME).peekable();
    matches!(row.info().format, "rfc3164" | "rfc5424")
        && programs.peek().is_some()
        && programs.all(|program| is_program_of(account, program.bytes))
}

fn parse(plan: &Plan, chunk: &Chunk, facts: &[(u32, Facts)], batch: &mut EventBatch) -> Counted {
    let mut counted = Counted::default();
    let Some(parser) = plan.parser(&chunk.source.format) else { return counted };
    parser.set_now(now_ns());
    #[cfg(test)]
    tests::panic_where_asked(chunk);
    match &chunk.frames {
        Frames::Lines => {
            let Some((_, facts)) = facts.first() else { return counted };
            let counts = parser.parse_lines(chunk.bytes(), chunk.base, &facts.usual, batch);
            counted.parsed = counts.parsed;
            counted.unparsed = counts.unparsed;
            counted.empty = counts.empty;
            counted.refused = counts.refused;
        }
        Frames::Packets { records, .. } => {
            counted.parsed = write_rows(records, chunk.base, batch);
            counted.refused = chunk.records - counted.parsed;
        }
        Frames::Records(spans) => {
            for (records, facts) in ranges(facts, spans.len()) {
                for (start, length) in &spans[records] {
                    let (record, position) = (record(chunk, *start, *length), chunk.base + u64::from(*start));
                    let facts = facts.of(parser, record);
                    counted.count(parser.parse_record(record, position, facts, batch));
                }
            }
        }
        Frames::Placed(spans) => {
            for (records, facts) in ranges(facts, spans.len()) {
                for (start, length, position) in &spans[records] {
                    let record = record(chunk, *start, *length);
                    let facts = facts.of(parser, record);
                    counted.count(parser.parse_record(record, *position, facts, batch));
                }
            }
        }
    }
    counted
}

/// Senders end a datagram or a counted message with a newline or a NUL although nothing asks for it.
fn without_ending(mut record: &[u8]) -> &[u8] {
    while let Some((b'\n' | b'\r' | 0, rest)) = record.split_last() {
        record = rest;
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Sources;
    use crate::{Engine, NextBatch, Settings};
    use ironpost_detect::RuleSet;
    use ironpost_events::ExtractorSet;
    use serde_json::{Value, json};
    use std::time::Instant;

    /// Stands for a defect in a parser or a rule: this record makes the worker panic.
    const POISON: &[u8] = b"POISON";

    pub(super) fn panic_where_asked(chunk: &Chunk) {
        let poisoned = |bytes: &[u8]| memchr::memmem::find(bytes, POISON).is_some();
        let asked = match &chunk.frames {
            Frames::Lines => poisoned(chunk.bytes()),
            Frames::Records(spans) => spans.iter().any(|(start, length)| {
                poisoned(&chunk.bytes()[*start as usize..(*start + *length) as usize])
            }),
            Frames::Placed(spans) => spans.iter().any(|(start, length, _)| {
                poisoned(&chunk.bytes()[*start as usize..(*start + *length) as usize])
            }),
            Frames::Packets { .. } => false,
        };
        assert!(!asked, "a record asked for it");
    }

    fn rules() -> Arc<RuleSet> {
        let plan = json!({"version": 1, "correlations": [], "rules": [{
            "id": "mark", "title": "Mark", "level": "high", "tags": [], "emit": true, "fields": [], "entity": [],
            "logsource": {"product": null, "category": null, "service": null},
            "detections": {"s": {"atom": {"field": "message", "op": "contains", "value": "MARK", "cased": true}}},
            "condition": {"ref": "s"}}]});
        Arc::new(RuleSet::from_plan(plan.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn a_record_that_makes_a_worker_panic_is_lost_alone_and_counted() {
        let directory = std::env::temp_dir().join(format!("ironpost-panic-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let log = directory.join("a.log");
        let mut text = String::new();
        for number in 0..5000 {
            text.push_str(&format!(
                "{} {number}\n",
                if number % 1000 == 500 { "POISON MARK" } else { "MARK" }
            ));
        }
        std::fs::write(&log, text).unwrap();
        let settings = json!({"files": [{"path": log, "start": "beginning"}], "workers": 2});
        let settings = Settings::from_json(settings.to_string().as_bytes()).unwrap();
        let engine = Engine::new(settings, rules(), Arc::new(ExtractorSet::default()), None).unwrap();
        engine.start(&BTreeMap::new(), Vec::new()).unwrap();
        let begin = Instant::now();
        let mut found = 0;
        while found < 4995 {
            assert!(begin.elapsed() < Duration::from_secs(30), "{found}");
            if let NextBatch::Batch(batch) = engine.next_batch_blocking(Duration::from_millis(100)) {
                found += batch.detection_count;
            }
        }
        engine.stop();
        let counters: Value = serde_json::from_slice(&engine.counters()).unwrap();
        assert_eq!(counters["received"], 5000);
        assert_eq!(counters["lost"]["panic"], 5);
        assert_eq!(counters["parsed"].as_u64().unwrap() + counters["unparsed"].as_u64().unwrap(), 4995);
        assert!(counters["panics"]["workers"].as_u64().unwrap() >= 5);
        let _ = std::fs::remove_dir_all(&directory);
    }

    #[test]
    fn findings_come_in_the_order_the_chunks_were_taken() {
        let reorder = Reorder::default();
        let source = Sources::default().add("x", "", vec![], ironpost_events::Logsource::default());
        let finding = |number: u64| Finding {
            epoch: number,
            source: Arc::clone(&source),
            matched: None,
            checkpoint: None,
            ring: None,
        };
        for sequence in [2, 0, 1] {
            reorder.put(sequence, finding(sequence));
        }
        reorder.close();
        let mut order = Vec::new();
        while let Next::Finding(finding) = reorder.next(Duration::from_secs(1)) {
            order.push(finding.epoch);
        }
        assert_eq!(order, [0, 1, 2]);
    }
}
