//! The wrapping in which key material is brought in from elsewhere: RSA-OAEP (RFC 8017), alone or with AES-KWP (RFC
//! 5649), as Cloud KMS's import methods and PKCS #11's `CKM_RSA_AES_KEY_WRAP` have it.
//!
//! ```text
//! RSA-OAEP alone:     RSA-OAEP(material)
//! RSA-OAEP and AES:   RSA-OAEP(a random AES-256 key) | AES-KWP(material) under that key
//! ```
//! The label is empty; OAEP's mask generation uses the same digest as OAEP itself.
//!
//! Invariant: whoever unwraps learns from an error that the wrapped bytes are no good, and never which part of them.

#[cfg(test)]
mod vectors;

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey,
    OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::secret::{SecretBytes, SecretKey};

const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";
/// Characters of a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;
/// Bytes that AES-KWP adds: a block of eight, and up to seven of padding.
const KWP_OVERHEAD: usize = 15;

/// How key material is wrapped. The names are those of Cloud KMS's import methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// RSA 3072 with SHA-1, and AES-256.
    RsaOaep3072Sha1Aes256,
    /// RSA 4096 with SHA-1, and AES-256.
    RsaOaep4096Sha1Aes256,
    /// RSA 3072 with SHA-256, and AES-256.
    RsaOaep3072Sha256Aes256,
    /// RSA 4096 with SHA-256, and AES-256.
    RsaOaep4096Sha256Aes256,
    /// RSA 3072 with SHA-256.
    RsaOaep3072Sha256,
    /// RSA 4096 with SHA-256.
    RsaOaep4096Sha256,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 6] = [
        Self::RsaOaep3072Sha1Aes256,
        Self::RsaOaep4096Sha1Aes256,
        Self::RsaOaep3072Sha256Aes256,
        Self::RsaOaep4096Sha256Aes256,
        Self::RsaOaep3072Sha256,
        Self::RsaOaep4096Sha256,
    ];

    /// The name in Cloud KMS's API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RsaOaep3072Sha1Aes256 => "RSA_OAEP_3072_SHA1_AES_256",
            Self::RsaOaep4096Sha1Aes256 => "RSA_OAEP_4096_SHA1_AES_256",
            Self::RsaOaep3072Sha256Aes256 => "RSA_OAEP_3072_SHA256_AES_256",
            Self::RsaOaep4096Sha256Aes256 => "RSA_OAEP_4096_SHA256_AES_256",
            Self::RsaOaep3072Sha256 => "RSA_OAEP_3072_SHA256",
            Self::RsaOaep4096Sha256 => "RSA_OAEP_4096_SHA256",
        }
    }

    /// The method of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == name)
    }

    /// Whether the material is wrapped under an AES key, and only that key by RSA.
    #[must_use]
    pub fn has_aes(self) -> bool {
        !matches!(self, Self::RsaOaep3072Sha256 | Self::RsaOaep4096Sha256)
    }

    /// Bytes of what RSA makes.
    #[must_use]
    pub fn rsa_bytes(self) -> usize {
        self.size().len()
    }

    fn size(self) -> KeySize {
        match self {
            Self::RsaOaep3072Sha1Aes256 | Self::RsaOaep3072Sha256Aes256 | Self::RsaOaep3072Sha256 => {
                KeySize::Rsa3072
            }
            Self::RsaOaep4096Sha1Aes256 | Self::RsaOaep4096Sha256Aes256 | Self::RsaOaep4096Sha256 => {
                KeySize::Rsa4096
            }
        }
    }

    fn oaep(self) -> &'static OaepAlgorithm {
        match self {
            Self::RsaOaep3072Sha1Aes256 | Self::RsaOaep4096Sha1Aes256 => &OAEP_SHA1_MGF1SHA1,
            _ => &OAEP_SHA256_MGF1SHA256,
        }
    }
}

/// The private key that opens what others wrapped to its public key, for one method.
pub struct WrappingKey {
    method: Method,
    key: PrivateDecryptingKey,
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappingKey").field("method", &self.method).finish_non_exhaustive()
    }
}

impl WrappingKey {
    /// A new key. It takes up to seconds of one core.
    ///
    /// # Errors
    /// [`ErrorKind::Random`] when the machine gives no random bytes.
    pub fn generate(method: Method) -> Result<Self> {
        let key = PrivateDecryptingKey::generate(method.size())
            .map_err(|_| Error::new(ErrorKind::Random, "no RSA key could be made"))?;
        Ok(Self { method, key })
    }

    /// The key that [`Self::to_pkcs8`] wrote.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when it is no RSA key, or one of another length than the method's.
    pub fn from_pkcs8(method: Method, der: &SecretBytes) -> Result<Self> {
        let key = PrivateDecryptingKey::from_pkcs8(der.expose()).map_err(|_| NO_RSA_KEY)?;
        if key.key_size_bytes() != method.rsa_bytes() {
            return Err(NO_RSA_KEY);
        }
        Ok(Self { method, key })
    }

