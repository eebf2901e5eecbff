//! Rules and their offline evaluation.

use crate::enter::enter;
use crate::error::raise;
use crate::events::PyEventBatch;
use ironpost_detect::{Compiled, Correlator, Detection, PlanError, Scratch, SourcePosition};
use ironpost_events::{
    BatchError, EventBatch, ExtractorSet, FieldTable, Format, Logsource, ParseOptions, Parser, SourceFacts,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub(crate) fn plan_error(error: &PlanError) -> PyErr {
    raise("RuleError", &error.to_string(), &[])
}

/// Says why the engine cannot use a regular expression, or `None` when it can.
#[pyfunction]
pub(crate) fn check_regex(pattern: &str) -> Option<String> {
    ironpost_detect::check_regex(pattern)
}

/// Returns the literals that spare the engine from searching most values with a regular expression, or `None`.
#[pyfunction]
pub(crate) fn regex_needles(pattern: &str) -> Option<Vec<String>> {
    ironpost_detect::regex_needles(pattern)
}

/// A compiled plan of rules. Immutable; a new set replaces an old one.
#[pyclass(frozen, module = "ironpost._core")]
pub(crate) struct RuleSet {
    pub(crate) inner: Arc<ironpost_detect::RuleSet>,
    /// Shared by all sessions: the programs of log sources are built once, not per session.
    compiled: OnceLock<Arc<Compiled>>,
}

impl RuleSet {
    fn compiled(&self) -> &Arc<Compiled> {
        self.compiled.get_or_init(|| {
            let table = FieldTable::new(self.inner.field_names());
            Arc::new(Arc::clone(&self.inner).bind(table))
        })
    }
}

#[pymethods]
impl RuleSet {
    /// Compiles a plan (JSON, version 1).
    #[new]
    fn new(python: Python<'_>, plan: &[u8]) -> PyResult<Self> {
        let inner =
            enter(python, || ironpost_detect::RuleSet::from_plan(plan).map_err(|error| plan_error(&error)))?;
        Ok(Self { inner: Arc::new(inner), compiled: OnceLock::new() })
    }

    /// Names of every event field the rules read.
    fn field_names(&self) -> Vec<String> {
        self.inner.field_names().map(str::to_owned).collect()
    }

    /// Starts an evaluation of events that come in pieces; windows of correlations span the pieces.
    ///
    /// `logsource` is (product, category, service) of all events, each `None` when unknown.
    #[pyo3(signature = (logsource = (None, None, None), format = "json"))]
    fn session(
        &self,
        logsource: (Option<String>, Option<String>, Option<String>),
        format: &str,
    ) -> PyResult<Session> {
        let format: Format = format
            .parse()
            .map_err(|error: ironpost_events::FormatError| PyValueError::new_err(error.to_string()))?;
        let compiled = Arc::clone(self.compiled());
        let table = Arc::clone(compiled.fields());
        let options = ParseOptions { format, ..ParseOptions::default() };
        let (product, category, service) = logsource;
        let facts = SourceFacts {
            fields: Vec::new(),
            logsource: Logsource {
                product: product.map(Into::into),
                category: category.map(Into::into),
                service: service.map(Into::into),
            },
        };
        Ok(Session {
            state: Mutex::new(State {
                parser: Parser::new(Arc::new(ExtractorSet::default()), Arc::clone(&table), options),
                facts,
                batch: EventBatch::new(table),
                correlator: Correlator::without_snapshots(Arc::clone(&compiled)),
                compiled,
                scratch: Scratch::new(),
                rows: 0,
                truncated: 0,
                position: 0,
            }),
        })
    }

    fn __len__(&self) -> usize {
        let (rules, correlations) = self.inner.counts();
        rules + correlations
    }

    fn __repr__(&self) -> String {
        let (rules, correlations) = self.inner.counts();
        format!("RuleSet({rules} rules, {correlations} correlations)")
    }
}

struct State {
    parser: Parser,
    facts: SourceFacts,
    batch: EventBatch,
    compiled: Arc<Compiled>,
    correlator: Correlator,
    scratch: Scratch,
    rows: u64,
    truncated: u64,
    position: u64,
}

impl State {
    fn feed(&mut self, ndjson: &[u8]) -> Vec<Detection> {
        let facts = self.parser.facts(&self.facts);
        self.batch.clear();
        self.parser.parse_lines(ndjson, self.position, &facts, &mut self.batch);
        self.position += ndjson.len() as u64;
        self.evaluate()
    }

    /// Copies parsed rows under the rules' own field ids.
    fn feed_batch(&mut self, rows: &EventBatch) -> Result<Vec<Detection>, BatchError> {
        self.batch.clear();
        let told = &self.facts.logsource;
        let told = Some(told).filter(|told| **told != Logsource::default());
        for index in 0..rows.len() {
            self.batch.copy_row(rows.row(index), told, self.position)?;
        }
        self.position += rows.bytes() as u64;
        Ok(self.evaluate())
    }

    fn evaluate(&mut self) -> Vec<Detection> {
        let mut matches = Vec::new();
        self.compiled.evaluate(&self.batch, &mut self.scratch, &mut matches);
        let mut detections = Vec::new();
        let position = SourcePosition { source: "events", received: None };
        self.correlator.observe(&self.batch, &matches, &position, &mut detections);
        for detection in &mut detections {
            detection.row = u32::try_from(self.rows + u64::from(detection.row)).unwrap_or(u32::MAX);
        }
        self.rows += self.batch.len() as u64;
        self.truncated += self.batch.truncated();
        detections
    }
}

fn json_array(detections: &[Detection]) -> Vec<u8> {
    let mut json = vec![b'['];
    for (index, detection) in detections.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        detection.to_json(&mut json);
    }
    json.push(b']');
    json
}

