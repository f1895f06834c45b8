//! Submitting a pipeline that was made before, by Beam's Job API: prepare, hand over its files, run.
//!
//! Invariant: only files that the pipeline names are handed over.

use std::path::Path;

use bytes::Bytes;
use claviger_beam_proto::job_management::{
    ArtifactRequestWrapper, ArtifactResponseWrapper, GetArtifactResponse, PrepareJobRequest,
    PrepareJobResponse, ResolveArtifactsResponse, RunJobRequest, artifact_request_wrapper as ask,
    artifact_response_wrapper as told,
};
use claviger_beam_proto::pipeline::{
    ArtifactFilePayload, ArtifactInformation, EmbeddedFilePayload, Pipeline,
};
use futures::SinkExt;
use futures::channel::mpsc;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::io::AsyncReadExt;

use super::run::Request;
use crate::client::Session;
use crate::failure::Failure;

const FILE: &str = "beam:artifact:type:file:v1";
const EMBEDDED: &str = "beam:artifact:type:embedded:v1";
/// What of a file is sent at a time, bytes.
const PIECE_BYTES: usize = 1 << 20;
/// Messages on their way.
const AHEAD: usize = 2;

type Answers = mpsc::Sender<ArtifactResponseWrapper>;

/// Submits a pipeline; gives the job's id.
///
/// # Errors
/// Bytes that are no pipeline; what the server refuses; a file of the pipeline that cannot be read.
pub(super) async fn submit(
    session: &Session,
    request: &Request<'_>,
    bytes: Bytes,
) -> Result<String, Failure> {
    let pipeline = Pipeline::decode(bytes)
        .map_err(|error| Failure::local(format!("the file holds no encoded pipeline: {error}")))?;
    if pipeline.root_transform_ids.is_empty() {
        return Err(Failure::local("the file holds a pipeline without transforms"));
    }
    let files = named(&pipeline);
    let prepare = PrepareJobRequest {
        pipeline: Some(pipeline),
        pipeline_options: Some(options(request)),
        job_name: request.options.name.clone(),
    };
    let mut jobs = session.beam_jobs();
    let prepared = jobs.prepare(prepare).await?.into_inner();
    if prepared.artifact_staging_endpoint.is_some() {
        hand_over(session, &prepared, &files).await?;
    }
    let run = RunJobRequest { preparation_id: prepared.preparation_id, ..RunJobRequest::default() };
    Ok(jobs.run(run).await?.into_inner().job_id)
}

/// The files that a pipeline's environments name.
fn named(pipeline: &Pipeline) -> Vec<ArtifactInformation> {
    let environments = pipeline.components.iter().flat_map(|components| components.environments.values());
    environments.flat_map(|environment| environment.dependencies.clone()).collect()
}

/// The options as Beam's SDKs send them.
fn options(request: &Request<'_>) -> Struct {
    let own = [
        ("job_name", Some(request.options.name.clone())),
        ("project", Some(request.project.to_owned())),
        ("region", request.region.clone()),
        ("dataflow_kms_key", request.kms_key.clone()),
        ("temp_location", request.options.temp_location.clone()),
    ];
    let own = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let all = own.chain(request.options.option.iter().cloned());
    let field =
        |(name, value)| (format!("beam:option:{name}:v1"), Value { kind: Some(Kind::StringValue(value)) });
    Struct { fields: all.map(field).collect() }
}

/// Answers what the server asks about the pipeline's files until it has all.
async fn hand_over(
    session: &Session,
    prepared: &PrepareJobResponse,
    files: &[ArtifactInformation],
) -> Result<(), Failure> {
    let (mut answers, sent) = mpsc::channel(AHEAD);
    let token = ArtifactResponseWrapper {
        staging_token: prepared.staging_session_token.clone(),
        ..ArtifactResponseWrapper::default()
    };
    send(&mut answers, token).await?;
    let mut staging = session.staging();
    let mut questions = staging.reverse_artifact_retrieval_service(sent).await?.into_inner();
    while let Some(question) = questions.message().await? {
        answer(question, files, &mut answers).await?;
    }
    Ok(())
}

async fn send(answers: &mut Answers, answer: ArtifactResponseWrapper) -> Result<(), Failure> {
    // The server's own words come on the other stream.
    answers.send(answer).await.map_err(|_| Failure::local("the server took no more of the pipeline's files"))
}

