//! Extractors: which lines they look at, and what they take from them.

mod matcher;
mod pattern;

use crate::batch::{Cell, Logsource, Pool, ValueKind};
use crate::fields::{FieldId, FieldTable};
use matcher::{Captures, Matcher};
pub use pattern::PatternError;
use pattern::{Kind, MAX_CAPTURES};
use rustc_hash::FxHashMap;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The plan that the control plane makes from extractor files, version 1.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    version: u32,
    extractors: Vec<PlannedExtractor>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlannedExtractor {
    name: String,
    /// Program names; `*` is every line; none at all is lines without a program name.
    #[serde(default)]
    programs: Vec<String>,
    #[serde(default)]
    logsource: PlannedLogsource,
    patterns: Vec<PlannedPattern>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlannedLogsource {
    product: Option<String>,
    category: Option<String>,
    service: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlannedPattern {
    id: String,
    #[serde(default)]
    contains: Option<String>,
    pattern: String,
    #[serde(default)]
    set: BTreeMap<String, String>,
}

/// Why a plan can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ExtractorError {
    /// Not the JSON that is expected.
    #[error("extractor plan: {0}")]
    Plan(String),
    /// A pattern of an extractor.
    #[error("extractor `{extractor}`, pattern `{pattern}`: {reason}")]
    Pattern {
        /// The extractor's name.
        extractor: String,
        /// The pattern's id.
        pattern: String,
        /// What is wrong.
        reason: PatternError,
    },
    /// An extractor as a whole.
    #[error("extractor `{extractor}`: {reason}")]
    Extractor {
        /// The extractor's name.
        extractor: String,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Debug)]
struct Variant {
    pattern: usize,
    matcher: Matcher,
}

#[derive(Debug)]
struct Pattern {
    contains: Option<memchr::memmem::Finder<'static>>,
    /// By slot.
    captures: Vec<pattern::Capture>,
    /// Field and value.
    set: Vec<(String, String)>,
}

#[derive(Debug)]
struct Extractor {
    logsource: Logsource,
    patterns: Vec<Pattern>,
    variants: Vec<Variant>,
    /// Variants worth trying, by the message's first byte (index 256: the empty message).
    by_first_byte: Vec<Box<[u32]>>,
}

/// All extractors, compiled. Immutable and shared by all parsers.
#[derive(Debug, Default)]
pub struct ExtractorSet {
    extractors: Vec<Extractor>,
    by_program: FxHashMap<Box<[u8]>, Vec<usize>>,
    for_all: Vec<usize>,
    without_program: Vec<usize>,
}

/// What matched where.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) extractor: usize,
    pub(crate) pattern: usize,
    pub(crate) captures: Captures,
}

impl ExtractorSet {
    /// Compiles a plan: JSON, documented in `ironpost.events.extractors`.
    ///
    /// # Errors
    /// When the JSON is not a plan of version 1 or a pattern is wrong; says which.
    pub fn from_plan(json: &[u8]) -> Result<Self, ExtractorError> {
        let plan: Plan =
            serde_json::from_slice(json).map_err(|error| ExtractorError::Plan(error.to_string()))?;
        if plan.version != 1 {
            return Err(ExtractorError::Plan(format!("version {} is not known, expected 1", plan.version)));
        }
        let mut set = Self::default();
        for planned in plan.extractors {
            set.add(planned)?;
        }
        Ok(set)
    }

    fn add(&mut self, planned: PlannedExtractor) -> Result<(), ExtractorError> {
        let mut patterns = Vec::new();
        let mut variants = Vec::new();
        for (index, entry) in planned.patterns.into_iter().enumerate() {
            let parsed = pattern::parse(&entry.pattern).map_err(|reason| ExtractorError::Pattern {
                extractor: planned.name.clone(),
                pattern: entry.id.clone(),
                reason,
            })?;
            for pieces in &parsed.variants {
                let matcher = Matcher::new(pieces).map_err(|error| ExtractorError::Extractor {
                    extractor: planned.name.clone(),
                    reason: format!("pattern `{}` is too large: {error}", entry.id),
                })?;
                variants.push(Variant { pattern: index, matcher });
            }
            patterns.push(Pattern {
                contains: entry
                    .contains
                    .filter(|text| !text.is_empty())
                    .map(|text| memchr::memmem::Finder::new(&text).into_owned()),
                captures: parsed.captures,
                set: entry.set.into_iter().collect(),
            });
        }
        let by_first_byte = (0..=256_usize)
            .map(|byte| {
                variants
                    .iter()
                    .enumerate()
                    .filter(|(_, variant)| {
                        variant.matcher.first_byte.is_none_or(|first| usize::from(first) == byte)
                    })
                    .map(|(index, _)| index as u32)
                    .collect()
            })
            .collect();
        let index = self.extractors.len();
        let boxed = |part: Option<String>| part.map(String::into_boxed_str);
        self.extractors.push(Extractor {
            logsource: Logsource {
                product: boxed(planned.logsource.product),
                category: boxed(planned.logsource.category),
                service: boxed(planned.logsource.service),
            },
            patterns,
            variants,
            by_first_byte,
        });
        if planned.programs.is_empty() {
            self.without_program.push(index);
        }
        for program in planned.programs {
            if program == "*" {
                self.for_all.push(index);
            } else {
                self.by_program.entry(program.into_bytes().into()).or_default().push(index);
            }
        }
        Ok(())
    }

