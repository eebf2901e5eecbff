//! Reports of attacks that go on.

use super::Correlator;
use crate::correlation::Correlation;
use crate::detection::{Detection, DetectionKind, Entity, digest};
use crate::event::trace;
use crate::window::Growth;
use std::collections::VecDeque;
use std::sync::Arc;

/// Growth that nothing has reported is told when a group was quiet for this long.
const QUIET: i64 = 10_000_000_000;

/// Groups with growth nobody was told of: since when, correlation and key.
pub(super) type Owed = VecDeque<(i64, usize, Box<str>)>;

impl Correlator {
    /// Reports growth of groups that have been quiet since, by the clock of receipt; to be called now and then.
    pub fn report_quiet(&mut self, now: i64, detections: &mut Vec<Detection>) {
        let compiled = Arc::clone(&self.compiled);
        while let Some((since, index, key)) = self.owed.as_mut().and_then(VecDeque::pop_front) {
            // A clock that was set back must not keep anybody waiting.
            if (since..since.saturating_add(QUIET)).contains(&now) {
                if let Some(owed) = &mut self.owed {
                    owed.push_front((since, index, key));
                }
                break;
            }
            let Some(windows) = self.windows.get_mut(index) else { continue };
            let Some(at) = windows.groups.find(&key) else { continue };
            let Some(group) = windows.groups.at(at) else { continue };
            let mut waits = None;
            let mut told = Vec::new();
            for window in group.windows() {
                let Some(episode) = window.episode.as_deref_mut().filter(|episode| episode.owed) else {
                    continue;
                };
                let heard = episode.heard;
                if (heard..heard.saturating_add(QUIET)).contains(&now) {
                    waits = Some(heard);
                    continue;
                }
                episode.owed = false;
                told.extend(window.take_growth());
            }
            if let Some(heard) = waits
                && let Some(owed) = &mut self.owed
            {
                owed.push_back((heard.max(since), index, key.clone()));
            }
            if told.is_empty() {
                continue;
            }
            windows.mark(at);
            let correlation = &compiled.set.correlations[index];
            let names: Vec<String> = serde_json::from_str(&key).unwrap_or_default();
            for growth in told {
                self.report(correlation, &names, &growth);
            }
        }
        detections.append(&mut self.parting);
    }

    /// A detection that tells more of what was reported before. Its id follows from what it tells.
    pub(super) fn report(&mut self, correlation: &Correlation, group: &[String], growth: &Growth) {
        let plan = &correlation.plan;
        let episode = &growth.episode;
        let first = self.trace(episode.first);
        let trace_id = format!("{first:032x}");
        let mut parts: Vec<&[u8]> = vec![b"ongoing", plan.id.as_bytes(), trace_id.as_bytes()];
        let (total, seen) = (episode.total.to_le_bytes(), episode.seen.to_le_bytes());
        parts.extend([&total[..], &seen[..]]);
        parts.extend(group.iter().map(|value| value.as_bytes()));
        if !plan.emit {
            return;
        }
        let detection = Detection {
            id: digest(&parts),
            rule_id: plan.id.clone(),
            rule_title: plan.title.clone(),
            level: plan.level.clone(),
            kind: DetectionKind::Correlation,
            timestamp: Some(episode.seen),
            row: 0,
            group: plan.group_by.iter().cloned().zip(group.iter().cloned()).collect(),
            entity: episode.entity.clone().map(|(kind, value)| Entity { kind, value }),
            matched: Vec::new(),
            evidence: Vec::new(),
            fields: std::collections::BTreeMap::new(),
            count: growth.count,
            measure: None,
            ongoing: true,
            trace_id,
            trust: growth.trust.name(),
            source: self
                .sources
                .get(usize::from(episode.last.0))
                .map_or_else(String::new, |name| name.to_string()),
            position: episode.last.1,
            container_id: None,
            tags: plan.tags.clone(),
            event: None,
        };
        self.parting.push(detection);
    }

    pub(super) fn trace(&self, (source, position): (u16, u64)) -> u128 {
        trace(self.sources.get(usize::from(source)).map_or("", |name| name), position)
    }
}
