//! `root.json`: what it holds, how it is read, and how it is written.
//!
//! ```text
//! a secret -> sealing key --opens--> root key --opens--> one key per store
//!             (one per seal)                             (records, material, material-wrap, audit)
//! ```
//! Format 1 has one seal and no root key: its sealing key opens the stores' keys. It is still read, and becomes
//! format 2 with the first change of the seals.
//!
//! Invariant: a file is read whole or refused; seals of a kind that this program does not know are kept as they are.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use claviger_core::{Error, ErrorKind, Result, Timestamp};
use claviger_crypto::{SecretKey, cobblestone, crc32c};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{RootKeys, Use};
use crate::ciphertext::length_prefixed;

/// The name of the file.
pub(super) const ROOT: &str = "root.json";
/// Seals in a file, at most: each passphrase among them may cost a derivation when another one opens.
pub(super) const MAX_SEALS: usize = 8;

const FIRST_FORMAT: u64 = 1;
const FORMAT: u64 = 2;
/// Context of the stores' keys under the sealing key of format 1.
const DOMAIN_1: &[u8] = b"claviger.kms.root.v1";
/// Context of the stores' keys under the root key.
const DOMAIN_KEYS: &[u8] = b"claviger.kms.root.v2";
/// Context of the root key under a sealing key.
const DOMAIN_SEAL: &[u8] = b"claviger.kms.seal.v2";
/// What stands before the checksum, which is of all bytes before this.
const CHECKSUM: &str = ",\n  \"checksum\": \"";
const END: &str = "\"\n}\n";
const KINDS: [&str; 6] = ["local-key", "key-file", "passphrase", "shares", "cloud-kms", "pkcs11"];

/// How a seal's sealing key is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Kind {
    /// `root.key` beside the file.
    LocalKey,
    /// A file elsewhere.
    KeyFile,
    /// Argon2id of a passphrase.
    Passphrase { salt: String, memory_kib: u32, passes: u32, lanes: u32 },
    /// Any `threshold` of `shares` shares; `checks` has a hash for each.
    Shares { set: String, shares: u8, threshold: u8, checks: Vec<String> },
    /// A random key, wrapped by a key of another KMS.
    CloudKms { key: String, wrapped: String },
    /// A random key, wrapped by a key in a token.
    Pkcs11 { token: String, key: String, wrapped: String },
    /// What a newer program put there.
    #[serde(untagged)]
    Unknown(Map<String, Value>),
}

impl Kind {
    /// The kind as in the file.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::LocalKey => "local-key",
            Self::KeyFile => "key-file",
            Self::Passphrase { .. } => "passphrase",
            Self::Shares { .. } => "shares",
            Self::CloudKms { .. } => "cloud-kms",
            Self::Pkcs11 { .. } => "pkcs11",
            Self::Unknown(fields) => fields.get("kind").and_then(Value::as_str).unwrap_or("?"),
        }
    }

    /// The kind in words, as in "sealed with ...".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::LocalKey => "root.key in its own directory".to_owned(),
            Self::KeyFile => "a key file".to_owned(),
            Self::Passphrase { .. } => "a passphrase".to_owned(),
            Self::Shares { shares, threshold, .. } => format!("{threshold} of {shares} shares"),
            Self::CloudKms { key, .. } => format!("the key {key} of another KMS"),
            Self::Pkcs11 { token, key, .. } => format!("the key {key} in the token {token}"),
            Self::Unknown(_) => format!("a '{}', which this program does not know", self.name()),
        }
    }

    /// What people are told beside the kind.
    pub(super) fn detail(&self) -> String {
        match self {
            Self::LocalKey | Self::KeyFile | Self::Unknown(_) => String::new(),
            Self::Passphrase { memory_kib, passes, .. } => {
                format!("Argon2id, {} MiB, passes: {passes}", memory_kib / 1024)
            }
            Self::Shares { set, shares, threshold, .. } => format!("{threshold} of {shares}, set {set}"),
            Self::CloudKms { key, .. } => key.clone(),
            Self::Pkcs11 { token, key, .. } => format!("token {token}, key {key}"),
        }
    }
}

/// One of the secrets that open a KMS, and what it opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Seal {
    /// Not used twice in a KMS.
    pub(super) id: u32,
    /// When it was made, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) create_time: Option<Timestamp>,
    #[serde(flatten)]
    pub(super) kind: Kind,
    /// The root key under the sealing key; in the one seal of format 1 nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    root: String,
}

