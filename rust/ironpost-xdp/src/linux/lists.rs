//! The block and allow lists.

use super::filter::Filter;
use super::index::{Key, Short};
use super::ring::boot_ns;
use super::sys::Map;
use crate::error::FilterError;
use crate::report::{BlockRequest, EntryMode, Listed, Refused, Report};
use crate::target::Prefix;
use ironpost_ebpf_common::{Entry, Ipv4Key, Ipv6Key, PrefixKey, flags, mode, names};
use nix::libc;
use std::io;
use std::sync::PoisonError;
use zerocopy::{FromBytes, IntoBytes};

/// Entries that go to the kernel in one call.
const BATCH: usize = 8_192;

/// A checked entry on its way to a map, with the target it came from.
struct Pending<'a> {
    target: &'a str,
    key: Key,
    bytes: Vec<u8>,
    entry: Entry,
}

impl Filter {
    /// Sets blocks. Refused targets are named in the report and change nothing; the others are written.
    ///
    /// # Errors
    /// [`FilterError::System`] when the kernel refuses for another reason than a full map.
    pub fn block(&self, requests: &[BlockRequest]) -> Result<Report, FilterError> {
        let mut report = Report::default();
        let mut ipv4 = Vec::new();
        let mut ipv6 = Vec::new();
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for request in requests {
            match Prefix::parse_blockable(&request.target) {
                Ok(prefix) => {
                    let key = Key::from(&prefix);
                    if !self.index.has_room(&key) {
                        report.refuse(
                            &request.target,
                            &"too many different prefix lengths are blocked around it",
                        );
                        continue;
                    }
                    // One by one, so that the next target sees the room this one takes.
                    let short = self.index.add_blocks(std::iter::once(&key));
                    if short != Short::default() {
                        self.update_config(|config| config.short_ipv6 |= short.blocked)?;
                    }
                    let entry = Entry {
                        expires_boot_ns: request.expires_boot_ns,
                        rule_id: request.rule_id,
                        mode: request.mode.code(),
                        length: u16::from(prefix.length),
                    };
                    let list = if prefix.is_ipv4() { &mut ipv4 } else { &mut ipv6 };
                    list.push(Pending { target: &request.target, key, bytes: block_key(&key), entry });
                }
                Err(refusal) => report.refuse(&request.target, &refusal),
            }
        }
        write(&self.block_ipv4, &ipv4, &mut report)?;
        write(&self.block_ipv6, &ipv6, &mut report)?;
        Ok(report)
    }

