//! What the tests of the stores share.
#![allow(dead_code, reason = "each test file uses a part of this")]

pub(crate) mod appends;

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::{Clock, ManualClock, Result, Timestamp};
use claviger_crypto::SecretKey;
use claviger_sealed::{FixedKey, ScopeId, SealedOptions, SealedStore, Tamper, tamper};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

pub(crate) const PREFIX: &str = "scope/one";

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp(0)))
}

pub(crate) fn keys(scope: &str) -> Arc<FixedKey> {
    Arc::new(FixedKey::new(ScopeId::new(scope), SecretKey::from_slice(&[0x42; 32]).unwrap()))
}

pub(crate) async fn open(inner: Arc<dyn ObjectStore>) -> Result<SealedStore> {
    open_with(inner, clock()).await
}

pub(crate) async fn open_with(inner: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>) -> Result<SealedStore> {
    SealedStore::open(inner, Path::from(PREFIX), keys("test"), clock, SealedOptions::default()).await
}

/// Bytes that no other length or seed begins with.
pub(crate) fn content(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// All objects and their content, in order.
pub(crate) async fn read_all(store: &dyn ObjectStore) -> object_store::Result<Vec<(String, Bytes)>> {
    let mut found = Vec::new();
    let listed: Vec<_> = store.list(None).try_collect().await?;
    for meta in listed {
        let bytes = store.get(&meta.location).await?.bytes().await?;
        assert_eq!(bytes.len() as u64, meta.size, "{}", meta.location);
        found.push((meta.location.to_string(), bytes));
    }
    found.sort();
    Ok(found)
}

/// Opens a sealed store and reads everything; what was found to be changed on the way.
pub(crate) async fn verdict(inner: &InMemory) -> std::result::Result<Vec<(String, Bytes)>, Tamper> {
    let store = match open(Arc::new(inner.fork())).await {
        Ok(store) => store,
        Err(error) => return Err(tamper(&error).unwrap_or_else(|| panic!("not named: {error:?}"))),
    };
    match read_all(&store).await {
        Ok(found) => Ok(found),
        Err(error) => Err(tamper(&error).unwrap_or_else(|| panic!("not named: {error:?}"))),
    }
}

/// The raw files of the store below.
pub(crate) async fn files(inner: &InMemory) -> Vec<(Path, Bytes)> {
    let mut found = Vec::new();
    // A database in it may be removing what it does not need any more.
    let inner = inner.fork();
    let listed: Vec<_> = inner.list(None).try_collect().await.unwrap();
    for meta in listed {
        let bytes = inner.get(&meta.location).await.unwrap().bytes().await.unwrap();
        found.push((meta.location, bytes));
    }
    found
}
