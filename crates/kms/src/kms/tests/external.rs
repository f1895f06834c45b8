//! External keys and their connections as the KMS keeps them. What goes to a manager is shown in `claviger-ekm`.

use super::*;
use crate::KeyChange;
use crate::external::{AccessReason, EkmConnectionName, ExternalKey, Resolver};
use crate::iam::Policy;
use crate::model::{
    CryptoKeyUpdate, NewVersion, PageRequest, ProtectionLevel, VersionTemplate, VersionUpdate,
};
use claviger_crypto::certificate;

const CERTIFICATE: &str = include_str!("../../../../crypto/src/tls/testdata/self.pem");

fn resolver() -> Resolver {
    let certificates = certificate::from_pem(CERTIFICATE).unwrap();
    Resolver { hostname: "ekm.example.com:8443".into(), certificates, ..Resolver::default() }
}

fn connection() -> EkmConnectionName {
    EkmConnectionName::new(&location(), "c").unwrap()
}

fn external(level: ProtectionLevel, backend: &str) -> NewCryptoKey {
    NewCryptoKey {
        template: Some(VersionTemplate {
            protection_level: level,
            algorithm: Algorithm::ExternalSymmetricEncryption,
        }),
        skip_initial_version: true,
        crypto_key_backend: backend.to_owned(),
        ..NewCryptoKey::symmetric()
    }
}

async fn world() -> World {
    let world = World::empty().await;
    world.kms.create_key_ring(&admin(), &location(), "r").await.unwrap();
    world.kms.create_ekm_connection(&admin(), &location(), "c", resolver()).await.unwrap();
    world
}

fn enabled(external: Option<ExternalKey>) -> NewVersion {
    NewVersion { state: VersionState::Enabled, external }
}

fn uri(text: &str) -> Option<ExternalKey> {
    Some(ExternalKey::Uri(text.to_owned()))
}

fn path(text: &str) -> Option<ExternalKey> {
    Some(ExternalKey::Path(text.to_owned()))
}

