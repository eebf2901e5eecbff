//! Addresses and networks as the filter takes them, and those it never blocks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Bits by which an IPv4 prefix is longer in its mapped form.
const MAPPED_BITS: u8 = 96;
/// Shortest IPv4 network that may be blocked or allowed: a /8 is one part in 256 of the Internet.
const SHORTEST_IPV4: u8 = 8;
/// Shortest IPv6 network that may be blocked: a /16 covers several registries' space already.
const SHORTEST_IPV6: u8 = 16;
/// Shortest IPv6 network that may be allowed: `fc00::/7`, all unique local addresses.
const SHORTEST_ALLOWED_IPV6: u8 = 7;

/// Networks that are never blocked, with the name used in refusals. A network that touches one of them is refused.
const PROTECTED: [(&str, Prefix); 9] = [
    ("unspecified", v4([0, 0, 0, 0], 8)),
    ("loopback", v4([127, 0, 0, 0], 8)),
    ("link-local", v4([169, 254, 0, 0], 16)),
    ("multicast", v4([224, 0, 0, 0], 4)),
    ("broadcast", v4([255, 255, 255, 255], 32)),
    ("unspecified", v6([0, 0, 0, 0, 0, 0, 0, 0], 128)),
    ("loopback", v6([0, 0, 0, 0, 0, 0, 0, 1], 128)),
    ("link-local", v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)),
    ("multicast", v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)),
];

/// IPv4 in its IPv6 form. A shorter IPv6 network over it would silently cover IPv4.
const MAPPED_RANGE: Prefix = v6([0, 0, 0, 0, 0, 0xffff, 0, 0], MAPPED_BITS);

const fn v4(address: [u8; 4], length: u8) -> Prefix {
    Prefix {
        address: Ipv4Addr::new(address[0], address[1], address[2], address[3]).to_ipv6_mapped().octets(),
        length: length + MAPPED_BITS,
    }
}

const fn v6(segments: [u16; 8], length: u8) -> Prefix {
    let [a, b, c, d, e, f, g, h] = segments;
    Prefix { address: Ipv6Addr::new(a, b, c, d, e, f, g, h).octets(), length }
}

/// A network in the one form of the maps: 16 bytes, IPv4 mapped, length 0 to 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    pub(crate) address: [u8; 16],
    pub(crate) length: u8,
}

/// Why a target is refused. None of these reaches a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Neither an address nor a network.
    #[error("not an IP address or network")]
    NotAnAddress,
    /// Bits are set beyond the prefix length.
    #[error("bits are set beyond the prefix length, did you mean {network} or {address}?")]
    HostBits {
        /// The network of that length.
        network: Prefix,
        /// The single address.
        address: Prefix,
    },
    /// Too large a part of the Internet.
    #[error("too wide, the shortest network allowed here is /{shortest}")]
    TooWide {
        /// Shortest prefix length of the family.
        shortest: u8,
    },
    /// An address this host needs to work at all.
    #[error("{0} addresses are never blocked")]
    Protected(&'static str),
    /// An IPv6 network that would cover all of IPv4.
    #[error("covers the IPv4-mapped range ::ffff:0:0/96, name IPv4 networks themselves")]
    CoversMapped,
}

