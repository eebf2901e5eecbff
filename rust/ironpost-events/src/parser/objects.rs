//! JSON objects as rows: events of applications, journald, and Docker's log files.

use super::{MAX_REPEAT, Parser, Row, SLOT_WEB, within};
use crate::batch::{BatchError, Span, ValueKind};
use crate::fields::{FieldId, ecs};
use crate::json::{self, JsonError, Leaf};
use crate::time::{epoch, rfc3339};

/// Keys that mean the same, best first; the best one present is used.
const MESSAGE_KEYS: &[&[u8]] = &[b"message", b"msg", b"MESSAGE", b"log"];
const TIME_KEYS: &[&[u8]] = &[
    b"@timestamp",
    b"timestamp",
    b"time",
    b"ts",
    b"_SOURCE_REALTIME_TIMESTAMP",
    b"__REALTIME_TIMESTAMP",
    b"UtcTime",
    b"EventTime",
    b"eventTime",
    b"Event.System.TimeCreated.#attributes.SystemTime",
    b"datetime",
];
const HOST_KEYS: &[&[u8]] = &[b"host.hostname", b"host", b"hostname", b"host.name", b"_HOSTNAME"];
const PROGRAM_KEYS: &[&[u8]] = &[b"process.name", b"process", b"program", b"SYSLOG_IDENTIFIER", b"_COMM"];
const PID_KEYS: &[&[u8]] = &[b"process.pid", b"pid", b"SYSLOG_PID", b"_PID"];
const LEVEL_KEYS: &[&[u8]] = &[b"log.level", b"level", b"severity"];

/// The best value seen so far of a list of keys.
#[derive(Clone, Copy, Default)]
struct Best {
    rank: usize,
    value: Option<(ValueKind, Span)>,
}

impl Best {
    fn offer(&mut self, keys: &[&[u8]], name: &[u8], kind: ValueKind, span: Span) {
        if let Some(rank) = keys.iter().position(|key| *key == name)
            && (self.value.is_none() || rank < self.rank)
        {
            *self = Self { rank, value: Some((kind, span)) };
        }
    }

    /// Pushes the value under its ECS name, unless it already stands there (rank 0).
    fn push(self, field: FieldId, row: &mut Row<'_>) {
        if let (Some((kind, span)), true) = (self.value, self.rank > 0) {
            row.push(field, kind, span);
        }
    }
}

