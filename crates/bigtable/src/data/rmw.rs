//! Changes of a row that read it first: CheckAndMutateRow and ReadModifyWriteRow.
//!
//! Invariant: from the read to the write nobody else changes the row. What was read may not be durable
//! yet; the change becomes durable after it, as the log is written in order.

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::Result;
use claviger_core::names::TableName;
use slatedb::WriteBatch;

use crate::Bigtable;
use crate::model::filter::Filter;
use crate::model::mutation::{check_row_key, encode_patch};
use crate::model::read_modify_write::{Rule, read_modify_write};
use crate::model::row::read_row;
use crate::model::{Cell, Families, Mutation};
use crate::tablet::{OpenTablet, Tablet};

/// A change that depends on what a row holds.
#[derive(Clone, Debug)]
pub struct CheckAndMutate {
    /// The families that the condition was made for.
    pub families: Arc<Families>,
    /// The row.
    pub key: Bytes,
    /// The condition: whether it lets any cell of the row through. None: whether the row has a cell.
    pub predicate: Option<Arc<Filter>>,
    /// What to do when it does.
    pub when_true: Vec<Mutation>,
    /// What to do when it does not.
    pub when_false: Vec<Mutation>,
}

/// New cells made from a row's newest ones.
#[derive(Clone, Debug)]
pub struct ReadModifyWrite {
    /// The families that the rules were read by.
    pub families: Arc<Families>,
    /// The row.
    pub key: Bytes,
    /// How.
    pub rules: Vec<Rule>,
}

impl Bigtable {
    /// Changes a row by what it holds. Returns whether the condition held. Durable when this returns.
    ///
    /// # Errors
    /// As [`Bigtable::mutate_row`].
    pub async fn check_and_mutate(&self, table: &TableName, change: &CheckAndMutate) -> Result<bool> {
        check_row_key(&change.key)?;
        let tablet = self.tablet(table)?;
        let now = self.shared.clock.now();
        // Both are checked, whichever is chosen: a wrong request is wrong every time.
        let patch = |mutations: &[Mutation]| match mutations {
            [] => Ok(None),
            some => encode_patch(some, now).map(Some),
        };
        let (when_true, when_false) = (patch(&change.when_true)?, patch(&change.when_false)?);
        if when_true.is_none() && when_false.is_none() {
            return Err(claviger_core::Error::invalid("No mutations provided"));
        }
        self.shared.check_room()?;
        let open = tablet.open().await?;
        let lock = tablet.own_row(&change.key).await;
        let cells = self.latest(&open, &change.key, &change.families).await?;
        let matched = match &change.predicate {
            Some(predicate) => predicate.matches(&change.key, &cells)?,
            None => !cells.is_empty(),
        };
        let Some(patch) = (if matched { when_true } else { when_false }) else {
            return Ok(matched);
        };
        let written = put(&open, &change.key, patch).await?;
        drop(lock);
        written.durable().await.map_err(|e| open.explain(e))?;
        Ok(matched)
    }

    /// Applies rules to a row. Returns the new cells. Durable when this returns.
    ///
    /// # Errors
    /// As [`Bigtable::mutate_row`]; `FailedPrecondition` for an increment of what is no number.
    pub async fn read_modify_write(&self, table: &TableName, change: &ReadModifyWrite) -> Result<Vec<Cell>> {
        check_row_key(&change.key)?;
        let tablet: Arc<Tablet> = self.tablet(table)?;
        self.shared.check_room()?;
        let open = tablet.open().await?;
        let families = &change.families;
        let lock = tablet.own_row(&change.key).await;
        let row = self.latest(&open, &change.key, families).await?;
        let modified = read_modify_write(&change.rules, &row, families, self.shared.clock.now())?;
        let written = put(&open, &change.key, modified.patch).await?;
        drop(lock);
        written.durable().await.map_err(|e| open.explain(e))?;
        Ok(modified.cells)
    }

    /// A row with all writes, durable or not.
    async fn latest(&self, open: &OpenTablet, key: &[u8], families: &Families) -> Result<Vec<Cell>> {
        match open.engine.get_latest(key).await.map_err(|e| open.explain(e))? {
            Some(stored) => read_row(&stored, families, self.shared.clock.now()),
            None => Ok(Vec::new()),
        }
    }
}

async fn put<'o>(
    open: &'o OpenTablet,
    key: &Bytes,
    patch: Bytes,
) -> Result<claviger_sealed::engine::Committed<'o>> {
    let mut batch = WriteBatch::new();
    batch.merge(key, patch);
    open.engine.write(batch).await.map_err(|e| open.explain(e))
}
