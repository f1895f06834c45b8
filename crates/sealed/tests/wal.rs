//! Databases with a log of our own, on a directory: kills, torn tails, changed files, locked keys, full disks.
//!
//! A kill is a copy of the directory: what a process that dies has written is what the machine has.

mod common;

use std::fs;
use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::SecretKey;
use claviger_sealed::engine::{Engine, EngineOptions, from_slatedb};
use claviger_sealed::{
    FixedKey, KeyId, LocalStore, ScopeId, ScopeKey, ScopeKeys, SealedOptions, SealedStore, from_store,
};
use common::appends::{Full, Wrapped};
use common::keys;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use slatedb::WriteBatch;

const LOG: &str = "s/_log/db";

/// An open database and what it stands on.
struct Open {
    store: Arc<SealedStore>,
    engine: Engine,
}

async fn sealed(files: Arc<dyn ObjectStore>, keys: Arc<dyn ScopeKeys>) -> Result<Arc<SealedStore>> {
    let options = SealedOptions { lazy_deletes: true, ..SealedOptions::default() };
    SealedStore::open(files, Path::from("s"), keys, common::clock(), options).await.map(Arc::new)
}

async fn open_on(files: Arc<dyn ObjectStore>, keys: Arc<dyn ScopeKeys>) -> Result<Open> {
    let store = sealed(files, keys).await?;
    let engine = Engine::open(store.clone(), "db", EngineOptions::default()).await?;
    Ok(Open { store, engine })
}

async fn open(dir: &FsPath) -> Result<Open> {
    open_on(Arc::new(LocalStore::open(dir).await?), keys("test")).await
}

impl Open {
    async fn put(&self, key: &str, value: &str) -> Result<()> {
        self.engine.commit(batch(key, value)).await
    }

    async fn rows(&self) -> Vec<(String, String)> {
        let mut rows = self.engine.scan_range(b"", None, false).await.unwrap();
        let mut found = Vec::new();
        while let Some(row) = rows.next().await.map_err(from_slatedb).unwrap() {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            found.push((text(&row.key), text(&row.value)));
        }
        found
    }

    async fn keys(&self) -> Vec<String> {
        self.rows().await.into_iter().map(|(key, _)| key).collect()
    }
}

fn batch(key: &str, value: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(key, value);
    batch
}

/// What a kill at this moment leaves.
fn kill(dir: &FsPath) -> tempfile::TempDir {
    fn copy(from: &FsPath, to: &FsPath) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let left = tempfile::tempdir().unwrap();
    copy(dir, left.path());
    left
}

fn segments(dir: &FsPath) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir.join(LOG)) else { return Vec::new() };
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// The one segment, and its bytes up to the last that is not zero.
fn segment(dir: &FsPath) -> (PathBuf, Vec<u8>) {
    let path = segments(dir).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes.truncate(end + 1);
    (path, bytes)
}

fn assert_changed(result: Result<Open>, what: &str) {
    let error = result.err().unwrap_or_else(|| panic!("not noticed: {what}"));
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{what}: {error:?}");
    assert!(error.message().contains("_log/db"), "{what}: {}", error.message());
}

#[tokio::test]
async fn every_commit_is_there_after_a_kill_and_nothing_of_it_in_clear_or_in_a_log_of_the_engines_own() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await.unwrap();
    let mut expected = Vec::new();
    for i in 0..20 {
        first.put(&format!("key-{i:02}"), "a plain value").await.unwrap();
        expected.push(format!("key-{i:02}"));
        assert_eq!(
            first.engine.get(format!("key-{i:02}").as_bytes()).await.unwrap().unwrap(),
            "a plain value"
        );
        if i % 5 == 4 {
            let left = kill(dir.path());
            assert_eq!(open(left.path()).await.unwrap().keys().await, expected);
        }
    }
    assert!(!dir.path().join("s/db/wal").exists());
    let (_, bytes) = segment(dir.path());
    assert!(!bytes.windows(5).any(|window| window == b"key-0" || window == b"plain"));

    // Again and again, each time with more: each process has segments of its own.
    let mut left = kill(dir.path());
    for i in 20..25 {
        let again = open(left.path()).await.unwrap();
        again.put(&format!("key-{i:02}"), "v").await.unwrap();
        expected.push(format!("key-{i:02}"));
        let next = kill(left.path());
        drop(again);
        left = next;
    }
    assert_eq!(segments(left.path()).len(), 6);
    assert_eq!(open(left.path()).await.unwrap().keys().await, expected);
}

