//! What the suites of this crate share: a world of scopes over some KMS, and a KMS that does as told.

#![allow(dead_code, unreachable_pub, reason = "each suite uses a part, and no one else")]

pub mod contract;
pub mod double;
pub mod gate;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use claviger_cmek::record::ScopeRecord;
use claviger_cmek::{Config, Manager, Scope, ScopeSpec};
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Clock, ManualClock, Timestamp};
use claviger_kms::KeyService;
use claviger_sealed::Records;
use claviger_sealed::scope::ScopeId;
use object_store::memory::InMemory;

pub const AGENT: &str = "serviceAccount:service-100000000001@gcp-sa-bigtable.iam.gserviceaccount.com";
pub const RESOURCE: &str = "projects/p/instances/i/clusters/c/tables/t";
pub const START: Timestamp = Timestamp(1_700_000_000_000_000);

/// What a test does to a key, on any KMS.
#[async_trait]
pub trait KeyAdmin: Send + Sync {
    fn service(&self) -> Arc<dyn KeyService>;
    /// Makes a key with one enabled version and grants its use to [`AGENT`].
    async fn make(&self, id: &str) -> CryptoKeyName;
    async fn disable(&self, key: &CryptoKeyName, version: u64);
    async fn enable(&self, key: &CryptoKeyName, version: u64);
    /// Schedules the destruction of a version.
    async fn schedule_destruction(&self, key: &CryptoKeyName, version: u64);
    /// Brings a scheduled version back, disabled.
    async fn restore(&self, key: &CryptoKeyName, version: u64);
    /// Lets the destruction of a scheduled version happen.
    async fn destroy_now(&self, key: &CryptoKeyName, version: u64);
    /// Adds a version and makes it primary.
    async fn rotate(&self, key: &CryptoKeyName) -> u64;
    async fn set_primary(&self, key: &CryptoKeyName, version: u64);
    async fn revoke(&self, key: &CryptoKeyName);
    async fn grant(&self, key: &CryptoKeyName);
}

/// A manager over some KMS, with its records in memory and its clock in hand.
pub struct World<K> {
    pub kms: K,
    pub clock: Arc<ManualClock>,
    pub store: Arc<InMemory>,
    pub records: Arc<Records>,
    pub manager: Arc<Manager>,
    background: Option<tokio::task::JoinHandle<()>>,
}

impl<K: KeyAdmin> World<K> {
    pub async fn new(kms: K, clock: Arc<ManualClock>) -> Self {
        Self::with(kms, clock, Config::default()).await
    }

    pub async fn with(kms: K, clock: Arc<ManualClock>, config: Config) -> Self {
        let store = Arc::new(InMemory::new());
        let records = Arc::new(Records::open(store.clone(), "platform").await.unwrap());
        let manager = Manager::open(records.clone(), kms.service(), clock.clone(), config).unwrap();
        Self { kms, clock, store, records, manager, background: None }
    }

    /// Starts the background work.
    pub fn running(mut self) -> Self {
        self.background = Some(tokio::spawn(self.manager.clone().run()));
        self
    }

    /// The same records under a new manager, as after a restart.
    pub async fn restarted(mut self) -> Self {
        if let Some(task) = self.background.take() {
            task.abort();
            let _ = task.await;
        }
        self.manager.close().await.unwrap();
        self.records.close().await.unwrap();
        let records = Arc::new(Records::open(self.store.clone(), "platform").await.unwrap());
        let manager =
            Manager::open(records.clone(), self.kms.service(), self.clock.clone(), Config::default())
                .unwrap();
        Self { records, manager, ..self }
    }

    pub async fn scope(&self, id: &str, key: &CryptoKeyName) -> Arc<Scope> {
        self.manager.create_scope(spec(id, key)).await.unwrap()
    }

    /// Moves the clock in steps, so that what is due on the way happens on the way.
    pub async fn pass(&self, time: Duration) {
        let steps = 20;
        for _ in 0..steps {
            self.clock.advance(time / steps);
            settle().await;
        }
    }
}

pub fn manual_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(START))
}

pub fn spec(id: &str, key: &CryptoKeyName) -> ScopeSpec {
    ScopeSpec {
        id: ScopeId::new(id),
        key: key.clone(),
        customer_managed: true,
        caller: Caller::new(AGENT),
        resource: RESOURCE.to_owned(),
    }
}

/// Lets all tasks run until they wait.
pub async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Waits until the durable record of a scope is as expected; fails after a while.
pub async fn until_recorded(records: &Records, id: &str, mut holds: impl FnMut(&ScopeRecord) -> bool) {
    let clock = claviger_core::SystemClock::new();
    loop {
        let record = records.get::<ScopeRecord>(&format!("scope/{id}")).await.unwrap().unwrap();
        if holds(&record) {
            return;
        }
        assert!(clock.elapsed() < Duration::from_secs(10), "the record stays {record:?}");
        settle().await;
    }
}

/// Waits until a condition holds; fails after many turns of the runtime.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = claviger_core::SystemClock::new();
    while !holds() {
        assert!(clock.elapsed() < Duration::from_secs(10), "did not happen: {what}");
        tokio::task::yield_now().await;
    }
}
