//! A bounded JSON reader that walks the leaves of one object without recursion.

/// Values that begin behind this many bytes of a record are left out.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting of objects and arrays; what stands deeper is one text, as it is written.
pub(crate) const MAX_DEPTH: usize = 32;
/// Most values of one record; further ones are left out. A cell takes 20 bytes, so a record 80 KiB.
pub(crate) const MAX_LEAVES: usize = 4096;
/// Bytes of all dotted names together; values beyond are left out.
pub(crate) const MAX_NAMES: usize = 4 << 20;

/// A value that is no object and no array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf<'a> {
    /// Content between the quotes; `true` when it has escapes.
    Text(&'a [u8], bool),
    Integer(&'a [u8]),
    Float(&'a [u8]),
    Bool(&'a [u8]),
    Null,
    /// An object, or a list without elements: the name is there, whatever stands in it.
    Container,
}

/// Why a record is not read as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("not a JSON object")]
    Syntax,
    #[error("event batch is full")]
    Full,
}

/// Which bound left values of a record out; the first one met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    TooLong,
    TooDeep,
    TooManyValues,
    NamesTooLong,
}

impl Cut {
    /// The bound, for people.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "JSON longer than 1 MiB",
            Self::TooDeep => "JSON nested deeper than 32",
            Self::TooManyValues => "JSON with more than 4096 values",
            Self::NamesTooLong => "JSON names longer than 4 MiB",
        }
    }
}

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// The high bit of every byte of `word` that is `byte`; bytes above the lowest one found may be wrong.
fn bytes_equal(word: u64, byte: u8) -> u64 {
    let difference = word ^ (LOW_BITS * u64::from(byte));
    difference.wrapping_sub(LOW_BITS) & !difference & HIGH_BITS
}

/// Where the first of two bytes stands from `at` on. Strings of logs are short: eight bytes at a time are quicker than a
/// search that has to be set up.
fn next_of(text: &[u8], at: usize, one: u8, other: u8) -> Option<usize> {
    let rest = text.get(at..)?;
    let (words, _) = rest.as_chunks::<8>();
    for (index, bytes) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*bytes);
        let found = bytes_equal(word, one) | bytes_equal(word, other);
        if found != 0 {
            return Some(at + index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let done = words.len() * 8;
    rest[done..].iter().position(|&byte| byte == one || byte == other).map(|found| at + done + found)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return Err(JsonError::Syntax);
        }
        self.at += 1;
        Ok(())
    }

    /// The content of a string whose quote is next. Raw control bytes are let through: real logs have them.
    fn string(&mut self) -> Result<(&'a [u8], bool), JsonError> {
        self.eat(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at = next_of(self.text, self.at, b'"', b'\\').ok_or(JsonError::Syntax)?;
            if self.text[self.at] == b'"' {
                self.at += 1;
                return Ok((&self.text[start..self.at - 1], escaped));
            }
            escaped = true;
            match self.text.get(self.at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
                Some(b'u') => {
                    let digits = self.text.get(self.at + 2..self.at + 6).ok_or(JsonError::Syntax)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return Err(JsonError::Syntax);
                    }
                    self.at += 6;
                }
                _ => return Err(JsonError::Syntax),
            }
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Leaf<'a>, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let digits = self.digits();
        if digits == 0 || (leading_zero && digits > 1) {
            return Err(JsonError::Syntax);
        }
        let mut float = false;
        if self.peek() == Some(b'.') {
            float = true;
            self.at += 1;
            if self.digits() == 0 {
                return Err(JsonError::Syntax);
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            float = true;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(JsonError::Syntax);
            }
        }
        let text = &self.text[start..self.at];
        Ok(if float { Leaf::Float(text) } else { Leaf::Integer(text) })
    }

    /// The text of an object or array whose bracket is next, whatever its nesting; only strings and brackets are looked at.
    fn container(&mut self) -> Result<&'a [u8], JsonError> {
        let start = self.at;
        let mut open = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{' | b'[') => open += 1,
                Some(b'}' | b']') => open -= 1, // the first byte opens, and the loop ends when nothing is open
                Some(_) => {}
                None => return Err(JsonError::Syntax),
            }
            self.at += 1;
            if open == 0 {
                return Ok(&self.text[start..self.at]);
            }
        }
    }

    fn leaf(&mut self) -> Result<Leaf<'a>, JsonError> {
        let rest = &self.text[self.at..];
        let leaf = match rest.first() {
            Some(b'"') => {
                let (text, escaped) = self.string()?;
                return Ok(Leaf::Text(text, escaped));
            }
            Some(b'-' | b'0'..=b'9') => return self.number(),
            Some(b't') if rest.starts_with(b"true") => Leaf::Bool(&rest[..4]),
            Some(b'f') if rest.starts_with(b"false") => Leaf::Bool(&rest[..5]),
            Some(b'n') if rest.starts_with(b"null") => Leaf::Null,
            _ => return Err(JsonError::Syntax),
        };
        self.at += match leaf {
            Leaf::Bool(text) => text.len(),
            _ => 4, // null
        };
        Ok(leaf)
    }
}

