//! Opening: the root, the three sealed stores, the records into the index, and the traces of a crash.
//!
//! ```text
//! root.json, root.key   the root seal
//! records/              sealed: ring/NAME, key/NAME, version/KEY/NUMBER, job/NAME, project/ID, ekm/signer,
//!                       ekm/connection/NAME, ekm/config/LOCATION, hsm/home
//! material/             sealed: one object per version that is not destroyed, and per import job that is active, and
//!                       one for the key that requests to external key managers are signed with, and one for what
//!                       this KMS is known by in a token
//! audit/                sealed: the audit log
//! ```
//!
//! Invariant: material that no version owns is removed at open; a version that was scheduled for destruction
//! and has lost its material is destroyed, and an import job that is active and has lost its own has expired. All are
//! what a crash half way through a change leaves. Our half of an HSM key goes after the token's, so it stays while the
//! token is silent: the start does not wait for that.

use std::collections::HashSet;
use std::sync::Arc;

use claviger_crypto::SecretKey;
use claviger_sealed::{FixedKey, ScopeId, SealedOptions, SealedStore};
use object_store::path::Path;

use super::*;
use crate::index::KeyRecord;
use crate::model::{CryptoKeyVersion, ImportJobState, VersionState};
use crate::seal::{OpenedRoot, RootKeys, Use};

/// Where the records' database lies in its store.
const RECORDS_PATH: &str = "db";

/// The sealed stores, which are closed last.
#[derive(Debug)]
pub(super) struct Stores {
    records: Arc<SealedStore>,
    material: Arc<SealedStore>,
    audit: Arc<SealedStore>,
}

impl Stores {
    async fn open(store: &Arc<dyn ObjectStore>, keys: &mut RootKeys, clock: &Arc<dyn Clock>) -> Result<Self> {
        let open = async |of: Use, key: SecretKey| {
            let keys = Arc::new(FixedKey::new(ScopeId::new(format!("kms/{}", of.as_str())), key));
            let (prefix, options) = (Path::from(of.as_str()), SealedOptions::default());
            SealedStore::open(store.clone(), prefix, keys, clock.clone(), options).await.map(Arc::new)
        };
        let (records, material, audit) = tokio::try_join!(
            open(Use::Records, keys.take(Use::Records)?),
            open(Use::Material, keys.take(Use::Material)?),
            open(Use::Audit, keys.take(Use::Audit)?),
        )?;
        Ok(Self { records, material, audit })
    }

    /// A further database in the store of the records.
    pub(super) async fn open_records(&self, path: &str) -> Result<Records> {
        Records::open(self.records.clone(), path).await
    }

    pub(super) async fn close(&self) -> Result<()> {
        let (records, material, audit) =
            (self.records.close().await, self.material.close().await, self.audit.close().await);
        records.and(material).and(audit)
    }
}

pub(super) fn ring_record(name: &KeyRingName) -> String {
    format!("ring/{name}")
}

pub(super) fn key_record(name: &CryptoKeyName) -> String {
    format!("key/{name}")
}

pub(super) fn version_record(key: &CryptoKeyName, number: u64) -> String {
    format!("version/{key}/{number:020}")
}

pub(super) fn job_record(name: &ImportJobName) -> String {
    format!("job/{name}")
}

/// The name of the signing key's material.
pub(super) const SIGNER_RECORD: &str = "ekm/signer";
/// What this KMS is known by in its token.
pub(super) const HOME_RECORD: &str = "hsm/home";
const CONNECTIONS: &str = "ekm/connection/";
const CONFIGS: &str = "ekm/config/";

pub(super) fn connection_record(name: &EkmConnectionName) -> String {
    format!("{CONNECTIONS}{name}")
}

pub(super) fn ekm_config_record(place: &LocationName) -> String {
    format!("{CONFIGS}{place}")
}

pub(super) fn project_record(project: &str) -> String {
    format!("project/{project}")
}

pub(super) async fn open(
    config: KmsConfig,
    root: OpenedRoot,
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
) -> Result<Inner> {
    let OpenedRoot { mut keys, seals, .. } = root;
    let wrap = keys.take(Use::Wrap)?;
    let stores = Stores::open(&store, &mut keys, &clock).await?;
    let material = Material::new(stores.material.clone(), wrap);
    let (audit, records) = tokio::try_join!(
        AuditLog::open(stores.audit.clone(), clock.clone()),
        Records::open(stores.records.clone(), RECORDS_PATH),
    )?;
    let inner = Inner {
        clock,
        times: Times {
            default_destroy: config.default_destroy_duration,
            min_destroy: config.min_destroy_duration,
            min_rotation: config.min_rotation_period,
        },
        index: RwLock::default(),
        stores,
        seals,
        material,
        external: config.external,
        hsm: config.hsm,
        signer: OnceCell::new(),
        audit: Arc::new(audit),
        records: Mutex::new(Database::Failed),
        changes: broadcast::Sender::new(CHANGES_BUFFERED),
        wake: Notify::new(),
        generate: Notify::new(),
    };
    inner.load(&records).await?;
    *inner.records.lock().await = Database::Open(records);
    Ok(inner)
}

