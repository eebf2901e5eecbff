//! Packet records of the kernel filter as events. The ring buffer keeps what was not acknowledged, so a restart reads it
//! again; positions are numbered on across reboots and new ring buffers, so ids of detections never repeat.

use crate::intake::{Chunk, Closed, Frames, Kind, Lane};
use crate::receive::Receiver;
use crate::source::{Loss, Source, Sources};
use crate::stop::Stop;
use ironpost_events::{BatchError, Cell, EventBatch, FieldId, Logsource, Span, ValueKind, ecs};
use ironpost_xdp::{FilterError, PacketRecord, RingReader};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Records handed over at once.
const RECORDS: usize = 1024;

/// How long a wait for records lasts; acknowledged records are given back after it at the latest.
const WAIT: Duration = Duration::from_millis(20);

/// Where packet records come from: the ring buffer, or a test.
pub trait PacketSource: Send {
    /// Waits until a record may be there.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn wait(&mut self, timeout: Duration) -> Result<bool, FilterError>;
    /// Appends up to `limit` records, which stay in the kernel.
    fn read(&mut self, into: &mut Vec<PacketRecord>, limit: usize) -> usize;
    /// Gives everything before `position` back to the kernel.
    fn commit(&mut self, position: u64);
}

impl PacketSource for RingReader {
    fn wait(&mut self, timeout: Duration) -> Result<bool, FilterError> {
        Self::wait(self, timeout)
    }

    fn read(&mut self, into: &mut Vec<PacketRecord>, limit: usize) -> usize {
        Self::read(self, into, limit)
    }

    fn commit(&mut self, position: u64) {
        Self::commit(self, position);
    }
}

/// Where the numbering stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PacketCheckpoint {
    version: u32,
    /// Boot this ring buffer belongs to.
    boot_id: String,
    /// What is added to a position of the ring buffer.
    offset: u64,
    /// First number not yet used.
    position: u64,
    /// Newest moment of the boot clock seen.
    boot_ns: u64,
}

/// Reads packet records; runs on its own thread.
pub(crate) struct PacketReceiver {
    reader: Box<dyn PacketSource>,
    stored: PacketCheckpoint,
    numbered: bool,
    source: Arc<Source>,
    sources: Arc<Sources>,
    lane: Lane,
    stop: Arc<Stop>,
    acknowledged: Arc<AtomicU64>,
    /// Records taken and not handed over yet.
    under_way: u64,
}

impl PacketReceiver {
    /// Prepares to read from the first record that was not acknowledged.
    pub(crate) fn new(
        reader: Box<dyn PacketSource>,
        checkpoint: Option<&str>,
        source: Arc<Source>,
        sources: Arc<Sources>,
        lane: Lane,
        stop: Arc<Stop>,
        acknowledged: Arc<AtomicU64>,
    ) -> Self {
        let stored = checkpoint.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Self { reader, stored, numbered: false, source, sources, lane, stop, acknowledged, under_way: 0 }
    }

    /// Reads until the signal to stop, or until the kernel refuses.
    fn read(&mut self) {
        while !self.stop.given() {
            self.reader.commit(self.acknowledged.load(Ordering::SeqCst));
            match self.reader.wait(WAIT) {
                Ok(true) => {
                    self.sources.clear_problem(&self.source.id);
                    if self.take().is_err() {
                        return;
                    }
                }
                Ok(false) => self.sources.clear_problem(&self.source.id),
                Err(error) => {
                    self.sources.problem(&self.source.id, error.to_string(), error.hint());
                    return;
                }
            }
        }
        self.reader.commit(self.acknowledged.load(Ordering::SeqCst));
    }

    fn take(&mut self) -> Result<(), Closed> {
        let mut records = Vec::new();
        self.reader.read(&mut records, RECORDS);
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        let ring = last.next_position;
        self.number(first.position, first.boot_ns);
        self.stored.position = self.stored.position.max(self.stored.offset + ring);
        let newest = records.iter().map(|record| record.boot_ns).max().unwrap_or(0);
        self.stored.boot_ns = self.stored.boot_ns.max(newest);
        let count = records.len() as u64;
        self.source.counters.received(count, 0);
        self.under_way = count;
        let pushed = self.lane.push(Chunk {
            frames: Frames::Packets { records, ring },
            base: self.stored.offset,
            records: count,
            kind: Kind::Whole,
            ..Chunk::checkpoint_only(
                Arc::clone(&self.source),
                serde_json::to_string(&self.stored).unwrap_or_default(),
            )
        });
        self.under_way = 0;
        pushed
    }

