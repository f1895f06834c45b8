//! A job's place at rest: its files and small blobs in one folder of its object store.
//!
//! ```text
//! DIR/run/<tag>-<number>   runs and logs; the tag is random for each process that opens the space
//! DIR/blob/<name>          blobs; the names are the server's, never the user's
//! ```
//!
//! Runs are of use to the process that wrote them only. Those of a process that died go with
//! [`Space::sweep`] or [`Space::remove`].
//!
//! Invariant: a file is removed when the last one that could read it is gone, or with its owner's delete.
//! After [`Space::remove`] nothing can be written here.

mod blob;
mod file;

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use claviger_core::{Error, Result};
use claviger_sealed::from_store;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

pub use blob::{BlobInfo, BlobWriter};
pub(crate) use file::{File, IN_PARTS, Upload};

use crate::budget::Budget;
use crate::log::Log;
use crate::shuffle::Shuffle;

/// Says whether the job's key may be used now.
pub type Guard = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// Deletes that are given to the store at once.
const DELETE_BATCH: usize = 128;
const RUNS: &str = "run";
const BLOBS: &str = "blob";

/// A job's place at rest; see the module's text.
pub struct Space {
    store: Arc<dyn ObjectStore>,
    dir: Path,
    budget: Arc<Budget>,
    guard: Guard,
    /// Tells this process's files from those of one that died.
    tag: u64,
    next: AtomicU64,
    /// Set for good by `remove`; held for reading while a file is completed.
    closed: tokio::sync::RwLock<()>,
    is_closed: AtomicBool,
    members: Mutex<Vec<Weak<dyn Member>>>,
    /// Files that nobody can read any more, still there.
    doomed: Mutex<VecDeque<Path>>,
    deleting: tokio::sync::Mutex<()>,
    pub(crate) counters: Counters,
}

/// A log or shuffle, as its space sees it.
pub(crate) trait Member: Send + Sync {
    /// Drops all data for good.
    fn forget(&self);
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes_written: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) files_written: AtomicU64,
    pub(crate) files_deleted: AtomicU64,
    pub(crate) merged_bytes: AtomicU64,
}

