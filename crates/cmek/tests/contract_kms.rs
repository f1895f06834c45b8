//! The contract over the KMS of this process.

mod common;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use claviger_core::names::{CryptoKeyName, LocationName};
use claviger_core::{Caller, ErrorKind, ManualClock};
use claviger_kms::{KeyService, Kms, KmsConfig, NewCryptoKey, Policy, PolicyResource, VersionState};
use common::{AGENT, KeyAdmin};
use object_store::memory::InMemory;

const ROLE: &str = "roles/cloudkms.cryptoKeyEncrypterDecrypter";

struct Real {
    kms: Arc<Kms>,
    clock: Arc<ManualClock>,
}

async fn open(clock: Arc<ManualClock>) -> Real {
    let store = Arc::new(InMemory::new());
    let kms = Box::pin(Kms::open(KmsConfig::default(), store, clock.clone())).await.unwrap();
    Real { kms, clock }
}

impl Real {
    async fn set_state(&self, key: &CryptoKeyName, version: u64, state: VersionState) {
        let name = key.version_name(version);
        self.kms.update_version_state(&Caller::local_admin(), &name, state).await.unwrap();
    }

    async fn set_policy(&self, key: &CryptoKeyName, policy: Policy) {
        let resource = PolicyResource::parse(key.as_str()).unwrap();
        self.kms.set_iam_policy(&Caller::local_admin(), &resource, policy).await.unwrap();
    }
}

#[async_trait]
impl KeyAdmin for Real {
    fn service(&self) -> Arc<dyn KeyService> {
        self.kms.clone()
    }

    async fn make(&self, id: &str) -> CryptoKeyName {
        let admin = Caller::local_admin();
        let location = LocationName::new("p", "us-east1").unwrap();
        match self.kms.create_key_ring(&admin, &location, "r").await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
        }
        let key = CryptoKeyName::new("p", "us-east1", "r", id).unwrap();
        let new = NewCryptoKey::symmetric();
        self.kms.create_crypto_key(&admin, &key.key_ring_name(), id, new).await.unwrap();
        self.grant(&key).await;
        key
    }

    async fn disable(&self, key: &CryptoKeyName, version: u64) {
        self.set_state(key, version, VersionState::Disabled).await;
    }

    async fn enable(&self, key: &CryptoKeyName, version: u64) {
        self.set_state(key, version, VersionState::Enabled).await;
    }

    async fn schedule_destruction(&self, key: &CryptoKeyName, version: u64) {
        self.kms.destroy_version(&Caller::local_admin(), &key.version_name(version)).await.unwrap();
    }

    async fn restore(&self, key: &CryptoKeyName, version: u64) {
        self.kms.restore_version(&Caller::local_admin(), &key.version_name(version)).await.unwrap();
    }

    async fn destroy_now(&self, _key: &CryptoKeyName, _version: u64) {
        self.clock.advance(Duration::from_secs(31 * 24 * 3600));
        self.kms.tick().await.unwrap();
    }

    async fn rotate(&self, key: &CryptoKeyName) -> u64 {
        let version = self.kms.create_version(&Caller::local_admin(), key).await.unwrap();
        self.set_primary(key, version.number).await;
        version.number
    }

    async fn set_primary(&self, key: &CryptoKeyName, version: u64) {
        let number = version.to_string();
        self.kms.update_primary_version(&Caller::local_admin(), key, &number).await.unwrap();
    }

    async fn revoke(&self, key: &CryptoKeyName) {
        self.set_policy(key, Policy { etag: Vec::new(), ..Policy::default() }).await;
    }

    async fn grant(&self, key: &CryptoKeyName) {
        self.set_policy(key, Policy::granting(ROLE, AGENT)).await;
    }
}

cmek_contract!(open);

#[tokio::test]
async fn every_check_is_in_the_audit_log_with_the_resource_and_the_scope() {
    let clock = common::manual_clock();
    let world = common::World::new(Box::pin(open(clock.clone())).await, clock).await;
    let key = world.kms.make("k").await;
    world.scope("bigtable/a", &key).await;
    world.manager.check_all().await;
    let entries = world.kms.kms.audit_log().read(None, 100).await.unwrap();
    let uses: Vec<_> =
        entries.iter().map(|(_, entry)| entry).filter(|entry| entry.principal == AGENT).collect();
    let methods: Vec<&str> = uses.iter().map(|entry| entry.method.as_str()).collect();
    assert_eq!(methods, ["Encrypt", "Decrypt", "Decrypt"], "a wrap, its proof, and a check");
    for entry in uses {
        assert_eq!(entry.context.get("resource").map(String::as_str), Some(common::RESOURCE));
        assert_eq!(entry.context.get("scope").map(String::as_str), Some("bigtable/a"));
    }
}
