//! From bytes to the few facts a verdict needs. Every read is bounds-checked against the end of the frame.

use crate::maps::Address;
use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use ironpost_ebpf_common::{MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, reason, slot};

/// IPv4-mapped addresses begin with ten zero bytes and `ff ff`: the third word as it lies in memory.
const MAPPED_WORD: u32 = 0x0000_ffff_u32.to_be();

const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// No header begins further inside a frame than this: every bound above together with room to spare.
const FURTHEST: usize = 0x7fff;

const TYPE_IPV4: u16 = 0x0800_u16.to_be();
const TYPE_IPV6: u16 = 0x86dd_u16.to_be();
const TYPE_8021Q: u16 = 0x8100_u16.to_be();
const TYPE_8021AD: u16 = 0x88a8_u16.to_be();

/// More fragments, and the thirteen bits of the offset.
const IPV4_FRAGMENT: u16 = 0x3fff_u16.to_be();
/// The M bit and the offset of an IPv6 fragment header.
const IPV6_FRAGMENT: u16 = 0xfff9_u16.to_be();

/// IP protocol numbers that mean something here.
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION_OPTIONS: u8 = 60;

    /// Whether more headers follow that the kernel would look through.
    #[inline(always)]
    pub const fn is_extension(number: u8) -> bool {
        matches!(number, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
    }
}

/// Where a packet comes from, in host order. An IPv4-mapped IPv6 source is the IPv4 one it means.
#[derive(Clone, Copy)]
pub enum Source {
    Ipv4(u32),
    Ipv6(u64, u64),
}

impl Source {
    /// Both halves of the address, IPv4 mapped.
    #[inline(always)]
    pub fn halves(&self) -> (u64, u64) {
        match *self {
            Self::Ipv4(address) => (0, 0xffff_0000_0000 | u64::from(address)),
            Self::Ipv6(high, low) => (high, low),
        }
    }
}

/// An address as maps and records for both families have it.
#[inline(always)]
pub fn address(high: u64, low: u64) -> Address {
    [((high >> 32) as u32).to_be(), (high as u32).to_be(), ((low >> 32) as u32).to_be(), (low as u32).to_be()]
}

/// The header that carried the source.
#[derive(Clone, Copy, PartialEq)]
pub enum Version {
    Ipv4,
    Ipv6,
}

/// The facts of the IP header.
#[derive(Clone, Copy)]
pub struct Network {
    /// Where the header begins.
    offset: usize,
    pub version: Version,
    pub source: Source,
    /// Outer VLAN id, 0 for none.
    pub vlan: u16,
}

/// The facts behind the IP header.
#[derive(Clone, Copy)]
pub struct Transport {
    /// IP protocol number.
    pub protocol: u8,
    /// What hinders reading on, [`reason::PASS`] for nothing.
    pub note: u32,
    /// Where the transport header begins.
    offset: usize,
    /// Bytes from there to the end of the IP packet.
    remaining: usize,
    /// Where the packet ends by its own account.
    claimed_end: usize,
}

/// Ports of TCP and UDP.
#[derive(Clone, Copy)]
pub struct Ports {
    /// Host order.
    pub source: u16,
    /// Host order.
    pub destination: u16,
    /// Flags of TCP.
    pub flags: u8,
}

