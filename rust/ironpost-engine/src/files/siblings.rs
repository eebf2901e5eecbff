//! Where log rotation puts a file: finding it again under another name.

use crate::files::reader::{Place, Reader, inspect, modified};
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Directory entries looked at.
const MAX_ENTRIES: usize = 10_000;

/// A copy is recognised by its head alone; a shorter head could belong to any file.
const LEAST_HEAD: u64 = 16;

/// What log rotation appends to the name of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Suffix {
    /// `.1` is newer than `.2`.
    Number(u64),
    /// `-20261120`, `.2026-11-20`: later text is newer.
    Date(Vec<u8>),
}

/// True for names that rotation makes from other names, compressed or not.
pub(crate) fn is_rotated(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    [b".gz".as_slice(), b".xz", b".bz2", b".zst", b".Z"].iter().any(|end| bytes.ends_with(end))
        || bytes.iter().rposition(|byte| matches!(byte, b'.' | b'-')).is_some_and(|at| {
            let tail = &bytes[at + 1..];
            at > 0
                && !tail.is_empty()
                && tail.len() != 4
                && tail.len() <= 10
                && tail.iter().all(u8::is_ascii_digit)
                && (tail.len() <= 3 || tail.len() >= 8)
        })
}

fn suffix(base: &[u8], name: &[u8]) -> Option<Suffix> {
    let rest = name.strip_prefix(base)?;
    let (mark, tail) = rest.split_first()?;
    let all_digits = !tail.is_empty() && tail.iter().all(u8::is_ascii_digit);
    match mark {
        b'.' if all_digits && tail.len() <= 4 => {
            std::str::from_utf8(tail).ok()?.parse().ok().map(Suffix::Number)
        }
        b'.' | b'-' if tail.first().is_some_and(u8::is_ascii_digit) && !is_compressed(tail) => {
            Some(Suffix::Date(tail.to_vec()))
        }
        _ => None,
    }
}

fn is_compressed(tail: &[u8]) -> bool {
    tail.iter().any(u8::is_ascii_alphabetic) && tail.contains(&b'.')
}

