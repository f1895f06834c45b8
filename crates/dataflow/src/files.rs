//! Files behind `gs://` names, as jobs need them.
//!
//! Invariant: whoever serves buckets stands behind this trait; a job knows none of their rules.

use async_trait::async_trait;
use bytes::Bytes;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, Result};
use futures::stream::BoxStream;

/// What a job has to know of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Where it is, in lower case.
    pub location: String,
    /// Its default key.
    pub kms_key: Option<CryptoKeyName>,
}

/// Files in buckets.
#[async_trait]
pub trait CloudFiles: Send + Sync {
    /// A bucket.
    ///
    /// # Errors
    /// `NotFound`.
    async fn bucket(&self, name: &str) -> Result<BucketInfo>;

    /// The length and the bytes of a file.
    ///
    /// # Errors
    /// `NotFound`; the lock of the key that protects it. The stream ends with errors of the same kinds.
    async fn open(&self, bucket: &str, object: &str) -> Result<(u64, BoxStream<'static, Result<Bytes>>)>;
}

/// A file in a bucket, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloudName {
    pub(crate) bucket: String,
    pub(crate) object: String,
}

impl CloudName {
    /// Reads `gs://BUCKET/OBJECT` or `storage.googleapis.com/BUCKET/OBJECT`; none for other names. The object
    /// may be empty.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let rest = ["gs://", "storage.googleapis.com/", "https://storage.googleapis.com/"]
            .into_iter()
            .find_map(|scheme| name.strip_prefix(scheme))?;
        let (bucket, object) = rest.split_once('/').unwrap_or((rest, ""));
        (!bucket.is_empty()).then(|| Self { bucket: bucket.to_owned(), object: object.to_owned() })
    }

    /// As [`Self::parse`], for a whole file.
    pub(crate) fn file(name: &str) -> Result<Self> {
        Self::parse(name).filter(|name| !name.object.is_empty()).ok_or_else(|| {
            Error::invalid(format!("'{name}' is not the name of a file in a bucket (gs://BUCKET/OBJECT)"))
        })
    }
}

impl std::fmt::Display for CloudName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "gs://{}/{}", self.bucket, self.object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_read_in_the_forms_that_sdks_send() {
        for text in ["gs://b/a/x.pb", "storage.googleapis.com/b/a/x.pb"] {
            assert_eq!(CloudName::file(text).unwrap().to_string(), "gs://b/a/x.pb");
        }
        assert_eq!(CloudName::parse("gs://b").unwrap().bucket, "b");
        for wrong in ["", "gs://", "gs:///x", "/tmp/x", "http://elsewhere/b/x"] {
            assert!(CloudName::file(wrong).is_err(), "{wrong}");
        }
        assert!(CloudName::file("gs://b/").is_err());
    }
}
