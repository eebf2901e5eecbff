//! The directory of pins: where things lie, who may touch them, which version wrote them.

use super::sys;
use crate::error::FilterError;
use ironpost_ebpf_common::names;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const BPF_FS: FsType = FsType(0xcafe_4a11);
/// Where the BPF file system is by convention; the only place we mount it at.
const CONVENTIONAL: &str = "/sys/fs/bpf";
/// Suffix of pins that are about to replace another.
const NEXT: &str = "_next";
/// Prefix of link pins; the interface index follows, because names may hold characters that pins may not.
const LINK: &str = "link_";

/// The pin directory, locked against a second opener while this lives.
#[derive(Debug)]
pub(crate) struct Pins {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Pins {
    /// Makes the directory (and mounts the BPF file system at its conventional place when it is missing), then locks it.
    pub(crate) fn open(directory: &Path) -> Result<Self, FilterError> {
        let refused = |reason: String| FilterError::PinDirectory { path: directory.to_owned(), reason };
        if !directory.is_absolute() {
            return Err(refused("not an absolute path".to_owned()));
        }
        ensure_bpf_file_system(directory)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| refused(format!("cannot be created: {error}")))?;
        let file = File::open(directory).map_err(|error| refused(format!("cannot be opened: {error}")))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| refused(format!("cannot be locked: {error}")))?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Path of a map or the program.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Path of the pin that is to become `name`.
    pub(crate) fn next_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{NEXT}"))
    }

    /// Path of an interface's link.
    pub(crate) fn link_path(&self, interface: u32) -> PathBuf {
        self.directory.join(format!("{LINK}{interface}"))
    }

    /// Puts the pin prepared under [`Self::next_path`] in the place of `name`, in one step.
    pub(crate) fn promote(&self, name: &str) -> Result<(), FilterError> {
        fs::rename(self.next_path(name), self.path(name))
            .map_err(|error| FilterError::system(format!("renaming the pin {name}"), error))
    }

    /// Removes a pin; one that is not there is fine.
    pub(crate) fn remove(path: &Path) -> Result<(), FilterError> {
        match fs::remove_file(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FilterError::system(format!("removing the pin {}", path.display()), error)),
        }
    }

    /// Interface indices and paths of all pinned links.
    pub(crate) fn links(&self) -> Result<Vec<(u32, PathBuf)>, FilterError> {
        links_in(&self.directory)
    }

    /// Removes everything we pin, then the directory.
    pub(crate) fn clear(&self) -> Result<(), FilterError> {
        for (_, path) in self.links()? {
            Self::remove(&path)?;
        }
        let maps = [
            names::PROGRAM,
            names::CONFIG,
            names::ALLOW,
            names::BLOCK_IPV4,
            names::BLOCK_IPV6,
            names::INDEX_IPV4,
            names::INDEX_IPV6,
            names::SOURCES,
            names::STATS,
            names::CPU_STATE,
            names::EVENTS,
        ];
        for name in maps {
            Self::remove(&self.path(name))?;
            Self::remove(&self.next_path(name))?;
        }
        // Something of another's in it stays, and then so does the directory.
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }
}

/// Interface indices and paths of the links pinned in `directory`.
pub(crate) fn links_in(directory: &Path) -> Result<Vec<(u32, PathBuf)>, FilterError> {
    let failed = |error| FilterError::system(format!("listing the pins in {}", directory.display()), error);
    let mut links = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if let Some(index) =
            name.to_str().and_then(|name| name.strip_prefix(LINK)).and_then(|text| text.parse().ok())
        {
            links.push((index, entry.path()));
        }
    }
    links.sort_unstable();
    Ok(links)
}

/// Makes sure that `directory` will lie on a BPF file system.
fn ensure_bpf_file_system(directory: &Path) -> Result<(), FilterError> {
    let on_bpf = |path: &Path| {
        path.ancestors()
            .find_map(|place| statfs(place).ok())
            .is_some_and(|facts| facts.filesystem_type() == BPF_FS)
    };
    if on_bpf(directory) {
        return Ok(());
    }
    let refused = |reason: String| FilterError::PinDirectory { path: directory.to_owned(), reason };
    if !directory.starts_with(CONVENTIONAL) {
        return Err(refused("not on a BPF file system".to_owned()));
    }
    mount(
        Some("bpf"),
        CONVENTIONAL,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|error| {
        refused(format!("no BPF file system is mounted at {CONVENTIONAL}, and mounting it failed: {error}"))
    })
}

/// Whether `error` of [`sys::get`] says that nothing is pinned there.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Opens a pin, `None` when there is none.
pub(crate) fn get(path: &Path) -> Result<Option<std::os::fd::OwnedFd>, FilterError> {
    match sys::get(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(FilterError::system(format!("opening the pin {}", path.display()), error)),
    }
}