/// An open object or array and the length of the dotted name it stands under.
struct Level {
    object: bool,
    name: usize,
}

/// The dotted name of a leaf; `Some` of the text's own bytes when it stands there as it is.
pub(crate) type InText<'a> = Option<&'a [u8]>;

/// Calls `each` with dotted name and value for every leaf of the object that `text` is, in order.
///
/// Array elements repeat the array's name. Duplicate keys are reported as often as they occur. An object is reported
/// before what stands in it (of an array's objects the first), an empty array instead. Beyond a bound values are left
/// out and the bound is returned; the record is read to its end all the same.
pub(crate) fn walk<'a>(
    text: &'a [u8],
    mut each: impl FnMut(&[u8], InText<'a>, Leaf<'a>) -> Result<(), JsonError>,
) -> Result<Option<Cut>, JsonError> {
    let mut reader = Reader { text, at: 0 };
    let mut name: Vec<u8> = Vec::with_capacity(64);
    let mut levels: Vec<Level> = Vec::with_capacity(8);
    let (mut leaves, mut names) = (0, 0);
    reader.skip_space();
    reader.eat(b'{')?;
    levels.push(Level { object: true, name: 0 });
    let mut first = true;
    let mut cut = None;
    let mut report = |begin: usize, name: &[u8], plain: InText<'a>, leaf| {
        leaves += 1;
        names += name.len();
        let beyond = if leaves > MAX_LEAVES {
            Cut::TooManyValues
        } else if begin >= MAX_BYTES {
            Cut::TooLong
        } else if names > MAX_NAMES {
            Cut::NamesTooLong
        } else {
            return each(name, plain, leaf);
        };
        cut.get_or_insert(beyond);
        Ok(())
    };
    let mut deep = false;
    while let Some(level) = levels.last() {
        let (object, base, outermost) = (level.object, level.name, levels.len() == 1);
        name.truncate(base);
        reader.skip_space();
        if reader.peek() == Some(if object { b'}' } else { b']' }) {
            reader.at += 1;
            levels.pop();
            first = false;
            continue;
        }
        if !first {
            reader.eat(b',')?;
            reader.skip_space();
        }
        let leads = first;
        first = false;
        let mut plain = None;
        if object {
            let (key, escaped) = reader.string()?;
            if outermost && !escaped {
                plain = Some(key);
            } else {
                if !outermost {
                    name.push(b'.');
                }
                unescape(key, &mut name);
            }
            reader.skip_space();
            reader.eat(b':')?;
            reader.skip_space();
        }
        match reader.peek() {
            Some(b'{' | b'[') if levels.len() >= MAX_DEPTH => {
                deep = true;
                let begin = reader.at;
                let leaf = Leaf::Text(reader.container()?, false);
                report(begin, &name, None, leaf)?;
            }
            Some(open @ (b'{' | b'[')) => {
                let begin = reader.at;
                reader.at += 1;
                if let Some(key) = plain {
                    name.extend_from_slice(key);
                }
                reader.skip_space();
                let empty = open == b'[' && reader.peek() == Some(b']');
                if empty || (open == b'{' && (object || leads)) {
                    report(begin, &name, plain, Leaf::Container)?;
                }
                levels.push(Level { object: open == b'{', name: name.len() });
                first = true;
            }
            _ => {
                let begin = reader.at;
                let leaf = reader.leaf()?;
                report(begin, plain.unwrap_or(&name), plain, leaf)?;
            }
        }
    }
    reader.skip_space();
    if reader.at != text.len() {
        return Err(JsonError::Syntax);
    }
    Ok(cut.or(deep.then_some(Cut::TooDeep)))
}