impl Inner {
    /// Opens the records anew and fills the index from them. The caller has the turn.
    pub(super) async fn reload(&self) -> Result<Records> {
        let records = Records::open(self.stores.records.clone(), RECORDS_PATH).await?;
        self.load(&records).await?;
        Ok(records)
    }

    /// Fills the index and clears the traces of a crash.
    async fn load(&self, records: &Records) -> Result<()> {
        let mut index = read(records).await?;
        let found = self.material.list().await?;
        let mut owned = HashSet::new();
        for entry in index.keys.values().cloned().collect::<Vec<_>>() {
            for version in entry.versions.values() {
                let CryptoKeyVersion { state, material, number, name, .. } = &version.version;
                match (state, found.contains(material)) {
                    // Of one that is destroyed it is as good as nobody's.
                    (VersionState::Destroyed, true) => continue,
                    (VersionState::DestroyScheduled, false) => {
                        let destroyed = versions::destroyed(&entry, *number, self.clock.now());
                        if let Some(version) = destroyed.versions.get(number) {
                            records.put(&version_record(entry.name(), *number), &version.version).await?;
                        }
                        index.put_key(destroyed);
                    }
                    (VersionState::Enabled | VersionState::Disabled, false) => {
                        tracing::error!(version = %name, "the key material of a version is missing");
                    }
                    _ => {}
                }
                owned.insert(*material);
            }
        }
        for entry in index.jobs.values().cloned().collect::<Vec<_>>() {
            let material = entry.job.material;
            match (entry.job.state, found.contains(&material)) {
                (ImportJobState::Active, true) => drop(owned.insert(material)),
                (ImportJobState::Active, false) => {
                    let expired = jobs::expired(&entry, self.clock.now());
                    records.put(&job_record(&expired.job.name), &expired).await?;
                    index.put_job(expired);
                }
                // The key of a job that is pending or expired is an orphan.
                _ => {}
            }
        }
        owned.extend(index.signer);
        owned.extend(index.home);
        for orphan in found.difference(&owned) {
            self.shred_orphan(*orphan, index.home).await?;
        }
        // Users of keys may have been told of a change that was not made, or not told of one that was.
        let names: Vec<_> = index.keys.values().map(|entry| entry.name().clone()).collect();
        *self.index_mut() = index;
        self.announce(names);
        Ok(())
    }
}

impl Inner {
    /// Removes material that no record names.
    async fn shred_orphan(&self, id: Uuid, home: Option<Uuid>) -> Result<()> {
        if self.material.is_half(id).await?
            && let Err(error) = self.shred_from_token(id, home).await
        {
            tracing::warn!(%error, "what is left of a key in the token is removed at a later start");
            return Ok(());
        }
        self.material.shred(id).await
    }
}

async fn read(records: &Records) -> Result<Index> {
    let damaged = |what: String| Error::new(ErrorKind::DataLoss, what);
    let mut index = Index::default();
    for (_, entry) in records.scan::<RingEntry>("ring/").await? {
        index.put_ring(entry);
    }
    let mut versions = records.scan::<CryptoKeyVersion>("version/").await?.into_iter().peekable();
    for (record, entry) in records.scan::<KeyRecord>("key/").await? {
        let name = entry.key.name.clone();
        if record != key_record(&name) || !index.rings.contains_key(name.key_ring_name().as_str()) {
            return Err(damaged(format!("the record of the key {name} is not where it belongs")));
        }
        let prefix = format!("version/{name}/");
        let mut own = std::collections::BTreeMap::new();
        while let Some((_, version)) = versions.next_if(|(record, _)| record.starts_with(&prefix)) {
            own.insert(version.number, VersionEntry::new(version));
        }
        index.put_key(KeyEntry { record: entry, versions: own });
    }
    if let Some((record, _)) = versions.next() {
        return Err(damaged(format!("the record {record} belongs to no key")));
    }
    for (record, entry) in records.scan::<JobEntry>("job/").await? {
        let name = &entry.job.name;
        if record != job_record(name) || !index.rings.contains_key(name.key_ring_name().as_str()) {
            return Err(damaged(format!("the record of the import job {name} is not where it belongs")));
        }
        index.put_job(entry);
    }
    for (record, entry) in records.scan::<ConnectionEntry>(CONNECTIONS).await? {
        let name = &entry.connection.name;
        if record != connection_record(name) {
            return Err(damaged(format!("the record of the connection {name} is not where it belongs")));
        }
        index.put_connection(entry);
    }
    for (record, default) in records.scan::<Option<EkmConnectionName>>(CONFIGS).await? {
        index.put_ekm_config(&LocationName::parse(record.trim_start_matches(CONFIGS))?, default);
    }
    index.signer = records.get(SIGNER_RECORD).await?;
    index.home = records.get(HOME_RECORD).await?;
    for (record, number) in records.scan::<u64>("project/").await? {
        index.projects.insert(record.trim_start_matches("project/").to_owned(), number);
    }
    Ok(index)
}
