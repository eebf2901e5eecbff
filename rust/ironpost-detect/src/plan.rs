//! The plan: what Python lowers rules to, as plain JSON (version 1).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The only version this crate executes.
pub(crate) const VERSION: u32 = 1;

/// A plan that cannot be executed. Every variant names the rule.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not JSON, or not of the plan's shape.
    #[error("rule plan is not readable: {0}")]
    Json(#[from] serde_json::Error),
    /// A condition is not of the plan's shape.
    #[error("rule {rule}: a condition is not readable: {source}")]
    Atom {
        /// Rule id.
        rule: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Made by another version of the compiler.
    #[error("rule plan has version {0}, expected {VERSION}: compile the rules again")]
    Version(u32),
    /// A condition names a detection that does not exist.
    #[error("rule {rule}: condition names unknown detection {name:?}")]
    UnknownDetection {
        /// Rule id.
        rule: String,
        /// The name.
        name: String,
    },
    /// A condition's value does not fit its operator.
    #[error("rule {rule}: field {field}: {reason}")]
    Value {
        /// Rule id.
        rule: String,
        /// Field name, `keywords` without one.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A correlation refers to a rule that is not in the plan.
    #[error("correlation {correlation}: unknown rule {rule:?}")]
    UnknownRule {
        /// Correlation id.
        correlation: String,
        /// The missing rule.
        rule: String,
    },
    /// Correlations refer to each other in a circle.
    #[error("correlations build on each other in a circle: {}", .0.join(" → "))]
    Circle(Vec<String>),
    /// A correlation lacks something its type needs.
    #[error("correlation {correlation}: {reason}")]
    Correlation {
        /// Correlation id.
        correlation: String,
        /// What is wrong.
        reason: String,
    },
    /// A field map or a table for deriving log sources cannot be used.
    #[error("{what}: {reason}")]
    Names {
        /// What it is, with its name or the rule that asks for it.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// All rules together read more event fields than an engine tells apart.
    #[error(
        "rule {0}: with it the rules read more than {MAX_FIELDS} event fields: take out rules, or narrow field maps"
    )]
    TooManyFields(String),
    /// Two rules share an id.
    #[error("rule id {0} is used twice")]
    DuplicateId(String),
}

/// Event fields that all rules and tables of a plan may read; the rest of a [`ironpost_events::FieldTable`] is for its own
/// names and those of extractors.
pub const MAX_FIELDS: usize = 60_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan<'a> {
    pub(crate) version: u32,
    #[serde(borrow, default)]
    pub(crate) rules: Vec<RulePlan<'a>>,
    #[serde(default)]
    pub(crate) correlations: Vec<CorrelationPlan>,
    /// Field maps that rules name by index.
    #[serde(default)]
    pub(crate) maps: Vec<MapPlan>,
    /// How the log source of an event is told from the event, in order.
    #[serde(default)]
    pub(crate) derive: Vec<DeciderPlan>,
}

/// Where events carry the fields of rules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MapPlan {
    /// Rule field to event fields: of the entries the first present counts, the names of one entry are looked at
    /// together.
    #[serde(default)]
    pub(crate) fields: BTreeMap<String, Vec<Names>>,
    /// How names without a dot are also written, `{}` standing for the name.
    #[serde(default)]
    pub(crate) forms: Vec<String>,
}

/// One table that tells a log source from a few values of an event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeciderPlan {
    #[serde(default)]
    pub(crate) name: String,
    /// Key to event fields, of which the first present counts.
    pub(crate) keys: Vec<Vec<String>>,
    /// The first row that fits decides.
    pub(crate) rows: Vec<DeciderRow>,
}

/// One row of a [`DeciderPlan`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeciderRow {
    /// Per key: texts of which one is the value in any case (a last `*` stands for any rest), `true` for any value,
    /// `false` for none, `null` for no condition.
    pub(crate) when: Vec<Wanted>,
    /// What the event then is; a part left out is none, a part that is `null` may be anything.
    pub(crate) is: LogsourcePlan,
}

/// What a row of a [`DeciderPlan`] asks of one key.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Wanted {
    Presence(Option<bool>),
    Values(Vec<String>),
}

fn yes() -> bool {
    true
}

fn medium() -> String {
    "medium".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RulePlan<'a> {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) title: String,
    #[serde(default = "medium")]
    pub(crate) level: String,
    #[serde(default, rename = "status")]
    pub(crate) _status: Option<String>,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    #[serde(default, rename = "path")]
    pub(crate) _path: Option<String>,
    #[serde(default, rename = "line")]
    pub(crate) _line: Option<u64>,
    #[serde(default = "yes")]
    pub(crate) emit: bool,
    #[serde(default)]
    pub(crate) logsource: LogsourcePlan,
    /// Index of the field map for the names in `detections`, `condition` and `fields`.
    #[serde(default)]
    pub(crate) map: Option<u32>,
    #[serde(default)]
    pub(crate) fields: Vec<String>,
    #[serde(default)]
    pub(crate) event: bool,
    #[serde(default)]
    pub(crate) entity: Vec<String>,
    #[serde(borrow, default)]
    pub(crate) detections: BTreeMap<String, Expr<'a>>,
    #[serde(borrow)]
    pub(crate) condition: Expr<'a>,
}

