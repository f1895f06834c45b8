//! The artifact staging service: we ask, on the response stream, and the submitter answers on the request
//! stream.
//!
//! Invariant: one question at a time is open, and only files that the pipeline names are asked for. A file that
//! cannot be taken ends the job.

use std::sync::Arc;

use bytes::Bytes;
use claviger_beam_proto::job_management as pb;
use claviger_beam_proto::job_management::artifact_staging_service_server::ArtifactStagingService;
use claviger_beam_proto::pipeline::ArtifactInformation;
use claviger_core::{Error, ErrorKind, Result};
use claviger_dataflow::{Dataflow, Staging};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::status::status;

/// Files that a submitter may put in the place of those that the pipeline names.
const REPLACEMENTS: usize = 10_000;

/// The staging service.
#[derive(Clone, Debug)]
pub(super) struct StagingApi(pub(super) Arc<Dataflow>);

type Questions = mpsc::Sender<Result<pb::ArtifactRequestWrapper, Status>>;

#[tonic::async_trait]
impl ArtifactStagingService for StagingApi {
    type ReverseArtifactRetrievalServiceStream =
        BoxStream<'static, Result<pb::ArtifactRequestWrapper, Status>>;

    async fn reverse_artifact_retrieval_service(
        &self,
        request: Request<Streaming<pb::ArtifactResponseWrapper>>,
    ) -> Result<Response<Self::ReverseArtifactRetrievalServiceStream>, Status> {
        let (questions, asked) = mpsc::channel(1);
        let (dataflow, answers) = (self.0.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Err(error) = talk(&dataflow, answers, &questions).await {
                // The submitter may be gone.
                let _ = questions.send(Err(status(error))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(asked).boxed()))
    }
}

async fn talk(
    dataflow: &Dataflow,
    answers: Streaming<pb::ArtifactResponseWrapper>,
    questions: &Questions,
) -> Result<()> {
    let mut talk = Talk { answers, questions };
    let token = talk.answer().await?.staging_token;
    let staging = dataflow.staging(&token)?;
    let staged = talk.stage(&staging).await;
    if let Err(error) = &staged {
        staging.fail(error).await;
    }
    staged
}

/// The talk with one submitter.
struct Talk<'a> {
    answers: Streaming<pb::ArtifactResponseWrapper>,
    questions: &'a Questions,
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "The submitter of the job left while its files were staged.")
}

impl Talk<'_> {
    async fn ask(&self, request: pb::artifact_request_wrapper::Request) -> Result<()> {
        let question = pb::ArtifactRequestWrapper { request: Some(request) };
        self.questions.send(Ok(question)).await.map_err(|_| gone())
    }

    async fn answer(&mut self) -> Result<pb::ArtifactResponseWrapper> {
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(gone()),
            Err(error) => Err(gone().because(error)),
        }
    }

    async fn stage(&mut self, staging: &Staging) -> Result<()> {
        use pb::artifact_request_wrapper::Request as Question;
        use pb::artifact_response_wrapper::Response as Told;
        let artifacts = staging.wanted();
        if artifacts.is_empty() {
            return Ok(());
        }
        let question = pb::ResolveArtifactsRequest { artifacts, preferred_urns: Vec::new() };
        self.ask(Question::ResolveArtifact(question)).await?;
        let Some(Told::ResolveArtifactResponse(resolved)) = self.answer().await?.response else {
            return Err(Error::invalid("The submitter did not answer what files its job needs."));
        };
        if resolved.replacements.len() > REPLACEMENTS {
            return Err(Error::invalid(format!("A job has at most {REPLACEMENTS} staged files.")));
        }
        for artifact in resolved.replacements {
            if !staging.take(&artifact).await? {
                self.fetch(staging, artifact).await?;
            }
        }
        Ok(())
    }

    async fn fetch(&mut self, staging: &Staging, artifact: ArtifactInformation) -> Result<()> {
        use pb::artifact_request_wrapper::Request as Question;
        let question = pb::GetArtifactRequest { artifact: Some(artifact.clone()) };
        self.ask(Question::GetArtifact(question)).await?;
        staging.put(&artifact, self.pieces()).await
    }

    /// The bytes of the file that was asked for.
    fn pieces(&mut self) -> BoxStream<'_, Result<Bytes>> {
        use pb::artifact_response_wrapper::Response as Told;
        stream::unfold(Some(self), |talk| async {
            let talk = talk?;
            let answer = match talk.answer().await {
                Ok(answer) => answer,
                Err(error) => return Some((Err(error), None)),
            };
            match answer.response {
                Some(Told::GetArtifactResponse(piece)) => {
                    Some((Ok(piece.data), (!answer.is_last).then_some(talk)))
                }
                None if answer.is_last => Some((Ok(Bytes::new()), None)),
                _ => Some((Err(Error::invalid("The submitter sent something other than the file.")), None)),
            }
        })
        .boxed()
    }
}
