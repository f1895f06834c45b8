//! Copies and rewrites: the bytes are read under one key and written under another.
//!
//! Invariant: a copy is an upload: it gets a generation of its own and is there whole or not at all.

use std::sync::Arc;

use claviger_core::Result;
use claviger_core::names::CryptoKeyName;

use super::read::ReadRequest;
use super::write::{Origin, WriteRequest};
use crate::Buckets;
use crate::checksums::{Expected, encode_crc32c};
use crate::model::{Conditions, Object, ObjectMetadata};

/// A copy.
#[derive(Clone, Debug, Default)]
pub struct CopyRequest {
    /// The bucket to read from.
    pub source_bucket: String,
    /// The object to read.
    pub source_name: String,
    /// Which version; none for the live one.
    pub source_generation: Option<i64>,
    /// What must hold of the source.
    pub source_conditions: Conditions,
    /// The bucket to write to.
    pub bucket: String,
    /// The object to write.
    pub name: String,
    /// What the copy's user sets, in place of all that the source has; none to keep that.
    pub metadata: Option<ObjectMetadata>,
    /// The key; none for the bucket's default.
    pub kms_key: Option<CryptoKeyName>,
    /// What must hold of what is there.
    pub conditions: Conditions,
}

impl Buckets {
    /// Copies an object, to another name, bucket, key or class.
    ///
    /// # Errors
    /// As for [`Self::read`] and [`Self::write`].
    pub async fn copy(self: &Arc<Self>, request: CopyRequest) -> Result<Object> {
        let source = self
            .read(ReadRequest {
                bucket: request.source_bucket,
                name: request.source_name,
                generation: request.source_generation,
                conditions: request.source_conditions,
                ..ReadRequest::default()
            })
            .await?;
        let metadata = request.metadata.unwrap_or_else(|| ObjectMetadata {
            // Holds stay with the original.
            temporary_hold: false,
            event_based_hold: None,
            storage_class: None,
            ..source.object.metadata.clone()
        });
        let origin = source.object.component_count.map_or(Origin::Upload, Origin::Composed);
        let crc32c = Some(encode_crc32c(source.object.crc32c));
        let write = WriteRequest {
            bucket: request.bucket,
            name: request.name,
            metadata,
            kms_key: request.kms_key,
            conditions: request.conditions,
            expected: Expected { crc32c, md5: None },
            body: source.body,
        };
        self.write_as(write, origin).await
    }
}
