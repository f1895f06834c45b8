//! What `LocalStore` promises beyond the contract: one process, nothing half, nothing hidden shown.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use claviger_core::ErrorKind;
use claviger_sealed::{LocalStore, SealedStore};
use common::content;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

async fn names(store: &LocalStore) -> Vec<String> {
    store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap()
}

#[tokio::test]
async fn a_second_process_is_refused_until_the_first_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let first = LocalStore::open(dir.path()).await.unwrap();
    let second = LocalStore::open(dir.path()).await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(second.message(), "the data directory is in use by another server");
    drop(first);
    LocalStore::open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_directory_of_something_else_or_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    assert_eq!(LocalStore::open(dir.path()).await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert!(!dir.path().join("format").exists());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("format"), "claviger objects 2\n").unwrap();
    assert_eq!(LocalStore::open(dir.path()).await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn what_a_crash_left_behind_is_removed_and_the_stores_own_files_never_show() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).await.unwrap();
    store.put(&Path::from("a/b"), "x".into()).await.unwrap();
    store.put(&Path::from("c/d/e"), "x".into()).await.unwrap();
    store.delete(&Path::from("c/d/e")).await.unwrap();
    drop(store);
    fs::write(dir.path().join(".tmp/17"), "half").unwrap();
    let store = LocalStore::open(dir.path()).await.unwrap();
    assert_eq!(names(&store).await, ["a/b"]);
    assert_eq!(fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
    assert!(!dir.path().join("c").exists(), "an empty directory stayed");
    for reserved in ["claviger.lock", "format", ".tmp/17", ".tmp", ""] {
        let path = Path::from(reserved);
        assert!(matches!(store.put(&path, "x".into()).await, Err(Error::NotSupported { .. })), "{reserved}");
        assert!(store.get(&path).await.is_err(), "{reserved}");
        assert!(store.delete(&path).await.is_err(), "{reserved}");
    }
}

#[tokio::test]
async fn a_failed_write_leaves_nothing_behind_and_the_old_object_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).await.unwrap();
    store.put(&Path::from("a"), "old".into()).await.unwrap();
    assert!(store.put(&Path::from("a/b"), "below an object".into()).await.is_err());
    assert!(store.put_opts(&Path::from("a"), "new".into(), PutMode::Create.into()).await.is_err());
    let long = Path::from("n".repeat(300));
    assert!(store.put(&long, "too long a name".into()).await.is_err());
    let mut upload = store.put_multipart(&Path::from("u")).await.unwrap();
    let unfinished = upload.put_part("never polled".into());
    assert!(upload.complete().await.is_err());
    drop(unfinished);
    assert_eq!(fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
    assert_eq!(names(&store).await, ["a"]);
    assert_eq!(store.get(&Path::from("a")).await.unwrap().bytes().await.unwrap(), "old");
}

#[tokio::test]
async fn etags_hold_across_a_restart_and_never_repeat_at_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = Path::from("e");
    let mut seen = std::collections::HashSet::new();
    let mut last = None;
    for round in 0..3 {
        let store = LocalStore::open(dir.path()).await.unwrap();
        if let Some(last) = &last {
            assert_eq!(store.head(&path).await.unwrap().e_tag.as_ref(), Some(last));
        }
        for i in 0..40 {
            // Of the same length, within one tick of the machine's file times.
            let written = store.put(&path, format!("{round}{:02}", i).into()).await.unwrap();
            assert_eq!(store.head(&path).await.unwrap().e_tag, written.e_tag);
            assert!(seen.insert(written.e_tag.clone().unwrap()), "an etag came again");
            last = written.e_tag;
        }
    }
}

#[tokio::test]
async fn a_read_after_a_write_or_delete_never_gives_what_was_there_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(dir.path()).await.unwrap());
    let path = Path::from("x");
    let reader = tokio::spawn({
        let (store, path) = (store.clone(), path.clone());
        async move {
            for _ in 0..2000 {
                let _ = store.head(&path).await;
                tokio::task::yield_now().await;
            }
        }
    });
    for i in 0..100 {
        let data = content(10 + i, i as u64);
        store.put(&path, data.clone().into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), data);
        if i % 3 == 0 {
            store.delete(&path).await.unwrap();
            assert!(matches!(store.get(&path).await, Err(Error::NotFound { .. })));
        }
    }
    reader.await.unwrap();
}

#[tokio::test]
async fn files_and_directories_are_for_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).await.unwrap();
    store.put(&Path::from("d/f"), "x".into()).await.unwrap();
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("d"), mode("d/f"), mode(".tmp"), mode("claviger.lock")), (0o700, 0o600, 0o700, 0o600));
}

#[tokio::test]
async fn a_file_cut_off_or_removed_under_a_running_server_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let local = Arc::new(LocalStore::open(dir.path()).await.unwrap());
    let store: SealedStore = common::open(local).await.unwrap();
    let path = Path::from("a");
    store.put(&path, PutPayload::from(content(200_000, 1))).await.unwrap();
    store.get_range(&path, 0..10).await.unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("scope/one/a")).unwrap();
    file.set_len(100_000).unwrap();
    for range in [0..200_000, 150_000..150_001] {
        let error = store.get_range(&path, range).await.unwrap_err();
        assert_eq!(claviger_sealed::tamper(&error).expect("not named").path, "scope/one/a", "{error:?}");
    }
}
