//! JSON objects as rows: events of applications, journald, and Docker's log files.

use super::{Parser, Row, SLOT_WEB, within};
use crate::batch::{BatchError, Cell, Span, ValueKind};
use crate::fields::{FieldId, FieldTable, ecs};
use crate::json::{self, JsonError, Leaf};
use crate::time::{epoch, rfc3339};

/// Keys that mean the same, best first; the best one present is used.
const MESSAGE: [&str; 4] = ["message", "msg", "MESSAGE", "log"];
const TIME: [&str; 11] = [
    "@timestamp",
    "timestamp",
    "time",
    "ts",
    "_SOURCE_REALTIME_TIMESTAMP",
    "__REALTIME_TIMESTAMP",
    "UtcTime",
    "EventTime",
    "eventTime",
    "Event.System.TimeCreated.#attributes.SystemTime",
    "datetime",
];
const HOST: [&str; 5] = ["host.hostname", "host", "hostname", "host.name", "_HOSTNAME"];
const PROGRAM: [&str; 5] = ["process.name", "process", "program", "SYSLOG_IDENTIFIER", "_COMM"];
const PID: [&str; 4] = ["process.pid", "pid", "SYSLOG_PID", "_PID"];
const LEVEL: [&str; 3] = ["log.level", "level", "severity"];
/// Keys that mean something else, each by itself.
const OTHERS: [(&str, Means); 5] = [
    ("event.repeat", Means::Ours),
    ("event.original", Means::Original),
    ("event.action", Means::Action),
    ("event.category", Means::Category),
    ("event.format", Means::Ours),
];

/// What a key of an object means to the parser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Means {
    #[default]
    Nothing,
    Message,
    Time,
    Host,
    Program,
    Pid,
    Level,
    /// What only the parser itself says of a record.
    Ours,
    Original,
    Action,
    Category,
}

fn roles() -> impl Iterator<Item = (&'static str, Means, u8)> {
    let lists: [(&'static [&'static str], Means); 6] = [
        (&MESSAGE, Means::Message),
        (&TIME, Means::Time),
        (&HOST, Means::Host),
        (&PROGRAM, Means::Program),
        (&PID, Means::Pid),
        (&LEVEL, Means::Level),
    ];
    let lists = lists
        .into_iter()
        .flat_map(|(keys, means)| keys.iter().enumerate().map(move |(rank, key)| (*key, means, rank as u8)));
    lists.chain(OTHERS.into_iter().map(|(key, means)| (key, means, 0)))
}

/// Every key that the parser itself looks at; field tables know them all.
pub(crate) fn well_known_keys() -> impl Iterator<Item = &'static str> {
    roles().map(|(key, _, _)| key)
}

/// What keys mean and their rank among keys of the same meaning, by field id.
#[derive(Debug)]
pub(super) struct Roles(Vec<(Means, u8)>);

impl Roles {
    pub(super) fn new(fields: &FieldTable) -> Self {
        let mut by_id = vec![(Means::Nothing, 0); fields.len()];
        for (key, means, rank) in roles() {
            if let Some(id) = fields.id(key) {
                by_id[usize::from(id.0)] = (means, rank);
            }
        }
        Self(by_id)
    }

    fn of(&self, field: FieldId) -> (Means, u8) {
        self.0.get(usize::from(field.0)).copied().unwrap_or_default()
    }
}

/// The best value seen so far of a list of keys.
#[derive(Clone, Copy, Default)]
struct Best {
    rank: u8,
    value: Option<(ValueKind, Span)>,
}

