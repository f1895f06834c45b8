//! Garbage collection as the engine compacts: what the rules let go is not written again.
//!
//! Invariant: readers see the same before and after; they apply the same rules themselves
//! (`model::collect` says how). A value of the engine is a whole row; a merge operand may lie over older
//! ones, unless the compaction writes the oldest run and nobody reads an older state.

use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_core::{Clock, Timestamp};
use slatedb::{
    CompactionFilter, CompactionFilterDecision, CompactionFilterError, CompactionFilterSupplier,
    CompactionJobContext, RowEntry, ValueDeletable,
};

use crate::model::Families;
use crate::model::collect::{Collected, collect};

/// Makes a filter for each compaction of a tablet.
pub(crate) struct CollectGarbage {
    schema: Arc<RwLock<Arc<Families>>>,
    clock: Arc<dyn Clock>,
}

impl CollectGarbage {
    pub(crate) fn new(schema: Arc<RwLock<Arc<Families>>>, clock: Arc<dyn Clock>) -> Self {
        Self { schema, clock }
    }
}

#[async_trait]
impl CompactionFilterSupplier for CollectGarbage {
    async fn create_compaction_filter(
        &self,
        context: &CompactionJobContext,
    ) -> Result<Box<dyn CompactionFilter>, CompactionFilterError> {
        Ok(Box::new(Collect {
            families: self.schema.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone(),
            now: self.clock.now(),
            is_oldest: context.is_dest_last_run && context.retention_min_seq.is_none(),
        }))
    }
}

struct Collect {
    families: Arc<Families>,
    now: Timestamp,
    is_oldest: bool,
}

impl Collect {
    fn decide(&self, stored: &Bytes, is_value: bool) -> claviger_core::Result<CompactionFilterDecision> {
        let whole_row = is_value || self.is_oldest;
        let kind = if whole_row { ValueDeletable::Value } else { ValueDeletable::Merge };
        Ok(match collect(stored, &self.families, self.now, whole_row)? {
            // A merge operand that turned out to be the whole row is written as one, so that reads stop there.
            Collected::Unchanged if whole_row && !is_value => {
                CompactionFilterDecision::Modify(kind(stored.clone()))
            }
            Collected::Unchanged => CompactionFilterDecision::Keep,
            Collected::Changed(row) => CompactionFilterDecision::Modify(kind(row)),
            Collected::NoOp => CompactionFilterDecision::Drop,
            Collected::RowGone => CompactionFilterDecision::Modify(ValueDeletable::Tombstone),
        })
    }
}

#[async_trait]
impl CompactionFilter for Collect {
    async fn filter(&mut self, entry: &RowEntry) -> Result<CompactionFilterDecision, CompactionFilterError> {
        let decided = match &entry.value {
            ValueDeletable::Value(stored) => self.decide(stored, true),
            ValueDeletable::Merge(stored) => self.decide(stored, false),
            ValueDeletable::Tombstone => return Ok(CompactionFilterDecision::Keep),
        };
        decided.map_err(|error| CompactionFilterError::FilterError(Box::new(error)))
    }

    async fn on_compaction_end(&mut self) -> Result<(), CompactionFilterError> {
        Ok(())
    }
}
