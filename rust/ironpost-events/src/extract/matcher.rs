//! Matching of compiled patterns, in time linear in the message.
//!
//! Nearly all patterns are read from both ends: forwards up to the first `text`, backwards down to the last one,
//! and between two `text` captures stand literals that are searched from the right. A pattern of another shape is
//! handed to the `regex` crate, which is linear too. Both give the same captures (a test compares them).

use super::pattern::{Kind, MAX_CAPTURES, Piece};
use crate::address;
use memchr::memmem;
use regex::bytes::{Regex, RegexBuilder};
use std::fmt::Write as _;

/// Captured ranges by slot, relative to the message.
pub(crate) type Captures = [Option<(u32, u32)>; MAX_CAPTURES];

#[derive(Debug)]
struct Class([bool; 256]);

impl Class {
    fn new(accept: impl Fn(u8) -> bool) -> Box<Self> {
        let mut table = [false; 256];
        for byte in 0..=u8::MAX {
            table[usize::from(byte)] = accept(byte);
        }
        Box::new(Self(table))
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte)]
    }
}

#[derive(Debug)]
enum Step {
    Literal(Box<[u8]>),
    Run {
        slot: usize,
        kind: Kind,
        class: Box<Class>,
    },
    Quoted {
        slot: usize,
    },
    /// Up to and over the literal.
    Until {
        slot: usize,
        literal: Box<memmem::Finder<'static>>,
    },
}

#[derive(Debug)]
struct Middle {
    /// Slots of the open captures.
    slots: Vec<usize>,
    /// The literals between them.
    separators: Vec<memmem::FinderRev<'static>>,
}

#[derive(Debug)]
enum Shape {
    /// `back` is in the order in which it is tried: from the end.
    BothEnds {
        front: Vec<Step>,
        middle: Option<Middle>,
        back: Vec<Step>,
    },
    Regex {
        regex: Box<Regex>,
        captures: Vec<(usize, Kind)>,
    },
}

