//! Values of audit records: hexadecimal text, arguments in pieces, socket addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Fields whose text the kernel or the audit library writes as hexadecimal digits when it is not plain; the types
/// `ESCAPED`, `ESCAPED_FILE` and `ESCAPED_KEY` of auparse's field dictionary.
const ESCAPED: [&[u8]; 27] = [
    b"acct",
    b"cgroup",
    b"cmd",
    b"comm",
    b"cwd",
    b"data",
    b"device",
    b"dir",
    b"exe",
    b"file",
    b"grp",
    b"icmptype",
    b"invalid_context",
    b"key",
    b"name",
    b"new_group",
    b"new-disk",
    b"ocomm",
    b"oexe",
    b"old-disk",
    b"path",
    b"proctitle",
    b"root_dir",
    b"sw",
    b"tree",
    b"vm",
    b"watch",
];

/// True for a field whose bare value may be hexadecimal text.
pub(crate) fn is_escaped_field(key: &[u8]) -> bool {
    ESCAPED.contains(&key)
}

/// The bytes that upper-case hexadecimal digits stand for.
pub(crate) fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    fn digit(byte: u8) -> Option<u8> {
        match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'A'..=b'F' => Some(byte - b'A' + 10),
            _ => None,
        }
    }
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Index and piece of an argument's name: `a3` is (3, 0), `a3[2]` is (3, 2).
pub(crate) fn argument(key: &[u8]) -> Option<(u32, u32)> {
    fn whole(digits: &[u8]) -> Option<u32> {
        let good = !digits.is_empty() && digits.len() <= 9 && digits.iter().all(u8::is_ascii_digit);
        good.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
    }
    let rest = key.strip_prefix(b"a")?;
    match memchr::memchr(b'[', rest) {
        Some(at) => Some((whole(&rest[..at])?, whole(rest[at + 1..].strip_suffix(b"]")?)?)),
        None => Some((whole(rest)?, 0)),
    }
}

/// What a socket address says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    Inet {
        address: String,
        port: u16,
        family: &'static str,
    },
    /// A path; an abstract name begins with `@` as `ss` shows it.
    Unix(Vec<u8>),
}

/// Reads `saddr`: the kernel's `struct sockaddr` in hexadecimal digits, family in the order of a little-endian host.
pub(crate) fn socket(digits: &[u8]) -> Option<Socket> {
    let bytes = unhex(digits)?;
    let port = || Some(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    match bytes.get(..2)? {
        [1, 0] => {
            let name = &bytes[2..];
            let (mut path, name) = match name.first() {
                Some(0) => (b"@".to_vec(), &name[1..]),
                _ => (Vec::new(), name),
            };
            path.extend(name.iter().take_while(|byte| **byte != 0));
            Some(Socket::Unix(path))
        }
        [2, 0] => {
            let address: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(Socket::Inet { address: Ipv4Addr::from(address).to_string(), port: port()?, family: "ipv4" })
        }
        [10, 0] => {
            let address: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let address = Ipv6Addr::from(address);
            let text =
                address.to_ipv4_mapped().map_or_else(|| address.to_string(), |mapped| mapped.to_string());
            Some(Socket::Inet { address: text, port: port()?, family: "ipv6" })
        }
        _ => None,
    }
}

/// A path from the root, as its words say; links are not known here.
pub(crate) fn normalised(directory: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    if !name.starts_with(b"/") && !directory.starts_with(b"/") {
        return None;
    }
    let start = if name.starts_with(b"/") { &b""[..] } else { directory };
    let mut words: Vec<&[u8]> = Vec::new();
    for word in start.split(|byte| *byte == b'/').chain(name.split(|byte| *byte == b'/')) {
        match word {
            b"" | b"." => {}
            b".." => {
                words.pop();
            }
            word => words.push(word),
        }
    }
    let mut path = Vec::with_capacity(start.len() + name.len() + 2);
    for word in &words {
        path.push(b'/');
        path.extend_from_slice(word);
    }
    if words.is_empty() || name.ends_with(b"/") {
        path.push(b'/');
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_upper_case_pairs_are_hexadecimal_text() {
        assert_eq!(unhex(b"6C73"), Some(b"ls".to_vec()));
        for plain in ["", "6", "6c73", "ls", "(null)", "6C7", "6C 7"] {
            assert_eq!(unhex(plain.as_bytes()), None, "{plain}");
        }
    }

    #[test]
    fn socket_addresses_of_every_family() {
        let inet = |address: &str, port, family| Some(Socket::Inet { address: address.into(), port, family });
        assert_eq!(
            socket(b"02000050C0000207000000000000000000"[..32].as_ref()),
            inet("192.0.2.7", 80, "ipv4")
        );
        assert_eq!(
            socket(b"0A0001BB0000000020010DB800000000000000000000000100000000"),
            inet("2001:db8::1", 443, "ipv6")
        );
        assert_eq!(
            socket(b"0A0001BB0000000000000000000000000000FFFFC000020700000000"),
            inet("192.0.2.7", 443, "ipv6")
        );
        assert_eq!(socket(b"01002F746D702F7300"), Some(Socket::Unix(b"/tmp/s".to_vec())));
        assert_eq!(socket(b"01000078"), Some(Socket::Unix(b"@x".to_vec())));
        for other in ["0200", "0A0001BB", "100000000000000000000000", "02", "xx"] {
            assert_eq!(socket(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn paths_are_joined_to_the_directory_by_their_words() {
        let path = |directory: &str, name: &str| {
            normalised(directory.as_bytes(), name.as_bytes()).map(|path| String::from_utf8(path).unwrap())
        };
        assert_eq!(path("/etc", "ld.so.preload").as_deref(), Some("/etc/ld.so.preload"));
        assert_eq!(path("/tmp/x", "../../etc/./passwd").as_deref(), Some("/etc/passwd"));
        assert_eq!(path("", "/a//b/../../../c").as_deref(), Some("/c"));
        assert_eq!(path("/etc", "cron.d/").as_deref(), Some("/etc/cron.d/"));
        assert_eq!(path("/", "..").as_deref(), Some("/"));
        assert_eq!(path("", "x"), None);
    }
}
