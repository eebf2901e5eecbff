//! Syslog headers: RFC 5424, RFC 3164, and the lines that syslog daemons write to `/var/log`.

use crate::address;
use crate::batch::ZoneCache;
use crate::time::{Completion, bsd, rfc3339};

/// A hostname, tag or field beyond this is message text that only looks like one.
const MAX_TOKEN: usize = 255;

/// Which syslog is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Whatever the line looks like, generously.
    Any,
    /// RFC 5424 to the letter.
    Rfc5424,
    /// RFC 3164 (with or without a priority), generously.
    Rfc3164,
}

/// The parts of a syslog line; empty means absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    /// `rfc5424`, `rfc3164` (with priority) or `syslog` (as written to files).
    pub(crate) format: &'static str,
    pub(crate) priority: Option<u8>,
    pub(crate) version: &'a [u8],
    pub(crate) timestamp: Option<i64>,
    pub(crate) host: &'a [u8],
    pub(crate) app: &'a [u8],
    pub(crate) pid: &'a [u8],
    pub(crate) msgid: &'a [u8],
    pub(crate) structured: &'a [u8],
    pub(crate) message: &'a [u8],
}

/// What completes a line: zone, year, the present.
pub(crate) struct Context<'a> {
    pub(crate) completion: &'a Completion,
    pub(crate) now: i64,
}

/// `<PRI>`: 0–191 without leading zeros (RFC 5424 §6.2.1).
fn priority(bytes: &[u8]) -> Option<(u8, &[u8])> {
    if bytes.first() != Some(&b'<') {
        return None;
    }
    let mut value = 0_u32;
    for (index, &byte) in bytes[1..].iter().enumerate().take(4) {
        if byte == b'>' && index > 0 {
            return (value <= 191).then(|| (value as u8, &bytes[index + 2..]));
        }
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 || (index == 1 && value == 0) {
            return None;
        }
        value = value * 10 + u32::from(digit);
    }
    None
}

/// The next token and what follows its blank; `None` when it is empty.
fn token(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b' ', bytes).unwrap_or(bytes.len());
    (end > 0).then(|| (&bytes[..end], bytes.get(end + 1..).unwrap_or_default()))
}

/// A header field of RFC 5424: printable US-ASCII up to a blank, `-` for nothing.
fn field(bytes: &[u8], max: usize, strict: bool) -> Option<(&[u8], &[u8])> {
    let mut end = 0;
    while end < bytes.len() && bytes[end] != b' ' {
        if strict && !bytes[end].is_ascii_graphic() {
            return None;
        }
        end += 1;
    }
    if end == 0 || end == bytes.len() || (strict && end > max) {
        return None;
    }
    let value = &bytes[..end];
    Some((if value == b"-" { b"" } else { value }, &bytes[end + 1..]))
}

fn is_sd_name(bytes: &[u8]) -> bool {
    (1..=32).contains(&bytes.len())
        && bytes.iter().all(|&byte| byte.is_ascii_graphic() && !matches!(byte, b'=' | b']' | b'"'))
}

/// Walks structured data (RFC 5424 §6.3) at the start of `bytes` and returns its length.
///
/// `each` gets the SD-ID, the parameter name (empty for an element without parameters) and the value with its
/// escapes. `None` when it is not well formed.
pub(crate) fn walk_structured<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(&'a [u8], &'a [u8], &'a [u8]),
) -> Option<usize> {
    let mut at = 0;
    while bytes.get(at) == Some(&b'[') {
        let start = at + 1;
        let end = start + bytes[start..].iter().position(|byte| matches!(byte, b' ' | b']'))?;
        let id = &bytes[start..end];
        if !is_sd_name(id) {
            return None;
        }
        at = end;
        let mut any = false;
        while bytes.get(at) == Some(&b' ') {
            let start = at + 1;
            let end = start + memchr::memchr(b'=', &bytes[start..])?;
            let name = &bytes[start..end];
            if !is_sd_name(name) || bytes.get(end + 1) != Some(&b'"') {
                return None;
            }
            let value = end + 2;
            let mut close = value;
            loop {
                match *bytes.get(close)? {
                    b'"' => break,
                    b']' => return None,
                    // Only these three are escapes; any other backslash stands for itself (§6.3.3).
                    b'\\' if matches!(bytes.get(close + 1), Some(b'"' | b'\\' | b']')) => close += 2,
                    _ => close += 1,
                }
            }
            each(id, name, &bytes[value..close]);
            any = true;
            at = close + 1;
        }
        if !any {
            each(id, b"", b"");
        }
        if bytes.get(at) != Some(&b']') {
            return None;
        }
        at += 1;
    }
    (at > 0).then_some(at)
}

/// Appends a parameter value without its escapes.
pub(crate) fn unescape_structured(value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let escaped = matches!(rest.get(at + 1), Some(b'"' | b'\\' | b']'));
        if !escaped {
            out.push(b'\\');
            rest = &rest[at + 1..];
            continue;
        }
        out.push(rest[at + 1]);
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
}

