//! Cloud KMS over gRPC: `google.cloud.kms.v1.KeyManagementService` and `EkmService`, the `google.iam.v1.IAMPolicy` of its
//! resources and `google.cloud.location.Locations`.
//!
//! Invariant: these adapters translate and do nothing else. What may be done is decided in `claviger_kms`.

mod constraints;
mod convert;
mod ekm;
pub(crate) mod handlers;
mod imports;
mod policies;

use std::sync::Arc;

use claviger_kms::Kms;
use claviger_orgpolicy::Policies;
use claviger_proto::google::cloud::kms::v1 as pb;
use claviger_proto::google::cloud::kms::v1::ekm_service_server::EkmService;
use claviger_proto::google::cloud::kms::v1::key_management_service_server::KeyManagementService;
use claviger_proto::google::cloud::location as places;
use claviger_proto::google::cloud::location::locations_server::Locations;
use claviger_proto::google::iam::v1 as iam;
use claviger_proto::google::iam::v1::iam_policy_server::IamPolicy;
use tonic::{Request, Response, Status};

use crate::auth;
use crate::status::status;

/// The services of the KMS in this process.
#[derive(Clone, Debug)]
pub(crate) struct KmsApi {
    kms: Arc<Kms>,
    policies: Arc<Policies>,
}

impl KmsApi {
    /// Serves a KMS, within what organization policies let it do.
    pub(crate) fn new(kms: Arc<Kms>, policies: Arc<Policies>) -> Self {
        Self { kms, policies }
    }
}

/// Implements a service by one function for each method, of the same name. `under` names one of `constraints` that is
/// asked first.
macro_rules! serve {
    ($service:ident: $($module:ident::$method:ident($request:ty) -> $reply:ty $(, under $check:ident)?;)+) => {
        #[tonic::async_trait]
        impl $service for KmsApi {
            $(
                async fn $method(&self, request: Request<$request>) -> Result<Response<$reply>, Status> {
                    let caller = auth::caller(request.extensions()).map_err(status)?;
                    $(constraints::$check(&self.policies, &self.kms, request.get_ref()).map_err(status)?;)?
                    let reply = $module::$method(&self.kms, &caller, request.into_inner()).await;
                    reply.map(Response::new).map_err(status)
                }
            )+
        }
    };
}

serve! { KeyManagementService:
    handlers::list_key_rings(pb::ListKeyRingsRequest) -> pb::ListKeyRingsResponse;
    handlers::list_crypto_keys(pb::ListCryptoKeysRequest) -> pb::ListCryptoKeysResponse;
    handlers::list_crypto_key_versions(pb::ListCryptoKeyVersionsRequest) -> pb::ListCryptoKeyVersionsResponse;
    handlers::get_key_ring(pb::GetKeyRingRequest) -> pb::KeyRing;
    handlers::get_crypto_key(pb::GetCryptoKeyRequest) -> pb::CryptoKey;
    handlers::get_crypto_key_version(pb::GetCryptoKeyVersionRequest) -> pb::CryptoKeyVersion;
    handlers::create_key_ring(pb::CreateKeyRingRequest) -> pb::KeyRing;
    handlers::create_crypto_key(pb::CreateCryptoKeyRequest) -> pb::CryptoKey, under new_key;
    handlers::create_crypto_key_version(pb::CreateCryptoKeyVersionRequest) -> pb::CryptoKeyVersion, under new_version;
    handlers::update_crypto_key(pb::UpdateCryptoKeyRequest) -> pb::CryptoKey, under changed_key;
    handlers::update_crypto_key_version(pb::UpdateCryptoKeyVersionRequest) -> pb::CryptoKeyVersion;
    handlers::update_crypto_key_primary_version(pb::UpdateCryptoKeyPrimaryVersionRequest) -> pb::CryptoKey;
    handlers::destroy_crypto_key_version(pb::DestroyCryptoKeyVersionRequest) -> pb::CryptoKeyVersion, under destruction;
    handlers::restore_crypto_key_version(pb::RestoreCryptoKeyVersionRequest) -> pb::CryptoKeyVersion;
    handlers::encrypt(pb::EncryptRequest) -> pb::EncryptResponse;
    handlers::decrypt(pb::DecryptRequest) -> pb::DecryptResponse;
    imports::list_import_jobs(pb::ListImportJobsRequest) -> pb::ListImportJobsResponse;
    imports::get_import_job(pb::GetImportJobRequest) -> pb::ImportJob;
    imports::create_import_job(pb::CreateImportJobRequest) -> pb::ImportJob, under new_job;
    imports::import_crypto_key_version(pb::ImportCryptoKeyVersionRequest) -> pb::CryptoKeyVersion, under import;
}

serve! { EkmService:
    ekm::list_ekm_connections(pb::ListEkmConnectionsRequest) -> pb::ListEkmConnectionsResponse;
    ekm::get_ekm_connection(pb::GetEkmConnectionRequest) -> pb::EkmConnection;
    ekm::create_ekm_connection(pb::CreateEkmConnectionRequest) -> pb::EkmConnection;
    ekm::update_ekm_connection(pb::UpdateEkmConnectionRequest) -> pb::EkmConnection;
    ekm::get_ekm_config(pb::GetEkmConfigRequest) -> pb::EkmConfig;
    ekm::update_ekm_config(pb::UpdateEkmConfigRequest) -> pb::EkmConfig;
    ekm::verify_connectivity(pb::VerifyConnectivityRequest) -> pb::VerifyConnectivityResponse;
}

serve! { IamPolicy:
    policies::set_iam_policy(iam::SetIamPolicyRequest) -> iam::Policy;
    policies::get_iam_policy(iam::GetIamPolicyRequest) -> iam::Policy;
    policies::test_iam_permissions(iam::TestIamPermissionsRequest) -> iam::TestIamPermissionsResponse;
}

serve! { Locations:
    handlers::list_locations(places::ListLocationsRequest) -> places::ListLocationsResponse;
    handlers::get_location(places::GetLocationRequest) -> places::Location;
}

#[cfg(test)]
mod tests;
