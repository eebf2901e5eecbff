//! The `bpf` system call, as far as aya does not offer it: batches, byte-sized map access, link facts.

use nix::libc;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_LOOKUP: u32 = 1;
const MAP_UPDATE: u32 = 2;
const MAP_DELETE: u32 = 3;
const MAP_NEXT_KEY: u32 = 4;
const OBJECT_PIN: u32 = 6;
const OBJECT_GET: u32 = 7;
const PROGRAM_BY_ID: u32 = 13;
const OBJECT_INFO: u32 = 15;
const MAP_UPDATE_BATCH: u32 = 26;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;

/// `BPF_XDP`, the attach type.
const ATTACH_XDP: u32 = 37;
/// `XDP_FLAGS_SKB_MODE`.
pub(crate) const FLAG_SKB: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
pub(crate) const FLAG_NATIVE: u32 = 1 << 2;

/// The kernel's answer to every command, as `io::Result`.
fn bpf<A>(command: u32, attribute: &mut A) -> io::Result<i32> {
    // SAFETY: each caller passes the zero-padded structure that `command` documents, whose pointers outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn pointer<T>(bytes: &[T]) -> u64 {
    bytes.as_ptr() as u64
}

fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// Takes ownership of a descriptor the kernel has just made.
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: `fd` was returned by the kernel a moment ago and belongs to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

#[repr(C)]
#[derive(Default)]
struct ObjectAttribute {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens a pinned object.
pub(crate) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = text(path)?;
    let mut attribute = ObjectAttribute { path: path.as_ptr() as u64, ..Default::default() };
    bpf(OBJECT_GET, &mut attribute).map(owned)
}

/// Pins an object.
pub(crate) fn pin(path: &Path, fd: BorrowedFd<'_>) -> io::Result<()> {
    let path = text(path)?;
    let mut attribute = ObjectAttribute { path: path.as_ptr() as u64, fd: descriptor(fd), flags: 0 };
    bpf(OBJECT_PIN, &mut attribute).map(drop)
}

/// Opens a program by its id. Needs `CAP_SYS_ADMIN`.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attribute = [id, 0, 0];
    bpf(PROGRAM_BY_ID, &mut attribute).map(owned)
}

#[repr(C)]
struct InfoAttribute {
    fd: u32,
    length: u32,
    info: u64,
}

fn info<T>(fd: BorrowedFd<'_>, into: &mut T) -> io::Result<()> {
    let length = size_of::<T>() as u32;
    let mut attribute = InfoAttribute { fd: descriptor(fd), length, info: std::ptr::from_mut(into) as u64 };
    bpf(OBJECT_INFO, &mut attribute).map(drop)
}

/// The head of `bpf_map_info`.
#[repr(C)]
#[derive(Default, Debug, Clone, Copy)]
pub(crate) struct MapInfo {
    kind: u32,
    id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    flags: u32,
}

/// Sizes of a map.
pub(crate) fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut facts = MapInfo::default();
    info(fd, &mut facts)?;
    Ok(facts)
}

/// `bpf_link_info` of an XDP link.
#[repr(C)]
#[derive(Default, Debug, Clone, Copy)]
pub(crate) struct LinkInfo {
    kind: u32,
    id: u32,
    pub(crate) program_id: u32,
    padding: u32,
    /// 0 once the device is gone.
    pub(crate) interface: u32,
    rest: [u32; 3],
}

/// Facts of a link.
pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut facts = LinkInfo::default();
    info(fd, &mut facts)?;
    Ok(facts)
}

/// The head of `bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    compiled_length: u32,
    translated_length: u32,
    compiled: u64,
    translated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

/// Id and name of a program.
pub(crate) fn program_facts(fd: BorrowedFd<'_>) -> io::Result<(u32, String)> {
    let mut facts = ProgramInfo::default();
    info(fd, &mut facts)?;
    let length = facts.name.iter().position(|byte| *byte == 0).unwrap_or(facts.name.len());
    Ok((facts.id, String::from_utf8_lossy(facts.name.get(..length).unwrap_or_default()).into_owned()))
}

#[repr(C)]
#[derive(Default)]
struct LinkAttribute {
    first: u32,
    second: u32,
    third: u32,
    flags: u32,
    padding: [u64; 2],
}

