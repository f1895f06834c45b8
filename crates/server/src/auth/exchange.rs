//! `POST /token`: an access token for an assertion that a service account signed (RFC 7523), as Google's clients ask
//! for one at the `token_uri` of their credentials.
//!
//! Invariant: neither the assertion nor the token is logged, kept, or repeated in an error.

use std::sync::Arc;

use bytes::Bytes;
use claviger_callers::{Callers, MAX_TOKEN_BYTES};
use claviger_core::ErrorKind;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::http::Answer;
use crate::status;

const PATH: &str = "/token";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Bytes of a body, at most: an assertion, some of it escaped, and the name of the grant.
const BODY_BYTES: usize = 2 * MAX_TOKEN_BYTES;

pub(super) fn matches(path: &str) -> bool {
    path == PATH
}

/// Answers a request, whatever it is.
pub(crate) async fn answer<B>(callers: Arc<Callers>, request: Request<B>) -> Answer
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<axum::BoxError>,
{
    if *request.method() != Method::POST {
        return status::not_allowed("POST").map(tonic::body::Body::new);
    }
    let Ok(body) = Limited::new(request.into_body(), BODY_BYTES).collect().await else {
        return refusal("invalid_request", "The body is too long, or broke off.");
    };
    let body = body.to_bytes();
    let form = std::str::from_utf8(&body).unwrap_or_default();
    match field(form, "grant_type").as_deref() {
        Some(GRANT) => {}
        Some(_) => return refusal("unsupported_grant_type", &format!("Only {GRANT} is built.")),
        None => return refusal("invalid_request", "grant_type is missing."),
    }
    let Some(assertion) = field(form, "assertion") else {
        return refusal("invalid_request", "assertion is missing.");
    };
    match callers.exchange(&assertion) {
        Ok(issued) => reply(
            StatusCode::OK,
            &json!({
                "access_token": issued.access_token,
                "expires_in": issued.expires_in,
                "token_type": "Bearer",
            }),
        ),
        Err(error) if error.kind() == ErrorKind::InvalidArgument => refusal("invalid_scope", error.message()),
        Err(error) if error.kind() == ErrorKind::Unauthenticated => refusal("invalid_grant", error.message()),
        Err(error) => status::response(&status::status(error)).map(tonic::body::Body::new),
    }
}

/// A field of a form (`application/x-www-form-urlencoded`).
fn field(form: &str, name: &str) -> Option<String> {
    let value = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let value = value.replace('+', " ");
    percent_decode_str(&value).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// An error as RFC 6749 has it.
fn refusal(error: &str, why: &str) -> Answer {
    reply(StatusCode::BAD_REQUEST, &json!({ "error": error, "error_description": why }))
}

fn reply(status: StatusCode, value: &Value) -> Answer {
    let mut response = Response::new(tonic::body::Body::new(axum::body::Body::from(value.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
