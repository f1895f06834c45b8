//! An object store that encrypts: over any other, everything that it is given.
//!
//! A file is a [`header`] and a Cobblestone-256 message, bound to its scope and path. Which files are
//! live is in the [`ledger`], a sealed file itself, so that an old file put back is noticed as well as a
//! changed one. Two files of the whole store put back together with their ledger look like the past:
//! that, only something outside this store can notice.
//!
//! Beside objects it keeps [`log`]s, where the store below can append.
//!
//! Invariant: the scope's keys are asked on every operation and between the pieces of a long read; no
//! plaintext and no attribute reaches the store below. One `SealedStore` at a time uses a prefix.
//!
//! A delete returns once the file is gone for good; those under way at once share a write of the ledger.
//! With [`SealedOptions::lazy_deletes`] it returns at once and the file goes with the next write: a crash
//! before that brings the object back. [`SealedStore::flush`] waits for it.

mod book;
mod check;
mod flush;
#[cfg(test)]
mod golden;
pub mod header;
pub mod ledger;
mod lists;
pub mod log;
mod place;
mod read;
mod upload;
mod write;

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use claviger_core::Clock;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    RenameTargetMode, Result, TagSet,
};

use crate::append::{AppendQuestion, AppendStore};
use crate::error::{from_store, permanent};
use crate::scope::ScopeKeys;
use book::Book;
use flush::Flushing;
use place::Place;
use read::OpenFiles;

/// The path of the ledger, which no object can have.
pub const LEDGER: &str = "_ledger";
/// The attribute by which SlateDB recognises its own write: random, so it may be seen.
const PUT_ID: &str = "slatedbputid";
/// Deletes that share a write of the ledger.
const DELETE_BATCH: usize = 128;
/// Locks that order the writes of a path; two paths may share one.
const STRIPES: usize = 64;

/// How a store behaves.
#[derive(Clone, Debug)]
pub struct SealedOptions {
    /// How long after a change the ledger is written.
    pub flush_delay: Duration,
    /// Keys of files that are kept derived.
    pub open_files: usize,
    /// Whether a store must be there, so that an empty place is one whose files were taken away.
    pub must_exist: bool,
    /// Whether deletes return before they are durable: for databases, which delete many files that
    /// nobody needs any more. Never for what must be gone, such as key material.
    pub lazy_deletes: bool,
}

impl Default for SealedOptions {
    fn default() -> Self {
        Self { flush_delay: Duration::from_secs(1), open_files: 256, must_exist: false, lazy_deletes: false }
    }
}

/// An object store that encrypts; see the module's text.
#[derive(Clone)]
pub struct SealedStore {
    shared: Arc<Shared>,
}

impl fmt::Debug for SealedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedStore({:?})", self.shared.place)
    }
}

impl fmt::Display for SealedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedStore({})", self.shared.place.inner)
    }
}

struct Shared {
    place: Arc<Place>,
    clock: Arc<dyn Clock>,
    flush_delay: Duration,
    lazy_deletes: bool,
    book: Mutex<Book>,
    open_files: OpenFiles,
    order: Vec<Arc<tokio::sync::Mutex<()>>>,
    flushing: tokio::sync::Mutex<Flushing>,
    /// What the last write of the ledger took.
    flush_micros: AtomicU64,
    /// Whether the store below said that it takes no attributes.
    refuses_attributes: AtomicBool,
    /// Where logs can be kept, if they can.
    append: Option<Arc<dyn AppendStore>>,
    logs: log::Keys,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({:?})", self.place)
    }
}

