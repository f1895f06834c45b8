//! Projects over gRPC: `google.cloud.resourcemanager.v3.Projects`, by which clients learn a project's number
//! and with it the addresses of its service agents.
//!
//! Invariant: any project id is a project. Its number is given when it is first asked for, and stays.

use std::sync::Arc;

use claviger_core::names::ProjectName;
use claviger_core::{Error, Result};
use claviger_kms::agents::MANAGED_PROJECT;
use claviger_proto::google::cloud::resourcemanager::v3 as pb;
use claviger_proto::google::cloud::resourcemanager::v3::projects_server::Projects;
use tonic::{Request, Response, Status};

use crate::auth;
use crate::keys::Authority;
use crate::status::status;

/// The projects that a KMS has numbers for.
#[derive(Clone)]
pub(crate) struct ProjectsApi {
    authority: Arc<dyn Authority>,
}

impl ProjectsApi {
    /// Serves the projects of a KMS.
    pub(crate) fn new(authority: Arc<dyn Authority>) -> Self {
        Self { authority }
    }

    async fn get(&self, name: &str) -> Result<pb::Project> {
        let name = ProjectName::parse(name)?;
        let id = name.project();
        if id == MANAGED_PROJECT {
            return Err(Error::permission_denied(format!(
                "Permission 'resourcemanager.projects.get' denied on resource '{name}' (or it may not exist)."
            )));
        }
        // Ids start with a letter, so this is a number.
        if id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::unimplemented(format!(
                "Looking a project up by its number is not built yet ('{name}'): name it by its id"
            )));
        }
        let number = self.authority.project_number(id).await?;
        Ok(pb::Project {
            name: format!("projects/{number}"),
            project_id: id.to_owned(),
            display_name: id.to_owned(),
            state: pb::project::State::Active.into(),
            ..Default::default()
        })
    }
}

#[tonic::async_trait]
impl Projects for ProjectsApi {
    async fn get_project(
        &self,
        request: Request<pb::GetProjectRequest>,
    ) -> Result<Response<pb::Project>, Status> {
        auth::caller(request.extensions()).map_err(status)?;
        self.get(&request.into_inner().name).await.map(Response::new).map_err(status)
    }
}

#[cfg(test)]
mod tests {
    use claviger_core::{ErrorKind, ManualClock, Timestamp};
    use claviger_crypto::SecretBytes;
    use claviger_kms::agents::Service;
    use claviger_kms::{Kms, KmsConfig, RootSecret};
    use object_store::memory::InMemory;

    use super::*;
    use crate::keys::{self, Here};

    async fn api() -> ProjectsApi {
        let root = RootSecret::KeyFile(SecretBytes::new(vec![7; 32]));
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000_000)));
        let config = KmsConfig { root, ..KmsConfig::default() };
        let kms = Kms::open(config, Arc::new(InMemory::new()), clock.clone()).await.unwrap();
        let policies = crate::orgpolicy::open(&kms, clock).await.unwrap();
        ProjectsApi::new(Arc::new(Here { kms, policies }))
    }

    #[tokio::test]
    async fn a_project_has_the_number_that_its_service_agents_carry() {
        let api = api().await;
        let project = api.get("projects/birds").await.unwrap();
        assert_eq!(project.project_id, "birds");
        assert_eq!(project.state(), pb::project::State::Active);
        let number = project.name.strip_prefix("projects/").unwrap();
        let agent = keys::agent(api.authority.as_ref(), Service::Bigtable, "birds").await.unwrap();
        assert_eq!(
            agent.principal,
            format!("serviceAccount:service-{number}@gcp-sa-bigtable.iam.gserviceaccount.com")
        );
        assert_eq!(api.get("projects/birds").await.unwrap().name, project.name);
        assert_ne!(api.get("projects/owls").await.unwrap().name, project.name);
    }

    #[tokio::test]
    async fn wrong_names_numbers_and_the_reserved_project_are_refused() {
        let api = api().await;
        for (name, kind) in [
            ("birds", ErrorKind::InvalidArgument),
            ("projects/a/b", ErrorKind::InvalidArgument),
            ("projects/100000000001", ErrorKind::Unimplemented),
            ("projects/claviger-managed", ErrorKind::PermissionDenied),
        ] {
            assert_eq!(api.get(name).await.unwrap_err().kind(), kind, "{name}");
        }
    }
}
