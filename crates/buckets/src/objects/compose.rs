//! Composing one object of others.
//!
//! Invariant: the sources are read as they were when the request came; the result is there whole or not
//! at all.

use std::sync::Arc;

use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, Result};
use futures::{StreamExt, TryStreamExt};

use super::read::ReadRequest;
use super::write::{Origin, WriteRequest};
use crate::Buckets;
use crate::checksums::Expected;
use crate::model::{Conditions, Object, ObjectMetadata};

/// The most sources of one request.
pub(crate) const MAX_SOURCES: usize = 32;

/// One part.
#[derive(Clone, Debug, Default)]
pub struct ComposeSource {
    /// The object, in the same bucket.
    pub name: String,
    /// Which version; none for the live one.
    pub generation: Option<i64>,
    /// The live version must be this one.
    pub generation_match: Option<i64>,
}

/// Objects to put one after the other.
#[derive(Clone, Debug, Default)]
pub struct ComposeRequest {
    /// The bucket.
    pub bucket: String,
    /// The object to write.
    pub name: String,
    /// What its user sets.
    pub metadata: ObjectMetadata,
    /// The parts, in order.
    pub sources: Vec<ComposeSource>,
    /// The key; none for the bucket's default.
    pub kms_key: Option<CryptoKeyName>,
    /// What must hold of what is there.
    pub conditions: Conditions,
}

impl Buckets {
    /// Composes an object of up to 32 others.
    ///
    /// # Errors
    /// `InvalidArgument` for no or too many sources; as for [`Self::read`] and [`Self::write`].
    pub async fn compose(self: &Arc<Self>, request: ComposeRequest) -> Result<Object> {
        if request.sources.is_empty() {
            return Err(Error::invalid("You must provide at least one source component."));
        }
        if request.sources.len() > MAX_SOURCES {
            return Err(Error::invalid(format!(
                "The number of source components provided ({}) exceeds the maximum ({MAX_SOURCES}).",
                request.sources.len()
            )));
        }
        let mut count = 0_u32;
        let mut reads = Vec::with_capacity(request.sources.len());
        for source in request.sources {
            let conditions =
                Conditions { generation_match: source.generation_match, ..Conditions::default() };
            let found = self.object(&request.bucket, &source.name, source.generation, &conditions).await?;
            count = count.saturating_add(found.component_count.unwrap_or(1));
            reads.push(ReadRequest {
                bucket: request.bucket.clone(),
                name: source.name,
                generation: Some(found.generation),
                ..ReadRequest::default()
            });
        }
        let buckets = self.clone();
        let parts = futures::stream::iter(reads).then(move |read| {
            let buckets = buckets.clone();
            async move { Ok::<_, Error>(buckets.read(read).await?.body) }
        });
        let write = WriteRequest {
            bucket: request.bucket,
            name: request.name,
            metadata: request.metadata,
            kms_key: request.kms_key,
            conditions: request.conditions,
            expected: Expected::default(),
            body: parts.try_flatten().boxed(),
        };
        self.write_as(write, Origin::Composed(count)).await
    }
}
