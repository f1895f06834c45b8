//! One scope in memory: what is known about its key, and what follows from each answer of the KMS.
//!
//! Invariants: answers are applied in the order in which their questions were asked; a late answer to an
//! early question is dropped, so that a key that went cannot come back by it. State, keys and the
//! announcement of a lock change together, under one mutex that is never held across a wait.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName};
use claviger_core::{Caller, Error, Result, Timestamp};
use claviger_kms::external::{ACCESS_REASON, AccessReason};
use claviger_sealed::scope::{KeyId, ScopeId, ScopeKey, ScopeKeys};
use subtle::ConstantTimeEq;
use tokio::sync::{OnceCell, broadcast, watch};

use crate::answer::Subject;
use crate::keyring::{KeySet, Keyring};
use crate::lifecycle::{Effect, Input, KeyState, Lifecycle, Moment, Reason, Refusal};
use crate::record::{FORMAT, Generation, ScopeRecord};

/// Labels of the audit log's context.
const RESOURCE_LABEL: &str = "resource";
const SCOPE_LABEL: &str = "scope";

/// What a new scope is.
#[derive(Clone, Debug)]
pub struct ScopeSpec {
    /// Its name; never used twice.
    pub id: ScopeId,
    /// The key that wraps its intermediate key.
    pub key: CryptoKeyName,
    /// Whether that is a customer's key, or one that Claviger manages and users never see.
    pub customer_managed: bool,
    /// The service agent, and labels for the audit log.
    pub caller: Caller,
    /// What it protects, as users know it.
    pub resource: String,
}

/// Whether a scope may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Its keys are not in memory.
    Locked,
    /// Its keys are in memory.
    Unlocked,
}

/// Says that a scope was locked or unlocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockEvent {
    /// Which scope.
    pub scope: ScopeId,
    /// What it is now.
    pub lock: Lock,
}

/// What is known about a scope's key.
#[derive(Clone, Debug)]
pub struct Status {
    /// The state.
    pub state: KeyState,
    /// The key.
    pub key: CryptoKeyName,
    /// The version that the current intermediate key is wrapped under.
    pub key_version: CryptoKeyVersionName,
    /// Whether it is a customer's key.
    pub customer_managed: bool,
    /// What the scope protects.
    pub resource: String,
    /// When the KMS was last asked and its answer taken; `None` before the first time in this process.
    pub last_check: Option<Timestamp>,
    /// When it last gave the key.
    pub last_success: Option<Timestamp>,
    /// What the KMS answered to the last check when it failed; `None` after a success.
    pub last_error: Option<Error>,
    /// What users are told while the scope is locked: the same as [`Scope::guard`].
    pub lock_error: Option<Error>,
    /// Since when the scope is locked, over restarts; `None` while it is not.
    pub locked_since: Option<Timestamp>,
}

/// What the KMS answered about one generation.
#[derive(Debug)]
pub(crate) enum Answer {
    Key(Arc<ScopeKey>),
    Refused(Refusal, Error),
    Silent(Error),
}

/// The answers to one round of questions about a scope.
#[derive(Debug)]
pub(crate) struct Probe {
    /// When the first question was asked.
    pub(crate) began: Moment,
    /// The generations that were asked about. One that is missing was not asked about, because the
    /// answer for another under the same version holds for it.
    pub(crate) answers: Vec<(KeyId, Answer)>,
    /// The generations as they were then, when one is wrapped under a version that is not primary now.
    pub(crate) rotated: Option<Arc<Vec<Generation>>>,
    /// How long an external key manager lets what it unwrapped be kept, if it says.
    pub(crate) cache_for: Option<Duration>,
}

impl Probe {
    fn input(&self, current: KeyId) -> Option<Input> {
        match self.answers.iter().find(|(id, _)| *id == current).map(|(_, answer)| answer)? {
            Answer::Refused(refusal, _) => Some(Input::Refused(refusal.clone())),
            Answer::Silent(_) => Some(Input::Silent),
            // One silent generation runs the grace for all: the hour is never longer than set.
            Answer::Key(_) if self.answers.iter().any(|(_, answer)| matches!(answer, Answer::Silent(_))) => {
                Some(Input::Silent)
            }
            Answer::Key(_) => Some(Input::Success),
        }
    }

    fn error(&self) -> Option<Error> {
        self.answers.iter().find_map(|(_, answer)| match answer {
            Answer::Key(_) => None,
            Answer::Refused(_, error) | Answer::Silent(error) => Some(error.clone()),
        })
    }
}