    /// Allows sources until `expires_boot_ns` of the boot clock (0: for good). Allowed sources are never dropped.
    ///
    /// # Errors
    /// As [`Filter::block`].
    pub fn allow(&self, targets: &[String], expires_boot_ns: u64) -> Result<Report, FilterError> {
        let mut report = Report::default();
        let mut networks = Vec::new();
        for target in targets {
            match Prefix::parse_allowable(target) {
                Ok(prefix) => {
                    let length = u16::from(prefix.length);
                    let entry = Entry { expires_boot_ns, rule_id: 0, mode: mode::DROP, length };
                    networks.push(Pending {
                        target,
                        key: Key::from(&prefix),
                        bytes: allow_key(&prefix),
                        entry,
                    });
                }
                Err(refusal) => report.refuse(target, &refusal),
            }
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.index.add_allowed(networks.iter().map(|one| &one.key)).allowed {
            self.update_config(|config| config.flags |= flags::ALLOW_SHORT_IPV6)?;
        }
        write(&self.allow, &networks, &mut report)?;
        Ok(report)
    }

    /// Removes blocks. Targets that are not blocked are refused by that name.
    ///
    /// # Errors
    /// [`FilterError::System`] when the kernel refuses.
    pub fn unblock(&self, targets: &[String]) -> Result<Report, FilterError> {
        self.remove(targets, |prefix| {
            (
                if prefix.is_ipv4() { &self.block_ipv4 } else { &self.block_ipv6 },
                block_key(&Key::from(prefix)),
            )
        })
    }

    /// Removes allow entries. Targets that are not allowed are refused by that name.
    ///
    /// # Errors
    /// [`FilterError::System`] when the kernel refuses.
    pub fn unallow(&self, targets: &[String]) -> Result<Report, FilterError> {
        self.remove(targets, |prefix| (&self.allow, allow_key(prefix)))
    }

    /// All blocks, IPv4 first.
    ///
    /// # Errors
    /// [`FilterError::System`] when the kernel refuses.
    pub fn blocked(&self) -> Result<Vec<Listed>, FilterError> {
        let mut list = self.entries(&self.block_ipv4)?;
        list.extend(self.entries(&self.block_ipv6)?);
        Ok(list)
    }

    /// All allow entries.
    ///
    /// # Errors
    /// [`FilterError::System`] when the kernel refuses.
    pub fn allowed(&self) -> Result<Vec<Listed>, FilterError> {
        let mut list = self.entries(&self.allow)?;
        for entry in &mut list {
            entry.mode = None;
        }
        Ok(list)
    }

    /// Removes entries that have expired (they had no effect any more) and tidies the index up. Returns how many.
    ///
    /// # Errors
    /// [`FilterError::System`] when the kernel refuses.
    pub fn sweep(&self) -> Result<u64, FilterError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = 0;
        let now = boot_ns();
        for map in [&self.block_ipv4, &self.block_ipv6, &self.allow] {
            for (key, entry) in read(map)? {
                if expired(&entry, now) && map.delete(&key).map_err(|error| failed(map, error))? {
                    removed += 1;
                }
            }
        }
        self.rebuild_index()?;
        Ok(removed)
    }

    fn remove<'a>(
        &'a self,
        targets: &[String],
        place: impl Fn(&Prefix) -> (&'a Map, Vec<u8>),
    ) -> Result<Report, FilterError> {
        let mut report = Report::default();
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for target in targets {
            match Prefix::parse(target) {
                Ok(prefix) => {
                    let (map, key) = place(&prefix);
                    if map.delete(&key).map_err(|error| failed(map, error))? {
                        report.written += 1;
                    } else {
                        report.refuse(target, &"not on the list");
                    }
                }
                Err(refusal) => report.refuse(target, &refusal),
            }
        }
        Ok(report)
    }

    fn entries(&self, map: &Map) -> Result<Vec<Listed>, FilterError> {
        let now = boot_ns();
        Ok(read(map)?
            .into_iter()
            .filter_map(|(key, entry)| {
                Some(Listed {
                    target: prefix(map, &key, &entry)?,
                    expires_boot_ns: entry.expires_boot_ns,
                    rule_id: entry.rule_id,
                    mode: Some(EntryMode::from_code(entry.mode)),
                    expired: expired(&entry, now),
                })
            })
            .collect())
    }

    /// Makes the index name exactly the lengths that are in the lists.
    pub(super) fn rebuild_index(&self) -> Result<(), FilterError> {
        let keys = |map: &Map| -> Result<Vec<Key>, FilterError> {
            Ok(read(map)?
                .iter()
                .filter_map(|(key, entry)| prefix(map, key, entry))
                .map(|one| Key::from(&one))
                .collect())
        };
        let (ipv4, ipv6, allowed) = (keys(&self.block_ipv4)?, keys(&self.block_ipv6)?, keys(&self.allow)?);
        let short = self.index.rebuild(ipv4.iter().chain(&ipv6), allowed.iter());
        self.update_config(|config| {
            config.short_ipv6 = short.blocked;
            config.flags = if short.allowed { flags::ALLOW_SHORT_IPV6 } else { 0 };
        })
    }
}

impl Report {
    fn refuse(&mut self, target: &str, reason: &dyn std::fmt::Display) {
        self.refused.push(Refused { target: target.to_owned(), reason: reason.to_string() });
    }
}

