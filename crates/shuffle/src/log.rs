//! Elements between the bundles that write them and those that read them, without an order among keys.
//!
//! Elements come in chunks that hold whole ones. Small chunks are put together, large ones kept as they
//! are; a chunk is never cut, because only who knows the coder knows where an element ends.
//!
//! Invariant: what was committed is in the log once, in the order of the commits. A reader sees what was
//! committed when it was made, and readers of the same part of the same log see the same.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_core::{Error, Result};

pub use reader::LogReader;
pub use writer::LogWriter;

use crate::budget::{Grant, Holder};
use crate::extent::{Extent, gone};
use crate::space::{Member, Space};

/// Bytes of an extent that is full.
const EXTENT_BYTES: usize = 32 * 1024 * 1024;
/// After so many commits small extents are joined: many tiny bundles must not make a long list.
const MAX_UNJOINED: usize = 256;

/// Elements in the order of their bundles; see the module's text.
pub struct Log {
    space: Arc<Space>,
    name: String,
    state: Mutex<State>,
    /// Held by whoever moves committed data.
    work: tokio::sync::Mutex<()>,
    bytes: AtomicU64,
    elements: AtomicU64,
}

#[derive(Default)]
struct State {
    is_deleted: bool,
    extents: Vec<Arc<Extent>>,
    /// Commits since small extents were joined.
    unjoined: usize,
    /// Extents of bundles that did not commit yet, which may have to leave the memory, too.
    pending: Vec<Weak<Extent>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({})", self.name)
    }
}

impl Log {
    pub(crate) fn new(space: Arc<Space>, name: &str) -> Arc<Self> {
        Arc::new(Self {
            space,
            name: name.to_owned(),
            state: Mutex::default(),
            work: tokio::sync::Mutex::new(()),
            bytes: AtomicU64::new(0),
            elements: AtomicU64::new(0),
        })
    }

    /// A writer for one bundle.
    #[must_use]
    pub fn writer(self: &Arc<Self>) -> LogWriter {
        LogWriter::new(self.clone())
    }

    /// The name it was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that were committed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Elements that were committed.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.elements.load(Ordering::Relaxed)
    }

    /// Reads one of `of` parts of about the same size; together they are what was committed so far, in
    /// its order.
    ///
    /// # Errors
    /// What the guard answers; `FailedPrecondition` once the log is deleted.
    pub fn reader(&self, part: usize, of: usize) -> Result<LogReader> {
        if part >= of {
            return Err(Error::internal(format!("there is no part {part} of {of}")));
        }
        self.space.guard()?;
        let state = self.state();
        if state.is_deleted {
            return Err(gone());
        }
        Ok(LogReader::new(self.space.clone(), &state.extents, part, of))
    }

    /// Removes all its data and returns when its files are gone. Readers under way end with an error.
    ///
    /// # Errors
    /// What the store answers; the files that stayed go with their space.
    pub async fn delete(&self) -> Result<()> {
        let _work = self.work.lock().await;
        let files: Vec<_> = self.empty().iter().filter_map(|extent| extent.take_file()).collect();
        self.space.delete_all(files.iter().filter_map(|file| file.condemn()).collect()).await
    }

    fn empty(&self) -> Vec<Arc<Extent>> {
        let mut state = self.state();
        state.is_deleted = true;
        state.pending.clear();
        std::mem::take(&mut state.extents)
    }

    async fn commit(&self, extents: Vec<Arc<Extent>>, bytes: u64, elements: u64) -> Result<()> {
        self.space.guard()?;
        {
            let mut state = self.state();
            if state.is_deleted {
                return Err(gone());
            }
            state.extents.extend(extents);
            state.unjoined += 1;
            if state.unjoined >= MAX_UNJOINED {
                state.unjoined = 0;
                join(&self.space, &mut state.extents);
            }
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.elements.fetch_add(elements, Ordering::Relaxed);
        self.space.budget().relieve().await;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Extents whose memory could be given back, the largest first.
    fn in_memory(&self) -> Vec<Arc<Extent>> {
        let state = self.state();
        let pending = state.pending.iter().filter_map(Weak::upgrade);
        let mut extents: Vec<_> =
            state.extents.iter().cloned().chain(pending).filter(|extent| extent.held() > 0).collect();
        drop(state);
        extents.sort_by_key(|extent| std::cmp::Reverse(extent.held()));
        extents
    }
}

/// Joins neighbours in memory to extents of a good length.
fn join(space: &Arc<Space>, extents: &mut Vec<Arc<Extent>>) {
    let mut joined = Vec::new();
    let mut group = Group::default();
    for extent in extents.drain(..) {
        let len = extent.held();
        let pieces = if len < EXTENT_BYTES { extent.pieces() } else { None };
        match pieces {
            Some(pieces) => {
                if group.bytes + len > EXTENT_BYTES {
                    group.close(space, &mut joined);
                }
                group.bytes += len;
                group.pieces.extend(pieces.iter().cloned());
                group.members.push(extent);
            }
            None => {
                group.close(space, &mut joined);
                joined.push(extent);
            }
        }
    }
    group.close(space, &mut joined);
    *extents = joined;
}

#[derive(Default)]
struct Group {
    members: Vec<Arc<Extent>>,
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Group {
    fn close(&mut self, space: &Arc<Space>, joined: &mut Vec<Arc<Extent>>) {
        let Self { mut members, pieces, bytes } = std::mem::take(self);
        if members.len() < 2 {
            joined.append(&mut members);
        } else {
            joined.push(Arc::new(Extent::of_pieces(pieces, Grant::new(space.budget().clone(), bytes))));
        }
    }
}

#[async_trait]
impl Holder for Log {
    fn held(&self) -> usize {
        self.in_memory().iter().map(|extent| extent.held()).sum()
    }

    async fn spill(self: Arc<Self>, wanted: usize) -> Result<()> {
        // Whoever is at work here may have long to go; others need not wait for that.
        let Ok(_work) = self.work.try_lock() else { return Ok(()) };
        join(&self.space, &mut self.state().extents);
        let mut freed = 0;
        for extent in self.in_memory() {
            if freed >= wanted {
                break;
            }
            let held = extent.held();
            extent.store(&self.space).await?;
            freed += held;
        }
        Ok(())
    }
}

impl Member for Log {
    fn forget(&self) {
        for extent in self.empty() {
            // The space removes the files.
            if let Some(file) = extent.take_file() {
                file.condemn();
            }
        }
    }
}
