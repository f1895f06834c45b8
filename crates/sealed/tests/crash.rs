//! Processes that die between any two steps, and files put back afterwards: no false alarm, no loss of
//! what was acknowledged, no rollback unnoticed.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use claviger_sealed::{Change, SealedOptions, SealedStore};
use common::{content, files, open, read_all, verdict};
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// A store that dies: after some changes nothing is answered any more. The last one may or may not have
/// been made. Remembers every content that a file ever had.
#[derive(Clone, Debug)]
struct Dying {
    inner: Arc<InMemory>,
    left: Arc<AtomicI64>,
    half: bool,
    /// Whether it lives on after that: then a change was made whose answer got lost.
    recovers: bool,
    dead: Arc<AtomicBool>,
    history: History,
}

type History = Arc<Mutex<Vec<(Path, Bytes)>>>;

impl fmt::Display for Dying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dying")
    }
}

fn dead() -> Error {
    Error::Generic { store: "test", source: "dead".into() }
}

impl Dying {
    fn new(inner: Arc<InMemory>, left: i64, half: bool, history: History) -> Self {
        Self {
            inner,
            left: Arc::new(AtomicI64::new(left)),
            half,
            recovers: false,
            dead: Arc::default(),
            history,
        }
    }

    fn alive(&self) -> Result<()> {
        if self.dead.load(Ordering::SeqCst) { Err(dead()) } else { Ok(()) }
    }

    /// Whether a change is made, and whether its answer arrives.
    fn change(&self) -> Result<bool> {
        self.alive()?;
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left > 0 || left < 0 && self.recovers {
            return Ok(true);
        }
        if self.recovers {
            return if self.half { Ok(false) } else { Err(dead()) };
        }
        self.dead.store(true, Ordering::SeqCst);
        if self.half { Ok(false) } else { Err(dead()) }
    }

    async fn remember(&self, location: &Path) {
        let bytes = self.inner.get(location).await.unwrap().bytes().await.unwrap();
        self.history.lock().unwrap().push((location.clone(), bytes));
    }
}

#[derive(Debug)]
struct DyingUpload(Dying, Path, Box<dyn MultipartUpload>);

#[async_trait::async_trait]
impl MultipartUpload for DyingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.2.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let answered = self.0.change()?;
        let result = self.2.complete().await?;
        self.0.remember(&self.1).await;
        if answered { Ok(result) } else { Err(dead()) }
    }

    async fn abort(&mut self) -> Result<()> {
        self.2.abort().await
    }
}

#[async_trait::async_trait]
impl ObjectStore for Dying {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let answered = self.change()?;
        let result = self.inner.put_opts(location, payload, opts).await?;
        self.remember(location).await;
        if answered { Ok(result) } else { Err(dead()) }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.alive()?;
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DyingUpload(self.clone(), location.clone(), upload)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let answered = store.change()?;
                    store.inner.delete(&location).await?;
                    if answered { Ok(location) } else { Err(dead()) }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("a sealed file cannot be copied")
    }
}

/// Random numbers from a seed, so that a failure comes again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// What may be found at each path: what was acknowledged, and what a change under way could make of it.
#[derive(Debug, Default)]
struct Model {
    now: BTreeMap<String, Option<Bytes>>,
    also: BTreeMap<String, BTreeSet<Option<Bytes>>>,
    /// Whether answers got lost, so that a delete may remove what never came to be.
    doubt: bool,
    /// Whether deletes are lazy, so that a crash may bring an object back.
    lazy: bool,
}

impl Model {
    fn now(&self, path: &str) -> Option<Bytes> {
        self.now.get(path).cloned().flatten()
    }

    fn may_become(&mut self, path: &str, content: Option<Bytes>) {
        self.also.entry(path.to_owned()).or_default().insert(content);
    }

    fn settle(&mut self, path: &str, content: Option<Bytes>) {
        self.now.insert(path.to_owned(), content);
        self.also.remove(path);
    }

