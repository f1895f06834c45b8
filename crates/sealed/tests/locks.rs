//! Keys that go and come back.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use claviger_core::{Error, ErrorKind, Result};
use claviger_sealed::engine::{Engine, EngineOptions};
use claviger_sealed::{
    FixedKey, KeyId, ScopeId, ScopeKey, ScopeKeys, SealedOptions, SealedStore, lock_error,
};
use common::{content, keys};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use slatedb::WriteBatch;

#[derive(Debug)]
struct Lockable {
    keys: Arc<FixedKey>,
    locked: AtomicBool,
}

impl Lockable {
    fn check(&self) -> Result<()> {
        if self.locked.load(Ordering::SeqCst) {
            let key = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
            return Err(Error::precondition(format!("{key} is disabled")).violating(
                "KEY_DISABLED",
                key,
                "disabled",
            ));
        }
        Ok(())
    }
}

impl ScopeKeys for Lockable {
    fn scope(&self) -> &ScopeId {
        self.keys.scope()
    }

    fn current(&self) -> Result<Arc<ScopeKey>> {
        self.check()?;
        self.keys.current()
    }

    fn by_id(&self, id: KeyId) -> Result<Arc<ScopeKey>> {
        self.check()?;
        self.keys.by_id(id)
    }
}

async fn lockable(inner: Arc<InMemory>) -> (Arc<SealedStore>, Arc<Lockable>) {
    let keys = Arc::new(Lockable { keys: keys("test"), locked: AtomicBool::new(false) });
    let options = SealedOptions::default();
    let store =
        SealedStore::open(inner, Path::from("p"), keys.clone(), common::clock(), options).await.unwrap();
    (Arc::new(store), keys)
}

#[tokio::test]
async fn every_operation_of_a_locked_store_fails_with_the_keys_own_answer_until_it_is_unlocked() {
    let (store, keys) = lockable(Arc::new(InMemory::new())).await;
    let (a, b) = (Path::from("a"), Path::from("b"));
    store.put(&a, content(100_000, 1).into()).await.unwrap();
    store.get_range(&a, 70_000..70_010).await.unwrap();
    let mut upload = store.put_multipart(&b).await.unwrap();
    keys.locked.store(true, Ordering::SeqCst);
    store.forget();
    let errors = [
        store.put(&a, "x".into()).await.unwrap_err(),
        store.put_multipart(&b).await.unwrap_err(),
        store.get(&a).await.unwrap_err(),
        store.get_range(&a, 70_000..70_010).await.unwrap_err(),
        store.head(&a).await.unwrap_err(),
        store.delete(&a).await.unwrap_err(),
        store.list(None).try_collect::<Vec<_>>().await.unwrap_err(),
        store.list_with_delimiter(None).await.unwrap_err(),
        store.copy(&a, &b).await.unwrap_err(),
        store.rename(&a, &b).await.unwrap_err(),
        upload.put_part("x".into()).await.unwrap_err(),
        upload.complete().await.unwrap_err(),
    ];
    for (i, error) in errors.iter().enumerate() {
        let answer = lock_error(error).unwrap_or_else(|| panic!("operation {i}: {error:?}"));
        assert_eq!(answer.kind(), ErrorKind::FailedPrecondition, "operation {i}");
        assert_eq!(answer.violations()[0].kind, "KEY_DISABLED", "operation {i}");
        assert!(!slatedb_common::retry::should_retry(error), "operation {i}");
    }
    assert_eq!(store.flush().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    keys.locked.store(false, Ordering::SeqCst);
    assert!(store.get(&a).await.unwrap().bytes().await.unwrap() == content(100_000, 1));
}

#[tokio::test]
async fn a_read_under_way_stops_when_the_key_goes() {
    let (store, keys) = lockable(Arc::new(InMemory::new())).await;
    let a = Path::from("a");
    store.put(&a, content(9_000_000, 1).into()).await.unwrap();
    let mut pieces = store.get(&a).await.unwrap().into_stream();
    keys.locked.store(true, Ordering::SeqCst);
    let error = pieces.next().await.unwrap().unwrap_err();
    assert!(lock_error(&error).is_some(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_gives_the_keys_answer_at_once_and_has_all_that_was_committed_after_unlocking() {
    let (store, keys) = lockable(Arc::new(InMemory::new())).await;
    let put = |key: &str, value: &str| {
        let mut batch = WriteBatch::new();
        batch.put(key, value);
        batch
    };
    let engine = Engine::open(store.clone(), "db", EngineOptions::default()).await.unwrap();
    engine.commit(put("k", "v")).await.unwrap();
    keys.locked.store(true, Ordering::SeqCst);
    let failed = tokio::time::timeout(Duration::from_secs(20), engine.commit(put("k2", "v"))).await;
    let error = failed.expect("the database tries again for ever").unwrap_err();
    assert_eq!((error.kind(), error.violations().len()), (ErrorKind::FailedPrecondition, 1), "{error:?}");
    engine.abandon().await;
    let locked = Engine::open(store.clone(), "db", EngineOptions::default()).await.unwrap_err();
    assert_eq!(locked.kind(), ErrorKind::FailedPrecondition, "{locked:?}");
    keys.locked.store(false, Ordering::SeqCst);
    let engine = Engine::open(store, "db", EngineOptions::default()).await.unwrap();
    assert_eq!(engine.get(b"k").await.unwrap().as_deref(), Some(&b"v"[..]));
    engine.close().await.unwrap();
}

#[tokio::test]
async fn a_locked_scope_does_not_open_and_another_scopes_files_neither() {
    let inner = Arc::new(InMemory::new());
    let (store, keys) = lockable(inner.clone()).await;
    store.put(&Path::from("a"), "x".into()).await.unwrap();
    store.close().await.unwrap();
    keys.locked.store(true, Ordering::SeqCst);
    let open = async |keys: Arc<dyn ScopeKeys>| {
        let options = SealedOptions::default();
        SealedStore::open(inner.clone(), Path::from("p"), keys, common::clock(), options).await.unwrap_err()
    };
    assert_eq!(open(keys).await.kind(), ErrorKind::FailedPrecondition);
    // The same key bytes under another scope's name.
    assert_eq!(open(common::keys("other")).await.kind(), ErrorKind::DataLoss);
}

#[tokio::test]
async fn a_store_that_must_be_there_is_missed_when_all_its_files_are_gone() {
    let options = SealedOptions { must_exist: true, ..SealedOptions::default() };
    let opened =
        SealedStore::open(Arc::new(InMemory::new()), Path::from("p"), keys("test"), common::clock(), options)
            .await;
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert_eq!(error.message(), "the stored file p/_ledger was changed: the ledger of live files is gone");
}
