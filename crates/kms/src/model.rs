//! Key rings, keys and versions as the records hold them and as callers see them.
//!
//! Invariant: key material is not here. A record names the material of its version and no more.

use std::collections::BTreeMap;
use std::time::Duration;

use claviger_core::Timestamp;
use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName, ImportJobName, KeyRingName};
use claviger_crypto::wrapping::Method;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::external::{AccessReason, EkmConnectionName, ExternalKey};

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
    /// Whether all of its material comes from elsewhere; immutable.
    #[serde(default)]
    pub import_only: bool,
    /// Where its material lives; immutable.
    #[serde(default = "software")]
    pub protection: ProtectionLevel,
    /// The connection to the external key manager, for `EXTERNAL_VPC`; immutable.
    #[serde(default)]
    pub backend: Option<EkmConnectionName>,
    /// The reasons for which the key may be used; none is all.
    #[serde(default)]
    pub justifications: Option<Vec<AccessReason>>,
}

fn software() -> ProtectionLevel {
    ProtectionLevel::Software
}

impl CryptoKey {
    /// Whether a token keeps its material.
    #[must_use]
    pub fn is_hsm(&self) -> bool {
        self.protection == ProtectionLevel::Hsm
    }

    /// Whether a partner's key manager keeps its material.
    #[must_use]
    pub fn is_external(&self) -> bool {
        matches!(self.protection, ProtectionLevel::External | ProtectionLevel::ExternalVpc)
    }

    /// The algorithm of its versions, as the API spells it.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        if self.is_external() {
            Algorithm::ExternalSymmetricEncryption
        } else {
            Algorithm::GoogleSymmetricEncryption
        }
    }
}

/// The states of a version.
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
    /// The wrapped material was no good. Nothing of it is kept.
    ImportFailed,
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
            Self::ImportFailed => "IMPORT_FAILED",
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
    /// When it was made; its material with it, unless that was imported.
    pub create_time: Timestamp,
    /// When it will be destroyed; while it is scheduled.
    #[serde(default)]
    pub destroy_time: Option<Timestamp>,
    /// When it was destroyed; while it is.
    #[serde(default)]
    pub destroy_event_time: Option<Timestamp>,
    /// How its material came in, unless it was made here.
    #[serde(default)]
    pub import: Option<Import>,
    /// Where the external key is, for a version of such a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalKey>,
    /// Whether a token keeps half of its material.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hsm: bool,
    /// The name of its material's object.
    pub(crate) material: Uuid,
}

impl CryptoKeyVersion {
    /// Where its material lives.
    #[must_use]
    pub fn protection(&self) -> ProtectionLevel {
        match self.external {
            None if self.hsm => ProtectionLevel::Hsm,
            None => ProtectionLevel::Software,
            Some(ExternalKey::Uri(_)) => ProtectionLevel::External,
            Some(ExternalKey::Path(_)) => ProtectionLevel::ExternalVpc,
        }
    }

    /// How it encrypts.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.external {
            None => Algorithm::GoogleSymmetricEncryption,
            Some(_) => Algorithm::ExternalSymmetricEncryption,
        }
    }

    /// Whether material can be imported into this version again.
    #[must_use]
    pub fn reimport_eligible(&self) -> bool {
        self.import.is_some() && matches!(self.state, VersionState::Destroyed | VersionState::ImportFailed)
    }
}

/// The last import of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// The job that it went through.
    pub job: ImportJobName,
    /// When the material came in; none before any did.
    #[serde(default)]
    pub time: Option<Timestamp>,
    /// Why the last one failed, when it did.
    #[serde(default)]
    pub failure: Option<String>,
    /// What tells the material from any other without holding it; none before any came in.
    #[serde(default)]
    pub(crate) fingerprint: Option<String>,
}

/// A job that key material is brought in through: a key pair to wrap it to. It is never deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportJob {
    /// The full name.
    pub name: ImportJobName,
    /// How material is wrapped.
    #[serde(with = "method")]
    pub method: Method,
    /// Its state.
    pub state: ImportJobState,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it can no longer be used.
    pub expire_time: Timestamp,
    /// When its key pair was there.
    #[serde(default)]
    pub generate_time: Option<Timestamp>,
    /// When it expired; once it has.
    #[serde(default)]
    pub expire_event_time: Option<Timestamp>,
    /// The public key in PEM, while it can be used.
    #[serde(default)]
    pub public_key: Option<String>,
    /// The name of the private key's object.
    pub(crate) material: Uuid,
}

/// The states of an import job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ImportJobState {
    /// Its key pair is being made.
    PendingGeneration,
    /// Material can be imported.
    Active,
    /// Its time is over, and its private key gone.
    Expired,
}

impl ImportJobState {
    /// The state as the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PendingGeneration => "PENDING_GENERATION",
            Self::Active => "ACTIVE",
            Self::Expired => "EXPIRED",
        }
    }
}

mod method {
    //! A method by its name.

    use claviger_crypto::wrapping::Method;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(method: &Method, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(method.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Method, D::Error> {
        let name = String::deserialize(from)?;
        Method::parse(&name).ok_or_else(|| D::Error::custom(format!("no import method is called {name}")))
    }
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

/// Where key material lives. Hardware of one tenant is not built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ProtectionLevel {
    /// Not said: software.
    #[default]
    Unspecified,
    /// In this process.
    Software,
    /// In a token behind PKCS #11.
    Hsm,
    /// With an external key manager.
    External,
    /// With an external key manager in a private network.
    ExternalVpc,
    /// In a hardware module of one tenant.
    HsmSingleTenant,
}

impl ProtectionLevel {
    /// The level as the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "PROTECTION_LEVEL_UNSPECIFIED",
            Self::Software => "SOFTWARE",
            Self::Hsm => "HSM",
            Self::External => "EXTERNAL",
            Self::ExternalVpc => "EXTERNAL_VPC",
            Self::HsmSingleTenant => "HSM_SINGLE_TENANT",
        }
    }
}

