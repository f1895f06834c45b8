//! Writing a segment.
//!
//! Invariant: after an error nothing more is appended to it. No position of a segment is sealed twice, so
//! no nonce is.

use std::sync::Arc;

use claviger_crypto::cobblestone::MessageKey;
use object_store::{Error, Result};

use super::super::Shared;
use super::super::header::{FRONT, HEADER, Header};
use super::super::ledger::{UNKNOWN, Version};
use super::super::place::cipher;
use super::frame::{START, seal_frame};
use super::{Log, SegmentKey, blocking, segment_name};
use crate::append::AppendFile;
use crate::buffers;
use crate::error::permanent;
use crate::scope::KeyId;

/// How long a segment gets before the next one begins.
pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// A segment that is being written.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    path: String,
    sequence: u64,
    key_id: KeyId,
    key: Arc<SegmentKey>,
    file: Box<dyn AppendFile>,
    end: u64,
}

impl Writer {
    pub(super) async fn create(log: &Log, first: u64, epoch: u64) -> Result<Self> {
        let shared = log.shared.clone();
        let key = shared.place.current_key()?;
        shared.ready().await?;
        let name = segment_name(first, epoch);
        let path = format!("{}/{name}", log.base);
        let sequence = {
            let mut book = shared.book();
            let sequence = book.next_sequence();
            book.begin(&path, Version { sequence, len: UNKNOWN });
            sequence
        };
        let header = Header { key: key.id, sequence, log: true };
        let context = header.context(shared.place.keys.scope(), &path);
        let derived = MessageKey::generate(key.secret(), &context).map_err(cipher);
        let (message, prefix) = match derived {
            Ok(derived) => derived,
            Err(error) => {
                shared.book().give_up(&path, sequence);
                return Err(error);
            }
        };
        let mut front = [0; FRONT];
        let (plain, derived) = front.split_at_mut(HEADER);
        plain.copy_from_slice(&header.encode());
        derived.copy_from_slice(&prefix);
        let segment_key =
            Arc::new(SegmentKey { path: path.clone(), front, message: Some(Arc::new(message)).into() });
        shared.logs.add(&segment_key);
        let mut start = front.to_vec();
        start.resize(usize::try_from(START).map_err(|e| permanent("sealed", e))?, 0);
        let dir = log.dir.clone();
        let file = match blocking(move || dir.create(&name, &start)).await {
            Ok(file) => file,
            Err(error) => {
                if matches!(error, Error::AlreadyExists { .. }) {
                    shared.book().give_up(&path, sequence);
                }
                return Err(error);
            }
        };
        shared.grown(&path, sequence, START);
        Ok(Self { shared, path, sequence, key_id: key.id, key: segment_key, file, end: START })
    }

    /// Whether the next frame should go to a new segment: this one is long, or its key is not the scope's
    /// current one any more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.end >= SEGMENT_BYTES
            || self.shared.place.keys.current().is_ok_and(|current| current.id != self.key_id)
    }

    /// Appends a frame. Durable when this returns. Waits for the disk.
    ///
    /// # Errors
    /// What the keys answer while the scope is locked, and what the store below answers. The segment must
    /// not be appended to after that.
    pub fn append(&mut self, number: u64, body: &[u8]) -> Result<()> {
        self.shared.place.guard()?;
        let message = self.key.get(&self.shared.place)?;
        let (file, mut sealed) = (&mut self.file, buffers::take());
        let end = seal_frame(&message, self.end, number, body, &mut sealed, |piece| file.write(piece))?;
        drop(message);
        self.file.append(&sealed)?;
        buffers::give(sealed);
        self.end = end;
        self.shared.grown(&self.path, self.sequence, end);
        Ok(())
    }

    /// Ends the segment: from now on the ledger has its length. Waits for the disk.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn finish(mut self) -> Result<()> {
        self.shared.place.guard()?;
        self.file.finish()?;
        self.shared.book().settle(&self.path, Version { sequence: self.sequence, len: self.end });
        self.shared.plan_flush();
        Ok(())
    }
}