impl Prefix {
    /// Reads an address or network. IPv4-mapped IPv6 becomes the IPv4 network it means.
    ///
    /// # Errors
    /// [`Refusal::NotAnAddress`] and [`Refusal::HostBits`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address = IpAddr::from_str(address).map_err(|_| Refusal::NotAnAddress)?;
        let (bytes, bits, shift) = match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped().octets(), 32, MAPPED_BITS),
            IpAddr::V6(address) => (address.octets(), 128, 0),
        };
        let length = match length {
            // `u8::from_str` takes "+8", a prefix length is digits only.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                u8::from_str(digits).ok().filter(|length| *length <= bits).ok_or(Refusal::NotAnAddress)?
            }
            Some(_) => return Err(Refusal::NotAnAddress),
            None => bits,
        };
        let prefix = Self { address: bytes, length: length + shift };
        let network = Self { address: prefix.network(), length: prefix.length };
        if network != prefix {
            return Err(Refusal::HostBits { network, address: Self { address: bytes, length: 128 } });
        }
        Ok(prefix)
    }

    /// Reads a network that is to be blocked.
    ///
    /// # Errors
    /// Everything [`Prefix::parse`] refuses, networks shorter than /8 (IPv6: /16), and networks that touch loopback,
    /// unspecified, link-local, multicast or broadcast addresses.
    pub fn parse_blockable(text: &str) -> Result<Self, Refusal> {
        let prefix = Self::parse(text)?;
        prefix.no_wider_than(SHORTEST_IPV6)?;
        for (name, protected) in PROTECTED {
            if prefix.touches(&protected) {
                return Err(Refusal::Protected(name));
            }
        }
        if !prefix.is_ipv4() && prefix.touches(&MAPPED_RANGE) {
            return Err(Refusal::CoversMapped);
        }
        Ok(prefix)
    }

    /// Reads a network that is to be allowed.
    ///
    /// # Errors
    /// Everything [`Prefix::parse`] refuses, and networks shorter than /8 (IPv6: /7): allowing everything is done by
    /// detaching the filter.
    pub fn parse_allowable(text: &str) -> Result<Self, Refusal> {
        let prefix = Self::parse(text)?;
        prefix.no_wider_than(SHORTEST_ALLOWED_IPV6)?;
        if !prefix.is_ipv4() && prefix.touches(&MAPPED_RANGE) {
            return Err(Refusal::CoversMapped);
        }
        Ok(prefix)
    }

    fn no_wider_than(&self, shortest_ipv6: u8) -> Result<(), Refusal> {
        let (shortest, length) = if self.is_ipv4() {
            (SHORTEST_IPV4, self.length - MAPPED_BITS)
        } else {
            (shortest_ipv6, self.length)
        };
        if length < shortest { Err(Refusal::TooWide { shortest }) } else { Ok(()) }
    }

    /// The address with every bit beyond the length cleared.
    fn network(&self) -> [u8; 16] {
        let bits = u128::from_be_bytes(self.address);
        let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
        (bits & mask).to_be_bytes()
    }

    /// Whether two networks have an address in common.
    fn touches(&self, other: &Self) -> bool {
        let length = self.length.min(other.length);
        Self { address: self.address, length }.network() == Self { address: other.address, length }.network()
    }

    /// Whether this is an IPv4 network (in any notation).
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.length >= MAPPED_BITS && Ipv6Addr::from(self.address).to_ipv4_mapped().is_some()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from(self.address);
        let (address, length, whole) = match address.to_ipv4_mapped() {
            Some(address) if self.is_ipv4() => (IpAddr::V4(address), self.length - MAPPED_BITS, 32),
            _ => (IpAddr::V6(address), self.length, 128),
        };
        if length == whole { write!(formatter, "{address}") } else { write!(formatter, "{address}/{length}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blockable(text: &str) -> Result<String, String> {
        Prefix::parse_blockable(text).map(|prefix| prefix.to_string()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn ordinary_targets_are_taken() {
        for text in
            ["192.0.2.1", "10.0.0.0/8", "198.51.100.0/24", "2001:db8::1", "2001:db8::/32", "2a00::/16"]
        {
            assert_eq!(blockable(text), Ok(text.to_owned()));
        }
        assert_eq!(blockable(" 192.0.2.1/32 "), Ok("192.0.2.1".to_owned()));
        assert_eq!(blockable("2001:db8::1/128"), Ok("2001:db8::1".to_owned()));
    }

    #[test]
    fn mapped_notation_means_the_ipv4_network() {
        assert_eq!(blockable("::ffff:192.0.2.1"), Ok("192.0.2.1".to_owned()));
        assert_eq!(blockable("::ffff:198.51.100.0/120"), Ok("198.51.100.0/24".to_owned()));
        assert_eq!(Prefix::parse("::ffff:192.0.2.1"), Prefix::parse("192.0.2.1"));
        assert_eq!(
            blockable("::ffff:0:0/96"),
            Err("too wide, the shortest network allowed here is /8".to_owned())
        );
        assert_eq!(blockable("::ffff:127.0.0.1"), Err("loopback addresses are never blocked".to_owned()));
    }

    #[test]
    fn whole_parts_of_the_internet_are_refused() {
        for text in ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/7"] {
            assert!(
                blockable(text).is_err_and(|reason| reason.contains("wide") || reason.contains("bits")),
                "{text}"
            );
        }
        for text in ["::/0", "2000::/3", "8000::/1", "2000::/15"] {
            assert_eq!(
                blockable(text),
                Err("too wide, the shortest network allowed here is /16".to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn protected_networks_are_refused_by_name_in_both_directions() {
        for (text, name) in [
            ("127.0.0.1", "loopback"),
            ("127.0.0.0/8", "loopback"),
            ("::1", "loopback"),
            ("0.0.0.0", "unspecified"),
            ("::", "unspecified"),
            ("::/16", "unspecified"),
            ("224.0.0.1", "multicast"),
            ("239.0.0.0/8", "multicast"),
            ("ff02::1", "multicast"),
            ("169.254.169.254", "link-local"),
            ("169.0.0.0/8", "link-local"),
            ("fe80::1", "link-local"),
            ("fe80::/16", "link-local"),
            ("255.255.255.255", "broadcast"),
            ("255.0.0.0/8", "broadcast"),
            ("::ffff:0:0/90", "unspecified"),
        ] {
            let refused = blockable(text);
            assert!(
                refused
                    .as_ref()
                    .is_err_and(|reason| reason.starts_with(name) || reason.contains("bits are set")),
                "{text}: {refused:?}"
            );
        }
    }

    #[test]
    fn host_bits_are_refused_with_both_readings() {
        assert_eq!(
            blockable("10.0.0.5/8"),
            Err("bits are set beyond the prefix length, did you mean 10.0.0.0/8 or 10.0.0.5?".to_owned())
        );
    }

    #[test]
    fn nonsense_is_not_an_address() {
        for text in [
            "",
            "/8",
            "1.2.3",
            "1.2.3.4/",
            "1.2.3.4/33",
            "1.2.3.4/+8",
            "1.2.3.4/-1",
            "::/129",
            "localhost",
            "01.2.3.4",
        ] {
            assert_eq!(blockable(text), Err("not an IP address or network".to_owned()), "{text}");
        }
    }

    #[test]
    fn allowing_takes_local_networks_but_not_everything() {
        for text in ["127.0.0.1", "fe80::/10", "fc00::/7", "10.0.0.0/8", "192.168.0.0/16"] {
            assert!(Prefix::parse_allowable(text).is_ok(), "{text}");
        }
        for text in ["0.0.0.0/0", "::/0", "0.0.0.0/7"] {
            assert!(Prefix::parse_allowable(text).is_err(), "{text}");
        }
    }
}
