//! Records of one event, which stand on lines of their own and between those of other events, become one again.

use super::{Id, ends_event, lacks_records, record};
use std::time::{Duration, Instant};

/// Events open at one time; the kernel interleaves those of its processors, a handful.
const MAX_OPEN: usize = 64;

/// Bytes of one event; what comes after them goes on as an event of its own.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// Bytes and runs of lines held in all open events: what a restart reads again.
const MAX_HELD_BYTES: usize = 8 << 20;
const MAX_HELD_RUNS: usize = 1024;

/// An event is over when records so much later stand in the log: `end_of_event_timeout` of `auditd.conf`.
const LATER_MILLIS: i64 = 2000;

/// How long the next record is waited for when the log is silent.
const PATIENCE: Duration = Duration::from_secs(1);

/// The records of an event as one text, a line each.
#[derive(Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Lines without the last newline.
    pub text: Vec<u8>,
    /// The place of the first line, as it was given.
    pub place: u64,
}

#[derive(Debug)]
struct Open {
    node: Box<[u8]>,
    millis: i64,
    serial: u64,
    text: Vec<u8>,
    /// Runs of lines without a gap: place of the first byte, bytes with the newlines between.
    runs: Vec<(u64, u32)>,
    since: Instant,
}

impl Open {
    fn is(&self, id: Id<'_>) -> bool {
        self.serial == id.serial && self.millis == id.millis && *self.node == *id.node
    }

    fn add(&mut self, line: &[u8], place: u64) {
        let bytes = line.len() as u32;
        match self.runs.last_mut() {
            Some((start, length)) if *start + u64::from(*length) + 1 == place => *length += 1 + bytes,
            _ => self.runs.push((place, bytes)),
        }
        if !self.text.is_empty() {
            self.text.push(b'\n');
        }
        self.text.extend_from_slice(line);
        self.since = Instant::now();
    }
}

/// Joins the lines of one log. What it gives depends on the lines alone, not on how they come in.
#[derive(Debug, Default)]
pub struct AuditJoiner {
    /// In the order of their first records.
    open: Vec<Open>,
    held_bytes: usize,
    /// Events given out before they were whole, or cut at a limit.
    incomplete: u64,
}

impl AuditJoiner {
    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Events given out with records missing or in parts since the last call.
    pub fn take_incomplete(&mut self) -> u64 {
        std::mem::take(&mut self.incomplete)
    }

    /// Where the records of open events stand: place and bytes of runs of lines, in the order of the log.
    pub fn held(&self) -> Vec<(u64, u32)> {
        let mut runs: Vec<(u64, u32)> = self.open.iter().flat_map(|open| open.runs.iter().copied()).collect();
        runs.sort_unstable();
        runs
    }

