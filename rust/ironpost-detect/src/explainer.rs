//! Every rule against one event, the slow and complete way: what held, what failed, how far a rule was from holding.
//!
//! Works on the plan as it was written and not on compiled programs: it shows what the author asked, and it is an answer
//! of its own to the question whether a rule holds.

use crate::atom::{self, Atom, LastFold};
use crate::compile::{Interner, accepts};
use crate::derive::{BoundDeriver, Deriver, told_source};
use crate::detection::lossy;
use crate::explain::{MAX_VALUE, Written};
use crate::lookup::{BoundLookup, Lookups};
use crate::plan::{AtomPlan, Expr, LogsourcePlan, Op, Plan, PlanError, RulePlan, VERSION};
use ironpost_events::{FieldId, FieldTable, RowRef, ValueKind};
use rustc_hash::FxHashSet;
use serde_json::{Value, json};
use std::sync::Arc;

/// Values of one field that are shown.
const MAX_VALUES: usize = 8;
/// Selections that refer to selections: deeper is a cycle.
const MAX_REFERENCES: usize = 8;

/// Which rules are shown besides those whose condition holds.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Rules by id; when not empty, only these are shown.
    pub ids: FxHashSet<String>,
    /// At most this many of the rules that were nearest to holding.
    pub nearest: usize,
}

/// Explains rules on rows; made from a plan once.
#[derive(Debug)]
pub struct Explainer {
    table: Arc<FieldTable>,
    /// By lookup: the field as rules write it.
    names: Vec<String>,
    lookups: Vec<BoundLookup>,
    deriver: Deriver,
    bound: BoundDeriver,
    rules: Vec<Explained>,
}

#[derive(Debug)]
struct Explained {
    id: String,
    logsource: LogsourcePlan,
    condition: Part,
}

#[derive(Debug)]
enum Part {
    And(Vec<Part>),
    Or(Vec<Part>),
    Not(Box<Part>),
    Selection(String, Box<Part>),
    Const(bool),
    Atom(Box<Leaf>),
}

#[derive(Debug)]
struct Leaf {
    atom: Atom,
    written: Written,
    cased: bool,
}

/// How far a condition is from holding: conditions that hold already on the shortest way, and those that still must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Measure {
    done: u32,
    missing: u32,
}

impl Measure {
    /// Nearer ways come first: a larger share that holds, then fewer that miss.
    fn is_nearer(self, other: Self) -> bool {
        let left = u64::from(self.done) * u64::from(other.done + other.missing).max(1);
        let right = u64::from(other.done) * u64::from(self.done + self.missing).max(1);
        left > right || (left == right && self.missing < other.missing)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            done: self.done.saturating_add(other.done),
            missing: self.missing.saturating_add(other.missing),
        }
    }
}

impl Explainer {
    /// Reads a plan as [`crate::RuleSet::from_plan`] does; correlations in it are not looked at.
    ///
    /// # Errors
    /// [`PlanError`], naming the rule, when anything in a rule cannot be executed.
    pub fn from_plan(json: &[u8]) -> Result<Self, PlanError> {
        let plan: Plan<'_> = serde_json::from_slice(json)?;
        if plan.version != VERSION {
            return Err(PlanError::Version(plan.version));
        }
        let mut builder = Builder { lookups: Lookups::new(plan.maps), names: Interner::default() };
        let deriver = Deriver::new(plan.derive, &mut builder.names)?;
        let rules = plan.rules.into_iter().map(|rule| builder.rule(rule)).collect::<Result<_, _>>()?;
        let Builder { names: Interner { names, .. }, lookups } = builder;
        let table = FieldTable::new(&names);
        let ids: Vec<Option<FieldId>> = names.iter().map(|name| table.id(name)).collect();
        let lookups = lookups.finish();
        Ok(Self {
            names: lookups.iter().map(|lookup| names[lookup.name as usize].clone()).collect(),
            lookups: lookups.iter().map(|lookup| lookup.bind(&ids)).collect(),
            bound: deriver.bind(&ids),
            deriver,
            table,
            rules,
        })
    }

