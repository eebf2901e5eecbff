//! What is executed for events of one log source: needles per field, and each rule as a row of jumps over bits.

use crate::atom::{Anchor, Test};
use crate::compile::{Compiled, Node};
use crate::needles::{Commonness, MIN_ANYWHERE, Needles, NeedlesBuilder};
use ironpost_events::FieldId;
use rustc_hash::FxHashMap;

/// Everything asked of one event field.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// Asked of every value.
    pub(crate) needles: Option<Needles>,
    /// Asked of a value only when no field that comes before this one has a value.
    pub(crate) seconds: Vec<Second>,
    /// Bits set by any value, by a value that is not null, by null.
    pub(crate) exists: Vec<u32>,
    pub(crate) text: Vec<u32>,
    pub(crate) null: Vec<u32>,
}

/// Needles for a field that stands behind others in a lookup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Second {
    pub(crate) lookup: u32,
    pub(crate) rank: u16,
    /// Index in [`Program::seconds`].
    pub(crate) needles: u32,
}

/// How a step decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// One of the bits is set.
    Any,
    /// All of the bits are set.
    All,
    /// The atom holds; it is tested when first asked.
    Atom,
    /// The same, but only if scanning set its bit: it cannot hold otherwise.
    Guarded,
}

/// One step of a rule: ask, and go on where the answer says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) mask: u64,
    /// Of the bits: which word. Of an atom: its bit.
    pub(crate) at: u32,
    pub(crate) ask: Ask,
    pub(crate) yes: u32,
    pub(crate) no: u32,
}

/// A jump to here ends the rule: it holds, or it does not.
pub(crate) const HOLDS: u32 = u32::MAX;
pub(crate) const FAILS: u32 = u32::MAX - 1;

/// One log source's program. Atoms and rules have numbers of their own here: a bit in small sets.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// By field id.
    scanners: Vec<Option<Box<Scanner>>>,
    pub(crate) seconds: Vec<Needles>,
    /// Asked of every value and of the raw record.
    pub(crate) keywords: Option<Box<Needles>>,
    /// The rule set's atom of a bit; bits of mere presence have none.
    pub(crate) atoms: Box<[Option<u32>]>,
    /// Rules that wait for a bit: `waiting[starts[bit]..starts[bit + 1]]`.
    pub(crate) starts: Box<[u32]>,
    pub(crate) waiting: Box<[u32]>,
    /// Rules without a witness: looked at on every row.
    pub(crate) always: Box<[u32]>,
    /// The rule set's rule and its first step, ascending by rule.
    pub(crate) rules: Box<[(u32, u32)]>,
    pub(crate) steps: Box<[Step]>,
}

/// A condition of this program: negation only at the leaves.
enum Tree {
    Const(bool),
    And(Vec<Tree>),
    Or(Vec<Tree>),
    Leaf { bit: u32, ask: Ask, negated: bool },
}

/// What must have happened before a condition can hold.
enum Witness {
    /// It may hold on any row.
    Unknown,
    /// At least one of these bits is set; the number estimates how often that is.
    OneOf(Vec<u32>, f64),
}

/// What a bit stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Meaning {
    Atom(u32),
    /// Presence by lookup.
    Exists(u32),
    Text(u32),
    Null(u32),
}

impl Program {
    /// The scanner of a field.
    pub(crate) fn scanner(&self, field: FieldId) -> Option<&Scanner> {
        self.scanners.get(usize::from(field.0)).and_then(|scanner| scanner.as_deref())
    }

    fn scanner_mut(&mut self, field: FieldId) -> &mut Scanner {
        let slot = usize::from(field.0);
        if self.scanners.len() <= slot {
            self.scanners.resize_with(slot + 1, || None);
        }
        self.scanners[slot].get_or_insert_default()
    }

    pub(crate) fn build(compiled: &Compiled, rules: &[u32]) -> Self {
        let mut builder = Builder::new(compiled);
        let mut kept = Vec::new();
        let mut waiting: Vec<(u32, u32)> = Vec::new();
        let mut always = Vec::new();
        for &rule in rules {
            let tree = builder.lower(&compiled.set.rules[rule as usize].condition, false);
            if matches!(tree, Tree::Const(false)) {
                continue;
            }
            let local = kept.len() as u32;
            match builder.witness(&tree) {
                Witness::Unknown => always.push(local),
                Witness::OneOf(bits, _) => waiting.extend(bits.into_iter().map(|bit| (bit, local))),
            }
            kept.push((rule, builder.steps(tree, HOLDS, FAILS)));
        }
        waiting.sort_unstable();
        waiting.dedup();
        let mut starts = vec![0; builder.meanings.len() + 1];
        for (bit, _) in &waiting {
            starts[*bit as usize + 1] += 1;
        }
        for bit in 0..builder.meanings.len() {
            starts[bit + 1] += starts[bit];
        }
        Self {
            atoms: builder
                .meanings
                .iter()
                .map(|meaning| match meaning {
                    Meaning::Atom(atom) => Some(*atom),
                    _ => None,
                })
                .collect(),
            starts: starts.into(),
            waiting: waiting.into_iter().map(|(_, rule)| rule).collect(),
            always: always.into(),
            rules: kept.into(),
            steps: std::mem::take(&mut builder.steps).into(),
            ..builder.scanners()
        }
    }
}

