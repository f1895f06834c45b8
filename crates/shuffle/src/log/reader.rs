//! A part of a log, read from its beginning.
//!
//! Invariant: chunks come in the order of the log and are never cut.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use claviger_core::Result;

use crate::extent::Extent;
use crate::space::Space;

/// About how much comes at once.
const CHUNK: usize = 1024 * 1024;
/// Chunks below this are put together.
const SMALL: usize = 256 * 1024;

/// Reads a part of a log.
pub struct LogReader {
    space: Arc<Space>,
    extents: std::vec::IntoIter<(Arc<Extent>, Range<usize>)>,
    /// The extent that is being read, with what is left of it.
    current: Option<(Arc<Extent>, Range<usize>)>,
    /// A chunk that was too long to be put together with those before it.
    ahead: Option<Bytes>,
    left: u64,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogReader({} bytes left)", self.left)
    }
}

impl LogReader {
    pub(super) fn new(space: Arc<Space>, extents: &[Arc<Extent>], part: usize, of: usize) -> Self {
        let total: u64 = extents.iter().map(|extent| extent.len()).sum();
        // A block is of the part in which it begins.
        let bound = |part: usize| (u128::from(total) * part as u128).div_ceil(of.max(1) as u128) as u64;
        let (from, to) = (bound(part), bound(part + 1));
        let mut first = 0;
        let mut left = 0;
        let mut own = Vec::new();
        for extent in extents {
            let begins = |bound: u64| first_from(extent, bound.saturating_sub(first));
            let blocks = begins(from)..begins(to);
            if !blocks.is_empty() {
                left += extent.start(blocks.end) - extent.start(blocks.start);
                own.push((extent.clone(), blocks));
            }
            first += extent.len();
        }
        Self { space, extents: own.into_iter(), current: None, ahead: None, left }
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next chunk of whole elements, about 1 MiB; none at the end.
    ///
    /// # Errors
    /// What the guard answers; `DataLoss`, with the file, when it was changed; what the store answers.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(first) = self.read().await? else { return Ok(None) };
        if first.len() >= SMALL {
            self.left -= first.len() as u64;
            return Ok(Some(first));
        }
        let mut joined = BytesMut::from(first.as_ref());
        while joined.len() < CHUNK
            && let Some(more) = self.read().await?
        {
            if joined.len() + more.len() > CHUNK {
                self.ahead = Some(more);
                break;
            }
            joined.extend_from_slice(&more);
        }
        self.left -= joined.len() as u64;
        Ok(Some(joined.freeze()))
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        loop {
            if let Some((extent, blocks)) = &mut self.current
                && blocks.start < blocks.end
            {
                let (bytes, next) = extent.read(&self.space, blocks.clone(), CHUNK).await?;
                blocks.start = next;
                return Ok(Some(bytes));
            }
            self.current = self.extents.next();
            if self.current.is_none() {
                return Ok(None);
            }
        }
    }
}

/// The first block that begins at a byte or after it.
fn first_from(extent: &Extent, byte: u64) -> usize {
    let (mut low, mut high) = (0, extent.block_count());
    while low < high {
        let middle = low.midpoint(high);
        if extent.start(middle) < byte { low = middle + 1 } else { high = middle }
    }
    low
}
