//! What is done for a database between its compactions: its cache follows a merge, and at rest what is in memory
//! becomes a sorted file, which a merge then takes into the run below.
//!
//! Invariant: one task for each database, which acts only at the compactor's own looks.

use std::collections::HashSet;
use std::sync::Arc;

use slatedb::config::{FlushOptions, FlushType};
use slatedb::manifest::SsTableId;
use slatedb::{Db, Error, SstReader};
use tokio::sync::mpsc::UnboundedReceiver;

use super::cache::BlockCache;
use super::error::from_slatedb;
use super::succession::{Heirs, turned};
use super::tidy::{Look, WORTH, views};
use super::wal;

pub(super) struct Follower {
    db: Db,
    log: Option<Arc<wal::Core>>,
    files: SstReader,
    cache: Arc<BlockCache>,
    id: u64,
    /// The files at the last merge.
    known: HashSet<SsTableId>,
    /// The last sequence when the database was opened.
    opened_at: u64,
    /// The last sequence at the last look.
    seen: Option<u64>,
}

impl Follower {
    pub(super) fn new(
        db: Db,
        log: Option<Arc<wal::Core>>,
        files: SstReader,
        cache: Arc<BlockCache>,
        id: u64,
    ) -> Self {
        let known = views(&db.manifest()).map(|view| view.sst.id).collect();
        let opened_at = db.status().durable_seq;
        Self { db, log, files, cache, id, known, opened_at, seen: None }
    }

    /// Acts at each look until the database is closed.
    pub(super) async fn follow(mut self, mut looks: UnboundedReceiver<Look>) {
        while let Some(merged) = looks.recv().await {
            let done =
                if merged.is_empty() { self.write_memory().await } else { self.succeed(&merged).await };
            if let Err(error) = done {
                // Both only spare reads some work.
                tracing::debug!(error = %from_slatedb(error), "a database could not be tended");
            }
        }
    }

    /// Writes what is in memory to a sorted file, if nothing came since the last look and it is worth it.
    async fn write_memory(&mut self) -> Result<(), Error> {
        let Some((Some(written), bytes)) = self.log.as_ref().map(|log| log.progress()) else { return Ok(()) };
        let is_at_rest = self.seen.replace(written) == Some(written);
        let sequences = written.saturating_sub(self.opened_at);
        let unsorted = written.saturating_sub(self.db.manifest().last_l0_seq());
        if is_at_rest && share(bytes, unsorted, sequences) >= WORTH {
            self.db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await?;
        }
        Ok(())
    }

    async fn succeed(&mut self, merged: &Look) -> Result<(), Error> {
        if !turned(&self.db, merged).await {
            return Ok(());
        }
        let manifest = self.db.manifest();
        let now = views(&manifest).map(|view| view.sst.id).collect();
        let before = std::mem::replace(&mut self.known, now);
        let runs = manifest.compacted().iter().flat_map(|run| run.sst_views().iter());
        let new = runs.filter(|view| !before.contains(&view.sst.id)).map(|view| view.sst.clone()).collect();
        let heirs = Heirs { db: &self.db, files: &self.files, cache: &self.cache, id: self.id, new };
        heirs.take_the_place_of(merged).await
    }
}

/// The part of `bytes` that `part` of `whole` sequences have, if each has as many.
fn share(bytes: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(bytes) * u128::from(part.min(whole)) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shared_out_by_sequences() {
        assert_eq!(share(1_000, 1, 4), 250);
        assert_eq!(share(1_000, 9, 4), 1_000, "what was replayed at the start is not known");
        assert_eq!(share(1_000, 0, 0), 0);
        assert_eq!(share(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }
}
