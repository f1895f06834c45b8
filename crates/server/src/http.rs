//! One port for gRPC, REST and the pages that machines ask for.
//!
//! Invariant: whatever bytes arrive, the process lives: a panic in a handler becomes an error of that
//! request alone. Reads and writes of rows are answered on the connection's own thread, everything else on
//! the process's other threads.

mod cork;
mod secure;
mod threads;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::body::Body;
use claviger_callers::Right;
use claviger_core::Clock;
use claviger_proto::google::bigtable::v2::bigtable_server::BigtableServer;
use futures::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tower::{Service as _, ServiceExt as _};

use crate::auth::{self, Admitted, Callers, Guarded, Identity};
use crate::bigtable::DataApi;
use crate::ekm::EkmApi;
use crate::evidence::EvidenceApi;
use crate::metrics::Metrics;
use crate::rest::Rest;
use crate::seal::SealApi;
use crate::status;
use crate::storage::StorageApi;

pub(crate) use secure::Secure;
pub(crate) use threads::serve;

/// The answer of every service. Tonic's body, so that the answers to reads of rows are not boxed twice.
pub(crate) type Answer = Response<tonic::body::Body>;

/// Where the methods are that are answered on the connection's thread.
const ROWS: &str = "/google.bigtable.v2.Bigtable/";

/// What answers requests: a [`Front`] once there is one, and a few words until then.
#[derive(Clone)]
pub(crate) struct Door {
    open: Arc<OnceLock<Front>>,
    /// What says why it is closed.
    seal: Arc<Mutex<SealApi>>,
    callers: Callers,
    others: Handle,
}

impl Door {
    /// A closed door.
    pub(crate) fn new(seal: SealApi, callers: Callers) -> Self {
        let seal = Arc::new(Mutex::new(seal));
        Self { open: Arc::default(), seal, callers, others: Handle::current() }
    }

    /// Lets another say why it is closed.
    pub(crate) fn closed_by(&self, seal: SealApi) {
        *self.seal.lock().unwrap_or_else(PoisonError::into_inner) = seal;
    }

    /// Opens it, once.
    pub(crate) fn open(&self, front: Front) {
        // A second front would be the same.
        let _ = self.open.set(front);
    }

    /// Answers a request. What it needs is taken from the door at once, so that a request costs nothing more when the
    /// door is open.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + use<> {
        let grpc = is_grpc(&request);
        let admitted = self.callers.admit(request, grpc);
        let answers = match self.open.get() {
            Some(front) => Ok(front.clone()),
            None => Err(self.clone()),
        };
        async move {
            let (mut request, identity) = match admitted {
                Admitted::Go(request, identity) => (request, identity),
                Admitted::Refused(answer) => return answer,
                Admitted::Exchange(callers, request) => return auth::exchange(callers, request).await,
            };
            match answers {
                Ok(front) => front.answer(request, identity).await,
                Err(closed) => {
                    if let Some(identity) = identity {
                        request.extensions_mut().insert(identity);
                    }
                    // A panic ends the task alone.
                    let answered = closed.others.clone().spawn(closed.refuse(request)).await.ok();
                    answered.unwrap_or_else(|| panicked(grpc))
                }
            }
        }
    }

    async fn refuse(self, request: Request<Incoming>) -> Answer {
        let seal = self.seal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refusal = seal.refusal();
        if is_grpc(&request) {
            return grpc_error("14", refusal.message());
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthz") => plain(StatusCode::OK, "ok\n"),
            (&Method::GET | &Method::HEAD, "/readyz") => {
                plain(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", refusal.message()))
            }
            (_, path) if SealApi::matches(path) => {
                seal.call(request.map(Body::new)).await.map(tonic::body::Body::new)
            }
            _ => status::response(&status::status(refusal)).map(tonic::body::Body::new),
        }
    }
}

/// What answers requests when all is open.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) rows: Option<BigtableServer<DataApi>>,
    pub(crate) storage: Option<StorageApi>,
    /// What shows the KMS of this process; there may be none.
    pub(crate) evidence: Option<EvidenceApi>,
    pub(crate) ekm: Option<EkmApi>,
    pub(crate) seal: SealApi,
    pub(crate) grpc: Guarded<axum::Router>,
    pub(crate) rest: Arc<Rest<Guarded<axum::Router>>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The threads that are not a connection's.
    pub(crate) others: Handle,
}

