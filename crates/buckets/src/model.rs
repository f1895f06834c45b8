//! Buckets and objects as they are stored.
//!
//! Invariant: these are records on disk; a field is added with a default and none is renamed.

use std::collections::BTreeMap;

use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::errors;
use crate::names::Location;

/// The class of a bucket or object that names none.
pub const DEFAULT_CLASS: &str = "STANDARD";
/// All classes that are taken. They change nothing here but what is shown.
pub const CLASSES: [&str; 7] = [
    "STANDARD",
    "NEARLINE",
    "COLDLINE",
    "ARCHIVE",
    "MULTI_REGIONAL",
    "REGIONAL",
    "DURABLE_REDUCED_AVAILABILITY",
];
/// Custom metadata of an object, bytes of all keys and values.
pub const METADATA_BYTES: usize = 8 * 1024;
/// Labels of a bucket.
pub const MAX_LABELS: usize = 64;

/// Who may do what with a bucket: kept and shown, not yet enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Roles and their members, each as the JSON of a binding.
    #[serde(default)]
    pub bindings: Vec<Value>,
    /// How often it was set.
    #[serde(default)]
    pub revision: u64,
    /// 1, or 3 when a binding has a condition.
    #[serde(default)]
    pub version: u32,
}

/// How long the objects of a bucket must be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// From an object's making.
    pub period_seconds: u64,
    /// Since when.
    pub effective: Timestamp,
    /// Whether it can no longer be removed or shortened.
    pub locked: bool,
}

/// What users set on a bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BucketConfig {
    /// The class of new objects.
    pub storage_class: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Whether what is overwritten or deleted stays as a noncurrent version.
    pub versioning: bool,
    /// The lifecycle, as given.
    pub lifecycle: Option<Value>,
    /// Rules for browsers, as given.
    pub cors: Option<Value>,
    /// Pages of a web site, as given.
    pub website: Option<Value>,
    /// Where access logs would go, as given.
    pub logging: Option<Value>,
    /// How long objects must be kept.
    pub retention: Option<Retention>,
    /// Whether new objects get an event-based hold.
    pub default_event_based_hold: bool,
    /// `enforced` or `inherited`.
    pub public_access_prevention: Option<String>,
    /// The key of new objects; without one, a Claviger-managed key protects them.
    pub kms_key: Option<CryptoKeyName>,
}

/// Where the bytes under one key of a bucket are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultRecord {
    /// The customer's key; none for the one that Claviger manages.
    pub kms_key: Option<CryptoKeyName>,
    /// Whether it was ever opened: from then on its files must be there.
    #[serde(default)]
    pub opened: bool,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// The project that owns it.
    pub project: String,
    /// The project's number.
    pub project_number: u64,
    /// Where it is.
    pub location: Location,
    /// What its users set.
    pub config: BucketConfig,
    /// Who may do what.
    #[serde(default)]
    pub policy: Policy,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
    /// How often it was changed.
    pub metageneration: u64,
    /// The vaults, by the name of their scope, which is their directory as well.
    pub vaults: BTreeMap<String, VaultRecord>,
    /// The vault with the index of objects: the one of the default key.
    pub index: String,
}

impl Bucket {
    /// Its name as keys' audit entries and errors show it.
    #[must_use]
    pub fn resource(&self) -> String {
        format!("projects/_/buckets/{}", self.name)
    }

    /// The vault of a key.
    pub(crate) fn vault_of(&self, key: Option<&CryptoKeyName>) -> Option<&str> {
        self.vaults.iter().find(|(_, vault)| vault.kms_key.as_ref() == key).map(|(id, _)| id.as_str())
    }

    /// When an object that was made at `created` may go.
    #[must_use]
    pub fn retention_end(&self, created: Timestamp) -> Option<Timestamp> {
        let retention = self.config.retention.as_ref()?;
        Some(created.plus(std::time::Duration::from_secs(retention.period_seconds)))
    }
}

/// What users set on an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectMetadata {
    /// Its media type.
    pub content_type: Option<String>,
    /// Such as `gzip`.
    pub content_encoding: Option<String>,
    /// How browsers show it.
    pub content_disposition: Option<String>,
    /// Its language.
    pub content_language: Option<String>,
    /// How long others may keep it.
    pub cache_control: Option<String>,
    /// Its class; none for the bucket's.
    pub storage_class: Option<String>,
    /// A time of the user's own.
    pub custom_time: Option<Timestamp>,
    /// Free pairs.
    pub metadata: BTreeMap<String, String>,
    /// Keeps the object until it is released.
    pub temporary_hold: bool,
    /// Keeps the object until an event; none for the bucket's default.
    pub event_based_hold: Option<bool>,
}

impl ObjectMetadata {
    /// Checks what users may set.
    ///
    /// # Errors
    /// `InvalidArgument` for too much custom metadata or an unknown class.
    pub fn check(&self) -> Result<()> {
        let bytes: usize = self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > METADATA_BYTES {
            return Err(Error::invalid(format!(
                "The metadata is larger than {METADATA_BYTES} bytes in all."
            )));
        }
        self.storage_class.as_deref().map_or(Ok(()), check_class)
    }
}

