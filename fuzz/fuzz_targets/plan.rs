//! Any bytes as a plan, and the lines after it as events: refused with a reason or executed, never a panic.
#![no_main]

use ironpost_detect::{Correlator, Explainer, RuleSet, Scratch, SourcePosition};
use ironpost_events::{EventBatch, ExtractorSet, FieldTable, Format, ParseOptions, Parser, SourceFacts};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|&byte| byte == b'\n');
    let Some(plan) = lines.next() else { return };
    let Ok(set) = RuleSet::from_plan(plan) else { return };
    Explainer::from_plan(plan).expect("what can be executed can be explained");
    let set = Arc::new(set);
    let table = FieldTable::new(set.field_names().map(str::to_owned));
    let compiled = Arc::new(set.bind(Arc::clone(&table)));
    let options = ParseOptions { format: Format::Json, ..ParseOptions::default() };
    let parser = Parser::new(Arc::new(ExtractorSet::default()), Arc::clone(&table), options);
    let facts = parser.facts(&SourceFacts::default());
    let mut batch = EventBatch::new(table);
    for (position, line) in lines.enumerate() {
        parser.parse_record(line, position as u64, &facts, &mut batch);
    }
    let mut found = Vec::new();
    compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
    let mut correlator = Correlator::new(compiled);
    let mut detections = Vec::new();
    correlator.observe(&batch, &found, &SourcePosition { source: "fuzz", received: None }, &mut detections);
});
