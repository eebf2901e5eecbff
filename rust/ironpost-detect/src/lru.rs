//! A map with a bounded number of keys that forgets the least recently used, apart for each class of keys.

use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};

/// Classes of keys. Each has its own order of age, so that keys of one class never push out those of another.
pub(crate) const CLASSES: usize = 3;

const NONE: u32 = u32::MAX;

/// Links and places are short: under a flood there are many of them.
#[derive(Debug)]
struct Slot<V> {
    key: Box<str>,
    value: V,
    newer: u32,
    older: u32,
    class: u8,
}

/// Ends of one class's chain.
#[derive(Clone, Copy, Debug)]
struct Ends {
    newest: u32,
    oldest: u32,
    len: usize,
}

/// Keys come from events, that is from attackers: the map's hash is randomly keyed.
#[derive(Debug)]
pub(crate) struct Lru<V> {
    hasher: RandomState,
    /// Places by the hash of their key, which is written once, in its slot.
    index: HashTable<u32>,
    slots: Vec<Option<Slot<V>>>,
    free: Vec<u32>,
    ends: [Ends; CLASSES],
}

impl<V> Default for Lru<V> {
    fn default() -> Self {
        let ends = [Ends { newest: NONE, oldest: NONE, len: 0 }; CLASSES];
        let (slots, free) = (Vec::new(), Vec::new());
        Self { hasher: RandomState::new(), index: HashTable::new(), slots, free, ends }
    }
}

impl<V> Lru<V> {
    /// Keys of all classes.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Keys of a class.
    pub(crate) fn len_of(&self, class: usize) -> usize {
        self.ends[class].len
    }

    fn slot(&self, place: u32) -> Option<&Slot<V>> {
        self.slots.get(place as usize)?.as_ref()
    }

    fn slot_mut(&mut self, place: u32) -> Option<&mut Slot<V>> {
        self.slots.get_mut(place as usize)?.as_mut()
    }

    /// The place of a key; good until a key is removed.
    pub(crate) fn find(&self, key: &str) -> Option<u32> {
        let is_it = |&place: &u32| self.slot(place).is_some_and(|slot| &*slot.key == key);
        self.index.find(self.hasher.hash_one(key), is_it).copied()
    }

    /// The value at a place, without touching its age.
    pub(crate) fn at(&mut self, place: u32) -> Option<&mut V> {
        self.slot_mut(place).map(|slot| &mut slot.value)
    }

    /// Class and key at a place.
    pub(crate) fn about(&self, place: u32) -> Option<(usize, &str)> {
        self.slot(place).map(|slot| (usize::from(slot.class), &*slot.key))
    }

    /// Uses a key on behalf of a class. A better class (a smaller number) takes the key over; a worse one does not make it
    /// younger. Returns the class the key had before.
    pub(crate) fn touch(&mut self, place: u32, class: usize) -> Option<usize> {
        let before = self.about(place)?.0;
        if class <= before && (class < before || self.ends[before].newest != place) {
            self.unlink(place);
            if let Some(slot) = self.slot_mut(place) {
                slot.class = class as u8;
            }
            self.link(place);
        }
        Some(before)
    }

    /// Adds a key that is not there yet; its place.
    pub(crate) fn insert(&mut self, key: &str, class: usize, value: V) -> u32 {
        let slot = Some(Slot { key: key.into(), value, class: class as u8, newer: NONE, older: NONE });
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert_unique(hasher.hash_one(key), at, |&place| {
            slots[place as usize].as_ref().map_or(0, |slot| hasher.hash_one(&*slot.key))
        });
        self.link(at);
        at
    }

    /// Place of the least recently used key of a class.
    pub(crate) fn oldest(&self, class: usize) -> Option<u32> {
        Some(self.ends[class].oldest).filter(|&at| at != NONE)
    }

    /// Removes what is at a place.
    pub(crate) fn remove(&mut self, at: u32) -> Option<(Box<str>, V)> {
        self.unlink(at);
        let slot = self.slots.get_mut(at as usize)?.take()?;
        if let Ok(found) = self.index.find_entry(self.hasher.hash_one(&*slot.key), |&place| place == at) {
            found.remove();
        }
        self.free.push(at);
        Some((slot.key, slot.value))
    }

    fn unlink(&mut self, at: u32) {
        let Some(slot) = self.slot(at) else { return };
        let (newer, older, class) = (slot.newer, slot.older, usize::from(slot.class));
        match self.slot_mut(newer) {
            Some(slot) => slot.older = older,
            None => self.ends[class].newest = older,
        }
        match self.slot_mut(older) {
            Some(slot) => slot.newer = newer,
            None => self.ends[class].oldest = newer,
        }
        self.ends[class].len -= 1;
    }

    fn link(&mut self, at: u32) {
        let Some(class) = self.about(at).map(|(class, _)| class) else { return };
        let before = std::mem::replace(&mut self.ends[class].newest, at);
        self.ends[class].len += 1;
        if let Some(slot) = self.slot_mut(at) {
            (slot.newer, slot.older) = (NONE, before);
        }
        match self.slot_mut(before) {
            Some(slot) => slot.newer = at,
            None => self.ends[class].oldest = at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lru;

    fn drained(map: &mut Lru<usize>, class: usize) -> Vec<String> {
        std::iter::from_fn(|| map.oldest(class).and_then(|at| map.remove(at)).map(|(key, _)| key.to_string()))
            .collect()
    }

    #[test]
    fn the_least_recently_touched_key_goes_first() {
        let mut map = Lru::default();
        for key in ["a", "b", "c"] {
            map.insert(key, 0, key.len());
        }
        map.touch(map.find("a").unwrap(), 0);
        let oldest = map.oldest(0).unwrap();
        assert_eq!(map.remove(oldest).map(|(key, _)| key.to_string()), Some("b".into()));
        map.insert("d", 0, 1);
        map.touch(map.find("c").unwrap(), 0);
        assert_eq!(drained(&mut map, 0), ["a", "d", "c"]);
        assert_eq!((map.len(), map.oldest(0)), (0, None));
    }

    #[test]
    fn a_better_class_takes_a_key_over_and_a_worse_one_keeps_nothing_young() {
        let mut map = Lru::default();
        for key in ["a", "b", "c"] {
            map.insert(key, 1, 0);
        }
        assert_eq!(map.touch(map.find("a").unwrap(), 2), Some(1), "a worse class changes nothing");
        assert_eq!(map.touch(map.find("b").unwrap(), 0), Some(1));
        assert_eq!((map.len_of(0), map.len_of(1), map.len_of(2)), (1, 2, 0));
        assert_eq!(drained(&mut map, 1), ["a", "c"]);
        assert_eq!(drained(&mut map, 0), ["b"]);
    }
}
