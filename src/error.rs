//! The one error type: what was wrong, the value got, what was expected, and the file if there is one.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong; each variant becomes one kind of Python exception.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument of the right type with a wrong value (`ValueError`).
    #[error("{argument}: got {got}, expected {expected}")]
    Value {
        /// The argument's public name.
        argument: &'static str,
        /// The value got.
        got: String,
        /// What would have been right.
        expected: String,
    },
    /// An argument of the wrong type or dtype (`TypeError`).
    #[error("{argument}: got {got}, expected {expected}")]
    Type {
        /// The argument's public name.
        argument: &'static str,
        /// The type got.
        got: String,
        /// What would have been right.
        expected: String,
    },
    /// A label of the target that is no class (`ValueError`).
    #[error("target: got label {label} at position {position:?}, expected 0 to {} or ignore_index ({ignore_index})", classes - 1)]
    Label {
        /// The label.
        label: i64,
        /// Its index in the target.
        position: Vec<usize>,
        /// How many classes there are.
        classes: usize,
        /// The label of ignored pixels.
        ignore_index: i64,
    },
    /// CUDA cannot be used, or a call of it failed (`RuntimeError`).
    #[error("{0}")]
    Cuda(String),
    /// A file whose content is wrong (`ValueError`).
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that could not be read or written (`OSError` and its subclasses, by errno).
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// An [`Error::Value`] from displayable parts.
    pub fn value(argument: &'static str, got: impl ToString, expected: impl ToString) -> Self {
        Self::Value { argument, got: got.to_string(), expected: expected.to_string() }
    }

    /// An [`Error::Type`] from displayable parts.
    pub fn type_(argument: &'static str, got: impl ToString, expected: impl ToString) -> Self {
        Self::Type { argument, got: got.to_string(), expected: expected.to_string() }
    }

    /// An [`Error::File`]: the file and what is wrong with its content.
    pub fn file(path: impl AsRef<Path>, problem: impl ToString) -> Self {
        Self::File { path: path.as_ref().to_owned(), problem: problem.to_string() }
    }

    /// An [`Error::Io`]: the file and why it could not be read or written.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), source }
    }
}
