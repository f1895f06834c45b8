//! Cloud KMS over gRPC: `google.cloud.kms.v1.KeyManagementService`, the `google.iam.v1.IAMPolicy` of its
//! resources and `google.cloud.location.Locations`.
//!
//! Invariant: these adapters translate and do nothing else. What may be done is decided in `claviger_kms`.

mod convert;
mod handlers;
mod policies;

use std::sync::Arc;

use claviger_kms::Kms;
use claviger_proto::google::cloud::kms::v1 as pb;
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
}

impl KmsApi {
    /// Serves a KMS.
    pub(crate) fn new(kms: Arc<Kms>) -> Self {
        Self { kms }
    }
}

/// Implements a service by one function for each method, of the same name.
macro_rules! serve {
    ($service:ident by $module:ident: $($method:ident($request:ty) -> $reply:ty;)+) => {
        #[tonic::async_trait]
        impl $service for KmsApi {
            $(
                async fn $method(&self, request: Request<$request>) -> Result<Response<$reply>, Status> {
                    let caller = auth::caller(request.metadata()).map_err(status)?;
                    let reply = $module::$method(&self.kms, &caller, request.into_inner()).await;
                    reply.map(Response::new).map_err(status)
                }
            )+
        }
    };
}

serve! { KeyManagementService by handlers:
    list_key_rings(pb::ListKeyRingsRequest) -> pb::ListKeyRingsResponse;
    list_crypto_keys(pb::ListCryptoKeysRequest) -> pb::ListCryptoKeysResponse;
    list_crypto_key_versions(pb::ListCryptoKeyVersionsRequest) -> pb::ListCryptoKeyVersionsResponse;
    get_key_ring(pb::GetKeyRingRequest) -> pb::KeyRing;
    get_crypto_key(pb::GetCryptoKeyRequest) -> pb::CryptoKey;
    get_crypto_key_version(pb::GetCryptoKeyVersionRequest) -> pb::CryptoKeyVersion;
    create_key_ring(pb::CreateKeyRingRequest) -> pb::KeyRing;
    create_crypto_key(pb::CreateCryptoKeyRequest) -> pb::CryptoKey;
    create_crypto_key_version(pb::CreateCryptoKeyVersionRequest) -> pb::CryptoKeyVersion;
    update_crypto_key(pb::UpdateCryptoKeyRequest) -> pb::CryptoKey;
    update_crypto_key_version(pb::UpdateCryptoKeyVersionRequest) -> pb::CryptoKeyVersion;
    update_crypto_key_primary_version(pb::UpdateCryptoKeyPrimaryVersionRequest) -> pb::CryptoKey;
    destroy_crypto_key_version(pb::DestroyCryptoKeyVersionRequest) -> pb::CryptoKeyVersion;
    restore_crypto_key_version(pb::RestoreCryptoKeyVersionRequest) -> pb::CryptoKeyVersion;
    encrypt(pb::EncryptRequest) -> pb::EncryptResponse;
    decrypt(pb::DecryptRequest) -> pb::DecryptResponse;
}

serve! { IamPolicy by policies:
    set_iam_policy(iam::SetIamPolicyRequest) -> iam::Policy;
    get_iam_policy(iam::GetIamPolicyRequest) -> iam::Policy;
    test_iam_permissions(iam::TestIamPermissionsRequest) -> iam::TestIamPermissionsResponse;
}

serve! { Locations by handlers:
    list_locations(places::ListLocationsRequest) -> places::ListLocationsResponse;
    get_location(places::GetLocationRequest) -> places::Location;
}

#[cfg(test)]
mod tests;
