//! What a correlation asks of a window, ready to be tested.

use crate::plan::{Comparison, CorrelationPlan, CorrelationType, Occurrence};

/// Measures are whole numbers of billionths: sums and comparisons are exact for values of up to nine decimals.
pub(crate) const UNIT: i128 = 1_000_000_000;
/// Larger values, of either sign, count as this much: a number nobody needs must not overflow a sum.
const MAX_VALUE: f64 = 1e15;

/// Distinct values, and events of `event_count`, that a condition may ask for.
pub(crate) const MAX_COUNT: f64 = 1e9;
/// Distinct values that a condition may ask for; a window keeps one entry for each.
pub(crate) const MAX_DISTINCT: f64 = 10_000.0;
/// Different rules of a temporal correlation: one bit each.
const MAX_RULES: usize = 64;
/// Memory of one window for the order of rules, in numbers.
const MAX_ORDER: usize = 1024;

/// A value in units; `None` when the text is no finite number.
pub(crate) fn units(text: &str) -> Option<f64> {
    let number: f64 = text.trim().parse().ok()?;
    number.is_finite().then(|| number.clamp(-MAX_VALUE, MAX_VALUE))
}

/// A number as whole units.
pub(crate) fn scaled(number: f64) -> i128 {
    let number = number.clamp(-MAX_VALUE, MAX_VALUE);
    number.trunc() as i128 * UNIT + (number.fract() * UNIT as f64).round() as i128
}

/// Rules that must have matched in this order, and rules that must not have matched.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) steps: Box<[usize]>,
    pub(crate) absent: u64,
}

impl Chain {
    fn repeats(&self) -> usize {
        let times = |rule| self.steps.iter().filter(|&&step| step == rule).count();
        self.steps.iter().map(|&step| times(step)).max().unwrap_or(0)
    }
}

/// An expression over rules by their index.
#[derive(Debug)]
enum Formula {
    And(Vec<Formula>),
    Or(Vec<Formula>),
    Not(Box<Formula>),
    Rule(usize),
}

impl Formula {
    fn new(written: &Occurrence, rules: &[&str]) -> Result<Self, String> {
        let all =
            |parts: &[Occurrence]| parts.iter().map(|part| Self::new(part, rules)).collect::<Result<_, _>>();
        Ok(match written {
            Occurrence::And(parts) => Self::And(all(parts)?),
            Occurrence::Or(parts) => Self::Or(all(parts)?),
            Occurrence::Not(part) => Self::Not(Box::new(Self::new(part, rules)?)),
            Occurrence::Rule(id) => {
                let found = rules.iter().position(|rule| rule == id);
                Self::Rule(
                    found.ok_or_else(|| format!("the condition names {id:?}, which is none of its rules"))?,
                )
            }
        })
    }

    fn holds(&self, present: u64) -> bool {
        match self {
            Self::And(parts) => parts.iter().all(|part| part.holds(present)),
            Self::Or(parts) => parts.iter().any(|part| part.holds(present)),
            Self::Not(part) => !part.holds(present),
            Self::Rule(rule) => present >> rule & 1 == 1,
        }
    }

    /// The expression as alternatives of (rules that must be there, rules that must not).
    fn alternatives(&self, positive: bool) -> Result<Vec<(u64, u64)>, String> {
        let limit = |found: Vec<(u64, u64)>| {
            let mut found: Vec<_> =
                found.into_iter().filter(|(wanted, absent)| wanted & absent == 0).collect();
            found.sort_unstable();
            found.dedup();
            if found.len() > MAX_ORDER {
                Err("the condition has too many alternatives".to_owned())
            } else {
                Ok(found)
            }
        };
        match (self, positive) {
            (Self::Rule(rule), true) => Ok(vec![(1 << rule, 0)]),
            (Self::Rule(rule), false) => Ok(vec![(0, 1 << rule)]),
            (Self::Not(part), _) => part.alternatives(!positive),
            (Self::And(parts), true) | (Self::Or(parts), false) => {
                let mut joined = vec![(0, 0)];
                for part in parts {
                    let choices = part.alternatives(positive)?;
                    let pairs = joined.iter().flat_map(|one: &(u64, u64)| {
                        choices.iter().map(|other| (one.0 | other.0, one.1 | other.1))
                    });
                    joined = limit(pairs.collect())?;
                }
                Ok(joined)
            }
            (Self::Or(parts), true) | (Self::And(parts), false) => {
                let mut all = Vec::new();
                for part in parts {
                    all.extend(part.alternatives(positive)?);
                }
                limit(all)
            }
        }
    }
}

/// The condition of a correlation.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) kind: CorrelationType,
    /// Length of the window, nanoseconds.
    pub(crate) span: i64,
    /// How much older than the newest event an event may be.
    pub(crate) allowed: i64,
    limits: Box<[(Comparison, i128)]>,
    formula: Option<Formula>,
    /// `temporal_ordered`: what has to come in which order.
    pub(crate) chains: Box<[Chain]>,
    /// Different rules.
    pub(crate) rules: usize,
    /// How often a chain asks for one rule at most.
    pub(crate) repeats: usize,
    /// The largest measure that any comparison tells from a larger one.
    pub(crate) needed: u64,
    /// Thousandths of a percent.
    percentile: u64,
    /// Events of more trust may satisfy the condition by themselves: more events never make it false, or its absences are
    /// judged by events of the same trust.
    pub(crate) by_trust: bool,
}

