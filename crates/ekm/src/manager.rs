//! A small external key manager: keys that are kept sealed, wrap and unwrap over HTTPS for KMSs that show a good token,
//! and switches for its operator on another port of this machine.
//!
//! Its keys are those of a KMS of its own, which seals them under a passphrase or a key file, keeps their states and
//! writes each use to an audit log.
//!
//! Invariant: a request is answered only after its token, the policy and the state of the key allowed it. The switches
//! listen on loopback only.

pub mod admin;
mod keys;
mod policy;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use claviger_core::{Clock, Error, ErrorKind, Result};
use claviger_crypto::{SecretBytes, tls};
use claviger_kms::RootSecret;
use claviger_kms::external::AccessReason;
use claviger_sealed::LocalStore;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::client::{audience, seconds};
use crate::http1;
use crate::token::{Claims, Expected, KeySet};
use crate::wire::{Base64, RequestContext, Status, UnwrapRequest, UnwrapResponse, WrapRequest, WrapResponse};

pub use keys::Keys;
pub use policy::Policy;

/// Where keys are: this, and a key's id.
pub const KEY_PATH: &str = "/v0/keys/";
/// Where a KMS looks whether the manager is there.
const INFO_PATH: &str = "/info";
/// How long a request that is to hang is kept.
const HANG: Duration = Duration::from_secs(3600);

/// How a manager is run.
#[derive(Debug)]
pub struct ManagerConfig {
    /// Where KMSs ask.
    pub listen: SocketAddr,
    /// Where the switches are; on loopback.
    pub admin: SocketAddr,
    /// The certificates that are shown, in PEM.
    pub tls_chain_pem: String,
    /// Their private key, in PEM.
    pub tls_key_pem: SecretBytes,
    /// Where the keys are kept.
    pub dir: PathBuf,
    /// What opens them.
    pub root: RootSecret,
    /// The keys of the KMSs that may ask.
    pub signers: KeySet,
    /// Who the tokens must say has signed them.
    pub issuer: String,
    /// The hosts that this manager is, as in key URIs.
    pub hosts: Vec<String>,
    /// Who may use which key for which reason.
    pub policy: Policy,
}

/// What goes wrong on purpose, to see what a KMS makes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Each request is refused, as a partner does that wants no access.
    Refuse,
    /// Each request fails with a fault of the server.
    Error,
    /// No request is answered.
    Hang,
    /// Each answer is no JSON.
    Garbage,
    /// Each answer comes late.
    Slow {
        /// By so many milliseconds.
        millis: u64,
    },
}

/// What answers requests.
struct Manager {
    keys: Keys,
    expected: Expected,
    policy: Policy,
    fault: RwLock<Fault>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Manager")
    }
}

/// A manager that listens.
#[derive(Debug)]
pub struct Running {
    manager: Arc<Manager>,
    stop: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// Where KMSs ask.
    pub address: SocketAddr,
    /// Where the switches are.
    pub admin: SocketAddr,
}

/// Opens a manager and begins to serve.
///
/// # Errors
/// What keeps it from starting: a port that is taken, a certificate that does not fit its key, a directory in use.
pub async fn start(config: ManagerConfig, clock: Arc<dyn Clock>) -> Result<Running> {
    if !config.admin.ip().is_loopback() {
        return Err(Error::precondition(format!(
            "refusing to put the switches on {}: whoever reaches them rules the keys; give an address of loopback",
            config.admin
        )));
    }
    let tls = tls::server(&config.tls_chain_pem, config.tls_key_pem.expose())
        .map_err(|e| Error::precondition(format!("TLS cannot be served: {e}")).because(e))?;
    let audiences = config.hosts.iter().map(|host| audience(host)).collect::<Result<Vec<_>>>()?;
    if audiences.is_empty() {
        return Err(Error::precondition(
            "a manager needs the host that key URIs name: tokens are for one host",
        ));
    }
    let (listener, switches) = (bind(config.listen).await?, bind(config.admin).await?);
    let store = LocalStore::open(&config.dir).await.map_err(|error| {
        Error::new(error.kind(), format!("{}: {error}", config.dir.display())).because(error)
    })?;
    let manager = Arc::new(Manager {
        keys: Box::pin(Keys::open(Arc::new(store), config.root, clock.clone())).await?,
        expected: Expected { keys: config.signers, issuer: config.issuer, audiences },
        policy: config.policy,
        fault: RwLock::default(),
        clock,
    });
    let local = |listener: &TcpListener| {
        listener.local_addr().map_err(|e| Error::internal("no local address").because(e))
    };
    let (address, admin) = (local(&listener)?, local(&switches)?);
    let (stop, stopped) = watch::channel(false);
    let answering = {
        let manager = manager.clone();
        move |request| {
            let manager = manager.clone();
            async move { manager.answer(request).await }
        }
    };
    let switching = {
        let manager = manager.clone();
        move |request| {
            let manager = manager.clone();
            async move { admin::answer(&manager, request).await }
        }
    };
    let tasks = vec![
        tokio::spawn(http1::serve(listener, Some(tls), answering, stopped.clone())),
        tokio::spawn(http1::serve(switches, None, switching, stopped)),
        tokio::spawn(manager.keys.run()),
    ];
    Ok(Running { manager, stop, tasks, address, admin })
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|e| Error::precondition(format!("cannot listen on {address}: {e}")))
}