    fn check(&self, found: &[(String, Bytes)], what: &str) {
        for (path, now) in &self.now {
            let found = found.iter().find(|(name, _)| name == path).map(|(_, bytes)| bytes.clone());
            let also = self.also.get(path);
            assert!(
                found == *now || also.is_some_and(|also| also.contains(&found)),
                "{what}: {path} is {:?} bytes, not {:?}",
                found.map(|bytes| bytes.len()),
                now.as_ref().map(Bytes::len)
            );
        }
        for (path, _) in found {
            assert!(
                self.now.contains_key(path) || self.also.contains_key(path),
                "{what}: {path} out of nothing"
            );
        }
    }
}

const PATHS: u64 = 5;

async fn open_lazy(inner: Arc<dyn ObjectStore>, lazy_deletes: bool) -> claviger_core::Result<SealedStore> {
    let options = SealedOptions { lazy_deletes, ..SealedOptions::default() };
    SealedStore::open(inner, Path::from(common::PREFIX), common::keys("test"), common::clock(), options).await
}

/// One random change. An error means that the process is dead.
async fn step(store: &SealedStore, dice: &mut Dice, model: &mut Model) -> std::result::Result<(), ()> {
    let name = format!("p/{}", dice.roll(PATHS));
    let path = Path::from(name.as_str());
    // Few lengths, so that an old file often has the length of the new one.
    let data = content([5, 5, 5, 20_000][dice.roll(4) as usize], dice.roll(1 << 40));
    match dice.roll(10) {
        0..=2 => {
            model.may_become(&name, Some(data.clone()));
            store.put(&path, data.clone().into()).await.map_err(drop)?;
            model.settle(&name, Some(data));
        }
        3 => {
            let exists = model.now(&name).is_some();
            if !exists {
                model.may_become(&name, Some(data.clone()));
            }
            match store.put_opts(&path, data.clone().into(), PutMode::Create.into()).await {
                Ok(_) => {
                    assert!(!exists, "{name} was made twice");
                    model.settle(&name, Some(data));
                }
                Err(Error::AlreadyExists { .. }) => assert!(exists, "{name} is not there"),
                Err(_) => return Err(()),
            }
        }
        4 => {
            model.may_become(&name, Some(data.clone()));
            let mut upload = store.put_multipart(&path).await.map_err(drop)?;
            upload.put_part(data.clone().into()).await.map_err(drop)?;
            if dice.roll(3) == 0 {
                store.flush().await.map_err(drop)?;
            }
            upload.complete().await.map_err(drop)?;
            model.settle(&name, Some(data));
        }
        5 | 6 => {
            let before = model.now(&name);
            model.may_become(&name, None);
            match store.delete(&path).await {
                Ok(()) => {
                    assert!(before.is_some() || model.doubt);
                    model.settle(&name, None);
                    // The file goes with the next flush; until then a crash brings it back.
                    model.may_become(&name, before);
                }
                Err(Error::NotFound { .. }) => assert!(before.is_none()),
                Err(_) => return Err(()),
            }
        }
        7 => {
            let to = format!("p/{}", dice.roll(PATHS));
            let Some(moved) = model.now(&name) else { return Ok(()) };
            if to == name {
                return Ok(());
            }
            model.may_become(&to, Some(moved.clone()));
            model.may_become(&name, None);
            store.rename(&path, &Path::from(to.as_str())).await.map_err(drop)?;
            model.settle(&to, Some(moved));
            model.settle(&name, None);
        }
        8 => {
            store.flush().await.map_err(drop)?;
            model.also.clear();
        }
        _ => match store.get(&path).await {
            Ok(found) => assert_eq!(Some(found.bytes().await.map_err(drop)?), model.now(&name)),
            Err(Error::NotFound { .. }) => assert_eq!(None, model.now(&name)),
            Err(_) => return Err(()),
        },
    }
    Ok(())
}

