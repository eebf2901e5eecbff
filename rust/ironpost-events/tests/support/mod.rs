//! What the tests of the public surface share.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, reason = "test support")]

use ironpost_events::{
    CompiledFacts, EventBatch, ExtractorSet, FieldTable, Format, Outcome, ParseOptions, Parser, SourceFacts,
};
use serde_json::Value;
use std::sync::{Arc, LazyLock};

/// A parser with the shipped extractors, and what it needs.
pub struct Bench {
    pub parser: Parser,
    pub facts: CompiledFacts,
    pub batch: EventBatch,
}

/// 2026-11-20T12:00:00Z.
pub const NOW: i64 = 1_795_176_000_000_000_000;

/// The shipped extractors, compiled once per test binary.
pub fn extractors() -> Arc<ExtractorSet> {
    static SHIPPED: LazyLock<Arc<ExtractorSet>> =
        LazyLock::new(|| Arc::new(ExtractorSet::from_plan(include_bytes!("../extractors.json")).unwrap()));
    Arc::clone(&SHIPPED)
}

impl Bench {
    pub fn new(format: Format) -> Self {
        Self::with_facts(format, &SourceFacts::default())
    }

    pub fn with_facts(format: Format, facts: &SourceFacts) -> Self {
        let extractors = extractors();
        let fields = FieldTable::new(extractors.field_names());
        let options = ParseOptions { format, now: NOW, ..ParseOptions::default() };
        let parser = Parser::new(extractors, Arc::clone(&fields), options);
        let facts = parser.facts(facts);
        Self { parser, facts, batch: EventBatch::new(fields) }
    }

    pub fn record(&mut self, record: &[u8]) -> Outcome {
        self.parser.parse_record(record, 0, &self.facts, &mut self.batch)
    }

    /// The last row as JSON.
    pub fn last(&self) -> Value {
        let mut out = Vec::new();
        self.batch.row_to_json(self.batch.len() - 1, &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    pub fn json(&mut self, record: &[u8]) -> Value {
        self.record(record);
        self.last()
    }
}

/// One record in one format as JSON.
pub fn one(format: Format, record: impl AsRef<[u8]>) -> Value {
    Bench::new(format).json(record.as_ref())
}