impl Judge {
    /// `rules` are the different rules of the plan, in order.
    pub(crate) fn new(plan: &CorrelationPlan, rules: &[&str]) -> Result<Self, String> {
        let kind = plan.kind;
        let temporal = matches!(kind, CorrelationType::Temporal | CorrelationType::TemporalOrdered);
        if plan.timespan_ns <= 0 || plan.lateness_ns < 0 {
            return Err("timespan must be positive".to_owned());
        }
        if plan.rules.is_empty() {
            return Err("needs at least one rule".to_owned());
        }
        if temporal && rules.len() > MAX_RULES {
            return Err(format!("has more than {MAX_RULES} rules"));
        }
        if plan.expression.is_some() && !(temporal && plan.condition.is_empty()) {
            return Err("a condition over rules is for temporal types and stands alone".to_owned());
        }
        if plan.condition.is_empty() && !temporal {
            return Err("needs a condition such as gte: 5".to_owned());
        }
        let valued = !temporal && kind != CorrelationType::EventCount;
        if valued == plan.field.is_empty() {
            return Err("the value types need a field, other types take none".to_owned());
        }
        if valued && kind != CorrelationType::ValueCount && plan.field.len() > 1 {
            return Err("takes one field".to_owned());
        }
        let percentile = match (kind, plan.percentile) {
            (CorrelationType::ValuePercentile, Some(number)) if (0.0..=100.0).contains(&number) => number,
            (CorrelationType::ValuePercentile, _) => {
                return Err("needs a percentile from 0 to 100".to_owned());
            }
            (CorrelationType::ValueMedian, None) => 50.0,
            (_, None) => 0.0,
            (_, Some(_)) => return Err("percentile is for value_percentile".to_owned()),
        };
        let largest = plan.condition.values().fold(0.0f64, |most, number| most.max(number.abs()));
        let limit = match kind {
            CorrelationType::ValueCount => MAX_DISTINCT,
            CorrelationType::EventCount => MAX_COUNT,
            _ => MAX_VALUE,
        };
        if largest > limit {
            return Err(format!("compares with more than {limit}"));
        }
        let mut limits: Vec<(Comparison, i128)> =
            plan.condition.iter().map(|(&comparison, &number)| (comparison, scaled(number))).collect();
        if temporal && limits.is_empty() {
            limits.push((Comparison::Gte, plan_steps(plan, rules) as i128 * UNIT));
        }
        let at_least =
            limits.iter().all(|(comparison, _)| matches!(comparison, Comparison::Gt | Comparison::Gte));
        let formula = match &plan.expression {
            Some(written) => Some(Formula::new(written, rules)?),
            None => None,
        };
        let chains = match kind {
            CorrelationType::TemporalOrdered => chains(plan, rules, formula.as_ref())?,
            _ => Box::default(),
        };
        if let Some(formula) = &formula
            && formula.alternatives(true)?.iter().all(|(wanted, _)| *wanted == 0)
        {
            return Err(
                "the condition asks only for what must not happen: no event can make it true".to_owned()
            );
        }
        Ok(Self {
            kind,
            span: plan.timespan_ns,
            allowed: plan.timespan_ns.max(plan.lateness_ns),
            formula,
            repeats: chains.iter().map(Chain::repeats).max().unwrap_or(1).max(1),
            chains,
            rules: rules.len(),
            needed: largest as u64 + 1,
            percentile: (percentile * 1000.0).round() as u64,
            by_trust: at_least || plan.expression.is_some(),
            limits: limits.into(),
        })
    }

    pub(crate) fn percentile(&self) -> u64 {
        self.percentile
    }

    /// Compares a measure in units.
    pub(crate) fn accepts(&self, measure: i128) -> bool {
        self.limits.iter().all(|(comparison, number)| match comparison {
            Comparison::Gt => measure > *number,
            Comparison::Gte => measure >= *number,
            Comparison::Lt => measure < *number,
            Comparison::Lte => measure <= *number,
            Comparison::Eq => measure == *number,
            Comparison::Neq => measure != *number,
        })
    }

    /// The number of rules of a set, if it satisfies the condition of a `temporal` correlation.
    pub(crate) fn accepts_rules(&self, present: u64) -> Option<i128> {
        let measure = i128::from(present.count_ones()) * UNIT;
        let holds = match &self.formula {
            Some(formula) => formula.holds(present),
            None => self.accepts(measure),
        };
        holds.then_some(measure)
    }

    /// Chains have to be complete: the condition is an expression.
    pub(crate) fn whole_chains(&self) -> bool {
        self.formula.is_some()
    }
}

/// How many rules an ordered or unordered temporal correlation asks for without a condition.
fn plan_steps(plan: &CorrelationPlan, rules: &[&str]) -> usize {
    match plan.kind {
        CorrelationType::TemporalOrdered => plan.rules.len(), // a rule may be asked for twice
        _ => rules.len(),
    }
}

fn chains(plan: &CorrelationPlan, rules: &[&str], formula: Option<&Formula>) -> Result<Box<[Chain]>, String> {
    let chains: Vec<Chain> = match formula {
        None => {
            let index = |id: &String| rules.iter().position(|rule| rule == id);
            vec![Chain { steps: plan.rules.iter().filter_map(index).collect(), absent: 0 }]
        }
        Some(formula) => formula
            .alternatives(true)?
            .into_iter()
            .map(|(wanted, absent)| Chain {
                steps: (0..rules.len()).filter(|rule| wanted >> rule & 1 == 1).collect(),
                absent,
            })
            .collect(),
    };
    let size: usize = chains.iter().map(|chain| chain.steps.len() * (chain.steps.len() + 1) / 2).sum();
    if size > MAX_ORDER {
        return Err("has too many rules or alternatives to follow in order".to_owned());
    }
    Ok(chains.into())
}
