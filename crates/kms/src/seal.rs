//! The root seal: what must be given at start so that the KMS opens, and the keys that it opens.
//!
//! `root.json` lies beside the stores and is no secret: it says what seals the KMS (a passphrase and
//! its salt, a key file, or `root.key` beside it) and holds one random key per store, each sealed under
//! the key made from that secret. See `docs/formats.md`.
//!
//! Invariant: no key is used for two stores; a new seal re-wraps these few keys and nothing else; a
//! new root is never put over stores that an older one protects.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use claviger_core::{Error, Result};
use claviger_crypto::passphrase::{self, Params};
use claviger_crypto::{SecretBytes, SecretKey, cobblestone, fill_random};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode};
use serde::{Deserialize, Serialize};

use crate::ciphertext::length_prefixed;
use crate::storage;

const ROOT: &str = "root.json";
const LOCAL_KEY: &str = "root.key";
const FORMAT: u32 = 1;
const DOMAIN: &[u8] = b"claviger.kms.root.v1";
const SALT_BYTES: usize = 16;

/// The secret that opens a KMS.
#[derive(Debug)]
pub enum RootSecret {
    /// None was configured: `root.key` in the KMS's own directory, made at first start.
    Local,
    /// The contents of a key file: 32 bytes, as they are, in hexadecimal or in Base64.
    KeyFile(SecretBytes),
    /// A passphrase.
    Passphrase(SecretBytes),
}

/// What each key is for; also its name in `root.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Records,
    Material,
    Wrap,
    Audit,
}

impl Use {
    const ALL: [Self; 4] = [Self::Records, Self::Material, Self::Wrap, Self::Audit];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Material => "material",
            Self::Wrap => "material-wrap",
            Self::Audit => "audit",
        }
    }
}

/// The opened keys.
pub(crate) struct RootKeys(BTreeMap<&'static str, SecretKey>);

impl fmt::Debug for RootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKeys")
    }
}

