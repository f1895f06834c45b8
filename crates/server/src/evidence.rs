//! The audit log as evidence, over HTTP: the files of C2SP tlog-tiles below `/audit/v1/`, to be read and mirrored by
//! any client that knows them, and beside these the log's key, its newest cosigned checkpoint, and the place where
//! cosignatures are handed in.
//!
//! Invariant: whoever may read entries of the log may read this, and no one else. Nothing here changes the log; a
//! cosignature is kept beside it.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use claviger_audit::AuditLog;
use claviger_audit::tlog::{CHECKPOINT_PATH, MAX_NOTE_BYTES, Source as _, VerifierKey};
use claviger_core::{Error, ErrorKind, Result};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;

use crate::auth;
use crate::status;

/// Where the files are. A bucket named `audit` cannot show its objects `v1/...` by the paths of the XML API.
const PREFIX: &str = "/audit/v1/";
const KEY: &str = "key";
const COSIGNED: &str = "cosigned-checkpoint";
const COSIGNATURES: &str = "cosignatures";
/// A cosignature that is handed in, bytes at most: a note, escaped as JSON text, and a key.
const BODY_BYTES: usize = 2 * MAX_NOTE_BYTES;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// A checkpoint is soon an old one.
const FRESH: HeaderValue = HeaderValue::from_static("no-store");
/// A tile of a width never changes; but it is not for everybody.
const FOREVER: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

/// The files of the audit log of the KMS in this process.
#[derive(Clone, Debug)]
pub(crate) struct EvidenceApi {
    log: Arc<AuditLog>,
}

/// What a witness hands in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cosignature {
    /// The checkpoint with the cosignature.
    checkpoint: String,
    /// The verifier key of the witness.
    witness: String,
}

impl EvidenceApi {
    /// Serves an audit log.
    pub(crate) fn new(log: Arc<AuditLog>) -> Self {
        Self { log }
    }

    /// Whether a request is for this API.
    pub(crate) fn matches(path: &str) -> bool {
        path.starts_with(PREFIX)
    }

    /// Answers a request, whatever it is.
    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let file = parts.uri.path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        let answer = match file.as_str() {
            COSIGNATURES if parts.method == Method::POST => self.cosign(&parts, body).await,
            COSIGNATURES => return status::not_allowed("POST"),
            _ if !reads => return status::not_allowed("GET, HEAD"),
            _ => self.file(&parts, &file).await,
        };
        answer.unwrap_or_else(|error| status::response(&status::status(error)))
    }

    async fn file(&self, parts: &Parts, file: &str) -> Result<Response<Body>> {
        self.admit(parts)?;
        match file {
            KEY => return Ok(reply(format!("{}\n", self.log.verifier()).into(), TEXT, FRESH)),
            COSIGNED => {
                let cosigned = self.log.cosigned_checkpoint().await?;
                let cosigned =
                    cosigned.ok_or_else(|| Error::not_found("No witness has cosigned a checkpoint."))?;
                return Ok(reply(cosigned.note.to_string().into(), TEXT, FRESH));
            }
            _ => {}
        }
        let bytes = self.log.get(file).await?;
        let bytes = bytes.ok_or_else(|| Error::not_found("The audit log has no such file."))?;
        let is_checkpoint = file == CHECKPOINT_PATH;
        Ok(if is_checkpoint { reply(bytes, TEXT, FRESH) } else { reply(bytes, OCTETS, FOREVER) })
    }

    async fn cosign(&self, parts: &Parts, body: Body) -> Result<Response<Body>> {
        self.admit(parts)?;
        let body = Limited::new(body, BODY_BYTES).collect().await;
        let body = body.map_err(|_| Error::invalid(format!("A body has at most {BODY_BYTES} bytes.")))?;
        let given: Cosignature = serde_json::from_slice(&body.to_bytes())
            .map_err(|e| Error::invalid(format!("The body is not what is expected: {e}")))?;
        let witness = VerifierKey::parse(&given.witness)?;
        let kept = self.log.cosign(given.checkpoint.as_bytes(), &witness).await.map_err(|error| {
            // What is lost here is the caller's cosignature, not data of ours.
            match error.kind() {
                ErrorKind::DataLoss => Error::precondition(error.message()).because(error),
                _ => error,
            }
        })?;
        Ok(reply(kept.note.to_string().into(), TEXT, FRESH))
    }

    /// The rule of the Logging API: whoever is known may read.
    fn admit(&self, parts: &Parts) -> Result<()> {
        auth::caller(&parts.extensions).map(drop)
    }
}

fn reply(bytes: Bytes, kind: HeaderValue, caching: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, caching);
    response
}

#[cfg(test)]
mod tests {
    use claviger_audit::Entry;
    use claviger_core::{Caller, ManualClock, Timestamp};
    use http::StatusCode;
    use object_store::memory::InMemory;

    use super::*;

    async fn api(entries: usize) -> EvidenceApi {
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let log = AuditLog::open(Arc::new(InMemory::new()), clock).await.unwrap();
        let admin = Caller::local_admin();
        let appends = (0..entries).map(|_| log.append(Entry::new("s", "m", "r", &admin)));
        futures::future::try_join_all(appends).await.unwrap();
        EvidenceApi::new(Arc::new(log))
    }

    async fn ask(api: &EvidenceApi, method: Method, path: &str, body: &str) -> (StatusCode, String, Bytes) {
        let path = format!("{PREFIX}{path}");
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let (parts, body) = api.call(request).await.into_parts();
        let caching = parts.headers.get(CACHE_CONTROL).map(|value| value.to_str().unwrap().to_owned());
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, caching.unwrap_or_default(), body)
    }

    #[tokio::test]
    async fn the_files_of_the_log_are_there_with_what_may_be_kept_of_them() {
        let api = api(300).await;
        let get = async |path| ask(&api, Method::GET, path, "").await;
        let (status, caching, key) = get("key").await;
        assert_eq!((status, caching.as_str()), (StatusCode::OK, "no-store"));
        assert_eq!(key, format!("{}\n", api.log.verifier()));
        let (_, caching, checkpoint) = get("checkpoint").await;
        assert_eq!(caching, "no-store");
        assert!(String::from_utf8_lossy(&checkpoint).contains("\n300\n"));
        let (_, caching, tile) = get("tile/0/000").await;
        assert_eq!((caching.contains("immutable"), tile.len()), (true, 8192));
        let (_, _, entries) = get("tile/entries/001.p/44").await;
        assert_eq!(claviger_audit::tlog::Bundle::decode(entries).entries.len(), 44);
    }

    #[tokio::test]
    async fn what_is_not_there_and_what_may_not_be_asked_is_told() {
        let api = api(3).await;
        for path in ["", "tile/0/000", "tile/0/000.p/4", "cosigned-checkpoint", "../x", "tile/0/000.p/03"] {
            assert_eq!(ask(&api, Method::GET, path, "").await.0, StatusCode::NOT_FOUND, "{path}");
        }
        for (method, path) in
            [(Method::POST, "checkpoint"), (Method::DELETE, "tile/0/000.p/3"), (Method::GET, "cosignatures")]
        {
            assert_eq!(ask(&api, method, path, "").await.0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
        let large = " ".repeat(BODY_BYTES + 1);
        for body in ["", "{}", r#"{"checkpoint": "", "witness": ""}"#, large.as_str()] {
            let (status, _, told) = ask(&api, Method::POST, "cosignatures", body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{told:?}");
        }
    }
}