/// Attaches a program to an interface by a link.
pub(crate) fn link_create(program: BorrowedFd<'_>, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attribute = LinkAttribute {
        first: descriptor(program),
        second: interface,
        third: ATTACH_XDP,
        flags,
        ..Default::default()
    };
    bpf(LINK_CREATE, &mut attribute).map(owned)
}

/// Replaces the program of a link; no packet passes in between.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attribute =
        LinkAttribute { first: descriptor(link), second: descriptor(program), ..Default::default() };
    bpf(LINK_UPDATE, &mut attribute).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct ElementAttribute {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Maps are accessed as bytes; sizes are checked once, when the map is opened.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    pub(crate) name: &'static str,
    key_size: usize,
    /// Bytes that a look-up fills: for per-CPU maps all CPUs' values.
    value_size: usize,
    pub(crate) max_entries: u32,
}

impl Map {
    /// Opens a pinned map. `cpus` is the number of possible CPUs for a per-CPU map, 0 for others.
    pub(crate) fn open(path: &Path, name: &'static str, cpus: usize) -> io::Result<Self> {
        let fd = get(path)?;
        let facts = map_info(fd.as_fd())?;
        let value = facts.value_size as usize;
        Ok(Self {
            fd,
            name,
            key_size: facts.key_size as usize,
            value_size: if cpus == 0 { value } else { value.next_multiple_of(8) * cpus },
            max_entries: facts.max_entries,
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn check(&self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        let fits = key.len() == self.key_size && value.is_none_or(|value| value.len() == self.value_size);
        if fits { Ok(()) } else { Err(io::Error::from(io::ErrorKind::InvalidInput)) }
    }

    fn element(&self, key: &[u8], value: u64, flags: u64) -> ElementAttribute {
        ElementAttribute { map: descriptor(self.fd()), key: pointer(key), value, flags, ..Default::default() }
    }

    /// The value of `key`.
    pub(crate) fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.check(key, None)?;
        let mut value = vec![0_u8; self.value_size];
        match bpf(MAP_LOOKUP, &mut self.element(key, value.as_mut_ptr() as u64, 0)) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one element.
    pub(crate) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key, Some(value))?;
        bpf(MAP_UPDATE, &mut self.element(key, pointer(value), 0)).map(drop)
    }

    /// Removes one element; whether there was one.
    pub(crate) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.check(key, None)?;
        match bpf(MAP_DELETE, &mut self.element(key, 0, 0)) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All keys. The list is complete for keys that are not changed meanwhile.
    pub(crate) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        // The kernel begins again when the last key was deleted meanwhile; a map has no more than its size.
        while keys.len() <= self.max_entries as usize {
            let mut next = vec![0_u8; self.key_size];
            let previous = keys.last().map_or(0, |key| pointer(key));
            let mut attribute = ElementAttribute {
                map: descriptor(self.fd()),
                key: previous,
                value: next.as_mut_ptr() as u64,
                ..Default::default()
            };
            match bpf(MAP_NEXT_KEY, &mut attribute) {
                Ok(_) => keys.push(next),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(keys)
    }

    /// Writes many elements in one call; `keys` and `values` lie end to end. Returns how many were written before an
    /// error, and the error.
    pub(crate) fn update_batch(&self, keys: &[u8], values: &[u8]) -> (usize, io::Result<()>) {
        #[repr(C)]
        #[derive(Default)]
        struct BatchAttribute {
            in_batch: u64,
            out_batch: u64,
            keys: u64,
            values: u64,
            count: u32,
            map: u32,
            element_flags: u64,
            flags: u64,
        }
        let count = keys.len() / self.key_size;
        if count * self.key_size != keys.len() || count * self.value_size != values.len() {
            return (0, Err(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        let mut attribute = BatchAttribute {
            keys: pointer(keys),
            values: pointer(values),
            count: count as u32,
            map: descriptor(self.fd()),
            ..Default::default()
        };
        match bpf(MAP_UPDATE_BATCH, &mut attribute) {
            Ok(_) => (count, Ok(())),
            // The kernel reports in `count` how many it wrote; it leaves the field alone when it refuses the command.
            Err(error) if attribute.count as usize == count => (0, Err(error)),
            Err(error) => (attribute.count as usize, Err(error)),
        }
    }
}
