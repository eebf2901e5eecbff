//! The reader of the pinned ring buffer.
//!
//! A usual consumer tells the kernel "read" as soon as it has looked at a record. Here that happens only on
//! [`RingReader::commit`], after the reader's work is stored: a reader that is killed finds the same records again.

use super::pages::Pages;
use crate::error::FilterError;
use crate::report::{PacketKind, PacketRecord};
use ironpost_ebpf_common::{PacketRecord as Raw, kind, packet_flags};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::mman::ProtFlags;
use nix::time::{ClockId, clock_gettime};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;
use zerocopy::FromBytes;

/// Length word: the record is still being written.
const BUSY: u32 = 1 << 31;
/// Length word: the record was given up.
const DISCARDED: u32 = 1 << 30;
/// Length word and page offset before each record.
const HEADER: u64 = 8;

/// Reads records without taking them away.
pub struct RingReader {
    consumer: Pages,
    /// Producer position page, then the data twice in a row, so that no record is ever cut.
    producer: Pages,
    page: usize,
    mask: u64,
    position: u64,
    epoll: Epoll,
    map: OwnedFd,
}

impl fmt::Debug for RingReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RingReader").field("position", &self.position).finish_non_exhaustive()
    }
}

impl RingReader {
    /// Maps the ring buffer `map` of `size` bytes and starts at the first record that was not committed.
    pub(crate) fn new(map: OwnedFd, size: u32) -> Result<Self, FilterError> {
        Self::open(map, size).map_err(|error| FilterError::system("mapping the ring buffer EVENTS", error))
    }

    fn open(map: OwnedFd, size: u32) -> io::Result<Self> {
        let page = page_size();
        let size = size as usize;
        let consumer = Pages::map(map.as_fd(), page, 0, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        let producer = Pages::map(map.as_fd(), page + 2 * size, page, ProtFlags::PROT_READ)?;
        let position = consumer.first().load(Ordering::Acquire);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Edge-triggered: with records read but not committed the ring buffer counts as readable all the time.
        epoll.add(map.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        Ok(Self { consumer, producer, page, mask: size as u64 - 1, position, epoll, map })
    }

    /// Waits until a record may be there or `timeout` has passed; true means worth trying.
    ///
    /// # Errors
    /// [`FilterError::System`] when the kernel refuses to wait.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, FilterError> {
        if self.available() {
            return Ok(true);
        }
        let milliseconds = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX);
        let mut events = [EpollEvent::empty()];
        match self.epoll.wait(&mut events, EpollTimeout::from(milliseconds)) {
            Ok(_) | Err(Errno::EINTR) => Ok(self.available()),
            Err(error) => Err(FilterError::system("waiting for the ring buffer EVENTS", error.into())),
        }
    }

    /// Descriptor that becomes readable (edge-triggered) when records arrive, for other event loops.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    fn available(&self) -> bool {
        let produced = self.producer.first().load(Ordering::Acquire);
        if produced == self.position {
            return false;
        }
        let offset = self.page + (self.position & self.mask) as usize;
        self.producer.word32(offset).is_some_and(|length| length.load(Ordering::Acquire) & BUSY == 0)
    }

    /// Appends up to `limit` records to `into` and returns how many. The kernel keeps them until [`Self::commit`].
    pub fn read(&mut self, into: &mut Vec<PacketRecord>, limit: usize) -> usize {
        let produced = self.producer.first().load(Ordering::Acquire);
        let clock_offset = unix_minus_boot_ns();
        let before = into.len();
        while self.position != produced && into.len() - before < limit {
            let offset = self.page + (self.position & self.mask) as usize;
            let Some(word) = self.producer.word32(offset) else { break };
            let length = word.load(Ordering::Acquire);
            if length & BUSY != 0 {
                break;
            }
            let bytes = u64::from(length & !DISCARDED);
            let next = self.position + (HEADER + bytes).next_multiple_of(8);
            let record = self.producer.bytes(offset + HEADER as usize, bytes as usize);
            if length & DISCARDED == 0
                && let Some(raw) = record.and_then(|bytes| Raw::read_from_bytes(bytes).ok())
            {
                into.push(decode(&raw, self.position, next, clock_offset));
            }
            self.position = next;
        }
        into.len() - before
    }

    /// Position behind the last record read: what [`Self::commit`] takes when all of them are done with.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Gives everything before `position` back to the kernel. Positions outside of what was read change nothing.
    pub fn commit(&mut self, position: u64) {
        let committed = self.consumer.first().load(Ordering::Acquire);
        if position > committed && position <= self.position {
            self.consumer.first().store(position, Ordering::Release);
        }
    }

    /// Bytes that are waiting or not yet committed, and the size of the ring buffer: its depth and capacity.
    #[must_use]
    pub fn depth(&self) -> (u64, u64) {
        let produced = self.producer.first().load(Ordering::Acquire);
        (produced.saturating_sub(self.consumer.first().load(Ordering::Acquire)), self.mask + 1)
    }

    /// Descriptor of the map.
    #[must_use]
    pub fn map(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// Size of a memory page.
pub(crate) fn page_size() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(4096)
}

