//! The JSON API of Cloud Storage, for unmodified clients, and reads by the paths of its XML API.
//!
//! Invariant: nothing here decides: requests become calls of `claviger_buckets`, and its answers JSON.
//! Bodies of objects are streams in both directions; what is read whole has a limit.

mod batch;
mod buckets;
mod download;
mod failure;
mod iam;
mod json;
mod objects;
mod query;
mod related;
mod route;
mod upload;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use claviger_buckets::Buckets;
use claviger_core::Error;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::auth::{self, Identity};

use failure::Failure;
use query::Query;
use route::Route;

/// The most JSON that a request may carry, bytes.
const JSON_BYTES: usize = 2 * 1024 * 1024;

/// What a handler gives back.
type Answer = Result<Response<Body>, Failure>;

/// The buckets of this server, over HTTP.
#[derive(Clone, Debug)]
pub(crate) struct StorageApi {
    buckets: Arc<Buckets>,
}

/// A request without its body.
struct Call {
    method: Method,
    query: Query,
    headers: HeaderMap,
    /// `http://HOST:PORT`, as the client knows this server.
    origin: String,
    identity: Identity,
}

impl StorageApi {
    /// Serves `buckets`.
    pub(crate) fn new(buckets: Arc<Buckets>) -> Self {
        Self { buckets }
    }

    /// Whether a request is for this API: by its path, or because it reads from a bucket that there is.
    pub(crate) fn matches(&self, method: &Method, path: &str) -> bool {
        route::is_json(path)
            || matches!(*method, Method::GET | Method::HEAD)
                && route::xml(path).is_some_and(|(bucket, _)| self.buckets.bucket(&bucket).is_ok())
    }

    /// Answers a request, whatever it is.
    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        if parts.method == Method::POST && route::is_batch(parts.uri.path()) {
            return answered(self.batch(&parts, body).await);
        }
        // A future of its own, because a batch calls this as well.
        answered(Box::pin(self.one(parts, body)).await)
    }

    async fn one(&self, parts: Parts, body: Body) -> Answer {
        let call = Call::new(&parts)?;
        let route = route::parse(parts.uri.path()).ok_or_else(|| {
            Error::not_found(format!("There is no method for {}.", short(parts.uri.path())))
        })?;
        if let Some(right) = route.right(&call.method) {
            auth::allow(&parts.extensions, right, "this resource")?;
        }
        match route {
            Route::Buckets => self.buckets_of_project(&call, body).await,
            Route::Bucket(bucket) => self.bucket(&call, &bucket, body).await,
            Route::BucketAction(bucket, action) => self.bucket_action(&call, &bucket, &action, body).await,
            Route::Objects(bucket) => self.objects(&call, &bucket).await,
            Route::Object(bucket, object) => self.object(&call, &bucket, &object, body).await,
            Route::ObjectAction(bucket, object, action) => {
                self.object_action(&call, &bucket, &object, &action, body).await
            }
            Route::Copy { source, to, rewrite } => self.copy(&call, source, to, rewrite, body).await,
            Route::Upload(bucket) => self.upload(&call, &bucket, body).await,
            Route::Download(bucket, object) => match call.method {
                Method::GET | Method::HEAD => self.download(&call, &bucket, &object, false).await,
                _ => Err(Failure::method()),
            },
            Route::Xml(bucket, object) => self.download(&call, &bucket, &object, true).await,
            Route::ServiceAccount(project) => {
                let email = self.buckets.service_account(&project).await?;
                Ok(reply(&serde_json::json!({"kind": "storage#serviceAccount", "email_address": email})))
            }
            Route::Unbuilt(what) => {
                Err(Error::unimplemented(format!("{what} are not built in this server.")).into())
            }
        }
    }
}

impl Call {
    fn new(parts: &Parts) -> Result<Self, Failure> {
        for name in parts.headers.keys() {
            let name = name.as_str();
            if name.starts_with("x-goog-encryption-") || name.starts_with("x-goog-copy-source-encryption-") {
                return Err(Error::unimplemented(
                    "Customer-supplied encryption keys are not built in this server: use a Cloud KMS key (kmsKeyName).",
                )
                .into());
            }
        }
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host =
            host.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str)).unwrap_or("localhost");
        // Clients that cannot send PATCH say what they mean in a header.
        let meant = parts.headers.get("x-http-method-override").and_then(|method| method.to_str().ok());
        let method = match meant.and_then(|method| Method::from_bytes(method.as_bytes()).ok()) {
            Some(method) if parts.method == Method::POST => method,
            _ => parts.method.clone(),
        };
        Ok(Self {
            method,
            query: Query::parse(parts.uri.query().unwrap_or_default())?,
            headers: parts.headers.clone(),
            origin: format!("http://{host}"),
            identity: auth::identity(&parts.extensions)?.clone(),
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

fn answered(answer: Answer) -> Response<Body> {
    answer.unwrap_or_else(Failure::into_response)
}

/// The reply with a JSON value.
fn reply(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    headers
        .insert("cache-control", HeaderValue::from_static("no-cache, no-store, max-age=0, must-revalidate"));
    response
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Reads a body of at most `limit` bytes.
async fn whole(body: Body, limit: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(why) if why.is::<http_body_util::LengthLimitError>() => Err(Failure::too_large(limit)),
        Err(_) => Err(broken().into()),
    }
}

fn broken() -> Error {
    Error::invalid("The body of the request broke off.")
}

/// Reads a JSON object; an empty body is an empty one.
async fn json_body(body: Body) -> Result<serde_json::Map<String, Value>, Failure> {
    parse_json(&whole(body, JSON_BYTES).await?)
}

fn parse_json(bytes: &[u8]) -> Result<serde_json::Map<String, Value>, Failure> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(serde_json::Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(Failure::parse()),
    }
}

/// What of a path an error repeats.
fn short(path: &str) -> String {
    path.chars().take(200).collect()
}

#[cfg(test)]
mod tests;
