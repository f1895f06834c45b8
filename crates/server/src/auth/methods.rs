//! Which right each gRPC method needs, over gRPC and over REST.
//!
//! Invariant: a method of a service that is not named here is for administrators alone. A test looks that all are
//! named.

use std::task::{Context, Poll};

use axum::body::Body;
use claviger_callers::Right;
use futures::future::{Either, Ready, ready};
use http::{Request, Response};
use tower::Service;

use super::{Identity, refusal};
use crate::beam::fn_api;
use crate::status::status;

/// Methods that only look: what their names begin with.
const LOOKS: [&str; 6] = ["Get", "List", "Check", "Test", "Wait", "Describe"];

/// The right that a call of the method at this path needs; nothing for those of workers.
pub(super) fn right(path: &str) -> Option<Right> {
    if fn_api::is_for_workers(path) {
        return None;
    }
    let (service, method) = path.trim_start_matches('/').rsplit_once('/').unwrap_or_default();
    let by_method = |looks: Right, changes: Right| {
        if LOOKS.iter().any(|verb| method.starts_with(verb)) { looks } else { changes }
    };
    Some(match service {
        "google.bigtable.v2.Bigtable" => match method {
            "ReadRows" | "SampleRowKeys" | "PingAndWarm" => Right::RowsRead,
            _ => Right::RowsWrite,
        },
        "google.cloud.kms.v1.KeyManagementService"
        | "google.cloud.kms.v1.EkmService"
        | "google.iam.v1.IAMPolicy"
        | "google.cloud.location.Locations" => Right::Keys,
        // It looks itself whether the caller is one of the data servers.
        "claviger.kms.v1.DataServers" => Right::Keys,
        "google.cloud.resourcemanager.v3.Projects" => Right::Projects,
        "google.bigtable.admin.v2.BigtableInstanceAdmin"
        | "google.bigtable.admin.v2.BigtableTableAdmin"
        | "google.longrunning.Operations" => match method {
            // It makes nothing but a token to check with.
            "GenerateConsistencyToken" => Right::TablesRead,
            _ => by_method(Right::TablesRead, Right::TablesChange),
        },
        "google.logging.v2.LoggingServiceV2" => Right::Logs,
        "google.cloud.orgpolicy.v2.OrgPolicy" => Right::Policies,
        service if service.starts_with("google.dataflow.v1beta3.") => match method {
            "AggregatedListJobs" => Right::JobsRead,
            _ => by_method(Right::JobsRead, Right::JobsRun),
        },
        "org.apache.beam.model.job_management.v1.JobService" => by_method(Right::JobsRead, Right::JobsRun),
        "org.apache.beam.model.job_management.v1.ArtifactStagingService" => Right::JobsRun,
        _ => Right::Seals,
    })
}

/// gRPC services behind their rights: for calls that came as such, and for those that REST makes.
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S>(pub(crate) S);

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Self::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let allowed = match request.extensions().get::<Identity>() {
            Some(identity) => identity.allow_method(path),
            None if right(path).is_none() => Ok(()),
            None => Err(refusal::missing()),
        };
        match allowed {
            Ok(()) => Either::Right(self.0.call(request)),
            Err(error) => Either::Left(ready(Ok(status(error).into_http()))),
        }
    }
}
