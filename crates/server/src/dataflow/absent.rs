//! Parts of the Dataflow API that are not built: each answers with a sentence.
//!
//! Invariant: nothing here has an effect.

use claviger_core::Error;
use claviger_proto::google::dataflow::v1beta3 as pb;
use pb::flex_templates_service_server::FlexTemplatesService;
use pb::snapshots_v1_beta3_server::SnapshotsV1Beta3;
use pb::templates_service_server::TemplatesService;
use tonic::{Request, Response, Status};

use crate::status::status;

/// What is not built.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absent;

/// Implements a service whose methods say that they are not built.
macro_rules! absent {
    ($service:ident: $sentence:literal, $($method:ident($request:ty) -> $reply:ty;)+) => {
        #[tonic::async_trait]
        impl $service for Absent {
            $(
                async fn $method(&self, _: Request<$request>) -> Result<Response<$reply>, Status> {
                    Err(status(Error::unimplemented($sentence)))
                }
            )+
        }
    };
}

absent! { TemplatesService: "Templates are not built yet: submit the pipeline with its SDK.",
    create_job_from_template(pb::CreateJobFromTemplateRequest) -> pb::Job;
    get_template(pb::GetTemplateRequest) -> pb::GetTemplateResponse;
    launch_template(pb::LaunchTemplateRequest) -> pb::LaunchTemplateResponse;
}

absent! { FlexTemplatesService: "Templates are not built yet: submit the pipeline with its SDK.",
    launch_flex_template(pb::LaunchFlexTemplateRequest) -> pb::LaunchFlexTemplateResponse;
}

#[tonic::async_trait]
impl SnapshotsV1Beta3 for Absent {
    async fn get_snapshot(
        &self,
        request: Request<pb::GetSnapshotRequest>,
    ) -> Result<Response<pb::Snapshot>, Status> {
        Err(missing(&request.into_inner().snapshot_id))
    }

    async fn delete_snapshot(
        &self,
        request: Request<pb::DeleteSnapshotRequest>,
    ) -> Result<Response<pb::DeleteSnapshotResponse>, Status> {
        Err(missing(&request.into_inner().snapshot_id))
    }

    async fn list_snapshots(
        &self,
        _: Request<pb::ListSnapshotsRequest>,
    ) -> Result<Response<pb::ListSnapshotsResponse>, Status> {
        // They are made of streaming jobs, of which there are none.
        Ok(Response::new(pb::ListSnapshotsResponse::default()))
    }
}

fn missing(id: &str) -> Status {
    let id: String = id.chars().take(100).collect();
    status(Error::not_found(format!("Snapshot not found: {id}")))
}
