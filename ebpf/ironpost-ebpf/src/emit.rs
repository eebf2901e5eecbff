//! Records for user space: sampled drops and new destination ports. Each is written, or counted as lost.

use core::mem::MaybeUninit;

use crate::{
    maps::{self, EVENTS, SOURCES},
    parse::{self, Frame, Network, Ports, Transport, protocol},
};
use aya_ebpf::{
    Global,
    bindings::{BPF_RB_FORCE_WAKEUP, xdp_md},
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns},
    programs::XdpContext,
};
use ironpost_ebpf_common::{
    EVENTS_PER_WINDOW, PacketRecord, RATE_WINDOW_NS, SCAN_FILTER_WORDS, SCAN_PORTS_PER_WINDOW,
    SCAN_WINDOW_NS, SourceState, kind, packet_flags, reason,
};

/// One record for this many drops (and monitored packets); 0 emits none. Set by the loader, a constant to the verifier.
#[unsafe(no_mangle)]
static SAMPLE_EVERY: Global<u32> = Global::new(0);

/// UDP to this port or above is taken for an answer to our own question, not for a scan. Set by the loader.
#[unsafe(no_mangle)]
static EPHEMERAL_LOW: Global<u32> = Global::new(32_768);

const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// Emits one record for every `sample_every` calls on this CPU.
#[inline(always)]
pub fn sampled(context: &XdpContext, kind: u8, rule_id: u32, length: u64) {
    let every = SAMPLE_EVERY.load();
    if every == 0 {
        return;
    }
    let Some(state) = maps::cpu_state() else { return };
    if state.until_sample != 0 {
        state.until_sample -= 1;
        return;
    }
    state.until_sample = every - 1;
    write_record(context.ctx, u64::from(kind), u64::from(rule_id), u64::from(every), length);
}

/// Emits a record when the source touches a destination port it has not touched in its window.
///
/// Looked at are UDP, and TCP with neither ACK nor RST: openings and the stealth scans, never part of a running
/// connection. UDP to our own ephemeral ports is left out: it answers questions this host asked.
#[inline(always)]
pub fn new_port(context: &XdpContext, network: &Network, transport: &Transport, ports: &Ports, length: u64) {
    if transport.protocol == protocol::TCP {
        if ports.flags & (TCP_ACK | TCP_RST) != 0 {
            return;
        }
    } else if u32::from(ports.destination) >= EPHEMERAL_LOW.load() {
        return;
    }
    let (high, low) = network.source.halves();
    if is_new_port(high, low, u64::from(ports.destination)) != 0 {
        write_record(context.ctx, u64::from(kind::NEW_PORT), 0, 1, length);
    }
}

/// Notes that a source has touched a port; 1 when that is worth a record.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn is_new_port(high: u64, low: u64, port: u64) -> u64 {
    let port = port as u16;
    let address = parse::address(high, low);
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let Some(source) = SOURCES.get_ptr_mut(&address) else {
        let mut fresh = MaybeUninit::<SourceState>::uninit();
        // SAFETY: `begin_window` writes every field.
        let fresh = unsafe {
            begin_window(fresh.as_mut_ptr(), now);
            fresh.assume_init_mut()
        };
        fresh.ports = 1;
        let (first, second) = bits(now, port);
        set(&mut fresh.filter, first);
        set(&mut fresh.filter, second);
        // A failed insert means that the LRU has no free entry for a moment: the next packet tries again.
        let _ = SOURCES.insert(&address, &*fresh, 0);
        return 1;
    };
    // SAFETY: a live element. Two CPUs may write it at once: the worst is a port reported twice or not at all.
    let source = unsafe { &mut *source };
    if now - source.window_started_ns >= SCAN_WINDOW_NS {
        // SAFETY: as above.
        unsafe { begin_window(source, now) };
    }
    let (first, second) = bits(source.window_started_ns, port);
    if is_set(&source.filter, first) && is_set(&source.filter, second) {
        return 0;
    }
    set(&mut source.filter, first);
    set(&mut source.filter, second);
    if source.ports >= SCAN_PORTS_PER_WINDOW {
        if let Some(state) = maps::cpu_state() {
            state.ports_capped += 1;
        }
        return 0;
    }
    source.ports += 1;
    1
}

