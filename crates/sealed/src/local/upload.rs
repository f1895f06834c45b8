//! An object written in parts.
//!
//! An object that its writer marked as [`Uncached`] goes to the disk without a copy in the system's cache, as far as
//! its parts begin and end where blocks do and the file system can do that. The cache costs such a writer a copy of
//! every byte, and others what it pushes out.
//!
//! Invariant: parts lie in the order of the calls, whatever order they finish in; nothing shows at
//! the object's path until `complete`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{
    MultipartUpload, PutMode, PutMultipartOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::open::Disk;
use super::write::TempFile;
use super::{blocking, disk_error};
use crate::error::permanent;
use crate::parts::BLOCK;

/// Shorter pieces are not worth a way of their own.
const DIRECT_FROM: usize = 1024 * 1024;

/// The mark of an upload that nobody reads at once, as one that was spilled because memory is short.
#[derive(Clone, Copy, Debug)]
pub struct Uncached;

impl Uncached {
    /// Options with the mark. Stores that do not know it do without.
    #[must_use]
    pub fn options() -> PutMultipartOptions {
        let mut options = PutMultipartOptions::default();
        options.extensions.insert(Self);
        options
    }

    pub(super) fn marks(options: &PutMultipartOptions) -> bool {
        options.extensions.get::<Self>().is_some()
    }
}

#[derive(Debug)]
pub(super) struct Upload {
    disk: Arc<Disk>,
    location: Path,
    temp: Option<Arc<TempFile>>,
    /// The same file, past the system's cache.
    direct: Option<Arc<File>>,
    /// Bytes of all parts so far, and of those that are written.
    end: u64,
    written: Arc<AtomicU64>,
}

impl Upload {
    pub(super) fn start(disk: Arc<Disk>, location: Path, uncached: bool) -> Result<Self> {
        disk.path(&location)?;
        let temp = TempFile::create(&disk).map_err(disk_error(&location))?;
        let direct = if uncached { temp.past_the_cache().ok().map(Arc::new) } else { None };
        let written = Arc::new(AtomicU64::new(0));
        Ok(Self { disk, location, temp: Some(Arc::new(temp)), direct, end: 0, written })
    }
}

/// Writes the whole blocks past the cache, if that is possible, and the rest as ever.
fn write(file: &File, direct: Option<&File>, bytes: &[u8], position: u64) -> io::Result<()> {
    let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % BLOCK);
    let aligned = position.is_multiple_of(BLOCK as u64) && blocks.as_ptr().addr().is_multiple_of(BLOCK);
    match direct {
        Some(direct) if aligned && blocks.len() >= DIRECT_FROM => {
            match direct.write_all_at(blocks, position) {
                // The file system takes the flag, and other blocks.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    file.write_all_at(bytes, position)
                }
                written => written.and_then(|()| file.write_all_at(rest, position + blocks.len() as u64)),
            }
        }
        _ => file.write_all_at(bytes, position),
    }
}

fn over() -> object_store::Error {
    permanent("local", "the upload was completed or aborted")
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let Some(temp) = self.temp.clone() else { return Box::pin(async { Err(over()) }) };
        let (location, written, start) = (self.location.clone(), self.written.clone(), self.end);
        let direct = self.direct.clone();
        self.end += data.content_length() as u64;
        Box::pin(blocking(move || {
            let mut position = start;
            for bytes in &data {
                write(&temp.file, direct.as_deref(), bytes, position).map_err(disk_error(&location))?;
                position += bytes.len() as u64;
            }
            written.fetch_add(position - start, Ordering::Relaxed);
            Ok(())
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let temp = self.temp.take().ok_or_else(over)?;
        let unfinished = || permanent("local", "a part of the upload was not written");
        if self.written.load(Ordering::Relaxed) != self.end {
            return Err(unfinished());
        }
        let temp = Arc::into_inner(temp).ok_or_else(unfinished)?;
        let (disk, location) = (self.disk.clone(), self.location.clone());
        blocking(move || {
            let target = disk.path(&location)?;
            temp.file.sync_data().map_err(disk_error(&location))?;
            disk.publish(temp, &location, &target, &PutMode::Overwrite)
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.temp.take().map(drop).ok_or_else(over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalStore;
    use crate::parts::Part;
    use bytes::Bytes;
    use object_store::{ObjectStore, ObjectStoreExt};

    #[tokio::test]
    async fn parts_that_go_past_the_cache_lie_where_the_others_do() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).await.unwrap();
        let path = Path::from("a");
        let mut upload = store.put_multipart_opts(&path, Uncached::options()).await.unwrap();
        let mut expected = Vec::new();
        // Whole blocks, blocks and a rest, and from then on nothing at a block's begin.
        for (number, len) in [2 << 20, (2 << 20) + 77, 2 << 20, 5].into_iter().enumerate() {
            let mut part = Part::new(len);
            for (at, byte) in part.next(len).iter_mut().enumerate() {
                *byte = u8::try_from((at / 13 + number) % 251).unwrap();
            }
            expected.extend_from_slice(part.as_ref());
            upload.put_part(Bytes::from(part).into()).await.unwrap();
        }
        upload.complete().await.unwrap();
        assert!(store.get(&path).await.unwrap().bytes().await.unwrap() == expected);
    }
}
