//! The client against our own manager, over TLS on loopback, and the KMS in front of it.
//!
//! Invariant: none: tests.

use std::net::SocketAddr;

use claviger_core::names::{CryptoKeyName, KeyRingName, LocationName};
use claviger_core::{Caller, ErrorKind, SystemClock};
use claviger_crypto::SecretBytes;
use claviger_crypto::certificate;
use claviger_kms::external::{AccessReason, ExternalKey, Resolver};
use claviger_kms::model::{
    Algorithm, CryptoKeyUpdate, NewCryptoKey, NewVersion, ProtectionLevel, VersionState, VersionTemplate,
};
use claviger_kms::{KeyService as _, Kms, KmsConfig, RootSecret};
use object_store::memory::InMemory;

use super::*;
use crate::manager::{Fault, ManagerConfig, Policy, Running, start};
use crate::token::KeySet;

const CERTIFICATE: &str = include_str!("../../../crypto/src/tls/testdata/self.pem");
const PRIVATE: &str = include_str!("../../../crypto/src/tls/testdata/self.key");
const OTHER: &str = include_str!("../../../crypto/src/tls/testdata/ca.pem");

/// A KMS with a key behind a manager, and that manager.
struct World {
    kms: Arc<Kms>,
    manager: Running,
    _dir: tempfile::TempDir,
}

fn admin() -> Caller {
    Caller::local_admin()
}

fn place() -> LocationName {
    LocationName::new("p1", "us-east1").unwrap()
}

fn key() -> CryptoKeyName {
    CryptoKeyName::new("p1", "us-east1", "r", "k").unwrap()
}

fn der(pem: &str) -> Vec<u8> {
    certificate::from_pem(pem).unwrap().remove(0)
}

fn resolver(port: u16, pin: &str) -> Resolver {
    Resolver { hostname: format!("localhost:{port}"), certificates: vec![der(pin)], ..Resolver::default() }
}

fn external(level: ProtectionLevel) -> NewCryptoKey {
    let template =
        VersionTemplate { protection_level: level, algorithm: Algorithm::ExternalSymmetricEncryption };
    NewCryptoKey { template: Some(template), skip_initial_version: true, ..NewCryptoKey::symmetric() }
}

impl World {
    async fn new(policy: &str) -> Self {
        Self::with(policy, ClientConfig { timeout: Duration::from_millis(500), ..ClientConfig::default() })
            .await
    }

    async fn with(policy: &str, config: ClientConfig) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let config = KmsConfig {
            root: RootSecret::KeyFile(SecretBytes::new(vec![7; 32])),
            external: Some(Arc::new(Client::new(config, clock.clone()))),
            ..KmsConfig::default()
        };
        let kms = Kms::open(config, Arc::new(InMemory::new()), clock.clone()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = ManagerConfig {
            listen: free,
            admin: free,
            tls_chain_pem: CERTIFICATE.to_owned(),
            tls_key_pem: SecretBytes::new(PRIVATE.into()),
            dir: dir.path().to_owned(),
            root: RootSecret::KeyFile(SecretBytes::new(vec![9; 32])),
            signers: KeySet::of(kms.ekm_signer().await.unwrap()).unwrap(),
            issuer: token::ISSUER.to_owned(),
            hosts: vec!["localhost".to_owned()],
            policy: Policy::parse(policy).unwrap(),
        };
        let manager = start(config, clock).await.unwrap();
        manager.keys().create("k1").await.unwrap();
        kms.create_key_ring(&admin(), &place(), "r").await.unwrap();
        kms.create_ekm_connection(&admin(), &place(), "c", resolver(manager.address.port(), CERTIFICATE))
            .await
            .unwrap();
        let new = NewCryptoKey {
            crypto_key_backend: format!("{}/ekmConnections/c", place()),
            ..external(ProtectionLevel::ExternalVpc)
        };
        let ring = KeyRingName::new("p1", "us-east1", "r").unwrap();
        kms.create_crypto_key(&admin(), &ring, "k", new).await.unwrap();
        let external = Some(ExternalKey::Path("v0/keys/k1".into()));
        let version = NewVersion { state: VersionState::Enabled, external };
        kms.create_version_with(&admin(), &key(), version).await.unwrap();
        kms.update_primary_version(&admin(), &key(), "1").await.unwrap();
        Self { kms, manager, _dir: dir }
    }

