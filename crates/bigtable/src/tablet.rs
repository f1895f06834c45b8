//! The rows of one table in one cluster: a sealed database that is opened at first use, closed when
//! idle, and dropped at once when its key goes.
//!
//! Invariant: no request sees a row of a tablet whose scope is locked.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use claviger_cmek::{Manager, Opened, Resident, Scope};
use claviger_core::names::TableName;
use claviger_core::{Clock, Error, ErrorKind, Result};
use claviger_sealed::engine::{BlockCache, Engine, EngineOptions};
use claviger_sealed::scope::ScopeId;
use claviger_sealed::{SealedOptions, SealedStore};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::sync::{OwnedRwLockReadGuard, RwLockWriteGuard};

use crate::catalog::{Catalog, TabletRecord};
use crate::compaction::CollectGarbage;
use crate::data::group::Committer;
use crate::model::{Families, RowMergeOperator};

/// The database's path below the tablet's own.
const DATABASE: &str = "db";
/// Bytes of writes in memory before they become a sorted file.
const MEMTABLE_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of writes in memory at which writers wait.
const MAX_UNFLUSHED_BYTES: usize = 192 * 1024 * 1024;
/// Row locks of the process.
const ROW_LOCKS: usize = 4096;

/// What all tablets of the process share.
pub(crate) struct Shared {
    pub(crate) files: Arc<dyn ObjectStore>,
    pub(crate) keys: Arc<Manager>,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) row_locks: RowLocks,
    pub(crate) room: RoomCheck,
    /// Where databases and scans run, whichever thread asks for them.
    pub(crate) runtime: Handle,
}

/// Says whether the disk has room for another write.
pub(crate) type RoomCheck = Arc<dyn Fn() -> Result<()> + Send + Sync>;

impl Shared {
    /// Refuses a write while the disk is so full that the engine could not keep its house in order.
    pub(crate) fn check_room(&self) -> Result<()> {
        (self.room)()
    }
}

/// Locks of rows, striped over all tablets: two rows may share one.
pub(crate) struct RowLocks(Box<[Arc<tokio::sync::RwLock<()>>]>);

impl RowLocks {
    pub(crate) fn new() -> Self {
        Self(std::iter::repeat_with(Arc::default).take(ROW_LOCKS).collect())
    }
}

/// One tablet, open or not. There is one of it for a scope, so that no two databases open its files.
pub(crate) struct Tablet {
    id: ScopeId,
    table: TableName,
    /// Whether it was ever opened, so that its files must be there.
    opened: AtomicBool,
    shared: Arc<Shared>,
    schema: Arc<RwLock<Arc<Families>>>,
    open: Arc<Resident<OpenTablet>>,
    /// Sets the row locks of tablets apart.
    salt: u64,
}

/// A tablet whose database is open. Whoever works on rows holds one.
pub(crate) struct OpenTablet {
    pub(crate) engine: Arc<Engine>,
    pub(crate) committer: Committer,
    store: Arc<SealedStore>,
    scope: Arc<Scope>,
}

impl fmt::Debug for Tablet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tablet({})", self.id)
    }
}

impl OpenTablet {
    /// Whether the key is usable now; cheap enough to ask between rows.
    pub(crate) fn guard(&self) -> Result<()> {
        self.scope.guard()
    }

    /// The reason why an operation failed: the lock of the key, if it is locked by now.
    pub(crate) fn explain(&self, error: Error) -> Error {
        self.scope.guard().err().unwrap_or(error)
    }
}

impl Opened for OpenTablet {
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
        let scope = self.scope.id();
        if let Err(error) = self.engine.close().await {
            // What was acknowledged is in the log; the next open replays it.
            tracing::warn!(%scope, %error, "a tablet did not close cleanly");
        }
        if let Err(error) = self.store.close().await
            && error.kind() != ErrorKind::FailedPrecondition
        {
            tracing::warn!(%scope, %error, "a tablet's ledger was not written");
        }
        self.store.forget();
    }
}

