//! The log on an object store in memory, also one that fails.

use std::ops::ControlFlow;
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
use crate::tlog::{Task, verify};

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
    let task = Task { log: log.verifier(), held: &[], witnesses: &[], earlier: None };
    let report = verify(&log, &task).await.unwrap();
    assert_eq!((report.proven, report.findings), (2, vec![]));
}

/// A log of 2500 entries, ten of each microsecond.
async fn long() -> AuditLog {
    let clock = clock();
    let log = AuditLog::open(Arc::new(InMemory::new()), clock.clone()).await.unwrap();
    for _ in 0..250 {
        let appends = (0..10).map(|_| log.append(entry("e")));
        futures::future::try_join_all(appends).await.unwrap();
        clock.advance(Duration::from_micros(1));
    }
    log
}

/// The numbers that a look at the log shows, at most `full`, and where to go on.
async fn seen(log: &AuditLog, scan: Scan, full: usize) -> (Vec<u64>, Option<u64>) {
    let mut numbers = Vec::new();
    let see = |number, _| {
        numbers.push(number);
        if numbers.len() == full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let next = log.scan(&scan, see).await.unwrap();
    (numbers, next)
}

#[tokio::test]
async fn a_look_in_either_order_goes_on_where_it_stopped_and_misses_nothing() {
    let log = long().await;
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let mut scan = Scan { order, most: 700, ..Scan::default() };
        let (mut all, mut rounds) = (Vec::new(), 0);
        loop {
            let (numbers, next) = seen(&log, scan.clone(), 611).await;
            assert!(numbers.len() <= 611);
            all.extend(numbers);
            rounds += 1;
            match next {
                Some(next) => scan.past = Some(next),
                None => break,
            }
        }
        assert_eq!(rounds, 5);
        if order == Order::NewestFirst {
            all.reverse();
        }
        assert_eq!(all, (1..=2500).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_look_stops_after_as_many_entries_as_it_may_see() {
    let log = long().await;
    let scan = Scan { order: Order::NewestFirst, most: 1200, ..Scan::default() };
    let (numbers, next) = seen(&log, scan, usize::MAX).await;
    assert_eq!((numbers.len(), numbers.first(), next), (1200, Some(&2500), Some(1301)));
}

#[tokio::test]
async fn times_bound_a_look_on_both_sides() {
    let log = long().await;
    let span = |since: Option<i64>, until: Option<i64>| Scan {
        since: since.map(Timestamp),
        until: until.map(Timestamp),
        most: 10_000,
        ..Scan::default()
    };
    for (since, until, first, last) in [
        (Some(1_000), None, 1, 2500),
        (Some(1_001), None, 11, 2500),
        (Some(1_249), None, 2491, 2500),
        (None, Some(1_000), 1, 10),
        (Some(1_100), Some(1_101), 1001, 1020),
    ] {
        let (numbers, next) = seen(&log, span(since, until), usize::MAX).await;
        assert_eq!(
            (numbers.first(), numbers.last(), next),
            (Some(&first), Some(&last), None),
            "{since:?} {until:?}"
        );
    }
    for nothing in [span(Some(1_250), None), span(None, Some(999)), span(Some(1_101), Some(1_100))] {
        assert_eq!(seen(&log, nothing, usize::MAX).await, (vec![], None));
    }
}

#[tokio::test]
async fn an_empty_log_shows_nothing() {
    let log = AuditLog::open(Arc::new(InMemory::new()), clock()).await.unwrap();
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let scan = Scan { order, since: Some(Timestamp(1)), most: 10, ..Scan::default() };
        assert_eq!(seen(&log, scan, 10).await, (vec![], None));
    }
}
