//! Small answers over HTTP/1.1, with or without TLS, until told to stop: what the key manager and its switches need.
//!
//! Invariant: connections, headers, bodies and the time for them have limits. A connection that fails ends alone.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::tls;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::wire::BODY_BYTES;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 256;
/// How long a handshake or a request's headers may take.
const HEADER_TIME: Duration = Duration::from_secs(10);

/// Serves until `stopped` says so.
pub(crate) async fn serve<S, F>(
    listener: TcpListener,
    tls: Option<Arc<tls::ServerConfig>>,
    answer: S,
    mut stopped: watch::Receiver<bool>,
) where
    S: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let acceptor = tls.map(TlsAcceptor::from);
    loop {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, acceptor.clone(), answer.clone(), stopped.clone(), permit));
            }
            Err(error) => tracing::warn!(%error, "a connection could not be accepted"),
        }
    }
}

async fn connection<S, F>(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    answer: S,
    mut stopped: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) where
    S: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
    let served = async {
        match acceptor {
            None => server.serve_connection(TokioIo::new(stream), service).await.map_err(|e| e.to_string()),
            Some(acceptor) => {
                let handshake = tokio::time::timeout(HEADER_TIME, acceptor.accept(stream)).await;
                let stream = handshake.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
                server.serve_connection(TokioIo::new(stream), service).await.map_err(|e| e.to_string())
            }
        }
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(error, "a connection failed");
        },
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

/// The body of a request, whole.
///
/// # Errors
/// `InvalidArgument` when it is too long or breaks off.
pub(crate) async fn body(request: Request<Incoming>) -> Result<Bytes> {
    let read = Limited::new(request.into_body(), BODY_BYTES).collect().await;
    let read = read.map_err(|_| Error::invalid(format!("a body has at most {BODY_BYTES} bytes")))?;
    Ok(read.to_bytes())
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The HTTP status of a kind of error, its name and its number in `google.rpc.Code`.
pub(crate) fn code(kind: ErrorKind) -> (StatusCode, &'static str, i64) {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::OutOfRange => {
            (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", 3)
        }
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND", 5),
        ErrorKind::AlreadyExists => (StatusCode::CONFLICT, "ALREADY_EXISTS", 6),
        ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "PERMISSION_DENIED", 7),
        ErrorKind::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", 8),
        ErrorKind::FailedPrecondition => (StatusCode::BAD_REQUEST, "FAILED_PRECONDITION", 9),
        ErrorKind::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED", 12),
        ErrorKind::Unavailable | ErrorKind::Aborted => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", 14),
        ErrorKind::Unauthenticated => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", 16),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", 13),
    }
}
