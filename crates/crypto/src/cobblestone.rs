//! Cobblestone-256: chunked encryption of a message of any length, as specified at
//! `c2sp.org/chunked-encryption`.
//!
//! ```text
//! sealed message:  salt (24) | commitment (32) | chunk 0 | chunk 1 | ... | last chunk
//! chunk:           ciphertext (16384; the last one 0 to 16383) | tag (16)
//!
//! key (32) | base nonce (12) | commitment (32) = HKDF-Expand-SHA512(input key, info, 76)
//! info = "c2sp.org/chunked-encryption@v1+" | "AEAD_AES_256_GCM" | 0x00 | salt | context
//! nonce of chunk i = base nonce XOR i (big-endian)
//! ```
//!
//! Each message has a key of its own, so nonces never repeat; the commitment ties the message to one
//! input key and context; the last chunk is strictly shorter than the others, so a cut shows.
//!
//! Invariant: no plaintext is given out before its chunk's tag and the message's commitment were
//! checked. This file does not decide what the context is: it must name what the message is for.

mod message;
#[cfg(test)]
mod vectors;

pub mod hazmat;

use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::secret::{SecretBytes, SecretKey};

pub use message::MessageKey;

/// Plaintext bytes in each chunk but the last.
pub const CHUNK: usize = 16_384;
/// Bytes that a chunk grows by.
pub const TAG: usize = 16;
/// Bytes of salt.
pub const SALT: usize = 24;
/// Bytes of commitment.
pub const COMMITMENT: usize = 32;
/// Bytes before the first chunk: salt and commitment.
pub const PREFIX: usize = SALT + COMMITMENT;
/// Bytes of a full chunk when sealed.
pub const SEALED_CHUNK: usize = CHUNK + TAG;
/// The most chunks of a message.
pub const MAX_CHUNKS: u64 = 1 << 38;

const CHUNK_U64: u64 = CHUNK as u64;
const TAG_U64: u64 = TAG as u64;
const PREFIX_U64: u64 = PREFIX as u64;
const SEALED_CHUNK_U64: u64 = SEALED_CHUNK as u64;
const MAX_PLAIN: u64 = MAX_CHUNKS * CHUNK_U64 - 1;

/// The length of the sealed form of `plain` bytes. Lengths above the construction's limit saturate at
/// the limit's sealed form; sealing refuses them.
#[must_use]
pub fn sealed_len(plain: u64) -> u64 {
    let plain = plain.min(MAX_PLAIN);
    PREFIX_U64 + plain + TAG_U64 * (plain / CHUNK_U64 + 1)
}

/// The length of what was sealed into `sealed` bytes.
///
/// # Errors
/// [`ErrorKind::Truncated`] when no message has that sealed length, [`ErrorKind::TooLarge`] above the
/// construction's limit.
pub fn plain_len(sealed: u64) -> Result<u64> {
    let chunks = sealed.checked_sub(PREFIX_U64).ok_or(TRUNCATED)?;
    let (full, last) = (chunks / SEALED_CHUNK_U64, chunks % SEALED_CHUNK_U64);
    let last = last.checked_sub(TAG_U64).ok_or(TRUNCATED)?;
    if full >= MAX_CHUNKS {
        return Err(TOO_LARGE);
    }
    Ok(full * CHUNK_U64 + last)
}