impl Running {
    /// Stops, and makes all durable.
    ///
    /// # Errors
    /// What the store of the keys answers.
    pub async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.abort();
        }
        self.manager.keys.close().await
    }

    /// Sets what goes wrong on purpose.
    pub fn set_fault(&self, fault: Fault) {
        self.manager.set_fault(fault);
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.manager.keys
    }
}

impl Manager {
    fn fault(&self) -> Fault {
        *self.fault.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_fault(&self, fault: Fault) {
        *self.fault.write().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let what = format!("{} {}", request.method(), request.uri().path());
        match self.fault() {
            Fault::None | Fault::Refuse => {}
            Fault::Error => return refusal(&Error::internal("a fault that was asked for")),
            Fault::Hang => self.clock.sleep(HANG).await,
            Fault::Garbage => return http1::json(StatusCode::OK, &"a fault that was asked for"),
            Fault::Slow { millis } => self.clock.sleep(Duration::from_millis(millis)).await,
        }
        match self.serve(request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::info!(what, %error, "a request was refused");
                refusal(&error)
            }
        }
    }

    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let claims = self.authenticate(&request)?;
        let path = request.uri().path().to_owned();
        if request.method() == Method::GET && path == INFO_PATH {
            return Ok(http1::json(
                StatusCode::OK,
                &Info { vendor: "Claviger", version: env!("CARGO_PKG_VERSION") },
            ));
        }
        let place = path.strip_prefix(KEY_PATH).and_then(|rest| rest.split_once(':'));
        let unknown = || Error::not_found(format!("there is nothing at {path}"));
        let (key, verb) = place.filter(|_| request.method() == Method::POST).ok_or_else(unknown)?;
        let (key, verb) = (key.to_owned(), verb.to_owned());
        let body = http1::body(request).await?;
        let wrong = |e: serde_json::Error| Error::invalid(format!("the body cannot be read: {e}"));
        match verb.as_str() {
            "wrap" => {
                let asked: WrapRequest = serde_json::from_slice(&body).map_err(wrong)?;
                self.admit(&claims, &key, &asked.additional_context)?;
                let payload = asked.plaintext.into_secret();
                let context = (&claims, &asked.additional_context);
                let blob =
                    self.keys.wrap(&key, context, &payload, &asked.additional_authenticated_data.0).await?;
                Ok(http1::json(StatusCode::OK, &WrapResponse { wrapped_blob: Base64::of(&blob) }))
            }
            "unwrap" => {
                let asked: UnwrapRequest = serde_json::from_slice(&body).map_err(wrong)?;
                self.admit(&claims, &key, &asked.additional_context)?;
                let context = (&claims, &asked.additional_context);
                let aad = &asked.additional_authenticated_data.0;
                let payload = self.keys.unwrap(&key, context, &asked.wrapped_blob.0, aad).await?;
                let cache = self.policy.cache(&key);
                let reply = UnwrapResponse {
                    plaintext: Base64::of(payload.expose()),
                    allowed_cache_duration: cache.map(|cache| format!("{}s", cache.as_secs_f64())),
                };
                Ok(http1::json(StatusCode::OK, &reply))
            }
            _ => Err(unknown()),
        }
    }

    fn authenticate(&self, request: &Request<Incoming>) -> Result<Claims> {
        let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| Error::new(ErrorKind::Unauthenticated, "there is no token"))?;
        self.expected.verify(token, seconds(self.clock.as_ref()))
    }

    fn admit(&self, claims: &Claims, key: &str, context: &RequestContext) -> Result<()> {
        let reason = &context.access_reason_context.reason;
        if self.fault() == Fault::Refuse {
            return Err(Error::permission_denied("a refusal that was asked for"));
        }
        // A reason that this manager does not know is none.
        let reason = AccessReason::parse(reason).unwrap_or(AccessReason::Unspecified);
        self.policy.admit(&claims.email, key, reason)
    }
}

#[derive(Serialize)]
struct Info {
    vendor: &'static str,
    version: &'static str,
}

fn refusal(error: &Error) -> Response<Full<Bytes>> {
    let (http, status, code) = http1::code(error.kind());
    let status = Status { code, message: error.message().to_owned(), status: status.to_owned(), error: None };
    http1::json(http, &status)
}
