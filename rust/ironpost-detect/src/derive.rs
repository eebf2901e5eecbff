//! The log source of an event, told from the event itself.
//!
//! The plan's `derive` is an ordered list of tables. Each reads a few keys of the event (channel and event id, say) and
//! has rows that say which values mean which log source. A table is laid out when the plan is read: a key's value
//! becomes a small number through one hash look-up, the numbers together an index. So the cost per event is one pass over
//! its cells and a few look-ups, whatever values an attacker writes.

use crate::compile::{Interner, accepts};
use crate::plan::{DeciderPlan, LogsourcePlan, PlanError, Wanted};
use ironpost_events::{FieldId, Logsource, RowRef};
use rustc_hash::FxHashMap;

/// Most keys of all tables together: their presence in an event is a bit.
const MAX_KEYS: usize = 64;
/// Most combinations of values in one table (two bytes each); larger tables shall be split.
const MAX_COMBINATIONS: usize = 1 << 18;
/// Longest text that a row may ask for (bytes); longer values of events fit only texts that end in `*`.
const MAX_TEXT: usize = 128;

/// The tables of a plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deriver {
    /// Names of event fields per key, in order of precedence.
    keys: Vec<Vec<u32>>,
    deciders: Vec<Decider>,
    /// What rows decide.
    pub(crate) sources: Vec<LogsourcePlan>,
}

#[derive(Clone, Debug)]
struct Decider {
    keys: Vec<DeciderKey>,
    /// Index of a source plus one by combination of values; 0 decides nothing.
    combinations: Vec<u16>,
}

#[derive(Clone, Debug, Default)]
struct DeciderKey {
    key: usize,
    /// Number of whole values, in lower case.
    exact: FxHashMap<Box<[u8]>, u16>,
    /// Beginnings in lower case, the longest first, and their number.
    prefixes: Vec<(Box<[u8]>, u16)>,
    /// How many numbers there are: 0 is absence, 1 any other value.
    numbers: usize,
}

impl DeciderKey {
    fn number(&self, value: &[u8]) -> usize {
        let mut lower = [0; MAX_TEXT];
        let start = &mut lower[..value.len().min(MAX_TEXT)];
        start.copy_from_slice(&value[..start.len()]);
        start.make_ascii_lowercase();
        if value.len() <= MAX_TEXT
            && let Some(&number) = self.exact.get(&*start)
        {
            return usize::from(number);
        }
        let prefix = self.prefixes.iter().find(|(prefix, _)| start.starts_with(prefix));
        prefix.map_or(1, |&(_, number)| usize::from(number))
    }
}

impl Deriver {
    /// Lays the tables out.
    pub(crate) fn new(plan: Vec<DeciderPlan>, names: &mut Interner) -> Result<Self, PlanError> {
        let mut deriver = Self::default();
        let mut known = FxHashMap::default();
        for table in plan {
            deriver.add(&table, names, &mut known).map_err(|reason| PlanError::Names {
                what: format!("log source table {:?}", table.name),
                reason,
            })?;
        }
        Ok(deriver)
    }

    fn add(
        &mut self,
        table: &DeciderPlan,
        names: &mut Interner,
        known: &mut FxHashMap<LogsourcePlan, u16>,
    ) -> Result<(), String> {
        if table.keys.is_empty() || table.rows.iter().any(|row| row.when.len() != table.keys.len()) {
            return Err("needs keys, and a condition per key in every row".to_owned());
        }
        let mut keys = Vec::with_capacity(table.keys.len());
        for (at, fields) in table.keys.iter().enumerate() {
            let fields = names.all(fields);
            let key = match self.keys.iter().position(|known| *known == fields) {
                Some(key) => key,
                None => {
                    self.keys.push(fields);
                    self.keys.len() - 1
                }
            };
            if self.keys.len() > MAX_KEYS {
                return Err(format!("all tables together have more than {MAX_KEYS} keys"));
            }
            keys.push(decider_key(key, table.rows.iter().map(|row| &row.when[at]))?);
        }
        let size = keys.iter().try_fold(1_usize, |size, key| size.checked_mul(key.numbers));
        let size = size.filter(|&size| size <= MAX_COMBINATIONS);
        let size = size.ok_or_else(|| format!("has more than {MAX_COMBINATIONS} combinations of values"))?;
        let mut combinations = vec![0; size];
        // The first row that fits decides: later rows are laid down first.
        for row in table.rows.iter().rev() {
            let next = self.sources.len();
            let source = *known.entry(row.is.clone()).or_insert(next as u16);
            if usize::from(source) == next {
                self.sources.push(row.is.clone());
            }
            if self.sources.len() >= usize::from(u16::MAX) {
                return Err("too many log sources".to_owned());
            }
            let fitting: Vec<Vec<usize>> =
                keys.iter().zip(&row.when).map(|(key, wanted)| key.fitting(wanted)).collect();
            let mut indices = vec![0];
            for (key, numbers) in keys.iter().zip(&fitting) {
                indices = indices
                    .iter()
                    .flat_map(|index| numbers.iter().map(move |number| index * key.numbers + number))
                    .collect();
            }
            for index in indices {
                combinations[index] = source + 1;
            }
        }
        self.deciders.push(Decider { keys, combinations });
        Ok(())
    }

    /// Resolves the keys' names.
    pub(crate) fn bind(&self, ids: &[Option<FieldId>]) -> BoundDeriver {
        let mut by_field: Vec<Vec<(u8, u8)>> = Vec::new();
        for (key, fields) in self.keys.iter().enumerate() {
            for (rank, &name) in fields.iter().enumerate() {
                let Some(id) = ids.get(name as usize).copied().flatten() else { continue };
                let slot = usize::from(id.0);
                if by_field.len() <= slot {
                    by_field.resize_with(slot + 1, Vec::new);
                }
                by_field[slot].push((key as u8, rank.min(254) as u8));
            }
        }
        BoundDeriver {
            by_field: by_field.into_iter().map(Into::into).collect(),
            keys: self.keys.len(),
            deciders: self.deciders.clone(),
        }
    }

