//! Stateless evaluation of a batch.

use crate::atom::{self, LastFold};
use crate::compile::Compiled;
use crate::derive::told_source;
use crate::needles::{Needles, PADDING};
use crate::program::{Ask, FAILS, HOLDS, Program};
use crate::text::fold_into;
use ironpost_events::{EventBatch, RowRef, ValueKind};
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
    /// Bits of the program that scanning set.
    set: Vec<u64>,
    /// Which of them are set, to unset them after the row.
    touched: Vec<u32>,
    /// Atoms tested when first asked, and their answers, by bit.
    tested: Vec<u64>,
    answers: Vec<u64>,
    asked: Vec<u32>,
    /// Rules to be looked at, by the program's number.
    candidates: Vec<u64>,
    folded: Vec<u8>,
    fold: LastFold,
    reversed: Vec<u8>,
}

impl Scratch {
    /// Empty working memory.
    pub fn new() -> Self {
        Self::default()
    }

    fn fit(&mut self, program: &Program) {
        let words = program.atoms.len().div_ceil(64);
        if self.set.len() < words {
            self.set.resize(words, 0);
            self.tested.resize(words, 0);
            self.answers.resize(words, 0);
        }
        let words = program.rules.len().div_ceil(64);
        if self.candidates.len() < words {
            self.candidates.resize(words, 0);
        }
    }

    fn next_row(&mut self) {
        self.fold.forget();
        for bit in self.touched.drain(..) {
            self.set[bit as usize / 64] = 0;
        }
        for bit in self.asked.drain(..) {
            self.tested[bit as usize / 64] = 0;
            self.answers[bit as usize / 64] = 0;
        }
    }
}

/// Sets a bit and wakes the rules that wait for it.
fn hit(program: &Program, bit: u32, set: &mut [u64], touched: &mut Vec<u32>, candidates: &mut [u64]) {
    let (word, mask) = (&mut set[bit as usize / 64], 1 << (bit % 64));
    if *word & mask != 0 {
        return;
    }
    *word |= mask;
    touched.push(bit);
    let waiting = program.starts[bit as usize] as usize..program.starts[bit as usize + 1] as usize;
    for &rule in &program.waiting[waiting] {
        candidates[rule as usize / 64] |= 1 << (rule % 64);
    }
}

impl Compiled {
    /// Appends every (row, rule) that holds, ordered by row and then by rule.
    ///
    /// The batch must use the field table the rules were bound to. Needs no lock while evaluating and may run on any
    /// number of threads, each with its own `scratch`.
    pub fn evaluate(&self, batch: &EventBatch, scratch: &mut Scratch, matches: &mut Vec<Match>) {
        let sources = batch.logsources();
        let mut told: Vec<Option<Arc<Program>>> = vec![None; sources.len()];
        let mut derived: FxHashMap<(u16, u16), Arc<Program>> = FxHashMap::default();
        for index in 0..batch.len() {
            let row = batch.row(index);
            let id = row.info().logsource;
            let Some((source, told)) = sources.get(usize::from(id)).zip(told.get_mut(usize::from(id))) else {
                continue;
            };
            // When category and service were not told, the event is asked.
            let open = source.category.is_none() && source.service.is_none();
            let program = match open.then(|| self.deriver.derive(row)).flatten() {
                None => told.get_or_insert_with(|| self.program(&[told_source(source)])),
                Some(found) => derived.entry((id, found)).or_insert_with(|| {
                    self.program(&self.set.deriver.joined(source, found, self.home.as_deref()))
                }),
            };
            scratch.fit(program);
            if program.rules.is_empty() {
                continue;
            }
            scratch.next_row();
            self.scan_row(program, row, scratch);
            for &rule in &program.always {
                scratch.candidates[rule as usize / 64] |= 1 << (rule % 64);
            }
            for word in 0..program.rules.len().div_ceil(64) {
                let mut rules = std::mem::take(&mut scratch.candidates[word]);
                while rules != 0 {
                    let (rule, first) = program.rules[word * 64 + rules.trailing_zeros() as usize];
                    rules &= rules - 1;
                    if self.holds(program, first, row, scratch) {
                        matches.push(Match { row: index as u32, rule });
                    }
                }
            }
        }
    }

