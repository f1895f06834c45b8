//! Directories: created durably, and kept open because each write ends with an fsync of one.
//!
//! Invariant: a directory that this gives out is itself durable, with all above it.

use std::fs::{DirBuilder, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

#[derive(Debug)]
pub(super) struct Dirs {
    root: PathBuf,
    root_handle: Arc<File>,
    open: Mutex<LruCache<PathBuf, Arc<File>>>,
}

impl Dirs {
    pub(super) fn new(root: PathBuf, capacity: NonZeroUsize) -> io::Result<Self> {
        let root_handle = Arc::new(File::open(&root)?);
        Ok(Self { root, root_handle, open: Mutex::new(LruCache::new(capacity)) })
    }

    /// The directory at `path`, which is at or below the root; created when it is not there.
    pub(super) fn handle(&self, path: &Path) -> io::Result<Arc<File>> {
        if path == self.root {
            return Ok(self.root_handle.clone());
        }
        if let Some(dir) = self.lock().get(path) {
            return Ok(dir.clone());
        }
        let parent = path.parent().ok_or(io::ErrorKind::NotFound)?;
        let parent = self.handle(parent)?;
        create(path)?;
        // Also when it was there: an earlier process may have died between its creation and this.
        parent.sync_all()?;
        let dir = Arc::new(File::open(path)?);
        self.lock().put(path.to_owned(), dir.clone());
        Ok(dir)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<PathBuf, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a directory that only its owner can enter, if it is not there.
pub(super) fn create(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if path.is_dir() {
                Ok(())
            } else {
                Err(io::ErrorKind::NotADirectory.into())
            }
        }
        made => made,
    }
}
