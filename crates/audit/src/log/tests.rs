//! The log on an object store in memory, also one that fails.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_core::{Caller, ManualClock};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

use super::*;

/// Counts puts, and fails them while told to.
#[derive(Debug, Default)]
struct Failing {
    inner: InMemory,
    fail: AtomicBool,
    log_puts: AtomicU64,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Failing")
    }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        if self.fail.load(Ordering::SeqCst) {
            return Err(object_store::Error::NotSupported { source: "the disk is full".into() });
        }
        if path.as_ref().contains("/wal/") {
            self.log_puts.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.put_opts(path, payload, opts).await
    }
    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, opts).await
    }
    async fn get_opts(&self, path: &Path, opts: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(path, opts).await
    }
    async fn get_ranges(
        &self,
        path: &Path,
        ranges: &[std::ops::Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }
    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, opts: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, opts).await
    }
}

fn entry(method: &str) -> Entry {
    Entry::new("cloudkms.googleapis.com", method, "projects/p/k", &Caller::new("user:ada").with("job", "7"))
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp(1_000)))
}

#[tokio::test]
async fn numbers_are_dense_and_go_on_after_a_reopen() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = AuditLog::open(store.clone(), clock()).await.unwrap();
    assert_eq!(log.append(entry("a")).await.unwrap(), 1);
    assert_eq!(log.append(entry("b")).await.unwrap(), 2);
    log.close().await.unwrap();
    assert_eq!(log.append(entry("late")).await.unwrap_err().kind(), ErrorKind::Unavailable);

    let log = AuditLog::open(store, clock()).await.unwrap();
    let refused = entry("c").with_key_version("v1").refused(&Error::permission_denied("no"));
    assert_eq!(log.append(refused).await.unwrap(), 3);
    let all = log.read(None, 10).await.unwrap();
    let seen: Vec<_> = all.iter().map(|(n, e)| (*n, e.method.as_str(), e.code.as_str())).collect();
    assert_eq!(seen, [(1, "a", "OK"), (2, "b", "OK"), (3, "c", "PermissionDenied")]);
    assert_eq!(all[2].1.message, "no");
    assert_eq!(all[2].1.context["job"], "7");
    assert_eq!(log.read(Some(1), 1).await.unwrap()[0].0, 2);
    assert!(log.read(Some(3), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_append_is_there_after_a_crash() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = AuditLog::open(store.clone(), clock()).await.unwrap();
    log.append(entry("a")).await.unwrap();
    // No close: the process is gone.
    let reopened = AuditLog::open(store, clock()).await.unwrap();
    assert_eq!(reopened.read(None, 10).await.unwrap().len(), 1);
    drop(log);
}

#[tokio::test]
async fn appends_at_the_same_time_share_flushes_and_no_number_is_given_twice() {
    let store = Arc::new(Failing::default());
    let log = Arc::new(AuditLog::open(store.clone(), clock()).await.unwrap());
    let before = store.log_puts.load(Ordering::SeqCst);
    let appends = (0..1000).map(|_| {
        let log = log.clone();
        tokio::spawn(async move { log.append(entry("e")).await.unwrap() })
    });
    let mut numbers: Vec<u64> =
        futures::future::join_all(appends).await.into_iter().map(Result::unwrap).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
    let flushes = store.log_puts.load(Ordering::SeqCst) - before;
    assert!(flushes < 100, "{flushes} flushes for 1000 entries");
}

#[tokio::test]
async fn times_never_go_back_along_the_numbers() {
    let clock = clock();
    let log = AuditLog::open(Arc::new(InMemory::new()), clock.clone()).await.unwrap();
    log.append(entry("a")).await.unwrap();
    clock.jump_to(Timestamp(5));
    log.append(entry("b")).await.unwrap();
    clock.jump_to(Timestamp(2_000));
    clock.advance(Duration::from_micros(1));
    log.append(entry("c")).await.unwrap();
    let times: Vec<_> = log.read(None, 10).await.unwrap().into_iter().map(|(_, e)| e.time.micros()).collect();
    assert_eq!(times, [1_000, 1_000, 2_001]);
}

#[tokio::test]
async fn after_a_failed_write_the_log_goes_on_without_a_gap_once_the_store_recovers() {
    let store = Arc::new(Failing::default());
    let log = AuditLog::open(store.clone(), clock()).await.unwrap();
    log.append(entry("a")).await.unwrap();
    store.fail.store(true, Ordering::SeqCst);
    assert!(log.append(entry("lost")).await.is_err());
    assert!(log.append(entry("lost")).await.is_err());
    store.fail.store(false, Ordering::SeqCst);
    assert_eq!(log.append(entry("b")).await.unwrap(), 2);
    let methods: Vec<_> = log.read(None, 10).await.unwrap().into_iter().map(|(_, e)| e.method).collect();
    assert_eq!(methods, ["a", "b"]);
}

#[tokio::test]
async fn a_search_gives_its_matches_page_by_page() {
    let log = AuditLog::open(Arc::new(InMemory::new()), clock()).await.unwrap();
    let appends = (0..2500).map(|i| log.append(entry(if i % 100 == 0 { "hit" } else { "miss" })));
    for number in futures::future::join_all(appends).await {
        number.unwrap();
    }
    let (mut after, mut found, mut rounds) = (None, 0, 0);
    loop {
        let (hits, next) = log.find(after, 7, |e| e.method == "hit").await.unwrap();
        assert!(hits.len() <= 7);
        found += hits.len();
        rounds += 1;
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(found, 25);
    assert!(rounds > 3);
}
