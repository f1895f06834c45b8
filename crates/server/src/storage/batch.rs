//! Batches: many calls in one request of type `multipart/mixed`, each a small HTTP request in text.
//!
//! Invariant: each call is answered as if it had come alone, in the order of the calls. Calls with bytes of
//! objects are refused, as Cloud Storage refuses them.

use axum::body::Body;
use claviger_core::Error;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response};

use crate::auth::Identity;

use super::failure::Failure;
use super::{Answer, StorageApi, related, whole};

/// The most calls of one batch.
const CALLS: usize = 1000;
/// The most bytes of one batch.
const BYTES: usize = 10 * 1024 * 1024;
/// The most bytes of one call's answer.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// One call of a batch.
#[derive(Debug, PartialEq, Eq)]
struct Inner {
    id: Option<String>,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl StorageApi {
    pub(super) async fn batch(&self, parts: &Parts, body: Body) -> Answer {
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let boundary = related::boundary(kind)
            .ok_or_else(|| Error::invalid("A batch needs a boundary in its Content-Type."))?;
        let body = whole(body, BYTES).await?;
        let text = std::str::from_utf8(&body).map_err(|_| Failure::parse())?;
        let calls = read(text, &boundary).ok_or_else(Failure::parse)?;
        if calls.len() > CALLS {
            return Err(Error::invalid(format!("The batch has more than {CALLS} calls.")).into());
        }
        let answer_boundary = "batch_answers";
        let mut out = String::new();
        for inner in calls {
            let id = inner.id.clone();
            let response = match request(inner, parts) {
                Some(request) => {
                    let (parts, body) = request.into_parts();
                    super::answered(Box::pin(self.one(parts, body)).await)
                }
                None => Failure::parse().into_response(),
            };
            write(&mut out, answer_boundary, id.as_deref(), response).await?;
        }
        out.push_str(&format!("--{answer_boundary}--\r\n"));
        let mut response = Response::new(Body::from(out));
        let kind = HeaderValue::from_static("multipart/mixed; boundary=batch_answers");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(response)
    }
}

/// The calls in a body; lines may end with one byte or two.
fn read(text: &str, boundary: &str) -> Option<Vec<Inner>> {
    let text = text.replace("\r\n", "\n");
    let opening = format!("--{boundary}");
    let mut calls = Vec::new();
    for part in text.split(opening.as_str()).skip(1) {
        if part.starts_with("--") {
            return Some(calls);
        }
        let (outer, inner) = part.strip_prefix('\n')?.split_once("\n\n")?;
        let id = fields(outer).find(|(name, _)| name.eq_ignore_ascii_case("content-id")).map(|(_, id)| id);
        let (head, body) = inner.trim_start_matches('\n').split_once("\n\n").unwrap_or((inner.trim(), ""));
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let mut words = line.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        calls.push(Inner {
            id,
            method: method.to_owned(),
            path: path(target)?.to_owned(),
            headers: fields(headers).collect(),
            body: body.strip_suffix('\n').unwrap_or(body).to_owned(),
        });
    }
    None
}

/// The path and query of a target, which may be a whole URL.
fn path(target: &str) -> Option<&str> {
    match target.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)),
        None => target.starts_with('/').then_some(target),
    }
}

fn fields(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    })
}

/// A call as a request of its own.
fn request(inner: Inner, outer: &Parts) -> Option<Request<Body>> {
    if inner.path.starts_with("/upload/")
        || inner.path.starts_with("/batch")
        || inner.path.contains("alt=media")
    {
        return None;
    }
    let mut request = Request::builder().method(inner.method.as_str()).uri(inner.path.as_str());
    if let Some(host) = outer.headers.get(HOST) {
        request = request.header(HOST, host);
    }
    // The calls of a batch are its caller's, whatever they say themselves.
    if let (Some(identity), Some(extensions)) = (outer.extensions.get::<Identity>(), request.extensions_mut())
    {
        extensions.insert(identity.clone());
    }
    for (name, value) in &inner.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) else {
            continue;
        };
        if name != HOST {
            request = request.header(name, value);
        }
    }
    request.body(Body::from(inner.body)).ok()
}

async fn write(
    out: &mut String,
    boundary: &str,
    id: Option<&str>,
    response: Response<Body>,
) -> Result<(), Failure> {
    let (head, body) = response.into_parts();
    let body = whole(body, ANSWER_BYTES).await?;
    out.push_str(&format!("--{boundary}\r\nContent-Type: application/http\r\n"));
    if let Some(id) = id {
        let id = id.trim_start_matches('<').trim_end_matches('>');
        out.push_str(&format!("Content-ID: <response-{id}>\r\n"));
    }
    let reason = head.status.canonical_reason().unwrap_or("Unknown");
    out.push_str(&format!("\r\nHTTP/1.1 {} {reason}\r\n", head.status.as_u16()));
    for (name, value) in &head.headers {
        if let Ok(value) = value.to_str() {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    let text = String::from_utf8_lossy(&body);
    out.push_str(&format!("content-length: {}\r\n\r\n{text}\r\n", text.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_their_ids_headers_and_bodies() {
        let text = "--B\r\nContent-Type: application/http\r\nContent-ID: <x+1>\r\n\r\nDELETE /storage/v1/b/x/o/a HTTP/1.1\r\nAccept: */*\r\n\r\n\r\n--B\nContent-Type: application/http\n\nPATCH http://h:1/storage/v1/b/x HTTP/1.1\ncontent-type: application/json\n\n{\"a\": 1}\n--B--";
        let calls = read(text, "B").unwrap();
        assert_eq!(calls.len(), 2);
        assert_eq!((calls[0].id.as_deref(), calls[0].method.as_str()), (Some("<x+1>"), "DELETE"));
        assert_eq!(calls[0].path, "/storage/v1/b/x/o/a");
        assert_eq!((calls[1].path.as_str(), calls[1].body.as_str()), ("/storage/v1/b/x", "{\"a\": 1}"));
        assert_eq!(calls[1].headers, [("content-type".to_owned(), "application/json".to_owned())]);
        assert_eq!(read("--B\n\n", "B"), None);
    }
}
