//! Docker's json-file driver writes a long line of a container in pieces of 16 KiB, each as a record of its own; only
//! the last one's `log` ends with a newline. Here they become one record again, so that nothing hides at a border.

use crate::files::audit::AuditLog;
use crate::files::follow::GENERATION_SHIFT;
use memchr::{memchr_iter, memmem};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Bytes of one line that are joined; what is longer goes on as a record of its own.
const MAX_JOINED: usize = 1 << 20;

/// Streams joined at one time; Docker has two.
const MAX_STREAMS: usize = 4;

/// How long the next piece is waited for: a container may end without a newline.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a piece lies that waits for the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldPiece {
    pub(crate) generation: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// A record in a buffer: first byte, length, position in its source.
pub(crate) type Placed = (u32, u32, u64);

/// The pieces of one stream's line so far.
#[derive(Debug)]
struct Line {
    log: String,
    /// The record of the newest piece; its `log` is replaced by the whole.
    record: Map<String, Value>,
    pieces: Vec<HeldPiece>,
    position: u64,
    since: Instant,
}

/// Joins what a format spreads over several lines of one followed path.
pub(crate) trait Join: std::fmt::Debug + Send {
    /// True when nothing waits.
    fn is_empty(&self) -> bool;

    /// Where the waiting pieces lie, for the checkpoint; in the order of the log.
    fn held(&self) -> Vec<HeldPiece>;

    /// Joins what is in the first `filled` bytes of the buffer and says where in the buffer the records stand then.
    /// `None` when every line is a record as it stands.
    ///
    /// `start` is the byte of the file of that generation that the buffer begins with.
    fn join(
        &mut self,
        buffer: &mut Vec<u8>,
        filled: usize,
        generation: u64,
        start: u64,
    ) -> Option<Vec<Placed>>;

    /// Takes a piece again that waited when the checkpoint was stored.
    fn restore(&mut self, record: &[u8], piece: &HeldPiece);

    /// Records whose next piece did not come, or lies in a file that is left, as a buffer with its records.
    fn overdue(&mut self, is_left: &dyn Fn(u64) -> bool) -> Option<(Vec<u8>, Vec<Placed>)>;

    /// Records longer than the limit since the last call.
    fn take_too_long(&mut self) -> u64 {
        0
    }

    /// Records given out with pieces missing since the last call.
    fn take_incomplete(&mut self) -> u64 {
        0
    }
}

/// The joiner of a format, where it needs one.
pub(crate) fn joiner(format: &str) -> Option<Box<dyn Join>> {
    match format {
        "docker" => Some(Box::<Joiner>::default()),
        "auditd" => Some(Box::<AuditLog>::default()),
        _ => None,
    }
}

/// Joins the pieces of one followed path.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    lines: BTreeMap<String, Line>,
    /// Lines longer than the limit.
    too_long: u64,
}

impl Join for Joiner {
    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn held(&self) -> Vec<HeldPiece> {
        self.lines.values().flat_map(|line| line.pieces.iter().cloned()).collect()
    }

    /// Whole records stay where they are, joined ones are appended.
    fn join(
        &mut self,
        buffer: &mut Vec<u8>,
        filled: usize,
        generation: u64,
        start: u64,
    ) -> Option<Vec<Placed>> {
        if self.is_empty() && buffer[..filled].split(|byte| *byte == b'\n').all(is_surely_whole) {
            return None;
        }
        let mut placed = Vec::new();
        let mut joined = Vec::new();
        let mut all_whole = true;
        let mut begin = 0;
        let ends: Vec<usize> = memchr_iter(b'\n', &buffer[..filled]).chain([filled]).collect();
        for end in ends {
            let offset = start + begin as u64;
            let record = &buffer[begin..end.max(begin)];
            let piece = HeldPiece { generation, offset, length: record.len() as u32 };
            match self.take(record, piece, position(generation, offset)) {
                Taken::Whole if record.is_empty() => {}
                Taken::Whole => {
                    placed.push((begin as u32, record.len() as u32, position(generation, offset)))
                }
                Taken::Held => all_whole = false,
                Taken::Joined(text, position) => {
                    all_whole = false;
                    placed.push(((filled + joined.len()) as u32, text.len() as u32, position));
                    joined.extend_from_slice(&text);
                }
            }
            begin = end + 1;
        }
        if all_whole {
            return None;
        }
        buffer.truncate(filled);
        buffer.extend_from_slice(&joined);
        Some(placed)
    }

    fn restore(&mut self, record: &[u8], piece: &HeldPiece) {
        let position = position(piece.generation, piece.offset);
        // Whole only when the file does not hold any more what it held: nothing to wait for then.
        let _ = self.take(record, piece.clone(), position);
    }

    fn overdue(&mut self, is_left: &dyn Fn(u64) -> bool) -> Option<(Vec<u8>, Vec<Placed>)> {
        let due: Vec<String> = self
            .lines
            .iter()
            .filter(|(_, line)| {
                line.since.elapsed() >= PATIENCE || line.pieces.iter().any(|piece| is_left(piece.generation))
            })
            .map(|(stream, _)| stream.clone())
            .collect();
        let (mut buffer, mut placed) = (Vec::new(), Vec::new());
        for line in due.iter().filter_map(|stream| self.lines.remove(stream)) {
            let position = line.position;
            let record = line.into_record();
            placed.push((buffer.len() as u32, record.len() as u32, position));
            buffer.extend_from_slice(&record);
        }
        (!placed.is_empty()).then_some((buffer, placed))
    }
    fn take_too_long(&mut self) -> u64 {
        std::mem::take(&mut self.too_long)
    }
}

