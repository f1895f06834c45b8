//! One function for each method of `IAMPolicy`, for key rings and keys.
//!
//! Invariant: what the KMS cannot evaluate reaches it (conditions, unknown roles) or is refused here (audit
//! settings); nothing is dropped in silence.

use bytes::Bytes;
use claviger_core::{Caller, Error, Result};
use claviger_kms::{Binding, Kms, Policy, PolicyResource};
use claviger_proto::google::iam::v1 as pb;

pub(super) async fn set_iam_policy(
    kms: &Kms,
    caller: &Caller,
    request: pb::SetIamPolicyRequest,
) -> Result<pb::Policy> {
    let resource = PolicyResource::parse(&request.resource)?;
    let policy = request.policy.ok_or_else(|| Error::invalid_field("policy", "must be set"))?;
    if !policy.audit_configs.is_empty() {
        return Err(Error::unimplemented(
            "Audit settings of policies are not built: every use of a key is logged.",
        ));
    }
    let paths = request.update_mask.unwrap_or_default().paths;
    for path in &paths {
        match path.as_str() {
            "bindings" | "etag" | "version" => {}
            "audit_configs" => return Err(Error::unimplemented("Audit settings of policies are not built.")),
            _ => {
                return Err(Error::invalid_field("update_mask", format!("'{path}' is no field of a policy")));
            }
        }
    }
    if !paths.is_empty() && !paths.iter().any(|path| path == "bindings") {
        return Err(Error::unimplemented("Update masks that leave the bindings out are not built."));
    }
    kms.set_iam_policy(caller, &resource, from_pb(policy)).await.map(to_pb)
}

pub(super) async fn get_iam_policy(
    kms: &Kms,
    caller: &Caller,
    request: pb::GetIamPolicyRequest,
) -> Result<pb::Policy> {
    let resource = PolicyResource::parse(&request.resource)?;
    let version = request.options.unwrap_or_default().requested_policy_version;
    if !matches!(version, 0 | 1 | 3) {
        return Err(Error::invalid_field("options.requested_policy_version", "must be 0, 1 or 3"));
    }
    kms.get_iam_policy(caller, &resource).map(to_pb)
}

pub(super) async fn test_iam_permissions(
    kms: &Kms,
    caller: &Caller,
    request: pb::TestIamPermissionsRequest,
) -> Result<pb::TestIamPermissionsResponse> {
    let resource = PolicyResource::parse(&request.resource)?;
    let permissions = kms.test_iam_permissions(caller, &resource, &request.permissions)?;
    Ok(pb::TestIamPermissionsResponse { permissions })
}

fn from_pb(policy: pb::Policy) -> Policy {
    let bindings = policy.bindings.into_iter().map(|binding| Binding {
        role: binding.role,
        members: binding.members,
        conditional: binding.condition.is_some(),
    });
    Policy { version: policy.version, bindings: bindings.collect(), etag: policy.etag.to_vec() }
}

fn to_pb(policy: Policy) -> pb::Policy {
    let bindings = policy.bindings.into_iter().map(|binding| pb::Binding {
        role: binding.role,
        members: binding.members,
        condition: None,
    });
    pb::Policy {
        version: policy.version,
        bindings: bindings.collect(),
        audit_configs: Vec::new(),
        etag: Bytes::from(policy.etag),
    }
}
