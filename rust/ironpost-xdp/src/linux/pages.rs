//! Memory of a map that the kernel and we see at the same time.

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A shared mapping.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: plain memory without thread affinity; shared words are accessed as atomics.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `length` bytes of a map's memory.
    pub(crate) fn map(
        fd: BorrowedFd<'_>,
        length: usize,
        offset: usize,
        protection: ProtFlags,
    ) -> io::Result<Self> {
        let size = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at an address the kernel chooses; unmapped when dropped.
        let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, fd, offset as i64) }?;
        Ok(Self { start, length })
    }

    /// The first word.
    pub(crate) fn first(&self) -> &AtomicU64 {
        // SAFETY: the mapping is at least a page, page-aligned, and lives as long as `self`; the kernel and other
        // readers access the word atomically too.
        unsafe { self.start.cast::<AtomicU64>().as_ref() }
    }

    /// The 64-bit word of that number.
    pub(crate) fn word64(&self, number: usize) -> Option<&AtomicU64> {
        if number.checked_mul(8)?.checked_add(8)? > self.length {
            return None;
        }
        // SAFETY: in bounds by the check above and aligned, as the mapping is; accessed atomically by all of us.
        Some(unsafe { self.start.cast::<AtomicU64>().add(number).as_ref() })
    }

    /// The 32-bit word at a byte offset.
    pub(crate) fn word32(&self, offset: usize) -> Option<&AtomicU32> {
        if !offset.is_multiple_of(4) || offset + 4 > self.length {
            return None;
        }
        // SAFETY: in bounds and aligned by the check above; accessed atomically by the kernel.
        Some(unsafe { self.start.byte_add(offset).cast::<AtomicU32>().as_ref() })
    }

    /// Bytes that the kernel does not write while they are borrowed.
    pub(crate) fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        if offset.checked_add(length)? > self.length {
            return None;
        }
        // SAFETY: in bounds by the check above. The kernel does not write a committed record again before the consumer
        // position passes it, which needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(self.start.byte_add(offset).cast::<u8>().as_ptr(), length) })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` was given; nothing borrows it any more.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}
