//! One port for gRPC, REST and the pages that machines ask for.
//!
//! Invariant: whatever bytes arrive, the process lives: a panic in a handler becomes an error of that
//! request alone.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use claviger_core::Clock;
use futures::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::metrics::Metrics;
use crate::rest::Rest;

/// How long requests under way may take once the server is told to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// The HTTP/2 flow-control window of a stream; of a connection, four times as much.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Requests at the same time on one connection.
const STREAMS: u32 = 1_000;

/// What answers requests.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) grpc: axum::Router,
    pub(crate) rest: Arc<Rest<axum::Router>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Front {
    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let grpc = is_grpc(&request);
        let answered = AssertUnwindSafe(self.route(request)).catch_unwind().await;
        answered.unwrap_or_else(|_| {
            tracing::error!("a request made its handler panic");
            if grpc {
                grpc_error("13", "internal error")
            } else {
                plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n")
            }
        })
    }

    async fn route(self, request: Request<Body>) -> Response<Body> {
        if is_grpc(&request) {
            let path = request.uri().path().to_owned();
            let started = self.clock.elapsed();
            let answered = self.grpc.oneshot(request).await;
            self.metrics.answered(&path, self.clock.elapsed().saturating_sub(started));
            return with_sentence(&path, answered);
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthz" | "/readyz") => plain(StatusCode::OK, "ok\n"),
            (&Method::GET, "/metrics") => plain(StatusCode::OK, self.metrics.render()),
            _ => self.rest.call(request).await,
        }
    }
}

fn is_grpc(request: &Request<Body>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn plain(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn grpc_error(code: &'static str, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    if let Ok(message) = HeaderValue::from_str(&message.replace(' ', "%20")) {
        headers.insert("grpc-message", message);
    }
    response
}

/// Gives an UNIMPLEMENTED that comes without a reason its sentence.
fn with_sentence(path: &str, answered: Result<Response<Body>, Infallible>) -> Response<Body> {
    let Ok(response) = answered;
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

/// Waits for the word to stop, which also the end of the sender is.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves until `stop` says so, then lets requests under way end.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    front: Front,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Duration::from_secs(60));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    let builder = Arc::new(builder);
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file handles, or the peer left: the next accept may work.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            () = stopped(&mut stop) => break,
        };
        let _ = stream.set_nodelay(true);
        let front = front.clone();
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let front = front.clone();
            async move { Ok::<_, Infallible>(front.answer(request.map(Body::new)).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(PATIENCE, graceful.shutdown()).await;
    Ok(())
}
