//! Organization policies over gRPC, `google.cloud.orgpolicy.v2.OrgPolicy`. REST (`/v2/...`) is made from the same
//! service.
//!
//! Invariant: adapters only. What a policy may say and what it refuses is decided in `claviger_orgpolicy`; those who
//! make resources ask there.

mod convert;

use std::sync::Arc;

use claviger_core::{Caller, Clock, Error, Result};
use claviger_kms::Kms;
use claviger_kms::agents::{MANAGED_PROJECT, Service};
use claviger_orgpolicy::{Constraint, Part, Policies, PolicyName};
use claviger_proto::google::cloud::orgpolicy::v2 as pb;
use claviger_proto::google::cloud::orgpolicy::v2::org_policy_server::OrgPolicy;
use prost_types::FieldMask;
use tonic::{Request, Response, Status};

use crate::auth;
use crate::status::status;

/// The database of the policies, beside the KMS's own records.
const RECORDS: &str = "org-policies";

/// Opens the policies, which are kept with the keys: they bind these too, and a KMS may run alone.
///
/// # Errors
/// `DataLoss` when what is kept is not what was written.
pub(crate) async fn open(kms: &Kms, clock: Arc<dyn Clock>) -> Result<Arc<Policies>> {
    Policies::open(kms.side_records(RECORDS).await?, clock).await
}

/// The names that policies know a service by.
pub(crate) fn names(service: Service) -> &'static [&'static str] {
    match service {
        Service::Bigtable => &["bigtable.googleapis.com", "bigtableadmin.googleapis.com"],
        Service::Dataflow => &["dataflow.googleapis.com"],
        Service::Storage => &["storage.googleapis.com"],
        // Its resources are the server's own.
        Service::Platform => &[],
    }
}

/// The policies of this server.
#[derive(Clone, Debug)]
pub(crate) struct OrgPolicyApi {
    policies: Arc<Policies>,
}

impl OrgPolicyApi {
    /// Serves policies.
    pub(crate) fn new(policies: Arc<Policies>) -> Self {
        Self { policies }
    }

    fn constraints(request: &pb::ListConstraintsRequest) -> Result<pb::ListConstraintsResponse> {
        let project = own(&request.parent)?;
        let after = after(&request.page_token)?;
        let all: Vec<_> =
            Constraint::ALL.into_iter().filter(|found| after.is_none_or(|at| *found > at)).collect();
        let (shown, next_page_token) = page(all, request.page_size, |constraint| *constraint)?;
        let constraints = shown.into_iter().map(|found| convert::constraint(&project, found)).collect();
        Ok(pb::ListConstraintsResponse { constraints, next_page_token })
    }

    fn list(&self, request: &pb::ListPoliciesRequest) -> Result<pb::ListPoliciesResponse> {
        let project = own(&request.parent)?;
        let found = self.policies.list(&project, after(&request.page_token)?);
        let (shown, next_page_token) = page(found, request.page_size, |policy| policy.name.constraint)?;
        let policies = shown.iter().map(|policy| convert::policy(policy)).collect();
        Ok(pb::ListPoliciesResponse { policies, next_page_token })
    }

    async fn create(&self, request: pb::CreatePolicyRequest) -> Result<pb::Policy> {
        let project = own(&request.parent)?;
        let policy = request.policy.ok_or_else(|| Error::invalid_field("policy", "must be set"))?;
        let name = policy_name(&policy.name)?;
        if name.project != project {
            let why = format!("must be a policy of {}", request.parent);
            return Err(Error::invalid_field("policy.name", why));
        }
        let made = self.policies.create(name, convert::wish(policy)?).await?;
        Ok(convert::policy(&made))
    }

    async fn update(&self, request: pb::UpdatePolicyRequest) -> Result<pb::Policy> {
        let policy = request.policy.ok_or_else(|| Error::invalid_field("policy", "must be set"))?;
        let name = policy_name(&policy.name)?;
        let part = part(request.update_mask, policy.dry_run_spec.is_some())?;
        let changed = self.policies.update(name, convert::wish(policy)?, part).await?;
        Ok(convert::policy(&changed))
    }
}

/// The id of a project whose policies users may set.
fn own(parent: &str) -> Result<String> {
    let project = claviger_orgpolicy::project(parent)?.project().to_owned();
    if project == MANAGED_PROJECT {
        return Err(denied("orgpolicy.policies.list", parent));
    }
    Ok(project)
}

fn policy_name(name: &str) -> Result<PolicyName> {
    let parsed = PolicyName::parse(name)?;
    if parsed.project == MANAGED_PROJECT {
        return Err(denied("orgpolicy.policy.get", name));
    }
    Ok(parsed)
}

fn denied(permission: &str, resource: &str) -> Error {
    Error::permission_denied(format!(
        "Permission '{permission}' denied on resource '{resource}' (or it may not exist)."
    ))
}

