//! What servers of data elsewhere ask of the KMS of this process: `claviger.kms.v1.DataServers`.
//!
//! Invariant: only who is a data server by the configuration is answered, and they use keys in the name of service
//! agents only. The audit entry of each use says which data server it was.

mod changes;

use std::fmt;
use std::sync::Arc;

use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Error, Result};
use claviger_kms::agents::Service;
use claviger_proto::claviger::kms::v1 as pb;
use claviger_proto::claviger::kms::v1::data_servers_server::DataServers;
use claviger_proto::google::cloud::kms::v1::EncryptResponse;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

pub(crate) use self::changes::{ChangeLog, Sources};
use crate::auth;
use crate::keys::{Authority as _, Here};
use crate::kms::handlers;
use crate::status::status;

/// The label of the audit log that says which data server asked.
const DATA_SERVER_LABEL: &str = "data_server";
/// Labels that a use may have.
const MAX_LABELS: usize = 32;
/// Bytes of a label's name and value.
const MAX_LABEL_BYTES: usize = 2048;

/// The service.
#[derive(Clone)]
pub(crate) struct DataServersApi {
    here: Here,
    changes: Arc<ChangeLog>,
    /// Who may call, as IAM members.
    trusted: Arc<[String]>,
}

impl fmt::Debug for DataServersApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataServersApi").field("trusted", &self.trusted).finish_non_exhaustive()
    }
}

impl DataServersApi {
    /// Serves a KMS to the data servers that are named.
    pub(crate) fn new(here: Here, changes: Arc<ChangeLog>, trusted: &[String]) -> Self {
        Self { here, changes, trusted: trusted.into() }
    }

    /// The principal of a data server.
    fn data_server<T>(&self, request: &Request<T>) -> Result<String> {
        let caller = auth::caller(request.extensions())?;
        // Who may change every policy gains nothing here.
        if caller.is_administrator() || self.trusted.contains(&caller.principal) {
            return Ok(caller.principal);
        }
        Err(Error::permission_denied(format!(
            "'{0}' is no data server of this KMS: name it there, with --data-server {0}",
            caller.principal
        )))
    }

    /// In whose name a data server uses a key.
    fn agent<T>(&self, request: &Request<T>, usage: Option<pb::Use>) -> Result<Caller> {
        let server = self.data_server(request)?;
        let pb::Use { agent, context } = usage.ok_or_else(|| Error::invalid_field("use", "must be set"))?;
        if !Service::ALL.iter().any(|service| service.is_agent(&agent)) {
            return Err(Error::permission_denied(format!(
                "A data server uses keys in the name of service agents only; '{agent}' is none."
            )));
        }
        let long = |(name, value): (&String, &String)| name.len() + value.len() > MAX_LABEL_BYTES;
        if context.len() > MAX_LABELS || context.iter().any(long) {
            let told =
                format!("has more than {MAX_LABELS} labels, or one of more than {MAX_LABEL_BYTES} bytes");
            return Err(Error::invalid_field("use.context", told));
        }
        let caller =
            context.into_iter().fold(Caller::new(agent), |caller, (name, value)| caller.with(&name, value));
        Ok(caller.with(DATA_SERVER_LABEL, server))
    }

    async fn encrypt(&self, request: Request<pb::EncryptForRequest>) -> Result<EncryptResponse> {
        let usage = request.get_ref().r#use.clone();
        let caller = self.agent(&request, usage)?;
        handlers::encrypt(&self.here.kms, &caller, given(request.into_inner().request)?).await
    }

    async fn decrypt(&self, request: Request<pb::DecryptForRequest>) -> Result<pb::DecryptForResponse> {
        let usage = request.get_ref().r#use.clone();
        let caller = self.agent(&request, usage)?;
        let asked = given(request.into_inner().request)?;
        let (response, cache_for) = handlers::decrypt_told(&self.here.kms, &caller, asked).await?;
        // One that is out of range is longer than any grace.
        let cache_for = cache_for.and_then(|time| time.try_into().ok());
        Ok(pb::DecryptForResponse { response: Some(response), cache_for })
    }

