//! The staged files of a job: taken from those who submit it, checked, kept sealed in the job's work place, and
//! given to its workers.
//!
//! Invariant: workers are given what was staged and nothing else. A file whose bytes are not those that the
//! pipeline names ends the job before it starts.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_beam_proto::pipeline::{
    ArtifactFilePayload, ArtifactInformation, ArtifactStagingToRolePayload, ArtifactUrlPayload,
    EmbeddedFilePayload,
};
use claviger_core::{Error, ErrorKind, Result};
use claviger_harness::ArtifactSource;
use claviger_shuffle::Space;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::files::CloudName;
use crate::job::Job;
use crate::{Dataflow, lock};

const FILE: &str = "beam:artifact:type:file:v1";
const URL: &str = "beam:artifact:type:url:v1";
const EMBEDDED: &str = "beam:artifact:type:embedded:v1";
const PYPI: &str = "beam:artifact:type:pypi:v1";
const STAGING_TO: &str = "beam:artifact:role:staging_to:v1";

/// The files of a job.
const ARTIFACTS: usize = 10_000;
/// A staged file, bytes.
const ARTIFACT_BYTES: u64 = 8 << 30;

/// A file that workers may have.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    /// As it is shown to them.
    info: ArtifactInformation,
    /// Where its bytes are. None: it has none, such as the name of a public package.
    blob: Option<String>,
}

/// Takes the files of one job.
pub struct Staging {
    job: Arc<Job>,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Staging({})", self.job.id())
    }
}

impl Dataflow {
    /// The job that a staging token was given for.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn staging(&self, token: &str) -> Result<Staging> {
        let id = lock(&self.shared.tokens).get(token).cloned();
        let job = id.and_then(|id| lock(&self.shared.jobs).get(&id).cloned());
        let job = job.ok_or_else(|| Error::not_found("No job waits for files under this token."))?;
        Ok(Staging { job })
    }
}

impl Staging {
    pub(crate) fn new(job: Arc<Job>) -> Self {
        Self { job }
    }

    /// The files that the pipeline's environments name, each once. None for a job that ended already.
    #[must_use]
    pub fn wanted(&self) -> Vec<ArtifactInformation> {
        if self.job.head().state().is_terminal() {
            return Vec::new();
        }
        self.job.dependencies()
    }

    /// Takes a file that needs nobody's help: one that is in the message, in a bucket, or that workers get
    /// elsewhere. False for one whose bytes the submitter has.
    ///
    /// # Errors
    /// What reading it answers; `Unimplemented` for a type that is not known.
    pub async fn take(&self, info: &ArtifactInformation) -> Result<bool> {
        match info.type_urn.as_str() {
            PYPI => self.add(Staged { info: info.clone(), blob: None }).map(|()| true),
            EMBEDDED => {
                let payload: EmbeddedFilePayload = decode(info)?;
                self.put(info, stream::iter([Ok(payload.data)])).await?;
                Ok(true)
            }
            URL => {
                let payload: ArtifactUrlPayload = decode(info)?;
                let Some(name) = CloudName::parse(&payload.url) else { return Ok(false) };
                let cloud = self.job.cloud(&name)?;
                let opened = cloud.open(&name.bucket, &name.object).await;
                let (_, bytes) = opened.map_err(|error| {
                    Error::new(
                        error.kind(),
                        format!("The staged file {name} cannot be read: {}", error.message()),
                    )
                    .because(error)
                })?;
                self.put(info, bytes).await?;
                Ok(true)
            }
            FILE => Ok(false),
            urn => Err(Error::unimplemented(format!(
                "The staged file '{}' is of the type {urn}, which is not built.",
                name_of(info)
            ))),
        }
    }

    /// Takes the bytes of a file.
    ///
    /// # Errors
    /// `InvalidArgument` when they are not those that the pipeline names; `ResourceExhausted` for too many; what the
    /// stream and the job's storage answer.
    pub async fn put(
        &self,
        info: &ArtifactInformation,
        bytes: impl Stream<Item = Result<Bytes>> + Send,
    ) -> Result<()> {
        let name = name_of(info);
        let expected = hash_of(info)?;
        let work = self.job.work().await?;
        let number = self.job.next_artifact()?;
        let blob = format!("artifact/{number}");
        let mut writer = work.blob_writer(&blob)?;
        let mut hash = Sha256::new();
        let mut length = 0_u64;
        let mut bytes = std::pin::pin!(bytes);
        while let Some(piece) = bytes.next().await {
            let piece = piece?;
            length += piece.len() as u64;
            if length > ARTIFACT_BYTES {
                return Err(Error::new(
                    ErrorKind::ResourceExhausted,
                    format!("The staged file '{name}' has more than {ARTIFACT_BYTES} bytes."),
                ));
            }
            hash.update(&piece);
            writer.write(piece).await?;
        }
        let found = hex(&hash.finalize());
        if !expected.is_empty() && !expected.eq_ignore_ascii_case(&found) {
            return Err(Error::invalid(format!(
                "The staged file '{name}' is corrupt: its SHA-256 is {found} and should be {expected}."
            )));
        }
        writer.commit().await?;
        let payload = ArtifactFilePayload { path: blob.clone(), sha256: found };
        let info = ArtifactInformation {
            type_urn: FILE.to_owned(),
            type_payload: payload.encode_to_vec().into(),
            role_urn: info.role_urn.clone(),
            role_payload: info.role_payload.clone(),
        };
        self.add(Staged { info, blob: Some(blob) })
    }

    fn add(&self, staged: Staged) -> Result<()> {
        let mut all = lock(self.job.staged());
        if all.len() >= ARTIFACTS {
            return Err(too_many());
        }
        all.push(staged);
        Ok(())
    }

