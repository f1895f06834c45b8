//! Small objects, read and written whole, with the service's errors.
//!
//! Invariant: errors name what was done, not the machine's paths.

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

/// The error of the service for one of a store.
pub(crate) fn error(what: &str, error: StoreError) -> Error {
    if let Some(locked) = claviger_sealed::lock_error(&error) {
        return locked;
    }
    if let Some(tamper) = claviger_sealed::tamper(&error) {
        return Error::new(ErrorKind::DataLoss, tamper.to_string()).because(error);
    }
    if claviger_sealed::is_no_space(&error) {
        return Error::new(ErrorKind::ResourceExhausted, "no space left on the server's disk").because(error);
    }
    Error::internal(format!("the KMS could not {what}")).because(error)
}

/// The object, if it is there.
pub(crate) async fn get(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<Option<Bytes>> {
    let read = async { store.get(path).await?.bytes().await }.await;
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(e) => Err(error("read an object", e)),
    }
}

/// Writes an object; it is durable then.
pub(crate) async fn put(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    bytes: Vec<u8>,
    mode: PutMode,
) -> Result<()> {
    let options = PutOptions { mode, ..PutOptions::default() };
    store.put_opts(path, bytes.into(), options).await.map_err(|e| error("write an object", e))?;
    Ok(())
}

/// Removes an object, if it is there.
pub(crate) async fn delete(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<()> {
    match store.delete(path).await {
        Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(e) => Err(error("remove an object", e)),
    }
}
