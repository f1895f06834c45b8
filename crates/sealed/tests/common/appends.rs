//! Stores over a directory that cannot append, or whose disk gets full.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use claviger_sealed::LocalStore;
use claviger_sealed::append::{AppendDir, AppendFile, AppendQuestion, AppendStore};
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

/// A directory whose store can append, cannot, or fails after some appends.
#[derive(Debug)]
pub(crate) struct Wrapped {
    pub(crate) inner: Arc<LocalStore>,
    pub(crate) append: Option<Arc<Full>>,
}

/// The appends of a disk that gets full.
#[derive(Debug)]
pub(crate) struct Full {
    pub(crate) inner: Arc<LocalStore>,
    pub(crate) left: Arc<AtomicI64>,
}

fn full() -> object_store::Error {
    let full = std::io::Error::from_raw_os_error(28);
    object_store::Error::Generic { store: "test", source: Box::new(full) }
}

#[derive(Debug)]
struct FullDir(Arc<dyn AppendDir>, Arc<AtomicI64>);

#[derive(Debug)]
struct FullFile(Box<dyn AppendFile>, Arc<AtomicI64>);

impl AppendStore for Full {
    fn claim(&self, dir: &Path) -> object_store::Result<Arc<dyn AppendDir>> {
        Ok(Arc::new(FullDir(self.inner.claim(dir)?, self.left.clone())))
    }
}

impl AppendDir for FullDir {
    fn create(&self, name: &str, front: &[u8]) -> object_store::Result<Box<dyn AppendFile>> {
        if self.1.load(Ordering::SeqCst) < 0 {
            return Err(full());
        }
        Ok(Box::new(FullFile(self.0.create(name, front)?, self.1.clone())))
    }

    fn cut(&self, name: &str, len: u64) -> object_store::Result<()> {
        self.0.cut(name, len)
    }
}

impl AppendFile for FullFile {
    fn write(&mut self, bytes: &[u8]) -> object_store::Result<()> {
        self.0.write(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> object_store::Result<()> {
        if self.1.fetch_sub(1, Ordering::SeqCst) > 0 {
            return self.0.append(bytes);
        }
        // A part of it still fitted.
        self.0.append(&bytes[..bytes.len() / 2])?;
        Err(full())
    }

    fn finish(&mut self) -> object_store::Result<()> {
        self.0.finish()
    }
}

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrapped")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Wrapped {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> object_store::Result<GetResult> {
        if let (Some(question), Some(append)) = (AppendQuestion::of(&options), &self.append) {
            question.answer(append.clone() as Arc<dyn AppendStore>);
        }
        options.extensions = Default::default();
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
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
