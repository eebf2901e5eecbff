//! Rules explained on events, one event at a time.

use crate::detect::plan_error;
use crate::enter::enter;
use crate::events::PyEventBatch;
use ironpost_detect::Wanted;
use ironpost_events::{EventBatch, ExtractorSet, Logsource, ParseOptions, Parser, SourceFacts};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use std::sync::Arc;

/// Why rules hold or fail on an event. Made from a plan (JSON); immutable.
#[pyclass(frozen, module = "ironpost._core")]
pub(crate) struct Explainer {
    inner: ironpost_detect::Explainer,
}

impl Explainer {
    fn explain_rows(&self, rows: &EventBatch, wanted: &Wanted) -> Vec<u8> {
        let mut out = vec![b'['];
        for index in 0..rows.len() {
            if index > 0 {
                out.push(b',');
            }
            let mut explained = self.inner.explain(rows.row(index), wanted);
            let mut event = Vec::new();
            rows.row_to_json(index, &mut event);
            explained["event"] = serde_json::from_slice(&event).unwrap_or_default();
            // Plain data to memory has no way to fail.
            let _ = serde_json::to_writer(&mut out, &explained);
        }
        out.push(b']');
        out
    }
}

#[pymethods]
impl Explainer {
    /// Compiles a plan for explanations.
    #[new]
    fn new(python: Python<'_>, plan: PyBackedBytes) -> PyResult<Self> {
        let inner = enter(python, move || {
            ironpost_detect::Explainer::from_plan(&plan).map_err(|error| plan_error(&error))
        })?;
        Ok(Self { inner })
    }

    /// Explains events: newline-separated JSON, or a batch that `parse` made.
    ///
    /// `logsource` is (product, category, service) of all events, each `None` when unknown. Returns a JSON array with one
    /// object per event: `event`, `logsource`, `routed`, `held` and `rules`, of which there are those that hold and the
    /// `nearest`, or those named in `ids`.
    #[pyo3(signature = (events, logsource = (None, None, None), ids = Vec::new(), nearest = 5))]
    fn explain<'python>(
        &self,
        python: Python<'python>,
        events: &Bound<'python, PyAny>,
        logsource: (Option<String>, Option<String>, Option<String>),
        ids: Vec<String>,
        nearest: usize,
    ) -> PyResult<Bound<'python, PyBytes>> {
        let (product, category, service) = logsource;
        let told = Logsource {
            product: product.map(Into::into),
            category: category.map(Into::into),
            service: service.map(Into::into),
        };
        let wanted = Wanted { ids: ids.into_iter().collect(), nearest };
        let given = match events.cast::<PyEventBatch>() {
            Ok(batch) => Given::Batch(Arc::clone(&batch.get().inner)),
            Err(_) => Given::Text(events.extract()?),
        };
        let json = enter(python, || {
            let mut rows = EventBatch::new(Arc::clone(self.inner.fields()));
            match &given {
                Given::Batch(batch) => {
                    let told = Some(&told).filter(|told| **told != Logsource::default());
                    for index in 0..batch.len() {
                        rows.copy_row(batch.row(index), told, 0)
                            .map_err(|error| PyValueError::new_err(error.to_string()))?;
                    }
                }
                Given::Text(text) => {
                    let extractors = Arc::new(ExtractorSet::default());
                    let parser =
                        Parser::new(extractors, Arc::clone(self.inner.fields()), ParseOptions::default());
                    let facts = parser.facts(&SourceFacts { fields: Vec::new(), logsource: told });
                    parser.parse_lines(text, 0, &facts, &mut rows);
                }
            }
            Ok::<_, PyErr>(self.explain_rows(&rows, &wanted))
        })?;
        Ok(PyBytes::new(python, &json))
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __repr__(&self) -> String {
        format!("Explainer({} rules)", self.inner.len())
    }
}

enum Given {
    Batch(Arc<EventBatch>),
    Text(PyBackedBytes),
}
