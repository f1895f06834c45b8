//! The API of the seals of a server, over HTTP.
//!
//! Invariant: an answer has a limit; what a server sends as an error becomes a refusal in its own words.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::args::Global;
use crate::client::{CONNECT_TIMEOUT, innermost};
use crate::failure::Failure;

/// Where the API is.
const PREFIX: &str = "/seal/v1/";
/// The most of an answer, bytes.
const ANSWER_BYTES: usize = 256 * 1024;
/// The wait between two looks at whether a server is ready.
const LOOK: Duration = Duration::from_millis(50);
/// Looks until a server is thought to hang: two minutes.
const LOOKS: u32 = 2_400;

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
    ///
    /// # Errors
    /// Usage: the URL is wrong.
    pub(super) fn new(global: &Global) -> Result<Self, Failure> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { url: crate::client::url(&global.endpoint)?, client })
    }

    /// Whether the server is sealed, and its seals.
    ///
    /// # Errors
    /// What the server refuses.
    pub(super) async fn status(&self) -> Result<Value, Failure> {
        self.json(Method::GET, "status", Bytes::new()).await
    }

    /// Hands something in.
    ///
    /// # Errors
    /// What the server refuses.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(Method::POST, path, body.to_string().into()).await
    }

    /// Removes something.
    ///
    /// # Errors
    /// What the server refuses.
    pub(super) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.json(Method::DELETE, path, Bytes::new()).await
    }

    /// Waits until the server is ready.
    ///
    /// # Errors
    /// When it ends, or takes too long.
    pub(super) async fn until_ready(&self) -> Result<(), Failure> {
        for _ in 0..LOOKS {
            match self.ask(Method::GET, "/readyz", Bytes::new()).await {
                Ok((status, _)) if status.is_success() => return Ok(()),
                Ok(_) => tokio::time::sleep(LOOK).await,
                Err(Failure::Lost { .. }) => {
                    return Err(Failure::advised(
                        "the seal was opened, but the server ended when it started",
                        "its log says why",
                    ));
                }
                Err(other) => return Err(other),
            }
        }
        Err(Failure::advised("the seal was opened, but the server is not ready yet", "its log may say why"))
    }

    async fn json(&self, method: Method, path: &str, body: Bytes) -> Result<Value, Failure> {
        let (status, body) = self.ask(method, &format!("{PREFIX}{path}"), body).await?;
        if !status.is_success() {
            return Err(Failure::of_json(status.as_u16(), &body));
        }
        serde_json::from_slice(&body)
            .map_err(|error| Failure::local(format!("the server's answer cannot be read: {error}")))
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        let request = request
            .header(CONTENT_TYPE, "application/json")
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
