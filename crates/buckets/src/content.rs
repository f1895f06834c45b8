//! The bytes of objects: files of a vault, written as they come, or entries of its database when short.
//!
//! Invariant: memory does not grow with an object's size. A file that was not finished is not there.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use claviger_core::{Error, ErrorKind, Result};
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use crate::index;
use crate::model::Content;
use crate::vault::OpenVault;

/// Contents up to this length lie in the database: one commit makes bytes and record durable.
pub(crate) const INLINE_BYTES: usize = 128 * 1024;
/// Files up to this length are gathered in memory and written at once.
const WHOLE_BYTES: usize = 4 * 1024 * 1024;
/// The directory of files below a vault's own.
const FILES: &str = "o";

/// Bytes on their way.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

fn folder(content: &str) -> Path {
    Path::from(format!("{FILES}/{content}"))
}

fn file(content: &str, number: usize) -> Path {
    Path::from(format!("{FILES}/{content}/{number}"))
}

/// Writes one file of a content.
pub(crate) struct FileWriter {
    open: Arc<OpenVault>,
    path: Path,
    buffer: BytesMut,
    upload: Option<Box<dyn MultipartUpload>>,
    len: u64,
}

impl FileWriter {
    pub(crate) fn new(open: Arc<OpenVault>, content: &str, number: usize) -> Self {
        Self { open, path: file(content, number), buffer: BytesMut::new(), upload: None, len: 0 }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.len += bytes.len() as u64;
        if self.upload.is_none() && self.buffer.len() + bytes.len() <= WHOLE_BYTES {
            self.buffer.extend_from_slice(&bytes);
            return Ok(());
        }
        let explain = |e| self.open.explain_store(e);
        let upload = match &mut self.upload {
            Some(upload) => upload,
            empty => {
                let started = self.open.store.put_multipart(&self.path).await.map_err(explain)?;
                let upload = empty.insert(started);
                let first = std::mem::take(&mut self.buffer).freeze();
                upload.put_part(first.into()).await.map_err(explain)?;
                upload
            }
        };
        upload.put_part(bytes.into()).await.map_err(explain)
    }

    /// Makes the file durable; its length.
    pub(crate) async fn finish(mut self) -> Result<u64> {
        let done = match &mut self.upload {
            Some(upload) => upload.complete().await.map(drop),
            None => {
                let whole = PutPayload::from(std::mem::take(&mut self.buffer).freeze());
                self.open.store.put(&self.path, whole).await.map(drop)
            }
        };
        done.map_err(|e| self.open.explain_store(e))?;
        Ok(self.len)
    }
}

/// Reads a range of a content. What can be refused is refused before this returns.
pub(crate) async fn read(open: Arc<OpenVault>, content: &Content, range: Range<u64>) -> Result<ByteStream> {
    open.guard()?;
    if range.is_empty() {
        return Ok(stream::empty().boxed());
    }
    if content.files.is_empty() {
        let key = index::content_key(&content.id);
        let bytes = open.engine.get_latest(&key).await.map_err(|e| open.explain(e))?.ok_or_else(lost)?;
        open.guard()?;
        let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
        let (Ok(start), Ok(end)) = (start, end) else { return Err(lost()) };
        if end > bytes.len() {
            return Err(lost());
        }
        return Ok(stream::once(async move { Ok(bytes.slice(start..end)) }).boxed());
    }
    let mut pieces = Pieces { parts: parts(content, range), current: stream::empty().boxed(), open };
    pieces.next_file().await?;
    Ok(stream::try_unfold(pieces, |mut pieces| async move {
        Ok(pieces.next().await?.map(|bytes| (bytes, pieces)))
    })
    .boxed())
}

fn lost() -> Error {
    Error::new(ErrorKind::DataLoss, "the bytes of an object are not there")
}

/// The files that a range touches, each with the range inside it.
fn parts(content: &Content, range: Range<u64>) -> VecDeque<(Path, Range<u64>)> {
    let mut start = 0;
    let mut found = VecDeque::new();
    for (number, len) in content.files.iter().enumerate() {
        let end = start + len;
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to {
            found.push_back((file(&content.id, number), from - start..to - start));
        }
        start = end;
    }
    found
}

/// Files that are read one after the other.
struct Pieces {
    parts: VecDeque<(Path, Range<u64>)>,
    current: BoxStream<'static, object_store::Result<Bytes>>,
    open: Arc<OpenVault>,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.current.next().await {
                Some(bytes) => {
                    self.open.guard()?;
                    return bytes.map(Some).map_err(|e| self.open.explain_store(e));
                }
                None if self.parts.is_empty() => return Ok(None),
                None => self.next_file().await?,
            }
        }
    }

    async fn next_file(&mut self) -> Result<()> {
        let Some((path, range)) = self.parts.pop_front() else { return Ok(()) };
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let found = self.open.store.get_opts(&path, options).await;
        self.current = found.map_err(|e| self.open.explain_store(e))?.into_stream();
        Ok(())
    }
}

/// Removes all bytes of a content. What is not there is gone.
pub(crate) async fn remove_files(open: &OpenVault, content: &str) -> Result<()> {
    let listed: Vec<_> = open.store.list(Some(&folder(content))).collect().await;
    for found in listed {
        let found = found.map_err(|e| open.explain_store(e))?;
        match open.store.delete(&found.location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(open.explain_store(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_touches_only_the_files_that_hold_it() {
        let content = Content { vault: "v".into(), id: "c".into(), files: vec![10, 5, 10] };
        let touched = |range| -> Vec<(String, Range<u64>)> {
            parts(&content, range).into_iter().map(|(path, range)| (path.to_string(), range)).collect()
        };
        assert_eq!(touched(0..10), [("o/c/0".into(), 0..10)]);
        assert_eq!(touched(9..16), [("o/c/0".into(), 9..10), ("o/c/1".into(), 0..5), ("o/c/2".into(), 0..1)]);
        assert_eq!(touched(24..25), [("o/c/2".into(), 9..10)]);
    }
}
