//! Open files, so that a read is one `pread`.
//!
//! Invariant: once a write or delete of a path has returned, no read finds the file that was there
//! before. A reader that opened it just before does not put it back (`epoch`).

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lru::LruCache;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, Result};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::disk_error;
use super::open::Disk;
use crate::error::permanent;

/// An open file and what was found of it when it was opened; objects never change in place.
#[derive(Debug)]
pub(super) struct CachedFile {
    pub(super) file: File,
    pub(super) size: u64,
    etag: String,
    modified: DateTime<Utc>,
}

impl CachedFile {
    pub(super) fn meta(&self, location: Path) -> ObjectMeta {
        ObjectMeta {
            location,
            last_modified: self.modified,
            size: self.size,
            e_tag: Some(self.etag.clone()),
            version: None,
        }
    }

    pub(super) fn read(&self, location: &Path, range: Range<u64>) -> Result<Bytes> {
        let len = usize::try_from(range.end - range.start).map_err(|e| permanent("local", e))?;
        // Filled as it is: clearing what the disk overwrites costs about as much as reading it.
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = range.start + bytes.len() as u64;
            match rustix::io::pread(&self.file, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(disk_error(location)(ErrorKind::UnexpectedEof.into())),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(disk_error(location)(error.into())),
            }
        }
        bytes.truncate(len);
        Ok(bytes.into())
    }
}

/// What tells one content of a path from another. Each write at a path gets a later modification time
/// than what it replaces (see `write`), so a path never shows the same one twice.
pub(super) fn etag(metadata: &Metadata) -> String {
    format!("{:x}-{:x}-{:x}", modified_nanos(metadata), metadata.ino(), metadata.size())
}

pub(super) fn modified_nanos(metadata: &Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

pub(super) fn modified(metadata: &Metadata) -> DateTime<Utc> {
    metadata.modified().map_or(DateTime::UNIX_EPOCH, DateTime::from)
}

#[derive(Debug)]
pub(super) struct FileCache {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    files: LruCache<Path, Arc<CachedFile>>,
    /// How often a path was forgotten.
    epoch: u64,
}

impl FileCache {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self { state: Mutex::new(State { files: LruCache::new(capacity), epoch: 0 }) }
    }

    pub(super) fn forget(&self, location: &Path) {
        let mut state = self.lock();
        state.epoch = state.epoch.wrapping_add(1);
        let closed = state.files.pop(location);
        drop(state);
        drop(closed);
    }

    /// Forgets all files below a directory.
    pub(super) fn forget_below(&self, dir: &Path) {
        let mut state = self.lock();
        state.epoch = state.epoch.wrapping_add(1);
        let below: Vec<Path> = state
            .files
            .iter()
            .map(|(path, _)| path)
            .filter(|path| path.prefix_matches(dir))
            .cloned()
            .collect();
        let closed: Vec<_> = below.iter().filter_map(|path| state.files.pop(path)).collect();
        drop(state);
        drop(closed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    /// The open file of an object.
    pub(super) fn file(&self, location: &Path) -> Result<Arc<CachedFile>> {
        let epoch = {
            let mut state = self.files.lock();
            if let Some(file) = state.files.get(location) {
                return Ok(file.clone());
            }
            state.epoch
        };
        let file = Arc::new(self.open_file(location)?);
        let mut state = self.files.lock();
        let closed =
            if state.epoch == epoch { state.files.push(location.clone(), file.clone()) } else { None };
        drop(state);
        drop(closed);
        Ok(file)
    }

    /// Opens an object anew.
    pub(super) fn open_file(&self, location: &Path) -> Result<CachedFile> {
        let not_found = |source: Box<dyn std::error::Error + Send + Sync>| Error::NotFound {
            path: location.to_string(),
            source,
        };
        let file = match File::open(self.path(location)?) {
            Ok(file) => file,
            // A part of the path is an object itself, so there is nothing below it.
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return Err(not_found(error.into()));
            }
            Err(error) => return Err(disk_error(location)(error)),
        };
        let metadata = file.metadata().map_err(disk_error(location))?;
        if !metadata.is_file() {
            return Err(not_found("not an object".into()));
        }
        Ok(CachedFile { file, size: metadata.len(), etag: etag(&metadata), modified: modified(&metadata) })
    }
}
