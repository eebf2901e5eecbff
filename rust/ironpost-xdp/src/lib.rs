//! The user side of the packet filter: loads and attaches `ironpost_xdp`, keeps its maps, reads its records.
//!
//! Everything is pinned under one directory of the BPF file system, so the filter outlives the process that opened it:
//! a killed daemon leaves it dropping, and the next [`Filter::open`] takes over the same program, maps and counters.
//!
//! Elsewhere than on Linux the same names exist and every call returns [`FilterError::UnsupportedPlatform`].

#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only the names are needed there"))]

mod error;
mod report;
mod target;

#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "system calls and shared memory of the kernel; each block says why it is sound"
)]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{Filter, RingReader, boot_ns};

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Filter, RingReader, boot_ns};

pub use error::FilterError;
pub use report::{
    Attachment, BlockRequest, Counters, EntryMode, Listed, PacketKind, PacketRecord, ProtocolCount, Refused,
    Report, Settings, XdpMode,
};
pub use target::{Prefix, Refusal};

/// Description of the embedded object (JSON): source and object hash, compiler, linker.
pub const OBJECT_DESCRIPTION: &str = include_str!("../../../ebpf/prebuilt/ironpost.bpfel.json");
