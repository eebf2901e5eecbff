//! The verdict by source address: the allow list first, then the blocked networks that the index names.

use crate::{
    maps::{self, ALLOW, Address, BLOCK_IPV4, BLOCK_IPV6, CONFIG, INDEX_IPV4, INDEX_IPV6},
    parse::{self, Source},
};
use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns},
};
use ironpost_ebpf_common::{
    Entry, Ipv4Key, Ipv6Key, MAX_COVERING_PREFIXES, MAX_IPV6_LENGTHS, PrefixKey, flags, index, mode, reason,
};

/// What to do with a packet and why.
pub struct Verdict {
    /// One of [`reason`].
    pub reason: u32,
    /// Rule of the entry that decided, 0 for none.
    pub rule_id: u32,
}

impl Verdict {
    #[inline(always)]
    fn pack(&self) -> u64 {
        u64::from(self.rule_id) << 32 | u64::from(self.reason)
    }

    #[inline(always)]
    fn unpack(packed: u64) -> Self {
        // The compiler knows which reasons a function can return and would take bounds checks away that the verifier,
        // which does not know, insists on.
        let packed = core::hint::black_box(packed);
        Self { reason: packed as u32, rule_id: (packed >> 32) as u32 }
    }
}

const NOTHING: Verdict = Verdict { reason: reason::PASS, rule_id: 0 };
const ALLOWED: Verdict = Verdict { reason: reason::ALLOWED, rule_id: 0 };

/// Different IPv4 prefix lengths there can be.
const IPV4_LENGTHS: u32 = 32 - index::SHORTEST_IPV4 + 1;

/// Decides about packets of `source`. A live allow entry beats everything, a live drop entry beats a monitoring one
/// whatever their lengths, and an expired entry hides nothing.
#[inline(always)]
pub fn decide(source: &Source) -> Verdict {
    match *source {
        Source::Ipv4(address) => decide_ipv4(address),
        Source::Ipv6(high, low) => decide_ipv6(high, low),
    }
}

/// The common cases without a call: nothing is blocked around the source, or an entry of one of the two commonest
/// lengths drops it. Branches on the cell also let the processor ask the hash before the cell has arrived.
#[inline(always)]
fn decide_ipv4(address: u32) -> Verdict {
    let Some(cell) = INDEX_IPV4.get(index::ipv4_cell(address)) else { return NOTHING };
    let mut cell = *cell;
    if cell & index::ALLOW == 0 {
        for length in [32, 24] {
            if cell & index::ipv4_bit(length) == 0 {
                continue;
            }
            let key = Ipv4Key { address: address >> (32 - length) << (32 - length), length };
            // SAFETY: the entry is read before anything else touches the map.
            match unsafe { BLOCK_IPV4.get(&key) } {
                None => cell &= !index::ipv4_bit(length),
                Some(entry) if entry.mode == mode::DROP && live(entry) => {
                    return blocked(length == 32, entry);
                }
                // Monitoring or expired: the whole search weighs it against the others.
                Some(_) => break,
            }
        }
        if cell == 0 {
            return NOTHING;
        }
    }
    Verdict::unpack(search_ipv4(u64::from(address), cell))
}

/// As [`decide_ipv4`].
#[inline(always)]
fn decide_ipv6(high: u64, low: u64) -> Verdict {
    let Some(cell) = INDEX_IPV6.get(index::ipv6_cell(high)) else { return NOTHING };
    let [mut long, mut middle] = *cell;
    if middle & (index::ALLOW | index::SHORT) == 0 {
        for length in [128, 64] {
            let (word, bit) = index::ipv6_bit(length);
            if (if word == 0 { long } else { middle }) & bit == 0 {
                continue;
            }
            let key = Ipv6Key { high, low: if length == 128 { low } else { 0 }, length, padding: 0 };
            // SAFETY: the entry is read before anything else touches the map.
            match unsafe { BLOCK_IPV6.get(&key) } {
                None if word == 0 => long &= !bit,
                None => middle &= !bit,
                Some(entry) if entry.mode == mode::DROP && live(entry) => {
                    return blocked(length == 128, entry);
                }
                Some(_) => break,
            }
        }
        if long | middle == 0 {
            return NOTHING;
        }
    }
    Verdict::unpack(search_ipv6(high, low))
}

#[inline(always)]
fn blocked(address: bool, entry: &Entry) -> Verdict {
    let reason = if address { reason::BLOCKED_ADDRESS } else { reason::BLOCKED_PREFIX };
    Verdict { reason, rule_id: entry.rule_id }
}

/// The verdict about an IPv4 source with its cell of the index, packed.
///
/// A function of numbers and not inlined, as those below: so the verifier looks at it once, and not once for every way a
/// frame can be parsed.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn search_ipv4(address: u64, cell: u64) -> u64 {
    if cell & index::ALLOW != 0 && allowed(&Source::Ipv4(address as u32)) {
        return ALLOWED.pack();
    }
    let mut found = NOTHING;
    let mut bits = cell & !index::ALLOW;
    for _ in 0..IPV4_LENGTHS {
        if bits == 0 {
            break;
        }
        let host_bits = bits.trailing_zeros();
        bits &= bits - 1;
        let key = Ipv4Key { address: (address >> host_bits << host_bits) as u32, length: 32 - host_bits };
        // SAFETY: the entry is read before anything else touches the map.
        if let Some(entry) = unsafe { BLOCK_IPV4.get(&key) } {
            let blocked = if host_bits == 0 { reason::BLOCKED_ADDRESS } else { reason::BLOCKED_PREFIX };
            if judge(entry, blocked, &mut found) {
                break;
            }
        }
    }
    found.pack()
}

