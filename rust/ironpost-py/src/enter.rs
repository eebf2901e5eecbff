//! The one way into native code that may take a millisecond.

use crate::error::InternalError;
use pyo3::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work` with the interpreter released; a panic becomes `ironpost.errors.InternalError`.
///
/// # Errors
/// Whatever `work` returns, converted by `E`'s `Into<PyErr>`, or `InternalError` for a panic.
#[allow(dead_code, reason = "rooms of the door use what they need")]
pub(crate) fn enter<T, E, F>(python: Python<'_>, work: F) -> PyResult<T>
where
    F: FnOnce() -> Result<T, E> + Send,
    T: Send,
    E: Into<PyErr> + Send,
{
    match python.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.into()),
        Err(payload) => {
            let text = payload
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "panic without a message".to_owned());
            Err(InternalError::new_err(format!("native module: {text}")))
        }
    }
}