#[tokio::test]
async fn a_frame_torn_at_any_byte_is_dropped_and_the_log_goes_on_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await.unwrap();
    first.put("a", "1").await.unwrap();
    first.put("b", "2").await.unwrap();
    let before = segment(dir.path()).1.len().next_multiple_of(64);
    first.put("c", "3").await.unwrap();
    let (path, bytes) = segment(dir.path());
    let name = path.strip_prefix(dir.path()).unwrap().to_owned();
    for torn in before..bytes.len() {
        let left = kill(dir.path());
        let mut file = fs::read(left.path().join(&name)).unwrap();
        file[torn..].fill(0);
        fs::write(left.path().join(&name), &file).unwrap();
        let again = open(left.path()).await.unwrap_or_else(|e| panic!("torn at {torn}: {e:?}"));
        // All but the last mark makes the frame whole.
        let whole = torn + 1 == bytes.len();
        assert_eq!(again.keys().await.len(), if whole { 3 } else { 2 }, "torn at {torn}");
        again.put("d", "4").await.unwrap();
        let left = kill(left.path());
        let found = open(left.path()).await.unwrap().keys().await;
        assert_eq!(
            found,
            if whole { vec!["a", "b", "c", "d"] } else { vec!["a", "b", "d"] },
            "torn at {torn}"
        );
    }
}

#[tokio::test]
async fn a_changed_byte_of_any_part_of_the_log_is_noticed_and_the_segment_named() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await.unwrap();
    first.put("a", "1").await.unwrap();
    first.put("b", "2").await.unwrap();
    first.store.flush().await.unwrap();
    let (path, bytes) = segment(dir.path());
    let name = path.strip_prefix(dir.path()).unwrap().to_owned();
    for position in (0..bytes.len()).step_by(3) {
        let left = kill(dir.path());
        let mut file = fs::read(left.path().join(&name)).unwrap();
        file[position] ^= 1;
        fs::write(left.path().join(&name), &file).unwrap();
        assert_changed(open(left.path()).await, &format!("byte {position}"));
    }
}

