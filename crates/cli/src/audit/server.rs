//! The audit log of a server, over HTTP.
//!
//! Invariant: an answer has a limit; what a server sends as an error becomes a refusal in its own words.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_audit::tlog::{LEAF_BYTES, Source, TILE_WIDTH, VerifierKey};
use claviger_core::{Error, ErrorKind};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::args::Global;
use crate::client::{CONNECT_TIMEOUT, innermost};
use crate::failure::Failure;

/// Where the files of the log are.
const PREFIX: &str = "/audit/v1/";
const COSIGNATURES: &str = "cosignatures";
/// The most of an answer, bytes: a full bundle of the largest entries, each after two bytes.
const ANSWER_BYTES: usize = TILE_WIDTH as usize * (LEAF_BYTES + 2);

/// The connection to a server.
pub(super) struct Server {
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Server {
    /// Makes ready to connect, at the first request.
    pub(super) fn new(global: &Global) -> Result<Self, Failure> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { url: crate::client::url(&global.endpoint)?, client })
    }

    /// A file that must be there.
    pub(super) async fn file(&self, path: &str) -> Result<Bytes, Failure> {
        let (status, body) = self.ask(Method::GET, path, Bytes::new()).await?;
        if status.is_success() { Ok(body) } else { Err(Failure::of_json(status.as_u16(), &body)) }
    }

    /// Hands in a cosignature; gives the checkpoint with all that are kept.
    pub(super) async fn cosign(&self, note: &str, witness: &VerifierKey) -> Result<Bytes, Failure> {
        let body = serde_json::json!({ "checkpoint": note, "witness": witness.to_string() }).to_string();
        let (status, body) = self.ask(Method::POST, COSIGNATURES, body.into()).await?;
        if status.is_success() { Ok(body) } else { Err(Failure::of_json(status.as_u16(), &body)) }
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        let request = Request::builder().method(method).uri(format!("{}{PREFIX}{path}", self.url));
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::local(format!("no such request: {error}")))?;
        let response = self.client.request(request).await.map_err(|error| {
            let cause = innermost(&error);
            if error.is_connect() {
                Failure::unreachable(&self.url, &cause)
            } else {
                Failure::broken(&self.url, &cause)
            }
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| Failure::broken(&self.url, &innermost(&*error)))?;
        Ok((status, body.to_bytes()))
    }
}

#[async_trait]
impl Source for Server {
    async fn get(&self, path: &str) -> claviger_core::Result<Option<Bytes>> {
        let failed = |failure: Failure| {
            let text = failure.text();
            let said = text.trim_start_matches("error: ").trim_end();
            Error::new(ErrorKind::Unavailable, said)
        };
        let (status, body) = self.ask(Method::GET, path, Bytes::new()).await.map_err(failed)?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(body)),
            status => Err(failed(Failure::of_json(status.as_u16(), &body))),
        }
    }
}
