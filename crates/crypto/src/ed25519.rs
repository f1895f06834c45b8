//! Signatures by Ed25519 (RFC 8032).
//!
//! Invariant: the same key gives the same signature of the same message, always.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretKey;

/// Bytes of a public key.
pub const PUBLIC_KEY_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// What signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: [u8; PUBLIC_KEY_BYTES],
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// The key of a seed, the 32 secret bytes of RFC 8032.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when the library does not take the seed.
    pub fn from_seed(seed: &SecretKey) -> Result<Self> {
        let wrong = || Error::new(ErrorKind::BadInput, "no Ed25519 key comes of this seed");
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| wrong())?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| wrong())?;
        Ok(Self { pair, public })
    }

    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; PUBLIC_KEY_BYTES] {
        self.public
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

/// Whether `signature` is of `message` by the owner of `public`.
#[must_use]
pub fn verify(public: &[u8; PUBLIC_KEY_BYTES], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn keys_and_signatures_are_those_of_rfc_8032() {
        for (seed, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
        ] {
            let key = SigningKey::from_seed(&SecretKey::from_slice(&bytes(seed)).unwrap()).unwrap();
            assert_eq!(key.public_key().to_vec(), bytes(public));
            assert_eq!(key.sign(&bytes(message)).to_vec(), bytes(signature));
            assert!(verify(&key.public_key(), &bytes(message), &bytes(signature)));
        }
    }

    #[test]
    fn a_changed_message_signature_or_key_does_not_verify() {
        let key = SigningKey::from_seed(&SecretKey::from_slice(&[7; 32]).unwrap()).unwrap();
        let other = SigningKey::from_seed(&SecretKey::from_slice(&[8; 32]).unwrap()).unwrap();
        let mut signature = key.sign(b"message");
        assert!(!verify(&other.public_key(), b"message", &signature));
        assert!(!verify(&key.public_key(), b"massage", &signature));
        assert!(!verify(&key.public_key(), b"message", &signature[..63]));
        signature[5] ^= 1;
        assert!(!verify(&key.public_key(), b"message", &signature));
    }
}
