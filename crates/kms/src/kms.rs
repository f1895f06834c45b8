//! The KMS in this process: what it is made of, how it opens, and how every change is made.
//!
//! A change goes one way: plan (against the index, nothing written) -> new material -> audit entry ->
//! removal of destroyed material -> record -> index -> push. It runs to its end even when its
//! caller goes away.
//!
//! Invariant: changes are made one at a time; a change that was acknowledged is durable, and its audit
//! entry was so before it. A version whose record says DESTROYED has no material any more; one whose
//! record says ENABLED or DISABLED has had its material made durable before.

mod external;
mod hsm;
mod imports;
mod jobs;
mod keys;
mod managed;
mod matter;
mod open;
mod policies;
mod rings;
mod schedule;
mod seals;
mod using;
mod versions;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use claviger_audit::{AuditLog, Entry};
use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName, ImportJobName, KeyRingName, LocationName};
use claviger_core::{Caller, Clock, Error, ErrorKind, Result, Timestamp};
use claviger_crypto::SecretBytes;
use claviger_crypto::passphrase::Params;
use claviger_crypto::rs256::SigningKey;
use claviger_sealed::{RecordBatch, Records};
use object_store::ObjectStore;
use tokio::sync::{Mutex, MutexGuard, Notify, OnceCell, broadcast};
use uuid::Uuid;

use crate::agents::{self, MANAGED_PROJECT};
use crate::external::{ACCESS_REASON, AccessReason, EkmConnectionName, ExternalKeys};
use crate::hsm::HsmKeys;
use crate::iam;
use crate::index::{ConnectionEntry, Index, JobEntry, KeyEntry, RingEntry, VersionEntry};
use crate::material::Material;
use crate::seal::{OpenedRoot, RootSecret, Seals, open_or_make};
use crate::service::KeyChange;
use crate::texts;

use matter::{Created, Shred};

pub use imports::ImportRequest;
pub use policies::PolicyResource;
pub use using::{DecryptReply, DecryptRequest, EncryptReply, EncryptRequest, KeyOrVersion};

/// The service's name in the audit log.
const SERVICE: &str = "cloudkms.googleapis.com";
/// Changes that a slow listener may be behind before it must ask about all of its keys.
const CHANGES_BUFFERED: usize = 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How a KMS is opened.
#[derive(Debug)]
pub struct KmsConfig {
    /// What opens the root seal.
    pub root: RootSecret,
    /// What a guess of the passphrase costs, when a new seal is made.
    pub passphrase_params: Params,
    /// How long a version stays scheduled for destruction when its key does not say.
    pub default_destroy_duration: Duration,
    /// The shortest time that a key may say.
    pub min_destroy_duration: Duration,
    /// The shortest rotation period that a key may have.
    pub min_rotation_period: Duration,
    /// The way to external key managers.
    pub external: Option<Arc<dyn ExternalKeys>>,
    /// The token of keys of the protection level HSM.
    pub hsm: Option<Arc<dyn HsmKeys>>,
}

impl Default for KmsConfig {
    /// Cloud KMS's documented times, and a local root key.
    fn default() -> Self {
        Self {
            root: RootSecret::Local,
            passphrase_params: Params::RECOMMENDED,
            default_destroy_duration: 30 * DAY,
            min_destroy_duration: DAY,
            min_rotation_period: DAY,
            external: None,
            hsm: None,
        }
    }
}

/// The times that keys are held to.
#[derive(Clone, Copy, Debug)]
struct Times {
    default_destroy: Duration,
    min_destroy: Duration,
    min_rotation: Duration,
}

/// The KMS in this process; see the file's text.
pub struct Kms {
    inner: Arc<Inner>,
}

impl fmt::Debug for Kms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kms")
    }
}

struct Inner {
    clock: Arc<dyn Clock>,
    times: Times,
    index: RwLock<Index>,
    stores: open::Stores,
    seals: Seals,
    material: Material,
    external: Option<Arc<dyn ExternalKeys>>,
    hsm: Option<Arc<dyn HsmKeys>>,
    /// What requests to external key managers are signed with, once it was used.
    signer: OnceCell<SigningKey>,
    audit: Arc<AuditLog>,
    /// The database of records. Held while a change is made, so it is also the turn of changes.
    records: Mutex<Database>,
    changes: broadcast::Sender<KeyChange>,
    /// Something may be due earlier than before.
    wake: Notify,
    /// An import job may wait for its key pair.
    generate: Notify,
}

/// The database of records.
enum Database {
    Open(Records),
    /// A write failed, and nobody knows what of it reached the disk: it must be opened and read anew.
    Failed,
    Closed,
}

