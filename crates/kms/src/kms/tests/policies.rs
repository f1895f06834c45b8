//! Grants, the reserved project, and pushes.

use super::*;
use crate::KeyChange;
use crate::agents::{FIRST_NUMBER, Service};
use crate::iam::Policy;

const BOTH: &str = "roles/cloudkms.cryptoKeyEncrypterDecrypter";

fn on_key() -> PolicyResource {
    PolicyResource::Key(key())
}

fn on_ring() -> PolicyResource {
    PolicyResource::Ring(ring())
}

async fn grant(world: &World, resource: &PolicyResource, role: &str, member: &str) {
    world.kms.set_iam_policy(&admin(), resource, Policy::granting(role, member)).await.unwrap();
}

#[tokio::test]
async fn a_service_agent_uses_a_key_only_while_it_is_granted() {
    let world = World::with_key().await;
    let agent = world.kms.service_agent(Service::Bigtable, "p1").await.unwrap();
    let uses = async || world.kms.encrypt(&agent, &key(), &secret("x"), b"").await;
    let denied = uses().await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    assert_eq!(
        denied.message(),
        format!(
            "Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied on resource '{}' (or it may not exist).",
            key()
        )
    );
    for resource in [on_key(), on_ring()] {
        grant(&world, &resource, BOTH, &agent.principal).await;
        let sealed = uses().await.unwrap().ciphertext;
        world.kms.decrypt(&agent, &key(), &sealed, b"").await.unwrap();
        world
            .kms
            .set_iam_policy(&admin(), &resource, Policy { etag: Vec::new(), ..Policy::default() })
            .await
            .unwrap();
        assert_eq!(uses().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
        let denied = world.kms.decrypt(&agent, &key(), &sealed, b"").await.unwrap_err();
        assert!(denied.message().contains("useToDecrypt"), "{denied}");
    }
}

#[tokio::test]
async fn encrypters_do_not_decrypt_and_administrators_do_neither() {
    let world = World::with_key().await;
    let sealed = world.kms.encrypt(&admin(), &key(), &secret("x"), b"").await.unwrap().ciphertext;
    let caller = Caller::new("user:ada@example.com");
    for (role, encrypts, decrypts, disables) in [
        ("roles/cloudkms.cryptoKeyEncrypter", true, false, false),
        ("roles/cloudkms.cryptoKeyDecrypter", false, true, false),
        ("roles/cloudkms.admin", false, false, true),
        ("roles/cloudkms.viewer", false, false, false),
        ("roles/owner", true, true, true),
    ] {
        grant(&world, &on_key(), role, &caller.principal).await;
        let kms = &world.kms;
        assert_eq!(kms.encrypt(&caller, &key(), &secret("x"), b"").await.is_ok(), encrypts, "{role}");
        assert_eq!(kms.decrypt(&caller, &key(), &sealed, b"").await.is_ok(), decrypts, "{role}");
        let version = key().version_name(1);
        let change = kms.update_version_state(&caller, &version, VersionState::Enabled).await;
        assert_eq!(change.is_ok(), disables, "{role}");
    }
}

#[tokio::test]
async fn who_may_not_know_is_not_told_whether_a_key_is_there() {
    let world = World::with_key().await;
    let missing = CryptoKeyName::new("p1", "us-east1", "r", "none").unwrap();
    let stranger = Caller::new("user:eve@example.com");
    for name in [key(), missing.clone()] {
        assert_eq!(
            world.kms.get_crypto_key(&stranger, &name).unwrap_err().kind(),
            ErrorKind::PermissionDenied
        );
        let used = world.kms.encrypt(&stranger, &name, &secret("x"), b"").await;
        assert_eq!(used.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    let error = world.kms.encrypt(&admin(), &missing, &secret("x"), b"").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.message().to_owned()),
        (ErrorKind::NotFound, format!("CryptoKey {missing} not found."))
    );
}

#[tokio::test]
async fn a_policy_is_read_changed_and_kept_and_a_stale_one_is_refused() {
    let world = World::with_key().await;
    let first = world.kms.get_iam_policy(&admin(), &on_key()).unwrap();
    assert!(first.bindings.is_empty());
    let mut wanted = Policy::granting(BOTH, "user:ada@example.com");
    wanted.etag.clone_from(&first.etag);
    let second = world.kms.set_iam_policy(&admin(), &on_key(), wanted.clone()).await.unwrap();
    let stale = world.kms.set_iam_policy(&admin(), &on_key(), wanted).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Aborted);
    let world = world.restarted().await;
    assert_eq!(world.kms.get_iam_policy(&admin(), &on_key()).unwrap(), second);
    assert!(world.kms.get_iam_policy(&admin(), &on_ring()).unwrap().bindings.is_empty());
}

