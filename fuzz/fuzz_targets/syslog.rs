//! Any bytes as records of every text format: one row each, output valid JSON.
#![no_main]

use ironpost_events::{EventBatch, ExtractorSet, FieldTable, Format, Outcome, ParseOptions, Parser, SourceFacts};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

static EXTRACTORS: LazyLock<Arc<ExtractorSet>> = LazyLock::new(|| {
    let plan = include_bytes!("../../rust/ironpost-events/tests/extractors.json");
    Arc::new(ExtractorSet::from_plan(plan).expect("the shipped plan compiles"))
});

fuzz_target!(|data: &[u8]| {
    let Some((&choice, record)) = data.split_first() else { return };
    let format = Format::ALL[usize::from(choice) % Format::ALL.len()];
    let fields = FieldTable::new(EXTRACTORS.field_names());
    let options = ParseOptions { format, ..ParseOptions::default() };
    let parser = Parser::new(Arc::clone(&EXTRACTORS), Arc::clone(&fields), options);
    let facts = parser.facts(&SourceFacts::default());
    let mut batch = EventBatch::new(fields);
    let outcome = parser.parse_record(record, 0, &facts, &mut batch);
    assert_eq!(batch.len(), usize::from(outcome != Outcome::Empty));
    for line in batch.to_ndjson().split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        serde_json::from_slice::<serde_json::Value>(line).expect("output is JSON");
    }
});