/// When a scope is next due; see `manager/background.rs`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    /// When the next check is due, by the process's time.
    pub(crate) next_check: Duration,
    /// The entry in the schedule that counts; others are left over.
    pub(crate) due: Option<Duration>,
    /// Whether a check waits or runs.
    pub(crate) queued: bool,
}

struct Inner {
    generations: Arc<Vec<Generation>>,
    current: KeyId,
    life: Lifecycle,
    /// How long an external key manager let keys be kept at its last answer, if it said.
    cache_for: Option<Duration>,
    /// The question whose answer was last applied.
    applied: u64,
    /// The state in the durable record.
    stored: KeyState,
    mismatched: bool,
    deleted: bool,
    locked_since: Option<Timestamp>,
    last_check: Option<Timestamp>,
    last_error: Option<Error>,
    plan: Plan,
}

impl Inner {
    /// How long silence leaves keys in memory: what the operator set, or less when an external key manager said so.
    fn grace(&self, set: Duration) -> Duration {
        self.cache_for.map_or(set, |allowed| allowed.min(set))
    }
}

/// A scope; see the module's text.
pub struct Scope {
    id: ScopeId,
    subject: Subject,
    caller: Caller,
    context: BTreeMap<String, String>,
    keyring: Arc<Keyring>,
    lock: watch::Sender<Lock>,
    events: broadcast::Sender<LockEvent>,
    asked: AtomicU64,
    inner: Mutex<Inner>,
    /// Set once the first check has been made.
    pub(crate) first: OnceCell<()>,
    /// Held while the record is written, so that the last writer is the latest.
    pub(crate) writing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("id", &self.id)
            .field("state", self.inner().life.state())
            .finish_non_exhaustive()
    }
}

