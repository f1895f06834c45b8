//! The cache after a merge: the blocks of the files that were merged away leave it, and those of the run that took
//! their place come in, if most of what it holds was in memory.
//!
//! Without it the old blocks would stay, asked for as often as they were, and keep the new ones out: the reads
//! after a merge would fetch and open a block each.
//!
//! Invariant: blocks come in only after their place was made free, and no more bytes than left.

use std::collections::HashSet;
use std::time::Duration;

use slatedb::db_cache::CacheTarget;
use slatedb::manifest::SsTableHandle;
use slatedb::{Db, DbCacheManagerOps, Error, SstReader};

use super::cache::BlockCache;
use super::tidy::{Look, views};

/// How often to look whether readers have turned to the new files.
const LOOK: Duration = Duration::from_millis(100);
/// How many looks until it is given up: a reader turns to them after [`super::POLL`].
const LOOKS: u32 = 300;
/// Blocks that are fetched at once. They share a buffer, which stays as long as one of them.
const BLOCKS: usize = 16;

/// Waits until reads ask none of the merged files; false if they still do.
pub(super) async fn turned(db: &Db, merged: &Look) -> bool {
    let merged: HashSet<_> = merged.iter().map(|file| file.id).collect();
    for _ in 0..LOOKS {
        if !views(&db.manifest()).any(|view| merged.contains(&view.sst.id)) {
            return true;
        }
        tokio::time::sleep(LOOK).await;
    }
    false
}

/// The files that took the place of others.
pub(super) struct Heirs<'a> {
    pub(super) db: &'a Db,
    pub(super) files: &'a SstReader,
    pub(super) cache: &'a BlockCache,
    /// The database's id in the cache.
    pub(super) id: u64,
    pub(super) new: Vec<SsTableHandle>,
}

impl Heirs<'_> {
    pub(super) async fn take_the_place_of(self, merged: &Look) -> Result<(), Error> {
        let had = self.cache.bytes_of(self.id);
        for file in merged {
            self.db.evict_cached_sst(file, &CacheTarget::all()).await?;
        }
        let mut left = had.saturating_sub(self.cache.bytes_of(self.id));
        if left < self.new.iter().map(data_end).sum::<u64>() / 2 {
            return Ok(());
        }
        for file in &self.new {
            let index = self.files.open_with_handle(file.clone())?.index().await?;
            for first in (0..index.len()).step_by(BLOCKS) {
                let Some((start, first_key)) = index.get(first) else { break };
                let (end, keys) = match index.get(first.saturating_add(BLOCKS)) {
                    Some((end, next_key)) => (end, CacheTarget::data(first_key..next_key)),
                    None => (data_end(file), CacheTarget::data(first_key..)),
                };
                let bytes = end.saturating_sub(start);
                if bytes > left {
                    return Ok(());
                }
                left -= bytes;
                self.db.warm_sst(file.id, &[keys]).await?;
            }
        }
        Ok(())
    }
}

/// Where a file's blocks of data end.
fn data_end(file: &SsTableHandle) -> u64 {
    file.info.filter_offset.min(file.info.index_offset)
}