#[tokio::test]
async fn permissions_are_tested_with_what_the_ring_gives() {
    let world = World::with_key().await;
    let ada = Caller::new("user:ada@example.com");
    grant(&world, &on_ring(), "roles/cloudkms.viewer", &ada.principal).await;
    grant(&world, &on_key(), "roles/cloudkms.cryptoKeyEncrypter", &ada.principal).await;
    let asked: Vec<String> =
        [iam::USE_TO_ENCRYPT, iam::USE_TO_DECRYPT, "cloudkms.cryptoKeys.get"].map(str::to_owned).into();
    let test = |caller: &Caller, resource: &PolicyResource| {
        world.kms.test_iam_permissions(caller, resource, &asked).unwrap()
    };
    assert_eq!(test(&ada, &on_key()), [iam::USE_TO_ENCRYPT, "cloudkms.cryptoKeys.get"]);
    assert_eq!(test(&ada, &on_ring()), ["cloudkms.cryptoKeys.get"]);
    assert_eq!(test(&admin(), &on_key()), asked);
    let missing = PolicyResource::parse("projects/p1/locations/us-east1/keyRings/none").unwrap();
    assert!(test(&admin(), &missing).is_empty());
    let unknown = world.kms.test_iam_permissions(&ada, &on_key(), &["cloudkms.*".to_owned()]);
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn keys_that_claviger_manages_are_for_its_services_and_nobody_sees_them() {
    let world = World::with_key().await;
    let name = world.kms.managed_key(Service::Bigtable, "us-east1").await.unwrap();
    assert_eq!(world.kms.managed_key(Service::Bigtable, "us-east1").await.unwrap(), name);
    let agent = world.kms.service_agent(Service::Bigtable, "p1").await.unwrap();
    let sealed = world.kms.encrypt(&agent, &name, &secret("x"), b"").await.unwrap().ciphertext;
    let world = world.restarted().await;
    world.kms.decrypt(&agent, &name, &sealed, b"").await.unwrap();
    let other = world.kms.service_agent(Service::Storage, "p1").await.unwrap();
    for caller in [&admin(), &other] {
        let denied = world.kms.decrypt(caller, &name, &sealed, b"").await.unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    }
    let kms = &world.kms;
    let (resource, place) = (PolicyResource::Key(name.clone()), name.key_ring_name().location_name());
    let page = Default::default();
    for error in [
        kms.get_crypto_key(&admin(), &name).unwrap_err(),
        kms.get_key_ring(&admin(), &name.key_ring_name()).unwrap_err(),
        kms.list_key_rings(&admin(), &place, &page).unwrap_err(),
        kms.get_iam_policy(&admin(), &resource).unwrap_err(),
        kms.set_iam_policy(&admin(), &resource, Policy::default()).await.unwrap_err(),
        kms.create_key_ring(&admin(), &place, "mine").await.unwrap_err(),
        kms.destroy_version(&admin(), &name.version_name(1)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    let asked = [iam::USE_TO_DECRYPT.to_owned()];
    assert!(kms.test_iam_permissions(&admin(), &resource, &asked).unwrap().is_empty());
}

#[tokio::test]
async fn concurrent_first_uses_of_a_managed_key_and_a_project_number_agree() {
    let world = Arc::new(World::empty().await);
    let uses = (0..20).map(|i| {
        let world = world.clone();
        tokio::spawn(async move {
            let key = world.kms.managed_key(Service::Platform, "global").await.unwrap();
            (key, world.kms.project_number(if i % 2 == 0 { "even" } else { "odd" }).await.unwrap())
        })
    });
    let mut seen: Vec<_> =
        futures::future::join_all(uses).await.into_iter().map(|used| used.unwrap().1).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [FIRST_NUMBER, FIRST_NUMBER + 1]);
}

#[tokio::test]
async fn a_project_keeps_its_number() {
    let world = World::empty().await;
    let first = world.kms.project_number("a").await.unwrap();
    let second = world.kms.project_number("b").await.unwrap();
    assert_eq!((first.to_string().len(), second), (12, first + 1));
    let world = world.restarted().await;
    assert_eq!(world.kms.project_number("b").await.unwrap(), second);
    assert_eq!(world.kms.project_number("c").await.unwrap(), second + 1);
    assert_eq!(world.kms.project_number("no/project").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let agent = world.kms.service_agent(Service::Dataflow, "a").await.unwrap();
    assert_eq!(
        agent.principal,
        format!("serviceAccount:service-{first}@dataflow-service-producer-prod.iam.gserviceaccount.com")
    );
}

#[tokio::test]
async fn a_change_is_pushed_once_it_is_made_to_each_key_that_it_affects() {
    let world = World::with_key().await;
    world.kms.create_crypto_key(&admin(), &ring(), "k2", NewCryptoKey::symmetric()).await.unwrap();
    let k2 = CryptoKeyName::new("p1", "us-east1", "r", "k2").unwrap();
    let mut changes = world.kms.changes();
    let mut pushed = || {
        let mut keys = Vec::new();
        while let Ok(KeyChange::Of(key)) = changes.try_recv() {
            keys.push(key);
        }
        keys
    };
    world.set_state(1, VersionState::Disabled).await.unwrap();
    assert_eq!(pushed(), [key()]);
    world.set_state(1, VersionState::Disabled).await.unwrap();
    assert_eq!(pushed(), []);
    world.restore(1).await.unwrap_err();
    assert_eq!(pushed(), []);
    grant(&world, &on_key(), BOTH, "user:a@b").await;
    assert_eq!(pushed(), [key()]);
    grant(&world, &on_ring(), BOTH, "user:a@b").await;
    assert_eq!(pushed(), [key(), k2]);
    world.kms.create_version(&admin(), &key()).await.unwrap();
    world.kms.update_primary_version(&admin(), &key(), "2").await.unwrap();
    assert_eq!(pushed(), [key(), key()]);
    world.encrypt("x").await.unwrap();
    assert_eq!(pushed(), []);
}
