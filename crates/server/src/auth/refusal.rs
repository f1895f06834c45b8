//! What those are told who are not known, as Google's APIs tell it.

use axum::body::Body;
use claviger_core::{Error, ErrorKind};
use http::HeaderValue;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde_json::json;

use crate::http::Answer;
use crate::status;

const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"claviger\"");
/// For a token that is there and wrong (RFC 6750).
const WRONG_TOKEN: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"claviger\", error=\"invalid_token\"");

/// There is no token.
pub(crate) fn missing() -> Error {
    let message = "Request is missing required authentication credential. Expected a bearer token in the header \
        authorization, of a caller that this server knows.";
    Error::new(ErrorKind::Unauthenticated, message)
}

/// The answer to a request of nobody that is known.
pub(super) fn unauthenticated(error: Error, had_token: bool, grpc: bool) -> Answer {
    let status = status::status(error);
    if grpc {
        return status.into_http();
    }
    let (http, name) = (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED");
    // Storage's clients read the list, those of the other APIs the status.
    let body = json!({"error": {
        "code": http.as_u16(),
        "message": status.message(),
        "status": name,
        "errors": [{
            "message": status.message(),
            "domain": "global",
            "reason": if had_token { "authError" } else { "required" },
            "location": "Authorization",
            "locationType": "header",
        }],
    }});
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = http;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    headers.insert(WWW_AUTHENTICATE, if had_token { WRONG_TOKEN } else { CHALLENGE });
    response.map(tonic::body::Body::new)
}
