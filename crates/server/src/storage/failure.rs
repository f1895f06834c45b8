//! Errors as Cloud Storage's JSON API shows them: status, reason and message.
//!
//! Invariant: the status of a kind is that of `crate::status`, but where Cloud Storage documents another.

use axum::body::Body;
use claviger_buckets::errors as reasons;
use claviger_core::{Error, ErrorKind};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

use crate::status;

/// Why a request gets no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    reason: String,
    message: String,
    /// The header or parameter that the reason is about.
    location: Option<(&'static str, String)>,
}

impl Failure {
    fn new(status: StatusCode, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into(), location: None }
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "methodNotAllowed", "Method Not Allowed")
    }

    pub(super) fn parse() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "parseError", "Parse Error")
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("The body of the request is larger than {limit} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "uploadTooLarge", message)
    }

    pub(super) fn required(parameter: &str) -> Self {
        let mut failure =
            Self::new(StatusCode::BAD_REQUEST, "required", format!("Required parameter: {parameter}"));
        failure.location = Some(("parameter", parameter.to_owned()));
        failure
    }

    pub(super) fn parameter(parameter: &str, value: &str) -> Self {
        let message = format!("Invalid value '{value}' for parameter {parameter}");
        let mut failure = Self::new(StatusCode::BAD_REQUEST, "invalidParameter", message);
        failure.location = Some(("parameter", parameter.to_owned()));
        failure
    }

    /// Access control lists, which a bucket with uniform access has none of.
    pub(super) fn uniform() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid",
            "Cannot use ACL API to access or update access control entries when uniform bucket-level access is enabled.",
        )
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        if self.status == StatusCode::NOT_MODIFIED {
            return response;
        }
        let mut error = json!({"domain": "global", "reason": self.reason, "message": self.message});
        if let (Some((kind, name)), Some(error)) = (&self.location, error.as_object_mut()) {
            error.insert("locationType".into(), (*kind).into());
            error.insert("location".into(), name.as_str().into());
        }
        let body = json!({"error": {
            "code": self.status.as_u16(),
            "message": self.message,
            "errors": [error],
        }});
        *response.body_mut() = Body::from(body.to_string());
        let kind = HeaderValue::from_static("application/json; charset=UTF-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let violation =
            error.violations().first().map(|violation| violation.kind.clone()).unwrap_or_default();
        // Logs faults of the server's own, and cuts what is too long.
        let told = status::status(error.clone());
        let usual = status::http(told.code()).0;
        let message = told.message();
        let bad = StatusCode::BAD_REQUEST;
        match (error.kind(), violation.as_str()) {
            (_, reasons::CONDITION_NOT_MET) => {
                let mut failure = Self::new(StatusCode::PRECONDITION_FAILED, &violation, message);
                failure.location = Some(("header", "If-Match".to_owned()));
                failure
            }
            // Violations of organization policies; what was asked for names no condition, but this is what is sent.
            (ErrorKind::FailedPrecondition, kind) if kind.starts_with("constraints/") => {
                let message = format!("Request violates constraint '{kind}'. {message}");
                let mut failure =
                    Self::new(StatusCode::PRECONDITION_FAILED, reasons::CONDITION_NOT_MET, message);
                failure.location = Some(("header", "If-Match".to_owned()));
                failure
            }
            (_, reasons::NOT_MODIFIED) => Self::new(StatusCode::NOT_MODIFIED, &violation, message),
            (_, reasons::NOT_EMPTY) => Self::new(StatusCode::CONFLICT, &violation, message),
            (_, reasons::UPLOAD_GONE) => Self::new(StatusCode::GONE, &violation, message),
            (_, reasons::KEY_DENIED) => Self::new(StatusCode::FORBIDDEN, "forbidden", message),
            (
                _,
                reasons::KEY_DISABLED | reasons::KEY_LOCATION | reasons::KEY_NOT_FOUND | reasons::KEY_BAD,
            ) => Self::new(bad, &violation, message),
            (_, reasons::HELD | reasons::RETAINED) => Self::new(StatusCode::FORBIDDEN, &violation, message),
            (ErrorKind::FailedPrecondition, "KEY_DISABLED" | "KEY_DESTROYED" | "KEY_DESTROY_SCHEDULED") => {
                let message =
                    format!("Cloud KMS key is disabled, destroyed, or scheduled to be destroyed. {message}");
                Self::new(bad, reasons::KEY_DISABLED, message)
            }
            (ErrorKind::FailedPrecondition, "KEY_PERMISSION_DENIED") => {
                let message = format!(
                    "Permission denied on Cloud KMS key. Please ensure that your Cloud Storage service account has been authorized to use this key. {message}"
                );
                Self::new(StatusCode::FORBIDDEN, "forbidden", message)
            }
            (ErrorKind::FailedPrecondition, "KEY_NOT_FOUND") => {
                Self::new(bad, "cloudKmsDecryptionKeyNotFound", message)
            }
            (ErrorKind::FailedPrecondition, "KEY_UNREACHABLE" | "KEY_UNKNOWN") => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "backendError", message)
            }
            (ErrorKind::FailedPrecondition, kind) if kind.starts_with("KEY_") => {
                Self::new(bad, reasons::KEY_BAD, message)
            }
            (ErrorKind::OutOfRange, _) => {
                Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "requestedRangeNotSatisfiable", message)
            }
            (kind, _) => Self::new(usual, reason(kind), message),
        }
    }
}

fn reason(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument => "invalid",
        ErrorKind::NotFound => "notFound",
        ErrorKind::AlreadyExists | ErrorKind::Aborted => "conflict",
        ErrorKind::PermissionDenied => "forbidden",
        ErrorKind::Unauthenticated => "required",
        ErrorKind::FailedPrecondition => "badRequest",
        ErrorKind::ResourceExhausted => "rateLimitExceeded",
        ErrorKind::Unavailable => "backendError",
        ErrorKind::DeadlineExceeded => "gatewayTimeout",
        ErrorKind::Unimplemented => "notImplemented",
        _ => "internalError",
    }
}
