#![no_std]
//! The treaty between the kernel program and its user side: map names, flags, codes and `repr(C)` records.
//!
//! Where both families meet, an address is 16 bytes in network order with IPv4 mapped (`::ffff:a.b.c.d`). All other
//! numbers are in host order. Fields are ordered big to small and padding is explicit; sizes are asserted below and
//! compared with the object's BTF by a test.

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of this treaty. Pins written under another number are not read.
pub const SCHEMA_VERSION: u32 = 1;

/// Names of the program and of the maps, as they appear in the object and under the pin directory.
pub mod names {
    /// The XDP program.
    pub const PROGRAM: &str = "ironpost_xdp";
    /// Array of one [`Config`](super::Config).
    pub const CONFIG: &str = "CONFIG";
    /// LPM trie [`PrefixKey`](super::PrefixKey) → [`Entry`](super::Entry): sources that always pass.
    pub const ALLOW: &str = "ALLOW";
    /// Hash [`Ipv4Key`](super::Ipv4Key) → [`Entry`](super::Entry): blocked IPv4 addresses and networks.
    pub const BLOCK_IPV4: &str = "BLOCK_IPV4";
    /// Hash [`Ipv6Key`](super::Ipv6Key) → [`Entry`](super::Entry): blocked IPv6 addresses and networks.
    pub const BLOCK_IPV6: &str = "BLOCK_IPV6";
    /// Array, mapped into user space: which prefix lengths to look up, see [`index`](super::index).
    pub const INDEX_IPV4: &str = "INDEX_IPV4";
    /// Array, mapped into user space: which prefix lengths to look up, see [`index`](super::index).
    pub const INDEX_IPV6: &str = "INDEX_IPV6";
    /// LRU hash of 16-byte addresses → [`SourceState`](super::SourceState): ports a source has touched.
    pub const SOURCES: &str = "SOURCES";
    /// Per-CPU array of one [`Counters`](super::Counters).
    pub const STATS: &str = "STATS";
    /// Per-CPU array of one [`CpuState`](super::CpuState).
    pub const CPU_STATE: &str = "CPU_STATE";
    /// Ring buffer of [`PacketRecord`](super::PacketRecord).
    pub const EVENTS: &str = "EVENTS";
}

/// Entries of [`names::BLOCK_IPV4`], [`names::BLOCK_IPV6`] and [`names::ALLOW`] unless the loader sets a size.
pub const DEFAULT_ENTRIES: usize = 10_000;
/// Sources watched for scans; the least recently seen makes room.
pub const SOURCE_ENTRIES: usize = 16_384;
/// Bytes of the ring buffer unless the loader sets a size.
pub const DEFAULT_RING_BYTES: usize = 256 * 1024;

/// VLAN tags that are looked through (802.1ad outer, 802.1Q inner).
pub const MAX_VLAN_TAGS: u32 = 2;
/// IPv6 extension headers that are walked.
pub const MAX_EXTENSION_HEADERS: u32 = 8;
/// Covering allow prefixes tried when a longer one has expired.
pub const MAX_COVERING_PREFIXES: u32 = 8;
/// Different IPv6 prefix lengths that are looked up for one source.
pub const MAX_IPV6_LENGTHS: u32 = 32;

/// Time in which distinct ports of a source are counted.
pub const SCAN_WINDOW_NS: u64 = 60_000_000_000;
/// `new_port` records of one source in one window; further ports are counted in [`CpuState::ports_capped`].
pub const SCAN_PORTS_PER_WINDOW: u32 = 128;
/// 64-bit words of the port filter of a source (two bits set per port).
pub const SCAN_FILTER_WORDS: usize = 16;
/// Records one CPU may emit in one [`RATE_WINDOW_NS`]; further ones are counted in [`CpuState::lost_rate_limited`].
pub const EVENTS_PER_WINDOW: u32 = 4_096;
/// Window of the rate limit.
pub const RATE_WINDOW_NS: u64 = 1_000_000_000;

/// Bits of [`Config::flags`].
pub mod flags {
    /// The allow list holds an IPv6 network shorter than /32: it is consulted for every IPv6 source.
    pub const ALLOW_SHORT_IPV6: u32 = 1;
}

