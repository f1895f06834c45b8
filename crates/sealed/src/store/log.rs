//! Logs: files that grow by sealed [`frame`]s, one durable write for each, for the write-ahead log of a
//! database.
//!
//! ```text
//! _log/NAME/FIRST.EPOCH    a segment: the number of its first frame (20 digits) and that of the writer
//!
//!   0  48  header          as every sealed file's, with flag 1
//!  48  24  salt
//!  72  32  commitment      from here on frames, see `frame`
//! ```
//!
//! A segment has a key of its own, derived as any file's. The ledger knows it: with its exact length once it
//! is finished, and before that how far it was durable when the ledger was stored, which a log under way
//! does about once a second.
//!
//! Invariant: frames are numbered without gaps, across segments too, and a process never appends to a
//! segment of one before it. So frames that are missing show, but for the last ones of all that no ledger
//! knows of. Keys are asked for before each append; [`super::SealedStore::forget`] drops the segments' own.

pub mod frame;
mod writer;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use claviger_crypto::cobblestone::MessageKey;
use object_store::{ObjectStoreExt, Result};

use super::Shared;
use super::header::FRONT;
use super::ledger::{Entry, UNKNOWN, Version};
use super::place::Place;
use crate::append::{AppendDir, AppendStore, Question};
use crate::error::{Change, is_cut_off, permanent};
use frame::{Expected, Frame, read_frames};

pub use writer::{SEGMENT_BYTES, Writer};

/// The directory of all logs of a store, which no object can lie in.
pub const LOGS: &str = "_log";

/// Asks a store for its logs: none when it cannot append.
pub type LogQuestion = Question<Result<Option<Logs>>>;

/// Whether a path is that of a log's segment, or of a directory of them.
pub(super) fn is_log(path: &str) -> bool {
    path.strip_prefix(LOGS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Runs `work` on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => Err(permanent("sealed", stopped)),
    }
}

/// The logs of a store.
#[derive(Clone, Debug)]
pub struct Logs {
    shared: Arc<Shared>,
    append: Arc<dyn AppendStore>,
}

impl Shared {
    /// The logs, if the store below can append.
    pub(super) fn logs(self: &Arc<Self>) -> Result<Option<Logs>> {
        if let Some(append) = &self.append {
            return Ok(Some(Logs { shared: self.clone(), append: append.clone() }));
        }
        if self.book().below(&format!("{LOGS}/")).is_empty() {
            return Ok(None);
        }
        // Without its log a database would look whole and lack its last writes.
        Err(permanent("sealed", "the store has logs, but the storage that it was moved to cannot append"))
    }
}

impl Logs {
    /// Takes the log of that name for one writer. Whoever had it before appends nothing more.
    ///
    /// # Errors
    /// What the keys answer while the scope is locked, and what the store below answers.
    pub async fn claim(&self, name: &str) -> Result<Log> {
        self.shared.place.guard()?;
        let base = format!("{LOGS}/{name}");
        let (append, dir) = (self.append.clone(), self.shared.place.full(&base)?);
        let dir = blocking(move || append.claim(&dir)).await?;
        Ok(Log { shared: self.shared.clone(), dir, base })
    }
}

/// A log that was claimed.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    dir: Arc<dyn AppendDir>,
    base: String,
}

/// A segment of a log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// The number of its first frame.
    pub first: u64,
    /// The number of the writer that made it; later ones have greater numbers.
    pub epoch: u64,
    path: String,
    sequence: u64,
    expected: Expected,
}

impl Segment {
    /// The segment of a ledger's entry.
    fn of(name: &str, path: &str, entry: &Entry) -> Option<Self> {
        let (first, epoch) = name.split_once('.')?;
        let (first, epoch) = (first.parse().ok()?, epoch.parse().ok()?);
        if segment_name(first, epoch) != name {
            return None;
        }
        let (sequence, expected) = match entry.doubtful.iter().find(|version| version.len == UNKNOWN) {
            None => entry.certain().map(|version| (version.sequence, Expected::Exactly(version.len)))?,
            Some(version) => {
                let settled = entry.settled.filter(|settled| settled.sequence == version.sequence);
                let len = settled.map_or(frame::START, |settled| settled.len);
                (version.sequence, Expected::AtLeast(len))
            }
        };
        Some(Self { first, epoch, path: path.to_owned(), sequence, expected })
    }

    /// Whether an earlier process ended it, so that the ledger has its length.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.expected, Expected::Exactly(_))
    }

    /// The number of the first frame after those of the segment.
    #[must_use]
    pub fn next(&self, content: &Content) -> u64 {
        self.first.saturating_add(content.frames.len() as u64)
    }

    fn name(&self) -> String {
        segment_name(self.first, self.epoch)
    }
}

fn segment_name(first: u64, epoch: u64) -> String {
    format!("{first:020}.{epoch:010}")
}

/// What a segment holds.
#[derive(Debug)]
pub struct Content {
    /// Its frames, in order.
    pub frames: Vec<Frame>,
    /// Where the last one ends.
    end: u64,
}