    /// Takes a line (without its newline) that stands at `place`; events that are over are appended to `out`.
    ///
    /// A line that is no record is an event by itself; an empty one is nothing.
    pub fn take(&mut self, line: &[u8], place: u64, out: &mut Vec<AuditEvent>) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return;
        }
        let Some(found) = record(line) else {
            out.push(AuditEvent { text: line.to_vec(), place });
            return;
        };
        let id = found.id;
        let ends = ends_event(found.kind);
        match self.open.iter().rposition(|open| open.is(id)) {
            None if ends => out.push(AuditEvent { text: line.to_vec(), place }),
            known => {
                let known = known.filter(|index| {
                    let fits = self.open[*index].text.len() + line.len() < MAX_EVENT_BYTES;
                    if !fits {
                        self.incomplete += 1;
                        let event = self.close(*index);
                        out.push(event);
                    }
                    fits
                });
                let index = known.unwrap_or_else(|| self.begin(id));
                self.held_bytes += line.len() + 1;
                self.open[index].add(line, place);
                if ends {
                    let event = self.close(index);
                    out.push(event);
                }
            }
        }
        self.give_if(out, |open| *open.node == *id.node && open.millis + LATER_MILLIS <= id.millis);
        while self.open.len() > MAX_OPEN || self.held_bytes > MAX_HELD_BYTES || self.runs() > MAX_HELD_RUNS {
            self.give(0, out);
        }
    }

    /// Events of which no record came for a while, and those that `is_left` says will get none.
    pub fn overdue(&mut self, is_left: impl Fn(u64) -> bool, out: &mut Vec<AuditEvent>) {
        self.give_if(out, |open| {
            open.since.elapsed() >= PATIENCE || open.runs.iter().any(|(place, _)| is_left(*place))
        });
    }

    /// Everything that waits: the log is at its end.
    pub fn finish(&mut self, out: &mut Vec<AuditEvent>) {
        self.give_if(out, |_| true);
    }

    fn runs(&self) -> usize {
        self.open.iter().map(|open| open.runs.len()).sum()
    }

    fn begin(&mut self, id: Id<'_>) -> usize {
        self.open.push(Open {
            node: id.node.into(),
            millis: id.millis,
            serial: id.serial,
            text: Vec::new(),
            runs: Vec::new(),
            since: Instant::now(),
        });
        self.open.len() - 1
    }

    fn give_if(&mut self, out: &mut Vec<AuditEvent>, is_over: impl Fn(&Open) -> bool) {
        let mut index = 0;
        while index < self.open.len() {
            if is_over(&self.open[index]) {
                self.give(index, out);
            } else {
                index += 1;
            }
        }
    }

    /// Gives out an event without having seen its last record.
    fn give(&mut self, index: usize, out: &mut Vec<AuditEvent>) {
        let event = self.close(index);
        self.incomplete += u64::from(lacks_records(&event.text));
        out.push(event);
    }

    fn close(&mut self, index: usize) -> AuditEvent {
        let open = self.open.remove(index);
        self.held_bytes -= open.text.len() + 1;
        AuditEvent { text: open.text, place: open.runs.first().map_or(0, |(place, _)| *place) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, millis: i64, serial: u64, body: &str) -> String {
        format!("type={kind} msg=audit({}.{:03}:{serial}): {body}", millis / 1000, millis % 1000)
    }

    fn joined(joiner: &mut AuditJoiner, lines: &[String]) -> Vec<(u64, usize)> {
        let mut out = Vec::new();
        let mut place = 0;
        for line in lines {
            joiner.take(line.as_bytes(), place, &mut out);
            place += line.len() as u64 + 1;
        }
        out.iter().map(|event| (event.place, event.text.split(|byte| *byte == b'\n').count())).collect()
    }

    #[test]
    fn interleaved_events_end_with_their_titles() {
        let lines = [
            line("SYSCALL", 1000, 1, "items=1"),
            line("SYSCALL", 1000, 2, "items=0"),
            line("PATH", 1000, 1, "item=0"),
            line("USER_LOGIN", 1000, 3, "msg='x'"),
            line("PROCTITLE", 1000, 2, "proctitle=\"a\""),
            line("PROCTITLE", 1000, 1, "proctitle=\"b\""),
        ];
        let mut joiner = AuditJoiner::default();
        let at = |index: usize| lines[..index].iter().map(|line| line.len() as u64 + 1).sum::<u64>();
        assert_eq!(joined(&mut joiner, &lines), [(at(3), 1), (at(1), 2), (0, 3)]);
        assert!(joiner.is_empty() && joiner.held_bytes == 0);
        assert_eq!(joiner.take_incomplete(), 0);
    }

    #[test]
    fn a_later_record_ends_what_has_no_end_and_counts_only_what_lacks_something() {
        let lines = [
            line("SYSCALL", 1000, 1, "items=0"),
            line("SYSCALL", 1000, 2, "items=1"),
            line("USER_END", 2999, 3, ""),
            line("USER_END", 3000, 4, ""),
        ];
        let mut joiner = AuditJoiner::default();
        assert_eq!(joined(&mut joiner, &lines[..3]).len(), 1);
        assert_eq!(
            joiner.held(),
            [(0, lines[0].len() as u32), (lines[0].len() as u64 + 1, lines[1].len() as u32)]
        );
        assert_eq!(joined(&mut joiner, &lines[3..]).len(), 3);
        assert_eq!(joiner.take_incomplete(), 1);
    }

    #[test]
    fn what_is_held_is_bounded_in_events_bytes_and_runs() {
        let mut joiner = AuditJoiner::default();
        let many: Vec<String> = (0..1000).map(|serial| line("SYSCALL", 1000, serial, "items=1")).collect();
        assert_eq!(joined(&mut joiner, &many).len(), 1000 - MAX_OPEN);
        assert_eq!(joiner.take_incomplete(), 1000 - MAX_OPEN as u64);

        let mut joiner = AuditJoiner::default();
        let long: Vec<String> =
            (0..100).map(|_| line("EXECVE", 1000, 1, &"x".repeat(MAX_EVENT_BYTES / 40))).collect();
        assert_eq!(joined(&mut joiner, &long).len(), 2);
        assert_eq!(joiner.take_incomplete(), 2);
        assert!(joiner.held_bytes <= MAX_EVENT_BYTES);

        let mut joiner = AuditJoiner::default();
        let mixed: Vec<String> = (0..100_000).map(|number| line("PATH", 1000, number % 64, "")).collect();
        joined(&mut joiner, &mixed);
        assert!(joiner.runs() <= MAX_HELD_RUNS && joiner.held().len() == joiner.runs());
    }

    #[test]
    fn lines_without_a_gap_are_held_as_one_run() {
        let mut joiner = AuditJoiner::default();
        let lines =
            [line("SYSCALL", 1000, 1, "items=9"), line("CWD", 1000, 1, ""), line("PATH", 1000, 1, "")];
        assert_eq!(joined(&mut joiner, &lines), []);
        assert_eq!(joiner.held(), [(0, lines.join("\n").len() as u32)]);
        let mut out = Vec::new();
        joiner.overdue(|_| true, &mut out);
        assert_eq!(out[0].text, lines.join("\n").as_bytes());
        assert_eq!(joiner.take_incomplete(), 1);
    }
}
