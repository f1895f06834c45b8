//! The staged files of a job, as its workers fetch them.
//!
//! Invariant: a source shows the files of one job's environment and no other's.

use async_trait::async_trait;
use bytes::Bytes;
use claviger_beam_proto::pipeline::ArtifactInformation;
use claviger_core::Result;
use futures::stream::BoxStream;

/// The files that an environment needs.
#[async_trait]
pub trait ArtifactSource: Send + Sync {
    /// All of them.
    ///
    /// # Errors
    /// Those of the storage behind it.
    async fn list(&self) -> Result<Vec<ArtifactInformation>>;

    /// The bytes of one that [`ArtifactSource::list`] showed.
    ///
    /// # Errors
    /// `NotFound` for one that it did not show; those of the storage behind it.
    async fn open(&self, artifact: &ArtifactInformation) -> Result<BoxStream<'static, Result<Bytes>>>;
}
