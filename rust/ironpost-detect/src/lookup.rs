//! Where an event carries a field that a rule asks for.
//!
//! A field map gives a rule's field an ordered list of event fields. Of its entries the first that the event has with a
//! value other than null counts; when none has one, the field is null if one of them is there, and absent otherwise. An
//! entry may be several event fields that are looked at together, as the values of a list are.

use crate::compile::Interner;
use crate::plan::{MapPlan, Names};
use ironpost_events::{Cell, FieldId, RowRef, ecs};
use rustc_hash::FxHashMap;

/// A rule's field and the event fields that may carry it, as indices of names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lookup {
    /// As the rule writes it.
    pub(crate) name: u32,
    /// In order of precedence; the fields of one entry are looked at together.
    entries: Box<[Box<[u32]>]>,
}

/// Collects lookups while rules are compiled.
#[derive(Default)]
pub(crate) struct Lookups {
    maps: Vec<MapPlan>,
    lookups: Vec<Lookup>,
    known: FxHashMap<Lookup, u32>,
    by_name: FxHashMap<(Option<u32>, u32), u32>,
}

impl Lookups {
    pub(crate) fn new(maps: Vec<MapPlan>) -> Self {
        Self { maps, ..Self::default() }
    }

    pub(crate) fn knows(&self, map: Option<u32>) -> bool {
        map.is_none_or(|map| (map as usize) < self.maps.len())
    }

    /// The lookup of a rule's field under a map.
    pub(crate) fn id(&mut self, map: Option<u32>, field: &str, names: &mut Interner) -> u32 {
        let name = names.id(field);
        if let Some(&id) = self.by_name.get(&(map, name)) {
            return id;
        }
        let entries = match map.and_then(|map| self.maps.get(map as usize)) {
            Some(map) => entries(map, field, names),
            None => vec![[name].into()],
        };
        let lookup = Lookup { name, entries: entries.into() };
        let id = *self.known.entry(lookup).or_insert_with_key(|lookup| {
            self.lookups.push(lookup.clone());
            (self.lookups.len() - 1) as u32
        });
        self.by_name.insert((map, name), id);
        id
    }

    /// Every event field that may carry one of the fields, in order.
    pub(crate) fn event_fields(
        &mut self,
        map: Option<u32>,
        fields: &[String],
        names: &mut Interner,
    ) -> Vec<u32> {
        let mut found = Vec::with_capacity(fields.len());
        for field in fields {
            let id = self.id(map, field, names);
            for &name in self.lookups[id as usize].entries.iter().flatten() {
                if !found.contains(&name) {
                    found.push(name);
                }
            }
        }
        found
    }

    pub(crate) fn finish(self) -> Vec<Lookup> {
        self.lookups
    }
}

/// The entries of a field, a name's other forms right after it.
fn entries(map: &MapPlan, field: &str, names: &mut Interner) -> Vec<Box<[u32]>> {
    let own = [Names::One(field.to_owned())];
    let mut entries: Vec<Box<[u32]>> = Vec::new();
    for entry in map.fields.get(field).map_or(own.as_slice(), |entries| entries) {
        entries.push(names.all(entry.as_slice()).into());
        if let [name] = entry.as_slice()
            && !name.contains('.')
        {
            entries.extend(map.forms.iter().map(|form| [names.id(&form.replace("{}", name))].into()));
        }
    }
    entries
}

impl Lookup {
    pub(crate) fn bind(&self, ids: &[Option<FieldId>]) -> BoundLookup {
        let entries = self.entries.iter().map(|entry| {
            entry.iter().filter_map(|&name| ids.get(name as usize).copied().flatten()).collect::<Box<[_]>>()
        });
        BoundLookup { entries: entries.filter(|entry| !entry.is_empty()).collect() }
    }
}

/// A lookup by the field ids of a table; event fields that the table does not know are left out.
#[derive(Debug)]
pub(crate) struct BoundLookup {
    pub(crate) entries: Box<[Box<[FieldId]>]>,
}

impl BoundLookup {
    /// True when no event of the table can carry the field.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True when the event's time is meant, which for log lines is the row's and no cell.
    pub(crate) fn has_time(&self) -> bool {
        self.fields().any(|(field, _)| field == ecs::TIMESTAMP)
    }

    /// Event fields and the rank of their entry; a lower rank comes first.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (FieldId, u16)> + '_ {
        let ranked = self.entries.iter().enumerate();
        ranked.flat_map(|(rank, entry)| entry.iter().map(move |&field| (field, rank as u16)))
    }

    /// True when no entry before `rank` has a value in the row, so that `rank` counts if it has one.
    pub(crate) fn counts(&self, row: RowRef<'_>, rank: u16) -> bool {
        let before = &self.entries[..usize::from(rank).min(self.entries.len())];
        before.is_empty()
            || !row
                .cells()
                .iter()
                .any(|cell| cell.kind.has_value() && before.iter().any(|entry| entry.contains(&cell.field)))
    }

    /// The cells of the row that the lookup means.
    pub(crate) fn cells<'a>(&self, row: RowRef<'a>) -> impl Iterator<Item = &'a Cell> + use<'a, '_> {
        let has_value = |entry: &[FieldId]| {
            row.cells().iter().any(|cell| cell.kind.has_value() && entry.contains(&cell.field))
        };
        let chosen = match &*self.entries {
            [only] => Some(only),
            entries => entries.iter().find(|entry| has_value(entry)),
        };
        row.cells().iter().filter(move |cell| match chosen {
            Some(entry) => entry.contains(&cell.field),
            None => self.entries.iter().any(|entry| entry.contains(&cell.field)),
        })
    }
}
