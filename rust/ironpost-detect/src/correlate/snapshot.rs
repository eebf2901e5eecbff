//! Windows as they are stored, put back, and carried over to other rules.

use super::memory::Windows;
use super::{Correlator, places};
use crate::compile::Compiled;
use crate::correlation::Correlation;
use crate::lru::CLASSES;
use crate::window::Group;
use std::sync::Arc;

/// A window's state as it shall be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowChange {
    /// Key of the window.
    pub key: String,
    /// New state; `None` when the window is gone.
    pub state: Option<Vec<u8>>,
}

/// What the next snapshot has to tell besides the groups that changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Full keys of stored groups that are gone.
    pub(super) gone: Vec<String>,
    /// Room for one state.
    buffer: Vec<u8>,
}

/// Names of the sources by the number that stands for them, class, and group. Binary, because a flood changes tens of
/// thousands of groups in a second; its version is part of the correlation's fingerprint.
type Stored<S, G> = (Vec<(u16, S)>, u8, G);

fn stored(group: &Group, class: usize, names: &[Arc<str>], buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut sources: Vec<(u16, &str)> = Vec::with_capacity(1);
    for source in group.sources() {
        if sources.iter().all(|(known, _)| *known != source) {
            sources.push((source, names.get(usize::from(source)).map_or("", |name| name)));
        }
    }
    buffer.clear();
    let state: Stored<&str, &Group> = (sources, class as u8, group);
    postcard::to_io(&state, &mut *buffer).ok()?;
    Some(buffer.as_slice().into())
}

impl Correlator {
    /// Continues with another rule set; windows of correlations that mean the same are kept.
    pub fn swap(&mut self, compiled: Arc<Compiled>) {
        let old = std::mem::replace(&mut self.compiled, Arc::clone(&compiled));
        self.places = places(&compiled);
        let before = std::mem::take(&mut self.windows);
        self.windows = compiled.set.correlations.iter().map(|_| Windows::default()).collect();
        let mut moved = vec![None; before.len()];
        for (index, (correlation, mut windows)) in old.set.correlations.iter().zip(before).enumerate() {
            if let Some(&place) = self.places.get(&correlation.fingerprint) {
                self.windows[place] = windows;
                moved[index] = Some(place);
                continue;
            }
            for class in 0..CLASSES {
                while let Some((key, mut group)) =
                    windows.groups.oldest(class).and_then(|at| windows.groups.remove(at))
                {
                    self.part(correlation, class, &key, &mut group);
                }
            }
        }
        if let Some(owed) = &mut self.owed {
            owed.retain_mut(|(_, index, _)| {
                moved.get(*index).copied().flatten().is_some_and(|place| {
                    *index = place;
                    true
                })
            });
        }
    }

    /// Windows that changed since the last call, to be stored together with the source's position.
    pub fn take_dirty(&mut self) -> Vec<WindowChange> {
        let Some(changes) = &mut self.changes else { return Vec::new() };
        // What went and came back is put again behind.
        let gone = std::mem::take(&mut changes.gone).into_iter();
        let mut taken: Vec<WindowChange> = gone.map(|key| WindowChange { key, state: None }).collect();
        let compiled = Arc::clone(&self.compiled);
        for (correlation, windows) in compiled.set.correlations.iter().zip(&mut self.windows) {
            let places = windows.take_marked();
            taken.reserve(places.len());
            for place in places {
                let Some((class, key)) = windows.groups.about(place) else { continue };
                let key = full_key(correlation, key);
                let Some(group) = windows.groups.at(place) else { continue };
                group.stored = true;
                let state = stored(group, class, &self.sources, &mut changes.buffer);
                taken.push(WindowChange { key, state });
            }
        }
        taken
    }

    /// Puts stored windows back; those of changed or removed correlations and unreadable ones are left out and returned by
    /// key, so that the caller can delete them.
    pub fn restore<I>(&mut self, windows: I) -> Vec<String>
    where
        I: IntoIterator<Item = (String, Vec<u8>)>,
    {
        let compiled = Arc::clone(&self.compiled);
        let mut useless = Vec::new();
        let mut found: Vec<(usize, String, Stored<String, Box<Group>>)> = Vec::new();
        for (key, state) in windows {
            match (self.find(&key), postcard::from_bytes::<Stored<String, Box<Group>>>(&state)) {
                (Some((index, group)), Ok(stored)) if usize::from(stored.1) < CLASSES => {
                    found.push((index, group.to_owned(), stored));
                }
                _ => useless.push(key),
            }
        }
        // Least recently active first, as they were.
        found.sort_by_key(|(_, _, (_, _, group))| group.current.newest());
        for (index, key, (sources, class, mut group)) in found {
            let ids: Vec<(u16, u16)> =
                sources.into_iter().map(|(known, name)| (known, self.source(&name))).collect();
            let class = usize::from(class);
            let judge = &compiled.set.correlations[index].judge;
            let mut owes = false;
            for window in group.windows() {
                for source in window.sources_mut() {
                    *source = ids.iter().find(|(known, _)| known == source).map_or(0, |(_, id)| *id);
                }
                window.revive(judge);
                if let Some(episode) = window.episode.as_deref_mut() {
                    episode.owed = episode.total > episode.reported;
                    owes |= episode.owed;
                }
            }
            let windows = &mut self.windows[index];
            if windows.groups.find(&key).is_some() {
                continue;
            }
            group.stored = true;
            self.evidence_bytes[class] += group.evidence_bytes();
            windows.entries[class] += group.size();
            windows.groups.insert(&key, class, group);
            if owes && let Some(owed) = &mut self.owed {
                owed.push_back((0, index, key.into()));
            }
        }
        useless
    }

    /// Correlation and group of a full key.
    fn find<'a>(&self, key: &'a str) -> Option<(usize, &'a str)> {
        let (fingerprint, group) = key.split_once('|')?;
        Some((*self.places.get(fingerprint)?, group))
    }
}

pub(super) fn full_key(correlation: &Correlation, group: &str) -> String {
    format!("{}|{group}", correlation.fingerprint)
}
