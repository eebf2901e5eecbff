//! The index that tells the kernel which prefix lengths to look up (see `ironpost_ebpf_common::index`).
//!
//! Cells live in memory shared with the kernel. A bit is set before its entry is written, so an entry works at once;
//! bits of removed entries only cost look-ups and are cleared when the index is rebuilt.

use super::pages::Pages;
use crate::target::Prefix;
use ironpost_ebpf_common::{Ipv4Key, Ipv6Key, MAX_IPV6_LENGTHS, index};
use nix::sys::mman::ProtFlags;
use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

/// Lengths from 16 to 31, which every IPv6 source asks for.
const SHORT_LENGTHS: u32 = index::SHORTEST_IPV6 - index::SHORTEST_BLOCKED_IPV6;
/// Different lengths that one IPv6 cell may hold, so that with all short ones the kernel's bound is kept.
const LENGTHS_PER_CELL: u32 = MAX_IPV6_LENGTHS - SHORT_LENGTHS;

/// A prefix as a key of its family's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Ipv4(Ipv4Key),
    Ipv6(Ipv6Key),
}

impl From<&Prefix> for Key {
    fn from(prefix: &Prefix) -> Self {
        let bits = u128::from_be_bytes(prefix.address);
        if prefix.is_ipv4() {
            Self::Ipv4(Ipv4Key { address: bits as u32, length: u32::from(prefix.length) - 96 })
        } else {
            let length = u32::from(prefix.length);
            Self::Ipv6(Ipv6Key { high: (bits >> 64) as u64, low: bits as u64, length, padding: 0 })
        }
    }
}

impl Key {
    /// The prefix this key stands for.
    pub(crate) fn prefix(&self) -> Prefix {
        match self {
            Self::Ipv4(key) => Prefix {
                address: (0xffff_0000_0000_u128 | u128::from(key.address)).to_be_bytes(),
                length: (key.length + 96) as u8,
            },
            Self::Ipv6(key) => Prefix {
                address: (u128::from(key.high) << 64 | u128::from(key.low)).to_be_bytes(),
                length: key.length as u8,
            },
        }
    }
}

/// What the index says beside its cells: goes to `CONFIG`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Short {
    /// Blocked IPv6 lengths below /32.
    pub(crate) blocked: u32,
    /// Whether an IPv6 network below /32 is allowed.
    pub(crate) allowed: bool,
}

impl Short {
    const fn bit(self) -> u64 {
        if self.blocked != 0 || self.allowed { index::SHORT } else { 0 }
    }
}

/// Words of both arrays that must have bits, by number.
#[derive(Default)]
struct Wanted {
    ipv4: HashMap<usize, u64>,
    ipv6: HashMap<usize, u64>,
    short: Short,
}

impl Wanted {
    fn block(&mut self, key: &Key) {
        match key {
            Key::Ipv4(key) => {
                for cell in ipv4_cells(key) {
                    *self.ipv4.entry(cell).or_default() |= index::ipv4_bit(key.length);
                }
            }
            Key::Ipv6(key) if key.length < index::SHORTEST_IPV6 => {
                self.short.blocked |= 1 << (31 - key.length)
            }
            Key::Ipv6(key) => {
                let (word, bit) = index::ipv6_bit(key.length);
                *self.ipv6.entry(ipv6_word(key.high, word)).or_default() |= bit;
            }
        }
    }

    fn allow(&mut self, key: &Key) {
        match key {
            Key::Ipv4(key) => {
                for cell in ipv4_cells(key) {
                    *self.ipv4.entry(cell).or_default() |= index::ALLOW;
                }
            }
            Key::Ipv6(key) if key.length < index::SHORTEST_IPV6 => self.short.allowed = true,
            Key::Ipv6(key) => *self.ipv6.entry(ipv6_word(key.high, 1)).or_default() |= index::ALLOW,
        }
    }
}

/// Both arrays.
#[derive(Debug)]
pub(crate) struct Index {
    ipv4: Pages,
    ipv6: Pages,
}