    /// Every field that some extractor can give.
    pub fn field_names(&self) -> impl Iterator<Item = &str> {
        self.extractors.iter().flat_map(|extractor| &extractor.patterns).flat_map(|pattern| {
            pattern
                .captures
                .iter()
                .filter_map(|capture| capture.field.as_deref())
                .chain(pattern.set.iter().map(|(name, _)| name.as_str()))
        })
    }

    /// Number of extractors.
    pub fn len(&self) -> usize {
        self.extractors.len()
    }

    /// True without extractors.
    pub fn is_empty(&self) -> bool {
        self.extractors.is_empty()
    }

    /// The extractor that speaks for a program, whether or not a pattern matches.
    pub(crate) fn speaker(&self, program: &[u8]) -> Option<usize> {
        self.by_program.get(program).and_then(|list| list.first().copied())
    }

    pub(crate) fn logsource(&self, extractor: usize) -> &Logsource {
        &self.extractors[extractor].logsource
    }

    /// The first pattern that matches a program's message.
    pub(crate) fn find(&self, program: &[u8], message: &[u8]) -> Option<Hit> {
        let gated =
            if program.is_empty() { Some(&self.without_program) } else { self.by_program.get(program) };
        let candidates = gated.into_iter().flatten().chain(&self.for_all);
        let first = message.first().map_or(256, |&byte| usize::from(byte));
        let mut captures: Captures = [None; MAX_CAPTURES];
        for &index in candidates {
            let extractor = &self.extractors[index];
            for &variant in &extractor.by_first_byte[first] {
                let Variant { pattern, matcher } = &extractor.variants[variant as usize];
                if let Some(literal) = &extractor.patterns[*pattern].contains
                    && literal.find(message).is_none()
                {
                    continue;
                }
                if matcher.matches(message, &mut captures) {
                    matcher.forget_others(&mut captures);
                    return Some(Hit { extractor: index, pattern: *pattern, captures });
                }
            }
        }
        None
    }
}

/// What a captured value becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emit {
    Text,
    Integer,
    Ip,
    /// Also as the sister field's address.
    Host,
    Url,
}

/// A field as a cell names it: an id, or a name in a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) cell: Cell,
    pub(crate) emit: Emit,
    /// For [`Emit::Host`], the field of the address.
    pub(crate) sister: Option<Cell>,
}

/// How the captures and constants of one pattern become cells, for one field table.
#[derive(Debug)]
pub(crate) struct Bound {
    /// By slot; `None` for captures that keep nothing.
    pub(crate) targets: Vec<Option<Target>>,
    /// Whole cells; spans are relative to the pool.
    pub(crate) constants: Vec<Cell>,
}

/// An empty cell of a field; an unregistered field's name goes to the pool.
pub(crate) fn named_cell(name: &str, kind: ValueKind, fields: &FieldTable, pool: &mut Pool) -> Cell {
    let field = fields.id(name).unwrap_or(FieldId::UNREGISTERED);
    let name = if field == FieldId::UNREGISTERED { pool.add(name.as_bytes()) } else { Default::default() };
    Cell { field, kind, name, value: Default::default() }
}

impl ExtractorSet {
    /// Binds every pattern to a field table: by extractor, then by pattern.
    pub(crate) fn bind(&self, fields: &FieldTable, pool: &mut Pool) -> Vec<Vec<Bound>> {
        let mut bind = |pattern: &Pattern| {
            let targets = pattern
                .captures
                .iter()
                .map(|capture| {
                    let name = capture.field.as_deref()?;
                    let (emit, kind) = match capture.kind {
                        Kind::Port | Kind::Integer => (Emit::Integer, ValueKind::Integer),
                        Kind::Ip => (Emit::Ip, ValueKind::Text),
                        Kind::Host => (Emit::Host, ValueKind::Text),
                        Kind::Url => (Emit::Url, ValueKind::Text),
                        Kind::Word | Kind::Text | Kind::Until | Kind::Quoted => (Emit::Text, ValueKind::Text),
                    };
                    let sister = (emit == Emit::Host)
                        .then(|| name.rsplit_once('.').map_or(name, |(parent, _)| parent))
                        .map(|parent| named_cell(&format!("{parent}.ip"), ValueKind::Text, fields, pool));
                    Some(Target { cell: named_cell(name, kind, fields, pool), emit, sister })
                })
                .collect();
            let constants = pattern
                .set
                .iter()
                .map(|(name, value)| {
                    let kind = if name == "http.response.status_code" {
                        ValueKind::Integer
                    } else {
                        ValueKind::Text
                    };
                    Cell { value: pool.add(value.as_bytes()), ..named_cell(name, kind, fields, pool) }
                })
                .collect();
            Bound { targets, constants }
        };
        self.extractors.iter().map(|extractor| extractor.patterns.iter().map(&mut bind).collect()).collect()
    }
}

#[cfg(test)]
mod tests;
