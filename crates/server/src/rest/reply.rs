//! The reply of a gRPC method as JSON: one object, or an array that is written as its messages come.
//!
//! Invariant: a method that fails before its first message answers with the HTTP status of its error. Later,
//! when the status line is gone, the error is the last element of the array.

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use futures::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::{Code, Status};

use super::request::Style;
use crate::status;

/// Bytes before each message: a flag for compression and the length.
const FRAME_HEADER_BYTES: usize = 5;

/// A message as it goes to a gRPC method.
pub(super) fn frame(message: &[u8]) -> Result<Bytes, Status> {
    let length =
        u32::try_from(message.len()).map_err(|_| Status::resource_exhausted("The request is too large."))?;
    let mut framed = Vec::with_capacity(FRAME_HEADER_BYTES + message.len());
    framed.push(0);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    Ok(framed.into())
}

/// The messages of a gRPC reply, and the status at its end.
pub(super) struct Messages {
    headers: HeaderMap,
    body: Body,
    buffer: BytesMut,
    trailers: Option<HeaderMap>,
    over: bool,
}

impl Messages {
    /// Reads a reply.
    pub(super) fn new(headers: HeaderMap, body: Body) -> Self {
        Self { headers, body, buffer: BytesMut::new(), trailers: None, over: false }
    }

    /// The next message. After the last one or an error comes `None`.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        while !self.over {
            match self.cut() {
                Ok(Some(message)) => return Some(Ok(message)),
                Ok(None) => {}
                Err(fault) => {
                    self.over = true;
                    return Some(Err(fault));
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if self.buffer.is_empty() => self.buffer = data.into(),
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(why)) => {
                    self.over = true;
                    tracing::error!("a reply broke off: {why}");
                    return Some(Err(Status::internal("The reply broke off.")));
                }
                None => {
                    self.over = true;
                    return self.end().map(Err);
                }
            }
        }
        None
    }

    /// Cuts a whole message from what has come.
    fn cut(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let [compressed, length @ ..] = *header;
        if compressed != 0 {
            return Err(Status::internal("The reply is compressed, which was not asked for."));
        }
        let length = u32::from_be_bytes(length) as usize;
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(FRAME_HEADER_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The error at the end of the reply, if it ended with one.
    fn end(&self) -> Option<Status> {
        let status = self
            .trailers
            .as_ref()
            .and_then(Status::from_header_map)
            .or_else(|| Status::from_header_map(&self.headers))
            .unwrap_or_else(|| Status::unknown("The reply has no status."));
        match status.code() {
            Code::Ok if self.buffer.is_empty() => None,
            Code::Ok => Some(Status::internal("The reply ends within a message.")),
            _ => Some(status),
        }
    }
}

/// Writes messages of one type as JSON.
#[derive(Clone)]
pub(super) struct Writer {
    message: MessageDescriptor,
    options: SerializeOptions,
}

impl Writer {
    /// For messages of a type, in a style.
    pub(super) fn new(message: MessageDescriptor, style: Style) -> Self {
        Self { message, options: SerializeOptions::new().use_enum_numbers(style.enum_numbers) }
    }

    /// Appends a message.
    fn write(&self, encoded: Bytes, json: &mut Vec<u8>) -> Result<(), Status> {
        let fault = |why: &dyn std::fmt::Display| {
            tracing::error!(message = self.message.full_name(), "a reply cannot be written as JSON: {why}");
            Status::internal("The reply cannot be written as JSON.")
        };
        let message = DynamicMessage::decode(self.message.clone(), encoded).map_err(|why| fault(&why))?;
        let mut serializer = serde_json::Serializer::new(json);
        message.serialize_with_options(&mut serializer, &self.options).map_err(|why| fault(&why))
    }
}

/// The reply of a method that answers with one message.
pub(super) async fn unary(mut messages: Messages, writer: &Writer) -> Result<Response<Body>, Status> {
    let Some(first) = messages.next().await else {
        return Err(Status::internal("The reply has no message."));
    };
    let first = first?;
    match messages.next().await {
        None => {}
        Some(Err(status)) => return Err(status),
        Some(Ok(_)) => return Err(Status::internal("The reply has two messages.")),
    }
    let mut json = Vec::with_capacity(first.len() * 2);
    writer.write(first, &mut json)?;
    Ok(response(Body::from(json)))
}

/// The reply of a method that answers with a stream: an array, written as the client reads it.
pub(super) async fn streaming(mut messages: Messages, writer: Writer) -> Result<Response<Body>, Status> {
    let mut json = b"[".to_vec();
    match messages.next().await {
        None => return Ok(response(Body::from("[]"))),
        Some(first) => writer.write(first?, &mut json)?,
    }
    let parts = stream::unfold(Some((messages, writer, json)), |state| async {
        let (mut messages, writer, json) = state?;
        if !json.is_empty() {
            // The first element, which is at hand already.
            return Some((Ok::<_, std::convert::Infallible>(json), Some((messages, writer, Vec::new()))));
        }
        let mut part = b",\n".to_vec();
        let failed = match messages.next().await {
            None => return Some((Ok(b"]".to_vec()), None)),
            Some(Ok(message)) => writer.write(message, &mut part).err(),
            Some(Err(status)) => Some(status),
        };
        let Some(status) = failed else { return Some((Ok(part), Some((messages, writer, Vec::new())))) };
        let (code, _) = status::http(status.code());
        part.truncate(2);
        part.extend_from_slice(status::json(code, &status).to_string().as_bytes());
        part.push(b']');
        Some((Ok(part), None))
    });
    Ok(response(Body::from_stream(parts)))
}

/// A reply that went well.
fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    response
}
