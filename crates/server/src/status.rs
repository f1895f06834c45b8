//! The one place where the error of the services becomes what a client sees: a gRPC status with its
//! `google.rpc` details, or the JSON body that Google's REST APIs answer with.
//!
//! Invariant: only an error's message and details leave the server. Its source is logged here, once, and
//! only for faults of the server's own. The result fits in HTTP headers, however much an error says.

use std::error::Error as _;
use std::fmt::Write as _;

use axum::body::Body;
use bytes::Bytes;
use claviger_core::{Error, ErrorKind};
use claviger_proto::google::rpc::{
    BadRequest, PreconditionFailure, Status as RpcStatus, bad_request, precondition_failure,
};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use prost::Message;
use prost_reflect::{DynamicMessage, SerializeOptions};
use prost_types::Any;
use serde_json::{Value, json};
use tonic::{Code, Status};

/// The most of a message that is sent, bytes. It travels percent-encoded in a header, and official clients
/// take headers of 8 KiB in all.
const MESSAGE_BYTES: usize = 1024;
/// The most of the encoded details that is sent, bytes. They travel in base64 in a header.
const DETAILS_BYTES: usize = 2 * 1024;

/// The gRPC code of a kind of error.
#[must_use]
pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::Aborted => Code::Aborted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
        // `ErrorKind` may grow; the table in the tests is then to grow as well.
        _ => Code::Unknown,
    }
}

/// The HTTP status of a gRPC code, and the code's name in JSON.
#[must_use]
pub fn http(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::Ok => (StatusCode::OK, "OK"),
        // 499 is what Google answers; it has no name in the standard.
        Code::Cancelled => (StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST), "CANCELLED"),
        Code::Unknown => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
        Code::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        Code::AlreadyExists => (StatusCode::CONFLICT, "ALREADY_EXISTS"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
        Code::FailedPrecondition => (StatusCode::BAD_REQUEST, "FAILED_PRECONDITION"),
        Code::Aborted => (StatusCode::CONFLICT, "ABORTED"),
        Code::OutOfRange => (StatusCode::BAD_REQUEST, "OUT_OF_RANGE"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED"),
        Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Code::DataLoss => (StatusCode::INTERNAL_SERVER_ERROR, "DATA_LOSS"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
    }
}

/// The kind of error behind a gRPC code.
fn kind(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::OutOfRange => ErrorKind::OutOfRange,
        Code::Aborted => ErrorKind::Aborted,
        Code::Unavailable | Code::Cancelled => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::DataLoss => ErrorKind::DataLoss,
        Code::Ok | Code::Unknown | Code::Internal => ErrorKind::Internal,
    }
}