async fn answer(
    question: ArtifactRequestWrapper,
    files: &[ArtifactInformation],
    answers: &mut Answers,
) -> Result<(), Failure> {
    let file = match question.request {
        Some(ask::Request::ResolveArtifact(resolve)) => {
            // They are what they are: nothing here knows another form of them.
            let resolved = ResolveArtifactsResponse { replacements: resolve.artifacts };
            let response = Some(told::Response::ResolveArtifactResponse(resolved));
            return send(answers, ArtifactResponseWrapper { response, ..Default::default() }).await;
        }
        Some(ask::Request::GetArtifact(get)) => get.artifact.unwrap_or_default(),
        None => return Ok(()),
    };
    if !files.contains(&file) {
        return Err(Failure::local("the server asked for a file that the pipeline does not name"));
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::local(format!("the pipeline's description of a file cannot be read: {error}"))
    };
    match file.type_urn.as_str() {
        FILE => {
            let payload =
                ArtifactFilePayload::decode(file.type_payload.clone()).map_err(|error| unreadable(&error))?;
            send_file(Path::new(&payload.path), answers).await?;
        }
        EMBEDDED => {
            let payload =
                EmbeddedFilePayload::decode(file.type_payload.clone()).map_err(|error| unreadable(&error))?;
            send_piece(payload.data, answers).await?;
        }
        other => {
            return Err(Failure::local(format!(
                "a file of the pipeline is of the type {other}, which is not here"
            )));
        }
    }
    let response = Some(told::Response::GetArtifactResponse(GetArtifactResponse::default()));
    send(answers, ArtifactResponseWrapper { response, is_last: true, ..Default::default() }).await
}

async fn send_piece(data: Bytes, answers: &mut Answers) -> Result<(), Failure> {
    let response = Some(told::Response::GetArtifactResponse(GetArtifactResponse { data }));
    send(answers, ArtifactResponseWrapper { response, ..Default::default() }).await
}

async fn send_file(path: &Path, answers: &mut Answers) -> Result<(), Failure> {
    let failed =
        |error| Failure::local(format!("cannot read {}, which the pipeline needs: {error}", path.display()));
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    loop {
        let mut piece = bytes::BytesMut::with_capacity(PIECE_BYTES);
        if file.read_buf(&mut piece).await.map_err(failed)? == 0 {
            return Ok(());
        }
        send_piece(piece.freeze(), answers).await?;
    }
}

#[cfg(test)]
mod tests {
    use claviger_beam_proto::job_management::GetArtifactRequest;
    use futures::StreamExt;

    use super::*;

    fn file(path: &Path) -> ArtifactInformation {
        let payload =
            ArtifactFilePayload { path: path.to_string_lossy().into_owned(), sha256: String::new() };
        ArtifactInformation {
            type_urn: FILE.into(),
            type_payload: payload.encode_to_vec().into(),
            ..ArtifactInformation::default()
        }
    }

    fn get(artifact: ArtifactInformation) -> ArtifactRequestWrapper {
        let get = GetArtifactRequest { artifact: Some(artifact) };
        ArtifactRequestWrapper { request: Some(ask::Request::GetArtifact(get)) }
    }

    #[tokio::test]
    async fn a_file_that_the_pipeline_names_goes_in_pieces_with_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let bytes = vec![5; PIECE_BYTES + 10];
        std::fs::write(&path, &bytes).unwrap();
        let (mut answers, received) = mpsc::channel(AHEAD);
        let files = [file(&path)];
        let sending = async {
            answer(get(file(&path)), &files, &mut answers).await.unwrap();
            drop(answers);
        };
        let (received, ()) = tokio::join!(received.collect::<Vec<_>>(), sending);
        assert!(received.last().unwrap().is_last);
        assert!(received[..received.len() - 1].iter().all(|piece| !piece.is_last));
        let data = received.into_iter().flat_map(|piece| match piece.response {
            Some(told::Response::GetArtifactResponse(piece)) => piece.data.to_vec(),
            other => panic!("{other:?}"),
        });
        assert_eq!(data.collect::<Vec<_>>(), bytes);
    }

    #[tokio::test]
    async fn a_file_that_the_pipeline_does_not_name_stays_here() {
        let (mut answers, _received) = mpsc::channel(AHEAD);
        let failure = answer(get(file(Path::new("/etc/passwd"))), &[], &mut answers).await.unwrap_err();
        assert!(failure.text().contains("does not name"), "{}", failure.text());
    }
}
