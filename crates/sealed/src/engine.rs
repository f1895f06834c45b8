//! SlateDB as Claviger uses it: our settings, group commit, one block cache for all, and a way out
//! when a key goes.
//!
//! Invariant: nothing ticks while nothing waits. A write is durable once [`Engine::commit`] or
//! [`Committed::durable`] returns; one flush at a time carries all writes that came before it. Where the
//! store can append, the log is ours (`engine/wal`); else it is SlateDB's own.
//! SlateDB's own disk caches stay off: they would hold decrypted bytes.

mod background;
mod cache;
mod error;
mod follow;
mod succession;
mod tidy;
mod wal;
mod writers;

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claviger_core::{Error, Result};
use object_store::ObjectStore;
use slatedb::config::{
    CloseOptions, CompactionWorkerOptions, CompactorOptions, DurabilityLevel,
    GarbageCollectorDirectoryOptions, GarbageCollectorOptions, ReadOptions, ScanOptions, Settings,
};
use slatedb::wal::WalError;
use slatedb::{
    CompactionFilterSupplier, Db, DbIterator, GarbageCollectorBuilder, IterationOrder, MergeOperator,
    SstBlockSize, SstReader, WriteBatch, WriteHandle,
};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinHandle;

pub use cache::BlockCache;
pub use error::from_slatedb;
pub use wal::rows;

/// How long SlateDB waits between two looks at what others wrote. Nobody else writes our databases, but the compactor does:
/// until its look a reader asks the files that were merged.
const POLL: Duration = Duration::from_secs(3);
/// How long the compactor waits between two looks for work.
const COMPACT_POLL: Duration = Duration::from_secs(2);
/// How long SlateDB waits between two searches for garbage.
const GARBAGE_POLL: Duration = Duration::from_secs(30);
/// How old a log or manifest must be before it is removed.
const GARBAGE_MIN_AGE: Duration = Duration::from_secs(60);
/// Bytes that a scan fetches ahead, per fetch.
const READ_AHEAD_BYTES: usize = 1024 * 1024;
/// Fetches that a scan keeps under way.
const FETCH_TASKS: usize = 4;

/// What one database needs beyond the settings that all share.
#[derive(Clone)]
pub struct EngineOptions {
    /// Merges the operands of a key.
    pub merge_operator: Option<Arc<dyn MergeOperator + Send + Sync>>,
    /// Sees each entry that a compaction writes.
    pub compaction_filter: Option<Arc<dyn CompactionFilterSupplier>>,
    /// Decrypted blocks in memory, shared with others; none for small databases.
    pub cache: Option<Arc<BlockCache>>,
    /// Bytes of writes held in memory before they become a sorted file.
    pub memtable_bytes: usize,
    /// Bytes of writes in memory, sorted files under way included, at which writers must wait.
    pub max_unflushed_bytes: usize,
    /// Whether writes go through a thread of their own, for many writers, or stay on the runtime that opens.
    pub own_thread: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            merge_operator: None,
            compaction_filter: None,
            cache: None,
            memtable_bytes: 4 * 1024 * 1024,
            max_unflushed_bytes: 32 * 1024 * 1024,
            own_thread: false,
        }
    }
}

impl fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineOptions")
            .field("memtable_bytes", &self.memtable_bytes)
            .field("cached", &self.cache.is_some())
            .finish_non_exhaustive()
    }
}

fn settings(options: &EngineOptions, own_log: bool) -> Settings {
    let garbage = GarbageCollectorDirectoryOptions {
        interval: Some(GARBAGE_POLL),
        min_age: GARBAGE_MIN_AGE,
        dry_run: false,
    };
    Settings {
        // Flushes are asked for by the committer; a tick would cost every idle table.
        flush_interval: None,
        manifest_poll_interval: POLL,
        l0_sst_size_bytes: options.memtable_bytes,
        l0_max_ssts: tidy::MAX_NEW_FILES,
        l0_max_ssts_per_key: tidy::MAX_NEW_FILES,
        max_unflushed_bytes: options.max_unflushed_bytes,
        min_filter_keys: 100,
        compactor_options: Some(CompactorOptions {
            poll_interval: COMPACT_POLL,
            max_concurrent_compactions: 1,
            scheduler_options: tidy::tiers(),
            worker: Some(CompactionWorkerOptions {
                max_subcompactions: 1,
                max_fetch_tasks: 2,
                bytes_to_fetch: READ_AHEAD_BYTES,
                min_filter_keys: 100,
                ..CompactionWorkerOptions::default()
            }),
            ..CompactorOptions::default()
        }),
        garbage_collector_options: Some(GarbageCollectorOptions {
            manifest_options: Some(garbage),
            wal_options: Some(garbage),
            // Only SlateDB's own log has fences.
            wal_fence_options: (!own_log).then_some(garbage),
            compacted_options: Some(garbage),
            compactions_options: Some(garbage),
            ..GarbageCollectorOptions::default()
        }),
        ..Settings::default()
    }
}

