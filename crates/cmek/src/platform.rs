//! The key of the platform's own records: the catalog, and the wrapped keys of all scopes.
//!
//! Those records are sealed under one intermediate key, which a key that Claviger manages wraps. It
//! cannot be kept among the records that it opens, so it has a small file of its own, outside every
//! sealed store, which holds nothing but the wrapped key.
//!
//! Invariant: the file is written once and never replaced; the key is used only after it is durable.

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName};
use claviger_core::{Caller, Clock, Error, ErrorKind, Result, Timestamp};
use claviger_crypto::{SecretBytes, SecretKey};
use claviger_kms::KeyService;
use claviger_sealed::from_store;
use claviger_sealed::scope::{FixedKey, KeyId, ScopeId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};

use crate::record::{from_base64, length_prefixed, to_base64};

/// The name of the platform's scope.
pub const SCOPE: &str = "platform";
/// The format that this version writes and the only one that it reads.
const FORMAT: u32 = 1;
/// A file of this kind is far smaller.
const MAX_BYTES: u64 = 64 * 1024;
/// Separates the additional data of the platform's key from any other use of a KMS key.
const DOMAIN: &[u8] = b"claviger platform key v1";
/// The generation of the only key.
const GENERATION: KeyId = KeyId(1);

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PlatformKey {
    format: u32,
    key: CryptoKeyName,
    version: CryptoKeyVersionName,
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    wrapped: Vec<u8>,
    created: Timestamp,
}

/// The platform's key: unwrapped by the KMS in the caller's name, or made when `path` of `store` is not
/// there. `key` wraps a new one; a key that is there already names its own.
///
/// # Errors
/// What the KMS answers; `DataLoss` when the file is not what was written; what the store answers.
pub async fn open(
    kms: &dyn KeyService,
    key: &CryptoKeyName,
    caller: &Caller,
    store: Arc<dyn ObjectStore>,
    path: &Path,
    clock: &dyn Clock,
) -> Result<FixedKey> {
    let caller = caller.clone().with("resource", SCOPE).with("scope", SCOPE);
    let aad = length_prefixed(&[DOMAIN, SCOPE.as_bytes(), &GENERATION.0.to_be_bytes()]);
    let file = match read(store.as_ref(), path).await? {
        Some(file) => file,
        None => {
            let secret = crate::manager::random_key()?;
            let plaintext = SecretBytes::new(secret.expose().to_vec());
            let wrapped = kms.encrypt(&caller, key, &plaintext, &aad).await?;
            let file = PlatformKey {
                format: FORMAT,
                key: key.clone(),
                version: wrapped.version,
                wrapped: wrapped.ciphertext,
                created: clock.now(),
            };
            create(store.as_ref(), path, &file).await?;
            // Read back, so that one key is used by all when two made one at the same time.
            read(store.as_ref(), path).await?.ok_or_else(|| lost("the platform's key vanished"))?
        }
    };
    if file.format != FORMAT {
        let text = format!("the platform's key has format {}, this version reads {FORMAT}", file.format);
        return Err(Error::precondition(text));
    }
    let unwrapped = kms.decrypt(&caller, &file.key, &file.wrapped, &aad).await?;
    let secret = SecretKey::from_slice(unwrapped.plaintext.expose())
        .map_err(|e| lost("the platform's key is not a key").because(e))?;
    Ok(FixedKey::new(ScopeId::new(SCOPE), secret))
}

async fn read(store: &dyn ObjectStore, path: &Path) -> Result<Option<PlatformKey>> {
    let object = match store.get(path).await {
        Ok(object) => object,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(from_store(error)),
    };
    if object.meta.size > MAX_BYTES {
        return Err(lost("the platform's key is too large"));
    }
    let json = object.bytes().await.map_err(from_store)?;
    serde_json::from_slice(&json).map(Some).map_err(|e| lost("the platform's key cannot be read").because(e))
}

async fn create(store: &dyn ObjectStore, path: &Path, file: &PlatformKey) -> Result<()> {
    let json = serde_json::to_vec(file)
        .map_err(|e| Error::internal("the platform's key could not be encoded").because(e))?;
    let payload = PutPayload::from_bytes(Bytes::from(json));
    match store.put_opts(path, payload, PutOptions::from(PutMode::Create)).await {
        Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(from_store(error)),
    }
}

fn lost(message: &str) -> Error {
    Error::new(ErrorKind::DataLoss, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_and_written_as_the_fixture_has_it() {
        let fixture = include_str!("../tests/fixtures/platform-key-1.json").trim_end();
        let key = "projects/claviger-managed/locations/global/keyRings/claviger/cryptoKeys/platform";
        let key = CryptoKeyName::parse(key).unwrap();
        let file = PlatformKey {
            format: 1,
            version: key.version_name(1),
            key,
            wrapped: vec![255, 0, 7],
            created: Timestamp(1_700_000_000_000_000),
        };
        assert_eq!(serde_json::from_str::<PlatformKey>(fixture).unwrap(), file);
        assert_eq!(serde_json::to_string(&file).unwrap(), fixture);
    }
}
