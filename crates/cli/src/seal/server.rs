//! The API of the seals of a server, over HTTP.
//!
//! Invariant: an answer has a limit; what a server sends as an error becomes a refusal in its own words.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::args::Global;
use crate::failure::Failure;
use crate::plain::Plain;

/// Where the API is.
const PREFIX: &str = "/seal/v1/";
/// The most of an answer, bytes.
const ANSWER_BYTES: usize = 256 * 1024;
/// The wait between two looks at whether a server is ready.
const LOOK: Duration = Duration::from_millis(50);
/// Looks until a server is thought to hang: two minutes.
const LOOKS: u32 = 2_400;

/// The connection to a server.
#[derive(Debug)]
pub(super) struct Server(Plain);

impl Server {
    /// Makes ready to connect, at the first request.
    ///
    /// # Errors
    /// Usage: the URL is wrong.
    pub(super) fn new(global: &Global) -> Result<Self, Failure> {
        Plain::new(global, ANSWER_BYTES).map(Self)
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
            match self.0.ask(Method::GET, "/readyz", Bytes::new()).await {
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
        let body = self.0.succeed(method, &format!("{PREFIX}{path}"), body).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Failure::local(format!("the server's answer cannot be read: {error}")))
    }
}
