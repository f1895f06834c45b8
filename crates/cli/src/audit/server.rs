//! The audit log of a server, over HTTP.
//!
//! Invariant: an answer has a limit; what a server sends as an error becomes a refusal in its own words.

use async_trait::async_trait;
use bytes::Bytes;
use claviger_audit::tlog::{LEAF_BYTES, Source, TILE_WIDTH, VerifierKey};
use claviger_core::{Error, ErrorKind};
use http::{Method, StatusCode};

use crate::args::Global;
use crate::failure::Failure;
use crate::plain::Plain;

/// Where the files of the log are.
const PREFIX: &str = "/audit/v1/";
const COSIGNATURES: &str = "/audit/v1/cosignatures";
/// The most of an answer, bytes: a full bundle of the largest entries, each after two bytes.
const ANSWER_BYTES: usize = TILE_WIDTH as usize * (LEAF_BYTES + 2);

/// The connection to a server.
#[derive(Debug)]
pub(super) struct Server(Plain);

impl Server {
    /// Makes ready to connect, at the first request.
    pub(super) fn new(global: &Global) -> Result<Self, Failure> {
        Plain::new(global, ANSWER_BYTES).map(Self)
    }

    /// A file that must be there.
    pub(super) async fn file(&self, path: &str) -> Result<Bytes, Failure> {
        self.0.succeed(Method::GET, &format!("{PREFIX}{path}"), Bytes::new()).await
    }

    /// Hands in a cosignature; gives the checkpoint with all that are kept.
    pub(super) async fn cosign(&self, note: &str, witness: &VerifierKey) -> Result<Bytes, Failure> {
        let body = serde_json::json!({ "checkpoint": note, "witness": witness.to_string() }).to_string();
        self.0.succeed(Method::POST, COSIGNATURES, body.into()).await
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
        let path = format!("{PREFIX}{path}");
        let (status, body) = self.0.ask(Method::GET, &path, Bytes::new()).await.map_err(failed)?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(body)),
            status => Err(failed(Failure::of_json(status.as_u16(), &body))),
        }
    }
}