/// Alternatives per part; `None` accepts anything.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Hash)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogsourcePlan {
    #[serde(default)]
    pub(crate) product: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) category: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) service: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CorrelationPlan {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) title: String,
    #[serde(default = "medium")]
    pub(crate) level: String,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    #[serde(default)]
    pub(crate) path: Option<String>,
    #[serde(default)]
    pub(crate) line: Option<u64>,
    #[serde(rename = "type")]
    pub(crate) kind: CorrelationType,
    pub(crate) rules: Vec<String>,
    #[serde(default)]
    pub(crate) group_by: Vec<String>,
    #[serde(default)]
    pub(crate) field: Vec<String>,
    pub(crate) timespan_ns: i64,
    /// How much older than the newest event of its group an event may be; never less than the timespan.
    #[serde(default)]
    pub(crate) lateness_ns: i64,
    #[serde(default)]
    pub(crate) condition: BTreeMap<Comparison, f64>,
    /// Temporal types: which of the rules must and must not have matched, instead of how many.
    #[serde(default)]
    pub(crate) expression: Option<Occurrence>,
    /// `value_percentile`: which one.
    #[serde(default)]
    pub(crate) percentile: Option<f64>,
    /// Group keys whose addresses are cut to their network.
    #[serde(default)]
    pub(crate) networks: BTreeMap<String, NetworkPlan>,
    #[serde(default)]
    pub(crate) aliases: BTreeMap<String, BTreeMap<String, Names>>,
    #[serde(default = "yes")]
    pub(crate) emit: bool,
    #[serde(default)]
    pub(crate) entity: Vec<String>,
    #[serde(default)]
    pub(crate) fields: Vec<String>,
}

/// One field name, or several of which the first one present counts.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum Names {
    One(String),
    Several(Vec<String>),
}

impl Names {
    pub(crate) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CorrelationType {
    EventCount,
    ValueCount,
    ValueSum,
    ValueAvg,
    ValueMedian,
    ValuePercentile,
    /// The percentage that the event's own value has among the values of the window.
    ValueShare,
    Temporal,
    TemporalOrdered,
}

/// Prefix lengths that addresses are cut to.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkPlan {
    pub(crate) ipv4: u8,
    pub(crate) ipv6: u8,
}

/// A boolean expression over the rules of a temporal correlation.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Occurrence {
    And(Vec<Occurrence>),
    Or(Vec<Occurrence>),
    Not(Box<Occurrence>),
    /// Id of a rule or correlation.
    Rule(String),
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Comparison {
    Gt,
    Gte,
    Lt,
    Lte,
    Eq,
    Neq,
}

/// A boolean expression over atoms.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Expr<'a> {
    #[serde(borrow)]
    And(Vec<Expr<'a>>),
    #[serde(borrow)]
    Or(Vec<Expr<'a>>),
    #[serde(borrow)]
    Not(Box<Expr<'a>>),
    Ref(String),
    Const(bool),
    /// The text of an [`AtomPlan`]: rules repeat each other's, and the text tells so at once.
    #[serde(borrow)]
    Atom(&'a RawValue),
}

impl AtomPlan {
    pub(crate) fn read(rule: &str, text: &RawValue) -> Result<Self, PlanError> {
        serde_json::from_str(text.get()).map_err(|source| PlanError::Atom { rule: rule.to_owned(), source })
    }
}

/// One condition on one field; `field: None` is a keyword, searched in every value.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AtomPlan {
    pub(crate) field: Option<String>,
    pub(crate) op: Op,
    #[serde(default)]
    pub(crate) value: serde_json::Value,
    #[serde(default)]
    pub(crate) cased: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Op {
    Equals,
    Contains,
    Startswith,
    Endswith,
    /// Value: list of literals (text) and `{"wild": "*"}` / `{"wild": "?"}`.
    Wildcard,
    Regex,
    Cidr,
    Exists,
    Null,
    Lt,
    Lte,
    Gt,
    Gte,
    /// Value: field name, or `{"field": name, "match": "equals|contains|startswith|endswith"}`.
    Fieldref,
    /// Value: `{"part": "minute|hour|day|week|month|year", "compare": "eq|lt|lte|gt|gte", "number": n}`.
    Timepart,
}