impl Log {
    /// The segments, oldest first.
    ///
    /// # Errors
    /// `DataLoss` as the cause when something else lies there; what the store below answers.
    pub async fn segments(&self) -> Result<Vec<Segment>> {
        let base = format!("{}/", self.base);
        let below = self.shared.book().below(&base);
        let mut segments = Vec::with_capacity(below.len());
        for (path, entry) in below {
            let Some(name) = path.strip_prefix(&base) else { continue };
            // Another log may have a name that begins with this one's.
            if name.contains('/') || entry.absence_fits() && !self.is_there(&path).await? {
                continue;
            }
            if entry.may_be_absent {
                // Nobody needed it when its delete began, and it may go at any moment: the delete is ended here.
                self.shared.book().delete(&path);
                self.shared.plan_flush();
                continue;
            }
            match Segment::of(name, &path, &entry) {
                Some(segment) => segments.push(segment),
                None => return Err(self.shared.place.tampered(&path, Change::Content)),
            }
        }
        segments.sort_unstable();
        Ok(segments)
    }

    /// Whether a segment whose creation was not seen to succeed is there.
    async fn is_there(&self, path: &str) -> Result<bool> {
        let place = &self.shared.place;
        match place.inner.head(&place.full(path)?).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a segment of an earlier writer, whole. A last frame that was not written to its end is not
    /// part of it.
    ///
    /// # Errors
    /// What the keys answer while the scope is locked; `DataLoss` as the cause when the segment is not what
    /// was written; what the store below answers.
    pub async fn read(&self, segment: &Segment) -> Result<Content> {
        let place = &self.shared.place;
        place.guard()?;
        let path = &segment.path;
        let changed = |what| place.tampered(path, what);
        let found = place.inner.get(&place.full(path)?).await;
        let file = match found {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        let file = file.map_err(|error| match error {
            object_store::Error::NotFound { .. } => changed(Change::Missing),
            error if is_cut_off(&error) => changed(Change::Length),
            error => error,
        })?;
        let (header, message) = place.open_front(path, &file)?;
        if header.sequence != segment.sequence {
            return Err(changed(Change::Old));
        }
        let (first, expected) = (segment.first, segment.expected);
        let read = tokio::task::spawn_blocking(move || read_frames(&message, &file, first, expected));
        let (frames, end) = read.await.map_err(|stopped| permanent("sealed", stopped))?.map_err(changed)?;
        Ok(Content { frames, end })
    }

    /// Ends a segment of an earlier writer after its last frame. From now on the ledger has its length.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn settle(&self, segment: &Segment, content: &Content) -> Result<()> {
        if let Expected::Exactly(_) = segment.expected {
            return Ok(());
        }
        self.shared.ready().await?;
        let (dir, name, len) = (self.dir.clone(), segment.name(), content.end);
        blocking(move || dir.cut(&name, len)).await?;
        self.shared.book().settle(&segment.path, Version { sequence: segment.sequence, len });
        self.shared.plan_flush();
        Ok(())
    }

    /// The error for a segment that should go on, because a later one does not begin with its next frame.
    #[must_use]
    pub fn gap(&self, after: &Segment) -> object_store::Error {
        self.shared.place.tampered(&after.path, Change::Length)
    }

    /// The error for a log that lacks its first segments.
    #[must_use]
    pub fn missing(&self) -> object_store::Error {
        self.shared.place.tampered(&self.base, Change::Missing)
    }

    /// Begins a segment.
    ///
    /// # Errors
    /// What the keys answer while the scope is locked, and what the store below answers.
    pub async fn create(&self, first: u64, epoch: u64) -> Result<Writer> {
        Writer::create(self, first, epoch).await
    }

    /// Removes segments that nobody needs any more, some time later.
    pub fn remove(&self, segments: &[Segment]) {
        for segment in segments {
            self.shared.book().delete(&segment.path);
        }
        if !segments.is_empty() {
            self.shared.plan_flush();
        }
    }
}

impl Shared {
    /// Notes that a segment is durable up to `len`.
    fn grown(self: &Arc<Self>, path: &str, sequence: u64, len: u64) {
        let planned = {
            let mut book = self.book();
            book.grow(path, sequence, len);
            book.planned
        };
        if !planned {
            self.plan_flush();
        }
    }
}

/// The keys of the segments that are being written, so that they can be dropped.
#[derive(Default)]
pub(super) struct Keys(Mutex<Vec<Weak<SegmentKey>>>);

impl Keys {
    pub(super) fn forget_all(&self) {
        for key in self.lock().iter().filter_map(Weak::upgrade) {
            key.lock().take();
        }
    }

    fn add(&self, key: &Arc<SegmentKey>) {
        let mut keys = self.lock();
        keys.retain(|key| key.strong_count() > 0);
        keys.push(Arc::downgrade(key));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<SegmentKey>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of one segment; derived again when it was forgotten.
struct SegmentKey {
    path: String,
    front: [u8; FRONT],
    message: Mutex<Option<Arc<MessageKey>>>,
}

impl fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentKey({})", self.path)
    }
}

impl SegmentKey {
    fn get(&self, place: &Place) -> Result<Arc<MessageKey>> {
        let mut message = self.lock();
        if let Some(message) = message.as_ref() {
            return Ok(message.clone());
        }
        let (_, derived) = place.open_front(&self.path, &self.front)?;
        Ok(message.insert(Arc::new(derived)).clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<MessageKey>>> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
