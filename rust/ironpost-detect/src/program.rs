//! What is executed for events of one log source: literal scanners per field and the way from atoms to rules.

use crate::atom::{Anchor, Atom, Test};
use crate::compile::{Compiled, Node};
use aho_corasick::{AhoCorasick, AhoCorasickBuilder, MatchKind};
use ironpost_events::FieldId;
use regex::bytes::{RegexSet, RegexSetBuilder};
use rustc_hash::FxHashMap;

/// An atom reached through a literal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    pub(crate) atom: u32,
    /// Where the literal must stand.
    pub(crate) anchor: Anchor,
    /// The literal alone does not decide: the atom is tested on the value.
    pub(crate) verify: bool,
}

/// Everything asked of one field's text.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// Whole values.
    pub(crate) exact: FxHashMap<Box<[u8]>, Box<[Reached]>>,
    /// Needles anywhere, at the start or at the end.
    pub(crate) needles: Option<AhoCorasick>,
    /// By needle.
    pub(crate) reached: Vec<Box<[Reached]>>,
    /// Atoms without a literal that some rule waits for: tested on every value.
    pub(crate) watched: Vec<u32>,
    /// Regular expressions among those, all of them in one pass over the value.
    pub(crate) expressions: Option<Expressions>,
}

/// Regular expressions searched together.
#[derive(Debug)]
pub(crate) struct Expressions {
    pub(crate) set: RegexSet,
    /// By index in the set.
    pub(crate) atoms: Box<[u32]>,
}

/// A scanner that an event field may feed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    scanner: u32,
    pub(crate) lookup: u32,
    /// Place of the event field in the lookup; above 0 it counts only when nothing before it has a value.
    pub(crate) rank: u16,
}

/// One log source's program.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// By event field: the lookups it may carry that some rule of the program asks for.
    pub(crate) reads: Vec<Box<[Read]>>,
    scanners: Vec<Scanner>,
    /// Asked of every value and of the raw record.
    pub(crate) keywords: Option<Box<Scanner>>,
    /// Rules that wait for an atom, by atom; each atom in the list is enough reason to look at the rule.
    pub(crate) waiting: FxHashMap<u32, Box<[u32]>>,
    /// Rules without a witness: looked at on every row.
    pub(crate) always: Vec<u32>,
}

impl Program {
    /// What is asked of an event field.
    pub(crate) fn reads(&self, field: FieldId) -> &[Read] {
        self.reads.get(usize::from(field.0)).map_or(&[], |reads| reads)
    }

    /// The scanner of a read.
    pub(crate) fn scanner(&self, read: Read) -> &Scanner {
        &self.scanners[read.scanner as usize]
    }

    pub(crate) fn build(compiled: &Compiled, rules: &[u32]) -> Self {
        let set = &compiled.set;
        let mut uses: FxHashMap<u32, u32> = FxHashMap::default();
        for &rule in rules {
            count_uses(&set.rules[rule as usize].condition, &mut uses);
        }
        let mut program = Self::default();
        let mut waiting: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
        let mut watched: Vec<u32> = Vec::new();
        for &rule in rules {
            match witnesses(&set.rules[rule as usize].condition, compiled, &uses) {
                Witness::Never => {}
                Witness::Unknown => program.always.push(rule),
                Witness::OneOf(atoms, _) => {
                    for atom in atoms {
                        if set.atoms[atom as usize].literals().is_none() {
                            watched.push(atom);
                        }
                        let rules = waiting.entry(atom).or_default();
                        if rules.last() != Some(&rule) {
                            rules.push(rule);
                        }
                    }
                }
            }
        }
        program.waiting = waiting.into_iter().map(|(atom, rules)| (atom, rules.into())).collect();
        watched.sort_unstable();
        watched.dedup();

        let mut builders: FxHashMap<Option<u32>, ScannerBuilder> = FxHashMap::default();
        let mut used: Vec<u32> = uses.into_keys().collect();
        used.sort_unstable();
        for index in used {
            let atom = &set.atoms[index as usize];
            let Some(field) = resolve(compiled, atom) else { continue };
            builders.entry(field).or_default().add(index, atom);
        }
        for atom in watched {
            let Some(field) = resolve(compiled, &set.atoms[atom as usize]) else { continue };
            builders.entry(field).or_default().watched.push(atom);
        }
        let mut reads: Vec<Vec<Read>> = Vec::new();
        for (field, builder) in builders {
            let Some(scanner) = builder.finish(compiled) else { continue };
            match field {
                None => program.keywords = Some(Box::new(scanner)),
                Some(lookup) => {
                    for (field, rank) in compiled.lookups[lookup as usize].fields() {
                        let slot = usize::from(field.0);
                        if reads.len() <= slot {
                            reads.resize_with(slot + 1, Vec::new);
                        }
                        reads[slot].push(Read { scanner: program.scanners.len() as u32, lookup, rank });
                    }
                    program.scanners.push(scanner);
                }
            }
        }
        program.reads = reads.into_iter().map(Into::into).collect();
        program
    }
}

