//! The places at rest of a job: what stays when it is over, and what it works with.
//!
//! ```text
//! dataflow/SCOPE/kept/...   the pipeline and its story
//! dataflow/SCOPE/work/...   staged files, shuffles, logs
//! ```
//!
//! Each is a sealed store of its own under the job's one scope, so that the work can be removed while the key
//! is locked.
//!
//! Invariant: what is under a scope that no job names is removed at the next start.

use std::sync::Arc;

use claviger_cmek::Scope;
use claviger_core::{ErrorKind, Result};
use claviger_sealed::{SealedOptions, SealedStore, from_store};
use claviger_shuffle::Space;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::Config;

/// One of the two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Kept,
    Work,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Work => "work",
        }
    }

    /// The directory below the store's own: files of one place cannot pass for those of the other.
    fn dir(self) -> &'static str {
        match self {
            Self::Kept => "k",
            Self::Work => "w",
        }
    }

    /// Where it is on the disk.
    pub(crate) fn prefix(self, scope: &str) -> String {
        format!("{scope}/{}", self.name())
    }
}

/// A place that is open.
pub(crate) struct Place {
    pub(crate) space: Arc<Space>,
    store: Arc<SealedStore>,
}

impl Place {
    /// Opens a place of a job. `must_exist` when files must be there.
    pub(crate) async fn open(
        config: &Config,
        scope: &Arc<Scope>,
        part: Part,
        must_exist: bool,
    ) -> Result<Self> {
        scope.guard()?;
        let options =
            SealedOptions { must_exist, lazy_deletes: part == Part::Work, ..SealedOptions::default() };
        let prefix = Path::from(part.prefix(scope.id().as_str()));
        let opened =
            SealedStore::open(config.files.clone(), prefix, scope.keys(), config.clock.clone(), options)
                .await;
        let store = Arc::new(opened.map_err(|error| scope.guard().err().unwrap_or(error))?);
        let guarded = scope.clone();
        let guard = Arc::new(move || guarded.guard());
        let space = Space::new(store.clone(), Path::from(part.dir()), config.budget.clone(), guard);
        Ok(Self { space, store })
    }

    /// Makes all durable. A locked key refuses, and then nothing is lost that was durable.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.store.close().await
            && error.kind() != ErrorKind::FailedPrecondition
        {
            tracing::warn!(%error, "a job's ledger was not written");
        }
        self.store.forget();
    }

    /// Drops what was decrypted.
    pub(crate) fn forget(&self) {
        self.store.forget();
    }

    /// Removes everything, also under a locked key.
    pub(crate) async fn remove(&self, config: &Config, scope: &str, part: Part) {
        if let Err(error) = self.space.remove().await
            && error.kind() != ErrorKind::FailedPrecondition
        {
            tracing::warn!(%error, "files of a job are removed from below");
        }
        self.close().await;
        remove_files(config, &part.prefix(scope)).await;
    }
}

/// Removes the files below a path, whatever they are. What is left after an error goes at the next start.
pub(crate) async fn remove_files(config: &Config, prefix: &str) {
    let files = &config.files;
    let listed = files.list(Some(&Path::from(prefix))).map_ok(|meta| meta.location).boxed();
    let removed = files.delete_stream(listed).try_for_each(|_| std::future::ready(Ok(()))).await;
    match removed {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => tracing::warn!(prefix, %error, "files of a job are left for the next start"),
    }
}

/// The folders below a path.
pub(crate) async fn folders(config: &Config, prefix: &str) -> Result<Vec<String>> {
    let listed = config.files.list_with_delimiter(Some(&Path::from(prefix))).await.map_err(from_store)?;
    Ok(listed.common_prefixes.into_iter().map(|path| path.to_string()).collect())
}
