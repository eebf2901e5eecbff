//! The parser: one record in, one row out.

use crate::access;
use crate::audit::AuditJoiner;
use crate::batch::{BatchError, Cell, EventBatch, Logsource, Pool, Span, ValueKind};
use crate::extract::{Bound, Emit, ExtractorSet, Hit, named_cell};
use crate::fields::{FieldId, FieldTable, ecs};
use crate::syslog::{self, Context, Dialect};
use crate::time::Completion;
use jiff::tz::TimeZone;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};

mod auditd;
mod format;
mod objects;
mod row;

pub use format::{Format, FormatError};
use objects::Roles;
pub(crate) use objects::well_known_keys;
use row::Row;

/// Bytes a batch keeps free for what one record may add to itself.
const ROOM_PER_RECORD: usize = 64 << 20;
/// A repeated line stands for at most this many occurrences.
const MAX_REPEAT: u32 = 1_000_000;

/// How records are read.
#[derive(Clone, Debug)]
pub struct ParseOptions {
    /// The format of all records.
    pub format: Format,
    /// The year of timestamps without one; `None`: the latest year that is not in the future.
    pub year: Option<i16>,
    /// The zone of timestamps without one.
    pub timezone: TimeZone,
    /// The present, nanoseconds since the Unix epoch; only used to infer years. See [`Parser::set_now`].
    pub now: i64,
}

impl Default for ParseOptions {
    fn default() -> Self {
        Self { format: Format::Auto, year: None, timezone: TimeZone::UTC, now: 0 }
    }
}

/// What is known about every record of a source.
#[derive(Clone, Debug, Default)]
pub struct SourceFacts {
    /// Field and value: `container.id`, `log.file.path`, `ironpost.trust` …
    pub fields: Vec<(String, String)>,
    /// The log source where the record itself does not say.
    pub logsource: Logsource,
}

/// [`SourceFacts`] ready for a parser.
#[derive(Debug)]
pub struct CompiledFacts {
    pool: Pool,
    cells: Vec<Cell>,
    names: Vec<String>,
    logsource: Logsource,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A row that some parser understood.
    Parsed,
    /// A row with `message` and `event.original` only; its format is empty.
    Unparsed,
    /// Nothing there, no row.
    Empty,
    /// The batch can't take it; nothing was added. Try again with an empty batch.
    Full,
}

/// Outcomes of several records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that some parser understood.
    pub parsed: u64,
    /// Rows that none did.
    pub unparsed: u64,
    /// Empty lines.
    pub empty: u64,
    /// Lines that did not fit into the batch.
    pub refused: u64,
}

impl Counts {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Parsed => self.parsed += 1,
            Outcome::Unparsed => self.unparsed += 1,
            Outcome::Empty => self.empty += 1,
            Outcome::Full => self.refused += 1,
        }
    }
}

/// The numbers 0–191 as text, for priorities, facilities and severities.
static NUMBERS: LazyLock<(Pool, Vec<Span>)> = LazyLock::new(|| {
    let mut pool = Pool::new();
    let spans = (0..=191).map(|number: u8| pool.add(number.to_string().as_bytes())).collect();
    (pool, spans)
});

/// Slots of log sources per source: the source's own, web servers, then one per extractor.
const SLOT_SOURCE: usize = 0;
const SLOT_WEB: usize = 1;
const SLOT_EXTRACTORS: usize = 2;

/// Turns records into rows. Immutable but for the present; one parser serves any number of threads.
pub struct Parser {
    extractors: Arc<ExtractorSet>,
    fields: Arc<FieldTable>,
    format: Format,
    completion: Completion,
    now: AtomicI64,
    pool: Pool,
    bound: Vec<Vec<Bound>>,
    web: [Cell; 2],
    roles: Roles,
}

