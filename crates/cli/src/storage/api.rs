//! The connection to a server's Storage API: JSON over HTTP.
//!
//! Invariant: what a server sends as an error becomes a refusal in its own words. Answers that are read whole have
//! a limit.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::url::CloudUrl;
use crate::args::Global;
use crate::client::innermost;
use crate::failure::Failure;
use crate::output::Output;
use crate::plain;
use crate::token::Token;

/// The most of an answer that is read whole, bytes.
const ANSWER_BYTES: usize = 64 << 20;
/// Items asked for at a time.
const PAGE: usize = 1_000;
/// How often something is tried that meets a passing failure.
const ATTEMPTS: u32 = 5;
/// The wait before something is tried again; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// What of a name is encoded in a path or a query.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The body of a request.
pub(super) type Body = BoxBody<Bytes, Infallible>;
/// Parameters of a URL.
pub(super) type Query<'a> = [(&'a str, String)];

/// One command's connection and manners.
#[derive(Debug)]
pub(super) struct Storage {
    /// The project of new buckets and lists.
    pub(super) project: String,
    /// How results are written.
    pub(super) out: Output,
    /// Ask nothing, show no progress.
    pub(super) quiet: bool,
    url: String,
    token: Token,
    client: Client<HttpConnector, Body>,
}

/// A part of a list.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) items: Vec<Value>,
    /// What names have in common up to the delimiter.
    pub(super) prefixes: Vec<String>,
}

/// A list that comes in pages.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    storage: &'a Storage,
    path: String,
    query: Vec<(&'static str, String)>,
    /// The page to ask for: none when all are read.
    token: Option<String>,
    left: usize,
}

/// Tries again after passing failures, a few times.
#[derive(Debug)]
pub(super) struct Patience {
    left: u32,
    wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { left: ATTEMPTS - 1, wait: FIRST_WAIT }
    }
}

impl Patience {
    /// Waits before another attempt.
    ///
    /// # Errors
    /// The failure, when it does not pass or has come too often.
    pub(super) async fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        if !failure.is_passing() || self.left == 0 {
            return Err(failure);
        }
        self.left -= 1;
        tokio::time::sleep(self.wait).await;
        self.wait *= 2;
        Ok(())
    }
}

impl Storage {
    /// Makes ready to connect, at the first request.
    ///
    /// # Errors
    /// Usage: the URL or the project is wrong.
    pub(super) fn new(global: Global) -> Result<Self, Failure> {
        let url = crate::client::url(&global.endpoint)?;
        Ok(Self {
            project: crate::names::project(&global.project)?.project().to_owned(),
            out: Output { format: global.format },
            quiet: global.quiet,
            token: Token::new(global.token_file.as_deref(), &url)?,
            url,
            client: plain::client(),
        })
    }

    /// A request for a path of the server.
    ///
    /// # Errors
    /// A name that no URL can hold.
    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        query: &Query<'_>,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Request<Body>, Failure> {
        let mut url = format!("{}{path}", self.url);
        for (index, (name, value)) in query.iter().enumerate() {
            let first = index == 0 && !path.contains('?');
            let _ = write!(url, "{}{name}={}", if first { '?' } else { '&' }, encoded(value));
        }
        let request = Request::builder().method(method).uri(url).body(body);
        let mut request = request.map_err(|error| Failure::local(format!("no such request: {error}")))?;
        request.headers_mut().extend(headers);
        Ok(request)
    }

    /// Sends a request and gives the answer, whatever its status.
    ///
    /// # Errors
    /// [`Failure::Lost`].
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        if let Some(token) = self.token.header()? {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        self.client.request(request).await.map_err(|error| plain::lost(&self.url, &error))
    }

    /// The failure of a connection that ended too early.
    pub(super) fn broke(&self, cause: &str) -> Failure {
        Failure::broken(&self.url, cause)
    }

    /// Sends a request that must succeed.
    ///
    /// # Errors
    /// [`Failure::Lost`], and what the server refuses.
    pub(super) async fn succeed(&self, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let response = self.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.whole(response).await.unwrap_or_default();
        Err(Failure::of_json(status.as_u16(), &body))
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, Failure> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        Ok(body.map_err(|error| self.broke(&innermost(&*error)))?.to_bytes())
    }

    /// The JSON of an answer; null when it has no body.
    ///
    /// # Errors
    /// [`Failure::Lost`], and when it is no JSON.
    pub(super) async fn value(&self, response: Response<Incoming>) -> Result<Value, Failure> {
        let body = self.whole(response).await?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body)
            .map_err(|error| Failure::local(format!("the server's answer is no JSON: {error}")))
    }

    /// Sends JSON, or nothing, and gets JSON back.
    ///
    /// # Errors
    /// [`Failure::Lost`], and what the server refuses.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        query: &Query<'_>,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut headers = HeaderMap::new();
        let body = match body {
            Some(body) => {
                headers
                    .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
                full(body.to_string())
            }
            None => full(Bytes::new()),
        };
        let request = self.request(method, path, query, headers, body)?;
        let response = self.succeed(request).await?;
        self.value(response).await
    }

    /// A bucket.
    ///
    /// # Errors
    /// As [`Storage::call`].
    pub(super) async fn bucket(&self, bucket: &str) -> Result<Value, Failure> {
        self.call(Method::GET, &bucket_path(bucket), &[], None).await
    }

    /// An object.
    ///
    /// # Errors
    /// As [`Storage::call`].
    pub(super) async fn object(&self, url: &CloudUrl) -> Result<Value, Failure> {
        let generation = url.generation.map(|generation| ("generation", generation.to_string()));
        let query: Vec<_> = generation.into_iter().collect();
        self.call(Method::GET, &object_path(&url.bucket, &url.object), &query, None).await
    }

    /// Deletes an object that was seen, if it is still the same. A bucket with versions keeps it as an old one.
    ///
    /// # Errors
    /// As [`Storage::call`].
    pub(super) async fn delete_live(&self, url: &CloudUrl) -> Result<(), Failure> {
        self.delete(url, "ifGenerationMatch").await
    }

    /// Deletes one version of an object for good.
    ///
    /// # Errors
    /// As [`Storage::call`].
    pub(super) async fn delete_version(&self, url: &CloudUrl) -> Result<(), Failure> {
        self.delete(url, "generation").await
    }

    async fn delete(&self, url: &CloudUrl, which: &'static str) -> Result<(), Failure> {
        let generation = url.generation.map(|generation| (which, generation.to_string()));
        let query: Vec<_> = generation.into_iter().collect();
        self.call(Method::DELETE, &object_path(&url.bucket, &url.object), &query, None).await.map(drop)
    }

    /// The service agent of the project.
    ///
    /// # Errors
    /// As [`Storage::call`].
    pub(super) async fn service_account(&self) -> Result<Value, Failure> {
        let path = format!("/storage/v1/projects/{}/serviceAccount", encoded(&self.project));
        self.call(Method::GET, &path, &[], None).await
    }

    /// A list of at most `limit` items.
    pub(super) fn pages(
        &self,
        path: String,
        query: Vec<(&'static str, String)>,
        limit: Option<usize>,
    ) -> Pages<'_> {
        let left = limit.unwrap_or(usize::MAX);
        Pages { storage: self, path, query, token: Some(String::new()), left }
    }
}

