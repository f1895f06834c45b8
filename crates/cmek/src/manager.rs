//! The scopes of a process: makes, loads and deletes them. How they are asked about is in `check`,
//! when in `background`.
//!
//! Invariant: there is one [`Scope`] for an id, so that one lock reaches all of its users. A scope is
//! known here before the KMS is asked about it, so that no push can be missed.

mod background;
mod check;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_core::{Caller, Clock, Error, Result, Timestamp};
use claviger_crypto::{SecretBytes, SecretKey};
use claviger_kms::{KeyChange, KeyService};
use claviger_sealed::scope::{KeyId, ScopeId, ScopeKey};
use claviger_sealed::{RecordBatch, Records};
use tokio::sync::{OnceCell, Semaphore, broadcast};

use crate::lifecycle::{KeyState, Moment};
use crate::manager::background::Schedule;
use crate::manager::check::Seen;
use crate::record::{FORMAT, Generation, ScopeRecord, record_key, seen_key, wrapping_aad};
use crate::scope::{LockEvent, Scope, ScopeSpec, audit_context};

/// Lock events that a slow listener may leave unread before it has to look at all scopes again.
const EVENTS_KEPT: usize = 1024;

/// The generation that a new scope begins with.
const FIRST_GENERATION: KeyId = KeyId(1);

/// How often and how long keys are asked about.
#[derive(Clone, Debug)]
pub struct Config {
    /// Time between two checks of a scope.
    pub check_interval: Duration,
    /// How long data stays readable while the KMS is silent, from the last success.
    pub grace: Duration,
    /// Time between two checks while the KMS is silent, where that is shorter than the check interval.
    pub retry_interval: Duration,
    /// How long one call may take before it counts as silence.
    pub call_timeout: Duration,
    /// Checks at the same time.
    pub concurrent_checks: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            check_interval: Duration::from_secs(5 * 60),
            grace: Duration::from_secs(60 * 60),
            retry_interval: Duration::from_secs(10),
            call_timeout: Duration::from_secs(10),
            concurrent_checks: 32,
        }
    }
}

/// A scope that is being loaded, or is loaded.
type Cell = Arc<OnceCell<Arc<Scope>>>;

