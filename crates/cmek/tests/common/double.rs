//! A KMS that does as told: versions, states, grants, silence, answers held back.
//!
//! It "encrypts" by keeping what it was given under a ticket, which is the ciphertext.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Error, ErrorKind, Result};
use claviger_crypto::SecretBytes;
use claviger_kms::{Decrypted, Encrypted, KeyChange, KeyService};
use tokio::sync::{Notify, broadcast};

use super::KeyAdmin;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Enabled,
    Disabled,
    Scheduled,
    Destroyed,
}

impl State {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Enabled => ("ENABLED", ""),
            Self::Disabled => ("DISABLED", "KEY_DISABLED"),
            Self::Scheduled => ("DESTROY_SCHEDULED", "KEY_DESTROY_SCHEDULED"),
            Self::Destroyed => ("DESTROYED", "KEY_DESTROYED"),
        }
    }
}

#[derive(Default)]
struct Key {
    versions: BTreeMap<u64, State>,
    primary: u64,
    granted: bool,
}

struct Ticket {
    key: CryptoKeyName,
    version: u64,
    aad: Vec<u8>,
    plaintext: Vec<u8>,
}

/// How the double behaves besides its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Answers,
    /// Answers with this kind of error.
    Fails(ErrorKind),
    /// Never answers.
    Hangs,
    /// Encrypts but does not decrypt.
    EncryptsOnly,
    /// Gives another key than was wrapped.
    Lies,
}

pub struct Double {
    keys: Mutex<HashMap<CryptoKeyName, Key>>,
    tickets: Mutex<Vec<Ticket>>,
    mood: Mutex<Mood>,
    changes: Mutex<broadcast::Sender<KeyChange>>,
    /// Whether changes of keys are pushed.
    pub pushes: std::sync::atomic::AtomicBool,
    pub encrypts: AtomicUsize,
    pub decrypts: AtomicUsize,
    pub running: AtomicUsize,
    pub most_running: AtomicUsize,
    pub callers: Mutex<Vec<Caller>>,
    /// While set, decisions about decrypt calls are made at once but answered only when told.
    hold: Mutex<Option<Arc<Notify>>>,
    /// How long it lets keys be kept, as an external key manager may say.
    pub cache_for: Mutex<Option<Duration>>,
}

