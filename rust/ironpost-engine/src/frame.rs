//! Messages in a TCP stream: newline-terminated or with their length in front (RFC 6587), decided for each message.

use memchr::memchr;

/// A length has at most so many digits; more are text.
const MAX_LENGTH_DIGITS: usize = 10;

/// What stands at the begin of a message.
#[derive(Debug, PartialEq, Eq)]
enum Begin {
    /// Text up to a newline.
    Line,
    /// `header` bytes of length and blank, then `length` bytes of message.
    Counted { header: usize, length: usize },
    /// Too few bytes to tell.
    Unclear,
}

/// RFC 6587 §3.4.1: `MSG-LEN SP SYSLOG-MSG`. A line of text may begin with a number too; a counted message begins
/// with `<` (syslog) or `{` (JSON) behind the blank.
fn begin(data: &[u8]) -> Begin {
    if !matches!(data.first(), Some(b'1'..=b'9')) {
        return Begin::Line;
    }
    let digits = data.iter().take(MAX_LENGTH_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
    if digits > MAX_LENGTH_DIGITS {
        return Begin::Line;
    }
    match (data.get(digits), data.get(digits + 1)) {
        (None, _) | (Some(b' '), None) => Begin::Unclear,
        (Some(b' '), Some(b'<' | b'{')) => {
            let length =
                data[..digits].iter().fold(0_usize, |sum, digit| sum * 10 + usize::from(digit - b'0'));
            Begin::Counted { header: digits + 1, length }
        }
        _ => Begin::Line,
    }
}

/// What is passed over before the next message begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    No,
    /// Everything up to the next newline.
    Line,
    /// So many bytes.
    Bytes(usize),
}

/// What a look at the buffer found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Bytes the listed messages cover, from the begin of the buffer.
    pub(crate) consumed: usize,
    /// A message had its length in front: the spans count, not the newlines.
    pub(crate) counted: bool,
    /// After `consumed` stand so many bytes of a message that was cut; hand them over as one message.
    pub(crate) cut: Option<(usize, usize)>,
}

/// The framing state of one connection.
#[derive(Debug)]
pub(crate) struct Framer {
    max_message: usize,
    skip: Skip,
    /// Bytes of the first incomplete message known to hold no newline.
    searched: usize,
}

impl Framer {
    pub(crate) fn new(max_message: usize) -> Self {
        Self { max_message, skip: Skip::No, searched: 0 }
    }

    /// Bytes at the begin of `data` that belong to a message already cut.
    pub(crate) fn skip(&mut self, data: &[u8]) -> usize {
        let (passed, left) = match self.skip {
            Skip::No => return 0,
            Skip::Line => match memchr(b'\n', data) {
                Some(newline) => (newline + 1, Skip::No),
                None => (data.len(), Skip::Line),
            },
            Skip::Bytes(count) if count > data.len() => (data.len(), Skip::Bytes(count - data.len())),
            Skip::Bytes(count) => (count, Skip::No),
        };
        self.skip = left;
        passed
    }

    /// Lists the complete messages at the begin of `data` as (first byte, length).
    ///
    /// The caller removes `consumed` bytes (and those of a cut message) before the next call and keeps the rest.
    pub(crate) fn find(&mut self, data: &[u8], spans: &mut Vec<(u32, u32)>) -> Found {
        let mut found = Found::default();
        while found.consumed < data.len() {
            let at = found.consumed;
            let rest = &data[at..];
            match begin(rest) {
                Begin::Unclear => break,
                Begin::Counted { header, length } => {
                    self.searched = 0;
                    if length > self.max_message {
                        if rest.len() - header >= self.max_message {
                            found.cut = Some((at + header, self.max_message));
                            self.skip = Skip::Bytes(length - self.max_message);
                        }
                        break;
                    }
                    if rest.len() < header + length {
                        break;
                    }
                    spans.push(((at + header) as u32, length as u32));
                    found.consumed += header + length;
                    found.counted = true;
                }
                Begin::Line => match memchr(b'\n', &rest[self.searched.min(rest.len())..]) {
                    Some(newline) if self.searched + newline <= self.max_message => {
                        let length = self.searched + newline;
                        self.searched = 0;
                        spans.push((at as u32, length as u32));
                        found.consumed += length + 1;
                    }
                    None if rest.len() <= self.max_message => {
                        self.searched = rest.len();
                        break;
                    }
                    _ => {
                        self.searched = 0;
                        found.cut = Some((at, self.max_message));
                        self.skip = Skip::Line;
                        break;
                    }
                },
            }
        }
        found
    }

