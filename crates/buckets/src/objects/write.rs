//! Writes of whole objects: bytes first, then the record that makes them an object.
//!
//! Invariant: until the record is durable, the bytes are loose and the sweep will remove them; from then
//! on they belong to the object. Both change in one batch.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, Result};
use futures::StreamExt;
use slatedb::WriteBatch;

use super::{archive, release};
use crate::checksums::{Checksums, Expected, Sums};
use crate::content::{ByteStream, FileWriter, INLINE_BYTES};
use crate::index::{self, Loose};
use crate::model::{Conditions, Content, Object, ObjectMetadata};
use crate::names::check_object;
use crate::uploads::Session;
use crate::vault::OpenVault;
use crate::{Buckets, Pending, errors, lock};

/// The largest object, bytes.
pub(crate) const OBJECT_BYTES: u64 = 5 * 1024 * 1024 * 1024 * 1024;
/// Bytes between two looks at the room on the disk.
const ROOM_EVERY: u64 = 64 * 1024 * 1024;

/// An object to write.
pub struct WriteRequest {
    /// The bucket.
    pub bucket: String,
    /// The object.
    pub name: String,
    /// What its user sets.
    pub metadata: ObjectMetadata,
    /// The key; none for the bucket's default.
    pub kms_key: Option<CryptoKeyName>,
    /// What must hold.
    pub conditions: Conditions,
    /// What the bytes should be.
    pub expected: Expected,
    /// The bytes.
    pub body: ByteStream,
}

impl std::fmt::Debug for WriteRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteRequest").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// What is known of the bytes beside themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// They were uploaded whole.
    Upload,
    /// They were composed, of so many uploads.
    Composed(u32),
}

/// An object whose bytes are there.
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) metadata: ObjectMetadata,
    pub(crate) sums: Sums,
    pub(crate) origin: Origin,
    pub(crate) content: Content,
    /// The bytes, when they are short.
    pub(crate) inline: Option<Bytes>,
    /// Keeps the bytes from the sweep until the record is written.
    pub(crate) pending: Option<Pending>,
    /// The upload that ends with this.
    pub(crate) session: Option<Session>,
}

impl Buckets {
    /// Writes an object. It is there, durable, when this returns.
    ///
    /// # Errors
    /// `NotFound` for the bucket, `InvalidArgument` for the name, the metadata, the key or a checksum, a
    /// condition that does not hold, `PermissionDenied` when what is there must be kept or the key may not
    /// be used, the lock of a key, the refusal of a policy of the project, `ResourceExhausted` when the disk is
    /// full, what the body answers.
    pub async fn write(self: &Arc<Self>, request: WriteRequest) -> Result<Object> {
        self.write_as(request, Origin::Upload).await
    }

