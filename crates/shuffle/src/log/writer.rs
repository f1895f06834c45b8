//! What one bundle writes into a log.
//!
//! Invariant: nothing of it shows before the commit, and all of it after. Dropped without one, or after
//! a failure, it leaves nothing: its memory is given back at once, its files soon after.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use claviger_core::{Error, Result};

use super::{EXTENT_BYTES, Log};
use crate::budget::Grant;
use crate::extent::Extent;

/// Smaller chunks are put together up to this length; larger ones are kept as they are.
const FRAME: usize = 256 * 1024;
/// The room that is made for small chunks at first.
const FIRST_FRAME: usize = 4 * 1024;

/// What one bundle writes into a log; see the module's text.
pub struct LogWriter {
    log: Arc<Log>,
    /// Small chunks that are being put together.
    frame: BytesMut,
    pieces: Vec<Bytes>,
    /// Counts `frame` and `pieces`.
    grant: Grant,
    extents: Vec<Arc<Extent>>,
    bytes: u64,
    elements: u64,
    /// Whether elements were lost on the way.
    is_broken: bool,
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogWriter({})", self.log.name)
    }
}

impl LogWriter {
    pub(super) fn new(log: Arc<Log>) -> Self {
        let grant = Grant::new(log.space.budget().clone(), 0);
        Self {
            log,
            frame: BytesMut::new(),
            pieces: Vec::new(),
            grant,
            extents: Vec::new(),
            bytes: 0,
            elements: 0,
            is_broken: false,
        }
    }

    /// Adds a chunk of whole elements. Returns when there is room to go on; stores what this or another
    /// writer has, if need be.
    ///
    /// # Errors
    /// What the guard and the store answer; the bundle then cannot be committed any more.
    pub async fn write(&mut self, chunk: Bytes, elements: u64) -> Result<()> {
        self.elements += elements;
        self.bytes += chunk.len() as u64;
        if chunk.is_empty() {
            return Ok(());
        }
        if chunk.len() >= FRAME {
            self.end_frame();
            self.grant.set(self.grant.bytes() + chunk.len());
            self.pieces.push(chunk);
        } else {
            if self.frame.len() + chunk.len() > FRAME {
                self.end_frame();
            }
            let before = self.frame.capacity();
            if self.frame.capacity() - self.frame.len() < chunk.len() {
                self.frame.reserve(chunk.len().max(self.frame.capacity()).clamp(FIRST_FRAME, FRAME));
            }
            self.grant.set(self.grant.bytes() + self.frame.capacity() - before);
            self.frame.extend_from_slice(&chunk);
        }
        self.make_room().await
    }

    fn end_frame(&mut self) {
        if self.frame.is_empty() {
            return;
        }
        let (len, capacity) = (self.frame.len(), self.frame.capacity());
        let frame = std::mem::take(&mut self.frame);
        // A little one does not keep the room that was made for more.
        let frame = if len < capacity / 2 { Bytes::copy_from_slice(&frame) } else { frame.freeze() };
        self.grant.set((self.grant.bytes() + frame.len()).saturating_sub(capacity));
        self.pieces.push(frame);
    }

    async fn make_room(&mut self) -> Result<()> {
        let budget = self.log.space.budget().clone();
        if self.grant.bytes() >= EXTENT_BYTES.min(budget.run_bytes()) {
            self.make_extent();
        }
        if budget.is_tight() {
            budget.relieve().await;
            if budget.is_tight() && self.grant.bytes() >= budget.min_spill() {
                self.is_broken = true;
                self.make_extent();
                for extent in &self.extents {
                    extent.store(&self.log.space).await?;
                }
                self.is_broken = false;
            }
        }
        Ok(())
    }

    /// Makes an extent of what came last, which can leave the memory from then on.
    fn make_extent(&mut self) {
        self.end_frame();
        if self.pieces.is_empty() {
            return;
        }
        let grant = Grant::new(self.log.space.budget().clone(), 0);
        let grant = std::mem::replace(&mut self.grant, grant);
        let extent = Arc::new(Extent::of_pieces(std::mem::take(&mut self.pieces), grant));
        let mut state = self.log.state();
        state.pending.retain(|extent| extent.strong_count() > 0);
        state.pending.push(Arc::downgrade(&extent));
        drop(state);
        self.extents.push(extent);
    }

    /// Makes all elements visible at once.
    ///
    /// # Errors
    /// What the guard answers; `FailedPrecondition` when the log was deleted meanwhile, or when this writer
    /// failed before.
    pub async fn commit(mut self) -> Result<()> {
        if self.is_broken {
            return Err(Error::precondition("the bundle lost elements and cannot be committed"));
        }
        self.make_extent();
        let extents = std::mem::take(&mut self.extents);
        self.log.commit(extents, self.bytes, self.elements).await
    }
}
