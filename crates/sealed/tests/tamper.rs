//! A database on a sealed store, and somebody who changes its files: whatever kind of file it is and
//! whatever is done to it, it is noticed, and the file is named.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claviger_core::ErrorKind;
use claviger_sealed::engine::from_slatedb;
use claviger_sealed::store::header::{FRONT, HEADER};
use claviger_sealed::{Change, tamper};
use common::{PREFIX, files, open, verdict};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use slatedb::config::{
    CompactorOptions, GarbageCollectorDirectoryOptions, GarbageCollectorOptions, Settings,
    SizeTieredCompactionSchedulerOptions,
};
use slatedb::{Db, WriteBatch};

const QUICK: Duration = Duration::from_millis(20);
const KEY: &str = "planted-row-key";
const VALUE: &str = "planted-value";
const SEALED_CHUNK: usize = 16_384 + 16;

fn settings() -> Settings {
    let garbage =
        GarbageCollectorDirectoryOptions { interval: Some(QUICK), min_age: Duration::ZERO, dry_run: false };
    let scheduler = SizeTieredCompactionSchedulerOptions { min_compaction_sources: 2, ..Default::default() };
    Settings {
        flush_interval: Some(Duration::from_millis(5)),
        manifest_poll_interval: QUICK,
        l0_sst_size_bytes: 64 * 1024,
        compactor_options: Some(CompactorOptions {
            poll_interval: QUICK,
            scheduler_options: scheduler.into(),
            ..CompactorOptions::default()
        }),
        garbage_collector_options: Some(GarbageCollectorOptions {
            manifest_options: Some(garbage),
            wal_options: Some(garbage),
            compacted_options: Some(garbage),
            compactions_options: Some(garbage),
            ..GarbageCollectorOptions::default()
        }),
        ..Settings::default()
    }
}

async fn database(store: Arc<dyn ObjectStore>) -> Result<Db, slatedb::Error> {
    Db::builder("db", store).with_settings(settings()).build().await
}

/// What kind of file a path is: its directory, or the name of one that stands alone.
fn kind(path: &Path) -> String {
    let path = path.as_ref().strip_prefix(PREFIX).unwrap();
    match path.rsplit_once('/') {
        Some((dir, name)) if name.contains("boundary") => format!("{dir}/boundary"),
        Some((dir, _)) if !dir.is_empty() => dir.to_owned(),
        _ => path.to_owned(),
    }
}

/// A database with every kind of file, closed, and what was written to the store before.
async fn written() -> (InMemory, Vec<(Path, Bytes)>) {
    let inner = Arc::new(InMemory::new());
    let store = Arc::new(open(inner.clone()).await.unwrap());
    let db = database(store.clone()).await.unwrap();
    let mut earlier = Vec::new();
    for round in 0..200_u32 {
        let mut batch = WriteBatch::new();
        for row in 0..30_u32 {
            let value = format!("{VALUE}-{round}-{}", "v".repeat(600));
            batch.put(format!("{KEY}-{row}-{}", round % 7), value);
        }
        db.write(batch).await.unwrap();
        db.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        if round == 60 {
            store.flush().await.unwrap();
            earlier = files(&inner).await;
        }
        let kinds = files(&inner).await.iter().map(|(path, _)| kind(path)).collect::<Vec<_>>();
        let has = |wanted: &str| kinds.iter().any(|kind| kind.contains(wanted));
        if round > 80 && has("boundary") && has("compacted") && has("compactions") {
            break;
        }
    }
    db.close().await.unwrap();
    store.close().await.unwrap();
    (inner.fork(), earlier)
}

/// One file of each kind, the longest.
fn samples(files: &[(Path, Bytes)]) -> Vec<(String, Path, Bytes)> {
    let mut by_kind: BTreeMap<String, (Path, Bytes)> = BTreeMap::new();
    for (path, bytes) in files {
        let sample = by_kind.entry(kind(path)).or_insert_with(|| (path.clone(), bytes.clone()));
        if bytes.len() > sample.1.len() {
            *sample = (path.clone(), bytes.clone());
        }
    }
    by_kind.into_iter().map(|(kind, (path, bytes))| (kind, path, bytes)).collect()
}

async fn with(inner: &InMemory, path: &Path, bytes: impl Into<Bytes>) -> InMemory {
    let changed = inner.fork();
    changed.put(path, bytes.into().into()).await.unwrap();
    changed
}

