//! HSM keys as the KMS keeps them, with a token in memory. `clients/python/test_hsm.py` has a real one.

use std::collections::HashMap;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::store::Failing;
use super::*;
use crate::hsm::{HsmFailure, HsmKey};
use crate::model::{CryptoKeyUpdate, NewVersion, ProtectionLevel, VersionTemplate};

/// A token in memory. What it encrypts is in no way secret.
#[derive(Debug, Default)]
struct Fake {
    keys: StdMutex<HashMap<[u8; 32], u8>>,
    silent: AtomicBool,
    /// Whether a key is made, and that is not said.
    stalls: AtomicBool,
}

impl Fake {
    fn key(&self, key: HsmKey) -> Result<u8, HsmFailure> {
        self.answer()?;
        let keys = self.keys.lock().unwrap();
        match keys.get(&key.object_id()) {
            Some(byte) => Ok(*byte),
            None if keys.contains_key(&key.of_home().object_id()) => Err(HsmFailure::Missing),
            None => Err(HsmFailure::Silent("it is another one".into())),
        }
    }

    fn answer(&self) -> Result<(), HsmFailure> {
        if self.silent.load(Ordering::SeqCst) {
            return Err(HsmFailure::Silent("it is away".into()));
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.keys.lock().unwrap().len()
    }
}

#[async_trait]
impl HsmKeys for Fake {
    async fn check(&self, key: HsmKey) -> Result<(), HsmFailure> {
        self.key(key).map(drop)
    }

    async fn make(&self, key: HsmKey, label: &str) -> Result<(), HsmFailure> {
        assert!(label.starts_with("claviger "), "{label}");
        self.answer()?;
        let byte = key.id.as_bytes()[0];
        self.keys.lock().unwrap().insert(key.object_id(), byte);
        if self.stalls.load(Ordering::SeqCst) {
            self.silent.store(true, Ordering::SeqCst);
            return Err(HsmFailure::Silent("it did not answer".into()));
        }
        Ok(())
    }

    async fn remove(&self, key: HsmKey) -> Result<(), HsmFailure> {
        self.answer()?;
        self.keys.lock().unwrap().remove(&key.object_id());
        Ok(())
    }

    async fn encrypt(&self, key: HsmKey, aad: &[u8], message: &[u8]) -> Result<Vec<u8>, HsmFailure> {
        let byte = self.key(key)?;
        let sealed = message.iter().map(|b| b ^ byte);
        let tag = [byte ^ u8::try_from(aad.len() % 256).unwrap(); 16];
        Ok([byte; 12].into_iter().chain(sealed).chain(tag).collect())
    }

