//! What the stores of this crate add to `object_store`'s errors, and how layers above find it again,
//! however deep the engine wrapped it.
//!
//! Invariant: a refused key, changed bytes and a full disk are marked so that the engine does not
//! retry them: it would do so for ever.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use claviger_core::{Error, ErrorKind};
use slatedb_common::retry::NonRetryable;

use crate::append::TakenOver;

/// What is wrong with a stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Its bytes are not those that were sealed under this path.
    Content,
    /// It is cut off or has grown.
    Length,
    /// It is gone.
    Missing,
    /// It is an earlier version, or one that had been deleted.
    Old,
    /// The ledger of live objects is gone.
    LedgerMissing,
    /// The ledger of live objects is an earlier version.
    LedgerOld,
}

/// A stored object that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tamper {
    /// Its path inside the store.
    pub path: String,
    /// What is wrong with it.
    pub what: Change,
}

impl fmt::Display for Tamper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            Change::Content => "its bytes are not what was written",
            Change::Length => "its length is not what was written",
            Change::Missing => "it is gone",
            Change::Old => "an old file was put back",
            Change::LedgerMissing => "the ledger of live files is gone",
            Change::LedgerOld => "an old ledger of live files was put back",
        };
        write!(f, "the stored file {} was changed: {what}", self.path)
    }
}

impl StdError for Tamper {}

/// The answer of [`crate::ScopeKeys`] when it gave no key.
#[derive(Debug)]
struct KeysRefused(Error);

