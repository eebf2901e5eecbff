//! Text comparison as Sigma means it: case-insensitive, anchored, `*` and `?`.

use memchr::memmem;

/// Writes the case-folded form of `text` to `out` (cleared first).
///
/// Each character is replaced by its lower-case form when that is a single character; bytes that are not UTF-8 stay as
/// they are. Folding both sides with this function makes comparison case-insensitive without changing the number of
/// characters, so `?` keeps its meaning.
pub(crate) fn fold_into(text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(text);
    out.make_ascii_lowercase();
    if !text.is_ascii() {
        fold_unicode(text, out);
    }
}

/// The folded form of one character; always one character.
pub(crate) fn fold_character(character: char) -> char {
    match character {
        'ſ' => 's', // Unicode's simple case folding, which lower-casing alone does not do
        'ς' => 'σ',
        _ => {
            let mut lower = character.to_lowercase();
            match (lower.next(), lower.next()) {
                (Some(single), None) => single,
                _ => character,
            }
        }
    }
}

#[cold]
fn fold_unicode(text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            out.extend_from_slice(fold_character(character).encode_utf8(&mut [0; 4]).as_bytes());
        }
        out.extend_from_slice(chunk.invalid());
    }
}

/// The case-folded form of `text`.
pub(crate) fn folded(text: &[u8]) -> Box<[u8]> {
    let mut out = Vec::with_capacity(text.len());
    fold_into(text, &mut out);
    out.into_boxed_slice()
}

/// Length in bytes of the character at the start of `text`; a byte that is not UTF-8 counts as one character.
fn character_length(text: &[u8]) -> usize {
    let expected = match text.first() {
        None => return 0,
        Some(0xC2..=0xDF) => 2,
        Some(0xE0..=0xEF) => 3,
        Some(0xF0..=0xF4) => 4,
        Some(_) => 1,
    };
    match text.get(..expected) {
        Some(slice) if std::str::from_utf8(slice).is_ok() => expected,
        _ => 1,
    }
}

/// Start of the last character of `text`.
fn last_character_start(text: &[u8]) -> usize {
    (1..=4.min(text.len()))
        .rev()
        .map(|back| text.len() - back)
        .find(|&start| character_length(&text[start..]) == text.len() - start)
        .unwrap_or(text.len().saturating_sub(1))
}

/// A piece of a segment between two `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<[u8]>),
    /// This many characters, whatever they are.
    Any(usize),
}

/// What stands between two `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    pieces: Box<[Piece]>,
    characters: usize,
}

impl Segment {
    /// Where the segment ends when it is matched at the start of `text`.
    fn match_start(&self, text: &[u8]) -> Option<usize> {
        let mut at = 0;
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => {
                    if !text[at..].starts_with(literal) {
                        return None;
                    }
                    at += literal.len();
                }
                Piece::Any(count) => {
                    for _ in 0..*count {
                        let length = character_length(&text[at..]);
                        if length == 0 {
                            return None;
                        }
                        at += length;
                    }
                }
            }
        }
        Some(at)
    }

    /// Where the first occurrence in `text` ends.
    fn find(&self, text: &[u8]) -> Option<usize> {
        if let [Piece::Literal(literal)] = &*self.pieces {
            return memmem::find(text, literal).map(|start| start + literal.len());
        }
        let mut start = 0;
        loop {
            if let Some(end) = self.match_start(&text[start..]) {
                return Some(start + end);
            }
            if start >= text.len() {
                return None;
            }
            start += character_length(&text[start..]);
        }
    }

    /// True when the segment matches the end of `text`.
    fn match_end(&self, text: &[u8]) -> bool {
        if let [Piece::Literal(literal)] = &*self.pieces {
            return text.ends_with(literal);
        }
        let mut start = text.len();
        for _ in 0..self.characters {
            if start == 0 {
                return false;
            }
            start = last_character_start(&text[..start]);
        }
        self.match_start(&text[start..]) == Some(text.len() - start)
    }
}

/// One part of a wildcard value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GlobPart {
    /// Plain text.
    Literal(Vec<u8>),
    /// `?`: exactly one character.
    One,
    /// `*`: any run of characters, also none, also across lines.
    Many,
}

/// A compiled wildcard value; matches the whole text in time linear in the text for patterns without `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob {
    /// Anchored at the start; `None` only when there is no `*` at all and `last` says everything.
    first: Segment,
    middle: Box<[Segment]>,
    last: Option<Segment>,
}

