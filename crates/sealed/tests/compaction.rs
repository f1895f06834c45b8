//! What a database does with its sorted files, its memory and its cache when nobody writes.

mod common;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use claviger_sealed::engine::{BlockCache, Engine, EngineOptions};
use claviger_sealed::{LocalStore, SealedOptions, SealedStore};
use common::keys;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use slatedb::WriteBatch;
use slatedb::config::{FlushOptions, FlushType};

const FILES: u8 = 3;
const ROWS: u8 = 40;
/// Far longer than the rests and polls of the engine, whose own clock this takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A row of 10 kB; each file has a third of them.
fn row(number: u8) -> (String, Vec<u8>) {
    (format!("row{number:03}"), vec![number; 10_000])
}

/// A sealed store that counts what is read of sorted files.
#[derive(Debug)]
struct Counting {
    inner: SealedStore,
    reads: AtomicU64,
}

impl Counting {
    async fn open(dir: &std::path::Path) -> Arc<Self> {
        let files = Arc::new(LocalStore::open(dir).await.unwrap());
        let options = SealedOptions { lazy_deletes: true, ..SealedOptions::default() };
        let opened = SealedStore::open(files, Path::from("s"), keys("test"), common::clock(), options).await;
        Arc::new(Self { inner: opened.unwrap(), reads: AtomicU64::new(0) })
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if location.as_ref().ends_with(".sst") {
            self.reads.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

async fn write(engine: &Engine, file: u8) {
    let mut batch = WriteBatch::new();
    for (key, value) in (0..ROWS).map(|number| row(number * FILES + file)) {
        batch.put(key, value);
    }
    engine.commit(batch).await.unwrap();
    let flush_type = FlushType::MemTable;
    engine.db().flush_with_options(FlushOptions { flush_type }).await.unwrap();
}

async fn read_all(engine: &Engine) {
    for number in 0..ROWS * FILES {
        let (key, value) = row(number);
        assert_eq!(engine.get(key.as_bytes()).await.unwrap().unwrap(), value);
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn what_a_rush_left_behind_becomes_one_run_at_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Counting::open(dir.path()).await;
    let engine = Engine::open(store, "db", EngineOptions::default()).await.unwrap();
    for file in 0..FILES {
        write(&engine, file).await;
    }
    let added = engine.files().len();
    until("one run", || engine.files().len() == 1).await;
    assert_eq!(added, usize::from(FILES), "and they were not merged before");
    read_all(&engine).await;
    engine.close().await.unwrap();
}

#[tokio::test]
async fn what_was_in_memory_before_a_merge_is_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Counting::open(dir.path()).await;
    let cache = Some(Arc::new(BlockCache::new(16 * 1024 * 1024)));
    let options = EngineOptions { cache, ..EngineOptions::default() };
    let engine = Engine::open(store.clone(), "db", options).await.unwrap();
    for file in 0..FILES {
        write(&engine, file).await;
    }
    read_all(&engine).await;
    let before = store.reads();
    until("one run", || engine.files().len() == 1).await;
    // The merge takes its input from memory, so whatever is read now is the new run.
    until("the run is fetched", || store.reads() > before).await;
    let mut reads = 0;
    while std::mem::replace(&mut reads, store.reads()) != reads {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    read_all(&engine).await;
    assert_eq!(store.reads(), reads, "reads after the merge went to the disk");
    engine.close().await.unwrap();
}

#[tokio::test]
async fn memory_that_is_worth_it_becomes_a_file_at_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Counting::open(dir.path()).await;
    let cache = Some(Arc::new(BlockCache::new(16 * 1024 * 1024)));
    let options = EngineOptions { cache, ..EngineOptions::default() };
    let engine = Engine::open(store, "db", options).await.unwrap();
    let mut batch = WriteBatch::new();
    for (key, value) in (0..ROWS * FILES).map(row) {
        batch.put(key, value);
    }
    engine.commit(batch).await.unwrap();
    assert!(engine.files().is_empty());
    until("a file", || !engine.files().is_empty()).await;
    read_all(&engine).await;
    engine.close().await.unwrap();
}
