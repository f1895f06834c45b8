//! The way to external key managers, and what their operators need of this server: the public key that its requests are
//! signed with, at `/ekm/v1/certs`, as a set of JSON Web Keys (RFC 7517).
//!
//! Invariant: the key that is shown is public; nothing else is.

use std::sync::Arc;

use axum::body::Body;
use claviger_core::{Clock, Error, Result};
use claviger_crypto::certificate;
use claviger_ekm::token::KeySet;
use claviger_ekm::{Client, ClientConfig};
use claviger_kms::Kms;
use claviger_kms::external::ExternalKeys;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};

use crate::config::ServeConfig;
use crate::status;

/// Where the public key is.
const CERTS: &str = "/ekm/v1/certs";

/// The client of external key managers.
pub(crate) fn client(config: &ServeConfig, clock: Arc<dyn Clock>) -> Result<Arc<dyn ExternalKeys>> {
    let roots = match &config.ekm_ca_file {
        None => None,
        Some(file) => {
            let wrong = |e: &dyn std::error::Error| Error::precondition(format!("{}: {e}", file.display()));
            let pem = std::fs::read_to_string(file).map_err(|e| wrong(&e))?;
            Some(certificate::from_pem(&pem).map_err(|e| wrong(&e))?)
        }
    };
    let config =
        ClientConfig { roots, private_addresses: config.ekm_private_addresses, ..ClientConfig::default() };
    Ok(Arc::new(Client::new(config, clock)))
}

/// What shows the public key.
#[derive(Clone, Debug)]
pub(crate) struct EkmApi {
    kms: Arc<Kms>,
}

impl EkmApi {
    /// Shows the key of a KMS.
    pub(crate) fn new(kms: Arc<Kms>) -> Self {
        Self { kms }
    }

    /// Whether a request is for this API.
    pub(crate) fn matches(path: &str) -> bool {
        path == CERTS
    }

    /// Answers a request, whatever it is.
    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return status::not_allowed("GET, HEAD");
        }
        match self.certs().await {
            Ok(json) => {
                let mut response = Response::new(Body::from(json));
                let kind = HeaderValue::from_static("application/json; charset=UTF-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => status::response(&status::status(error)),
        }
    }

    async fn certs(&self) -> Result<Vec<u8>> {
        let set = KeySet::of(self.kms.ekm_signer().await?)?;
        serde_json::to_vec_pretty(&set)
            .map_err(|e| Error::internal("a set of keys cannot be written").because(e))
    }
}