/// The error that another server told of by a status, with its violations.
#[must_use]
pub fn error(status: &Status) -> Error {
    let mut error = Error::new(kind(status.code()), cut(status.message(), MESSAGE_BYTES));
    let told = RpcStatus::decode(status.details()).unwrap_or_default();
    for failure in told.details.iter().filter_map(|detail| detail.to_msg::<PreconditionFailure>().ok()) {
        for violation in failure.violations {
            error = error.violating(&violation.r#type, violation.subject, violation.description);
        }
    }
    error
}

/// The gRPC status of an error. For use in `map_err`.
#[must_use]
pub fn status(error: Error) -> Status {
    log(&error);
    let told = told(&error);
    let details = if told.details.is_empty() { Bytes::new() } else { Bytes::from(told.encode_to_vec()) };
    Status::with_details(code(error.kind()), told.message, details)
}

/// The error as a message, for replies that carry one inside: an entry of MutateRows, an operation that failed.
#[must_use]
pub fn rpc_status(error: &Error) -> RpcStatus {
    log(error);
    told(error)
}

/// The reply of a REST call that failed.
#[must_use]
pub fn response(status: &Status) -> Response<Body> {
    response_as(http(status.code()).0, status)
}

/// The answer to a request of a path with a method that it does not take.
pub(crate) fn not_allowed(allowed: &'static str) -> Response<Body> {
    let told = Error::unimplemented(format!("Only {allowed} may be asked of this path."));
    let mut response = response_as(StatusCode::METHOD_NOT_ALLOWED, &status(told));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// As [`response`], with an HTTP status that says more than the code alone can.
#[must_use]
pub fn response_as(http: StatusCode, status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::from(json(http, status).to_string()));
    *response.status_mut() = http;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    response
}

/// The JSON body of an error: `{"error": {"code": 404, "message": "...", "status": "NOT_FOUND"}}`.
#[must_use]
pub fn json(http: StatusCode, status: &Status) -> Value {
    let mut error = json!({
        "code": http.as_u16(),
        "message": status.message(),
        "status": self::http(status.code()).1,
    });
    let details = json_details(status);
    if let (false, Some(error)) = (details.is_empty(), error.as_object_mut()) {
        error.insert("details".into(), details.into());
    }
    json!({ "error": error })
}

/// The details of a status, each as JSON with its `@type`. One of a type that we do not know is left out.
fn json_details(status: &Status) -> Vec<Value> {
    let Ok(told) = RpcStatus::decode(status.details()) else { return Vec::new() };
    let Some(any) = claviger_proto::pool().get_message_by_name("google.protobuf.Any") else {
        return Vec::new();
    };
    let options = SerializeOptions::new();
    told.details
        .iter()
        .filter_map(|detail| {
            let mut message = DynamicMessage::new(any.clone());
            message.transcode_from(detail).ok()?;
            message.serialize_with_options(serde_json::value::Serializer, &options).ok()
        })
        .collect()
}

/// What a client is told of an error.
fn told(error: &Error) -> RpcStatus {
    let mut room = DETAILS_BYTES;
    let mut fits = |bytes: usize| match room.checked_sub(bytes) {
        Some(rest) => {
            room = rest;
            true
        }
        None => false,
    };
    let mut details = Vec::new();
    let violations: Vec<_> = error
        .violations()
        .iter()
        .map(|violation| precondition_failure::Violation {
            r#type: violation.kind.clone(),
            subject: violation.subject.clone(),
            description: violation.description.clone(),
        })
        .take_while(|violation| fits(violation.encoded_len()))
        .collect();
    if !violations.is_empty() {
        details.extend(Any::from_msg(&PreconditionFailure { violations }));
    }
    let field_violations: Vec<_> = error
        .fields()
        .iter()
        .map(|field| bad_request::FieldViolation {
            field: field.field.clone(),
            description: field.description.clone(),
            reason: String::new(),
        })
        .take_while(|field| fits(field.encoded_len()))
        .collect();
    if !field_violations.is_empty() {
        details.extend(Any::from_msg(&BadRequest { field_violations }));
    }
    RpcStatus { code: code(error.kind()) as i32, message: cut(error.message(), MESSAGE_BYTES), details }
}

/// At most so many bytes of a text, cut between characters.
fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}...", text.get(..end).unwrap_or_default())
}

