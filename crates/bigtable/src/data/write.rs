//! Blind writes: each row's changes become one merge operand, so that a write reads nothing.
//!
//! Invariant: the changes of one row in one request are applied together or not at all.

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::names::TableName;
use claviger_core::{Error, Result};
use slatedb::WriteBatch;

use super::group::Rows;
use crate::Bigtable;
use crate::model::mutation::{check_row_key, encode_patch};
use crate::model::{Families, Mutation};
use crate::tablet::Tablet;

/// Bytes of keys that one batch of removals aims at.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The changes of one row.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// The row.
    pub key: Bytes,
    /// What to do, in order.
    pub mutations: Vec<Mutation>,
}

impl RowChange {
    /// Checks the key and the changes, and packs them.
    fn encode(&self, store: &Bigtable) -> Result<(Bytes, Bytes)> {
        check_row_key(&self.key)?;
        Ok((self.key.clone(), encode_patch(&self.mutations, store.shared.clock.now())?))
    }
}

impl Bigtable {
    /// The families of a table as they are now, by which requests are read.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn families(&self, table: &TableName) -> Result<Arc<Families>> {
        Ok(self.tablet(table)?.schema())
    }

    /// Changes one row. Durable when this returns.
    ///
    /// # Errors
    /// `NotFound` for the table, `InvalidArgument` for the key or a mutation, `FailedPrecondition` when
    /// the table's key is not usable, `ResourceExhausted` when the disk is full.
    pub async fn mutate_row(&self, table: &TableName, change: &RowChange) -> Result<()> {
        let tablet = self.tablet(table)?;
        let row = change.encode(self)?;
        self.put_rows(&tablet, vec![row]).await
    }

    /// Changes many rows, each by itself; the results are in the order of the entries. An entry that
    /// could not be read from its request passes its error through.
    ///
    /// # Errors
    /// When none of them could be written: as for [`Self::mutate_row`].
    pub async fn mutate_rows(
        &self,
        table: &TableName,
        entries: Vec<Result<RowChange>>,
    ) -> Result<Vec<Result<()>>> {
        let tablet = self.tablet(table)?;
        let mut rows = Vec::with_capacity(entries.len());
        let mut results = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry.and_then(|change| change.encode(self)) {
                Ok(row) => {
                    rows.push(row);
                    results.push(Ok(()));
                }
                Err(error) => results.push(Err(error)),
            }
        }
        self.put_rows(&tablet, rows).await?;
        Ok(results)
    }

    /// Writes encoded changes and waits until they are durable.
    async fn put_rows(&self, tablet: &Arc<Tablet>, rows: Rows) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.shared.check_room()?;
        let open = tablet.open().await?;
        let locks = tablet.share_rows(rows.iter().map(|(key, _)| &**key)).await;
        open.committer.commit(rows, locks).await.map_err(|e| open.explain(e))
    }

    /// Removes all rows whose keys begin with `prefix`, in batches.
    pub(crate) async fn delete_prefix(&self, table: &TableName, prefix: &[u8]) -> Result<()> {
        let tablet = self.tablet(table)?;
        let open = tablet.open().await?;
        let explain = |e: Error| open.explain(e);
        let mut rows = open.engine.scan_range(prefix, None, false).await.map_err(explain)?;
        let mut batch = WriteBatch::new();
        let mut bytes = 0;
        loop {
            let row = rows.next().await.map_err(|e| explain(claviger_sealed::engine::from_slatedb(e)))?;
            let row = row.filter(|row| row.key.starts_with(prefix));
            let done = row.is_none();
            if let Some(row) = row {
                bytes += row.key.len();
                batch.delete(&row.key);
            }
            if !batch.is_empty() && (done || bytes >= BATCH_BYTES) {
                bytes = 0;
                open.guard()?;
                open.engine.commit(std::mem::take(&mut batch)).await.map_err(explain)?;
            }
            if done {
                return Ok(());
            }
        }
    }
}