/// A file of format 2.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RootFile {
    format: u64,
    /// The id of the KMS.
    pub(super) kms: Uuid,
    next_seal: u32,
    pub(super) seals: Vec<Seal>,
    keys: BTreeMap<String, String>,
}

/// A file of format 1.
#[derive(Debug, Deserialize)]
struct FirstFile {
    seal: Kind,
    keys: BTreeMap<String, String>,
}

/// A file as it was read.
#[derive(Debug)]
pub(super) enum Stored {
    First { seal: Box<Seal>, keys: BTreeMap<String, String> },
    Current(RootFile),
}

impl Stored {
    /// Reads a file.
    ///
    /// # Errors
    /// `DataLoss` when it is damaged, `FailedPrecondition` when it is of a newer program.
    pub(super) fn decode(json: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(json).map_err(|e| damaged("cannot be read").because(e))?;
        let format = value.get("format").and_then(Value::as_u64);
        match format.ok_or_else(|| damaged("does not say its format"))? {
            FIRST_FORMAT => {
                let FirstFile { seal: kind, keys } =
                    serde_json::from_value(value).map_err(|e| damaged("cannot be read").because(e))?;
                check_kind(&kind)?;
                let seal = Box::new(Seal { id: 1, create_time: None, kind, root: String::new() });
                Ok(Self::First { seal, keys })
            }
            FORMAT => RootFile::decode(json).map(Self::Current),
            newer => Err(Error::precondition(format!(
                "root.json has the format {newer}, and this program reads {FIRST_FORMAT} and {FORMAT}: use a newer program"
            ))),
        }
    }

    /// Its seals.
    pub(super) fn seals(&self) -> &[Seal] {
        match self {
            Self::First { seal, .. } => std::slice::from_ref(seal),
            Self::Current(file) => &file.seals,
        }
    }

    /// The id of the KMS, which format 1 does not have.
    pub(super) fn kms(&self) -> Option<Uuid> {
        match self {
            Self::First { .. } => None,
            Self::Current(file) => Some(file.kms),
        }
    }

    /// Opens a seal by its sealing key. `None`: that key does not open it. A file of format 1 becomes one of format 2,
    /// in memory.
    ///
    /// # Errors
    /// `DataLoss` when the seal opens and what it opens is damaged.
    pub(super) fn open(&self, seal: &Seal, sealing: &SecretKey) -> Result<Option<(RootFile, Opened)>> {
        match self {
            Self::First { keys, .. } => {
                let Some(keys) = unwrap_keys(keys, sealing, |name| length_prefixed(&[DOMAIN_1, name]))?
                else {
                    return Ok(None);
                };
                let (mut file, root) = RootFile::new(&keys)?;
                file.insert(seal.kind.clone(), None, &root, sealing)?;
                Ok(Some((file, Opened { keys, root })))
            }
            Self::Current(file) => {
                let sealed = decode(&seal.root)?;
                let Ok(root) = cobblestone::open_secret(sealing, &file.seal_context(seal.id), &sealed) else {
                    return Ok(None);
                };
                let root = key(root.expose())?;
                let keys = unwrap_keys(&file.keys, &root, |name| file.keys_context(name))?;
                let keys = keys.ok_or_else(|| damaged("has keys that its root key does not open"))?;
                Ok(Some((file.clone(), Opened { keys, root })))
            }
        }
    }
}

/// What a seal opened.
pub(super) struct Opened {
    pub(super) keys: RootKeys,
    pub(super) root: SecretKey,
}

impl RootFile {
    /// A file without seals for the stores' keys, and its new root key.
    pub(super) fn new(keys: &RootKeys) -> Result<(Self, SecretKey)> {
        let root = SecretKey::random().map_err(super::no_random)?;
        let mut file = Self {
            format: FORMAT,
            kms: Uuid::new_v4(),
            next_seal: 1,
            seals: Vec::new(),
            keys: BTreeMap::new(),
        };
        for (name, key) in &keys.0 {
            let context = file.keys_context(name.as_bytes());
            let sealed = cobblestone::seal(&root, &context, key.expose()).map_err(super::no_random)?;
            file.keys.insert((*name).to_owned(), BASE64.encode(sealed));
        }
        Ok((file, root))
    }

    /// The id of the next seal.
    pub(super) fn next_seal(&self) -> u32 {
        self.next_seal
    }