impl Best {
    fn offer(&mut self, rank: u8, kind: ValueKind, span: Span) {
        if self.value.is_none() || rank < self.rank {
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
    /// Reads a JSON object; false when it is none. What a bound leaves out is marked by `ironpost.truncated`.
    pub(super) fn json(&self, text: &[u8], base: u32, row: &mut Row<'_>) -> Result<bool, BatchError> {
        let before = row.batch.mark();
        let whole = Span { start: base, len: text.len() as u32 };
        let [mut message, mut time, mut host, mut program, mut pid, mut level] = [Best::default(); 6];
        let mut original = false;
        // An event that already names its action was taken apart before: by us, or by whoever sent it.
        let (mut taken_apart, mut web) = (false, false);
        let walked = json::walk(text, |name, in_text, leaf| {
            let field = self.fields.find(name).unwrap_or(FieldId::UNREGISTERED);
            let (means, rank) = self.roles.of(field);
            // Facts of the source and our own verdicts can't be claimed by the text of an event, however it is spelled.
            let known =
                if field == FieldId::UNREGISTERED { name } else { self.fields.name(field).as_bytes() };
            if means == Means::Ours
                || known.starts_with(b"ironpost.trust")
                || known.starts_with(b"ironpost.truncated")
                || row.facts.names.iter().any(|fact| fact.as_bytes() == known)
            {
                return Ok(());
            }
            let (kind, span) = match leaf {
                Leaf::Text(content, true) => {
                    let appended =
                        row.batch.append_with(content.len() + 8, |buffer| json::unescape(content, buffer));
                    (ValueKind::Text, appended.map_err(|_| JsonError::Full)?)
                }
                Leaf::Text(content, false) => (ValueKind::Text, within(text, content, base)),
                Leaf::Integer(number) => (ValueKind::Integer, within(text, number, base)),
                Leaf::Float(number) => (ValueKind::Float, within(text, number, base)),
                Leaf::Bool(word) => (ValueKind::Bool, within(text, word, base)),
                Leaf::Null => (ValueKind::Null, Span { start: base, len: 0 }),
                Leaf::Container => (ValueKind::Container, Span { start: base, len: 0 }),
            };
            let is_text = kind == ValueKind::Text;
            let is_time = is_text || matches!(kind, ValueKind::Integer | ValueKind::Float);
            match means {
                _ if kind == ValueKind::Container => {}
                Means::Message if is_text => message.offer(rank, kind, span),
                Means::Host if is_text => host.offer(rank, kind, span),
                Means::Program if is_text => program.offer(rank, kind, span),
                Means::Level if is_text => level.offer(rank, kind, span),
                Means::Time if is_time => time.offer(rank, kind, span),
                Means::Pid if is_time => pid.offer(rank, kind, span),
                Means::Original => original = true,
                Means::Action => taken_apart = true,
                Means::Category => web |= matches!(leaf, Leaf::Text(b"web", _)),
                _ => {}
            }
            let name = match in_text {
                _ if field != FieldId::UNREGISTERED => Span::default(),
                Some(name) => within(text, name, base),
                None => row.batch.append(name).map_err(|_| JsonError::Full)?,
            };
            row.batch.push_cell(Cell { field, kind, name, value: span });
            Ok(())
        });
        let cut = match walked {
            Ok(cut) => cut,
            Err(JsonError::Full) => return Err(BatchError("4 GiB of bytes")),
            Err(JsonError::Syntax) => {
                row.batch.roll_back(before);
                row.push(ecs::EVENT_ORIGINAL, ValueKind::Text, whole);
                return Ok(false);
            }
        };
        row.format = "json";
        if let Some(cut) = cut {
            row.batch.mark_truncated();
            let reason = row.batch.append(cut.reason().as_bytes())?;
            row.push(ecs::ERROR_MESSAGE, ValueKind::Text, reason);
            let word = row.batch.append(b"true")?;
            row.push(ecs::IRONPOST_TRUNCATED, ValueKind::Bool, word);
        }
        if let Some((kind, span)) = time.value {
            let mut zones = row.batch.zone_cache;
            let text = row.batch.slice(span);
            row.timestamp = match kind {
                ValueKind::Text => rfc3339(text, false, &self.completion, &mut zones)
                    .filter(|stamp| stamp.len == text.len())
                    .map_or_else(|| epoch(text), |stamp| stamp.nanos),
                _ => epoch(text),
            };
            row.batch.zone_cache = zones;
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
        let walked = json::walk(text, |name, _, leaf| match (name, leaf) {
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
        // The engine's own objects are small and flat; one that is cut is none of them.
        let (Ok(None), Some((log, escaped)), Some(stream), Some(time)) = (walked, log, stream, time) else {
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