impl RootKeys {
    /// Takes the key of a use out.
    ///
    /// # Errors
    /// `Internal` when it was taken before.
    pub(crate) fn take(&mut self, of: Use) -> Result<SecretKey> {
        self.0.remove(of.as_str()).ok_or_else(|| Error::internal("a root key was asked for twice"))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct RootFile {
    format: u32,
    seal: Seal,
    keys: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Seal {
    LocalKey,
    KeyFile,
    Passphrase { salt: String, memory_kib: u32, passes: u32, lanes: u32 },
}

impl Seal {
    fn describe(&self) -> &'static str {
        match self {
            Self::LocalKey => "root.key in its own directory",
            Self::KeyFile => "a key file",
            Self::Passphrase { .. } => "a passphrase",
        }
    }
}

/// Opens the root of a KMS, or makes one when the store is empty.
///
/// # Errors
/// `FailedPrecondition` when the secret is of another kind or does not open this KMS, or when the root is
/// missing while keys are there; `InvalidArgument` when a key file does not hold 32 bytes.
pub(crate) async fn open(
    store: &Arc<dyn ObjectStore>,
    secret: &RootSecret,
    params: Params,
) -> Result<RootKeys> {
    match storage::get(store, &Path::from(ROOT)).await? {
        Some(json) => {
            let file: RootFile = read_root(&json)?;
            unwrap_keys(&file, &sealing_key(store, secret, &file.seal).await?)
        }
        None => {
            for part in ["records", "material", "audit"] {
                let listed = store.list(Some(&Path::from(part))).try_next().await;
                if listed.map_err(|e| storage::error("list the keys", e))?.is_some() {
                    return Err(Error::precondition(
                        "root.json is missing from the KMS directory while keys are there: put it back from a backup",
                    ));
                }
            }
            if matches!(secret, RootSecret::Local)
                && storage::get(store, &Path::from(LOCAL_KEY)).await?.is_none()
            {
                make_local_key(store).await?;
            }
            let mut keys = BTreeMap::new();
            for of in Use::ALL {
                keys.insert(of.as_str(), SecretKey::random().map_err(no_random)?);
            }
            let keys = RootKeys(keys);
            let file = wrap_keys(store, &keys, secret, params).await?;
            storage::put(store, &Path::from(ROOT), file, PutMode::Create).await?;
            Ok(keys)
        }
    }
}

/// Seals a KMS under another secret. The KMS must not be open. Only `root.json` is written.
///
/// # Errors
/// As for opening it with `current`; what the store answers.
pub async fn reseal(
    store: &Arc<dyn ObjectStore>,
    current: &RootSecret,
    new: &RootSecret,
    params: Params,
) -> Result<()> {
    let path = Path::from(ROOT);
    let json = storage::get(store, &path).await?;
    let file = read_root(&json.ok_or_else(|| Error::precondition("there is no KMS in this directory"))?)?;
    let keys = unwrap_keys(&file, &sealing_key(store, current, &file.seal).await?)?;
    if matches!(new, RootSecret::Local) && storage::get(store, &Path::from(LOCAL_KEY)).await?.is_none() {
        make_local_key(store).await?;
    }
    let sealed = wrap_keys(store, &keys, new, params).await?;
    storage::put(store, &path, sealed, PutMode::Overwrite).await?;
    if matches!(current, RootSecret::Local) && !matches!(new, RootSecret::Local) {
        storage::delete(store, &Path::from(LOCAL_KEY)).await?;
    }
    Ok(())
}

fn read_root(json: &[u8]) -> Result<RootFile> {
    let file: RootFile = serde_json::from_slice(json).map_err(|e| damaged("cannot be read").because(e))?;
    if file.format == FORMAT {
        Ok(file)
    } else {
        Err(Error::precondition(format!(
            "root.json has the format {}, and this program reads {FORMAT}: use a newer program",
            file.format
        )))
    }
}

fn damaged(what: &str) -> Error {
    Error::new(claviger_core::ErrorKind::DataLoss, format!("root.json of the KMS {what}"))
}

fn no_random(error: claviger_crypto::Error) -> Error {
    Error::internal("the machine gives no random bytes").because(error)
}

async fn wrap_keys(
    store: &Arc<dyn ObjectStore>,
    keys: &RootKeys,
    secret: &RootSecret,
    params: Params,
) -> Result<Vec<u8>> {
    let seal = match secret {
        RootSecret::Local => Seal::LocalKey,
        RootSecret::KeyFile(_) => Seal::KeyFile,
        RootSecret::Passphrase(_) => {
            let mut salt = [0; SALT_BYTES];
            fill_random(&mut salt).map_err(no_random)?;
            let Params { memory_kib, passes, lanes } = params;
            Seal::Passphrase { salt: BASE64.encode(salt), memory_kib, passes, lanes }
        }
    };
    let sealing = sealing_key(store, secret, &seal).await?;
    let mut wrapped = BTreeMap::new();
    for (name, key) in &keys.0 {
        let sealed = cobblestone::seal(&sealing, &context(name), key.expose()).map_err(no_random)?;
        wrapped.insert((*name).to_owned(), BASE64.encode(sealed));
    }
    let file = RootFile { format: FORMAT, seal, keys: wrapped };
    serde_json::to_vec_pretty(&file).map_err(|e| Error::internal("root.json could not be encoded").because(e))
}

fn unwrap_keys(file: &RootFile, sealing: &SecretKey) -> Result<RootKeys> {
    let mut keys = BTreeMap::new();
    for of in Use::ALL {
        let name = of.as_str();
        let text = file.keys.get(name).ok_or_else(|| damaged("lacks a key"))?;
        let sealed = BASE64.decode(text).map_err(|e| damaged("cannot be read").because(e))?;
        let key = cobblestone::open_secret(sealing, &context(name), &sealed).map_err(|e| {
            let text = format!(
                "the root key does not open this KMS, which is sealed with {}: it is another KMS's, or root.json was changed",
                file.seal.describe()
            );
            Error::precondition(text).because(e)
        })?;
        let key = SecretKey::from_slice(key.expose())
            .map_err(|e| damaged("holds a key of another length").because(e))?;
        keys.insert(name, key);
    }
    Ok(RootKeys(keys))
}

fn context(name: &str) -> Vec<u8> {
    length_prefixed(&[DOMAIN, name.as_bytes()])
}

/// The key that `secret` gives for `seal`.
async fn sealing_key(store: &Arc<dyn ObjectStore>, secret: &RootSecret, seal: &Seal) -> Result<SecretKey> {
    match (seal, secret) {
        (Seal::LocalKey, RootSecret::Local) => {
            let key = storage::get(store, &Path::from(LOCAL_KEY)).await?;
            let key = key.ok_or_else(|| {
                Error::precondition(
                    "root.key is missing from the KMS directory, which is sealed with it: put it back",
                )
            })?;
            parse_key(&key)
        }
        (Seal::KeyFile, RootSecret::KeyFile(contents)) => parse_key(contents.expose()),
        (Seal::Passphrase { salt, memory_kib, passes, lanes }, RootSecret::Passphrase(text)) => {
            let salt = BASE64.decode(salt).map_err(|e| damaged("cannot be read").because(e))?;
            let params = Params { memory_kib: *memory_kib, passes: *passes, lanes: *lanes };
            let text = SecretBytes::new(text.expose().to_vec());
            // Tens of milliseconds by design: not on a thread that serves others.
            let derived =
                tokio::task::spawn_blocking(move || passphrase::derive(&text, &salt, &params)).await;
            derived
                .map_err(|e| Error::internal("the derivation of the root key failed").because(e))?
                .map_err(|e| Error::precondition(format!("the root key cannot be derived: {e}")).because(e))
        }
        (seal, _) => Err(Error::precondition(format!(
            "this KMS is sealed with {}: start it with that",
            seal.describe()
        ))),
    }
}

async fn make_local_key(store: &Arc<dyn ObjectStore>) -> Result<()> {
    let key = SecretKey::random().map_err(no_random)?;
    let text = BASE64.encode(key.expose()) + "\n";
    storage::put(store, &Path::from(LOCAL_KEY), text.into_bytes(), PutMode::Create).await
}

/// Reads a key of 32 bytes: raw, hexadecimal or Base64.
fn parse_key(contents: &[u8]) -> Result<SecretKey> {
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

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    text.chunks_exact(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// What a changed `root.json` meets.
pub(crate) fn fuzz(json: &[u8], sealing: &SecretKey) {
    if let Ok(file) = read_root(json) {
        let _ = unwrap_keys(&file, sealing);
    }
    let _ = parse_key(json);
}

#[cfg(test)]
mod tests;
