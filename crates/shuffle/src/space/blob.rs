//! Blobs: what a job keeps beside its elements, such as its graph and its staged files.
//!
//! Names show in the store, so they are the server's own: numbers and fixed words, never a user's.
//!
//! Invariant: a blob appears whole or not at all.

use bytes::Bytes;
use claviger_core::{Error, Result};
use claviger_sealed::from_store;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{BLOBS, Space, Upload};
use std::sync::Arc;

/// The longest name of a blob.
const NAME_BYTES: usize = 200;

/// A blob, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// A blob that is being written. Dropped without a commit it leaves nothing.
pub struct BlobWriter {
    upload: Upload,
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobWriter")
    }
}

impl BlobWriter {
    /// Adds a piece.
    ///
    /// # Errors
    /// What the guard and the store answer.
    pub async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.upload.write(piece).await
    }

    /// Makes the blob visible, over the one of that name. Gives its length.
    ///
    /// # Errors
    /// What the guard and the store answer.
    pub async fn commit(self) -> Result<u64> {
        let len = self.upload.len() as u64;
        // It stays until it is deleted by name.
        self.upload.finish().await?.condemn();
        Ok(len)
    }
}

impl Space {
    /// Writes a blob in pieces.
    ///
    /// # Errors
    /// `Internal` for a name that is not of lower-case letters, digits, `-`, `_`, `.` and `/`.
    pub fn blob_writer(self: &Arc<Self>, name: &str) -> Result<BlobWriter> {
        Ok(BlobWriter { upload: Upload::new(self.clone(), self.blob_path(name)?) })
    }

    /// Writes a blob.
    ///
    /// # Errors
    /// As [`Self::blob_writer`], and what the guard and the store answer.
    pub async fn put_blob(self: &Arc<Self>, name: &str, content: Bytes) -> Result<()> {
        let mut writer = self.blob_writer(name)?;
        writer.write(content).await?;
        writer.commit().await.map(drop)
    }

    /// Reads a blob whole: for small ones.
    ///
    /// # Errors
    /// `NotFound`, and what the guard and the store answer.
    pub async fn blob(&self, name: &str) -> Result<Bytes> {
        self.guard()?;
        let found = self.store.get(&self.blob_path(name)?).await.map_err(from_store)?;
        found.bytes().await.map_err(from_store)
    }

    /// Reads a blob in pieces.
    ///
    /// # Errors
    /// As [`Self::blob`]; the stream ends with what the store answers on the way.
    pub async fn blob_stream(&self, name: &str) -> Result<(u64, BoxStream<'static, Result<Bytes>>)> {
        self.guard()?;
        let found = self.store.get(&self.blob_path(name)?).await.map_err(from_store)?;
        Ok((found.meta.size, found.into_stream().map_err(from_store).boxed()))
    }

    /// All blobs, in the order of their names.
    ///
    /// # Errors
    /// What the guard and the store answer.
    pub async fn blobs(&self) -> Result<Vec<BlobInfo>> {
        self.guard()?;
        let dir = self.dir.clone().join(BLOBS);
        let listed: Vec<_> = self.store.list(Some(&dir)).try_collect().await.map_err(from_store)?;
        let name = |path: &Path| {
            let parts = path.prefix_match(&dir)?;
            Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
        };
        let info =
            |meta: object_store::ObjectMeta| Some(BlobInfo { name: name(&meta.location)?, len: meta.size });
        let mut blobs: Vec<_> = listed.into_iter().filter_map(info).collect();
        blobs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(blobs)
    }

    /// Deletes a blob; one that is not there is deleted already.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn delete_blob(&self, name: &str) -> Result<()> {
        self.delete_all(vec![self.blob_path(name)?]).await
    }

    fn blob_path(&self, name: &str) -> Result<Path> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed);
        if name.len() > NAME_BYTES || !name.split('/').all(part) {
            return Err(Error::internal("a blob's name must be the server's own"));
        }
        Ok(name.split('/').fold(self.dir.clone().join(BLOBS), |path, part| path.join(part)))
    }
}
