//! Events: extractors and parsing.

use crate::enter::enter;
use crate::error::{Attribute, raise};
use ironpost_events::{
    AuditEvent, AuditJoiner, CompiledFacts, EntryValue, EventBatch, ExtractorSet, FieldTable, Format,
    FormatError, Outcome, ParseOptions, Parser, SourceFacts,
};
use jiff::tz::TimeZone;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Compiled field extractors.
///
/// Made from the plan that `ironpost.events.extractors` lowers extractor files to; immutable.
#[pyclass(frozen, module = "ironpost._core", name = "Extractors")]
pub(crate) struct PyExtractors {
    inner: Arc<ExtractorSet>,
}

impl PyExtractors {
    /// The compiled set, for the engine.
    #[allow(dead_code, reason = "the engine's door uses it")]
    pub(crate) fn shared(&self) -> Arc<ExtractorSet> {
        Arc::clone(&self.inner)
    }
}

#[pymethods]
impl PyExtractors {
    /// Compiles a plan (JSON); raises `ironpost.errors.ExtractorError`.
    #[new]
    fn new(python: Python<'_>, plan: PyBackedBytes) -> PyResult<Self> {
        let inner = enter(python, move || {
            ExtractorSet::from_plan(&plan).map_err(|error| raise("ExtractorError", &error.to_string(), &[]))
        })?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Every field that some extractor can give, sorted.
    fn field_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.inner.field_names().map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __repr__(&self) -> String {
        format!("<Extractors: {}>", self.inner.len())
    }
}

/// Parsed events: rows of named values. Immutable.
#[pyclass(frozen, module = "ironpost._core", name = "EventBatch")]
pub(crate) struct PyEventBatch {
    pub(crate) inner: Arc<EventBatch>,
}

fn to_python<'py>(python: Python<'py>, value: &EntryValue<'_>) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        EntryValue::Text(text) => PyString::new(python, text).into_any(),
        EntryValue::Null => python.None().into_bound(python),
        EntryValue::Bool(value) => value.into_pyobject(python)?.to_owned().into_any(),
        EntryValue::Number(text) => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(number), _) => number.into_pyobject(python)?.into_any(),
            (Err(_), Ok(number)) if text.contains(['.', 'e', 'E']) && number.is_finite() => {
                number.into_pyobject(python)?.into_any()
            }
            // Too large for a machine number: the digits, unchanged.
            _ => PyString::new(python, text).into_any(),
        },
        EntryValue::Structured(elements) => {
            let outer = PyDict::new(python);
            for (id, parameters) in elements {
                let inner = match outer.get_item(id.as_ref())? {
                    Some(known) => known.cast_into::<PyDict>()?,
                    None => PyDict::new(python),
                };
                for (name, value) in parameters {
                    let name = name.as_ref();
                    match inner.get_item(name)? {
                        None => inner.set_item(name, value)?,
                        Some(known) => match known.cast::<PyList>() {
                            Ok(list) => list.append(value)?,
                            Err(_) => inner.set_item(
                                name,
                                PyList::new(python, [known.str()?.to_string(), value.clone()])?,
                            )?,
                        },
                    }
                }
                outer.set_item(id.as_ref(), inner)?;
            }
            outer.into_any()
        }
    })
}

#[pymethods]
impl PyEventBatch {
    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __repr__(&self) -> String {
        format!("<EventBatch: {} rows>", self.inner.len())
    }

    /// Row `index` as a dict: dotted ECS names, several values as a list.
    ///
    /// Raises `IndexError` beyond the last row; negative numbers count from the end.
    fn row<'py>(&self, python: Python<'py>, index: isize) -> PyResult<Bound<'py, PyDict>> {
        let len = self.inner.len();
        let at = if index < 0 { index + len as isize } else { index };
        let at = usize::try_from(at)
            .ok()
            .filter(|at| *at < len)
            .ok_or_else(|| PyIndexError::new_err(format!("row {index} of {len}")))?;
        let row = PyDict::new(python);
        for entry in self.inner.row(at).entries() {
            match &entry.values[..] {
                [value] => row.set_item(entry.name.as_ref(), to_python(python, value)?)?,
                values => {
                    let values: PyResult<Vec<_>> =
                        values.iter().map(|value| to_python(python, value)).collect();
                    row.set_item(entry.name.as_ref(), PyList::new(python, values?)?)?;
                }
            }
        }
        Ok(row)
    }

    /// All rows as NDJSON: one flat ECS object per line.
    fn to_ndjson<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let batch = Arc::clone(&self.inner);
        let bytes = enter(python, move || Ok::<_, PyErr>(batch.to_ndjson()))?;
        Ok(PyBytes::new(python, &bytes))
    }

    /// Names of all fields that some row has, in order of first appearance.
    #[getter]
    fn schema(&self, python: Python<'_>) -> PyResult<Vec<String>> {
        let batch = Arc::clone(&self.inner);
        enter(python, move || Ok::<_, PyErr>(batch.field_names()))
    }

    /// One field of all rows: the first value as text, or None. Invalid UTF-8 is replaced.
    fn column(&self, python: Python<'_>, name: String) -> PyResult<Vec<Option<String>>> {
        let batch = Arc::clone(&self.inner);
        enter(python, move || Ok::<_, PyErr>(batch.column(&name)))
    }
}