    /// Adds a seal under its sealing key; gives its id.
    ///
    /// # Errors
    /// `ResourceExhausted` when there are [`MAX_SEALS`].
    pub(super) fn insert(
        &mut self,
        kind: Kind,
        create_time: Option<Timestamp>,
        root: &SecretKey,
        sealing: &SecretKey,
    ) -> Result<u32> {
        if self.seals.len() >= MAX_SEALS {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("a KMS has {MAX_SEALS} seals at most: remove one, or replace it"),
            ));
        }
        let id = self.next_seal;
        self.next_seal =
            id.checked_add(1).ok_or_else(|| Error::internal("there are no more ids of seals"))?;
        let context = self.seal_context(id);
        let sealed = cobblestone::seal(sealing, &context, root.expose()).map_err(super::no_random)?;
        self.seals.push(Seal { id, create_time, kind, root: BASE64.encode(sealed) });
        Ok(id)
    }

    /// Takes a seal out.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    pub(super) fn take(&mut self, id: u32) -> Result<Seal> {
        let place = self.seals.iter().position(|seal| seal.id == id);
        let place = place.ok_or_else(|| Error::not_found(format!("there is no seal {id}")))?;
        Ok(self.seals.remove(place))
    }

    /// What a wrapping elsewhere is bound to, in words that show there.
    pub(super) fn aad(kms: Uuid, id: u32) -> String {
        format!("claviger root seal, kms {kms}, seal {id}")
    }

    /// The bytes of the file.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let fault = || Error::internal("root.json could not be encoded");
        let text = serde_json::to_string_pretty(self).map_err(|e| fault().because(e))?;
        let body = text.strip_suffix("\n}").ok_or_else(fault)?;
        Ok(format!("{body}{CHECKSUM}{:08x}{END}", crc32c(body.as_bytes())).into_bytes())
    }

    fn decode(json: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(json).map_err(|e| damaged("cannot be read").because(e))?;
        let (body, rest) = text.rsplit_once(CHECKSUM).ok_or_else(|| damaged("has no checksum"))?;
        if rest.strip_suffix(END) != Some(format!("{:08x}", crc32c(body.as_bytes())).as_str()) {
            return Err(damaged("is not what was written: its checksum does not fit"));
        }
        let file: Self = serde_json::from_slice(json).map_err(|e| damaged("cannot be read").because(e))?;
        for seal in &file.seals {
            check_kind(&seal.kind)?;
        }
        if file.seals.is_empty() || file.seals.len() > MAX_SEALS {
            return Err(damaged("has no seal, or too many"));
        }
        Ok(file)
    }

    fn seal_context(&self, id: u32) -> Vec<u8> {
        length_prefixed(&[DOMAIN_SEAL, self.kms.as_bytes(), &id.to_be_bytes()])
    }

    fn keys_context(&self, name: &[u8]) -> Vec<u8> {
        length_prefixed(&[DOMAIN_KEYS, self.kms.as_bytes(), name])
    }
}

/// Refuses a seal of a kind that is known, with other fields than it has.
fn check_kind(kind: &Kind) -> Result<()> {
    match kind {
        Kind::Unknown(_) if KINDS.contains(&kind.name()) => {
            Err(damaged(&format!("has a seal of the kind '{}' that cannot be read", kind.name())))
        }
        _ => Ok(()),
    }
}

fn unwrap_keys(
    keys: &BTreeMap<String, String>,
    under: &SecretKey,
    context: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<Option<RootKeys>> {
    let mut opened = BTreeMap::new();
    for of in Use::ALL {
        let name = of.as_str();
        let sealed = decode(keys.get(name).ok_or_else(|| damaged("lacks a key"))?)?;
        match cobblestone::open_secret(under, &context(name.as_bytes()), &sealed) {
            Ok(secret) => drop(opened.insert(name, key(secret.expose())?)),
            // The first tells that the key is another; after it, the file is damaged.
            Err(_) if opened.is_empty() => return Ok(None),
            Err(error) => return Err(damaged("has a key that does not open").because(error)),
        }
    }
    Ok(Some(RootKeys(opened)))
}

fn key(bytes: &[u8]) -> Result<SecretKey> {
    SecretKey::from_slice(bytes).map_err(|e| damaged("holds a key of another length").because(e))
}

/// The bytes of a field in Base64.
pub(super) fn decode(text: &str) -> Result<Vec<u8>> {
    BASE64.decode(text).map_err(|e| damaged("cannot be read").because(e))
}

/// The error of a file that is not what was written.
pub(super) fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::DataLoss, format!("root.json of the KMS {what}: put it back from a backup"))
}