/// Who does what to which resource: the part of an audit entry that is known beforehand.
#[derive(Clone, Debug)]
struct Call {
    caller: Caller,
    method: &'static str,
    resource: String,
}

impl Call {
    fn new(caller: &Caller, method: &'static str, resource: &impl fmt::Display) -> Self {
        Self { caller: caller.clone(), method, resource: resource.to_string() }
    }
}

/// A change that was found right and is still to be made.
struct Plan<T> {
    ring: Option<RingEntry>,
    key: Option<KeyEntry>,
    /// Numbers of the key's versions whose records change.
    versions: Vec<u64>,
    job: Option<JobEntry>,
    connection: Option<ConnectionEntry>,
    /// The connection of keys in a location that name none.
    ekm_config: Option<(LocationName, Option<EkmConnectionName>)>,
    /// The material of what requests to external key managers are signed with.
    signer: Option<Uuid>,
    /// What this KMS is known by in its token.
    home: Option<Uuid>,
    /// Material to be written.
    create: Option<Created>,
    /// Material to be removed.
    shred: Option<Shred>,
    /// Keys whose users must ask again.
    announce: Vec<CryptoKeyName>,
    /// For the audit entry.
    version: Option<CryptoKeyVersionName>,
    /// For the audit entry: what was to be done and is not, though something else changes.
    refused: Option<Error>,
    reply: T,
}

impl<T> Plan<T> {
    /// Changes nothing.
    fn reply(reply: T) -> Self {
        Self {
            ring: None,
            key: None,
            versions: Vec::new(),
            job: None,
            connection: None,
            ekm_config: None,
            signer: None,
            home: None,
            create: None,
            shred: None,
            announce: Vec::new(),
            version: None,
            refused: None,
            reply,
        }
    }

    fn ring(entry: RingEntry, reply: T) -> Self {
        Self { ring: Some(entry), ..Self::reply(reply) }
    }

    /// The same change with another reply.
    fn replying<U>(self, reply: U) -> Plan<U> {
        let Self { ring, key, versions, job, connection, ekm_config, signer, home, .. } = self;
        let Self { create, shred, announce, version, refused, .. } = self;
        Plan {
            ring,
            key,
            versions,
            job,
            connection,
            ekm_config,
            signer,
            home,
            create,
            shred,
            announce,
            version,
            refused,
            reply,
        }
    }

    fn job(entry: JobEntry, reply: T) -> Self {
        Self { job: Some(entry), ..Self::reply(reply) }
    }

    fn key(entry: KeyEntry, versions: Vec<u64>, reply: T) -> Self {
        Self { announce: vec![entry.name().clone()], key: Some(entry), versions, ..Self::reply(reply) }
    }
}

