//! The Merkle tree's hashes: of entries, of pairs, of perfect subtrees.
//!
//! Invariant: a hash of an entry is never the hash of a pair; RFC 6962 parts them by their first byte.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use claviger_crypto::{SHA256_BYTES, sha256};

/// A hash of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; SHA256_BYTES]);

impl Hash {
    /// Bytes of a hash.
    pub const LEN: usize = SHA256_BYTES;

    /// The hash of an entry.
    #[must_use]
    pub fn leaf(entry: &[u8]) -> Self {
        Self(sha256(&[&[0], entry]))
    }

    /// The hash of two subtrees that lie side by side.
    #[must_use]
    pub fn node(left: Self, right: Self) -> Self {
        Self(sha256(&[&[1], &left.0, &right.0]))
    }

    /// The hash of the tree without entries.
    #[must_use]
    pub fn empty() -> Self {
        Self(sha256(&[]))
    }

    /// Reads base64, as [`struct@Hash`] displays itself.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        BASE64.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// The hashes that stand one after the other in `bytes`.
    #[must_use]
    pub fn split(bytes: &[u8]) -> Option<Vec<Self>> {
        let (hashes, rest) = bytes.as_chunks::<SHA256_BYTES>();
        rest.is_empty().then(|| hashes.iter().map(|hash| Self(*hash)).collect())
    }

    /// The hashes one after the other.
    #[must_use]
    pub fn join(hashes: &[Self]) -> Vec<u8> {
        hashes.iter().flat_map(|hash| hash.0).collect()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// The roots of the perfect subtrees that make up a row of subtrees of one size, the largest first.
#[must_use]
pub fn peaks(row: &[Hash]) -> Vec<Hash> {
    let mut peaks = Vec::new();
    for (before, hash) in row.iter().enumerate() {
        let mut hash = *hash;
        // As many pairs end here as there are ones at the end of the number of those before.
        for _ in 0..before.trailing_ones() {
            if let Some(left) = peaks.pop() {
                hash = Hash::node(left, hash);
            }
        }
        peaks.push(hash);
    }
    peaks
}

/// The hash of perfect subtrees that lie side by side, each smaller than the one before.
#[must_use]
pub fn fold(peaks: &[Hash]) -> Hash {
    peaks.iter().rev().copied().reduce(|right, left| Hash::node(left, right)).unwrap_or_else(Hash::empty)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// RFC 6962's definition of the Merkle tree hash, word for word.
    pub(crate) fn plain_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::empty(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                Hash::node(plain_root(left), plain_root(right))
            }
        }
    }

    /// Leaves of a tree of which the roots are known.
    pub(crate) fn known_leaves() -> Vec<Hash> {
        let entries: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        entries.iter().map(|entry| Hash::leaf(entry)).collect()
    }

    pub(crate) fn hex(hash: Hash) -> String {
        hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn roots_are_those_that_certificate_transparency_tests_with() {
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let leaves = known_leaves();
        for (size, root) in roots.into_iter().enumerate() {
            assert_eq!(hex(fold(&peaks(&leaves[..size]))), root, "{size}");
            assert_eq!(hex(plain_root(&leaves[..size])), root, "{size}");
        }
    }

    #[test]
    fn a_hash_is_read_from_base64_of_its_own_length_only() {
        let hash = Hash::leaf(b"x");
        assert_eq!(Hash::parse(&hash.to_string()), Some(hash));
        for wrong in ["", "AAAA", "not base64", &format!("{hash} ")] {
            assert_eq!(Hash::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Hash::split(&Hash::join(&[hash, Hash::empty()])), Some(vec![hash, Hash::empty()]));
        assert_eq!(Hash::split(&[0; 33]), None);
    }
}
