//! Event batches: rows of cells over one byte buffer.

use crate::fields::{FieldId, FieldTable};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A slice of the batch buffer (bytes; a buffer holds less than 4 GiB).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Span {
    fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// What a cell's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Text; any bytes, escapes already resolved.
    Text,
    /// A decimal integer, as text.
    Integer,
    /// Another JSON number, as text.
    Float,
    /// `true` or `false`.
    Bool,
    /// JSON null; no bytes.
    Null,
    /// A JSON object or an empty list: there, but without a value of its own; no bytes.
    Container,
}

impl ValueKind {
    /// True when there is something to compare with.
    pub fn has_value(self) -> bool {
        !matches!(self, Self::Null | Self::Container)
    }
}

/// One (field, value) of a row. A field may occur several times in a row (JSON arrays).
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// The field, or [`FieldId::UNREGISTERED`].
    pub field: FieldId,
    /// What the bytes are.
    pub kind: ValueKind,
    /// The name, for unregistered fields only.
    pub name: Span,
    /// The bytes.
    pub value: Span,
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// What the bytes are.
    pub kind: ValueKind,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// The Sigma log source of an event; an absent part is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Logsource {
    /// For example `linux`.
    pub product: Option<Box<str>>,
    /// For example `webserver`.
    pub category: Option<Box<str>>,
    /// For example `sshd`.
    pub service: Option<Box<str>>,
}

/// What a row carries beside its cells.
#[derive(Clone, Debug)]
pub struct RowInfo {
    /// The raw line, record or datagram as received.
    pub raw: Span,
    /// Event time, nanoseconds since the Unix epoch; `None` when the source gave none.
    pub timestamp: Option<i64>,
    /// Position of the record in its source (file: byte offset of its first byte; socket and ring buffer: sequence).
    pub position: u64,
    /// Log source, an index given by [`EventBatch::logsource_id`].
    pub logsource: u16,
    /// How many occurrences the line stands for (syslog "message repeated N times"), at least 1.
    pub repeat: u32,
    /// A bound left values of the record out: its fields are not all there is.
    pub truncated: bool,
    /// Name of the parser that understood the row, `event.format`; empty when none did.
    pub format: &'static str,
    cells: Range<u32>,
}

/// A batch is full (4 GiB of bytes or 2³² cells).
#[derive(Debug, thiserror::Error)]
#[error("event batch is full: {0}")]
pub struct BatchError(pub &'static str);

/// Bytes that many rows share (constants of extractors and sources): copied into a batch once, not per row.
#[derive(Debug)]
pub(crate) struct Pool {
    id: u64,
    bytes: Vec<u8>,
}

impl Pool {
    pub(crate) fn new() -> Self {
        // Only uniqueness matters, so no ordering with other memory is needed.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), bytes: Vec::new() }
    }

    /// Adds bytes; the span is relative to the pool.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Span {
        let span = Span { start: self.bytes.len() as u32, len: bytes.len() as u32 };
        self.bytes.extend_from_slice(bytes);
        span
    }
}

/// Where a pool's bytes begin in one batch, and the log sources already looked up for it.
#[derive(Debug)]
struct PoolUse {
    id: u64,
    base: u32,
    logsources: Vec<Option<u16>>,
}

/// A point to return to when a record turns out not to be what it looked like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    buffer: usize,
    cells: usize,
}

/// The last time-zone offset that was looked up (zone rules are slow, log lines come in order).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ZoneCache {
    pub(crate) quarter_hour: i64,
    pub(crate) offset_seconds: Option<i32>,
}

/// Rows of events over one buffer.
#[derive(Debug)]
pub struct EventBatch {
    fields: Arc<FieldTable>,
    buffer: Vec<u8>,
    cells: Vec<Cell>,
    rows: Vec<RowInfo>,
    logsources: Vec<Logsource>,
    pools: Vec<PoolUse>,
    /// Of the row being built.
    truncated: bool,
    pub(crate) zone_cache: ZoneCache,
}

