//! The Dataflow API, `google.dataflow.v1beta3`: how `DataflowRunner`, `gcloud dataflow` and Google's client
//! libraries submit and watch jobs. REST (`/v1b3/...`) is made from the same services.
//!
//! Invariant: adapters only. What the job's key protects is shown only while that key is usable.

mod absent;
mod cloud;
mod convert;
mod jobs;
mod messages;
mod metrics;

use std::sync::Arc;

use claviger_core::{Clock, Error, Result, limits};
use claviger_dataflow::{Dataflow, Job};
use claviger_proto::google::dataflow::v1beta3::flex_templates_service_server::FlexTemplatesServiceServer;
use claviger_proto::google::dataflow::v1beta3::jobs_v1_beta3_server::JobsV1Beta3Server;
use claviger_proto::google::dataflow::v1beta3::messages_v1_beta3_server::MessagesV1Beta3Server;
use claviger_proto::google::dataflow::v1beta3::metrics_v1_beta3_server::MetricsV1Beta3Server;
use claviger_proto::google::dataflow::v1beta3::snapshots_v1_beta3_server::SnapshotsV1Beta3Server;
use claviger_proto::google::dataflow::v1beta3::templates_service_server::TemplatesServiceServer;
use tonic::service::RoutesBuilder;

use crate::beam::jobs::Defaults;

pub(crate) use cloud::Files;

/// The services of the Dataflow API.
#[derive(Clone, Debug)]
pub(crate) struct DataflowApi {
    dataflow: Arc<Dataflow>,
    defaults: Arc<Defaults>,
    clock: Arc<dyn Clock>,
}

impl DataflowApi {
    pub(crate) fn new(dataflow: Arc<Dataflow>, defaults: Arc<Defaults>, clock: Arc<dyn Clock>) -> Self {
        Self { dataflow, defaults, clock }
    }

    /// Adds all of them.
    pub(crate) fn add_to(&self, routes: &mut RoutesBuilder) {
        routes.add_service(
            JobsV1Beta3Server::new(self.clone()).max_decoding_message_size(limits::REQUEST_BYTES),
        );
        routes.add_service(MessagesV1Beta3Server::new(self.clone()));
        routes.add_service(MetricsV1Beta3Server::new(self.clone()));
        routes.add_service(SnapshotsV1Beta3Server::new(absent::Absent));
        routes.add_service(TemplatesServiceServer::new(absent::Absent));
        routes.add_service(FlexTemplatesServiceServer::new(absent::Absent));
    }

    /// A job of a project, in a region if one is named.
    fn find(&self, project: &str, location: &str, id: &str) -> Result<Arc<Job>> {
        let missing = || {
            let place = if location.is_empty() { String::new() } else { format!(" in {location}") };
            Error::not_found(format!(
                "Information about job {id} could not be found in our system. Please double check the id is correct, and that it is a job of the project {project}{place}."
            ))
        };
        let job = self.dataflow.job(id).map_err(|_| missing())?;
        let head = job.head();
        if head.project == project && (location.is_empty() || head.location == location) {
            return Ok(job);
        }
        Err(missing())
    }
}
