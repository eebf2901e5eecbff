//! The data plane: `_core.Engine` and its batches.

use crate::detect::RuleSet;
use crate::enter::enter;
use crate::error::{Attribute, InternalError, raise};
use crate::events::PyExtractors;
use crate::filter::Filter;
use ironpost_engine::{Batch, EngineError, NextBatch, PacketSource, Settings};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3_async_runtimes::tokio::future_into_py;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

/// An error on its way to the class of `ironpost.errors` that fits it.
struct Failure(EngineError);

impl From<Failure> for PyErr {
    fn from(Failure(error): Failure) -> Self {
        let message = error.to_string();
        match &error {
            EngineError::Settings(_) | EngineError::Planning(_) => {
                raise("ConfigError", &message, &[Attribute::Text("field", "log_pipeline")])
            }
            EngineError::NoSource(problems) => {
                let (source, hint) = problems
                    .first()
                    .map_or(("", ""), |problem| (problem.source.as_str(), problem.remedy.as_str()));
                raise(
                    "SourceError",
                    &message,
                    &[Attribute::Text("source", source), Attribute::Text("hint", hint)],
                )
            }
            EngineError::StartedBefore | EngineError::System(_) => raise("SourceError", &message, &[]),
        }
    }
}

/// One thread carries the few awaits there are; the engine has its own threads for its work.
fn prepare_runtime() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("ip-await").enable_all();
        pyo3_async_runtimes::tokio::init(builder);
    });
}

/// Receives, parses, matches and correlates on threads of its own, without the interpreter.
///
/// What comes out are batches of detections, each with the source positions and correlation windows that belong to exactly
/// these detections: whoever stores all of it in one transaction and starts again from what is stored loses nothing
/// and counts nothing twice.
#[pyclass(frozen, module = "ironpost._core")]
pub(crate) struct Engine {
    inner: Arc<ironpost_engine::Engine>,
}

#[pymethods]
impl Engine {
    /// Prepares an engine; nothing is opened and no thread started yet.
    ///
    /// Args:
    ///     settings: JSON: `workers`, `files`, `udp`, `tcp`, `journal`, `packets`, `timezone`, `queue_bytes` …
    ///     rules: The rules in force.
    ///     extractors: What turns log lines into fields.
    ///     filter: The packet filter, when its events are read.
    ///
    /// Raises:
    ///     ConfigError: The settings can't be used; the message names the key.
    ///     FilterError: The filter's ring buffer can't be read.
    #[new]
    #[pyo3(signature = (settings, rules, extractors, filter = None))]
    fn new(
        python: Python<'_>,
        settings: &[u8],
        rules: &RuleSet,
        extractors: &PyExtractors,
        filter: Option<&Filter>,
    ) -> PyResult<Self> {
        let (rules, extractors) = (Arc::clone(&rules.inner), extractors.shared());
        let filter = filter.map(Filter::shared);
        let inner = enter(python, move || -> PyResult<_> {
            let settings = Settings::from_json(settings).map_err(|error| Failure(error.into()))?;
            let packets = match filter.filter(|_| settings.packets) {
                Some(filter) => {
                    let reader = filter.ring_reader().map_err(|error| {
                        raise("FilterError", &error.to_string(), &[Attribute::Text("hint", &error.hint())])
                    })?;
                    Some(Box::new(reader) as Box<dyn PacketSource>)
                }
                None => None,
            };
            Ok(ironpost_engine::Engine::new(settings, rules, extractors, packets).map_err(Failure)?)
        })?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens the sources and starts the threads. A source that does not work is listed in `problems`; the others run.
    ///
    /// Args:
    ///     checkpoints: Source id → what the last stored batch said about it.
    ///     windows: (key, state) of every stored correlation window.
    ///
    /// Raises:
    ///     SourceError: Not one of the sources works, or the engine was started before.
    fn start(
        &self,
        python: Python<'_>,
        checkpoints: BTreeMap<String, String>,
        windows: Vec<(String, Vec<u8>)>,
    ) -> PyResult<()> {
        enter(python, || self.inner.start(&checkpoints, windows).map_err(Failure))
    }

    /// Awaits the next batch; `None` when the engine has stopped and everything was taken.
    ///
    /// A batch comes at once when it holds detections, else at most once a second when positions have moved. When the
    /// await is cancelled, the batch it would have got comes with the next one.
    fn next_batch<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        prepare_runtime();
        let engine = Arc::clone(&self.inner);
        future_into_py(python, async move {
            let batch = engine.next_batch().await;
            Ok(batch.map(|batch| EngineBatch::new(batch, engine)))
        })
    }

    /// Waits for the next batch; `None` when there is none in time or, as `ended` says, ever again.
    fn next_batch_blocking(&self, python: Python<'_>, timeout_ms: u64) -> PyResult<Option<EngineBatch>> {
        let next = enter(python, || {
            Ok::<_, PyErr>(self.inner.next_batch_blocking(Duration::from_millis(timeout_ms)))
        })?;
        Ok(match next {
            NextBatch::Batch(batch) => Some(EngineBatch::new(*batch, Arc::clone(&self.inner))),
            NextBatch::Late | NextBatch::Ended => None,
        })
    }

