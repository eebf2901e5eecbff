//! From plan to executable rules.

use crate::atom::Atom;
use crate::correlation::{Correlation, Feeder, feeds};
use crate::derive::{BoundDeriver, Deriver};
use crate::explain::Written;
use crate::lookup::{BoundLookup, Lookup, Lookups};
use crate::needles::Commonness;
use crate::plan::{AtomPlan, Expr, LogsourcePlan, MAX_FIELDS, Op, Plan, PlanError, RulePlan, VERSION};
use crate::program::Program;
use ironpost_events::{FieldId, FieldTable};
use rustc_hash::FxHashMap;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, RwLock};

/// A condition over atoms; references are already resolved.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    And(Box<[Node]>),
    Or(Box<[Node]>),
    Not(Box<Node>),
    Atom(u32),
    Const(bool),
}

/// A rule ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) level: String,
    pub(crate) tags: Vec<String>,
    pub(crate) emit: bool,
    pub(crate) logsource: LogsourcePlan,
    pub(crate) fields: Vec<u32>,
    /// Detections carry the whole event.
    pub(crate) event: bool,
    pub(crate) entity: Vec<u32>,
    pub(crate) condition: Node,
    /// The named selections and the condition as written, for explanations.
    pub(crate) selections: BTreeMap<String, Node>,
    pub(crate) shape: Shape,
}

/// The condition with its references kept.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    All(Box<[Shape]>),
    Any(Box<[Shape]>),
    Not(Box<Shape>),
    Selection(String),
    Leaf(Node),
}

/// Rules and correlations of a plan, checked and compiled, independent of any field table.
#[derive(Debug)]
pub struct RuleSet {
    pub(crate) names: Vec<String>,
    /// What the fields of atoms stand for.
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) deriver: Deriver,
    pub(crate) atoms: Vec<Atom>,
    /// By atom: what the rule says, for evidence.
    pub(crate) written: Vec<Written>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) correlations: Vec<Correlation>,
    /// Correlations fed by each rule or correlation.
    pub(crate) feeds: FxHashMap<Feeder, Vec<u32>>,
}

#[derive(Default)]
pub(crate) struct Interner {
    pub(crate) names: Vec<String>,
    ids: FxHashMap<String, u32>,
}

