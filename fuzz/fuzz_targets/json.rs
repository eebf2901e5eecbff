//! JSON records: whatever serde_json takes as an object within our limits, we take too.
#![no_main]

use ironpost_events::{EventBatch, ExtractorSet, FieldTable, Format, Outcome, ParseOptions, Parser, SourceFacts};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    let fields = FieldTable::new([""; 0]);
    let options = ParseOptions { format: Format::Json, ..ParseOptions::default() };
    let parser = Parser::new(Arc::new(ExtractorSet::default()), Arc::clone(&fields), options);
    let facts = parser.facts(&SourceFacts::default());
    let mut batch = EventBatch::new(fields);
    let outcome = parser.parse_record(data, 0, &facts, &mut batch);
    let small = data.len() < 1 << 16 && data.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() <= 32;
    let values = data.iter().filter(|byte| matches!(byte, b',' | b':')).count() < 4096;
    if small && values && matches!(serde_json::from_slice(data), Ok(serde_json::Value::Object(_))) {
        assert_eq!(outcome, Outcome::Parsed);
    }
    for line in batch.to_ndjson().split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        serde_json::from_slice::<serde_json::Value>(line).expect("output is JSON");
    }
});