impl Parser {
    /// Reads a JSON object; false (and only an `error.message`, when a limit is the reason) when it is none.
    pub(super) fn json(&self, text: &[u8], base: u32, row: &mut Row<'_>) -> Result<bool, BatchError> {
        let before = row.batch.mark();
        let whole = Span { start: base, len: text.len() as u32 };
        let [mut message, mut time, mut host, mut program, mut pid, mut level] = [Best::default(); 6];
        let mut original = false;
        // An event that already names its action was taken apart before: by us, or by whoever sent it.
        let (mut taken_apart, mut web) = (false, false);
        let mut repeat = 1;
        let mut plain = Vec::new();
        let walked = json::walk(text, |name, leaf| {
            // Facts of the source and our own verdicts can't be claimed by the text of an event.
            if name.starts_with(b"ironpost.trust")
                || name == b"event.format"
                || row.facts.names.iter().any(|fact| fact.as_bytes() == name)
            {
                return Ok(());
            }
            let (kind, span) = match leaf {
                Leaf::Text(content, true) => {
                    plain.clear();
                    json::unescape(content, &mut plain);
                    (ValueKind::Text, row.batch.append(&plain).map_err(|_| JsonError::Full)?)
                }
                Leaf::Text(content, false) => (ValueKind::Text, within(text, content, base)),
                Leaf::Integer(number) => (ValueKind::Integer, within(text, number, base)),
                Leaf::Float(number) => (ValueKind::Float, within(text, number, base)),
                Leaf::Bool(word) => (ValueKind::Bool, within(text, word, base)),
                Leaf::Null => (ValueKind::Null, Span { start: base, len: 0 }),
                Leaf::Container => {
                    let nothing = Span { start: base, len: 0 };
                    return self
                        .push_named(name, ValueKind::Container, nothing, row)
                        .map_err(|_| JsonError::Full);
                }
            };
            if name == b"event.repeat" {
                if let Leaf::Integer(digits) = leaf {
                    repeat = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).unwrap_or(1);
                }
                return Ok(());
            }
            original |= name == b"event.original";
            taken_apart |= name == b"event.action";
            web |= name == b"event.category" && matches!(leaf, Leaf::Text(b"web", _));
            if kind == ValueKind::Text {
                message.offer(MESSAGE_KEYS, name, kind, span);
                host.offer(HOST_KEYS, name, kind, span);
                program.offer(PROGRAM_KEYS, name, kind, span);
                level.offer(LEVEL_KEYS, name, kind, span);
            }
            if matches!(kind, ValueKind::Text | ValueKind::Integer | ValueKind::Float) {
                time.offer(TIME_KEYS, name, kind, span);
                pid.offer(PID_KEYS, name, kind, span);
            }
            self.push_named(name, kind, span, row).map_err(|_| JsonError::Full)
        });
        match walked {
            Ok(()) => {}
            Err(JsonError::Full) => return Err(BatchError("4 GiB of bytes")),
            Err(error) => {
                row.batch.roll_back(before);
                row.push(ecs::EVENT_ORIGINAL, ValueKind::Text, whole);
                if error != JsonError::Syntax {
                    let reason = row.batch.append(error.to_string().as_bytes())?;
                    row.push(ecs::ERROR_MESSAGE, ValueKind::Text, reason);
                }
                return Ok(false);
            }
        }
        row.format = "json";
        row.repeat = repeat.clamp(1, MAX_REPEAT);
        if let Some((kind, span)) = time.value {
            let text = row.batch.slice(span).to_vec();
            row.timestamp = match kind {
                ValueKind::Text => rfc3339(&text, false, &self.completion, &mut row.batch.zone_cache)
                    .filter(|stamp| stamp.len == text.len())
                    .map_or_else(|| epoch(&text), |stamp| stamp.nanos),
                _ => epoch(&text),
            };
        }
        if !original {
            row.push(ecs::EVENT_ORIGINAL, ValueKind::Text, whole);
        }
        host.push(ecs::HOST_HOSTNAME, row);
        program.push(ecs::PROCESS_NAME, row);
        level.push(ecs::LOG_LEVEL, row);
        if let Some((_, span)) = pid.value
            && row.batch.slice(span).iter().all(u8::is_ascii_digit)
        {
            pid.push(ecs::PROCESS_PID, row);
        }
        let Some((kind, span)) = message.value else {
            row.push(ecs::MESSAGE, ValueKind::Text, whole);
            return Ok(true);
        };
        if message.rank > 0 {
            row.push(ecs::MESSAGE, kind, span);
        }
        if taken_apart && web {
            row.slot = SLOT_WEB;
        } else if let Some((_, program)) = program.value {
            if taken_apart {
                self.speak_for(program, row);
            } else {
                self.extract_at(program, span, row)?;
            }
        }
        Ok(true)
    }

    /// Reads a line of Docker's `json-file` driver: `{"log":"…\n","stream":"stdout","time":"…"}`.
    ///
    /// The time is the engine's, not the one a container wrote into its text.
    pub(super) fn docker(&self, text: &[u8], base: u32, row: &mut Row<'_>) -> Result<bool, BatchError> {
        let (mut log, mut stream, mut time) = (None, None, None);
        let walked = json::walk(text, |name, leaf| match (name, leaf) {
            (b"log", Leaf::Text(content, escaped)) if log.is_none() => {
                log = Some((content, escaped));
                Ok(())
            }
            (b"stream", Leaf::Text(content, false)) if stream.is_none() => {
                stream = Some(content);
                Ok(())
            }
            (b"time", Leaf::Text(content, false)) if time.is_none() => {
                time = Some(content);
                Ok(())
            }
            (name, _) if name.starts_with(b"attrs.") => Ok(()),
            _ => Err(JsonError::Syntax),
        });
        let (Ok(()), Some((log, escaped)), Some(stream), Some(time)) = (walked, log, stream, time) else {
            return Ok(false);
        };
        let stamp = rfc3339(time, false, &self.completion, &mut row.batch.zone_cache);
        row.push(ecs::EVENT_ORIGINAL, ValueKind::Text, Span { start: base, len: text.len() as u32 });
        row.push(ecs::LOG_IOSTREAM, ValueKind::Text, within(text, stream, base));
        let newline = log.ends_with(b"\\n") && {
            let before = &log[..log.len() - 2];
            before.iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 0
        };
        let line = if newline { &log[..log.len() - 2] } else { log };
        if escaped && memchr::memchr(b'\\', line).is_some() {
            let mut plain = Vec::with_capacity(line.len());
            json::unescape(line, &mut plain);
            let at = row.batch.append(&plain)?.start;
            self.read_inner(&plain, at, row)?;
        } else {
            self.read_inner(line, within(text, line, base).start, row)?;
        }
        row.format = "docker";
        row.timestamp = stamp.and_then(|stamp| stamp.nanos);
        Ok(true)
    }

    /// Reads what a container wrote: any format but Docker's own, which would let it choose its time.
    fn read_inner(&self, text: &[u8], base: u32, row: &mut Row<'_>) -> Result<(), BatchError> {
        let mark = row.batch.mark();
        if super::looks_like_json(text) {
            if self.json(text, base, row)? {
                return Ok(());
            }
            row.batch.roll_back(mark);
        }
        self.read_text(text, base, row)
    }
}
