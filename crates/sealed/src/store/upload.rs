//! An object written in parts, and copies.
//!
//! Invariant: chunks are sealed as soon as they are full and never twice; the parts of the store below
//! have the same size but for the last. The version is in the book from the start, of unknown length.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_crypto::cobblestone::{CHUNK, MessageKey, TAG};
use futures::future::try_join_all;
use futures::stream::StreamExt;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, MultipartUpload, ObjectStore, PutMultipartOptions, PutPayload, PutResult, Result,
    UploadPart,
};

use super::header::Header;
use super::ledger::{UNKNOWN, Version};
use super::place::cipher;
use super::write::{Before, Failure, already_exists};
use super::{SealedStore, Shared, to_the_end};
use crate::error::permanent;
use crate::parts::{Part, Writing};

/// Bytes of each part below but the last. Stores ask for at least 5 MiB.
const PART: usize = 8 * 1024 * 1024;
/// Objects up to this length are copied whole.
const COPY_WHOLE: u64 = PART as u64;

pub(super) struct Upload {
    shared: Arc<Shared>,
    path: String,
    sequence: u64,
    create: bool,
    message: MessageKey,
    inner: Option<Box<dyn MultipartUpload>>,
    /// Plaintext of a chunk that is not full.
    text: Vec<u8>,
    /// Sealed bytes of a part that is not full.
    part: Part,
    _writing: Writing,
    chunks: u64,
    /// Sealed bytes of all parts given on.
    sent: u64,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({})", self.path)
    }
}

impl Upload {
    pub(super) async fn start(
        shared: Arc<Shared>,
        path: &str,
        opts: PutMultipartOptions,
        create: bool,
    ) -> Result<Self> {
        let key = shared.place.current_key()?;
        shared.takes(&opts.attributes, &opts.tags)?;
        shared.ready().await?;
        let full = shared.place.full(path)?;
        let attributes = !opts.attributes.is_empty();
        let inner = shared.place.inner.put_multipart_opts(&full, opts).await;
        if attributes && matches!(inner, Err(Error::NotImplemented { .. })) {
            shared.refuses_attributes.store(true, Ordering::Relaxed);
        }
        let inner = inner?;
        let sequence = {
            let mut book = shared.book();
            let sequence = book.next_sequence();
            book.begin(path, Version { sequence, len: UNKNOWN });
            sequence
        };
        let header = Header { key: key.id, sequence, log: false };
        let context = header.context(shared.place.keys.scope(), path);
        let derived = MessageKey::generate(key.secret(), &context).map_err(cipher);
        let (message, prefix) = match derived {
            Ok(derived) => derived,
            Err(error) => {
                shared.book().give_up(path, sequence);
                return Err(error);
            }
        };
        let writing = Writing::begin();
        let mut part = Part::new(PART + CHUNK + TAG);
        part.push(&header.encode());
        part.push(&prefix);
        let text = Vec::with_capacity(CHUNK);
        let (inner, path) = (Some(inner), path.to_owned());
        Ok(Self {
            shared,
            path,
            sequence,
            create,
            message,
            inner,
            text,
            part,
            _writing: writing,
            chunks: 0,
            sent: 0,
        })
    }

    /// Takes plaintext in; gives the futures of the parts that became full.
    fn take_in(&mut self, data: &PutPayload) -> Result<Vec<UploadPart>> {
        let mut parts = Vec::new();
        for mut piece in data.iter().map(AsRef::<[u8]>::as_ref) {
            while !piece.is_empty() {
                if self.text.is_empty()
                    && let Some((chunk, more)) = piece.split_at_checked(CHUNK)
                {
                    self.seal(chunk)?;
                    piece = more;
                } else {
                    let (taken, more) = piece.split_at(piece.len().min(CHUNK - self.text.len()));
                    self.text.extend_from_slice(taken);
                    piece = more;
                    if self.text.len() == CHUNK {
                        let chunk = std::mem::take(&mut self.text);
                        self.seal(&chunk)?;
                        self.text = chunk;
                        self.text.clear();
                    }
                }
                if self.part.len() >= PART {
                    let rest = self.part.split_off(PART);
                    let full = std::mem::replace(&mut self.part, rest);
                    parts.push(self.send(full)?);
                }
            }
        }
        Ok(parts)
    }

    fn seal(&mut self, chunk: &[u8]) -> Result<()> {
        let out = self.part.next(chunk.len() + TAG);
        self.message.seal_chunk_to(self.chunks, chunk, out).map_err(cipher)?;
        self.chunks += 1;
        Ok(())
    }

    fn send(&mut self, part: Part) -> Result<UploadPart> {
        self.sent += part.len() as u64;
        Ok(self.inner.as_mut().ok_or_else(over)?.put_part(Bytes::from(part).into()))
    }
}

fn over() -> Error {
    permanent("sealed", "the upload was completed or aborted")
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let parts = self.shared.place.guard().and_then(|()| self.take_in(&data));
        Box::pin(async move { try_join_all(parts?).await.map(drop) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.shared.place.guard()?;
        let last = std::mem::take(&mut self.text);
        self.seal(&last)?;
        let part = self.part.split_off(0);
        self.send(part)?.await?;
        let mut inner = self.inner.take().ok_or_else(over)?;
        let (shared, path, create) = (self.shared.clone(), std::mem::take(&mut self.path), self.create);
        let version = Version { sequence: self.sequence, len: self.sent };
        to_the_end(async move {
            let _turn = shared.turn(&path).await?;
            let written = shared.complete(&path, version, create, inner.as_mut()).await;
            // The intent was stored, so what followed from it is.
            let result = shared.settle(&path, version, written, true).await;
            shared.plan_flush();
            result
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        let mut inner = self.inner.take().ok_or_else(over)?;
        self.shared.book().give_up(&self.path, self.sequence);
        inner.abort().await
    }
}

impl Shared {
    async fn complete(
        self: &Arc<Self>,
        path: &str,
        version: Version,
        create: bool,
        inner: &mut dyn MultipartUpload,
    ) -> Result<PutResult, Failure> {
        // The length is known now; other writes at the path may have come and gone since the start.
        self.book().give_up(path, version.sequence);
        let before = self.before(path).await.map_err(Failure::Sure)?;
        if create && matches!(before, Before::Something { .. }) {
            let _ = inner.abort().await;
            return Err(Failure::Sure(already_exists(path)));
        }
        self.book().begin(path, version);
        // The sequence was given out long ago, so the ledger may say that no such file is to come.
        self.flush().await.map_err(Failure::Sure)?;
        inner.complete().await.map_err(Failure::of)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Given up half way: without `complete`, nothing is there.
        if self.inner.is_some() {
            self.shared.book().give_up(&self.path, self.sequence);
        }
    }
}

/// Copies an object: the new one is sealed anew, because its path is part of what it is bound to.
pub(super) async fn copy(store: &SealedStore, from: &Path, to: &Path, create: bool) -> Result<()> {
    let found = store.get_opts(from, GetOptions::default()).await?;
    if found.meta.size <= COPY_WHOLE {
        return store.put_whole(to, found.bytes().await?.into(), create).await;
    }
    let opts = PutMultipartOptions::default();
    let mut upload = Upload::start(store.shared.clone(), to.as_ref(), opts, create).await?;
    let mut pieces = found.into_stream();
    while let Some(piece) = pieces.next().await {
        upload.put_part(piece?.into()).await?;
    }
    upload.complete().await.map(drop)
}