/// Writes an empty window.
///
/// # Safety
/// `state` must be writable; it need not be initialised.
#[inline(always)]
unsafe fn begin_window(state: *mut SourceState, now: u64) {
    // SAFETY: granted by the caller. Volatile, because a plain loop becomes a call that clears byte by byte.
    unsafe {
        (*state).window_started_ns = now;
        (*state).ports = 0;
        (*state).padding = 0;
        let words = (&raw mut (*state).filter).cast::<u64>();
        for word in 0..SCAN_FILTER_WORDS {
            words.add(word).write_volatile(0);
        }
    }
}

/// Reserves, fills and submits a record, within the rate limit of this CPU; otherwise counts it as lost.
///
/// Rare, so it reads the frame once more instead of making every packet carry all facts along.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn write_record(
    context: *mut xdp_md,
    kind: u64,
    rule_id: u64,
    stands_for: u64,
    length: u64,
) -> u64 {
    let context = XdpContext::new(context);
    let Some(state) = maps::cpu_state() else { return 0 };
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if now - state.window_started_ns >= RATE_WINDOW_NS {
        state.window_started_ns = now;
        state.in_window = 0;
    }
    if state.in_window >= EVENTS_PER_WINDOW {
        state.lost_rate_limited += 1;
        return 0;
    }
    let frame = Frame::new(&context);
    let Ok(network) = frame.network() else { return 0 };
    let transport = frame.transport(&network);
    let mut flags = if transport.note == reason::FRAGMENT { packet_flags::FRAGMENT } else { 0 };
    let mut ports = Ports { source: 0, destination: 0, flags: 0 };
    if let Ok(Some(read)) = frame.ports(&transport) {
        ports = read;
        flags |= packet_flags::PORTS;
    }
    let Some(mut record) = EVENTS.reserve(0) else {
        state.lost_ring_full += 1;
        return 0;
    };
    state.in_window += 1;
    state.emitted += 1;
    let (high, low) = network.source.halves();
    record.write(PacketRecord {
        // SAFETY: the helper has no precondition.
        boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        source: parse::address(high, low),
        destination: frame.destination(&network),
        rule_id: rule_id as u32,
        interface: context.ingress_ifindex() as u32,
        length: length as u32,
        sample: stands_for as u32,
        source_port: ports.source,
        destination_port: ports.destination,
        vlan: network.vlan,
        flags,
        kind: kind as u8,
        protocol: transport.protocol,
        tcp_flags: ports.flags,
        padding: 0,
        reserved: 0,
    });
    // The reader keeps its own position and moves the kernel's only after its work is stored, so the kernel's
    // "reader has caught up" test would never wake it.
    record.submit(u64::from(BPF_RB_FORCE_WAKEUP));
    1
}

/// Two bit numbers of the filter for a port, different for every window.
#[inline(always)]
fn bits(seed: u64, port: u16) -> (u32, u32) {
    let mixed = (seed ^ (u64::from(port) << 32) ^ u64::from(port)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed >> 32) as u32, (mixed >> 48) as u32)
}

#[inline(always)]
fn is_set(filter: &[u64; SCAN_FILTER_WORDS], bit: u32) -> bool {
    filter[word(bit)] & (1 << (bit & 63)) != 0
}

#[inline(always)]
fn set(filter: &mut [u64; SCAN_FILTER_WORDS], bit: u32) {
    filter[word(bit)] |= 1 << (bit & 63);
}

#[inline(always)]
fn word(bit: u32) -> usize {
    (bit >> 6) as usize & (SCAN_FILTER_WORDS - 1)
}
