//! The token that a command shows to its server.
//!
//! Invariant: it is read from its file at each use, since tokens are short-lived, and is neither printed nor kept. It
//! goes over TLS, or to this machine.

use std::path::{Path, PathBuf};

use claviger_crypto::SecretBytes;
use http::HeaderValue;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::failure::Failure;

/// The longest file of a token, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Where the token is, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Token(Option<PathBuf>);

impl Token {
    /// The token for requests to a URL.
    ///
    /// # Errors
    /// When it would cross a network in clear, or cannot be read.
    pub(crate) fn new(file: Option<&Path>, url: &str) -> Result<Self, Failure> {
        let Some(file) = file else { return Ok(Self::default()) };
        if !is_safe(url) {
            return Err(Failure::advised(
                format!("a token is not sent to {url} in clear"),
                "name a server on this machine, or one with https://",
            ));
        }
        let token = Self(Some(file.to_owned()));
        token.header()?;
        Ok(token)
    }

    /// What the header `authorization` is to say.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token.
    pub(crate) fn header(&self) -> Result<Option<HeaderValue>, Failure> {
        let Some(file) = &self.0 else { return Ok(None) };
        let bytes = SecretBytes::new(crate::flags::read_file(file, MAX_FILE)?);
        let text = std::str::from_utf8(bytes.expose()).unwrap_or_default();
        let token = text.lines().next().unwrap_or_default().trim();
        let value = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| !token.is_empty());
        let mut value = value
            .ok_or_else(|| Failure::local(format!("the first line of {} is no token", file.display())))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = self.header().map_err(|failure| {
            let text = failure.text();
            Status::unauthenticated(text.trim_start_matches("error: ").trim_end())
        })?;
        if let Some(value) = header.and_then(|value| MetadataValue::try_from(value.as_bytes()).ok()) {
            let mut value: MetadataValue<_> = value;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// Whether what is sent to a URL can be read by nobody on the way.
fn is_safe(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return url.starts_with("https://") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_over_tls_or_to_this_machine() {
        for url in [
            "https://h:1",
            "http://127.0.0.1:9700",
            "http://localhost",
            "http://[::1]:9700",
            "http://127.9.9.9:1",
        ] {
            assert!(is_safe(url), "{url}");
        }
        for url in [
            "http://h:1",
            "http://10.0.0.1:1",
            "http://localhost.evil.com",
            "http://127.0.0.1@evil.com",
            "",
            "ftp://x",
        ] {
            assert!(!is_safe(url), "{url}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc\n").unwrap();
        let text = Token::new(Some(file.path()), "http://10.0.0.1:9700").unwrap_err().text();
        assert!(text.contains("in clear") && !text.contains("abc"), "{text}");
    }

    #[test]
    fn it_is_read_at_each_use_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first\nsecond line\n").unwrap();
        let mut token = Token::new(Some(file.path()), "http://127.0.0.1:9700").unwrap();
        let mut sent = || {
            let request = token.call(Request::new(())).unwrap();
            format!("{:?}", request.metadata().get("authorization").unwrap().to_str())
        };
        assert!(sent().contains("Bearer first"));
        std::fs::write(file.path(), "next").unwrap();
        assert!(sent().contains("Bearer next"));
        assert!(!format!("{token:?}").contains("next"));
        assert!(format!("{:?}", token.header().unwrap().unwrap()).contains("Sensitive"));
        std::fs::write(file.path(), "\n").unwrap();
        assert!(token.call(Request::new(())).is_err() && token.header().is_err());
        assert!(Token::new(None, "http://10.0.0.1:1").unwrap().header().unwrap().is_none());
    }
}
