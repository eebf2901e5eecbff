//! Ironpost's engine: text in, detections with their evidence out.

use crate::lane::Lane;
use ironpost_detect::{Compiled, Correlator, Detection, Match, RuleSet, Scratch, SourcePosition};
use ironpost_events::{
    CompiledFacts, EventBatch, ExtractorSet, FieldTable, Format, Logsource, ParseOptions, Parser, SourceFacts,
};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Rows of a batch, as the daemon's workers use it.
const BATCH: usize = 4096;

pub(crate) struct Engine {
    compiled: Arc<Compiled>,
    parser: Parser,
    ids: Vec<String>,
}

/// What one thread keeps between batches.
struct Work {
    batch: EventBatch,
    scratch: Scratch,
    matches: Vec<Match>,
    detections: Vec<Detection>,
    correlator: Correlator,
}

impl Engine {
    pub(crate) fn load(plan: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let text = std::fs::read(plan)?;
        let set = Arc::new(RuleSet::from_plan(&text)?);
        drop(text);
        let table = FieldTable::new(set.field_names());
        let count = set.counts().0;
        let compiled = Arc::new(set.bind(Arc::clone(&table)));
        let ids = (0..count as u32).map(|rule| compiled.rule_id(rule).to_owned()).collect();
        let options = ParseOptions { format: Format::Json, ..ParseOptions::default() };
        let parser = Parser::new(Arc::new(ExtractorSet::default()), table, options);
        Ok(Self { compiled, parser, ids })
    }

    pub(crate) fn rule_ids(&self) -> impl Iterator<Item = &str> {
        self.ids.iter().map(String::as_str)
    }

    fn work(&self) -> Work {
        Work {
            batch: EventBatch::new(Arc::clone(self.compiled.fields())),
            scratch: Scratch::new(),
            matches: Vec::new(),
            detections: Vec::new(),
            correlator: Correlator::without_snapshots(Arc::clone(&self.compiled)),
        }
    }

    /// What is told of each event: its own log source, or nothing.
    fn facts(&self, lane: &Lane, routed: bool) -> Vec<CompiledFacts> {
        let told = |source: &Logsource| SourceFacts { logsource: source.clone(), ..SourceFacts::default() };
        if routed {
            lane.sources().iter().map(|source| self.parser.facts(&told(source))).collect()
        } else {
            vec![self.parser.facts(&SourceFacts::default())]
        }
    }

    /// One batch: parse, match, make detections.
    fn feed(
        &self,
        lane: &Lane,
        events: Range<usize>,
        facts: &[CompiledFacts],
        routed: bool,
        work: &mut Work,
    ) {
        work.batch.clear();
        work.matches.clear();
        work.detections.clear();
        if routed {
            for index in events {
                let (text, source) = lane.event(index);
                self.parser.parse_record(text, index as u64, &facts[source], &mut work.batch);
            }
        } else {
            self.parser.parse_lines(lane.chunk(events), 0, &facts[0], &mut work.batch);
        }
        self.compiled.evaluate(&work.batch, &mut work.scratch, &mut work.matches);
        let position = SourcePosition { source: "bench", received: None };
        work.correlator.observe(&work.batch, &work.matches, &position, &mut work.detections);
    }

    fn span(&self, lane: &Lane, events: Range<usize>, routed: bool, work: &mut Work) -> usize {
        let facts = self.facts(lane, routed);
        let mut found = 0;
        for start in events.clone().step_by(BATCH) {
            self.feed(lane, start..events.end.min(start + BATCH), &facts, routed, work);
            found += work.detections.len();
        }
        found
    }

    /// All events of the lane; the number of detections.
    pub(crate) fn run(&mut self, lane: &Lane, routed: bool) -> usize {
        self.span(lane, 0..lane.len(), routed, &mut self.work())
    }

    /// All events of the lane, told nothing, divided among threads.
    pub(crate) fn run_on(&self, lane: &Lane, threads: usize) -> usize {
        let share = lane.len().div_ceil(threads);
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|thread| {
                    let events = thread * share..lane.len().min((thread + 1) * share);
                    scope.spawn(move || self.span(lane, events, true, &mut self.work()))
                })
                .collect();
            running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
        })
    }

    /// Every (event, rule) that holds.
    pub(crate) fn matches(&mut self, lane: &Lane, routed: bool) -> BTreeSet<(u32, String)> {
        let facts = self.facts(lane, routed);
        let mut work = self.work();
        let mut found = BTreeSet::new();
        for start in (0..lane.len()).step_by(BATCH) {
            self.feed(lane, start..lane.len().min(start + BATCH), &facts, routed, &mut work);
            assert!(work.batch.len() == BATCH.min(lane.len() - start), "every event is a row");
            found.extend(
                work.matches.iter().map(|hit| (start as u32 + hit.row, self.ids[hit.rule as usize].clone())),
            );
        }
        found
    }
}
