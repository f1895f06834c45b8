//! Storing the ledger.
//!
//! Invariant: one write of the ledger at a time, each over the one before it; files of deleted objects go
//! only after a ledger that allows their absence is durable. Nothing is planned while nothing changed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, Result, UpdateVersion};

use super::book::{SKIP, Snapshot};
use super::write::too_many;
use super::{LEDGER, Shared};
use crate::error::{lock_error, permanent};

/// A write of the ledger is followed by at least this many times its cost without one.
const COST_FACTOR: u32 = 50;
/// The shortest time after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// What only the one who is storing the ledger may touch.
#[derive(Debug)]
pub(super) struct Flushing {
    /// The stored ledger; none before the first.
    etag: Option<String>,
}

impl Flushing {
    pub(super) fn new(etag: Option<String>) -> Self {
        Self { etag }
    }
}

impl Shared {
    /// Makes the store ready for the first write of this process: from now on its sequences are above
    /// all that earlier ones may have given out, and the ledger says so.
    pub(super) async fn ready(&self) -> Result<()> {
        {
            let book = self.book();
            if book.writable && !book.is_far_ahead() {
                return Ok(());
            }
        }
        let mut flushing = self.flushing.lock().await;
        let writable = self.book().writable;
        if !writable {
            self.book().skip_ahead();
        }
        if self.book().is_far_ahead() || !writable {
            self.store(&mut flushing).await?;
            self.book().writable = true;
        }
        Ok(())
    }

    /// Returns once the ledger has all that the book has now. Those who wait share a write.
    pub(super) async fn flush(&self) -> Result<()> {
        self.place.guard()?;
        let wanted = self.book().version();
        let mut flushing = self.flushing.lock().await;
        if self.book().is_done(wanted) {
            return Ok(());
        }
        self.store(&mut flushing).await
    }

    async fn store(&self, flushing: &mut Flushing) -> Result<()> {
        let key = self.place.current_key()?;
        let started = self.clock.elapsed();
        let snapshot = self.book().snapshot();
        if snapshot.sequence >= u64::MAX - 2 * SKIP {
            return Err(too_many());
        }
        let content = PutPayload::from(snapshot.ledger.clone());
        let file = PutPayload::from(self.place.seal_whole(&key, LEDGER, snapshot.sequence, &content)?);
        let full = self.place.full(LEDGER)?;
        let mut again = true;
        flushing.etag = loop {
            let mode = flushing.etag.clone().map_or(PutMode::Create, |etag| {
                PutMode::Update(UpdateVersion { e_tag: Some(etag), version: None })
            });
            match self.place.inner.put_opts(&full, file.clone(), mode.into()).await {
                Ok(result) => break result.e_tag,
                Err(Error::Precondition { .. } | Error::AlreadyExists { .. }) if again => {
                    again = false;
                    flushing.etag = self.own_etag().await?;
                }
                Err(Error::Precondition { .. } | Error::AlreadyExists { .. }) => return Err(taken_over()),
                Err(error) => return Err(error),
            }
        };
        self.book().stored(&snapshot);
        let cost = self.clock.elapsed().saturating_sub(started);
        self.flush_micros.store(u64::try_from(cost.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let removed = self.remove_deleted(&snapshot).await;
        self.book().unremoved = removed.is_err();
        removed
    }

    /// The etag of the stored ledger, when a write of this process put it there without being told.
    async fn own_etag(&self) -> Result<Option<String>> {
        let found = self.place.inner.get(&self.place.full(LEDGER)?).await?;
        let etag = found.meta.e_tag.clone();
        let (header, _) = self.place.open_whole(LEDGER, &found.bytes().await?)?;
        if self.book().is_own(header.sequence) { Ok(etag) } else { Err(taken_over()) }
    }

    /// Removes the files that the stored ledger allows to be absent.
    async fn remove_deleted(&self, snapshot: &Snapshot) -> Result<()> {
        if snapshot.deleting.is_empty() {
            return Ok(());
        }
        let mut full = Vec::with_capacity(snapshot.deleting.len());
        for path in &snapshot.deleting {
            full.push(self.place.full(path)?);
        }
        let mut results = self.place.inner.delete_stream(stream::iter(full.into_iter().map(Ok)).boxed());
        let mut failed = None;
        while let Some(result) = results.next().await {
            match result {
                Ok(full) => {
                    if let Some(path) = self.place.relative(&full) {
                        self.book().deleted(path.as_ref());
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        let Some(error) = failed else { return Ok(()) };
        // An earlier try may have removed some: what is not there is gone.
        let mut remaining = false;
        for path in &snapshot.deleting {
            match self.place.inner.head(&self.place.full(path)?).await {
                Err(Error::NotFound { .. }) => self.book().deleted(path),
                _ => remaining = true,
            }
        }
        if remaining { Err(error) } else { Ok(()) }
    }

    /// Plans a write of the ledger, if there is something to store and none is planned.
    pub(super) fn plan_flush(self: &Arc<Self>) {
        let last = Duration::from_micros(self.flush_micros.load(Ordering::Relaxed));
        self.plan_flush_in(self.flush_delay.max(last.saturating_mul(COST_FACTOR)));
    }

    fn plan_flush_in(self: &Arc<Self>, delay: Duration) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        {
            let mut book = self.book();
            if book.planned || book.is_done(book.version()) {
                return;
            }
            book.planned = true;
        }
        let (shared, clock) = (Arc::downgrade(self), self.clock.clone());
        runtime.spawn(async move {
            clock.sleep(delay).await;
            flush_planned(shared, delay).await;
        });
    }
}

/// The handle is weak: a plan does not keep a store that nobody uses.
async fn flush_planned(shared: Weak<Shared>, delay: Duration) {
    let Some(shared) = shared.upgrade() else { return };
    shared.book().planned = false;
    match shared.flush().await {
        Ok(()) => shared.plan_flush(),
        // The next operation after the unlocking plans again.
        Err(error) if lock_error(&error).is_some() => {}
        Err(error) => {
            tracing::warn!(%error, "the ledger of live files could not be written; trying again");
            shared.plan_flush_in(AFTER_FAILURE.max(delay));
        }
    }
}

fn taken_over() -> Error {
    permanent("sealed", "another server uses this store; this one must not write to it any more")
}