#[tokio::test]
async fn a_version_names_the_key_behind_it_as_its_level_has_it() {
    let world = world().await;
    let make = async |id: &str, new| world.kms.create_crypto_key(&admin(), &ring(), id, new).await.map(drop);
    make("k", external(ProtectionLevel::External, "")).await.unwrap();
    make("v", external(ProtectionLevel::ExternalVpc, connection().as_str())).await.unwrap();
    make("s", NewCryptoKey::symmetric()).await.unwrap();
    let version = async |id: &str, external| {
        let key = CryptoKeyName::new("p1", "us-east1", "r", id).unwrap();
        world.kms.create_version_with(&admin(), &key, enabled(external)).await
    };
    for (id, wrong) in [
        ("k", None),
        ("k", path("v0/keys/k")),
        ("k", uri("http://ekm.example.com/k")),
        ("k", uri("https:///k")),
        ("k", uri("https://ekm.example.com")),
        ("k", uri("https://u@ekm.example.com/k")),
        ("k", uri("https://ekm.example.com/k?x=1")),
        ("k", uri("https://ekm.example.com/k#f")),
        ("k", uri("https://ekm.example.com/a b")),
        ("v", None),
        ("v", uri("https://ekm.example.com/k")),
        ("v", path("")),
        ("v", path("k?x")),
        ("s", uri("https://ekm.example.com/k")),
    ] {
        let error = version(id, wrong.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{id} {wrong:?}");
    }
    let made = version("k", uri("https://ekm.example.com/v0/keys/k")).await.unwrap();
    assert_eq!((made.number, made.protection()), (1, ProtectionLevel::External));
    let made = version("v", path("v0/keys/k")).await.unwrap();
    assert_eq!(made.protection(), ProtectionLevel::ExternalVpc);
    let moved = VersionUpdate { state: None, external: uri("https://other.example.com/k") };
    let moved = world.kms.update_version(&admin(), &key().version_name(1), moved).await.unwrap();
    assert_eq!((moved.external, moved.state), (uri("https://other.example.com/k"), VersionState::Enabled));
    let wrong = VersionUpdate { state: None, external: path("k") };
    assert!(world.kms.update_version(&admin(), &key().version_name(1), wrong).await.is_err());
    let world = world.restarted().await;
    assert_eq!(world.version(1).external, uri("https://other.example.com/k"));
    assert_eq!(world.view().key.protection, ProtectionLevel::External);
    assert_eq!(world.kms.get_ekm_connection(&admin(), &connection()).unwrap().resolver, resolver());
}

#[tokio::test]
async fn external_keys_neither_rotate_nor_take_material_and_their_connection_is_theirs() {
    let world = world().await;
    let kind = async |new| world.kms.create_crypto_key(&admin(), &ring(), "k", new).await.unwrap_err().kind();
    use ProtectionLevel::{External, ExternalVpc};
    let wrong = ErrorKind::InvalidArgument;
    let scheduled = NewCryptoKey {
        rotation_period: Some(DAY),
        next_rotation_time: Some(START.plus(DAY)),
        ..external(External, "")
    };
    assert_eq!(kind(scheduled).await, wrong);
    assert_eq!(kind(NewCryptoKey { import_only: true, ..external(External, "") }).await, wrong);
    assert_eq!(kind(NewCryptoKey { skip_initial_version: false, ..external(External, "") }).await, wrong);
    assert_eq!(kind(external(External, connection().as_str())).await, ErrorKind::Unimplemented);
    assert_eq!(kind(external(ExternalVpc, "")).await, wrong);
    let elsewhere = "projects/p1/locations/us-west1/ekmConnections/c";
    assert_eq!(kind(external(ExternalVpc, elsewhere)).await, wrong);
    let missing = "projects/p1/locations/us-east1/ekmConnections/none";
    assert_eq!(kind(external(ExternalVpc, missing)).await, ErrorKind::NotFound);
    // With a default of the location, none need be named.
    world.kms.update_ekm_config(&admin(), &location(), Some(connection())).await.unwrap();
    world.kms.create_crypto_key(&admin(), &ring(), "k", external(ExternalVpc, "")).await.unwrap();
    assert_eq!(world.view().key.backend, Some(connection()));
    let world = world.restarted().await;
    assert_eq!(world.kms.get_ekm_config(&admin(), &location()).unwrap(), Some(connection()));
    let job = world.job("j", Method::RsaOaep3072Sha256).await;
    assert_eq!(world.import(&job, &[1; 32], None).await.unwrap_err().kind(), wrong);
}

#[tokio::test]
async fn a_connection_is_changed_by_who_read_it_last_and_used_by_who_may() {
    let world = world().await;
    let first = world.kms.get_ekm_connection(&admin(), &connection()).unwrap();
    let other = Resolver { hostname: "other.example.com".into(), ..resolver() };
    let change = async |resolver: Resolver, etag: &str| {
        world.kms.update_ekm_connection(&admin(), &connection(), resolver, etag.to_owned()).await
    };
    let second = change(other.clone(), &first.etag).await.unwrap();
    assert_ne!(first.etag, second.etag);
    assert_eq!(change(other.clone(), &first.etag).await.unwrap_err().kind(), ErrorKind::Aborted);
    for wrong in [
        Resolver { hostname: String::new(), ..resolver() },
        Resolver { hostname: "https://h".into(), ..resolver() },
        Resolver { hostname: "h:0".into(), ..resolver() },
        Resolver { hostname: "h:x".into(), ..resolver() },
        Resolver { hostname: "h/x".into(), ..resolver() },
        Resolver { certificates: Vec::new(), ..resolver() },
        Resolver { certificates: vec![vec![1, 2, 3]], ..resolver() },
        Resolver { certificates: vec![resolver().certificates.remove(0); 11], ..resolver() },
    ] {
        assert_eq!(change(wrong, "").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let error = world.kms.create_ekm_connection(&admin(), &location(), "c", resolver()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let ada = Caller::new("user:ada@example.com");
    let refused = world.kms.get_ekm_connection(&ada, &connection()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    let policy = Policy::granting("roles/cloudkms.viewer", "user:ada@example.com");
    let resource = PolicyResource::parse(connection().as_str()).unwrap();
    world.kms.set_iam_policy(&admin(), &resource, policy).await.unwrap();
    world.kms.get_ekm_connection(&ada, &connection()).unwrap();
    let listed = world.kms.list_ekm_connections(&admin(), &location(), &PageRequest::default()).unwrap();
    assert_eq!((listed.total, listed.items[0].resolver.hostname.as_str()), (1, "other.example.com"));
}

#[tokio::test]
async fn without_a_way_to_managers_an_external_key_says_so_and_the_signing_key_is_kept() {
    let world = world().await;
    let public = world.kms.ekm_signer().await.unwrap().public_key().unwrap();
    let new = external(ProtectionLevel::External, "");
    world.kms.create_crypto_key(&admin(), &ring(), "k", new).await.unwrap();
    let version = enabled(uri("https://ekm.example.com/k"));
    world.kms.create_version_with(&admin(), &key(), version).await.unwrap();
    world.kms.update_primary_version(&admin(), &key(), "1").await.unwrap();
    let error = world.encrypt("x").await.unwrap_err();
    assert!(error.message().contains("no way to external key managers"), "{error}");
    let world = world.restarted().await;
    assert_eq!(world.kms.ekm_signer().await.unwrap().public_key().unwrap(), public);
    let agent = world.kms.ekm_agent("p1").await.unwrap();
    assert!(
        agent.starts_with("service-") && agent.ends_with("@gcp-sa-ekms.iam.gserviceaccount.com"),
        "{agent}"
    );
}

#[tokio::test]
async fn a_policy_of_reasons_holds_for_keys_of_our_own_too_and_users_are_told() {
    let world = World::with_key().await;
    let sealed = world.encrypt("x").await.unwrap();
    let mut changes = world.kms.changes();
    let none = CryptoKeyUpdate { justifications: Some(Some(Vec::new())), ..CryptoKeyUpdate::default() };
    world.kms.update_crypto_key(&admin(), &key(), none).await.unwrap();
    assert_eq!(changes.try_recv().unwrap(), KeyChange::Of(key()));
    let error = world.decrypt(&sealed).await.unwrap_err();
    assert_eq!(error.violations()[0].kind, "KEY_ACCESS_JUSTIFICATION_DENIED");
    assert!(error.message().contains("CUSTOMER_INITIATED_ACCESS"), "{error}");
    let world = world.restarted().await;
    assert!(world.decrypt(&sealed).await.is_err(), "the policy is kept");
    let unspecified = Some(Some(vec![AccessReason::Unspecified]));
    let wrong = CryptoKeyUpdate { justifications: unspecified, ..CryptoKeyUpdate::default() };
    assert!(world.kms.update_crypto_key(&admin(), &key(), wrong).await.is_err());
    let all = CryptoKeyUpdate { justifications: Some(None), ..CryptoKeyUpdate::default() };
    world.kms.update_crypto_key(&admin(), &key(), all).await.unwrap();
    assert_eq!(world.decrypt(&sealed).await.unwrap(), "x");
}
