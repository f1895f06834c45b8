//! What must hold over every KMS: run on the double and on the real one.

use std::sync::Arc;
use std::time::Duration;

use claviger_cmek::record::ScopeRecord;
use claviger_cmek::{KeyState, Lock, Reason, Scope};
use claviger_core::names::CryptoKeyName;
use claviger_core::{ErrorKind, ManualClock};
use claviger_sealed::scope::{KeyId, ScopeId, ScopeKeys as _};

use super::{AGENT, KeyAdmin, RESOURCE, World, eventually, settle, spec, until_recorded};

fn secret(scope: &Scope) -> Vec<u8> {
    scope.keys().current().unwrap().secret().expose().to_vec()
}

fn assert_locked(scope: &Scope, violation: &str, subject: &str) {
    let error = scope.guard().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert!(error.message().contains(RESOURCE), "{error}");
    let found = error.violations().first().unwrap_or_else(|| panic!("{error:?} has no violation"));
    assert_eq!((found.kind.as_str(), found.subject.as_str()), (violation, subject));
    let keys = scope.keys();
    assert_eq!(keys.current().unwrap_err().message(), error.message());
    assert_eq!(keys.by_id(KeyId(1)).unwrap_err().message(), error.message());
}

async fn until_locked(scope: &Scope) {
    eventually("a lock", || scope.guard().is_err()).await;
}

async fn until_unlocked(scope: &Scope) {
    eventually("an unlock", || scope.guard().is_ok()).await;
}

