//! A place in the blocks of one run.
//!
//! Invariant: a cursor is on a record, or it has to step. Stepping never waits: it says when blocks have
//! to be read first.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use claviger_core::Result;

use super::run::Run;
use crate::block::{Records, hash, same};
use crate::space::Space;

pub(super) struct Cursor {
    run: Arc<Run>,
    /// Blocks that were not read yet.
    blocks: Range<usize>,
    pub(super) records: Records,
    pub(super) hash: u64,
    pub(super) key: Bytes,
    has_key: bool,
    /// Whether the record was given out, so that a step comes next.
    pub(super) is_used: bool,
}

/// Where a step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// A record of the same key.
    Same,
    /// A record of another key.
    NewKey,
    /// Nowhere yet: blocks have to be read.
    Wait,
    /// Past the last record.
    End,
}

impl Cursor {
    pub(super) fn new(run: Arc<Run>, blocks: Range<usize>) -> Self {
        Self {
            run,
            blocks,
            records: Records::default(),
            hash: 0,
            key: Bytes::new(),
            has_key: false,
            is_used: false,
        }
    }

    #[inline]
    pub(super) fn step(&mut self) -> Result<Moved> {
        match self.records.advance() {
            Ok(Some(false)) => Ok(Moved::Same),
            Ok(Some(true)) => {
                let hash = hash(self.records.key());
                // The first record of a block has its key also when the one before had the same.
                if hash == self.hash && self.has_key && same(self.records.key(), &self.key) {
                    return Ok(Moved::Same);
                }
                self.hash = hash;
                self.key = self.records.key_bytes();
                self.has_key = true;
                Ok(Moved::NewKey)
            }
            Ok(None) if self.blocks.is_empty() => {
                self.records = Records::default();
                Ok(Moved::End)
            }
            Ok(None) => Ok(Moved::Wait),
            Err(_) => Err(self.run.extent.malformed()),
        }
    }

    /// Reads the next blocks.
    pub(super) async fn fill(&mut self, space: &Arc<Space>, limit: usize) -> Result<()> {
        self.records = Records::default();
        let (bytes, next) = self.run.extent.read(space, self.blocks.clone(), limit).await?;
        self.records = Records::new(bytes);
        self.blocks.start = next;
        Ok(())
    }
}