/// Copies all entries of one map into another of the same shape.
pub(crate) fn copy(from: &Map, to: &Map) -> Result<(), FilterError> {
    let entries = read(from)?;
    let keys: Vec<u8> = entries.iter().flat_map(|(key, _)| key.clone()).collect();
    let values: Vec<u8> = entries.iter().flat_map(|(_, entry)| entry.as_bytes().to_vec()).collect();
    let (written, outcome) = if entries.is_empty() { (0, Ok(())) } else { to.update_batch(&keys, &values) };
    match outcome {
        Ok(()) => Ok(()),
        Err(error) if is_full(&error) => Err(FilterError::Setting {
            name: "blocklist_max_entries",
            value: to.max_entries.to_string(),
            reason: format!("{} entries are in use, only {written} fit", entries.len()),
        }),
        Err(error) => Err(failed(to, error)),
    }
}

/// All entries of a list map.
fn read(map: &Map) -> Result<Vec<(Vec<u8>, Entry)>, FilterError> {
    let mut entries = Vec::new();
    for key in map.keys().map_err(|error| failed(map, error))? {
        let value = map.lookup(&key).map_err(|error| failed(map, error))?;
        if let Some(entry) = value.and_then(|bytes| Entry::read_from_bytes(&bytes).ok()) {
            entries.push((key, entry));
        }
    }
    Ok(entries)
}

/// Writes entries in batches.
fn write(map: &Map, pending: &[Pending<'_>], report: &mut Report) -> Result<(), FilterError> {
    for batch in pending.chunks(BATCH) {
        let mut done = 0;
        while let Some(rest) = batch.get(done..).filter(|rest| !rest.is_empty()) {
            let keys: Vec<u8> = rest.iter().flat_map(|one| one.bytes.iter().copied()).collect();
            let values: Vec<u8> = rest.iter().flat_map(|one| one.entry.as_bytes().iter().copied()).collect();
            let (written, outcome) = map.update_batch(&keys, &values);
            done += written;
            report.written += written as u64;
            let Err(error) = outcome else { break };
            // The one it stopped at: written alone, for its own answer.
            let Some(stopped) = batch.get(done) else { return Err(failed(map, error)) };
            match map.update(&stopped.bytes, stopped.entry.as_bytes()) {
                Ok(()) => report.written += 1,
                Err(error) if is_full(&error) => report.refuse(
                    stopped.target,
                    &format!("the list is full, blocklist_max_entries = {}", map.max_entries),
                ),
                Err(error) => return Err(failed(map, error)),
            }
            done += 1;
        }
    }
    Ok(())
}

fn block_key(key: &Key) -> Vec<u8> {
    match key {
        Key::Ipv4(key) => key.as_bytes().to_vec(),
        Key::Ipv6(key) => key.as_bytes().to_vec(),
    }
}

fn allow_key(prefix: &Prefix) -> Vec<u8> {
    let mut words = [0_u32; 4];
    for (word, bytes) in words.iter_mut().zip(prefix.address.chunks_exact(4)) {
        *word = bytes.try_into().map(u32::from_ne_bytes).unwrap_or(0);
    }
    PrefixKey { length: u32::from(prefix.length), address: words }.as_bytes().to_vec()
}

/// The prefix of an entry in any of the lists.
fn prefix(map: &Map, key: &[u8], entry: &Entry) -> Option<Prefix> {
    match map.name {
        names::BLOCK_IPV4 => Some(Key::Ipv4(Ipv4Key::read_from_bytes(key).ok()?).prefix()),
        names::BLOCK_IPV6 => Some(Key::Ipv6(Ipv6Key::read_from_bytes(key).ok()?).prefix()),
        _ => Some(Prefix { address: *key.last_chunk()?, length: u8::try_from(entry.length).ok()? }),
    }
}

fn expired(entry: &Entry, now: u64) -> bool {
    entry.expires_boot_ns != 0 && now >= entry.expires_boot_ns
}

/// Hashes say `E2BIG`, the trie says `ENOSPC`.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
}

fn failed(map: &Map, error: io::Error) -> FilterError {
    FilterError::system(format!("changing the map {}", map.name), error)
}
