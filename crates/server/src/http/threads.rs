//! Threads that talk to clients, and the accept loop that gives them their connections.
//!
//! Invariant: a connection lives on one thread from its first byte to its last, so that what arrives
//! together is answered together, with one write and no wake-up between threads. What may take long (see
//! `Front::answer`) runs on the process's other threads and never holds a connection up. The reasons and
//! the figures are in docs/adr/0008.

use std::convert::Infallible;
use std::net::TcpStream as StdStream;
use std::num::NonZero;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::Door;
use super::cork::corked;
use super::secure::{self, Secure};

/// How long requests under way may take once the server is told to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// The HTTP/2 flow-control window of a stream; of a connection, four times as much.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The longest HTTP/2 frame that a client may send: each is read and handed on by itself.
const FRAME_BYTES: u32 = 256 * 1024;
/// Requests at the same time on one connection.
const STREAMS: u32 = 1_000;
/// Connections that wait for their thread to take them up.
const WAITING: usize = 64;

/// A connection on its way to its thread, which ends early when the watcher says so.
type Handed = (StdStream, Watcher);

/// How many threads talk to clients: one for each core.
fn count() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Starts a thread, which ends when the sender is dropped and its connections are gone.
fn start(number: usize, door: Door, secure: Option<Secure>) -> std::io::Result<mpsc::Sender<Handed>> {
    let (sender, mut handed) = mpsc::channel::<Handed>(WAITING);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("clients-{number}")).spawn(move || {
        runtime.block_on(async move {
            let builder = builder();
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, watcher) = tokio::select! {
                    next = handed.recv() => match next {
                        Some(next) => next,
                        None => break,
                    },
                    Some(_) = connections.join_next() => continue,
                };
                match (TcpStream::from_std(stream), &secure) {
                    (Ok(stream), None) => {
                        connections.spawn(talk(builder.clone(), stream, watcher, door.clone()));
                    }
                    (Ok(stream), Some(secure)) => {
                        let (builder, secure) = (builder.clone(), secure.clone());
                        connections.spawn(secure::talk(builder, secure, stream, watcher, door.clone()));
                    }
                    (Err(error), _) => tracing::warn!(%error, "a connection could not be taken up"),
                }
            }
            while connections.join_next().await.is_some() {}
        });
    })?;
    Ok(sender)
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Duration::from_secs(60));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
}

async fn talk(builder: auto::Builder<TokioExecutor>, stream: TcpStream, watcher: Watcher, door: Door) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let answer = door.answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let (from, to) = stream.into_split();
    let ended = corked(from, to, |socket| {
        watcher.watch(builder.serve_connection(TokioIo::new(socket), service).into_owned())
    });
    match ended.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        Err(error) => tracing::debug!(%error, "a client took no more bytes"),
    }
}

/// Waits for the word to stop, which also the end of the sender is.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves until `stop` says so, then lets requests under way end; over TLS, when it is told how.
///
/// # Errors
/// When a thread could not be started.
pub(crate) async fn serve(
    listener: TcpListener,
    door: Door,
    secure: Option<Secure>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let threads = (0..count()).map(|number| start(number, door.clone(), secure.clone()));
    let threads: Vec<_> = threads.collect::<Result<_, _>>()?;
    let graceful = GracefulShutdown::new();
    for thread in threads.iter().cycle() {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.and_then(|(stream, _)| {
                stream.set_nodelay(true)?;
                stream.into_std()
            }),
            () = stopped(&mut stop) => break,
        };
        match stream {
            // The thread is gone only when it panicked, which the next accept finds again.
            Ok(stream) => drop(thread.send((stream, graceful.watcher())).await),
            Err(error) => {
                // Out of file handles, or the peer left: the next accept may work.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(PATIENCE, graceful.shutdown()).await;
    Ok(())
}
