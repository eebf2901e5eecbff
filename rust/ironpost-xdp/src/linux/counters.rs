//! Reading the counters: per-CPU values added up.

use super::filter::Filter;
use super::sys::Map;
use crate::error::FilterError;
use crate::report::{Counters, ProtocolCount};
use ironpost_ebpf_common::{Counters as Raw, CpuState, reason, slot};
use zerocopy::FromBytes;

impl Filter {
    /// The counters since the maps were made.
    ///
    /// Frames passed are those of the total that were not dropped: the sum holds exactly even while packets arrive. The
    /// reasons add up to the total too, but for packets that are being counted on another CPU at this very moment.
    ///
    /// # Errors
    /// [`FilterError::System`] when the kernel refuses.
    pub fn counters(&self) -> Result<Counters, FilterError> {
        let mut counters = Counters::default();
        for cpu in per_cpu::<Raw>(&self.stats)? {
            for (name, count) in slot::NAMES.into_iter().zip(cpu.protocols) {
                let sum: &mut ProtocolCount = counters.protocols.entry(name).or_default();
                sum.packets += count.packets;
                sum.bytes += count.bytes;
                sum.drops += count.drops;
            }
            for (name, count) in reason::NAMES.into_iter().zip(cpu.reasons) {
                *counters.reasons.entry(name).or_default() += count;
            }
        }
        let total = counters.protocols.get("total").copied().unwrap_or_default();
        counters.packets_total = total.packets;
        counters.packets_dropped = total.drops;
        counters.packets_passed = total.packets.saturating_sub(total.drops);
        let (mut ring_full, mut rate_limited, mut ports_capped) = (0, 0, 0);
        for cpu in per_cpu::<CpuState>(&self.cpu_state)? {
            counters.events_emitted += cpu.emitted;
            ring_full += cpu.lost_ring_full;
            rate_limited += cpu.lost_rate_limited;
            ports_capped += cpu.ports_capped;
        }
        counters.events_lost = ring_full + rate_limited;
        counters.events.insert("ring_full", ring_full);
        counters.events.insert("rate_limited", rate_limited);
        counters.events.insert("ports_capped", ports_capped);
        Ok(counters)
    }
}

/// The values of the only element on all CPUs.
fn per_cpu<T: FromBytes>(map: &Map) -> Result<Vec<T>, FilterError> {
    let bytes = map
        .lookup(&0_u32.to_ne_bytes())
        .map_err(|error| FilterError::system(format!("reading the map {}", map.name), error))?
        .unwrap_or_default();
    let stride = size_of::<T>().next_multiple_of(8);
    Ok(bytes
        .chunks_exact(stride)
        .filter_map(|cpu| T::read_from_prefix(cpu).ok().map(|(value, _)| value))
        .collect())
}