impl fmt::Debug for Parser {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Parser").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Parser {
    /// A parser whose rows use the ids of `fields`.
    pub fn new(extractors: Arc<ExtractorSet>, fields: Arc<FieldTable>, options: ParseOptions) -> Self {
        let mut pool = Pool::new();
        let bound = extractors.bind(&fields, &mut pool);
        let mut constant = |name: &str, value: &str| {
            let value = pool.add(value.as_bytes());
            Cell { value, ..named_cell(name, ValueKind::Text, &fields, &mut pool) }
        };
        let web = [constant("event.category", "web"), constant("event.action", "http_request")];
        Self {
            extractors,
            format: options.format,
            completion: Completion::new(options.timezone, options.year),
            now: AtomicI64::new(options.now),
            pool,
            bound,
            web,
            roles: Roles::new(&fields),
            fields,
        }
    }

    /// Tells the parser the present (nanoseconds since the epoch). A long-lived owner calls it now and then, so that
    /// years are inferred rightly after New Year.
    pub fn set_now(&self, now: i64) {
        self.now.store(now, Ordering::Relaxed);
    }

    /// The field table that batches for this parser must have.
    pub fn fields(&self) -> &Arc<FieldTable> {
        &self.fields
    }

    /// Prepares what is known about a source.
    pub fn facts(&self, facts: &SourceFacts) -> CompiledFacts {
        let mut pool = Pool::new();
        let cells = facts
            .fields
            .iter()
            .map(|(name, value)| {
                let value = pool.add(value.as_bytes());
                Cell { value, ..named_cell(name, ValueKind::Text, &self.fields, &mut pool) }
            })
            .collect();
        CompiledFacts {
            pool,
            cells,
            names: facts.fields.iter().map(|(name, _)| name.clone()).collect(),
            logsource: facts.logsource.clone(),
        }
    }

    /// Parses one record: a line, datagram or frame without its newline.
    ///
    /// `batch` must have been made with the same field table.
    pub fn parse_record(
        &self,
        record: &[u8],
        position: u64,
        facts: &CompiledFacts,
        batch: &mut EventBatch,
    ) -> Outcome {
        if trim_end(record).is_empty() {
            return Outcome::Empty;
        }
        let before = batch.mark();
        let row = (|| {
            reserve(record, batch)?;
            let raw = batch.append(record)?;
            self.row(record, raw, position, facts, batch)
        })();
        row.unwrap_or_else(|_: BatchError| {
            batch.roll_back(before);
            Outcome::Full
        })
    }

    /// Parses newline-separated lines; a line's position is `base_position` plus its offset in `chunk`.
    ///
    /// Records of the audit system are joined to events within the chunk; whoever has an event's records in several
    /// chunks joins them with an [`AuditJoiner`] first.
    pub fn parse_lines(
        &self,
        chunk: &[u8],
        base_position: u64,
        facts: &CompiledFacts,
        batch: &mut EventBatch,
    ) -> Counts {
        if self.format == Format::Auditd {
            return self.parse_audit_lines(chunk, base_position, facts, batch);
        }
        let mut counts = Counts::default();
        let Ok(whole) = reserve(chunk, batch).and_then(|()| batch.append(chunk)) else {
            counts.refused = memchr::memchr_iter(b'\n', chunk).count() as u64 + 1;
            return counts;
        };
        let mut start = 0;
        let ends = memchr::memchr_iter(b'\n', chunk).chain((!chunk.ends_with(b"\n")).then_some(chunk.len()));
        for end in ends {
            let line = &chunk[start..end];
            if trim_end(line).is_empty() {
                counts.empty += u64::from(end < chunk.len() || !line.is_empty());
            } else {
                let raw = Span { start: whole.start + start as u32, len: line.len() as u32 };
                let before = batch.mark();
                let outcome = reserve(line, batch)
                    .and_then(|()| self.row(line, raw, base_position + start as u64, facts, batch));
                counts.add(outcome.unwrap_or_else(|_| {
                    batch.roll_back(before);
                    Outcome::Full
                }));
            }
            start = end + 1;
        }
        counts
    }

