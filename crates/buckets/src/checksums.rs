//! The checksums that Cloud Storage keeps of every object, computed while its bytes pass.
//!
//! Invariant: MD5 here guards against accidents on the way, never against an attacker.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claviger_core::Result;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use crate::errors::bad_checksum;

/// What clients say that the bytes they send are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// CRC32C in base64, big-endian.
    pub crc32c: Option<String>,
    /// MD5 in base64.
    pub md5: Option<String>,
}

/// The sums of what passed so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checksums {
    crc32c: u32,
    md5: Md5,
    len: u64,
}

/// The sums of a whole content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) crc32c: u32,
    pub(crate) md5: [u8; 16],
    pub(crate) len: u64,
}

impl Checksums {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.md5.update(bytes);
        self.len += bytes.len() as u64;
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn sums(&self) -> Sums {
        Sums { crc32c: self.crc32c, md5: self.md5.clone().finalize().into(), len: self.len }
    }
}

impl Sums {
    /// Compares with what the client said.
    pub(crate) fn check(&self, expected: &Expected) -> Result<()> {
        let crc = encode_crc32c(self.crc32c);
        if let Some(sent) = expected.crc32c.as_ref().filter(|sent| **sent != crc) {
            return Err(bad_checksum("CRC32C", sent, &crc));
        }
        let md5 = STANDARD.encode(self.md5);
        match expected.md5.as_ref().filter(|sent| **sent != md5) {
            Some(sent) => Err(bad_checksum("MD5 hash", sent, &md5)),
            None => Ok(()),
        }
    }
}

/// A CRC32C as Cloud Storage writes it.
#[must_use]
pub fn encode_crc32c(sum: u32) -> String {
    STANDARD.encode(sum.to_be_bytes())
}

/// An MD5 as Cloud Storage writes it.
#[must_use]
pub fn encode_md5(sum: &[u8; 16]) -> String {
    STANDARD.encode(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_that_cloud_storage_shows() {
        let mut sums = Checksums::default();
        sums.update(b"hello ");
        sums.update(b"world");
        let sums = sums.sums();
        assert_eq!(encode_crc32c(sums.crc32c), "yZRlqg==");
        assert_eq!(encode_md5(&sums.md5), "XrY7u+Ae7tCTyyK7j1rNww==");
        assert_eq!(sums.len, 11);
    }

    #[test]
    fn a_wrong_sum_is_named_with_both_values() {
        let sums = Checksums::default().sums();
        sums.check(&Expected::default()).unwrap();
        sums.check(&Expected { crc32c: Some("AAAAAA==".into()), md5: None }).unwrap();
        let wrong = Expected { crc32c: Some("yZRlqg==".into()), md5: None };
        let error = sums.check(&wrong).unwrap_err();
        assert!(error.message().contains("yZRlqg==") && error.message().contains("AAAAAA=="), "{error}");
    }
}
