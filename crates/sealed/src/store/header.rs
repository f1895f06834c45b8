//! The header of a sealed file, and what its encryption is bound to.
//!
//! ```text
//!  0  magic     "CLVGSEAL"
//!  8  version   1
//!  9  flags     0 an object, 1 a segment of a log (see `log`)
//! 10  reserved  0 (2 bytes)
//! 12  key id    u32, little-endian: which generation of the scope's key
//! 16  sequence  u64, little-endian: see `ledger`
//! 24  reserved  0 (24 bytes)
//! 48  Cobblestone-256 message (salt 24, commitment 32, chunks)
//!
//! context = for each of "claviger sealed file", scope, path, header:
//!           length u32, little-endian | bytes
//! ```
//!
//! Invariant: header, scope and path are part of the context, so that the message's commitment fails
//! when any of them is another one. The path is the one inside the store, so a store can be moved.

use claviger_crypto::cobblestone::{PREFIX, SEALED_CHUNK, plain_len, sealed_len};

use crate::scope::{KeyId, ScopeId};

/// Bytes of the header.
pub const HEADER: usize = 48;
/// Bytes before the first chunk of a file.
pub const FRONT: usize = HEADER + PREFIX;

const MAGIC: &[u8; 8] = b"CLVGSEAL";
const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"claviger sealed file";
const HEADER_U64: u64 = HEADER as u64;
const FRONT_U64: u64 = FRONT as u64;
const SEALED_CHUNK_U64: u64 = SEALED_CHUNK as u64;

/// What a sealed file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which generation of the scope's key it is sealed under.
    pub key: KeyId,
    /// Its place in the order of the store's writes.
    pub sequence: u64,
    /// Whether it is a segment of a log, and no object.
    pub log: bool,
}

impl Header {
    /// The bytes that the file begins with.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = VERSION;
        bytes[9] = u8::from(self.log);
        bytes[12..16].copy_from_slice(&self.key.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// The header of a file that begins with `bytes`; none when it is no sealed file of this version.
    /// Nothing in it is to be believed before the message's commitment was checked.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.first_chunk()?;
        let key = u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?);
        let sequence = u64::from_le_bytes(*bytes.get(16..)?.first_chunk()?);
        let header = Self { key: KeyId(key), sequence, log: bytes.get(9) == Some(&1) };
        // Magic, version, flags and all that is reserved are compared at once.
        (header.encode() == *bytes).then_some(header)
    }

    /// What the file's message is bound to.
    #[must_use]
    pub fn context(&self, scope: &ScopeId, path: &str) -> Vec<u8> {
        let header = self.encode();
        let parts: [&[u8]; 4] = [DOMAIN, scope.as_str().as_bytes(), path.as_bytes(), &header];
        let mut context = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
        for part in parts {
            // Longer names than this do not exist; a length that saturates still cannot be confused.
            context.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            context.extend_from_slice(part);
        }
        context
    }
}

/// The length of the file of an object of `plain` bytes.
#[must_use]
pub fn file_len(plain: u64) -> u64 {
    HEADER_U64 + sealed_len(plain)
}

/// The length of the object in a file of `file` bytes; none when no file has that length.
#[must_use]
pub fn object_len(file: u64) -> Option<u64> {
    plain_len(file.checked_sub(HEADER_U64)?).ok()
}

/// Where chunk `index` begins in its file.
pub(super) fn chunk_start(index: u64) -> u64 {
    FRONT_U64.saturating_add(index.saturating_mul(SEALED_CHUNK_U64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_any_changed_byte_of_the_fixed_parts_makes_it_none() {
        let header = Header { key: KeyId(0x0102_0304), sequence: 0x1122_3344_5566_7788, log: false };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        for position in (0..12).chain(24..HEADER) {
            let mut changed = bytes;
            changed[position] ^= 0x40;
            assert_eq!(Header::decode(&changed), None, "byte {position}");
        }
        assert_eq!(Header::decode(&bytes[..HEADER - 1]), None);
        let log = Header { log: true, ..header };
        assert_eq!(Header::decode(&log.encode()), Some(log));
    }

    #[test]
    fn contexts_differ_when_scope_path_or_header_do_and_cannot_be_shifted() {
        let header = Header { key: KeyId(1), sequence: 1, log: false };
        let context = |scope: &str, path: &str, header: Header| header.context(&ScopeId::new(scope), path);
        let first = context("ab", "c", header);
        assert_ne!(first, context("a", "bc", header));
        assert_ne!(first, context("ab", "d", header));
        assert_ne!(first, context("ab", "c", Header { sequence: 2, ..header }));
        assert_ne!(first, context("ab", "c", Header { key: KeyId(2), ..header }));
        assert_ne!(first, context("ab", "c", Header { log: true, ..header }));
    }

    #[test]
    fn lengths_map_both_ways_and_impossible_files_have_none() {
        for plain in [0, 1, 16_383, 16_384, 16_385, 1 << 30] {
            assert_eq!(object_len(file_len(plain)), Some(plain));
        }
        assert_eq!(file_len(0), 120);
        for file in [0, 47, 103, 119, file_len(16_383) + 1] {
            assert_eq!(object_len(file), None, "{file}");
        }
    }
}
