//! What Encrypt gives out. The format is public; see `docs/formats.md`.
//!
//! ```text
//!  0        4         5                     13
//! +--------+---------+---------------------+---------------------------------+
//! | "CVKC" | 1       | version number, u64 | Cobblestone-256 message         |
//! +--------+---------+---------------------+---------------------------------+
//! ```
//! Numbers are big-endian. The message's key is the version's material. Its context is four parts, each
//! after its length as u64: `claviger.kms.ciphertext.v1`, the key's name, the version number (8 bytes), the
//! additional data.
//!
//! Invariant: a ciphertext opens under the version that made it, with the same additional data, or not at all.

use claviger_core::limits::KMS_PLAINTEXT_BYTES;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, Result};
use claviger_crypto::{SecretBytes, SecretKey, cobblestone};

use crate::texts;

const MAGIC: [u8; 4] = *b"CVKC";
const FORMAT: u8 = 1;
const HEADER: usize = 13;
const DOMAIN: &[u8] = b"claviger.kms.ciphertext.v1";

/// Parts, each after its length: no two lists of parts give the same bytes.
pub(crate) fn length_prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn context(key: &CryptoKeyName, version: u64, aad: &[u8]) -> Vec<u8> {
    length_prefixed(&[DOMAIN, key.as_str().as_bytes(), &version.to_be_bytes(), aad])
}

/// Encrypts under a version's material.
///
/// # Errors
/// `Internal` when the machine gives no random bytes.
pub(crate) fn seal(
    material: &SecretKey,
    key: &CryptoKeyName,
    version: u64,
    aad: &[u8],
    plaintext: &SecretBytes,
) -> Result<Vec<u8>> {
    let message = cobblestone::seal(material, &context(key, version, aad), plaintext.expose())
        .map_err(|e| Error::internal("the plaintext could not be sealed").because(e))?;
    Ok(frame(version, &message))
}

fn frame(version: u64, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + message.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.push(FORMAT);
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}

/// The number of the version that made a ciphertext, and the message in it. Nothing of it is verified yet.
///
/// # Errors
/// `InvalidArgument` when it is no ciphertext of this KMS, or longer than any.
pub(crate) fn parse(ciphertext: &[u8]) -> Result<(u64, &[u8])> {
    let longest = cobblestone::sealed_len(KMS_PLAINTEXT_BYTES as u64).saturating_add(HEADER as u64);
    if ciphertext.len() as u64 > longest {
        return Err(texts::bad_ciphertext());
    }
    let rest = ciphertext.strip_prefix(&MAGIC).and_then(|rest| rest.strip_prefix(&[FORMAT]));
    let (number, message) =
        rest.and_then(|rest| rest.split_first_chunk::<8>()).ok_or_else(texts::bad_ciphertext)?;
    Ok((u64::from_be_bytes(*number), message))
}

/// Decrypts a message that [`parse`] found.
///
/// # Errors
/// `InvalidArgument`, the same for all causes.
pub(crate) fn open(
    material: &SecretKey,
    key: &CryptoKeyName,
    version: u64,
    aad: &[u8],
    message: &[u8],
) -> Result<SecretBytes> {
    cobblestone::open_secret(material, &context(key, version, aad), message)
        .map_err(|e| texts::bad_ciphertext().because(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_core::ErrorKind;

    fn key(id: &str) -> CryptoKeyName {
        CryptoKeyName::new("p", "us-east1", "r", id).unwrap()
    }

    fn material() -> SecretKey {
        SecretKey::from_slice(&[7; 32]).unwrap()
    }

    fn secret(text: &[u8]) -> SecretBytes {
        SecretBytes::new(text.to_vec())
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// Made by another implementation of the format. When this test fails, ciphertexts of users no longer open.
    const GOLDEN: &str = include_str!("ciphertext/golden.hex");

    #[test]
    fn the_golden_ciphertext_opens() {
        let golden = unhex(GOLDEN.trim());
        assert_eq!(golden[..HEADER], *b"CVKC\x01\0\0\0\0\0\0\x01\x02");
        let (version, message) = parse(&golden).unwrap();
        assert_eq!(version, 258);
        let opened = open(&material(), &key("k"), version, b"aad", message).unwrap();
        assert_eq!(opened.expose(), b"golden plaintext");
    }

    #[test]
    fn it_opens_only_with_the_same_material_key_version_and_additional_data() {
        let sealed = seal(&material(), &key("k"), 3, b"aad", &secret(b"text")).unwrap();
        let (version, message) = parse(&sealed).unwrap();
        assert_eq!(version, 3);
        assert_eq!(open(&material(), &key("k"), 3, b"aad", message).unwrap().expose(), b"text");
        let other = SecretKey::from_slice(&[8; 32]).unwrap();
        for result in [
            open(&other, &key("k"), 3, b"aad", message),
            open(&material(), &key("k2"), 3, b"aad", message),
            open(&material(), &key("k"), 4, b"aad", message),
            open(&material(), &key("k"), 3, b"aae", message),
            open(&material(), &key("k"), 3, b"", message),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert_eq!(error.message(), "Decryption failed: the ciphertext is invalid.");
        }
    }

    #[test]
    fn each_changed_and_each_missing_byte_is_noticed() {
        let sealed = seal(&material(), &key("k"), 3, b"aad", &secret(b"text")).unwrap();
        let opens = |bytes: &[u8]| {
            parse(bytes).and_then(|(version, message)| open(&material(), &key("k"), version, b"aad", message))
        };
        assert!(opens(&sealed).is_ok());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(opens(&changed).is_err(), "byte {at}");
            assert!(opens(&sealed[..at]).is_err(), "length {at}");
        }
        assert!(opens(&[sealed.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn random_bytes_are_refused_and_make_nothing_panic() {
        for len in 0..300 {
            let mut bytes = SecretBytes::random(len).unwrap().expose().to_vec();
            crate::fuzzing::ciphertext(&bytes);
            crate::fuzzing::root(&bytes);
            for (byte, magic) in bytes.iter_mut().zip(b"CVKC\x01") {
                *byte = *magic;
            }
            crate::fuzzing::ciphertext(&bytes);
        }
    }

    #[test]
    fn lengths_keep_parts_apart() {
        assert_ne!(length_prefixed(&[b"ab", b"c"]), length_prefixed(&[b"a", b"bc"]));
        assert_ne!(length_prefixed(&[b"", b"a"]), length_prefixed(&[b"a", b""]));
    }
}
