//! A KMS elsewhere over TLS on loopback: the contract that `cmek` has with every KMS, and who is let in.
//!
//! Invariant: certificates are made here, for each test.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use claviger_core::names::{CryptoKeyName, LocationName};
use claviger_core::{Caller, Clock as _, ErrorKind, ManualClock, SystemClock};
use claviger_crypto::SecretBytes;
use claviger_kms::{KeyService, Kms, KmsConfig, NewCryptoKey, Policy, PolicyResource, VersionState};
use claviger_orgpolicy::{Constraint, PolicyName, Rule, Spec, Wish, WishedSpec};
use object_store::memory::InMemory;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::auth::Callers;
use crate::common::{AGENT, KeyAdmin};
use crate::config::{ServeConfig, TlsFiles};
use crate::data_servers::ChangeLog;
use crate::http::{Door, Front, Secure};
use crate::keys::Here;
use crate::run::{Home, Services};
use crate::seal::SealApi;
use crate::{http, orgpolicy};

const ROLE: &str = "roles/cloudkms.cryptoKeyEncrypterDecrypter";
const DATA_SERVER: &str = "principal:data-1";

/// An authority with a folder for what it makes.
struct Voucher {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Voucher {
    fn new(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(folder.join("ca.pem"), cert.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The files of a certificate and its key.
    fn issue(&self, name: &str, names: &[&str], uri: Option<&str>) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) =
            (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key")));
        std::fs::write(&cert_file, cert.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert_file, key_file)
    }
}

/// A KMS that is served over TLS, and the way to it.
struct World {
    here: Here,
    clock: Arc<ManualClock>,
    authority: Voucher,
    url: String,
    elsewhere: Arc<Elsewhere>,
    following: tokio::task::JoinHandle<()>,
    folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.following.abort();
    }
}

fn real() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

async fn world(clock: Arc<ManualClock>) -> World {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(InMemory::new());
    let kms = Box::pin(Kms::open(KmsConfig::default(), store, clock.clone())).await.unwrap();
    let policies = Box::pin(orgpolicy::open(&kms, clock.clone())).await.unwrap();
    let here = Here { kms, policies };
    let (changes, sources) = ChangeLog::new(&here.kms, &here.policies);
    tokio::spawn(changes.clone().run(sources));

    let authority = Voucher::new(folder.path().join("ours"));
    let (cert_file, key_file) = authority.issue("kms", &["localhost", "127.0.0.1"], None);
    let tls = TlsFiles { cert_file, key_file, client_ca_file: Some(authority.ca()) };
    let config = ServeConfig {
        tls: Some(tls),
        services: vec!["kms".to_owned()],
        data_servers: vec![DATA_SERVER.to_owned()],
        ..ServeConfig::default()
    };
    let services = Services {
        home: Home::Here { here: here.clone(), changes, sources: Mutex::new(None) },
        authority: Arc::new(here.clone()),
        data: None,
        clock: clock.clone(),
    };
    let seal = SealApi::starting(Vec::new(), clock.clone());
    let door = Door::new(seal.clone(), Callers::Local);
    door.open(Front::new(&services, &config, seal).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (stop, stopped) = watch::channel(false);
    let secure = Secure::new(&config, real()).unwrap();
    tokio::spawn(http::serve(listener, door, secure, stopped));

    let told = told(&url, &authority, &authority, Some("data-1"));
    let Reached::Claviger(elsewhere) = Box::pin(reach(&told, real())).await.unwrap() else {
        panic!("the KMS is a Claviger");
    };
    let following = tokio::spawn(elsewhere.clone().follow());
    World { here, clock, authority, url, elsewhere, following, folder, _stop: stop }
}

/// How a server calls that trusts an authority and shows what another made.
fn told(url: &str, trusts: &Voucher, shows: &Voucher, name: Option<&str>) -> KmsElsewhere {
    let (cert_file, key_file) = name.map(|name| shows.issue(name, &[], None)).unzip();
    KmsElsewhere { url: url.to_owned(), ca_file: Some(trusts.ca()), cert_file, key_file, token_file: None }
}

impl World {
    async fn set_state(&self, key: &CryptoKeyName, version: u64, state: VersionState) {
        let name = key.version_name(version);
        self.here.kms.update_version_state(&Caller::local_admin(), &name, state).await.unwrap();
    }

    async fn set_policy(&self, key: &CryptoKeyName, policy: Policy) {
        let resource = PolicyResource::parse(key.as_str()).unwrap();
        self.here.kms.set_iam_policy(&Caller::local_admin(), &resource, policy).await.unwrap();
    }

    fn remote(&self) -> Remote {
        Remote(self.elsewhere.clone())
    }
}

#[async_trait]
impl KeyAdmin for World {
    fn service(&self) -> Arc<dyn KeyService> {
        self.elsewhere.clone()
    }

    async fn make(&self, id: &str) -> CryptoKeyName {
        let admin = Caller::local_admin();
        let location = LocationName::new("p", "us-east1").unwrap();
        match self.here.kms.create_key_ring(&admin, &location, "r").await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
        }
        let key = CryptoKeyName::new("p", "us-east1", "r", id).unwrap();
        let new = NewCryptoKey::symmetric();
        self.here.kms.create_crypto_key(&admin, &key.key_ring_name(), id, new).await.unwrap();
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
        let version = key.version_name(version);
        self.here.kms.destroy_version(&Caller::local_admin(), &version).await.unwrap();
    }

    async fn restore(&self, key: &CryptoKeyName, version: u64) {
        let version = key.version_name(version);
        self.here.kms.restore_version(&Caller::local_admin(), &version).await.unwrap();
    }

    async fn destroy_now(&self, _key: &CryptoKeyName, _version: u64) {
        self.clock.advance(Duration::from_secs(31 * 24 * 3600));
        self.here.kms.tick().await.unwrap();
    }

    async fn rotate(&self, key: &CryptoKeyName) -> u64 {
        let version = self.here.kms.create_version(&Caller::local_admin(), key).await.unwrap();
        self.set_primary(key, version.number).await;
        version.number
    }

    async fn set_primary(&self, key: &CryptoKeyName, version: u64) {
        let number = version.to_string();
        self.here.kms.update_primary_version(&Caller::local_admin(), key, &number).await.unwrap();
    }

    async fn revoke(&self, key: &CryptoKeyName) {
        self.set_policy(key, Policy { etag: Vec::new(), ..Policy::default() }).await;
    }

    async fn grant(&self, key: &CryptoKeyName) {
        self.set_policy(key, Policy::granting(ROLE, AGENT)).await;
    }
}

crate::cmek_contract!(world);

async fn plain_world() -> World {
    Box::pin(world(crate::common::manual_clock())).await
}

#[tokio::test]
async fn a_use_is_in_the_audit_log_as_the_agents_with_the_data_server_beside_it() {
    let world = plain_world().await;
    let key = world.make("k").await;
    let caller = Caller::new(AGENT).with("resource", "a table").with("data_server", "principal:liar");
    let plaintext = SecretBytes::new(b"words".to_vec());
    let sealed = world.elsewhere.encrypt(&caller, &key, &plaintext, b"aad").await.unwrap();
    assert_eq!(sealed.version, key.version_name(1));
    let opened = world.elsewhere.decrypt(&caller, &key, &sealed.ciphertext, b"aad").await.unwrap();
    assert_eq!((opened.plaintext.expose(), opened.used_primary), (b"words".as_slice(), true));
    let wrong = world.elsewhere.decrypt(&caller, &key, &sealed.ciphertext, b"other").await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidArgument);
    let entries = world.here.kms.audit_log().read(None, 100).await.unwrap();
    let uses: Vec<_> =
        entries.iter().map(|(_, entry)| entry).filter(|entry| entry.principal == AGENT).collect();
    assert_eq!(uses.len(), 3);
    for entry in uses {
        assert_eq!(entry.context.get("resource").map(String::as_str), Some("a table"));
        assert_eq!(entry.context.get("data_server").map(String::as_str), Some(DATA_SERVER));
    }
}

