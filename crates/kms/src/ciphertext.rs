//! What Encrypt gives out. The format is public; see `docs/formats.md`.
//!
//! ```text
//!  0        4         5                     13
//! +--------+---------+---------------------+---------------------------------+
//! | "CVKC" | 1       | version number, u64 | Cobblestone-256 message         |
//! +--------+---------+---------------------+---------------------------------+
//! | "CVKC" | 2       | version number, u64 | what the external manager gave  |
//! +--------+---------+---------------------+---------------------------------+
//! | "CVKC" | 3       | version number, u64 | nonce, 12 | what the token gave |
//! +--------+---------+---------------------+---------------------------------+
//! ```
//! Numbers are big-endian. The message's key is the version's material. Its context is four parts, each
//! after its length as u64: `claviger.kms.ciphertext.v1`, the key's name, the version number (8 bytes), the
//! additional data. Under an external key the external manager wraps such a message, whose context begins with
//! `claviger.kms.external.v1`; under an HSM key the token encrypts one, by AES-256-GCM with the version's full name as
//! its additional data, and the context begins with `claviger.kms.hsm.v1`.
//!
//! Invariant: a ciphertext opens under the version that made it, with the same additional data, or not at all.

use claviger_core::limits::{KMS_HSM_BYTES, KMS_PLAINTEXT_BYTES};
use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, Result};
use claviger_crypto::{SecretBytes, SecretKey, cobblestone};

use crate::texts;

const MAGIC: [u8; 4] = *b"CVKC";
const OWN: u8 = 1;
const EXTERNAL: u8 = 2;
const HSM: u8 = 3;
const HEADER: usize = 13;
/// Bytes that an external key manager may add to what it wraps, at most.
pub(crate) const EXTERNAL_OVERHEAD: u64 = 16 * 1024;
/// Bytes that a token adds: a nonce and a tag.
const HSM_OVERHEAD: u64 = 12 + 16;

/// What is around the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The message is the ciphertext.
    Own,
    /// The external manager wraps the message.
    External,
    /// The token encrypts the message.
    Hsm,
}

impl Kind {
    fn format(self) -> u8 {
        match self {
            Self::Own => OWN,
            Self::External => EXTERNAL,
            Self::Hsm => HSM,
        }
    }

    fn domain(self) -> &'static [u8] {
        match self {
            Self::Own => b"claviger.kms.ciphertext.v1",
            Self::External => b"claviger.kms.external.v1",
            Self::Hsm => b"claviger.kms.hsm.v1",
        }
    }

    fn of_format(format: u8) -> Option<Self> {
        [Self::Own, Self::External, Self::Hsm].into_iter().find(|kind| kind.format() == format)
    }

    /// Bytes that a ciphertext has after its header, at most.
    fn longest(self) -> u64 {
        match self {
            Self::Own => cobblestone::sealed_len(KMS_PLAINTEXT_BYTES as u64),
            Self::External => Self::Own.longest().saturating_add(EXTERNAL_OVERHEAD),
            Self::Hsm => cobblestone::sealed_len(KMS_HSM_BYTES as u64).saturating_add(HSM_OVERHEAD),
        }
    }
}

/// A ciphertext, taken apart. Nothing of it is verified yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parsed<'a> {
    /// The number of the version that made it.
    pub(crate) version: u64,
    /// What is around the message.
    pub(crate) kind: Kind,
    /// The message, or what wraps it.
    pub(crate) message: &'a [u8],
}

/// Parts, each after its length: no two lists of parts give the same bytes.
pub(crate) fn length_prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn context(kind: Kind, key: &CryptoKeyName, version: u64, aad: &[u8]) -> Vec<u8> {
    length_prefixed(&[kind.domain(), key.as_str().as_bytes(), &version.to_be_bytes(), aad])
}

/// Encrypts under a version's material: a ciphertext of [`Kind::Own`], without its header.
///
/// # Errors
/// `Internal` when the machine gives no random bytes.
pub(crate) fn seal(
    kind: Kind,
    material: &SecretKey,
    key: &CryptoKeyName,
    version: u64,
    aad: &[u8],
    plaintext: &SecretBytes,
) -> Result<Vec<u8>> {
    cobblestone::seal(material, &context(kind, key, version, aad), plaintext.expose())
        .map_err(|e| Error::internal("the plaintext could not be sealed").because(e))
}

/// A ciphertext of a message, or of what an external manager or a token made of one.
pub(crate) fn frame(kind: Kind, version: u64, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + message.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.push(kind.format());
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}

/// Whether a message, or what is around one, is not longer than a ciphertext may have it.
pub(crate) fn fitting(kind: Kind, message: &[u8]) -> bool {
    message.len() as u64 <= kind.longest()
}

/// Takes a ciphertext apart.
///
/// # Errors
/// `InvalidArgument` when it is no ciphertext of this KMS, or longer than any.
pub(crate) fn parse(ciphertext: &[u8]) -> Result<Parsed<'_>> {
    let taken = || {
        let (format, rest) = ciphertext.strip_prefix(&MAGIC)?.split_first()?;
        let (number, message) = rest.split_first_chunk::<8>()?;
        let kind = Kind::of_format(*format)?;
        fitting(kind, message).then_some(Parsed { version: u64::from_be_bytes(*number), kind, message })
    };
    taken().ok_or_else(texts::bad_ciphertext)
}

