//! A bounded JSON reader that walks the leaves of one object without recursion.

/// Longest record.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting of objects and arrays.
pub(crate) const MAX_DEPTH: usize = 32;
/// Most values in one record.
pub(crate) const MAX_LEAVES: usize = 4096;
/// Bytes of all dotted names together.
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
    #[error("JSON longer than 1 MiB")]
    TooLong,
    #[error("JSON nested deeper than 32")]
    TooDeep,
    #[error("JSON with more than 4096 values")]
    TooManyValues,
    #[error("JSON names longer than 4 MiB")]
    NamesTooLong,
    #[error("event batch is full")]
    Full,
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
            let rest = self.text.get(self.at..).ok_or(JsonError::Syntax)?;
            self.at += memchr::memchr2(b'"', b'\\', rest).ok_or(JsonError::Syntax)?;
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

/// Calls `each` with dotted name and value for every leaf of the object that `text` is, in order.
///
/// Array elements repeat the array's name. Duplicate keys are reported as often as they occur. An object is reported
/// before what stands in it (of an array's objects the first), an empty array instead.
pub(crate) fn walk<'a>(
    text: &'a [u8],
    mut each: impl FnMut(&[u8], Leaf<'a>) -> Result<(), JsonError>,
) -> Result<(), JsonError> {
    if text.len() > MAX_BYTES {
        return Err(JsonError::TooLong);
    }
    let mut reader = Reader { text, at: 0 };
    let mut name: Vec<u8> = Vec::with_capacity(64);
    let mut levels: Vec<Level> = Vec::with_capacity(8);
    let (mut leaves, mut names) = (0, 0);
    reader.skip_space();
    reader.eat(b'{')?;
    levels.push(Level { object: true, name: 0 });
    let mut first = true;
    let mut report = |name: &[u8], leaf| {
        leaves += 1;
        names += name.len();
        if leaves > MAX_LEAVES {
            return Err(JsonError::TooManyValues);
        }
        if names > MAX_NAMES {
            return Err(JsonError::NamesTooLong);
        }
        each(name, leaf)
    };
    while let Some(level) = levels.last() {
        let (object, base) = (level.object, level.name);
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
        if object {
            let (key, escaped) = reader.string()?;
            if base > 0 {
                name.push(b'.');
            }
            if escaped {
                unescape(key, &mut name);
            } else {
                name.extend_from_slice(key);
            }
            reader.skip_space();
            reader.eat(b':')?;
            reader.skip_space();
        }
        match reader.peek() {
            Some(open @ (b'{' | b'[')) => {
                if levels.len() >= MAX_DEPTH {
                    return Err(JsonError::TooDeep);
                }
                reader.at += 1;
                reader.skip_space();
                let empty = open == b'[' && reader.peek() == Some(b']');
                if empty || (open == b'{' && (object || leads)) {
                    report(&name, Leaf::Container)?;
                }
                levels.push(Level { object: open == b'{', name: name.len() });
                first = true;
            }
            _ => {
                let leaf = reader.leaf()?;
                report(&name, leaf)?;
            }
        }
    }
    reader.skip_space();
    if reader.at == text.len() { Ok(()) } else { Err(JsonError::Syntax) }
}

/// Appends the content of a JSON string without its escapes. A lone surrogate becomes U+FFFD.
pub(crate) fn unescape(content: &[u8], out: &mut Vec<u8>) {
    let mut rest = content;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let escape = rest.get(at + 1).copied().unwrap_or(b'\\');
        rest = rest.get(at + 2..).unwrap_or_default();
        let simple = match escape {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let high = hex4(rest);
                rest = rest.get(4..).unwrap_or_default();
                let mut scalar = char::from_u32(high);
                if (0xd800..0xdc00).contains(&high)
                    && let Some(after) = rest.strip_prefix(b"\\u")
                    && (0xdc00..0xe000).contains(&hex4(after))
                {
                    scalar = char::from_u32(0x10000 + ((high - 0xd800) << 10) + (hex4(after) - 0xdc00));
                    rest = after.get(4..).unwrap_or_default();
                }
                let mut buffer = [0; 4];
                out.extend_from_slice(scalar.unwrap_or('\u{fffd}').encode_utf8(&mut buffer).as_bytes());
                continue;
            }
            other => other,
        };
        out.push(simple);
    }
    out.extend_from_slice(rest);
}

fn hex4(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |sum, &byte| sum << 4 | (byte as char).to_digit(16).unwrap_or_default())
}
