//! Encrypt and Decrypt as the public API has them, with its checksums both ways.
//!
//! Invariant: what was damaged on the way is silence. It says nothing about a key.

use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName};
use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::{SecretBytes, crc32c};
use claviger_kms::{Decrypted, Encrypted};
use claviger_proto::google::cloud::kms::v1 as pb;

pub(super) fn encrypt(key: &CryptoKeyName, plaintext: &SecretBytes, aad: &[u8]) -> pb::EncryptRequest {
    pb::EncryptRequest {
        name: key.to_string(),
        plaintext: plaintext.expose().to_vec().into(),
        additional_authenticated_data: aad.to_vec().into(),
        plaintext_crc32c: checksum(plaintext.expose()),
        additional_authenticated_data_crc32c: checksum(aad),
    }
}

pub(super) fn encrypted(reply: pb::EncryptResponse) -> Result<Encrypted> {
    let whole = reply.verified_plaintext_crc32c
        && reply.verified_additional_authenticated_data_crc32c
        && reply.ciphertext_crc32c == checksum(&reply.ciphertext);
    let version = CryptoKeyVersionName::parse(&reply.name).map_err(|_| damaged())?;
    if whole { Ok(Encrypted { ciphertext: reply.ciphertext.into(), version }) } else { Err(damaged()) }
}

pub(super) fn decrypt(key: &CryptoKeyName, ciphertext: &[u8], aad: &[u8]) -> pb::DecryptRequest {
    pb::DecryptRequest {
        name: key.to_string(),
        ciphertext: ciphertext.to_vec().into(),
        additional_authenticated_data: aad.to_vec().into(),
        ciphertext_crc32c: checksum(ciphertext),
        additional_authenticated_data_crc32c: checksum(aad),
    }
}

pub(super) fn decrypted(reply: pb::DecryptResponse) -> Result<Decrypted> {
    let whole = reply.plaintext_crc32c == checksum(&reply.plaintext);
    let plaintext = SecretBytes::new(Vec::from(reply.plaintext));
    if whole {
        Ok(Decrypted { plaintext, used_primary: reply.used_primary, cache_for: None })
    } else {
        Err(damaged())
    }
}

/// The error of an answer that cannot be what was sent.
pub(super) fn damaged() -> Error {
    Error::new(ErrorKind::Unavailable, "What came from the KMS was damaged on the way.")
}

fn checksum(bytes: &[u8]) -> Option<i64> {
    Some(i64::from(crc32c(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1";

    fn reply() -> pb::EncryptResponse {
        pb::EncryptResponse {
            name: VERSION.to_owned(),
            ciphertext: "sealed".into(),
            ciphertext_crc32c: checksum(b"sealed"),
            verified_plaintext_crc32c: true,
            verified_additional_authenticated_data_crc32c: true,
            ..Default::default()
        }
    }

    #[test]
    fn a_whole_answer_is_taken_and_a_damaged_one_is_silence() {
        assert_eq!(encrypted(reply()).unwrap().version.as_str(), VERSION);
        let damages: [fn(&mut pb::EncryptResponse); 5] = [
            |reply| reply.ciphertext = "other".into(),
            |reply| reply.ciphertext_crc32c = None,
            |reply| reply.verified_plaintext_crc32c = false,
            |reply| reply.verified_additional_authenticated_data_crc32c = false,
            |reply| reply.name = "k".to_owned(),
        ];
        for damage in damages {
            let mut reply = reply();
            damage(&mut reply);
            assert_eq!(encrypted(reply).unwrap_err().kind(), ErrorKind::Unavailable);
        }
        let whole = pb::DecryptResponse {
            plaintext: "p".into(),
            plaintext_crc32c: checksum(b"p"),
            used_primary: true,
            ..Default::default()
        };
        assert!(decrypted(whole.clone()).unwrap().used_primary);
        let changed = pb::DecryptResponse { plaintext: "q".into(), ..whole };
        assert_eq!(decrypted(changed).unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