/// The verdict about an IPv6 source, packed.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn search_ipv6(high: u64, low: u64) -> u64 {
    let (Some(config), Some(cell)) = (CONFIG.get(0), INDEX_IPV6.get(index::ipv6_cell(high))) else {
        return NOTHING.pack();
    };
    let [long, middle] = *cell;
    let short = u64::from(config.short_ipv6);
    let ask = middle & index::ALLOW != 0 || config.flags & flags::ALLOW_SHORT_IPV6 != 0;
    if ask && allowed(&Source::Ipv6(high, low)) {
        return ALLOWED.pack();
    }
    let mut found = NOTHING;
    if long != 0 {
        found = search_low(high, low, long);
    }
    // Bit 0 of the short lengths is /31: 33 bits of the upper half are beyond it.
    let upper = middle & !(index::ALLOW | index::SHORT) | short << 33;
    if upper != 0 && !reason::dropped(found.reason) {
        let other = Verdict::unpack(search_high(high, upper));
        let better = reason::dropped(other.reason) || found.reason != reason::MONITORED;
        if other.reason != reason::PASS && better {
            found = other;
        }
    }
    found.pack()
}

/// Looks IPv6 networks longer than /64 up, one for every bit.
#[inline(always)]
fn search_low(high: u64, low: u64, bits: u64) -> Verdict {
    let mut bits = bits;
    let mut found = NOTHING;
    for _ in 0..MAX_IPV6_LENGTHS {
        if bits == 0 {
            break;
        }
        let host_bits = bits.trailing_zeros();
        bits &= bits - 1;
        let key = Ipv6Key { high, low: low >> host_bits << host_bits, length: 128 - host_bits, padding: 0 };
        // SAFETY: the entry is read before anything else touches the map.
        if let Some(entry) = unsafe { BLOCK_IPV6.get(&key) } {
            let blocked = if host_bits == 0 { reason::BLOCKED_ADDRESS } else { reason::BLOCKED_PREFIX };
            if judge(entry, blocked, &mut found) {
                break;
            }
        }
    }
    found
}

/// Looks IPv6 networks of /64 and shorter up, one for every bit.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn search_high(high: u64, bits: u64) -> u64 {
    let mut bits = bits;
    let mut found = NOTHING;
    for _ in 0..MAX_IPV6_LENGTHS {
        if bits == 0 {
            break;
        }
        let host_bits = bits.trailing_zeros();
        bits &= bits - 1;
        let key =
            Ipv6Key { high: high >> host_bits << host_bits, low: 0, length: 64 - host_bits, padding: 0 };
        // SAFETY: the entry is read before anything else touches the map.
        if let Some(entry) = unsafe { BLOCK_IPV6.get(&key) } {
            if judge(entry, reason::BLOCKED_PREFIX, &mut found) {
                break;
            }
        }
    }
    found.pack()
}

/// Whether a live allow entry covers the source.
#[inline(always)]
fn allowed(source: &Source) -> bool {
    let (high, low) = source.halves();
    let mut key = PrefixKey { length: 128, address: parse::address(high, low) };
    for _ in 0..MAX_COVERING_PREFIXES {
        let Some(entry) = ALLOW.get(as_key(&key)) else { return false };
        if live(entry) {
            return true;
        }
        if entry.length == 0 {
            return false;
        }
        key.length = u32::from(entry.length) - 1;
    }
    false
}

/// Puts what `entry` says into `found`; true when nothing can change it any more.
#[inline(always)]
fn judge(entry: &Entry, blocked: u32, found: &mut Verdict) -> bool {
    if !live(entry) {
        if found.reason == reason::PASS {
            found.reason = reason::EXPIRED;
        }
        return false;
    }
    if entry.mode == mode::DROP {
        *found = Verdict { reason: blocked, rule_id: entry.rule_id };
        return true;
    }
    if found.reason != reason::MONITORED {
        *found = Verdict { reason: reason::MONITORED, rule_id: entry.rule_id };
    }
    false
}

/// Whether the entry has not expired. The clock is asked only about entries that can.
#[inline(always)]
fn live(entry: &Entry) -> bool {
    entry.expires_boot_ns == 0 || boot_ns() < entry.expires_boot_ns
}

/// The boot clock, read once in every tick of the kernel.
#[inline(always)]
fn boot_ns() -> u64 {
    let Some(state) = maps::cpu_state() else { return 0 };
    // SAFETY: the helper has no precondition; it becomes a plain load.
    let tick = unsafe { bpf_jiffies64() };
    if state.tick != tick || state.boot_ns == 0 {
        state.tick = tick;
        // SAFETY: the helper has no precondition.
        state.boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    }
    state.boot_ns
}

/// The key in the type of the map. Same bytes; ours is aligned, so that it is built with word stores.
#[inline(always)]
fn as_key(source: &PrefixKey) -> &Key<Address> {
    // SAFETY: both are `repr(C)` with a `u32` and sixteen bytes; the target's alignment is 1.
    unsafe { &*core::ptr::from_ref(source).cast::<Key<Address>>() }
}