async fn assert_noticed(changed: &InMemory, path: &Path, what: &str) {
    let read = async {
        let store = open(Arc::new(changed.fork())).await.map_err(|error| tamper(&error))?;
        let inside = Path::from(path.as_ref().strip_prefix(PREFIX).unwrap());
        let found = store.get(&inside).await.map_err(|error| tamper(&error))?;
        found.bytes().await.map_err(|error| tamper(&error))
    };
    match read.await {
        Ok(_) => panic!("{what} of {path} went unnoticed"),
        Err(tamper) => assert_eq!(tamper.expect("not named").path, path.as_ref(), "{what}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_every_kind_of_file_is_noticed_and_named() {
    let (inner, earlier) = written().await;
    let good = verdict(&inner).await.unwrap();
    assert!(good.len() > 3);
    let all = files(&inner).await;
    let samples = samples(&all);
    let kinds: Vec<&str> = samples.iter().map(|(kind, ..)| kind.as_str()).collect();
    for wanted in ["wal", "manifest", "compacted", "compactions", "boundary", "_ledger"] {
        assert!(kinds.iter().any(|kind| kind.contains(wanted)), "no {wanted} among {kinds:?}");
    }
    for (kind, path, bytes) in &samples {
        // Magic, version, key, sequence, reserved, salt, commitment, first and last chunk, tags.
        let len = bytes.len();
        let offsets = [
            0,
            8,
            9,
            12,
            16,
            23,
            24,
            HEADER - 1,
            HEADER,
            HEADER + 24,
            FRONT - 1,
            FRONT,
            len / 2,
            len - 17,
            len - 1,
        ];
        for offset in offsets.into_iter().chain([FRONT + 16_384].into_iter().filter(|offset| *offset < len)) {
            let mut flipped = bytes.to_vec();
            flipped[offset] ^= 0x10;
            assert_noticed(&with(&inner, path, flipped).await, path, &format!("bit {offset}, {kind}")).await;
        }
        for cut in [0, 1, HEADER, FRONT, FRONT + 16, len - 1, len.saturating_sub(SEALED_CHUNK)] {
            let cut = bytes.slice(..cut.min(len - 1));
            assert_noticed(&with(&inner, path, cut).await, path, &format!("cut, {kind}")).await;
        }
        for more in [1, 16, SEALED_CHUNK] {
            let longer = [bytes.as_ref(), &vec![0; more]].concat();
            assert_noticed(&with(&inner, path, longer).await, path, &format!("more, {kind}")).await;
        }
        let missing = inner.fork();
        missing.delete(path).await.unwrap();
        assert_noticed(&missing, path, &format!("loss, {kind}")).await;
        // Another file of the same kind and of each other kind in its place.
        for (other_path, other) in &all {
            if other_path != path && (kind == &self::kind(other_path) || other.len() % 3 == 0) {
                assert_noticed(&with(&inner, path, other.clone()).await, path, &format!("swap, {kind}"))
                    .await;
            }
        }
    }
    let (_, path, long) =
        samples.iter().find(|(_, _, bytes)| bytes.len() > FRONT + 2 * SEALED_CHUNK).unwrap();
    let mut swapped = long.to_vec();
    let (first, second) = swapped[FRONT..FRONT + 2 * SEALED_CHUNK].split_at_mut(SEALED_CHUNK);
    first.swap_with_slice(second);
    assert_noticed(&with(&inner, path, swapped).await, path, "two chunks swapped").await;

    // What had been there earlier: files gone since, files replaced since, the ledger.
    let mut back = 0;
    for (path, old) in &earlier {
        let now = all.iter().find(|(name, _)| name == path).map(|(_, bytes)| bytes);
        if now == Some(old) {
            continue;
        }
        back += 1;
        let tamper =
            verdict(&with(&inner, path, old.clone()).await).await.expect_err("an old file came back");
        if !path.as_ref().ends_with("_ledger") {
            assert_eq!((tamper.path.as_str(), tamper.what), (path.as_ref(), Change::Old));
        }
    }
    assert!(back > 3, "only {back} old files were tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_itself_fails_at_once_with_data_loss_that_names_the_file() {
    let (inner, _) = written().await;
    for (kind, path, bytes) in samples(&files(&inner).await) {
        if kind.contains("boundary") || kind.contains("_ledger") {
            continue;
        }
        let mut flipped = bytes.to_vec();
        flipped[FRONT] ^= 1;
        let changed = with(&inner, &path, flipped).await;
        // All files of the kind, so that the database needs one of them.
        for (other, bytes) in files(&inner).await.into_iter().filter(|(other, _)| self::kind(other) == kind) {
            let mut flipped = bytes.to_vec();
            let at = FRONT.min(flipped.len() - 1);
            flipped[at] ^= 1;
            changed.put(&other, flipped.into()).await.unwrap();
        }
        let store = Arc::new(open(Arc::new(changed)).await.unwrap());
        let used = async {
            let db = database(store).await?;
            let mut rows = db.scan(..).await?;
            let mut count = 0;
            while rows.next().await?.is_some() {
                count += 1;
            }
            db.close().await?;
            Ok::<_, slatedb::Error>(count)
        };
        let used = tokio::time::timeout(Duration::from_secs(20), used).await;
        let result = used.unwrap_or_else(|_| panic!("{kind}: the database tries again for ever"));
        match result {
            // Old logs may not be needed any more.
            Ok(rows) => assert!(kind.contains("wal") && rows > 100, "{kind}: {rows} rows"),
            Err(error) => {
                let named = tamper(&error).unwrap_or_else(|| panic!("{kind}: {error:?}"));
                assert!(self::kind(&Path::from(named.path.as_str())) == kind, "{kind}: {named}");
                assert_eq!(from_slatedb(error).kind(), ErrorKind::DataLoss, "{kind}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_and_no_value_shows_in_any_file() {
    let (inner, earlier) = written().await;
    let mut files = files(&inner).await;
    files.extend(earlier);
    assert!(files.len() > 20);
    for (path, bytes) in files {
        for planted in [KEY, VALUE, "vvvvvvvv", "row-key", "manifest"] {
            let shows = bytes.windows(planted.len()).any(|window| window == planted.as_bytes());
            assert!(!shows, "{planted} shows in {path}");
        }
    }
}
