//! Records grouped by key, between the bundles that write them and those that read them.
//!
//! ```text
//! ShuffleWriter --commit--> pool --sorted when large--> runs --merged by--> ShuffleReader
//!       '------- a run of its own when it is large ------^
//! ```
//!
//! Committed records of small bundles are pooled and sorted together, so that many small bundles do not
//! make many small runs. A run stays in memory while the budget has room and moves to a file when it has
//! not. Readers merge all runs of a partition; when there are more stored ones than can be read at once,
//! `finish` merges neighbours first.
//!
//! Invariant: what was committed is in the pool or in a run, once, also after a failure to store it. The
//! runs are in the order of arrival, so that every reading gives the same order.

mod arena;
mod cursor;
mod merge;
mod reader;
mod run;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use claviger_core::{Error, Result};

pub use reader::{ShuffleReader, Step};
pub use writer::ShuffleWriter;

use crate::budget::{Holder, stopped};
use crate::extent::gone;
use crate::space::{Member, Space};
use arena::Arena;
use run::Run;

/// Records grouped by key; see the module's text.
pub struct Shuffle {
    space: Arc<Space>,
    name: String,
    partitions: usize,
    state: Mutex<State>,
    /// Held by whoever sorts, stores or merges committed data.
    work: tokio::sync::Mutex<()>,
    records: AtomicU64,
    bytes: AtomicU64,
}

struct State {
    stage: Stage,
    /// Committed, not sorted.
    pool: Arena,
    /// Committed and sorted, in the order of arrival.
    runs: Vec<Arc<Run>>,
    /// Runs of bundles that did not commit yet, which may have to leave the memory, too.
    pending: Vec<Weak<Run>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Finished,
    Deleted,
}

impl std::fmt::Debug for Shuffle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shuffle({})", self.name)
    }
}

