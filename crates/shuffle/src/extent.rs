//! Some blocks that were written together: in memory, or as one stored file.
//!
//! Invariant: the content never changes, only where it is. Readers that go on while it moves see the same.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use claviger_core::{Error, Result};

use crate::budget::Grant;
use crate::space::{File, Space};

#[derive(Debug)]
pub(crate) struct Extent {
    /// The first byte of each block.
    blocks: Vec<u64>,
    len: u64,
    content: RwLock<Content>,
}

#[derive(Debug)]
enum Content {
    Memory(Memory),
    Stored(Arc<File>),
    Gone,
}

#[derive(Debug)]
struct Memory {
    /// Each begins at the beginning of a block.
    pieces: Arc<Vec<Bytes>>,
    /// The first byte of each piece.
    starts: Vec<u64>,
    grant: Grant,
}

impl Extent {
    pub(crate) fn in_memory(blocks: Vec<u64>, pieces: Vec<Bytes>, grant: Grant) -> Self {
        let mut len = 0;
        let mut starts = Vec::with_capacity(pieces.len());
        for piece in &pieces {
            starts.push(len);
            len += piece.len() as u64;
        }
        let content = Content::Memory(Memory { pieces: Arc::new(pieces), starts, grant });
        Self { blocks, len, content: RwLock::new(content) }
    }

    /// Pieces in memory that are a block each.
    pub(crate) fn of_pieces(pieces: Vec<Bytes>, grant: Grant) -> Self {
        let mut len = 0;
        let start = |piece: &Bytes| {
            let start = len;
            len += piece.len() as u64;
            start
        };
        let blocks = pieces.iter().map(start).collect();
        Self::in_memory(blocks, pieces, grant)
    }

    /// The pieces, while they are in memory.
    pub(crate) fn pieces(&self) -> Option<Arc<Vec<Bytes>>> {
        match &*self.content() {
            Content::Memory(memory) => Some(memory.pieces.clone()),
            Content::Stored(_) | Content::Gone => None,
        }
    }

    pub(crate) fn stored(blocks: Vec<u64>, len: u64, file: File) -> Self {
        Self { blocks, len, content: RwLock::new(Content::Stored(Arc::new(file))) }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The first byte of a block; of the one after the last, the end.
    pub(crate) fn start(&self, block: usize) -> u64 {
        self.blocks.get(block).copied().unwrap_or(self.len)
    }

    /// Bytes of memory that it takes.
    pub(crate) fn held(&self) -> usize {
        match &*self.content() {
            Content::Memory(memory) => memory.grant.bytes(),
            Content::Stored(_) | Content::Gone => 0,
        }
    }

    pub(crate) fn is_stored(&self) -> bool {
        matches!(&*self.content(), Content::Stored(_))
    }

    /// Moves it from memory to a file.
    pub(crate) async fn store(&self, space: &Arc<Space>) -> Result<()> {
        let Some(pieces) = self.pieces() else { return Ok(()) };
        let _turn = space.budget().turn_to_store().await;
        let mut upload = space.upload();
        for piece in pieces.iter() {
            upload.write(piece.clone()).await?;
        }
        let file = upload.finish().await?;
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*content, Content::Memory(_)) {
            *content = Content::Stored(Arc::new(file));
        }
        Ok(())
    }

    /// Lets go of the content; gives the file that it was in.
    pub(crate) fn take_file(&self) -> Option<Arc<File>> {
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *content, Content::Gone) {
            Content::Stored(file) => Some(file),
            Content::Memory(_) | Content::Gone => None,
        }
    }

    /// Reads whole blocks from the first of the range on: at least one, more up to `limit` bytes. Gives
    /// the block to go on with.
    pub(crate) async fn read(
        &self,
        space: &Arc<Space>,
        blocks: Range<usize>,
        limit: usize,
    ) -> Result<(Bytes, usize)> {
        space.guard()?;
        let (start, end) = (self.start(blocks.start), self.start(blocks.end));
        let until = |most: u64| {
            // Blocks have at least one byte each, so the starts are strictly ascending.
            let later = self.blocks.get(blocks.start + 1..blocks.end).unwrap_or_default();
            blocks.start + later.partition_point(|start| *start <= most)
        };
        let file = match &*self.content() {
            Content::Memory(memory) => {
                let piece = memory.starts.partition_point(|first| *first <= start).checked_sub(1);
                let found = piece.and_then(|piece| memory.pieces.get(piece).zip(memory.starts.get(piece)));
                let (piece, first) = found.ok_or_else(out_of_range)?;
                let stop = (first + piece.len() as u64).min(end);
                let range = position(start - first)?..position(stop - first)?;
                let next = if stop == end { blocks.end } else { until(stop) };
                let bytes =
                    if range.end <= piece.len() { piece.slice(range) } else { return Err(out_of_range()) };
                return Ok((bytes, next));
            }
            Content::Stored(file) => file.clone(),
            Content::Gone => return Err(gone()),
        };
        let most = start.saturating_add(limit as u64);
        let next = if end <= most { blocks.end } else { until(most).max(blocks.start + 1) };
        Ok((file.read(start..self.start(next)).await?, next))
    }

    /// The error of blocks that are not what was written.
    pub(crate) fn malformed(&self) -> Error {
        match &*self.content() {
            Content::Stored(file) => file.malformed(),
            Content::Memory(_) | Content::Gone => Error::internal("a run in memory is malformed"),
        }
    }

    fn content(&self) -> std::sync::RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn position(offset: u64) -> Result<usize> {
    usize::try_from(offset).map_err(|_| out_of_range())
}

fn out_of_range() -> Error {
    Error::internal("a block is outside its run")
}

pub(crate) fn gone() -> Error {
    Error::precondition("the data was deleted")
}
