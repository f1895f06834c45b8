//! Buckets and objects with the semantics of Cloud Storage, each bucket sealed under its own keys.
//!
//! A bucket has a *vault* for each key that protects something in it: a scope with a directory of its
//! own. The vault of the default key also holds the index of all the bucket's objects, so that names and
//! metadata are protected as the bytes are, and a listing needs the default key.
//!
//! Invariant: nothing here names a wire format, a cipher or a disk. An object is there once its record is
//! durable, and its bytes were durable before that.

mod admin;
mod catalog;
pub mod checksums;
mod content;
pub mod errors;
mod glob;
mod index;
mod lifecycle;
pub mod model;
pub mod names;
mod objects;
mod sweep;
mod uploads;
mod vault;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use claviger_cmek::Manager;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Clock, Error, ErrorKind, Result};
use claviger_sealed::Records;
use claviger_sealed::engine::BlockCache;
use claviger_sealed::scope::ScopeId;
use futures::StreamExt;
use object_store::ObjectStore;
use tokio::sync::{MutexGuard, Notify, OwnedRwLockReadGuard, Semaphore};

pub use admin::BucketSpec;
pub use content::ByteStream;
pub use objects::compose::{ComposeRequest, ComposeSource};
pub use objects::copy::CopyRequest;
pub use objects::list::{ListPage, ListRequest};
pub use objects::read::{ObjectRead, RangeWanted, ReadRequest};
pub use objects::write::WriteRequest;
pub use uploads::{Progress, UploadChunk, UploadSpec};

use catalog::Catalog;
use model::Bucket;
use uploads::LiveUploads;
use vault::{OpenVault, Shared, Vault};

/// Long uploads that are written at the same time; others wait. Each holds up to 16 MiB.
const LARGE_WRITES: usize = 32;
/// Locks of object names, shared by all buckets: two names may share one.
const NAME_LOCKS: usize = 1024;
/// Vaults that are closed at the same time when the process ends.
const CLOSED_AT_ONCE: usize = 32;
/// The directory of all vaults, and the first part of their scopes' names.
const VAULTS: &str = "buckets";

/// What buckets ask of the key service that the keys' lifecycle does not cover.
#[async_trait]
pub trait KeyDirectory: Send + Sync {
    /// The number of a project.
    ///
    /// # Errors
    /// When it could not be assigned.
    async fn project_number(&self, project: &str) -> Result<u64>;

    /// The identity in whose name the keys of a project's buckets are used.
    ///
    /// # Errors
    /// When the project's number could not be assigned.
    async fn agent(&self, project: &str) -> Result<Caller>;

    /// The key that protects what has no customer's key in a place, and who may use it.
    ///
    /// # Errors
    /// When it could not be made.
    async fn managed_key(&self, location: &str) -> Result<(CryptoKeyName, Caller)>;

    /// Uses a key once in a caller's name, to learn whether that works.
    ///
    /// # Errors
    /// The key service's refusal.
    async fn try_key(&self, caller: &Caller, key: &CryptoKeyName) -> Result<()>;

    /// Whether the policies of a project let something new be under a key, or under none of the customer's.
    /// `operation` names what makes it. Where nobody keeps policies, all is let.
    ///
    /// # Errors
    /// The policy's refusal; silence when whoever keeps the policies does not answer.
    async fn admit(&self, _project: &str, _key: Option<&CryptoKeyName>, _operation: &str) -> Result<()> {
        Ok(())
    }
}

/// What the buckets stand on.
pub struct Config {
    /// The disk, or what serves as one; all that is written there is sealed.
    pub files: Arc<dyn ObjectStore>,
    /// The records of which buckets there are.
    pub records: Arc<Records>,
    /// The scopes and their keys.
    pub keys: Arc<Manager>,
    /// Service agents and managed keys.
    pub directory: Arc<dyn KeyDirectory>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Bytes of decrypted blocks of indexes kept in memory.
    pub cache_bytes: u64,
    /// Refuses with `ResourceExhausted` while the disk is too full for another write.
    pub room: Arc<dyn Fn() -> Result<()> + Send + Sync>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("cache_bytes", &self.cache_bytes).finish_non_exhaustive()
    }
}

/// A gate of one bucket: commits and reads of its index pass together, a change of the bucket alone.
type Gate = Arc<tokio::sync::RwLock<()>>;

/// The buckets of a server; see the crate's text.
pub struct Buckets {
    shared: Arc<Shared>,
    directory: Arc<dyn KeyDirectory>,
    vaults: RwLock<HashMap<String, Arc<Vault>>>,
    gates: Mutex<HashMap<String, Gate>>,
    names: Box<[tokio::sync::Mutex<()>]>,
    /// Contents that are being written in this process.
    active: Mutex<HashSet<String>>,
    /// Buckets that may have bytes to remove.
    dirty: Mutex<BTreeSet<String>>,
    to_sweep: Notify,
    uploads: LiveUploads,
    large: Semaphore,
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets").finish_non_exhaustive()
    }
}

/// A bucket whose gate is held: its record and index stay where they are.
struct Entered {
    _gate: OwnedRwLockReadGuard<()>,
    bucket: Arc<Bucket>,
    home: Arc<OpenVault>,
}

