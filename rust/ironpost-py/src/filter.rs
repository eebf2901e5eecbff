//! The packet filter: `_core.Filter` and `_core.PacketReader`.

use crate::enter::enter;
use crate::error::{Attribute, raise};
use ironpost_xdp::{BlockRequest, EntryMode, FilterError, Report, RingReader, Settings, XdpMode};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// An error on its way to the class of `ironpost.errors` that fits it.
struct Failure(FilterError);

impl From<FilterError> for Failure {
    fn from(error: FilterError) -> Self {
        Self(error)
    }
}

impl From<Failure> for PyErr {
    fn from(Failure(error): Failure) -> Self {
        let message = error.to_string();
        let hint = error.hint();
        let hint = Attribute::Text("hint", &hint);
        match &error {
            FilterError::UnsupportedPlatform { .. } => raise("UnsupportedPlatform", &message, &[hint]),
            FilterError::PrivilegeMissing { capability, .. } => {
                raise("PrivilegeMissing", &message, &[Attribute::Text("capability", capability), hint])
            }
            FilterError::InterfaceNotFound { interface, .. } => {
                raise("InterfaceNotFound", &message, &[Attribute::Text("interface", interface), hint])
            }
            FilterError::ForeignProgram { interface, program } => raise(
                "ForeignProgram",
                &message,
                &[Attribute::Text("interface", interface), Attribute::Text("program", program), hint],
            ),
            FilterError::Setting { name, value, reason } => raise(
                "ConfigError",
                &format!("{value}: {reason}"),
                &[Attribute::Text("field", &format!("ebpf.{name}")), hint],
            ),
            _ => raise("FilterError", &message, &[hint]),
        }
    }
}

/// The packet filter in the kernel, loaded, attached and pinned. It goes on filtering when this object is gone.
///
/// Lists come and go as JSON bytes. Targets are addresses or networks as text; IPv4-mapped IPv6 is taken as the IPv4 it
/// means. Methods may be called from any thread.
#[pyclass(frozen, module = "ironpost._core")]
pub(crate) struct Filter {
    inner: Arc<ironpost_xdp::Filter>,
}

impl Filter {
    /// The filter, for the engine.
    #[allow(dead_code, reason = "the engine's door takes it")]
    pub(crate) fn shared(&self) -> Arc<ironpost_xdp::Filter> {
        Arc::clone(&self.inner)
    }
}

#[pymethods]
impl Filter {
    /// Loads, attaches and pins the filter, or takes over the pinned one with its entries and counters.
    ///
    /// Args:
    ///     pin_dir: Directory for pins, on the BPF file system.
    ///     interfaces: Interfaces to attach to; pinned attachments to others are removed.
    ///     mode: "native", "skb", or "auto" for native with a generic fallback that is reported by `attached`.
    ///     ring_buffer_size: Bytes, a power of two and a multiple of the page size.
    ///     blocklist_max_entries: Room for this many addresses and, separately, networks.
    ///     sample_every: One record for this many drops on a CPU, 0 for none.
    ///
    /// Raises:
    ///     UnsupportedPlatform: Not Linux.
    ///     PrivilegeMissing: CAP_BPF or CAP_NET_ADMIN is missing.
    ///     InterfaceNotFound: There is no such interface.
    ///     ForeignProgram: Another XDP program runs on an interface.
    ///     ConfigError: A size or the mode cannot be used.
    ///     FilterError: The kernel or the pin directory refuses.
    #[staticmethod]
    #[pyo3(signature = (pin_dir = "/sys/fs/bpf/ironpost", *, interfaces, mode, ring_buffer_size, blocklist_max_entries, sample_every))]
    fn open(
        python: Python<'_>,
        pin_dir: &str,
        interfaces: Vec<String>,
        mode: &str,
        ring_buffer_size: u32,
        blocklist_max_entries: u32,
        sample_every: u32,
    ) -> PyResult<Self> {
        enter(python, || {
            let settings = Settings {
                pin_dir: PathBuf::from(pin_dir),
                interfaces,
                mode: mode.parse::<XdpMode>()?,
                ring_buffer_size,
                blocklist_max_entries,
                sample_every,
            };
            Ok::<_, Failure>(Self { inner: Arc::new(ironpost_xdp::Filter::open(&settings)?) })
        })
    }