    /// Writes an object from bytes in memory, under the bucket's default key.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub async fn put(
        self: &Arc<Self>,
        bucket: &str,
        name: &str,
        content_type: &str,
        bytes: Bytes,
    ) -> Result<Object> {
        self.write(WriteRequest {
            bucket: bucket.to_owned(),
            name: name.to_owned(),
            metadata: ObjectMetadata { content_type: Some(content_type.to_owned()), ..Default::default() },
            kms_key: None,
            conditions: Conditions::default(),
            expected: Expected::default(),
            body: futures::stream::once(async move { Ok(bytes) }).boxed(),
        })
        .await
    }

    pub(crate) async fn write_as(self: &Arc<Self>, request: WriteRequest, origin: Origin) -> Result<Object> {
        let WriteRequest { bucket, name, metadata, kms_key, conditions, expected, mut body } = request;
        let vault = self.prepare(&bucket, &name, &metadata, kms_key.as_ref(), &conditions).await?;
        let mut checksums = Checksums::default();
        let mut head = BytesMut::new();
        let mut ended = false;
        while head.len() <= INLINE_BYTES && !ended {
            match body.next().await {
                Some(bytes) => {
                    let bytes = bytes?;
                    checksums.update(&bytes);
                    head.extend_from_slice(&bytes);
                }
                None => ended = true,
            }
        }
        let head = head.freeze();
        let mut content = Content { vault, id: new_id(), files: Vec::new() };
        let (mut inline, mut pending) = (None, None);
        if ended && head.len() <= INLINE_BYTES {
            inline = Some(head);
        } else {
            let _permit = self.large_write().await?;
            pending = Some(self.begin(&bucket, &content, None).await?);
            let open = self.open_vault(&*self.bucket(&bucket)?, &content.vault).await?;
            let mut file = FileWriter::new(open, &content.id, 0);
            file.write(head).await?;
            let mut room_at = ROOM_EVERY;
            while let Some(bytes) = body.next().await {
                let bytes = bytes?;
                checksums.update(&bytes);
                if checksums.len() > OBJECT_BYTES {
                    return Err(Error::invalid("The object is larger than 5 TiB."));
                }
                if checksums.len() >= room_at {
                    room_at = checksums.len() + ROOM_EVERY;
                    (self.shared.room)()?;
                }
                file.write(bytes).await?;
            }
            content.files.push(file.finish().await?);
        }
        let sums = checksums.sums();
        sums.check(&expected)?;
        let draft = Draft { name, metadata, sums, origin, content, inline, pending, session: None };
        self.commit(&bucket, draft, &conditions).await
    }

    /// The checks before the first byte; the vault to write to.
    pub(crate) async fn prepare(
        &self,
        bucket: &str,
        name: &str,
        metadata: &ObjectMetadata,
        kms_key: Option<&CryptoKeyName>,
        conditions: &Conditions,
    ) -> Result<String> {
        let found = self.bucket(bucket)?;
        check_object(name)?;
        metadata.check()?;
        (self.shared.room)()?;
        let key = kms_key.or(found.config.kms_key.as_ref());
        self.directory.admit(&found.project, key, "storage.objects.create").await?;
        let vault = self.ensure_vault(bucket, key).await?;
        self.open_vault(&*self.bucket(bucket)?, &vault).await?;
        if *conditions != Conditions::default() {
            let entered = self.enter(bucket).await?;
            let live = index::live(&entered.home, name).await?;
            conditions.check(live.map(|object| (object.generation, object.metageneration)))?;
        }
        Ok(vault)
    }

    /// Waits for the turn of a long write.
    pub(crate) async fn large_write(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.large.acquire().await.map_err(|e| Error::internal("uploads are closed").because(e))
    }

    /// Notes that bytes of this name are on their way.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        bucket: &str,
        content: &Content,
        upload: Option<&Session>,
    ) -> Result<Pending> {
        let pending = self.pend(bucket, &content.id);
        let entered = self.enter(bucket).await?;
        let home = &entered.home;
        let loose = Loose { vault: content.vault.clone(), upload: upload.map(|session| session.id.clone()) };
        let mut batch = WriteBatch::new();
        batch.put(index::loose_key(&content.id), index::encode(&loose)?);
        if let Some(session) = upload {
            batch.put(index::upload_key(&session.id), index::encode(session)?);
        }
        home.engine.commit(batch).await.map_err(|e| home.explain(e))?;
        Ok(pending)
    }

    /// Keeps a content from the sweep.
    pub(crate) fn pend(self: &Arc<Self>, bucket: &str, content: &str) -> Pending {
        lock(&self.active).insert(content.to_owned());
        Pending { buckets: self.clone(), bucket: bucket.to_owned(), content: content.to_owned() }
    }

    /// Makes an object of bytes that are there.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        bucket_name: &str,
        draft: Draft,
        conditions: &Conditions,
    ) -> Result<Object> {
        let entered = self.enter(bucket_name).await?;
        let (bucket, home) = (&entered.bucket, &entered.home);
        if !bucket.vaults.contains_key(&draft.content.vault) {
            // The bucket was deleted and made again meanwhile.
            return Err(errors::no_bucket());
        }
        let _turn = self.own_name(bucket_name, &draft.name).await?;
        let live = index::live(home, &draft.name).await?;
        conditions.check(live.as_ref().map(|object| (object.generation, object.metageneration)))?;
        let now = self.shared.clock.now();
        let mut batch = WriteBatch::new();
        let mut loose = false;
        let mut generation = now.micros();
        if let Some(live) = live {
            generation = generation.max(live.generation + 1);
            if bucket.config.versioning {
                archive(&mut batch, live, now)?;
            } else {
                live.check_removable(bucket, now)?;
                loose = release(&mut batch, home, &live)?;
            }
        }
        let mut metadata = draft.metadata;
        metadata.storage_class.get_or_insert_with(|| bucket.config.storage_class.clone());
        if bucket.config.default_event_based_hold {
            metadata.event_based_hold.get_or_insert(true);
        }
        let (md5, component_count) = match draft.origin {
            Origin::Upload => (Some(draft.sums.md5), None),
            Origin::Composed(count) => (None, Some(count)),
        };
        let object = Object {
            name: draft.name,
            generation,
            metageneration: 1,
            size: draft.sums.len,
            crc32c: draft.sums.crc32c,
            md5,
            component_count,
            metadata,
            created: now,
            updated: now,
            deleted: None,
            content: draft.content,
        };
        // Held until the record is written.
        let mut pending = draft.pending;
        if let Some(bytes) = draft.inline.filter(|bytes| !bytes.is_empty()) {
            if object.content.vault == home.id() {
                batch.put_bytes(index::content_key(&object.content.id).into(), bytes);
            } else {
                pending.get_or_insert_with(|| self.pend(bucket_name, &object.content.id));
                let vault = self.open_vault(bucket, &object.content.vault).await?;
                put_aside(home, &vault, &object.content, bytes).await?;
            }
        }
        batch.delete(index::loose_key(&object.content.id));
        if let Some(mut session) = draft.session {
            session.finished = Some(generation);
            batch.put(index::upload_key(&session.id), index::encode(&session)?);
        }
        batch.put(index::live_key(&object.name), index::encode(&object)?);
        home.engine.commit(batch).await.map_err(|e| home.explain(e))?;
        drop(pending);
        if loose {
            self.mark_dirty(bucket_name);
        }
        Ok(object)
    }
}

/// Writes short bytes to a vault that is not the home: they are loose until their record is there.
async fn put_aside(home: &OpenVault, vault: &OpenVault, content: &Content, bytes: Bytes) -> Result<()> {
    let mut batch = WriteBatch::new();
    let loose = Loose { vault: content.vault.clone(), upload: None };
    batch.put(index::loose_key(&content.id), index::encode(&loose)?);
    home.engine.commit(batch).await.map_err(|e| home.explain(e))?;
    let mut batch = WriteBatch::new();
    batch.put_bytes(index::content_key(&content.id).into(), bytes);
    vault.engine.commit(batch).await.map_err(|e| vault.explain(e))
}

/// A name for bytes: never used twice.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