/// What both parse functions are given, ready to use.
struct Prepared {
    parser: Parser,
    facts: CompiledFacts,
    batch: EventBatch,
}

fn prepare(extractors: &PyExtractors, format: &str, year: Option<i16>, timezone: &str) -> PyResult<Prepared> {
    let format: Format = format.parse().map_err(|error: FormatError| {
        raise("ParseError", &error.to_string(), &[Attribute::Text("field", "format")])
    })?;
    let zone = match timezone {
        "UTC" => TimeZone::UTC,
        "local" => TimeZone::system(),
        name => TimeZone::get(name).map_err(|_| {
            raise(
                "ParseError",
                &format!("`{name}` is no time zone of this system"),
                &[
                    Attribute::Text("field", "timezone"),
                    Attribute::Text("hint", "use an IANA name such as Europe/Berlin, or local, or UTC"),
                ],
            )
        })?,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
    let extractors = extractors.shared();
    let fields = FieldTable::new(extractors.field_names());
    let options = ParseOptions { format, year, timezone: zone, now };
    let parser = Parser::new(extractors, Arc::clone(&fields), options);
    let facts = parser.facts(&SourceFacts::default());
    Ok(Prepared { parser, facts, batch: EventBatch::new(fields) })
}

fn too_much() -> PyErr {
    raise(
        "ParseError",
        "the input does not fit into one batch of 4 GiB",
        &[Attribute::Text("hint", "parse it in parts")],
    )
}

/// Parses newline-separated records.
///
/// `year` completes timestamps without one (None: the latest year that is not in the future), `timezone` is an IANA
/// name or `local`. Raises `ironpost.errors.ParseError` for an unknown format or zone.
#[pyfunction]
#[pyo3(signature = (data, extractors, format = "auto", year = None, timezone = "UTC"))]
pub(crate) fn parse(
    python: Python<'_>,
    data: PyBackedBytes,
    extractors: &PyExtractors,
    format: &str,
    year: Option<i16>,
    timezone: &str,
) -> PyResult<PyEventBatch> {
    let mut prepared = prepare(extractors, format, year, timezone)?;
    let batch = enter(python, move || {
        let Prepared { parser, facts, batch } = &mut prepared;
        let counts = parser.parse_lines(&data, 0, facts, batch);
        if counts.refused > 0 { Err(too_much()) } else { Ok(prepared.batch) }
    })?;
    Ok(PyEventBatch { inner: Arc::new(batch) })
}

/// Parses records that are already apart; a newline inside one is data. Otherwise like `parse`.
#[pyfunction]
#[pyo3(signature = (records, extractors, format = "auto", year = None, timezone = "UTC"))]
pub(crate) fn parse_records(
    python: Python<'_>,
    records: Vec<PyBackedBytes>,
    extractors: &PyExtractors,
    format: &str,
    year: Option<i16>,
    timezone: &str,
) -> PyResult<PyEventBatch> {
    let mut prepared = prepare(extractors, format, year, timezone)?;
    let batch = enter(python, move || {
        let Prepared { parser, facts, batch } = &mut prepared;
        for (position, record) in records.iter().enumerate() {
            if parser.parse_record(record, position as u64, facts, batch) == Outcome::Full {
                return Err(too_much());
            }
        }
        Ok(prepared.batch)
    })?;
    Ok(PyEventBatch { inner: Arc::new(batch) })
}

/// Joins the records of the Linux audit system that are one event, over the pieces a log is read in.
#[pyclass(frozen, module = "ironpost._core", name = "AuditJoiner")]
pub(crate) struct PyAuditJoiner {
    inner: Mutex<AuditJoiner>,
}

fn events_of(python: Python<'_>, found: Vec<AuditEvent>) -> Vec<(u64, Py<PyBytes>)> {
    found.into_iter().map(|event| (event.place, PyBytes::new(python, &event.text).unbind())).collect()
}

#[pymethods]
impl PyAuditJoiner {
    #[new]
    fn new() -> Self {
        Self { inner: Mutex::default() }
    }

    /// Takes whole lines that stand at byte `offset` of the log and returns the events that are over.
    ///
    /// Each is (offset of its first line, its lines); `parse_records` reads them.
    fn take(
        &self,
        python: Python<'_>,
        lines: PyBackedBytes,
        offset: u64,
    ) -> PyResult<Vec<(u64, Py<PyBytes>)>> {
        let found = enter(python, || {
            let mut joiner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let mut found = Vec::new();
            let mut begin = offset;
            for line in lines.split(|byte| *byte == b'\n') {
                joiner.take(line, begin, &mut found);
                begin += line.len() as u64 + 1;
            }
            Ok::<_, PyErr>(found)
        })?;
        Ok(events_of(python, found))
    }

    /// Returns the events that still waited for records: the log is at its end.
    fn finish(&self, python: Python<'_>) -> Vec<(u64, Py<PyBytes>)> {
        let mut found = Vec::new();
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).finish(&mut found);
        events_of(python, found)
    }

    fn __repr__(&self) -> String {
        let waiting = self.inner.lock().unwrap_or_else(PoisonError::into_inner).held().len();
        format!("<AuditJoiner: {waiting} runs of lines wait>")
    }
}
