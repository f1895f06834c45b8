//! What can go wrong: few kinds, told apart by what the caller makes of them.
//!
//! Invariant: no message holds bytes of a key, a plaintext or a passphrase.

use std::fmt;

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A chunk is not what was sealed: changed, moved, or cut off at a chunk's edge.
    Tampered,
    /// The commitment does not fit: another key, another context, or a changed prefix.
    WrongKey,
    /// There are fewer bytes than any sealed message has.
    Truncated,
    /// More than the construction can hold.
    TooLarge,
    /// An argument that no valid caller passes, such as a key of the wrong length.
    BadInput,
    /// The machine gave no random bytes.
    Random,
}

/// An error of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: &'static str,
}

impl Error {
    pub(crate) const fn new(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, message }
    }

    /// What it means to the caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for Error {}
