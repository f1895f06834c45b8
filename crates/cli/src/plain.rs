//! Plain requests to a server over HTTP: what is neither gRPC nor the Storage API.
//!
//! Invariant: an answer has a limit. A server that cannot be reached is told apart from one that breaks off.

use std::fmt;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;

use crate::args::Global;
use crate::client::{CONNECT_TIMEOUT, innermost};
use crate::failure::Failure;
use crate::token::Token;

/// A client that connects at its first request.
pub(crate) fn client<B>() -> Client<HttpConnector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// What became of a request to a server that gave no answer.
pub(crate) fn lost(url: &str, error: &Error) -> Failure {
    let cause = innermost(error);
    if error.is_connect() { Failure::unreachable(url, &cause) } else { Failure::broken(url, &cause) }
}

/// The connection to a server.
pub(crate) struct Plain {
    url: String,
    token: Token,
    client: Client<HttpConnector, Full<Bytes>>,
    /// The most of an answer, bytes.
    limit: usize,
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Plain {
    /// Makes ready to connect, at the first request. No answer may have more than `limit` bytes.
    ///
    /// # Errors
    /// Usage: the URL is wrong.
    pub(crate) fn new(global: &Global, limit: usize) -> Result<Self, Failure> {
        let url = crate::client::url(&global.endpoint)?;
        let token = Token::new(global.token_file.as_deref(), &url)?;
        Ok(Self { url, token, client: client(), limit })
    }

    /// Sends a request, with JSON or nothing; gives the answer, whatever its status.
    ///
    /// # Errors
    /// [`Failure::Lost`].
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let mut request = Request::builder();
        if let Some(token) = self.token.header()? {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::local(format!("no such request: {error}")))?;
        let response = self.client.request(request).await.map_err(|error| lost(&self.url, &error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), self.limit).collect().await;
        let body = body.map_err(|error| Failure::broken(&self.url, &innermost(&*error)))?;
        Ok((status, body.to_bytes()))
    }

    /// As [`Plain::ask`], where only success will do.
    ///
    /// # Errors
    /// [`Failure::Lost`], and what the server refuses, in its own words.
    pub(crate) async fn succeed(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let (status, body) = self.ask(method, path, body).await?;
        if status.is_success() { Ok(body) } else { Err(Failure::of_json(status.as_u16(), &body)) }
    }
}