/// The index of block entries: which prefix lengths exist near an address.
///
/// A blocked network is one entry of a hash, whatever its length. Asking the hash for every possible length would be
/// slow, so each part of the address space has a cell that names the lengths worth asking for. Most sources meet an
/// empty cell and pass after one array look-up; a blocked one usually costs one look-up in the hash. A kernel LPM trie
/// with 256 k prefixes takes six times as long. A bit too many costs a look-up and nothing else, so cells are set before
/// an entry is written and tidied up later.
pub mod index {
    /// Cells of each array.
    pub const CELLS: usize = 1 << 16;

    /// Bit of every cell (in its last word): the allow list has an entry that touches it.
    pub const ALLOW: u64 = 1 << 63;

    /// Bit of every IPv6 cell (in its last word) when [`Config`](super::Config) names networks shorter than /32.
    pub const SHORT: u64 = 1 << 62;

    /// Shortest IPv4 prefix of the index and of the hash.
    pub const SHORTEST_IPV4: u32 = 8;
    /// Shortest IPv6 prefix of the index; shorter ones are named in [`Config::short_ipv6`](super::Config::short_ipv6).
    pub const SHORTEST_IPV6: u32 = 32;
    /// Shortest IPv6 prefix of the hash.
    pub const SHORTEST_BLOCKED_IPV6: u32 = 16;

    /// Cell of an IPv4 address: its first two bytes.
    #[inline(always)]
    #[must_use]
    pub const fn ipv4_cell(address: u32) -> u32 {
        address >> 16
    }

    /// Bit of an IPv4 prefix length. The longest has the lowest bit, so the most specific entry is met first.
    #[inline(always)]
    #[must_use]
    pub const fn ipv4_bit(length: u32) -> u64 {
        1 << (32 - length)
    }

    /// Cell of an IPv6 address: its first four bytes, mixed, because live networks lie close together.
    #[inline(always)]
    #[must_use]
    pub const fn ipv6_cell(high: u64) -> u32 {
        ((high >> 32) as u32).wrapping_mul(0x9e37_79b1) >> 16
    }

    /// Word and bit of an IPv6 prefix length from 32 on: 128 to 65 in the first word, 64 to 32 in the second.
    ///
    /// The bits from 33 to 48 are free there for the kernel to put the short lengths in.
    #[inline(always)]
    #[must_use]
    pub const fn ipv6_bit(length: u32) -> (usize, u64) {
        if length > 64 { (0, 1 << (128 - length)) } else { (1, 1 << (64 - length)) }
    }
}

/// Values of [`Entry::mode`].
pub mod mode {
    /// Drop the packet.
    pub const DROP: u16 = 1;
    /// Pass the packet and count it as one that would have been dropped.
    pub const MONITOR: u16 = 2;
}

/// Indices of [`Counters::protocols`].
pub mod slot {
    /// TCP.
    pub const TCP: u32 = 0;
    /// UDP.
    pub const UDP: u32 = 1;
    /// ICMP and ICMPv6.
    pub const ICMP: u32 = 2;
    /// Everything else, frames that are not IP included.
    pub const OTHER: u32 = 3;
    /// Every frame.
    pub const TOTAL: u32 = 4;
    /// Number of slots.
    pub const COUNT: u32 = 5;
    /// Names in order.
    pub const NAMES: [&str; COUNT as usize] = ["tcp", "udp", "icmp", "other", "total"];
}

