//! The way to a KMS elsewhere: where it is, what it is known by, and what is shown to it.
//!
//! Invariant: nothing goes beyond this machine in the clear. Where the KMS is and what it is shown come from the
//! configuration alone. Only what the KMS itself said is a refusal; all that happened on the way is silence.

use std::error::Error as _;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use claviger_core::{Clock, Error, ErrorKind, Result};
use claviger_crypto::certificate;
use claviger_crypto::tls::{self, ClientConfig, Identity, Trust};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::socket::{Noted, Socket};
use crate::config::KmsElsewhere;
use crate::secrets::{first_line, secret};
use crate::status;

/// How long a connection and a call may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a connection that is in use for a stream is asked whether it still is one.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Characters of a foreign message that are told on.
const MAX_DETAIL: usize = 300;
/// What tonic says of an answer that no gRPC server gave.
const NO_GRPC: &str = "grpc-status header missing";

/// A channel to the KMS, whose requests carry the token.
pub(super) type Line = InterceptedService<Channel, Bearer>;

/// See the file's text.
#[derive(Clone)]
pub(super) struct Dial {
    place: String,
    endpoint: Endpoint,
    connector: Connector,
    bearer: Bearer,
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Dial {
    /// Makes ready to call.
    ///
    /// # Errors
    /// `InvalidArgument` for what cannot be: no URL, one beyond this machine without TLS, half an identity;
    /// `FailedPrecondition` when a file cannot be read or holds something else.
    pub(super) fn new(config: &KmsElsewhere, clock: Arc<dyn Clock>) -> Result<Self> {
        let told = config.url.trim_end_matches('/').to_owned();
        let wrong = |why: &str| Error::invalid(format!("--kms '{told}' {why}"));
        let uri: Uri = told.parse().map_err(|_| wrong("is not a URL"))?;
        let host = uri.host().ok_or_else(|| wrong("names no host"))?;
        if uri.path() != "/" || uri.query().is_some() {
            return Err(wrong("must be a scheme, a host and a port, and no more"));
        }
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if matches!(host, "localhost" | "127.0.0.1" | "[::1]") => false,
            _ => return Err(wrong("must be https://, or http:// on this machine")),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let trouble = Arc::new(Noted::default());
        let tls = if is_tls {
            let name = ServerName::try_from(bare.clone()).map_err(|_| wrong("names no host"))?;
            Some((client(config, clock)?, name))
        } else if config.ca_file.is_some() || config.cert_file.is_some() || config.key_file.is_some() {
            return Err(wrong("is in the clear: --kms-ca, --kms-cert and --kms-key are for https://"));
        } else {
            None
        };
        let in_clear: Uri = format!("http://{host}:{port}").parse().map_err(|_| wrong("is not a URL"))?;
        let origin: Uri = told.parse().map_err(|_| wrong("is not a URL"))?;
        // TLS is the connector's, so the transport is told of none.
        let endpoint = Endpoint::from(in_clear).origin(origin).connect_timeout(PATIENCE).timeout(PATIENCE);
        Ok(Self {
            place: told.clone(),
            endpoint,
            connector: Connector { host: bare, port, tls, trouble },
            bearer: Bearer { file: config.token_file.clone() },
        })
    }

    /// Where the KMS is.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// A channel, which connects at its first use and again when it broke. `watched`, it notices by itself that the
    /// other end is gone.
    pub(super) fn line(&self, watched: bool) -> Line {
        let mut endpoint = self.endpoint.clone();
        if watched {
            endpoint = endpoint
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .keep_alive_while_idle(true);
        }
        let connector = self.connector.clone();
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move { connector.open().await.map(TokioIo::new) }
        }));
        InterceptedService::new(channel, self.bearer.clone())
    }

    /// What a call that failed means: what the KMS said, or silence.
    pub(super) fn failed(&self, failure: Status) -> Error {
        let on_the_way = failure.source().is_some() || failure.message().starts_with(NO_GRPC);
        // What was damaged on the way is no fault of the key's.
        let damaged = failure.code() == Code::InvalidArgument && failure.message().contains("checksum");
        if !on_the_way && !damaged {
            return status::error(&failure);
        }
        let why = match self.connector.trouble.take() {
            Some(trouble) => trouble,
            None => causes(&failure),
        };
        let text = format!("The KMS at {} does not answer: {why}", self.place);
        Error::new(ErrorKind::Unavailable, text).because(failure)
    }

    /// Why one end does not take the other's certificate, when that was the trouble of the last connection.
    pub(super) fn distrust(&self) -> Option<String> {
        self.connector.trouble.peek()
    }
}

/// The last of the causes of a failure, which says most.
fn causes(failure: &Status) -> String {
    let mut last = failure.message().to_owned();
    let mut source = failure.source();
    while let Some(cause) = source {
        last = cause.to_string();
        source = cause.source();
    }
    last.chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect()
}

