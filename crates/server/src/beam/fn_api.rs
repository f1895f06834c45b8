//! Beam's Fn API: what workers connect to. Which worker calls is in the metadata of each call.
//!
//! Invariant: adapters only. A worker that is not expected gets nothing, whatever it calls.

mod pools;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use claviger_beam_proto::fn_execution as fnapi;
use claviger_beam_proto::job_management::artifact_retrieval_service_server::{
    ArtifactRetrievalService, ArtifactRetrievalServiceServer,
};
use claviger_beam_proto::job_management::{
    GetArtifactRequest, GetArtifactResponse, ResolveArtifactsRequest, ResolveArtifactsResponse,
};
use claviger_core::{Error, ErrorKind, Result};
use claviger_harness::Harnesses;
use claviger_harness::limits::MESSAGE_BYTES;
use fnapi::beam_fn_control_server::{BeamFnControl, BeamFnControlServer};
use fnapi::beam_fn_data_server::{BeamFnData, BeamFnDataServer};
use fnapi::beam_fn_logging_server::{BeamFnLogging, BeamFnLoggingServer};
use fnapi::beam_fn_state_server::{BeamFnState, BeamFnStateServer};
use fnapi::provision_service_server::{ProvisionService, ProvisionServiceServer};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use tonic::service::RoutesBuilder;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::status::status;

pub(crate) use pools::WorkerPools;

/// The largest message of control and log, bytes: a graph of a stage, the metrics of a bundle.
const INSTRUCTION_BYTES: usize = 64 * 1024 * 1024;
/// The most of a file that goes into one message, bytes.
const ARTIFACT_CHUNK_BYTES: usize = 1024 * 1024;

type Answer<T> = BoxStream<'static, Result<T, Status>>;

/// Whether a path is one of a service that workers call. They have no tokens: what they call asks for the name of a worker
/// that runs, which has 122 random bits and is told to that worker alone.
pub(crate) fn is_for_workers(path: &str) -> bool {
    path.starts_with("/org.apache.beam.model.fn_execution.v1.")
        || path.starts_with("/org.apache.beam.model.job_management.v1.ArtifactRetrievalService/")
}

/// The services that workers connect to.
#[derive(Clone, Debug)]
pub(crate) struct FnApi {
    harnesses: Arc<Harnesses>,
}

impl FnApi {
    pub(crate) fn new(harnesses: Arc<Harnesses>) -> Self {
        Self { harnesses }
    }

    /// Adds all of them.
    pub(crate) fn add_to(&self, routes: &mut RoutesBuilder) {
        let control = BeamFnControlServer::new(self.clone());
        routes.add_service(control.max_decoding_message_size(INSTRUCTION_BYTES));
        routes.add_service(BeamFnDataServer::new(self.clone()).max_decoding_message_size(MESSAGE_BYTES));
        routes.add_service(BeamFnStateServer::new(self.clone()).max_decoding_message_size(MESSAGE_BYTES));
        let logging = BeamFnLoggingServer::new(self.clone());
        routes.add_service(logging.max_decoding_message_size(INSTRUCTION_BYTES));
        routes.add_service(ProvisionServiceServer::new(self.clone()));
        routes.add_service(ArtifactRetrievalServiceServer::new(self.clone()));
    }
}

/// The worker that calls.
fn worker<T>(request: &Request<T>) -> Result<String, Status> {
    let id = request.metadata().get("worker_id").and_then(|id| id.to_str().ok());
    id.map(str::to_owned).ok_or_else(|| {
        Status::unauthenticated("the call does not say which worker it comes from (worker_id)")
    })
}

/// What a worker sends. A message beyond its limit is told from a connection that broke.
fn incoming<T: Send + 'static>(messages: Streaming<T>) -> BoxStream<'static, Result<T>> {
    let error = |status: Status| {
        let kind = match status.code() {
            Code::OutOfRange | Code::ResourceExhausted => ErrorKind::ResourceExhausted,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, status.message())
    };
    messages.map(move |message| message.map_err(error)).boxed()
}

