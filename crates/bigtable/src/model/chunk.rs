//! Rows cut into the chunks that ReadRows sends, and the chunks gathered into messages.
//!
//! The first chunk of a row carries its key, family and qualifier; later ones a family only where it
//! changes, and a qualifier where the column does. The last one commits the row. A long value is cut, and all
//! its pieces but the last tell its whole length.
//!
//! Invariant: a message stays near its target size, so that no client's limit of 4 MiB is met. A row goes in one
//! message unless it is larger than that allows; the official Python client takes a message that goes on with a
//! row for a new one without a key. So a row that must be cut repeats its key in front of each message, where the
//! message does not begin within a cell.

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::limits;

use super::schema::{Cell, Families, FamilyRank};

/// What a chunk takes on the wire besides its bytes, at most.
const OVERHEAD_BYTES: usize = 48;
/// The largest row that is not cut, in target sizes of a message.
const WHOLE_ROW_TARGETS: usize = 3;

/// A piece of a row: a cell, or part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The row's key on its first chunk; else empty.
    pub row_key: Bytes,
    /// The family, where it changes.
    pub family: Option<Arc<str>>,
    /// The column, where it changes.
    pub qualifier: Option<Bytes>,
    /// The cell's version.
    pub timestamp_micros: i64,
    /// The cell's label.
    pub label: Option<Arc<str>>,
    /// The value, or a piece of it.
    pub value: Bytes,
    /// The length of the whole value, on all of its pieces but the last; else 0.
    pub value_size: u32,
    /// Whether the row ends here.
    pub commit_row: bool,
}

impl Chunk {
    fn wire_bytes(&self) -> usize {
        let family = self.family.as_ref().map_or(0, |family| family.len());
        let label = self.label.as_ref().map_or(0, |label| label.len());
        let qualifier = self.qualifier.as_ref().map_or(0, Bytes::len);
        OVERHEAD_BYTES + self.row_key.len() + family + qualifier + label + self.value.len()
    }
}

/// Cuts rows into messages of chunks.
///
/// Push a row; take the messages that are full; at the end take the rest.
#[derive(Debug)]
pub struct Chunker {
    families: Arc<Families>,
    target_bytes: usize,
    pending: Vec<Chunk>,
    pending_bytes: usize,
    full: Vec<Vec<Chunk>>,
}

impl Chunker {
    /// A chunker of messages of about [`limits::RESPONSE_CHUNK_BYTES`].
    #[must_use]
    pub fn new(families: Arc<Families>) -> Self {
        Self::with_target(families, limits::RESPONSE_CHUNK_BYTES)
    }

    /// A chunker of messages of about `target_bytes`.
    #[must_use]
    pub fn with_target(families: Arc<Families>, target_bytes: usize) -> Self {
        let target_bytes = target_bytes.max(1);
        Self { families, target_bytes, pending: Vec::new(), pending_bytes: 0, full: Vec::new() }
    }

    /// Adds a row's cells, which are in order. A row without cells does not show at all.
    pub fn push(&mut self, row_key: Bytes, cells: Vec<Cell>) {
        let bytes =
            cells.iter().map(|cell| OVERHEAD_BYTES + cell.qualifier.len() + cell.value.len()).sum::<usize>();
        let is_cut = bytes + row_key.len() > self.target_bytes.saturating_mul(WHOLE_ROW_TARGETS);
        if is_cut || self.pending_bytes + bytes + row_key.len() > self.target_bytes {
            self.finish_message();
        }
        let mut column: Option<(FamilyRank, Bytes)> = None;
        let mut cells = cells.into_iter();
        let mut next = cells.next();
        while let Some(cell) = next.take() {
            next = cells.next();
            let new_family = column.as_ref().is_none_or(|(family, _)| *family != cell.family);
            let new_column =
                new_family || column.as_ref().is_none_or(|(_, qualifier)| *qualifier != cell.qualifier);
            let family = new_family.then(|| self.families.at(cell.family).map(|family| family.name.clone()));
            let mut first = Chunk {
                family: family.flatten(),
                qualifier: new_column.then(|| cell.qualifier.clone()),
                timestamp_micros: cell.timestamp_micros,
                label: cell.label,
                ..Chunk::default()
            };
            let whole = first.wire_bytes() + cell.value.len();
            if is_cut && self.pending_bytes + whole.min(self.target_bytes) > self.target_bytes {
                self.finish_message();
            }
            if column.is_none() || self.pending.is_empty() {
                first.row_key = row_key.clone();
            }
            if new_column {
                column = Some((cell.family, cell.qualifier));
            }
            self.push_value(first, cell.value, is_cut, next.is_none());
        }
    }

    /// Adds the chunks of one cell: one, or if the row is cut, pieces of at most a message each.
    fn push_value(&mut self, mut first: Chunk, mut value: Bytes, is_cut: bool, ends_row: bool) {
        // Values are at most 100 MiB, so their length fits.
        let whole = u32::try_from(value.len()).unwrap_or(u32::MAX);
        while is_cut && value.len() > self.target_bytes {
            first.value = value.split_to(self.target_bytes);
            first.value_size = whole;
            self.push_chunk(std::mem::take(&mut first));
            self.finish_message();
        }
        first.value = value;
        first.commit_row = ends_row;
        self.push_chunk(first);
    }

    fn push_chunk(&mut self, chunk: Chunk) {
        self.pending_bytes += chunk.wire_bytes();
        self.pending.push(chunk);
    }

    fn finish_message(&mut self) {
        self.pending_bytes = 0;
        if !self.pending.is_empty() {
            self.full.push(std::mem::take(&mut self.pending));
        }
    }

    /// The messages that are full, in order.
    pub fn take_full(&mut self) -> Vec<Vec<Chunk>> {
        std::mem::take(&mut self.full)
    }

    /// Whether a message is full.
    #[must_use]
    pub fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// The last message, or whatever is there when waiting for more would keep the client waiting. Take the
    /// full ones first.
    pub fn take_rest(&mut self) -> Option<Vec<Chunk>> {
        self.pending_bytes = 0;
        let rest = std::mem::take(&mut self.pending);
        (!rest.is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests;
