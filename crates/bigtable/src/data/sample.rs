//! SampleRowKeys: keys that cut a table into parts of about the same size.
//!
//! Invariant: the keys are sorted, and the last sample is the end of the table with its size. They come
//! from what the engine knows of its files; no row is read.

use bytes::Bytes;
use claviger_core::Result;
use claviger_core::names::TableName;

use crate::Bigtable;

/// A key, and the bytes of the rows before it, roughly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowKeySample {
    /// The key; empty for the end of the table.
    pub key: Bytes,
    /// Bytes from the start of the table.
    pub offset_bytes: u64,
}

impl Bigtable {
    /// Samples the keys of a table.
    ///
    /// # Errors
    /// `NotFound` for the table, `FailedPrecondition` when its key is not usable.
    pub async fn sample_row_keys(&self, table: &TableName) -> Result<Vec<RowKeySample>> {
        let open = self.tablet(table)?.open().await?;
        let mut files: Vec<_> = open.engine.files();
        files.sort();
        let mut offset_bytes = 0;
        let mut samples: Vec<RowKeySample> = Vec::new();
        for (first_key, bytes) in files {
            if !first_key.is_empty()
                && offset_bytes > 0
                && samples.last().is_none_or(|last| last.key < first_key)
            {
                samples.push(RowKeySample { key: first_key, offset_bytes });
            }
            offset_bytes += bytes;
        }
        samples.push(RowKeySample { key: Bytes::new(), offset_bytes });
        Ok(samples)
    }
}