/// The bytes of a frame that lie in one piece.
#[derive(Clone, Copy)]
pub struct Frame {
    context: *mut xdp_md,
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame that the program was called for.
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self { context: context.ctx, start: context.data(), end: context.data_end() }
    }

    /// Reads Ethernet, VLAN tags and the IP header, or says why not.
    #[inline(always)]
    pub fn network(&self) -> Result<Network, u32> {
        let header = self.at(0, ETHERNET_HEADER).ok_or(reason::SHORT_FRAME)?;
        let mut kind: u16 = load(header, 12);
        let mut offset = ETHERNET_HEADER;
        let mut vlan = 0;
        for depth in 0..MAX_VLAN_TAGS {
            if kind != TYPE_8021Q && kind != TYPE_8021AD {
                break;
            }
            let tag = self.at(offset, VLAN_TAG).ok_or(reason::SHORT_FRAME)?;
            if depth == 0 {
                vlan = u16::from_be(load(tag, 0)) & 0x0fff;
            }
            kind = load(tag, 2);
            offset += VLAN_TAG;
        }
        match kind {
            TYPE_IPV4 => {
                let header = self.at(offset, IPV4_HEADER).ok_or(reason::BAD_IPV4)?;
                let first: u8 = load(header, 0);
                let length = usize::from(first & 0x0f) * 4;
                if first >> 4 != 4 || length < IPV4_HEADER || self.at(offset, length).is_none() {
                    return Err(reason::BAD_IPV4);
                }
                let source = Source::Ipv4(u32::from_be(load(header, 12)));
                Ok(Network { offset, version: Version::Ipv4, source, vlan })
            }
            TYPE_IPV6 => {
                let header = self.at(offset, IPV6_HEADER).ok_or(reason::BAD_IPV6)?;
                if load::<u8>(header, 0) >> 4 != 6 {
                    return Err(reason::BAD_IPV6);
                }
                let (high, low) = (u64::from_be(load(header, 8)), u64::from_be(load(header, 16)));
                let mapped = high == 0 && low >> 32 == 0xffff;
                let source = if mapped { Source::Ipv4(low as u32) } else { Source::Ipv6(high, low) };
                Ok(Network { offset, version: Version::Ipv6, source, vlan })
            }
            TYPE_8021Q | TYPE_8021AD => Err(reason::VLAN_DEPTH),
            _ => Err(reason::NOT_IP),
        }
    }

    /// Finds the transport protocol.
    #[inline(always)]
    pub fn transport(&self, network: &Network) -> Transport {
        match network.version {
            Version::Ipv4 => self.transport_ipv4(network.offset),
            Version::Ipv6 => self.transport_ipv6(network.offset),
        }
    }

    #[inline(always)]
    fn transport_ipv4(&self, offset: usize) -> Transport {
        let Some(header) = self.at(offset, IPV4_HEADER) else { return UNKNOWN };
        let length = usize::from(load::<u8>(header, 0) & 0x0f) * 4;
        let total = usize::from(u16::from_be(load(header, 2)));
        let fragment = load::<u16>(header, 6) & IPV4_FRAGMENT != 0;
        Transport {
            protocol: load(header, 9),
            note: if fragment { reason::FRAGMENT } else { reason::PASS },
            offset: offset + length,
            remaining: remaining(total, length),
            claimed_end: end(offset, total),
        }
    }

    #[inline(always)]
    fn transport_ipv6(&self, offset: usize) -> Transport {
        let Some(header) = self.at(offset, IPV6_HEADER) else { return UNKNOWN };
        let payload = usize::from(u16::from_be(load(header, 4)));
        let start = offset + IPV6_HEADER;
        let first: u8 = load(header, 6);
        let mut transport = Transport {
            protocol: first,
            note: reason::PASS,
            offset: start,
            remaining: remaining(payload, 0),
            claimed_end: end(start, payload),
        };
        if protocol::is_extension(first) {
            // The verifier knows nothing about a function's result and needs the bound below, which the compiler would
            // take away because it does know.
            let packed = core::hint::black_box(walk_extensions(self.context, start as u64, u64::from(first)));
            let walked = (packed >> 16) as usize & FURTHEST;
            transport.protocol = packed as u8;
            transport.note = (packed >> 8) as u32 & 0xff;
            transport.offset = start + walked;
            transport.remaining = remaining(payload, walked);
        }
        transport
    }

    /// Reads ports and flags of TCP and UDP: nothing for other protocols, or what is odd about the packet.
    #[inline(always)]
    pub fn ports(&self, transport: &Transport) -> Result<Option<Ports>, u32> {
        if transport.note != reason::PASS {
            return Err(transport.note);
        }
        let (needed, flags_at) = match transport.protocol {
            protocol::TCP => (TCP_HEADER, 13),
            protocol::UDP => (UDP_HEADER, 0),
            _ => return Ok(None),
        };
        if transport.remaining < needed {
            return Err(reason::SHORT_TRANSPORT);
        }
        let header = self.at(transport.offset, UDP_HEADER).ok_or(reason::SHORT_TRANSPORT)?;
        let mut flags = 0;
        if flags_at != 0 {
            flags = load(self.at(transport.offset, TCP_HEADER).ok_or(reason::SHORT_TRANSPORT)?, 13);
        }
        let (source, destination) = (u16::from_be(load(header, 0)), u16::from_be(load(header, 2)));
        Ok(Some(Ports { source, destination, flags }))
    }

    /// The destination address.
    #[inline(always)]
    pub fn destination(&self, network: &Network) -> Address {
        match network.version {
            Version::Ipv4 => match self.at(network.offset + 16, 4) {
                Some(bytes) => [0, 0, MAPPED_WORD, load(bytes, 0)],
                None => [0; 4],
            },
            Version::Ipv6 => match self.at(network.offset + 24, 16) {
                Some(bytes) => [load(bytes, 0), load(bytes, 4), load(bytes, 8), load(bytes, 12)],
                None => [0; 4],
            },
        }
    }

    /// Bytes of the frame when the packet claims no more than what lies in one piece; otherwise the rest lies in further
    /// buffers, or was cut off, and the caller must ask the kernel.
    #[inline(always)]
    pub fn length(&self, transport: &Transport) -> Option<u64> {
        let length = self.end - self.start;
        if transport.claimed_end <= length { Some(length as u64) } else { None }
    }

    /// `length` readable bytes at `offset`, or nothing.
    #[inline(always)]
    fn at(&self, offset: usize, length: usize) -> Option<*const u8> {
        let begin = self.start + offset;
        if begin + length > self.end { None } else { Some(begin as *const u8) }
    }
}

