//! The one error of the benchmarks: a sentence.

use std::fmt;

/// The result of a step.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a benchmark could not go on, or what it found wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(String);

impl Failure {
    /// A failure with its sentence.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    /// Puts `what` before the error's text.
    ///
    /// # Errors
    /// The same error, with the sentence.
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure(format!("{what}: {error}")))
    }
}