/// Indices of [`Counters::reasons`]. Every frame is counted under exactly one.
pub mod reason {
    /// Passed: no entry matches its source.
    pub const PASS: u32 = 0;
    /// Passed: its source is on the allow list.
    pub const ALLOWED: u32 = 1;
    /// Passed: a monitoring entry matches, it would have been dropped.
    pub const MONITORED: u32 = 2;
    /// Passed: every matching entry has expired.
    pub const EXPIRED: u32 = 3;
    /// Passed: a fragment; its ports were not read.
    pub const FRAGMENT: u32 = 4;
    /// Passed: neither IPv4 nor IPv6.
    pub const NOT_IP: u32 = 5;
    /// Passed unparsed: shorter than its Ethernet or VLAN header.
    pub const SHORT_FRAME: u32 = 6;
    /// Passed unparsed: more VLAN tags than are looked through.
    pub const VLAN_DEPTH: u32 = 7;
    /// Passed unparsed: IPv4 version, header length or size is wrong.
    pub const BAD_IPV4: u32 = 8;
    /// Passed unparsed: IPv6 version or size is wrong.
    pub const BAD_IPV6: u32 = 9;
    /// Passed, source checked: the extension header chain is too long or cut off.
    pub const IPV6_CHAIN: u32 = 10;
    /// Passed, source checked: the TCP or UDP header is cut off.
    pub const SHORT_TRANSPORT: u32 = 11;
    /// Dropped: the source is a blocked address.
    pub const BLOCKED_ADDRESS: u32 = 12;
    /// Dropped: the source is in a blocked network.
    pub const BLOCKED_PREFIX: u32 = 13;
    /// Number of reasons.
    pub const COUNT: u32 = 14;
    /// Room for reasons.
    pub const SLOTS: usize = 16;
    /// Names in order.
    pub const NAMES: [&str; COUNT as usize] = [
        "pass",
        "allowed",
        "monitored",
        "expired",
        "fragment",
        "not_ip",
        "short_frame",
        "vlan_depth",
        "bad_ipv4",
        "bad_ipv6",
        "ipv6_chain",
        "short_transport",
        "blocked_address",
        "blocked_prefix",
    ];

    /// Whether packets with this reason were dropped.
    #[must_use]
    pub const fn dropped(reason: u32) -> bool {
        reason == BLOCKED_ADDRESS || reason == BLOCKED_PREFIX
    }
}

/// Values of [`PacketRecord::kind`].
pub mod kind {
    /// A dropped packet (sampled).
    pub const DROP: u8 = 1;
    /// A packet that a monitoring entry would have dropped (sampled).
    pub const MONITOR: u8 = 2;
    /// A source touched a destination port for the first time in its window.
    pub const NEW_PORT: u8 = 3;
}

/// Bits of [`PacketRecord::flags`].
pub mod packet_flags {
    /// A fragment; the ports are zero because they were not read.
    pub const FRAGMENT: u16 = 1;
    /// The ports were read.
    pub const PORTS: u16 = 1 << 1;
}

/// What the loader tells the program. One element.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct Config {
    /// [`SCHEMA_VERSION`] of the side that created the maps.
    pub schema_version: u32,
    /// See [`flags`].
    pub flags: u32,
    /// One record for this many drops (and monitored packets); 0 emits none.
    pub sample_every: u32,
    /// UDP to this port or above is taken for an answer to our own question, not for a scan.
    pub ephemeral_low: u32,
    /// Blocked IPv6 prefix lengths shorter than [`index::SHORTEST_IPV6`], bit `31 - length`.
    pub short_ipv6: u32,
    /// Always zero.
    pub padding: u32,
    /// SHA-256 of the object whose program is attached.
    pub program_hash: [u8; 32],
}

/// A blocked IPv4 network.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct Ipv4Key {
    /// Host order, bits beyond `length` zero.
    pub address: u32,
    /// 8 to 32.
    pub length: u32,
}

/// A blocked IPv6 network.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct Ipv6Key {
    /// First eight bytes, host order, bits beyond `length` zero.
    pub high: u64,
    /// Last eight bytes.
    pub low: u64,
    /// 16 to 128.
    pub length: u32,
    /// Always zero.
    pub padding: u32,
}

/// Key of the allow trie, as the kernel wants it: prefix length in bits, then the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct PrefixKey {
    /// 0 to 128, IPv4 prefixes are 96 longer than written.
    pub length: u32,
    /// Network order, in four words as they lie in memory.
    pub address: [u32; 4],
}

/// Value of the allow and block maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct Entry {
    /// Nanoseconds of the boot clock (`CLOCK_BOOTTIME`) after which the entry has no effect; 0 never.
    pub expires_boot_ns: u64,
    /// Number of the rule or decision, reported in records.
    pub rule_id: u32,
    /// See [`mode`]; not read on the allow list.
    pub mode: u16,
    /// Prefix length of the key as the allow trie has it (IPv4: 96 longer), so that a covering one can be looked up.
    pub length: u16,
}

