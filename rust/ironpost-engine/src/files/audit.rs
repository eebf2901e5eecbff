//! The audit log: each event's records stand on several lines, between those of other events.

use crate::files::follow::GENERATION_SHIFT;
use crate::files::join::{HeldPiece, Join, Placed};
use ironpost_events::{AuditEvent, AuditJoiner};
use memchr::memchr_iter;

/// Joins the records of one followed path.
#[derive(Debug, Default)]
pub(crate) struct AuditLog {
    joiner: AuditJoiner,
}

fn place(events: Vec<AuditEvent>, buffer: &mut Vec<u8>) -> Vec<Placed> {
    events
        .into_iter()
        .map(|event| {
            let begin = buffer.len() as u32;
            buffer.extend_from_slice(&event.text);
            (begin, event.text.len() as u32, event.place)
        })
        .collect()
}

impl Join for AuditLog {
    fn is_empty(&self) -> bool {
        self.joiner.is_empty()
    }

    fn held(&self) -> Vec<HeldPiece> {
        let piece = |(place, length)| HeldPiece {
            generation: place >> GENERATION_SHIFT,
            offset: place & ((1 << GENERATION_SHIFT) - 1),
            length,
        };
        self.joiner.held().into_iter().map(piece).collect()
    }

    fn join(
        &mut self,
        buffer: &mut Vec<u8>,
        filled: usize,
        generation: u64,
        start: u64,
    ) -> Option<Vec<Placed>> {
        let mut events = Vec::new();
        let mut begin = 0;
        for end in memchr_iter(b'\n', &buffer[..filled]).chain([filled]) {
            let position = (generation << GENERATION_SHIFT) | (start + begin as u64);
            self.joiner.take(&buffer[begin..end.max(begin)], position, &mut events);
            begin = end + 1;
        }
        buffer.clear();
        Some(place(events, buffer))
    }

    fn restore(&mut self, record: &[u8], piece: &HeldPiece) {
        let mut position = (piece.generation << GENERATION_SHIFT) | piece.offset;
        // Given out only when the file does not hold any more what it held: nothing to wait for then.
        let mut gone = Vec::new();
        for line in record.split(|byte| *byte == b'\n') {
            self.joiner.take(line, position, &mut gone);
            position += line.len() as u64 + 1;
        }
    }

    fn overdue(&mut self, is_left: &dyn Fn(u64) -> bool) -> Option<(Vec<u8>, Vec<Placed>)> {
        let mut events = Vec::new();
        self.joiner.overdue(|place| is_left(place >> GENERATION_SHIFT), &mut events);
        let mut buffer = Vec::new();
        let placed = place(events, &mut buffer);
        (!placed.is_empty()).then_some((buffer, placed))
    }

    fn take_incomplete(&mut self) -> u64 {
        self.joiner.take_incomplete()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A log of interleaved events, some without an end.
    fn log(events: &[(u8, u8)]) -> String {
        let mut text = String::new();
        for (serial, kind) in events {
            let kind = ["SYSCALL", "PATH", "CWD", "PROCTITLE", "USER_LOGIN"][usize::from(*kind)];
            text.push_str(&format!("type={kind} msg=audit(1000.000:{serial}): items=1\n"));
        }
        text
    }

    fn texts(buffer: &[u8], placed: &[Placed]) -> Vec<(u64, String)> {
        let text = |(begin, length, position): &Placed| {
            let bytes = &buffer[*begin as usize..(*begin + *length) as usize];
            (*position, String::from_utf8_lossy(bytes).into_owned())
        };
        placed.iter().map(text).collect()
    }

    proptest! {
        #[test]
        fn a_restart_behind_any_line_gives_the_same_events_once(
            events in prop::collection::vec((0_u8..6, 0_u8..5), 0..40),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let text = log(&events);
            let ends: Vec<usize> = memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1).chain([0]).collect();
            let mut whole = AuditLog::default();
            let mut buffer = text.clone().into_bytes();
            let placed = whole.join(&mut buffer, text.len(), 3, 0).unwrap();
            let expected = texts(&buffer, &placed);

            let mut cuts: Vec<usize> = cuts.iter().map(|cut| ends[cut.index(ends.len())]).chain([text.len()]).collect();
            cuts.sort_unstable();
            let (mut given, mut start) = (Vec::new(), 0);
            let mut log = AuditLog::default();
            for end in cuts {
                let mut buffer = text.as_bytes()[start..end].to_vec();
                let filled = buffer.len();
                let placed = log.join(&mut buffer, filled, 3, start as u64).unwrap();
                given.extend(texts(&buffer, &placed));
                start = end;
                // The process dies here; the next one knows what the checkpoint held.
                let held = log.held();
                log = AuditLog::default();
                for piece in held {
                    let at = piece.offset as usize;
                    log.restore(&text.as_bytes()[at..at + piece.length as usize], &piece);
                }
            }
            prop_assert_eq!(given, expected);
            prop_assert_eq!(log.held(), whole.held());
        }
    }
}