impl EventBatch {
    /// An empty batch whose cells use the ids of `fields`.
    pub fn new(fields: Arc<FieldTable>) -> Self {
        Self {
            fields,
            buffer: Vec::new(),
            cells: Vec::new(),
            rows: Vec::new(),
            logsources: vec![Logsource::default()],
            pools: Vec::new(),
            truncated: false,
            zone_cache: ZoneCache::default(),
        }
    }

    /// The field table the ids belong to.
    pub fn fields(&self) -> &Arc<FieldTable> {
        &self.fields
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes held in the buffer.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.cells.clear();
        self.rows.clear();
        self.pools.clear();
        self.truncated = false;
    }

    /// Of the row being built: a bound left values out.
    pub(crate) fn mark_truncated(&mut self) {
        self.truncated = true;
    }

    /// Number of rows that a bound left values out of.
    pub fn truncated(&self) -> u64 {
        self.rows.iter().filter(|row| row.truncated).count() as u64
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { buffer: self.buffer.len(), cells: self.cells.len() }
    }

    /// Forgets everything appended since the mark; only for the row being built.
    pub(crate) fn roll_back(&mut self, mark: Mark) {
        self.buffer.truncate(mark.buffer);
        self.cells.truncate(mark.cells);
        self.truncated = false;
        self.pools.retain(|pool| (pool.base as usize) < mark.buffer);
    }

    /// Where the pool's bytes begin in this batch; copies them at first use.
    pub(crate) fn pool_base(&mut self, pool: &Pool) -> Result<u32, BatchError> {
        match self.pools.iter().find(|known| known.id == pool.id) {
            Some(known) => Ok(known.base),
            None => {
                let base = self.append(&pool.bytes)?.start;
                self.pools.push(PoolUse { id: pool.id, base, logsources: Vec::new() });
                Ok(base)
            }
        }
    }

    /// The id of a log source that is the `slot`-th of a pool; `make` is called once per batch.
    pub(crate) fn pool_logsource(
        &mut self,
        pool: &Pool,
        slot: usize,
        make: impl FnOnce() -> Logsource,
    ) -> u16 {
        let position = self.pools.iter().position(|known| known.id == pool.id);
        if let Some(found) =
            position.and_then(|index| self.pools[index].logsources.get(slot).copied().flatten())
        {
            return found;
        }
        let id = self.logsource_id(&make());
        if let Some(index) = position {
            let slots = &mut self.pools[index].logsources;
            if slots.len() <= slot {
                slots.resize(slot + 1, None);
            }
            slots[slot] = Some(id);
        }
        id
    }

