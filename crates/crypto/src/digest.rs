//! SHA-256, for the hashes of the audit log's tree.

use aws_lc_rs::digest::{Context, SHA256};

/// Bytes of a hash.
pub const SHA256_BYTES: usize = 32;

/// The SHA-256 of the parts, one after the other.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; SHA256_BYTES] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; SHA256_BYTES];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::sha256;

    #[test]
    fn the_hash_is_that_of_fips_180_however_the_bytes_are_parted() {
        let abc = sha256(&[b"abc"]);
        assert_eq!(abc[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(abc[28..], [0xf2, 0x00, 0x15, 0xad]);
        assert_eq!(sha256(&[b"a", b"", b"bc"]), abc);
        assert_eq!(sha256(&[])[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    }
}