    async fn decrypt(&self, key: HsmKey, aad: &[u8], sealed: &[u8]) -> Result<SecretBytes, HsmFailure> {
        let byte = self.key(key)?;
        let tag = [byte ^ u8::try_from(aad.len() % 256).unwrap(); 16];
        let message = sealed.get(12..).and_then(|rest| rest.strip_suffix(&tag)).ok_or(HsmFailure::Invalid)?;
        Ok(SecretBytes::new(message.iter().map(|b| b ^ byte).collect()))
    }
}

async fn on(store: Arc<dyn ObjectStore>, clock: Arc<ManualClock>, token: &Arc<Fake>) -> Result<World> {
    let config = KmsConfig { hsm: Some(token.clone()), ..config() };
    let kms = Kms::open(config, store.clone(), clock.clone()).await?;
    Ok(World { store, clock, kms })
}

fn hsm() -> NewCryptoKey {
    let protection_level = ProtectionLevel::Hsm;
    let template = VersionTemplate { protection_level, algorithm: Algorithm::Unspecified };
    NewCryptoKey { template: Some(template), ..NewCryptoKey::symmetric() }
}

async fn make(world: &World) -> Result<()> {
    world.kms.create_key_ring(&admin(), &location(), "r").await?;
    world.kms.create_crypto_key(&admin(), &ring(), "k", hsm()).await.map(drop)
}

/// A KMS with one key in a token.
async fn world() -> (World, Arc<Fake>) {
    let (token, clock) = (Arc::new(Fake::default()), Arc::new(ManualClock::at(START)));
    let world = on(Arc::new(InMemory::new()), clock, &token).await.unwrap();
    make(&world).await.unwrap();
    (world, token)
}

async fn restarted(world: World, token: &Arc<Fake>) -> World {
    world.kms.close().await.unwrap();
    on(world.store, world.clock, token).await.unwrap()
}

fn kinds(error: &Error) -> Vec<&str> {
    error.violations().iter().map(|violation| violation.kind.as_str()).collect()
}

#[tokio::test]
async fn a_key_in_a_token_encrypts_and_its_other_half_is_ours() {
    let (world, token) = world().await;
    assert_eq!((token.len(), world.materials().await), (2, 2), "a home and a version");
    assert_eq!(world.view().key.protection, ProtectionLevel::Hsm);
    assert_eq!(world.version(1).protection(), ProtectionLevel::Hsm);
    assert_eq!(world.version(1).algorithm(), Algorithm::GoogleSymmetricEncryption);
    let sealed = world.encrypt("secret").await.unwrap();
    assert_eq!(sealed[..5], *b"CVKC\x03");
    assert_eq!(world.decrypt(&sealed).await.unwrap(), "secret");
    // What the token decrypts is no plaintext.
    let decrypted = world.kms.inner.unwrap_in_token(&world.version(1), &sealed[13..]).await.unwrap();
    assert!(!decrypted.expose().windows(6).any(|window| window == b"secret"));
    let mut changed = sealed.clone();
    *changed.last_mut().unwrap() ^= 1;
    let error = world.decrypt(&changed).await.unwrap_err();
    assert_eq!(error.message(), "Decryption failed: the ciphertext is invalid.");
    let world = restarted(world, &token).await;
    assert_eq!(world.decrypt(&sealed).await.unwrap(), "secret");
    // Another key of the token, and one without.
    world.kms.create_crypto_key(&admin(), &ring(), "k2", hsm()).await.unwrap();
    world.kms.create_crypto_key(&admin(), &ring(), "k3", NewCryptoKey::symmetric()).await.unwrap();
    for id in ["k2", "k3"] {
        let other = CryptoKeyName::new("p1", "us-east1", "r", id).unwrap();
        assert!(world.kms.decrypt(&admin(), &other, &sealed, b"aad").await.is_err());
    }
    assert_eq!((token.len(), world.materials().await), (3, 4));
}

#[tokio::test]
async fn plaintext_and_additional_data_are_8_kib_together_under_an_hsm_key() {
    let (world, _) = world().await;
    let text = "x".repeat(8 * 1024 - 3);
    let sealed = world.encrypt(&text).await.unwrap();
    assert_eq!(world.decrypt(&sealed).await.unwrap(), text);
    let error = world.encrypt(&(text + "x")).await.unwrap_err();
    assert_eq!((error.kind(), error.fields()[0].field.as_str()), (ErrorKind::InvalidArgument, "plaintext"));
}

#[tokio::test]
async fn a_token_that_is_away_is_silence_and_a_key_that_is_gone_from_it_is_not() {
    let (world, token) = world().await;
    let sealed = world.encrypt("secret").await.unwrap();
    token.silent.store(true, Ordering::SeqCst);
    for error in [world.encrypt("x").await.unwrap_err(), world.decrypt(&sealed).await.unwrap_err()] {
        assert_eq!(
            (error.kind(), kinds(&error)),
            (ErrorKind::Unavailable, vec!["KEY_ENABLED", "HSM_UNREACHABLE"])
        );
        assert!(error.message().contains("cryptoKeyVersions/1 cannot be used: it is away"), "{error}");
    }
    let create = world.kms.create_version(&admin(), &key()).await.unwrap_err();
    assert_eq!(create.kind(), ErrorKind::Unavailable);
    assert_eq!(world.materials().await, 2, "nothing is left of what was not made");
    token.silent.store(false, Ordering::SeqCst);
    assert_eq!(world.decrypt(&sealed).await.unwrap(), "secret");
    // Without its flags the server knows no less of the key.
    world.kms.close().await.unwrap();
    let bare = World::on(world.store.clone(), world.clock.clone()).await.unwrap();
    let error = bare.decrypt(&sealed).await.unwrap_err();
    assert_eq!(
        (error.kind(), kinds(&error)),
        (ErrorKind::Unavailable, vec!["KEY_ENABLED", "HSM_UNREACHABLE"])
    );
    let error = bare.kms.create_version(&admin(), &key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.message().contains("--hsm-module"), "{error}");
    let world = restarted(bare, &token).await;
    let gone = HsmKey { home: world.kms.inner.index().home.unwrap(), id: world.version(1).material };
    token.remove(gone).await.unwrap();
    let error = world.decrypt(&sealed).await.unwrap_err();
    assert_eq!(
        (error.kind(), kinds(&error)),
        (ErrorKind::FailedPrecondition, vec!["KEY_ENABLED", "HSM_KEY_MISSING"])
    );
    assert!(error.message().contains(world.version(1).name.as_str()), "{error}");
    // A token of the same label that never knew this KMS.
    let other = Arc::new(Fake::default());
    let world = restarted(world, &other).await;
    assert_eq!(world.decrypt(&sealed).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let error = world.kms.create_version(&admin(), &key()).await.unwrap_err();
    assert_eq!((error.kind(), other.len()), (ErrorKind::Unavailable, 0));
}

#[tokio::test]
async fn a_destroyed_version_leaves_the_token_once_that_answers() {
    let (world, token) = world().await;
    world.kms.create_version(&admin(), &key()).await.unwrap();
    assert_eq!(token.len(), 3);
    world.destroy(1).await.unwrap();
    world.clock.advance(30 * DAY);
    token.silent.store(true, Ordering::SeqCst);
    let entries = world.audited().await.len();
    assert_eq!(world.kms.tick().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!((world.state(1), world.materials().await), (VersionState::DestroyScheduled, 3));
    assert_eq!(world.audited().await.len(), entries, "what is tried again and again fills no log");
    token.silent.store(false, Ordering::SeqCst);
    world.kms.tick().await.unwrap();
    assert_eq!((world.state(1), world.materials().await, token.len()), (VersionState::Destroyed, 2, 2));
}

#[tokio::test]
async fn an_hsm_key_rotates_and_does_not_while_its_token_is_away() {
    let (world, token) = world().await;
    let update = CryptoKeyUpdate {
        rotation_period: Some(Some(DAY)),
        next_rotation_time: Some(Some(START.plus(DAY))),
        ..CryptoKeyUpdate::default()
    };
    world.kms.update_crypto_key(&admin(), &key(), update).await.unwrap();
    let sealed = world.encrypt("one").await.unwrap();
    world.clock.advance(DAY);
    token.silent.store(true, Ordering::SeqCst);
    assert!(world.kms.tick().await.is_err());
    token.silent.store(false, Ordering::SeqCst);
    world.kms.tick().await.unwrap();
    let primary = world.view().primary.unwrap();
    assert_eq!((primary.number, primary.protection()), (2, ProtectionLevel::Hsm));
    assert_eq!(world.decrypt(&sealed).await.unwrap(), "one");
    assert_eq!((token.len(), world.materials().await), (3, 3));
}

#[tokio::test]
async fn what_a_token_made_and_did_not_say_is_removed_at_the_next_start() {
    let (world, token) = world().await;
    token.stalls.store(true, Ordering::SeqCst);
    assert!(world.kms.create_version(&admin(), &key()).await.is_err());
    assert_eq!((token.len(), world.materials().await), (3, 3), "our half tells of the other");
    token.stalls.store(false, Ordering::SeqCst);
    // A start does not wait for a token, and forgets nothing.
    let world = restarted(world, &token).await;
    assert_eq!((token.len(), world.materials().await), (3, 3));
    token.silent.store(false, Ordering::SeqCst);
    let world = restarted(world, &token).await;
    assert_eq!((token.len(), world.materials().await), (2, 2));
    world.kms.create_version(&admin(), &key()).await.unwrap();
}

#[tokio::test]
async fn who_may_not_make_keys_does_not_reach_the_token_and_nobody_imports_into_one() {
    let (token, clock) = (Arc::new(Fake::default()), Arc::new(ManualClock::at(START)));
    let world = on(Arc::new(InMemory::new()), clock, &token).await.unwrap();
    world.kms.create_key_ring(&admin(), &location(), "r").await.unwrap();
    let ada = Caller::new("user:ada@example.com");
    let error = world.kms.create_crypto_key(&ada, &ring(), "k", hsm()).await.unwrap_err();
    assert_eq!((error.kind(), token.len()), (ErrorKind::PermissionDenied, 0));
    let import_only = NewCryptoKey { import_only: true, skip_initial_version: true, ..hsm() };
    let error = world.kms.create_crypto_key(&admin(), &ring(), "k", import_only).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    world.kms.create_crypto_key(&admin(), &ring(), "k", hsm()).await.unwrap();
    let job = world.job("j", Method::RsaOaep3072Sha256).await;
    assert_eq!(world.import(&job, &[1; 32], None).await.unwrap_err().kind(), ErrorKind::Unimplemented);
    let software = VersionTemplate {
        protection_level: ProtectionLevel::Software,
        algorithm: Algorithm::GoogleSymmetricEncryption,
    };
    let update = CryptoKeyUpdate { template: Some(software), ..CryptoKeyUpdate::default() };
    let error = world.kms.update_crypto_key(&admin(), &key(), update).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

/// Makes changes until one fails.
async fn work(world: &World) -> Result<()> {
    make(world).await?;
    let new = NewVersion { state: VersionState::Enabled, external: None };
    world.kms.create_version_with(&admin(), &key(), new).await?;
    world.destroy(1).await?;
    world.clock.advance(30 * DAY);
    world.kms.tick().await?;
    world.kms.close().await
}

#[tokio::test]
async fn whatever_change_of_the_disk_is_the_last_one_no_key_is_left_in_the_token() {
    for applied in [false, true] {
        let mut change = 0;
        loop {
            let at = format!("change {change}, applied {applied}");
            let (token, clock) = (Arc::new(Fake::default()), Arc::new(ManualClock::at(START)));
            let disk = Arc::new(InMemory::new());
            let failing = Arc::new(Failing::after(disk.clone(), change, applied));
            let finished = match on(failing.clone(), clock.clone(), &token).await {
                Ok(world) => work(&world).await.is_ok(),
                Err(_) => false,
            };
            let world = on(disk, clock, &token).await.unwrap_or_else(|e| panic!("{at}: {e:?}"));
            // A destruction that was half done is done.
            world.kms.tick().await.unwrap();
            let (live, home) = {
                let index = world.kms.inner.index();
                let versions = index.keys.values().flat_map(|entry| entry.versions.values());
                let live = versions.filter(|entry| entry.version.state != VersionState::Destroyed).count();
                (live, usize::from(index.home.is_some()))
            };
            assert_eq!(token.len(), live + home, "{at}");
            assert_eq!(world.materials().await, live + home, "{at}");
            world.kms.close().await.unwrap();
            if finished && !failing.has_failed() {
                break;
            }
            change += 1;
        }
    }
}
