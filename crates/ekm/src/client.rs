//! The client of external key managers.
//!
//! A call is one HTTPS request on one connection, signed for the host that it goes to. Nothing is tried again here: a
//! manager that is silent is asked when the KMS is asked next. After several silences in a row a manager is left alone
//! for a while, so that many keys behind it make no storm.
//!
//! Invariants: only https is spoken. A name is resolved here and the connection goes to an address that was looked at:
//! never a link-local one, and one of this machine or a private network only for managers whose certificate is pinned,
//! unless the operator said otherwise. No redirect is followed. An answer that cannot be understood says nothing about
//! the key.

mod circuit;
mod net;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_core::{Clock, Error, Result};
use claviger_crypto::tls::{self, Trust};
use claviger_kms::external::{ExternalCall, ExternalFailure, ExternalKeys, Identity, Target, Unwrapped};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::token;
use crate::wire::{
    AccessReasonContext, Base64, RequestContext, Status, UnwrapRequest, UnwrapResponse, WrapRequest,
    WrapResponse, duration,
};
use circuit::Circuit;

/// Calls under way at a time, to all managers.
const MAX_CALLS: usize = 64;
/// Managers that are remembered at a time.
const MAX_PEERS: usize = 1024;
/// Characters of a manager's message that are told on.
const MAX_DETAIL: usize = 300;

/// A manager that could not be reached, or did not show the right certificate.
const UNREACHABLE: &str = "EXTERNAL_KEY_MANAGER_UNREACHABLE";
/// A manager that did not answer in time.
const TIMEOUT: &str = "EXTERNAL_KEY_MANAGER_TIMEOUT";
/// A manager that answered with a fault of its own, or with what cannot be understood.
const UNAVAILABLE: &str = "EXTERNAL_KEY_MANAGER_UNAVAILABLE";

/// How external key managers are asked.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// How long a call may take.
    pub timeout: Duration,
    /// Whether managers without a pinned certificate may be on this machine or in a private network.
    pub private_addresses: bool,
    /// Who is trusted to vouch for managers without a pinned certificate, in DER; without, whom the machine trusts.
    pub roots: Option<Vec<Vec<u8>>>,
    /// Who the tokens say has signed them.
    pub issuer: String,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            private_addresses: false,
            roots: None,
            issuer: token::ISSUER.to_owned(),
        }
    }
}

/// The certification authorities that this machine trusts, in DER.
#[must_use]
pub fn machine_roots() -> Vec<Vec<u8>> {
    rustls_native_certs::load_native_certs().certs.into_iter().map(|der| der.to_vec()).collect()
}

/// A manager's host, and the certificates that are pinned for it.
type PeerName = (String, Vec<Vec<u8>>);

/// A manager, as it is reached and trusted.
struct Peer {
    tls: Arc<tls::ClientConfig>,
    circuit: Circuit,
}

/// See the file's text.
pub struct Client {
    config: ClientConfig,
    clock: Arc<dyn Clock>,
    permits: Semaphore,
    peers: Mutex<HashMap<PeerName, Arc<Peer>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

fn silent(kind: &'static str, detail: impl Into<String>) -> ExternalFailure {
    ExternalFailure::Silent { kind, detail: detail.into() }
}

impl Client {
    /// A client.
    #[must_use]
    pub fn new(config: ClientConfig, clock: Arc<dyn Clock>) -> Self {
        Self { config, clock, permits: Semaphore::new(MAX_CALLS), peers: Mutex::default() }
    }

    /// The peer behind a target.
    fn peer(&self, authority: &str, target: &Target) -> Result<Arc<Peer>, ExternalFailure> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (authority.to_owned(), target.pins.clone());
        if let Some(peer) = peers.get(&name) {
            return Ok(peer.clone());
        }
        let trust = if target.pins.is_empty() {
            Trust::Roots(self.config.roots.clone().unwrap_or_else(machine_roots))
        } else {
            Trust::Pinned(target.pins.clone())
        };
        let clock = self.clock.clone();
        let tls = tls::client(trust, Arc::new(move || seconds(clock.as_ref())))
            .map_err(|e| silent(UNREACHABLE, format!("no connection can be made: {e}")))?;
        if peers.len() >= MAX_PEERS {
            peers.clear();
        }
        let peer = Arc::new(Peer { tls, circuit: Circuit::default() });
        peers.insert(name, peer.clone());
        Ok(peer)
    }

