//! Files of a space: written in pieces, read in ranges, removed when nobody can read them.
//!
//! Invariant: a file is there once its upload finished and not before. One that was given up leaves nothing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use claviger_core::{Error, Result};
use claviger_sealed::{Uncached, from_store};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::task::JoinHandle;

use super::{Space, malformed};
use crate::budget::{Grant, stopped};

/// Files up to this length are put whole, which costs the store less than a file in parts.
const PUT_WHOLE: usize = 8 * 1024 * 1024;
/// The most that is given to the store at once.
const PART: usize = 8 * 1024 * 1024;
/// What a file in parts takes meanwhile: a part that fills up, one that is written, one that waits.
pub(crate) const IN_PARTS: usize = 3 * PART;

/// A stored file.
pub(crate) struct File {
    space: Arc<Space>,
    path: Path,
    gone: AtomicBool,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({})", self.path)
    }
}

impl File {
    pub(crate) async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.space.read(&self.path, range).await
    }

    pub(crate) fn malformed(&self) -> Error {
        malformed(&self.path)
    }

    /// Takes the file's removal over from its drop.
    pub(crate) fn condemn(&self) -> Option<Path> {
        (!self.gone.swap(true, Ordering::Relaxed)).then(|| self.path.clone())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Some(path) = self.condemn() {
            self.space.doom(path);
        }
    }
}

/// A file that is being written.
pub(crate) struct Upload {
    space: Arc<Space>,
    path: Path,
    /// What was written while it may still be put whole.
    pieces: Vec<Bytes>,
    len: usize,
    parts: Option<Box<dyn MultipartUpload>>,
    /// The part that is on its way to the store.
    under_way: Option<JoinHandle<object_store::Result<()>>>,
    grant: Grant,
}

impl Upload {
    pub(super) fn new(space: Arc<Space>, path: Path) -> Self {
        let grant = Grant::new(space.budget.clone(), 0);
        Self { space, path, pieces: Vec::new(), len: 0, parts: None, under_way: None, grant }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.space.guard()?;
        self.len += piece.len();
        if self.parts.is_none() {
            self.pieces.push(piece);
            if self.len <= PUT_WHOLE {
                self.grant.set(self.len);
                return Ok(());
            }
            self.grant.set(IN_PARTS);
            // It was written because memory is short.
            let options = Uncached::options();
            let started = self.space.store.put_multipart_opts(&self.path, options).await;
            self.parts = Some(started.map_err(from_store)?);
            for piece in std::mem::take(&mut self.pieces) {
                self.send(piece).await?;
            }
            return Ok(());
        }
        self.send(piece).await
    }

    async fn send(&mut self, mut piece: Bytes) -> Result<()> {
        while !piece.is_empty() {
            let part = piece.split_to(piece.len().min(PART));
            let parts = self.parts.as_mut().ok_or_else(|| Error::internal("the upload did not begin"))?;
            // Sealed here, while the one before is written.
            let sending = parts.put_part(PutPayload::from(part));
            self.arrive().await?;
            self.under_way = Some(tokio::spawn(sending));
        }
        Ok(())
    }

    async fn arrive(&mut self) -> Result<()> {
        let Some(under_way) = self.under_way.take() else { return Ok(()) };
        match under_way.await {
            Ok(written) => written.map_err(from_store),
            Err(error) => stopped(error),
        }
    }

    /// Makes the file visible. When the caller goes away meanwhile, the file goes too.
    pub(crate) async fn finish(mut self) -> Result<File> {
        let finishing = tokio::spawn(async move {
            self.complete().await?;
            let counters = &self.space.counters;
            counters.bytes_written.fetch_add(self.len as u64, Ordering::Relaxed);
            counters.files_written.fetch_add(1, Ordering::Relaxed);
            Ok(File { space: self.space.clone(), path: self.path.clone(), gone: AtomicBool::new(false) })
        });
        finishing.await.unwrap_or_else(stopped)
    }

    async fn complete(&mut self) -> Result<()> {
        self.arrive().await?;
        let space = self.space.clone();
        let _turn = space.closed.read().await;
        space.guard()?;
        match self.parts.take() {
            Some(mut parts) => {
                if let Err(error) = parts.complete().await {
                    let _ = parts.abort().await;
                    return Err(from_store(error));
                }
            }
            None => {
                let payload: PutPayload = std::mem::take(&mut self.pieces).into_iter().collect();
                space.store.put(&self.path, payload).await.map_err(from_store)?;
            }
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        let under_way = self.under_way.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Some(under_way) = under_way {
                    let _ = under_way.await;
                }
                let _ = parts.abort().await;
            });
        }
    }
}
