//! One open file: who it is, how far it was read, and reading on from there.

use memchr::{memchr, memchr_iter, memrchr};
use nix::libc;
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes at the head of a file that tell it from another one with the same inode.
const HEAD_BYTES: usize = 1024;

/// A partial line longer than this is not read again from its start each time it grows.
const REREAD_BYTES: u64 = 4096;

/// Why a path is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Nothing there (yet).
    #[error("does not exist")]
    Missing,
    /// Symbolic links could lead a privileged reader anywhere.
    #[error("is a symbolic link")]
    Symlink,
    /// FIFO, socket, device, directory: reading could block or act.
    #[error("is a {0}, not a regular file")]
    Special(&'static str),
    /// Anything the system says.
    #[error("cannot be opened: {0}")]
    Io(io::Error),
}

impl Refusal {
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Missing => "it is read as soon as it is created; check the path if it never is",
            Self::Symlink => "name the file the link points to",
            Self::Special(_) => "name a regular file; a program can log over syslog instead",
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "give the daemon read permission, for example membership in group adm; it is tried again by itself"
            }
            Self::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                "raise the limit of open files (LimitNOFILE=) or follow fewer files"
            }
            Self::Io(_) => "repair the cause; it is tried again by itself",
        }
    }
}

/// Says what a path is without following it.
pub(crate) fn inspect(path: &Path) -> Result<Metadata, Refusal> {
    let metadata = std::fs::symlink_metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Refusal::Missing,
        _ => Refusal::Io(error),
    })?;
    regular(metadata)
}

fn regular(metadata: Metadata) -> Result<Metadata, Refusal> {
    let kind = metadata.file_type();
    if kind.is_file() {
        Ok(metadata)
    } else if kind.is_symlink() {
        Err(Refusal::Symlink)
    } else {
        Err(Refusal::Special(match kind {
            _ if kind.is_dir() => "directory",
            _ if kind.is_fifo() => "FIFO",
            _ if kind.is_socket() => "socket",
            _ => "device",
        }))
    }
}

/// Where a file was read to, as stored with the detections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// FNV-1a of the first `fingerprint_length` bytes, 16 hex digits.
    pub(crate) fingerprint: String,
    pub(crate) fingerprint_length: u64,
    /// First byte not yet read; always the begin of a line unless `skipping`.
    pub(crate) offset: u64,
    /// Counts the files that stood at the path, rewritten ones too.
    pub(crate) generation: u64,
    /// In the middle of a line whose begin was too long and was cut.
    #[serde(default)]
    pub(crate) skipping: bool,
    /// Time of the last change seen, nanoseconds since the Unix epoch by the file system's clock.
    #[serde(default)]
    pub(crate) modified: i64,
}

impl Place {
    /// True when the open file holds what this place was recorded on.
    fn fits(&self, file: &File) -> io::Result<bool> {
        let size = file.metadata()?.len();
        if size < self.offset || size < self.fingerprint_length {
            return Ok(false);
        }
        let length = usize::try_from(self.fingerprint_length).unwrap_or(usize::MAX).min(HEAD_BYTES);
        let mut head = vec![0; length];
        let read = read_up_to(file, &mut head, 0)?;
        Ok(read == length && fingerprint(&head) == self.fingerprint)
    }
}

