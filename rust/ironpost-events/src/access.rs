//! Access lines of web servers: the common and combined log formats of Apache and nginx.

use crate::time::common_log;

/// The parts of an access line; empty means absent (`-`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Access<'a> {
    pub(crate) client: &'a [u8],
    pub(crate) user: &'a [u8],
    pub(crate) timestamp: Option<i64>,
    /// The request line as logged, with the server's escapes.
    pub(crate) request: &'a [u8],
    pub(crate) method: &'a [u8],
    pub(crate) target: &'a [u8],
    pub(crate) version: &'a [u8],
    pub(crate) status: &'a [u8],
    pub(crate) bytes: &'a [u8],
    pub(crate) referrer: &'a [u8],
    pub(crate) agent: &'a [u8],
}

fn present(value: &[u8]) -> &[u8] {
    if value == b"-" { b"" } else { value }
}

/// A quoted string in which the server has escaped quotes with a backslash; gives content and rest.
fn quoted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let body = bytes.strip_prefix(b"\"")?;
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', &body[at..])?;
        if body[at] == b'"' {
            return Some((&body[..at], &body[at + 1..]));
        }
        at += 2;
        if at > body.len() {
            return None;
        }
    }
}

fn number(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b' ').unwrap_or(bytes.len());
    let value = &bytes[..end];
    let good =
        value == b"-" || (!value.is_empty() && value.len() < 20 && value.iter().all(u8::is_ascii_digit));
    good.then(|| (value, &bytes[end..]))
}

/// Method, target and version of a request line; only the target when it is not a request line.
fn request_line(request: &[u8]) -> (&[u8], &[u8], &[u8]) {
    if let Some(space) = memchr::memchr(b' ', request)
        && request[..space].iter().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'))
        && space > 0
    {
        let rest = &request[space + 1..];
        return match memchr::memmem::rfind(rest, b" HTTP/") {
            Some(at) => (&request[..space], &rest[..at], &rest[at + 6..]),
            None => (&request[..space], rest, b""),
        };
    }
    (b"", b"", b"")
}

/// Reads `client ident user [time] "request" status bytes ["referrer" "agent" …]`.
pub(crate) fn parse(line: &[u8]) -> Option<Access<'_>> {
    let client_end = memchr::memchr(b' ', &line[..line.len().min(260)])?;
    let rest = &line[client_end + 1..];
    let user_start = memchr::memchr(b' ', &rest[..rest.len().min(260)])? + 1;
    // A user name may hold blanks and brackets, but no bare quote: the time is what a quote follows.
    let mut open = user_start;
    let (timestamp, user_end) = loop {
        open += memchr::memmem::find(rest.get(open..)?, b" [")?;
        if rest.get(open + 28..open + 31) == Some(b"] \"")
            && let Some(stamp) = common_log(&rest[open + 2..open + 28])
        {
            break (stamp.nanos, open);
        }
        open += 2;
    };
    let user = rest.get(user_start..user_end)?;
    let (request, after) = quoted(rest[user_end + 29..].strip_prefix(b" ")?)?;
    let (status, after) = number(after.strip_prefix(b" ")?)?;
    let (bytes, after) = number(after.strip_prefix(b" ")?)?;
    let mut access = Access {
        client: &line[..client_end],
        user: present(user),
        timestamp,
        request,
        status: present(status),
        bytes: present(bytes),
        ..Access::default()
    };
    (access.method, access.target, access.version) = request_line(request);
    if let Some((referrer, after)) = after.strip_prefix(b" ").and_then(quoted) {
        access.referrer = present(referrer);
        if let Some((agent, _)) = after.strip_prefix(b" ").and_then(quoted) {
            access.agent = present(agent);
        }
    } else if !after.is_empty() {
        return None;
    }
    Some(access)
}