impl Tablet {
    pub(crate) fn new(
        table: TableName,
        record: &TabletRecord,
        schema: Arc<Families>,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: ScopeId::new(&record.scope),
            table,
            opened: AtomicBool::new(record.opened),
            open: Resident::new(shared.clock.clone()),
            shared,
            schema: Arc::new(RwLock::new(schema)),
            salt: rand::random(),
        })
    }

    pub(crate) fn id(&self) -> &ScopeId {
        &self.id
    }

    /// The table's families as they are now.
    pub(crate) fn schema(&self) -> Arc<Families> {
        self.schema.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows a change of the families to readers, writers and compactions.
    pub(crate) fn set_schema(&self, schema: Arc<Families>) {
        *self.schema.write().unwrap_or_else(PoisonError::into_inner) = schema;
    }

    /// Waits until nobody changes the row after reading it, and keeps it so.
    pub(crate) async fn own_row(&self, row_key: &[u8]) -> RwLockWriteGuard<'_, ()> {
        self.shared.row_locks.0[self.row_lock(row_key)].write().await
    }

    /// Waits until nobody changes any of the rows after reading it, and keeps it so; others may write
    /// to the rows at the same time. Locks are taken in their order, so that no two requests wait for
    /// each other.
    pub(crate) async fn share_rows<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> Vec<OwnedRwLockReadGuard<()>> {
        let mut locks: Vec<_> = keys.map(|key| self.row_lock(key)).collect();
        locks.sort_unstable();
        locks.dedup();
        let mut held = Vec::with_capacity(locks.len());
        for lock in locks {
            held.push(self.shared.row_locks.0[lock].clone().read_owned().await);
        }
        held
    }

    fn row_lock(&self, row_key: &[u8]) -> usize {
        // FNV-1a: what matters is that it is quick.
        let hash =
            row_key.iter().fold(self.salt, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3));
        usize::try_from(hash % ROW_LOCKS as u64).unwrap_or(0)
    }

    /// Its place: open or not, to be closed.
    pub(crate) fn resident(&self) -> &Resident<OpenTablet> {
        &self.open
    }

    /// The open database, opened now if need be.
    ///
    /// # Errors
    /// The lock of the scope when its key is not usable; `DataLoss` when stored bytes were changed.
    pub(crate) async fn open(self: &Arc<Self>) -> Result<Arc<OpenTablet>> {
        if let Some(open) = self.open.get()? {
            return Ok(open);
        }
        // The database's own tasks stay where it is opened, and must not hold a connection's thread up.
        let this = self.clone();
        let opening = async move { this.open.get_or_open(|| this.make()).await };
        let opened = self.shared.runtime.spawn(opening).await;
        opened.map_err(|e| Error::internal("a tablet could not be opened").because(e))?
    }

    async fn make(&self) -> Result<OpenTablet> {
        let scope = self.shared.keys.scope(&self.id).await?;
        scope.guard()?;
        let files = self.shared.files.clone();
        let store = SealedStore::open(
            files,
            Path::from(self.id.as_str()),
            scope.keys(),
            self.shared.clock.clone(),
            SealedOptions {
                must_exist: self.opened.load(Ordering::Relaxed),
                lazy_deletes: true,
                ..SealedOptions::default()
            },
        )
        .await
        .map_err(|e| locked_or(&scope, e))?;
        let store = Arc::new(store);
        let options = EngineOptions {
            merge_operator: Some(Arc::new(RowMergeOperator)),
            compaction_filter: Some(Arc::new(CollectGarbage::new(
                self.schema.clone(),
                self.shared.clock.clone(),
            ))),
            cache: Some(self.shared.cache.clone()),
            memtable_bytes: MEMTABLE_BYTES,
            max_unflushed_bytes: MAX_UNFLUSHED_BYTES,
            own_thread: true,
        };
        let engine =
            Engine::open(store.clone(), DATABASE, options).await.map_err(|e| locked_or(&scope, e))?;
        if !self.opened.load(Ordering::Relaxed) {
            self.shared.catalog.mark_opened(&self.table, self.id.as_str()).await?;
            self.opened.store(true, Ordering::Relaxed);
        }
        let engine = Arc::new(engine);
        let committer = Committer::start(engine.clone());
        Ok(OpenTablet { engine, committer, store, scope })
    }
}

fn locked_or(scope: &Scope, error: Error) -> Error {
    scope.guard().err().unwrap_or(error)
}
