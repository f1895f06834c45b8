//! The root seal on a store in memory.

use claviger_core::ErrorKind;
use object_store::memory::InMemory;

use super::*;

fn store() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

fn phrase(text: &str) -> RootSecret {
    RootSecret::Passphrase(SecretBytes::new(text.into()))
}

fn file(byte: u8) -> RootSecret {
    RootSecret::KeyFile(SecretBytes::new(vec![byte; 32]))
}

async fn opens(store: &Arc<dyn ObjectStore>, secret: &RootSecret) -> Result<[u8; 32]> {
    let mut keys = open(store, secret, Params::FLOOR).await?;
    Ok(*keys.take(Use::Records)?.expose())
}

#[tokio::test]
async fn each_kind_of_secret_opens_what_it_sealed_and_nothing_else_does() {
    let secrets = || [RootSecret::Local, file(1), file(2), phrase("correct horse"), phrase("wrong horse")];
    for (i, sealer) in secrets().iter().enumerate() {
        let store = store();
        let keys = opens(&store, sealer).await.unwrap();
        for (j, opener) in secrets().iter().enumerate() {
            let opened = opens(&store, opener).await;
            if i == j {
                assert_eq!(opened.unwrap(), keys);
            } else {
                let error = opened.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{sealer:?} {opener:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_secret_is_told_from_a_secret_of_another_kind() {
    let store = store();
    opens(&store, &phrase("a")).await.unwrap();
    let wrong = opens(&store, &phrase("b")).await.unwrap_err();
    assert!(wrong.message().starts_with("the root key does not open this KMS"), "{wrong}");
    let other = opens(&store, &RootSecret::Local).await.unwrap_err();
    assert!(other.message().contains("sealed with a passphrase"), "{other}");
}

#[tokio::test]
async fn the_keys_of_the_uses_differ() {
    let mut keys = open(&store(), &file(1), Params::FLOOR).await.unwrap();
    let mut seen: Vec<_> = Use::ALL.iter().map(|of| *keys.take(*of).unwrap().expose()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), Use::ALL.len());
    assert_eq!(keys.take(Use::Audit).unwrap_err().kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn a_reseal_keeps_the_keys_and_shuts_the_old_secret_out() {
    let store = store();
    let keys = opens(&store, &RootSecret::Local).await.unwrap();
    reseal(&store, &RootSecret::Local, &phrase("new"), Params::FLOOR).await.unwrap();
    assert_eq!(opens(&store, &phrase("new")).await.unwrap(), keys);
    assert!(opens(&store, &RootSecret::Local).await.is_err());
    assert!(storage::get(&store, &Path::from(LOCAL_KEY)).await.unwrap().is_none());
    assert!(reseal(&store, &RootSecret::Local, &file(3), Params::FLOOR).await.is_err());
}

#[tokio::test]
async fn a_new_root_is_never_put_over_keys_that_are_there() {
    let store = store();
    storage::put(&store, &Path::from("material/x"), b"m".to_vec(), PutMode::Overwrite).await.unwrap();
    let error = opens(&store, &RootSecret::Local).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.message().contains("root.json is missing"), "{error}");
}

#[tokio::test]
async fn a_crash_between_root_key_and_root_json_does_not_lock_anyone_out() {
    let store = store();
    make_local_key(&store).await.unwrap();
    let keys = opens(&store, &RootSecret::Local).await.unwrap();
    assert_eq!(opens(&store, &RootSecret::Local).await.unwrap(), keys);
}

#[tokio::test]
async fn a_changed_root_json_is_refused() {
    let store = store();
    opens(&store, &file(1)).await.unwrap();
    let path = Path::from(ROOT);
    let good = String::from_utf8(storage::get(&store, &path).await.unwrap().unwrap().to_vec()).unwrap();
    let swapped = good
        .replace("\"records\"", "\"tmp\"")
        .replace("\"audit\"", "\"records\"")
        .replace("\"tmp\"", "\"audit\"");
    for changed in ["", "{}", &good.replace("\"format\": 1", "\"format\": 2"), &swapped] {
        storage::put(&store, &path, changed.as_bytes().to_vec(), PutMode::Overwrite).await.unwrap();
        assert!(opens(&store, &file(1)).await.is_err(), "{changed}");
    }
}

/// Made by another implementation of the format. When this test fails, no KMS made before opens any more.
#[tokio::test]
async fn the_golden_root_opens() {
    let store = store();
    let golden = include_bytes!("golden.json").to_vec();
    storage::put(&store, &Path::from(ROOT), golden, PutMode::Create).await.unwrap();
    let mut keys = open(&store, &phrase("golden passphrase"), Params::FLOOR).await.unwrap();
    let records = keys.take(Use::Records).unwrap();
    assert_eq!(BASE64.encode(records.expose()), include_str!("golden.records").trim());
}

#[test]
fn a_key_file_is_read_raw_in_hexadecimal_and_in_base64() {
    let key = [0xfb; 32];
    let hex = "fb".repeat(32);
    for contents in [
        key.to_vec(),
        hex.clone().into_bytes(),
        format!(" {}\n", hex.to_uppercase()).into_bytes(),
        BASE64.encode(key).into_bytes(),
        (URL_SAFE_NO_PAD.encode(key) + "\r\n").into_bytes(),
    ] {
        assert_eq!(*parse_key(&contents).unwrap().expose(), key);
    }
    for contents in ["", "short", &"zz".repeat(32), &"fb".repeat(31), &BASE64.encode([1; 31])] {
        assert_eq!(
            parse_key(contents.as_bytes()).unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{contents}"
        );
    }
}
