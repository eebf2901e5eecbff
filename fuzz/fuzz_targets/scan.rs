//! Any lines as events of a fixed set of rules: never a panic, and each line gives what it gives on its own.
#![no_main]

use ironpost_detect::{Compiled, RuleSet, Scratch};
use ironpost_events::{EventBatch, ExtractorSet, FieldTable, Format, Parser, ParseOptions, SourceFacts};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

static RULES: LazyLock<Compiled> = LazyLock::new(|| {
    let set = Arc::new(RuleSet::from_plan(include_bytes!("../rules.json")).expect("the plan is one"));
    let table = FieldTable::new(set.field_names().map(str::to_owned));
    set.bind(table)
});
static PARSER: LazyLock<Parser> = LazyLock::new(|| {
    let options = ParseOptions { format: Format::Json, ..ParseOptions::default() };
    Parser::new(Arc::new(ExtractorSet::default()), Arc::clone(RULES.fields()), options)
});

fn found(lines: &[&[u8]], scratch: &mut Scratch) -> Vec<(u32, u32)> {
    let facts = PARSER.facts(&SourceFacts::default());
    let mut batch = EventBatch::new(Arc::clone(RULES.fields()));
    for line in lines {
        PARSER.parse_record(line, 0, &facts, &mut batch);
    }
    let mut found = Vec::new();
    RULES.evaluate(&batch, scratch, &mut found);
    found.iter().map(|found| (found.row, found.rule)).collect()
}

fuzz_target!(|data: &[u8]| {
    // Rows are lines that are not empty; only these have a place to compare.
    let lines: Vec<&[u8]> =
        data.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    let mut scratch = Scratch::new();
    let together = found(&lines, &mut scratch);
    let mut alone = Vec::new();
    for (row, line) in lines.iter().enumerate() {
        alone.extend(found(&[line], &mut Scratch::new()).iter().map(|&(_, rule)| (row as u32, rule)));
    }
    assert_eq!(together, alone);
});
