//! `Debug` for messages that carry plaintext: sizes, never contents.
//!
//! Invariant: every message that `build.rs` lists as redacted has its `Debug` here.

use std::fmt;

use crate::google::cloud::kms::v1::{DecryptResponse, EncryptRequest};

impl fmt::Debug for EncryptRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptRequest")
            .field("name", &self.name)
            .field("plaintext_bytes", &self.plaintext.len())
            .field("additional_authenticated_data_bytes", &self.additional_authenticated_data.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DecryptResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecryptResponse")
            .field("plaintext_bytes", &self.plaintext.len())
            .field("used_primary", &self.used_primary)
            .field("protection_level", &self.protection_level)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_sizes_and_no_plaintext() {
        let request = EncryptRequest { name: "k".into(), plaintext: "hunter2".into(), ..Default::default() };
        let reply = DecryptResponse { plaintext: "hunter2".into(), ..Default::default() };
        for shown in [format!("{request:?}"), format!("{reply:?}")] {
            assert!(shown.contains("plaintext_bytes: 7"), "{shown}");
            assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
        }
    }
}
