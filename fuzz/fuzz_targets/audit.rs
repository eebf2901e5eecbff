//! Any bytes as an audit log: where it is cut changes no event, every line is in one, and each gives a row of valid JSON.
#![no_main]

use ironpost_events::{
    AuditJoiner, EventBatch, ExtractorSet, FieldTable, Format, Outcome, ParseOptions, Parser, SourceFacts,
};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    let Some((&every, log)) = data.split_first() else { return };
    let lines: Vec<&[u8]> = log.split(|byte| *byte == b'\n').collect();
    let (mut whole, mut cut) = (AuditJoiner::default(), AuditJoiner::default());
    let (mut expected, mut given) = (Vec::new(), Vec::new());
    let mut place = 0;
    for (number, line) in lines.iter().enumerate() {
        whole.take(line, place, &mut expected);
        cut.take(line, place, &mut given);
        place += line.len() as u64 + 1;
        if every > 0 && number % usize::from(every) == 0 {
            // A restart here: what was held is read again from its places.
            let held = cut.held();
            cut = AuditJoiner::default();
            for (mut start, length) in held {
                let from = start as usize;
                for line in log[from..from + length as usize].split(|byte| *byte == b'\n') {
                    cut.take(line, start, &mut given);
                    start += line.len() as u64 + 1;
                }
            }
        }
    }
    whole.finish(&mut expected);
    cut.finish(&mut given);
    assert_eq!(given, expected);
    let fields = FieldTable::new(["type"]);
    let options = ParseOptions { format: Format::Auditd, ..ParseOptions::default() };
    let parser = Parser::new(Arc::new(ExtractorSet::default()), Arc::clone(&fields), options);
    let facts = parser.facts(&SourceFacts::default());
    for event in &given {
        let mut batch = EventBatch::new(Arc::clone(&fields));
        let outcome = parser.parse_record(&event.text, event.place, &facts, &mut batch);
        assert_eq!(batch.len(), usize::from(outcome != Outcome::Empty));
        serde_json::from_slice::<serde_json::Value>(&batch.to_ndjson()).expect("output is JSON");
    }
});
