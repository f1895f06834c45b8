//! What lies in a bucket under one key: a sealed store with the files of objects, and a sealed database
//! with short contents and, in the vault of the default key, the index of all objects.
//!
//! Invariant: no request sees a byte of a vault whose scope is locked. There is one `Vault` for a scope in
//! a process. An idle vault holds no task, no file and no memory beyond this struct.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use claviger_cmek::{Lock, Manager, Scope};
use claviger_core::{Clock, Error, ErrorKind, Result};
use claviger_sealed::engine::{BlockCache, Engine, EngineOptions};
use claviger_sealed::scope::ScopeId;
use claviger_sealed::{SealedOptions, SealedStore};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::{Mutex, watch};

use crate::catalog::Catalog;

/// The database's path below the vault's own.
const DATABASE: &str = "db";
/// Bytes of writes in memory before they become a sorted file.
const MEMTABLE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of writes in memory at which writers wait.
const MAX_UNFLUSHED_BYTES: usize = 64 * 1024 * 1024;
/// How long a close waits for the last use of the vault to end.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

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
    open: RwLock<Option<Arc<OpenVault>>>,
    /// Held while the vault is opened or closed.
    turning: Mutex<()>,
    /// When it was last used, in milliseconds of the clock's elapsed time.
    used: AtomicU64,
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

    /// Drops all that is decrypted. Operations under way end with an error.
    async fn abandon(&self) {
        self.engine.abandon().await;
        self.store.forget();
    }
}

impl Vault {
    pub(crate) fn new(id: &str, bucket: &str, opened: bool, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            id: ScopeId::new(id),
            bucket: bucket.to_owned(),
            opened: AtomicBool::new(opened),
            shared,
            open: RwLock::new(None),
            turning: Mutex::new(()),
            used: AtomicU64::new(0),
        })
    }

    /// Whether it is open now.
    pub(crate) fn was_open(&self) -> bool {
        self.current().is_some()
    }

    fn current(&self) -> Option<Arc<OpenVault>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, open: Option<Arc<OpenVault>>) -> Option<Arc<OpenVault>> {
        std::mem::replace(&mut *self.open.write().unwrap_or_else(PoisonError::into_inner), open)
    }

    fn touch(&self) {
        let now = self.shared.clock.elapsed().as_millis();
        self.used.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The open vault, opened now if need be.
    ///
    /// # Errors
    /// The lock of the scope when its key is not usable; `DataLoss` when stored bytes were changed.
    pub(crate) async fn open(self: &Arc<Self>) -> Result<Arc<OpenVault>> {
        self.touch();
        if let Some(open) = self.current().filter(|open| !open.engine.is_closed()) {
            open.guard()?;
            return Ok(open);
        }
        // Seldom, and a large future: it has an allocation of its own.
        Box::pin(self.open_anew()).await
    }

    async fn open_anew(self: &Arc<Self>) -> Result<Arc<OpenVault>> {
        let _turn = self.turning.lock().await;
        if let Some(open) = self.current() {
            if !open.engine.is_closed() {
                open.guard()?;
                return Ok(open);
            }
            // It failed, or its key went: leave it to those who still hold it and start anew.
            self.put(None);
            open.abandon().await;
        }
        let scope = self.shared.keys.scope(&self.id).await?;
        scope.guard()?;
        let mut lock = scope.watch();
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
        let open = Arc::new(OpenVault { engine, store, scope: scope.clone() });
        lock.mark_changed();
        tokio::spawn(drop_when_locked(Arc::downgrade(self), Arc::downgrade(&open), lock));
        self.put(Some(open.clone()));
        open.guard()?;
        Ok(open)
    }

    /// Closes the vault when nobody used it for `idle`.
    pub(crate) async fn close_if_idle(&self, idle: Duration) {
        let used = Duration::from_millis(self.used.load(Ordering::Relaxed));
        if self.shared.clock.elapsed().saturating_sub(used) < idle {
            return;
        }
        let _turn = self.turning.lock().await;
        let Some(open) = self.put(None) else { return };
        if Arc::strong_count(&open) > 1 {
            self.put(Some(open));
            return;
        }
        close(&open).await;
    }

    /// Closes the vault, whoever uses it; for the end of the process.
    pub(crate) async fn close(&self) {
        let _turn = self.turning.lock().await;
        let Some(open) = self.put(None) else { return };
        let step = CLOSE_PATIENCE / 50;
        let mut waited = Duration::ZERO;
        while Arc::strong_count(&open) > 1 && waited < CLOSE_PATIENCE {
            tokio::time::sleep(step).await;
            waited += step;
        }
        close(&open).await;
    }

    /// Drops the vault without a last write: what is in it is to go.
    pub(crate) async fn discard(&self) {
        let _turn = self.turning.lock().await;
        if let Some(open) = self.put(None) {
            open.abandon().await;
        }
    }
}

async fn close(open: &OpenVault) {
    if let Err(error) = open.engine.close().await {
        // What was acknowledged is in the log; the next open replays it.
        tracing::warn!(scope = open.id(), %error, "a vault did not close cleanly");
    }
    if let Err(error) = open.store.close().await
        && error.kind() != ErrorKind::FailedPrecondition
    {
        tracing::warn!(scope = open.id(), %error, "a vault's ledger was not written");
    }
    open.store.forget();
}

/// Waits for the key to go, then drops what was decrypted with it.
async fn drop_when_locked(vault: Weak<Vault>, open: Weak<OpenVault>, mut lock: watch::Receiver<Lock>) {
    loop {
        if *lock.borrow_and_update() == Lock::Locked {
            let Some(open) = open.upgrade() else { return };
            if let Some(vault) = vault.upgrade() {
                let ours = vault.current().is_some_and(|current| Arc::ptr_eq(&current, &open));
                if ours {
                    vault.put(None);
                }
            }
            open.abandon().await;
            return;
        }
        tokio::select! {
            changed = lock.changed() => if changed.is_err() { return },
            // The vault may have been closed meanwhile; do not outlive it for long.
            () = tokio::time::sleep(Duration::from_secs(60)) => if open.strong_count() == 0 { return },
        }
    }
}