    /// Row `index`, which must be below [`Self::len`].
    pub fn row(&self, index: usize) -> RowRef<'_> {
        RowRef { batch: self, info: &self.rows[index] }
    }

    /// The index of a log source in this batch, added when new. 0 is "nothing known".
    pub fn logsource_id(&mut self, logsource: &Logsource) -> u16 {
        if let Some(found) = self.logsources.iter().position(|known| known == logsource) {
            return found as u16;
        }
        if self.logsources.len() >= usize::from(u16::MAX) {
            return 0;
        }
        self.logsources.push(logsource.clone());
        (self.logsources.len() - 1) as u16
    }

    /// All log sources, by index.
    pub fn logsources(&self) -> &[Logsource] {
        &self.logsources
    }

    /// Appends bytes to the buffer and says where they are.
    ///
    /// # Errors
    /// When the buffer would pass 4 GiB.
    pub fn append(&mut self, bytes: &[u8]) -> Result<Span, BatchError> {
        let start = self.buffer.len();
        if start + bytes.len() > u32::MAX as usize {
            return Err(BatchError("4 GiB of bytes"));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(Span { start: start as u32, len: bytes.len() as u32 })
    }

    /// Appends what `write` appends to the buffer, at most `most` bytes, and says where it is.
    pub(crate) fn append_with(
        &mut self,
        most: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Span, BatchError> {
        let start = self.buffer.len();
        if start + most > u32::MAX as usize {
            return Err(BatchError("4 GiB of bytes"));
        }
        write(&mut self.buffer);
        Ok(Span { start: start as u32, len: (self.buffer.len() - start) as u32 })
    }

    /// The bytes of a span.
    pub fn slice(&self, span: Span) -> &[u8] {
        &self.buffer[span.range()]
    }

    /// Adds a cell to the row being built.
    pub fn push_cell(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    /// Adds a row of another batch under this batch's field ids.
    ///
    /// `logsource` replaces the row's own; `offset` is added to its position.
    ///
    /// # Errors
    /// When the buffer would pass 4 GiB.
    pub fn copy_row(
        &mut self,
        row: RowRef<'_>,
        logsource: Option<&Logsource>,
        offset: u64,
    ) -> Result<(), BatchError> {
        let info = row.info();
        let raw = self.append(row.raw())?;
        for cell in row.cells() {
            let name = row.name_of(cell);
            let field = self.fields.find(name);
            let (field, name) = match field {
                Some(field) => (field, Span::default()),
                None => (FieldId::UNREGISTERED, self.append(name)?),
            };
            // A value that is the whole record stays recognisable as such.
            let value = if cell.value == info.raw { raw } else { self.append(row.value_of(cell).bytes)? };
            self.push_cell(Cell { field, kind: cell.kind, name, value });
        }
        let source = self.logsource_id(logsource.unwrap_or_else(|| row.logsource()));
        self.truncated = info.truncated;
        self.finish_row(raw, info.timestamp, offset + info.position, source, info.repeat, info.format);
        Ok(())
    }

    /// Closes the row being built: it owns the cells pushed since the row before.
    pub fn finish_row(
        &mut self,
        raw: Span,
        timestamp: Option<i64>,
        position: u64,
        logsource: u16,
        repeat: u32,
        format: &'static str,
    ) {
        let start = self.rows.last().map_or(0, |row| row.cells.end);
        let cells = start..self.cells.len() as u32;
        let truncated = std::mem::take(&mut self.truncated);
        let repeat = repeat.max(1);
        self.rows.push(RowInfo { raw, timestamp, position, logsource, repeat, truncated, format, cells });
    }
}

/// One row of a batch.
#[derive(Clone, Copy)]
pub struct RowRef<'a> {
    batch: &'a EventBatch,
    info: &'a RowInfo,
}

impl<'a> RowRef<'a> {
    /// Time, position, raw span and so on.
    pub fn info(&self) -> &'a RowInfo {
        self.info
    }

    /// The raw record.
    pub fn raw(&self) -> &'a [u8] {
        self.batch.slice(self.info.raw)
    }

    /// The row's log source.
    pub fn logsource(&self) -> &'a Logsource {
        &self.batch.logsources[usize::from(self.info.logsource)]
    }

    /// The row's cells in source order.
    pub fn cells(&self) -> &'a [Cell] {
        &self.batch.cells[self.info.cells.start as usize..self.info.cells.end as usize]
    }

    /// A cell's value.
    pub fn value_of(&self, cell: &Cell) -> Value<'a> {
        Value { kind: cell.kind, bytes: self.batch.slice(cell.value) }
    }

    /// A cell's field name.
    pub fn name_of(&self, cell: &Cell) -> &'a [u8] {
        if cell.field == FieldId::UNREGISTERED {
            self.batch.slice(cell.name)
        } else {
            self.batch.fields.name(cell.field).as_bytes()
        }
    }

    /// All values of a field; several when the source had an array.
    pub fn values(&self, field: FieldId) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let row = *self;
        self.cells().iter().filter(move |cell| cell.field == field).map(move |cell| row.value_of(cell))
    }

    /// The first value of a field.
    pub fn first(&self, field: FieldId) -> Option<Value<'a>> {
        self.values(field).next()
    }
}
