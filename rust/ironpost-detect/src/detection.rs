//! Detections: what rules and correlations report.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Fields read for every detection, whatever the rule says.
pub(crate) const ALWAYS_READ: [&str; 12] = [
    "ironpost.trust",
    "container.id",
    "container.name",
    "source.ip",
    "user.name",
    "host.hostname",
    "process.name",
    "destination.ip",
    "destination.port",
    "event.action",
    "event.outcome",
    "url.original",
];
pub(crate) const TRUST: usize = 0;
pub(crate) const CONTAINER_ID: usize = 1;

/// At most this many raw records are kept as evidence.
pub(crate) const MAX_EVIDENCE: usize = 10;
/// Longer records are cut in evidence.
pub(crate) const MAX_EVIDENCE_BYTES: usize = 8 * 1024;

/// Whether a single event or a count over time was decisive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DetectionKind {
    /// One event.
    Rule,
    /// Events over time.
    Correlation,
}

impl DetectionKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Correlation => "correlation",
        }
    }
}

/// One condition that held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Matched {
    /// Name of the selection in the rule.
    pub selection: String,
    /// The event's field.
    pub field: String,
    /// The value that matched; empty when its absence did.
    pub value: String,
    /// What the rule asked: the operator's name in the plan, for example `endswith`.
    pub op: &'static str,
    /// What the rule compared with: text, wildcards as `*` and `?`, a number, a network, an expression, a field name.
    pub pattern: String,
}

/// What a rule or correlation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// 32 hexadecimal digits derived from rule, group, source and position: re-reading gives the same id.
    pub id: String,
    /// Rule or correlation id.
    pub rule_id: String,
    /// Its title.
    pub rule_title: String,
    /// Its level.
    pub level: String,
    /// Rule or correlation.
    pub kind: DetectionKind,
    /// Time of the deciding event, nanoseconds since the Unix epoch; `None` when neither the event nor the caller knows.
    pub timestamp: Option<i64>,
    /// Row of the deciding event in its batch.
    pub row: u32,
    /// Field and value of each group key.
    pub group: Vec<(String, String)>,
    /// What the detection is about.
    pub entity: Option<Entity>,
    /// Conditions that held on the deciding event.
    pub matched: Vec<Matched>,
    /// Raw records that contributed, oldest first, the deciding one last.
    pub evidence: Vec<String>,
    /// Telling fields of the deciding event.
    pub fields: std::collections::BTreeMap<String, String>,
    /// Events, distinct values or rules counted; 1 for a rule (more when the record stands for several). Of what goes on:
    /// those counted since the last report.
    pub count: u64,
    /// What a correlation's condition compared: a number of events, values or rules, or a sum, average or percentile.
    pub measure: Option<f64>,
    /// More of what an earlier detection of the same trace reported; the condition has been true since.
    pub ongoing: bool,
    /// 32 hexadecimal digits derived from the first contributing record.
    pub trace_id: String,
    /// The weakest trust among contributing events.
    pub trust: Option<&'static str>,
    /// Source id.
    pub source: String,
    /// Position of the deciding record in its source.
    pub position: u64,
    /// Container the deciding event came from.
    pub container_id: Option<String>,
    /// Tags of the rule.
    pub tags: Vec<String>,
    /// The whole event as a JSON object, for rules that ask for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

/// What a detection is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entity {
    /// The field that names it, for example `source.ip`.
    pub kind: String,
    /// Its value.
    pub value: String,
}

impl Detection {
    /// Appends the detection as one JSON object.
    pub fn to_json(&self, out: &mut Vec<u8>) {
        // Writing plain data to memory has no way to fail.
        let _ = serde_json::to_writer(out, self);
    }
}

/// 32 hexadecimal digits over length-prefixed parts. Attackers choose some of the parts and must not be able to make two
/// detections share an id, hence a cryptographic hash.
pub(crate) fn digest(parts: &[&[u8]]) -> String {
    format!("{:032x}", digest_number(parts))
}

pub(crate) fn digest_number(parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).fold(0, |number, &byte| number << 8 | u128::from(byte))
}

/// Text of at most `limit` bytes, cut at a character.
pub(crate) fn lossy(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(limit)]).into_owned();
    if bytes.len() <= limit {
        return text;
    }
    let mut text = text.trim_end_matches('\u{FFFD}').to_owned();
    text.push('…');
    text
}