impl Double {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::default(),
            tickets: Mutex::default(),
            mood: Mutex::default(),
            changes: Mutex::new(broadcast::Sender::new(16)),
            pushes: true.into(),
            encrypts: 0.into(),
            decrypts: 0.into(),
            running: 0.into(),
            most_running: 0.into(),
            callers: Mutex::default(),
            hold: Mutex::default(),
            cache_for: Mutex::default(),
        })
    }

    pub fn mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub fn silence(&self) {
        self.mood(Mood::Fails(ErrorKind::Unavailable));
    }

    /// Holds the answers of decrypt calls back until the returned handle is told.
    pub fn hold_answers(&self) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        *self.hold.lock().unwrap() = Some(notify.clone());
        notify
    }

    pub fn hold_no_more(&self) {
        *self.hold.lock().unwrap() = None;
    }

    pub fn set(&self, key: &CryptoKeyName, version: u64, state: State) {
        self.keys().get_mut(key).unwrap().versions.insert(version, state);
        self.push(key);
    }

    pub fn push(&self, key: &CryptoKeyName) {
        if self.pushes.load(Ordering::Relaxed) {
            self.tell(KeyChange::Of(key.clone()));
        }
    }

    pub fn tell(&self, change: KeyChange) {
        let _ = self.changes.lock().unwrap().send(change);
    }

    pub fn forget(&self, key: &CryptoKeyName) {
        self.keys().remove(key);
        self.push(key);
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<CryptoKeyName, Key>> {
        self.keys.lock().unwrap()
    }

    /// Whether the version (or the primary one) may be used; gives its number.
    fn decide(&self, key: &CryptoKeyName, version: Option<u64>) -> Result<(u64, bool)> {
        match *self.mood.lock().unwrap() {
            Mood::Fails(kind) => return Err(Error::new(kind, "as told")),
            Mood::EncryptsOnly if version.is_some() => {
                return Err(Error::permission_denied(
                    "Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied",
                ));
            }
            _ => {}
        }
        let keys = self.keys();
        let found = keys.get(key).ok_or_else(|| Error::not_found(format!("CryptoKey {key} not found.")))?;
        if !found.granted {
            return Err(Error::permission_denied(format!("Permission denied on resource '{key}'")));
        }
        let number = version.unwrap_or(found.primary);
        let state = found.versions[&number];
        if state == State::Enabled {
            return Ok((number, number == found.primary));
        }
        let name = key.version_name(number);
        let (text, kind) = state.names();
        let message = format!("{name} is not enabled, current state is: {text}.");
        Err(Error::precondition(message.clone()).violating(kind, name.as_str(), message))
    }

    async fn hang_if_told(&self) {
        let hangs = *self.mood.lock().unwrap() == Mood::Hangs;
        if hangs {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl KeyService for Double {
    async fn encrypt(
        &self,
        caller: &Caller,
        key: &CryptoKeyName,
        plaintext: &SecretBytes,
        aad: &[u8],
    ) -> Result<Encrypted> {
        self.encrypts.fetch_add(1, Ordering::Relaxed);
        self.callers.lock().unwrap().push(caller.clone());
        self.hang_if_told().await;
        let (version, _) = self.decide(key, None)?;
        let mut tickets = self.tickets.lock().unwrap();
        tickets.push(Ticket {
            key: key.clone(),
            version,
            aad: aad.to_vec(),
            plaintext: plaintext.expose().to_vec(),
        });
        let ciphertext = (tickets.len() as u64 - 1).to_be_bytes().to_vec();
        Ok(Encrypted { ciphertext, version: key.version_name(version) })
    }

    async fn decrypt(
        &self,
        caller: &Caller,
        key: &CryptoKeyName,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Decrypted> {
        self.decrypts.fetch_add(1, Ordering::Relaxed);
        self.callers.lock().unwrap().push(caller.clone());
        self.hang_if_told().await;
        let (version, plaintext) = {
            let tickets = self.tickets.lock().unwrap();
            let number = u64::from_be_bytes(ciphertext.try_into().unwrap()) as usize;
            let ticket = &tickets[number];
            if ticket.key != *key || ticket.aad != aad {
                return Err(Error::invalid("Decryption failed: the ciphertext is invalid."));
            }
            (ticket.version, ticket.plaintext.clone())
        };
        let decision = self.decide(key, Some(version));
        let hold = self.hold.lock().unwrap().clone();
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_running.fetch_max(running, Ordering::Relaxed);
        match hold {
            Some(hold) => hold.notified().await,
            None => tokio::task::yield_now().await,
        }
        self.running.fetch_sub(1, Ordering::Relaxed);
        let (_, used_primary) = decision?;
        let lies = *self.mood.lock().unwrap() == Mood::Lies;
        let plaintext = SecretBytes::new(if lies { vec![9; 32] } else { plaintext });
        Ok(Decrypted { plaintext, used_primary, cache_for: *self.cache_for.lock().unwrap() })
    }

    fn changes(&self) -> broadcast::Receiver<KeyChange> {
        self.changes.lock().unwrap().subscribe()
    }
}

#[async_trait]
impl KeyAdmin for Arc<Double> {
    fn service(&self) -> Arc<dyn KeyService> {
        self.clone()
    }

    async fn make(&self, id: &str) -> CryptoKeyName {
        let name = CryptoKeyName::new("p", "us-east1", "r", id).unwrap();
        let key = Key { versions: BTreeMap::from([(1, State::Enabled)]), primary: 1, granted: true };
        self.keys().insert(name.clone(), key);
        name
    }

    async fn disable(&self, key: &CryptoKeyName, version: u64) {
        self.set(key, version, State::Disabled);
    }

    async fn enable(&self, key: &CryptoKeyName, version: u64) {
        self.set(key, version, State::Enabled);
    }

    async fn schedule_destruction(&self, key: &CryptoKeyName, version: u64) {
        self.set(key, version, State::Scheduled);
    }

    async fn restore(&self, key: &CryptoKeyName, version: u64) {
        self.set(key, version, State::Disabled);
    }

    async fn destroy_now(&self, key: &CryptoKeyName, version: u64) {
        self.set(key, version, State::Destroyed);
    }

    async fn rotate(&self, key: &CryptoKeyName) -> u64 {
        let number = {
            let mut keys = self.keys();
            let key = keys.get_mut(key).unwrap();
            let number = key.versions.len() as u64 + 1;
            key.versions.insert(number, State::Enabled);
            key.primary = number;
            number
        };
        self.push(key);
        number
    }

    async fn set_primary(&self, key: &CryptoKeyName, version: u64) {
        self.keys().get_mut(key).unwrap().primary = version;
        self.push(key);
    }

    async fn revoke(&self, key: &CryptoKeyName) {
        self.keys().get_mut(key).unwrap().granted = false;
        self.push(key);
    }

    async fn grant(&self, key: &CryptoKeyName) {
        self.keys().get_mut(key).unwrap().granted = true;
        self.push(key);
    }
}
