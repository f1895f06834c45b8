//! The switches of a manager, as JSON over HTTP on this machine, and those who press them.
//!
//! ```text
//! GET  /keys                 [{key, path, state}]
//! POST /keys                 {key}
//! POST /keys/KEY:enable      and disable, destroy
//! GET  /fault, PUT /fault    {fault: none | refuse | error | hang | garbage | slow, millis}
//! ```
//! Invariant: only the port on loopback answers these. What changes something must say that it is JSON, which a page in a
//! browser on this machine cannot do unasked.

use std::net::SocketAddr;

use bytes::Bytes;
use claviger_core::{Error, ErrorKind, Result};
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{Fault, Manager, refusal};
use crate::http1;
use crate::wire::{BODY_BYTES, Status};

/// The type of bodies.
const JSON: &str = "application/json";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    key: String,
}

pub(super) async fn answer(manager: &Manager, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match press(manager, request).await {
        Ok(value) => http1::json(StatusCode::OK, &value),
        Err(error) => refusal(&error),
    }
}

async fn press(manager: &Manager, request: Request<Incoming>) -> Result<Value> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let is_json = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == JSON);
    if method != Method::GET && !is_json {
        return Err(Error::invalid(format!("a switch is pressed with a body of {JSON}")));
    }
    let body = http1::body(request).await?;
    let wrong = |e: serde_json::Error| Error::invalid(format!("the body cannot be read: {e}"));
    let value = match (&method, path.as_str()) {
        (&Method::GET, "/keys") => serde_json::to_value(manager.keys.list()?),
        (&Method::POST, "/keys") => {
            let new: NewKey = serde_json::from_slice(&body).map_err(wrong)?;
            serde_json::to_value(manager.keys.create(&new.key).await?)
        }
        (&Method::GET, "/fault") => serde_json::to_value(manager.fault()),
        (&Method::PUT, "/fault") => {
            let fault: Fault = serde_json::from_slice(&body).map_err(wrong)?;
            manager.set_fault(fault);
            serde_json::to_value(fault)
        }
        (&Method::POST, path) => {
            let pressed = path.strip_prefix("/keys/").and_then(|rest| rest.split_once(':'));
            let key = match pressed {
                Some((key, "enable")) => manager.keys.set_enabled(key, true).await?,
                Some((key, "disable")) => manager.keys.set_enabled(key, false).await?,
                Some((key, "destroy")) => manager.keys.destroy(key).await?,
                _ => return Err(Error::not_found(format!("there is no switch at {path}"))),
            };
            serde_json::to_value(key)
        }
        _ => return Err(Error::not_found(format!("there is no switch at {path}"))),
    };
    value.map_err(|e| Error::internal("an answer cannot be written").because(e))
}

/// Presses a switch of a manager on this machine.
///
/// # Errors
/// `Unavailable` when no manager is there; what it refuses.
pub async fn ask(manager: SocketAddr, method: Method, path: &str, body: &Value) -> Result<Value> {
    let absent = |e: &dyn std::error::Error| {
        Error::new(ErrorKind::Unavailable, format!("no key manager answers at {manager}: {e}"))
    };
    let stream = TcpStream::connect(manager).await.map_err(|e| absent(&e))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| absent(&e))?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, manager.to_string())
        .header(CONTENT_TYPE, JSON)
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|e| Error::invalid(format!("'{path}' cannot be asked for: {e}")))?;
    let response = sender.send_request(request).await.map_err(|e| absent(&e))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_BYTES).collect().await;
    connection.abort();
    let body =
        body.map_err(|e| Error::new(ErrorKind::Unavailable, format!("no whole answer: {e}")))?.to_bytes();
    if status == StatusCode::OK {
        return serde_json::from_slice(&body)
            .map_err(|e| Error::internal("an answer cannot be read").because(e));
    }
    let told: Status = serde_json::from_slice(&body).unwrap_or_default();
    let kind = match status {
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::CONFLICT => ErrorKind::AlreadyExists,
        StatusCode::BAD_REQUEST if told.status == "FAILED_PRECONDITION" => ErrorKind::FailedPrecondition,
        StatusCode::BAD_REQUEST => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    Err(Error::new(kind, told.message))
}
