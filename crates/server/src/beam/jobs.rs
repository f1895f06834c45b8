//! Beam's Job API: how SDKs with a portable runner submit, watch and stop jobs.
//!
//! Invariant: adapters only. A prepared job's id is its id when it runs.

mod options;
mod staging;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use claviger_beam_proto::job_management as pb;
use claviger_beam_proto::job_management::artifact_staging_service_server::ArtifactStagingServiceServer;
use claviger_beam_proto::job_management::job_service_server::{JobService, JobServiceServer};
use claviger_beam_proto::pipeline::{ApiServiceDescriptor, MonitoringInfo, Pipeline};
use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, Result, Timestamp, limits};
use claviger_dataflow::{
    Dataflow, Event, Follower, Importance, Job, JobMessage, JobSpec, JobState, Options, Origin, Sdk,
    StateChange,
};
use futures::stream::{self, BoxStream, StreamExt as _};
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};

use crate::operations::timestamp;
use crate::status::status;

/// The name of a job that has none.
const JOB: &str = "job";
/// How a SDK's container says which one it is, among an environment's capabilities.
const SDK_BASE: &str = "beam:version:sdk_base:";
/// How the metrics begin that a pipeline's author defines.
const USER_METRICS: &str = "beam:metric:user:";

type Answer<T> = BoxStream<'static, Result<T, Status>>;

/// What jobs are given that say nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub(crate) project: String,
    pub(crate) region: String,
}

/// Beam's services for those who submit jobs.
#[derive(Clone, Debug)]
pub(crate) struct JobApi {
    dataflow: Arc<Dataflow>,
    defaults: Arc<Defaults>,
    /// Where we are reached, as `HOST:PORT`.
    endpoint: String,
}

impl JobApi {
    pub(crate) fn new(dataflow: Arc<Dataflow>, defaults: Arc<Defaults>, endpoint: String) -> Self {
        Self { dataflow, defaults, endpoint }
    }

    /// Adds all of them.
    pub(crate) fn add_to(&self, routes: &mut RoutesBuilder) {
        routes.add_service(
            JobServiceServer::new(self.clone())
                .max_decoding_message_size(limits::REQUEST_BYTES)
                .max_encoding_message_size(limits::REQUEST_BYTES),
        );
        let staging = ArtifactStagingServiceServer::new(staging::StagingApi(self.dataflow.clone()));
        routes.add_service(staging.max_decoding_message_size(limits::REQUEST_BYTES));
    }

    async fn prepare_job(&self, request: pb::PrepareJobRequest) -> Result<pb::PrepareJobResponse> {
        let pipeline = request.pipeline.ok_or_else(|| Error::invalid_field("pipeline", "is missing"))?;
        let options = Options::new(request.pipeline_options.unwrap_or_default());
        let own = |name: &str| options.text(name).map(str::to_owned);
        let kms_key = own("dataflow_kms_key");
        let at_key = kms_key.as_deref().and_then(|key| CryptoKeyName::parse(key).ok());
        let region = own("region")
            .or_else(|| at_key.map(|key| key.location().to_owned()))
            .unwrap_or_else(|| self.defaults.region.clone());
        let told = Some(request.job_name).filter(|name| !name.is_empty() && name != JOB);
        let spec = JobSpec {
            name: own("job_name").or(told).unwrap_or_else(|| JOB.to_owned()),
            project: own("project").unwrap_or_else(|| self.defaults.project.clone()),
            region,
            kms_key,
            temp_location: own("temp_location"),
            sdk: sdk(&pipeline),
            options,
            origin: Origin::Portable { pipeline: Box::new(pipeline) },
        };
        let job = Box::pin(self.dataflow.create(spec)).await?;
        Ok(pb::PrepareJobResponse {
            preparation_id: job.id().to_string(),
            artifact_staging_endpoint: Some(ApiServiceDescriptor {
                url: self.endpoint.clone(),
                ..ApiServiceDescriptor::default()
            }),
            staging_session_token: self.dataflow.staging_token(&job),
        })
    }

    fn job(&self, id: &str) -> Result<Arc<Job>> {
        self.dataflow.job(id)
    }

    /// A job to follow. Not one that is only prepared: Python's runner puts a deadline of a minute on streams
    /// that it opens before it runs the job, and none on those that it opens after.
    fn followed(&self, id: &str) -> Result<Arc<Job>> {
        let job = self.dataflow.job(id)?;
        if job.state() == JobState::Stopped {
            return Err(Error::not_found(format!("The job {id} was not told to run yet; follow it then.")));
        }
        Ok(job)
    }
}

