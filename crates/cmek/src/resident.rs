//! What is open under a scope: opened at first use, closed when idle, dropped at once when its key goes.
//!
//! Invariant: there is one open value of a [`Resident`] at a time, and nobody gets it while its scope is locked. A
//! resident that is not open holds no task, no file and no memory beyond its struct.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use claviger_core::{Clock, Result};
use tokio::sync::{Mutex, watch};

use crate::{Lock, Scope};

/// How long a close waits for the last use to end.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);
/// How often a close looks in that time.
const CLOSE_STEP: Duration = Duration::from_millis(10);
/// How long the task that waits for a lock may outlive what it watches.
const WATCH_STEP: Duration = Duration::from_secs(60);

/// What a service holds open under a scope: a sealed database, a sealed store, or both.
pub trait Opened: Send + Sync + 'static {
    /// The scope whose keys it uses.
    fn scope(&self) -> &Arc<Scope>;

    /// Whether it failed or ended by itself, so that it must be opened anew.
    fn is_closed(&self) -> bool;

    /// Drops all that is decrypted, without a last write. Operations under way end with an error.
    fn abandon(&self) -> impl Future<Output = ()> + Send;

    /// Makes all durable, then drops all that is decrypted.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// The place of something that is open or not. Whoever works with it holds an [`Arc`] of it.
pub struct Resident<T> {
    clock: Arc<dyn Clock>,
    open: RwLock<Option<Arc<T>>>,
    /// Held while it is opened or closed.
    turning: Mutex<()>,
    /// When it was last used, in milliseconds of the clock's elapsed time.
    used: AtomicU64,
}

impl<T> fmt::Debug for Resident<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resident({})", if self.current().is_some() { "open" } else { "closed" })
    }
}

impl<T> Resident<T> {
    /// A place with nothing open.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, open: RwLock::new(None), turning: Mutex::new(()), used: AtomicU64::new(0) })
    }

    /// Whether it is open now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.current().is_some()
    }

    fn current(&self) -> Option<Arc<T>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, open: Option<Arc<T>>) -> Option<Arc<T>> {
        std::mem::replace(&mut *self.open.write().unwrap_or_else(PoisonError::into_inner), open)
    }
}

impl<T: Opened> Resident<T> {
    /// The open value, if there is one that works.
    ///
    /// # Errors
    /// The lock of its scope when the key is not usable.
    pub fn get(&self) -> Result<Option<Arc<T>>> {
        let now = self.clock.elapsed().as_millis();
        self.used.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        let Some(open) = self.current().filter(|open| !open.is_closed()) else { return Ok(None) };
        open.scope().guard()?;
        Ok(Some(open))
    }

    /// The open value, made now if need be.
    ///
    /// # Errors
    /// The lock of its scope when the key is not usable, and what `make` answers.
    pub async fn get_or_open<M: Future<Output = Result<T>>>(
        self: &Arc<Self>,
        make: impl FnOnce() -> M,
    ) -> Result<Arc<T>> {
        if let Some(open) = self.get()? {
            return Ok(open);
        }
        let _turn = self.turning.lock().await;
        if let Some(open) = self.get()? {
            return Ok(open);
        }
        // It failed, or its key went: leave it to those who still hold it and start anew.
        if let Some(failed) = self.put(None) {
            failed.abandon().await;
        }
        let open = Arc::new(make().await?);
        let lock = open.scope().watch();
        tokio::spawn(drop_when_locked(Arc::downgrade(self), Arc::downgrade(&open), lock));
        self.put(Some(open.clone()));
        open.scope().guard()?;
        Ok(open)
    }

    /// Closes it when nobody used it for `idle`.
    pub async fn close_if_idle(&self, idle: Duration) {
        let used = Duration::from_millis(self.used.load(Ordering::Relaxed));
        if self.clock.elapsed().saturating_sub(used) < idle {
            return;
        }
        let _turn = self.turning.lock().await;
        let Some(open) = self.put(None) else { return };
        if Arc::strong_count(&open) > 1 {
            self.put(Some(open));
            return;
        }
        open.close().await;
    }

    /// Closes it, whoever uses it; for the end of the process.
    pub async fn close(&self) {
        let _turn = self.turning.lock().await;
        let Some(open) = self.put(None) else { return };
        let mut waited = Duration::ZERO;
        // Tied to the machine's time, not to the clock: it bounds the end of the process.
        while Arc::strong_count(&open) > 1 && waited < CLOSE_PATIENCE {
            tokio::time::sleep(CLOSE_STEP).await;
            waited += CLOSE_STEP;
        }
        open.close().await;
    }

    /// Drops it without a last write: what is in it is to go.
    pub async fn discard(&self) {
        let _turn = self.turning.lock().await;
        if let Some(open) = self.put(None) {
            open.abandon().await;
        }
    }
}

/// Waits for the key to go, then drops what was decrypted with it.
async fn drop_when_locked<T: Opened>(
    resident: Weak<Resident<T>>,
    open: Weak<T>,
    mut lock: watch::Receiver<Lock>,
) {
    loop {
        if *lock.borrow_and_update() == Lock::Locked {
            let Some(open) = open.upgrade() else { return };
            if let Some(resident) = resident.upgrade()
                && resident.current().is_some_and(|current| Arc::ptr_eq(&current, &open))
            {
                resident.put(None);
            }
            open.abandon().await;
            return;
        }
        tokio::select! {
            changed = lock.changed() => if changed.is_err() { return },
            // It may have been closed meanwhile.
            () = tokio::time::sleep(WATCH_STEP) => if open.strong_count() == 0 { return },
        }
    }
}
