//! Counting. Each CPU writes its own element, so no locks and no lost counts.

use crate::maps::STATS;
use ironpost_ebpf_common::{ProtocolCounters, reason, slot};

/// Counts a frame once under its protocol, once in the total and once under its reason.
#[inline(always)]
pub fn count(protocol_slot: u32, length: u64, why: u32) {
    let Some(counters) = STATS.get_ptr_mut(0) else { return };
    // SAFETY: a live per-CPU element; only this CPU writes it and the program is not re-entered.
    let counters = unsafe { &mut *counters };
    let dropped = u64::from(reason::dropped(why));
    if let Some(protocol) = counters.protocols.get_mut(protocol_slot as usize) {
        add(protocol, length, dropped);
    }
    add(&mut counters.protocols[slot::TOTAL as usize], length, dropped);
    // The compiler may know that `why` is in bounds and leave the mask out; the verifier wants to see it.
    let index = core::hint::black_box(why) as usize & (reason::SLOTS - 1);
    counters.reasons[index] += 1;
}

#[inline(always)]
fn add(counters: &mut ProtocolCounters, length: u64, dropped: u64) {
    counters.packets += 1;
    counters.bytes += length;
    counters.drops += dropped;
}