impl fmt::Display for KeysRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for KeysRefused {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// An error that the engine must not retry.
pub(crate) fn permanent(
    store: &'static str,
    source: impl Into<Box<dyn StdError + Send + Sync>>,
) -> object_store::Error {
    object_store::Error::Generic { store, source: Box::new(NonRetryable(source.into())) }
}

pub(crate) fn refused(error: Error) -> object_store::Error {
    permanent("sealed", KeysRefused(error))
}

pub(crate) fn tampered(path: impl Into<String>, what: Change) -> object_store::Error {
    permanent("sealed", Tamper { path: path.into(), what })
}

/// An error of the machine's file system about the object `path`.
pub(crate) fn from_io(path: &str, error: io::Error) -> object_store::Error {
    use io::ErrorKind as Kind;
    let path = path.to_owned();
    match error.kind() {
        Kind::NotFound => object_store::Error::NotFound { path, source: Box::new(error) },
        Kind::AlreadyExists => object_store::Error::AlreadyExists { path, source: Box::new(error) },
        Kind::Interrupted | Kind::WouldBlock | Kind::OutOfMemory => {
            object_store::Error::Generic { store: "local", source: Box::new(error) }
        }
        // The process has too many files open: others will be closed.
        _ if matches!(error.raw_os_error(), Some(23 | 24)) => {
            object_store::Error::Generic { store: "local", source: Box::new(error) }
        }
        _ => permanent("local", error),
    }
}

/// Walks an error and its sources. `io::Error` hides what it wraps from `source`, so it is asked.
fn find<'a, T>(
    error: &'a (dyn StdError + 'static),
    mut wanted: impl FnMut(&'a (dyn StdError + 'static)) -> Option<T>,
) -> Option<T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = wanted(error) {
            return Some(found);
        }
        let io = error.downcast_ref::<io::Error>().or_else(|| {
            let shared = error.downcast_ref::<Arc<io::Error>>()?;
            Some(shared.as_ref())
        });
        next = match io {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// The answer of the scope's keys, when an error comes from one that was refused.
#[must_use]
pub fn lock_error(error: &(dyn StdError + 'static)) -> Option<Error> {
    find(error, |e| e.downcast_ref::<KeysRefused>().map(|refused| refused.0.clone()))
}

/// What was changed, when an error comes from bytes that are not what was written.
#[must_use]
pub fn tamper(error: &(dyn StdError + 'static)) -> Option<Tamper> {
    find(error, |e| e.downcast_ref::<Tamper>().cloned())
}

/// Whether an error comes from a full disk or an exhausted quota.
#[must_use]
pub fn is_no_space(error: &(dyn StdError + 'static)) -> bool {
    let full = |io: &io::Error| {
        matches!(
            io.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    };
    find(error, |e| {
        let io =
            e.downcast_ref::<io::Error>().or_else(|| e.downcast_ref::<Arc<io::Error>>().map(Arc::as_ref));
        io.is_some_and(full).then_some(())
    })
    .is_some()
}

/// Whether another writer took over what was to be written.
pub(crate) fn is_taken_over(error: &(dyn StdError + 'static)) -> bool {
    find(error, |e| e.downcast_ref::<TakenOver>().map(drop)).is_some()
}

/// Whether a read ended before it should have: the object is shorter than its metadata said.
pub(crate) fn is_cut_off(error: &(dyn StdError + 'static)) -> bool {
    find(error, |e| {
        let io = e.downcast_ref::<io::Error>()?;
        (io.kind() == io::ErrorKind::UnexpectedEof).then_some(())
    })
    .is_some()
}

/// The error that a service passes on for one of a store.
#[must_use]
pub fn from_store(error: object_store::Error) -> Error {
    if let Some(locked) = lock_error(&error) {
        return locked;
    }
    if let Some(tamper) = tamper(&error) {
        return Error::new(ErrorKind::DataLoss, tamper.to_string()).because(error);
    }
    if is_no_space(&error) {
        return Error::new(ErrorKind::ResourceExhausted, "no space left on the server's disk").because(error);
    }
    let (kind, message) = match &error {
        object_store::Error::NotFound { .. } => (ErrorKind::NotFound, "the stored object is not there"),
        object_store::Error::AlreadyExists { .. } => {
            (ErrorKind::AlreadyExists, "the stored object is there already")
        }
        object_store::Error::Precondition { .. } => {
            (ErrorKind::Aborted, "another server changed the stored object at the same time")
        }
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            (ErrorKind::Internal, "the storage refuses the server")
        }
        _ if slatedb_common::retry::should_retry(&error) => {
            (ErrorKind::Unavailable, "the storage does not answer")
        }
        _ => (ErrorKind::Internal, "the storage failed"),
    };
    Error::new(kind, message).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slatedb_common::retry::should_retry;

    fn wrapped(error: object_store::Error) -> io::Error {
        io::Error::other(object_store::Error::Generic {
            store: "test",
            source: Box::new(io::Error::from(error)),
        })
    }

    #[test]
    fn a_refused_key_comes_back_through_the_layers_with_its_kind_and_is_not_retried() {
        let error =
            refused(Error::precondition("key k is disabled").violating("KEY_DISABLED", "k", "disabled"));
        assert!(!should_retry(&error));
        let found = lock_error(&wrapped(error)).unwrap();
        assert_eq!((found.kind(), found.message()), (ErrorKind::FailedPrecondition, "key k is disabled"));
        assert_eq!(found.violations().len(), 1);
    }

    #[test]
    fn a_changed_file_is_named_and_not_retried() {
        let error = tampered("bigtable/t/wal/1.sst", Change::Old);
        assert!(!should_retry(&error));
        let error = from_store(error);
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert_eq!(
            error.message(),
            "the stored file bigtable/t/wal/1.sst was changed: an old file was put back"
        );
    }

    #[test]
    fn a_full_disk_is_recognised_and_not_retried_but_a_lack_of_descriptors_is() {
        let full = from_io("a", io::Error::from_raw_os_error(28));
        assert!(!should_retry(&full));
        assert!(is_no_space(&full));
        assert!(is_no_space(&wrapped(full)));
        assert!(is_no_space(&Arc::new(io::Error::from_raw_os_error(122))));
        let busy = from_io("a", io::Error::from_raw_os_error(24));
        assert!(should_retry(&busy) && !is_no_space(&busy));
    }
}
