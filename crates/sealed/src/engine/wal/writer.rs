//! What is to be written to the log, who waits for it, and SlateDB's side of both.
//!
//! Rows are encoded into the pending body when SlateDB appends them. The [`super::pump`] takes bodies, one at
//! a time, each a frame; whoever waits for a write puts itself on the list and wakes it.
//!
//! Invariant: listeners hear of a frame before those who wait for its rows go on, so that they read what
//! they wrote. Once closed, nothing more is taken, and everyone who waits is told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::FutureExt;
use slatedb::RowEntry;
use slatedb::wal::{
    WalError, WalEvent, WalFlushResult, WalObserver, WalStatus, WalStatusListener, WalWriter,
};
use tokio::sync::{Notify, oneshot};

use super::MAX_REPLAYED_SEGMENTS;
use super::rows::{Before, encode};
use crate::buffers;

/// Pending bytes that are written even when nobody waits for them yet.
const WRITE_AT: usize = 1024 * 1024;
/// What a row is thought to take beside its key and value, until it is written.
const ROW_OVERHEAD: usize = 16;

/// About how long a row gets, at most.
fn row_len(row: &RowEntry) -> usize {
    row.key.len() + row.value.len() + ROW_OVERHEAD
}

/// The rows that go into one frame.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    rows: usize,
    last_sequence: u64,
    before: Before,
}

impl Body {
    fn weight(&self) -> usize {
        self.bytes.len() + self.rows * ROW_OVERHEAD
    }
}

struct State {
    /// What the next frame will hold, and its number.
    pending: Body,
    /// Frames whose content is settled, because somebody asked for their number.
    frozen: VecDeque<Body>,
    /// Of all bodies that are not durable, the one being written included.
    weight: usize,
    rows: usize,
    written_id: u64,
    written_sequence: Option<u64>,
    /// Bytes of all frames that were written since the log was opened.
    written_bytes: u64,
    closed: Option<WalError>,
    /// Who waits for a sequence, and for a frame.
    writes: Vec<(u64, oneshot::Sender<()>)>,
    flushes: Vec<(u64, oneshot::Sender<Result<(), WalError>>)>,
    listeners: Vec<WalStatusListener>,
    /// The first frame of each segment that was begun, oldest first.
    segments: VecDeque<u64>,
}

impl State {
    fn status(&self) -> WalStatus {
        WalStatus {
            closed_reason: self.closed.clone(),
            estimated_bytes: self.weight,
            last_flushed_wal_id: self.written_id,
            last_flushed_seq: self.written_sequence,
            buffered_wal_entries_count: self.rows,
        }
    }

    fn check(&self) -> Result<(), WalError> {
        self.closed.clone().map_or(Ok(()), Err)
    }

    /// Settles the pending body. Gives the number of the last frame that is or will be.
    fn freeze(&mut self) -> u64 {
        if self.pending.rows == 0 {
            return self.pending.number.saturating_sub(1);
        }
        let number = self.pending.number;
        let next = Body { number: number.saturating_add(1), ..Body::default() };
        self.frozen.push_back(std::mem::replace(&mut self.pending, next));
        number
    }
}

/// The state of an open log.
pub(in crate::engine) struct Core {
    state: Mutex<State>,
    /// Tells the pump that somebody waits.
    pub(super) wanted: Notify,
    /// Tells that the pump has ended.
    ended: tokio::sync::watch::Sender<bool>,
    /// SlateDB should write a sorted file when it would replay from an earlier frame than this.
    replay_from: AtomicU64,
}