/// What follows `<PRI>1 `.
fn rfc5424<'a>(
    bytes: &'a [u8],
    strict: bool,
    context: &Context<'_>,
    cache: &mut ZoneCache,
) -> Option<Header<'a>> {
    let (timestamp, rest) = if let Some(rest) = bytes.strip_prefix(b"- ") {
        (None, rest)
    } else {
        let stamp = rfc3339(bytes, strict, context.completion, cache)?;
        (stamp.nanos, bytes[stamp.len..].strip_prefix(b" ")?)
    };
    let (host, rest) = field(rest, 255, strict)?;
    let (app, rest) = field(rest, 48, strict)?;
    let (pid, rest) = field(rest, 128, strict)?;
    let (msgid, rest) = field(rest, 32, strict)?;
    let (structured, rest) = if let Some(rest) = rest.strip_prefix(b"-") {
        (&b""[..], rest)
    } else {
        let len = walk_structured(rest, |_, _, _| {})?;
        rest.split_at(len)
    };
    let message = match rest.split_first() {
        None => rest,
        Some((b' ', message)) => message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message),
        Some(_) => return None,
    };
    Some(Header {
        format: "rfc5424",
        priority: None,
        version: b"",
        timestamp,
        host,
        app,
        pid,
        msgid,
        structured,
        message,
    })
}

/// A tag at the start: `name:`, `name[pid]:` or `name[123]`. Gives name, pid and the text after it.
fn tag(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (word, rest) = token(&bytes[..bytes.len().min(MAX_TOKEN + 1)])
        .map(|(word, _)| (word, bytes.get(word.len() + 1..).unwrap_or_default()))?;
    if let Some(name) = word.strip_suffix(b":") {
        let (name, pid) = split_pid(name);
        return (!name.is_empty() && address::canonical(word).is_none()).then_some((name, pid, rest));
    }
    // `sshd[12]:text` without the blank.
    if let Some(close) = memchr::memmem::find(word, b"]:") {
        let (name, pid) = split_pid(&word[..=close]);
        return (!name.is_empty() && !pid.is_empty()).then_some((name, pid, &bytes[close + 2..]));
    }
    // `kernel:[ 12.5] text`
    if let Some(colon) = memchr::memmem::find(word, b":[") {
        let name = &word[..colon];
        let plain = name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        return (plain && colon > 0).then_some((name, b"", &bytes[colon + 1..]));
    }
    let (name, pid) = split_pid(word);
    (!name.is_empty() && !pid.is_empty() && pid.iter().all(u8::is_ascii_digit)).then_some((name, pid, rest))
}

fn split_pid(tag: &[u8]) -> (&[u8], &[u8]) {
    if let Some(inner) = tag.strip_suffix(b"]")
        && let Some(open) = memchr::memrchr(b'[', inner)
    {
        return (&inner[..open], &inner[open + 1..]);
    }
    (tag, b"")
}

fn is_host(bytes: &[u8]) -> bool {
    bytes.len() <= MAX_TOKEN
        && bytes
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || byte >= 0x80 || b".-_:%@/+".contains(&byte))
}

/// Host, tag and message behind a timestamp.
fn host_and_tag<'a>(bytes: &'a [u8], header: &mut Header<'a>) {
    header.message = bytes;
    if let Some((app, pid, message)) = tag(bytes) {
        (header.app, header.pid, header.message) = (app, pid, message);
        return;
    }
    if let Some((host, rest)) = token(bytes)
        && !rest.is_empty()
        && is_host(host)
    {
        header.host = host;
        header.message = rest;
        if let Some((app, pid, message)) = tag(rest) {
            (header.app, header.pid, header.message) = (app, pid, message);
        }
    }
}

/// Reads a syslog header; `None` when the line has none.
pub(crate) fn parse<'a>(
    line: &'a [u8],
    dialect: Dialect,
    context: &Context<'_>,
    cache: &mut ZoneCache,
) -> Option<Header<'a>> {
    let with_priority = priority(line);
    let rest = with_priority.map_or(line, |(_, rest)| rest);
    let mut header = Header { priority: with_priority.map(|(value, _)| value), ..Header::default() };
    if header.priority.is_some()
        && dialect != Dialect::Rfc3164
        && let Some(body) = rest.strip_prefix(b"1 ")
        && let Some(parsed) = rfc5424(body, dialect == Dialect::Rfc5424, context, cache)
    {
        return Some(Header { priority: header.priority, version: &rest[..1], ..parsed });
    }
    if dialect == Dialect::Rfc5424 {
        return None;
    }
    let stamp = match rest.first() {
        Some(b'A'..=b'Z') => bsd(rest, context.completion, context.now, cache),
        // A blank between date and time belongs to applications' own logs, which name no host.
        Some(b'0'..=b'9') if matches!(rest.get(10), Some(b'T' | b't')) => {
            rfc3339(rest, false, context.completion, cache)
        }
        _ => None,
    };
    let body = stamp.and_then(|stamp| {
        let after = &rest[stamp.len..];
        after.strip_prefix(b" ").or_else(|| after.strip_prefix(b": ")).or(after.is_empty().then_some(after))
    });
    match (stamp, body) {
        (Some(stamp), Some(body)) => {
            header.format = if header.priority.is_some() { "rfc3164" } else { "syslog" };
            header.timestamp = stamp.nanos;
            host_and_tag(body, &mut header);
            Some(header)
        }
        _ if header.priority.is_some() => {
            header.format = "rfc3164";
            header.message = rest;
            if let Some((app, pid, message)) = tag(rest) {
                (header.app, header.pid, header.message) = (app, pid, message);
            }
            Some(header)
        }
        _ => None,
    }
}

/// `message repeated N times: [ inner]` as rsyslog writes it: N and the inner message.
pub(crate) fn repeated(message: &[u8]) -> Option<(u32, &[u8])> {
    let rest = message.strip_prefix(b"message repeated ")?;
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    if digits == 0 || digits > 9 {
        return None;
    }
    let count = rest[..digits].iter().fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let inner = rest[digits..].strip_prefix(b" times: [")?.strip_suffix(b"]")?;
    (count > 0).then(|| (count, inner.strip_prefix(b" ").unwrap_or(inner)))
}
