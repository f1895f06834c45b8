//! Group commit: the blind writes that wait together become one batch of the engine and one frame of its log.
//!
//! While the log is written, the next batch is made, so that the disk and the cores work at the same time.
//!
//! Invariant: a write is answered once it is durable, and applied in the order in which writes came. The locks of its
//! rows are held until readers of the latest state see it, also when whoever asked for the write has left.

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::gather::{Entrance, Exit, gather};
use claviger_core::home::{Answers, Home};
use claviger_core::{Error, Result};
use claviger_sealed::engine::{Committed, Engine};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use slatedb::WriteBatch;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};

/// Bytes that one batch of the engine aims at.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

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
pub(crate) struct Committer(Entrance<Write>);

impl Committer {
    /// Starts the task that commits to `engine`.
    pub(crate) fn start(engine: Arc<Engine>) -> Self {
        let (entrance, exit) = gather();
        engine.writers().clone().spawn(commit_groups(engine, exit));
        Self(entrance)
    }

    /// Writes changes and waits until they are durable.
    ///
    /// # Errors
    /// When the database is closed or failed; the changes may be there or not.
    pub(crate) async fn commit(&self, rows: Rows, locks: Vec<OwnedRwLockReadGuard<()>>) -> Result<()> {
        let (done, answered) = oneshot::channel();
        let gone = || Error::internal("the tablet's writer has ended");
        let write = Write { rows, locks, done, home: Home::here() };
        self.0.enter(write).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

async fn commit_groups(engine: Arc<Engine>, mut waiting: Exit<Write>) {
    // What is applied and not durable yet. The log takes all of it with its next frame.
    let mut applied = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some((done, answers)) = applied.next() => tell(answers, &done),
            group = waiting.take() => {
                let Some(group) = group else { break };
                let mut answers = Answers::default();
                match apply_group(&engine, group, &mut answers).await {
                    Ok(last) => applied.push(async move { (last.durable().await, answers) }),
                    Err(error) => tell(answers, &Err(error)),
                }
            }
        }
    }
    while let Some((done, answers)) = applied.next().await {
        tell(answers, &done);
    }
}

fn tell(answers: Answers<Result<()>>, done: &Result<()>) {
    answers.send(|_| done.clone());
}

/// Shows a group to readers of the latest state. The log is written in order: once the last batch is durable, all
/// are.
async fn apply_group<'e>(
    engine: &'e Engine,
    group: Vec<Write>,
    answers: &mut Answers<Result<()>>,
) -> Result<Committed<'e>> {
    // All are answered, also when one cannot be applied.
    let mut rows = Vec::new();
    let mut locks = Vec::new();
    for write in group {
        answers.add(write.home, write.done);
        locks.extend(write.locks);
        rows.push(write.rows);
    }
    let mut batch = WriteBatch::new();
    let mut bytes = 0;
    for (key, patch) in rows.into_iter().flatten() {
        if bytes >= BATCH_BYTES {
            bytes = 0;
            // Durable no later than the last one, which is waited for.
            let _ = engine.write(std::mem::take(&mut batch)).await?;
        }
        bytes += key.len() + patch.len();
        batch.merge(key, patch);
    }
    engine.write(batch).await
}