/// One protocol's counts on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct ProtocolCounters {
    /// Frames seen.
    pub packets: u64,
    /// Bytes of those frames, from the Ethernet header on.
    pub bytes: u64,
    /// Frames dropped among them.
    pub drops: u64,
}

/// Everything one CPU counts. One element, so that a packet costs one look-up and a reader sees one state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct Counters {
    /// By [`slot`].
    pub protocols: [ProtocolCounters; slot::COUNT as usize],
    /// Packets by [`reason`]; a power of two, because masking an index is a bound the verifier follows.
    pub reasons: [u64; reason::SLOTS],
}

/// What a CPU remembers from packet to packet. One element.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct CpuState {
    /// Start of the current rate window, coarse monotonic clock.
    pub window_started_ns: u64,
    /// Records written to the ring buffer.
    pub emitted: u64,
    /// Records lost because the ring buffer was full.
    pub lost_ring_full: u64,
    /// Records lost to the rate limit.
    pub lost_rate_limited: u64,
    /// New ports beyond [`SCAN_PORTS_PER_WINDOW`] of their source.
    pub ports_capped: u64,
    /// Tick of the kernel (`jiffies`) in which [`CpuState::boot_ns`] was read.
    pub tick: u64,
    /// Boot clock at the first question in that tick. Reading the clock takes longer than everything else about a
    /// blocked packet; expiry is exact to one tick instead (1 to 10 ms), also after the machine has slept.
    pub boot_ns: u64,
    /// Records in the current rate window.
    pub in_window: u32,
    /// Drops to let by before the next sample.
    pub until_sample: u32,
}

/// The destination ports a source has touched in its window.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct SourceState {
    /// Start of the window, coarse monotonic clock. Also the seed of the filter, so that an attacker cannot pick
    /// ports that look alike.
    pub window_started_ns: u64,
    /// Bloom filter of ports.
    pub filter: [u64; SCAN_FILTER_WORDS],
    /// Ports counted in the window.
    pub ports: u32,
    /// Always zero.
    pub padding: u32,
}

/// One record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
pub struct PacketRecord {
    /// Boot clock when the packet was seen.
    pub boot_ns: u64,
    /// Network order, IPv4 mapped.
    pub source: [u32; 4],
    /// Network order, IPv4 mapped.
    pub destination: [u32; 4],
    /// [`Entry::rule_id`] of the entry that matched; 0 for [`kind::NEW_PORT`].
    pub rule_id: u32,
    /// Index of the interface the packet came in on.
    pub interface: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// How many packets this record stands for ([`Config::sample_every`]); 1 for [`kind::NEW_PORT`].
    pub sample: u32,
    /// Host order; valid with [`packet_flags::PORTS`].
    pub source_port: u16,
    /// Host order; valid with [`packet_flags::PORTS`].
    pub destination_port: u16,
    /// Outer VLAN id, 0 for none.
    pub vlan: u16,
    /// See [`packet_flags`].
    pub flags: u16,
    /// See [`kind`].
    pub kind: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Flag byte of the TCP header, 0 otherwise.
    pub tcp_flags: u8,
    /// Always zero.
    pub padding: u8,
    /// Always zero.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<Config>() == 56);
    assert!(size_of::<Ipv4Key>() == 8);
    assert!(size_of::<Ipv6Key>() == 24);
    assert!(size_of::<PrefixKey>() == 20);
    assert!(size_of::<Entry>() == 16 && align_of::<Entry>() == 8);
    assert!(size_of::<ProtocolCounters>() == 24);
    assert!(size_of::<Counters>() == 5 * 24 + 16 * 8);
    assert!(size_of::<CpuState>() == 64);
    assert!(size_of::<SourceState>() == 144);
    assert!(size_of::<PacketRecord>() == 72);
    assert!(SCAN_FILTER_WORDS.is_power_of_two());
    assert!(reason::SLOTS.is_power_of_two() && reason::COUNT as usize <= reason::SLOTS);
};