#[tokio::test]
async fn a_data_server_uses_keys_in_the_name_of_service_agents_only() {
    let world = plain_world().await;
    let key = world.make("k").await;
    let plaintext = SecretBytes::new(b"words".to_vec());
    for principal in [Caller::LOCAL_ADMIN, "user:eve@example.com", DATA_SERVER, ""] {
        let refused = world.elsewhere.encrypt(&Caller::new(principal), &key, &plaintext, b"").await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied, "{principal}");
    }
}

#[tokio::test]
async fn who_shows_no_certificate_or_a_wrong_one_or_is_no_data_server_is_told_what_to_look_at() {
    let world = plain_world().await;
    let foreign = Voucher::new(world.folder.path().join("foreign"));
    let ours = &world.authority;
    for (told, kind, text) in [
        (told(&world.url, ours, ours, None), ErrorKind::FailedPrecondition, "--kms-cert"),
        (told(&world.url, ours, &foreign, Some("data-1")), ErrorKind::FailedPrecondition, "--client-ca"),
        (told(&world.url, &foreign, ours, Some("data-1")), ErrorKind::FailedPrecondition, "--kms-ca"),
        (
            told(&world.url, ours, ours, Some("data-2")),
            ErrorKind::PermissionDenied,
            "--data-server principal:data-2",
        ),
    ] {
        let error = reach(&told, real()).await.err().unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(text), "{error}");
    }
}