    /// The fields that events are to be read with.
    pub fn fields(&self) -> &Arc<FieldTable> {
        &self.table
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True without rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Explains every wanted rule on a row whose batch uses [`Self::fields`].
    ///
    /// **Shape**: `{"logsource", "told", "derived", "routed", "held", "rules": [{"id", "routed", "refused_by", "holds", "done", "missing",
    /// "tree"}]}`: the rules that hold first, then the nearest. A tree node has `kind` (`and`, `or`, `not`,
    /// `selection`, `const`, `atom`) and `holds`; an atom has `field`, `op`, `value`, `cased`, what it `found`, and
    /// the `event` values of its field.
    pub fn explain(&self, row: RowRef<'_>, wanted: &Wanted) -> Value {
        let mut walker =
            Walker { names: &self.names, lookups: &self.lookups, row, fold: LastFold::default() };
        let told = row.logsource();
        let open = told.category.is_none() && told.service.is_none();
        let derived = open.then(|| self.bound.derive(row)).flatten();
        let is_derived = derived.is_some();
        let sources = match derived {
            Some(derived) => self.deriver.joined(told, derived, None),
            None => vec![told_source(told)],
        };
        let source = &sources[sources.len() - 1]; // what the event says of itself, where it is judged as both
        let (mut routed, mut held) = (0, 0);
        let mut holding = Vec::new();
        let mut near: Vec<(Measure, &Explained)> = Vec::new();
        for rule in &self.rules {
            let accepted = sources.iter().any(|source| accepts(&rule.logsource, source));
            let (holds, measure) = walker.measure(&rule.condition);
            routed += usize::from(accepted);
            held += usize::from(accepted && holds);
            if !wanted.ids.is_empty() {
                if wanted.ids.contains(&rule.id) {
                    holding.push((accepted && holds, measure, rule));
                }
            } else if holds && (accepted || measure.done > 0) {
                // A condition of nothing but absences holds on every event of every other log source.
                holding.push((accepted, measure, rule));
            } else if accepted && measure.done > 0 {
                near.push((measure, rule));
            }
        }
        holding.sort_by_key(|(first, _, _)| !first);
        near.sort_by(|(left, _), (right, _)| {
            if left.is_nearer(*right) {
                std::cmp::Ordering::Less
            } else if right.is_nearer(*left) {
                std::cmp::Ordering::Greater
            } else {
                std::cmp::Ordering::Equal
            }
        });
        near.truncate(wanted.nearest);
        let shown = holding.into_iter().map(|(_, measure, rule)| (measure, rule)).chain(near);
        let rules: Vec<Value> = shown
            .map(|(measure, rule)| {
                let accepted = sources.iter().any(|source| accepts(&rule.logsource, source));
                let refused = if accepted { Vec::new() } else { refused_by(&rule.logsource, source) };
                let tree = walker.tree(&rule.condition);
                json!({
                    "id": rule.id, "routed": refused.is_empty(), "refused_by": refused, "holds": tree["holds"],
                    "done": measure.done, "missing": measure.missing, "tree": tree,
                })
            })
            .collect();
        json!({
            "logsource": {
                "product": source.product, "category": source.category, "service": source.service,
            },
            "told": {"product": told.product, "category": told.category, "service": told.service},
            "derived": is_derived,
            "routed": routed,
            "held": held,
            "rules": rules,
        })
    }
}

/// The parts of the event's log source that the rule does not accept.
fn refused_by(wanted: &LogsourcePlan, source: &LogsourcePlan) -> Vec<&'static str> {
    let alone = |part: &str| LogsourcePlan {
        product: wanted.product.clone().filter(|_| part == "product"),
        category: wanted.category.clone().filter(|_| part == "category"),
        service: wanted.service.clone().filter(|_| part == "service"),
    };
    ["product", "category", "service"].into_iter().filter(|part| !accepts(&alone(part), source)).collect()
}

struct Builder {
    names: Interner,
    lookups: Lookups,
}

impl Builder {
    fn rule(&mut self, plan: RulePlan<'_>) -> Result<Explained, PlanError> {
        if !self.lookups.knows(plan.map) {
            let what = format!("rule {}", plan.id);
            return Err(PlanError::Names { what, reason: "its field map does not exist".to_owned() });
        }
        let condition = self.part(&plan, &plan.condition, 0)?;
        Ok(Explained { id: plan.id, logsource: plan.logsource, condition })
    }

