//! The wide-column store: instances, clusters, tables, rows, filters and garbage collection, with
//! the semantics of Cloud Bigtable and each table in each cluster sealed under its own key.
//!
//! Invariant: nothing here names a wire format, a cipher or a disk. A row reaches a disk only through
//! the sealed store of its tablet, and is read only while the tablet's scope is unlocked.

mod admin;
pub mod catalog;
mod compaction;
mod data;
pub mod model;

mod tablet;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use claviger_cmek::Manager;
use claviger_core::names::{CryptoKeyName, TableName};
use claviger_core::{Caller, Clock, Result};
use claviger_sealed::Records;
use claviger_sealed::engine::BlockCache;
use futures::StreamExt;
use object_store::ObjectStore;

pub use admin::clusters::{ClusterChange, ClusterSpec};
pub use admin::instances::{InstanceChange, InstanceSpec};
pub use admin::profiles::ProfileSpec;
pub use admin::tables::{Encryption, FamilyChange, KeyInUse, RowDrop, TableSpec};
pub use catalog::Catalog;
pub use data::read::{ReadAnswer, ReadEvent, ReadRequest, ReadStats};
pub use data::rmw::{CheckAndMutate, ReadModifyWrite};
pub use data::sample::RowKeySample;
pub use data::write::RowChange;

use tablet::{RowLocks, Shared, Tablet};

/// How long a tablet stays open after its last use.
const IDLE: Duration = Duration::from_secs(60);
/// Tablets that are closed at the same time when the process ends.
const CLOSED_AT_ONCE: usize = 32;
/// How often idle tablets are looked for.
const IDLE_CHECK: Duration = Duration::from_secs(15);

/// What the store asks of the key service that the keys' lifecycle does not cover.
#[async_trait]
pub trait KeyDirectory: Send + Sync {
    /// The identity in whose name the store uses the keys of a project's resources.
    ///
    /// # Errors
    /// When the project's number could not be assigned.
    async fn agent(&self, project: &str) -> Result<Caller>;

    /// The key that protects what has no customer's key in a region, and who may use it.
    ///
    /// # Errors
    /// When it could not be made.
    async fn managed_key(&self, region: &str) -> Result<(CryptoKeyName, Caller)>;

    /// Uses a key once in a caller's name, to learn whether that works.
    ///
    /// # Errors
    /// The key service's refusal.
    async fn try_key(&self, caller: &Caller, key: &CryptoKeyName) -> Result<()>;

    /// Whether an external key manager keeps a key. Where there are none, none is.
    ///
    /// # Errors
    /// The key service's refusal.
    async fn is_external(&self, _key: &CryptoKeyName) -> Result<bool> {
        Ok(false)
    }

    /// Whether the policies of a project let something new be under a key, or under none of the customer's.
    /// `operation` names what makes it. Where nobody keeps policies, all is let.
    ///
    /// # Errors
    /// The policy's refusal; silence when whoever keeps the policies does not answer.
    async fn admit(&self, _project: &str, _key: Option<&CryptoKeyName>, _operation: &str) -> Result<()> {
        Ok(())
    }
}

/// What the store stands on.
pub struct Config {
    /// The disk, or what serves as one; the store seals all that it writes there.
    pub files: Arc<dyn ObjectStore>,
    /// The records of the catalog.
    pub records: Arc<Records>,
    /// The scopes and their keys.
    pub keys: Arc<Manager>,
    /// Service agents and managed keys.
    pub directory: Arc<dyn KeyDirectory>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Bytes of decrypted blocks kept in memory.
    pub cache_bytes: u64,
    /// Refuses with `ResourceExhausted` while the disk is too full for another write.
    pub room: Arc<dyn Fn() -> Result<()> + Send + Sync>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("cache_bytes", &self.cache_bytes).finish_non_exhaustive()
    }
}

/// The tablets that were used since the start, open or not.
#[derive(Default)]
struct Tablets {
    by_scope: HashMap<String, Arc<Tablet>>,
    /// What a request looks up. A table that was dropped or emptied is not here.
    by_table: HashMap<TableName, Arc<Tablet>>,
}

/// The store; see the crate's text.
pub struct Bigtable {
    catalog: Arc<Catalog>,
    shared: Arc<Shared>,
    directory: Arc<dyn KeyDirectory>,
    tablets: RwLock<Tablets>,
}

impl fmt::Debug for Bigtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bigtable").finish_non_exhaustive()
    }
}

impl Bigtable {
    /// Reads the catalog. Tablets are opened when they are used. They, and scans, run on the runtime that
    /// this is called on, whichever runtime asks for them.
    ///
    /// # Errors
    /// `DataLoss` when the catalog is not what was written.
    pub async fn open(config: Config) -> Result<Arc<Self>> {
        let catalog = Arc::new(Catalog::open(config.records).await?);
        let shared = Arc::new(Shared {
            catalog: catalog.clone(),
            files: config.files,
            keys: config.keys,
            cache: Arc::new(BlockCache::new(config.cache_bytes)),
            clock: config.clock,
            row_locks: RowLocks::new(),
            room: config.room,
            runtime: tokio::runtime::Handle::current(),
        });
        let store = Self { catalog, shared, directory: config.directory, tablets: RwLock::default() };
        store.remove_orphans().await?;
        Ok(Arc::new(store))
    }

    /// What exists.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Closes idle tablets, for as long as the process runs.
    pub async fn close_idle_tablets(self: Arc<Self>) {
        loop {
            self.shared.clock.sleep(IDLE_CHECK).await;
            for tablet in self.open_tablets() {
                tablet.resident().close_if_idle(IDLE).await;
            }
        }
    }

    /// Makes all durable and closes every tablet.
    pub async fn close(&self) {
        let tablets = futures::stream::iter(self.open_tablets());
        tablets.for_each_concurrent(CLOSED_AT_ONCE, async |tablet| tablet.resident().close().await).await;
    }

    fn tablets(&self) -> std::sync::RwLockWriteGuard<'_, Tablets> {
        self.tablets.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn open_tablets(&self) -> Vec<Arc<Tablet>> {
        self.tablets().by_scope.values().cloned().collect()
    }
}
