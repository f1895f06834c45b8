//! All key rings, keys and versions in memory, and what is due when.
//!
//! Invariant: an entry is never changed in place: a change puts a new entry in. Material lives in the
//! entry of an enabled version only, so that it is dropped, and overwritten, when the last use under
//! way of an entry that is no longer enabled ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use claviger_core::names::{CryptoKeyName, ImportJobName, KeyRingName, LocationName};
use claviger_core::{Result, Timestamp};
use claviger_crypto::SecretKey;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::external::{EkmConnection, EkmConnectionName};
use crate::iam::Policy;
use crate::model::{CryptoKey, CryptoKeyVersion, ImportJob, ImportJobState, KeyRing, KeyView, VersionState};
use crate::texts;

/// A key ring with its policy; also its record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RingEntry {
    pub(crate) ring: KeyRing,
    #[serde(default)]
    pub(crate) policy: Policy,
}

/// What the record of a key holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    pub(crate) key: CryptoKey,
    #[serde(default)]
    pub(crate) policy: Policy,
}

/// An import job with its policy; also its record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobEntry {
    pub(crate) job: ImportJob,
    #[serde(default)]
    pub(crate) policy: Policy,
}

/// A connection to an external key manager with its policy; also its record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConnectionEntry {
    pub(crate) connection: EkmConnection,
    #[serde(default)]
    pub(crate) policy: Policy,
}

impl JobEntry {
    fn due(&self) -> Option<Due> {
        let ends = self.job.state != ImportJobState::Expired;
        ends.then(|| Due { at: self.job.expire_time, what: What::Expire(self.job.name.clone()) })
    }
}

/// A key with its policy and its versions.
#[derive(Clone, Debug)]
pub(crate) struct KeyEntry {
    pub(crate) record: KeyRecord,
    pub(crate) versions: BTreeMap<u64, Arc<VersionEntry>>,
}

/// A version, and its material once it was used.
pub(crate) struct VersionEntry {
    pub(crate) version: CryptoKeyVersion,
    pub(crate) material: OnceCell<SecretKey>,
}

impl fmt::Debug for VersionEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VersionEntry").field("version", &self.version).finish_non_exhaustive()
    }
}

impl VersionEntry {
    pub(crate) fn new(version: CryptoKeyVersion) -> Arc<Self> {
        Arc::new(Self { version, material: OnceCell::new() })
    }

    pub(crate) fn with_material(version: CryptoKeyVersion, material: SecretKey) -> Arc<Self> {
        Arc::new(Self { version, material: OnceCell::new_with(Some(material)) })
    }
}

impl KeyEntry {
    pub(crate) fn name(&self) -> &CryptoKeyName {
        &self.record.key.name
    }

    /// The key as callers see it.
    pub(crate) fn view(&self) -> KeyView {
        let primary = self.record.key.primary.and_then(|number| self.versions.get(&number));
        KeyView { key: self.record.key.clone(), primary: primary.map(|entry| entry.version.clone()) }
    }

    fn due(&self) -> impl Iterator<Item = Due> + '_ {
        let rotation = self.record.key.next_rotation_time;
        let rotation = rotation.map(|at| Due { at, what: What::Rotate(self.name().clone()) });
        let destructions = self.versions.values().filter_map(|entry| {
            let CryptoKeyVersion { state, destroy_time, number, .. } = &entry.version;
            let at = destroy_time.filter(|_| *state == VersionState::DestroyScheduled)?;
            Some(Due { at, what: What::Destroy(self.name().clone(), *number) })
        });
        rotation.into_iter().chain(destructions)
    }
}

/// Something that the scheduler has to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    pub(crate) at: Timestamp,
    pub(crate) what: What,
}

/// What the scheduler has to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// Make a new primary version of a key.
    Rotate(CryptoKeyName),
    /// Destroy a version of a key.
    Destroy(CryptoKeyName, u64),
    /// End an import job.
    Expire(ImportJobName),
}

