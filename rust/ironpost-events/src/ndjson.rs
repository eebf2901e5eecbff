//! Rows as JSON: one flat object per row, ECS names as keys.

use crate::batch::{EventBatch, RowRef, Value, ValueKind};
use crate::fields::ecs;
use crate::syslog::{unescape_structured, walk_structured};
use crate::time::write_rfc3339;
use base64::Engine as _;
use rustc_hash::{FxHashMap, FxHashSet};
use std::borrow::Cow;

const STRUCTURED_PREFIX: &[u8] = b"log.syslog.structured_data.";

/// A row's field with all its values, as [`RowRef::entries`] gives it.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The dotted name; invalid UTF-8 replaced.
    pub name: Cow<'a, str>,
    /// In source order, at least one.
    pub values: Vec<EntryValue<'a>>,
}

/// An element of structured data: its SD-ID, and its parameters with their values in order.
pub type Element<'a> = (Cow<'a, str>, Vec<(Cow<'a, str>, String)>);

/// A value in an [`Entry`].
#[derive(Clone, Debug, PartialEq)]
pub enum EntryValue<'a> {
    /// Text; invalid UTF-8 replaced by U+FFFD.
    Text(Cow<'a, str>),
    /// A number as it is written in JSON.
    Number(Cow<'a, str>),
    /// True or false.
    Bool(bool),
    /// JSON null.
    Null,
    /// Structured data of RFC 5424: elements with their parameters, in order.
    Structured(Vec<Element<'a>>),
}

fn is_json_integer(bytes: &[u8]) -> bool {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits[0] != b'0')
}

fn entry_value(value: Value<'_>) -> EntryValue<'_> {
    match value.kind {
        ValueKind::Null | ValueKind::Container => EntryValue::Null,
        ValueKind::Bool => EntryValue::Bool(value.bytes == b"true"),
        // A pid such as `007` is an integer to us but not to JSON.
        ValueKind::Integer if !is_json_integer(value.bytes) => {
            EntryValue::Text(String::from_utf8_lossy(value.bytes))
        }
        ValueKind::Integer | ValueKind::Float => std::str::from_utf8(value.bytes).map_or_else(
            |_| EntryValue::Text(String::from_utf8_lossy(value.bytes)),
            |text| EntryValue::Number(text.into()),
        ),
        ValueKind::Text => EntryValue::Text(String::from_utf8_lossy(value.bytes)),
    }
}

fn structured_value(bytes: &[u8]) -> EntryValue<'_> {
    let mut elements: Vec<Element<'_>> = Vec::new();
    let len = walk_structured(bytes, |id, name, value| {
        let id = String::from_utf8_lossy(id);
        if elements.last().is_none_or(|(last, _)| *last != id) {
            elements.push((id, Vec::new()));
        }
        if let (Some((_, parameters)), false) = (elements.last_mut(), name.is_empty()) {
            let mut plain = Vec::new();
            unescape_structured(value, &mut plain);
            parameters.push((String::from_utf8_lossy(name), String::from_utf8_lossy(&plain).into_owned()));
        }
    });
    if len == Some(bytes.len()) {
        EntryValue::Structured(elements)
    } else {
        EntryValue::Text(String::from_utf8_lossy(bytes))
    }
}

impl<'a> RowRef<'a> {
    /// The row's fields in order of first appearance, each with all its values.
    ///
    /// Begins with `@timestamp` (RFC 3339, UTC), `event.format` and, above 1, `event.repeat`. When the record is not
    /// UTF-8 it is also there unchanged as `event.original_base64`.
    pub fn entries(&self) -> Vec<Entry<'a>> {
        let info = self.info();
        let mut entries: Vec<Entry<'a>> = Vec::with_capacity(self.cells().len() + 2);
        let mut own = |name: &'static str, value: String| {
            entries.push(Entry { name: name.into(), values: vec![EntryValue::Text(value.into())] });
        };
        if let Some(nanos) = info.timestamp {
            let mut text = Vec::new();
            write_rfc3339(nanos, &mut text);
            own("@timestamp", String::from_utf8_lossy(&text).into_owned());
        }
        if !info.format.is_empty() {
            own("event.format", info.format.to_owned());
        }
        if info.repeat > 1 {
            entries.push(Entry {
                name: "event.repeat".into(),
                values: vec![EntryValue::Number(info.repeat.to_string().into())],
            });
        }
        if std::str::from_utf8(self.raw()).is_err() {
            let text = base64::engine::general_purpose::STANDARD.encode(self.raw());
            entries.push(Entry {
                name: "event.original_base64".into(),
                values: vec![EntryValue::Text(text.into())],
            });
        }
        let mut known: FxHashMap<&'a [u8], usize> = FxHashMap::default();
        for cell in self.cells() {
            let name = self.name_of(cell);
            if cell.kind == ValueKind::Container
                || (cell.field == ecs::TIMESTAMP && info.timestamp.is_some())
                // Said by the structured data itself, where an element's name may hold dots.
                || (info.format == "rfc5424" && name.starts_with(STRUCTURED_PREFIX))
            {
                continue;
            }
            let value = self.value_of(cell);
            let value = if cell.field == ecs::LOG_SYSLOG_STRUCTURED_DATA {
                structured_value(value.bytes)
            } else {
                entry_value(value)
            };
            match known.get(name) {
                Some(&at) => entries[at].values.push(value),
                None => {
                    known.insert(name, entries.len());
                    entries.push(Entry { name: String::from_utf8_lossy(name), values: vec![value] });
                }
            }
        }
        entries
    }

    /// The row as one JSON object, as [`EventBatch::row_to_json`] writes it.
    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write_json(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn write_json(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        write_list(&self.entries(), out, |entry, out| {
            write_text(&entry.name, out);
            out.push(b':');
            write_one_or_many(&entry.values, out, write_value);
        });
        out.push(b'}');
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) =
        rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\' || byte == 0x7f)
    {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => {
                out.extend_from_slice(b"\\u00");
                for nibble in [byte >> 4, byte & 15] {
                    out.push(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
                }
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn write_list<T>(items: &[T], out: &mut Vec<u8>, mut each: impl FnMut(&T, &mut Vec<u8>)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        each(item, out);
    }
}

fn write_one_or_many<T>(items: &[T], out: &mut Vec<u8>, each: impl FnMut(&T, &mut Vec<u8>)) {
    if items.len() == 1 {
        write_list(items, out, each);
    } else {
        out.push(b'[');
        write_list(items, out, each);
        out.push(b']');
    }
}

/// Parameters by name, in order; a name may occur several times in an element.
fn grouped<'p, 'a>(parameters: &'p [(Cow<'a, str>, String)]) -> Vec<(&'p str, Vec<&'p str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, value) in parameters {
        match groups.iter_mut().find(|(known, _)| *known == name.as_ref()) {
            Some((_, values)) => values.push(value),
            None => groups.push((name, vec![value])),
        }
    }
    groups
}

fn write_value(value: &EntryValue<'_>, out: &mut Vec<u8>) {
    match value {
        EntryValue::Text(text) => write_text(text, out),
        EntryValue::Number(text) => out.extend_from_slice(text.as_bytes()),
        EntryValue::Bool(true) => out.extend_from_slice(b"true"),
        EntryValue::Bool(false) => out.extend_from_slice(b"false"),
        EntryValue::Null => out.extend_from_slice(b"null"),
        EntryValue::Structured(elements) => {
            out.push(b'{');
            write_list(elements, out, |(id, parameters), out| {
                write_text(id, out);
                out.extend_from_slice(b":{");
                write_list(&grouped(parameters), out, |(name, values), out| {
                    write_text(name, out);
                    out.push(b':');
                    write_one_or_many(values, out, |value, out| write_text(value, out));
                });
                out.push(b'}');
            });
            out.push(b'}');
        }
    }
}

impl EventBatch {
    /// The names of all fields that some row has, in order of first appearance (as [`RowRef::entries`] names them).
    pub fn field_names(&self) -> Vec<String> {
        let mut known = FxHashSet::default();
        let mut names = Vec::new();
        for index in 0..self.len() {
            for entry in self.row(index).entries() {
                if !known.contains(entry.name.as_ref()) {
                    known.insert(entry.name.to_string());
                    names.push(entry.name.into_owned());
                }
            }
        }
        names
    }

    /// One field of every row as text: the first value, `None` where there is none or JSON null.
    pub fn column(&self, name: &str) -> Vec<Option<String>> {
        (0..self.len())
            .map(|index| {
                let entry = self.row(index).entries().into_iter().find(|entry| entry.name == name)?;
                match entry.values.into_iter().next()? {
                    EntryValue::Null => None,
                    EntryValue::Text(text) => Some(text.into_owned()),
                    EntryValue::Number(text) => Some(text.into_owned()),
                    EntryValue::Bool(value) => Some(value.to_string()),
                    value @ EntryValue::Structured(_) => {
                        let mut text = Vec::new();
                        write_value(&value, &mut text);
                        Some(String::from_utf8_lossy(&text).into_owned())
                    }
                }
            })
            .collect()
    }

    /// Appends row `index` (below [`Self::len`]) as one JSON object without a newline.
    ///
    /// Flat dotted keys; a field with several values becomes an array. The text is valid UTF-8 and has no raw
    /// control characters.
    pub fn row_to_json(&self, index: usize, out: &mut Vec<u8>) {
        self.row(index).write_json(out);
    }

    /// All rows, one JSON object per line.
    pub fn to_ndjson(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes() * 2);
        for index in 0..self.len() {
            self.row_to_json(index, &mut out);
            out.push(b'\n');
        }
        out
    }
}
