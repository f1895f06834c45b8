//! `google.dataflow.v1beta3.JobsV1Beta3`.

use std::sync::Arc;

use claviger_core::{Error, Result};
use claviger_dataflow::{Job, JobState};
use claviger_proto::google::dataflow::v1beta3 as pb;
use pb::jobs_v1_beta3_server::JobsV1Beta3;
use tonic::{Request, Response, Status};

use super::{DataflowApi, convert};
use crate::status::status;

/// Jobs of a page, and the most that one may ask for.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;

impl DataflowApi {
    async fn create(&self, request: pb::CreateJobRequest) -> Result<pb::Job> {
        let job = request.job.ok_or_else(|| Error::invalid_field("job", "is missing"))?;
        if !request.replace_job_id.is_empty() {
            return Err(Error::unimplemented(
                "Replacing a running job by another (update) is for streaming jobs, which are not built yet.",
            ));
        }
        let or = |told: String, other: &str| if told.is_empty() { other.to_owned() } else { told };
        let project = or(request.project_id, &self.defaults.project);
        let region = or(request.location, &or(job.location.clone(), &self.defaults.region));
        let waits = job.requested_state() == pb::JobState::Stopped;
        let made = Box::pin(self.dataflow.create(convert::spec(project, region, job)?)).await?;
        if !waits && made.state() == JobState::Stopped {
            made.run().await?;
        }
        self.view(&made, pb::JobView::Summary).await
    }

    /// A job, as far as a view shows it and its key lets it be shown.
    async fn view(&self, job: &Arc<Job>, view: pb::JobView) -> Result<pb::Job> {
        let head = job.head();
        let mut shown = convert::summary(&head);
        if matches!(view, pb::JobView::Unknown | pb::JobView::Summary) {
            return Ok(shown);
        }
        let rest = async {
            let description = job.description().await?;
            let parts = job.story(|story| (story.steps.clone(), story.stages.clone())).await?;
            Ok::<_, Error>((description, parts))
        };
        match rest.await {
            Ok((description, (steps, stages))) => {
                convert::describe(&mut shown, &description, view == pb::JobView::All);
                convert::outline(&mut shown, &steps, &stages);
            }
            Err(error) => convert::not_readable(&mut shown, &error),
        }
        Ok(shown)
    }

    async fn update(&self, request: pb::UpdateJobRequest) -> Result<pb::Job> {
        let job = self.find(&request.project_id, &request.location, &request.job_id)?;
        let asked = request.job.unwrap_or_default();
        let failed = |why: &str| Error::precondition(format!("Workflow modification failed. Causes: {why}"));
        match asked.requested_state() {
            pb::JobState::Cancelled => {
                if job.state().is_terminal() {
                    let state = convert::state(job.state()).as_str_name();
                    return Err(failed(&format!(
                        "Operation cancel not allowed for job {}. Job is already in the state {state}.",
                        job.id()
                    )));
                }
                job.cancel().await?;
            }
            pb::JobState::Drained | pb::JobState::Draining => {
                return Err(failed(&format!(
                    "Operation drain not allowed for job {}: only streaming jobs can be drained, which are not built yet. Cancel it instead.",
                    job.id()
                )));
            }
            pb::JobState::Running if job.state() == JobState::Stopped => job.run().await?,
            pb::JobState::Unknown if asked.runtime_updatable_params.is_some() => {
                return Err(Error::unimplemented(
                    "The parameters of a running job cannot be changed: this server has one worker for a job.",
                ));
            }
            other => {
                return Err(Error::invalid_field(
                    "job.requested_state",
                    format!("a job cannot be asked to become {}", other.as_str_name()),
                ));
            }
        }
        self.view(&job, pb::JobView::Summary).await
    }

    fn list(&self, request: &pb::ListJobsRequest, location: &str) -> pb::ListJobsResponse {
        use pb::list_jobs_request::Filter;
        let size =
            usize::try_from(request.page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE).min(MAX_PAGE);
        let wanted = |job: &Arc<Job>| {
            let head = job.head();
            let state = match request.filter() {
                Filter::Terminated => head.state().is_terminal(),
                Filter::Active => !head.state().is_terminal(),
                Filter::Unknown | Filter::All => true,
            };
            let name = request.name.as_ref().is_none_or(|name| name.is_empty() || *name == head.name);
            state
                && name
                && head.project == request.project_id
                && (location.is_empty() || head.location == location)
                && (request.page_token.is_empty() || head.id.as_str() < request.page_token.as_str())
        };
        let mut found: Vec<_> = self.dataflow.jobs().into_iter().filter(wanted).take(size + 1).collect();
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more).map(|job| job.id().to_string());
        pb::ListJobsResponse {
            jobs: found.iter().map(|job| convert::summary(&job.head())).collect(),
            next_page_token: last.unwrap_or_default(),
            failed_location: Vec::new(),
        }
    }
}

#[tonic::async_trait]
impl JobsV1Beta3 for DataflowApi {
    async fn create_job(&self, request: Request<pb::CreateJobRequest>) -> Result<Response<pb::Job>, Status> {
        self.create(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::Job>, Status> {
        let request = request.into_inner();
        let job = self.find(&request.project_id, &request.location, &request.job_id).map_err(status)?;
        self.view(&job, request.view()).await.map(Response::new).map_err(status)
    }

    async fn update_job(&self, request: Request<pb::UpdateJobRequest>) -> Result<Response<pb::Job>, Status> {
        self.update(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.list(&request, &request.location)))
    }

    async fn aggregated_list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        Ok(Response::new(self.list(&request.into_inner(), "")))
    }

    async fn check_active_jobs(
        &self,
        request: Request<pb::CheckActiveJobsRequest>,
    ) -> Result<Response<pb::CheckActiveJobsResponse>, Status> {
        let project = request.into_inner().project_id;
        let active = |job: Arc<Job>| {
            let head = job.head();
            head.project == project && !head.state().is_terminal()
        };
        let active_jobs_exist = self.dataflow.jobs().into_iter().any(active);
        Ok(Response::new(pb::CheckActiveJobsResponse { active_jobs_exist }))
    }

    async fn snapshot_job(
        &self,
        request: Request<pb::SnapshotJobRequest>,
    ) -> Result<Response<pb::Snapshot>, Status> {
        let request = request.into_inner();
        self.find(&request.project_id, &request.location, &request.job_id).map_err(status)?;
        Err(status(Error::unimplemented("Snapshots are made of streaming jobs, which are not built yet.")))
    }
}