impl Front {
    async fn answer(self, mut request: Request<Incoming>, identity: Option<Identity>) -> Answer {
        let grpc = is_grpc(&request);
        let answered = match (&self.rows, request.uri().path().starts_with(ROWS), identity) {
            (Some(rows), true, Some(identity)) if grpc => {
                if let Err(error) = identity.allow_method(request.uri().path()) {
                    return status::status(error).into_http();
                }
                let rows = rows.clone();
                AssertUnwindSafe(self.rows(rows, request)).catch_unwind().await.ok()
            }
            // A panic ends the task alone.
            (_, _, identity) => {
                if let Some(identity) = identity {
                    request.extensions_mut().insert(identity);
                }
                self.others.clone().spawn(self.route(request)).await.ok()
            }
        };
        answered.unwrap_or_else(|| panicked(grpc))
    }

    async fn rows(self, mut rows: BigtableServer<DataApi>, request: Request<Incoming>) -> Answer {
        let uri = request.uri().clone();
        let started = self.clock.elapsed();
        let Ok(response) = rows.call(request.map(tonic::body::Body::new)).await;
        self.metrics.answered(uri.path(), self.clock.elapsed().saturating_sub(started));
        with_sentence(uri.path(), response)
    }

    async fn route(self, request: Request<Incoming>) -> Answer {
        if is_grpc(&request) {
            let uri = request.uri().clone();
            let started = self.clock.elapsed();
            let Ok(response) = self.grpc.oneshot(request.map(Body::new)).await;
            self.metrics.answered(uri.path(), self.clock.elapsed().saturating_sub(started));
            return with_sentence(uri.path(), response.map(tonic::body::Body::new));
        }
        let path = request.uri().path();
        if let Some(ekm) = self.ekm.as_ref().filter(|_| EkmApi::matches(path)) {
            return ekm.call(request.map(Body::new)).await.map(tonic::body::Body::new);
        }
        if let Some(evidence) = self.evidence.as_ref().filter(|_| EvidenceApi::matches(path)) {
            return evidence.call(request.map(Body::new)).await.map(tonic::body::Body::new);
        }
        match (request.method(), path) {
            (&Method::GET | &Method::HEAD, "/healthz" | "/readyz") => plain(StatusCode::OK, "ok\n"),
            (&Method::GET, "/metrics") => {
                match auth::allow(request.extensions(), Right::Metrics, "the measurements") {
                    Ok(()) => plain(StatusCode::OK, self.metrics.render()),
                    Err(error) => status::response(&status::status(error)).map(tonic::body::Body::new),
                }
            }
            (_, path) if SealApi::matches(path) => {
                self.seal.call(request.map(Body::new)).await.map(tonic::body::Body::new)
            }
            (method, path) => match &self.storage {
                Some(storage) if storage.matches(method, path) => {
                    storage.call(request.map(Body::new)).await.map(tonic::body::Body::new)
                }
                _ => self.rest.call(request.map(Body::new)).await.map(tonic::body::Body::new),
            },
        }
    }
}

fn panicked(grpc: bool) -> Answer {
    tracing::error!("a request made its handler panic");
    if grpc {
        grpc_error("13", "internal error")
    } else {
        plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n")
    }
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn plain(status: StatusCode, text: impl Into<Body>) -> Answer {
    let mut response = Response::new(tonic::body::Body::new(text.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn grpc_error(code: &'static str, message: &str) -> Answer {
    let mut response = Response::new(tonic::body::Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    if let Ok(message) = HeaderValue::from_str(&message.replace(' ', "%20")) {
        headers.insert("grpc-message", message);
    }
    response
}

/// Gives an UNIMPLEMENTED that comes without a reason its sentence.
fn with_sentence(path: &str, response: Answer) -> Answer {
    let headers = response.headers();
    let bare = headers.get("grpc-status").is_some_and(|code| code == "12")
        && headers.get("grpc-message").is_none_or(|message| message.is_empty());
    if !bare {
        return response;
    }
    let method: String =
        path.trim_start_matches('/').chars().filter(char::is_ascii_graphic).take(200).collect();
    grpc_error("12", &format!("{method} is not built in this server."))
}
