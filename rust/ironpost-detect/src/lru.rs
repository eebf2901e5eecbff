//! A map with a bounded number of keys that forgets the least recently used, apart for each class of keys.

use std::collections::HashMap;
use std::sync::Arc;

/// Classes of keys. Each has its own order of age, so that keys of one class never push out those of another.
pub(crate) const CLASSES: usize = 3;

const NONE: usize = usize::MAX;

#[derive(Debug)]
struct Slot<V> {
    key: Arc<str>,
    value: V,
    class: usize,
    newer: usize,
    older: usize,
}

/// Ends of one class's chain.
#[derive(Clone, Copy, Debug)]
struct Ends {
    newest: usize,
    oldest: usize,
    len: usize,
}

/// Keys come from events, that is from attackers: the map's hash is randomly keyed.
#[derive(Debug)]
pub(crate) struct Lru<V> {
    index: HashMap<Arc<str>, usize>,
    slots: Vec<Option<Slot<V>>>,
    free: Vec<usize>,
    ends: [Ends; CLASSES],
}

impl<V> Default for Lru<V> {
    fn default() -> Self {
        let ends = [Ends { newest: NONE, oldest: NONE, len: 0 }; CLASSES];
        Self { index: HashMap::new(), slots: Vec::new(), free: Vec::new(), ends }
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

    /// The place of a key; good until a key is removed.
    pub(crate) fn find(&self, key: &str) -> Option<usize> {
        self.index.get(key).copied()
    }

    /// The value at a place, without touching its age.
    pub(crate) fn at(&mut self, place: usize) -> Option<&mut V> {
        self.slots.get_mut(place)?.as_mut().map(|slot| &mut slot.value)
    }

    /// Class and key at a place.
    pub(crate) fn about(&self, place: usize) -> Option<(usize, &Arc<str>)> {
        self.slots.get(place)?.as_ref().map(|slot| (slot.class, &slot.key))
    }

    /// Uses a key on behalf of a class. A better class (a smaller number) takes the key over; a worse one does not make it
    /// younger. Returns the class the key had before.
    pub(crate) fn touch(&mut self, place: usize, class: usize) -> Option<usize> {
        let before = self.about(place)?.0;
        if class <= before && (class < before || self.ends[before].newest != place) {
            self.unlink(place);
            if let Some(Some(slot)) = self.slots.get_mut(place) {
                slot.class = class;
            }
            self.link(place);
        }
        Some(before)
    }

    /// Adds a key that is not there yet; its place.
    pub(crate) fn insert(&mut self, key: &str, class: usize, value: V) -> usize {
        let key: Arc<str> = key.into();
        let slot = Some(Slot { key: Arc::clone(&key), value, class, newer: NONE, older: NONE });
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.index.insert(key, at);
        self.link(at);
        at
    }

    /// Place of the least recently used key of a class.
    pub(crate) fn oldest(&self, class: usize) -> Option<usize> {
        Some(self.ends[class].oldest).filter(|&at| at != NONE)
    }

    /// Removes what is at a place.
    pub(crate) fn remove(&mut self, at: usize) -> Option<(Arc<str>, V)> {
        self.unlink(at);
        let slot = self.slots.get_mut(at)?.take()?;
        self.index.remove(&slot.key);
        self.free.push(at);
        Some((slot.key, slot.value))
    }

    fn unlink(&mut self, at: usize) {
        let Some(Some(slot)) = self.slots.get(at) else { return };
        let (newer, older, class) = (slot.newer, slot.older, slot.class);
        match self.slots.get_mut(newer) {
            Some(Some(slot)) => slot.older = older,
            _ => self.ends[class].newest = older,
        }
        match self.slots.get_mut(older) {
            Some(Some(slot)) => slot.newer = newer,
            _ => self.ends[class].oldest = newer,
        }
        self.ends[class].len -= 1;
    }

    fn link(&mut self, at: usize) {
        let Some(Some(slot)) = self.slots.get_mut(at) else { return };
        let ends = &mut self.ends[slot.class];
        let before = std::mem::replace(&mut ends.newest, at);
        ends.len += 1;
        slot.newer = NONE;
        slot.older = before;
        let class = slot.class;
        match self.slots.get_mut(before) {
            Some(Some(slot)) => slot.newer = at,
            _ => self.ends[class].oldest = at,
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