/// See the file's text.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) rings: BTreeMap<String, Arc<RingEntry>>,
    pub(crate) keys: BTreeMap<String, Arc<KeyEntry>>,
    pub(crate) jobs: BTreeMap<String, Arc<JobEntry>>,
    pub(crate) connections: BTreeMap<String, Arc<ConnectionEntry>>,
    /// For each location, the connection of keys that name none.
    pub(crate) ekm_configs: HashMap<String, Option<EkmConnectionName>>,
    /// The material of what requests to external key managers are signed with.
    pub(crate) signer: Option<Uuid>,
    /// What this KMS is known by in its token, once it has keys there.
    pub(crate) home: Option<Uuid>,
    pub(crate) projects: HashMap<String, u64>,
    due: BTreeSet<Due>,
}

impl Index {
    pub(crate) fn ring(&self, name: &KeyRingName) -> Result<&Arc<RingEntry>> {
        self.rings.get(name.as_str()).ok_or_else(|| texts::no_key_ring(name))
    }

    pub(crate) fn key(&self, name: &CryptoKeyName) -> Result<&Arc<KeyEntry>> {
        self.keys.get(name.as_str()).ok_or_else(|| texts::no_key(name))
    }

    pub(crate) fn job(&self, name: &ImportJobName) -> Result<&Arc<JobEntry>> {
        self.jobs.get(name.as_str()).ok_or_else(|| texts::no_job(name))
    }

    pub(crate) fn connection(&self, name: &EkmConnectionName) -> Result<&Arc<ConnectionEntry>> {
        self.connections.get(name.as_str()).ok_or_else(|| texts::no_connection(name))
    }

    pub(crate) fn put_connection(&mut self, entry: ConnectionEntry) {
        self.connections.insert(entry.connection.name.as_str().to_owned(), Arc::new(entry));
    }

    pub(crate) fn put_ekm_config(&mut self, place: &LocationName, default: Option<EkmConnectionName>) {
        self.ekm_configs.insert(place.as_str().to_owned(), default);
    }

    /// Import jobs whose key pairs are still to be made.
    pub(crate) fn pending_jobs(&self) -> impl Iterator<Item = &ImportJob> {
        let jobs = self.jobs.values().map(|entry| &entry.job);
        jobs.filter(|job| job.state == ImportJobState::PendingGeneration)
    }

    pub(crate) fn put_job(&mut self, entry: JobEntry) {
        let name = entry.job.name.as_str().to_owned();
        if let Some(due) = self.jobs.get(&name).and_then(|old| old.due()) {
            self.due.remove(&due);
        }
        self.due.extend(entry.due());
        self.jobs.insert(name, Arc::new(entry));
    }

    pub(crate) fn put_ring(&mut self, entry: RingEntry) {
        self.rings.insert(entry.ring.name.as_str().to_owned(), Arc::new(entry));
    }

    pub(crate) fn put_key(&mut self, entry: KeyEntry) {
        let name = entry.name().as_str().to_owned();
        if let Some(old) = self.keys.get(&name) {
            for due in old.due() {
                self.due.remove(&due);
            }
        }
        self.due.extend(entry.due());
        self.keys.insert(name, Arc::new(entry));
    }