    /// Cuts the incomplete message now, because memory is short: (first byte, length) of what is kept of `data`.
    pub(crate) fn cut(&mut self, data: &[u8]) -> (usize, usize) {
        self.searched = 0;
        match begin(data) {
            Begin::Counted { header, length } => {
                let kept = data.len().saturating_sub(header).min(length);
                self.skip = Skip::Bytes(length - kept);
                (header, kept)
            }
            Begin::Line | Begin::Unclear => {
                self.skip = Skip::Line;
                (0, data.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds pieces as a connection would and returns every message.
    fn feed(framer: &mut Framer, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut held, mut messages) = (Vec::new(), Vec::new());
        for piece in pieces {
            held.extend_from_slice(piece);
            loop {
                let skipped = framer.skip(&held);
                held.drain(..skipped);
                let mut spans = Vec::new();
                let found = framer.find(&held, &mut spans);
                for (start, length) in spans {
                    messages.push(held[start as usize..(start + length) as usize].to_vec());
                }
                let mut end = found.consumed;
                if let Some((start, length)) = found.cut {
                    messages.push(held[start..start + length].to_vec());
                    end = start + length;
                }
                held.drain(..end);
                if found.cut.is_none() {
                    break;
                }
            }
        }
        messages
    }

    #[test]
    fn both_framings_split_at_every_byte() {
        let stream = b"<1>one\n12 <2>two\nthree<3>12 apples\n5 {\"a\"}12 apples\n\n9 <4>567890\n7 <5>last";
        let expected: Vec<&[u8]> = vec![
            b"<1>one",
            b"<2>two\nthree",
            b"<3>12 apples",
            b"{\"a\"}",
            b"12 apples",
            b"",
            b"<4>567890",
            b"",
            b"<5>last",
        ];
        for split in 0..stream.len() {
            let (left, right) = stream.split_at(split);
            assert_eq!(feed(&mut Framer::new(100), &[left, right]), expected, "split at {split}");
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(feed(&mut Framer::new(100), &single), expected);
    }

    #[test]
    fn a_message_longer_than_the_limit_is_cut_and_the_next_one_is_whole() {
        let long = [b"x".repeat(35), b"\n<1>next\n".to_vec()].concat();
        let counted = [b"35 <".to_vec(), b"x".repeat(34), b"<1>next\n".to_vec()].concat();
        for (stream, first) in [(&long, b"x".repeat(10)), (&counted, b"<xxxxxxxxx".to_vec())] {
            for split in 0..stream.len() {
                let (left, right) = stream.split_at(split);
                let messages = feed(&mut Framer::new(10), &[left, right]);
                assert_eq!(messages, [first.clone(), b"<1>next".to_vec()], "split at {split}");
            }
        }
    }

    #[test]
    fn a_message_of_exactly_the_limit_is_whole() {
        let messages = feed(&mut Framer::new(7), &[b"1234567\n7 <1>abcd1234567\n"]);
        assert_eq!(messages, [b"1234567".to_vec(), b"<1>abcd".to_vec(), b"1234567".to_vec()]);
    }

    #[test]
    fn numbers_that_are_no_length_are_text() {
        let text: &[u8] = b"2026-11-20 started\n99999999999999999999 <x\n0 <1>zero\n42\n";
        let messages = feed(&mut Framer::new(100), &[text]);
        assert_eq!(messages.join(&b'\n'), text[..text.len() - 1].to_vec());
    }
}