impl Pages<'_> {
    /// The next page.
    ///
    /// # Errors
    /// As [`Storage::call`].
    pub(super) async fn next(&mut self) -> Result<Option<Page>, Failure> {
        let Some(token) = self.token.take().filter(|_| self.left > 0) else { return Ok(None) };
        let mut query = self.query.clone();
        query.push(("maxResults", self.left.min(PAGE).to_string()));
        if !token.is_empty() {
            query.push(("pageToken", token));
        }
        let mut answer = self.storage.call(Method::GET, &self.path, &query, None).await?;
        let mut page = Page::default();
        if let Some(Value::Array(items)) = answer.get_mut("items").map(Value::take) {
            page.items = items;
        }
        for prefix in answer.get("prefixes").and_then(Value::as_array).into_iter().flatten() {
            page.prefixes.extend(prefix.as_str().map(str::to_owned));
        }
        page.items.truncate(self.left);
        self.left -= page.items.len();
        self.token = answer.get("nextPageToken").and_then(Value::as_str).map(str::to_owned);
        Ok(Some(page))
    }

    /// All items that are left.
    ///
    /// # Errors
    /// As [`Pages::next`].
    pub(super) async fn all(mut self) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        while let Some(page) = self.next().await? {
            items.extend(page.items);
        }
        Ok(items)
    }
}

/// A body of these bytes.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// A name as a part of a path or a query.
pub(super) fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NAME).to_string()
}

/// The path of a bucket.
pub(super) fn bucket_path(bucket: &str) -> String {
    format!("/storage/v1/b/{}", encoded(bucket))
}

/// The path of all objects of a bucket.
pub(super) fn objects_path(bucket: &str) -> String {
    format!("{}/o", bucket_path(bucket))
}

/// The path of an object.
pub(super) fn object_path(bucket: &str, object: &str) -> String {
    format!("{}/{}", objects_path(bucket), encoded(object))
}

/// A number of an object's JSON, where 64 bits are text.
pub(super) fn number(value: &Value, field: &str) -> Option<u64> {
    let value = value.get(field)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A text of an object's JSON.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The CRC32C of an object, which its JSON has in base64.
pub(super) fn checksum(value: &Value) -> Option<u32> {
    let bytes = STANDARD.decode(text(value, "crc32c")).ok()?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// A CRC32C in base64.
pub(super) fn shown_checksum(crc: u32) -> String {
    STANDARD.encode(crc.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn storage() -> Storage {
        let global = Global {
            endpoint: "http://127.0.0.1:1".into(),
            project: "p".into(),
            format: Format::Table,
            quiet: true,
            token_file: None,
        };
        Storage::new(global).unwrap()
    }

    #[test]
    fn names_are_encoded_in_paths_and_queries() {
        assert_eq!(object_path("b", "d/ä #?%"), "/storage/v1/b/b/o/d%2F%C3%A4%20%23%3F%25");
        let query = [("prefix", "a&b=c".to_owned()), ("delimiter", "/".to_owned())];
        let request =
            storage().request(Method::GET, "/storage/v1/b/b/o", &query, HeaderMap::new(), full("")).unwrap();
        assert_eq!(
            request.uri().to_string(),
            "http://127.0.0.1:1/storage/v1/b/b/o?prefix=a%26b%3Dc&delimiter=%2F"
        );
    }

    #[test]
    fn numbers_and_checksums_are_read_from_text() {
        let object = serde_json::json!({"size": "9007199254740993", "crc32c": "4waSgw=="});
        assert_eq!(number(&object, "size"), Some(9_007_199_254_740_993));
        assert_eq!(checksum(&object), Some(crc32c::crc32c(b"123456789")));
        assert_eq!(shown_checksum(crc32c::crc32c(b"123456789")), "4waSgw==");
        assert_eq!((number(&object, "none"), checksum(&serde_json::json!({}))), (None, None));
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_told_with_how_to_start_one() {
        let text = storage().bucket("b").await.unwrap_err().text();
        assert!(text.starts_with("error: no server answers at http://127.0.0.1:1: "), "{text}");
        assert!(text.contains("claviger serve"), "{text}");
    }
}
