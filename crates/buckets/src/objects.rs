//! Objects: write, read, list, copy, compose, change, remove.
//!
//! Invariant: a condition and the change that depends on it are one step for everyone else: both happen in
//! the turn of the object's name.

pub(crate) mod compose;
pub(crate) mod copy;
pub(crate) mod list;
pub(crate) mod read;
pub(crate) mod write;

use claviger_core::Result;
use slatedb::WriteBatch;

use crate::index::{self, Loose};
use crate::model::{Conditions, Object, ObjectMetadata};
use crate::vault::OpenVault;
use crate::{Buckets, Entered, errors};

impl Buckets {
    /// An object's record: the live version, or the one of a generation.
    ///
    /// # Errors
    /// `NotFound`, a condition that does not hold, the lock of the default key.
    pub async fn object(
        &self,
        bucket: &str,
        name: &str,
        generation: Option<i64>,
        conditions: &Conditions,
    ) -> Result<Object> {
        let entered = self.enter(bucket).await?;
        let found = index::version(&entered.home, name, generation).await?;
        let found = found.ok_or_else(|| errors::no_object(bucket, name))?;
        conditions.check_read(Some((found.generation, found.metageneration)))?;
        Ok(found)
    }

    /// Changes what users set on an object.
    ///
    /// # Errors
    /// As for [`Self::object`]; what `change` answers; `InvalidArgument` for what it made.
    pub async fn update_object(
        &self,
        bucket: &str,
        name: &str,
        generation: Option<i64>,
        conditions: &Conditions,
        change: impl FnOnce(&mut ObjectMetadata) -> Result<()> + Send,
    ) -> Result<Object> {
        let entered = self.enter(bucket).await?;
        let _turn = self.own_name(bucket, name).await?;
        let home = &entered.home;
        let found = index::version(home, name, generation).await?;
        let mut object = found.ok_or_else(|| errors::no_object(bucket, name))?;
        conditions.check(Some((object.generation, object.metageneration)))?;
        change(&mut object.metadata)?;
        object.metadata.check()?;
        object.metageneration += 1;
        object.updated = self.shared.clock.now();
        let key = match object.deleted {
            None => index::live_key(name),
            Some(_) => index::archived_key(name, object.generation),
        };
        let mut batch = WriteBatch::new();
        batch.put(key, index::encode(&object)?);
        home.engine.commit(batch).await.map_err(|e| home.explain(e))?;
        Ok(object)
    }

    /// Removes an object. With versioning the live version becomes noncurrent, unless its generation is
    /// named: then it goes for good.
    ///
    /// # Errors
    /// `NotFound`, a condition that does not hold, `PermissionDenied` for what must be kept, the lock of
    /// the default key.
    pub async fn delete_object(
        &self,
        bucket: &str,
        name: &str,
        generation: Option<i64>,
        conditions: &Conditions,
    ) -> Result<()> {
        let entered = self.enter(bucket).await?;
        let _turn = self.own_name(bucket, name).await?;
        let found = index::version(&entered.home, name, generation).await?;
        let object = found.ok_or_else(|| errors::no_object(bucket, name))?;
        conditions.check(Some((object.generation, object.metageneration)))?;
        self.remove(&entered, object, generation.is_none()).await
    }

    /// Removes a version that was just read, in the turn of its name.
    pub(crate) async fn remove(&self, entered: &Entered, object: Object, keep_versions: bool) -> Result<()> {
        let (home, now) = (&entered.home, self.shared.clock.now());
        let mut batch = WriteBatch::new();
        let mut loose = false;
        if keep_versions && object.deleted.is_none() && entered.bucket.config.versioning {
            batch.delete(index::live_key(&object.name));
            archive(&mut batch, object, now)?;
        } else {
            object.check_removable(&entered.bucket, now)?;
            batch.delete(match object.deleted {
                None => index::live_key(&object.name),
                Some(_) => index::archived_key(&object.name, object.generation),
            });
            loose = release(&mut batch, home, &object)?;
        }
        home.engine.commit(batch).await.map_err(|e| home.explain(e))?;
        if loose {
            self.mark_dirty(&entered.bucket.name);
        }
        Ok(())
    }
}

/// Keeps a live version as a noncurrent one.
pub(crate) fn archive(
    batch: &mut WriteBatch,
    mut object: Object,
    now: claviger_core::Timestamp,
) -> Result<()> {
    object.deleted = Some(now);
    batch.put(index::archived_key(&object.name, object.generation), index::encode(&object)?);
    Ok(())
}

/// Gives up the bytes of an object. Whether the sweep has to remove them.
pub(crate) fn release(batch: &mut WriteBatch, home: &OpenVault, object: &Object) -> Result<bool> {
    let content = &object.content;
    if content.files.is_empty() && (object.size == 0 || content.vault == home.id()) {
        batch.delete(index::content_key(&content.id));
        return Ok(false);
    }
    let loose = Loose { vault: content.vault.clone(), upload: None };
    batch.put(index::loose_key(&content.id), index::encode(&loose)?);
    Ok(true)
}