/// One variant of a pattern, ready to match.
#[derive(Debug)]
pub(crate) struct Matcher {
    shape: Shape,
    /// The first byte a message must have, when there is only one.
    pub(crate) first_byte: Option<u8>,
    /// Slots that this variant fills, one bit each.
    slots: u32,
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn in_address(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":.%_-".contains(&byte)
}

/// The bytes that a closed capture may hold, given the literals around it.
fn class(kind: Kind, before: Option<u8>, after: Option<u8>) -> Box<Class> {
    Class::new(|byte| match kind {
        Kind::Word | Kind::Host => !is_space(byte) && Some(byte) != before && Some(byte) != after,
        Kind::Ip => in_address(byte),
        Kind::Port => byte.is_ascii_digit(),
        Kind::Integer => byte.is_ascii_digit() || byte == b'-',
        Kind::Text | Kind::Until | Kind::Quoted | Kind::Url => true,
    })
}

/// Does a closed capture accept these bytes (which are all in its class)?
fn accepts(kind: Kind, bytes: &[u8]) -> bool {
    match kind {
        Kind::Word | Kind::Host => !bytes.is_empty(),
        Kind::Ip => address::canonical(bytes).is_some(),
        Kind::Port => {
            (1..=5).contains(&bytes.len())
                && bytes.iter().fold(0_u32, |sum, digit| sum * 10 + u32::from(digit & 15)) <= 65_535
        }
        Kind::Integer => {
            let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
            (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
        }
        Kind::Text | Kind::Until | Kind::Quoted | Kind::Url => true,
    }
}

fn quoted_end(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

impl Matcher {
    /// Compiles the pieces of one variant, which the pattern parser has checked.
    pub(crate) fn new(pieces: &[Piece]) -> Result<Self, regex::Error> {
        let shape = match both_ends(pieces) {
            Some(shape) => shape,
            None => with_regex(pieces)?,
        };
        let first_byte = match pieces.first() {
            Some(Piece::Literal(bytes)) => bytes.first().copied(),
            Some(Piece::Capture { kind: Kind::Quoted, .. }) => Some(b'"'),
            _ => None,
        };
        Ok(Self { shape, first_byte, slots: slots(pieces) })
    }

    #[cfg(test)]
    pub(crate) fn with_regex_only(pieces: &[Piece]) -> Self {
        Self { shape: with_regex(pieces).unwrap(), first_byte: None, slots: slots(pieces) }
    }

    #[cfg(test)]
    pub(crate) fn uses_regex(&self) -> bool {
        matches!(self.shape, Shape::Regex { .. })
    }

    /// Clears what variants tried before left in slots that this one does not fill.
    pub(crate) fn forget_others(&self, found: &mut Captures) {
        for (slot, capture) in found.iter_mut().enumerate() {
            if self.slots >> slot & 1 == 0 {
                *capture = None;
            }
        }
    }

    /// Matches the whole message; when true, `found` holds this variant's captures (see [`Self::forget_others`]).
    pub(crate) fn matches(&self, message: &[u8], found: &mut Captures) -> bool {
        match &self.shape {
            Shape::BothEnds { front, middle, back } => {
                let Some(start) = forwards(front, message, found) else { return false };
                let Some(end) = backwards(back, message, start, found) else { return false };
                match middle {
                    None => start == end,
                    Some(middle) => between(middle, message, start, end, found),
                }
            }
            Shape::Regex { regex, captures } => {
                let Some(groups) = regex.captures(message) else { return false };
                for (group, &(slot, kind)) in captures.iter().enumerate() {
                    let Some(range) = groups.get(group + 1).map(|group| group.range()) else { return false };
                    if !accepts(kind, &message[range.clone()]) {
                        return false;
                    }
                    found[slot] = Some((range.start as u32, range.end as u32));
                }
                true
            }
        }
    }
}

fn slots(pieces: &[Piece]) -> u32 {
    pieces.iter().fold(0, |slots, piece| match piece {
        Piece::Capture { slot, .. } => slots | 1 << slot,
        Piece::Literal(_) => slots,
    })
}

fn forwards(steps: &[Step], message: &[u8], found: &mut Captures) -> Option<usize> {
    let mut at = 0;
    for step in steps {
        let rest = &message[at..];
        match step {
            Step::Literal(literal) => {
                if !rest.starts_with(literal) {
                    return None;
                }
                at += literal.len();
            }
            Step::Run { slot, kind, class } => {
                let len = rest.iter().position(|&byte| !class.has(byte)).unwrap_or(rest.len());
                if !accepts(*kind, &rest[..len]) {
                    return None;
                }
                found[*slot] = Some((at as u32, (at + len) as u32));
                at += len;
            }
            Step::Quoted { slot } => {
                let end = quoted_end(rest)?;
                found[*slot] = Some((at as u32 + 1, (at + end) as u32));
                at += end + 1;
            }
            Step::Until { slot, literal } => {
                let len = literal.find(rest)?;
                found[*slot] = Some((at as u32, (at + len) as u32));
                at += len + literal.needle().len();
            }
        }
    }
    Some(at)
}

fn backwards(steps: &[Step], message: &[u8], start: usize, found: &mut Captures) -> Option<usize> {
    let mut end = message.len();
    for step in steps {
        let rest = &message[start..end];
        match step {
            Step::Literal(literal) => {
                if !rest.ends_with(literal) {
                    return None;
                }
                end -= literal.len();
            }
            Step::Run { slot, kind, class } => {
                let len = rest.iter().rev().position(|&byte| !class.has(byte)).unwrap_or(rest.len());
                if !accepts(*kind, &rest[rest.len() - len..]) {
                    return None;
                }
                found[*slot] = Some(((end - len) as u32, end as u32));
                end -= len;
            }
            // `both_ends` puts neither behind an open capture.
            Step::Quoted { .. } | Step::Until { .. } => return None,
        }
    }
    Some(end)
}

fn between(middle: &Middle, message: &[u8], start: usize, end: usize, found: &mut Captures) -> bool {
    let mut end = end;
    for (index, &slot) in middle.slots.iter().enumerate().rev() {
        if index == 0 {
            found[slot] = Some((start as u32, end as u32));
            return true;
        }
        let separator = &middle.separators[index - 1];
        let Some(at) = separator.rfind(&message[start..end]) else { return false };
        found[slot] = Some(((start + at + separator.needle().len()) as u32, end as u32));
        end = start + at;
    }
    false
}

/// The bytes of the literals before and after a piece.
fn borders(pieces: &[Piece], index: usize) -> (Option<u8>, Option<u8>) {
    let before = match index.checked_sub(1).map(|before| &pieces[before]) {
        Some(Piece::Literal(bytes)) => bytes.last().copied(),
        _ => None,
    };
    let after = match pieces.get(index + 1) {
        Some(Piece::Literal(bytes)) => bytes.first().copied(),
        _ => None,
    };
    (before.filter(|&byte| !is_space(byte)), after.filter(|&byte| !is_space(byte)))
}

/// Compiles to the two-ended form; `None` when the ends of a capture could be in doubt.
fn both_ends(pieces: &[Piece]) -> Option<Shape> {
    let open = |piece: &Piece| matches!(piece, Piece::Capture { kind, .. } if kind.is_open());
    let first = pieces.iter().position(open);
    let last = pieces.iter().rposition(open);
    let front_end = first.unwrap_or(pieces.len());
    let mut front = Vec::new();
    let mut index = 0;
    while index < front_end {
        match &pieces[index] {
            Piece::Literal(bytes) => front.push(Step::Literal(bytes.clone().into())),
            Piece::Capture { kind: Kind::Quoted, slot } => front.push(Step::Quoted { slot: *slot }),
            Piece::Capture { kind: Kind::Until, slot } => {
                let Some(Piece::Literal(literal)) = pieces.get(index + 1) else { return None };
                front.push(Step::Until {
                    slot: *slot,
                    literal: Box::new(memmem::Finder::new(literal).into_owned()),
                });
                index += 1;
            }
            Piece::Capture { kind, slot } => {
                let (before, after) = borders(pieces, index);
                let class = class(*kind, before, after);
                if after.is_some_and(|byte| class.has(byte)) {
                    return None;
                }
                front.push(Step::Run { slot: *slot, kind: *kind, class });
            }
        }
        index += 1;
    }
    let Some((first, last)) = first.zip(last) else {
        return Some(Shape::BothEnds { front, middle: None, back: Vec::new() });
    };
    let mut middle = Middle { slots: Vec::new(), separators: Vec::new() };
    for piece in &pieces[first..=last] {
        match piece {
            Piece::Literal(bytes) => middle.separators.push(memmem::FinderRev::new(bytes).into_owned()),
            Piece::Capture { kind, slot } if kind.is_open() => middle.slots.push(*slot),
            Piece::Capture { .. } => return None,
        }
    }
    let mut back = Vec::new();
    for index in (last + 1..pieces.len()).rev() {
        match &pieces[index] {
            Piece::Literal(bytes) => back.push(Step::Literal(bytes.clone().into())),
            Piece::Capture { kind: Kind::Quoted | Kind::Until, .. } => return None,
            Piece::Capture { kind, slot } => {
                let (before, after) = borders(pieces, index);
                let class = class(*kind, before, after);
                // Reading backwards, a literal whose last byte the capture also accepts has no clear end.
                if before.is_some_and(|byte| class.has(byte)) || after.is_some_and(|byte| class.has(byte)) {
                    return None;
                }
                back.push(Step::Run { slot: *slot, kind: *kind, class });
            }
        }
    }
    Some(Shape::BothEnds { front, middle: Some(middle), back })
}

fn with_regex(pieces: &[Piece]) -> Result<Shape, regex::Error> {
    let mut source = String::from("^");
    let mut captures = Vec::new();
    let escape = |bytes: &[u8], source: &mut String| {
        for byte in bytes {
            let _ = write!(source, "\\x{byte:02x}");
        }
    };
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(bytes) => escape(bytes, &mut source),
            Piece::Capture { kind, slot } => {
                captures.push((*slot, *kind));
                match kind {
                    Kind::Text | Kind::Url => source.push_str("(.*)"),
                    Kind::Until => source.push_str("(.*?)"),
                    Kind::Quoted => source.push_str(r#""((?:[^"\\]|\\.)*)""#),
                    Kind::Ip => source.push_str("([0-9A-Za-z:.%_-]+)"),
                    Kind::Port => source.push_str("([0-9]{1,5})"),
                    Kind::Integer => source.push_str("(-?[0-9]{1,18})"),
                    Kind::Word | Kind::Host => {
                        let (before, after) = borders(pieces, index);
                        source.push_str(r"([^\t\n\x0b\x0c\r ");
                        for byte in before.into_iter().chain(after) {
                            escape(&[byte], &mut source);
                        }
                        source.push_str("]+)");
                    }
                }
            }
        }
    }
    source.push('$');
    let regex =
        RegexBuilder::new(&source).unicode(false).dot_matches_new_line(true).size_limit(1 << 20).build()?;
    Ok(Shape::Regex { regex: Box::new(regex), captures })
}
