//! Policies of buckets over the JSON API: kept and shown. Nothing is refused by them: what a caller may do is said by the
//! file of callers, for all buckets.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claviger_buckets::model::Bucket;
use claviger_callers::Right;
use claviger_core::Error;
use http::Method;
use serde_json::{Value, json};

use super::failure::Failure;
use super::{Answer, Call, StorageApi, json_body, reply};

/// The most bindings of a policy.
const BINDINGS: usize = 1500;

impl StorageApi {
    pub(super) async fn bucket_iam(&self, call: &Call, bucket: &Bucket, action: &str, body: Body) -> Answer {
        match (&call.method, action) {
            (&Method::GET, "iam") => Ok(reply(&policy(bucket))),
            (&Method::PUT, "iam") => {
                let body = json_body(body).await?;
                let bindings = match body.get("bindings") {
                    None | Some(Value::Null) => Vec::new(),
                    Some(Value::Array(bindings))
                        if bindings.len() <= BINDINGS && bindings.iter().all(is_binding) =>
                    {
                        bindings.clone()
                    }
                    Some(_) => return Err(Error::invalid("Invalid bindings in the policy.").into()),
                };
                let version = body.get("version").and_then(Value::as_u64).and_then(|v| u32::try_from(v).ok());
                let etag = body.get("etag").and_then(Value::as_str).filter(|etag| !etag.is_empty());
                // One that is not ours fits no policy.
                let expected = etag.map(|etag| revision(etag).unwrap_or(u64::MAX));
                let changed = self.buckets.set_policy(&bucket.name, bindings, version.unwrap_or(1), expected);
                Ok(reply(&policy(&*changed.await?)))
            }
            (&Method::GET, "iam/testPermissions") => {
                let may = |permission: &String| match permission.strip_prefix("storage.objects.") {
                    Some("get" | "list") => call.identity.has(Right::ObjectsRead),
                    Some(_) => call.identity.has(Right::ObjectsWrite),
                    None if permission == "storage.buckets.get" => call.identity.has(Right::BucketsRead),
                    None => call.identity.has(Right::BucketsChange),
                };
                let asked: Vec<&String> =
                    call.query.all("permissions").iter().filter(|asked| may(asked)).collect();
                Ok(reply(&json!({"kind": "storage#testIamPermissionsResponse", "permissions": asked})))
            }
            _ => Err(Failure::method()),
        }
    }
}

fn is_binding(binding: &Value) -> bool {
    binding.get("role").is_some_and(Value::is_string)
        && binding
            .get("members")
            .and_then(Value::as_array)
            .is_some_and(|members| members.iter().all(Value::is_string))
}

fn policy(bucket: &Bucket) -> Value {
    json!({
        "kind": "storage#policy",
        "resourceId": bucket.resource(),
        "version": bucket.policy.version,
        "etag": STANDARD.encode(bucket.policy.revision.to_be_bytes()),
        "bindings": bucket.policy.bindings,
    })
}

fn revision(etag: &str) -> Option<u64> {
    STANDARD.decode(etag).ok()?.try_into().ok().map(u64::from_be_bytes)
}