impl Interner {
    pub(crate) fn id(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let id = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// A name that no field table holds would be a field no event has, without a word.
    fn check(&self, rule: &str) -> Result<(), PlanError> {
        match self.names.len() > MAX_FIELDS {
            true => Err(PlanError::TooManyFields(rule.to_owned())),
            false => Ok(()),
        }
    }

    pub(crate) fn all(&mut self, names: &[String]) -> Vec<u32> {
        names.iter().map(|name| self.id(name)).collect()
    }
}

#[derive(Default)]
struct Builder<'a> {
    names: Interner,
    lookups: Lookups,
    atoms: Vec<Atom>,
    written: Vec<Written>,
    /// By the rules' map and the atom's text.
    seen: FxHashMap<(Option<u32>, &'a str), u32>,
    /// By the lookup of the atom's field and the atom's text; of a field reference, by the map.
    known: FxHashMap<(Option<u32>, &'a str), u32>,
}

impl<'a> Builder<'a> {
    fn node(&mut self, rule: &RulePlan<'a>, expr: &Expr<'a>, depth: usize) -> Result<Node, PlanError> {
        Ok(match expr {
            Expr::And(parts) => Node::And(self.nodes(rule, parts, depth)?),
            Expr::Or(parts) => Node::Or(self.nodes(rule, parts, depth)?),
            Expr::Not(inner) => Node::Not(Box::new(self.node(rule, inner, depth)?)),
            Expr::Const(value) => Node::Const(*value),
            Expr::Ref(name) => match rule.detections.get(name) {
                // Selections may not refer to each other further than a few steps; a cycle ends here.
                Some(selection) if depth < 8 => self.node(rule, selection, depth + 1)?,
                _ => return Err(PlanError::UnknownDetection { rule: rule.id.clone(), name: name.clone() }),
            },
            Expr::Atom(text) => Node::Atom(self.atom(rule, text)?),
        })
    }

    fn atom(&mut self, rule: &RulePlan<'a>, text: &'a RawValue) -> Result<u32, PlanError> {
        if let Some(&index) = self.seen.get(&(rule.map, text.get())) {
            return Ok(index);
        }
        let plan = AtomPlan::read(&rule.id, text)?;
        let (names, lookups) = (&mut self.names, &mut self.lookups);
        let mut lookup = |name: &str| lookups.id(rule.map, name, names);
        // Rules share an atom when its field is looked up alike. What a second field means depends on the map.
        let place = match (&plan.field, plan.op) {
            (_, Op::Fieldref) => rule.map,
            (field, _) => field.as_deref().map(&mut lookup),
        };
        let index = match self.known.get(&(place, text.get())) {
            Some(&index) => index,
            None => {
                let atom = Atom::compile(&plan, lookup).map_err(|reason| PlanError::Value {
                    rule: rule.id.clone(),
                    field: plan.field.clone().unwrap_or_else(|| "keywords".to_owned()),
                    reason,
                })?;
                let index = self.atoms.len() as u32;
                self.atoms.push(atom);
                self.written.push(Written::of(&plan));
                self.known.insert((place, text.get()), index);
                index
            }
        };
        self.seen.insert((rule.map, text.get()), index);
        Ok(index)
    }

    fn nodes(
        &mut self,
        rule: &RulePlan<'a>,
        parts: &[Expr<'a>],
        depth: usize,
    ) -> Result<Box<[Node]>, PlanError> {
        parts.iter().map(|part| self.node(rule, part, depth)).collect()
    }

    fn shape(&mut self, rule: &RulePlan<'a>, expr: &Expr<'a>) -> Result<Shape, PlanError> {
        Ok(match expr {
            Expr::And(parts) => {
                Shape::All(parts.iter().map(|part| self.shape(rule, part)).collect::<Result<_, _>>()?)
            }
            Expr::Or(parts) => {
                Shape::Any(parts.iter().map(|part| self.shape(rule, part)).collect::<Result<_, _>>()?)
            }
            Expr::Not(inner) => Shape::Not(Box::new(self.shape(rule, inner)?)),
            Expr::Ref(name) => Shape::Selection(name.clone()),
            leaf => Shape::Leaf(self.node(rule, leaf, 0)?),
        })
    }

    fn rule(&mut self, plan: RulePlan<'a>) -> Result<Rule, PlanError> {
        let rule = self.read_rule(plan)?;
        self.names.check(&rule.id)?;
        Ok(rule)
    }

    fn read_rule(&mut self, plan: RulePlan<'a>) -> Result<Rule, PlanError> {
        if !self.lookups.knows(plan.map) {
            let what = format!("rule {}", plan.id);
            return Err(PlanError::Names { what, reason: "its field map does not exist".to_owned() });
        }
        let condition = self.node(&plan, &plan.condition, 0)?;
        let shape = self.shape(&plan, &plan.condition)?;
        let mut selections = BTreeMap::new();
        for (name, expr) in &plan.detections {
            selections.insert(name.clone(), self.node(&plan, expr, 1)?);
        }
        Ok(Rule {
            fields: self.lookups.event_fields(plan.map, &plan.fields, &mut self.names),
            event: plan.event,
            entity: self.names.all(&plan.entity),
            id: plan.id,
            title: plan.title,
            level: plan.level,
            tags: plan.tags,
            emit: plan.emit,
            logsource: plan.logsource,
            condition,
            selections,
            shape,
        })
    }
}

impl RuleSet {
    /// Reads and checks a plan.
    ///
    /// **Shape**: `{"version": 1, "rules": […], "correlations": […]}`. A rule has `id`, `title`, `level`, `tags`, `emit`,
    /// `logsource` (per part a list of alternatives or null), `fields`, `entity`, `detections` (name → expression) and
    /// `condition`; `map` is an index into the plan's `maps`, and `derive` says how an event's log source is told (see
    /// `docs/reference/plan.md`). An expression is `{"and": […]}`, `{"or": […]}`, `{"not": …}`, `{"ref": name}`, `{"const": bool}` or
    /// `{"atom": {"field": name | null, "op": …, "value": …, "cased": bool}}`.
    ///
    /// # Errors
    /// [`PlanError`], naming the rule, when anything in the plan cannot be executed.
    pub fn from_plan(json: &[u8]) -> Result<Self, PlanError> {
        let plan: Plan<'_> = serde_json::from_slice(json)?;
        if plan.version != VERSION {
            return Err(PlanError::Version(plan.version));
        }
        let mut builder = Builder { lookups: Lookups::new(plan.maps), ..Builder::default() };
        let deriver = Deriver::new(plan.derive, &mut builder.names)?;
        let mut feeders = BTreeMap::new();
        let ids = plan.rules.iter().map(|rule| &rule.id).chain(plan.correlations.iter().map(|rule| &rule.id));
        for (index, id) in ids.enumerate() {
            let feeder = match index.checked_sub(plan.rules.len()) {
                None => Feeder::Rule(index as u32),
                Some(correlation) => Feeder::Correlation(correlation as u32),
            };
            if feeders.insert(id.clone(), feeder).is_some() {
                return Err(PlanError::DuplicateId(id.clone()));
            }
        }
        let rules = plan.rules.into_iter().map(|rule| builder.rule(rule)).collect::<Result<Vec<_>, _>>()?;
        let correlations = plan
            .correlations
            .into_iter()
            .map(|plan| {
                let id = plan.id.clone();
                let made = Correlation::compile(plan, &feeders, &mut builder.names)?;
                builder.names.check(&id)?;
                Ok(made)
            })
            .collect::<Result<Vec<_>, PlanError>>()?;
        let feeds = feeds(&correlations)?;
        Ok(Self {
            names: builder.names.names,
            lookups: builder.lookups.finish(),
            deriver,
            atoms: builder.atoms,
            written: builder.written,
            rules,
            correlations,
            feeds,
        })
    }

    /// Names of every field the rules read; they belong into the [`FieldTable`].
    pub fn field_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).chain(crate::detection::ALWAYS_READ)
    }

    /// Number of rules and of correlations.
    pub fn counts(&self) -> (usize, usize) {
        (self.rules.len(), self.correlations.len())
    }

    /// Resolves field names against a table; the result evaluates batches that use this table.
    pub fn bind(self: Arc<Self>, table: Arc<FieldTable>) -> Compiled {
        let ids: Vec<Option<FieldId>> = self.names.iter().map(|name| table.id(name)).collect();
        let always = crate::detection::ALWAYS_READ.map(|name| table.id(name));
        let lookups = self.lookups.iter().map(|lookup| lookup.bind(&ids)).collect();
        let deriver = self.deriver.bind(&ids);
        Compiled {
            set: self,
            ids,
            lookups,
            deriver,
            always,
            table,
            programs: RwLock::default(),
            commonness: OnceLock::new(),
            home: None,
        }
    }
}

/// Programs kept at once: one for every log source that can be derived, and those that sources are configured with.
const MAX_PROGRAMS: usize = 1024;

/// A rule set bound to a field table: what workers evaluate.
#[derive(Debug)]
pub struct Compiled {
    pub(crate) set: Arc<RuleSet>,
    pub(crate) ids: Vec<Option<FieldId>>,
    /// By the lookup that an atom's field is.
    pub(crate) lookups: Vec<BoundLookup>,
    pub(crate) deriver: BoundDeriver,
    pub(crate) always: [Option<FieldId>; crate::detection::ALWAYS_READ.len()],
    table: Arc<FieldTable>,
    programs: RwLock<Programs>,
    commonness: OnceLock<Commonness>,
    /// What the sources' events are when nobody told, whatever they claim.
    pub(crate) home: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct Programs {
    by_source: FxHashMap<Vec<LogsourcePlan>, Arc<Program>>,
    by_rules: FxHashMap<Vec<u32>, Arc<Program>>,
}

impl Compiled {
    /// Says which product events are of whose source told none. An event that claims another is still seen by the rules
    /// for this one: whoever writes a log of this host can't choose who looks at it.
    #[must_use]
    pub fn at_home(mut self, product: &str) -> Self {
        self.home = Some(product.into());
        self
    }

