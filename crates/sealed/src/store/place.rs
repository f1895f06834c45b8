//! Where a store's files lie and what they are sealed under: all that it takes to seal and open one.
//!
//! Invariant: the key is asked for anew each time; nothing here keeps one.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use claviger_core::ErrorKind;
use claviger_crypto::cobblestone::{CHUNK, MessageKey, PREFIX, SEALED_CHUNK, TAG};
use object_store::path::Path;
use object_store::{ObjectStore, PutPayload, Result};

use super::header::{FRONT, HEADER, Header, file_len};
use super::log::is_log;
use crate::error::{Change, permanent, refused, tampered};
use crate::scope::{ScopeKey, ScopeKeys};

pub(super) struct Place {
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) keys: Arc<dyn ScopeKeys>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.prefix, self.keys.scope())
    }
}

impl Place {
    /// The path in the store below.
    pub(super) fn full(&self, path: &str) -> Result<Path> {
        let full = if self.prefix.as_ref().is_empty() {
            Path::parse(path)
        } else if path.is_empty() {
            Ok(self.prefix.clone())
        } else {
            Path::parse(format!("{}/{path}", self.prefix))
        };
        full.map_err(|source| object_store::Error::InvalidPath { source })
    }

    pub(super) fn tampered(&self, path: &str, what: Change) -> object_store::Error {
        match self.prefix.as_ref() {
            "" => tampered(path, what),
            prefix => tampered(format!("{prefix}/{path}"), what),
        }
    }

    /// The key for new files.
    pub(super) fn current_key(&self) -> Result<Arc<ScopeKey>> {
        self.keys.current().map_err(refused)
    }

    /// Fails while the scope is locked.
    pub(super) fn guard(&self) -> Result<()> {
        self.current_key().map(drop)
    }

    /// The header of a file and the key of its message, from the file's first [`FRONT`] bytes.
    pub(super) fn open_front(&self, path: &str, front: &[u8]) -> Result<(Header, MessageKey)> {
        let changed = || self.tampered(path, Change::Content);
        let header = Header::decode(front).filter(|header| header.log == is_log(path)).ok_or_else(changed)?;
        let prefix: &[u8; PREFIX] = front.get(HEADER..).and_then(<[u8]>::first_chunk).ok_or_else(changed)?;
        let key = self.keys.by_id(header.key).map_err(|error| match error.kind() {
            // There is no such key: the header is not the one that was written.
            ErrorKind::DataLoss | ErrorKind::NotFound | ErrorKind::InvalidArgument => changed(),
            _ => refused(error),
        })?;
        let context = header.context(self.keys.scope(), path);
        let message = MessageKey::open(key.secret(), &context, prefix).map_err(|_| changed())?;
        Ok((header, message))
    }

    /// The header and content of a whole file.
    pub(super) fn open_whole(&self, path: &str, file: &Bytes) -> Result<(Header, Bytes)> {
        let (header, message) = self.open_front(path, file)?;
        let chunks = BytesMut::from(file.get(FRONT..).unwrap_or_default());
        if chunks.len() % SEALED_CHUNK < TAG {
            return Err(self.tampered(path, Change::Length));
        }
        let content = open_chunks(&message, 0, chunks).ok_or_else(|| self.tampered(path, Change::Content))?;
        Ok((header, content.freeze()))
    }

    /// Seals a whole file.
    pub(super) fn seal_whole(
        &self,
        key: &ScopeKey,
        path: &str,
        sequence: u64,
        content: &PutPayload,
    ) -> Result<Vec<u8>> {
        let header = Header { key: key.id, sequence, log: false };
        let context = header.context(self.keys.scope(), path);
        let (message, prefix) = MessageKey::generate(key.secret(), &context).map_err(cipher)?;
        seal(&header, &message, &prefix, content)
    }
}

/// A fault of the cipher library, not of the data.
pub(super) fn cipher(error: claviger_crypto::Error) -> object_store::Error {
    permanent("sealed", error)
}

