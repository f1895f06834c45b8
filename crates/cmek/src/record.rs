//! The record of a scope, as it is kept in [`claviger_sealed::Records`], and the additional data that
//! binds a wrapped key to its scope.
//!
//! Invariant: a wrapped key opens only with the scope and the key id that it was made for. The format
//! is described in `docs/formats.md`; fields may be added, none may change its meaning.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName};
use claviger_core::{Error, ErrorKind, Result, Timestamp};
use claviger_sealed::scope::{KeyId, ScopeId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::lifecycle::KeyState;

/// The format that this version writes and the only one that it reads.
pub const FORMAT: u32 = 1;

/// Separates the additional data of intermediate keys from any other use of a KMS key.
const DOMAIN: &[u8] = b"claviger intermediate key v1";

/// A scope at rest: everything but the unwrapped keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The key that wraps the intermediate keys.
    pub key: CryptoKeyName,
    /// Whether it is a customer's key, which users may see, or one that Claviger manages.
    pub customer_managed: bool,
    /// The service agent in whose name the KMS is asked.
    pub principal: String,
    /// Labels for the audit log besides the resource and the scope.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
    /// What the scope protects, as users know it.
    pub resource: String,
    /// The wrapped intermediate keys, oldest first.
    pub generations: Vec<Generation>,
    /// The id of the one that new files are written under.
    pub current: KeyId,
    /// The state when it was last written.
    pub state: KeyState,
    /// When the KMS last gave the key, as far as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// Since when the scope is locked, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_since: Option<Timestamp>,
}

/// One intermediate key, wrapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Unique in its scope, from 1.
    pub id: KeyId,
    /// What the KMS made of the key.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub wrapped: Vec<u8>,
    /// The version that it is wrapped under.
    pub version: CryptoKeyVersionName,
    /// When the key was made; wrapping it again does not change that.
    pub created: Timestamp,
}

impl ScopeRecord {
    /// The generation that new files are written under.
    ///
    /// # Errors
    /// `DataLoss` when the record has no such generation.
    pub fn current_generation(&self) -> Result<&Generation> {
        self.generations
            .iter()
            .find(|generation| generation.id == self.current)
            .ok_or_else(|| Error::new(ErrorKind::DataLoss, "a scope's record lacks its current generation"))
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// `FailedPrecondition` for a format of a later version, `DataLoss` for a record that cannot be.
    pub fn validate(&self) -> Result<()> {
        if self.format != FORMAT {
            let text = format!("a scope's record has format {}, this version reads {FORMAT}", self.format);
            return Err(Error::precondition(text));
        }
        self.current_generation().map(drop)
    }
}

/// The key of a scope's record.
#[must_use]
pub fn record_key(scope: &ScopeId) -> String {
    format!("scope/{scope}")
}

/// The key of the small record that keeps the time of a scope's last success between two changes of
/// its state.
#[must_use]
pub fn seen_key(scope: &ScopeId) -> String {
    format!("seen/{scope}")
}

/// The additional data of a wrapped key.
#[must_use]
pub fn wrapping_aad(scope: &ScopeId, id: KeyId) -> Vec<u8> {
    length_prefixed(&[DOMAIN, scope.as_str().as_bytes(), &id.0.to_be_bytes()])
}

/// Joins parts, each after its length as four bytes, most significant first, so that no two lists of
/// parts give the same bytes.
pub(crate) fn length_prefixed(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        // Names and labels are far below 4 GiB; one that is not cannot be told from another of that length.
        joined.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        joined.extend_from_slice(part);
    }
    joined
}

pub(crate) fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

pub(crate) fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ScopeRecord {
        let key = CryptoKeyName::parse("projects/p/locations/us-east1/keyRings/r/cryptoKeys/k").unwrap();
        ScopeRecord {
            format: FORMAT,
            principal: "serviceAccount:service-100000000001@gcp-sa-bigtable.iam.gserviceaccount.com"
                .to_owned(),
            customer_managed: true,
            context: BTreeMap::new(),
            resource: "projects/p/instances/i/clusters/c/tables/t".to_owned(),
            generations: vec![Generation {
                id: KeyId(1),
                wrapped: vec![0, 1, 2, 250, 251, 252],
                version: key.version_name(3),
                created: Timestamp(1_700_000_000_000_000),
            }],
            current: KeyId(1),
            state: KeyState::Enabled,
            last_success: Some(Timestamp(1_700_000_300_000_000)),
            locked_since: None,
            key,
        }
    }

    #[test]
    fn a_record_is_read_and_written_as_the_fixture_has_it() {
        let fixture = include_str!("../tests/fixtures/scope-record-1.json").trim_end();
        assert_eq!(serde_json::from_str::<ScopeRecord>(fixture).unwrap(), record());
        assert_eq!(serde_json::to_string(&record()).unwrap(), fixture);
    }

    #[test]
    fn a_locked_record_is_read_and_written_as_the_fixture_has_it() {
        let fixture = include_str!("../tests/fixtures/scope-record-1-locked.json").trim_end();
        let refusal = crate::lifecycle::Refusal {
            reason: crate::lifecycle::Reason::DestroyScheduled,
            version: Some(record().key.version_name(3)),
            violations: vec!["KEY_DESTROY_SCHEDULED".to_owned()],
            detail: "not enabled".to_owned(),
        };
        let locked = ScopeRecord {
            state: KeyState::Disabled { refusal },
            locked_since: Some(Timestamp(1_700_000_600_000_000)),
            context: BTreeMap::from([("job".to_owned(), "j-1".to_owned())]),
            ..record()
        };
        assert_eq!(serde_json::from_str::<ScopeRecord>(fixture).unwrap(), locked);
        assert_eq!(serde_json::to_string(&locked).unwrap(), fixture);
    }

    #[test]
    fn a_record_of_a_later_format_or_without_its_current_key_is_refused() {
        let later = ScopeRecord { format: 2, ..record() };
        assert_eq!(later.validate().unwrap_err().kind(), ErrorKind::FailedPrecondition);
        let headless = ScopeRecord { current: KeyId(2), ..record() };
        assert_eq!(headless.validate().unwrap_err().kind(), ErrorKind::DataLoss);
        assert!(record().validate().is_ok());
    }

    #[test]
    fn the_additional_data_tells_every_scope_and_key_apart() {
        let scope = |name: &str| ScopeId::new(name);
        let aad = wrapping_aad(&scope("bigtable/a"), KeyId(1));
        assert_eq!(aad, b"\0\0\0\x1cclaviger intermediate key v1\0\0\0\x0abigtable/a\0\0\0\x04\0\0\0\x01");
        assert_ne!(aad, wrapping_aad(&scope("bigtable/a"), KeyId(2)));
        assert_ne!(aad, wrapping_aad(&scope("bigtable/b"), KeyId(1)));
        assert_ne!(length_prefixed(&[b"ab", b"c"]), length_prefixed(&[b"a", b"bc"]));
    }
}