    async fn encrypt(&self) -> Result<Vec<u8>> {
        let plain = SecretBytes::new(b"plain".to_vec());
        Ok(self.kms.encrypt(&admin(), &key(), &plain, b"aad").await?.ciphertext)
    }

    async fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        let reply = self.kms.decrypt(&admin(), &key(), sealed, b"aad").await?;
        Ok(reply.plaintext.expose().to_vec())
    }

    /// What Encrypt is refused with.
    async fn refusal(&self) -> Error {
        self.encrypt().await.unwrap_err()
    }
}

fn kinds(error: &Error) -> Vec<&str> {
    error.violations().iter().map(|violation| violation.kind.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_behind_a_manager_encrypts_and_neither_side_alone_decrypts() {
    let world = World::new("cache = '90s'").await;
    let sealed = world.encrypt().await.unwrap();
    assert_eq!(world.decrypt(&sealed).await.unwrap(), b"plain");
    let reply = world.kms.decrypt(&admin(), &key(), &sealed, b"aad").await.unwrap();
    assert_eq!(reply.cache_for, Some(Duration::from_secs(90)));
    assert!(reply.used_primary);
    for (bytes, aad) in [(sealed.clone(), b"other".as_slice()), ([sealed.as_slice(), b"x"].concat(), b"aad")]
    {
        assert!(world.kms.decrypt(&admin(), &key(), &bytes, aad).await.is_err());
    }
    // The largest of all.
    let (plain, aad) = (SecretBytes::new(vec![1; 65_536]), vec![2; 65_536]);
    let sealed = world.kms.encrypt(&admin(), &key(), &plain, &aad).await.unwrap().ciphertext;
    assert_eq!(
        world.kms.decrypt(&admin(), &key(), &sealed, &aad).await.unwrap().plaintext.expose(),
        plain.expose()
    );
    // Another key of the manager does not open what the first wrapped.
    world.manager.keys().create("k2").await.unwrap();
    let moved =
        claviger_kms::VersionUpdate { state: None, external: Some(ExternalKey::Path("v0/keys/k2".into())) };
    world.kms.update_version(&admin(), &key().version_name(1), moved).await.unwrap();
    let error = world.kms.decrypt(&admin(), &key(), &sealed, &aad).await.unwrap_err();
    assert_eq!(kinds(&error), ["KEY_ENABLED", "EXTERNAL_INVALID_ARGUMENT"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_with_key_and_reason_and_silence_is_told_apart() {
    let world = World::new("").await;
    let sealed = world.encrypt().await.unwrap();
    world.manager.keys().set_enabled("k1", false).await.unwrap();
    let error = world.decrypt(&sealed).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(kinds(&error), ["KEY_ENABLED", "EXTERNAL_FAILED_PRECONDITION"]);
    for part in [key().as_str(), "CUSTOMER_INITIATED_ACCESS", "the key k1 is not enabled"] {
        assert!(error.message().contains(part), "{error}");
    }
    world.manager.keys().set_enabled("k1", true).await.unwrap();
    assert_eq!(world.decrypt(&sealed).await.unwrap(), b"plain");
    for (fault, kind, violation) in [
        (Fault::Refuse, ErrorKind::FailedPrecondition, "EXTERNAL_PERMISSION_DENIED"),
        (Fault::Error, ErrorKind::Unavailable, UNAVAILABLE),
        (Fault::Garbage, ErrorKind::Unavailable, UNAVAILABLE),
        (Fault::Hang, ErrorKind::Unavailable, TIMEOUT),
    ] {
        world.manager.set_fault(fault);
        let error = world.refusal().await;
        assert_eq!((error.kind(), kinds(&error)), (kind, vec!["KEY_ENABLED", violation]), "{fault:?}");
    }
    world.manager.set_fault(Fault::Slow { millis: 5 });
    assert_eq!(world.decrypt(&sealed).await.unwrap(), b"plain");
    world.manager.keys().destroy("k1").await.unwrap();
    assert_eq!(kinds(&world.refusal().await), ["KEY_ENABLED", "EXTERNAL_FAILED_PRECONDITION"]);
    let World { kms, manager, _dir } = world;
    manager.stop().await.unwrap();
    let error = kms.decrypt(&admin(), &key(), &sealed, b"aad").await.unwrap_err();
    assert_eq!(kinds(&error), ["KEY_ENABLED", UNREACHABLE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reasons_are_held_against_the_policy_of_the_key_and_of_the_manager() {
    let world = World::new("reasons = ['CUSTOMER_INITIATED_ACCESS']").await;
    let sealed = world.encrypt().await.unwrap();
    let system = admin()
        .with(claviger_kms::external::ACCESS_REASON, AccessReason::GoogleInitiatedSystemOperation.as_str());
    let error = world.kms.decrypt(&system, &key(), &sealed, b"aad").await.unwrap_err();
    assert_eq!(kinds(&error), ["KEY_ENABLED", "EXTERNAL_PERMISSION_DENIED"]);
    assert!(error.message().contains("GOOGLE_INITIATED_SYSTEM_OPERATION"), "{error}");
    let allow = async |reasons: Option<Vec<AccessReason>>| {
        let update = CryptoKeyUpdate { justifications: Some(reasons), ..CryptoKeyUpdate::default() };
        world.kms.update_crypto_key(&admin(), &key(), update).await.unwrap()
    };
    allow(Some(Vec::new())).await;
    assert_eq!(kinds(&world.refusal().await), ["KEY_ACCESS_JUSTIFICATION_DENIED"]);
    allow(Some(vec![AccessReason::CustomerInitiatedAccess])).await;
    assert_eq!(world.decrypt(&sealed).await.unwrap(), b"plain");
    let error = world.kms.decrypt(&system, &key(), &sealed, b"aad").await.unwrap_err();
    assert_eq!(kinds(&error), ["KEY_ACCESS_JUSTIFICATION_DENIED"]);
    allow(None).await;
    let entries = world.kms.audit_log().read(None, 1000).await.unwrap();
    let uses: Vec<_> =
        entries.iter().map(|(_, entry)| entry).filter(|entry| entry.method == "Decrypt").collect();
    assert_eq!(uses[0].justification.as_deref(), Some("GOOGLE_INITIATED_SYSTEM_OPERATION"));
    assert_eq!(uses[1].justification.as_deref(), Some("CUSTOMER_INITIATED_ACCESS"));
    assert!(uses.iter().all(|entry| entry.context.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_with_another_certificate_or_that_knows_another_kms_is_not_used() {
    let world = World::new("").await;
    let sealed = world.encrypt().await.unwrap();
    let name = claviger_kms::external::EkmConnectionName::new(&place(), "c").unwrap();
    world.kms.verify_ekm_connectivity(&admin(), &name).await.unwrap();
    let port = world.manager.address.port();
    world.kms.update_ekm_connection(&admin(), &name, resolver(port, OTHER), String::new()).await.unwrap();
    let error = world.decrypt(&sealed).await.unwrap_err();
    assert_eq!((error.kind(), kinds(&error)), (ErrorKind::Unavailable, vec!["KEY_ENABLED", UNREACHABLE]));
    let error = world.kms.verify_ekm_connectivity(&admin(), &name).await.unwrap_err();
    assert_eq!((error.kind(), kinds(&error)), (ErrorKind::FailedPrecondition, vec![UNREACHABLE]));
    // Another KMS, whose tokens this manager does not know.
    let other = World::new("").await;
    other
        .kms
        .update_ekm_connection(&admin(), &name, resolver(port, CERTIFICATE), String::new())
        .await
        .unwrap();
    let error = other.refusal().await;
    assert_eq!(kinds(&error), ["KEY_ENABLED", "EXTERNAL_UNAUTHENTICATED"]);
    assert!(error.message().contains("a key that is not known"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_everybody_can_reach_is_not_looked_for_on_this_machine() {
    let roots = vec![der(CERTIFICATE), der(OTHER)];
    let world = World::with("", ClientConfig { roots: Some(roots.clone()), ..ClientConfig::default() }).await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let uri = format!("https://localhost:{}/v0/keys/k1", world.manager.address.port());
    let target = Target { uri, pins: Vec::new() };
    let signer = world.kms.ekm_signer().await.unwrap();
    let identity = Identity { key: signer, email: "a@b".into() };
    let version = key().version_name(1);
    let reason = AccessReason::CustomerInitiatedAccess;
    let call = ExternalCall { target: &target, identity: &identity, version: &version, reason, aad: b"" };
    let public =
        Client::new(ClientConfig { roots: Some(roots.clone()), ..ClientConfig::default() }, clock.clone());
    let ExternalFailure::Silent { kind, detail } = public.wrap(&call, b"x").await.unwrap_err() else {
        panic!("a refusal")
    };
    assert_eq!(kind, UNREACHABLE);
    assert!(detail.contains("does not connect to"), "{detail}");
    let config = ClientConfig { roots: Some(roots), private_addresses: true, ..ClientConfig::default() };
    let private = Client::new(config, clock);
    let wrapped = private.wrap(&call, b"x").await.unwrap();
    assert_eq!(private.unwrap(&call, &wrapped).await.unwrap().payload.expose(), b"x");
    for uri in ["http://localhost:1/k", "ftp://localhost/k", "localhost/k"] {
        let target = Target { uri: uri.into(), pins: Vec::new() };
        let call = ExternalCall { target: &target, identity: &identity, version: &version, reason, aad: b"" };
        assert!(private.wrap(&call, b"x").await.is_err(), "{uri}");
    }
}

#[test]
fn answers_are_read_as_decisions_or_as_silence() {
    let kind = |status: u16, body: &str| match failure(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    {
        ExternalFailure::Refused { kind, .. } | ExternalFailure::Silent { kind, .. } => kind,
    };
    for (status, body, expected) in [
        (400, "", "EXTERNAL_INVALID_ARGUMENT"),
        (400, r#"{"code": 9}"#, "EXTERNAL_FAILED_PRECONDITION"),
        (400, r#"{"error": {"code": 400, "status": "FAILED_PRECONDITION"}}"#, "EXTERNAL_FAILED_PRECONDITION"),
        (401, "<html>", "EXTERNAL_UNAUTHENTICATED"),
        (403, "", "EXTERNAL_PERMISSION_DENIED"),
        (404, "", "EXTERNAL_NOT_FOUND"),
        (410, "", "EXTERNAL_REFUSED"),
        (408, "", UNAVAILABLE),
        (429, "", UNAVAILABLE),
        (302, "", UNAVAILABLE),
        (204, "", UNAVAILABLE),
        (500, "", UNAVAILABLE),
        (503, r#"{"code": 7}"#, UNAVAILABLE),
    ] {
        assert_eq!(kind(status, body), expected, "{status} {body}");
    }
    let long = format!(r#"{{"message": "{}\n"}}"#, "x".repeat(1000));
    let ExternalFailure::Refused { detail, .. } = failure(StatusCode::FORBIDDEN, long.as_bytes()) else {
        panic!("silence")
    };
    assert_eq!(detail, format!("{} (403 Forbidden)", "x".repeat(MAX_DETAIL)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_a_browser_cannot_press_a_switch() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let world = World::new("").await;
    let sealed = world.encrypt().await.unwrap();
    // What a form of any page may send to this machine: text, and no more.
    for kind in ["", "Content-Type: text/plain\r\n"] {
        let request = format!(
            "POST /keys/k1:disable HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let mut stream = tokio::net::TcpStream::connect(world.manager.admin).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("application/json"), "{answer}");
    }
    world.decrypt(&sealed).await.unwrap();
    let nothing = serde_json::Value::Null;
    crate::manager::admin::ask(world.manager.admin, Method::POST, "/keys/k1:disable", &nothing)
        .await
        .unwrap();
    assert_eq!(world.decrypt(&sealed).await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
}