/// Keeps bytes under way from the sweep. Without an object in the end, the sweep removes them.
struct Pending {
    buckets: Arc<Buckets>,
    bucket: String,
    content: String,
}

impl Drop for Pending {
    fn drop(&mut self) {
        lock(&self.buckets.active).remove(&self.content);
        self.buckets.mark_dirty(&self.bucket);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Buckets {
    /// Reads which buckets there are, and removes what is left of deleted ones. Vaults are opened when
    /// they are used.
    ///
    /// # Errors
    /// `DataLoss` when a record is not what was written.
    pub async fn open(config: Config) -> Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            catalog: Catalog::open(config.records).await?,
            files: config.files,
            keys: config.keys,
            cache: Arc::new(BlockCache::new(config.cache_bytes)),
            clock: config.clock,
            room: config.room,
        });
        let buckets = Arc::new(Self {
            shared,
            directory: config.directory,
            vaults: RwLock::default(),
            gates: Mutex::default(),
            names: std::iter::repeat_with(tokio::sync::Mutex::default).take(NAME_LOCKS).collect(),
            active: Mutex::default(),
            dirty: Mutex::default(),
            to_sweep: Notify::new(),
            uploads: LiveUploads::default(),
            large: Semaphore::new(LARGE_WRITES),
        });
        buckets.remove_orphans().await?;
        Ok(buckets)
    }

    /// A bucket.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn bucket(&self, name: &str) -> Result<Arc<Bucket>> {
        self.shared.catalog.bucket(name)
    }

    /// The buckets of a project, by name.
    #[must_use]
    pub fn buckets(&self, project: &str) -> Vec<Arc<Bucket>> {
        let all = self.shared.catalog.buckets();
        all.into_iter().filter(|bucket| bucket.project == project).collect()
    }

    /// The versions of the customer's keys that protect a bucket now, by vault. A vault under a
    /// Claviger-managed key has none.
    ///
    /// # Errors
    /// `NotFound`; when a scope cannot be loaded.
    pub async fn key_versions(&self, bucket: &str) -> Result<BTreeMap<String, String>> {
        let bucket = self.bucket(bucket)?;
        let mut found = BTreeMap::new();
        for (id, vault) in &bucket.vaults {
            if vault.kms_key.is_some() {
                let scope = self.shared.keys.scope(&ScopeId::new(id)).await?;
                found.insert(id.clone(), scope.status().key_version.to_string());
            }
        }
        Ok(found)
    }

    /// The time by which buckets go.
    #[must_use]
    pub fn now(&self) -> claviger_core::Timestamp {
        self.shared.clock.now()
    }

    /// The e-mail address of the service's agent in a project.
    ///
    /// # Errors
    /// When the project's number could not be assigned.
    pub async fn service_account(&self, project: &str) -> Result<String> {
        let agent = self.directory.agent(project).await?.principal;
        Ok(agent.strip_prefix("serviceAccount:").unwrap_or(&agent).to_owned())
    }

    /// Makes all durable and closes every vault.
    pub async fn close(&self) {
        let vaults = futures::stream::iter(self.known_vaults());
        vaults.for_each_concurrent(CLOSED_AT_ONCE, async |vault| vault.resident().close().await).await;
    }

    fn known_vaults(&self) -> Vec<Arc<Vault>> {
        self.vaults.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Passes a bucket's gate for work on its index.
    async fn enter(&self, name: &str) -> Result<Entered> {
        self.bucket(name)?;
        let gate = self.gate(name).read_owned().await;
        let bucket = self.bucket(name)?;
        let home = self.open_vault(&bucket, &bucket.index).await?;
        Ok(Entered { _gate: gate, bucket, home })
    }

    fn gate(&self, name: &str) -> Gate {
        lock(&self.gates).entry(name.to_owned()).or_default().clone()
    }

    /// A vault of a bucket, opened now if need be.
    async fn open_vault(&self, bucket: &Bucket, id: &str) -> Result<Arc<OpenVault>> {
        let known = self.vaults.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let vault = match known {
            Some(vault) => vault,
            None => {
                let record = bucket.vaults.get(id).ok_or_else(|| {
                    Error::new(ErrorKind::DataLoss, "an object names a vault that is not there")
                })?;
                let mut vaults = self.vaults.write().unwrap_or_else(PoisonError::into_inner);
                let vault = vaults
                    .entry(id.to_owned())
                    .or_insert_with(|| Vault::new(id, &bucket.name, record.opened, self.shared.clone()));
                vault.clone()
            }
        };
        let first = !vault.resident().is_open();
        let open = vault.open().await?;
        if first {
            // What a crash left behind is to go.
            self.mark_dirty(&bucket.name);
        }
        Ok(open)
    }

    /// Waits for the turn to change an object.
    async fn own_name(&self, bucket: &str, name: &str) -> Result<MutexGuard<'_, ()>> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((bucket, name));
        let stripe = usize::try_from(hash % NAME_LOCKS as u64).ok().and_then(|index| self.names.get(index));
        let stripe = stripe.ok_or_else(|| Error::internal("no lock for the name"))?;
        Ok(stripe.lock().await)
    }

    fn mark_dirty(&self, bucket: &str) {
        lock(&self.dirty).insert(bucket.to_owned());
        self.to_sweep.notify_one();
    }
}