/// The SDK of a pipeline, as its environments tell.
fn sdk(pipeline: &Pipeline) -> Sdk {
    let environments = pipeline.components.iter().flat_map(|components| components.environments.values());
    let base = environments.flat_map(|environment| &environment.capabilities).find_map(|capability| {
        let (image, version) = capability.strip_prefix(SDK_BASE)?.rsplit_once(':')?;
        Some((image.rsplit('/').next().unwrap_or(image).to_owned(), version.to_owned()))
    });
    let Some((image, version)) = base else { return Sdk::default() };
    let language = image.strip_prefix("beam_").and_then(|rest| rest.strip_suffix("_sdk"));
    let name = match language.map(|language| {
        language.split_at(language.find(|c: char| c.is_ascii_digit()).unwrap_or(language.len()))
    }) {
        Some(("python", number)) => format!("Apache Beam Python {number} SDK"),
        Some(("java", number)) => format!("Apache Beam SDK for Java {number}"),
        Some(("go", _)) => "Apache Beam SDK for Go".to_owned(),
        _ => image,
    };
    Sdk { name, version }
}

fn state(state: JobState) -> pb::job_state::Enum {
    use pb::job_state::Enum;
    match state {
        JobState::Stopped => Enum::Stopped,
        JobState::Pending => Enum::Starting,
        JobState::Running => Enum::Running,
        JobState::Cancelling => Enum::Cancelling,
        JobState::Done => Enum::Done,
        JobState::Failed => Enum::Failed,
        JobState::Cancelled => Enum::Cancelled,
    }
}

fn state_event(change: StateChange) -> pb::JobStateEvent {
    pb::JobStateEvent { state: state(change.state).into(), timestamp: Some(timestamp(change.time)) }
}

fn message(message: JobMessage) -> pb::JobMessage {
    use pb::job_message::MessageImportance;
    let importance = match message.importance() {
        Importance::Debug => MessageImportance::JobMessageDebug,
        Importance::Detailed => MessageImportance::JobMessageDetailed,
        Importance::Basic => MessageImportance::JobMessageBasic,
        Importance::Warning => MessageImportance::JobMessageWarning,
        Importance::Error => MessageImportance::JobMessageError,
    };
    pb::JobMessage {
        message_id: message.sequence.to_string(),
        time: rfc3339(message.time()),
        importance: importance.into(),
        message_text: message.text,
    }
}

fn rfc3339(time: Timestamp) -> String {
    let micros = u64::try_from(time.micros()).unwrap_or(0);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_micros(micros)).to_string()
}

/// A job's states and messages as a stream that ends with its last state.
fn events(follower: Follower) -> BoxStream<'static, Event> {
    stream::unfold(follower, |mut follower| async move { Some((follower.next().await?, follower)) }).boxed()
}

#[tonic::async_trait]
impl JobService for JobApi {
    type GetStateStreamStream = Answer<pb::JobStateEvent>;
    type GetMessageStreamStream = Answer<pb::JobMessagesResponse>;

