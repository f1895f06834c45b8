//! Bundles of entries: each after its length, a big-endian u16.
//!
//! Invariant: an entry that does not fit its length is refused, never cut.

use bytes::Bytes;
use claviger_core::{Error, ErrorKind, Result};

/// The most that an entry may have, bytes.
pub const LEAF_BYTES: usize = u16::MAX as usize;
const LENGTH_BYTES: usize = 2;

/// Entries as a bundle.
///
/// # Errors
/// `ResourceExhausted` when one has more than [`LEAF_BYTES`].
pub fn encode<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>> {
    let mut bundle = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.len()).map_err(|_| {
            Error::new(
                ErrorKind::ResourceExhausted,
                format!("an entry has more than {LEAF_BYTES} bytes: it fits no bundle"),
            )
        })?;
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(entry);
    }
    Ok(bundle)
}

/// What a bundle holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The entries that can be read.
    pub entries: Vec<Bytes>,
    /// Whether the bundle ends with the last of these.
    pub whole: bool,
}

impl Bundle {
    /// Reads a bundle, as far as it can be read.
    #[must_use]
    pub fn decode(mut bytes: Bytes) -> Self {
        let mut entries = Vec::new();
        while let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() {
            let end = LENGTH_BYTES + usize::from(u16::from_be_bytes(*length));
            if end > bytes.len() {
                break;
            }
            entries.push(bytes.split_to(end).slice(LENGTH_BYTES..));
        }
        Self { entries, whole: bytes.is_empty() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_a_cut_bundle_gives_those_before_the_cut() {
        let entries: [&[u8]; 3] = [b"one", b"", &[7; LEAF_BYTES]];
        let encoded = encode(entries).unwrap();
        assert_eq!(encoded[..5], *b"\0\x03one");
        let bundle = Bundle::decode(Bytes::from(encoded.clone()));
        assert!(bundle.whole);
        assert_eq!(bundle.entries, entries);
        for cut in [encoded.len() - 1, 8, 6] {
            let bundle = Bundle::decode(Bytes::copy_from_slice(&encoded[..cut]));
            assert!(!bundle.whole && bundle.entries == entries[..bundle.entries.len()], "{cut}");
        }
        assert_eq!(Bundle::decode(Bytes::new()), Bundle { entries: vec![], whole: true });
    }

    #[test]
    fn an_entry_that_is_too_long_is_refused() {
        let error = encode([&[0; LEAF_BYTES + 1][..]]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }
}
