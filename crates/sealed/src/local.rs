//! An object store on a directory of the local disk.
//!
//! ```text
//! DIR/claviger.lock   held by the one process that uses the directory
//! DIR/format          the layout's version, in text
//! DIR/.tmp/           writes under way; emptied at open
//! DIR/...             objects, at their paths
//! ```
//!
//! Invariant: an object appears whole and durable or not at all: it is written aside, made durable,
//! moved to its name, and the directory is made durable, before a write returns. One process at a time
//! uses a directory, so what this one remembers of a file stays true. Files of logs grow in place, see
//! `append`; who reads one does so when nobody appends to it.

mod append;
mod dirs;
mod files;
mod list;
mod open;
mod room;
mod upload;
mod write;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, RenameTargetMode, Result,
};

use crate::append::{AppendQuestion, AppendStore};
use crate::error::{from_io, permanent};
use files::CachedFile;
use open::Disk;
use upload::Upload;

pub use upload::Uncached;

/// Bytes that are read on the caller's thread: a read of what the machine has in memory costs less
/// than a hop to another thread. Longer ones are read in pieces of this size on other threads.
const INLINE_READ: u64 = 2 * 1024 * 1024;
/// Deletes that share their directories' fsync.
const DELETE_BATCH: usize = 128;

/// An object store on a directory; see the module's text.
#[derive(Clone)]
pub struct LocalStore {
    disk: Arc<Disk>,
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalStore")
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalStore")
    }
}

impl LocalStore {
    /// Opens a directory, or creates it.
    ///
    /// # Errors
    /// `FailedPrecondition` when another process uses the directory, when it holds something else or
    /// was written by a newer version; `Internal` when the disk refuses.
    pub async fn open(dir: impl AsRef<std::path::Path>) -> claviger_core::Result<Self> {
        let dir = dir.as_ref().to_owned();
        let opened = tokio::task::spawn_blocking(move || Disk::open(dir)).await;
        let disk = opened
            .map_err(|e| claviger_core::Error::internal("opening the data directory stopped").because(e))?;
        Ok(Self { disk: Arc::new(disk?) })
    }

    /// Says whether the disk has room for more than what must always be possible: to compact, to
    /// delete, to write down what is live. Cheap enough to ask before each write.
    ///
    /// # Errors
    /// `ResourceExhausted` when it has not.
    pub fn check_room(&self) -> claviger_core::Result<()> {
        self.disk.room.check()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Disk>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let disk = self.disk.clone();
        blocking(move || work(&disk)).await
    }
}

/// Runs `work` on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => Err(permanent("local", stopped)),
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "LocalStore".to_owned() }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let PutOptions { mode, tags, attributes, extensions: _ } = opts;
        if !attributes.is_empty() || !tags.encoded().is_empty() {
            return Err(unsupported("put_opts with attributes or tags"));
        }
        let location = location.clone();
        self.blocking(move |disk| disk.put(&location, &payload, &mode)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let uncached = Uncached::marks(&opts);
        let PutMultipartOptions { tags, attributes, extensions: _ } = opts;
        if !attributes.is_empty() || !tags.encoded().is_empty() {
            return Err(unsupported("put_multipart_opts with attributes or tags"));
        }
        let location = location.clone();
        let upload = self.blocking(move |disk| Upload::start(disk.clone(), location, uncached)).await?;
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(question) = AppendQuestion::of(&options) {
            question.answer(Arc::new(self.clone()) as Arc<dyn AppendStore>);
            return Err(Error::NotFound { path: location.to_string(), source: "it was a question".into() });
        }
        let file = self.disk.file(location)?;
        let meta = file.meta(location.clone());
        options.check_preconditions(&meta)?;
        let range = wanted(options.range.as_ref(), meta.size)?;
        let payload = if options.head {
            stream::empty().boxed()
        } else if range.end - range.start <= INLINE_READ {
            let bytes = file.read(location, range.clone())?;
            stream::once(async move { Ok(bytes) }).boxed()
        } else {
            read_in_pieces(location.clone(), file, range.clone())
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let file = self.disk.file(location)?;
        let mut found = Vec::with_capacity(ranges.len());
        for range in ranges {
            let range = wanted(Some(&GetRange::Bounded(range.clone())), file.size)?;
            let (location, file) = (location.clone(), file.clone());
            found.push(if range.end - range.start <= INLINE_READ {
                file.read(&location, range)?
            } else {
                blocking(move || file.read(&location, range)).await?
            });
        }
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .ready_chunks(DELETE_BATCH)
            .then(move |batch| {
                let store = store.clone();
                async move { store.blocking(move |disk| Ok(disk.delete(batch))).await }
            })
            .map(|batch| match batch {
                Ok(results) => stream::iter(results),
                Err(error) => stream::iter(vec![Err(error)]),
            })
            .flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_after(prefix.cloned(), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_after(prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        self.blocking(move |disk| disk.list_level(&prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |disk| disk.copy(&from, &to, &mode)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let replace = options.target_mode == RenameTargetMode::Overwrite;
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |disk| disk.rename(&from, &to, replace)).await
    }
}

impl LocalStore {
    fn list_after(
        &self,
        prefix: Option<Path>,
        offset: Option<Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        stream::once(async move {
            let prefix = prefix.unwrap_or_default();
            store.blocking(move |disk| disk.list(&prefix, offset.as_ref())).await
        })
        .map(|listed| match listed {
            Ok(objects) => stream::iter(objects.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        })
        .flatten()
        .boxed()
    }
}

fn wanted(range: Option<&GetRange>, size: u64) -> Result<Range<u64>> {
    match range {
        Some(range) => range.as_range(size).map_err(|e| permanent("local", e)),
        None => Ok(0..size),
    }
}

fn read_in_pieces(
    location: Path,
    file: Arc<CachedFile>,
    range: Range<u64>,
) -> BoxStream<'static, Result<Bytes>> {
    stream::try_unfold((location, file, range), |(location, file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let end = range.end.min(range.start + INLINE_READ);
        let piece = range.start..end;
        let (name, source) = (location.clone(), file.clone());
        let bytes = blocking(move || source.read(&name, piece)).await?;
        Ok(Some((bytes, (location, file, end..range.end))))
    })
    .boxed()
}

/// An error of the disk about an object.
fn disk_error(location: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| from_io(location.as_ref(), error)
}