    async fn prepare(
        &self,
        request: Request<pb::PrepareJobRequest>,
    ) -> Result<Response<pb::PrepareJobResponse>, Status> {
        self.prepare_job(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn run(&self, request: Request<pb::RunJobRequest>) -> Result<Response<pb::RunJobResponse>, Status> {
        let job = self.job(&request.into_inner().preparation_id).map_err(status)?;
        job.run().await.map_err(status)?;
        Ok(Response::new(pb::RunJobResponse { job_id: job.id().to_string() }))
    }

    async fn get_jobs(
        &self,
        _request: Request<pb::GetJobsRequest>,
    ) -> Result<Response<pb::GetJobsResponse>, Status> {
        let info = |job: Arc<Job>| {
            let head = job.head();
            // Options are under the job's key and not part of a list.
            pb::JobInfo {
                job_id: head.id.to_string(),
                job_name: head.name.clone(),
                pipeline_options: None,
                state: state(head.state()).into(),
            }
        };
        let job_info = self.dataflow.jobs().into_iter().map(info).collect();
        Ok(Response::new(pb::GetJobsResponse { job_info }))
    }

    async fn get_state(
        &self,
        request: Request<pb::GetJobStateRequest>,
    ) -> Result<Response<pb::JobStateEvent>, Status> {
        let job = self.job(&request.into_inner().job_id).map_err(status)?;
        Ok(Response::new(state_event(job.head().now())))
    }

    async fn get_pipeline(
        &self,
        request: Request<pb::GetJobPipelineRequest>,
    ) -> Result<Response<pb::GetJobPipelineResponse>, Status> {
        let job = self.job(&request.into_inner().job_id).map_err(status)?;
        let description = job.description().await.map_err(status)?;
        Ok(Response::new(pb::GetJobPipelineResponse { pipeline: description.pipeline.clone() }))
    }

    async fn cancel(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        let job = self.job(&request.into_inner().job_id).map_err(status)?;
        job.cancel().await.map_err(status)?;
        Ok(Response::new(pb::CancelJobResponse { state: state(job.state()).into() }))
    }

    async fn drain(
        &self,
        request: Request<pb::DrainJobRequest>,
    ) -> Result<Response<pb::DrainJobResponse>, Status> {
        let job = self.job(&request.into_inner().job_id).map_err(status)?;
        Err(status(Error::precondition(format!(
            "The job {} cannot be drained: only streaming jobs can, which are not built yet. Cancel it instead.",
            job.id()
        ))))
    }

    async fn get_state_stream(
        &self,
        request: Request<pb::GetJobStateRequest>,
    ) -> Result<Response<Self::GetStateStreamStream>, Status> {
        let job = self.followed(&request.into_inner().job_id).map_err(status)?;
        let states = events(job.follow().await).filter_map(async |event| match event {
            Event::State(change) => Some(Ok(state_event(change))),
            Event::Message(_) => None,
        });
        Ok(Response::new(states.boxed()))
    }

    async fn get_message_stream(
        &self,
        request: Request<pb::JobMessagesRequest>,
    ) -> Result<Response<Self::GetMessageStreamStream>, Status> {
        use pb::job_messages_response::Response as Told;
        let job = self.followed(&request.into_inner().job_id).map_err(status)?;
        let told = events(job.follow().await).map(|event| {
            let told = match event {
                Event::State(change) => Told::StateResponse(state_event(change)),
                Event::Message(said) => Told::MessageResponse(message(said)),
            };
            Ok(pb::JobMessagesResponse { response: Some(told) })
        });
        Ok(Response::new(told.boxed()))
    }

    async fn get_job_metrics(
        &self,
        request: Request<pb::GetJobMetricsRequest>,
    ) -> Result<Response<pb::GetJobMetricsResponse>, Status> {
        let job = self.job(&request.into_inner().job_id).map_err(status)?;
        let mut snapshot = job.metrics().await.map_err(status)?;
        // As Beam's own job service: what the pipeline's author measures. The rest is in Dataflow's API.
        let users = |info: &MonitoringInfo| info.urn.starts_with(USER_METRICS);
        snapshot.attempted.retain(users);
        snapshot.committed.retain(users);
        let results = pb::MetricResults { attempted: snapshot.attempted, committed: snapshot.committed };
        Ok(Response::new(pb::GetJobMetricsResponse { metrics: Some(results) }))
    }

    async fn describe_pipeline_options(
        &self,
        _request: Request<pb::DescribePipelineOptionsRequest>,
    ) -> Result<Response<pb::DescribePipelineOptionsResponse>, Status> {
        Ok(Response::new(options::known()))
    }
}

#[cfg(test)]
mod tests {
    use claviger_beam_proto::pipeline;

    use super::*;

    #[test]
    fn the_sdk_is_read_from_the_environments() {
        let with = |capability: &str| {
            let environment = pipeline::Environment {
                capabilities: vec!["beam:coder:varint:v1".into(), capability.into()],
                ..pipeline::Environment::default()
            };
            let components = pipeline::Components {
                environments: [("e".to_owned(), environment)].into(),
                ..pipeline::Components::default()
            };
            sdk(&Pipeline { components: Some(components), ..Pipeline::default() })
        };
        let python = with("beam:version:sdk_base:apache/beam_python3.11_sdk:2.77.0");
        assert_eq!(
            (python.name.as_str(), python.version.as_str()),
            ("Apache Beam Python 3.11 SDK", "2.77.0")
        );
        let java = with("beam:version:sdk_base:apache/beam_java11_sdk:2.60.0");
        assert_eq!(java.name, "Apache Beam SDK for Java 11");
        assert_eq!(with("beam:version:sdk_base:"), Sdk::default());
        assert_eq!(with("other"), Sdk::default());
    }

    #[test]
    fn a_message_tells_its_time_as_text() {
        assert_eq!(rfc3339(Timestamp(1_795_404_091_250_000)), "2026-11-23T03:21:31.250Z");
    }
}