    /// What an event may be, when its source was told as `told` and its content says `derived`.
    ///
    /// Where they agree, the content says it more exactly. Where it claims another product, it is judged as both: a claim
    /// adds rules and takes none away. `home` is the product where none was told.
    pub(crate) fn joined(&self, told: &Logsource, derived: u16, home: Option<&str>) -> Vec<LogsourcePlan> {
        let told = told_source(told);
        let Some(derived) = self.sources.get(usize::from(derived)) else { return vec![told] };
        let own = told.product.clone().or_else(|| home.map(|home| vec![home.to_owned()]));
        let own = LogsourcePlan { product: own, ..told };
        if own.product.is_none() {
            vec![derived.clone()]
        } else if accepts(&own, derived) {
            let product = match told.product {
                Some(product) => Some(product),
                None => derived.product.clone(),
            };
            vec![LogsourcePlan { product, ..derived.clone() }]
        } else {
            vec![own, derived.clone()]
        }
    }
}

/// A log source as it was told: what was not, may be anything.
pub(crate) fn told_source(told: &Logsource) -> LogsourcePlan {
    let part = |part: &Option<Box<str>>| part.as_deref().map(|part| vec![part.to_owned()]);
    LogsourcePlan {
        product: part(&told.product),
        category: part(&told.category),
        service: part(&told.service),
    }
}

fn decider_key<'a>(key: usize, wanted: impl Iterator<Item = &'a Wanted>) -> Result<DeciderKey, String> {
    let mut made = DeciderKey { key, numbers: 2, ..DeciderKey::default() };
    for text in wanted.filter_map(|wanted| match wanted {
        Wanted::Values(values) => Some(values),
        Wanted::Presence(_) => None,
    }) {
        for text in text {
            let lower = text.to_ascii_lowercase();
            if lower.len() > MAX_TEXT {
                return Err(format!("{text:?} is longer than {MAX_TEXT} bytes"));
            }
            let number = made.numbers as u16; // bounded by the number of combinations, checked by the caller
            match lower.strip_suffix('*') {
                Some(prefix) if made.prefixes.iter().any(|(known, _)| **known == *prefix.as_bytes()) => {}
                Some(prefix) => {
                    made.prefixes.push((prefix.as_bytes().into(), number));
                    made.numbers += 1;
                }
                None if made.exact.contains_key(lower.as_bytes()) => {}
                None => {
                    made.exact.insert(lower.into_bytes().into(), number);
                    made.numbers += 1;
                }
            }
            if made.numbers > MAX_COMBINATIONS {
                return Err(format!("has more than {MAX_COMBINATIONS} values"));
            }
        }
    }
    made.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    Ok(made)
}

impl DeciderKey {
    /// The numbers that satisfy a condition.
    fn fitting(&self, wanted: &Wanted) -> Vec<usize> {
        match wanted {
            Wanted::Presence(None) => (0..self.numbers).collect(),
            Wanted::Presence(Some(true)) => (1..self.numbers).collect(),
            Wanted::Presence(Some(false)) => vec![0],
            Wanted::Values(values) => {
                let values: Vec<String> = values.iter().map(|text| text.to_ascii_lowercase()).collect();
                let begins = |text: &[u8]| {
                    let mut prefixes = values.iter().filter_map(|value| value.strip_suffix('*'));
                    prefixes.any(|prefix| text.starts_with(prefix.as_bytes()))
                };
                let exact = self.exact.iter().filter(|(text, _)| {
                    begins(text) || values.iter().any(|value| value.as_bytes() == &***text)
                });
                let prefixes = self.prefixes.iter().filter(|(text, _)| begins(text));
                let numbers = exact.map(|(_, &number)| number).chain(prefixes.map(|&(_, number)| number));
                numbers.map(usize::from).collect()
            }
        }
    }
}

/// The tables with the keys' names resolved.
#[derive(Debug)]
pub(crate) struct BoundDeriver {
    /// Keys that an event field may carry, with its rank among the key's names, by field id.
    by_field: Vec<Box<[(u8, u8)]>>,
    keys: usize,
    deciders: Vec<Decider>,
}

impl BoundDeriver {
    /// Index of the log source that the row's values mean.
    pub(crate) fn derive(&self, row: RowRef<'_>) -> Option<u16> {
        if self.keys == 0 {
            return None;
        }
        let mut present = 0_u64;
        let mut found = [(u8::MAX, 0_u32); MAX_KEYS];
        let cells = row.cells();
        for (index, cell) in cells.iter().enumerate() {
            let Some(roles) = self.by_field.get(usize::from(cell.field.0)) else { continue };
            if !cell.kind.has_value() {
                continue;
            }
            for &(key, rank) in roles {
                let place = &mut found[usize::from(key)];
                if rank < place.0 {
                    *place = (rank, index as u32);
                    present |= 1 << key;
                }
            }
        }
        if present == 0 {
            return None;
        }
        self.deciders.iter().find_map(|decider| {
            let mut index = 0;
            for (at, key) in decider.keys.iter().enumerate() {
                let number = if present & (1 << key.key) == 0 {
                    if at == 0 {
                        return None; // every row asks for the first key
                    }
                    0
                } else {
                    key.number(row.value_of(&cells[found[key.key].1 as usize]).bytes)
                };
                index = index * key.numbers + number;
            }
            decider.combinations[index].checked_sub(1)
        })
    }
}
