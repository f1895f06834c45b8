//! What one bundle writes into a shuffle.
//!
//! Invariant: nothing of it shows before the commit, and all of it after. Dropped without one, or after
//! a failure, it leaves nothing: its memory is given back at once, its files soon after.

use std::sync::Arc;

use claviger_core::{Error, Result};

use super::Shuffle;
use super::arena::Arena;
use super::run::Run;
use crate::block::hash;

/// What one bundle writes into a shuffle; see the module's text.
pub struct ShuffleWriter {
    shuffle: Arc<Shuffle>,
    arena: Arena,
    runs: Vec<Arc<Run>>,
    share: usize,
    records: u64,
    bytes: u64,
    /// Whether records were lost on the way.
    is_broken: bool,
}

impl std::fmt::Debug for ShuffleWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShuffleWriter({})", self.shuffle.name)
    }
}

impl ShuffleWriter {
    pub(super) fn new(shuffle: Arc<Shuffle>) -> Self {
        let budget = shuffle.space.budget();
        let (arena, share) = (Arena::new(budget), budget.run_bytes());
        Self { shuffle, arena, runs: Vec::new(), share, records: 0, bytes: 0, is_broken: false }
    }

    /// Adds a record. Call [`Self::make_room`] at least once for each message of elements.
    ///
    /// # Errors
    /// `ResourceExhausted` for a record that is too large.
    #[inline]
    pub fn add(&mut self, key: &[u8], sort: &[u8], value: &[u8]) -> Result<()> {
        self.arena.push(hash(key), key, sort, value)?;
        self.records += 1;
        self.bytes += (key.len() + sort.len() + value.len()) as u64;
        Ok(())
    }

    /// Whether [`Self::make_room`] has something to do.
    #[must_use]
    pub fn needs_room(&self) -> bool {
        self.arena.memory() >= self.share || self.shuffle.space.budget().is_tight()
    }

    /// Returns when there is room to go on; stores what this or another writer has, if need be.
    ///
    /// # Errors
    /// What the guard and the store answer; the bundle then cannot be committed any more.
    pub async fn make_room(&mut self) -> Result<()> {
        if self.arena.memory() >= self.share {
            self.make_run(false).await?;
        }
        let budget = self.shuffle.space.budget().clone();
        if budget.is_tight() {
            budget.relieve().await;
            if budget.is_tight() && self.arena.memory() >= budget.min_spill() {
                self.make_run(true).await?;
            }
        }
        Ok(())
    }

    async fn make_run(&mut self, must_store: bool) -> Result<()> {
        // Also when the caller goes away in the middle: the records are then on their way.
        self.is_broken = true;
        let made =
            Run::make(&self.shuffle.space, self.arena.take(), self.shuffle.partitions, must_store).await;
        let run = Arc::new(made.map_err(|(error, _)| error)?);
        self.is_broken = false;
        let mut state = self.shuffle.state();
        state.pending.retain(|run| run.strong_count() > 0);
        state.pending.push(Arc::downgrade(&run));
        drop(state);
        self.runs.push(run);
        Ok(())
    }

    /// Makes all records visible at once.
    ///
    /// # Errors
    /// What the guard answers; `FailedPrecondition` when the shuffle was finished or deleted meanwhile, or
    /// when this writer failed before.
    pub async fn commit(mut self) -> Result<()> {
        if self.is_broken {
            return Err(Error::precondition("the bundle lost records and cannot be committed"));
        }
        let (arena, runs) = (self.arena.take(), std::mem::take(&mut self.runs));
        self.shuffle.commit(arena, runs, self.records, self.bytes).await
    }
}