impl Scope {
    pub(crate) fn new(
        id: ScopeId,
        record: ScopeRecord,
        last_seen: Option<Timestamp>,
        events: broadcast::Sender<LockEvent>,
    ) -> Result<Self> {
        let subject = Subject {
            key: record.key.clone(),
            customer_managed: record.customer_managed,
            principal: record.principal.clone(),
            resource: record.resource.clone(),
        };
        let caller = Caller::new(record.principal.clone()).within(audit_context(&record, &id));
        // Checks are the service's own work; they come of no request.
        let caller = caller.with(ACCESS_REASON, AccessReason::GoogleInitiatedSystemOperation.as_str());
        let version = &record.current_generation()?.version;
        let life = Lifecycle::resume(record.state.clone(), record.last_success.max(last_seen));
        let locked = subject.lock_error(life.state(), version);
        let keyring = Keyring::new(id.clone(), KeySet { locked, current: record.current, keys: Vec::new() });
        Ok(Self {
            id,
            subject,
            caller,
            context: record.context,
            keyring: Arc::new(keyring),
            lock: watch::Sender::new(Lock::Locked),
            events,
            asked: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                generations: Arc::new(record.generations),
                current: record.current,
                life,
                cache_for: None,
                applied: 0,
                stored: record.state,
                mismatched: false,
                deleted: false,
                locked_since: record.locked_since,
                last_check: None,
                last_error: None,
                plan: Plan::default(),
            }),
            first: OnceCell::new(),
            writing: tokio::sync::Mutex::new(()),
        })
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &ScopeId {
        &self.id
    }

    /// The key that wraps its intermediate keys.
    #[must_use]
    pub fn key(&self) -> &CryptoKeyName {
        &self.subject.key
    }

    /// Its keys, for a sealed store. They follow every lock and unlock.
    #[must_use]
    pub fn keys(&self) -> Arc<dyn ScopeKeys> {
        self.keyring.clone()
    }

    /// Whether the scope may be used: one atomic load, for every request.
    ///
    /// # Errors
    /// `FailedPrecondition` that names the key and says why it is locked; `NotFound` once it is deleted.
    pub fn guard(&self) -> Result<()> {
        self.keyring.guard()
    }

    /// The state of its key.
    #[must_use]
    pub fn state(&self) -> KeyState {
        self.inner().life.state().clone()
    }

    /// All that is known about its key.
    #[must_use]
    pub fn status(&self) -> Status {
        let inner = self.inner();
        Status {
            state: inner.life.state().clone(),
            key: self.subject.key.clone(),
            key_version: current_version(&inner).unwrap_or_else(|| self.subject.key.version_name(0)),
            customer_managed: self.subject.customer_managed,
            resource: self.subject.resource.clone(),
            last_check: inner.last_check,
            last_success: inner.life.last_success(),
            last_error: inner.last_error.clone(),
            lock_error: self.guard().err(),
            locked_since: inner.locked_since,
        }
    }

    /// Follows its lock. What a lock must drop besides keys (decrypted caches) hangs on this.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Lock> {
        self.lock.subscribe()
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(crate) fn generations(&self) -> (Arc<Vec<Generation>>, KeyId) {
        let inner = self.inner();
        (inner.generations.clone(), inner.current)
    }

    pub(crate) fn held(&self, id: KeyId) -> Option<Arc<ScopeKey>> {
        self.keyring.held(id)
    }

    pub(crate) fn plan<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(&mut self.inner().plan)
    }

    pub(crate) fn deadline(&self, grace: Duration) -> Option<Duration> {
        let inner = self.inner();
        inner.life.deadline(inner.grace(grace))
    }

    /// How long an external key manager lets its keys be kept, if it said.
    pub(crate) fn cache_for(&self) -> Option<Duration> {
        self.inner().cache_for
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.inner().deleted
    }

    /// The number of a question that is about to be asked.
    pub(crate) fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes the answers to the question of that number. Returns the moment of a success.
    pub(crate) fn apply(
        &self,
        asked: u64,
        mut probe: Probe,
        now: Moment,
        grace: Duration,
    ) -> Option<Timestamp> {
        let mut inner = self.inner();
        if inner.deleted || asked <= inner.applied {
            return None;
        }
        self.compare_with_held(&mut inner, &mut probe);
        let input = probe.input(inner.current)?;
        inner.applied = asked;
        inner.last_check = Some(probe.began.wall);
        inner.last_error = probe.error();
        let success = (input == Input::Success).then_some(probe.began.wall);
        if success.is_some() {
            inner.cache_for = probe.cache_for;
        }
        let grace = inner.grace(grace);
        let at = if success.is_some() { probe.began } else { now };
        let before = inner.life.state().clone();
        let effect = inner.life.step(at, input, grace);
        self.publish(&mut inner, &probe.answers, effect, now);
        if *inner.life.state() != before {
            self.log(&inner, &before);
        }
        success
    }

    /// Lets time pass: locks when the grace is over. Returns whether it did.
    pub(crate) fn expire(&self, now: Moment, grace: Duration) -> bool {
        let mut inner = self.inner();
        let before = inner.life.state().clone();
        let grace = inner.grace(grace);
        let effect = inner.life.step(now, Input::Tick, grace);
        if inner.deleted || effect == Effect::None {
            return false;
        }
        self.publish(&mut inner, &[], effect, now);
        self.log(&inner, &before);
        true
    }

    /// Takes wrapped keys that are durable now and hold the same keys as before.
    pub(crate) fn rewrapped(&self, generations: Vec<Generation>) {
        self.inner().generations = Arc::new(generations);
    }

    /// Takes a new generation, which is durable now, as the current one.
    pub(crate) fn add_generation(&self, generation: Generation, key: Arc<ScopeKey>, now: Moment) {
        let mut inner = self.inner();
        inner.current = generation.id;
        let mut generations = inner.generations.as_ref().clone();
        let answer = [(generation.id, Answer::Key(key))];
        generations.push(generation);
        inner.generations = Arc::new(generations);
        let locked = inner.life.state().is_locked();
        self.publish(&mut inner, if locked { &[] } else { &answer }, Effect::None, now);
    }

    /// Locks for good.
    pub(crate) fn delete(&self) {
        let mut inner = self.inner();
        inner.deleted = true;
        let gone = Error::not_found(format!("{} was deleted.", self.subject.resource));
        self.keyring.replace(KeySet { locked: Some(gone), current: inner.current, keys: Vec::new() });
        self.announce(Lock::Locked);
    }

    /// The record as it should be.
    pub(crate) fn record(&self) -> ScopeRecord {
        let inner = self.inner();
        ScopeRecord {
            format: FORMAT,
            key: self.subject.key.clone(),
            customer_managed: self.subject.customer_managed,
            principal: self.subject.principal.clone(),
            context: self.context.clone(),
            resource: self.subject.resource.clone(),
            generations: inner.generations.as_ref().clone(),
            current: inner.current,
            state: inner.life.state().clone(),
            last_success: inner.life.last_success(),
            locked_since: inner.locked_since,
        }
    }

    /// Whether the durable record has another state.
    pub(crate) fn is_unsaved(&self) -> bool {
        let inner = self.inner();
        !inner.deleted && inner.stored != *inner.life.state() && *inner.life.state() != KeyState::Unknown
    }

    /// Notes what the durable record has.
    pub(crate) fn saved(&self, state: KeyState) {
        self.inner().stored = state;
    }

    /// A key that differs from the one in use must never replace it: new files would not fit the old.
    fn compare_with_held(&self, inner: &mut Inner, probe: &mut Probe) {
        for (id, answer) in &mut probe.answers {
            let Answer::Key(key) = &answer else { continue };
            let differs = self
                .keyring
                .held(*id)
                .is_some_and(|held| !bool::from(held.secret().expose().ct_eq(key.secret().expose())));
            if differs || inner.mismatched {
                inner.mismatched = true;
                *answer = mismatch("The KMS gave another key than the one in use.");
            }
        }
    }

    /// Makes keys, lock and announcements follow the state.
    fn publish(&self, inner: &mut Inner, answers: &[(KeyId, Answer)], effect: Effect, now: Moment) {
        let state = inner.life.state();
        let version = current_version(inner).unwrap_or_else(|| self.subject.key.version_name(0));
        let locked = self.subject.lock_error(state, &version);
        // While the current key is refused, keys under another, enabled version stay readable.
        let others_stay = matches!(state, KeyState::Disabled { .. } | KeyState::Destroyed { .. });
        let key_of = |generation: &Generation| {
            let held = self.keyring.entry(generation.id);
            match answers.iter().find(|(id, _)| *id == generation.id).map(|(_, answer)| answer) {
                Some(Answer::Key(key)) if locked.is_none() || others_stay => match held {
                    Some(Ok(held)) => Ok(held),
                    _ => Ok(key.clone()),
                },
                Some(Answer::Refused(refusal, _)) => {
                    Err(self.subject.refusal_error(refusal, &generation.version))
                }
                _ => match (&locked, held) {
                    (Some(error), _) => Err(error.clone()),
                    (None, Some(held)) => held,
                    (None, None) => Err(self
                        .subject
                        .lock_error(&KeyState::Unknown, &generation.version)
                        .unwrap_or_else(|| Error::internal("an unknown key is not locked"))),
                },
            }
        };
        let keys = inner.generations.iter().map(|generation| (generation.id, key_of(generation))).collect();
        self.keyring.replace(KeySet { locked: locked.clone(), current: inner.current, keys });
        match effect {
            Effect::Lock => self.announce(Lock::Locked),
            Effect::Unlock => self.announce(Lock::Unlocked),
            Effect::None => {}
        }
        // A scope that was never unlocked in this process keeps the moment of its record.
        inner.locked_since = locked.is_some().then(|| inner.locked_since.unwrap_or(now.wall));
    }

    /// Tells the operator of a change of state, once. That a key is known after a start is no news.
    fn log(&self, inner: &Inner, before: &KeyState) {
        let state = inner.life.state();
        match (self.keyring.guard(), state) {
            (Err(why), _) => {
                tracing::warn!(scope = %self.id, resource = self.subject.resource, %why, "the scope is locked");
            }
            (Ok(()), KeyState::Unreachable { .. }) => {
                tracing::warn!(scope = %self.id, resource = self.subject.resource, "the KMS is silent");
            }
            (Ok(()), _) if *before == KeyState::Unknown => {}
            (Ok(()), _) => {
                tracing::info!(scope = %self.id, resource = self.subject.resource, "the scope's key is usable again");
            }
        }
    }

    fn announce(&self, lock: Lock) {
        self.lock.send_replace(lock);
        // Nobody may be listening.
        let _ = self.events.send(LockEvent { scope: self.id.clone(), lock });
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The refusal of a key that is not the one that it should be.
pub(crate) fn mismatch(detail: &str) -> Answer {
    let refusal = Refusal {
        reason: Reason::Mismatch,
        version: None,
        violations: Vec::new(),
        detail: detail.to_owned(),
    };
    Answer::Refused(refusal, Error::new(claviger_core::ErrorKind::DataLoss, detail))
}

/// What the audit log and an external key manager are told with every use of a scope's key by itself.
pub(crate) fn audit_context(record: &ScopeRecord, id: &ScopeId) -> BTreeMap<String, String> {
    let mut context = record.context.clone();
    context.insert(RESOURCE_LABEL.to_owned(), record.resource.clone());
    context.insert(SCOPE_LABEL.to_owned(), id.as_str().to_owned());
    context
}

fn current_version(inner: &Inner) -> Option<CryptoKeyVersionName> {
    inner.generations.iter().find(|g| g.id == inner.current).map(|g| g.version.clone())
}