    /// The key in DER, as PKCS #8 (RFC 5208): a secret.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when it cannot be encoded.
    pub fn to_pkcs8(&self) -> Result<SecretBytes> {
        let der: Pkcs8V1Der<'_> = self.key.as_der().map_err(|_| NO_RSA_KEY)?;
        Ok(SecretBytes::new(der.as_ref().to_vec()))
    }

    /// The public key in PEM (RFC 7468), for those who wrap.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when it cannot be encoded.
    pub fn public_pem(&self) -> Result<String> {
        let der: PublicKeyX509Der<'_> = self.key.public_key().as_der().map_err(|_| NO_RSA_KEY)?;
        Ok(public_pem(der.as_ref()))
    }

    /// What was wrapped to this key.
    ///
    /// # Errors
    /// [`ErrorKind::WrongKey`], the same for all that can be wrong with the bytes.
    pub fn unwrap(&self, wrapped: &[u8]) -> Result<SecretBytes> {
        let (by_rsa, by_aes) = wrapped.split_at_checked(self.method.rsa_bytes()).ok_or(NOT_OPENED)?;
        let opened = open_oaep(&self.key, self.method.oaep(), by_rsa)?;
        match (self.method.has_aes(), by_aes) {
            (true, by_aes) => open_kwp(opened.expose(), by_aes),
            (false, []) => Ok(opened),
            (false, _) => Err(NOT_OPENED),
        }
    }
}

/// A public key in DER as PEM (RFC 7468).
pub(crate) fn public_pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = format!("{PEM_BEGIN}\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(PEM_END);
    pem.push('\n');
    pem
}

/// Wraps a secret to a public key, in PEM.
///
/// # Errors
/// [`ErrorKind::BadInput`] when the text is no RSA key of the method's length; [`ErrorKind::TooLarge`] when RSA alone
/// cannot hold the secret; [`ErrorKind::Random`] when the machine gives no random bytes.
pub fn wrap(method: Method, public_pem: &str, secret: &SecretBytes) -> Result<Vec<u8>> {
    let key = PublicEncryptingKey::from_der(&public_der(public_pem)?).map_err(|_| NO_RSA_KEY)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| NO_RSA_KEY)?;
    if key.key_size_bytes() != method.rsa_bytes() {
        return Err(NO_RSA_KEY);
    }
    if !method.has_aes() {
        return seal_oaep(&key, method.oaep(), secret.expose());
    }
    let ephemeral = SecretKey::random()?;
    let mut wrapped = seal_oaep(&key, method.oaep(), ephemeral.expose())?;
    wrapped.extend_from_slice(&seal_kwp(ephemeral.expose(), secret.expose())?);
    Ok(wrapped)
}

/// The DER inside the PEM of a public key.
///
/// # Errors
/// [`ErrorKind::BadInput`] when the text is no PEM of a public key.
pub fn public_der(pem: &str) -> Result<Vec<u8>> {
    let inner = pem.trim().strip_prefix(PEM_BEGIN).and_then(|rest| rest.strip_suffix(PEM_END));
    let text: String = inner.ok_or(NO_RSA_KEY)?.split_ascii_whitespace().collect();
    BASE64.decode(text).map_err(|_| NO_RSA_KEY)
}

fn seal_oaep(key: &OaepPublicEncryptingKey, oaep: &'static OaepAlgorithm, secret: &[u8]) -> Result<Vec<u8>> {
    if secret.len() > key.max_plaintext_size(oaep) {
        return Err(Error::new(ErrorKind::TooLarge, "the key material is longer than RSA alone can wrap"));
    }
    let mut sealed = vec![0; key.ciphertext_size()];
    let len = key.encrypt(oaep, secret, &mut sealed, None).map_err(|_| NOT_WRAPPED)?.len();
    sealed.truncate(len);
    Ok(sealed)
}

fn open_oaep(key: &PrivateDecryptingKey, oaep: &'static OaepAlgorithm, sealed: &[u8]) -> Result<SecretBytes> {
    let key = OaepPrivateDecryptingKey::new(key.clone()).map_err(|_| NO_RSA_KEY)?;
    let mut buffer = Zeroizing::new(vec![0; key.min_output_size()]);
    let opened = key.decrypt(oaep, sealed, &mut buffer, None).map_err(|_| NOT_OPENED)?;
    Ok(SecretBytes::new(opened.to_vec()))
}

fn seal_kwp(key: &[u8], secret: &[u8]) -> Result<Vec<u8>> {
    let key = AesKek::new(&AES_256, key).map_err(|_| NOT_WRAPPED)?;
    let mut sealed = vec![0; secret.len() + KWP_OVERHEAD];
    let len = key.wrap_with_padding(secret, &mut sealed).map_err(|_| NOT_WRAPPED)?.len();
    sealed.truncate(len);
    Ok(sealed)
}