struct Builder<'a> {
    compiled: &'a Compiled,
    common: &'a Commonness,
    bits: FxHashMap<Meaning, u32>,
    meanings: Vec<Meaning>,
    /// How often each bit is set, roughly.
    prices: Vec<f64>,
    steps: Vec<Step>,
}

impl<'a> Builder<'a> {
    fn new(compiled: &'a Compiled) -> Self {
        Self {
            compiled,
            common: compiled.commonness(),
            bits: FxHashMap::default(),
            meanings: Vec::new(),
            prices: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn bit(&mut self, meaning: Meaning) -> u32 {
        if let Some(&bit) = self.bits.get(&meaning) {
            return bit;
        }
        let bit = self.meanings.len() as u32;
        self.meanings.push(meaning);
        self.bits.insert(meaning, bit);
        self.prices.push(match meaning {
            Meaning::Atom(atom) => price(&self.compiled.set.atoms[atom as usize].test, self.common),
            Meaning::Exists(_) | Meaning::Text(_) => PRESENCE,
            Meaning::Null(_) => PRESENCE / 2.0,
        });
        bit
    }

    fn leaf(&mut self, meaning: Meaning, ask: Ask, negated: bool) -> Tree {
        Tree::Leaf { bit: self.bit(meaning), ask, negated }
    }

    fn lower(&mut self, node: &Node, negated: bool) -> Tree {
        match node {
            Node::Const(value) => Tree::Const(*value != negated),
            Node::Not(inner) => self.lower(inner, !negated),
            Node::And(parts) | Node::Or(parts) => {
                let and = matches!(node, Node::And(_)) != negated;
                let parts: Vec<Tree> = parts.iter().map(|part| self.lower(part, negated)).collect();
                join(and, parts)
            }
            Node::Atom(index) => self.atom(*index, negated),
        }
    }

    fn atom(&mut self, index: u32, negated: bool) -> Tree {
        let atom = &self.compiled.set.atoms[index as usize];
        let meaning = Meaning::Atom(index);
        let Some(lookup) = atom.field else {
            let ask = if scanned(&atom.test) { ask(&atom.test) } else { Ask::Atom };
            return self.leaf(meaning, ask, negated);
        };
        let entries = self.compiled.lookups[lookup as usize].entries.len();
        if entries == 0 {
            // No event can carry a field the table does not know.
            return Tree::Const(matches!(atom.test, Test::Null) != negated);
        }
        match &atom.test {
            Test::Exists => self.leaf(Meaning::Exists(lookup), Ask::Any, negated),
            Test::AnyText => self.leaf(Meaning::Text(lookup), Ask::Any, negated),
            // Which of several fields counts, and so whether a null does, is only known when all were seen.
            Test::Null if entries > 1 => self.leaf(meaning, Ask::Atom, negated),
            Test::Null => {
                let parts = vec![
                    self.leaf(Meaning::Exists(lookup), Ask::Any, !negated),
                    self.leaf(Meaning::Null(lookup), Ask::Any, negated),
                ];
                join(negated, parts)
            }
            test if scanned(test) => self.leaf(meaning, ask(test), negated),
            // The time of a log line is the row's and no cell that scanning would see.
            Test::TimePart { .. } if self.compiled.lookups[lookup as usize].has_time() => {
                self.leaf(meaning, Ask::Atom, negated)
            }
            _ => {
                let parts = vec![
                    self.leaf(Meaning::Text(lookup), Ask::Any, negated),
                    self.leaf(meaning, Ask::Atom, negated),
                ];
                join(!negated, parts)
            }
        }
    }

    fn witness(&self, tree: &Tree) -> Witness {
        match tree {
            Tree::Const(_) | Tree::Leaf { negated: true, .. } | Tree::Leaf { ask: Ask::Atom, .. } => {
                Witness::Unknown
            }
            Tree::Leaf { bit, .. } => Witness::OneOf(vec![*bit], self.prices[*bit as usize]),
            Tree::Or(parts) => {
                let (mut all, mut sum) = (Vec::new(), 0.0);
                for part in parts {
                    match self.witness(part) {
                        Witness::Unknown => return Witness::Unknown,
                        Witness::OneOf(bits, price) => {
                            all.extend(bits);
                            sum += price;
                        }
                    }
                }
                Witness::OneOf(all, sum)
            }
            Tree::And(parts) => {
                let mut best = Witness::Unknown;
                for part in parts {
                    let found = self.witness(part);
                    let better = match (&found, &best) {
                        (Witness::OneOf(_, price), Witness::OneOf(_, before)) => price < before,
                        (Witness::OneOf(..), Witness::Unknown) => true,
                        (Witness::Unknown, _) => false,
                    };
                    if better {
                        best = found;
                    }
                }
                best
            }
        }
    }

    /// Appends the steps of a condition; returns where they begin. What is likely to fail and cheap to ask comes first.
    fn steps(&mut self, tree: Tree, yes: u32, no: u32) -> u32 {
        match tree {
            Tree::Const(value) => {
                if value {
                    yes
                } else {
                    no
                }
            }
            Tree::Leaf { bit, ask, negated } => {
                let (yes, no) = if negated { (no, yes) } else { (yes, no) };
                match ask {
                    Ask::Any | Ask::All => {
                        self.step(Step { mask: 1 << (bit % 64), at: bit / 64, ask, yes, no })
                    }
                    Ask::Atom | Ask::Guarded => self.step(Step { mask: 0, at: bit, ask, yes, no }),
                }
            }
            Tree::And(parts) => self.group(parts, true, yes, no),
            Tree::Or(parts) => self.group(parts, false, yes, no),
        }
    }

    fn step(&mut self, step: Step) -> u32 {
        self.steps.push(step);
        self.steps.len() as u32 - 1
    }

    /// The steps of an `and` or an `or`; built from the last to the first, since every step knows where it goes on.
    fn group(&mut self, parts: Vec<Tree>, and: bool, yes: u32, no: u32) -> u32 {
        let (mut set, mut unset, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            match part {
                Tree::Leaf { bit, ask: Ask::Any, negated } => {
                    if negated { &mut unset } else { &mut set }.push(bit);
                }
                other => rest.push((self.order(&other), other)),
            }
        }
        rest.sort_by(|left, right| right.0.total_cmp(&left.0));
        let mut next = if and { yes } else { no };
        for (_, part) in rest {
            next = if and { self.steps(part, next, no) } else { self.steps(part, yes, next) };
        }
        // In an `and`: none of the unset bits, all of the set ones. In an `or`: any of the set bits, or one of the others missing.
        for (word, mask) in words(unset) {
            next = if and {
                self.step(Step { mask, at: word, ask: Ask::Any, yes: no, no: next })
            } else {
                self.step(Step { mask, at: word, ask: Ask::All, yes: next, no: yes })
            };
        }
        for (word, mask) in words(set) {
            next = if and {
                self.step(Step { mask, at: word, ask: Ask::All, yes: next, no })
            } else {
                self.step(Step { mask, at: word, ask: Ask::Any, yes, no: next })
            };
        }
        next
    }

    /// Parts with a small number are asked first.
    fn order(&self, tree: &Tree) -> f64 {
        let slow = slow_leaves(tree) as f64 * 1e9;
        slow + match self.witness(tree) {
            Witness::Unknown => 1e8,
            Witness::OneOf(_, price) => price,
        }
    }

    /// Lays out what is asked of every field.
    fn scanners(&self) -> Program {
        let mut firsts: FxHashMap<FieldId, NeedlesBuilder> = FxHashMap::default();
        let mut seconds: FxHashMap<u32, NeedlesBuilder> = FxHashMap::default();
        let mut keywords = NeedlesBuilder::default();
        let mut program = Program::default();
        for (bit, meaning) in self.meanings.iter().enumerate() {
            let bit = bit as u32;
            let lookup = match *meaning {
                Meaning::Atom(index) => {
                    let atom = &self.compiled.set.atoms[index as usize];
                    if !scanned(&atom.test) {
                        continue;
                    }
                    let anchor = match &atom.test {
                        Test::Text { anchor, .. } => *anchor,
                        _ => Anchor::Contains,
                    };
                    let literals = atom.literals().unwrap_or_default();
                    let add = |builder: &mut NeedlesBuilder| {
                        literals.iter().for_each(|literal| builder.add(anchor, literal, bit));
                    };
                    let Some(lookup) = atom.field else {
                        add(&mut keywords);
                        continue;
                    };
                    let mut behind = false;
                    for (field, rank) in self.compiled.lookups[lookup as usize].fields() {
                        if rank == 0 {
                            add(firsts.entry(field).or_default());
                        } else {
                            behind = true;
                        }
                    }
                    if behind {
                        add(seconds.entry(lookup).or_default());
                    }
                    continue;
                }
                Meaning::Exists(lookup) | Meaning::Text(lookup) | Meaning::Null(lookup) => lookup,
            };
            for (field, _) in self.compiled.lookups[lookup as usize].fields() {
                let scanner = program.scanner_mut(field);
                match meaning {
                    Meaning::Exists(_) => scanner.exists.push(bit),
                    Meaning::Text(_) => scanner.text.push(bit),
                    _ => scanner.null.push(bit),
                }
            }
        }
        for (field, builder) in firsts {
            program.scanner_mut(field).needles = Some(builder.finish(self.common));
        }
        for (lookup, builder) in seconds {
            let needles = program.seconds.len() as u32;
            program.seconds.push(builder.finish(self.common));
            for (field, rank) in self.compiled.lookups[lookup as usize].fields() {
                if rank > 0 {
                    program.scanner_mut(field).seconds.push(Second { lookup, rank, needles });
                }
            }
        }
        program.keywords = (!keywords.is_empty()).then(|| Box::new(keywords.finish(self.common)));
        program
    }
}

/// Joins parts, taking inner groups of the same kind apart.
fn join(and: bool, parts: Vec<Tree>) -> Tree {
    let mut joined = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Tree::Const(value) if value == and => {}
            Tree::Const(value) => return Tree::Const(value),
            Tree::And(inner) if and => joined.extend(inner),
            Tree::Or(inner) if !and => joined.extend(inner),
            other => joined.push(other),
        }
    }
    match joined.len() {
        0 => Tree::Const(and),
        1 => joined.swap_remove(0),
        _ if and => Tree::And(joined),
        _ => Tree::Or(joined),
    }
}