    /// Interfaces with how the program runs there now: `[{"interface", "mode": "native"|"skb"|null, "note"}]`.
    fn attached<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        to_bytes(python, || Ok(json!(self.inner.attached()?)))
    }

    /// Attaches again where the program was attached and is not any more; a program of somebody else is never replaced.
    ///
    /// Raises:
    ///     ForeignProgram: Another XDP program runs on an interface by now.
    ///     InterfaceNotFound: An interface is gone.
    ///     FilterError: The kernel or the pin directory refuses.
    fn reattach(&self, python: Python<'_>) -> PyResult<()> {
        enter(python, || self.inner.reattach().map_err(Failure))
    }

    /// Sets blocks; a target that is blocked already gets the new entry.
    ///
    /// Args:
    ///     entries: (target, boot clock in ns after which it ends or 0, rule number, 1 = drop or 2 = monitor).
    ///
    /// Returns:
    ///     `{"written": n, "refused": [{"target", "reason"}]}`; a refused target changed nothing.
    fn block<'py>(
        &self,
        python: Python<'py>,
        entries: Vec<(String, u64, u32, u8)>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        to_bytes(python, || {
            let requests = entries
                .into_iter()
                .map(|(target, expires_boot_ns, rule_id, mode)| {
                    let mode = match mode {
                        1 => EntryMode::Drop,
                        2 => EntryMode::Monitor,
                        other => {
                            return Err(FilterError::Setting {
                                name: "mode",
                                value: other.to_string(),
                                reason: format!("expected 1 (drop) or 2 (monitor) for {target}"),
                            });
                        }
                    };
                    Ok(BlockRequest { target, expires_boot_ns, rule_id, mode })
                })
                .collect::<Result<Vec<_>, _>>()?;
            Ok(json!(self.inner.block(&requests)?))
        })
    }

    /// Removes blocks; returns as `block` does, targets that were not blocked are refused.
    fn unblock<'py>(&self, python: Python<'py>, targets: Vec<String>) -> PyResult<Bound<'py, PyBytes>> {
        report(python, || self.inner.unblock(&targets))
    }

    /// Allows sources until `expires_boot_ns` (0: for good): they are never dropped, whatever is blocked.
    #[pyo3(signature = (targets, *, expires_boot_ns = 0))]
    fn allow<'py>(
        &self,
        python: Python<'py>,
        targets: Vec<String>,
        expires_boot_ns: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        report(python, || self.inner.allow(&targets, expires_boot_ns))
    }

    /// Removes allow entries; returns as `block` does, targets that were not allowed are refused.
    fn unallow<'py>(&self, python: Python<'py>, targets: Vec<String>) -> PyResult<Bound<'py, PyBytes>> {
        report(python, || self.inner.unallow(&targets))
    }

    /// All blocks: `[{"target", "expires_boot_ns", "rule_id", "mode": "drop"|"monitor", "expired"}]`.
    fn list_blocked<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        to_bytes(python, || Ok(json!(self.inner.blocked()?)))
    }

    /// All allow entries: as `list_blocked`, without `mode`.
    fn list_allowed<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        to_bytes(python, || Ok(json!(self.inner.allowed()?)))
    }

    /// Attachment and counters: the `filter` object of the status.
    fn counters<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        to_bytes(python, || {
            let interfaces = self.inner.attached()?;
            let mut modes: Vec<_> = interfaces.iter().filter_map(|one| one.mode).collect();
            modes.dedup();
            let mut object = json!(self.inner.counters()?);
            if let Value::Object(fields) = &mut object {
                let attached = !interfaces.is_empty() && interfaces.iter().all(|one| one.mode.is_some());
                fields.insert("attached".to_owned(), attached.into());
                fields.insert(
                    "mode".to_owned(),
                    match modes.as_slice() {
                        [] => Value::Null,
                        [mode] => json!(mode),
                        _ => "mixed".into(),
                    },
                );
                fields.insert("interfaces".to_owned(), json!(interfaces));
            }
            Ok(object)
        })
    }

    /// Removes entries that have expired (they had no effect any more); returns how many.
    fn sweep(&self, python: Python<'_>) -> PyResult<u64> {
        enter(python, || self.inner.sweep().map_err(Failure))
    }

    /// Detaches from all interfaces and removes all pins, entries and counters.
    fn detach(&self, python: Python<'_>) -> PyResult<()> {
        enter(python, || self.inner.detach().map_err(Failure))
    }

    /// Detaches and removes what is pinned in `pin_dir`, without opening it.
    #[staticmethod]
    fn detach_pins(python: Python<'_>, pin_dir: &str) -> PyResult<()> {
        enter(python, || ironpost_xdp::Filter::detach_pins(std::path::Path::new(pin_dir)).map_err(Failure))
    }

    /// A reader of the packet records, starting at the first one that was not committed. Use one at a time.
    fn reader(&self, python: Python<'_>) -> PyResult<PacketReader> {
        enter(python, || Ok::<_, Failure>(PacketReader { inner: Mutex::new(self.inner.ring_reader()?) }))
    }

    /// The boot clock in nanoseconds: it goes on while the machine sleeps and is never set.
    #[staticmethod]
    fn boot_ns() -> u64 {
        ironpost_xdp::boot_ns()
    }

    fn __repr__(&self) -> String {
        format!("Filter(pin_dir={:?})", self.inner.directory())
    }
}

