//! Why a rule held: which selection matched on which field and value. Why it did not: see [`crate::Explainer`].

use crate::atom::{self, LastFold};
use crate::compile::{Compiled, Node, Shape};
use crate::detection::{Matched, lossy};
use crate::plan::{AtomPlan, Op};
use ironpost_events::RowRef;

/// At most this many (selection, field, value) are reported.
const MAX_MATCHED: usize = 32;
/// Longer values are cut, in bytes.
pub(crate) const MAX_VALUE: usize = 1024;

/// What an atom asks, as the rule's author wrote it.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) op: Op,
    pub(crate) pattern: Box<str>,
}

impl Written {
    pub(crate) fn of(plan: &AtomPlan) -> Self {
        Self { op: plan.op, pattern: pattern(&plan.value).into() }
    }
}

/// A plan's value as one text: wildcards as `*` and `?`, their plain forms behind a backslash.
fn pattern(value: &serde_json::Value) -> String {
    let text = |key: &str| value.get(key).map(pattern).unwrap_or_default();
    let made = match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(parts) => parts
            .iter()
            .map(|part| match part {
                serde_json::Value::String(literal) => literal.replace('*', "\\*").replace('?', "\\?"),
                wild => wild.get("wild").and_then(|wild| wild.as_str()).unwrap_or_default().to_owned(),
            })
            .collect(),
        serde_json::Value::Object(parts) if parts.contains_key("part") => {
            format!("{} {} {}", text("part"), text("compare"), text("number"))
        }
        serde_json::Value::Object(parts) if parts.contains_key("field") => text("field"),
        other => other.to_string(),
    };
    lossy(made.as_bytes(), MAX_VALUE)
}

impl Op {
    /// The operator's name in the plan.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Equals => "equals",
            Self::Contains => "contains",
            Self::Startswith => "startswith",
            Self::Endswith => "endswith",
            Self::Wildcard => "wildcard",
            Self::Regex => "regex",
            Self::Cidr => "cidr",
            Self::Exists => "exists",
            Self::Null => "null",
            Self::Lt => "lt",
            Self::Lte => "lte",
            Self::Gt => "gt",
            Self::Gte => "gte",
            Self::Fieldref => "fieldref",
            Self::Timepart => "timepart",
        }
    }
}

impl Compiled {
    /// The conditions that made `rule` hold on `row`; a condition under a `not` is never among them.
    pub fn explain(&self, rule: u32, row: RowRef<'_>) -> Vec<Matched> {
        let mut found = Vec::new();
        if let Some(rule) = self.set.rules.get(rule as usize) {
            let mut explainer =
                Explainer { compiled: self, row, fold: LastFold::default(), found: &mut found };
            explainer.shape(&rule.shape, &rule.selections);
        }
        found
    }
}

struct Explainer<'a, 'b> {
    compiled: &'a Compiled,
    row: RowRef<'a>,
    fold: LastFold,
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
                let written = self.compiled.set.written.get(*index as usize);
                let (field, value) = match held {
                    Some((field, value)) => {
                        (String::from_utf8_lossy(field).into_owned(), lossy(value.bytes, MAX_VALUE))
                    }
                    None => {
                        let set = &self.compiled.set;
                        let name = atom
                            .field
                            .map(|field| set.names[set.lookups[field as usize].name as usize].clone());
                        (name.unwrap_or_default(), String::new())
                    }
                };
                let entry = Matched {
                    selection: selection.to_owned(),
                    field,
                    value,
                    op: written.map_or("", |written| written.op.name()),
                    pattern: written.map_or_else(String::new, |written| written.pattern.to_string()),
                };
                if self.found.len() < MAX_MATCHED && !self.found.contains(&entry) {
                    self.found.push(entry);
                }
                true
            }
        }
    }
}