/// The scopes of a process; see the module's text.
pub struct Manager {
    records: Arc<Records>,
    kms: Arc<dyn KeyService>,
    clock: Arc<dyn Clock>,
    config: Config,
    scopes: Mutex<HashMap<ScopeId, Cell>>,
    events: broadcast::Sender<LockEvent>,
    /// Subscribed before the first scope is loaded; taken by [`Manager::run`].
    changes: Mutex<Option<broadcast::Receiver<KeyChange>>>,
    permits: Semaphore,
    schedule: Schedule,
    seen: Seen,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Manager {
    /// A manager whose scopes are kept in `records` and whose keys are wrapped by `kms`. Nothing is
    /// loaded yet; [`Self::run`] does the periodic work.
    ///
    /// # Errors
    /// `InvalidArgument` for an interval or a number of checks of zero.
    pub fn open(
        records: Arc<Records>,
        kms: Arc<dyn KeyService>,
        clock: Arc<dyn Clock>,
        config: Config,
    ) -> Result<Arc<Self>> {
        for (name, value) in [
            ("check_interval", config.check_interval),
            ("retry_interval", config.retry_interval),
            ("call_timeout", config.call_timeout),
        ] {
            if value.is_zero() {
                return Err(Error::invalid_field(name, "must be more than zero"));
            }
        }
        if config.concurrent_checks == 0 {
            return Err(Error::invalid_field("concurrent_checks", "must be more than zero"));
        }
        Ok(Arc::new(Self {
            changes: Mutex::new(Some(kms.changes())),
            permits: Semaphore::new(config.concurrent_checks.min(Semaphore::MAX_PERMITS)),
            scopes: Mutex::new(HashMap::new()),
            events: broadcast::Sender::new(EVENTS_KEPT),
            schedule: Schedule::default(),
            seen: Seen::default(),
            records,
            kms,
            clock,
            config,
        }))
    }

    /// Makes a scope: a random key, wrapped by the KMS in the name of the caller, durable, and unwrapped
    /// once before anything is written under it.
    ///
    /// # Errors
    /// `AlreadyExists` for an id that is taken. What the KMS answers when it refuses or is silent;
    /// then there is no scope. What the records answer when they cannot be written.
    pub async fn create_scope(&self, spec: ScopeSpec) -> Result<Arc<Scope>> {
        let id = spec.id.clone();
        let cell = self.cell(&id);
        let created = AtomicBool::new(false);
        let make = async {
            let scope = self.make(spec).await?;
            created.store(true, Ordering::Relaxed);
            Ok(scope)
        };
        let scope = match cell.get_or_try_init(|| make).await {
            Ok(scope) => scope.clone(),
            Err(error) => {
                self.discard(&id, &cell);
                return Err(error);
            }
        };
        if !created.load(Ordering::Relaxed) {
            return Err(Error::already_exists(format!("The scope {id} exists already.")));
        }
        self.first_check(&scope).await;
        if let Err(locked) = scope.guard() {
            // The key may encrypt and not decrypt, or went in this moment: data must not depend on it.
            let error = scope.status().last_error.unwrap_or(locked);
            self.delete_scope(&id).await?;
            return Err(error);
        }
        Ok(scope)
    }

    async fn make(&self, spec: ScopeSpec) -> Result<Arc<Scope>> {
        let taken: Option<ScopeRecord> = self.records.get(&record_key(&spec.id)).await?;
        if taken.is_some() {
            return Err(Error::already_exists(format!("The scope {} exists already.", spec.id)));
        }
        let now = self.clock.now();
        let mut record = ScopeRecord {
            format: FORMAT,
            key: spec.key,
            customer_managed: spec.customer_managed,
            principal: spec.caller.principal,
            context: spec.caller.context,
            resource: spec.resource,
            generations: Vec::new(),
            current: FIRST_GENERATION,
            state: KeyState::Enabled,
            last_success: Some(now),
            locked_since: None,
        };
        let secret = random_key()?;
        let caller = Caller::new(record.principal.clone()).within(audit_context(&record, &spec.id));
        let aad = wrapping_aad(&spec.id, FIRST_GENERATION);
        let plaintext = SecretBytes::new(secret.expose().to_vec());
        let wrapped = self.answer_in_time(self.kms.encrypt(&caller, &record.key, &plaintext, &aad)).await?;
        record.generations.push(Generation {
            id: FIRST_GENERATION,
            wrapped: wrapped.ciphertext,
            version: wrapped.version,
            created: now,
        });
        self.records.put(&record_key(&spec.id), &record).await?;
        self.admit(spec.id, record, None)
    }

    /// The scope of an id, loaded and asked about at its first use. It may be locked: its
    /// [`Scope::guard`] says why.
    ///
    /// # Errors
    /// `NotFound` when there is none; what the records answer when they cannot be read.
    pub async fn scope(&self, id: &ScopeId) -> Result<Arc<Scope>> {
        let scope = self.loaded_or_load(id).await?;
        self.first_check(&scope).await;
        Ok(scope)
    }

    async fn loaded_or_load(&self, id: &ScopeId) -> Result<Arc<Scope>> {
        let cell = self.cell(id);
        match cell.get_or_try_init(|| self.load(id)).await {
            Ok(scope) => Ok(scope.clone()),
            Err(error) => {
                self.discard(id, &cell);
                Err(error)
            }
        }
    }

    async fn load(&self, id: &ScopeId) -> Result<Arc<Scope>> {
        let record: Option<ScopeRecord> = self.records.get(&record_key(id)).await?;
        let record = record.ok_or_else(|| Error::not_found(format!("There is no scope {id}.")))?;
        record.validate()?;
        let seen = self.records.get(&seen_key(id)).await?;
        self.admit(id.clone(), record, seen)
    }

    fn admit(&self, id: ScopeId, record: ScopeRecord, seen: Option<Timestamp>) -> Result<Arc<Scope>> {
        let scope = Arc::new(Scope::new(id, record, seen, self.events.clone())?);
        scope.plan(|plan| plan.next_check = self.clock.elapsed() + self.phase(scope.id()));
        self.arm(&scope);
        Ok(scope)
    }

    /// Adds an intermediate key to a scope, for its new files; files under former ones stay readable.
    ///
    /// # Errors
    /// The lock of the scope; what the KMS or the records answer.
    pub async fn new_generation(&self, id: &ScopeId) -> Result<KeyId> {
        let scope = self.scope(id).await?;
        let _writing = scope.writing.lock().await;
        scope.guard()?;
        let mut record = scope.record();
        let newest = record.generations.iter().map(|generation| generation.id.0).max().unwrap_or(0);
        let id = KeyId(newest.checked_add(1).ok_or_else(|| Error::internal("a scope has too many keys"))?);
        let secret = random_key()?;
        let (wrapped, version) = self.wrap(&scope, id, &secret).await?;
        let generation = Generation { id, wrapped, version, created: self.clock.now() };
        record.generations.push(generation.clone());
        record.current = id;
        self.records.put(&record_key(scope.id()), &record).await?;
        scope.saved(record.state);
        scope.add_generation(
            generation,
            Arc::new(ScopeKey::new(id, secret)),
            Moment::now(self.clock.as_ref()),
        );
        Ok(id)
    }

    /// Forgets the wrapped keys of a scope, durably: nothing can read its data any more. Needs no KMS
    /// and works on a locked scope.
    ///
    /// # Errors
    /// `NotFound` when there is none; what the records answer when they cannot be written, after which
    /// the scope is locked and the call can be made again.
    pub async fn delete_scope(&self, id: &ScopeId) -> Result<()> {
        let scope = self.loaded_or_load(id).await?;
        let _writing = scope.writing.lock().await;
        scope.delete();
        {
            let _flushing = self.seen.forget(id).await;
            self.records.write(RecordBatch::new().delete(&record_key(id)).delete(&seen_key(id))).await?;
        }
        let mut scopes = self.scopes();
        if scopes.get(id).is_some_and(|cell| cell.get().is_some_and(|known| Arc::ptr_eq(known, &scope))) {
            scopes.remove(id);
        }
        Ok(())
    }

    /// The scopes that are loaded, in no order.
    #[must_use]
    pub fn loaded(&self) -> Vec<Arc<Scope>> {
        self.scopes().values().filter_map(|cell| cell.get().cloned()).collect()
    }

    /// Follows the locks of all scopes. A listener that lags must look at all of its scopes again.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<LockEvent> {
        self.events.subscribe()
    }

    /// Writes what the records lack. The last call on a manager.
    ///
    /// # Errors
    /// What the records answer.
    pub async fn close(&self) -> Result<()> {
        self.flush_seen().await
    }

    fn cell(&self, id: &ScopeId) -> Cell {
        let mut scopes = self.scopes();
        if let Some(cell) = scopes.get(id) {
            return cell.clone();
        }
        scopes.entry(id.clone()).or_default().clone()
    }

    /// Forgets a cell that nothing came of, unless someone else waits to fill it.
    fn discard(&self, id: &ScopeId, cell: &Cell) {
        let mut scopes = self.scopes();
        let unused = scopes.get(id).is_some_and(|known| {
            // One count is the map's, one is ours.
            Arc::ptr_eq(known, cell) && cell.get().is_none() && Arc::strong_count(cell) <= 2
        });
        if unused {
            scopes.remove(id);
        }
    }

    fn scopes(&self) -> MutexGuard<'_, HashMap<ScopeId, Cell>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn random_key() -> Result<SecretKey> {
    SecretKey::random().map_err(|e| Error::internal("no random key could be made").because(e))
}