pub async fn a_new_scope_has_a_key_that_a_restart_gives_again<K: KeyAdmin>(kms: K, clock: Arc<ManualClock>) {
    let world = World::new(kms, clock).await;
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    assert!(scope.guard().is_ok());
    assert_eq!(*scope.watch().borrow(), Lock::Unlocked);
    let status = scope.status();
    assert_eq!((status.state, status.key_version), (KeyState::Enabled, key.version_name(1)));
    assert!(status.last_success.is_some() && status.last_error.is_none() && status.locked_since.is_none());
    let other = world.scope("bigtable/b", &key).await;
    assert_ne!(secret(&scope), secret(&other));

    let before = secret(&scope);
    let record: ScopeRecord = world.records.get("scope/bigtable/a").await.unwrap().unwrap();
    let wrapped = &record.generations[0].wrapped;
    assert!(!wrapped.windows(32).any(|window| window == before), "the key is at rest unwrapped");
    drop(scope);
    let world = world.restarted().await;
    let scope = world.manager.scope(&ScopeId::new("bigtable/a")).await.unwrap();
    assert_eq!(secret(&scope), before);
    assert!(Arc::ptr_eq(&scope, &world.manager.scope(&ScopeId::new("bigtable/a")).await.unwrap()));
    let missing = world.manager.scope(&ScopeId::new("bigtable/c")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

pub async fn a_disabled_key_locks_at_once_and_enabling_brings_the_same_key_back<K: KeyAdmin>(
    kms: K,
    clock: Arc<ManualClock>,
) {
    let world = World::new(kms, clock).await.running();
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    let before = secret(&scope);
    let memory = Arc::downgrade(&scope.keys().current().unwrap());
    let mut events = world.manager.events();
    let watch = scope.watch();

    world.kms.disable(&key, 1).await;
    until_locked(&scope).await;
    assert_locked(&scope, "KEY_DISABLED", key.version_name(1).as_str());
    assert!(scope.guard().unwrap_err().message().contains("is disabled"));
    assert_eq!(memory.strong_count(), 0, "a locked scope's key is still in memory");
    assert_eq!(*watch.borrow(), Lock::Locked);
    assert_eq!(events.recv().await.unwrap().lock, Lock::Locked);
    let KeyState::Disabled { refusal } = scope.state() else { panic!("{:?}", scope.state()) };
    assert_eq!(refusal.reason, Reason::Disabled);
    let status = scope.status();
    assert!(status.locked_since.is_some());
    assert_eq!(status.lock_error.unwrap().message(), scope.guard().unwrap_err().message());

    world.kms.enable(&key, 1).await;
    until_unlocked(&scope).await;
    assert_eq!(secret(&scope), before);
    assert_eq!(events.recv().await.unwrap().lock, Lock::Unlocked);
    assert_eq!((scope.state(), scope.status().locked_since), (KeyState::Enabled, None));
}

pub async fn a_lock_survives_a_restart_with_its_reason_and_moment<K: KeyAdmin>(
    kms: K,
    clock: Arc<ManualClock>,
) {
    let world = World::new(kms, clock.clone()).await.running();
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.disable(&key, 1).await;
    until_locked(&scope).await;
    let since = scope.status().locked_since;
    until_recorded(&world.records, "bigtable/a", |record| record.locked_since.is_some()).await;
    clock.advance(Duration::from_secs(60));
    let world = world.restarted().await;
    let scope = world.manager.scope(&ScopeId::new("bigtable/a")).await.unwrap();
    assert_locked(&scope, "KEY_DISABLED", key.version_name(1).as_str());
    assert_eq!(scope.status().locked_since, since);
    world.kms.enable(&key, 1).await;
    world.manager.check_all().await;
    assert!(scope.guard().is_ok());
}

pub async fn a_revoked_grant_locks_and_a_grant_unlocks<K: KeyAdmin>(kms: K, clock: Arc<ManualClock>) {
    let world = World::new(kms, clock).await.running();
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.revoke(&key).await;
    until_locked(&scope).await;
    let error = scope.guard().unwrap_err();
    let agent = AGENT.strip_prefix("serviceAccount:").unwrap();
    for part in [agent, key.as_str(), "roles/cloudkms.cryptoKeyEncrypterDecrypter"] {
        assert!(error.message().contains(part), "{error}");
    }
    world.kms.grant(&key).await;
    until_unlocked(&scope).await;
}

pub async fn a_scheduled_destruction_locks_and_a_restored_and_enabled_version_unlocks<K: KeyAdmin>(
    kms: K,
    clock: Arc<ManualClock>,
) {
    let world = World::new(kms, clock).await.running();
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    let before = secret(&scope);
    world.kms.schedule_destruction(&key, 1).await;
    until_locked(&scope).await;
    assert_locked(&scope, "KEY_DESTROY_SCHEDULED", key.version_name(1).as_str());
    world.kms.restore(&key, 1).await;
    eventually("the restored version shows as disabled", || {
        scope.guard().is_err_and(|error| error.message().contains("is disabled"))
    })
    .await;
    world.kms.enable(&key, 1).await;
    until_unlocked(&scope).await;
    assert_eq!(secret(&scope), before);
}

pub async fn a_destroyed_key_locks_for_good<K: KeyAdmin>(kms: K, clock: Arc<ManualClock>) {
    let world = World::new(kms, clock).await.running();
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    world.kms.schedule_destruction(&key, 1).await;
    until_locked(&scope).await;
    world.kms.destroy_now(&key, 1).await;
    eventually("the destruction shows", || matches!(scope.state(), KeyState::Destroyed { .. })).await;
    assert_locked(&scope, "KEY_DESTROYED", key.version_name(1).as_str());
    world.manager.check_all().await;
    assert_locked(&scope, "KEY_DESTROYED", key.version_name(1).as_str());
    let world = world.restarted().await;
    let scope = world.manager.scope(&ScopeId::new("bigtable/a")).await.unwrap();
    assert_locked(&scope, "KEY_DESTROYED", key.version_name(1).as_str());
}

pub async fn a_rotation_wraps_the_same_key_under_the_new_version<K: KeyAdmin>(
    kms: K,
    clock: Arc<ManualClock>,
) {
    let world = World::new(kms, clock).await.running();
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    let before = secret(&scope);
    let record = |world: &World<K>| {
        let records = world.records.clone();
        async move { records.get::<ScopeRecord>("scope/bigtable/a").await.unwrap().unwrap() }
    };
    let old = record(&world).await;

    assert_eq!(world.kms.rotate(&key).await, 2);
    eventually("the new version shows", || scope.status().key_version == key.version_name(2)).await;
    assert!(scope.guard().is_ok());
    let new = record(&world).await;
    assert_ne!(new.generations[0].wrapped, old.generations[0].wrapped);
    assert_eq!(new.generations[0].created, old.generations[0].created);
    assert!(serde_json::to_vec(&new).unwrap().len() < 2048);

    world.kms.disable(&key, 1).await;
    settle().await;
    world.manager.check_all().await;
    assert!(scope.guard().is_ok(), "the old version is not needed any more");
    drop(scope);
    let world = world.restarted().await.running();
    let scope = world.manager.scope(&ScopeId::new("bigtable/a")).await.unwrap();
    assert_eq!(secret(&scope), before);
    world.kms.disable(&key, 2).await;
    until_locked(&scope).await;
    assert_locked(&scope, "KEY_DISABLED", key.version_name(2).as_str());
}

pub async fn a_key_that_may_not_be_used_makes_no_scope<K: KeyAdmin>(kms: K, clock: Arc<ManualClock>) {
    let world = World::new(kms, clock).await;
    let key = world.kms.make("k").await;
    let id = ScopeId::new("bigtable/a");
    world.kms.disable(&key, 1).await;
    let refused = world.manager.create_scope(spec("bigtable/a", &key)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(refused.violations()[0].kind, "KEY_DISABLED");
    world.kms.enable(&key, 1).await;
    world.kms.revoke(&key).await;
    let refused = world.manager.create_scope(spec("bigtable/a", &key)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    assert_eq!(world.manager.scope(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(world.records.scan::<serde_json::Value>("").await.unwrap(), []);
    assert!(world.manager.loaded().is_empty());

    world.kms.grant(&key).await;
    world.scope("bigtable/a", &key).await;
    let again = world.manager.create_scope(spec("bigtable/a", &key)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    let world = world.restarted().await;
    let again = world.manager.create_scope(spec("bigtable/a", &key)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert!(world.manager.scope(&id).await.unwrap().guard().is_ok());
}

pub async fn a_deleted_scope_is_forgotten_also_while_it_is_locked<K: KeyAdmin>(
    kms: K,
    clock: Arc<ManualClock>,
) {
    let world = World::new(kms, clock).await.running();
    let key = world.kms.make("k").await;
    let scope = world.scope("bigtable/a", &key).await;
    let locked = world.scope("bigtable/b", &key).await;
    world.manager.delete_scope(scope.id()).await.unwrap();
    assert_eq!(scope.guard().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(scope.keys().current().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(scope.keys().by_id(KeyId(1)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(*scope.watch().borrow(), Lock::Locked);
    world.manager.check_all().await;
    assert!(scope.guard().is_err());

    world.kms.disable(&key, 1).await;
    until_locked(&locked).await;
    world.manager.delete_scope(locked.id()).await.unwrap();
    settle().await;
    let world = world.restarted().await;
    assert_eq!(world.records.scan::<serde_json::Value>("").await.unwrap(), []);
    for id in [scope.id(), locked.id()] {
        assert_eq!(world.manager.scope(id).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(world.manager.delete_scope(id).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

pub async fn one_key_locks_all_of_its_scopes_and_no_other<K: KeyAdmin>(kms: K, clock: Arc<ManualClock>) {
    let world = World::new(kms, clock).await.running();
    let (key, other) = (world.kms.make("k").await, world.kms.make("other").await);
    let mut under = Vec::new();
    for number in 0..100 {
        under.push(world.scope(&format!("bigtable/{number}"), &key).await);
    }
    let apart = world.scope("bigtable/apart", &other).await;
    world.kms.disable(&key, 1).await;
    eventually("all are locked", || under.iter().all(|scope| scope.guard().is_err())).await;
    assert!(apart.guard().is_ok());
    world.kms.enable(&key, 1).await;
    eventually("all are back", || under.iter().all(|scope| scope.guard().is_ok())).await;
}

pub async fn data_under_an_enabled_version_stays_readable_while_another_is_disabled<K: KeyAdmin>(
    kms: K,
    clock: Arc<ManualClock>,
) {
    let world = World::new(kms, clock).await;
    let key = world.kms.make("k").await;
    let old = world.scope("bigtable/old", &key).await;
    let both = world.scope("bigtable/both", &key).await;
    // A check would wrap the old keys anew; without one they stay under the first version.
    world.kms.rotate(&key).await;
    let new = world.scope("bigtable/new", &key).await;
    assert_eq!(world.manager.new_generation(both.id()).await.unwrap(), KeyId(2));
    world.kms.disable(&key, 1).await;
    world.manager.check_all().await;

    assert_locked(&old, "KEY_DISABLED", key.version_name(1).as_str());
    assert!(new.guard().is_ok());
    assert!(both.guard().is_ok());
    assert_eq!(both.keys().current().unwrap().id, KeyId(2));
    let refused = both.keys().by_id(KeyId(1)).unwrap_err();
    assert!(refused.message().contains(key.version_name(1).as_str()), "{refused}");

    world.kms.disable(&key, 2).await;
    world.kms.enable(&key, 1).await;
    world.manager.check_all().await;
    assert!(old.guard().is_ok());
    assert!(new.guard().is_err());
    assert!(both.guard().unwrap_err().message().contains(key.version_name(2).as_str()));
    assert_eq!(both.keys().by_id(KeyId(1)).unwrap().id, KeyId(1));

    world.kms.enable(&key, 2).await;
    world.manager.check_all().await;
    world.kms.disable(&key, 1).await;
    world.manager.check_all().await;
    for scope in [old, new, both] {
        assert!(scope.guard().is_ok(), "{scope:?}");
        assert_eq!(scope.status().key_version, key.version_name(2));
        assert!(scope.keys().by_id(KeyId(1)).is_ok(), "{scope:?}");
    }
}

pub async fn the_platform_key_is_made_once_and_opens_after_a_restart<K: KeyAdmin>(
    kms: K,
    clock: Arc<ManualClock>,
) {
    use claviger_cmek::platform;
    use object_store::ObjectStoreExt as _;
    let key: CryptoKeyName = kms.make("platform").await;
    let caller = claviger_core::Caller::new(AGENT);
    let store = Arc::new(object_store::memory::InMemory::new());
    let path = object_store::path::Path::from("platform.key");
    let service = kms.service();
    let open = || platform::open(service.as_ref(), &key, &caller, store.clone(), &path, clock.as_ref());
    let first = open().await.unwrap().current().unwrap().secret().expose().to_vec();
    let file = store.get(&path).await.unwrap().bytes().await.unwrap();
    assert!(!file.windows(32).any(|window| window == first));
    assert_eq!(open().await.unwrap().current().unwrap().secret().expose()[..], first[..]);
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), file);

    kms.disable(&key, 1).await;
    assert_eq!(open().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    kms.enable(&key, 1).await;
    store.put(&path, file.slice(..file.len() / 2).into()).await.unwrap();
    assert_eq!(open().await.unwrap_err().kind(), ErrorKind::DataLoss);
}

/// Makes a test of each function of this file, given how to make a KMS on a clock.
#[macro_export]
macro_rules! cmek_contract {
    ($make:expr) => {
        $crate::cmek_contract!(@each $make;
            a_new_scope_has_a_key_that_a_restart_gives_again,
            a_disabled_key_locks_at_once_and_enabling_brings_the_same_key_back,
            a_lock_survives_a_restart_with_its_reason_and_moment,
            a_revoked_grant_locks_and_a_grant_unlocks,
            a_scheduled_destruction_locks_and_a_restored_and_enabled_version_unlocks,
            a_destroyed_key_locks_for_good,
            a_rotation_wraps_the_same_key_under_the_new_version,
            a_key_that_may_not_be_used_makes_no_scope,
            a_deleted_scope_is_forgotten_also_while_it_is_locked,
            one_key_locks_all_of_its_scopes_and_no_other,
            data_under_an_enabled_version_stays_readable_while_another_is_disabled,
            the_platform_key_is_made_once_and_opens_after_a_restart,
        );
    };
    (@each $make:expr; $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let clock = $crate::common::manual_clock();
                let kms = ($make)(clock.clone()).await;
                $crate::common::contract::$name(kms, clock).await;
            }
        )+
    };
}