/// Time of a file's last change, nanoseconds since the Unix epoch.
pub(crate) fn modified(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

fn fingerprint(head: &[u8]) -> String {
    let hash = head.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What reading on gave.
#[derive(Debug)]
pub(crate) enum Read {
    /// Complete lines: the first `filled` bytes of the buffer, from byte `start` of the file.
    Lines { buffer: Vec<u8>, filled: usize, start: u64, lines: u64 },
    /// The begin of a line that is too long.
    Cut { buffer: Vec<u8>, filled: usize, start: u64 },
    /// No complete line is waiting.
    Nothing(Vec<u8>),
    /// The file was truncated or rewritten in place.
    Rewritten(Vec<u8>),
}

/// A file being read.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    head: Vec<u8>,
    fingerprint: String,
    pub(crate) offset: u64,
    pub(crate) generation: u64,
    skipping: bool,
    modified: i64,
    /// End of the bytes known to hold no newline after `offset`.
    scanned: u64,
}

impl Reader {
    /// Opens a regular file, never through a link, never blocking on a FIFO.
    pub(crate) fn open(path: &Path, generation: u64) -> Result<Self, Refusal> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ELOOP) => Refusal::Symlink,
                Some(libc::ENOENT | libc::ENOTDIR) => Refusal::Missing,
                Some(libc::ENXIO) => Refusal::Special("socket"),
                _ => Refusal::Io(error),
            })?;
        let metadata = regular(file.metadata().map_err(Refusal::Io)?)?;
        let mut reader = Self {
            file,
            device: metadata.dev(),
            inode: metadata.ino(),
            head: Vec::new(),
            fingerprint: fingerprint(&[]),
            offset: 0,
            generation,
            skipping: false,
            modified: modified(&metadata),
            scanned: 0,
        };
        reader.unchanged().map_err(Refusal::Io)?;
        Ok(reader)
    }

    /// Goes to a stored place, which must fit this file.
    pub(crate) fn resume(mut self, place: &Place) -> Self {
        self.offset = place.offset;
        self.scanned = place.offset;
        self.skipping = place.skipping;
        self.generation = place.generation;
        self
    }

    /// Begins again with the new content of a file that was truncated in place.
    pub(crate) fn restart(&mut self, generation: u64) {
        self.head.clear();
        self.fingerprint = fingerprint(&[]);
        self.offset = 0;
        self.scanned = 0;
        self.skipping = false;
        self.generation = generation;
    }

    /// Goes behind the last complete line below `size`; a partial line there is read when it is complete.
    pub(crate) fn skip_to_end(&mut self, size: u64, max_line: usize) -> io::Result<()> {
        let mut end = size;
        let mut block = vec![0; 4096];
        while end > 0 {
            if size - end > max_line as u64 {
                end = size;
                self.skipping = true;
                break;
            }
            let begin = end.saturating_sub(block.len() as u64);
            let length = usize::try_from(end - begin).unwrap_or(block.len());
            let read = read_up_to(&self.file, &mut block[..length], begin)?;
            if let Some(newline) = memrchr(b'\n', &block[..read]) {
                end = begin + newline as u64 + 1;
                break;
            }
            end = begin;
        }
        self.offset = end;
        self.scanned = end;
        Ok(())
    }

    /// True when this file holds what the place was recorded on.
    pub(crate) fn fits(&self, place: &Place) -> bool {
        place.fits(&self.file).unwrap_or(false)
    }

    /// Bytes read before.
    pub(crate) fn read_piece(&self, offset: u64, length: u32) -> Option<Vec<u8>> {
        let mut piece = vec![0; length as usize];
        (read_up_to(&self.file, &mut piece, offset).ok()? == piece.len()).then_some(piece)
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            device: self.device,
            inode: self.inode,
            fingerprint: self.fingerprint.clone(),
            fingerprint_length: self.head.len() as u64,
            offset: self.offset,
            generation: self.generation,
            skipping: self.skipping,
            modified: self.modified,
        }
    }

    /// True when the stored head still stands in the file; remembers a longer head when the file has grown.
    fn unchanged(&mut self) -> io::Result<bool> {
        if self.head.len() == HEAD_BYTES {
            let mut head = [0; HEAD_BYTES];
            return Ok(read_up_to(&self.file, &mut head, 0)? == HEAD_BYTES && head[..] == self.head[..]);
        }
        let mut head = vec![0; HEAD_BYTES];
        let read = read_up_to(&self.file, &mut head, 0)?;
        head.truncate(read);
        if !head.starts_with(&self.head) {
            return Ok(false);
        }
        if head.len() > self.head.len() {
            self.fingerprint = fingerprint(&head);
            self.head = head;
        }
        Ok(true)
    }

    /// Checks for truncation. Bytes read up to `end` count as read before the file shrank below them.
    fn verdict(&mut self, end: u64) -> io::Result<Verdict> {
        let metadata = self.file.metadata()?;
        self.modified = modified(&metadata);
        let size = metadata.len();
        if end > self.offset && size < end {
            return Ok(Verdict::Keep);
        }
        let same = size >= self.offset && self.unchanged()?;
        Ok(if same { Verdict::Keep } else { Verdict::Rewritten })
    }

    pub(crate) fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// True when no name leads to the file any more.
    pub(crate) fn unlinked(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Reads complete lines, at most a buffer full; a line longer than the buffer makes it grow up to `max_line`,
    /// which is not below the buffer's first size.
    pub(crate) fn read(&mut self, mut buffer: Vec<u8>, max_line: usize) -> io::Result<Read> {
        if self.skipping && !self.skip_line(&mut buffer)? {
            return self.nothing(buffer, self.offset);
        }
        if self.scanned > self.offset + REREAD_BYTES && !self.line_ended(&mut buffer, max_line)? {
            return self.nothing(buffer, self.offset);
        }
        let start = self.offset;
        let mut filled = 0;
        loop {
            let read = read_up_to(&self.file, &mut buffer[filled..], start + filled as u64)?;
            let newline = memrchr(b'\n', &buffer[filled..filled + read]).map(|at| filled + at + 1);
            let at_end = filled + read < buffer.len();
            filled += read;
            if let Some(end) = newline {
                if self.verdict(start + end as u64)? == Verdict::Rewritten {
                    return Ok(Read::Rewritten(buffer));
                }
                self.offset = start + end as u64;
                self.scanned = self.offset;
                let lines = memchr_iter(b'\n', &buffer[..end]).count() as u64;
                return Ok(Read::Lines { buffer, filled: end, start, lines });
            }
            if filled > max_line {
                if self.verdict(start + filled as u64)? == Verdict::Rewritten {
                    return Ok(Read::Rewritten(buffer));
                }
                self.offset = start + max_line as u64;
                self.scanned = self.offset;
                self.skipping = true;
                return Ok(Read::Cut { buffer, filled: max_line, start });
            }
            if at_end {
                self.scanned = start + filled as u64;
                return self.nothing(buffer, start + filled as u64);
            }
            // One more than the limit, so that the newline of a line of exactly the limit is seen.
            let wanted = (buffer.len() * 2).min(max_line + 1);
            buffer.resize(wanted, 0);
        }
    }

    fn nothing(&mut self, buffer: Vec<u8>, end: u64) -> io::Result<Read> {
        Ok(match self.verdict(end)? {
            Verdict::Keep => Read::Nothing(buffer),
            Verdict::Rewritten => Read::Rewritten(buffer),
        })
    }

    /// Passes over the rest of a line that was cut; false while its newline is not there.
    fn skip_line(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            let read = read_up_to(&self.file, buffer, self.offset)?;
            if let Some(newline) = memchr(b'\n', &buffer[..read]) {
                self.offset += newline as u64 + 1;
                self.scanned = self.offset;
                self.skipping = false;
                return Ok(true);
            }
            self.offset += read as u64;
            self.scanned = self.offset;
            if read < buffer.len() {
                return Ok(false);
            }
        }
    }

    /// Looks for a newline only in what a long partial line grew by; true when there is something to hand over.
    fn line_ended(&mut self, buffer: &mut [u8], max_line: usize) -> io::Result<bool> {
        if self.size()? < self.scanned {
            self.scanned = self.offset;
            return Ok(true);
        }
        loop {
            let read = read_up_to(&self.file, buffer, self.scanned)?;
            if memchr(b'\n', &buffer[..read]).is_some() {
                return Ok(true);
            }
            self.scanned += read as u64;
            if self.scanned - self.offset > max_line as u64 {
                return Ok(true);
            }
            if read < buffer.len() {
                return Ok(false);
            }
        }
    }

    /// The last line of a file that will not grow any more and does not end with a newline.
    pub(crate) fn read_rest(&mut self, mut buffer: Vec<u8>, max_line: usize) -> io::Result<Read> {
        let start = self.offset;
        let rest = usize::try_from(self.size()?.saturating_sub(start)).unwrap_or(max_line).min(max_line);
        if rest == 0 || self.skipping {
            return Ok(Read::Nothing(buffer));
        }
        if buffer.len() < rest {
            buffer.resize(rest, 0);
        }
        let filled = read_up_to(&self.file, &mut buffer[..rest], start)?;
        self.offset = start + filled as u64;
        self.scanned = self.offset;
        Ok(Read::Lines { buffer, filled, start, lines: 1 })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Rewritten,
}