#[tokio::test]
async fn segments_swapped_missing_put_back_or_cut_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await.unwrap();
    first.put("a", "1").await.unwrap();
    first.engine.abandon().await;
    let earlier = segment(dir.path());
    let second = Engine::open(first.store.clone(), "db", EngineOptions::default()).await.unwrap();
    second.commit(batch("b", "2")).await.unwrap();
    second.commit(batch("c", "2")).await.unwrap();
    first.store.flush().await.unwrap();
    let names: Vec<_> =
        segments(dir.path()).iter().map(|p| p.strip_prefix(dir.path()).unwrap().to_owned()).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(earlier.0, dir.path().join(&names[0]));

    let left = kill(dir.path());
    fs::rename(left.path().join(&names[0]), left.path().join("x")).unwrap();
    fs::rename(left.path().join(&names[1]), left.path().join(&names[0])).unwrap();
    fs::rename(left.path().join("x"), left.path().join(&names[1])).unwrap();
    assert_changed(open(left.path()).await, "swapped");

    for name in &names {
        let left = kill(dir.path());
        fs::remove_file(left.path().join(name)).unwrap();
        assert_changed(open(left.path()).await, "missing");
        let left = kill(dir.path());
        let len = fs::read(left.path().join(name)).unwrap().iter().rposition(|b| *b != 0).unwrap() / 64 * 64;
        let file = fs::OpenOptions::new().write(true).open(left.path().join(name)).unwrap();
        file.set_len(len as u64).unwrap();
        assert_changed(open(left.path()).await, "cut by a frame");
        file.set_len(0).unwrap();
        assert_changed(open(left.path()).await, "emptied");
    }

    // The segment as it was before the last commit that a ledger knows of.
    let left = kill(dir.path());
    let short = fs::read(left.path().join(&names[1])).unwrap();
    second.commit(batch("d", "3")).await.unwrap();
    first.store.flush().await.unwrap();
    let left = kill(dir.path());
    fs::write(left.path().join(&names[1]), &short).unwrap();
    assert_changed(open(left.path()).await, "rolled back");
    let left = kill(dir.path());
    assert_eq!(open(left.path()).await.unwrap().keys().await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_long_log_of_many_segments_is_replayed_whole_and_a_hole_in_it_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let options = EngineOptions { memtable_bytes: 64 << 20, ..EngineOptions::default() };
    let store = sealed(Arc::new(LocalStore::open(dir.path()).await.unwrap()), keys("test")).await.unwrap();
    let engine =
        Engine::open(store.clone(), "db", EngineOptions { max_unflushed_bytes: 1 << 30, ..options.clone() })
            .await
            .unwrap();
    let value = "v".repeat(3_000_000);
    for i in 0..18 {
        engine.commit(batch(&format!("{i:02}"), &value)).await.unwrap();
    }
    let names = segments(dir.path());
    assert_eq!(names.len(), 3);
    let left = kill(dir.path());
    let again = open(left.path()).await.unwrap();
    let rows = again.rows().await;
    assert!(rows.len() == 18 && rows.iter().all(|(_, found)| *found == value));
    drop(again);

    // No ledger knows them: only the numbers of their frames tell.
    for missing in &names[..2] {
        let left = kill(dir.path());
        fs::remove_file(left.path().join(missing.strip_prefix(dir.path()).unwrap())).unwrap();
        let error = open(left.path()).await.map(|open| drop(open.engine)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{missing:?}: {error:?}");
    }
}

/// Keys that can be locked, and rotated.
#[derive(Debug)]
struct Switch {
    keys: Arc<FixedKey>,
    locked: AtomicBool,
    current: AtomicU32,
}

impl Switch {
    fn new() -> Arc<Self> {
        Arc::new(Self { keys: keys("test"), locked: AtomicBool::new(false), current: AtomicU32::new(1) })
    }

    fn check(&self) -> Result<()> {
        if self.locked.load(Ordering::SeqCst) {
            return Err(Error::precondition("key k is disabled").violating("KEY_DISABLED", "k", "disabled"));
        }
        Ok(())
    }
}

impl ScopeKeys for Switch {
    fn scope(&self) -> &ScopeId {
        self.keys.scope()
    }

    fn current(&self) -> Result<Arc<ScopeKey>> {
        self.by_id(KeyId(self.current.load(Ordering::SeqCst)))
    }

    fn by_id(&self, id: KeyId) -> Result<Arc<ScopeKey>> {
        self.check()?;
        let key = SecretKey::from_slice(&[u8::try_from(id.0).unwrap(); 32]).unwrap();
        Ok(Arc::new(ScopeKey::new(id, key)))
    }
}

#[tokio::test]
async fn a_locked_key_stops_the_log_with_its_own_answer_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (local, keys) = (Arc::new(LocalStore::open(dir.path()).await.unwrap()), Switch::new());
    let open = open_on(local.clone(), keys.clone()).await.unwrap();
    open.put("a", "1").await.unwrap();
    // Forgotten keys come back as long as the scope is not locked.
    open.store.forget();
    open.put("b", "2").await.unwrap();
    let before = segment(dir.path());
    keys.locked.store(true, Ordering::SeqCst);
    open.store.forget();
    let failed = tokio::time::timeout(Duration::from_secs(20), open.put("c", "3")).await;
    let error = failed.expect("waits for ever").unwrap_err();
    assert_eq!((error.kind(), error.violations().len()), (ErrorKind::FailedPrecondition, 1), "{error:?}");
    assert!(open.engine.is_closed());
    open.engine.abandon().await;
    assert_eq!(segment(dir.path()), before, "a locked log was written to");

    keys.locked.store(false, Ordering::SeqCst);
    let open = open_on(local, keys).await.unwrap();
    assert_eq!(open.keys().await, ["a", "b"]);
    open.put("c", "3").await.unwrap();
    open.engine.close().await.unwrap();
}

