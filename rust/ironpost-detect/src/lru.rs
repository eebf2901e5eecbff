//! A map with a bounded number of keys that forgets the least recently used.

use std::collections::HashMap;

const NONE: usize = usize::MAX;

#[derive(Debug)]
struct Slot<V> {
    key: Box<str>,
    value: V,
    newer: usize,
    older: usize,
}

/// Keys come from events, that is from attackers: the map's hash is randomly keyed.
#[derive(Debug)]
pub(crate) struct Lru<V> {
    index: HashMap<Box<str>, usize>,
    slots: Vec<Option<Slot<V>>>,
    free: Vec<usize>,
    newest: usize,
    oldest: usize,
}

impl<V> Default for Lru<V> {
    fn default() -> Self {
        Self { index: HashMap::new(), slots: Vec::new(), free: Vec::new(), newest: NONE, oldest: NONE }
    }
}

impl<V> Lru<V> {
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The value of a key without touching its age.
    pub(crate) fn peek_mut(&mut self, key: &str) -> Option<&mut V> {
        let slot = *self.index.get(key)?;
        self.slots[slot].as_mut().map(|slot| &mut slot.value)
    }

    /// The value of a key, which becomes the most recently used.
    pub(crate) fn touch(&mut self, key: &str) -> Option<&mut V> {
        let at = *self.index.get(key)?;
        if at != self.newest {
            self.unlink(at);
            self.link(at);
        }
        self.slots[at].as_mut().map(|slot| &mut slot.value)
    }

    /// Adds a key that is not there yet.
    pub(crate) fn insert(&mut self, key: &str, value: V) {
        let slot = Some(Slot { key: key.into(), value, newer: NONE, older: NONE });
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
        self.index.insert(key.into(), at);
        self.link(at);
    }

    /// The least recently used value.
    pub(crate) fn oldest(&self) -> Option<&V> {
        self.slots.get(self.oldest)?.as_ref().map(|slot| &slot.value)
    }

    /// Removes the least recently used.
    pub(crate) fn pop_oldest(&mut self) -> Option<(Box<str>, V)> {
        let at = self.oldest;
        if at == NONE {
            return None;
        }
        self.unlink(at);
        let slot = self.slots[at].take()?;
        self.index.remove(&slot.key);
        self.free.push(at);
        Some((slot.key, slot.value))
    }

    fn unlink(&mut self, at: usize) {
        let Some(Some(slot)) = self.slots.get(at) else { return };
        let (newer, older) = (slot.newer, slot.older);
        match self.slots.get_mut(newer) {
            Some(Some(slot)) => slot.older = older,
            _ => self.newest = older,
        }
        match self.slots.get_mut(older) {
            Some(Some(slot)) => slot.newer = newer,
            _ => self.oldest = newer,
        }
    }

    fn link(&mut self, at: usize) {
        let before = self.newest;
        if let Some(Some(slot)) = self.slots.get_mut(at) {
            slot.newer = NONE;
            slot.older = before;
        }
        match self.slots.get_mut(before) {
            Some(Some(slot)) => slot.newer = at,
            _ => self.oldest = at,
        }
        self.newest = at;
    }
}

#[cfg(test)]
mod tests {
    use super::Lru;

    #[test]
    fn the_least_recently_touched_key_goes_first() {
        let mut map = Lru::default();
        for key in ["a", "b", "c"] {
            map.insert(key, key.len());
        }
        map.touch("a");
        assert_eq!(map.pop_oldest().map(|(key, _)| key), Some("b".into()));
        map.insert("d", 1);
        map.touch("c");
        let order: Vec<Box<str>> = std::iter::from_fn(|| map.pop_oldest().map(|(key, _)| key)).collect();
        assert_eq!(order, ["a".into(), "d".into(), "c".into()]);
        assert_eq!(map.len(), 0);
        assert!(map.oldest().is_none());
    }
}