/// What a permission is asked about.
#[derive(Clone, Copy)]
enum On<'a> {
    Location(&'a LocationName),
    Ring(&'a KeyRingName),
    Key(&'a CryptoKeyName),
    Version(&'a CryptoKeyVersionName),
    Job(&'a ImportJobName),
    Connection(&'a EkmConnectionName),
}

impl On<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Location(name) => name.as_str(),
            Self::Ring(name) => name.as_str(),
            Self::Key(name) => name.as_str(),
            Self::Version(name) => name.as_str(),
            Self::Job(name) => name.as_str(),
            Self::Connection(name) => name.as_str(),
        }
    }

    fn project(&self) -> &str {
        match self {
            Self::Location(name) => name.project(),
            Self::Ring(name) => name.project(),
            Self::Key(name) => name.project(),
            Self::Version(name) => name.project(),
            Self::Job(name) => name.project(),
            Self::Connection(name) => name.project(),
        }
    }

    fn key(&self) -> Option<CryptoKeyName> {
        match self {
            Self::Location(_) | Self::Ring(_) | Self::Job(_) | Self::Connection(_) => None,
            Self::Key(name) => Some((*name).clone()),
            Self::Version(name) => Some(name.crypto_key_name()),
        }
    }

    fn ring(&self) -> Option<KeyRingName> {
        match self {
            Self::Location(_) | Self::Connection(_) => None,
            Self::Ring(name) => Some((*name).clone()),
            Self::Key(_) | Self::Version(_) => self.key().map(|key| key.key_ring_name()),
            Self::Job(name) => Some(name.key_ring_name()),
        }
    }

    fn job(&self) -> Option<&ImportJobName> {
        match self {
            Self::Job(name) => Some(name),
            _ => None,
        }
    }

    fn connection(&self) -> Option<&EkmConnectionName> {
        match self {
            Self::Connection(name) => Some(name),
            _ => None,
        }
    }
}

/// Whether policies give `permission` on a resource, which need not be there, to a caller.
fn may(index: &Index, caller: &Caller, permission: &str, on: On<'_>) -> bool {
    let principal = caller.principal.as_str();
    if on.project() == MANAGED_PROJECT {
        let used = matches!(permission, iam::USE_TO_ENCRYPT | iam::USE_TO_DECRYPT);
        return used && on.key().is_some_and(|key| agents::may_use_managed(principal, &key));
    }
    let ring = || on.ring().and_then(|ring| index.rings.get(ring.as_str()));
    let key = || on.key().and_then(|key| index.keys.get(key.as_str()));
    let job = || on.job().and_then(|job| index.jobs.get(job.as_str()));
    let connection = || on.connection().and_then(|name| index.connections.get(name.as_str()));
    caller.is_administrator()
        || job().is_some_and(|job| job.policy.grants(principal, permission))
        || connection().is_some_and(|entry| entry.policy.grants(principal, permission))
        || key().is_some_and(|key| key.record.policy.grants(principal, permission))
        || ring().is_some_and(|ring| ring.policy.grants(principal, permission))
}

/// As [`may`], with the refusal as an error.
fn authorise(index: &Index, caller: &Caller, permission: &str, on: On<'_>) -> Result<()> {
    if may(index, caller, permission, on) { Ok(()) } else { Err(texts::denied(permission, on.name())) }
}

/// Runs to its end even when whoever waits for it goes away.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|e| Error::internal("a change of the KMS failed").because(e))?
}

impl Kms {
    /// Opens the KMS of a store, or makes one when the store is empty.
    ///
    /// # Errors
    /// `FailedPrecondition` when the root secret does not open it; `DataLoss` when stored bytes are not what
    /// was written; what the store answers.
    pub async fn open(
        config: KmsConfig,
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        let root = open_or_make(&store, &config.root, config.passphrase_params, clock.now()).await?;
        Self::open_with(config, root, store, clock).await
    }

    /// Opens the KMS of a store whose root was opened before; the root secret of `config` is not used.
    ///
    /// # Errors
    /// `DataLoss` when stored bytes are not what was written; what the store answers.
    pub async fn open_with(
        config: KmsConfig,
        root: OpenedRoot,
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { inner: Arc::new(Box::pin(open::open(config, root, store, clock)).await?) }))
    }

    /// The log of every use and change of a key.
    #[must_use]
    pub fn audit_log(&self) -> &Arc<AuditLog> {
        &self.inner.audit
    }

    /// A further database of records, sealed as the KMS's own, for what administrators set beside keys. Whoever opens
    /// it closes it, before the KMS.
    ///
    /// # Errors
    /// `DataLoss` when it is not what was written; what the store answers.
    pub async fn side_records(&self, name: &str) -> Result<Records> {
        self.inner.stores.open_records(&format!("side/{name}")).await
    }

    /// How long a version stays scheduled for destruction when its key does not say.
    #[must_use]
    pub fn default_destroy_duration(&self) -> Duration {
        self.inner.times.default_destroy
    }

    /// Makes all durable and closes. Changes and uses fail from now on.
    ///
    /// # Errors
    /// What the stores answer; all that was acknowledged is durable even so.
    pub async fn close(&self) -> Result<()> {
        let mut turn = self.inner.records.lock().await;
        let records = match std::mem::replace(&mut *turn, Database::Closed) {
            Database::Open(records) => records.close().await,
            Database::Failed => Ok(()),
            Database::Closed => return Ok(()),
        };
        let audit = self.inner.audit.close().await;
        let stores = self.inner.stores.close().await;
        records.and(audit).and(stores)
    }

    /// Makes a change, to its end.
    async fn change<T: Send + Sync + 'static>(
        &self,
        call: Call,
        plan: impl FnOnce(&Index, Timestamp) -> Result<Plan<T>> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        // Boxed: the future holds the records' database as it opens.
        detached(Box::pin(async move { inner.change(call, plan).await })).await
    }
}

