//! What jobs need of the buckets of this process.
//!
//! Invariant: a job reads buckets as any client does, under the buckets' own keys.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_buckets::Buckets;
use claviger_core::Result;
use claviger_dataflow::CloudFiles;
use claviger_dataflow::files::BucketInfo;
use futures::stream::BoxStream;

/// The buckets of this process.
pub(crate) struct Files(pub(crate) Arc<Buckets>);

#[async_trait]
impl CloudFiles for Files {
    async fn bucket(&self, name: &str) -> Result<BucketInfo> {
        let bucket = self.0.bucket(name)?;
        Ok(BucketInfo {
            location: bucket.location.as_str().to_ascii_lowercase(),
            kms_key: bucket.config.kms_key.clone(),
        })
    }

    async fn open(&self, bucket: &str, object: &str) -> Result<(u64, BoxStream<'static, Result<Bytes>>)> {
        let (object, bytes) = self.0.open_object(bucket, object).await?;
        Ok((object.size, bytes))
    }
}