/// The lookup of an atom's field; `None` when no event can carry it, `Some(None)` for keywords.
fn resolve(compiled: &Compiled, atom: &Atom) -> Option<Option<u32>> {
    match atom.field {
        None => Some(None),
        Some(field) => (!compiled.lookups[field as usize].is_empty()).then_some(Some(field)),
    }
}

fn count_uses(node: &Node, uses: &mut FxHashMap<u32, u32>) {
    match node {
        Node::And(parts) | Node::Or(parts) => parts.iter().for_each(|part| count_uses(part, uses)),
        Node::Not(inner) => count_uses(inner, uses),
        Node::Atom(atom) => *uses.entry(*atom).or_default() += 1,
        Node::Const(_) => {}
    }
}

/// What must have happened before a condition can hold.
enum Witness {
    /// The condition never holds.
    Never,
    /// It may hold on any row.
    Unknown,
    /// At least one of these atoms holds; the number estimates how often that is.
    OneOf(Vec<u32>, f64),
}

fn witnesses(node: &Node, compiled: &Compiled, uses: &FxHashMap<u32, u32>) -> Witness {
    match node {
        Node::Const(false) => Witness::Never,
        Node::Const(true) | Node::Not(_) => Witness::Unknown,
        Node::Atom(index) => {
            let atom = &compiled.set.atoms[*index as usize];
            if !atom.needs_value() {
                return Witness::Unknown;
            }
            if resolve(compiled, atom).is_none() {
                return Witness::Never;
            }
            let popularity = f64::from(uses.get(index).copied().unwrap_or(1));
            Witness::OneOf(vec![*index], popularity * commonness(atom))
        }
        Node::Or(parts) => {
            let (mut all, mut cost) = (Vec::new(), 0.0);
            for part in parts {
                match witnesses(part, compiled, uses) {
                    Witness::Never => {}
                    Witness::Unknown => return Witness::Unknown,
                    Witness::OneOf(atoms, price) => {
                        all.extend(atoms);
                        cost += price;
                    }
                }
            }
            if all.is_empty() { Witness::Never } else { Witness::OneOf(all, cost) }
        }
        Node::And(parts) => {
            let mut best = Witness::Unknown;
            for part in parts {
                match (witnesses(part, compiled, uses), &best) {
                    (Witness::Never, _) => return Witness::Never,
                    (Witness::OneOf(atoms, price), Witness::OneOf(_, before)) if price < *before => {
                        best = Witness::OneOf(atoms, price);
                    }
                    (found @ Witness::OneOf(..), Witness::Unknown) => best = found,
                    _ => {}
                }
            }
            best
        }
    }
}