    /// The rule set.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.set
    }

    /// The table whose ids the compiled rules use.
    pub fn fields(&self) -> &Arc<FieldTable> {
        &self.table
    }

    /// Id of a rule by the index in a [`crate::Match`].
    pub fn rule_id(&self, rule: u32) -> &str {
        self.set.rules.get(rule as usize).map_or("", |rule| &rule.id)
    }

    /// How common the texts that rules ask for are.
    pub(crate) fn commonness(&self) -> &Commonness {
        self.commonness
            .get_or_init(|| Commonness::new(self.set.atoms.iter().flat_map(|atom| atom.literals()).flatten()))
    }

    /// The program for events of any of these log sources; made when they are first seen.
    pub(crate) fn program(&self, sources: &[LogsourcePlan]) -> Arc<Program> {
        if let Ok(programs) = self.programs.read()
            && let Some(program) = programs.by_source.get(sources)
        {
            return Arc::clone(program);
        }
        let mut programs = match self.programs.write() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(), // a program is inserted whole or not at all
        };
        if programs.by_source.len() >= MAX_PROGRAMS {
            *programs = Programs::default(); // log sources come from configuration; this many are a mistake, not a load
        }
        let routed: Vec<u32> = (0..self.set.rules.len() as u32)
            .filter(|&rule| {
                let wanted = &self.set.rules[rule as usize].logsource;
                sources.iter().any(|source| accepts(wanted, source))
            })
            .collect();
        let program = match programs.by_rules.get(&routed) {
            Some(program) => Arc::clone(program),
            None => {
                let program = Arc::new(Program::build(self, &routed));
                programs.by_rules.insert(routed, Arc::clone(&program));
                program
            }
        };
        programs.by_source.insert(sources.to_vec(), Arc::clone(&program));
        program
    }
}

/// True when a rule for `wanted` may look at events of `source`; an unknown part of the source matches anything.
pub(crate) fn accepts(wanted: &LogsourcePlan, source: &LogsourcePlan) -> bool {
    let part = |wanted: &Option<Vec<String>>, known: &Option<Vec<String>>| match (wanted, known) {
        (Some(choices), Some(known)) => {
            known.iter().any(|known| choices.iter().any(|choice| choice.eq_ignore_ascii_case(known)))
        }
        _ => true,
    };
    part(&wanted.product, &source.product)
        && part(&wanted.category, &source.category)
        && part(&wanted.service, &source.service)
}
