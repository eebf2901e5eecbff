//! The row being built.

use super::CompiledFacts;
use crate::address::{self, Canonical};
use crate::batch::{BatchError, Cell, EventBatch, Span, ValueKind};
use crate::fields::{FieldId, ecs};
use crate::url;

/// A row being built.
pub(super) struct Row<'b> {
    pub(super) batch: &'b mut EventBatch,
    pub(super) facts: &'b CompiledFacts,
    pub(super) timestamp: Option<i64>,
    pub(super) repeat: u32,
    pub(super) format: &'static str,
    pub(super) slot: usize,
}

impl Row<'_> {
    pub(super) fn push(&mut self, field: FieldId, kind: ValueKind, value: Span) {
        self.batch.push_cell(Cell { field, kind, name: Span::default(), value });
    }

    /// A cell whose spans are relative to a pool that begins at `base`.
    pub(super) fn push_pooled(&mut self, mut cell: Cell, base: u32) {
        cell.name.start += base;
        cell.value.start += base;
        self.batch.push_cell(cell);
    }

    /// The canonical spelling of an address; nothing when the bytes are none.
    pub(super) fn push_address(&mut self, cell: Cell, span: Span) -> Result<(), BatchError> {
        let value = match address::canonical(self.batch.slice(span)) {
            None => return Ok(()),
            Some(Canonical::Part(range)) => {
                Span { start: span.start + range.start as u32, len: range.len() as u32 }
            }
            Some(Canonical::Text(text)) => self.batch.append(text.as_bytes())?,
        };
        self.batch.push_cell(Cell { value, ..cell });
        Ok(())
    }

    pub(super) fn push_url(&mut self, span: Span) -> Result<(), BatchError> {
        if span.len == 0 {
            return Ok(());
        }
        self.push(ecs::URL_ORIGINAL, ValueKind::Text, span);
        self.push_url_parts(span)
    }

    pub(super) fn push_url_parts(&mut self, span: Span) -> Result<(), BatchError> {
        let target = self.batch.slice(span);
        let decoded = url::decode(target);
        let parts = url::split(target);
        let part = |range: std::ops::Range<usize>| Span {
            start: span.start + range.start as u32,
            len: range.len() as u32,
        };
        self.push(ecs::URL_PATH, ValueKind::Text, part(parts.path));
        if let Some(query) = parts.query {
            self.push(ecs::URL_QUERY, ValueKind::Text, part(query));
        }
        let decoded = match decoded {
            Some(decoded) => self.batch.append(&decoded)?,
            None => span,
        };
        self.push(ecs::IRONPOST_URL_DECODED, ValueKind::Text, decoded);
        Ok(())
    }
}
