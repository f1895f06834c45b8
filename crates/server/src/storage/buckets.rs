//! Buckets over the JSON API.

use axum::body::Body;
use claviger_buckets::BucketSpec;
use claviger_buckets::model::{Bucket, BucketConfig};
use claviger_buckets::names::Location;
use claviger_core::Error;
use http::{Method, Response};
use serde_json::{Value, json};

use super::failure::Failure;
use super::{Answer, Call, StorageApi, json, json_body, no_content, reply};

/// The most buckets of a page.
const PAGE: usize = 1000;

impl StorageApi {
    /// `b`: the buckets of a project, and new ones.
    pub(super) async fn buckets_of_project(&self, call: &Call, body: Body) -> Answer {
        let project = call.query.text("project").ok_or_else(|| Failure::required("project"))?;
        match call.method {
            Method::GET => self.list_buckets(call, &project),
            Method::POST => {
                let body = json_body(body).await?;
                let name =
                    body.get("name").and_then(Value::as_str).ok_or_else(|| Failure::required("name"))?;
                let location = body.get("location").and_then(Value::as_str).unwrap_or_default();
                if body.contains_key("customPlacementConfig") {
                    return Err(Error::unimplemented(
                        "Custom pairs of regions are not built in this server.",
                    )
                    .into());
                }
                let mut config = BucketConfig::default();
                json::patch_bucket(&mut config, &body, self.buckets.now())?;
                let spec = BucketSpec {
                    project,
                    name: name.to_owned(),
                    location: Location::parse(location)?,
                    config,
                };
                Ok(self.shown(call, &*self.buckets.create_bucket(spec).await?))
            }
            _ => Err(Failure::method()),
        }
    }

    fn list_buckets(&self, call: &Call, project: &str) -> Answer {
        let prefix = call.query.text("prefix").unwrap_or_default();
        let after = call.query.text("pageToken");
        let limit: usize = call.query.number("maxResults")?.filter(|wanted| *wanted > 0).unwrap_or(PAGE);
        let mut found = self.buckets.buckets(project);
        found.retain(|bucket| {
            bucket.name.starts_with(&prefix) && after.as_ref().is_none_or(|after| bucket.name > *after)
        });
        let more = found.len() > limit.min(PAGE);
        found.truncate(limit.min(PAGE));
        let items: Vec<Value> = found.iter().map(|bucket| json::bucket(bucket, &call.origin)).collect();
        let mut page = json!({"kind": "storage#buckets"});
        if let Some(page) = page.as_object_mut() {
            if let (true, Some(last)) = (more, found.last()) {
                page.insert("nextPageToken".into(), last.name.as_str().into());
            }
            if !items.is_empty() {
                page.insert("items".into(), items.into());
            }
        }
        Ok(reply(&page))
    }

    /// `b/BUCKET`.
    pub(super) async fn bucket(&self, call: &Call, name: &str, body: Body) -> Answer {
        let conditions = call.query.conditions()?;
        match call.method {
            Method::GET | Method::HEAD => {
                let bucket = self.buckets.bucket(name)?;
                conditions.check_read(Some((bucket.created.micros(), bucket.metageneration)))?;
                Ok(self.shown(call, &bucket))
            }
            Method::PATCH | Method::PUT => {
                let (body, whole) = (json_body(body).await?, call.method == Method::PUT);
                let now = self.buckets.now();
                let mut failure = None;
                let changed = self.buckets.update_bucket(name, &conditions, |config| {
                    if whole {
                        // What is not named goes back to what a new bucket has.
                        let kept = config.retention.take();
                        *config = BucketConfig {
                            storage_class: config.storage_class.clone(),
                            ..BucketConfig::default()
                        };
                        config.retention = kept.filter(|_| body.contains_key("retentionPolicy"));
                    }
                    json::patch_bucket(config, &body, now).map_err(|refused| {
                        failure = Some(refused);
                        Error::invalid("The patch cannot be read.")
                    })
                });
                let changed = changed.await;
                match (changed, failure) {
                    (Ok(bucket), _) => Ok(self.shown(call, &bucket)),
                    (Err(_), Some(failure)) => Err(failure),
                    (Err(error), None) => Err(error.into()),
                }
            }
            Method::DELETE => {
                self.buckets.delete_bucket(name, &conditions).await?;
                Ok(no_content())
            }
            _ => Err(Failure::method()),
        }
    }

    /// What lies below `b/BUCKET` and is no object.
    pub(super) async fn bucket_action(&self, call: &Call, name: &str, action: &str, body: Body) -> Answer {
        let bucket = self.buckets.bucket(name)?;
        let (first, _) = action.split_once('/').unwrap_or((action, ""));
        match (&call.method, first) {
            (_, "iam") => self.bucket_iam(call, &bucket, action, body).await,
            (&Method::GET, "storageLayout") => Ok(reply(&json!({
                "kind": "storage#storageLayout",
                "bucket": bucket.name,
                "location": bucket.location.as_str(),
                "locationType": bucket.location.kind(),
                "hierarchicalNamespace": {"enabled": false},
            }))),
            (&Method::POST, "lockRetentionPolicy") => {
                let conditions = call.query.conditions()?;
                if conditions.metageneration_match.is_none() {
                    return Err(Failure::required("ifMetagenerationMatch"));
                }
                Ok(self.shown(call, &*self.buckets.lock_retention(name, &conditions).await?))
            }
            // Empty, so that clients that look for them go on.
            (&Method::GET, "managedFolders") => Ok(reply(&json!({"kind": "storage#managedFolders"}))),
            (&Method::GET, "folders") => Ok(reply(&json!({"kind": "storage#folders"}))),
            (&Method::GET, "notificationConfigs") => Ok(reply(&json!({"kind": "storage#notifications"}))),
            (_, "acl" | "defaultObjectAcl") => Err(Failure::uniform()),
            (_, "managedFolders" | "folders") => {
                Err(Error::unimplemented("Managed folders are not built in this server.").into())
            }
            (_, "notificationConfigs") => {
                Err(Error::unimplemented("Notifications are not built in this server.").into())
            }
            (_, "anywhereCaches") => {
                Err(Error::unimplemented("Anywhere caches are not built in this server.").into())
            }
            _ => {
                Err(Error::not_found(format!("There is no method for a bucket's {}.", super::short(action)))
                    .into())
            }
        }
    }

    fn shown(&self, call: &Call, bucket: &Bucket) -> Response<Body> {
        reply(&json::bucket(bucket, &call.origin))
    }
}