impl Core {
    pub(super) fn new(last_id: u64, segments: impl Iterator<Item = u64>) -> Self {
        let state = State {
            pending: Body { number: last_id.saturating_add(1), ..Body::default() },
            frozen: VecDeque::new(),
            weight: 0,
            rows: 0,
            written_id: last_id,
            written_sequence: None,
            written_bytes: 0,
            closed: None,
            writes: Vec::new(),
            flushes: Vec::new(),
            listeners: Vec::new(),
            segments: segments.collect(),
        };
        let core = Self {
            state: Mutex::new(state),
            wanted: Notify::new(),
            ended: tokio::sync::watch::Sender::new(false),
            replay_from: AtomicU64::new(0),
        };
        core.bound_replay(&mut core.lock());
        core
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the write of a sequence is durable. False when the log was closed before.
    pub(in crate::engine) async fn durable(&self, sequence: u64) -> bool {
        let written = {
            let mut state = self.lock();
            if state.written_sequence.is_some_and(|written| written >= sequence) {
                return true;
            }
            if state.closed.is_some() {
                return false;
            }
            let (sender, written) = oneshot::channel();
            state.writes.push((sequence, sender));
            written
        };
        self.wanted.notify_one();
        written.await.is_ok()
    }

    /// The last sequence that is durable, if one was written since the log was opened, and the bytes of all that were.
    pub(in crate::engine) fn progress(&self) -> (Option<u64>, u64) {
        let state = self.lock();
        (state.written_sequence, state.written_bytes)
    }

    /// Takes what is to be written next: what was frozen, else what is pending.
    pub(super) fn take(&self, frozen_only: bool) -> Option<Body> {
        let mut state = self.lock();
        if state.closed.is_some() {
            return None;
        }
        if state.frozen.is_empty() && !frozen_only {
            state.freeze();
        }
        state.frozen.pop_front()
    }

    /// Notes that a frame is durable, and tells everyone.
    pub(super) fn written(&self, body: Body) {
        let (status, listeners) = {
            let mut state = self.lock();
            state.written_id = body.number;
            state.written_sequence = Some(body.last_sequence);
            state.written_bytes = state.written_bytes.saturating_add(body.bytes.len() as u64);
            state.weight = state.weight.saturating_sub(body.weight());
            state.rows = state.rows.saturating_sub(body.rows);
            (state.status(), state.listeners.clone())
        };
        for listener in &listeners {
            listener(WalEvent::WalFlushed(status.clone()));
        }
        let (writes, flushes) = {
            let mut state = self.lock();
            let writes: Vec<_> =
                state.writes.extract_if(.., |(sequence, _)| *sequence <= body.last_sequence).collect();
            let flushes: Vec<_> =
                state.flushes.extract_if(.., |(number, _)| *number <= body.number).collect();
            (writes, flushes)
        };
        buffers::give(body.bytes);
        // Who does not listen any more was given up by its caller.
        for (_, sender) in writes {
            let _ = sender.send(());
        }
        for (_, sender) in flushes {
            let _ = sender.send(Ok(()));
        }
    }

    /// Notes that a segment was begun.
    pub(super) fn began(&self, first: u64) {
        let mut state = self.lock();
        state.segments.push_back(first);
        self.bound_replay(&mut state);
    }

    fn bound_replay(&self, state: &mut State) {
        while state.segments.len() > MAX_REPLAYED_SEGMENTS {
            state.segments.pop_front();
            let first = state.segments.front().copied().unwrap_or(0);
            self.replay_from.store(first.saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// Ends the log: everyone who waits is told, nothing more is taken. What was not written is dropped.
    /// The first reason stays.
    pub(in crate::engine) fn close(&self, reason: WalError) {
        let (status, listeners, flushes) = {
            let mut state = self.lock();
            if state.closed.is_some() {
                return;
            }
            state.closed = Some(reason.clone());
            state.pending = Body { number: state.pending.number, ..Body::default() };
            state.frozen.clear();
            (state.status(), std::mem::take(&mut state.listeners), std::mem::take(&mut state.flushes))
        };
        for listener in listeners {
            listener(WalEvent::WalClosed(status.clone()));
        }
        for (_, sender) in flushes {
            let _ = sender.send(Err(reason.clone()));
        }
        // SlateDB has recorded the reason by now, which those who wait go on to ask it for.
        self.lock().writes.clear();
        self.wanted.notify_one();
    }

    /// Whether the log was closed, and whether that was for no fault and with nothing left to write.
    pub(super) fn is_closed(&self) -> (bool, bool) {
        let state = self.lock();
        (state.closed.is_some(), matches!(state.closed, Some(WalError::Closed)) && state.rows == 0)
    }

    /// Notes that the pump has ended.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
    }
}

/// What SlateDB writes through.
pub(super) struct Writer {
    core: Arc<Core>,
}

impl Writer {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.core.close(WalError::Closed);
    }
}

#[async_trait]
impl WalWriter for Writer {
    async fn append(&mut self, batch: &[RowEntry]) -> Result<(), WalError> {
        let full = {
            let mut state = self.core.lock();
            state.check()?;
            let state = &mut *state;
            let body = &mut state.pending;
            let before = body.weight();
            if body.rows == 0 {
                body.bytes = buffers::take();
            }
            body.bytes.reserve(batch.iter().map(row_len).sum());
            encode(batch, &mut body.before, &mut body.bytes);
            body.rows += batch.len();
            if let Some(row) = batch.last() {
                body.last_sequence = row.seq;
            }
            state.weight += body.weight() - before;
            state.rows += batch.len();
            body.bytes.len() >= WRITE_AT
        };
        if full {
            self.core.wanted.notify_one();
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<WalFlushResult, WalError> {
        let (wal_id, written) = {
            let mut state = self.core.lock();
            state.check()?;
            let number = state.freeze();
            let (sender, written) = oneshot::channel();
            if number <= state.written_id {
                let _ = sender.send(Ok(()));
            } else {
                state.flushes.push((number, sender));
            }
            (number, written)
        };
        self.core.wanted.notify_one();
        let completion = async { written.await.unwrap_or(Err(WalError::Closed)) }.boxed();
        Ok(WalFlushResult { wal_id, completion })
    }

    fn should_flush_memtable(&self, replay_after_wal_id: u64) -> bool {
        replay_after_wal_id < self.core.replay_from.load(Ordering::Relaxed)
    }

    fn observer(&self) -> Box<dyn WalObserver> {
        Box::new(Observer(self.core.clone()))
    }

    fn status(&self) -> Result<WalStatus, WalStatus> {
        status(&self.core)
    }

    async fn close(&mut self) -> Result<(), WalError> {
        self.core.close(WalError::Closed);
        // An append under way comes to its end, so that nothing is written after this.
        let mut ended = self.core.ended.subscribe();
        let _ = ended.wait_for(|ended| *ended).await;
        Ok(())
    }
}

fn status(core: &Core) -> Result<WalStatus, WalStatus> {
    let status = core.lock().status();
    if status.closed_reason.is_none() { Ok(status) } else { Err(status) }
}

struct Observer(Arc<Core>);

#[async_trait]
impl WalObserver for Observer {
    fn status(&self) -> Result<WalStatus, WalStatus> {
        status(&self.0)
    }

    fn subscribe(&self, listener: WalStatusListener) -> Result<(), WalError> {
        let status = {
            let mut state = self.0.lock();
            if state.closed.is_none() {
                state.listeners.push(listener);
                return Ok(());
            }
            state.status()
        };
        listener(WalEvent::WalClosed(status));
        Ok(())
    }
}
