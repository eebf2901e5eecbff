//! Why a rule held: which selection matched on which field and value.

use crate::atom;
use crate::compile::{Compiled, Node, Shape};
use crate::detection::Matched;
use ironpost_events::RowRef;

/// At most this many (selection, field, value) are reported.
const MAX_MATCHED: usize = 32;
/// Longer values are cut.
const MAX_VALUE: usize = 1024;

impl Compiled {
    /// The conditions that made `rule` hold on `row`; a condition under a `not` is never among them.
    pub fn explain(&self, rule: u32, row: RowRef<'_>) -> Vec<Matched> {
        let mut found = Vec::new();
        if let Some(rule) = self.set.rules.get(rule as usize) {
            let mut explainer = Explainer { compiled: self, row, fold: Vec::new(), found: &mut found };
            explainer.shape(&rule.shape, &rule.selections);
        }
        found
    }
}

struct Explainer<'a, 'b> {
    compiled: &'a Compiled,
    row: RowRef<'a>,
    fold: Vec<u8>,
    found: &'b mut Vec<Matched>,
}

impl Explainer<'_, '_> {
    /// Collects from a shape that may or may not hold; says whether it does.
    fn shape(&mut self, shape: &Shape, selections: &std::collections::BTreeMap<String, Node>) -> bool {
        match shape {
            Shape::All(parts) => {
                let before = self.found.len();
                let holds = parts.iter().all(|part| self.shape(part, selections));
                if !holds {
                    self.found.truncate(before);
                }
                holds
            }
            Shape::Any(parts) => {
                // Every alternative is looked at, not only the first that holds: all of them are reasons.
                let mut holds = false;
                for part in parts {
                    holds |= self.shape(part, selections);
                }
                holds
            }
            Shape::Not(inner) => {
                let before = self.found.len();
                let holds = !self.shape(inner, selections);
                self.found.truncate(before);
                holds
            }
            Shape::Selection(name) => selections.get(name).is_some_and(|node| self.node(node, name)),
            Shape::Leaf(node) => self.node(node, ""),
        }
    }

    fn node(&mut self, node: &Node, selection: &str) -> bool {
        match node {
            Node::Const(value) => *value,
            Node::And(parts) => {
                let before = self.found.len();
                let holds = parts.iter().all(|part| self.node(part, selection));
                if !holds {
                    self.found.truncate(before);
                }
                holds
            }
            Node::Or(parts) => {
                let mut holds = false;
                for part in parts {
                    holds |= self.node(part, selection);
                }
                holds
            }
            Node::Not(inner) => {
                let before = self.found.len();
                let holds = !self.node(inner, selection);
                self.found.truncate(before);
                holds
            }
            Node::Atom(index) => {
                let atom = &self.compiled.set.atoms[*index as usize];
                let Some(held) = atom::witness(atom, self.row, &self.compiled.lookups, &mut self.fold) else {
                    return false;
                };
                let entry = match held {
                    Some((field, value)) => Matched {
                        selection: selection.to_owned(),
                        field: String::from_utf8_lossy(field).into_owned(),
                        value: crate::detection::lossy(value.bytes, MAX_VALUE),
                    },
                    None => Matched {
                        selection: selection.to_owned(),
                        field: atom.field.map_or_else(String::new, |field| {
                            let set = &self.compiled.set;
                            set.names[set.lookups[field as usize].name as usize].clone()
                        }),
                        value: String::new(),
                    },
                };
                if self.found.len() < MAX_MATCHED && !self.found.contains(&entry) {
                    self.found.push(entry);
                }
                true
            }
        }
    }
}
