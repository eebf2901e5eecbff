//! Stateless evaluation of a batch.

use crate::atom::{self, Test};
use crate::compile::{Compiled, Node};
use crate::derive::told_source;
use crate::program::{Program, Reached, Scanner};
use crate::text::fold_into;
use ironpost_events::{EventBatch, Logsource, RowRef, Value, ValueKind};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// A rule held on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Match {
    /// Row of the batch.
    pub row: u32,
    /// Index of the rule in the rule set.
    pub rule: u32,
}

/// Working memory of one thread; kept between batches, usable with any rule set.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Stamps by atom: `epoch * 2 + answer` once the atom was tested in this row.
    atoms: Vec<u32>,
    /// Stamps by rule: the epoch in which the rule became a candidate.
    rules: Vec<u32>,
    epoch: u32,
    candidates: Vec<u32>,
    folded: Vec<u8>,
}

/// The epoch before which stamps are wiped.
const LAST_EPOCH: u32 = u32::MAX / 2 - 1;

impl Scratch {
    /// Empty working memory.
    pub fn new() -> Self {
        Self::default()
    }

    fn fit(&mut self, compiled: &Compiled) {
        if self.atoms.len() < compiled.set.atoms.len() {
            self.atoms.resize(compiled.set.atoms.len(), 0);
        }
        if self.rules.len() < compiled.set.rules.len() {
            self.rules.resize(compiled.set.rules.len(), 0);
        }
    }

    fn next_row(&mut self) {
        if self.epoch >= LAST_EPOCH {
            self.atoms.fill(0);
            self.rules.fill(0);
            self.epoch = 0;
        }
        self.epoch += 1;
        self.candidates.clear();
    }

    fn hit(&mut self, program: &Program, atom: u32) {
        let stamp = self.epoch * 2 + 1;
        let slot = &mut self.atoms[atom as usize];
        if *slot == stamp {
            return;
        }
        *slot = stamp;
        if let Some(rules) = program.waiting.get(&atom) {
            for &rule in rules {
                let slot = &mut self.rules[rule as usize];
                if *slot != self.epoch {
                    *slot = self.epoch;
                    self.candidates.push(rule);
                }
            }
        }
    }

    fn is_hit(&self, atom: u32) -> bool {
        self.atoms[atom as usize] == self.epoch * 2 + 1
    }
}

/// What a batch says of the log source of its rows.
struct Told {
    program: Arc<Program>,
    /// Category and service were not told: the event is asked.
    open: bool,
}

impl Compiled {
    fn told(&self, source: &Logsource) -> Told {
        let open = source.category.is_none() && source.service.is_none();
        Told { program: self.program(&told_source(source)), open }
    }

    /// Appends every (row, rule) that holds, ordered by row and then by rule.
    ///
    /// The batch must use the field table the rules were bound to. Needs no lock while evaluating and may run on any
    /// number of threads, each with its own `scratch`.
    pub fn evaluate(&self, batch: &EventBatch, scratch: &mut Scratch, matches: &mut Vec<Match>) {
        scratch.fit(self);
        let told: Vec<Told> = batch.logsources().iter().map(|source| self.told(source)).collect();
        let mut derived: FxHashMap<(u16, u16), Arc<Program>> = FxHashMap::default();
        for index in 0..batch.len() {
            let row = batch.row(index);
            let Some(source) = told.get(usize::from(row.info().logsource)) else { continue };
            let program = match source.open.then(|| self.deriver.derive(row)).flatten() {
                None => &source.program,
                Some(found) => derived.entry((row.info().logsource, found)).or_insert_with(|| {
                    let joined = self.set.deriver.joined(row.logsource(), found);
                    joined.map_or_else(|| Arc::clone(&source.program), |joined| self.program(&joined))
                }),
            };
            scratch.next_row();
            self.scan_row(program, row, scratch);
            scratch.candidates.extend_from_slice(&program.always);
            scratch.candidates.sort_unstable();
            let candidates = std::mem::take(&mut scratch.candidates);
            for &rule in &candidates {
                if self.holds(&self.set.rules[rule as usize].condition, row, scratch) {
                    matches.push(Match { row: index as u32, rule });
                }
            }
            scratch.candidates = candidates;
        }
    }

