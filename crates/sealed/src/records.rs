//! Small JSON records in a sealed database: what catalogs, key metadata and the audit log are kept in.
//!
//! Invariant: a change is durable when its call returns, and a batch is there whole or not at all.
//! Writes at the same time share one flush.

use std::sync::Arc;

use claviger_core::{Error, ErrorKind, Result};
use object_store::ObjectStore;
use serde::Serialize;
use serde::de::DeserializeOwned;
use slatedb::WriteBatch;
use tokio::runtime::Handle;

use crate::engine::{Engine, EngineOptions, from_slatedb};

/// Bytes of records held in memory before they become a sorted file.
const MEMTABLE_BYTES: usize = 4 * 1024 * 1024;

/// An open database of records; see the module's text.
#[derive(Debug)]
pub struct Records {
    engine: Engine,
}

/// Changes that are applied together.
#[derive(Default)]
pub struct RecordBatch(WriteBatch);

impl std::fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordBatch").finish_non_exhaustive()
    }
}

impl RecordBatch {
    /// No changes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a record.
    ///
    /// # Errors
    /// `Internal` when the value has no JSON form.
    pub fn put<T: Serialize + ?Sized>(mut self, key: &str, value: &T) -> Result<Self> {
        let json = serde_json::to_vec(value)
            .map_err(|e| Error::internal("a record could not be encoded").because(e))?;
        self.0.put(key.as_bytes(), json);
        Ok(self)
    }

    /// Removes a record, if it is there.
    #[must_use]
    pub fn delete(mut self, key: &str) -> Self {
        self.0.delete(key.as_bytes());
        self
    }
}

impl Records {
    /// Opens or creates the database at `path` of `store`.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open(store: Arc<dyn ObjectStore>, path: &str) -> Result<Self> {
        let options = EngineOptions { memtable_bytes: MEMTABLE_BYTES, ..EngineOptions::default() };
        Ok(Self { engine: Engine::open(store, path, options).await? })
    }

    /// The record of a key.
    ///
    /// # Errors
    /// `DataLoss` when it is not what was written.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.engine.get(key.as_bytes()).await?;
        value.map(|json| decode(key, &json)).transpose()
    }

    /// Writes one record.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub async fn put<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<()> {
        self.write(RecordBatch::new().put(key, value)?).await
    }

    /// Removes one record, if it is there.
    ///
    /// # Errors
    /// When that could not be made durable.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.write(RecordBatch::new().delete(key)).await
    }

    /// Applies changes together.
    ///
    /// # Errors
    /// When they could not be made durable.
    pub async fn write(&self, changes: RecordBatch) -> Result<()> {
        self.engine.commit(changes.0).await
    }

    /// All records whose keys begin with `prefix`, in order.
    ///
    /// # Errors
    /// `DataLoss` when one is not what was written.
    pub async fn scan<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, T)>> {
        self.scan_after(prefix, None, usize::MAX).await
    }

    /// At most `limit` records whose keys begin with `prefix` and come after `after`, in order.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub async fn scan_after<T: DeserializeOwned>(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, T)>> {
        let mut start = after.unwrap_or(prefix).as_bytes().to_vec();
        if after.is_some() {
            start.push(0);
        }
        let mut rows = self.engine.scan_range(start.as_slice().max(prefix.as_bytes()), None, false).await?;
        let mut found = Vec::new();
        while found.len() < limit {
            let Some(row) = rows.next().await.map_err(from_slatedb)? else { break };
            let key =
                std::str::from_utf8(&row.key).map_err(|e| lost("a record's key is not text").because(e))?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push((key.to_owned(), decode(key, &row.value)?));
        }
        Ok(found)
    }

    /// Where the records are written; see [`Engine::writers`].
    #[must_use]
    pub fn writers(&self) -> &Handle {
        self.engine.writers()
    }

    /// Makes all durable and closes.
    ///
    /// # Errors
    /// When the last changes could not be made durable.
    pub async fn close(&self) -> Result<()> {
        self.engine.close().await
    }
}

fn decode<T: DeserializeOwned>(key: &str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|e| lost(&format!("the record {key} cannot be read")).because(e))
}

fn lost(message: &str) -> Error {
    Error::new(ErrorKind::DataLoss, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn records_survive_a_reopen_and_pages_follow_each_other() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let records = Records::open(store.clone(), "r").await.unwrap();
        let batch =
            RecordBatch::new().put("a/1", &1).unwrap().put("a/2", &2).unwrap().put("b/1", &9).unwrap();
        records.write(batch).await.unwrap();
        records.put("a/3", &3).await.unwrap();
        records.delete("a/2").await.unwrap();
        records.close().await.unwrap();

        let records = Records::open(store, "r").await.unwrap();
        assert_eq!(records.get::<i32>("a/2").await.unwrap(), None);
        assert_eq!(records.scan::<i32>("a/").await.unwrap(), [("a/1".into(), 1), ("a/3".into(), 3)]);
        assert_eq!(records.scan_after::<i32>("a/", Some("a/1"), 9).await.unwrap(), [("a/3".into(), 3)]);
        assert_eq!(records.scan_after::<i32>("a/", None, 1).await.unwrap(), [("a/1".into(), 1)]);
        let wrong = records.get::<String>("a/1").await.unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::DataLoss);
    }

    #[tokio::test]
    async fn an_abandoned_database_keeps_what_was_committed() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let records = Records::open(store.clone(), "r").await.unwrap();
        records.put("k", "v").await.unwrap();
        records.engine.abandon().await;
        assert!(records.put("k2", "v").await.is_err());
        let records = Records::open(store, "r").await.unwrap();
        assert_eq!(records.get::<String>("k").await.unwrap().as_deref(), Some("v"));
    }
}
