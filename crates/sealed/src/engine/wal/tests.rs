use std::fs;
use std::path::PathBuf;

use claviger_core::{ErrorKind, ManualClock, Timestamp};
use claviger_crypto::SecretKey;
use slatedb::config::{FlushOptions, FlushType, GarbageCollectorDirectoryOptions, GarbageCollectorOptions};
use slatedb::{GarbageCollectorBuilder, WriteBatch};

use super::*;
use crate::engine::{Engine, EngineOptions};
use crate::{FixedKey, LocalStore, ScopeId, SealedOptions, SealedStore};

async fn open(dir: &std::path::Path) -> Result<Arc<SealedStore>> {
    let files = Arc::new(LocalStore::open(dir).await?);
    let keys = Arc::new(FixedKey::new(ScopeId::new("test"), SecretKey::from_slice(&[7; 32]).unwrap()));
    let clock = Arc::new(ManualClock::at(Timestamp(0)));
    let options = SealedOptions { lazy_deletes: true, ..SealedOptions::default() };
    Ok(Arc::new(SealedStore::open(files, Path::from("s"), keys, clock, options).await?))
}

/// A database with a segment of its own for this row, which a sorted file has when `flush` is set.
async fn write(store: &Arc<SealedStore>, key: &str, flush: bool) {
    let engine = Engine::open(store.clone(), "db", EngineOptions::default()).await.unwrap();
    let mut batch = WriteBatch::new();
    batch.put(key, "v");
    engine.commit(batch).await.unwrap();
    if flush {
        let flush_type = FlushType::MemTable;
        engine.db().flush_with_options(FlushOptions { flush_type }).await.unwrap();
    }
    engine.abandon().await;
}

async fn collect(store: &Arc<SealedStore>) {
    let store: Arc<dyn ObjectStore> = store.clone();
    let init = find(&store, "db", Handle::current()).await.unwrap().unwrap();
    let at_once =
        GarbageCollectorDirectoryOptions { interval: None, min_age: Default::default(), dry_run: false };
    let options =
        GarbageCollectorOptions { wal_options: Some(at_once), ..GarbageCollectorOptions::default() };
    let collector = Arc::new(init.collector());
    let garbage =
        GarbageCollectorBuilder::new("db", store).with_options(options).with_wal_gc(collector).build();
    garbage.run_gc_once().await;
}

fn segments(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(dir.join("s/_log/db")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

async fn keys(store: &Arc<SealedStore>) -> Vec<String> {
    let engine = Engine::open(store.clone(), "db", EngineOptions::default()).await.unwrap();
    let mut rows = engine.scan_range(b"", None, false).await.unwrap();
    let mut found = Vec::new();
    while let Some(row) = rows.next().await.unwrap() {
        found.push(String::from_utf8(row.key.to_vec()).unwrap());
    }
    engine.abandon().await;
    found
}

#[tokio::test]
async fn segments_that_are_not_needed_go_and_one_that_is_put_back_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    for key in ["a", "b", "c", "d"] {
        write(&store, key, false).await;
    }
    collect(&store).await;
    store.flush().await.unwrap();
    let all = segments(dir.path());
    assert_eq!(all.len(), 4, "nothing of it is in a sorted file");
    let old = fs::read(&all[0]).unwrap();

    write(&store, "e", true).await;
    write(&store, "f", true).await;
    collect(&store).await;
    store.flush().await.unwrap();
    let left = segments(dir.path());
    assert!(left.len() < 4 && left.iter().all(|segment| !all.contains(segment)), "{left:?}");
    assert_eq!(keys(&store).await, ["a", "b", "c", "d", "e", "f"]);
    store.close().await.unwrap();
    drop(store);

    fs::write(&all[0], old).unwrap();
    let error = open(dir.path()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(
        error.message().contains("_log/db") && error.message().contains("old file"),
        "{}",
        error.message()
    );
    fs::remove_file(&all[0]).unwrap();
    assert_eq!(keys(&open(dir.path()).await.unwrap()).await.len(), 6);
}

#[tokio::test]
async fn a_segment_whose_delete_began_is_not_read_again_and_may_go_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    for key in ["a", "b"] {
        write(&store, key, false).await;
    }
    let all = segments(dir.path());
    let old = fs::read(&all[0]).unwrap();
    for key in ["c", "d"] {
        write(&store, key, true).await;
    }
    collect(&store).await;
    store.flush().await.unwrap();
    assert!(!all[0].exists());
    drop(store);

    // As if the store that was let go had noted the delete and not come to it yet.
    fs::write(&all[0], &old).unwrap();
    let store = open(dir.path()).await.unwrap();
    let left = segments(dir.path()).len() - 1;
    let init =
        find(&(store.clone() as Arc<dyn ObjectStore>), "db", Handle::current()).await.unwrap().unwrap();
    fs::remove_file(&all[0]).unwrap();
    assert_eq!(init.log.segments().await.unwrap().len(), left);
    assert_eq!(keys(&store).await, ["a", "b", "c", "d"]);
    drop((init, store));

    // And when it comes to nothing, the one after it ends the delete.
    fs::write(&all[0], &old).unwrap();
    let store = open(dir.path()).await.unwrap();
    assert_eq!(keys(&store).await, ["a", "b", "c", "d"]);
    store.flush().await.unwrap();
    assert!(!all[0].exists());
}

#[tokio::test]
async fn a_log_that_ends_before_what_the_manifest_says_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let engine = Engine::open(store.clone(), "db", EngineOptions::default()).await.unwrap();
    for key in ["a", "b", "c"] {
        let mut batch = WriteBatch::new();
        batch.put(key, "v");
        engine.commit(batch).await.unwrap();
    }
    let flush_type = FlushType::MemTable;
    engine.db().flush_with_options(FlushOptions { flush_type }).await.unwrap();
    engine.abandon().await;
    drop((engine, store));
    // No ledger knows how long the segment was: it was written within a second.
    let segment = segments(dir.path()).pop().unwrap();
    fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(128).unwrap();
    let error = match open(dir.path()).await {
        Ok(store) => Engine::open(store, "db", EngineOptions::default()).await.map(drop).unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error:?}");
}

#[tokio::test]
async fn a_log_that_gets_long_asks_for_a_sorted_file() {
    use slatedb::wal::WalWriter;
    let core = Arc::new(Core::new(100, [1, 50].into_iter()));
    let writer = Writer::new(core.clone());
    assert!(!writer.should_flush_memtable(0));
    for segment in 1..=15 {
        core.began(100 + segment * 10);
    }
    // Segments from 50 on are the newest sixteen.
    assert!(writer.should_flush_memtable(0) && writer.should_flush_memtable(48));
    assert!(!writer.should_flush_memtable(49) && !writer.should_flush_memtable(200));
}
