//! Group commit: the blind writes that wait together become one batch of the engine and one flush of its log.
//!
//! While one flush is under way, the next batch is made, so that the disk and the cores work at the same time.
//!
//! Invariant: a write is answered once it is durable, and applied in the order in which writes came. The locks of its
//! rows are held until readers of the latest state see it, also when whoever asked for the write has left.

mod home;

use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use claviger_core::{Error, Result};
use claviger_sealed::engine::{Engine, from_slatedb};
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _};
use slatedb::WriteBatch;
use tokio::sync::{OwnedRwLockReadGuard, mpsc, oneshot};

use home::{Answers, Home};

/// Bytes that one batch of the engine aims at.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Writes that wait for the group under way; more wait at the door.
const WAITING: usize = 1024;

/// Encoded changes of rows, by key.
pub(crate) type Rows = Vec<(Bytes, Bytes)>;

/// One request's changes.
struct Write {
    rows: Rows,
    locks: Vec<OwnedRwLockReadGuard<()>>,
    done: oneshot::Sender<Result<()>>,
    home: Option<Home>,
}

/// The way in to a tablet's group commit. Its task ends when this is dropped.
pub(crate) struct Committer(mpsc::Sender<Write>);

impl Committer {
    /// Starts the task that commits to `engine`.
    pub(crate) fn start(engine: Arc<Engine>) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING);
        tokio::spawn(commit_groups(engine, waiting));
        Self(sender)
    }

    /// Writes changes and waits until they are durable.
    ///
    /// # Errors
    /// When the database is closed or failed; the changes may be there or not.
    pub(crate) async fn commit(&self, rows: Rows, locks: Vec<OwnedRwLockReadGuard<()>>) -> Result<()> {
        let (done, answered) = oneshot::channel();
        let gone = || Error::internal("the tablet's writer has ended");
        let write = Write { rows, locks, done, home: Home::here() };
        self.0.send(write).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// A flush of the log under way, and who waits for it.
type Flush<'e> = (BoxFuture<'e, Result<()>>, Answers);

async fn commit_groups(engine: Arc<Engine>, mut waiting: mpsc::Receiver<Write>) {
    let engine = &*engine;
    let mut group = Vec::with_capacity(WAITING);
    // What is in the log's buffer already, and goes with the next flush.
    let mut next = Answers::default();
    let mut flush: Option<Flush<'_>> = None;
    loop {
        if flush.is_none() && !next.is_empty() {
            let mut started = engine.db().flush().map_err(from_slatedb).boxed();
            // The first poll asks for the flush; what is applied from now on belongs to the next one.
            if let Poll::Ready(done) = futures::poll!(&mut started) {
                std::mem::take(&mut next).send(&done);
                continue;
            }
            flush = Some((started, std::mem::take(&mut next)));
        }
        tokio::select! {
            biased;
            done = wait(&mut flush) => {
                if let Some((_, answers)) = flush.take() {
                    answers.send(&done);
                }
            }
            count = waiting.recv_many(&mut group, WAITING) => {
                if count == 0 {
                    break;
                }
                let mut answers = Answers::default();
                match apply_group(engine, group.drain(..), &mut answers).await {
                    Ok(()) => next.extend(answers),
                    failed => answers.send(&failed),
                }
            }
        }
    }
    if let Some((flush, answers)) = flush {
        answers.send(&flush.await);
    }
    if !next.is_empty() {
        next.send(&engine.db().flush().await.map_err(from_slatedb));
    }
}

/// Waits for the flush under way; for ever if there is none.
async fn wait(flush: &mut Option<Flush<'_>>) -> Result<()> {
    match flush {
        Some((flush, _)) => flush.await,
        None => std::future::pending().await,
    }
}

async fn apply_group(
    engine: &Engine,
    group: impl Iterator<Item = Write>,
    answers: &mut Answers,
) -> Result<()> {
    let mut applied = Ok(());
    let mut locks = Vec::new();
    let mut batch = WriteBatch::new();
    let mut bytes = 0;
    for write in group {
        answers.add(write.home, write.done);
        locks.extend(write.locks);
        for (key, patch) in write.rows {
            bytes += key.len() + patch.len();
            batch.merge(key, patch);
            if bytes >= BATCH_BYTES && applied.is_ok() {
                bytes = 0;
                applied = apply(engine, std::mem::take(&mut batch)).await;
            }
        }
    }
    applied?;
    if !batch.is_empty() {
        apply(engine, batch).await?;
    }
    Ok(())
}

/// Shows a batch to readers of the latest state.
async fn apply(engine: &Engine, batch: WriteBatch) -> Result<()> {
    engine.db().write(batch).await.map(drop).map_err(from_slatedb)
}