#[tokio::test]
async fn numbers_managed_keys_and_kinds_of_keys_are_those_of_the_kms() {
    let world = plain_world().await;
    let remote = world.remote();
    let number = world.here.project_number("birds").await.unwrap();
    for _ in 0..2 {
        assert_eq!(remote.project_number("birds").await.unwrap(), number);
        let key = remote.managed_key(Service::Bigtable, "us-east1").await.unwrap();
        assert_eq!(key, world.here.managed_key(Service::Bigtable, "us-east1").await.unwrap());
    }
    assert!(remote.project_number("a/b").await.is_err());
    let key = world.make("k").await;
    assert!(!remote.is_external(&key).await.unwrap());
    let missing = CryptoKeyName::new("p", "us-east1", "r", "none").unwrap();
    assert_eq!(remote.is_external(&missing).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_policy_binds_a_data_server_as_soon_as_it_is_set() {
    let world = plain_world().await;
    let remote = world.remote();
    let operation = "storage.objects.create";
    let ask = || remote.admit(Service::Storage, "birds", None, operation);
    let asked =
        Asked { service: Service::Storage, project: "birds".into(), key: None, operation: operation.into() };
    // From now on it is answered from memory.
    let started = SystemClock::new();
    while world.elsewhere.memory.leave(&asked).is_err() {
        ask().await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(10), "changes are not heard of");
    }
    let name = PolicyName { project: "birds".to_owned(), constraint: Constraint::RestrictNonCmekServices };
    let denied = vec!["storage.googleapis.com".to_owned()];
    let spec = Spec { rules: vec![Rule::Values { allowed: Vec::new(), denied }], ..Spec::default() };
    let wish = Wish { spec: Some(WishedSpec { spec, ..WishedSpec::default() }), ..Wish::default() };
    world.here.policies.create(name, wish).await.unwrap();
    let refused = loop {
        match ask().await {
            Err(error) => break error,
            Ok(()) => assert!(started.elapsed() < Duration::from_secs(20), "the policy does not bind"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{refused}");
    assert!(!refused.violations().is_empty());
    assert!(remote.admit(Service::Bigtable, "birds", None, "CreateTable").await.is_ok());
}
