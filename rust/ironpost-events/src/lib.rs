//! Bytes in, events out: batches, field registry, parsers, extractors.
//!
//! An event is a row of (field, byte slice) over the batch's one buffer; nothing is allocated per field.
//!
//! ```
//! use ironpost_events::{EventBatch, ExtractorSet, FieldTable, ParseOptions, Parser, SourceFacts, ecs};
//! use std::sync::Arc;
//!
//! let fields = FieldTable::new(["Image"]);
//! let parser = Parser::new(Arc::new(ExtractorSet::default()), fields.clone(), ParseOptions::default());
//! let facts = parser.facts(&SourceFacts::default());
//! let mut batch = EventBatch::new(fields);
//! parser.parse_lines(b"<34>1 2003-10-11T22:14:15.003Z host su - ID47 - failed\n", 0, &facts, &mut batch);
//! assert_eq!(batch.row(0).first(ecs::PROCESS_NAME).map(|value| value.bytes), Some(&b"su"[..]));
//! ```

mod access;
mod address;
mod audit;
mod batch;
mod extract;
mod fields;
mod json;
mod ndjson;
mod parser;
mod syslog;
mod time;
mod url;

pub use audit::{AuditEvent, AuditJoiner};
pub use batch::{BatchError, Cell, EventBatch, Logsource, RowInfo, RowRef, Span, Value, ValueKind};
pub use extract::{ExtractorError, ExtractorSet, PatternError};
pub use fields::{FieldId, FieldTable, STATIC_FIELDS, ecs};
pub use ndjson::{Element, Entry, EntryValue};
pub use parser::{CompiledFacts, Counts, Format, FormatError, Outcome, ParseOptions, Parser, SourceFacts};
