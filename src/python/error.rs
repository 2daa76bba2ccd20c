//! From [`crate::Error`] to Python exceptions.

use pyo3::PyErr;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError, PyValueError};

use crate::Error;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Value { .. } | Error::Label { .. } | Error::File { .. } => PyValueError::new_err(error.to_string()),
            Error::Cuda(_) => PyRuntimeError::new_err(error.to_string()),
            Error::Type { .. } => PyTypeError::new_err(error.to_string()),
            Error::Io { path, source } => match source.raw_os_error() {
                // OSError(errno, text, file) picks the subclass: FileNotFoundError, PermissionError, ...
                Some(errno) => PyOSError::new_err((errno, os_text(&source), path.into_os_string())),
                None => PyOSError::new_err(format!("{}: {source}", path.display())),
            },
        }
    }
}

/// The system's text without Rust's " (os error N)", which Python prints in its own way.
fn os_text(source: &std::io::Error) -> String {
    let text = source.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