    fn parse_audit_lines(
        &self,
        chunk: &[u8],
        base_position: u64,
        facts: &CompiledFacts,
        batch: &mut EventBatch,
    ) -> Counts {
        let mut counts = Counts::default();
        let (mut joiner, mut events) = (AuditJoiner::default(), Vec::new());
        let mut start = 0;
        let ends = memchr::memchr_iter(b'\n', chunk).chain((!chunk.ends_with(b"\n")).then_some(chunk.len()));
        for end in ends {
            let line = &chunk[start..end];
            counts.empty += u64::from(trim_end(line).is_empty() && (end < chunk.len() || !line.is_empty()));
            joiner.take(line, base_position + start as u64, &mut events);
            if end >= chunk.len().saturating_sub(1) {
                joiner.finish(&mut events);
            }
            for event in events.drain(..) {
                counts.add(self.parse_record(&event.text, event.place, facts, batch));
            }
            start = end + 1;
        }
        counts
    }

    fn row(
        &self,
        record: &[u8],
        raw: Span,
        position: u64,
        facts: &CompiledFacts,
        batch: &mut EventBatch,
    ) -> Result<Outcome, BatchError> {
        debug_assert!(Arc::ptr_eq(&self.fields, batch.fields()), "batch and parser share a field table");
        let base = batch.pool_base(&facts.pool)?;
        let mut row = Row { batch, facts, timestamp: None, repeat: 1, format: "", slot: SLOT_SOURCE };
        for cell in &facts.cells {
            row.push_pooled(*cell, base);
        }
        let original = row.batch.mark();
        row.push(ecs::EVENT_ORIGINAL, ValueKind::Text, raw);
        let text = trim_end(record);
        if self.format == Format::Json || (self.format == Format::Auto && looks_like_json(text)) {
            // The event's own `event.original`, if it has one, is the original; ours would only repeat it.
            row.batch.roll_back(original);
        }
        self.read(self.format, text, raw.start, &mut row)?;
        let Row { timestamp, repeat, format, slot, .. } = row;
        let logsource = batch.pool_logsource(&facts.pool, slot, || self.logsource(facts, slot));
        batch.finish_row(raw, timestamp, position, logsource, repeat, format);
        Ok(if format.is_empty() { Outcome::Unparsed } else { Outcome::Parsed })
    }

    fn logsource(&self, facts: &CompiledFacts, slot: usize) -> Logsource {
        let own = match slot {
            SLOT_SOURCE => return facts.logsource.clone(),
            SLOT_WEB => Logsource { category: Some("webserver".into()), ..Logsource::default() },
            _ => self.extractors.logsource(slot - SLOT_EXTRACTORS).clone(),
        };
        let or = |own: Option<Box<str>>, source: &Option<Box<str>>| own.or_else(|| source.clone());
        Logsource {
            product: or(own.product, &facts.logsource.product),
            category: or(own.category, &facts.logsource.category),
            service: or(own.service, &facts.logsource.service),
        }
    }

    /// Reads `text`, which stands at `base` in the batch buffer.
    fn read(&self, format: Format, text: &[u8], base: u32, row: &mut Row<'_>) -> Result<(), BatchError> {
        let understood = match format {
            Format::Auto => match text.first() {
                Some(b'{' | b' ' | b'\t') if looks_like_json(text) => {
                    self.docker(text, base, row)? || self.json(text, base, row)?
                }
                _ => return self.read_text(text, base, row),
            },
            Format::Syslog => self.syslog(Dialect::Any, text, base, row)?,
            Format::Rfc5424 => self.syslog(Dialect::Rfc5424, text, base, row)?,
            Format::Rfc3164 => self.syslog(Dialect::Rfc3164, text, base, row)?,
            Format::Json => self.json(text, base, row)?,
            Format::Apache => self.access("apache", text, base, row)?,
            Format::Nginx => self.access("nginx", text, base, row)?,
            Format::Docker => self.docker(text, base, row)?,
            Format::Auditd => self.audit(text, base, row)?,
        };
        if understood { Ok(()) } else { self.read_plain(text, base, row) }
    }