/// Writes a fault of the server's own to the log, with all its causes.
fn log(error: &Error) {
    if !matches!(error.kind(), ErrorKind::Internal | ErrorKind::DataLoss) {
        return;
    }
    let mut causes = String::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(causes, "{}{cause}", if causes.is_empty() { "" } else { ": " });
        source = cause.source();
    }
    tracing::error!(kind = ?error.kind(), causes, "{}", error.message());
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [(ErrorKind, Code, u16, &str); 14] = [
        (ErrorKind::InvalidArgument, Code::InvalidArgument, 400, "INVALID_ARGUMENT"),
        (ErrorKind::NotFound, Code::NotFound, 404, "NOT_FOUND"),
        (ErrorKind::AlreadyExists, Code::AlreadyExists, 409, "ALREADY_EXISTS"),
        (ErrorKind::PermissionDenied, Code::PermissionDenied, 403, "PERMISSION_DENIED"),
        (ErrorKind::Unauthenticated, Code::Unauthenticated, 401, "UNAUTHENTICATED"),
        (ErrorKind::FailedPrecondition, Code::FailedPrecondition, 400, "FAILED_PRECONDITION"),
        (ErrorKind::ResourceExhausted, Code::ResourceExhausted, 429, "RESOURCE_EXHAUSTED"),
        (ErrorKind::OutOfRange, Code::OutOfRange, 400, "OUT_OF_RANGE"),
        (ErrorKind::Aborted, Code::Aborted, 409, "ABORTED"),
        (ErrorKind::Unavailable, Code::Unavailable, 503, "UNAVAILABLE"),
        (ErrorKind::DeadlineExceeded, Code::DeadlineExceeded, 504, "DEADLINE_EXCEEDED"),
        (ErrorKind::Unimplemented, Code::Unimplemented, 501, "UNIMPLEMENTED"),
        (ErrorKind::DataLoss, Code::DataLoss, 500, "DATA_LOSS"),
        (ErrorKind::Internal, Code::Internal, 500, "INTERNAL"),
    ];

    #[test]
    fn every_kind_has_its_code_and_its_http_status() {
        for (kind, code, number, name) in TABLE {
            let status = status(Error::new(kind, "a sentence"));
            assert_eq!((status.code(), status.message()), (code, "a sentence"));
            let response = response(&status);
            assert_eq!(response.status().as_u16(), number, "{kind:?}");
            let json = json(response.status(), &status);
            assert_eq!(
                json,
                json!({"error": {"code": number, "message": "a sentence", "status": name}}),
                "{kind:?}"
            );
            assert_eq!(rpc_status(&Error::new(kind, "x")).code, code as i32);
        }
    }

    #[test]
    fn what_another_server_told_of_is_the_error_that_it_had() {
        for (kind, ..) in TABLE {
            let given = Error::new(kind, "a sentence").violating("KEY_DISABLED", "k", "Enable it.");
            let got = error(&status(given.clone()));
            assert_eq!((got.kind(), got.message()), (kind, "a sentence"));
            assert_eq!(got.violations(), given.violations());
        }
        assert_eq!(
            error(&Status::with_details(Code::NotFound, "x", Bytes::from_static(b"!"))).message(),
            "x"
        );
    }

    #[test]
    fn names_of_codes_are_those_of_google_rpc() {
        for number in 0..=16 {
            let code = Code::from(number);
            let name: String = http(code).1.chars().filter(|c| *c != '_').collect();
            assert_eq!(name.to_lowercase(), format!("{code:?}").to_lowercase());
        }
    }

    #[test]
    fn a_disabled_key_is_named_in_the_details_on_both_wires() {
        let key = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1";
        let status =
            status(Error::precondition("the key is disabled").violating("KEY_DISABLED", key, "Enable it."));
        let told = RpcStatus::decode(status.details()).expect("details");
        assert_eq!((told.code, told.message.as_str()), (9, "the key is disabled"));
        assert_eq!(told.details[0].type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
        let failure = PreconditionFailure::decode(told.details[0].value.as_slice()).expect("a failure");
        assert_eq!(
            (failure.violations[0].r#type.as_str(), failure.violations[0].subject.as_str()),
            ("KEY_DISABLED", key)
        );
        assert_eq!(
            json(StatusCode::BAD_REQUEST, &status)["error"]["details"],
            json!([{
                "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
                "violations": [{"type": "KEY_DISABLED", "subject": key, "description": "Enable it."}],
            }])
        );
    }

    #[test]
    fn a_wrong_field_is_named_in_the_details() {
        let status = status(Error::invalid_field("table.families", "is empty"));
        assert_eq!(
            json(StatusCode::BAD_REQUEST, &status)["error"]["details"],
            json!([{
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{"field": "table.families", "description": "is empty"}],
            }])
        );
    }

    #[test]
    fn a_source_never_leaves_the_server() {
        let error = Error::internal("the store failed").because(std::io::Error::other("/secret/path"));
        let status = status(error);
        let sent = format!("{status:?} {}", json(StatusCode::INTERNAL_SERVER_ERROR, &status));
        assert!(!sent.contains("secret"), "{sent}");
    }

    #[test]
    fn an_error_that_says_much_still_fits_in_headers() {
        let mut error = Error::precondition("é".repeat(10_000));
        for index in 0..1000 {
            error = error.violating("KEY_DISABLED", format!("subject {index}"), "d".repeat(100));
        }
        let mut headers = http::HeaderMap::new();
        status(error).add_header(&mut headers).expect("headers");
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(size < 8 * 1024, "{size}");
    }
}