/// What a space did so far, before sealing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that went to the store, blobs included.
    pub bytes_written: u64,
    /// Bytes that came from the store.
    pub bytes_read: u64,
    /// Bytes of runs that were written again because there were too many to read at once.
    pub merged_bytes: u64,
    /// Files that were written.
    pub files_written: u64,
    /// Files of these that were deleted.
    pub files_deleted: u64,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Space {
    /// A space in the folder `dir` of a job's store, which seals what it is given. Reads nothing.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, dir: Path, budget: Arc<Budget>, guard: Guard) -> Arc<Self> {
        Arc::new(Self {
            store,
            dir,
            budget,
            guard,
            // Seeded anew for each map of the standard library, from the machine's randomness.
            tag: RandomState::new().build_hasher().finish(),
            next: AtomicU64::new(0),
            closed: tokio::sync::RwLock::new(()),
            is_closed: AtomicBool::new(false),
            members: Mutex::new(Vec::new()),
            doomed: Mutex::new(VecDeque::new()),
            deleting: tokio::sync::Mutex::new(()),
            counters: Counters::default(),
        })
    }

    /// A new, empty log. The name is for people; it does not reach the store.
    #[must_use]
    pub fn log(self: &Arc<Self>, name: &str) -> Arc<Log> {
        let log = Log::new(self.clone(), name);
        self.enrol(&log);
        log
    }

    /// A new, empty shuffle with so many partitions, at least one. The name is for people; it does not
    /// reach the store.
    #[must_use]
    pub fn shuffle(self: &Arc<Self>, name: &str, partitions: usize) -> Arc<Shuffle> {
        let shuffle = Shuffle::new(self.clone(), name, partitions);
        self.enrol(&shuffle);
        shuffle
    }

    fn enrol<M: Member + crate::budget::Holder + 'static>(&self, member: &Arc<M>) {
        let holder: Arc<dyn crate::budget::Holder> = member.clone();
        self.budget.enrol(Arc::downgrade(&holder));
        let member: Arc<dyn Member> = member.clone();
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&member));
    }

    /// The cap of memory that this space shares.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            bytes_written: get(&self.counters.bytes_written),
            bytes_read: get(&self.counters.bytes_read),
            merged_bytes: get(&self.counters.merged_bytes),
            files_written: get(&self.counters.files_written),
            files_deleted: get(&self.counters.files_deleted),
        }
    }

    /// Removes the runs that a process that died left behind. Blobs stay.
    ///
    /// # Errors
    /// What the guard and the store answer.
    pub async fn sweep(&self) -> Result<()> {
        self.guard()?;
        let own = format!("{:016x}-", self.tag);
        let dir = self.dir.clone().join(RUNS);
        let listed: Vec<_> = self.store.list(Some(&dir)).try_collect().await.map_err(from_store)?;
        let old = listed.into_iter().map(|meta| meta.location);
        let old = old.filter(|path| !path.filename().is_some_and(|name| name.starts_with(&own)));
        self.delete_all(old.collect()).await
    }

    /// Removes everything for good: what is in memory at once, then every file in the folder, also those
    /// of a process that died. Writes under way end with an error. May be called again after a failure;
    /// a store whose key is locked refuses until it is not.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn remove(&self) -> Result<()> {
        self.is_closed.store(true, Ordering::SeqCst);
        let members: Vec<_> = lock(&self.members).iter().filter_map(Weak::upgrade).collect();
        for member in members {
            member.forget();
        }
        // Files that are just being completed become visible first, so that the list has them.
        let _turn = self.closed.write().await;
        let _deleting = self.deleting.lock().await;
        lock(&self.doomed).clear();
        let listed: Vec<_> = self.store.list(Some(&self.dir)).try_collect().await.map_err(from_store)?;
        self.delete_all(listed.into_iter().map(|meta| meta.location).collect()).await
    }

    pub(crate) fn guard(&self) -> Result<()> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(Error::precondition("the job's data were removed"));
        }
        (self.guard)()
    }

    pub(crate) fn upload(self: &Arc<Self>) -> Upload {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.clone().join(RUNS).join(format!("{:016x}-{number}", self.tag));
        Upload::new(self.clone(), path)
    }

    async fn read(&self, path: &Path, range: Range<u64>) -> Result<Bytes> {
        self.guard()?;
        let len = range.end - range.start;
        let bytes = self.store.get_range(path, range).await.map_err(from_store)?;
        if bytes.len() as u64 != len {
            return Err(malformed(path));
        }
        self.counters.bytes_read.fetch_add(len, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Deletes files now; those that are not there count as deleted.
    pub(crate) async fn delete_all(&self, paths: Vec<Path>) -> Result<()> {
        let mut failed = None;
        let mut results = self.store.delete_stream(stream::iter(paths.into_iter().map(Ok)).boxed());
        while let Some(result) = results.next().await {
            match result {
                Ok(_) => {
                    self.counters.files_deleted.fetch_add(1, Ordering::Relaxed);
                }
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), |error| Err(from_store(error)))
    }

    /// Notes a file that nobody can read any more, and sees to its removal.
    fn doom(self: &Arc<Self>, path: Path) {
        lock(&self.doomed).push_back(path);
        // Without a runtime the process is ending: `sweep` or `remove` finds the file.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let space = self.clone();
            runtime.spawn(async move { space.delete_doomed().await });
        }
    }

    /// Removes the files that nobody can read any more.
    pub(crate) async fn delete_doomed(&self) {
        // The one who comes first takes what the others noted, too.
        let _turn = self.deleting.lock().await;
        loop {
            let batch: Vec<Path> = {
                let mut doomed = lock(&self.doomed);
                let count = doomed.len().min(DELETE_BATCH);
                doomed.drain(..count).collect()
            };
            if batch.is_empty() {
                return;
            }
            if let Err(error) = self.delete_all(batch).await {
                tracing::warn!(kind = ?error.kind(), "files of a job stay until its space is removed");
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn malformed(path: &Path) -> Error {
    Error::new(
        claviger_core::ErrorKind::DataLoss,
        format!("the stored file {path} does not hold what was written"),
    )
}