    /// A line that is no JSON.
    fn read_text(&self, text: &[u8], base: u32, row: &mut Row<'_>) -> Result<(), BatchError> {
        if (text.starts_with(b"type=") || text.starts_with(b"node=")) && self.audit(text, base, row)? {
            return Ok(());
        }
        let header = matches!(text.first(), Some(b'<' | b'0'..=b'9' | b'A'..=b'Z'));
        if (header && self.syslog(Dialect::Any, text, base, row)?)
            || self.access("apache", text, base, row)?
        {
            return Ok(());
        }
        self.read_plain(text, base, row)
    }

    /// A line without any header, which an extractor may still understand.
    fn read_plain(&self, text: &[u8], base: u32, row: &mut Row<'_>) -> Result<(), BatchError> {
        row.push(ecs::MESSAGE, ValueKind::Text, Span { start: base, len: text.len() as u32 });
        if matches!(self.format, Format::Auto | Format::Docker) && self.extract(b"", text, base, row)? {
            row.format = "text";
        }
        Ok(())
    }

    fn syslog(
        &self,
        dialect: Dialect,
        text: &[u8],
        base: u32,
        row: &mut Row<'_>,
    ) -> Result<bool, BatchError> {
        let context = Context { completion: &self.completion, now: self.now.load(Ordering::Relaxed) };
        let Some(header) = syslog::parse(text, dialect, &context, &mut row.batch.zone_cache) else {
            return Ok(false);
        };
        row.format = header.format;
        row.timestamp = header.timestamp;
        let span = |part: &[u8]| within(text, part, base);
        if let Some(priority) = header.priority {
            let (pool, numbers) = &*NUMBERS;
            let pool_base = row.batch.pool_base(pool)?;
            for (field, number) in [
                (ecs::LOG_SYSLOG_PRIORITY, priority),
                (ecs::LOG_SYSLOG_FACILITY, priority >> 3),
                (ecs::LOG_SYSLOG_SEVERITY, priority & 7),
            ] {
                let Span { start, len } = numbers[usize::from(number)];
                row.push(field, ValueKind::Integer, Span { start: start + pool_base, len });
            }
        }
        if !header.version.is_empty() {
            row.push(ecs::LOG_SYSLOG_VERSION, ValueKind::Text, span(header.version));
        }
        if !header.host.is_empty() {
            row.push(ecs::LOG_SYSLOG_HOSTNAME, ValueKind::Text, span(header.host));
            row.push(ecs::HOST_HOSTNAME, ValueKind::Text, span(header.host));
        }
        if !header.app.is_empty() {
            row.push(ecs::LOG_SYSLOG_APPNAME, ValueKind::Text, span(header.app));
            row.push(ecs::PROCESS_NAME, ValueKind::Text, span(header.app));
        }
        if !header.pid.is_empty() {
            row.push(ecs::LOG_SYSLOG_PROCID, ValueKind::Text, span(header.pid));
            if header.pid.len() <= 18 && header.pid.iter().all(u8::is_ascii_digit) {
                row.push(ecs::PROCESS_PID, ValueKind::Integer, span(header.pid));
            }
        }
        if !header.msgid.is_empty() {
            row.push(ecs::LOG_SYSLOG_MSGID, ValueKind::Text, span(header.msgid));
        }
        if !header.structured.is_empty() {
            self.structured(header.structured, span(header.structured), row)?;
        }
        let mut message = header.message;
        if let Some((count, inner)) = syslog::repeated(message) {
            row.repeat = count.min(MAX_REPEAT);
            message = inner;
        }
        row.push(ecs::MESSAGE, ValueKind::Text, span(message));
        // sudo and others put blanks before their text.
        let message = message.trim_ascii_start();
        self.extract(header.app, message, span(message).start, row)?;
        Ok(true)
    }

