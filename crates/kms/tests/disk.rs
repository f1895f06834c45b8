//! A KMS on a real directory: what lies there, and who can open it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claviger_core::names::{CryptoKeyName, LocationName};
use claviger_core::{Caller, ErrorKind, Result, SystemClock};
use claviger_crypto::SecretBytes;
use claviger_crypto::passphrase::Params;
use claviger_kms::{KeyService, Kms, KmsConfig, NewCryptoKey, RootSecret};
use claviger_sealed::LocalStore;

async fn open(dir: &Path, root: RootSecret) -> Result<Arc<Kms>> {
    let store = Arc::new(LocalStore::open(dir).await?);
    let config = KmsConfig { root, passphrase_params: Params::FLOOR, ..KmsConfig::default() };
    Kms::open(config, store, Arc::new(SystemClock::new())).await
}

fn passphrase(text: &str) -> RootSecret {
    RootSecret::Passphrase(SecretBytes::new(text.into()))
}

async fn make_key(kms: &Kms) -> CryptoKeyName {
    let (admin, place) = (Caller::local_admin(), LocationName::new("planted-project", "us-east1").unwrap());
    let ring = kms.create_key_ring(&admin, &place, "planted-ring").await.unwrap();
    let key =
        kms.create_crypto_key(&admin, &ring.name, "planted-key", NewCryptoKey::symmetric()).await.unwrap();
    key.key.name
}

fn files(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_names_principals_or_plaintext_is_readable_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let kms = open(dir.path(), RootSecret::Local).await.unwrap();
    let key = make_key(&kms).await;
    let caller = Caller::local_admin().with("planted-context", "planted-value");
    let text = SecretBytes::new(b"planted-plaintext".to_vec());
    let sealed = kms.encrypt(&caller, &key, &text, b"planted-aad").await.unwrap().ciphertext;
    kms.close().await.unwrap();
    drop(kms);
    let mut found = BTreeMap::new();
    files(dir.path(), &mut found);
    for (path, bytes) in &found {
        for text in ["planted", "admin@claviger", "cryptoKeys", "ENABLED"] {
            assert!(!contains(bytes, text), "{text} shows in {}", path.display());
        }
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} can be read by others", path.display());
    }
    for part in ["records", "material", "audit"] {
        assert!(found.keys().any(|path| path.starts_with(dir.path().join(part))), "{part} is empty");
    }
    let kms = open(dir.path(), RootSecret::Local).await.unwrap();
    let opened = kms.decrypt(&caller, &key, &sealed, b"planted-aad").await.unwrap();
    assert_eq!(opened.plaintext.expose(), text.expose());
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_passphrase_opens_nothing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let kms = open(dir.path(), passphrase("right")).await.unwrap();
    let key = make_key(&kms).await;
    kms.close().await.unwrap();
    drop(kms);
    let mut before = BTreeMap::new();
    files(dir.path(), &mut before);
    assert!(!before.keys().any(|path| path.ends_with("root.key")));
    for wrong in [passphrase("wrong"), RootSecret::Local] {
        let error = open(dir.path(), wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    }
    let mut after = BTreeMap::new();
    files(dir.path(), &mut after);
    assert!(before == after, "a failed open wrote something");
    let kms = open(dir.path(), passphrase("right")).await.unwrap();
    assert!(kms.get_crypto_key(&Caller::local_admin(), &key).is_ok());
    kms.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn material_that_was_changed_or_swapped_on_the_disk_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let kms = open(dir.path(), RootSecret::Local).await.unwrap();
    let key = make_key(&kms).await;
    kms.create_version(&Caller::local_admin(), &key).await.unwrap();
    kms.close().await.unwrap();
    drop(kms);
    let mut found = BTreeMap::new();
    files(&dir.path().join("material"), &mut found);
    // Material lies under its UUID; the ledger of the store does not.
    let of_versions = |(path, _): &(PathBuf, Vec<u8>)| path.file_name().is_some_and(|name| name.len() == 36);
    let materials: Vec<_> = found.into_iter().filter(of_versions).collect();
    let [(first, one), (second, two)] = materials.as_slice() else { panic!("two versions, two objects") };
    let mut changed = one.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (bytes_of_first, bytes_of_second) in [(&changed, two), (two, one)] {
        std::fs::write(first, bytes_of_first).unwrap();
        std::fs::write(second, bytes_of_second).unwrap();
        let used = match open(dir.path(), RootSecret::Local).await {
            Ok(kms) => {
                let text = SecretBytes::new(b"x".to_vec());
                let admin = Caller::local_admin();
                let named = |number: u64| claviger_kms::EncryptRequest {
                    name: claviger_kms::KeyOrVersion::Version(key.version_name(number)),
                    plaintext: &text,
                    aad: b"",
                    plaintext_crc32c: None,
                    aad_crc32c: None,
                };
                let first = kms.encrypt_checked(&admin, named(1)).await.map(drop);
                let second = kms.encrypt_checked(&admin, named(2)).await.map(drop);
                kms.close().await.unwrap();
                first.and(second)
            }
            Err(error) => Err(error),
        };
        assert_eq!(used.unwrap_err().kind(), ErrorKind::DataLoss);
    }
}