/// Oldest first; `None` for names of different kinds.
fn age(left: &Suffix, right: &Suffix) -> Option<Ordering> {
    match (left, right) {
        (Suffix::Number(left), Suffix::Number(right)) => Some(right.cmp(left)),
        (Suffix::Date(left), Suffix::Date(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

/// Looks at the directory again when it changed under a look: rotation renames a whole row of files, one by one.
const LOOKS: usize = 16;

/// A file found in the directory, with the newer rotated files beside it, oldest first.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) reader: Reader,
    pub(crate) newer: Vec<Reader>,
}

/// Names beside `path` with their inodes, in order.
fn entries(path: &Path) -> Vec<(PathBuf, u64)> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<(PathBuf, u64)> = entries
        .take(MAX_ENTRIES)
        .flatten()
        .map(|entry| (entry.path(), entry.ino()))
        .filter(|(entry, _)| entry != path)
        .collect();
    found.sort();
    found
}

/// What `look` finds in a directory that stayed the same meanwhile: a file that is renamed between being listed and
/// being opened would be missed.
fn while_still<T>(path: &Path, look: impl Fn(&[PathBuf]) -> T) -> T {
    let names = |listed: &[(PathBuf, u64)]| listed.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let mut before = entries(path);
    for _ in 1..LOOKS {
        let found = look(&names(&before));
        let after = entries(path);
        if after == before {
            return found;
        }
        before = after;
    }
    look(&names(&before))
}

fn is_file(entry: &Path, device: u64, inode: u64) -> bool {
    inspect(entry).is_ok_and(|metadata| metadata.dev() == device && metadata.ino() == inode)
}

/// The file a place was recorded on, under whatever name it has in the directory now: by inode first, then a copy
/// with the same head among the names rotation gives.
pub(crate) fn find(path: &Path, place: &Place) -> Option<Found> {
    while_still(path, |entries| {
        let (name, reader) = find_in(entries, path, place)?;
        Some(Found { reader, newer: newer_than(entries, path, &name) })
    })
}

fn find_in(entries: &[PathBuf], path: &Path, place: &Place) -> Option<(PathBuf, Reader)> {
    let open = |candidate: &PathBuf| {
        let reader = Reader::open(candidate, place.generation).ok()?;
        reader.fits(place).then(|| (candidate.clone(), reader.resume(place)))
    };
    let by_inode = entries.iter().filter(|entry| is_file(entry, place.device, place.inode)).find_map(open);
    if by_inode.is_some() || place.fingerprint_length < LEAST_HEAD {
        return by_inode;
    }
    let base = path.file_name()?.as_bytes();
    entries
        .iter()
        .filter(|entry| entry.file_name().is_some_and(|name| suffix(base, name.as_bytes()).is_some()))
        .find_map(open)
}

/// The rotated files that are newer than the file of this inode, oldest first.
pub(crate) fn newer_than_file(path: &Path, device: u64, inode: u64) -> Vec<Reader> {
    while_still(path, |entries| {
        let name = entries.iter().find(|entry| is_file(entry, device, inode));
        name.map(|name| newer_than(entries, path, name)).unwrap_or_default()
    })
}

/// The rotated files changed after `moment` (nanoseconds since the Unix epoch), oldest first: what to read when the file
/// read before is gone altogether. The kernel stamps files with the time of its last clock tick (`current_time()` in
/// `fs/inode.c`): a file made and rotated in the very tick of that last change is not told from one that was read.
pub(crate) fn changed_after(path: &Path, moment: i64) -> Vec<Reader> {
    let Some(base) = path.file_name() else { return Vec::new() };
    while_still(path, |entries| {
        let mut changed: Vec<(i64, &PathBuf)> = entries
            .iter()
            .filter(|entry| {
                entry.file_name().is_some_and(|name| suffix(base.as_bytes(), name.as_bytes()).is_some())
            })
            .filter_map(|entry| Some((modified(&inspect(entry).ok()?), entry)))
            .filter(|(time, _)| *time > moment)
            .collect();
        changed.sort();
        changed.into_iter().filter_map(|(_, entry)| Reader::open(entry, 0).ok()).collect()
    })
}

fn newer_than(entries: &[PathBuf], path: &Path, found: &Path) -> Vec<Reader> {
    let (Some(base), Some(name)) = (path.file_name(), found.file_name()) else { return Vec::new() };
    let Some(mark) = suffix(base.as_bytes(), name.as_bytes()) else { return Vec::new() };
    let mut newer: Vec<(Suffix, &PathBuf)> = entries
        .iter()
        .filter_map(|entry| {
            let suffix = suffix(base.as_bytes(), entry.file_name()?.as_bytes())?;
            (age(&suffix, &mark)? == Ordering::Greater).then_some((suffix, entry))
        })
        .collect();
    newer.sort_by(|left, right| age(&left.0, &right.0).unwrap_or(Ordering::Equal));
    newer.into_iter().filter_map(|(_, entry)| Reader::open(entry, 0).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_names_are_recognised_and_ordinary_ones_are_not() {
        for name in ["auth.log.1", "auth.log-20261120", "auth.log.2.gz", "app.20261120"] {
            assert!(is_rotated(OsStr::new(name)), "{name}");
        }
        for name in ["auth.log", "app-json.log", "port-8080.log", "worker-8080", "postgresql-2026-11-20.log"]
        {
            assert!(!is_rotated(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn age_of_rotated_names() {
        let of = |name: &str| suffix(b"a.log", name.as_bytes()).unwrap();
        assert_eq!(age(&of("a.log.2"), &of("a.log.1")), Some(Ordering::Less));
        assert_eq!(age(&of("a.log-20261120"), &of("a.log-20261121")), Some(Ordering::Less));
        assert!(suffix(b"a.log", b"a.log.2.gz").is_none());
    }
}