/// Checks the name of a class.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_class(class: &str) -> Result<()> {
    if CLASSES.contains(&class) {
        Ok(())
    } else {
        Err(Error::invalid(format!("The specified storage class '{class}' is not valid.")))
    }
}

/// Where the bytes of an object are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    /// The vault.
    pub(crate) vault: String,
    /// Their name in the vault; never used twice.
    pub(crate) id: String,
    /// The lengths of the files, in order; none for bytes in the vault's database.
    pub(crate) files: Vec<u64>,
}

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Which version of the content: microseconds since the epoch, ever growing for a name.
    pub generation: i64,
    /// Which version of the metadata.
    pub metageneration: u64,
    /// Bytes.
    pub size: u64,
    /// CRC32C of the bytes.
    pub crc32c: u32,
    /// MD5 of the bytes; none for what was composed.
    pub md5: Option<[u8; 16]>,
    /// How many uploads it was composed of.
    #[serde(default)]
    pub component_count: Option<u32>,
    /// What its users set.
    pub metadata: ObjectMetadata,
    /// When this version was made.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
    /// When it became noncurrent.
    #[serde(default)]
    pub deleted: Option<Timestamp>,
    /// Where its bytes are.
    pub(crate) content: Content,
}

impl Object {
    /// The vault that its bytes are in, by which its key is found.
    #[must_use]
    pub fn vault(&self) -> &str {
        &self.content.vault
    }

    /// Whether a hold keeps it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.metadata.temporary_hold || self.metadata.event_based_hold == Some(true)
    }

    /// Refuses to remove what must be kept.
    pub(crate) fn check_removable(&self, bucket: &Bucket, now: Timestamp) -> Result<()> {
        if self.is_held() {
            return Err(errors::held(&bucket.name, &self.name));
        }
        match bucket.retention_end(self.created) {
            Some(end) if now < end => Err(errors::retained(&bucket.name, &self.name)),
            _ => Ok(()),
        }
    }
}

/// What must hold for a request to be done. Zero as a generation stands for "there is none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// The live version is this one.
    pub generation_match: Option<i64>,
    /// The live version is not this one.
    pub generation_not_match: Option<i64>,
    /// The metadata is of this version.
    pub metageneration_match: Option<i64>,
    /// The metadata is not of this version.
    pub metageneration_not_match: Option<i64>,
}

impl Conditions {
    /// Checks a write or delete.
    ///
    /// # Errors
    /// `FailedPrecondition` with the violation [`errors::CONDITION_NOT_MET`].
    pub fn check(&self, found: Option<(i64, u64)>) -> Result<()> {
        if self.holds(found) && self.not_holds(found) { Ok(()) } else { Err(errors::condition_not_met()) }
    }

    /// Checks a read, which is spared when the caller has what there is.
    ///
    /// # Errors
    /// `FailedPrecondition` with [`errors::CONDITION_NOT_MET`] or [`errors::NOT_MODIFIED`].
    pub fn check_read(&self, found: Option<(i64, u64)>) -> Result<()> {
        if !self.holds(found) {
            return Err(errors::condition_not_met());
        }
        if self.not_holds(found) { Ok(()) } else { Err(errors::not_modified()) }
    }

    fn holds(&self, found: Option<(i64, u64)>) -> bool {
        let (generation, metageneration) = split(found);
        self.generation_match.is_none_or(|wanted| wanted == generation)
            && self.metageneration_match.is_none_or(|wanted| wanted == metageneration)
    }

    fn not_holds(&self, found: Option<(i64, u64)>) -> bool {
        let (generation, metageneration) = split(found);
        self.generation_not_match.is_none_or(|other| other != generation)
            && self.metageneration_not_match.is_none_or(|other| other != metageneration)
    }
}

fn split(found: Option<(i64, u64)>) -> (i64, i64) {
    found.map_or((0, 0), |(generation, metageneration)| {
        (generation, i64::try_from(metageneration).unwrap_or(i64::MAX))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_absent_from_present() {
        let none = Conditions::default();
        none.check(None).unwrap();
        none.check(Some((7, 1))).unwrap();
        let absent = Conditions { generation_match: Some(0), ..none };
        absent.check(None).unwrap();
        assert!(absent.check(Some((7, 1))).is_err());
        let present = Conditions { generation_not_match: Some(0), ..none };
        assert!(present.check(None).is_err());
        present.check(Some((7, 1))).unwrap();
        let meta = Conditions { metageneration_match: Some(2), ..none };
        assert!(meta.check(Some((7, 1))).is_err());
        meta.check(Some((7, 2))).unwrap();
    }

    #[test]
    fn a_read_of_what_the_caller_has_is_not_modified() {
        let conditions = Conditions { generation_not_match: Some(7), ..Conditions::default() };
        let error = conditions.check_read(Some((7, 1))).unwrap_err();
        assert_eq!(error.violations()[0].kind, errors::NOT_MODIFIED);
        let conditions = Conditions { generation_match: Some(6), ..Conditions::default() };
        let error = conditions.check_read(Some((7, 1))).unwrap_err();
        assert_eq!(error.violations()[0].kind, errors::CONDITION_NOT_MET);
    }
}
