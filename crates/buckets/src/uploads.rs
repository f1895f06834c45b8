//! Resumable uploads: bytes that come in several requests, over restarts of either side.
//!
//! Invariant: what a client is told was received is durable. The checksum of a part that was cut short
//! is that of the bytes that were kept: an upload whose state is in doubt is read again from its files.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, Result, Timestamp};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use slatedb::WriteBatch;

use crate::checksums::{Checksums, Expected, Sums};
use crate::content::{self, ByteStream, FileWriter, INLINE_BYTES};
use crate::model::{Conditions, Content, Object, ObjectMetadata};
use crate::objects::write::{Draft, Origin, new_id};
use crate::{Buckets, Pending, errors, index, lock};

/// How long an upload may take.
pub(crate) const UPLOAD_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A file of an upload ends here and the next begins: a crash in a long request loses at most as much.
const FILE_BYTES: u64 = 256 * 1024 * 1024;
/// Uploads whose state is in memory; others are read again when they go on.
const LIVE_UPLOADS: usize = 10_000;
/// An object of more files than this is put together, if they are short on average.
const MANY_FILES: usize = 32;
/// What a short file is, bytes.
const SHORT_FILE: u64 = 8 * 1024 * 1024;

/// An upload to begin.
#[derive(Clone, Debug, Default)]
pub struct UploadSpec {
    /// The bucket.
    pub bucket: String,
    /// The object.
    pub name: String,
    /// What its user sets.
    pub metadata: ObjectMetadata,
    /// The key; none for the bucket's default.
    pub kms_key: Option<CryptoKeyName>,
    /// What must hold when it ends.
    pub conditions: Conditions,
    /// What the bytes should be.
    pub expected: Expected,
    /// All bytes, if the client said it.
    pub total: Option<u64>,
}

/// Bytes of an upload.
pub struct UploadChunk {
    /// The bucket.
    pub bucket: String,
    /// The upload.
    pub upload_id: String,
    /// Where these bytes begin.
    pub offset: u64,
    /// All bytes of the object, if the client knows.
    pub total: Option<u64>,
    /// What all bytes should be.
    pub expected: Expected,
    /// Whether the object ends where these bytes end.
    pub last: bool,
    /// The bytes.
    pub body: ByteStream,
}

impl std::fmt::Debug for UploadChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UploadChunk").field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// How far an upload is.
#[derive(Clone, Debug)]
pub enum Progress {
    /// So many bytes are kept.
    Incomplete(u64),
    /// The object is there.
    Done(Box<Object>),
}

/// An upload as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) id: String,
    name: String,
    metadata: ObjectMetadata,
    conditions: Conditions,
    expected: Expected,
    pub(crate) content: Content,
    total: Option<u64>,
    created: Timestamp,
    /// The generation that it became.
    pub(crate) finished: Option<i64>,
}

impl Session {
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        now.since(self.created) >= UPLOAD_LIFE
    }

    fn received(&self) -> u64 {
        self.content.files.iter().sum()
    }

    /// Takes what a request says about the length and the sums of the whole.
    fn learn(&mut self, total: Option<u64>, expected: &Expected) -> Result<()> {
        match (self.total, total) {
            (Some(known), Some(told)) if known != told => {
                return Err(Error::invalid(format!(
                    "The upload was said to have {known} bytes, and now {told}."
                )));
            }
            (None, told) => self.total = told,
            _ => {}
        }
        if expected.crc32c.is_some() {
            self.expected.crc32c.clone_from(&expected.crc32c);
        }
        if expected.md5.is_some() {
            self.expected.md5.clone_from(&expected.md5);
        }
        Ok(())
    }
}

/// An upload in memory.
pub(crate) struct Live {
    session: Session,
    /// The sums of the bytes in its files.
    checksums: Checksums,
    gone: bool,
}

type Cell = Arc<tokio::sync::Mutex<Live>>;

