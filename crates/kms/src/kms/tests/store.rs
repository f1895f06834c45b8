//! An object store whose machine fails at a chosen change.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};

use super::*;

/// Passes changes on until `left` of them were made; then it fails them all. `lost` says whether the change
/// at which it fails is made in spite of its error.
#[derive(Debug)]
pub(super) struct Failing {
    inner: Arc<InMemory>,
    left: AtomicI64,
    applied: bool,
}

impl Failing {
    pub(super) fn after(inner: Arc<InMemory>, left: i64, applied: bool) -> Self {
        Self { inner, left: AtomicI64::new(left), applied }
    }

    /// Lets so many more changes pass.
    pub(super) fn allow(&self, left: i64) {
        self.left.store(left, Ordering::SeqCst);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    /// Whether this change is made, and whether it is said to be.
    fn step(&self) -> (bool, bool) {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        (left > 0 || (left == 0 && self.applied), left > 0)
    }
}

fn failure() -> StoreError {
    // Of a kind that the engine does not try again.
    StoreError::NotSupported { source: "the machine failed".into() }
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
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        let (made, said) = self.step();
        let result = if made { self.inner.put_opts(path, payload, options).await } else { Err(failure()) };
        if said { result } else { Err(failure()) }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        let (made, said) = self.step();
        let deleted = if made { self.inner.delete_stream(paths) } else { paths };
        if said { deleted } else { deleted.map(|_| Err(failure())).boxed() }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        let (made, said) = self.step();
        let result = if made { self.inner.copy_opts(from, to, options).await } else { Err(failure()) };
        if said { result } else { Err(failure()) }
    }
}