#[tokio::test]
async fn a_new_key_of_the_scope_begins_a_new_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (local, keys) = (Arc::new(LocalStore::open(dir.path()).await.unwrap()), Switch::new());
    let open = open_on(local, keys.clone()).await.unwrap();
    open.put("a", "1").await.unwrap();
    open.put("b", "1").await.unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
    keys.current.store(2, Ordering::SeqCst);
    open.put("c", "1").await.unwrap();
    open.put("d", "1").await.unwrap();
    let files = segments(dir.path());
    let ids: Vec<u8> = files.iter().map(|file| fs::read(file).unwrap()[12]).collect();
    assert_eq!(ids, [1, 2]);
    let left = kill(dir.path());
    let again = open_on(Arc::new(LocalStore::open(left.path()).await.unwrap()), keys).await.unwrap();
    assert_eq!(again.keys().await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_second_writer_takes_the_log_over_and_the_first_writes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let local = Arc::new(LocalStore::open(dir.path()).await.unwrap());
    let first = open_on(local.clone(), keys("test")).await.unwrap();
    first.put("a", "1").await.unwrap();
    let second = Engine::open(first.store.clone(), "db", EngineOptions::default()).await.unwrap();
    let refused = first.put("b", "1").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Aborted, "{refused:?}");
    second.commit(batch("c", "1")).await.unwrap();
    first.engine.abandon().await;
    second.close().await.unwrap();
    first.store.close().await.unwrap();
    drop(first);
    let again = open_on(local, keys("test")).await.unwrap();
    assert_eq!(again.keys().await, ["a", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_at_the_same_time_share_frames_and_each_is_durable_when_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let open = Arc::new(open(dir.path()).await.unwrap());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..32 {
        let (open, acknowledged) = (open.clone(), acknowledged.clone());
        tasks.spawn(async move {
            for i in 0..50 {
                let key = format!("{task:02}-{i:02}");
                open.put(&key, "v").await.unwrap();
                assert!(open.engine.get(key.as_bytes()).await.unwrap().is_some(), "{key} is not read");
                acknowledged.lock().unwrap().push(key);
            }
        });
    }
    // Kills in the middle: what was acknowledged before one is there.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(15)).await;
        let known = acknowledged.lock().unwrap().clone();
        let left = kill(dir.path());
        let found = self::open(left.path()).await.unwrap().keys().await;
        for key in known {
            assert!(found.binary_search(&key).is_ok(), "{key} is lost");
        }
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(open.keys().await.len(), 32 * 50);
    let status = open.engine.db().status();
    assert!(status.durable_seq >= 32 * 50);
    // Writers that come together go together: far fewer frames than writes.
    let id = open.engine.db().manifest().next_wal_sst_id();
    assert!(id <= 32 * 50, "{id}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_what_was_acknowledged_is_there_when_there_is_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let inner = Arc::new(LocalStore::open(dir.path()).await.unwrap());
    let left = Arc::new(AtomicI64::new(2));
    let append = Some(Arc::new(Full { inner: inner.clone(), left: left.clone() }));
    let files = Arc::new(Wrapped { inner, append });
    let open = open_on(files.clone(), keys("test")).await.unwrap();
    open.put("a", "1").await.unwrap();
    open.put("b", "2").await.unwrap();
    for key in ["c", "d"] {
        let error = open.put(key, "3").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
    }
    assert!(open.engine.is_closed());
    open.engine.abandon().await;
    // Not even a new segment could be made: nothing of it is missed later.
    let store = open.store;
    let engine = Engine::open(store.clone(), "db", EngineOptions::default()).await.unwrap();
    assert_eq!(engine.commit(batch("c", "3")).await.unwrap_err().kind(), ErrorKind::ResourceExhausted);
    engine.abandon().await;
    left.store(i64::MAX, Ordering::SeqCst);
    let engine = Engine::open(store.clone(), "db", EngineOptions::default()).await.unwrap();
    assert!(engine.get(b"b").await.unwrap().is_some());
    engine.abandon().await;
    store.flush().await.unwrap();
    let open = open_on(files, keys("test")).await.unwrap();
    assert_eq!(open.keys().await, ["a", "b"]);
    open.put("e", "4").await.unwrap();
    assert_eq!(open.keys().await, ["a", "b", "e"]);
    open.engine.close().await.unwrap();
}

#[tokio::test]
async fn a_database_with_a_log_of_slatedbs_own_is_taken_over_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    {
        let inner = Arc::new(LocalStore::open(dir.path()).await.unwrap());
        let open = open_on(Arc::new(Wrapped { inner, append: None }), keys("test")).await.unwrap();
        for key in ["a", "b", "c"] {
            open.put(key, "1").await.unwrap();
        }
        open.engine.abandon().await;
    }
    assert!(dir.path().join("s/db/wal").exists() && segments(dir.path()).is_empty());
    let left = {
        let open = open(dir.path()).await.unwrap();
        assert_eq!(open.keys().await, ["a", "b", "c"]);
        open.put("d", "2").await.unwrap();
        kill(dir.path())
    };
    // Both logs, one after the other.
    let again = open(left.path()).await.unwrap();
    assert_eq!(again.keys().await, ["a", "b", "c", "d"]);
    again.put("e", "3").await.unwrap();
    again.engine.close().await.unwrap();
    again.store.close().await.unwrap();
    drop(again);

    // There is no way back: a store without appends does not pretend that the log is empty.
    let inner = Arc::new(LocalStore::open(left.path()).await.unwrap());
    let error = open_on(Arc::new(Wrapped { inner, append: None }), keys("test")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
}

#[tokio::test]
async fn an_open_database_that_nobody_writes_to_has_no_log_file_and_no_thread() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(Arc::new(LocalStore::open(dir.path()).await.unwrap()), keys("test")).await.unwrap();
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let mut engines = Vec::new();
    for i in 0..100 {
        let engine = Engine::open(store.clone(), &format!("db{i}"), EngineOptions::default()).await.unwrap();
        engines.push(engine);
    }
    assert!(!dir.path().join("s/_log").exists());
    let before = threads();
    for engine in &engines {
        engine.commit(batch("a", "1")).await.unwrap();
    }
    let more = threads().saturating_sub(before);
    assert!(more < 20, "{more} threads for 100 logs");
    assert_eq!(fs::read_dir(dir.path().join("s/_log")).unwrap().count(), 100);
}

#[tokio::test]
async fn logs_of_databases_below_each_other_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(Arc::new(LocalStore::open(dir.path()).await.unwrap()), keys("test")).await.unwrap();
    for _ in 0..2 {
        for name in ["a", "a/b", "ab"] {
            let engine = Engine::open(store.clone(), name, EngineOptions::default()).await.unwrap();
            engine.commit(batch(name, "1")).await.unwrap();
            engine.abandon().await;
        }
    }
    for name in ["a", "a/b", "ab"] {
        let engine = Engine::open(store.clone(), name, EngineOptions::default()).await.unwrap();
        assert!(engine.get(name.as_bytes()).await.unwrap().is_some(), "{name}");
        assert!(engine.get(b"abc").await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_log_is_no_object_and_no_object_can_be_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let open = open(dir.path()).await.unwrap();
    open.put("a", "1").await.unwrap();
    let name = segments(dir.path()).pop().unwrap();
    let path = Path::from(name.strip_prefix(dir.path().join("s")).unwrap().to_str().unwrap());
    let not_found = |error: object_store::Error| from_store(error).kind() == ErrorKind::NotFound;
    assert!(not_found(open.store.get(&path).await.unwrap_err()));
    assert!(not_found(open.store.head(&path).await.unwrap_err()));
    assert!(open.store.put(&path, "x".into()).await.is_err());
    assert!(open.store.delete(&path).await.is_err());
    assert!(open.store.put_multipart(&Path::from("_log/db/x")).await.is_err());
    let listed: Vec<_> = open.store.list(None).map(|meta| meta.unwrap().location).collect().await;
    assert!(!listed.is_empty() && listed.iter().all(|path| !path.as_ref().starts_with("_log")));
    let level = open.store.list_with_delimiter(None).await.unwrap();
    assert_eq!(level.common_prefixes, [Path::from("db")]);
    open.put("b", "2").await.unwrap();
}