impl Index {
    /// Maps the arrays.
    pub(crate) fn open(ipv4: BorrowedFd<'_>, ipv6: BorrowedFd<'_>) -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        Ok(Self {
            ipv4: Pages::map(ipv4, index::CELLS * 8, 0, protection)?,
            ipv6: Pages::map(ipv6, index::CELLS * 16, 0, protection)?,
        })
    }

    /// Names the lengths of `keys`; returns what must go to `CONFIG` before the entries are written.
    pub(crate) fn add_blocks<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Short {
        let mut wanted = Wanted::default();
        keys.for_each(|key| wanted.block(key));
        self.set(&wanted);
        wanted.short
    }

    /// As [`Self::add_blocks`], for the allow list.
    pub(crate) fn add_allowed<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Short {
        let mut wanted = Wanted::default();
        keys.for_each(|key| wanted.allow(key));
        self.set(&wanted);
        wanted.short
    }

    /// Whether the kernel would still ask for all lengths around `key` with this one added.
    pub(crate) fn has_room(&self, key: &Key) -> bool {
        let Key::Ipv6(key) = key else { return true };
        if key.length < index::SHORTEST_IPV6 {
            return true;
        }
        let (word, bit) = index::ipv6_bit(key.length);
        let read = |word| {
            self.ipv6.word64(ipv6_word(key.high, word)).map_or(0, |cell| cell.load(Ordering::Relaxed))
                & !index::ALLOW
        };
        read(word) & bit != 0 || read(0).count_ones() + read(1).count_ones() < LENGTHS_PER_CELL
    }

    /// Makes the cells name exactly what `blocks` and `allowed` need.
    pub(crate) fn rebuild<'a>(
        &self,
        blocks: impl Iterator<Item = &'a Key>,
        allowed: impl Iterator<Item = &'a Key>,
    ) -> Short {
        let mut wanted = Wanted::default();
        blocks.for_each(|key| wanted.block(key));
        allowed.for_each(|key| wanted.allow(key));
        for (pages, wanted, always) in
            [(&self.ipv4, &wanted.ipv4, 0), (&self.ipv6, &wanted.ipv6, wanted.short.bit())]
        {
            let mut number = 0;
            while let Some(word) = pages.word64(number) {
                let always = if number % 2 == 1 { always } else { 0 };
                let bits = wanted.get(&number).copied().unwrap_or(0) | always;
                if word.load(Ordering::Relaxed) != bits {
                    word.store(bits, Ordering::Release);
                }
                number += 1;
            }
        }
        wanted.short
    }

    fn set(&self, wanted: &Wanted) {
        if wanted.short != Short::default() {
            (0..index::CELLS).filter_map(|cell| self.ipv6.word64(cell * 2 + 1)).for_each(|word| {
                word.fetch_or(index::SHORT, Ordering::Release);
            });
        }
        for (pages, wanted) in [(&self.ipv4, &wanted.ipv4), (&self.ipv6, &wanted.ipv6)] {
            for (number, bits) in wanted {
                if let Some(word) = pages.word64(*number) {
                    word.fetch_or(*bits, Ordering::Release);
                }
            }
        }
    }
}

fn ipv4_cells(key: &Ipv4Key) -> std::ops::Range<usize> {
    let first = index::ipv4_cell(key.address) as usize;
    first..first + (1 << 16_u32.saturating_sub(key.length))
}

fn ipv6_word(high: u64, word: usize) -> usize {
    index::ipv6_cell(high) as usize * 2 + word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::from(&Prefix::parse(text).unwrap())
    }

    #[test]
    fn keys_and_prefixes_are_two_forms_of_the_same() {
        for text in
            ["192.0.2.1", "10.0.0.0/8", "198.51.100.0/24", "2001:db8::/32", "2001:db8::1", "2a00::/16"]
        {
            assert_eq!(key(text).prefix().to_string(), text);
        }
        assert_eq!(key("::ffff:192.0.2.1"), Key::Ipv4(Ipv4Key { address: 0xc000_0201, length: 32 }));
    }

    #[test]
    fn a_short_network_marks_all_its_cells_and_a_long_one_its_own() {
        let Key::Ipv4(short) = key("10.0.0.0/8") else { panic!("not IPv4") };
        assert_eq!(ipv4_cells(&short), 0x0a00..0x0b00);
        let Key::Ipv4(long) = key("10.1.2.0/24") else { panic!("not IPv4") };
        assert_eq!(ipv4_cells(&long), 0x0a01..0x0a02);
    }

    #[test]
    fn every_length_has_its_own_bit_and_none_is_the_allow_bit() {
        let mut seen = index::ALLOW;
        for length in index::SHORTEST_IPV4..=32 {
            let bit = index::ipv4_bit(length);
            assert_eq!(seen & bit, 0);
            assert_eq!(bit.trailing_zeros(), 32 - length);
            seen |= bit;
        }
        let mut words = [0, index::ALLOW];
        for length in index::SHORTEST_IPV6..=128 {
            let (word, bit) = index::ipv6_bit(length);
            assert_eq!(words[word] & bit, 0);
            words[word] |= bit;
        }
    }
}