    fn parts(
        &mut self,
        rule: &RulePlan<'_>,
        parts: &[Expr<'_>],
        depth: usize,
    ) -> Result<Vec<Part>, PlanError> {
        parts.iter().map(|part| self.part(rule, part, depth)).collect()
    }

    fn part(&mut self, rule: &RulePlan<'_>, expr: &Expr<'_>, depth: usize) -> Result<Part, PlanError> {
        Ok(match expr {
            Expr::And(parts) => Part::And(self.parts(rule, parts, depth)?),
            Expr::Or(parts) => Part::Or(self.parts(rule, parts, depth)?),
            Expr::Not(inner) => Part::Not(Box::new(self.part(rule, inner, depth)?)),
            Expr::Const(value) => Part::Const(*value),
            Expr::Ref(name) => match rule.detections.get(name) {
                Some(selection) if depth < MAX_REFERENCES => {
                    Part::Selection(name.clone(), Box::new(self.part(rule, selection, depth + 1)?))
                }
                _ => return Err(PlanError::UnknownDetection { rule: rule.id.clone(), name: name.clone() }),
            },
            Expr::Atom(text) => {
                let plan = &AtomPlan::read(&rule.id, text)?;
                let (names, lookups) = (&mut self.names, &mut self.lookups);
                let lookup = |name: &str| lookups.id(rule.map, name, names);
                let atom = Atom::compile(plan, lookup).map_err(|reason| PlanError::Value {
                    rule: rule.id.clone(),
                    field: plan.field.clone().unwrap_or_else(|| "keywords".to_owned()),
                    reason,
                })?;
                Part::Atom(Box::new(Leaf { atom, written: Written::of(plan), cased: plan.cased }))
            }
        })
    }
}

struct Walker<'a> {
    names: &'a [String],
    lookups: &'a [BoundLookup],
    row: RowRef<'a>,
    fold: LastFold,
}