/// How a version encrypts. Only the symmetric ones are built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Not said: the purpose's own.
    #[default]
    Unspecified,
    /// Authenticated encryption with the service's own choice of a cipher.
    GoogleSymmetricEncryption,
    /// The same, with a key of an external key manager around it.
    ExternalSymmetricEncryption,
    /// Another algorithm of the API, by its name.
    Other(String),
}

impl Algorithm {
    /// The algorithm as the API spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Unspecified => "CRYPTO_KEY_VERSION_ALGORITHM_UNSPECIFIED",
            Self::GoogleSymmetricEncryption => "GOOGLE_SYMMETRIC_ENCRYPTION",
            Self::ExternalSymmetricEncryption => "EXTERNAL_SYMMETRIC_ENCRYPTION",
            Self::Other(name) => name,
        }
    }
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
    /// The reasons for which the key may be used; none is all.
    pub justifications: Option<Vec<AccessReason>>,
}

impl NewCryptoKey {
    /// A key for symmetric encryption with everything else as by default.
    #[must_use]
    pub fn symmetric() -> Self {
        Self { purpose: Purpose::EncryptDecrypt, ..Self::default() }
    }
}

/// What CreateCryptoKeyVersion asks for.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// Enabled or disabled.
    pub state: VersionState,
    /// Where the external key is, for a version of such a key.
    pub external: Option<ExternalKey>,
}

/// What UpdateCryptoKeyVersion changes: the fields of its mask, with their new values.
#[derive(Clone, Debug, Default)]
pub struct VersionUpdate {
    /// Enabled or disabled.
    pub state: Option<VersionState>,
    /// Another place of the same external key.
    pub external: Option<ExternalKey>,
}

/// What CreateImportJob asks for.
#[derive(Clone, Debug)]
pub struct NewImportJob {
    /// How material is to be wrapped.
    pub method: Method,
    /// Where the keys live that it is for.
    pub protection_level: ProtectionLevel,
    /// The name of the backend that holds the private key.
    pub crypto_key_backend: String,
}

impl NewImportJob {
    /// A job for software keys.
    #[must_use]
    pub fn software(method: Method) -> Self {
        Self { method, protection_level: ProtectionLevel::Software, crypto_key_backend: String::new() }
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
    /// Other reasons for which the key may be used, or all.
    pub justifications: Option<Option<Vec<AccessReason>>>,
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// At most so many; 0 leaves it to the service.
    pub size: i32,
    /// From the page before; empty for the first one.
    pub token: String,
    /// Which things: comparisons of their fields, as in `state=ENABLED`; empty for all.
    pub filter: String,
    /// In which order: fields with `asc` or `desc`; empty for the order of their names.
    pub order_by: String,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The things.
    pub items: Vec<T>,
    /// Asks for the next page; empty after the last one.
    pub next_token: String,
    /// How many the filter accepts, on all pages.
    pub total: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/3";

    /// As versions were written before there were imports.
    #[test]
    fn a_record_from_before_imports_is_read() {
        let record = format!(
            r#"{{"name":"{VERSION}","number":3,"state":"DESTROY_SCHEDULED","create_time":1,"destroy_time":2,
                "destroy_event_time":null,"material":"01020304-0506-0708-090a-0b0c0d0e0f10"}}"#
        );
        let version: CryptoKeyVersion = serde_json::from_str(&record).unwrap();
        assert_eq!((version.state, version.import), (VersionState::DestroyScheduled, None));
        let record = format!(
            r#"{{"name":"{}","create_time":1,"next_version":4,
                "destroy_scheduled_duration":{{"secs":86400,"nanos":0}}}}"#,
            VERSION.trim_end_matches("/cryptoKeyVersions/3")
        );
        let key: CryptoKey = serde_json::from_str(&record).unwrap();
        assert!(!key.import_only);
    }

    #[test]
    fn the_golden_records_of_imports_are_read_and_written_alike() {
        let job = r#"{"name":"projects/p/locations/l/keyRings/r/importJobs/j","method":"RSA_OAEP_3072_SHA256","state":"PENDING_GENERATION","create_time":1,"expire_time":2,"generate_time":null,"expire_event_time":null,"public_key":null,"material":"01020304-0506-0708-090a-0b0c0d0e0f10"}"#;
        let read: ImportJob = serde_json::from_str(job).unwrap();
        assert_eq!((read.method, read.state), (Method::RsaOaep3072Sha256, ImportJobState::PendingGeneration));
        assert_eq!(serde_json::to_string(&read).unwrap(), job);
        assert!(serde_json::from_str::<ImportJob>(&job.replace("SHA256", "ROT13")).is_err());
        let version = format!(
            r#"{{"name":"{VERSION}","number":3,"state":"IMPORT_FAILED","create_time":1,"destroy_time":null,"destroy_event_time":null,"import":{{"job":"projects/p/locations/l/keyRings/r/importJobs/j","time":null,"failure":"why","fingerprint":null}},"material":"01020304-0506-0708-090a-0b0c0d0e0f10"}}"#
        );
        let read: CryptoKeyVersion = serde_json::from_str(&version).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), version);
        assert!(read.reimport_eligible());
    }
}
