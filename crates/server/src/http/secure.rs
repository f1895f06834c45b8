//! Connections over TLS, and who is at their other ends.
//!
//! Invariant: connections in the clear pass none of this. Where certificates are asked for, no request of a connection
//! is answered before its certificate was found right and names someone, and each request carries who that is.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use claviger_core::{Clock, Error, Result};
use claviger_crypto::certificate;
use claviger_crypto::tls::{self, Identity};
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::Door;
use crate::auth::Peer;
use crate::config::ServeConfig;
use crate::secrets::secret;

/// How long a client may take until it can ask.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How connections over TLS are taken.
#[derive(Clone)]
pub(crate) struct Secure {
    acceptor: TlsAcceptor,
    asks: bool,
    admins: Arc<[String]>,
}

impl Secure {
    /// As it is configured; nothing, when no certificate is.
    ///
    /// # Errors
    /// `FailedPrecondition` when a file cannot be read or holds something else.
    pub(crate) fn new(config: &ServeConfig, clock: Arc<dyn Clock>) -> Result<Option<Self>> {
        let Some(files) = &config.tls else { return Ok(None) };
        let unfit = |file: &Path, why: claviger_crypto::Error| {
            Error::precondition(format!("{}: {why}", file.display())).because(why)
        };
        let text = |file: &Path| {
            std::fs::read_to_string(file)
                .map_err(|e| Error::precondition(format!("cannot read {}: {e}", file.display())))
        };
        let identity = Identity::from_pem(&text(&files.cert_file)?, secret(&files.key_file)?.expose())
            .map_err(|e| unfit(&files.cert_file, e))?;
        let clients = match &files.client_ca_file {
            Some(file) => Some(certificate::from_pem(&text(file)?).map_err(|e| unfit(file, e))?),
            None => None,
        };
        let asks = clients.is_some();
        let now = Arc::new(move || u64::try_from(clock.now().seconds_and_nanos().0).unwrap_or(0));
        let tls = tls::server_as(identity, clients, &[b"h2", b"http/1.1"], now);
        let acceptor = TlsAcceptor::from(tls.map_err(|e| unfit(&files.cert_file, e))?);
        Ok(Some(Self { acceptor, asks, admins: config.admins.as_slice().into() }))
    }

    /// Who showed their certificate, where that is asked for.
    fn peer(&self, stream: &TlsStream<TcpStream>) -> Result<Option<Peer>> {
        if !self.asks {
            return Ok(None);
        }
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.ok_or_else(|| Error::permission_denied("no certificate was shown"))?;
        Peer::of(shown, &self.admins).map(Some)
    }
}

/// Talks to a client over TLS until one of both ends it.
pub(super) async fn talk(
    builder: auto::Builder<TokioExecutor>,
    secure: Secure,
    stream: TcpStream,
    watcher: Watcher,
    door: Door,
) {
    let stream = match tokio::time::timeout(HANDSHAKE, secure.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(%error, "a client and we did not agree on TLS"),
        Err(_) => return tracing::debug!("a client took too long to begin"),
    };
    let peer = match secure.peer(&stream) {
        Ok(peer) => peer,
        Err(error) => return tracing::warn!(%error, "a client's certificate names no one"),
    };
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        let answer = door.answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}
