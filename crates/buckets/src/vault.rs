//! What lies in a bucket under one key: a sealed store with the files of objects, and a sealed database
//! with short contents and, in the vault of the default key, the index of all objects.
//!
//! Invariant: no request sees a byte of a vault whose scope is locked. There is one `Vault` for a scope in
//! a process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use claviger_cmek::{Manager, Opened, Resident, Scope};
use claviger_core::{Clock, Error, ErrorKind, Result};
use claviger_sealed::engine::{BlockCache, Engine, EngineOptions};
use claviger_sealed::scope::ScopeId;
use claviger_sealed::{SealedOptions, SealedStore};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::catalog::Catalog;

/// The database's path below the vault's own.
const DATABASE: &str = "db";
/// Bytes of writes in memory before they become a sorted file.
const MEMTABLE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of writes in memory at which writers wait.
const MAX_UNFLUSHED_BYTES: usize = 64 * 1024 * 1024;

/// Says whether the disk has room for another write.
pub(crate) type RoomCheck = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// What all vaults of the process share.
pub(crate) struct Shared {
    pub(crate) files: Arc<dyn ObjectStore>,
    pub(crate) keys: Arc<Manager>,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) catalog: Catalog,
    pub(crate) room: RoomCheck,
}

/// One vault, open or not.
pub(crate) struct Vault {
    id: ScopeId,
    bucket: String,
    opened: AtomicBool,
    shared: Arc<Shared>,
    open: Arc<Resident<OpenVault>>,
}

/// A vault whose store and database are open. Whoever works on them holds one.
pub(crate) struct OpenVault {
    pub(crate) engine: Engine,
    pub(crate) store: Arc<SealedStore>,
    pub(crate) scope: Arc<Scope>,
}

impl fmt::Debug for OpenVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenVault({})", self.scope.id())
    }
}

impl OpenVault {
    pub(crate) fn id(&self) -> &str {
        self.scope.id().as_str()
    }

    /// Whether the key is usable now; cheap enough to ask between rows.
    pub(crate) fn guard(&self) -> Result<()> {
        self.scope.guard()
    }

    /// The reason why an operation failed: the lock of the key, if it is locked by now.
    pub(crate) fn explain(&self, error: Error) -> Error {
        self.scope.guard().err().unwrap_or(error)
    }

    /// As [`Self::explain`], for an error of the store.
    pub(crate) fn explain_store(&self, error: object_store::Error) -> Error {
        self.explain(claviger_sealed::from_store(error))
    }
}

impl Opened for OpenVault {
    fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    fn is_closed(&self) -> bool {
        self.engine.is_closed()
    }

    async fn abandon(&self) {
        self.engine.abandon().await;
        self.store.forget();
    }

    async fn close(&self) {
        if let Err(error) = self.engine.close().await {
            // What was acknowledged is in the log; the next open replays it.
            tracing::warn!(scope = self.id(), %error, "a vault did not close cleanly");
        }
        if let Err(error) = self.store.close().await
            && error.kind() != ErrorKind::FailedPrecondition
        {
            tracing::warn!(scope = self.id(), %error, "a vault's ledger was not written");
        }
        self.store.forget();
    }
}

impl Vault {
    pub(crate) fn new(id: &str, bucket: &str, opened: bool, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            id: ScopeId::new(id),
            bucket: bucket.to_owned(),
            opened: AtomicBool::new(opened),
            open: Resident::new(shared.clock.clone()),
            shared,
        })
    }

    /// Its place: open or not, to be closed.
    pub(crate) fn resident(&self) -> &Resident<OpenVault> {
        &self.open
    }

    /// The open vault, opened now if need be.
    ///
    /// # Errors
    /// The lock of the scope when its key is not usable; `DataLoss` when stored bytes were changed.
    pub(crate) async fn open(&self) -> Result<Arc<OpenVault>> {
        match self.open.get()? {
            Some(open) => Ok(open),
            // Seldom, and a large future: it has an allocation of its own.
            None => Box::pin(self.open.get_or_open(|| self.make())).await,
        }
    }

    async fn make(&self) -> Result<OpenVault> {
        let scope = self.shared.keys.scope(&self.id).await?;
        scope.guard()?;
        let explain = |error: Error| scope.guard().err().unwrap_or(error);
        let options = SealedOptions {
            must_exist: self.opened.load(Ordering::Relaxed),
            lazy_deletes: true,
            ..SealedOptions::default()
        };
        let (files, clock) = (self.shared.files.clone(), self.shared.clock.clone());
        let prefix = Path::from(self.id.as_str());
        let store = SealedStore::open(files, prefix, scope.keys(), clock, options).await.map_err(explain)?;
        let store = Arc::new(store);
        let options = EngineOptions {
            cache: Some(self.shared.cache.clone()),
            memtable_bytes: MEMTABLE_BYTES,
            max_unflushed_bytes: MAX_UNFLUSHED_BYTES,
            ..EngineOptions::default()
        };
        let engine = Engine::open(store.clone(), DATABASE, options).await.map_err(explain)?;
        if !self.opened.load(Ordering::Relaxed) {
            self.shared.catalog.mark_opened(&self.bucket, self.id.as_str()).await?;
            self.opened.store(true, Ordering::Relaxed);
        }
        Ok(OpenVault { engine, store, scope })
    }
}
