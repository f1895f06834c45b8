//! The secrets that open a seal, and the sealing key that each gives.
//!
//! Invariant: no secret is printed or kept longer than it is used; nothing here writes but `root.key`.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use claviger_core::{Error, Result};
use claviger_crypto::passphrase::{self, Params};
use claviger_crypto::{SecretBytes, SecretKey, fill_random};
use object_store::path::Path;
use object_store::{ObjectStore, PutMode};
use uuid::Uuid;

use super::file::{Kind, RootFile, Seal, damaged, decode};
use super::shares::{self, Share};
use crate::storage;

/// The key of a seal of the kind `local-key`.
const LOCAL_KEY: &str = "root.key";
const SALT_BYTES: usize = 16;

/// What wraps a seal's key outside of this process. The key that wraps never comes here.
#[async_trait]
pub trait RootWrap: Send + Sync + fmt::Debug {
    /// What it is, for the seal.
    fn place(&self) -> WrapPlace;

    /// Wraps a key, bound to `aad`.
    ///
    /// # Errors
    /// `Unavailable` when nothing answers; what is answered otherwise.
    async fn wrap(&self, key: &SecretBytes, aad: &[u8]) -> Result<Vec<u8>>;

    /// Unwraps what [`RootWrap::wrap`] made with the same `aad`.
    ///
    /// # Errors
    /// As for [`RootWrap::wrap`].
    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<SecretBytes>;
}

/// Where a key is that wraps a seal's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WrapPlace {
    /// A key of another KMS that has the API of Cloud KMS.
    CloudKms {
        /// Its full name.
        key: String,
    },
    /// A key in a PKCS #11 token.
    Pkcs11 {
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
    },
}

impl WrapPlace {
    fn kind(self, wrapped: &[u8]) -> Kind {
        let wrapped = BASE64.encode(wrapped);
        match self {
            Self::CloudKms { key } => Kind::CloudKms { key, wrapped },
            Self::Pkcs11 { token, key } => Kind::Pkcs11 { token, key, wrapped },
        }
    }
}

/// The secret that opens a KMS.
#[derive(Debug)]
pub enum RootSecret {
    /// None was configured: `root.key` in the KMS's own directory, made at first start.
    Local,
    /// The contents of a key file: 32 bytes, as they are, in hexadecimal or in Base64.
    KeyFile(SecretBytes),
    /// A passphrase.
    Passphrase(SecretBytes),
    /// Shares; they open what was sealed with them, and make no new KMS.
    Shares(Vec<Share>),
    /// A key elsewhere.
    Wrapped(Arc<dyn RootWrap>),
}

impl RootSecret {
    /// The secret in words, as in "... does not open this KMS".
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Local => "root.key",
            Self::KeyFile(_) => "the key file",
            Self::Passphrase(_) => "the passphrase",
            Self::Shares(_) => "the key that the shares give",
            Self::Wrapped(_) => "the key that was unwrapped elsewhere",
        }
    }

    /// The sealing key that this gives for a seal. `None`: the seal is of another kind.
    pub(super) async fn sealing_key(
        &self,
        store: &Arc<dyn ObjectStore>,
        kms: Option<Uuid>,
        seal: &Seal,
    ) -> Result<Option<SecretKey>> {
        let key = match (&seal.kind, self) {
            (Kind::LocalKey, Self::Local) => {
                let key = storage::get(store, &Path::from(LOCAL_KEY)).await?.ok_or_else(|| {
                    Error::precondition(
                        "root.key is missing from the KMS directory, which is sealed with it: put it back",
                    )
                })?;
                parse_key(&key)?
            }
            (Kind::KeyFile, Self::KeyFile(contents)) => parse_key(contents.expose())?,
            (Kind::Passphrase { salt, memory_kib, passes, lanes }, Self::Passphrase(text)) => {
                let params = Params { memory_kib: *memory_kib, passes: *passes, lanes: *lanes };
                derive(text, decode(salt)?, params).await?
            }
            (Kind::Shares { set, threshold, .. }, Self::Shares(given)) => {
                let of_set: Vec<&Share> = given.iter().filter(|share| share.set() == set).collect();
                if of_set.is_empty() {
                    return Ok(None);
                }
                for share in &of_set {
                    shares::check(share, &seal.kind)?;
                }
                shares::combine(&of_set, *threshold)?
            }
            (Kind::CloudKms { key, wrapped }, Self::Wrapped(wrap))
                if wrap.place() == (WrapPlace::CloudKms { key: key.clone() }) =>
            {
                unwrap(wrap.as_ref(), kms, seal.id, wrapped).await?
            }
            (Kind::Pkcs11 { token, key, wrapped }, Self::Wrapped(wrap))
                if wrap.place() == (WrapPlace::Pkcs11 { token: token.clone(), key: key.clone() }) =>
            {
                unwrap(wrap.as_ref(), kms, seal.id, wrapped).await?
            }
            _ => return Ok(None),
        };
        Ok(Some(key))
    }
}