    /// Sends a request and gives the answer's status and body.
    async fn send(
        &self,
        target: &Target,
        identity: &Identity<'_>,
        method: Method,
        verb: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ExternalFailure> {
        let text = format!("{}{verb}", target.uri);
        let uri: Uri = text.parse().map_err(|_| silent(UNREACHABLE, format!("'{text}' is not a URI")))?;
        let (Some("https"), Some(host), Some(authority)) = (uri.scheme_str(), uri.host(), uri.authority())
        else {
            return Err(silent(UNREACHABLE, format!("'{text}' is not a URI of https")));
        };
        let audience = format!("https://{host}");
        let now = seconds(self.clock.as_ref());
        let token = token::sign(identity.key, &self.config.issuer, &identity.email, &audience, now)
            .map_err(|e| silent(UNAVAILABLE, e.message()))?;
        let request = Request::builder()
            .method(method)
            .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, authority.as_str())
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|e| silent(UNREACHABLE, format!("no request can be made: {e}")))?;
        let peer = self.peer(authority.as_str(), target)?;
        if !peer.circuit.admits(self.clock.elapsed()) {
            return Err(silent(
                UNREACHABLE,
                format!("{host} did not answer several times, and is left alone for a while"),
            ));
        }
        let whom = net::Whom {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(443),
            private: self.config.private_addresses || !target.pins.is_empty(),
        };
        let exchange = async {
            // The semaphore is never closed.
            let _permit = self.permits.acquire().await;
            net::exchange(&whom, peer.tls.clone(), request).await
        };
        let answer = tokio::select! {
            biased;
            answer = exchange => answer.map_err(|why| silent(UNREACHABLE, why)),
            () = self.clock.sleep(self.config.timeout) => {
                Err(silent(TIMEOUT, format!("{host} did not answer within {:?}", self.config.timeout)))
            }
        };
        let answered = answer.as_ref().is_ok_and(|(status, _)| !is_silence(*status));
        peer.circuit.heard(answered, self.clock.elapsed());
        answer
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        call: &ExternalCall<'_>,
        verb: &str,
        request: &Q,
    ) -> Result<A, ExternalFailure> {
        let body = serde_json::to_vec(request).map_err(|e| silent(UNAVAILABLE, e.to_string()))?;
        let (status, body) =
            self.send(call.target, call.identity, Method::POST, verb, Bytes::from(body)).await?;
        let body = Zeroizing::new(Vec::from(body));
        if status != StatusCode::OK {
            return Err(failure(status, &body));
        }
        serde_json::from_slice(&body).map_err(|_| silent(UNAVAILABLE, "its answer cannot be read"))
    }
}

#[async_trait]
impl ExternalKeys for Client {
    async fn wrap(&self, call: &ExternalCall<'_>, payload: &[u8]) -> Result<Vec<u8>, ExternalFailure> {
        let request = WrapRequest {
            plaintext: Base64::of(payload),
            additional_authenticated_data: Base64::of(call.aad),
            additional_context: context(call),
            key_uri_prefix: call.target.uri.clone(),
        };
        let reply: WrapResponse = self.call(call, ":wrap", &request).await?;
        Ok(reply.wrapped_blob.0.to_vec())
    }

    async fn unwrap(&self, call: &ExternalCall<'_>, wrapped: &[u8]) -> Result<Unwrapped, ExternalFailure> {
        let request = UnwrapRequest {
            wrapped_blob: Base64::of(wrapped),
            additional_authenticated_data: Base64::of(call.aad),
            additional_context: context(call),
            key_uri_prefix: call.target.uri.clone(),
        };
        let reply: UnwrapResponse = self.call(call, ":unwrap", &request).await?;
        let cache_for = reply.allowed_cache_duration.as_deref().and_then(duration);
        Ok(Unwrapped { payload: reply.plaintext.into_secret(), cache_for })
    }

    async fn probe(&self, target: &Target, identity: &Identity<'_>) -> Result<(), ExternalFailure> {
        let (status, body) = self.send(target, identity, Method::GET, "info", Bytes::new()).await?;
        let denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        // A manager need not have this page; it was reached all the same.
        if denied || is_silence(status) { Err(failure(status, &body)) } else { Ok(()) }
    }
}

fn context(call: &ExternalCall<'_>) -> RequestContext {
    RequestContext {
        relative_resource_name: call.version.to_string(),
        access_reason_context: AccessReasonContext { reason: call.reason.as_str().to_owned() },
        is_key_health_check: false,
    }
}

/// Whether a status says nothing about the key.
fn is_silence(status: StatusCode) -> bool {
    let passing = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    passing || !(status.is_success() || status.is_client_error())
}

/// What an answer that is not 200 means.
fn failure(status: StatusCode, body: &[u8]) -> ExternalFailure {
    let told: Status = serde_json::from_slice(body).unwrap_or_default();
    let told = match told.error {
        Some(inner) => *inner,
        None => told,
    };
    let message: String = told.message.chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect();
    let detail =
        if message.is_empty() { format!("it answered {status}") } else { format!("{message} ({status})") };
    if is_silence(status) || status.is_success() {
        return silent(UNAVAILABLE, detail);
    }
    let precondition = told.status == "FAILED_PRECONDITION" || told.code == 9;
    let kind = match status {
        StatusCode::BAD_REQUEST if precondition => "EXTERNAL_FAILED_PRECONDITION",
        StatusCode::BAD_REQUEST => "EXTERNAL_INVALID_ARGUMENT",
        StatusCode::UNAUTHORIZED => "EXTERNAL_UNAUTHENTICATED",
        StatusCode::FORBIDDEN => "EXTERNAL_PERMISSION_DENIED",
        StatusCode::NOT_FOUND => "EXTERNAL_NOT_FOUND",
        _ => "EXTERNAL_REFUSED",
    };
    ExternalFailure::Refused { kind, detail }
}

/// The time of day in whole seconds.
pub(crate) fn seconds(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now().seconds_and_nanos().0).unwrap_or(0)
}

/// The audience of tokens for a host and, perhaps, a port.
///
/// # Errors
/// `InvalidArgument` when it is none.
pub(crate) fn audience(host: &str) -> Result<String> {
    let uri: Uri =
        format!("https://{host}/").parse().map_err(|_| Error::invalid(format!("'{host}' is not a host")))?;
    uri.host()
        .map(|host| format!("https://{host}"))
        .ok_or_else(|| Error::invalid(format!("'{host}' is not a host")))
}
