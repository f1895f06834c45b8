//! The cache of decrypted blocks, in memory only, shared by all databases of the process.
//!
//! Invariant: once [`BlockCache::forget`] returns, no block of that database is in the cache, and none comes in.

use std::collections::HashSet;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use slatedb::db_cache::{CachedEntry, CachedKey, DbCache};

/// Bytes that an entry costs beside its block.
const ENTRY_OVERHEAD: u64 = 128;
/// The size of a usual block, to guess how many entries there will be.
const USUAL_BLOCK: u64 = 16 * 1024;

#[derive(Clone)]
struct BySize;

impl Weighter<CachedKey, CachedEntry> for BySize {
    fn weight(&self, _: &CachedKey, entry: &CachedEntry) -> u64 {
        entry.size() as u64 + ENTRY_OVERHEAD
    }
}

/// Decrypted blocks, indexes and filters, up to a number of bytes.
pub struct BlockCache {
    entries: Cache<CachedKey, CachedEntry, BySize>,
    open: RwLock<Open>,
}

/// The databases whose blocks may come in. An id is never used again.
#[derive(Default)]
struct Open {
    ids: HashSet<u64>,
    last: u64,
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCache").field("entries", &self.entries.len()).finish()
    }
}

impl BlockCache {
    /// A cache of at most `bytes`.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / USUAL_BLOCK).unwrap_or(usize::MAX).max(16);
        Self { entries: Cache::with_weighter(items, bytes, BySize), open: RwLock::default() }
    }

    /// An id for a database that was opened, until [`Self::forget`].
    pub(super) fn admit(&self) -> u64 {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.last += 1;
        let id = open.last;
        open.ids.insert(id);
        id
    }

    /// Drops all that one database put in, and takes nothing more of it.
    pub fn forget(&self, db_cache_id: u64) {
        // Who inserts holds this lock until the block is in.
        self.open.write().unwrap_or_else(PoisonError::into_inner).ids.remove(&db_cache_id);
        self.entries.retain(|key, _| key.db_cache_id() != db_cache_id);
    }

    /// The bytes that one database has in here. Looks at every entry.
    pub(super) fn bytes_of(&self, db_cache_id: u64) -> u64 {
        let of = self.entries.iter().filter(|(key, _)| key.db_cache_id() == db_cache_id);
        of.map(|(_, entry)| entry.size() as u64).sum()
    }

    fn find(&self, key: &CachedKey) -> Option<CachedEntry> {
        self.entries.get(key)
    }
}

#[async_trait]
impl DbCache for BlockCache {
    async fn get_block(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.find(key))
    }

    async fn get_index(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.find(key))
    }

    async fn get_filter(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.find(key))
    }

    async fn get_stats(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.find(key))
    }

    async fn insert(&self, key: CachedKey, value: CachedEntry) {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if open.ids.contains(&key.db_cache_id()) {
            self.entries.insert(key, value);
        }
    }

    async fn remove(&self, key: &CachedKey) {
        self.entries.remove(key);
    }

    fn entry_count(&self) -> u64 {
        self.entries.len() as u64
    }
}
