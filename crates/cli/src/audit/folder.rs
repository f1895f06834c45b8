//! A copy of the audit log in a folder, in the layout of C2SP tlog-tiles.
//!
//! Invariant: a file is there whole or not at all.

use std::io::{self, ErrorKind as IoKind};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_audit::tlog::Source;
use claviger_core::Error;

use crate::failure::Failure;

/// A folder with a copy.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder at a path, which need not be there yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Whether a file is there.
    pub(super) fn has(&self, path: &str) -> bool {
        self.0.join(path).is_file()
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn put(&self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        let file = self.0.join(path);
        let temporary = file.with_added_extension("new");
        let parent = file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&temporary, bytes))
            .and_then(|()| std::fs::rename(&temporary, &file))
            .map_err(|error| failed("write", &file, &error))
    }

    /// Removes a file, if it is there, and the folder of it when that is empty then.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn remove(&self, path: &str) -> Result<(), Failure> {
        let file = self.0.join(path);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != IoKind::NotFound => return Err(failed("remove", &file, &error)),
            _ => {}
        }
        // That others are left in it is no fault.
        let _ = file.parent().map(std::fs::remove_dir);
        Ok(())
    }
}

#[async_trait]
impl Source for Folder {
    async fn get(&self, path: &str) -> claviger_core::Result<Option<Bytes>> {
        let file = self.0.join(path);
        match std::fs::read(&file) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if matches!(error.kind(), IoKind::NotFound | IoKind::NotADirectory) => Ok(None),
            Err(error) => {
                Err(Error::internal(format!("cannot read {}: {error}", file.display())).because(error))
            }
        }
    }
}

fn failed(what: &str, file: &Path, error: &io::Error) -> Failure {
    Failure::local(format!("cannot {what} {}: {error}", file.display()))
}
