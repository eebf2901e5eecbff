//! Rust errors as the exception classes of `ironpost.errors`. The classes live in Python; they are imported here.

use pyo3::import_exception;
use pyo3::prelude::*;
use pyo3::types::PyDict;

import_exception!(ironpost.errors, InternalError);

/// An attribute of an exception.
#[allow(dead_code, reason = "rooms of the door use what they need")]
pub(crate) enum Attribute<'a> {
    /// A text attribute.
    Text(&'static str, &'a str),
    /// A number attribute, for example a line.
    Number(&'static str, u64),
}

/// Builds the exception `ironpost.errors.<class>(message, **attributes)`.
///
/// The attributes are keyword arguments of the class (`path`, `line`, `field`, `hint`, `capability`, …).
#[allow(dead_code, reason = "rooms of the door use what they need")]
pub(crate) fn raise(class: &str, message: &str, attributes: &[Attribute<'_>]) -> PyErr {
    Python::attach(|python| {
        let build = || -> PyResult<PyErr> {
            let keywords = PyDict::new(python);
            for attribute in attributes {
                match attribute {
                    Attribute::Text(name, value) => keywords.set_item(name, value)?,
                    Attribute::Number(name, value) => keywords.set_item(name, value)?,
                }
            }
            let class = python.import("ironpost.errors")?.getattr(class)?;
            Ok(PyErr::from_value(class.call((message,), Some(&keywords))?))
        };
        build().unwrap_or_else(|error| error)
    })
}
