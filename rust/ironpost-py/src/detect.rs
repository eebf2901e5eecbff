//! Rules and their offline evaluation.

use crate::enter::enter;
use crate::error::raise;
use crate::events::PyEventBatch;
use ironpost_detect::{Compiled, Correlator, PlanError, Scratch, SourcePosition};
use ironpost_events::{
    BatchError, Cell, EventBatch, ExtractorSet, FieldId, FieldTable, Format, Logsource, ParseOptions, Parser,
    SourceFacts, Span,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex, PoisonError};

fn plan_error(error: &PlanError) -> PyErr {
    raise("RuleError", &error.to_string(), &[])
}

/// Says why the engine cannot use a regular expression, or `None` when it can.
#[pyfunction]
pub(crate) fn check_regex(pattern: &str) -> Option<String> {
    ironpost_detect::check_regex(pattern)
}

/// A compiled plan of rules. Immutable; a new set replaces an old one.
#[pyclass(frozen, module = "ironpost._core")]
pub(crate) struct RuleSet {
    pub(crate) inner: Arc<ironpost_detect::RuleSet>,
}

#[pymethods]
impl RuleSet {
    /// Compiles a plan (JSON, version 1).
    #[new]
    fn new(python: Python<'_>, plan: &[u8]) -> PyResult<Self> {
        let inner =
            enter(python, || ironpost_detect::RuleSet::from_plan(plan).map_err(|error| plan_error(&error)))?;
        Ok(Self { inner: Arc::new(inner) })
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
        let table = FieldTable::new(self.inner.field_names());
        let compiled = Arc::new(Arc::clone(&self.inner).bind(Arc::clone(&table)));
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
    position: u64,
}

impl State {
    fn feed(&mut self, ndjson: &[u8]) -> Vec<u8> {
        let facts = self.parser.facts(&self.facts);
        self.batch.clear();
        self.parser.parse_lines(ndjson, self.position, &facts, &mut self.batch);
        self.position += ndjson.len() as u64;
        self.evaluate()
    }

    /// Copies parsed rows under the rules' own field ids.
    fn feed_batch(&mut self, rows: &EventBatch) -> Result<Vec<u8>, BatchError> {
        self.batch.clear();
        let told = &self.facts.logsource;
        for index in 0..rows.len() {
            let row = rows.row(index);
            let info = row.info();
            let raw = self.batch.append(row.raw())?;
            for cell in row.cells() {
                let name = row.name_of(cell);
                let field = std::str::from_utf8(name).ok().and_then(|name| self.batch.fields().id(name));
                let (field, name) = match field {
                    Some(field) => (field, Span::default()),
                    None => (FieldId::UNREGISTERED, self.batch.append(name)?),
                };
                // A value that is the whole record stays recognisable as such.
                let value =
                    if cell.value == info.raw { raw } else { self.batch.append(row.value_of(cell).bytes)? };
                self.batch.push_cell(Cell { field, kind: cell.kind, name, value });
            }
            let source = if *told == Logsource::default() { row.logsource() } else { told };
            let source = self.batch.logsource_id(source);
            let position = self.position + info.position;
            self.batch.finish_row(raw, info.timestamp, position, source, info.repeat, info.format);
        }
        self.position += rows.bytes() as u64;
        Ok(self.evaluate())
    }

    fn evaluate(&mut self) -> Vec<u8> {
        let mut matches = Vec::new();
        self.compiled.evaluate(&self.batch, &mut self.scratch, &mut matches);
        let mut detections = Vec::new();
        let position = SourcePosition { source: "events", received: None };
        self.correlator.observe(&self.batch, &matches, &position, &mut detections);
        let mut json = vec![b'['];
        for (index, detection) in detections.iter_mut().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            detection.row = u32::try_from(self.rows + u64::from(detection.row)).unwrap_or(u32::MAX);
            detection.to_json(&mut json);
        }
        json.push(b']');
        self.rows += self.batch.len() as u64;
        json
    }
}

/// One evaluation of a stream of events, made by `RuleSet.session`.
#[pyclass(frozen, module = "ironpost._core")]
pub(crate) struct Session {
    state: Mutex<State>,
}

#[pymethods]
impl Session {
    /// Evaluates newline-separated records and returns their detections as a JSON array.
    ///
    /// A record must be whole; order across calls is the order of time for correlations of events without a time.
    fn feed<'python>(&self, python: Python<'python>, records: &[u8]) -> PyResult<Bound<'python, PyBytes>> {
        let json = enter(python, || {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            Ok::<_, PyErr>(state.feed(records))
        })?;
        Ok(PyBytes::new(python, &json))
    }

    /// Evaluates events that `parse` made; each row's own log source holds unless one was given for all.
    fn feed_batch<'python>(
        &self,
        python: Python<'python>,
        events: &PyEventBatch,
    ) -> PyResult<Bound<'python, PyBytes>> {
        let rows = Arc::clone(&events.inner);
        let json = enter(python, move || {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.feed_batch(&rows).map_err(|error| PyValueError::new_err(error.to_string()))
        })?;
        Ok(PyBytes::new(python, &json))
    }

    fn __repr__(&self) -> String {
        let rows = self.state.lock().unwrap_or_else(PoisonError::into_inner).rows;
        format!("Session({rows} events)")
    }
}
