//! The key of one message, and its chunks one at a time: for readers that need a few chunks of a long
//! message and writers that have it in pieces.
//!
//! Invariant: a `MessageKey` exists only after the commitment was checked or made. Whoever writes with
//! it uses each index once.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hkdf::{HKDF_SHA512, KeyType, Prk};
use zeroize::{Zeroize, Zeroizing};

use super::{CHUNK, COMMITMENT, MAX_CHUNKS, PREFIX, SALT, TAG, TAMPERED, TOO_LARGE, TRUNCATED, WRONG_KEY};
use crate::error::{Error, ErrorKind, Result};
use crate::random::fill_random;
use crate::secret::SecretKey;

const LABEL: &[u8] = b"c2sp.org/chunked-encryption@v1+";
const AEAD: &[u8] = b"AEAD_AES_256_GCM\0";
const DERIVED: usize = SecretKey::LEN + NONCE_LEN + COMMITMENT;

/// The key and base nonce of one message. The cipher library wipes the key when this is dropped.
pub struct MessageKey {
    aead: LessSafeKey,
    base_nonce: [u8; NONCE_LEN],
}

impl MessageKey {
    /// A key for a new message, and the prefix that the message begins with.
    ///
    /// # Errors
    /// [`ErrorKind::Random`] when the machine gives no random bytes.
    pub fn generate(key: &SecretKey, context: &[u8]) -> Result<(Self, [u8; PREFIX])> {
        let mut salt = [0; SALT];
        fill_random(&mut salt)?;
        Self::with_salt(key, context, &salt)
    }

    pub(super) fn with_salt(
        key: &SecretKey,
        context: &[u8],
        salt: &[u8; SALT],
    ) -> Result<(Self, [u8; PREFIX])> {
        let derived = Derived::new(key, context, salt)?;
        let mut prefix = [0; PREFIX];
        prefix[..SALT].copy_from_slice(salt);
        prefix[SALT..].copy_from_slice(&derived.commitment);
        Ok((derived.into_key()?, prefix))
    }

    /// The key of the message that begins with `prefix`.
    ///
    /// # Errors
    /// [`ErrorKind::WrongKey`] unless the commitment fits key, context and salt.
    pub fn open(key: &SecretKey, context: &[u8], prefix: &[u8; PREFIX]) -> Result<Self> {
        let (salt, commitment) = prefix.split_first_chunk::<SALT>().ok_or(TRUNCATED)?;
        let derived = Derived::new(key, context, salt)?;
        verify_slices_are_equal(&derived.commitment, commitment).map_err(|_| WRONG_KEY)?;
        derived.into_key()
    }

    /// Seals chunk `index` where it lies and gives its tag, which follows it in the message.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] when the chunk is longer than [`CHUNK`] or the index past the limit.
    pub fn seal_chunk(&self, index: u64, in_out: &mut [u8]) -> Result<[u8; TAG]> {
        let nonce = self.nonce(index, in_out.len())?;
        let tag = self.aead.seal_in_place_separate_tag(nonce, Aad::empty(), in_out).map_err(|_| FAILED)?;
        tag.as_ref().try_into().map_err(|_| FAILED)
    }

    /// Seals chunk `index` from `plain` into `out`, which is [`TAG`] bytes longer.
    ///
    /// # Errors
    /// As [`Self::seal_chunk`]; [`ErrorKind::BadInput`] when `out` has another length.
    pub fn seal_chunk_to(&self, index: u64, plain: &[u8], out: &mut [u8]) -> Result<()> {
        if out.len() != plain.len() + TAG {
            return Err(LENGTHS);
        }
        let nonce = self.nonce(index, plain.len())?;
        let (out, tag) = out.split_at_mut(plain.len());
        self.aead.seal_out_of_place_scatter(nonce, Aad::empty(), plain, out, &[], tag).map_err(|_| FAILED)
    }