    /// Follows a rule's steps.
    fn holds(&self, program: &Program, first: u32, row: RowRef<'_>, scratch: &mut Scratch) -> bool {
        let mut at = first;
        while at < FAILS {
            let step = &program.steps[at as usize];
            let answer = match step.ask {
                Ask::Any => scratch.set[step.at as usize] & step.mask != 0,
                Ask::All => scratch.set[step.at as usize] & step.mask == step.mask,
                Ask::Guarded => {
                    scratch.set[step.at as usize / 64] >> (step.at % 64) & 1 != 0
                        && self.test(program, step.at, row, scratch)
                }
                Ask::Atom => self.test(program, step.at, row, scratch),
            };
            at = if answer { step.yes } else { step.no };
        }
        at == HOLDS
    }

    /// The remembered answer of an atom that scanning does not decide, or a first test.
    fn test(&self, program: &Program, bit: u32, row: RowRef<'_>, scratch: &mut Scratch) -> bool {
        let (word, mask) = (bit as usize / 64, 1 << (bit % 64));
        if scratch.tested[word] & mask == 0 {
            scratch.tested[word] |= mask;
            scratch.asked.push(bit);
            if let Some(index) = program.atoms[bit as usize] {
                let atom = &self.set.atoms[index as usize];
                if atom::witness(atom, row, &self.lookups, &mut scratch.fold).is_some() {
                    scratch.answers[word] |= mask;
                }
            }
        }
        scratch.answers[word] & mask != 0
    }
    /// Sets the bits of everything the row's values say.
    fn scan_row(&self, program: &Program, row: RowRef<'_>, scratch: &mut Scratch) {
        for cell in row.cells() {
            let scanner = program.scanner(cell.field);
            let keywords = program.keywords.as_deref().filter(|_| !atom::is_raw(row, cell));
            if scanner.is_none() && keywords.is_none() {
                continue;
            }
            let value = row.value_of(cell);
            let mut hits = Hits { program, scratch };
            if let Some(scanner) = scanner {
                let kind = match value.kind {
                    ValueKind::Null => &scanner.null[..],
                    ValueKind::Container => &[],
                    _ => &scanner.text[..],
                };
                scanner.exists.iter().chain(kind).for_each(|&bit| hits.hit(bit));
            }
            if !value.kind.has_value() {
                continue;
            }
            let first = scanner.and_then(|scanner| scanner.needles.as_ref());
            let seconds = scanner.map_or(&[][..], |scanner| &scanner.seconds);
            let seconds =
                seconds.iter().filter(|second| self.lookups[second.lookup as usize].counts(row, second.rank));
            let seconds = seconds.map(|second| &program.seconds[second.needles as usize]);
            hits.scan(value.bytes, first.into_iter().chain(seconds).chain(keywords));
        }
        if let Some(keywords) = program.keywords.as_deref()
            && let Some(raw) = atom::raw_value(row)
        {
            Hits { program, scratch }.scan(raw.bytes, std::iter::once(keywords));
        }
    }
}

/// Bits being set.
struct Hits<'a> {
    program: &'a Program,
    scratch: &'a mut Scratch,
}

impl Hits<'_> {
    /// Sets a bit and wakes the rules that wait for it.
    fn hit(&mut self, bit: u32) {
        let Scratch { set, touched, candidates, .. } = &mut *self.scratch;
        hit(self.program, bit, set, touched, candidates);
    }

    /// Sets the bits of all needles in a value.
    fn scan<'n>(&mut self, value: &[u8], all: impl Iterator<Item = &'n Needles>) {
        let Scratch { set, touched, candidates, folded, reversed, .. } = &mut *self.scratch;
        let mut fresh = true;
        for needles in all {
            if std::mem::take(&mut fresh) {
                fold_into(value, folded);
                folded.extend_from_slice(&[0; PADDING]);
            }
            needles.find(folded, reversed, |bit| hit(self.program, bit, set, touched, candidates));
        }
    }
}
