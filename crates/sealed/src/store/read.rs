//! Reads: the chunks that cover the wanted bytes, in one request below, decrypted where they lie.
//!
//! Invariant: no byte is given out before its chunk, the file's header and the ledger were found to
//! agree. A disagreement is looked at again while no write of the path is under way, because a write in
//! between looks the same.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use claviger_crypto::cobblestone::{CHUNK, MessageKey, SEALED_CHUNK};
use futures::stream::{self, BoxStream, StreamExt};
use lru::LruCache;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore, Result,
};

use super::Shared;
use super::book::Found;
use super::header::{FRONT, Header, chunk_start, object_len};
use super::ledger::{Entry, Version};
use super::log::is_log;
use super::place::{Place, open_chunks};
use crate::error::{Change, is_cut_off, permanent, tamper};

/// The front of a file is read with what is wanted when that ends before this byte.
const WITH_FRONT: u64 = 64 * 1024;
/// Longer reads are given out in pieces.
const WHOLE: u64 = 4 * 1024 * 1024;
const CHUNK_U64: u64 = CHUNK as u64;
const FRONT_U64: u64 = FRONT as u64;

/// A file whose key was derived.
#[derive(Debug)]
pub(super) struct OpenFile {
    message: MessageKey,
    version: Version,
    full: Path,
}

/// Files whose keys are kept. What is in here may be out of date: a reader compares it with the book.
pub(super) struct OpenFiles {
    state: Mutex<OpenState>,
}

struct OpenState {
    files: LruCache<Box<str>, Arc<OpenFile>>,
    /// How often all were forgotten.
    epoch: u64,
}

