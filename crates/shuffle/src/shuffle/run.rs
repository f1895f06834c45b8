//! One sorted run, with the place of each partition in it.
//!
//! Invariant: a run is made whole or not at all; the records that it was to be made of are given back.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use claviger_core::{Error, Result};

use super::arena::Arena;
use crate::block::{Builder, Index};
use crate::budget::Grant;
use crate::extent::Extent;
use crate::space::Space;

#[derive(Debug)]
pub(super) struct Run {
    pub(super) extent: Extent,
    /// The first block of each partition, and at last the number of blocks.
    partitions: Vec<usize>,
}

/// Why a run was not made, and the records, unless they are lost.
pub(super) type Failed = (Error, Option<Arena>);

impl Run {
    pub(super) fn stored(index: Index, file: crate::space::File) -> Self {
        let Index { blocks, partitions, len } = index;
        Self { extent: Extent::stored(blocks, len, file), partitions }
    }

    fn in_memory(index: Index, pieces: Vec<Bytes>, grant: Grant) -> Self {
        let Index { blocks, partitions, len: _ } = index;
        Self { extent: Extent::in_memory(blocks, pieces, grant), partitions }
    }

    /// Makes a run of records: in memory when the budget has room and it need not be stored.
    pub(super) async fn make(
        space: &Arc<Space>,
        mut arena: Arena,
        partitions: usize,
        must_store: bool,
    ) -> Result<Self, Failed> {
        if let Err(error) = space.guard() {
            return Err((error, Some(arena)));
        }
        if must_store || !space.budget().has_room() {
            let made = Self::store(space, &mut arena, partitions).await;
            return made.map_err(|error| (error, Some(arena)));
        }
        let budget = space.budget().clone();
        let sorting = move || Self::keep(arena, partitions, Grant::new(budget, 0));
        match tokio::task::spawn_blocking(sorting).await {
            Ok(kept) => kept.map_err(|error| (error, None)),
            Err(error) => Err((Error::internal("sorting a run stopped").because(error), None)),
        }
    }

    /// Keeps records in memory, sorted and encoded.
    fn keep(mut arena: Arena, partitions: usize, mut grant: Grant) -> Result<Self> {
        let mut builder = Builder::new(partitions);
        let mut pieces = Vec::new();
        let mut drain = arena.drain(true);
        while let Some(piece) = drain.next_piece(&mut builder)? {
            grant.set(grant.bytes() + piece.len());
            pieces.push(piece);
        }
        let (piece, index) = builder.finish();
        pieces.extend(piece);
        grant.set(pieces.iter().map(Bytes::len).sum());
        Ok(Self::in_memory(index, pieces, grant))
    }

    /// Writes records to a file, sorted and encoded, piece by piece.
    async fn store(space: &Arc<Space>, arena: &mut Arena, partitions: usize) -> Result<Self> {
        let _turn = space.budget().turn_to_store().await;
        let mut builder = Builder::new(partitions);
        let mut upload = space.upload();
        let mut drain = arena.drain(false);
        while let Some(piece) = drain.next_piece(&mut builder)? {
            upload.write(piece).await?;
        }
        let (piece, index) = builder.finish();
        if let Some(piece) = piece {
            upload.write(piece).await?;
        }
        Ok(Self::stored(index, upload.finish().await?))
    }

    /// The blocks of a partition.
    pub(super) fn partition(&self, partition: usize) -> Range<usize> {
        match (self.partitions.get(partition), self.partitions.get(partition + 1)) {
            (Some(first), Some(end)) => *first..*end,
            _ => 0..0,
        }
    }

    /// All blocks.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.extent.block_count()
    }

    pub(super) fn partition_bytes(&self, partition: usize) -> u64 {
        let blocks = self.partition(partition);
        self.extent.start(blocks.end) - self.extent.start(blocks.start)
    }
}