/// Id, rule's id, its title, level, kind, time in nanoseconds, row.
type Head<'a> = (&'a str, &'a str, &'a str, &'a str, &'static str, Option<i64>, u32);

/// A detection that Python has not read yet: most are only counted, or looked at by rule and level.
#[pyclass(frozen, module = "ironpost._core")]
pub(crate) struct Unread {
    inner: Detection,
}

#[pymethods]
impl Unread {
    /// What a reader looks at first: id, rule's id, its title, level, kind, time in nanoseconds or `None`, row.
    fn head(&self) -> Head<'_> {
        let found = &self.inner;
        let kind = found.kind.name();
        (&found.id, &found.rule_id, &found.rule_title, &found.level, kind, found.timestamp, found.row)
    }

    /// The whole detection as a JSON object.
    fn json<'python>(&self, python: Python<'python>) -> Bound<'python, PyBytes> {
        let mut json = Vec::new();
        self.inner.to_json(&mut json);
        PyBytes::new(python, &json)
    }

    fn __repr__(&self) -> String {
        format!("Unread({}, row {})", self.inner.rule_id, self.inner.row)
    }
}

/// One evaluation of a stream of events, made by `RuleSet.session`.
#[pyclass(frozen, module = "ironpost._core")]
pub(crate) struct Session {
    state: Mutex<State>,
}

impl Session {
    fn fed(&self, records: &[u8]) -> Vec<Detection> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).feed(records)
    }

    fn fed_batch(&self, rows: &EventBatch) -> PyResult<Vec<Detection>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.feed_batch(rows).map_err(|error| PyValueError::new_err(error.to_string()))
    }
}

fn unread(detections: Vec<Detection>) -> Vec<Unread> {
    detections.into_iter().map(|inner| Unread { inner }).collect()
}

#[pymethods]
impl Session {
    /// Evaluates newline-separated records and returns their detections as a JSON array.
    ///
    /// A record must be whole; order across calls is the order of time for correlations of events without a time.
    fn feed<'python>(&self, python: Python<'python>, records: &[u8]) -> PyResult<Bound<'python, PyBytes>> {
        let json = enter(python, || Ok::<_, PyErr>(json_array(&self.fed(records))))?;
        Ok(PyBytes::new(python, &json))
    }

    /// Evaluates events that `parse` made; each row's own log source holds unless one was given for all.
    fn feed_batch<'python>(
        &self,
        python: Python<'python>,
        events: &PyEventBatch,
    ) -> PyResult<Bound<'python, PyBytes>> {
        let rows = Arc::clone(&events.inner);
        let json = enter(python, move || Ok::<_, PyErr>(json_array(&self.fed_batch(&rows)?)))?;
        Ok(PyBytes::new(python, &json))
    }

    /// Like `feed`, with detections that are read when asked.
    fn detect(&self, python: Python<'_>, records: &[u8]) -> PyResult<Vec<Unread>> {
        enter(python, || Ok::<_, PyErr>(unread(self.fed(records))))
    }

    /// Like `feed_batch`, with detections that are read when asked.
    fn detect_batch(&self, python: Python<'_>, events: &PyEventBatch) -> PyResult<Vec<Unread>> {
        let rows = Arc::clone(&events.inner);
        enter(python, move || Ok::<_, PyErr>(unread(self.fed_batch(&rows)?)))
    }

    /// Number of events so far; the `row` of a detection counts from the session's first.
    #[getter]
    fn rows(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rows
    }

    /// Number of events so far that a bound left values out of (`ironpost.truncated`).
    #[getter]
    fn truncated(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).truncated
    }

    fn __repr__(&self) -> String {
        let rows = self.state.lock().unwrap_or_else(PoisonError::into_inner).rows;
        format!("Session({rows} events)")
    }
}
