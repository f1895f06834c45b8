//! Writes and deletes of whole objects, each in the book before it is on the disk.
//!
//! What happens at a path, step by step; a process may die between any two:
//! - new: note in memory, write the file, settle. The stored ledger does not know the file, whose
//!   sequence tells that it is newer.
//! - over another one: store the intent, write the file, settle, store again. So an acknowledged
//!   overwrite cannot be taken back unnoticed, and one that was cut short fits the intent.
//! - delete: hide; store that it may be absent, remove the file, forget (see `flush`).
//!
//! Invariant: all of it happens in the path's turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::path::Path;
use object_store::{Error, ObjectStore, PutMode, PutOptions, PutPayload, PutResult, Result};

use super::book::Found;
use super::header::file_len;
use super::ledger::Version;
use super::{Shared, object_path};
use crate::error::{Change, lock_error, permanent, refused};
use crate::scope::ScopeKey;

/// What is at a path when its turn to be written comes.
pub(super) enum Before {
    Nothing,
    /// An object, or doubt about one.
    Something {
        certain: bool,
    },
}

impl Shared {
    pub(super) async fn put(
        self: &Arc<Self>,
        path: &str,
        key: Arc<ScopeKey>,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let _turn = self.turn(path).await?;
        let before = self.before(path).await?;
        if let (PutMode::Create, Before::Something { certain: true }) = (&opts.mode, &before) {
            return Err(already_exists(path));
        }
        let replaces = matches!(before, Before::Something { .. });
        let version = {
            let mut book = self.book();
            let version =
                Version { sequence: book.next_sequence(), len: file_len(payload.content_length() as u64) };
            book.begin(path, version);
            version
        };
        let written = self.write_file(path, &key, version, payload, opts, replaces).await;
        let result = self.settle(path, version, written, replaces).await;
        self.plan_flush();
        result
    }

    async fn write_file(
        self: &Arc<Self>,
        path: &str,
        key: &ScopeKey,
        version: Version,
        payload: PutPayload,
        opts: PutOptions,
        replaces: bool,
    ) -> Result<PutResult, Failure> {
        let file = self.place.seal_whole(key, path, version.sequence, &payload).map_err(Failure::Sure)?;
        drop(payload);
        let full = self.place.full(path).map_err(Failure::Sure)?;
        if replaces {
            self.flush().await.map_err(Failure::Sure)?;
        }
        let (create, attributes) = (opts.mode == PutMode::Create, !opts.attributes.is_empty());
        self.place.inner.put_opts(&full, file.into(), opts).await.map_err(|error| match error {
            // The book had nothing there: somebody else put a file.
            Error::AlreadyExists { .. } if create && !replaces => {
                Failure::Sure(self.place.tampered(path, Change::Old))
            }
            Error::NotImplemented { .. } if attributes => {
                self.refuses_attributes.store(true, Ordering::Relaxed);
                Failure::Sure(error)
            }
            error => Failure::of(error),
        })
    }

    /// Notes how a write ended.
    pub(super) async fn settle(
        self: &Arc<Self>,
        path: &str,
        version: Version,
        written: Result<PutResult, Failure>,
        replaces: bool,
    ) -> Result<PutResult> {
        match written {
            Ok(result) => {
                self.book().settle(path, version);
                self.open_files.forget(path);
                if replaces {
                    self.flush().await?;
                }
                Ok(result)
            }
            Err(Failure::Sure(error)) => {
                self.book().give_up(path, version.sequence);
                Err(error)
            }
            Err(Failure::Doubtful(error)) => Err(error),
        }
    }

    /// Makes way for a write: what was deleted there must be gone.
    pub(super) async fn before(self: &Arc<Self>, path: &str) -> Result<Before> {
        if self.book().find(path) == Found::Deleting {
            self.flush().await?;
        }
        let book = self.book();
        match book.find(path) {
            Found::Nothing if book.is_gone(path) => Ok(Before::Something { certain: false }),
            Found::Nothing => Ok(Before::Nothing),
            Found::Entry(entry) => Ok(Before::Something { certain: entry.certain().is_some() }),
            Found::Deleting => Err(Error::Generic {
                store: "sealed",
                source: "the object there is still being deleted".into(),
            }),
        }
    }

    /// Deletes a batch; the results are in its order.
    pub(super) async fn delete(self: &Arc<Self>, batch: Vec<Result<Path>>) -> Vec<Result<Path>> {
        let mut results = Vec::with_capacity(batch.len());
        let mut hidden = false;
        for location in batch {
            let result = match location {
                Ok(location) => self.hide(&location).await.map(|()| location),
                Err(error) => Err(error),
            };
            hidden |= result.is_ok();
            results.push(result);
        }
        if self.lazy_deletes {
            if hidden {
                self.plan_flush();
            }
            return results;
        }
        // Also when another one hid it before: it may still be on its way.
        let flushed = self.flush().await;
        self.plan_flush();
        let check = |result: Result<Path>| {
            let path = match &result {
                Ok(location) => location.as_ref(),
                Err(Error::NotFound { path, .. }) => path.as_str(),
                Err(_) => return result,
            };
            if self.book().find(path) != Found::Deleting {
                return result;
            }
            Err(match &flushed {
                Err(error) => not_removed(path, error.to_string(), lock_error(error)),
                Ok(()) => not_removed(path, "its file is still there".to_owned(), None),
            })
        };
        results.into_iter().map(check).collect()
    }

    /// Hides an object from readers; its file goes with the next write of the ledger.
    async fn hide(self: &Arc<Self>, location: &Path) -> Result<()> {
        let path = object_path(location)?;
        self.place.guard()?;
        self.ready().await?;
        let _turn = self.turn(path).await?;
        if !self.book().delete(path) {
            return Err(Error::NotFound {
                path: location.to_string(),
                source: "there is no such object to delete".into(),
            });
        }
        self.open_files.forget(path);
        Ok(())
    }
}

fn not_removed(path: &str, why: String, locked: Option<claviger_core::Error>) -> Error {
    match locked {
        Some(locked) => refused(locked),
        None => {
            Error::Generic { store: "sealed", source: format!("{path} could not be removed: {why}").into() }
        }
    }
}

/// Why a file was not written.
pub(super) enum Failure {
    /// It is not there.
    Sure(Error),
    /// It may be there, or come later.
    Doubtful(Error),
}

impl Failure {
    pub(super) fn of(error: Error) -> Self {
        match error {
            Error::AlreadyExists { .. }
            | Error::Precondition { .. }
            | Error::NotFound { .. }
            | Error::NotImplemented { .. }
            | Error::NotSupported { .. }
            | Error::InvalidPath { .. } => Self::Sure(error),
            error => Self::Doubtful(error),
        }
    }
}

pub(super) fn already_exists(path: &str) -> Error {
    Error::AlreadyExists { path: path.to_owned(), source: "there is an object".into() }
}

pub(super) fn too_many() -> Error {
    permanent("sealed", "the store has given out all its sequences")
}