/// Follows the extension headers the kernel knows, from `start` on. Returns protocol, note and the bytes walked, packed.
///
/// A function of its own, and not inlined: so the verifier looks at its loop once, and frames without such headers do not
/// pay for it.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn walk_extensions(context: *mut xdp_md, start: u64, first: u64) -> u64 {
    let frame = Frame::new(&XdpContext::new(context));
    let start = start as usize & 0xff;
    let mut walked = 0_usize;
    let mut next = first as u8;
    for _ in 0..MAX_EXTENSION_HEADERS {
        let kind = next;
        let Some(header) = frame.at(start + walked, 8) else { return pack(kind, reason::IPV6_CHAIN, walked) };
        next = load(header, 0);
        let size = usize::from(load::<u8>(header, 1));
        walked += match kind {
            protocol::FRAGMENT => {
                if load::<u16>(header, 2) & IPV6_FRAGMENT != 0 {
                    // What follows may be the middle of anything: only its protocol is known.
                    return pack(next, reason::FRAGMENT, walked);
                }
                8
            }
            protocol::AUTHENTICATION => (size + 2) * 4,
            _ => (size + 1) * 8,
        };
        if !protocol::is_extension(next) {
            return pack(next, reason::PASS, walked);
        }
    }
    pack(next, reason::IPV6_CHAIN, walked)
}

#[inline(always)]
fn pack(protocol: u8, note: u32, walked: usize) -> u64 {
    u64::from(protocol) | u64::from(note) << 8 | (walked as u64) << 16
}

/// Said of a header that has vanished since it was checked, which cannot happen.
const UNKNOWN: Transport = Transport {
    protocol: 255,
    note: reason::SHORT_TRANSPORT,
    offset: 0,
    remaining: 0,
    claimed_end: usize::MAX,
};

/// Slot of the statistics.
#[inline(always)]
pub fn slot_of(version: Version, protocol: u8) -> u32 {
    match protocol {
        protocol::TCP => slot::TCP,
        protocol::UDP => slot::UDP,
        protocol::ICMP if version == Version::Ipv4 => slot::ICMP,
        protocol::ICMPV6 if version == Version::Ipv6 => slot::ICMP,
        _ => slot::OTHER,
    }
}

/// Bytes after a header of `used` bytes. A length field of 0 is a packet above 64 KiB, whose end is the frame's.
#[inline(always)]
fn remaining(total: usize, used: usize) -> usize {
    if total == 0 { usize::MAX } else { total.saturating_sub(used) }
}

/// Where a packet ends that begins at `start`. A length field of 0 is a packet above 64 KiB.
#[inline(always)]
fn end(start: usize, length: usize) -> usize {
    if length == 0 { usize::MAX } else { start + length }
}

/// Loads a number in memory order from bytes that [`Frame::at`] has checked.
#[inline(always)]
fn load<T: Copy>(bytes: *const u8, offset: usize) -> T {
    // SAFETY: callers stay within what `at` checked, and the verifier proves it. Network headers lie at any address;
    // BPF loads need no alignment on the processors the object is loaded on, and the verifier refuses it elsewhere.
    unsafe { *bytes.add(offset).cast::<T>() }
}
