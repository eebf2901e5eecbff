//! Correlations of a plan, checked and linked to what feeds them.

use crate::compile::Interner;
use crate::judge::Judge;
use crate::plan::{CorrelationPlan, NetworkPlan, PlanError};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Version of the stored form of windows: others are not read.
const STATE_VERSION: &[u8] = b"windows 4";

/// What may feed a correlation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Feeder {
    Rule(u32),
    Correlation(u32),
}

/// A correlation with names resolved to indices.
#[derive(Debug)]
pub(crate) struct Correlation {
    pub(crate) plan: CorrelationPlan,
    /// What the correlation means, without where it was written.
    pub(crate) fingerprint: String,
    pub(crate) judge: Judge,
    /// Per feeding rule, where its events carry the group keys and the counted values.
    pub(crate) feeders: FxHashMap<Feeder, Reads>,
    /// Per group key, the networks that addresses are cut to.
    pub(crate) networks: Box<[Option<NetworkPlan>]>,
    pub(crate) entity: Box<[u32]>,
    pub(crate) fields: Box<[u32]>,
}

/// Fields a correlation reads from the events of one rule; of the names of one key the first present counts.
#[derive(Debug)]
pub(crate) struct Reads {
    /// Which of the correlation's different rules this is.
    pub(crate) rule: usize,
    /// In the order of `group_by`.
    pub(crate) groups: Box<[Box<[u32]>]>,
    /// In the order of `field`.
    pub(crate) values: Box<[Box<[u32]>]>,
}

impl Correlation {
    pub(crate) fn compile(
        plan: CorrelationPlan,
        feeders: &BTreeMap<String, Feeder>,
        names: &mut Interner,
    ) -> Result<Self, PlanError> {
        let refuse = |reason: String| PlanError::Correlation { correlation: plan.id.clone(), reason };
        let mut distinct: Vec<&str> = Vec::new();
        let mut reads = FxHashMap::default();
        for rule in &plan.rules {
            if distinct.contains(&rule.as_str()) {
                continue;
            }
            let unknown = || PlanError::UnknownRule { correlation: plan.id.clone(), rule: rule.clone() };
            let feeder = *feeders.get(rule).ok_or_else(unknown)?;
            let mut resolve = |keys: &[String]| -> Box<[Box<[u32]>]> {
                let resolved = keys.iter().map(|key| {
                    let alias = plan.aliases.get(key).and_then(|per_rule| per_rule.get(rule));
                    names.all(alias.map_or(std::slice::from_ref(key), |names| names.as_slice())).into()
                });
                resolved.collect()
            };
            let (groups, values) = (resolve(&plan.group_by), resolve(&plan.field));
            reads.insert(feeder, Reads { rule: distinct.len(), groups, values });
            distinct.push(rule);
        }
        for (name, cut) in &plan.networks {
            if !plan.group_by.contains(name) {
                return Err(refuse(format!("networks names {name:?}, which it does not group by")));
            }
            if !(1..=32).contains(&cut.ipv4) || !(1..=128).contains(&cut.ipv6) {
                return Err(refuse(format!("networks of {name:?}: prefixes are 1 to 32 and 1 to 128")));
            }
        }
        let judge = Judge::new(&plan, &distinct).map_err(&refuse)?;
        let meaning = CorrelationPlan { path: None, line: None, title: String::new(), ..plan.clone() };
        let fingerprint =
            crate::detection::digest(&[STATE_VERSION, serde_json::to_string(&meaning)?.as_bytes()]);
        Ok(Self {
            fingerprint: fingerprint[..16].to_owned(),
            judge,
            feeders: reads,
            networks: plan.group_by.iter().map(|name| plan.networks.get(name).copied()).collect(),
            entity: names.all(&plan.entity).into(),
            fields: names.all(&plan.fields).into(),
            plan,
        })
    }
}

/// Correlations fed by each rule or correlation.
///
/// # Errors
/// When correlations build on each other in a circle.
pub(crate) fn feeds(correlations: &[Correlation]) -> Result<FxHashMap<Feeder, Vec<u32>>, PlanError> {
    let mut feeds: FxHashMap<Feeder, Vec<u32>> = FxHashMap::default();
    for (index, correlation) in correlations.iter().enumerate() {
        for &feeder in correlation.feeders.keys() {
            feeds.entry(feeder).or_default().push(index as u32);
        }
    }
    // What is left when everything that builds on nothing left was taken away stands in a circle or behind one.
    let mut open: Vec<usize> = correlations.iter().map(|correlation| inner(correlation).count()).collect();
    let mut ready: Vec<usize> = (0..open.len()).filter(|&index| open[index] == 0).collect();
    let mut settled = 0;
    while let Some(index) = ready.pop() {
        settled += 1;
        for &outer in feeds.get(&Feeder::Correlation(index as u32)).into_iter().flatten() {
            open[outer as usize] -= 1;
            if open[outer as usize] == 0 {
                ready.push(outer as usize);
            }
        }
    }
    if settled == correlations.len() {
        return Ok(feeds);
    }
    let mut path: Vec<usize> = Vec::new();
    let mut next = open.iter().position(|&left| left > 0);
    while let Some(at) = next {
        if let Some(start) = path.iter().position(|&known| known == at) {
            path.drain(..start);
            path.push(at);
            break;
        }
        path.push(at);
        next = inner(&correlations[at]).find(|&index| open[index] > 0);
    }
    Err(PlanError::Circle(path.into_iter().map(|index| correlations[index].plan.id.clone()).collect()))
}

/// The correlations that a correlation builds on.
fn inner(correlation: &Correlation) -> impl Iterator<Item = usize> + '_ {
    correlation.feeders.keys().filter_map(|feeder| match feeder {
        Feeder::Rule(_) => None,
        Feeder::Correlation(index) => Some(*index as usize),
    })
}
