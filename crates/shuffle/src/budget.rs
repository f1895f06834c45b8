//! The cap of memory that all jobs of a server share.
//!
//! Invariant: asking for memory never waits, so it cannot deadlock: what is asked for is counted, and
//! whoever then finds the count above the cap makes room, first from whoever holds most, then from its own.
//! The count can pass the cap by what the writers at work take between two looks at it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use claviger_core::{Error, Result};
use claviger_sealed::Writing;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// The share of the cap that one run may take while it is made, and the limits of its size.
const RUN_SHARE: usize = 8;
const MIN_RUN: usize = 64 * KIB;
const MAX_RUN: usize = 64 * MIB;
/// What is stored early under pressure is at least this part of a run.
const MIN_SPILL_SHARE: usize = 8;
/// The share of the cap that the buffers of one reader may take, and their limits.
const READER_SHARE: usize = 16;
const MIN_READER: usize = 256 * KIB;
const MAX_READER: usize = 64 * MIB;
/// The least and the most that is read of a stored run at once.
const MIN_READ: usize = 64 * KIB;
const MAX_READ: usize = MIB;
/// Stored runs that are merged at once.
const MIN_FAN_IN: usize = 4;
const MAX_FAN_IN: usize = 512;
/// Runs that are stored at once: each takes memory of its own on the way.
const MAX_STORING: usize = 3;
/// What these take together.
const STORING_BYTES: usize = MAX_STORING * crate::space::IN_PARTS;

/// The cap of memory; see the module's text.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
    /// Memory that was used and will be again; goes when there is pressure, or nothing in use.
    spares: Mutex<Vec<Vec<u8>>>,
    spare_bytes: AtomicUsize,
    /// Keeps the buffers in which runs are sealed, from the first that is stored until nothing is in use.
    writing: Mutex<Option<Writing>>,
    /// One at a time makes room; those who wait meanwhile do not add to the pressure.
    relieving: tokio::sync::Mutex<()>,
    /// Who holds one only writes to a store and waits for nobody else.
    storing: tokio::sync::Semaphore,
}

/// Something that keeps committed data in memory and can store it instead.
#[async_trait]
pub(crate) trait Holder: Send + Sync + std::fmt::Debug {
    /// Bytes that it could give back.
    fn held(&self) -> usize;
    /// Stores about so many bytes and gives their memory back.
    async fn spill(self: Arc<Self>, wanted: usize) -> Result<()>;
}

impl Budget {
    /// A cap of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: bytes,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            holders: Mutex::new(Vec::new()),
            spares: Mutex::new(Vec::new()),
            spare_bytes: AtomicUsize::new(0),
            writing: Mutex::new(None),
            relieving: tokio::sync::Mutex::new(()),
            storing: tokio::sync::Semaphore::new(MAX_STORING),
        })
    }

    /// The cap.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are taken now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were taken at once.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    pub(crate) fn run_bytes(&self) -> usize {
        (self.limit / RUN_SHARE).clamp(MIN_RUN, MAX_RUN)
    }

    pub(crate) fn min_spill(&self) -> usize {
        self.run_bytes() / MIN_SPILL_SHARE
    }

    fn reader_bytes(&self) -> usize {
        (self.limit / READER_SHARE).clamp(MIN_READER, MAX_READER)
    }

    /// How many stored runs are read at once.
    pub(crate) fn fan_in(&self) -> usize {
        (self.reader_bytes() / MIN_READ).clamp(MIN_FAN_IN, MAX_FAN_IN)
    }

    /// How much is read at once of each of so many stored runs.
    pub(crate) fn read_bytes(&self, runs: usize) -> usize {
        (self.reader_bytes() / runs.max(1)).clamp(MIN_READ, MAX_READ)
    }

    /// Above this room is to be made: storing something takes memory, too.
    fn high(&self) -> usize {
        self.limit - STORING_BYTES.clamp(self.limit / 8, self.limit / 4)
    }

    /// Down to this room is made, and up to this sorted runs stay in memory.
    fn low(&self) -> usize {
        self.high() - self.limit / 8
    }

    /// Whether a run can stay in memory while others still have room to work.
    pub(crate) fn has_room(&self) -> bool {
        self.used() <= self.low()
    }

    /// Whether room is to be made.
    pub(crate) fn is_tight(&self) -> bool {
        self.used() + self.spare_bytes.load(Ordering::Relaxed) > self.high()
    }

    /// Some memory that was used before, empty, of the size of what was kept.
    pub(crate) fn spare(&self) -> Option<Vec<u8>> {
        let mut spare = lock(&self.spares).pop()?;
        self.spare_bytes.fetch_sub(spare.capacity(), Ordering::Relaxed);
        spare.clear();
        Some(spare)
    }

    /// Keeps memory for the next one, unless there is enough.
    pub(crate) fn keep_spare(&self, memory: Vec<u8>) {
        let bytes = memory.capacity();
        if self.spare_bytes.load(Ordering::Relaxed) + bytes <= self.run_bytes() && !self.is_tight() {
            self.spare_bytes.fetch_add(bytes, Ordering::Relaxed);
            lock(&self.spares).push(memory);
        }
    }

    fn drop_spares(&self) {
        let spares = std::mem::take(&mut *lock(&self.spares));
        self.spare_bytes.fetch_sub(spares.iter().map(Vec::capacity).sum(), Ordering::Relaxed);
    }

    /// Waits for the turn to store a run.
    pub(crate) async fn turn_to_store(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        if self.used() > 0 {
            lock(&self.writing).get_or_insert_with(Writing::begin);
        }
        self.storing.acquire().await.ok()
    }

    pub(crate) fn enrol(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.holders();
        holders.retain(|holder| holder.strong_count() > 0);
        holders.push(holder);
    }

    /// Makes room while there is too little, from whoever holds most. Failures of others are theirs: the
    /// caller finds that there is still no room.
    pub(crate) async fn relieve(&self) {
        if !self.is_tight() {
            return;
        }
        self.drop_spares();
        let _turn = self.relieving.lock().await;
        let mut tried: Vec<Arc<dyn Holder>> = Vec::new();
        while self.is_tight() {
            let Some(holder) = self.largest(&tried) else { return };
            let wanted = self.used().saturating_sub(self.low());
            let before = holder.held();
            // Runs to its end also when the caller goes away: the data is not the caller's.
            let spilled = tokio::spawn(holder.clone().spill(wanted)).await.unwrap_or_else(stopped);
            if let Err(error) = &spilled {
                tracing::debug!(kind = ?error.kind(), "data under memory pressure could not be stored");
            }
            if spilled.is_err() || holder.held() >= before {
                tried.push(holder);
            }
        }
    }

    fn largest(&self, but: &[Arc<dyn Holder>]) -> Option<Arc<dyn Holder>> {
        let holders: Vec<_> = self.holders().iter().filter_map(Weak::upgrade).collect();
        let other = |holder: &Arc<dyn Holder>| !but.iter().any(|tried| Arc::ptr_eq(tried, holder));
        let least = self.min_spill();
        let held = holders.into_iter().filter(other).map(|holder| (holder.held(), holder));
        held.filter(|(held, _)| *held >= least).max_by_key(|(held, _)| *held).map(|(_, holder)| holder)
    }

    fn holders(&self) -> MutexGuard<'_, Vec<Weak<dyn Holder>>> {
        lock(&self.holders)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of a task that ended without a result.