fn outgoing<T: Send + 'static>(
    messages: Result<BoxStream<'static, T>>,
) -> Result<Response<Answer<T>>, Status> {
    Ok(Response::new(messages.map_err(status)?.map(Ok).boxed()))
}

#[tonic::async_trait]
impl BeamFnControl for FnApi {
    type ControlStream = Answer<fnapi::InstructionRequest>;

    async fn control(
        &self,
        request: Request<Streaming<fnapi::InstructionResponse>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let worker = worker(&request)?;
        outgoing(self.harnesses.control(&worker, incoming(request.into_inner())))
    }

    async fn get_process_bundle_descriptor(
        &self,
        request: Request<fnapi::GetProcessBundleDescriptorRequest>,
    ) -> Result<Response<fnapi::ProcessBundleDescriptor>, Status> {
        let worker = worker(&request)?;
        let id = request.into_inner().process_bundle_descriptor_id;
        self.harnesses.descriptor(&worker, &id).map(Response::new).map_err(status)
    }
}

#[tonic::async_trait]
impl BeamFnData for FnApi {
    type DataStream = Answer<fnapi::Elements>;

    async fn data(
        &self,
        request: Request<Streaming<fnapi::Elements>>,
    ) -> Result<Response<Self::DataStream>, Status> {
        let worker = worker(&request)?;
        outgoing(self.harnesses.data(&worker, incoming(request.into_inner())))
    }
}

#[tonic::async_trait]
impl BeamFnState for FnApi {
    type StateStream = Answer<fnapi::StateResponse>;

    async fn state(
        &self,
        request: Request<Streaming<fnapi::StateRequest>>,
    ) -> Result<Response<Self::StateStream>, Status> {
        let worker = worker(&request)?;
        outgoing(self.harnesses.state(&worker, incoming(request.into_inner())))
    }
}

#[tonic::async_trait]
impl BeamFnLogging for FnApi {
    type LoggingStream = Answer<fnapi::LogControl>;

    async fn logging(
        &self,
        request: Request<Streaming<fnapi::log_entry::List>>,
    ) -> Result<Response<Self::LoggingStream>, Status> {
        let worker = worker(&request)?;
        let reading = self.harnesses.logging(&worker, incoming(request.into_inner())).map_err(status)?;
        // Nothing is said to the worker, but the end of its log.
        let nothing = reading.into_stream().flat_map(|()| stream::empty());
        Ok(Response::new(nothing.boxed()))
    }
}

#[tonic::async_trait]
impl ProvisionService for FnApi {
    async fn get_provision_info(
        &self,
        request: Request<fnapi::GetProvisionInfoRequest>,
    ) -> Result<Response<fnapi::GetProvisionInfoResponse>, Status> {
        let worker = worker(&request)?;
        let info = self.harnesses.provision_info(&worker).await.map_err(status)?;
        Ok(Response::new(fnapi::GetProvisionInfoResponse { info: Some(info) }))
    }
}

#[tonic::async_trait]
impl ArtifactRetrievalService for FnApi {
    type GetArtifactStream = Answer<GetArtifactResponse>;

    async fn resolve_artifacts(
        &self,
        request: Request<ResolveArtifactsRequest>,
    ) -> Result<Response<ResolveArtifactsResponse>, Status> {
        self.harnesses.artifacts(&worker(&request)?).map_err(status)?;
        // All artifacts can be fetched from here as they are.
        let replacements = request.into_inner().artifacts;
        Ok(Response::new(ResolveArtifactsResponse { replacements }))
    }

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let source = self.harnesses.artifacts(&worker(&request)?).map_err(status)?;
        let artifact = request.into_inner().artifact.unwrap_or_default();
        let bytes = source.open(&artifact).await.map_err(status)?;
        let parts = bytes.flat_map(|bytes| match bytes {
            Ok(mut bytes) => stream::iter(std::iter::from_fn(move || {
                let part = bytes.split_to(bytes.len().min(ARTIFACT_CHUNK_BYTES));
                (!part.is_empty()).then_some(Ok(GetArtifactResponse { data: part }))
            }))
            .boxed(),
            Err(error) => stream::once(std::future::ready(Err(status(error)))).boxed(),
        });
        Ok(Response::new(parts.boxed()))
    }
}
