//! What the tests of this crate share: a job's space over a sealed store in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use claviger_core::{Error, ManualClock, Result, Timestamp};
use claviger_crypto::SecretKey;
use claviger_sealed::{FixedKey, ScopeId, SealedOptions, SealedStore};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use crate::{Budget, Space};

pub(crate) struct Job {
    pub(crate) space: Arc<Space>,
    pub(crate) sealed: SealedStore,
    pub(crate) disk: Arc<SmallDisk>,
    pub(crate) locked: Arc<AtomicBool>,
    /// Questions to the guard that still pass; none for all.
    pub(crate) passes: Arc<Mutex<Option<usize>>>,
}

impl Job {
    pub(crate) async fn new(memory: usize) -> Self {
        Self::sharing(Budget::new(memory)).await
    }

    pub(crate) async fn sharing(budget: Arc<Budget>) -> Self {
        let disk = Arc::new(SmallDisk::default());
        let keys = Arc::new(FixedKey::new(ScopeId::new("job"), SecretKey::from_slice(&[7; 32]).unwrap()));
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let options = SealedOptions::default();
        let sealed = SealedStore::open(disk.clone(), "job".into(), keys, clock, options).await.unwrap();
        let (locked, passes) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None::<usize>)));
        let (is_locked, left) = (locked.clone(), passes.clone());
        let guard = move || -> Result<()> {
            let refused =
                || Error::precondition("key k is disabled").violating("KEY_DISABLED", "k", "disabled");
            if let Some(left) = left.lock().unwrap().as_mut() {
                *left = left.checked_sub(1).ok_or_else(refused)?;
            }
            if is_locked.load(Ordering::Relaxed) { Err(refused()) } else { Ok(()) }
        };
        let space = Space::new(Arc::new(sealed.clone()), "shuffle".into(), budget, Arc::new(guard));
        Self { space, sealed, disk, locked, passes }
    }

    /// Paths of all files that are left, without the store's own.
    pub(crate) async fn files(&self) -> Vec<String> {
        self.space.delete_doomed().await;
        self.sealed.flush().await.unwrap();
        let listed: Vec<_> = self.disk.list(None).try_collect().await.unwrap();
        let paths = listed.into_iter().map(|meta| meta.location.to_string());
        paths.filter(|path| !path.ends_with("_ledger")).collect()
    }

    /// Changes a bit in the middle of every file that was stored.
    pub(crate) async fn flip_all(&self) {
        use object_store::ObjectStoreExt;
        for path in self.files().await {
            let path = path.as_str().into();
            let mut bytes = self.disk.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            self.disk.put(&path, bytes.into()).await.unwrap();
        }
    }
}

/// A store in memory that can be full.
#[derive(Debug, Default)]
pub(crate) struct SmallDisk {
    inner: InMemory,
    is_full: AtomicBool,
}

impl std::fmt::Display for SmallDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SmallDisk")
    }
}

impl SmallDisk {
    pub(crate) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }

    /// The ledger of live files finds room: a disk keeps some for that.
    fn check(&self, path: &Path) -> object_store::Result<()> {
        if self.is_full.load(Ordering::Relaxed) && path.filename() != Some("_ledger") {
            let source = Box::new(std::io::Error::from_raw_os_error(28));
            return Err(object_store::Error::Generic { store: "small", source });
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for SmallDisk {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.check(path)?;
        self.inner.put_opts(path, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.check(path)?;
        self.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(path, options).await
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

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Seeded numbers (xorshift64*), so that a failing run can be had again.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit.max(1)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}