pub(crate) fn stopped<T>(error: tokio::task::JoinError) -> Result<T> {
    Err(Error::internal("a part of the shuffle stopped").because(error))
}

/// Bytes that are counted; given back when dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Grant {
    pub(crate) fn new(budget: Arc<Budget>, bytes: usize) -> Self {
        let mut grant = Self { budget, bytes: 0 };
        grant.set(bytes);
        grant
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            let used = self.budget.used.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            self.budget.peak.fetch_max(used, Ordering::Relaxed);
        } else if bytes < self.bytes {
            let less = self.bytes - bytes;
            if self.budget.used.fetch_sub(less, Ordering::Relaxed) == less {
                self.budget.drop_spares();
                lock(&self.budget.writing).take();
            }
        }
        self.bytes = bytes;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Hoard {
        grant: Mutex<Grant>,
        refuses: bool,
    }

    #[async_trait]
    impl Holder for Hoard {
        fn held(&self) -> usize {
            self.grant.lock().unwrap().bytes()
        }

        async fn spill(self: Arc<Self>, wanted: usize) -> Result<()> {
            if self.refuses {
                return Err(Error::precondition("locked"));
            }
            let mut grant = self.grant.lock().unwrap();
            let left = grant.bytes().saturating_sub(wanted);
            grant.set(left);
            Ok(())
        }
    }

    fn hoard(budget: &Arc<Budget>, bytes: usize, refuses: bool) -> Arc<Hoard> {
        let hoard = Arc::new(Hoard { grant: Mutex::new(Grant::new(budget.clone(), bytes)), refuses });
        let holder: Arc<dyn Holder> = hoard.clone();
        budget.enrol(Arc::downgrade(&holder));
        hoard
    }

    #[tokio::test]
    async fn room_is_made_by_whoever_holds_most_and_can() {
        let budget = Budget::new(1000 * KIB);
        let small = hoard(&budget, 200 * KIB, false);
        let large = hoard(&budget, 300 * KIB, false);
        let locked = hoard(&budget, 400 * KIB, true);
        assert!(budget.is_tight());
        budget.relieve().await;
        assert!(!budget.is_tight() && budget.has_room());
        assert_eq!((small.held(), locked.held()), (200 * KIB, 400 * KIB));
        assert!(large.held() < 100 * KIB);
        drop((small, large, locked));
        assert_eq!((budget.used(), budget.peak()), (0, 900 * KIB));
    }

    #[tokio::test]
    async fn where_nobody_can_give_way_nobody_waits() {
        let budget = Budget::new(1000 * KIB);
        let _locked = hoard(&budget, 990 * KIB, true);
        let _tiny = hoard(&budget, KIB, false);
        budget.relieve().await;
        assert!(budget.is_tight());
    }

    #[tokio::test]
    async fn spare_memory_is_used_again_and_goes_under_pressure_and_at_the_end() {
        let budget = Budget::new(1000 * KIB);
        let grant = Grant::new(budget.clone(), KIB);
        budget.keep_spare(Vec::with_capacity(60 * KIB));
        budget.keep_spare(Vec::with_capacity(70 * KIB));
        assert_eq!(budget.spare().unwrap().capacity(), 60 * KIB);
        assert!(budget.spare().is_none(), "the second one was too much");
        budget.keep_spare(vec![1; 60 * KIB]);
        let more = Grant::new(budget.clone(), 700 * KIB);
        assert!(budget.is_tight());
        budget.relieve().await;
        assert!(!budget.is_tight() && budget.spare().is_none());
        drop(more);
        budget.keep_spare(vec![1; 60 * KIB]);
        drop(grant);
        assert!(budget.spare().is_none());
        assert_eq!(budget.spare_bytes.load(Ordering::Relaxed), 0);
    }
}
