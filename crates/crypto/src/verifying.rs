//! Public keys that others sign with, in the forms that they are handed out in: `SubjectPublicKeyInfo` and certificates
//! (RFC 5280), in DER or PEM.
//!
//! Invariant: a key verifies by one scheme, which its kind decides and no message can change. Bytes that are no key are
//! refused and never panic.

use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _, Reader as _, SliceReader};
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};

use crate::error::{Error, ErrorKind, Result};
use crate::{certificate, es256, rs256, sha256};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ELLIPTIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// Bytes of an RSA modulus, at least and at most.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
const NO_KEY: Error = Error::new(ErrorKind::BadInput, "this is no public key of RSA or on P-256");
const KEY_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const KEY_END: &str = "-----END PUBLIC KEY-----";

/// From when and until when a certificate is good, in seconds since the Unix epoch.
pub type Lifetime = (u64, u64);

/// A scheme of signatures, by its name in JSON Web Tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RSA with PKCS #1 v1.5 padding and SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

impl Scheme {
    /// The scheme of a name. No other name is ever one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            _ => None,
        }
    }
}

/// What verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyingKey {
    /// A key of RSA.
    Rsa(rs256::PublicKey),
    /// A key on P-256.
    P256(es256::PublicKey),
}

impl VerifyingKey {
    /// A key of RSA by its modulus and exponent, in big-endian bytes.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when the modulus is shorter than 2048 bits or longer than 8192, or the exponent is none.
    pub fn rsa(n: &[u8], e: &[u8]) -> Result<Self> {
        let bare = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
        let (n, e) = (bare(n), bare(e));
        let is_odd = |bytes: &[u8]| bytes.last().is_some_and(|byte| byte % 2 == 1);
        if !RSA_BYTES.contains(&n.len()) || e.len() > 8 || !is_odd(&n) || !is_odd(&e) || e == [1] {
            return Err(NO_KEY);
        }
        Ok(Self::Rsa(rs256::PublicKey { n, e }))
    }

    /// A key on P-256 by its coordinates, in big-endian bytes.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when they are no point on the curve.
    pub fn p256(x: &[u8], y: &[u8]) -> Result<Self> {
        es256::PublicKey::of_coordinates(x, y).map(Self::P256)
    }

    /// The key of a certificate in DER.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when it is none, or has a key of another kind.
    pub fn of_certificate(der: &[u8]) -> Result<Self> {
        let certificate = Certificate::from_der(der).map_err(|_| NO_KEY)?;
        let info = certificate.tbs_certificate.subject_public_key_info.to_der().map_err(|_| NO_KEY)?;
        Self::of_info(&info)
    }

    /// The keys of a text in PEM: each `PUBLIC KEY` and `CERTIFICATE` of it, with the time that a certificate holds, in
    /// seconds since the Unix epoch. Other parts are skipped.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when there is none, or one that cannot be read.
    pub fn all_of_pem(pem: &str) -> Result<Vec<(Self, Option<Lifetime>)>> {
        let mut keys = Vec::new();
        for (at, _) in pem.match_indices(KEY_BEGIN) {
            let rest = pem.get(at..).unwrap_or_default();
            let len = rest.find(KEY_END).ok_or(NO_KEY)? + KEY_END.len();
            let info = SubjectPublicKeyInfoOwned::from_pem(rest.get(..len).unwrap_or_default());
            let der = info.and_then(|info| info.to_der()).map_err(|_| NO_KEY)?;
            keys.push((Self::of_info(&der)?, None));
        }
        // A text without a certificate is none of an error, as long as it has a key.
        if keys.is_empty() || pem.contains("-----BEGIN CERTIFICATE-----") {
            for der in certificate::from_pem(pem).map_err(|_| NO_KEY)? {
                let details = certificate::details(&der)?;
                keys.push((Self::of_certificate(&der)?, Some((details.not_before, details.not_after))));
            }
        }
        Ok(keys)
    }