    fn structured(&self, bytes: &[u8], span: Span, row: &mut Row<'_>) -> Result<(), BatchError> {
        row.push(ecs::LOG_SYSLOG_STRUCTURED_DATA, ValueKind::Text, span);
        let mut name = Vec::new();
        let mut plain = Vec::new();
        let mut result = Ok(());
        syslog::walk_structured(bytes, |id, parameter, value| {
            if parameter.is_empty() || result.is_err() {
                return;
            }
            name.clear();
            for part in [b"log.syslog.structured_data." as &[u8], id, b".", parameter] {
                name.extend_from_slice(part);
            }
            result = if memchr::memchr(b'\\', value).is_some() {
                plain.clear();
                syslog::unescape_structured(value, &mut plain);
                row.batch.append(&plain)
            } else {
                Ok(within(bytes, value, span.start))
            }
            .and_then(|value| self.push_named(&name, ValueKind::Text, value, row));
        });
        result
    }

    /// Pushes a cell whose name is only known as bytes.
    fn push_named(
        &self,
        name: &[u8],
        kind: ValueKind,
        value: Span,
        row: &mut Row<'_>,
    ) -> Result<(), BatchError> {
        let (field, name) = match self.fields.find(name) {
            Some(field) => (field, Span::default()),
            None => (FieldId::UNREGISTERED, row.batch.append(name)?),
        };
        row.batch.push_cell(Cell { field, kind, name, value });
        Ok(())
    }

    fn access(
        &self,
        format: &'static str,
        text: &[u8],
        base: u32,
        row: &mut Row<'_>,
    ) -> Result<bool, BatchError> {
        let Some(access) = access::parse(text) else { return Ok(false) };
        row.format = format;
        row.timestamp = access.timestamp;
        self.push_access(&access, text, base, row)?;
        row.push(ecs::MESSAGE, ValueKind::Text, Span { start: base, len: text.len() as u32 });
        Ok(true)
    }

    fn push_access(
        &self,
        access: &access::Access<'_>,
        text: &[u8],
        base: u32,
        row: &mut Row<'_>,
    ) -> Result<(), BatchError> {
        row.slot = SLOT_WEB;
        let span = |part: &[u8]| within(text, part, base);
        let pool_base = row.batch.pool_base(&self.pool)?;
        for cell in self.web {
            row.push_pooled(cell, pool_base);
        }
        row.push(ecs::SOURCE_ADDRESS, ValueKind::Text, span(access.client));
        row.push_address(Cell { field: ecs::SOURCE_IP, ..TEXT_CELL }, span(access.client))?;
        for (field, kind, value) in [
            (ecs::USER_NAME, ValueKind::Text, access.user),
            (ecs::HTTP_REQUEST_METHOD, ValueKind::Text, access.method),
            (ecs::HTTP_VERSION, ValueKind::Text, access.version),
            (ecs::HTTP_RESPONSE_STATUS_CODE, ValueKind::Integer, access.status),
            (ecs::HTTP_RESPONSE_BODY_BYTES, ValueKind::Integer, access.bytes),
            (ecs::HTTP_REQUEST_REFERRER, ValueKind::Text, access.referrer),
            (ecs::USER_AGENT_ORIGINAL, ValueKind::Text, access.agent),
        ] {
            if !value.is_empty() {
                row.push(field, kind, span(value));
            }
        }
        // A request that is no request line (a TLS hello on a plain port, a scanner) is still a target to match on.
        let target = if access.method.is_empty() { access.request } else { access.target };
        row.push_url(span(target))
    }

