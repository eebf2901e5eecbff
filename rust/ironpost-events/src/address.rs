//! IP addresses in log text: checked and brought to one spelling.

use std::net::Ipv6Addr;
use std::ops::Range;

/// The one spelling of an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Canonical {
    /// This part of the text already is it.
    Part(Range<usize>),
    /// Written differently.
    Text(String),
}

/// Four decimal octets without leading zeros, nothing else.
fn is_ipv4(bytes: &[u8]) -> bool {
    if bytes.len() < 7 || bytes.len() > 15 {
        return false;
    }
    let (mut octets, mut value, mut digits) = (0_u32, 0_u32, 0_u32);
    for &byte in bytes {
        if byte == b'.' {
            if digits == 0 {
                return false;
            }
            octets += 1;
            (value, digits) = (0, 0);
        } else {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 || (digits > 0 && value == 0) {
                return false;
            }
            value = value * 10 + u32::from(digit);
            digits += 1;
            if value > 255 {
                return false;
            }
        }
    }
    octets == 3 && digits > 0
}

/// An IPv4 or IPv6 address, the whole of `bytes`; `None` when it is not one.
///
/// An IPv4-mapped IPv6 address becomes IPv4, a zone (`%eth0`) is dropped, IPv6 is written as RFC 5952 says.
pub(crate) fn canonical(bytes: &[u8]) -> Option<Canonical> {
    if is_ipv4(bytes) {
        return Some(Canonical::Part(0..bytes.len()));
    }
    let address = match memchr::memchr(b'%', bytes) {
        Some(0) => return None,
        Some(at) if at + 1 == bytes.len() => return None,
        Some(at) => &bytes[..at],
        None => bytes,
    };
    if address.len() > 45 || !address.contains(&b':') {
        return None;
    }
    if let Some(tail) = address.strip_prefix(b"::ffff:").or_else(|| address.strip_prefix(b"::FFFF:"))
        && is_ipv4(tail)
    {
        return Some(Canonical::Part(7..address.len()));
    }
    let parsed: Ipv6Addr = std::str::from_utf8(address).ok()?.parse().ok()?;
    let text = parsed.to_ipv4_mapped().map_or_else(|| parsed.to_string(), |mapped| mapped.to_string());
    if text.as_bytes() == address {
        return Some(Canonical::Part(0..address.len()));
    }
    Some(Canonical::Text(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn text(bytes: &str) -> Option<String> {
        canonical(bytes.as_bytes()).map(|found| match found {
            Canonical::Part(range) => bytes[range].to_owned(),
            Canonical::Text(text) => text,
        })
    }

    #[test]
    fn every_address_has_one_spelling() {
        for (given, expected) in [
            ("203.0.113.9", Some("203.0.113.9")),
            ("::ffff:203.0.113.9", Some("203.0.113.9")),
            ("::FFFF:203.0.113.9", Some("203.0.113.9")),
            ("::ffff:cb00:7109", Some("203.0.113.9")),
            ("0:0:0:0:0:ffff:203.0.113.9", Some("203.0.113.9")),
            ("2001:DB8:0:0::1", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("::1", Some("::1")),
            ("::", Some("::")),
            ("1.2.3", None),
            ("1.2.3.4.5", None),
            ("01.2.3.4", None),
            ("1.2.3.256", None),
            ("1..2.3", None),
            ("fe80::1%", None),
            ("%eth0", None),
            ("::ffff:1.2.3.999", None),
            ("localhost", None),
            ("UNKNOWN", None),
            ("", None),
        ] {
            assert_eq!(text(given).as_deref(), expected, "{given}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_standard_library_agrees_about_ipv4(given in "[0-9.]{0,16}") {
            proptest::prop_assert_eq!(is_ipv4(given.as_bytes()), given.parse::<Ipv4Addr>().is_ok());
        }

        #[test]
        fn canonical_text_is_a_fixed_point(bits: u128) {
            let first = text(&Ipv6Addr::from(bits).to_string()).unwrap();
            proptest::prop_assert_eq!(text(&first), Some(first.clone()));
        }
    }
}