/// Reads packet records without taking them away: what is not committed is read again by the next reader.
#[pyclass(frozen, module = "ironpost._core")]
pub(crate) struct PacketReader {
    inner: Mutex<RingReader>,
}

#[pymethods]
impl PacketReader {
    /// Waits up to `timeout_ms` for records and returns at most `limit`, one JSON object per line.
    #[pyo3(signature = (*, limit = 4096, timeout_ms = 0))]
    fn read<'py>(&self, python: Python<'py>, limit: usize, timeout_ms: u64) -> PyResult<Bound<'py, PyBytes>> {
        let lines = enter(python, || {
            let mut reader = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let mut records = Vec::new();
            if reader.wait(Duration::from_millis(timeout_ms)).map_err(Failure)? {
                reader.read(&mut records, limit);
            }
            let mut lines = String::new();
            for record in records {
                lines.push_str(&record.to_json().to_string());
                lines.push('\n');
            }
            Ok::<_, Failure>(lines)
        })?;
        Ok(PyBytes::new(python, lines.as_bytes()))
    }

    /// Gives the records before `position` (a `next_position`) back to the kernel.
    fn commit(&self, position: u64) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).commit(position);
    }

    fn __repr__(&self) -> String {
        format!(
            "PacketReader(position={})",
            self.inner.lock().unwrap_or_else(PoisonError::into_inner).position()
        )
    }
}

fn report<'py, F>(python: Python<'py>, work: F) -> PyResult<Bound<'py, PyBytes>>
where
    F: FnOnce() -> Result<Report, FilterError> + Send,
{
    to_bytes(python, || Ok(json!(work()?)))
}

/// Runs `work` with the interpreter released and returns its result as JSON.
fn to_bytes<'py, F>(python: Python<'py>, work: F) -> PyResult<Bound<'py, PyBytes>>
where
    F: FnOnce() -> Result<Value, FilterError> + Send,
{
    let text = enter(python, || work().map(|value| value.to_string()).map_err(Failure))?;
    Ok(PyBytes::new(python, text.as_bytes()))
}