#[tokio::test]
async fn a_process_that_dies_between_any_two_steps_leaves_no_false_alarm_and_loses_nothing() {
    for seed in 1..400_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let inner = Arc::new(InMemory::new());
        let history = History::default();
        let mut model = Model { lazy: seed % 2 == 0, ..Model::default() };
        for life in 0..4 {
            let what = format!("seed {seed}, life {life}");
            let lives = i64::try_from(dice.roll(30)).unwrap();
            let dying = Dying::new(inner.clone(), lives, dice.roll(2) == 0, history.clone());
            let store =
                open_lazy(Arc::new(dying), model.lazy).await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
            let found = read_all(&store).await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
            model.check(&found, &what);
            model.also.clear();
            model.now = found.into_iter().map(|(path, bytes)| (path, Some(bytes))).collect();
            for _ in 0..60 {
                if step(&store, &mut dice, &mut model).await.is_err() {
                    break;
                }
            }
        }
        let found = verdict(&inner).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        model.check(&found, &format!("seed {seed}, at the end"));
    }
}

#[tokio::test]
async fn no_earlier_content_of_any_file_comes_back_unnoticed_after_a_clean_close() {
    for seed in 1..60_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let (inner, history) = (Arc::new(InMemory::new()), History::default());
        let mut model = Model { lazy: seed % 2 == 0, ..Model::default() };
        for _ in 0..2 {
            let dying = Dying::new(inner.clone(), i64::MAX, false, history.clone());
            let store = open_lazy(Arc::new(dying), model.lazy).await.unwrap();
            for _ in 0..15 {
                step(&store, &mut dice, &mut model).await.unwrap();
            }
            store.close().await.unwrap();
        }
        let good = verdict(&inner).await.unwrap();
        let current = files(&inner).await;
        let history = history.lock().unwrap().clone();
        for (path, old) in history {
            if current.iter().any(|(name, bytes)| *name == path && *bytes == old) {
                continue;
            }
            let changed = inner.fork();
            changed.put(&path, old.into()).await.unwrap();
            match verdict(&changed).await {
                // An old ledger may be caught by any file that it does not fit.
                Err(tamper) => assert!(tamper.path == path.as_ref() || path.as_ref().ends_with("_ledger")),
                // And it does no harm where nothing that it says has changed since.
                Ok(found) => {
                    assert!(path.as_ref().ends_with("_ledger") && found == good, "seed {seed}: {path}")
                }
            }
        }
        for (path, _) in current {
            let changed = inner.fork();
            changed.delete(&path).await.unwrap();
            if good.is_empty() {
                continue;
            }
            assert_eq!(verdict(&changed).await.map(drop).unwrap_err().path, path.as_ref(), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn an_acknowledged_overwrite_cannot_be_taken_back_even_after_a_crash() {
    for seed in 1..300_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e6c_63d0_976a_4f35));
        let (inner, history) = (Arc::new(InMemory::new()), History::default());
        let mut model = Model { lazy: seed % 2 == 0, ..Model::default() };
        let dying = Dying::new(inner.clone(), i64::MAX, false, history.clone());
        // Dropped without a close: what is not in the ledger by now will never be.
        let store = open_lazy(Arc::new(dying), model.lazy).await.unwrap();
        for _ in 0..20 {
            step(&store, &mut dice, &mut model).await.unwrap();
        }
        drop(store);
        let current = files(&inner).await;
        let history = history.lock().unwrap().clone();
        for (path, old) in history {
            let replaced = current.iter().any(|(name, bytes)| *name == path && *bytes != old);
            if !replaced || path.as_ref().ends_with("_ledger") {
                continue;
            }
            let changed = inner.fork();
            changed.put(&path, old.into()).await.unwrap();
            let noticed = verdict(&changed).await.map(drop);
            let tamper = noticed.expect_err(&format!("seed {seed}: {path} came back unnoticed"));
            assert_eq!(tamper.path, path.as_ref(), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn a_deleted_file_put_back_is_noticed_once_the_delete_was_flushed() {
    let inner = Arc::new(InMemory::new());
    let store = open(inner.clone()).await.unwrap();
    store.put(&Path::from("keep"), "k".into()).await.unwrap();
    store.put(&Path::from("gone"), "g".into()).await.unwrap();
    store.flush().await.unwrap();
    let full = Path::from("scope/one/gone");
    let old = inner.get(&full).await.unwrap().bytes().await.unwrap();
    store.delete(&Path::from("gone")).await.unwrap();
    assert!(matches!(store.get(&Path::from("gone")).await, Err(Error::NotFound { .. })));
    store.close().await.unwrap();
    assert!(matches!(inner.get(&full).await, Err(Error::NotFound { .. })));
    inner.put(&full, old.into()).await.unwrap();
    let tamper = verdict(&inner).await.unwrap_err();
    assert_eq!(tamper.to_string(), "the stored file scope/one/gone was changed: an old file was put back");
}

#[tokio::test]
async fn a_store_that_is_only_read_writes_nothing_and_an_idle_one_neither() {
    let inner = Arc::new(InMemory::new());
    let store = open(inner.clone()).await.unwrap();
    store.put(&Path::from("a"), "1".into()).await.unwrap();
    store.close().await.unwrap();
    let before = files(&inner).await;
    let history = History::default();
    let store = open(Arc::new(Dying::new(inner.clone(), 0, false, history))).await.unwrap();
    assert_eq!(read_all(&store).await.unwrap().len(), 1);
    store.close().await.unwrap();
    assert_eq!(files(&inner).await, before);
}

#[tokio::test]
async fn a_change_whose_answer_got_lost_is_no_alarm_then_and_later() {
    for seed in 1..300_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let inner = Arc::new(InMemory::new());
        let mut flaky = Dying::new(inner.clone(), 0, dice.roll(4) != 0, History::default());
        flaky.recovers = true;
        let left = flaky.left.clone();
        left.store(i64::MAX, Ordering::SeqCst);
        let mut model = Model { doubt: true, lazy: seed % 2 == 0, ..Model::default() };
        let store = open_lazy(Arc::new(flaky), model.lazy).await.unwrap();
        for round in 0..40 {
            let what = format!("seed {seed}, round {round}");
            left.store(i64::try_from(dice.roll(4)).unwrap(), Ordering::SeqCst);
            let _ = step(&store, &mut dice, &mut model).await;
            left.store(i64::MAX, Ordering::SeqCst);
            let found = read_all(&store).await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
            model.check(&found, &what);
            // What is there now stays.
            model.now.values_mut().for_each(|now| *now = None);
            model.also.clear();
            model.now.extend(found.into_iter().map(|(path, bytes)| (path, Some(bytes))));
        }
        store.close().await.unwrap();
        let found = verdict(&inner).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        model.check(&found, &format!("seed {seed}, at the end"));
    }
}

#[tokio::test]
async fn a_sequence_that_a_dead_process_gave_out_is_never_given_out_again() {
    let (path, full) = (Path::from("p"), Path::from("scope/one/p"));
    for others in 0..6 {
        let inner = Arc::new(InMemory::new());
        let first = open(inner.clone()).await.unwrap();
        first.put(&Path::from("a"), "x".into()).await.unwrap();
        first.close().await.unwrap();
        // Written, never noted in a ledger, and taken away while no process runs.
        let second = open(inner.clone()).await.unwrap();
        for other in 0..others {
            second.put(&Path::from(format!("o/{other}")), "x".into()).await.unwrap();
        }
        second.put(&path, "12345".into()).await.unwrap();
        drop(second);
        let taken = inner.get(&full).await.unwrap().bytes().await.unwrap();
        inner.delete(&full).await.unwrap();
        // Were the sequences given out from where the ledger stood, one of these would be the same.
        for writes in 1..4 {
            let inner = Arc::new(inner.fork());
            let third = open(inner.clone()).await.unwrap();
            for _ in 0..writes {
                third.put(&path, "abcde".into()).await.unwrap();
            }
            third.close().await.unwrap();
            inner.put(&full, taken.clone().into()).await.unwrap();
            assert_eq!(verdict(&inner).await.map(drop).unwrap_err().what, Change::Old);
        }
    }
}

#[tokio::test]
async fn an_old_ledger_put_back_beside_newer_files_is_noticed_and_so_is_a_missing_one() {
    let inner = Arc::new(InMemory::new());
    let ledger = Path::from("scope/one/_ledger");
    let mut old = Vec::new();
    for name in ["a", "b", "c"] {
        let store = open(inner.clone()).await.unwrap();
        store.put(&Path::from(name), "x".into()).await.unwrap();
        store.close().await.unwrap();
        old.push(inner.get(&ledger).await.unwrap().bytes().await.unwrap());
    }
    old.pop();
    for old in old {
        let changed = inner.fork();
        changed.put(&ledger, old.into()).await.unwrap();
        let tamper = verdict(&changed).await.map(drop).unwrap_err();
        assert_eq!((tamper.path.as_str(), tamper.what), (ledger.as_ref(), Change::LedgerOld));
    }
    inner.delete(&ledger).await.unwrap();
    let tamper = verdict(&inner).await.map(drop).unwrap_err();
    assert_eq!((tamper.path.as_str(), tamper.what), (ledger.as_ref(), Change::LedgerMissing));
}

#[tokio::test]
async fn a_second_server_on_the_same_files_makes_the_first_stop_writing() {
    let inner = Arc::new(InMemory::new());
    let first = open(inner.clone()).await.unwrap();
    first.put(&Path::from("a"), "1".into()).await.unwrap();
    first.flush().await.unwrap();
    let second = open(inner.clone()).await.unwrap();
    second.put(&Path::from("b"), "2".into()).await.unwrap();
    first.put(&Path::from("c"), "3".into()).await.unwrap();
    let error = first.flush().await.unwrap_err();
    assert_eq!(error.kind(), claviger_core::ErrorKind::Internal, "{error:?}");
    assert!(format!("{error:?}").contains("another server uses this store"), "{error:?}");
}

#[tokio::test]
async fn the_ledger_is_written_some_time_after_a_change_and_not_again_without_one() {
    let (inner, clock) = (Arc::new(InMemory::new()), common::clock());
    let store = common::open_with(inner.clone(), clock.clone()).await.unwrap();
    let ledger = Path::from("scope/one/_ledger");
    let etag = async || inner.head(&ledger).await.unwrap().e_tag;
    store.put(&Path::from("a"), "1".into()).await.unwrap();
    let first = etag().await;
    let settle = async || {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    };
    settle().await;
    assert_eq!(etag().await, first);
    clock.advance(Duration::from_secs(2));
    settle().await;
    let second = etag().await;
    assert_ne!(second, first);
    for _ in 0..5 {
        clock.advance(Duration::from_secs(3600));
        settle().await;
    }
    assert_eq!(etag().await, second);
    drop(store);
    assert_eq!(verdict(&inner).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_is_gone_for_good_when_its_delete_returns_also_after_a_failed_try() {
    let inner = Arc::new(InMemory::new());
    let mut flaky = Dying::new(inner.clone(), i64::MAX, false, History::default());
    flaky.recovers = true;
    let left = flaky.left.clone();
    let store = open_lazy(Arc::new(flaky), false).await.unwrap();
    let (path, full) = (Path::from("key"), Path::from("scope/one/key"));
    store.put(&path, "material".into()).await.unwrap();
    store.flush().await.unwrap();
    // The ledger's write fails, then the file's removal.
    for changes in [0, 1] {
        left.store(changes, Ordering::SeqCst);
        let error = store.delete(&path).await.unwrap_err();
        assert!(!matches!(error, Error::NotFound { .. }), "{error:?}");
        assert!(inner.head(&full).await.is_ok());
    }
    assert!(matches!(store.delete(&path).await, Ok(()) | Err(Error::NotFound { .. })));
    assert!(matches!(inner.head(&full).await, Err(Error::NotFound { .. })));
    drop(store);
    assert!(verdict(&inner).await.unwrap().is_empty());
}
