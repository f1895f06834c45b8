//! An object written in parts.
//!
//! Invariant: parts lie in the order of the calls, whatever order they finish in; nothing shows at
//! the object's path until `complete`.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{MultipartUpload, PutMode, PutPayload, PutResult, Result, UploadPart};

use super::open::Disk;
use super::write::TempFile;
use super::{blocking, disk_error};
use crate::error::permanent;

#[derive(Debug)]
pub(super) struct Upload {
    disk: Arc<Disk>,
    location: Path,
    temp: Option<Arc<TempFile>>,
    /// Bytes of all parts so far, and of those that are written.
    end: u64,
    written: Arc<AtomicU64>,
}

impl Upload {
    pub(super) fn start(disk: Arc<Disk>, location: Path) -> Result<Self> {
        disk.path(&location)?;
        let temp = TempFile::create(&disk).map_err(disk_error(&location))?;
        Ok(Self { disk, location, temp: Some(Arc::new(temp)), end: 0, written: Arc::new(AtomicU64::new(0)) })
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
        self.end += data.content_length() as u64;
        Box::pin(blocking(move || {
            let mut position = start;
            for bytes in &data {
                temp.file.write_all_at(bytes, position).map_err(disk_error(&location))?;
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
