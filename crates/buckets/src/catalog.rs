//! Which buckets exist, kept as records and in memory.
//!
//! Invariant: memory holds what the records hold. A change is written first and seen after, and all
//! changes pass one after the other, so that checks and writes do not interleave.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use claviger_core::Result;
use claviger_sealed::Records;
use tokio::sync::{Mutex, MutexGuard};

use crate::errors::no_bucket;
use crate::model::Bucket;

const BUCKET: &str = "buckets/bucket/";

/// Every bucket of the server, by name.
#[derive(Debug)]
pub(crate) struct Catalog {
    records: Arc<Records>,
    seen: RwLock<BTreeMap<String, Arc<Bucket>>>,
    changing: Mutex<()>,
}

/// The right to change the catalog.
pub(crate) type Right<'a> = MutexGuard<'a, ()>;

impl Catalog {
    pub(crate) async fn open(records: Arc<Records>) -> Result<Self> {
        let found = records.scan::<Bucket>(BUCKET).await?;
        let seen = found.into_iter().map(|(_, bucket)| (bucket.name.clone(), Arc::new(bucket))).collect();
        Ok(Self { records, seen: RwLock::new(seen), changing: Mutex::new(()) })
    }

    /// Waits for the right to change; hold it from the checks to the write.
    pub(crate) async fn change(&self) -> Right<'_> {
        self.changing.lock().await
    }

    pub(crate) async fn put(&self, _right: &Right<'_>, bucket: Bucket) -> Result<Arc<Bucket>> {
        self.records.put(&format!("{BUCKET}{}", bucket.name), &bucket).await?;
        let bucket = Arc::new(bucket);
        self.seen_mut().insert(bucket.name.clone(), bucket.clone());
        Ok(bucket)
    }

    pub(crate) async fn remove(&self, _right: &Right<'_>, name: &str) -> Result<()> {
        self.records.delete(&format!("{BUCKET}{name}")).await?;
        self.seen_mut().remove(name);
        Ok(())
    }

    /// Notes that a vault has files from now on. A bucket that is gone needs no note.
    pub(crate) async fn mark_opened(&self, name: &str, vault: &str) -> Result<()> {
        let right = self.change().await;
        let Ok(found) = self.bucket(name) else { return Ok(()) };
        let mut bucket = Bucket::clone(&found);
        match bucket.vaults.get_mut(vault) {
            Some(record) => record.opened = true,
            None => return Ok(()),
        }
        self.put(&right, bucket).await.map(drop)
    }

    pub(crate) fn bucket(&self, name: &str) -> Result<Arc<Bucket>> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.get(name).cloned().ok_or_else(no_bucket)
    }

    pub(crate) fn buckets(&self) -> Vec<Arc<Bucket>> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn seen_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Arc<Bucket>>> {
        self.seen.write().unwrap_or_else(PoisonError::into_inner)
    }
}