/// Appends the content of a JSON string without its escapes. A lone surrogate becomes U+FFFD.
pub(crate) fn unescape(content: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    // Nothing becomes longer; what is copied eight bytes at a time may need room for seven more.
    out.resize(begin + content.len() + 8, 0);
    let (mut from, mut to) = (0, begin);
    while from < content.len() {
        if let Some(bytes) = content.get(from..from + 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
            out[to..to + 8].copy_from_slice(&bytes);
            let found = bytes_equal(u64::from_le_bytes(bytes), b'\\');
            let plain = found.trailing_zeros() as usize / 8;
            from += plain;
            to += plain;
            if found == 0 {
                continue;
            }
        } else if content[from] != b'\\' {
            out[to] = content[from];
            from += 1;
            to += 1;
            continue;
        }
        let simple = match content.get(from + 1) {
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let (character, length) = unicode(&content[from + 2..]);
                from += 2 + length;
                to += character.encode_utf8(&mut out[to..to + 4]).len();
                continue;
            }
            Some(&other) => other,
            None => b'\\',
        };
        out[to] = simple;
        from += 2;
        to += 1;
    }
    out.truncate(to);
}

/// The character that four hexadecimal digits stand for, with a low surrogate's escape behind them if need be, and how many
/// bytes were read.
fn unicode(digits: &[u8]) -> (char, usize) {
    let high = hex4(digits);
    let after = digits.get(4..).unwrap_or_default();
    if (0xd800..0xdc00).contains(&high)
        && let Some(after) = after.strip_prefix(b"\\u")
        && (0xdc00..0xe000).contains(&hex4(after))
    {
        let scalar = char::from_u32(0x10000 + ((high - 0xd800) << 10) + (hex4(after) - 0xdc00));
        return (scalar.unwrap_or('\u{fffd}'), 10.min(digits.len()));
    }
    (char::from_u32(high).unwrap_or('\u{fffd}'), 4.min(digits.len()))
}

fn hex4(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |sum, &byte| sum << 4 | (byte as char).to_digit(16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// serde_json is the arbiter: what it reads we read alike, with any blanks in front to shift the eight-byte steps.
        #[test]
        fn strings_are_read_as_serde_json_reads_them(
            text in "[ -~\\\\\"\u{e9}\u{1F600}\n\u{1}]{0,40}", ascii in any::<bool>(), blanks in 0usize..9
        ) {
            let mut json = serde_json::to_string(&text).unwrap_or_default();
            if ascii {
                json = json.chars().map(|c| if c.is_ascii() { c.to_string() } else {
                    c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect()
                }).collect();
            }
            let record = format!("{}{{\"k\":{json},\"l\":[{json}]}}", " ".repeat(blanks));
            let mut found = Vec::new();
            let walked = walk(record.as_bytes(), |name, _, leaf| {
                let Leaf::Text(content, escaped) = leaf else { return Err(JsonError::Syntax) };
                let mut out = b"x".to_vec();
                if escaped { unescape(content, &mut out) } else { out.extend_from_slice(content) }
                found.push((name.to_vec(), out));
                Ok(())
            });
            let wanted = [b"x", text.as_bytes()].concat();
            prop_assert_eq!(walked, Ok(None));
            prop_assert_eq!(found, vec![(b"k".to_vec(), wanted.clone()), (b"l".to_vec(), wanted)]);
        }
    }

    #[test]
    fn a_surrogate_alone_becomes_the_replacement_character() {
        for (content, plain) in [
            (r"\ud800", "\u{fffd}"),
            (r"\ud800x", "\u{fffd}x"),
            (r"\ud800\ud800", "\u{fffd}\u{fffd}"),
            (r"\udc00a\n", "\u{fffd}a\n"),
            (r"\ud83d\ude00!", "\u{1F600}!"),
        ] {
            let mut out = Vec::new();
            unescape(content.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), plain, "{content}");
        }
    }
}