/// One open database.
pub struct Engine {
    db: Db,
    writers: Handle,
    log: OpenLog,
    cache: Option<Cached>,
}

/// The part of the cache that is one database's.
struct Cached {
    cache: Arc<BlockCache>,
    id: u64,
    follower: JoinHandle<()>,
}

impl Cached {
    /// Drops all of it.
    fn forget(&self) {
        self.follower.abort();
        self.cache.forget(self.id);
    }
}

/// How writes become durable.
enum OpenLog {
    /// By our own log.
    Own(Arc<wal::Core>),
    /// By SlateDB's, which a task flushes when somebody waits.
    Slate { wanted: Arc<Notify>, flusher: JoinHandle<()> },
}

impl OpenLog {
    fn stop_flusher(&self) {
        if let Self::Slate { flusher, .. } = self {
            flusher.abort();
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

/// A write that readers see but that a crash may still take back.
#[must_use = "not durable until `durable` returns"]
pub struct Committed<'a> {
    engine: &'a Engine,
    handle: WriteHandle,
}

impl fmt::Debug for Committed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Committed({})", self.handle.seqnum())
    }
}

impl Committed<'_> {
    /// Waits until the write is on stable storage.
    ///
    /// # Errors
    /// When the log could not be written: the write may or may not be there after a restart.
    pub async fn durable(self) -> Result<()> {
        match &self.engine.log {
            OpenLog::Own(log) => {
                if log.durable(self.handle.seqnum()).await {
                    return Ok(());
                }
                // Closed: SlateDB knows why.
            }
            OpenLog::Slate { wanted, .. } => wanted.notify_one(),
        }
        self.handle.await_durable().await.map_err(from_slatedb)
    }
}

impl Engine {
    /// Opens or creates the database at `path` of `store`, which is a `SealedStore` in the product.
    ///
    /// # Errors
    /// The lock of the scope when its key is not usable, `DataLoss` when stored bytes were changed,
    /// and what the store answers.
    pub async fn open(store: Arc<dyn ObjectStore>, path: &str, options: EngineOptions) -> Result<Self> {
        let no_threads = |error| Error::internal("no threads to work on").because(error);
        let writers =
            if options.own_thread { writers::handle().map_err(no_threads)? } else { Handle::current() };
        let init = wal::find(&store, path, writers.clone()).await?;
        let settings = settings(&options, init.is_some());
        let worker = settings.compactor_options.clone().unwrap_or_default();
        let mut builder = Db::builder(path, store.clone())
            .with_settings(settings.clone())
            .with_write_runtime(writers.clone())
            .with_sst_block_size(SstBlockSize::Block16Kib);
        let core = init.as_ref().map(wal::Init::core);
        if let Some(init) = init {
            let garbage = settings.garbage_collector_options.clone().unwrap_or_default();
            let collector = Arc::new(init.collector());
            let garbage = GarbageCollectorBuilder::new(path, store.clone()).with_options(garbage);
            builder = builder.with_gc_builder(garbage.with_wal_gc(collector)).with_wal_writer(Box::new(init));
        }
        let background = background::runtime().map_err(no_threads)?;
        let (looks, seen) = unbounded_channel();
        let mut compactor = slatedb::CompactorBuilder::new(path, store.clone())
            .with_options(worker)
            .with_runtime(background.clone())
            .with_scheduler_supplier(Arc::new(tidy::Tidy { looks: options.cache.is_some().then_some(looks) }))
            .with_sst_block_size(SstBlockSize::Block16Kib);
        let cache = options.cache.map(|cache| (cache.admit(), cache));
        builder = match &cache {
            Some((id, cache)) => builder.with_db_cache(cache.clone(), *id),
            None => builder.with_db_cache_disabled(),
        };
        if let Some(merge) = options.merge_operator {
            builder = builder.with_merge_operator(merge.clone());
            compactor = compactor.with_merge_operator(merge);
        }
        if let Some(filter) = options.compaction_filter {
            compactor = compactor.with_compaction_filter_supplier(filter);
        }
        let built = builder.with_compactor_builder(compactor).build().await;
        let core = core.and_then(|core| core.get().cloned());
        let db = match built {
            Ok(db) => db,
            Err(error) => {
                if let Some(core) = core {
                    core.close(WalError::Closed);
                }
                return Err(from_slatedb(error));
            }
        };
        let log = match core {
            Some(core) => OpenLog::Own(core),
            None => {
                let wanted = Arc::new(Notify::new());
                let flusher = tokio::spawn(flush_when_wanted(db.clone(), wanted.clone()));
                OpenLog::Slate { wanted, flusher }
            }
        };
        let cache = cache.map(|(id, cache)| {
            let log = match &log {
                OpenLog::Own(core) => Some(core.clone()),
                OpenLog::Slate { .. } => None,
            };
            let files = SstReader::new(path, store, None, None);
            let follower = follow::Follower::new(db.clone(), log, files, cache.clone(), id);
            Cached { cache, id, follower: background.spawn(follower.follow(seen)) }
        });
        Ok(Self { db, writers, log, cache })
    }