    /// The key of a `SubjectPublicKeyInfo` in DER.
    fn of_info(der: &[u8]) -> Result<Self> {
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| NO_KEY)?;
        let bits = info.subject_public_key.as_bytes().ok_or(NO_KEY)?;
        match info.algorithm.oid {
            RSA => {
                let parts = |der: &[u8]| {
                    let mut reader = SliceReader::new(der)?;
                    let parts = reader.sequence(|inner| {
                        let (n, e) = (UintRef::decode(inner)?, UintRef::decode(inner)?);
                        Ok((n.as_bytes().to_vec(), e.as_bytes().to_vec()))
                    })?;
                    reader.finish(parts)
                };
                let (n, e) = parts(bits).map_err(|_: x509_cert::der::Error| NO_KEY)?;
                Self::rsa(&n, &e)
            }
            ELLIPTIC => match info.algorithm.parameters_oid() {
                Ok(P256) => es256::PublicKey::of_point(bits).map(Self::P256),
                _ => Err(NO_KEY),
            },
            _ => Err(NO_KEY),
        }
    }

    /// The scheme that it verifies by.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Rsa(_) => Scheme::Rs256,
            Self::P256(_) => Scheme::Es256,
        }
    }

    /// What tells it from every other key.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        match self {
            Self::Rsa(key) => sha256(&[b"RSA", &key.n, b"/", &key.e]),
            Self::P256(key) => sha256(&[b"P-256", key.as_bytes()]),
        }
    }

    /// Whether `signature` is of `message` by the owner of this key.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(key) => key.verify(message, signature),
            Self::P256(key) => key.verify(message, signature),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rs256::SigningKey;

    /// From `openssl ecparam -genkey -name prime256v1` and `openssl ec -pubout`.
    const EC: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOBMrmijf2k8YMCwlguOQtPwY8Evn\np4wnrd5bxdlQjabUATVsaVAte4zZ0qtcKysPoEPByjzK7fb7oXAWn0OurA==\n-----END PUBLIC KEY-----\n";
    const CERTIFICATE: &str = include_str!("tls/testdata/self.pem");

    #[test]
    fn keys_in_pem_are_read_as_what_they_are() {
        let signer = SigningKey::generate().unwrap();
        let rsa = signer.public_pem().unwrap();
        let keys = VerifyingKey::all_of_pem(&format!("x\n{rsa}\n{EC}")).unwrap();
        assert_eq!(keys.len(), 2);
        let schemes: Vec<_> = keys.iter().map(|(key, _)| key.scheme()).collect();
        assert_eq!(schemes, [Scheme::Rs256, Scheme::Es256]);
        assert!(keys[0].0.verify(b"m", &signer.sign(b"m").unwrap()));
        assert_eq!(keys[0].0, VerifyingKey::Rsa(signer.public_key().unwrap()));
        assert_ne!(keys[0].0.fingerprint(), keys[1].0.fingerprint());
        let of_certificate = VerifyingKey::all_of_pem(CERTIFICATE).unwrap();
        assert_eq!(of_certificate[0].1, Some((1_795_441_171, 4_949_041_171)));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let cut = EC.replace("-----END PUBLIC KEY-----", "");
        let private = EC.replace("PUBLIC", "PRIVATE");
        for pem in
            ["", "text", KEY_BEGIN, &cut, &private, &EC.replace("MFkw", "MFkx"), &EC.replace("MFkw", "!!!!")]
        {
            assert!(VerifyingKey::all_of_pem(pem).is_err(), "{pem}");
        }
        for der in [&b""[..], &[0x30], &[0x30, 0], &[0xff; 90]] {
            assert!(VerifyingKey::of_info(der).is_err() && VerifyingKey::of_certificate(der).is_err());
        }
        assert!(VerifyingKey::rsa(&[0xff; 128], &[1, 0, 1]).is_err(), "1024 bits");
        assert!(VerifyingKey::rsa(&[0xff; 256], &[1]).is_err(), "no exponent");
        assert!(VerifyingKey::rsa(&[0xff; 256], &[]).is_err());
        assert!(VerifyingKey::rsa(&[0xff; 1025], &[1, 0, 1]).is_err());
    }

    #[test]
    fn no_other_scheme_has_a_name() {
        for name in ["none", "None", "HS256", "RS384", "PS256", "rs256", "ES384", ""] {
            assert_eq!(Scheme::parse(name), None, "{name}");
        }
    }
}