    /// True when the engine has stopped and every batch was taken.
    #[getter]
    fn ended(&self) -> bool {
        self.inner.ended()
    }

    /// Says that everything up to this batch is stored; only now the kernel's ring buffer may forget it.
    fn acknowledge(&self, sequence: u64) {
        self.inner.acknowledge(sequence);
    }

    /// Puts other rules in force for everything not yet parsed; windows of unchanged correlations are kept.
    fn swap_rules(&self, python: Python<'_>, rules: &RuleSet) -> PyResult<()> {
        let rules = Arc::clone(&rules.inner);
        enter(python, move || {
            self.inner.swap_rules(rules);
            Ok::<_, PyErr>(())
        })
    }

    /// Everything counted so far, JSON: per source `received, bytes, parsed, unparsed, empty, matched, lost{reason}`, the sums,
    /// `detections`, `windows`, `panics`, and depth and capacity of every queue.
    fn counters<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let json = enter(python, || Ok::<_, PyErr>(self.inner.counters()))?;
        Ok(PyBytes::new(python, &json))
    }

    /// What does not work now: dictionaries with `source`, `reason` and `remedy`.
    fn problems(&self) -> Vec<BTreeMap<&'static str, String>> {
        let problems = self.inner.problems().into_iter();
        problems
            .map(|problem| {
                BTreeMap::from([
                    ("source", problem.source),
                    ("reason", problem.reason),
                    ("remedy", problem.remedy),
                ])
            })
            .collect()
    }

    /// Addresses the sockets are bound to, by source id.
    fn addresses(&self) -> BTreeMap<String, String> {
        self.inner.addresses()
    }

    /// Stops receiving, works through what was received, and ends the threads. What was found can still be taken.
    fn stop<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        prepare_runtime();
        let engine = Arc::clone(&self.inner);
        future_into_py(python, async move {
            tokio::task::spawn_blocking(move || engine.stop())
                .await
                .map_err(|error| InternalError::new_err(format!("stopping the engine: {error}")))
        })
    }

    /// As `stop`, without an event loop.
    fn stop_blocking(&self, python: Python<'_>) -> PyResult<()> {
        enter(python, || {
            self.inner.stop();
            Ok::<_, PyErr>(())
        })
    }

    fn __repr__(&self) -> String {
        format!("Engine(addresses={:?}, ended={})", self.inner.addresses(), self.inner.ended())
    }
}

/// Detections and everything that has to be stored together with them.
#[pyclass(frozen, module = "ironpost._core")]
pub(crate) struct EngineBatch {
    batch: Option<Batch>,
    engine: Arc<ironpost_engine::Engine>,
    seen: AtomicBool,
}

impl EngineBatch {
    fn new(batch: Batch, engine: Arc<ironpost_engine::Engine>) -> Self {
        Self { batch: Some(batch), engine, seen: AtomicBool::new(false) }
    }

    fn look(&self) -> PyResult<&Batch> {
        self.seen.store(true, Ordering::Relaxed);
        self.batch.as_ref().ok_or_else(|| InternalError::new_err("a batch without content"))
    }
}

impl Drop for EngineBatch {
    /// A batch nobody looked at was the result of an await that was cancelled: it is handed out again.
    fn drop(&mut self) {
        if !self.seen.load(Ordering::Relaxed)
            && let Some(batch) = self.batch.take()
        {
            self.engine.return_batch(batch);
        }
    }
}

#[pymethods]
impl EngineBatch {
    /// Number of the batch in this run, from 1; what `acknowledge` takes.
    #[getter]
    fn sequence(&self) -> PyResult<u64> {
        Ok(self.look()?.sequence)
    }

    /// The detections, a JSON array.
    #[getter]
    fn detections<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(python, &self.look()?.detections))
    }

    /// Source id → opaque text to store; an empty text means "forget this source".
    #[getter]
    fn checkpoints(&self) -> PyResult<BTreeMap<String, String>> {
        Ok(self.look()?.checkpoints.clone())
    }

    /// (key, state) of every window that changed; `None` means "delete it".
    #[getter]
    fn windows<'py>(&self, python: Python<'py>) -> PyResult<Vec<(String, Option<Bound<'py, PyBytes>>)>> {
        let changes = self.look()?.windows.iter();
        let state = |state: &Vec<u8>| PyBytes::new(python, state);
        Ok(changes.map(|change| (change.key.clone(), change.state.as_ref().map(state))).collect())
    }

    /// Everything counted up to this batch, JSON as of `Engine.counters`.
    #[getter]
    fn counters<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(python, &self.look()?.counters))
    }

    /// Number of detections. There is no `len()`: a batch without detections is not false, its positions matter.
    #[getter]
    fn detection_count(&self) -> PyResult<u64> {
        Ok(self.look()?.detection_count)
    }

    fn __repr__(&self) -> String {
        match &self.batch {
            Some(batch) => {
                format!("EngineBatch(sequence={}, detections={})", batch.sequence, batch.detection_count)
            }
            None => "EngineBatch()".to_owned(),
        }
    }
}