impl SealedStore {
    /// Opens the store below `prefix` of `inner`, and checks that the files there are the live ones.
    /// Reads their list, the ledger, and the headers of files that the ledger does not have; writes
    /// nothing.
    ///
    /// # Errors
    /// What the keys answer while the scope is locked; `DataLoss` when a file was changed, with its
    /// path; what `inner` answers.
    pub async fn open(
        inner: Arc<dyn ObjectStore>,
        prefix: Path,
        keys: Arc<dyn ScopeKeys>,
        clock: Arc<dyn Clock>,
        options: SealedOptions,
    ) -> claviger_core::Result<Self> {
        keys.current()?;
        let place = Arc::new(Place { inner, prefix, keys });
        let start = check::check(&place, &options).await.map_err(from_store)?;
        let append = AppendQuestion::ask(place.inner.as_ref()).await;
        let open_files = NonZeroUsize::new(options.open_files).unwrap_or(NonZeroUsize::MIN);
        let shared = Shared {
            place,
            clock,
            flush_delay: options.flush_delay,
            lazy_deletes: options.lazy_deletes,
            book: Mutex::new(Book::new(start.ledger)),
            open_files: OpenFiles::new(open_files),
            order: (0..STRIPES).map(|_| Arc::default()).collect(),
            flushing: tokio::sync::Mutex::new(Flushing::new(start.etag)),
            flush_micros: AtomicU64::new(0),
            refuses_attributes: AtomicBool::new(false),
            append,
            logs: log::Keys::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Drops every derived key from memory. Reads under way end with the answer of the scope's keys.
    pub fn forget(&self) {
        self.shared.open_files.forget_all();
        self.shared.logs.forget_all();
    }

    /// Returns once the ledger has all changes and the files of deleted objects are gone.
    ///
    /// # Errors
    /// What the keys answer while the scope is locked, and what the store below answers.
    pub async fn flush(&self) -> claviger_core::Result<()> {
        self.shared.flush().await.map_err(from_store)
    }

    /// Flushes for the last time. Also notes that deleted files are gone.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn close(&self) -> claviger_core::Result<()> {
        self.flush().await?;
        self.flush().await
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to write at a path.
    async fn turn(&self, path: &str) -> Result<tokio::sync::OwnedMutexGuard<()>> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(path);
        let stripe = usize::try_from(hash % STRIPES as u64).ok().and_then(|index| self.order.get(index));
        let stripe = stripe.ok_or_else(|| permanent("sealed", "no lock for the path"))?;
        Ok(stripe.clone().lock_owned().await)
    }

    /// Refuses what would be kept beside the object, in clear.
    fn takes(&self, attributes: &Attributes, tags: &TagSet) -> Result<()> {
        let put_id = |name: &Attribute| matches!(name, Attribute::Metadata(name) if name == PUT_ID);
        let only_put_id = attributes.iter().all(|(name, _)| put_id(name));
        let refused = self.refuses_attributes.load(std::sync::atomic::Ordering::Relaxed);
        if tags.encoded().is_empty() && (attributes.is_empty() || only_put_id && !refused) {
            return Ok(());
        }
        Err(Error::NotImplemented {
            operation: "a write with attributes or tags".to_owned(),
            implementer: "SealedStore".to_owned(),
        })
    }
}

/// Refuses the paths that no object can have.
fn object_path(location: &Path) -> Result<&str> {
    match location.as_ref() {
        path if path.is_empty() || path == LEDGER || log::is_log(path) => {
            Err(Error::NotSupported { source: format!("no object can be at '{location}'").into() })
        }
        path => Ok(path),
    }
}

/// Runs a change to its end, also when its caller goes away: half of one would leave doubt about what
/// the store below did, and let the next change of the path overtake it.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(stopped) => Err(permanent("sealed", stopped)),
    }
}

#[async_trait]
impl ObjectStore for SealedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (shared, path) = (self.shared.clone(), object_path(location)?.to_owned());
        let key = shared.place.current_key()?;
        shared.takes(&opts.attributes, &opts.tags)?;
        shared.ready().await?;
        to_the_end(async move { shared.put(&path, key, payload, opts).await }).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = object_path(location)?;
        Ok(Box::new(upload::Upload::start(self.shared.clone(), path, opts, false).await?))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(question) = log::LogQuestion::of(&options) {
            question.answer(self.shared.logs());
            return Err(Error::NotFound { path: location.to_string(), source: "it was a question".into() });
        }
        self.shared.get(location, &options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let shared = self.shared.clone();
        locations
            .ready_chunks(DELETE_BATCH)
            .then(move |batch| {
                let shared = shared.clone();
                async move { stream::iter(shared.delete(batch).await) }
            })
            .flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        lists::list(self.shared.clone(), prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        lists::list(self.shared.clone(), prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        lists::level(&self.shared, prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        object_path(to)?;
        upload::copy(self, from, to, options.mode == CopyMode::Create).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        object_path(to)?;
        let create = options.target_mode == RenameTargetMode::Create;
        if from == to && !create {
            let head = GetOptions::new().with_head(true);
            return self.get_opts(from, head).await.map(drop);
        }
        upload::copy(self, from, to, create).await?;
        self.shared
            .delete(vec![Ok(from.clone())])
            .await
            .into_iter()
            .try_for_each(|deleted| deleted.map(drop))?;
        self.shared.flush().await
    }
}

impl SealedStore {
    /// Writes an object whole, over what is there or only where nothing is.
    async fn put_whole(&self, location: &Path, payload: PutPayload, create: bool) -> Result<()> {
        let mode = if create { PutMode::Create } else { PutMode::Overwrite };
        self.put_opts(location, payload, mode.into()).await.map(drop)
    }
}
