//! The key that signs the log's checkpoints: one sealed object beside the log's database.
//!
//! ```text
//!  0        4         5
//! +--------+---------+----------------------------+
//! | "CVAK" | 1       | the seed, 32 bytes         |
//! +--------+---------+----------------------------+
//! ```
//!
//! Invariant: it is made once, when a log is opened that has none, and never written again.

use std::sync::Arc;

use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::{SecretBytes, SecretKey};
use claviger_sealed::from_store;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt};

use crate::tlog::LogKey;

const PATH: &str = "signing-key";
const MAGIC: &[u8] = b"CVAK\x01";

/// The log's key; it is made if there is none.
pub(super) async fn open(store: &Arc<dyn ObjectStore>) -> Result<LogKey> {
    let path = Path::from(PATH);
    let read = async { store.get(&path).await?.bytes().await }.await;
    let seed = match read {
        Ok(bytes) => {
            let seed = bytes.strip_prefix(MAGIC).and_then(|seed| SecretKey::from_slice(seed).ok());
            seed.ok_or_else(|| Error::new(ErrorKind::DataLoss, "the key of the audit log cannot be read"))?
        }
        Err(StoreError::NotFound { .. }) => {
            let seed = SecretKey::random()
                .map_err(|e| Error::internal("the machine gives no random bytes").because(e))?;
            let bytes = SecretBytes::new([MAGIC, seed.expose()].concat());
            store.put(&path, bytes.expose().to_vec().into()).await.map_err(from_store)?;
            seed
        }
        Err(error) => return Err(from_store(error)),
    };
    LogKey::new(&seed)
}
