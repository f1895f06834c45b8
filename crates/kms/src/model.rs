//! Key rings, keys and versions as the records hold them and as callers see them.
//!
//! Invariant: key material is not here. A record names the material of its version and no more.

use std::collections::BTreeMap;
use std::time::Duration;

use claviger_core::Timestamp;
use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName, KeyRingName};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A group of keys. It is never deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRing {
    /// The full name.
    pub name: KeyRingName,
    /// When it was made.
    pub create_time: Timestamp,
}

/// A key: a name with versions. It is never deleted, so its name is never used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CryptoKey {
    /// The full name.
    pub name: CryptoKeyName,
    /// When it was made.
    pub create_time: Timestamp,
    /// The user's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The number of the version that Encrypt uses.
    #[serde(default)]
    pub primary: Option<u64>,
    /// The number that the next version gets; numbers begin at 1 and are never used again.
    pub next_version: u64,
    /// How much later the rotation after the next one is due.
    #[serde(default)]
    pub rotation_period: Option<Duration>,
    /// When the next rotation is due.
    #[serde(default)]
    pub next_rotation_time: Option<Timestamp>,
    /// How long a version stays scheduled before it is destroyed; immutable.
    pub destroy_scheduled_duration: Duration,
}

/// The states of a version whose material is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VersionState {
    /// In use.
    Enabled,
    /// Not usable, until it is enabled again.
    Disabled,
    /// Not usable; destroyed when its time comes, unless it is restored before.
    DestroyScheduled,
    /// The material is gone for good.
    Destroyed,
}

impl VersionState {
    /// The state as the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
            Self::DestroyScheduled => "DESTROY_SCHEDULED",
            Self::Destroyed => "DESTROYED",
        }
    }
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CryptoKeyVersion {
    /// The full name.
    pub name: CryptoKeyVersionName,
    /// Its number, which is the last part of the name.
    pub number: u64,
    /// Its state.
    pub state: VersionState,
    /// When it was made, and its material with it.
    pub create_time: Timestamp,
    /// When it will be destroyed; while it is scheduled.
    #[serde(default)]
    pub destroy_time: Option<Timestamp>,
    /// When it was destroyed.
    #[serde(default)]
    pub destroy_event_time: Option<Timestamp>,
    /// The name of its material's object.
    pub(crate) material: Uuid,
}

/// A key together with its primary version, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyView {
    /// The key.
    pub key: CryptoKey,
    /// Its primary version, whatever its state.
    pub primary: Option<CryptoKeyVersion>,
}

/// What a key is for. Only [`Purpose::EncryptDecrypt`] is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Not said; refused.
    #[default]
    Unspecified,
    /// Symmetric encryption.
    EncryptDecrypt,
    /// Signatures.
    AsymmetricSign,
    /// Decryption with a private key.
    AsymmetricDecrypt,
    /// Symmetric encryption in formats of others.
    RawEncryptDecrypt,
    /// Message authentication.
    Mac,
    /// Encapsulation of keys.
    KeyEncapsulation,
    /// Wrapping of keys.
    AesWrapping,
}

/// Where key material lives. Only [`ProtectionLevel::Software`] is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProtectionLevel {
    /// Not said: software.
    #[default]
    Unspecified,
    /// In this process.
    Software,
    /// In a hardware module.
    Hsm,
    /// With an external key manager.
    External,
    /// With an external key manager in a private network.
    ExternalVpc,
    /// In a hardware module of one tenant.
    HsmSingleTenant,
}

/// How a version encrypts. Only [`Algorithm::GoogleSymmetricEncryption`] is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Not said: the purpose's own.
    #[default]
    Unspecified,
    /// Authenticated encryption with the service's own choice of a cipher.
    GoogleSymmetricEncryption,
    /// Another algorithm of the API, by its name.
    Other(String),
}

/// What new versions of a key are made as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionTemplate {
    /// Where the material lives.
    pub protection_level: ProtectionLevel,
    /// How it encrypts.
    pub algorithm: Algorithm,
}

/// What CreateCryptoKey asks for.
#[derive(Clone, Debug, Default)]
pub struct NewCryptoKey {
    /// What the key is for.
    pub purpose: Purpose,
    /// What its versions are made as.
    pub template: Option<VersionTemplate>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// How much later the rotation after the next one is due.
    pub rotation_period: Option<Duration>,
    /// When the next rotation is due.
    pub next_rotation_time: Option<Timestamp>,
    /// How long a version stays scheduled before it is destroyed.
    pub destroy_scheduled_duration: Option<Duration>,
    /// Whether only imported material is allowed.
    pub import_only: bool,
    /// The name of the backend that holds the material.
    pub crypto_key_backend: String,
    /// Whether to make the key without a version.
    pub skip_initial_version: bool,
}

impl NewCryptoKey {
    /// A key for symmetric encryption with everything else as by default.
    #[must_use]
    pub fn symmetric() -> Self {
        Self { purpose: Purpose::EncryptDecrypt, ..Self::default() }
    }
}

/// What UpdateCryptoKey changes: the fields of its mask, with their new values.
#[derive(Clone, Debug, Default)]
pub struct CryptoKeyUpdate {
    /// New labels in place of the old ones.
    pub labels: Option<BTreeMap<String, String>>,
    /// A new period, or none any more.
    pub rotation_period: Option<Option<Duration>>,
    /// A new time of the next rotation, or none any more.
    pub next_rotation_time: Option<Option<Timestamp>>,
    /// What new versions are made as.
    pub template: Option<VersionTemplate>,
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// At most so many; 0 leaves it to the service.
    pub size: i32,
    /// From the page before; empty for the first one.
    pub token: String,
    /// Not built, but for the empty text.
    pub filter: String,
    /// Not built, but for the empty text and `name`.
    pub order_by: String,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The things.
    pub items: Vec<T>,
    /// Asks for the next page; empty after the last one.
    pub next_token: String,
    /// How many there are on all pages.
    pub total: usize,
}