impl Glob {
    pub(crate) fn new(parts: &[GlobPart]) -> Self {
        let mut segments: Vec<Vec<Piece>> = vec![Vec::new()];
        for part in parts {
            let Some(current) = segments.last_mut() else { continue };
            match part {
                GlobPart::Many => segments.push(Vec::new()),
                GlobPart::One => match current.last_mut() {
                    Some(Piece::Any(count)) => *count += 1,
                    _ => current.push(Piece::Any(1)),
                },
                GlobPart::Literal(text) if text.is_empty() => {}
                GlobPart::Literal(text) => match current.last_mut() {
                    Some(Piece::Literal(before)) => *before = [&**before, text].concat().into_boxed_slice(),
                    _ => current.push(Piece::Literal(text.as_slice().into())),
                },
            }
        }
        let mut segments = segments.into_iter().map(|pieces| Segment {
            characters: pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Any(count) => *count,
                    Piece::Literal(text) => character_count(text),
                })
                .sum(),
            pieces: pieces.into_boxed_slice(),
        });
        let first = segments.next().unwrap_or(Segment { pieces: Box::default(), characters: 0 });
        let mut rest: Vec<Segment> = segments.collect();
        let last = rest.pop();
        rest.retain(|segment| !segment.pieces.is_empty());
        Self { first, middle: rest.into_boxed_slice(), last }
    }

    /// True when the whole of `text` fits.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        let Some(mut at) = self.first.match_start(text) else { return false };
        let Some(last) = &self.last else { return at == text.len() };
        for segment in &self.middle {
            match segment.find(&text[at..]) {
                Some(end) => at += end,
                None => return false,
            }
        }
        last.match_end(&text[at..])
    }

    /// The longest literal every matching text contains.
    pub(crate) fn longest_literal(&self) -> Option<&[u8]> {
        std::iter::once(&self.first)
            .chain(&self.middle)
            .chain(&self.last)
            .flat_map(|segment| &segment.pieces)
            .filter_map(|piece| match piece {
                Piece::Literal(text) => Some(&**text),
                Piece::Any(_) => None,
            })
            .max_by_key(|text| text.len())
    }
}

fn character_count(mut text: &[u8]) -> usize {
    let mut count = 0;
    while !text.is_empty() {
        text = &text[character_length(text)..];
        count += 1;
    }
    count
}

/// A number as rules and events write it; integers compare exactly, everything else as a double.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim();
        if let Ok(integer) = text.parse::<i128>() {
            return Some(Self::Integer(integer));
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
        {
            return None; // "inf", "nan" and hexadecimal are text, not numbers
        }
        // A number too large for a double is infinite here, so that it is still larger than any limit of a rule.
        text.parse::<f64>().ok().map(Self::Float)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Integer(left), Self::Integer(right)) => left.partial_cmp(right),
            (Self::Integer(left), Self::Float(right)) => (*left as f64).partial_cmp(right),
            (Self::Float(left), Self::Integer(right)) => left.partial_cmp(&(*right as f64)),
            (Self::Float(left), Self::Float(right)) => left.partial_cmp(right),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(pattern: &str) -> Glob {
        let parts: Vec<GlobPart> = pattern
            .chars()
            .map(|character| match character {
                '*' => GlobPart::Many,
                '?' => GlobPart::One,
                other => GlobPart::Literal(other.to_string().into_bytes()),
            })
            .collect();
        Glob::new(&parts)
    }

    #[test]
    fn numbers_compare_however_large_they_are() {
        let number = |text: &str| Number::parse(text.as_bytes());
        assert!(number("9007199254740993") > number("9007199254740992"));
        assert!(number(&"9".repeat(400)) > number("1e308"));
        assert!(number("-1e99999") < number("-170141183460469231731687303715884105728"));
        assert!(number("1e-99999") < number("1"));
        for text in ["inf", "nan", "0x10", "", "1_000", "e"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn wildcards_match_the_whole_value() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*c", "ac", true),
            ("a*c", "a\nb\nc", true),
            ("a*c", "acd", false),
            ("*a*a", "a", false),
            ("*a*a", "aa", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("?", "", false),
            ("*?", "é", true),
            ("*b?d", "abcabcd", true),
            ("*b?d", "abbd", true),
            ("", "", true),
            ("", "x", false),
            ("**", "", true),
            ("a*b*a", "aba", true),
            ("a*b*a", "ab", false),
        ] {
            assert_eq!(glob(pattern).matches(text.as_bytes()), expected, "{pattern} on {text:?}");
        }
    }

    #[test]
    fn folding_keeps_the_number_of_characters_and_foreign_bytes() {
        assert_eq!(&*folded("ÄÖ ABC ß İ".as_bytes()), "äö abc ß İ".as_bytes());
        assert_eq!(&*folded(b"A\xFFB"), b"a\xFFb");
    }

    #[test]
    fn numbers_compare_exactly_beyond_double_precision() {
        let (left, right) = (Number::parse(b"9007199254740993"), Number::parse(b"9007199254740992"));
        assert!(left > right);
        assert!(Number::parse(b"1.5") > Number::parse(b"1"));
        assert_eq!(Number::parse(b"nan"), None);
        assert_eq!(Number::parse(b"0x10"), None);
    }
}