    /// Opens chunk `index` where it lies; gives the plaintext, the first part of `sealed`.
    ///
    /// # Errors
    /// [`ErrorKind::Tampered`] when the chunk is not what was sealed at that index,
    /// [`ErrorKind::Truncated`] when it is shorter than a tag.
    pub fn open_chunk<'a>(&self, index: u64, sealed: &'a mut [u8]) -> Result<&'a mut [u8]> {
        let plain = sealed.len().checked_sub(TAG).ok_or(TRUNCATED)?;
        let nonce = self.nonce(index, plain)?;
        self.aead.open_in_place(nonce, Aad::empty(), sealed).map_err(|_| TAMPERED)
    }

    /// Opens chunk `index` from `sealed` into `out`, which is [`TAG`] bytes shorter.
    ///
    /// # Errors
    /// As [`Self::open_chunk`]; [`ErrorKind::BadInput`] when `out` has another length. After an error
    /// `out` holds nothing of use.
    pub fn open_chunk_to(&self, index: u64, sealed: &[u8], out: &mut [u8]) -> Result<()> {
        let (chunk, tag) = sealed.split_at_checked(sealed.len().wrapping_sub(TAG)).ok_or(TRUNCATED)?;
        if chunk.len() != out.len() {
            return Err(LENGTHS);
        }
        let nonce = self.nonce(index, chunk.len())?;
        self.aead.open_separate_gather(nonce, Aad::empty(), chunk, tag, out).map_err(|_| {
            out.zeroize();
            TAMPERED
        })
    }

    fn nonce(&self, index: u64, plain: usize) -> Result<Nonce> {
        if plain > CHUNK || index >= MAX_CHUNKS {
            return Err(TOO_LARGE);
        }
        let mut nonce = self.base_nonce;
        for (byte, count) in nonce.iter_mut().rev().zip(index.to_le_bytes()) {
            *byte ^= count;
        }
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

impl Drop for MessageKey {
    fn drop(&mut self) {
        self.base_nonce.zeroize();
    }
}

impl fmt::Debug for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageKey")
    }
}

struct Derived {
    key: Zeroizing<[u8; SecretKey::LEN]>,
    base_nonce: [u8; NONCE_LEN],
    commitment: [u8; COMMITMENT],
}

impl Derived {
    fn new(key: &SecretKey, context: &[u8], salt: &[u8; SALT]) -> Result<Self> {
        let mut bytes = Zeroizing::new([0; DERIVED]);
        Prk::new_less_safe(HKDF_SHA512, key.expose())
            .expand(&[LABEL, AEAD, salt, context], OfLength(DERIVED))
            .and_then(|okm| okm.fill(bytes.as_mut_slice()))
            .map_err(|_| FAILED)?;
        let (key, rest) = bytes.split_first_chunk().ok_or(FAILED)?;
        let (base_nonce, commitment) = rest.split_first_chunk().ok_or(FAILED)?;
        let commitment = commitment.try_into().map_err(|_| FAILED)?;
        Ok(Self { key: Zeroizing::new(*key), base_nonce: *base_nonce, commitment })
    }

    fn into_key(self) -> Result<MessageKey> {
        let key = UnboundKey::new(&AES_256_GCM, self.key.as_slice()).map_err(|_| FAILED)?;
        Ok(MessageKey { aead: LessSafeKey::new(key), base_nonce: self.base_nonce })
    }
}

struct OfLength(usize);

impl KeyType for OfLength {
    fn len(&self) -> usize {
        self.0
    }
}

const FAILED: Error = Error::new(ErrorKind::BadInput, "the cipher library refused its input");
const LENGTHS: Error = Error::new(ErrorKind::BadInput, "the output does not have the chunk's length");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_opens_at_its_own_index_only() {
        let key = SecretKey::random().unwrap();
        let (message, prefix) = MessageKey::generate(&key, b"c").unwrap();
        let mut chunk = b"chunk three".to_vec();
        let tag = message.seal_chunk(3, &mut chunk).unwrap();
        chunk.extend_from_slice(&tag);
        let reader = MessageKey::open(&key, b"c", &prefix).unwrap();
        let mut out = [0; 11];
        assert_eq!(reader.open_chunk_to(2, &chunk, &mut out).unwrap_err().kind(), ErrorKind::Tampered);
        assert_eq!(out, [0; 11]);
        reader.open_chunk_to(3, &chunk, &mut out).unwrap();
        assert_eq!(&out, b"chunk three");
        assert_eq!(reader.open_chunk(3, &mut chunk).unwrap(), b"chunk three");
    }

    #[test]
    fn sealing_in_place_and_into_another_buffer_give_the_same_bytes() {
        let key = SecretKey::random().unwrap();
        let (message, _) = MessageKey::generate(&key, b"").unwrap();
        let mut in_place = [9; 100];
        let tag = message.seal_chunk(1, &mut in_place).unwrap();
        let mut out = [0; 100 + TAG];
        message.seal_chunk_to(1, &[9; 100], &mut out).unwrap();
        assert_eq!((&out[..100], &out[100..]), (&in_place[..], &tag[..]));
    }

    #[test]
    fn chunks_beyond_the_limits_are_refused() {
        let (message, _) = MessageKey::generate(&SecretKey::random().unwrap(), b"").unwrap();
        assert_eq!(message.seal_chunk(MAX_CHUNKS, &mut []).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(message.seal_chunk(0, &mut vec![0; CHUNK + 1]).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(message.open_chunk(0, &mut [0; TAG - 1]).unwrap_err().kind(), ErrorKind::Truncated);
        assert_eq!(
            message.open_chunk_to(0, &[0; TAG - 1], &mut []).unwrap_err().kind(),
            ErrorKind::Truncated
        );
    }
}
