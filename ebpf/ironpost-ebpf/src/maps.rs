//! The maps, under the names of the treaty. Sizes marked "default" are set by the loader.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use ironpost_ebpf_common::{
    Config, Counters, CpuState, DEFAULT_ENTRIES, DEFAULT_RING_BYTES, Entry, Ipv4Key, Ipv6Key, PacketRecord,
    SOURCE_ENTRIES, SourceState, index,
};

/// Arrays that user space maps into its memory, to change cells without a system call each.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// An address that may be of either family: 16 bytes in network order, IPv4 mapped.
pub type Address = [u32; 4];

#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub static ALLOW: LpmTrie<Address, Entry, DEFAULT_ENTRIES> = LpmTrie::new();
#[btf_map]
pub static BLOCK_IPV4: HashMap<Ipv4Key, Entry, DEFAULT_ENTRIES> = HashMap::new();
#[btf_map]
pub static BLOCK_IPV6: HashMap<Ipv6Key, Entry, DEFAULT_ENTRIES> = HashMap::new();
#[btf_map]
pub static INDEX_IPV4: Array<u64, { index::CELLS }, MAPPED> = Array::new();
#[btf_map]
pub static INDEX_IPV6: Array<[u64; 2], { index::CELLS }, MAPPED> = Array::new();
#[btf_map]
pub static SOURCES: LruHashMap<Address, SourceState, SOURCE_ENTRIES> = LruHashMap::new();
#[btf_map]
pub static STATS: PerCpuArray<Counters, 1> = PerCpuArray::new();
#[btf_map]
pub static CPU_STATE: PerCpuArray<CpuState, 1> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<PacketRecord, DEFAULT_RING_BYTES> = RingBuf::new();

/// What this CPU remembers.
#[inline(always)]
pub fn cpu_state() -> Option<&'static mut CpuState> {
    // SAFETY: a live per-CPU element; only this CPU writes it and the program is not re-entered.
    CPU_STATE.get_ptr_mut(0).map(|state| unsafe { &mut *state })
}