    /// Ends the job, since its files could not be taken.
    pub async fn fail(&self, error: &Error) {
        self.job.give_up(error).await;
    }
}

pub(crate) fn too_many() -> Error {
    Error::new(ErrorKind::ResourceExhausted, format!("A job has at most {ARTIFACTS} staged files."))
}

/// The limit on the files of a job.
pub(crate) fn limit() -> usize {
    ARTIFACTS
}

fn decode<M: Message + Default>(info: &ArtifactInformation) -> Result<M> {
    M::decode(info.type_payload.clone())
        .map_err(|error| Error::invalid("The description of a staged file cannot be read.").because(error))
}

/// What a file is called, for messages.
fn name_of(info: &ArtifactInformation) -> String {
    if info.role_urn == STAGING_TO
        && let Ok(role) = ArtifactStagingToRolePayload::decode(info.role_payload.clone())
    {
        return role.staged_name;
    }
    match info.type_urn.as_str() {
        FILE => decode::<ArtifactFilePayload>(info).map(|file| file.path).unwrap_or_default(),
        URL => decode::<ArtifactUrlPayload>(info).map(|url| url.url).unwrap_or_default(),
        _ => String::new(),
    }
}

/// The hash that the pipeline names, in hexadecimal; empty for none.
fn hash_of(info: &ArtifactInformation) -> Result<String> {
    match info.type_urn.as_str() {
        FILE => Ok(decode::<ArtifactFilePayload>(info)?.sha256),
        URL => Ok(decode::<ArtifactUrlPayload>(info)?.sha256),
        _ => Ok(String::new()),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The staged files, as workers see them.
pub(crate) struct Shelf {
    pub(crate) staged: Vec<Staged>,
    pub(crate) work: Arc<Space>,
}

#[async_trait]
impl ArtifactSource for Shelf {
    async fn list(&self) -> Result<Vec<ArtifactInformation>> {
        Ok(self.staged.iter().map(|staged| staged.info.clone()).collect())
    }

    async fn open(&self, artifact: &ArtifactInformation) -> Result<BoxStream<'static, Result<Bytes>>> {
        let found = self.staged.iter().find(|staged| {
            staged.info.type_urn == artifact.type_urn && staged.info.type_payload == artifact.type_payload
        });
        let blob = found.and_then(|staged| staged.blob.as_deref());
        let blob = blob.ok_or_else(|| Error::not_found("The job has no such staged file."))?;
        Ok(self.work.blob_stream(blob).await?.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stand, artifact};

    #[tokio::test]
    async fn staged_files_reach_workers_as_they_were_and_nothing_else_does() {
        let stand = Stand::new().await;
        let job = stand.prepared("wc").await;
        let staging = Staging::new(job.clone());
        let info = artifact("main.py", "/home/u/main.py", "");
        let pieces = [Bytes::from_static(b"one "), Bytes::from_static(b"two")];
        staging.put(&info, stream::iter(pieces.map(Ok))).await.unwrap();
        let shelf = job.shelf().await.unwrap();
        let listed = shelf.list().await.unwrap();
        let [shown] = listed.as_slice() else { panic!("one file") };
        assert_eq!((shown.role_urn.as_str(), &shown.role_payload), (STAGING_TO, &info.role_payload));
        let payload = ArtifactFilePayload::decode(shown.type_payload.clone()).unwrap();
        assert_eq!(payload.sha256, "8ab63e29a4ba14e4e1688f9c15e5af90895421358c945b0431f85d66977bd3d2");
        let bytes: Vec<_> = shelf.open(shown).await.unwrap().collect().await;
        let bytes: Vec<u8> = bytes.into_iter().flat_map(|piece| piece.unwrap().to_vec()).collect();
        assert_eq!(bytes, b"one two");
        let error = shelf.open(&info).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_corrupt_file_is_refused_by_name_and_leaves_nothing() {
        let stand = Stand::new().await;
        let job = stand.prepared("wc").await;
        let staging = Staging::new(job.clone());
        let info = artifact("model.bin", "/m", &"0".repeat(64));
        let error = staging.put(&info, stream::iter([Ok(Bytes::from_static(b"x"))])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().contains("'model.bin' is corrupt"), "{error}");
        assert!(job.work().await.unwrap().blobs().await.unwrap().is_empty());
        staging.fail(&error).await;
        assert_eq!(job.head().state(), crate::JobState::Failed);
        assert!(staging.wanted().is_empty());
    }

    #[tokio::test]
    async fn embedded_files_and_names_of_packages_need_nobody() {
        let stand = Stand::new().await;
        let job = stand.prepared("wc").await;
        let staging = Staging::new(job.clone());
        let embedded = EmbeddedFilePayload { data: Bytes::from_static(b"in here") };
        let info = ArtifactInformation {
            type_urn: EMBEDDED.into(),
            type_payload: embedded.encode_to_vec().into(),
            ..ArtifactInformation::default()
        };
        assert!(staging.take(&info).await.unwrap());
        let package = ArtifactInformation { type_urn: PYPI.into(), ..ArtifactInformation::default() };
        assert!(staging.take(&package).await.unwrap());
        assert!(!staging.take(&artifact("a", "/a", "")).await.unwrap());
        let unknown = ArtifactInformation { type_urn: "beam:artifact:type:x".into(), ..Default::default() };
        assert_eq!(staging.take(&unknown).await.unwrap_err().kind(), ErrorKind::Unimplemented);
        assert_eq!(job.shelf().await.unwrap().list().await.unwrap().len(), 2);
    }
}