impl OpenFiles {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self { state: Mutex::new(OpenState { files: LruCache::new(capacity), epoch: 0 }) }
    }

    pub(super) fn forget(&self, path: &str) {
        let _dropped = self.lock().files.pop(path);
    }

    pub(super) fn forget_all(&self) {
        let mut state = self.lock();
        state.epoch = state.epoch.wrapping_add(1);
        state.files.clear();
    }

    fn find(&self, path: &str, entry: &Entry) -> (Option<Arc<OpenFile>>, u64) {
        let mut state = self.lock();
        let fits = |file: &&Arc<OpenFile>| {
            entry.versions().any(|version| version.fits(file.version.sequence, file.version.len))
        };
        (state.files.get(path).filter(fits).cloned(), state.epoch)
    }

    fn keep(&self, path: &str, file: Arc<OpenFile>, epoch: u64) {
        let mut state = self.lock();
        if state.epoch == epoch {
            state.files.push(path.into(), file);
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is read of a file, in bytes of the object and of the file.
struct Wanted {
    object: u64,
    range: Range<u64>,
    first_chunk: u64,
    file_range: Range<u64>,
}

impl Wanted {
    /// None when no file has that length.
    fn new(range: Option<&GetRange>, len: u64) -> Option<Result<Self>> {
        let object = object_len(len)?;
        let range = match range.map_or(Ok(0..object), |range| range.as_range(object)) {
            Ok(range) => range,
            Err(error) => return Some(Err(permanent("sealed", error))),
        };
        let first_chunk = range.start / CHUNK_U64;
        // Whoever reads to the end also gets the last chunk checked, which may be empty.
        let end = if range.end >= object { len } else { chunk_start(range.end.div_ceil(CHUNK_U64)).min(len) };
        Some(Ok(Self { object, range, first_chunk, file_range: chunk_start(first_chunk)..end }))
    }

    /// Bytes of the first chunk before the wanted ones.
    fn skip(&self) -> u64 {
        self.range.start - self.first_chunk * CHUNK_U64
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl Shared {
    pub(super) async fn get(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
        self.place.guard()?;
        if is_log(location.as_ref()) {
            return Err(not_found(location));
        }
        match self.try_get(location, options).await {
            Err(error) if tamper(&error).is_some() => {
                let path = location.as_ref();
                let _turn = self.turn(path).await?;
                self.open_files.forget(path);
                self.try_get(location, options).await
            }
            result => result,
        }
    }

    async fn try_get(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
        let path = location.as_ref();
        let Found::Entry(entry) = self.book().find(path) else { return Err(not_found(location)) };
        let get = Get { shared: self, location, path, entry, options };
        if options.head {
            return get.head().await;
        }
        let (cached, epoch) = self.open_files.find(path, &get.entry);
        if let Some(file) = cached {
            return get.chunks(file).await;
        }
        let full = self.place.full(path)?;
        let len = match get.entry.certain() {
            Some(version) => version.len,
            None => get.ask(&full, true, None).await?.meta.size,
        };
        let wanted =
            Wanted::new(options.range.as_ref(), len).ok_or_else(|| get.changed(Change::Length))??;
        if wanted.file_range.end <= WITH_FRONT {
            let found = get.fetch(&full, len, 0..wanted.file_range.end).await?;
            let (found, bytes) = get.collect(found).await?;
            let mut bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
            let file = get.open(full, len, bytes.get(..FRONT).unwrap_or_default())?;
            self.open_files.keep(path, file.clone(), epoch);
            let start = usize::try_from(wanted.file_range.start).map_err(|e| permanent("sealed", e))?;
            if start > bytes.len() {
                return Err(get.changed(Change::Length));
            }
            return get.decrypt(&file, &wanted, found, bytes.split_off(start));
        }
        let front = get.fetch(&full, len, 0..FRONT_U64).await?;
        let (_, front) = get.collect(front).await?;
        let file = get.open(full, len, &front)?;
        self.open_files.keep(path, file.clone(), epoch);
        get.chunks(file).await
    }
}

fn not_found(location: &Path) -> Error {
    Error::NotFound { path: location.to_string(), source: "there is no such object".into() }
}

/// What the store below answered, without its content.
struct Answer {
    meta: ObjectMeta,
    attributes: object_store::Attributes,
    extensions: object_store::Extensions,
}

/// One read under way.
struct Get<'a> {
    shared: &'a Shared,
    location: &'a Path,
    path: &'a str,
    /// What the book had when it began.
    entry: Entry,
    options: &'a GetOptions,
}

impl Get<'_> {
    fn changed(&self, what: Change) -> Error {
        self.shared.place.tampered(self.path, what)
    }

    async fn head(&self) -> Result<GetResult> {
        let found = self.ask(&self.shared.place.full(self.path)?, true, None).await?;
        let len = found.meta.size;
        if !self.entry.versions().any(|version| version.fits(version.sequence, len)) {
            return Err(self.changed(Change::Length));
        }
        let wanted =
            Wanted::new(self.options.range.as_ref(), len).ok_or_else(|| self.changed(Change::Length))??;
        let (meta, attributes, extensions) = (found.meta, found.attributes, found.extensions);
        Ok(self.result(Answer { meta, attributes, extensions }, &wanted, stream::empty().boxed()))
    }

    /// Asks the store below, with the caller's conditions.
    async fn ask(&self, full: &Path, head: bool, range: Option<Range<u64>>) -> Result<GetResult> {
        let mut options = self.options.clone();
        options.head = head;
        options.range = range.map(GetRange::Bounded);
        self.shared.place.inner.get_opts(full, options).await.map_err(|error| match error {
            Error::NotFound { .. } if self.entry.absence_fits() => not_found(self.location),
            Error::NotFound { .. } => self.changed(Change::Missing),
            error => error,
        })
    }

    /// Reads a range of the file, which must have that length.
    async fn fetch(&self, full: &Path, len: u64, range: Range<u64>) -> Result<GetResult> {
        match self.ask(full, false, Some(range.clone())).await {
            Ok(found) if found.meta.size == len && found.range == range => Ok(found),
            Ok(_) => Err(self.changed(Change::Length)),
            Err(
                error @ (Error::NotFound { .. } | Error::NotModified { .. } | Error::Precondition { .. }),
            ) => Err(error),
            Err(error) if tamper(&error).is_some() => Err(error),
            Err(error) if is_cut_off(&error) => Err(self.changed(Change::Length)),
            // Stores say in many ways that a range is not there.
            Err(error) => match self.ask(full, true, None).await {
                Ok(found) if found.meta.size != len => Err(self.changed(Change::Length)),
                _ => Err(error),
            },
        }
    }

    async fn collect(&self, found: GetResult) -> Result<(Answer, Bytes)> {
        let len = found.range.end - found.range.start;
        let answer = Answer {
            meta: found.meta.clone(),
            attributes: found.attributes.clone(),
            extensions: found.extensions.clone(),
        };
        let bytes = found.bytes().await.map_err(|error| self.cut_off(error))?;
        if bytes.len() as u64 == len { Ok((answer, bytes)) } else { Err(self.changed(Change::Length)) }
    }

    fn cut_off(&self, error: Error) -> Error {
        if is_cut_off(&error) { self.changed(Change::Length) } else { error }
    }

    fn open(&self, full: Path, len: u64, front: &[u8]) -> Result<Arc<OpenFile>> {
        let (Header { sequence, .. }, message) = self.shared.place.open_front(self.path, front)?;
        if !self.entry.versions().any(|version| version.fits(sequence, len)) {
            return Err(self.changed(Change::Old));
        }
        Ok(Arc::new(OpenFile { message, version: Version { sequence, len }, full }))
    }

    /// Reads the wanted chunks of a file whose key is known.
    async fn chunks(&self, file: Arc<OpenFile>) -> Result<GetResult> {
        let len = file.version.len;
        let range = self.options.range.as_ref();
        let wanted = Wanted::new(range, len).ok_or_else(|| self.changed(Change::Length))??;
        let found = self.fetch(&file.full, len, wanted.file_range.clone()).await?;
        if wanted.file_range.end - wanted.file_range.start <= WHOLE {
            let (found, bytes) = self.collect(found).await?;
            let bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
            return self.decrypt(&file, &wanted, found, bytes);
        }
        let answer = Answer {
            meta: found.meta.clone(),
            attributes: found.attributes.clone(),
            extensions: found.extensions.clone(),
        };
        let pieces = Pieces {
            place: self.shared.place.clone(),
            path: self.path.to_owned(),
            chunk: wanted.first_chunk,
            skip: wanted.skip(),
            left: wanted.len(),
            file_left: wanted.file_range.end - wanted.file_range.start,
            carry: BytesMut::new(),
            input: found.into_stream(),
            file,
        };
        Ok(self.result(answer, &wanted, pieces.stream()))
    }

    fn decrypt(
        &self,
        file: &OpenFile,
        wanted: &Wanted,
        found: Answer,
        chunks: BytesMut,
    ) -> Result<GetResult> {
        let changed = || self.changed(Change::Content);
        let mut plain = open_chunks(&file.message, wanted.first_chunk, chunks).ok_or_else(changed)?.freeze();
        trim(&mut plain, &mut wanted.skip(), &mut wanted.len());
        if plain.len() as u64 != wanted.len() {
            return Err(changed());
        }
        Ok(self.result(found, wanted, stream::once(async move { Ok(plain) }).boxed()))
    }

    fn result(
        &self,
        found: Answer,
        wanted: &Wanted,
        payload: BoxStream<'static, Result<Bytes>>,
    ) -> GetResult {
        GetResult {
            payload: GetResultPayload::Stream(payload),
            meta: ObjectMeta { location: self.location.clone(), size: wanted.object, ..found.meta },
            range: wanted.range.clone(),
            attributes: found.attributes,
            extensions: found.extensions,
        }
    }
}

/// Cuts off what was decrypted before and after the wanted bytes.
fn trim(plain: &mut Bytes, skip: &mut u64, left: &mut u64) {
    let skipped = usize::try_from(*skip).unwrap_or(usize::MAX).min(plain.len());
    *skip -= skipped as u64;
    let _before = plain.split_to(skipped);
    plain.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= plain.len() as u64;
}

/// A long read: decrypts what the store below gives, piece by piece.
struct Pieces {
    place: Arc<Place>,
    path: String,
    file: Arc<OpenFile>,
    input: BoxStream<'static, Result<Bytes>>,
    /// Bytes of a chunk that has not come whole.
    carry: BytesMut,
    chunk: u64,
    skip: u64,
    left: u64,
    file_left: u64,
}

impl Pieces {
    fn stream(self) -> BoxStream<'static, Result<Bytes>> {
        stream::try_unfold(self, |mut pieces| async move {
            while pieces.file_left > 0 {
                let plain = pieces.next().await?;
                if !plain.is_empty() {
                    return Ok(Some((plain, pieces)));
                }
            }
            Ok(None)
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Bytes> {
        // Before each piece: a scan under way stops when the key goes.
        self.place.guard()?;
        let cut_off = || self.place.tampered(&self.path, Change::Length);
        let piece = match self.input.next().await {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => return Err(if is_cut_off(&error) { cut_off() } else { error }),
            None => return Err(cut_off()),
        };
        self.file_left = self.file_left.checked_sub(piece.len() as u64).ok_or_else(cut_off)?;
        let mut data = if self.carry.is_empty() {
            piece.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()))
        } else {
            let mut data = std::mem::take(&mut self.carry);
            data.extend_from_slice(&piece);
            data
        };
        if self.file_left > 0 {
            self.carry = data.split_off(data.len() - data.len() % SEALED_CHUNK);
        }
        if data.is_empty() {
            return Ok(Bytes::new());
        }
        let chunks = data.len().div_ceil(SEALED_CHUNK) as u64;
        let plain = open_chunks(&self.file.message, self.chunk, data);
        let mut plain = plain.ok_or_else(|| self.place.tampered(&self.path, Change::Content))?.freeze();
        self.chunk += chunks;
        trim(&mut plain, &mut self.skip, &mut self.left);
        Ok(plain)
    }
}