    /// Runs the extractors over a program's message; true when a pattern matched.
    fn extract(
        &self,
        program: &[u8],
        message: &[u8],
        base: u32,
        row: &mut Row<'_>,
    ) -> Result<bool, BatchError> {
        if matches!(program, b"nginx" | b"apache" | b"apache2" | b"httpd")
            && let Some(access) = access::parse(message)
        {
            self.push_access(&access, message, base, row)?;
            return Ok(true);
        }
        let Some(hit) = self.extractors.find(program, message) else {
            if let Some(speaker) = self.extractors.speaker(program) {
                row.slot = SLOT_EXTRACTORS + speaker;
            }
            return Ok(false);
        };
        self.push_hit(&hit, base, row)?;
        Ok(true)
    }

    /// The same for a program and a message that stand in the batch buffer.
    fn extract_at(&self, program: Span, message: Span, row: &mut Row<'_>) -> Result<(), BatchError> {
        let hit = self.extractors.find(row.batch.slice(program), row.batch.slice(message));
        match hit {
            Some(hit) => self.push_hit(&hit, message.start, row)?,
            None => self.speak_for(program, row),
        }
        Ok(())
    }

    /// Takes the log source of the extractor that knows the program, though no pattern matched.
    fn speak_for(&self, program: Span, row: &mut Row<'_>) {
        if let Some(speaker) = self.extractors.speaker(row.batch.slice(program)) {
            row.slot = SLOT_EXTRACTORS + speaker;
        }
    }

    fn push_hit(&self, hit: &Hit, base: u32, row: &mut Row<'_>) -> Result<(), BatchError> {
        row.slot = SLOT_EXTRACTORS + hit.extractor;
        let bound = &self.bound[hit.extractor][hit.pattern];
        let pool_base = row.batch.pool_base(&self.pool)?;
        for cell in &bound.constants {
            row.push_pooled(*cell, pool_base);
        }
        for (target, range) in bound.targets.iter().zip(&hit.captures) {
            let (Some(target), Some((start, end))) = (target, range) else { continue };
            let span = Span { start: base + start, len: end - start };
            let mut cell = target.cell;
            cell.name.start += pool_base;
            match target.emit {
                Emit::Text | Emit::Integer => row.batch.push_cell(Cell { value: span, ..cell }),
                Emit::Ip => row.push_address(cell, span)?,
                Emit::Host => {
                    row.batch.push_cell(Cell { value: span, ..cell });
                    if let Some(mut sister) = target.sister {
                        sister.name.start += pool_base;
                        row.push_address(sister, span)?;
                    }
                }
                Emit::Url => {
                    row.batch.push_cell(Cell { value: span, ..cell });
                    row.push_url_parts(span)?;
                }
            }
        }
        Ok(())
    }
}

const TEXT_CELL: Cell = Cell {
    field: FieldId::UNREGISTERED,
    kind: ValueKind::Text,
    name: Span { start: 0, len: 0 },
    value: Span { start: 0, len: 0 },
};

fn reserve(record: &[u8], batch: &EventBatch) -> Result<(), BatchError> {
    let room = (u32::MAX as usize).saturating_sub(batch.bytes());
    if room < ROOM_PER_RECORD.saturating_add(record.len()) {
        return Err(BatchError("4 GiB of bytes"));
    }
    Ok(())
}

fn trim_end(record: &[u8]) -> &[u8] {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    record.strip_suffix(b"\r").unwrap_or(record)
}

fn looks_like_json(text: &[u8]) -> bool {
    text.iter().find(|byte| !matches!(byte, b' ' | b'\t')) == Some(&b'{')
}

/// The batch span of `part`, a sub-slice of `text`, which stands at `base`.
fn within(text: &[u8], part: &[u8], base: u32) -> Span {
    let offset = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    // An empty part may be a constant that lies elsewhere.
    let offset = if part.is_empty() && offset > text.len() { 0 } else { offset };
    Span { start: base + offset as u32, len: part.len() as u32 }
}
