//! One error for all services: a kind that says what the caller can do, a message for people, the
//! details that Google's APIs attach, and a source that stays inside the server's log.
//!
//! Invariant: `message` and `details` may leave the server and never hold secrets, paths of the
//! machine or another user's data; `source` never leaves it.

use std::fmt;
use std::sync::Arc;

/// The result of an operation of a service.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an error. The names and meanings are those of `google.rpc.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is wrong, whatever the state of the system: mend it.
    InvalidArgument,
    /// The named thing is not there.
    NotFound,
    /// The thing to create is there already.
    AlreadyExists,
    /// The caller lacks a permission, which the message names.
    PermissionDenied,
    /// The caller is not known.
    Unauthenticated,
    /// The system is not in the state that the request needs: a disabled key, a table with rows.
    FailedPrecondition,
    /// A limit or a full disk.
    ResourceExhausted,
    /// A position past the end.
    OutOfRange,
    /// A conflict with another request: try the whole again.
    Aborted,
    /// Silence from something that should answer: try again later.
    Unavailable,
    /// Time ran out.
    DeadlineExceeded,
    /// Not built.
    Unimplemented,
    /// Stored bytes are not what was written.
    DataLoss,
    /// A fault of the server's own.
    Internal,
}

/// One reason for `FailedPrecondition`, as `google.rpc.PreconditionFailure.Violation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Such as `KEY_DISABLED`.
    pub kind: String,
    /// What it is about: a resource name.
    pub subject: String,
    /// A sentence.
    pub description: String,
}

/// One wrong field, as `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field in the request, as `table.column_families`.
    pub field: String,
    /// A sentence.
    pub description: String,
}

/// An error of a service; see the module's text.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    violations: Vec<Violation>,
    fields: Vec<FieldViolation>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of a kind with a sentence for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            violations: Vec::new(),
            fields: Vec::new(),
            source: None,
        }))
    }

    /// [`ErrorKind::InvalidArgument`] without a named field.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// [`ErrorKind::InvalidArgument`] that names the field.
    pub fn invalid_field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let (field, description) = (field.into(), description.into());
        let mut error = Self::invalid(format!("{field}: {description}"));
        error.0.fields.push(FieldViolation { field, description });
        error
    }

    /// [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// [`ErrorKind::AlreadyExists`].
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::AlreadyExists, message)
    }

    /// [`ErrorKind::FailedPrecondition`].
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FailedPrecondition, message)
    }

    /// [`ErrorKind::PermissionDenied`].
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::PermissionDenied, message)
    }

    /// [`ErrorKind::Unimplemented`].
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unimplemented, message)
    }

    /// [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Adds a [`Violation`].
    #[must_use]
    pub fn violating(
        mut self,
        kind: &str,
        subject: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        let (subject, description) = (subject.into(), description.into());
        self.0.violations.push(Violation { kind: kind.to_owned(), subject, description });
        self
    }

    /// Keeps the cause for the server's log.
    #[must_use]
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The reasons of a failed precondition.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// The wrong fields of a bad request.
    #[must_use]
    pub fn fields(&self) -> &[FieldViolation] {
        &self.0.fields
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("message", &self.0.message);
        if !self.0.violations.is_empty() {
            debug.field("violations", &self.0.violations);
        }
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}