/// Nanoseconds of the boot clock, which goes on while the machine sleeps and is never set.
#[must_use]
pub fn boot_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| (time.tv_sec() as u64).saturating_mul(1_000_000_000) + time.tv_nsec() as u64)
}

/// What to add to a moment of the boot clock to get nanoseconds since 1970.
fn unix_minus_boot_ns() -> i64 {
    let unix = clock_gettime(ClockId::CLOCK_REALTIME)
        .map_or(0, |time| time.tv_sec().saturating_mul(1_000_000_000) + time.tv_nsec());
    unix - boot_ns() as i64
}

/// The record of the treaty as a plain value.
fn decode(raw: &Raw, position: u64, next_position: u64, clock_offset: i64) -> PacketRecord {
    PacketRecord {
        position,
        next_position,
        boot_ns: raw.boot_ns,
        unix_ns: clock_offset.saturating_add_unsigned(raw.boot_ns),
        kind: match raw.kind {
            kind::DROP => PacketKind::Drop,
            kind::MONITOR => PacketKind::Monitor,
            _ => PacketKind::NewPort,
        },
        source: address(raw.source),
        destination: address(raw.destination),
        ports: (raw.flags & packet_flags::PORTS != 0).then_some((raw.source_port, raw.destination_port)),
        protocol: raw.protocol,
        tcp_flags: raw.tcp_flags,
        fragment: raw.flags & packet_flags::FRAGMENT != 0,
        vlan: (raw.vlan != 0).then_some(raw.vlan),
        length: raw.length,
        rule_id: raw.rule_id,
        interface: raw.interface,
        stands_for: raw.sample,
    }
}

/// Four words as they lay in memory, as an address; IPv4-mapped is IPv4.
fn address(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0_u8; 16];
    for (four, word) in bytes.chunks_exact_mut(4).zip(words) {
        four.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> Raw {
        Raw {
            boot_ns: 5,
            source: [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes([192, 0, 2, 1])],
            destination: [u32::from_ne_bytes([0x20, 1, 0xd, 0xb8]), 0, 0, 1_u32.to_be()],
            rule_id: 7,
            interface: 3,
            length: 60,
            sample: 100,
            source_port: 40_000,
            destination_port: 22,
            vlan: 0,
            flags: packet_flags::PORTS,
            kind: kind::DROP,
            protocol: 6,
            tcp_flags: 2,
            padding: 0,
            reserved: 0,
        }
    }

    #[test]
    fn a_record_becomes_plain_values_with_both_address_families() {
        let record = decode(&raw(), 80, 160, 1_000);
        assert_eq!(record.source, "192.0.2.1".parse::<IpAddr>().unwrap());
        assert_eq!(record.destination, "2001:db8::1".parse::<IpAddr>().unwrap());
        assert_eq!(record.ports, Some((40_000, 22)));
        assert_eq!(record.unix_ns, 1_005);
        assert_eq!((record.position, record.next_position), (80, 160));
        assert_eq!(record.transport(), "tcp");
        assert_eq!((record.kind.action(), record.kind.verdict()), ("drop", "drop"));
    }

    #[test]
    fn ports_that_were_not_read_are_absent_not_zero() {
        let record = decode(&Raw { flags: packet_flags::FRAGMENT, ..raw() }, 0, 80, 0);
        assert_eq!(record.ports, None);
        assert!(record.fragment);
    }

    #[test]
    fn boot_clock_runs() {
        let first = boot_ns();
        assert!(first > 0 && boot_ns() >= first);
    }
}