/// Opens the consecutive chunks that `data` consists of and closes the gaps of their tags. None when
/// one is not what was sealed.
pub(super) fn open_chunks(message: &MessageKey, first: u64, mut data: BytesMut) -> Option<BytesMut> {
    let (mut end, mut start, mut index) = (0, 0, first);
    loop {
        let rest = data.get_mut(start..)?;
        let len = rest.len().min(SEALED_CHUNK);
        let plain = message.open_chunk(index, rest.get_mut(..len)?).ok()?.len();
        if start != end {
            data.copy_within(start..start + plain, end);
        }
        end += plain;
        start += len;
        index += 1;
        if start >= data.len() {
            break;
        }
    }
    data.truncate(end);
    Some(data)
}

/// The file of a content that may come in pieces. Pieces that hold a whole chunk are not copied first.
pub(super) fn seal(
    header: &Header,
    message: &MessageKey,
    prefix: &[u8; PREFIX],
    content: &PutPayload,
) -> Result<Vec<u8>> {
    let too_large = || permanent("sealed", "the object is too large");
    let mut left = content.content_length();
    let len = usize::try_from(file_len(left as u64)).map_err(|_| too_large())?;
    let mut file = vec![0; len];
    let (front, mut rest) = file.split_at_mut_checked(FRONT).ok_or_else(too_large)?;
    let (front_header, front_prefix) = front.split_at_mut(HEADER);
    front_header.copy_from_slice(&header.encode());
    front_prefix.copy_from_slice(prefix);

    let mut pieces = content.iter().map(AsRef::<[u8]>::as_ref);
    let mut piece: &[u8] = &[];
    let mut index = 0;
    loop {
        let chunk = left.min(CHUNK);
        let (out, after) = rest.split_at_mut_checked(chunk + TAG).ok_or_else(too_large)?;
        while piece.is_empty() && chunk > 0 {
            piece = pieces.next().ok_or_else(too_large)?;
        }
        if let Some((whole, more)) = piece.split_at_checked(chunk) {
            message.seal_chunk_to(index, whole, out).map_err(cipher)?;
            piece = more;
        } else {
            let (text, tag) = out.split_at_mut(chunk);
            let mut free = &mut *text;
            while !free.is_empty() {
                if piece.is_empty() {
                    piece = pieces.next().ok_or_else(too_large)?;
                }
                let (taken, more) = piece.split_at(piece.len().min(free.len()));
                let (filled, still_free) = free.split_at_mut(taken.len());
                filled.copy_from_slice(taken);
                (piece, free) = (more, still_free);
            }
            tag.copy_from_slice(&message.seal_chunk(index, text).map_err(cipher)?);
        }
        (rest, left, index) = (after, left - chunk, index + 1);
        // The last chunk is shorter than the others, if need be empty.
        if chunk < CHUNK {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::KeyId;
    use claviger_crypto::SecretKey;

    #[test]
    fn content_in_pieces_of_any_size_is_sealed_as_in_one() {
        let key = SecretKey::random().unwrap();
        let header = Header { key: KeyId(1), sequence: 9, log: false };
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7] {
            let plain: Vec<u8> = (0..len).map(|i| (i % 253) as u8).collect();
            let (message, prefix) = MessageKey::generate(&key, b"").unwrap();
            let whole = seal(&header, &message, &prefix, &plain.clone().into()).unwrap();
            assert_eq!(whole.len() as u64, file_len(len as u64));
            for step in [1, 1000, CHUNK, CHUNK + 5] {
                if step == 1 && len > CHUNK + 1 {
                    continue;
                }
                let mut pieces: Vec<Bytes> = plain.chunks(step).map(Bytes::copy_from_slice).collect();
                pieces.insert(pieces.len() / 2, Bytes::new());
                let payload: PutPayload = pieces.into_iter().collect();
                assert!(seal(&header, &message, &prefix, &payload).unwrap() == whole, "{len} by {step}");
            }
            let chunks = BytesMut::from(&whole[FRONT..]);
            assert!(open_chunks(&message, 0, chunks).unwrap() == plain[..]);
        }
    }
}