/// A seal to be made.
#[derive(Debug)]
pub enum NewSeal {
    /// `root.key` in the KMS's own directory.
    Local,
    /// The contents of a key file.
    KeyFile(SecretBytes),
    /// A passphrase.
    Passphrase(SecretBytes),
    /// New shares.
    Shares {
        /// How many.
        shares: u8,
        /// How many of them are needed.
        threshold: u8,
    },
    /// A key elsewhere.
    Wrapped(Arc<dyn RootWrap>),
}

impl NewSeal {
    /// The kind, sealing key and shares of a new seal.
    pub(super) async fn make(
        &self,
        store: &Arc<dyn ObjectStore>,
        params: Params,
        kms: Uuid,
        id: u32,
    ) -> Result<(Kind, SecretKey, Vec<Share>)> {
        Ok(match self {
            Self::Local => {
                let key = match storage::get(store, &Path::from(LOCAL_KEY)).await? {
                    Some(key) => parse_key(&key)?,
                    None => make_local_key(store).await?,
                };
                (Kind::LocalKey, key, Vec::new())
            }
            Self::KeyFile(contents) => (Kind::KeyFile, parse_key(contents.expose())?, Vec::new()),
            Self::Passphrase(text) => {
                let mut salt = [0; SALT_BYTES];
                fill_random(&mut salt).map_err(super::no_random)?;
                let key = derive(text, salt.to_vec(), params).await?;
                let Params { memory_kib, passes, lanes } = params;
                (Kind::Passphrase { salt: BASE64.encode(salt), memory_kib, passes, lanes }, key, Vec::new())
            }
            Self::Shares { shares, threshold } => {
                let key = SecretKey::random().map_err(super::no_random)?;
                let (kind, made) = shares::split(&key, *shares, *threshold)?;
                (kind, key, made)
            }
            Self::Wrapped(wrap) => {
                let key = SecretKey::random().map_err(super::no_random)?;
                let (plain, aad) = (SecretBytes::new(key.expose().to_vec()), RootFile::aad(kms, id));
                let wrapped = wrap.wrap(&plain, aad.as_bytes()).await?;
                // What cannot be unwrapped would be found out at the next start only.
                let back = wrap.unwrap(&wrapped, aad.as_bytes()).await?;
                if back.expose() != plain.expose() {
                    return Err(Error::internal("what was wrapped elsewhere comes back as something else"));
                }
                (wrap.place().kind(&wrapped), key, Vec::new())
            }
        })
    }
}

async fn unwrap(wrap: &dyn RootWrap, kms: Option<Uuid>, id: u32, wrapped: &str) -> Result<SecretKey> {
    let kms = kms.ok_or_else(|| damaged("has a seal that its format does not have"))?;
    let key = wrap.unwrap(&decode(wrapped)?, RootFile::aad(kms, id).as_bytes()).await?;
    SecretKey::from_slice(key.expose())
        .map_err(|e| Error::precondition("what was unwrapped elsewhere is no key of 32 bytes").because(e))
}

async fn derive(text: &SecretBytes, salt: Vec<u8>, params: Params) -> Result<SecretKey> {
    let text = SecretBytes::new(text.expose().to_vec());
    // Tens of milliseconds by design: not on a thread that serves others.
    let derived = tokio::task::spawn_blocking(move || passphrase::derive(&text, &salt, &params)).await;
    derived
        .map_err(|e| Error::internal("the derivation of the root key failed").because(e))?
        .map_err(|e| Error::precondition(format!("the root key cannot be derived: {e}")).because(e))
}

async fn make_local_key(store: &Arc<dyn ObjectStore>) -> Result<SecretKey> {
    let key = SecretKey::random().map_err(super::no_random)?;
    let text = BASE64.encode(key.expose()) + "\n";
    storage::put(store, &Path::from(LOCAL_KEY), text.into_bytes(), PutMode::Create).await?;
    Ok(key)
}

/// Removes `root.key`, if it is there.
pub(super) async fn remove_local_key(store: &Arc<dyn ObjectStore>) -> Result<()> {
    storage::delete(store, &Path::from(LOCAL_KEY)).await
}

/// Reads a key of 32 bytes: raw, hexadecimal or Base64.
pub(super) fn parse_key(contents: &[u8]) -> Result<SecretKey> {
    let wrong = || Error::invalid("a key file holds 32 bytes: as they are, in hexadecimal or in Base64");
    if contents.len() == SecretKey::LEN {
        return SecretKey::from_slice(contents).map_err(|_| wrong());
    }
    let text = contents.trim_ascii();
    let decoded = if text.len() == 2 * SecretKey::LEN {
        SecretBytes::new(unhex(text).ok_or_else(wrong)?)
    } else {
        let decoded =
            [&BASE64, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD].iter().find_map(|e| e.decode(text).ok());
        SecretBytes::new(decoded.ok_or_else(wrong)?)
    };
    SecretKey::from_slice(decoded.expose()).map_err(|_| wrong())
}

/// The bytes of pairs of hexadecimal digits.
pub(super) fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = Vec::with_capacity(text.len() / 2);
    for pair in text.chunks(2) {
        bytes.push(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
    }
    Some(bytes)
}