    async fn managed_key(&self, request: Request<pb::GetManagedKeyRequest>) -> Result<String> {
        self.data_server(&request)?;
        let pb::GetManagedKeyRequest { service: name, location } = request.into_inner();
        Ok(self.here.managed_key(service(&name)?, &location).await?.to_string())
    }

    async fn is_external(&self, request: Request<pb::DescribeKeyRequest>) -> Result<bool> {
        self.data_server(&request)?;
        self.here.is_external(&CryptoKeyName::parse(&request.into_inner().name)?).await
    }

    async fn check_policy(&self, request: Request<pb::CheckPolicyRequest>) -> Result<()> {
        self.data_server(&request)?;
        let pb::CheckPolicyRequest { project, service: name, key, operation } = request.into_inner();
        let key = if key.is_empty() { None } else { Some(CryptoKeyName::parse(&key)?) };
        self.here.admit(service(&name)?, &project, key.as_ref(), &operation).await
    }

    async fn project_number(&self, request: Request<pb::GetProjectNumberRequest>) -> Result<u64> {
        self.data_server(&request)?;
        self.here.project_number(&request.into_inner().project).await
    }
}

fn given<T>(request: Option<T>) -> Result<T> {
    request.ok_or_else(|| Error::invalid_field("request", "must be set"))
}

fn service(name: &str) -> Result<Service> {
    Service::parse(name).ok_or_else(|| Error::invalid_field("service", format!("'{name}' is no service")))
}

#[tonic::async_trait]
impl DataServers for DataServersApi {
    type WatchKeysStream = BoxStream<'static, Result<pb::WatchKeysResponse, Status>>;

    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        let principal = self.data_server(&request).map_err(status)?;
        tracing::info!(principal, "a data server joined");
        Ok(Response::new(pb::JoinResponse { principal }))
    }

    async fn encrypt(
        &self,
        request: Request<pb::EncryptForRequest>,
    ) -> Result<Response<EncryptResponse>, Status> {
        self.encrypt(request).await.map(Response::new).map_err(status)
    }

    async fn decrypt(
        &self,
        request: Request<pb::DecryptForRequest>,
    ) -> Result<Response<pb::DecryptForResponse>, Status> {
        self.decrypt(request).await.map(Response::new).map_err(status)
    }

    async fn get_project_number(
        &self,
        request: Request<pb::GetProjectNumberRequest>,
    ) -> Result<Response<pb::GetProjectNumberResponse>, Status> {
        let number = self.project_number(request).await.map_err(status)?;
        Ok(Response::new(pb::GetProjectNumberResponse { number }))
    }

    async fn get_managed_key(
        &self,
        request: Request<pb::GetManagedKeyRequest>,
    ) -> Result<Response<pb::GetManagedKeyResponse>, Status> {
        let name = self.managed_key(request).await.map_err(status)?;
        Ok(Response::new(pb::GetManagedKeyResponse { name }))
    }

    async fn describe_key(
        &self,
        request: Request<pb::DescribeKeyRequest>,
    ) -> Result<Response<pb::DescribeKeyResponse>, Status> {
        let external = self.is_external(request).await.map_err(status)?;
        Ok(Response::new(pb::DescribeKeyResponse { external }))
    }

    async fn check_policy(
        &self,
        request: Request<pb::CheckPolicyRequest>,
    ) -> Result<Response<pb::CheckPolicyResponse>, Status> {
        self.check_policy(request).await.map_err(status)?;
        Ok(Response::new(pb::CheckPolicyResponse {}))
    }

    async fn watch_keys(
        &self,
        request: Request<pb::WatchKeysRequest>,
    ) -> Result<Response<Self::WatchKeysStream>, Status> {
        self.data_server(&request).map_err(status)?;
        let watched = self.changes.watch(&request.get_ref().position);
        Ok(Response::new(watched.map(Ok).boxed()))
    }
}