/// The token of a file, which is read for each request: tokens are short-lived.
#[derive(Clone, Debug)]
pub(super) struct Bearer {
    file: Option<PathBuf>,
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(file) = &self.file else { return Ok(request) };
        // A token that is not there says nothing about any key.
        let no_token = || Status::unavailable(format!("{} does not hold a token", file.display()));
        let token = first_line(&secret(file).map_err(|_| no_token())?);
        let token = std::str::from_utf8(token.expose()).map_err(|_| no_token())?.trim();
        let value = (!token.is_empty()).then(|| format!("Bearer {token}").parse().ok()).flatten();
        let mut value: MetadataValue<_> = value.ok_or_else(no_token)?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

fn client(config: &KmsElsewhere, clock: Arc<dyn Clock>) -> Result<Arc<ClientConfig>> {
    let trust = match &config.ca_file {
        Some(file) => Trust::Pinned(certificate::from_pem(&text(file)?).map_err(|e| unfit(file, &e))?),
        None => Trust::Roots(claviger_ekm::machine_roots()),
    };
    let identity = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => {
            Some(Identity::from_pem(&text(cert)?, secret(key)?.expose()).map_err(|e| unfit(cert, &e))?)
        }
        (None, None) => None,
        _ => return Err(Error::invalid("--kms-cert and --kms-key belong together: give both")),
    };
    let now = Arc::new(move || u64::try_from(clock.now().seconds_and_nanos().0).unwrap_or(0));
    tls::client_as(trust, identity, &[b"h2"], now).map_err(|e| {
        Error::precondition(format!("no TLS can be spoken with the KMS of --kms: {e}")).because(e)
    })
}

fn text(file: &Path) -> Result<String> {
    std::fs::read_to_string(file)
        .map_err(|e| Error::precondition(format!("cannot read {}: {e}", file.display())))
}

fn unfit(file: &Path, why: &claviger_crypto::Error) -> Error {
    Error::precondition(format!("{}: {why}", file.display()))
}

/// Opens connections.
#[derive(Clone)]
struct Connector {
    host: String,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    trouble: Arc<Noted>,
}

impl Connector {
    async fn open(self) -> std::io::Result<Socket> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let Some((tls, name)) = self.tls else { return Ok(Socket::clear(stream)) };
        match TlsConnector::from(tls).connect(name, stream).await {
            Ok(stream) => Ok(Socket::tls(stream, self.trouble)),
            Err(error) => {
                self.trouble.note(&error);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use claviger_core::SystemClock;

    use super::*;

    fn dial(url: &str) -> Result<Dial> {
        let config = KmsElsewhere { url: url.to_owned(), ..KmsElsewhere::default() };
        Dial::new(&config, Arc::new(SystemClock::new()))
    }

    #[tokio::test]
    async fn what_cannot_be_called_safely_is_refused_by_name() {
        for (url, part) in [
            ("http://kms.example.com", "must be https://"),
            ("http://127.0.0.1.example.com", "must be https://"),
            ("ftp://127.0.0.1", "must be https://"),
            ("https://kms.example.com/v1", "and no more"),
            ("/", "is not a URL"),
            ("a b", "is not a URL"),
        ] {
            let error = dial(url).unwrap_err();
            assert!(error.message().contains(part), "{url}: {error}");
        }
        for url in ["http://127.0.0.1:1", "http://localhost:1/", "http://[::1]:1"] {
            dial(url).unwrap();
        }
        let mut config = KmsElsewhere { url: "http://127.0.0.1:1".to_owned(), ..KmsElsewhere::default() };
        config.ca_file = Some("/ca".into());
        let error = Dial::new(&config, Arc::new(SystemClock::new())).unwrap_err();
        assert!(error.message().contains("is in the clear"), "{error}");
    }

    #[tokio::test]
    async fn what_the_kms_says_is_a_refusal_and_what_happens_on_the_way_is_silence() {
        let dial = dial("http://127.0.0.1:1").unwrap();
        let kind = |status: Status| dial.failed(status).kind();
        assert_eq!(kind(Status::permission_denied("no")), ErrorKind::PermissionDenied);
        assert_eq!(kind(Status::not_found("no")), ErrorKind::NotFound);
        assert_eq!(kind(Status::failed_precondition("no")), ErrorKind::FailedPrecondition);
        assert_eq!(kind(Status::invalid_argument("no")), ErrorKind::InvalidArgument);
        for silence in [
            Status::unavailable("sealed"),
            // What a proxy on the way answers in place of the KMS.
            Status::permission_denied("grpc-status header missing, mapped from HTTP status code 403"),
            Status::unauthenticated("grpc-status header missing, mapped from HTTP status code 401"),
            Status::invalid_argument("The checksum in field ciphertext_crc32c did not match."),
            Status::from_error(Box::new(std::io::Error::other("broken pipe"))),
        ] {
            assert_eq!(kind(silence.clone()), ErrorKind::Unavailable, "{silence:?}");
        }
    }

    #[test]
    fn a_token_is_read_at_each_use_and_does_not_show() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let mut bearer = Bearer { file: Some(file.clone()) };
        assert_eq!(bearer.call(Request::new(())).unwrap_err().code(), Code::Unavailable);
        for token in ["one", "two"] {
            std::fs::write(&file, format!("{token}\n")).unwrap();
            let request = bearer.call(Request::new(())).unwrap();
            let value = request.metadata().get("authorization").unwrap();
            assert_eq!(value.to_str().unwrap(), format!("Bearer {token}"));
            assert!(!format!("{request:?}").contains(token), "{request:?}");
        }
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(bearer.call(Request::new(())).unwrap_err().code(), Code::Unavailable);
    }
}