    /// Applies a batch, atomically. Readers see it at once; see [`Committed::durable`].
    ///
    /// # Errors
    /// When the database is closed or failed.
    pub async fn write(&self, batch: WriteBatch) -> Result<Committed<'_>> {
        let handle = self.db.write(batch).await.map_err(from_slatedb)?;
        Ok(Committed { engine: self, handle })
    }

    /// Applies a batch, atomically, and waits until it is durable.
    ///
    /// # Errors
    /// As [`Self::write`] and [`Committed::durable`].
    pub async fn commit(&self, batch: WriteBatch) -> Result<()> {
        self.write(batch).await?.durable().await
    }

    /// The value of a key, as far as it is durable.
    ///
    /// # Errors
    /// When the store or the key of the scope does not allow it.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.get_at(key, DurabilityLevel::Remote).await
    }

    /// The value of a key with all writes, durable or not: for changes that depend on it, which
    /// become durable after what they saw.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_latest(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.get_at(key, DurabilityLevel::Memory).await
    }

    async fn get_at(&self, key: &[u8], level: DurabilityLevel) -> Result<Option<Bytes>> {
        let options = ReadOptions::new().with_durability_filter(level);
        self.db.get_with_options(key, &options).await.map_err(from_slatedb)
    }

    /// Iterates the keys from `start` up to and without `end`, as far as they are durable, forwards or
    /// backwards.
    ///
    /// # Errors
    /// As [`Self::get`]; so do the iterator's own calls (map them with [`from_slatedb`]).
    pub async fn scan_range(&self, start: &[u8], end: Option<&[u8]>, reversed: bool) -> Result<DbIterator> {
        let options = ScanOptions {
            durability_filter: DurabilityLevel::Remote,
            read_ahead_bytes: READ_AHEAD_BYTES,
            max_fetch_tasks: FETCH_TASKS,
            cache_blocks: true,
            order: if reversed { IterationOrder::Descending } else { IterationOrder::Ascending },
            ..ScanOptions::default()
        };
        let end = end.map_or(Bound::Unbounded, |end| Bound::Excluded(end.to_vec()));
        let range = (Bound::Included(start.to_vec()), end);
        self.db.scan_with_options(range, &options).await.map_err(from_slatedb)
    }

    /// The first key and the bytes of each sorted file, newest level first.
    #[must_use]
    pub fn files(&self) -> Vec<(Bytes, u64)> {
        let manifest = self.db.manifest();
        tidy::views(&manifest)
            .map(|view| (view.sst.info.first_entry.clone().unwrap_or_default(), view.estimate_size()))
            .collect()
    }

    /// Where the database's writes are applied. Who gathers writes for it does so there, and spares wake-ups.
    #[must_use]
    pub fn writers(&self) -> &Handle {
        &self.writers
    }

    /// The database itself.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Whether the database failed or was closed, so that it must be opened anew.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.db.status().close_reason.is_some()
    }

    /// Makes all durable and closes.
    ///
    /// # Errors
    /// When the last writes could not be made durable.
    pub async fn close(&self) -> Result<()> {
        self.stop(CloseOptions::default()).await
    }

    /// Closes without writing another byte: for a scope whose key has gone. What was acknowledged is
    /// in the log already.
    pub async fn abandon(&self) {
        // The error says that the database had failed before, which is why it is abandoned.
        let _ = self.stop(CloseOptions::default().with_flush_type(None)).await;
    }

    async fn stop(&self, options: CloseOptions) -> Result<()> {
        self.log.stop_flusher();
        let closed = self.db.close_with_options(options).await.map_err(from_slatedb);
        if let Some(cached) = &self.cache {
            cached.forget();
        }
        closed
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.log.stop_flusher();
        if let Some(cached) = &self.cache {
            cached.forget();
        }
    }
}

async fn flush_when_wanted(db: Db, wanted: Arc<Notify>) {
    loop {
        wanted.notified().await;
        if let Err(error) = db.flush().await {
            // Each writer gets the error from its own handle; the database is closed now.
            tracing::debug!(error = %from_slatedb(error), "flush failed");
            return;
        }
    }
}