impl Inner {
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, keys: impl IntoIterator<Item = CryptoKeyName>) {
        for key in keys {
            // Nobody listens: nobody has to be told.
            let _ = self.changes.send(KeyChange::Of(key));
        }
    }

    async fn audit<T>(
        &self,
        call: &Call,
        version: Option<&CryptoKeyVersionName>,
        outcome: Result<&T, &Error>,
    ) -> Result<()> {
        let mut entry = Entry::new(SERVICE, call.method, &call.resource, &call.caller);
        entry.context.remove(ACCESS_REASON);
        if matches!(call.method, "Encrypt" | "Decrypt") {
            entry.justification = Some(AccessReason::of(&call.caller).as_str().to_owned());
        }
        if let Some(version) = version {
            entry = entry.with_key_version(version.as_str());
        }
        if let Err(error) = outcome {
            entry = entry.refused(error);
        }
        self.audit.append(entry).await.map(|_| ())
    }

    /// Waits for its turn, with records that agree with the index.
    async fn turn(&self) -> Result<MutexGuard<'_, Database>> {
        let mut turn = self.records.lock().await;
        match *turn {
            Database::Open(_) => {}
            Database::Failed => *turn = Database::Open(Box::pin(self.reload()).await?),
            Database::Closed => return Err(closed()),
        }
        Ok(turn)
    }

    async fn change<T: Send + Sync>(
        &self,
        call: Call,
        plan: impl FnOnce(&Index, Timestamp) -> Result<Plan<T>> + Send,
    ) -> Result<T> {
        let mut turn = self.turn().await?;
        let planned = plan(&self.index(), self.clock.now());
        let plan = match planned {
            Ok(plan) => plan,
            Err(error) => {
                self.audit(&call, None, Err::<&(), _>(&error)).await?;
                return Err(error);
            }
        };
        let written = self.write(&call, &mut turn, &plan).await;
        if let Err(error) = written {
            // The change may or may not be there; the entry that says OK must not stand alone.
            self.audit(&call, plan.version.as_ref(), Err::<&(), _>(&error)).await?;
            return Err(error);
        }
        {
            let mut index = self.index_mut();
            plan.ring.into_iter().for_each(|entry| index.put_ring(entry));
            plan.key.into_iter().for_each(|entry| index.put_key(entry));
            plan.job.into_iter().for_each(|entry| index.put_job(entry));
            plan.connection.into_iter().for_each(|entry| index.put_connection(entry));
            plan.ekm_config.into_iter().for_each(|(place, default)| index.put_ekm_config(&place, default));
            index.signer = plan.signer.or(index.signer);
            index.home = plan.home.or(index.home);
        }
        self.announce(plan.announce);
        self.wake.notify_one();
        Ok(plan.reply)
    }

    /// The durable part of a change.
    async fn write<T: Send + Sync>(&self, call: &Call, turn: &mut Database, plan: &Plan<T>) -> Result<()> {
        let batch = batch(plan)?;
        if let Some(created) = &plan.create {
            self.create(created).await?;
        }
        let outcome = plan.refused.as_ref().map_or(Ok(&()), Err);
        let audited = self.audit(call, plan.version.as_ref(), outcome).await;
        if let Err(error) = audited {
            if let Some(created) = &plan.create {
                self.shred_unused(created.shred()).await;
            }
            return Err(error);
        }
        if let Some(doomed) = plan.shred {
            self.shred(doomed).await?;
        }
        match batch {
            Some(batch) => write_records(turn, batch).await,
            None => Ok(()),
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the KMS is closed")
}

/// Writes records. A failure leaves the database marked as failed.
async fn write_records(turn: &mut Database, batch: RecordBatch) -> Result<()> {
    let Database::Open(records) = &*turn else { return Err(closed()) };
    let written = records.write(batch).await;
    if written.is_err()
        && let Database::Open(failed) = std::mem::replace(turn, Database::Failed)
        && let Err(error) = failed.close().await
    {
        tracing::debug!(%error, "the failed records could not be closed");
    }
    written
}

/// The records of a change, if it changes any.
fn batch<T>(plan: &Plan<T>) -> Result<Option<RecordBatch>> {
    let external = plan.connection.is_some() || plan.ekm_config.is_some() || plan.signer.is_some();
    let hsm = plan.home.is_some();
    if plan.ring.is_none() && plan.key.is_none() && plan.job.is_none() && !external && !hsm {
        return Ok(None);
    }
    let mut batch = RecordBatch::new();
    if let Some(entry) = &plan.connection {
        batch = batch.put(&open::connection_record(&entry.connection.name), entry)?;
    }
    if let Some((place, default)) = &plan.ekm_config {
        batch = batch.put(&open::ekm_config_record(place), default)?;
    }
    if let Some(signer) = &plan.signer {
        batch = batch.put(open::SIGNER_RECORD, signer)?;
    }
    if let Some(home) = &plan.home {
        batch = batch.put(open::HOME_RECORD, home)?;
    }
    if let Some(entry) = &plan.job {
        batch = batch.put(&open::job_record(&entry.job.name), entry)?;
    }
    if let Some(entry) = &plan.ring {
        batch = batch.put(&open::ring_record(&entry.ring.name), entry)?;
    }
    if let Some(entry) = &plan.key {
        batch = batch.put(&open::key_record(entry.name()), &entry.record)?;
        for number in &plan.versions {
            if let Some(version) = entry.versions.get(number) {
                batch = batch.put(&open::version_record(entry.name(), *number), &version.version)?;
            }
        }
    }
    Ok(Some(batch))
}

#[cfg(test)]
mod tests;