/// Bits as words, so that many are asked at once.
fn words(mut bits: Vec<u32>) -> Vec<(u32, u64)> {
    bits.sort_unstable();
    let mut words: Vec<(u32, u64)> = Vec::new();
    for bit in bits {
        let mask = 1 << (bit % 64);
        match words.last_mut().filter(|last| last.0 == bit / 64) {
            Some(last) => last.1 |= mask,
            None => words.push((bit / 64, mask)),
        }
    }
    words
}

fn slow_leaves(tree: &Tree) -> usize {
    match tree {
        Tree::Const(_) => 0,
        Tree::And(parts) | Tree::Or(parts) => parts.iter().map(slow_leaves).sum(),
        Tree::Leaf { ask, .. } => usize::from(matches!(ask, Ask::Atom | Ask::Guarded)),
    }
}

/// True when scanning finds every value the test may hold for.
fn scanned(test: &Test) -> bool {
    match test {
        Test::Text { anchor: Anchor::Contains, folded, .. } => folded.len() >= MIN_ANYWHERE,
        Test::Text { .. } => true,
        Test::Glob { literal, .. } => literal.as_ref().is_some_and(|literal| literal.len() >= MIN_ANYWHERE),
        Test::Regex { required, .. } => required
            .literals
            .as_ref()
            .is_some_and(|all| !all.is_empty() && all.iter().all(|literal| literal.len() >= MIN_ANYWHERE)),
        _ => false,
    }
}

/// What scanning says about a test it looks for: the answer, or only that it is worth testing.
fn ask(test: &Test) -> Ask {
    match test {
        Test::Text { cased: None, .. } => Ask::Any,
        _ => Ask::Guarded,
    }
}

/// Price of a bit that nearly every row sets.
const PRESENCE: f64 = 1e6;

/// A guess at how often a test holds: texts made of what many rules write are common, whole values are rare.
fn price(test: &Test, common: &Commonness) -> f64 {
    let of = |literal: &[u8]| 1.0 + f64::from(common.of(literal));
    match test {
        Test::Text { anchor, folded, .. } => match anchor {
            Anchor::Exact => of(folded) * 0.25,
            Anchor::Prefix | Anchor::Suffix => of(folded) * 0.5,
            Anchor::Contains => of(folded),
        },
        Test::Glob { literal, .. } => literal.as_deref().map_or(PRESENCE, of),
        Test::Regex { required, .. } => {
            required.literals.as_ref().map_or(PRESENCE, |all| all.iter().map(|literal| of(literal)).sum())
        }
        _ => PRESENCE,
    }
}