    /// Those of `map` whose names are `prefix` and one more id.
    pub(crate) fn children<'a, T>(
        map: &'a BTreeMap<String, T>,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a T)> {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        map.range::<str, _>(from).map_while(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
    }

    /// What comes due first.
    pub(crate) fn first_due(&self) -> Option<&Due> {
        self.due.first()
    }

    /// What is due at `now`, the earliest first.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<Due> {
        self.due.iter().take_while(|due| due.at <= now).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_core::names::CryptoKeyVersionName;
    use std::time::Duration;

    fn key(id: &str, rotation: Option<i64>, destroy: &[(u64, VersionState, i64)]) -> KeyEntry {
        let name = CryptoKeyName::new("p", "l", "r", id).unwrap();
        let versions = destroy.iter().map(|(number, state, at)| {
            let version = CryptoKeyVersion {
                name: CryptoKeyVersionName::parse(name.version_name(*number).as_str()).unwrap(),
                number: *number,
                state: *state,
                create_time: Timestamp(0),
                destroy_time: Some(Timestamp(*at)),
                destroy_event_time: None,
                import: None,
                external: None,
                hsm: false,
                material: Uuid::nil(),
            };
            (*number, VersionEntry::new(version))
        });
        let key = CryptoKey {
            name: name.clone(),
            create_time: Timestamp(0),
            labels: BTreeMap::new(),
            primary: None,
            next_version: 9,
            rotation_period: None,
            next_rotation_time: rotation.map(Timestamp),
            destroy_scheduled_duration: Duration::ZERO,
            import_only: false,
            protection: crate::model::ProtectionLevel::Software,
            backend: None,
            justifications: None,
        };
        KeyEntry { record: KeyRecord { key, policy: Policy::default() }, versions: versions.collect() }
    }

    #[test]
    fn what_is_due_follows_the_entries() {
        use VersionState::{DestroyScheduled, Destroyed};
        let mut index = Index::default();
        index.put_key(key("a", Some(50), &[(1, DestroyScheduled, 20), (2, Destroyed, 10)]));
        index.put_key(key("b", None, &[(1, DestroyScheduled, 30)]));
        let due = |index: &Index, now| {
            let due = index.due(Timestamp(now));
            let told = due.into_iter().map(|due| match due.what {
                What::Rotate(key) => (key.crypto_key().to_owned(), None),
                What::Destroy(key, number) => (key.crypto_key().to_owned(), Some(number)),
                What::Expire(job) => (job.import_job().to_owned(), None),
            });
            told.collect::<Vec<_>>()
        };
        assert_eq!(due(&index, 19), []);
        assert_eq!(due(&index, 30), [("a".into(), Some(1)), ("b".into(), Some(1))]);
        assert_eq!(due(&index, 50).last().unwrap(), &("a".into(), None));
        index.put_key(key("a", Some(90), &[(1, Destroyed, 20)]));
        assert_eq!(due(&index, 60), [("b".into(), Some(1))]);
        assert_eq!(index.first_due().unwrap().at, Timestamp(30));
    }

    #[test]
    fn an_import_job_is_due_until_it_has_expired() {
        let mut entry = JobEntry {
            job: ImportJob {
                name: ImportJobName::new("p", "l", "r", "j").unwrap(),
                method: claviger_crypto::wrapping::Method::RsaOaep3072Sha256,
                state: ImportJobState::PendingGeneration,
                create_time: Timestamp(0),
                expire_time: Timestamp(9),
                generate_time: None,
                expire_event_time: None,
                public_key: None,
                material: Uuid::nil(),
            },
            policy: Policy::default(),
        };
        let mut index = Index::default();
        index.put_job(entry.clone());
        assert_eq!((index.due(Timestamp(8)).len(), index.due(Timestamp(9)).len()), (0, 1));
        assert_eq!(index.pending_jobs().count(), 1);
        entry.job.state = ImportJobState::Expired;
        index.put_job(entry);
        assert_eq!((index.due(Timestamp(99)).len(), index.pending_jobs().count()), (0, 0));
    }

    #[test]
    fn children_are_those_below_the_prefix_and_no_neighbours() {
        let map: BTreeMap<String, ()> =
            ["a/k", "a/r/x", "a/r/y", "a/r2/z", "b"].iter().map(|name| ((*name).to_owned(), ())).collect();
        let children: Vec<_> = Index::children(&map, "a/r/").map(|(id, ())| id).collect();
        assert_eq!(children, ["x", "y"]);
    }
}
