//! A row as correlations and detections see it.

use crate::compile::Compiled;
use crate::correlate::SourcePosition;
use crate::correlation::{Correlation, Feeder};
use crate::detection::{
    ALWAYS_READ, CONTAINER_ID, Detection, DetectionKind, Entity, MAX_EVIDENCE_BYTES, Matched, TRUST, digest,
    digest_number, lossy,
};
use crate::plan::NetworkPlan;
use crate::window::Trust;
use ipnet::IpNet;
use ironpost_events::RowRef;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Longer group values are cut.
pub(crate) const MAX_GROUP_VALUE: usize = 512;

/// What a window knows at the moment of crossing.
pub(crate) struct Decided {
    pub(crate) count: u64,
    pub(crate) measure: f64,
    pub(crate) evidence: Vec<String>,
    pub(crate) trace_id: String,
    pub(crate) trust: Trust,
    pub(crate) entity: Option<Entity>,
}

/// The row being judged.
pub(crate) struct Event<'a> {
    pub(crate) row: RowRef<'a>,
    pub(crate) index: u32,
    pub(crate) position: &'a SourcePosition<'a>,
}

impl Event<'_> {
    pub(crate) fn time(&self) -> Option<i64> {
        match (self.row.info().timestamp, self.position.received) {
            // A clock ahead, or a lie, must not close windows early: nothing happens after it was received.
            (Some(time), Some(received)) => Some(time.min(received)),
            (time, received) => time.or(received),
        }
    }

    /// First value of a field, as text.
    fn text(&self, compiled: &Compiled, field: u32, limit: usize) -> Option<String> {
        let id = compiled.ids.get(field as usize).copied().flatten()?;
        let value = self.row.values(id).find(|value| value.kind.has_value())?;
        Some(lossy(value.bytes, limit))
    }

    /// The first of several fields that the event has, as text.
    pub(crate) fn first_text(&self, compiled: &Compiled, fields: &[u32], limit: usize) -> Option<String> {
        fields.iter().find_map(|&field| self.text(compiled, field, limit))
    }

    fn always(&self, compiled: &Compiled, which: usize) -> Option<String> {
        let value = self.row.values(compiled.always[which]?).find(|value| value.kind.has_value())?;
        Some(lossy(value.bytes, MAX_GROUP_VALUE))
    }

    pub(crate) fn trust(&self, compiled: &Compiled) -> Trust {
        let value =
            compiled.always[TRUST].and_then(|id| self.row.values(id).find(|value| value.kind.has_value()));
        value.map_or(Trust::Unstated, |value| Trust::parse(value.bytes))
    }

    pub(crate) fn evidence(&self) -> String {
        lossy(self.row.raw(), MAX_EVIDENCE_BYTES)
    }

    fn trace(&self) -> u128 {
        trace(self.position.source, self.row.info().position)
    }

    fn entity(&self, compiled: &Compiled, fields: &[u32]) -> Option<Entity> {
        fields.iter().find_map(|&field| {
            let value = self.text(compiled, field, MAX_GROUP_VALUE).filter(|value| !value.is_empty())?;
            Some(Entity { kind: compiled.set.names[field as usize].clone(), value })
        })
    }

    /// What a correlation's detection is about: where the group is a network, the network.
    pub(crate) fn group_entity(
        &self,
        compiled: &Compiled,
        correlation: &Correlation,
        feeder: Feeder,
        group: &[String],
    ) -> Option<Entity> {
        let mut entity = self.entity(compiled, &correlation.entity)?;
        if let Some(reads) = correlation.feeders.get(&feeder) {
            for ((fields, cut), value) in reads.groups.iter().zip(&correlation.networks).zip(group) {
                if cut.is_some()
                    && fields.iter().any(|&field| compiled.set.names[field as usize] == entity.kind)
                {
                    entity.value.clone_from(value);
                }
            }
        }
        Some(entity)
    }

    fn fields(&self, compiled: &Compiled, wanted: &[u32]) -> BTreeMap<String, String> {
        let asked = wanted.iter().filter_map(|&field| {
            Some((compiled.set.names[field as usize].clone(), self.text(compiled, field, MAX_GROUP_VALUE)?))
        });
        let usual = (0..ALWAYS_READ.len())
            .filter_map(|index| Some((ALWAYS_READ[index].to_owned(), self.always(compiled, index)?)));
        usual.chain(asked).collect()
    }

    fn id(&self, rule_id: &str, group: &[String]) -> String {
        let position = self.row.info().position.to_le_bytes();
        let mut parts: Vec<&[u8]> = vec![rule_id.as_bytes(), self.position.source.as_bytes(), &position];
        parts.extend(group.iter().map(|value| value.as_bytes()));
        digest(&parts)
    }

    fn matched(&self, compiled: &Compiled, feeder: Feeder) -> Vec<Matched> {
        match feeder {
            Feeder::Rule(rule) => compiled.explain(rule, self.row),
            Feeder::Correlation(_) => Vec::new(),
        }
    }

    pub(crate) fn rule_detection(&self, compiled: &Compiled, index: u32) -> Detection {
        let rule = &compiled.set.rules[index as usize];
        Detection {
            id: self.id(&rule.id, &[]),
            rule_id: rule.id.clone(),
            rule_title: rule.title.clone(),
            level: rule.level.clone(),
            kind: DetectionKind::Rule,
            timestamp: self.time(),
            row: self.index,
            group: Vec::new(),
            entity: self.entity(compiled, &rule.entity),
            matched: compiled.explain(index, self.row),
            evidence: vec![self.evidence()],
            fields: self.fields(compiled, &rule.fields),
            count: u64::from(self.row.info().repeat),
            measure: None,
            ongoing: false,
            trace_id: format!("{:032x}", self.trace()),
            trust: self.trust(compiled).name(),
            source: self.position.source.to_owned(),
            position: self.row.info().position,
            container_id: self.always(compiled, CONTAINER_ID),
            tags: rule.tags.clone(),
            event: rule.event.then(|| self.row.to_json()),
        }
    }

    pub(crate) fn correlation_detection(
        &self,
        compiled: &Compiled,
        correlation: &Correlation,
        feeder: Feeder,
        group: &[String],
        decided: Decided,
    ) -> Detection {
        let plan = &correlation.plan;
        Detection {
            id: self.id(&plan.id, group),
            rule_id: plan.id.clone(),
            rule_title: plan.title.clone(),
            level: plan.level.clone(),
            kind: DetectionKind::Correlation,
            timestamp: self.time(),
            row: self.index,
            group: plan.group_by.iter().cloned().zip(group.iter().cloned()).collect(),
            entity: decided.entity,
            matched: self.matched(compiled, feeder),
            evidence: decided.evidence,
            fields: self.fields(compiled, &correlation.fields),
            count: decided.count,
            measure: Some(decided.measure),
            ongoing: false,
            trace_id: decided.trace_id,
            trust: decided.trust.name(),
            source: self.position.source.to_owned(),
            position: self.row.info().position,
            container_id: self.always(compiled, CONTAINER_ID),
            tags: plan.tags.clone(),
            event: None,
        }
    }
}

/// What names a record on its way from the source to the action.
pub(crate) fn trace(source: &str, position: u64) -> u128 {
    digest_number(&[b"trace", source.as_bytes(), &position.to_le_bytes()])
}

/// An address cut to its network; other text as it is.
pub(crate) fn network(text: String, cut: NetworkPlan) -> String {
    let Ok(address) = text.parse::<IpAddr>() else { return text };
    let address = address.to_canonical(); // an IPv4 address written as IPv6 is the same sender
    let length = if address.is_ipv4() { cut.ipv4 } else { cut.ipv6 };
    match IpNet::new(address, length) {
        Ok(network) if network.prefix_len() < network.max_prefix_len() => network.trunc().to_string(),
        _ => address.to_string(),
    }
}
