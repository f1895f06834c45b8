//! The submitter's side: Beam's Job API.
//!
//! Invariant: a job that did not end well is an error with what the server said about it.

use std::collections::BTreeMap;

use claviger_beam::urn::{label, metric};
use claviger_beam_proto::job_management::job_message::MessageImportance;
use claviger_beam_proto::job_management::job_messages_response::Response as Told;
use claviger_beam_proto::job_management::job_service_client::JobServiceClient;
use claviger_beam_proto::job_management::job_state::Enum as State;
use claviger_beam_proto::job_management::{
    GetJobMetricsRequest, JobMessagesRequest, PrepareJobRequest, RunJobRequest,
};
use claviger_beam_proto::pipeline::Pipeline;
use prost::encoding::decode_varint;
use tonic::transport::Channel;

use crate::failure::{Doing, Failure, Result};

/// What the bundles of a job counted and the server committed, by name.
pub(super) type Counters = BTreeMap<String, u64>;

/// A client of the Job API.
#[derive(Clone, Debug)]
pub(super) struct Jobs(JobServiceClient<Channel>);

impl Jobs {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(super) async fn connect(authority: &str) -> Result<Self> {
        Ok(Self(JobServiceClient::new(super::connect(authority).await?)))
    }

    /// Runs a pipeline to its end; the job's id. It has no files to stage.
    ///
    /// # Errors
    /// When it does not end well.
    pub(super) async fn run(&mut self, pipeline: Pipeline) -> Result<String> {
        let request = PrepareJobRequest {
            pipeline: Some(pipeline),
            job_name: "null-harness".to_owned(),
            ..PrepareJobRequest::default()
        };
        let prepared = self.0.prepare(request).await.doing("Prepare")?.into_inner();
        let request = RunJobRequest { preparation_id: prepared.preparation_id, ..RunJobRequest::default() };
        let job_id = self.0.run(request).await.doing("Run")?.into_inner().job_id;
        let request = JobMessagesRequest { job_id: job_id.clone() };
        let mut told = self.0.get_message_stream(request).await.doing("GetMessageStream")?.into_inner();
        let mut errors = Vec::new();
        while let Some(message) = told.message().await.doing("the job's messages")? {
            match message.response {
                Some(Told::MessageResponse(said))
                    if said.importance() == MessageImportance::JobMessageError =>
                {
                    errors.push(said.message_text);
                }
                Some(Told::StateResponse(event)) => match event.state() {
                    State::Done => return Ok(job_id),
                    state @ (State::Failed | State::Cancelled) => {
                        return Err(Failure::new(format!(
                            "the job {job_id} is {}: {}",
                            state.as_str_name(),
                            errors.join("; ")
                        )));
                    }
                    _ => {}
                },
                Some(Told::MessageResponse(_)) | None => {}
            }
        }
        Err(Failure::new(format!("the messages of the job {job_id} ended before it did")))
    }

    /// The counters of a job's committed bundles.
    ///
    /// # Errors
    /// What the server answers.
    pub(super) async fn counters(&mut self, job_id: &str) -> Result<Counters> {
        let request = GetJobMetricsRequest { job_id: job_id.to_owned() };
        let answer = self.0.get_job_metrics(request).await.doing("GetJobMetrics")?.into_inner();
        let mut counters = Counters::new();
        for info in answer.metrics.unwrap_or_default().committed {
            if let Some(name) = info.labels.get(label::NAME).filter(|_| info.urn == metric::USER_SUM_INT64) {
                let value = decode_varint(&mut info.payload.clone()).doing("a metric")?;
                *counters.entry(name.clone()).or_default() += value;
            }
        }
        Ok(counters)
    }
}