/// Policies are the administrator's.
fn allow(extensions: &http::Extensions, permission: &str, resource: &str) -> Result<()> {
    if auth::caller(extensions)?.principal == Caller::LOCAL_ADMIN {
        Ok(())
    } else {
        Err(denied(permission, resource))
    }
}

/// The constraint that a page comes after.
fn after(token: &str) -> Result<Option<Constraint>> {
    if token.is_empty() {
        return Ok(None);
    }
    let known = Constraint::of_id(token);
    known.map(Some).ok_or_else(|| Error::invalid_field("page_token", "is not one that this server gave"))
}

/// The first of the things that are left, and the token of the next page.
fn page<T>(mut left: Vec<T>, size: i32, constraint: impl Fn(&T) -> Constraint) -> Result<(Vec<T>, String)> {
    let size = match usize::try_from(size) {
        Ok(0) => left.len(),
        Ok(size) => size,
        Err(_) => return Err(Error::invalid_field("page_size", "must not be negative")),
    };
    let more = left.len() > size;
    left.truncate(size);
    let token = left.last().filter(|_| more).map(|last| constraint(last).id().to_owned());
    Ok((left, token.unwrap_or_default()))
}

/// What an update is about.
fn part(mask: Option<FieldMask>, has_dry_run: bool) -> Result<Part> {
    let paths = mask.unwrap_or_default().paths;
    let (mut spec, mut dry_run) = (false, false);
    for path in &paths {
        match path.strip_prefix("policy.").unwrap_or(path) {
            "*" => (spec, dry_run) = (true, true),
            "spec" => spec = true,
            "dry_run_spec" => dry_run = true,
            _ => {
                return Err(Error::invalid_field(
                    "update_mask",
                    format!("'{path}' cannot be changed: name policy.spec, policy.dry_run_spec or *"),
                ));
            }
        }
    }
    match (spec, dry_run) {
        (true, true) => Ok(Part::Both),
        (true, false) => Ok(Part::Spec),
        (false, true) => Ok(Part::DryRun),
        (false, false) if has_dry_run => {
            Err(Error::invalid_field("update_mask", "is required if there is dry_run_spec in the request"))
        }
        (false, false) => Ok(Part::Spec),
    }
}

#[tonic::async_trait]
impl OrgPolicy for OrgPolicyApi {
    async fn list_constraints(
        &self,
        request: Request<pb::ListConstraintsRequest>,
    ) -> Result<Response<pb::ListConstraintsResponse>, Status> {
        let parent = &request.get_ref().parent;
        allow(request.extensions(), "orgpolicy.constraints.list", parent).map_err(status)?;
        Self::constraints(request.get_ref()).map(Response::new).map_err(status)
    }

    async fn list_policies(
        &self,
        request: Request<pb::ListPoliciesRequest>,
    ) -> Result<Response<pb::ListPoliciesResponse>, Status> {
        allow(request.extensions(), "orgpolicy.policies.list", &request.get_ref().parent).map_err(status)?;
        self.list(request.get_ref()).map(Response::new).map_err(status)
    }

    async fn get_policy(
        &self,
        request: Request<pb::GetPolicyRequest>,
    ) -> Result<Response<pb::Policy>, Status> {
        let name = &request.get_ref().name;
        allow(request.extensions(), "orgpolicy.policy.get", name).map_err(status)?;
        let found = policy_name(name).and_then(|name| self.policies.get(&name));
        found.map(|policy| Response::new(convert::policy(&policy))).map_err(status)
    }

    async fn get_effective_policy(
        &self,
        request: Request<pb::GetEffectivePolicyRequest>,
    ) -> Result<Response<pb::Policy>, Status> {
        let name = &request.get_ref().name;
        allow(request.extensions(), "orgpolicy.policy.get", name).map_err(status)?;
        let name = policy_name(name).map_err(status)?;
        let spec = convert::spec(self.policies.effective(&name));
        Ok(Response::new(pb::Policy { name: name.to_string(), spec: Some(spec), ..Default::default() }))
    }

    async fn create_policy(
        &self,
        request: Request<pb::CreatePolicyRequest>,
    ) -> Result<Response<pb::Policy>, Status> {
        allow(request.extensions(), "orgpolicy.policies.create", &request.get_ref().parent)
            .map_err(status)?;
        self.create(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn update_policy(
        &self,
        request: Request<pb::UpdatePolicyRequest>,
    ) -> Result<Response<pb::Policy>, Status> {
        let name = request.get_ref().policy.as_ref().map(|policy| policy.name.as_str()).unwrap_or_default();
        allow(request.extensions(), "orgpolicy.policies.update", name).map_err(status)?;
        self.update(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn delete_policy(&self, request: Request<pb::DeletePolicyRequest>) -> Result<Response<()>, Status> {
        allow(request.extensions(), "orgpolicy.policies.delete", &request.get_ref().name).map_err(status)?;
        let pb::DeletePolicyRequest { name, etag } = request.into_inner();
        let name = policy_name(&name).map_err(status)?;
        self.policies.delete(name, etag).await.map(Response::new).map_err(status)
    }
}

#[cfg(test)]
mod tests;