fn open_kwp(key: &[u8], sealed: &[u8]) -> Result<SecretBytes> {
    let key = AesKek::new(&AES_256, key).map_err(|_| NOT_OPENED)?;
    let mut buffer = Zeroizing::new(vec![0; sealed.len()]);
    let opened = key.unwrap_with_padding(sealed, &mut buffer).map_err(|_| NOT_OPENED)?;
    Ok(SecretBytes::new(opened.to_vec()))
}

const NO_RSA_KEY: Error = Error::new(ErrorKind::BadInput, "not an RSA key of the right length");
const NOT_WRAPPED: Error = Error::new(ErrorKind::BadInput, "the key material could not be wrapped");
const NOT_OPENED: Error = Error::new(ErrorKind::WrongKey, "the wrapped key material could not be opened");

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(len: usize) -> SecretBytes {
        SecretBytes::new((0..len).map(|i| (i * 37 % 251) as u8).collect())
    }

    #[test]
    fn what_is_wrapped_to_a_public_key_opens_under_its_private_key_by_the_same_method_only() {
        for (small, large) in [
            (Method::RsaOaep3072Sha256Aes256, Method::RsaOaep3072Sha256),
            (Method::RsaOaep4096Sha1Aes256, Method::RsaOaep4096Sha256),
        ] {
            let key = WrappingKey::generate(small).unwrap();
            let (pem, der) = (key.public_pem().unwrap(), key.to_pkcs8().unwrap());
            for method in [small, large] {
                let same = WrappingKey::from_pkcs8(method, &der).unwrap();
                assert_eq!(same.public_pem().unwrap(), pem);
                let wrapped = wrap(method, &pem, &secret(32)).unwrap();
                assert_eq!(wrapped.len(), method.rsa_bytes() + if method.has_aes() { 40 } else { 0 });
                assert_eq!(same.unwrap(&wrapped).unwrap().expose(), secret(32).expose());
                let other = if method == small { large } else { small };
                let other = WrappingKey::from_pkcs8(other, &der).unwrap();
                assert_eq!(other.unwrap(&wrapped).unwrap_err().kind(), ErrorKind::WrongKey);
                let another = Method::ALL.into_iter().find(|m| m.rsa_bytes() != method.rsa_bytes()).unwrap();
                assert_eq!(WrappingKey::from_pkcs8(another, &der).unwrap_err().kind(), ErrorKind::BadInput);
                assert_eq!(wrap(another, &pem, &secret(32)).unwrap_err().kind(), ErrorKind::BadInput);
            }
        }
    }

    #[test]
    fn each_changed_part_and_each_other_length_is_refused_alike() {
        let key = WrappingKey::generate(Method::RsaOaep3072Sha256Aes256).unwrap();
        let wrapped = wrap(key.method, &key.public_pem().unwrap(), &secret(32)).unwrap();
        let refused = |bytes: &[u8]| key.unwrap(bytes).unwrap_err();
        for at in [0, 1, 383, 384, 391, 392, wrapped.len() - 1] {
            let mut changed = wrapped.clone();
            changed[at] ^= 1;
            assert_eq!(refused(&changed), NOT_OPENED, "byte {at}");
        }
        for len in [0, 1, 383, 384, 385, 392, 400, wrapped.len() - 1] {
            assert_eq!(refused(&wrapped[..len]), NOT_OPENED, "length {len}");
        }
        assert_eq!(refused(&[wrapped.as_slice(), &[0; 8]].concat()), NOT_OPENED);
    }

    #[test]
    fn rsa_alone_holds_what_its_length_allows() {
        let key = WrappingKey::generate(Method::RsaOaep3072Sha256).unwrap();
        let pem = key.public_pem().unwrap();
        let longest = 384 - 2 * 32 - 2;
        let wrapped = wrap(key.method, &pem, &secret(longest)).unwrap();
        assert_eq!(key.unwrap(&wrapped).unwrap().expose(), secret(longest).expose());
        let error = wrap(key.method, &pem, &secret(longest + 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(key.unwrap(&[wrapped.as_slice(), b"x"].concat()).unwrap_err(), NOT_OPENED);
    }

    #[test]
    fn the_public_key_is_lines_of_64_and_text_that_is_no_key_is_refused() {
        let pem = WrappingKey::generate(Method::RsaOaep3072Sha256).unwrap().public_pem().unwrap();
        let lines: Vec<_> = pem.lines().collect();
        assert_eq!((lines[0], *lines.last().unwrap()), (PEM_BEGIN, PEM_END));
        assert!(lines[1..lines.len() - 2].iter().all(|line| line.len() == PEM_LINE));
        let broken = pem.replace(lines[1], "!!!!");
        for text in ["", "nonsense", PEM_BEGIN, &broken, &pem.replace("PUBLIC", "PRIVATE")] {
            let error = wrap(Method::RsaOaep3072Sha256, text, &secret(32)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadInput, "{text}");
        }
    }

    #[test]
    fn names_are_those_of_the_api() {
        for method in Method::ALL {
            assert_eq!(Method::parse(method.as_str()), Some(method));
        }
        assert_eq!(Method::parse("RSA_OAEP_3072_SHA512"), None);
    }
}