/// Decrypts a message that [`parse`] found, or what an external manager or a token made of it.
///
/// # Errors
/// `InvalidArgument`, the same for all causes.
pub(crate) fn open(
    kind: Kind,
    material: &SecretKey,
    key: &CryptoKeyName,
    version: u64,
    aad: &[u8],
    message: &[u8],
) -> Result<SecretBytes> {
    cobblestone::open_secret(material, &context(kind, key, version, aad), message)
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

    fn sealed() -> Vec<u8> {
        let message = seal(Kind::Own, &material(), &key("k"), 3, b"aad", &secret(b"text")).unwrap();
        frame(Kind::Own, 3, &message)
    }

    #[test]
    fn what_an_external_manager_gave_is_kept_as_it_is_up_to_a_limit() {
        let longest = cobblestone::sealed_len(KMS_PLAINTEXT_BYTES as u64) + EXTERNAL_OVERHEAD;
        let blob = vec![5; usize::try_from(longest).unwrap()];
        let framed = frame(Kind::External, 7, &blob);
        assert_eq!(framed[..HEADER], *b"CVKC\x02\0\0\0\0\0\0\0\x07");
        assert_eq!(parse(&framed).unwrap(), Parsed { version: 7, kind: Kind::External, message: &blob });
        assert!(parse(&[framed.as_slice(), b"x"].concat()).is_err());
        assert!(parse(b"CVKC\x04\0\0\0\0\0\0\0\x07blob").is_err());
    }

    #[test]
    fn what_a_token_gave_is_kept_as_it_is_up_to_a_limit() {
        let longest = cobblestone::sealed_len(KMS_HSM_BYTES as u64) + HSM_OVERHEAD;
        let blob = vec![5; usize::try_from(longest).unwrap()];
        let framed = frame(Kind::Hsm, 7, &blob);
        assert_eq!(framed[..HEADER], *b"CVKC\x03\0\0\0\0\0\0\0\x07");
        assert_eq!(parse(&framed).unwrap(), Parsed { version: 7, kind: Kind::Hsm, message: &blob });
        assert!(parse(&[framed.as_slice(), b"x"].concat()).is_err());
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// Made by another implementation of the format. When this test fails, ciphertexts of users no longer open.
    const GOLDEN: &str = include_str!("ciphertext/golden.hex");
    /// The same under an HSM key: the ciphertext, and what the token (with the key 09 09 ...) makes of its message.
    const GOLDEN_HSM: &str = include_str!("ciphertext/golden_hsm.hex");

    #[test]
    fn the_golden_ciphertext_opens() {
        let golden = unhex(GOLDEN.trim());
        assert_eq!(golden[..HEADER], *b"CVKC\x01\0\0\0\0\0\0\x01\x02");
        let Parsed { version, kind, message } = parse(&golden).unwrap();
        assert_eq!((version, kind), (258, Kind::Own));
        let opened = open(kind, &material(), &key("k"), version, b"aad", message).unwrap();
        assert_eq!(opened.expose(), b"golden plaintext");
    }

    #[test]
    fn the_golden_ciphertext_of_an_hsm_key_opens_once_the_token_has_decrypted_it() {
        let (ciphertext, decrypted) = GOLDEN_HSM.trim().split_once('\n').unwrap();
        let (ciphertext, decrypted) = (unhex(ciphertext), unhex(decrypted));
        let Parsed { version, kind, message } = parse(&ciphertext).unwrap();
        assert_eq!((version, kind, message.len()), (258, Kind::Hsm, decrypted.len() + 28));
        let opened = open(kind, &material(), &key("k"), version, b"aad", &decrypted).unwrap();
        assert_eq!(opened.expose(), b"golden plaintext");
        assert!(open(Kind::Own, &material(), &key("k"), version, b"aad", &decrypted).is_err());
    }

    #[test]
    fn it_opens_only_with_the_same_material_key_version_and_additional_data() {
        let sealed = sealed();
        let Parsed { version, kind, message } = parse(&sealed).unwrap();
        assert_eq!((version, kind), (3, Kind::Own));
        assert_eq!(open(kind, &material(), &key("k"), 3, b"aad", message).unwrap().expose(), b"text");
        let other = SecretKey::from_slice(&[8; 32]).unwrap();
        for result in [
            open(kind, &other, &key("k"), 3, b"aad", message),
            open(kind, &material(), &key("k2"), 3, b"aad", message),
            open(kind, &material(), &key("k"), 4, b"aad", message),
            open(kind, &material(), &key("k"), 3, b"aae", message),
            open(kind, &material(), &key("k"), 3, b"", message),
            open(Kind::External, &material(), &key("k"), 3, b"aad", message),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert_eq!(error.message(), "Decryption failed: the ciphertext is invalid.");
        }
    }

    #[test]
    fn each_changed_and_each_missing_byte_is_noticed() {
        let sealed = sealed();
        let opens = |bytes: &[u8]| {
            parse(bytes).and_then(|parsed| {
                open(parsed.kind, &material(), &key("k"), parsed.version, b"aad", parsed.message)
            })
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
