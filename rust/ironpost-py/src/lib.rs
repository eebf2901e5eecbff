//! `ironpost._core`: the one door between Rust and Python. Each room of the door has its own file.

mod detect;
mod engine;
mod enter;
mod error;
mod events;
mod explain;
mod filter;

use pyo3::prelude::*;

/// The native half of Ironpost: batches in, batches out, the interpreter released in between.
#[pymodule]
mod _core {
    /// Version of the native module, equal to the package's.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    use super::detect::{RuleSet, Session, Unread, check_regex, regex_needles};
    #[pymodule_export]
    use super::engine::{Engine, EngineBatch};
    #[pymodule_export]
    use super::events::{PyAuditJoiner, PyEventBatch, PyExtractors, parse, parse_records};
    #[pymodule_export]
    use super::explain::Explainer;
    #[pymodule_export]
    use super::filter::{Filter, PacketReader};
}
