//! Stateful stages: the keys of a partition in batches, each with its elements, its state and its timers.
//!
//! Invariant: all elements of a key and all its timers pass one bundle at a time, in order: elements first, as
//! time has not begun to move, then timers as time runs to its end. A batch's state and timers go with it.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use claviger_core::{Error, Result};
use tokio::sync::Mutex;

use super::bundle::Failure;
use super::graph::ShuffleStore;
use super::limits::WORKER_RETRIES;
use super::source::{Feed, KeyCursor, NoFeed, Outlet};
use super::stage::{BundleInput, StageRun};
use super::state::{BundleState, UserState};
use super::timers::{Fired, Timers};

/// Runs all keys of some partitions.
pub(super) async fn run(stage: &StageRun, store: &ShuffleStore, partitions: Range<usize>) -> Result<()> {
    let slots = stage.run.workers.slots(&stage.stage.environment_id)?;
    let _slot =
        slots.acquire().await.map_err(|error| Error::internal("The slots are closed.").because(error))?;
    for partition in partitions {
        let mut cursor = KeyCursor::open(store, partition, 0).await?;
        while cursor.has_more().await? {
            cursor = batch(stage, store, partition, cursor).await?;
        }
    }
    Ok(())
}

/// Runs a batch of keys: its elements, then its timers until none is left.
async fn batch(
    stage: &StageRun,
    store: &ShuffleStore,
    partition: usize,
    cursor: KeyCursor,
) -> Result<KeyCursor> {
    let first = cursor.index();
    let mut keys = Keys {
        stage,
        state: Some(UserState::new(stage.run.state_bytes.clone())),
        timers: Timers::default(),
        token: stage.run.token(),
    };
    let mut cursor = Arc::new(Mutex::new(cursor));
    let mut attempts = 0;
    loop {
        let feed = Batch {
            cursor: cursor.clone(),
            bytes: stage.run.limits.keyed_batch_bytes,
            keys: stage.run.limits.keyed_batch_keys,
        };
        match keys.bundle(Box::new(feed), Vec::new()).await {
            Ok(()) => break,
            Err(Failure::Lost(_)) if attempts < WORKER_RETRIES => attempts += 1,
            Err(failure) => return Err(stage.error(failure)),
        }
        // Where the failed attempt stopped reading is not known.
        cursor = Arc::new(Mutex::new(KeyCursor::open(store, partition, first).await?));
    }
    while !keys.timers.is_empty() {
        let fired = keys.timers.fire(&stage.families);
        let mut attempts = 0;
        loop {
            match keys.bundle(Box::new(NoFeed), fired.clone()).await {
                Ok(()) => break,
                Err(Failure::Lost(_)) if attempts < WORKER_RETRIES => attempts += 1,
                Err(failure) => return Err(stage.error(failure)),
            }
        }
    }
    // The task that fed the bundle is over.
    Arc::into_inner(cursor)
        .map(Mutex::into_inner)
        .ok_or_else(|| Error::internal("The elements of a batch of keys are still being read."))
}

/// The keys of a batch: what they hold between bundles.
struct Keys<'a> {
    stage: &'a StageRun,
    /// There between bundles.
    state: Option<UserState>,
    timers: Timers,
    /// What the worker knows the state by; another one after a failure.
    token: bytes::Bytes,
}

impl Keys<'_> {
    /// Runs one bundle and commits it, with the state that it left and the timers that it set.
    async fn bundle(&mut self, feed: Box<dyn Feed>, timers: Fired) -> Result<(), Failure> {
        let stage = self.stage;
        let worker = stage.run.workers.get(&stage.stage.environment_id).await?;
        let base =
            self.state.take().ok_or_else(|| Error::internal("The state of a batch of keys is gone."))?;
        let state = BundleState::new(stage.sides.clone(), base);
        let input = BundleInput {
            feed,
            timers,
            state: state.clone(),
            user_token: Some(self.token.clone()),
            unit: None,
        };
        let result = stage.process(&worker, input).await;
        self.state = state.end(result.is_ok()).await?;
        match result {
            Ok(finished) => {
                if !finished.response.residual_roots.is_empty() {
                    return Err(Failure::Fatal(Error::unimplemented(
                        "A step with state that puts a part of an element off is not built.",
                    )));
                }
                for (transform, family, data) in &finished.timers {
                    let limit = stage.run.limits.timer_bytes;
                    self.timers.apply(&stage.families, transform, family, data, limit)?;
                }
                Ok(stage.commit(finished).await?)
            }
            Err(failure) => {
                self.token = stage.run.token();
                Err(failure)
            }
        }
    }
}

/// The elements of a batch of keys.
struct Batch {
    cursor: Arc<Mutex<KeyCursor>>,
    bytes: usize,
    keys: usize,
}

#[async_trait]
impl Feed for Batch {
    async fn feed(&mut self, outlet: &mut dyn Outlet) -> Result<()> {
        self.cursor.lock().await.batch(self.bytes, self.keys, outlet).await
    }
}