    /// Finds every atom that has a literal, and the watched ones.
    fn scan_row(&self, program: &Program, row: RowRef<'_>, scratch: &mut Scratch) {
        for cell in row.cells() {
            let reads = program.reads(cell.field);
            let keywords = program.keywords.as_deref().filter(|_| !atom::is_raw(row, cell));
            if reads.is_empty() && keywords.is_none() {
                continue;
            }
            let value = row.value_of(cell);
            let mut folded = std::mem::take(&mut scratch.folded);
            fold_into(value.bytes, &mut folded);
            for &read in reads {
                // Null is never more than null, wherever it stands: only mere existence is asked of it.
                if read.rank == 0
                    || value.kind == ValueKind::Null
                    || self.lookups[read.lookup as usize].counts(row, read.rank)
                {
                    self.scan_value(program, program.scanner(read), row, value, &folded, scratch);
                }
            }
            if let Some(keywords) = keywords {
                self.scan_value(program, keywords, row, value, &folded, scratch);
            }
            scratch.folded = folded;
        }
        if let Some(keywords) = program.keywords.as_deref()
            && let Some(raw) = atom::raw_value(row)
        {
            let mut folded = std::mem::take(&mut scratch.folded);
            fold_into(raw.bytes, &mut folded);
            self.scan_value(program, keywords, row, raw, &folded, scratch);
            scratch.folded = folded;
        }
    }

    fn scan_value(
        &self,
        program: &Program,
        scanner: &Scanner,
        row: RowRef<'_>,
        value: Value<'_>,
        folded: &[u8],
        scratch: &mut Scratch,
    ) {
        for &watched in &scanner.watched {
            if !scratch.is_hit(watched) && self.test(watched, row, value, folded) {
                scratch.hit(program, watched);
            }
        }
        if value.kind == ValueKind::Null {
            return;
        }
        if let Some(expressions) = &scanner.expressions {
            for found in &expressions.set.matches(value.bytes) {
                scratch.hit(program, expressions.atoms[found]);
            }
        }
        let reach = |reached: &Reached, scratch: &mut Scratch| {
            if !scratch.is_hit(reached.atom)
                && (!reached.verify || self.set.atoms[reached.atom as usize].holds_for(value, folded))
            {
                scratch.hit(program, reached.atom);
            }
        };
        if !scanner.exact.is_empty()
            && let Some(atoms) = scanner.exact.get(folded)
        {
            atoms.iter().for_each(|reached| reach(reached, scratch));
        }
        if let Some(needles) = &scanner.needles {
            for found in needles.find_overlapping_iter(folded) {
                for reached in &scanner.reached[found.pattern().as_usize()] {
                    let stands = match reached.anchor {
                        crate::atom::Anchor::Prefix => found.start() == 0,
                        crate::atom::Anchor::Suffix => found.end() == folded.len(),
                        _ => true,
                    };
                    if stands {
                        reach(reached, scratch);
                    }
                }
            }
        }
    }

    /// Tests one atom on one value of its field.
    fn test(&self, index: u32, row: RowRef<'_>, value: Value<'_>, folded: &[u8]) -> bool {
        let atom = &self.set.atoms[index as usize];
        match &atom.test {
            Test::FieldRef { .. } => atom::witness(atom, row, &self.lookups, &mut Vec::new()).is_some(),
            _ => atom.holds_for(value, folded),
        }
    }

    fn holds(&self, node: &Node, row: RowRef<'_>, scratch: &mut Scratch) -> bool {
        match node {
            Node::Const(value) => *value,
            Node::Not(inner) => !self.holds(inner, row, scratch),
            Node::And(parts) => parts.iter().all(|part| self.holds(part, row, scratch)),
            Node::Or(parts) => parts.iter().any(|part| self.holds(part, row, scratch)),
            Node::Atom(atom) => self.atom_holds(*atom, row, scratch),
        }
    }

    /// The remembered answer, or a first test for atoms no scanner looks for.
    fn atom_holds(&self, index: u32, row: RowRef<'_>, scratch: &mut Scratch) -> bool {
        let stamp = scratch.atoms[index as usize];
        if stamp / 2 == scratch.epoch {
            return stamp % 2 == 1;
        }
        let atom = &self.set.atoms[index as usize];
        // Scanning found every atom with a literal that holds: what it did not find does not.
        let answer = atom.literals().is_none() && {
            let mut folded = std::mem::take(&mut scratch.folded);
            let answer = atom::witness(atom, row, &self.lookups, &mut folded).is_some();
            scratch.folded = folded;
            answer
        };
        scratch.atoms[index as usize] = scratch.epoch * 2 + u32::from(answer);
        answer
    }
}