impl Walker<'_> {
    fn measure(&mut self, part: &Part) -> (bool, Measure) {
        match part {
            Part::Const(value) => (*value, Measure { done: 0, missing: u32::from(!value) }),
            Part::Selection(_, inner) => self.measure(inner),
            Part::Not(inner) => {
                let holds = !self.measure(inner).0;
                (holds, Measure { done: 0, missing: u32::from(!holds) })
            }
            Part::And(parts) => parts.iter().fold((true, Measure::default()), |(all, sum), part| {
                let (holds, measure) = self.measure(part);
                (all && holds, sum.plus(measure))
            }),
            Part::Or(parts) => {
                let mut best: Option<(bool, Measure)> = None;
                for part in parts {
                    let found = self.measure(part);
                    let better = best.is_none_or(|(holds, measure)| {
                        found.0 && !holds || found.0 == holds && found.1.is_nearer(measure)
                    });
                    if better {
                        best = Some(found);
                    }
                }
                best.unwrap_or_default()
            }
            Part::Atom(leaf) => match atom::witness(&leaf.atom, self.row, self.lookups, &mut self.fold) {
                // What is missing everywhere says nothing about this event.
                Some(found) => (true, Measure { done: u32::from(found.is_some()), missing: 0 }),
                None => (false, Measure { done: 0, missing: 1 }),
            },
        }
    }

    fn trees(&mut self, parts: &[Part]) -> Vec<Value> {
        parts.iter().map(|part| self.tree(part)).collect()
    }

    fn tree(&mut self, part: &Part) -> Value {
        let holds = self.measure(part).0;
        match part {
            Part::Const(_) => json!({"kind": "const", "holds": holds}),
            Part::And(parts) => json!({"kind": "and", "holds": holds, "parts": self.trees(parts)}),
            Part::Or(parts) => json!({"kind": "or", "holds": holds, "parts": self.trees(parts)}),
            Part::Not(inner) => json!({"kind": "not", "holds": holds, "parts": [self.tree(inner)]}),
            Part::Selection(name, inner) => {
                json!({"kind": "selection", "name": name, "holds": holds, "parts": [self.tree(inner)]})
            }
            Part::Atom(leaf) => self.leaf(leaf, holds),
        }
    }

    fn leaf(&mut self, leaf: &Leaf, holds: bool) -> Value {
        let found = atom::witness(&leaf.atom, self.row, self.lookups, &mut self.fold).flatten();
        let found = found.map(|(field, value)| {
            json!({"field": String::from_utf8_lossy(field), "value": lossy(value.bytes, MAX_VALUE)})
        });
        let field = leaf.atom.field;
        let lookup = field.and_then(|field| self.lookups.get(field as usize));
        let event: Option<Vec<Value>> = lookup.map(|lookup| {
            let values = lookup.cells(self.row).take(MAX_VALUES).map(|cell| self.row.value_of(cell));
            values
                .map(|value| match value.kind {
                    ValueKind::Null => Value::Null,
                    ValueKind::Container => json!({}),
                    _ => Value::from(lossy(value.bytes, MAX_VALUE)),
                })
                .collect()
        });
        let value = (!matches!(leaf.written.op, Op::Exists | Op::Null)).then_some(&leaf.written.pattern);
        json!({
            "kind": "atom", "holds": holds,
            "field": field.and_then(|field| self.names.get(field as usize)),
            "op": leaf.written.op.name(), "value": value, "cased": leaf.cased,
            "found": found, "event": event.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironpost_events::{EventBatch, ExtractorSet, Logsource, ParseOptions, Parser, SourceFacts};

    const PLAN: &str = r#"{"version": 1, "rules": [
        {"id": "held", "detections": {"s": {"atom": {"field": "a", "op": "contains", "value": "OO"}}},
         "condition": {"ref": "s"}},
        {"id": "near", "condition": {"and": [
            {"atom": {"field": "a", "op": "startswith", "value": "f"}},
            {"atom": {"field": "b", "op": "wildcard", "value": ["x", {"wild": "*"}, "*"]}}]}},
        {"id": "far", "condition": {"atom": {"field": "c", "op": "equals", "value": "never"}}},
        {"id": "elsewhere", "logsource": {"product": ["windows"]},
         "condition": {"atom": {"field": "a", "op": "exists"}}},
        {"id": "absent", "logsource": {"product": ["windows"]},
         "condition": {"atom": {"field": "c", "op": "null"}}}
    ]}"#;

    fn explained(plan: &str, event: &[u8], wanted: &Wanted) -> Value {
        let explainer = Explainer::from_plan(plan.as_bytes()).unwrap();
        let table = Arc::clone(explainer.fields());
        let parser =
            Parser::new(Arc::new(ExtractorSet::default()), Arc::clone(&table), ParseOptions::default());
        let logsource = Logsource { product: Some("linux".into()), ..Logsource::default() };
        let facts = parser.facts(&SourceFacts { fields: Vec::new(), logsource });
        let mut batch = EventBatch::new(Arc::clone(&table));
        parser.parse_lines(event, 0, &facts, &mut batch);
        explainer.explain(batch.row(0), wanted)
    }

    fn ids(explained: &Value) -> Vec<&str> {
        explained["rules"].as_array().unwrap().iter().map(|rule| rule["id"].as_str().unwrap()).collect()
    }

    #[test]
    fn rules_that_hold_come_first_then_the_nearest() {
        let wanted = Wanted { nearest: 5, ..Wanted::default() };
        let found = explained(PLAN, b"{\"a\": \"foo\", \"b\": \"y\"}\n", &wanted);
        assert_eq!(ids(&found), ["held", "elsewhere", "near"]);
        assert_eq!((&found["routed"], &found["held"]), (&json!(3), &json!(1)));
        let elsewhere = &found["rules"][1];
        assert_eq!((&elsewhere["holds"], &elsewhere["refused_by"]), (&json!(true), &json!(["product"])));
        let near = &found["rules"][2];
        assert_eq!((&near["done"], &near["missing"]), (&json!(1), &json!(1)));
        let failed = &near["tree"]["parts"][1];
        assert_eq!((&failed["value"], &failed["event"]), (&json!("x*\\*"), &json!(["y"])));
    }

    #[test]
    fn named_rules_are_shown_whatever_they_are() {
        let wanted = Wanted { ids: ["far".to_owned()].into_iter().collect(), nearest: 5 };
        let found = explained(PLAN, b"{\"a\": \"foo\"}\n", &wanted);
        assert_eq!(ids(&found), ["far"]);
        assert_eq!(found["rules"][0]["tree"]["event"], json!([]));
    }

    #[test]
    fn a_log_source_comes_from_the_event_and_names_through_the_map() {
        let plan = r#"{"version": 1, "maps": [{"fields": {"Image": ["Image", "process.executable"]}}],
            "derive": [{"name": "t", "keys": [["kind"]],
                        "rows": [{"when": [["exec"]], "is": {"product": null, "category": ["process_creation"], "service": []}}]}],
            "rules": [{"id": "r", "map": 0, "logsource": {"category": ["process_creation"]},
                       "condition": {"atom": {"field": "Image", "op": "endswith", "value": "/sh"}}}]}"#;
        let found =
            explained(plan, br#"{"kind": "exec", "process.executable": "/bin/sh"}"#, &Wanted::default());
        assert_eq!(
            (&found["derived"], &found["logsource"]["category"]),
            (&json!(true), &json!(["process_creation"]))
        );
        let tree = &found["rules"][0]["tree"];
        assert_eq!(
            (&tree["field"], &tree["found"]["field"]),
            (&json!("Image"), &json!("process.executable"))
        );
    }

    #[test]
    fn a_selection_carries_its_name_and_what_it_found() {
        let found = explained(PLAN, b"{\"a\": \"foo\"}\n", &Wanted::default());
        let tree = &found["rules"][0]["tree"];
        assert_eq!((&tree["kind"], &tree["name"]), (&json!("selection"), &json!("s")));
        assert_eq!(tree["parts"][0]["found"], json!({"field": "a", "value": "foo"}));
    }
}