/// The uploads in memory, by id.
#[derive(Default)]
pub(crate) struct LiveUploads(Mutex<HashMap<String, Cell>>);

impl LiveUploads {
    fn find(&self, id: &str) -> Option<Cell> {
        lock(&self.0).get(id).cloned()
    }

    fn keep(&self, live: Live) -> Cell {
        let mut uploads = lock(&self.0);
        if uploads.len() >= LIVE_UPLOADS {
            uploads.retain(|_, cell| Arc::strong_count(cell) > 1);
        }
        let id = live.session.id.clone();
        uploads.entry(id).or_insert_with(|| Arc::new(tokio::sync::Mutex::new(live))).clone()
    }

    pub(crate) fn forget(&self, id: &str) {
        lock(&self.0).remove(id);
    }
}

impl Buckets {
    /// Begins an upload; its id, which nobody can guess.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub async fn start_upload(self: &Arc<Self>, spec: UploadSpec) -> Result<String> {
        let UploadSpec { bucket, name, metadata, kms_key, conditions, expected, total } = spec;
        let vault = self.prepare(&bucket, &name, &metadata, kms_key.as_ref(), &conditions).await?;
        let content = Content { vault, id: new_id(), files: Vec::new() };
        let session = Session {
            id: new_id(),
            name,
            metadata,
            conditions,
            expected,
            content,
            total,
            created: self.shared.clock.now(),
            finished: None,
        };
        self.begin(&bucket, &session.content, Some(&session)).await?;
        let id = session.id.clone();
        self.uploads.keep(Live { session, checksums: Checksums::default(), gone: false });
        Ok(id)
    }

    /// How far an upload is. One whose bytes are all there ends with this.
    ///
    /// # Errors
    /// `NotFound` when there is none; as for [`Self::write`] when it ends.
    pub async fn upload_progress(
        self: &Arc<Self>,
        bucket: &str,
        upload_id: &str,
        total: Option<u64>,
    ) -> Result<Progress> {
        let cell = self.live_upload(bucket, upload_id).await?;
        let mut live = cell.lock().await;
        if let Some(done) = self.finished(bucket, &live).await? {
            return Ok(done);
        }
        live.session.learn(total, &Expected::default())?;
        let received = live.session.received();
        if live.session.total == Some(received) {
            let pending = self.pend(bucket, &live.session.content.id);
            let inline = (received == 0).then(Bytes::new);
            return self.finish_upload(bucket, &mut live, inline, pending).await;
        }
        Ok(Progress::Incomplete(received))
    }

    /// Takes bytes of an upload. Bytes that are there already are passed over; bytes past a gap are not
    /// taken.
    ///
    /// # Errors
    /// `NotFound` when there is no such upload, `InvalidArgument` for more bytes than were announced; what
    /// the body answers, after which the bytes until then are kept; as for [`Self::write`] when it ends.
    pub async fn upload_chunk(self: &Arc<Self>, chunk: UploadChunk) -> Result<Progress> {
        let cell = self.live_upload(&chunk.bucket, &chunk.upload_id).await?;
        let mut live = cell.lock().await;
        if let Some(done) = self.finished(&chunk.bucket, &live).await? {
            return Ok(done);
        }
        let pending = self.pend(&chunk.bucket, &live.session.content.id);
        let id = chunk.upload_id.clone();
        let result = self.take_chunk(&mut live, chunk, pending).await;
        if result.is_err() {
            // The sums may hold bytes that no file has.
            self.uploads.forget(&id);
        }
        result
    }

    async fn take_chunk(
        self: &Arc<Self>,
        live: &mut Live,
        chunk: UploadChunk,
        pending: Pending,
    ) -> Result<Progress> {
        let UploadChunk { bucket, offset, total, expected, last, mut body, .. } = chunk;
        live.session.learn(total, &expected)?;
        let had = live.session.received();
        let Some(mut skip) = had.checked_sub(offset) else { return Ok(Progress::Incomplete(had)) };
        (self.shared.room)()?;
        let limit = live.session.total.unwrap_or(crate::objects::write::OBJECT_BYTES);
        let too_many =
            || Error::invalid(format!("The upload has more than the {limit} bytes that it may have."));

        // The first bytes decide whether this is a short object that came at once.
        let mut head = BytesMut::new();
        let mut ended = false;
        let mut broken = None;
        while head.len() <= INLINE_BYTES && !ended {
            match body.next().await {
                Some(Ok(bytes)) => head.extend_from_slice(&passed(bytes, &mut skip)),
                Some(Err(error)) => (broken, ended) = (Some(error), true),
                None => ended = true,
            }
        }
        let head = head.freeze();
        if had + head.len() as u64 > limit {
            return Err(too_many());
        }
        let is_last = |received: u64, total: Option<u64>| last && total.is_none_or(|total| total == received);
        if ended && broken.is_none() && had == 0 && head.len() <= INLINE_BYTES {
            let received = head.len() as u64;
            if is_last(received, live.session.total) || live.session.total == Some(received) {
                live.checksums.update(&head);
                return self.finish_upload(&bucket, live, Some(head), pending).await;
            }
        }

        let _permit = self.large_write().await?;
        let open = self.open_vault(&*self.bucket(&bucket)?, &live.session.content.vault).await?;
        let number = live.session.content.files.len();
        let mut file = FileWriter::new(open.clone(), &live.session.content.id, number);
        live.checksums.update(&head);
        file.write(head).await?;
        while !ended {
            match body.next().await {
                Some(Ok(bytes)) => {
                    let bytes = passed(bytes, &mut skip);
                    if live.checksums.len() + bytes.len() as u64 > limit {
                        return Err(too_many());
                    }
                    live.checksums.update(&bytes);
                    file.write(bytes).await?;
                    if file.len() >= FILE_BYTES {
                        (self.shared.room)()?;
                        live.session.content.files.push(file.finish().await?);
                        self.save_upload(&bucket, &live.session).await?;
                        let number = live.session.content.files.len();
                        file = FileWriter::new(open.clone(), &live.session.content.id, number);
                    }
                }
                Some(Err(error)) => (broken, ended) = (Some(error), true),
                None => ended = true,
            }
        }
        if file.len() > 0 {
            live.session.content.files.push(file.finish().await?);
        }
        let received = live.session.received();
        let complete = is_last(received, live.session.total) || live.session.total == Some(received);
        if broken.is_none() && complete {
            return self.finish_upload(&bucket, live, None, pending).await;
        }
        self.save_upload(&bucket, &live.session).await?;
        match broken {
            Some(error) => Err(error),
            None => Ok(Progress::Incomplete(received)),
        }
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// `NotFound` when there is none; the lock of the default key.
    pub async fn cancel_upload(self: &Arc<Self>, bucket: &str, upload_id: &str) -> Result<()> {
        let cell = self.live_upload(bucket, upload_id).await?;
        let mut live = cell.lock().await;
        if live.gone || live.session.finished.is_some() {
            return Err(errors::upload_gone());
        }
        let entered = self.enter(bucket).await?;
        let home = &entered.home;
        let mut batch = WriteBatch::new();
        batch.delete(index::upload_key(upload_id));
        home.engine.commit(batch).await.map_err(|e| home.explain(e))?;
        live.gone = true;
        self.uploads.forget(upload_id);
        self.mark_dirty(bucket);
        Ok(())
    }

    /// The object of an upload that ended.
    async fn finished(&self, bucket: &str, live: &Live) -> Result<Option<Progress>> {
        if live.gone {
            return Err(errors::upload_gone());
        }
        let Some(generation) = live.session.finished else { return Ok(None) };
        let found = self.object(bucket, &live.session.name, Some(generation), &Conditions::default()).await?;
        Ok(Some(Progress::Done(Box::new(found))))
    }

    async fn live_upload(&self, bucket: &str, upload_id: &str) -> Result<Cell> {
        if let Some(cell) = self.uploads.find(upload_id) {
            // The id alone opens nothing in another bucket.
            let entered = self.enter(bucket).await?;
            let known = index::get::<Session>(&entered.home, &index::upload_key(upload_id)).await?;
            return known.map(|_| cell).ok_or_else(errors::upload_gone);
        }
        let (session, vault) = {
            let entered = self.enter(bucket).await?;
            let session: Option<Session> = index::get(&entered.home, &index::upload_key(upload_id)).await?;
            let session = session.ok_or_else(errors::upload_gone)?;
            if session.is_expired(self.shared.clock.now()) {
                return Err(errors::upload_gone());
            }
            let vault = self.open_vault(&entered.bucket, &session.content.vault).await?;
            (session, vault)
        };
        let mut checksums = Checksums::default();
        if session.finished.is_none() && session.received() > 0 {
            let mut body = content::read(vault, &session.content, 0..session.received()).await?;
            while let Some(bytes) = body.next().await {
                checksums.update(&bytes?);
            }
        }
        Ok(self.uploads.keep(Live { session, checksums, gone: false }))
    }

    async fn save_upload(&self, bucket: &str, session: &Session) -> Result<()> {
        let entered = self.enter(bucket).await?;
        let home = &entered.home;
        let mut batch = WriteBatch::new();
        batch.put(index::upload_key(&session.id), index::encode(session)?);
        home.engine.commit(batch).await.map_err(|e| home.explain(e))
    }

    /// Makes the object. `inline` are its bytes when no file has them.
    async fn finish_upload(
        self: &Arc<Self>,
        bucket: &str,
        live: &mut Live,
        inline: Option<Bytes>,
        pending: Pending,
    ) -> Result<Progress> {
        let sums = live.checksums.sums();
        if let Err(error) = sums.check(&live.session.expected) {
            self.uploads.forget(&live.session.id);
            return Err(error);
        }
        let files = &live.session.content.files;
        let many = files.len() > MANY_FILES && sums.len / files.len() as u64 <= SHORT_FILE;
        let (content, pending) = if many {
            self.put_together(bucket, &live.session, sums).await?
        } else {
            (live.session.content.clone(), pending)
        };
        let draft = Draft {
            name: live.session.name.clone(),
            metadata: live.session.metadata.clone(),
            sums,
            origin: Origin::Upload,
            content,
            inline,
            pending: Some(pending),
            session: Some(live.session.clone()),
        };
        let conditions = live.session.conditions;
        let object = self.commit(bucket, draft, &conditions).await?;
        live.session.finished = Some(object.generation);
        self.uploads.forget(&live.session.id);
        Ok(Progress::Done(Box::new(object)))
    }

    /// Copies many short files into one. The sweep removes the former.
    async fn put_together(
        self: &Arc<Self>,
        bucket: &str,
        session: &Session,
        sums: Sums,
    ) -> Result<(Content, Pending)> {
        let mut content = Content { vault: session.content.vault.clone(), id: new_id(), files: Vec::new() };
        let pending = self.begin(bucket, &content, None).await?;
        let open = self.open_vault(&*self.bucket(bucket)?, &content.vault).await?;
        let mut body = content::read(open.clone(), &session.content, 0..sums.len).await?;
        let mut file = FileWriter::new(open, &content.id, 0);
        while let Some(bytes) = body.next().await {
            file.write(bytes?).await?;
        }
        content.files.push(file.finish().await?);
        Ok((content, pending))
    }
}

/// What of some bytes is new, when so many are there already.
fn passed(mut bytes: Bytes, skip: &mut u64) -> Bytes {
    let passed = usize::try_from(*skip).unwrap_or(usize::MAX).min(bytes.len());
    *skip -= passed as u64;
    bytes.split_off(passed)
}
