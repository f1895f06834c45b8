//! The index of a bucket's objects: how its keys look in the database of the home vault, and single reads.
//!
//! ```text
//! l/ NAME                     the live version of an object, in JSON
//! a/ NAME 00 GENERATION       a noncurrent version; the generation is 8 bytes, big-endian
//! x/ CONTENT                  bytes that no object has: an upload under way, or what is to be removed
//! u/ UPLOAD                   a resumable upload
//! c/ CONTENT                  short contents; these lie in the vault of their key, home or not
//! ```
//!
//! Invariant: names sort as their bytes do, and no name holds a zero byte, so that a page of a listing is
//! one scan. Bytes without an object always have a record under `x/`.

use claviger_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::Object;
use crate::vault::OpenVault;

/// The parts of the index that move with it to another vault.
pub(crate) const MOVING: [&[u8]; 4] = [LIVE, ARCHIVED, LOOSE, UPLOAD];
pub(crate) const LIVE: &[u8] = b"l/";
pub(crate) const ARCHIVED: &[u8] = b"a/";
pub(crate) const LOOSE: &[u8] = b"x/";
pub(crate) const UPLOAD: &[u8] = b"u/";
const CONTENT: &[u8] = b"c/";

/// Bytes that no object has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loose {
    /// The vault that they are in.
    pub(crate) vault: String,
    /// The resumable upload that they belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upload: Option<String>,
}

pub(crate) fn live_key(name: &str) -> Vec<u8> {
    [LIVE, name.as_bytes()].concat()
}

pub(crate) fn archived_key(name: &str, generation: i64) -> Vec<u8> {
    [ARCHIVED, name.as_bytes(), &[0], &generation.to_be_bytes()].concat()
}

pub(crate) fn loose_key(content: &str) -> Vec<u8> {
    [LOOSE, content.as_bytes()].concat()
}

pub(crate) fn upload_key(upload: &str) -> Vec<u8> {
    [UPLOAD, upload.as_bytes()].concat()
}

pub(crate) fn content_key(content: &str) -> Vec<u8> {
    [CONTENT, content.as_bytes()].concat()
}

/// The first key after all that begin so.
pub(crate) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("a record could not be encoded").because(e))
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::new(ErrorKind::DataLoss, "a record of a bucket cannot be read").because(e))
}

/// A record of the index with all writes, of any kind.
pub(crate) async fn get<T: DeserializeOwned>(home: &OpenVault, key: &[u8]) -> Result<Option<T>> {
    let found = home.engine.get_latest(key).await.map_err(|e| home.explain(e))?;
    home.guard()?;
    found.map(|bytes| decode(&bytes)).transpose()
}

/// The live version of an object.
pub(crate) async fn live(home: &OpenVault, name: &str) -> Result<Option<Object>> {
    get(home, &live_key(name)).await
}

/// The version of an object that is asked for: the live one unless a generation is named.
pub(crate) async fn version(home: &OpenVault, name: &str, generation: Option<i64>) -> Result<Option<Object>> {
    let live = live(home, name).await?;
    match (live, generation) {
        (live, None) => Ok(live),
        (Some(live), Some(generation)) if live.generation == generation => Ok(Some(live)),
        (_, Some(generation)) => get(home, &archived_key(name, generation)).await,
    }
}

/// Whether there is any key that begins so.
pub(crate) async fn any(home: &OpenVault, prefix: &[u8]) -> Result<bool> {
    let end = after(prefix);
    let mut rows = home.engine.scan_range(prefix, Some(&end), false).await.map_err(|e| home.explain(e))?;
    let row = rows.next().await.map_err(|e| home.explain(claviger_sealed::engine::from_slatedb(e)))?;
    Ok(row.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_name_come_before_longer_names() {
        let keys =
            [archived_key("a", 5), archived_key("a", 300), archived_key("a b", 1), archived_key("ab", 1)];
        assert!(keys.is_sorted(), "{keys:?}");
        assert!(archived_key("a", i64::MAX) < after(&[ARCHIVED, b"a\0"].concat()));
    }

    #[test]
    fn the_end_of_a_prefix_is_after_all_that_begin_so() {
        assert_eq!(after(b"l/a"), b"l/b");
        assert_eq!(after(&[1, 0xff, 0xff]), [2]);
        assert!(after(&[0xff]).is_empty());
    }
}
