//! Any text as a pattern and any bytes as a message: refused with a reason or matched, never a panic.
#![no_main]

use ironpost_events::{EventBatch, ExtractorSet, FieldTable, ParseOptions, Parser, SourceFacts};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|input: (String, Vec<u8>)| {
    let (pattern, message) = input;
    let plan = serde_json::json!({
        "version": 1,
        "extractors": [{"name": "x", "programs": ["*"], "patterns": [{"id": "x", "pattern": pattern}]}],
    });
    let Ok(extractors) = ExtractorSet::from_plan(plan.to_string().as_bytes()) else { return };
    let extractors = Arc::new(extractors);
    let fields = FieldTable::new(extractors.field_names());
    let parser = Parser::new(extractors, Arc::clone(&fields), ParseOptions::default());
    let facts = parser.facts(&SourceFacts::default());
    let mut batch = EventBatch::new(fields);
    parser.parse_record(&message, 0, &facts, &mut batch);
    batch.to_ndjson();
});