impl Joiner {
    fn take(&mut self, record: &[u8], piece: HeldPiece, position: u64) -> Taken {
        if self.is_empty() && is_surely_whole(record) {
            return Taken::Whole;
        }
        let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(record) else { return Taken::Whole };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let (Some(log), Some(stream)) = (text("log"), text("stream")) else { return Taken::Whole };
        let ended = log.ends_with('\n');
        let (log, stream) = (log.to_owned(), stream.to_owned());
        if !self.lines.contains_key(&stream) && (ended || self.lines.len() >= MAX_STREAMS) {
            return Taken::Whole;
        }
        let line = self.lines.entry(stream.clone()).or_insert_with(|| Line {
            log: String::new(),
            record: Map::new(),
            pieces: Vec::new(),
            position,
            since: Instant::now(),
        });
        line.log.push_str(&log);
        line.record = fields;
        line.pieces.push(piece);
        line.since = Instant::now();
        let too_long = line.log.len() > MAX_JOINED;
        if !ended && !too_long {
            return Taken::Held;
        }
        self.too_long += u64::from(too_long);
        self.lines.remove(&stream).map_or(Taken::Held, |line| {
            let position = line.position;
            Taken::Joined(line.into_record(), position)
        })
    }
}

fn position(generation: u64, offset: u64) -> u64 {
    (generation << GENERATION_SHIFT) | offset
}

#[derive(Debug)]
enum Taken {
    Whole,
    Held,
    Joined(Vec<u8>, u64),
}

impl Line {
    fn into_record(mut self) -> Vec<u8> {
        self.record.insert("log".to_owned(), Value::String(self.log));
        serde_json::to_vec(&self.record).unwrap_or_default()
    }
}

/// Whether the record is as Docker writes a whole line; seen without reading the JSON. A quote inside a text is written
/// with a backslash, so the end of `log` cannot be forged.
fn is_surely_whole(record: &[u8]) -> bool {
    if record.is_empty() {
        return true;
    }
    let Some(end) = memmem::find(record, br#"","stream":""#) else { return false };
    let Some(before) = record[..end].strip_suffix(b"n") else { return false };
    let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
    backslashes % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn piece(log: &str, stream: &str) -> String {
        format!("{}\n", json!({"log": log, "stream": stream, "time": "2026-11-20T10:00:00Z"}))
    }

    /// Logs and positions of the records a text becomes.
    fn joined(joiner: &mut Joiner, text: &str, start: u64) -> Option<Vec<(String, u64)>> {
        let mut buffer = text.as_bytes().to_vec();
        let placed = joiner.join(&mut buffer, text.len(), 0, start)?;
        Some(
            placed
                .into_iter()
                .map(|(begin, length, position)| {
                    let record = &buffer[begin as usize..(begin + length) as usize];
                    let record: Value = serde_json::from_slice(record).unwrap();
                    (record["log"].as_str().unwrap().to_owned(), position)
                })
                .collect(),
        )
    }

    #[test]
    fn pieces_of_one_stream_become_one_record_at_the_position_of_the_first() {
        let mut joiner = Joiner::default();
        let first = piece("GET /?q=%3Cscr", "stdout");
        let text = format!("{first}{}{}", piece("other\n", "stderr"), piece("ipt%3E\n", "stdout"));
        assert_eq!(
            joined(&mut joiner, &text, 100).unwrap(),
            [("other\n".to_owned(), 100 + first.len() as u64), ("GET /?q=%3Cscript%3E\n".to_owned(), 100)]
        );
        assert!(joiner.is_empty());
    }

    #[test]
    fn a_piece_waits_across_chunks_and_is_found_again_at_its_place() {
        let mut joiner = Joiner::default();
        let first = piece("half", "stdout");
        assert_eq!(joined(&mut joiner, &first, 7).unwrap(), []);
        let held = joiner.held();
        assert_eq!(held, [HeldPiece { generation: 0, offset: 7, length: first.len() as u32 - 1 }]);
        let mut again = Joiner::default();
        again.restore(first.trim_end().as_bytes(), &held[0]);
        let rest = piece(" and half\n", "stdout");
        assert_eq!(joined(&mut again, &rest, 500).unwrap(), [("half and half\n".to_owned(), 7)]);
    }

    #[test]
    fn whole_lines_are_left_where_they_are_whatever_they_say() {
        let mut joiner = Joiner::default();
        let text = piece("a \",\"stream\":\" b\\n\",\"stream\":\"\n", "stdout") + &piece("x\n", "stderr");
        assert_eq!(joined(&mut joiner, &text, 0), None);
        // A backslash and an n at the end are no newline.
        assert_eq!(joined(&mut joiner, &piece("x\\n", "stdout"), 0).unwrap(), []);
        assert!(!joiner.is_empty());
    }

    #[test]
    fn a_line_without_end_is_cut_at_the_limit_and_counted() {
        let mut joiner = Joiner::default();
        let long = piece(&"x".repeat(16 << 10), "stdout");
        let records: usize = (0..130)
            .map(|number| joined(&mut joiner, &long, number * 20_000).map_or(0, |all| all.len()))
            .sum();
        assert_eq!((records, joiner.too_long), (2, 2));
        assert!(joiner.held().len() <= 64);
    }
}