impl Shuffle {
    pub(crate) fn new(space: Arc<Space>, name: &str, partitions: usize) -> Arc<Self> {
        let state = State {
            stage: Stage::Open,
            pool: Arena::new(space.budget()),
            runs: Vec::new(),
            pending: Vec::new(),
        };
        Arc::new(Self {
            space,
            name: name.to_owned(),
            partitions: partitions.max(1),
            state: Mutex::new(state),
            work: tokio::sync::Mutex::new(()),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// A writer for one bundle.
    #[must_use]
    pub fn writer(self: &Arc<Self>) -> ShuffleWriter {
        ShuffleWriter::new(self.clone())
    }

    /// The name it was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// Records that were committed.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Bytes of keys, sorts and values that were committed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Encoded bytes of a partition, known once the shuffle is finished; zero for one without records.
    #[must_use]
    pub fn partition_bytes(&self, partition: usize) -> u64 {
        self.state().runs.iter().map(|run| run.partition_bytes(partition)).sum()
    }

    /// Ends the writing: bundles that did not commit will not, and readers may begin. Again is the same.
    ///
    /// # Errors
    /// What the guard and the store answer; then it may be called again.
    pub async fn finish(self: &Arc<Self>) -> Result<()> {
        let shuffle = self.clone();
        tokio::spawn(async move { shuffle.finish_now().await }).await.unwrap_or_else(stopped)
    }

    async fn finish_now(self: &Arc<Self>) -> Result<()> {
        self.space.guard()?;
        {
            let mut state = self.state();
            match state.stage {
                Stage::Deleted => return Err(gone()),
                Stage::Open | Stage::Finished => state.stage = Stage::Finished,
            }
            state.pending.clear();
        }
        let _work = self.work.lock().await;
        self.sort_pool(false).await?;
        self.merge_runs().await
    }

    /// Reads a partition, from its beginning. Any number of readers may read at once.
    ///
    /// # Errors
    /// `FailedPrecondition` before the shuffle is finished; what the guard answers.
    pub fn reader(&self, partition: usize) -> Result<ShuffleReader> {
        if partition >= self.partitions {
            return Err(Error::internal(format!("the shuffle has {} partitions", self.partitions)));
        }
        self.space.guard()?;
        let state = self.state();
        match state.stage {
            Stage::Finished if state.pool.is_empty() => {}
            Stage::Deleted => return Err(gone()),
            Stage::Open | Stage::Finished => {
                return Err(Error::precondition("the shuffle is not finished"));
            }
        }
        Ok(ShuffleReader::new(self.space.clone(), &state.runs, |run| run.partition(partition)))
    }

    /// Removes all its data and returns when its files are gone. Readers under way end with an error.
    ///
    /// # Errors
    /// What the store answers; the files that stayed go with their space.
    pub async fn delete(&self) -> Result<()> {
        let _work = self.work.lock().await;
        let runs = self.empty();
        let files: Vec<_> = runs.iter().filter_map(|run| run.extent.take_file()).collect();
        self.space.delete_all(files.iter().filter_map(|file| file.condemn()).collect()).await
    }

    fn empty(&self) -> Vec<Arc<Run>> {
        let mut state = self.state();
        state.stage = Stage::Deleted;
        let _dropped = state.pool.take();
        state.pending.clear();
        std::mem::take(&mut state.runs)
    }

    /// Makes a bundle's records visible.
    async fn commit(
        self: &Arc<Self>,
        arena: Arena,
        runs: Vec<Arc<Run>>,
        records: u64,
        bytes: u64,
    ) -> Result<()> {
        self.space.guard()?;
        let is_heavy = {
            let mut state = self.state();
            match state.stage {
                Stage::Open => {}
                Stage::Finished => return Err(Error::precondition("the shuffle is finished")),
                Stage::Deleted => return Err(gone()),
            }
            state.runs.extend(runs);
            state.pool.absorb(arena);
            state.pool.memory() >= self.space.budget().run_bytes()
        };
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if is_heavy {
            // The bundle is committed: that sorting the pool failed is for the next one who needs it sorted.
            let shuffle = self.clone();
            let sorted = tokio::spawn(async move {
                let _work = shuffle.work.lock().await;
                if shuffle.state().pool.memory() < shuffle.space.budget().run_bytes() {
                    return Ok(());
                }
                shuffle.sort_pool(false).await
            });
            if let Err(error) = sorted.await.unwrap_or_else(stopped) {
                tracing::debug!(kind = ?error.kind(), "committed records stay in memory");
            }
        }
        self.space.budget().relieve().await;
        Ok(())
    }

    /// Makes a run of what is in the pool. Whoever calls this holds `work`.
    async fn sort_pool(&self, must_store: bool) -> Result<()> {
        let pool = self.state().pool.take();
        if pool.is_empty() {
            return Ok(());
        }
        match Run::make(&self.space, pool, self.partitions, must_store).await {
            Ok(run) => {
                let mut state = self.state();
                if state.stage != Stage::Deleted {
                    state.runs.push(Arc::new(run));
                }
                Ok(())
            }
            Err((error, Some(mut pool))) => {
                let mut state = self.state();
                if state.stage != Stage::Deleted {
                    pool.absorb(state.pool.take());
                    state.pool = pool;
                }
                Err(error)
            }
            Err((error, None)) => {
                // The records are lost: nobody may take what is left for the whole.
                self.state().stage = Stage::Deleted;
                Err(error)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs whose memory could be given back, the largest first.
    fn in_memory(&self) -> Vec<Arc<Run>> {
        let state = self.state();
        let pending = state.pending.iter().filter_map(Weak::upgrade);
        let mut runs: Vec<_> =
            state.runs.iter().cloned().chain(pending).filter(|run| run.extent.held() > 0).collect();
        drop(state);
        runs.sort_by_key(|run| std::cmp::Reverse(run.extent.held()));
        runs
    }
}

#[async_trait]
impl Holder for Shuffle {
    fn held(&self) -> usize {
        let runs: usize = self.in_memory().iter().map(|run| run.extent.held()).sum();
        runs + self.state().pool.memory()
    }

    async fn spill(self: Arc<Self>, wanted: usize) -> Result<()> {
        // Whoever is at work here may have long to go; others need not wait for that.
        let Ok(_work) = self.work.try_lock() else { return Ok(()) };
        let mut freed = 0;
        for run in self.in_memory() {
            if freed >= wanted {
                return Ok(());
            }
            let held = run.extent.held();
            run.extent.store(&self.space).await?;
            freed += held;
        }
        if freed < wanted { self.sort_pool(true).await } else { Ok(()) }
    }
}

impl Member for Shuffle {
    fn forget(&self) {
        for run in self.empty() {
            // The space removes the files.
            if let Some(file) = run.extent.take_file() {
                file.condemn();
            }
        }
    }
}