/// A guess at how often an atom holds: long and whole texts are rare, mere presence is not.
fn commonness(atom: &Atom) -> f64 {
    let by_length = |length: usize| 1.0 / (1.0 + length as f64);
    match &atom.test {
        Test::Text { anchor, folded, .. } => match anchor {
            Anchor::Exact => by_length(folded.len()) * 0.5,
            _ => by_length(folded.len()),
        },
        Test::Glob { literal, .. } => literal.as_ref().map_or(4.0, |literal| by_length(literal.len())),
        Test::Regex { literals, .. } => match literals {
            Some(all) => all.iter().map(|literal| by_length(literal.len())).sum(),
            None => 16.0,
        },
        Test::AnyText | Test::Exists => 32.0,
        Test::Cidr(_) | Test::Compare { .. } | Test::FieldRef { .. } | Test::TimePart { .. } => 2.0,
        Test::Null => 64.0,
    }
}

#[derive(Default)]
struct ScannerBuilder {
    exact: FxHashMap<Box<[u8]>, Vec<Reached>>,
    needles: FxHashMap<Box<[u8]>, Vec<Reached>>,
    watched: Vec<u32>,
}

impl ScannerBuilder {
    fn add(&mut self, index: u32, atom: &Atom) {
        let Some(literals) = atom.literals() else { return };
        let (anchor, verify) = match &atom.test {
            Test::Text { anchor, cased, .. } => (*anchor, cased.is_some()),
            _ => (Anchor::Contains, true),
        };
        let reached = Reached { atom: index, anchor, verify };
        let table = if anchor == Anchor::Exact { &mut self.exact } else { &mut self.needles };
        for literal in literals {
            table.entry(literal.into()).or_default().push(reached);
        }
    }

    fn finish(self, compiled: &Compiled) -> Option<Scanner> {
        if self.exact.is_empty() && self.needles.is_empty() && self.watched.is_empty() {
            return None;
        }
        let mut needles: Vec<(Box<[u8]>, Vec<Reached>)> = self.needles.into_iter().collect();
        needles.sort_by(|left, right| left.0.cmp(&right.0));
        // Building fails only past 2³¹ states; then every atom of the field is tested on the value instead.
        let automaton = (!needles.is_empty())
            .then(|| {
                AhoCorasickBuilder::new()
                    .match_kind(MatchKind::Standard)
                    .build(needles.iter().map(|needle| &needle.0))
                    .ok()
            })
            .flatten();
        let (mut watched, expressions) = together(compiled, self.watched);
        if automaton.is_none() {
            watched.extend(needles.iter().flat_map(|needle| needle.1.iter().map(|reached| reached.atom)));
        }
        Some(Scanner {
            exact: self.exact.into_iter().map(|(text, atoms)| (text, atoms.into())).collect(),
            needles: automaton,
            reached: needles.into_iter().map(|needle| needle.1.into()).collect(),
            watched,
            expressions,
        })
    }
}

/// Memory the lazily built automaton of one field's expressions may take, per thread.
const EXPRESSIONS_CACHE: usize = 4 << 20;

/// Joins regular expressions into one set; returns what is left to be tested one by one.
fn together(compiled: &Compiled, watched: Vec<u32>) -> (Vec<u32>, Option<Expressions>) {
    let pattern = |atom: &u32| match &compiled.set.atoms[*atom as usize].test {
        Test::Regex { regex, .. } => Some(regex.as_str()),
        _ => None,
    };
    let (expressions, rest): (Vec<u32>, Vec<u32>) = watched.iter().partition(|atom| pattern(atom).is_some());
    if expressions.len() < 2 {
        return (watched, None);
    }
    match RegexSetBuilder::new(expressions.iter().filter_map(pattern))
        .dfa_size_limit(EXPRESSIONS_CACHE)
        .build()
    {
        Ok(set) => (rest, Some(Expressions { set, atoms: expressions.into() })),
        Err(_) => (watched, None), // too large together: each for itself
    }
}
