//! Request targets: path, query, and one round of percent-decoding.

use std::ops::Range;

/// Where path and query are in a request target.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) path: Range<usize>,
    pub(crate) query: Option<Range<usize>>,
}

/// Splits a request target (RFC 9112 §3.2: origin form, absolute form, or anything a client sent).
pub(crate) fn split(target: &[u8]) -> Parts {
    let start = match memchr::memmem::find(target, b"://") {
        Some(at) if at > 0 && target[..at].iter().all(u8::is_ascii_alphanumeric) => {
            let authority = at + 3;
            memchr::memchr2(b'/', b'?', &target[authority..]).map_or(target.len(), |end| authority + end)
        }
        _ => 0,
    };
    let end = memchr::memchr(b'#', &target[start..]).map_or(target.len(), |at| start + at);
    match memchr::memchr(b'?', &target[start..end]) {
        Some(at) => Parts { path: start..start + at, query: Some(start + at + 1..end) },
        None => Parts { path: start..end, query: None },
    }
}

fn nibble(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|value| value as u8)
}

/// Decodes `%XX` once, and `+` to a blank in the query; `None` when there is nothing to decode.
pub(crate) fn decode(target: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr2(b'%', b'+', target)?;
    let query = memchr::memchr(b'?', target).unwrap_or(target.len());
    let mut out = Vec::with_capacity(target.len());
    let mut at = 0;
    while at < target.len() {
        let byte = target[at];
        let pair = target
            .get(at + 1)
            .and_then(|&high| nibble(high))
            .zip(target.get(at + 2).and_then(|&low| nibble(low)));
        match (byte, pair) {
            (b'%', Some((high, low))) => {
                out.push(high << 4 | low);
                at += 3;
                continue;
            }
            (b'+', _) if at > query => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(target: &str) -> (&str, Option<&str>) {
        let parts = split(target.as_bytes());
        (&target[parts.path], parts.query.map(|range| &target[range]))
    }

    #[test]
    fn targets_are_split_into_path_and_query() {
        assert_eq!(parts("/index.html?id=1&x=?"), ("/index.html", Some("id=1&x=?")));
        assert_eq!(parts("/index.html"), ("/index.html", None));
        assert_eq!(parts("http://host:80/a?b#c"), ("/a", Some("b")));
        assert_eq!(parts("http://host"), ("", None));
        assert_eq!(parts("/r?to=http://x/y"), ("/r", Some("to=http://x/y")));
        assert_eq!(parts("*"), ("*", None));
        assert_eq!(parts(""), ("", None));
    }

    #[test]
    fn percent_escapes_are_decoded_once() {
        assert_eq!(decode(b"/a+b?q=%27+OR+1%3D1--").as_deref(), Some(&b"/a+b?q=' OR 1=1--"[..]));
        assert_eq!(decode(b"/%252e%2E%zz%").as_deref(), Some(&b"/%2e.%zz%"[..]));
        assert_eq!(decode(b"/%00%ff").as_deref(), Some(&b"/\0\xff"[..]));
        assert_eq!(decode(b"/plain"), None);
    }
}