/// Seals a whole message under a random salt.
///
/// # Errors
/// [`ErrorKind::Random`] when the machine gives no random bytes.
pub fn seal(key: &SecretKey, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>> {
    let (message, prefix) = MessageKey::generate(key, context)?;
    seal_message(&message, &prefix, plaintext)
}

/// Opens a whole message.
///
/// # Errors
/// [`ErrorKind::WrongKey`] when key, context or prefix do not fit, [`ErrorKind::Tampered`] when a chunk
/// does not, [`ErrorKind::Truncated`] when there are too few bytes.
pub fn open(key: &SecretKey, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    let mut plain = vec![0; opened_len(sealed)?];
    open_into(key, context, sealed, &mut plain)?;
    Ok(plain)
}

/// Opens a whole message that holds a secret.
///
/// # Errors
/// As [`open`].
pub fn open_secret(key: &SecretKey, context: &[u8], sealed: &[u8]) -> Result<SecretBytes> {
    // Wiped also when a later chunk fails.
    let mut plain = Zeroizing::new(vec![0; opened_len(sealed)?]);
    open_into(key, context, sealed, &mut plain)?;
    Ok(SecretBytes::new(std::mem::take(&mut *plain)))
}

fn opened_len(sealed: &[u8]) -> Result<usize> {
    let len = plain_len(u64::try_from(sealed.len()).map_err(|_| TOO_LARGE)?)?;
    usize::try_from(len).map_err(|_| TOO_LARGE)
}

fn seal_message(message: &MessageKey, prefix: &[u8; PREFIX], plaintext: &[u8]) -> Result<Vec<u8>> {
    let plain = u64::try_from(plaintext.len()).map_err(|_| TOO_LARGE)?;
    if plain > MAX_PLAIN {
        return Err(TOO_LARGE);
    }
    let mut sealed = vec![0; usize::try_from(sealed_len(plain)).map_err(|_| TOO_LARGE)?];
    let (head, mut rest) = sealed.split_at_mut(PREFIX);
    head.copy_from_slice(prefix);
    let full = plaintext.chunks_exact(CHUNK);
    let last = full.remainder();
    for (chunk, index) in full.chain(std::iter::once(last)).zip(0..) {
        let (out, after) = rest.split_at_mut(chunk.len() + TAG);
        message.seal_chunk_to(index, chunk, out)?;
        rest = after;
    }
    Ok(sealed)
}

fn open_into(key: &SecretKey, context: &[u8], sealed: &[u8], mut plain: &mut [u8]) -> Result<()> {
    let (prefix, chunks) = sealed.split_first_chunk::<PREFIX>().ok_or(TRUNCATED)?;
    let message = MessageKey::open(key, context, prefix)?;
    // `plain_len` made sure that the last piece is shorter than a full chunk and holds a tag.
    let full = chunks.chunks_exact(SEALED_CHUNK);
    let last = full.remainder();
    for (chunk, index) in full.chain(std::iter::once(last)).zip(0..) {
        let (out, after) = plain.split_at_mut(chunk.len() - TAG);
        message.open_chunk_to(index, chunk, out)?;
        plain = after;
    }
    Ok(())
}

pub(crate) const TRUNCATED: Error = Error::new(ErrorKind::Truncated, "the sealed message is cut off");
pub(crate) const TOO_LARGE: Error =
    Error::new(ErrorKind::TooLarge, "the message is larger than the format allows");
pub(crate) const TAMPERED: Error = Error::new(ErrorKind::Tampered, "a chunk is not what was sealed");
pub(crate) const WRONG_KEY: Error =
    Error::new(ErrorKind::WrongKey, "the key or the context is not the message's own");

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_slice(&[7; 32]).unwrap()
    }

    fn message(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn what_is_sealed_opens_again_at_every_length_around_a_chunk() {
        for len in [0, 1, 15, 16, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 5 * CHUNK + 77] {
            let plain = message(len);
            let sealed = seal(&key(), b"ctx", &plain).unwrap();
            assert_eq!(sealed.len() as u64, sealed_len(len as u64));
            assert_eq!(plain_len(sealed.len() as u64).unwrap(), len as u64);
            assert_eq!(open(&key(), b"ctx", &sealed).unwrap(), plain);
            assert_eq!(open_secret(&key(), b"ctx", &sealed).unwrap().expose(), plain);
        }
    }

    #[test]
    fn another_key_or_context_is_told_from_a_changed_chunk() {
        let sealed = seal(&key(), b"ctx", b"hello").unwrap();
        let other = SecretKey::from_slice(&[8; 32]).unwrap();
        assert_eq!(open(&other, b"ctx", &sealed).unwrap_err().kind(), ErrorKind::WrongKey);
        assert_eq!(open(&key(), b"ctx2", &sealed).unwrap_err().kind(), ErrorKind::WrongKey);
        for (position, kind) in
            [(0, ErrorKind::WrongKey), (SALT, ErrorKind::WrongKey), (PREFIX, ErrorKind::Tampered)]
        {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert_eq!(open(&key(), b"ctx", &changed).unwrap_err().kind(), kind, "byte {position}");
        }
    }

    #[test]
    fn chunks_swapped_cut_repeated_or_added_are_noticed() {
        let sealed = seal(&key(), b"", &message(3 * CHUNK + 5)).unwrap();
        let (first, second) =
            (PREFIX..PREFIX + SEALED_CHUNK, PREFIX + SEALED_CHUNK..PREFIX + 2 * SEALED_CHUNK);
        let mut swapped = sealed.clone();
        swapped[first.clone()].copy_from_slice(&sealed[second.clone()]);
        swapped[second.clone()].copy_from_slice(&sealed[first.clone()]);
        let mut repeated = sealed.clone();
        repeated[second].copy_from_slice(&sealed[first.clone()]);
        let mut added = sealed.clone();
        added.extend_from_slice(&[0; SEALED_CHUNK]);
        for changed in [swapped, repeated, added, sealed[..sealed.len() - 1].to_vec()] {
            assert_eq!(open(&key(), b"", &changed).unwrap_err().kind(), ErrorKind::Tampered);
        }
        for cut in [0, PREFIX - 1, PREFIX, PREFIX + TAG - 1, PREFIX + SEALED_CHUNK, PREFIX + 3 * SEALED_CHUNK]
        {
            assert_eq!(
                open(&key(), b"", &sealed[..cut]).unwrap_err().kind(),
                ErrorKind::Truncated,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn two_seals_of_the_same_message_share_no_bytes_of_ciphertext() {
        let (a, b) = (seal(&key(), b"", &[0; 64]).unwrap(), seal(&key(), b"", &[0; 64]).unwrap());
        assert_ne!(a[..SALT], b[..SALT]);
        assert_ne!(a[PREFIX..], b[PREFIX..]);
    }

    #[test]
    fn lengths_map_back_and_forth_up_to_the_limit() {
        for plain in [0, 1, CHUNK_U64 - 1, CHUNK_U64, 123_456_789, MAX_PLAIN - 1, MAX_PLAIN] {
            assert_eq!(plain_len(sealed_len(plain)).unwrap(), plain);
        }
        assert_eq!(
            plain_len(sealed_len(MAX_PLAIN) + SEALED_CHUNK_U64).unwrap_err().kind(),
            ErrorKind::TooLarge
        );
        assert_eq!(sealed_len(u64::MAX), sealed_len(MAX_PLAIN));
    }
}
