//! The services that a server offers over its port.
//!
//! Invariant: every gRPC service is registered here, and REST is made from the same list.

use std::sync::Arc;

use claviger_core::{Result, limits};
use claviger_proto::claviger::kms::v1::data_servers_server::DataServersServer;
use claviger_proto::google::bigtable::admin::v2::bigtable_instance_admin_server::BigtableInstanceAdminServer;
use claviger_proto::google::bigtable::admin::v2::bigtable_table_admin_server::BigtableTableAdminServer;
use claviger_proto::google::bigtable::v2::bigtable_server::BigtableServer;
use claviger_proto::google::cloud::kms::v1::ekm_service_server::EkmServiceServer;
use claviger_proto::google::cloud::kms::v1::key_management_service_server::KeyManagementServiceServer;
use claviger_proto::google::cloud::location::locations_server::LocationsServer;
use claviger_proto::google::cloud::orgpolicy::v2::org_policy_server::OrgPolicyServer;
use claviger_proto::google::cloud::resourcemanager::v3::projects_server::ProjectsServer;
use claviger_proto::google::iam::v1::iam_policy_server::IamPolicyServer;
use claviger_proto::google::logging::v2::logging_service_v2_server::LoggingServiceV2Server;
use claviger_proto::google::longrunning::operations_server::OperationsServer;
use tokio::runtime::Handle;
use tonic::service::Routes;

use crate::auth::Guarded;
use crate::beam::fn_api::FnApi;
use crate::beam::jobs::JobApi;
use crate::bigtable::{DataApi, InstanceAdminApi, TableAdminApi};
use crate::config::ServeConfig;
use crate::data_servers::DataServersApi;
use crate::dataflow::DataflowApi;
use crate::ekm::EkmApi;
use crate::evidence::EvidenceApi;
use crate::http::Front;
use crate::keys::Here;
use crate::kms::KmsApi;
use crate::logging::LoggingApi;
use crate::metrics::Metrics;
use crate::operations::OperationsApi;
use crate::orgpolicy::OrgPolicyApi;
use crate::projects::ProjectsApi;
use crate::rest::Rest;
use crate::run::{Home, Services};
use crate::seal::SealApi;
use crate::storage::StorageApi;

impl Front {
    /// Everything that `services` offers.
    pub(crate) fn new(services: &Services, config: &ServeConfig, seal: SealApi) -> Result<Self> {
        let mut routes = Routes::builder();
        routes.add_service(ProjectsServer::new(ProjectsApi::new(services.authority.clone())));
        let mut kept = None;
        if let Home::Here { here, changes, .. } = &services.home {
            let Here { kms, policies } = here;
            if config.kms.is_none() {
                let api = KmsApi::new(kms.clone(), policies.clone());
                routes.add_service(KeyManagementServiceServer::new(api.clone()));
                routes.add_service(EkmServiceServer::new(api.clone()));
                routes.add_service(IamPolicyServer::new(api.clone()));
                routes.add_service(LocationsServer::new(api));
                let api = DataServersApi::new(here.clone(), changes.clone(), &config.data_servers);
                routes.add_service(DataServersServer::new(api));
            }
            routes.add_service(OrgPolicyServer::new(OrgPolicyApi::new(policies.clone())));
            routes.add_service(LoggingServiceV2Server::new(LoggingApi::new(kms.audit_log().clone())));
            kept = Some(kms);
        }
        let mut serves_rows = None;
        if let Some(data) = &services.data
            && let Some(store) = data.bigtable.clone()
        {
            let operations = data.operations.clone();
            let rows = BigtableServer::new(DataApi { store: store.clone(), clock: services.clock.clone() })
                .max_decoding_message_size(limits::REQUEST_BYTES)
                .max_encoding_message_size(limits::REQUEST_BYTES);
            serves_rows = Some(rows.clone());
            // For REST.
            routes.add_service(rows);
            routes.add_service(BigtableTableAdminServer::new(TableAdminApi {
                store: store.clone(),
                operations: operations.clone(),
            }));
            routes.add_service(BigtableInstanceAdminServer::new(InstanceAdminApi {
                store,
                operations: operations.clone(),
            }));
            routes.add_service(OperationsServer::new(OperationsApi(operations)));
        }
        if let Some(jobs) = services.data.as_ref().and_then(|data| data.jobs.as_ref()) {
            FnApi::new(jobs.harnesses.clone()).add_to(&mut routes);
            JobApi::new(jobs.dataflow.clone(), jobs.defaults.clone(), jobs.endpoint.clone())
                .add_to(&mut routes);
            DataflowApi::new(jobs.dataflow.clone(), jobs.defaults.clone(), services.clock.clone())
                .add_to(&mut routes);
        }
        let grpc = Guarded(routes.routes().prepare().into_axum_router());
        let pool = claviger_proto::pool();
        let rest = Arc::new(Rest::new(pool, grpc.clone()));
        Ok(Self {
            rows: serves_rows,
            storage: services.data.as_ref().and_then(|data| data.buckets.clone()).map(StorageApi::new),
            ekm: kept.map(|kms| EkmApi::new(kms.clone())),
            evidence: kept.map(|kms| EvidenceApi::new(kms.audit_log().clone())),
            seal,
            grpc,
            rest,
            metrics: Arc::new(Metrics::new(pool)),
            clock: services.clock.clone(),
            others: Handle::current(),
        })
    }
}