    /// Decides at the first record whether it continues the numbering of the run before or begins a new ring buffer:
    /// a record read again is not newer than the newest one seen.
    fn number(&mut self, position: u64, boot_ns: u64) {
        if std::mem::replace(&mut self.numbered, true) {
            return;
        }
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot_id = boot_id.trim();
        let used = position + self.stored.offset < self.stored.position;
        if self.stored.boot_id != boot_id || (used && boot_ns > self.stored.boot_ns) {
            self.stored.offset = self.stored.position.saturating_sub(position);
            self.stored.boot_ns = 0;
        }
        self.stored.version = 1;
        boot_id.clone_into(&mut self.stored.boot_id);
    }
}

impl Receiver for PacketReceiver {
    fn run(&mut self) {
        self.read();
    }

    fn recover(&mut self) {
        self.source.counters.lost(Loss::Panic, std::mem::take(&mut self.under_way));
    }
}

/// Writes records as rows; how many fitted.
pub(crate) fn write_rows(records: &[PacketRecord], offset: u64, batch: &mut EventBatch) -> u64 {
    let logsource = batch.logsource_id(&Logsource {
        product: Some("ironpost".into()),
        category: Some("firewall".into()),
        service: Some("filter".into()),
    });
    let mut text = String::new();
    let rows = records.iter().map_while(|record| write_row(record, offset, logsource, &mut text, batch).ok());
    rows.count() as u64
}

fn write_row(
    record: &PacketRecord,
    offset: u64,
    logsource: u16,
    text: &mut String,
    batch: &mut EventBatch,
) -> Result<(), BatchError> {
    let raw = batch.append(record.to_json().to_string().as_bytes())?;
    batch.push_cell(Cell {
        field: ecs::EVENT_ORIGINAL,
        kind: ValueKind::Text,
        name: Span::default(),
        value: raw,
    });
    let mut put = |name: &str, kind: ValueKind, value: &str| -> Result<(), BatchError> {
        let field = batch.fields().id(name).unwrap_or(FieldId::UNREGISTERED);
        let name =
            if field == FieldId::UNREGISTERED { batch.append(name.as_bytes())? } else { Span::default() };
        let value = batch.append(value.as_bytes())?;
        batch.push_cell(Cell { field, kind, name, value });
        Ok(())
    };
    let number = |text: &mut String, value: u64| {
        text.clear();
        // Writing to memory has no way to fail.
        let _ = write!(text, "{value}");
    };
    let (source, destination) = (record.source.to_string(), record.destination.to_string());
    let transport = record.transport();
    put("ironpost.trust", ValueKind::Text, "spoofable")?;
    put("event.kind", ValueKind::Text, "event")?;
    put("event.category", ValueKind::Text, "network")?;
    put("event.action", ValueKind::Text, record.kind.action())?;
    put("ironpost.verdict", ValueKind::Text, record.kind.verdict())?;
    put("source.ip", ValueKind::Text, &source)?;
    put("destination.ip", ValueKind::Text, &destination)?;
    put("network.transport", ValueKind::Text, &transport)?;
    number(text, u64::from(record.length));
    put("network.bytes", ValueKind::Integer, text)?;
    let mut message = format!("{} {transport} {source} > {destination}", record.kind.action());
    if let Some((source_port, destination_port)) = record.ports {
        number(text, u64::from(source_port));
        put("source.port", ValueKind::Integer, text)?;
        number(text, u64::from(destination_port));
        put("destination.port", ValueKind::Integer, text)?;
        if record.protocol == 6 {
            number(text, u64::from(record.tcp_flags));
            put("tcp.flags", ValueKind::Integer, text)?;
        }
        let _ = write!(message, " port {destination_port}");
    }
    put("message", ValueKind::Text, &message)?;
    let position = offset + record.position;
    batch.finish_row(raw, Some(record.unix_ns), position, logsource, record.stands_for, "packet");
    Ok(())
}
