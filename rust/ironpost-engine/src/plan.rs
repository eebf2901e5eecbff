//! What workers need to turn bytes into matches; made anew when the rules change and replaced as a whole.

use crate::intake::Kind;
use crate::origin::Origin;
use crate::settings::Settings;
use crate::source::{Source, lock};
use ironpost_detect::{Compiled, RuleSet};
use ironpost_events::{CompiledFacts, ExtractorSet, FieldTable, Format, ParseOptions, Parser, SourceFacts};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// Marks a record that was cut at the size limit.
const TRUNCATED: (&str, &str) = ("log.flags", "truncated");

/// What the events of this host's sources are, whatever they claim, where the settings tell no product.
const HOME: &str = "linux";

/// The field that says how far a source is to be believed, and its value when anybody on the host may have written it.
const TRUST: &str = "ironpost.trust";
const DOUBTFUL: &str = "unauthenticated";

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// Rules and parsers bound to one field table.
pub(crate) struct Plan {
    pub(crate) epoch: u64,
    pub(crate) compiled: Arc<Compiled>,
    parsers: BTreeMap<String, Parser>,
}

impl Plan {
    /// The parser of a format that the settings name.
    pub(crate) fn parser(&self, format: &str) -> Option<&Parser> {
        self.parsers.get(format).or_else(|| self.parsers.get("auto"))
    }

    /// The constant fields of a source's records; what the system says about their origin stands above them.
    pub(crate) fn facts(
        &self,
        source: &Source,
        kind: Kind,
        origin: Option<&Origin>,
        trust: Option<&str>,
    ) -> Option<CompiledFacts> {
        let parser = self.parser(&source.format)?;
        let mut facts = SourceFacts { fields: source.facts.clone(), logsource: source.logsource.clone() };
        match kind {
            Kind::Whole => {}
            Kind::Cut => facts.fields.push((TRUNCATED.0.to_owned(), TRUNCATED.1.to_owned())),
            Kind::Doubtful => {
                facts.fields.retain(|(name, _)| name != TRUST);
                facts.fields.push((TRUST.to_owned(), DOUBTFUL.to_owned()));
            }
        }
        let of_origin = origin.map(Origin::fields).unwrap_or_default();
        let trust = trust.map(|trust| (TRUST.to_owned(), trust.to_owned()));
        for (name, value) in of_origin.into_iter().chain(trust) {
            facts.fields.retain(|(known, _)| *known != name);
            facts.fields.push((name, value));
        }
        Some(parser.facts(&facts))
    }
}

/// The plans in use: the newest, and older ones while chunks taken under them are on their way.
pub(crate) struct Plans {
    extractors: Arc<ExtractorSet>,
    formats: Vec<String>,
    timezone: jiff::tz::TimeZone,
    year: Option<i16>,
    list: Mutex<BTreeMap<u64, Arc<Plan>>>,
}

/// A name in the settings that means nothing.
#[derive(Debug, thiserror::Error)]
pub enum PlanningError {
    /// Not a parser's name.
    #[error("format {name} of {source_id}: {reason}")]
    Format {
        /// As written.
        name: String,
        /// The source that asks for it.
        source_id: String,
        /// What the parser registry says.
        reason: String,
    },
    /// Not a time zone.
    #[error("timezone {0} is not known; use UTC, local, or a name such as Europe/Berlin")]
    Timezone(String),
}

impl Plans {
    pub(crate) fn new(settings: &Settings, extractors: Arc<ExtractorSet>) -> Result<Self, PlanningError> {
        let timezone = match settings.timezone.as_str() {
            "local" => jiff::tz::TimeZone::system(),
            name if name.is_empty() || name.eq_ignore_ascii_case("utc") => jiff::tz::TimeZone::UTC,
            name => jiff::tz::TimeZone::get(name).map_err(|_| PlanningError::Timezone(name.to_owned()))?,
        };
        let mut formats = vec!["auto".to_owned(), "json".to_owned()];
        let described = settings
            .files
            .iter()
            .map(|file| &file.described)
            .chain(settings.udp.iter().map(|udp| &udp.described))
            .chain(settings.tcp.iter().map(|tcp| &tcp.described))
            .chain(settings.unix.iter().map(|unix| &unix.described));
        for described in described.filter(|described| !described.format.is_empty()) {
            Format::from_str(&described.format).map_err(|error| PlanningError::Format {
                name: described.format.clone(),
                source_id: described
                    .facts
                    .get("log.file.path")
                    .cloned()
                    .unwrap_or_else(|| "a source".to_owned()),
                reason: error.to_string(),
            })?;
            formats.push(described.format.clone());
        }
        Ok(Self { extractors, formats, timezone, year: settings.year, list: Mutex::new(BTreeMap::new()) })
    }

    /// Binds a rule set and makes it the newest plan; its epoch.
    pub(crate) fn add(&self, rules: Arc<RuleSet>) -> u64 {
        let names: Vec<&str> = self.extractors.field_names().chain(rules.field_names()).collect();
        let fields = FieldTable::new(names);
        self.insert(Arc::new(rules.bind(fields).at_home(HOME)))
    }

    fn insert(&self, compiled: Arc<Compiled>) -> u64 {
        let parsers = self
            .formats
            .iter()
            .filter_map(|name| {
                let options = ParseOptions {
                    format: Format::from_str(name).ok()?,
                    year: self.year,
                    timezone: self.timezone.clone(),
                    now: now_ns(),
                };
                let extractors = Arc::clone(&self.extractors);
                Some((name.clone(), Parser::new(extractors, Arc::clone(compiled.fields()), options)))
            })
            .collect();
        let mut list = lock(&self.list);
        let epoch = list.last_key_value().map_or(1, |(newest, _)| newest + 1);
        list.insert(epoch, Arc::new(Plan { epoch, compiled, parsers }));
        epoch
    }

    /// A plan by its epoch.
    pub(crate) fn get(&self, epoch: u64) -> Option<Arc<Plan>> {
        lock(&self.list).get(&epoch).cloned()
    }

    /// Drops plans no chunk can need any more.
    pub(crate) fn forget_before(&self, epoch: u64) {
        lock(&self.list).retain(|known, _| *known >= epoch);
    }
}
