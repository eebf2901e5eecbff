//! rsigma's engine, used as its own benches use it: a `serde_json` tree, then its evaluate call.

use crate::lane::Lane;
use rsigma_eval::JsonEvent;
use rsigma_parser::{LogSource, parse_sigma_yaml};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(crate) struct Engine {
    engine: rsigma_eval::Engine,
}

fn rule_files(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            rule_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "yml") {
            found.push(path);
        }
    }
    Ok(())
}

impl Engine {
    /// Loads the rules whose id is in `wanted`, all when it is empty: both engines run the same rules.
    pub(crate) fn load(rules: &Path, wanted: &BTreeSet<String>) -> Result<Self, Box<dyn std::error::Error>> {
        let mut files = Vec::new();
        rule_files(rules, &mut files)?;
        files.sort();
        let mut parsed = Vec::new();
        for file in files {
            let collection = parse_sigma_yaml(&std::fs::read_to_string(&file)?)?;
            parsed.extend(
                collection.rules.into_iter().filter(|rule| {
                    wanted.is_empty() || rule.id.as_ref().is_some_and(|id| wanted.contains(id))
                }),
            );
        }
        let mut engine = rsigma_eval::Engine::new();
        if let Some((index, error)) = engine.add_rules(&parsed).into_iter().next() {
            return Err(format!("rsigma refuses {:?}: {error}", parsed[index].title).into());
        }
        Ok(Self { engine })
    }

    pub(crate) fn rules(&self) -> usize {
        self.engine.rule_count()
    }

    fn sources(lane: &Lane) -> Vec<LogSource> {
        let text = |part: &Option<Box<str>>| part.as_deref().map(str::to_owned);
        lane.sources()
            .iter()
            .map(|source| LogSource {
                product: text(&source.product),
                category: text(&source.category),
                service: text(&source.service),
                ..LogSource::default()
            })
            .collect()
    }

    fn each(
        &self,
        lane: &Lane,
        routed: bool,
        mut take: impl FnMut(usize, Vec<rsigma_eval::EvaluationResult>),
    ) {
        let sources = Self::sources(lane);
        for index in 0..lane.len() {
            let (text, source) = lane.event(index);
            let Ok(value) = serde_json::from_slice(text) else { continue };
            let event = JsonEvent::borrow(&value);
            take(
                index,
                if routed {
                    // An unknown part of a log source accepts any rule, as with us.
                    self.engine.evaluate_pruned(&event, &sources[source])
                } else {
                    self.engine.evaluate(&event)
                },
            );
        }
    }

    /// All events of the lane; the number of matches.
    pub(crate) fn run(&mut self, lane: &Lane, routed: bool) -> usize {
        let mut found = 0;
        self.each(lane, routed, |_, matches| found += std::hint::black_box(matches).len());
        found
    }

    /// Every (event, rule) that holds.
    pub(crate) fn matches(&mut self, lane: &Lane, routed: bool) -> BTreeSet<(u32, String)> {
        let mut found = BTreeSet::new();
        self.each(lane, routed, |index, matches| {
            found.extend(matches.into_iter().filter_map(|hit| Some((index as u32, hit.header.rule_id?))));
        });
        found
    }
}
