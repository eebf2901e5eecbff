//! The records as the object's BTF has them against the records as Rust lays them out: sizes, fields, offsets.
//!
//! The reader of BTF below follows `Documentation/bpf/btf.rst` of the kernel and shares nothing with the loader.

#![allow(clippy::unwrap_used, reason = "a test: what is not as expected is a failure")]

use ironpost_ebpf_common::{
    Config, Counters, CpuState, Entry, Ipv4Key, Ipv6Key, PacketRecord, PrefixKey, ProtocolCounters,
    SourceState,
};
use std::collections::BTreeMap;
use std::mem::offset_of;

/// Struct name → size and (field, byte offset).
type Layout = BTreeMap<String, (u32, Vec<(String, u32)>)>;

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
}

fn text_at(bytes: &[u8], at: usize) -> String {
    let end = bytes[at..].iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(bytes[at..at + end].to_vec()).unwrap()
}

/// The bytes of a section of an ELF64 file.
fn section<'a>(elf: &'a [u8], name: &str) -> &'a [u8] {
    let (headers, size, count, names) =
        (u64_at(elf, 0x28), u16_at(elf, 0x3a), u16_at(elf, 0x3c), u16_at(elf, 0x3e));
    let header = |index: usize| &elf[headers + index * size..][..size];
    let names_at = u64_at(header(names), 0x18);
    (0..count)
        .map(header)
        .find(|header| text_at(elf, names_at + u32_at(header, 0) as usize) == name)
        .map(|header| &elf[u64_at(header, 0x18)..][..u64_at(header, 0x20)])
        .unwrap()
}

fn structs(btf: &[u8]) -> Layout {
    let header = u32_at(btf, 4) as usize;
    let types = &btf[header + u32_at(btf, 8) as usize..][..u32_at(btf, 12) as usize];
    let strings = &btf[header + u32_at(btf, 16) as usize..][..u32_at(btf, 20) as usize];
    let mut found = Layout::new();
    let mut at = 0;
    while at < types.len() {
        let (name, info, size) = (u32_at(types, at), u32_at(types, at + 4), u32_at(types, at + 8));
        let (kind, members) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        at += 12;
        let extra = match kind {
            1 | 14 | 17 => 4,
            3 => 12,
            4 | 5 | 15 | 19 => 12 * members,
            6 | 13 => 8 * members,
            _ => 0,
        };
        if kind == 4 {
            let fields = (0..members)
                .map(|member| at + 12 * member)
                .map(|field| {
                    (
                        text_at(strings, u32_at(types, field) as usize),
                        (u32_at(types, field + 8) & 0xff_ffff) / 8,
                    )
                })
                .collect();
            found.insert(text_at(strings, name as usize), (size, fields));
        }
        at += extra;
    }
    found
}

macro_rules! layout {
    ($into:ident, $($name:ident { $($field:ident),* }),* $(,)?) => {
        $($into.insert(
            stringify!($name).to_owned(),
            (size_of::<$name>() as u32, vec![$((stringify!($field).to_owned(), offset_of!($name, $field) as u32)),*]),
        );)*
    };
}

#[test]
fn records_in_the_object_are_laid_out_as_in_rust() {
    let object = include_bytes!("../../../ebpf/prebuilt/ironpost.bpfel.o");
    let found = structs(section(object, ".BTF"));
    let mut expected = Layout::new();
    layout!(
        expected,
        Config { schema_version, flags, sample_every, ephemeral_low, short_ipv6, padding, program_hash },
        Ipv4Key { address, length },
        Ipv6Key { high, low, length, padding },
        Entry { expires_boot_ns, rule_id, mode, length },
        ProtocolCounters { packets, bytes, drops },
        Counters { protocols, reasons },
        CpuState {
            window_started_ns,
            emitted,
            lost_ring_full,
            lost_rate_limited,
            ports_capped,
            tick,
            boot_ns,
            in_window,
            until_sample
        },
        SourceState { window_started_ns, filter, ports, padding },
        PacketRecord {
            boot_ns,
            source,
            destination,
            rule_id,
            interface,
            length,
            sample,
            source_port,
            destination_port,
            vlan,
            flags,
            kind,
            protocol,
            tcp_flags,
            padding,
            reserved
        },
    );
    for (name, layout) in &expected {
        assert_eq!(found.get(name), Some(layout), "{name}");
    }
    // The trie's key is aya's type: the same bytes under another name.
    let (size, fields) =
        found.iter().find(|(name, _)| name.starts_with("Key_")).map(|(_, layout)| layout).unwrap();
    assert_eq!(*size as usize, size_of::<PrefixKey>());
    let offsets: Vec<usize> = fields.iter().map(|(_, offset)| *offset as usize).collect();
    assert_eq!(offsets, [offset_of!(PrefixKey, length), offset_of!(PrefixKey, address)]);
}
