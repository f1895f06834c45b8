//! gRPC calls with as little of a client as can be: frames over HTTP/2, bytes in and bytes out.
//!
//! Invariant: a call ends well only when the server said `grpc-status: 0`. The load generator shares two
//! cores with the server that it measures, so what it does not do is part of its design: no channel task
//! between caller and connection, no retries, no balancing.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use prost::Message;
use tokio::net::TcpStream;

use crate::failure::{Doing, Failure, Result};

/// Flow control windows: no answer of the benchmarks waits for a window update.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Length of the prefix of a message: a flag and four bytes of length.
const PREFIX: usize = 5;

/// One HTTP/2 connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    authority: String,
}

/// The full path of a method, made once.
#[derive(Clone, Debug)]
pub(crate) struct RpcPath(PathAndQuery);

impl RpcPath {
    /// A method such as `/google.bigtable.v2.Bigtable/ReadRows`.
    pub(crate) fn new(path: &'static str) -> Self {
        Self(PathAndQuery::from_static(path))
    }
}

impl Connection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody listens there or it does not speak HTTP/2.
    pub(crate) async fn open(authority: &str) -> Result<Self> {
        let tcp = TcpStream::connect(authority).await.doing(format!("cannot connect to {authority}"))?;
        tcp.set_nodelay(true).doing("cannot set TCP_NODELAY")?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(tcp)
            .await
            .doing("no HTTP/2")?;
        tokio::spawn(async move {
            // Each call learns of a broken connection by itself.
            let _ = connection.await;
        });
        Ok(Self { requests, authority: authority.to_owned() })
    }

    /// Sends one framed message and gives the stream of answers.
    ///
    /// # Errors
    /// When the connection broke or the server refused at once.
    pub(crate) async fn call(&self, method: &RpcPath, framed: Bytes) -> Result<Answers> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(method.0.clone())
            .build()
            .doing("a bad address")?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
        let mut requests = self.requests.clone().ready().await.doing("the connection broke")?;
        let (response, mut body) = requests.send_request(request, false).doing("the connection broke")?;
        body.send_data(framed, true).doing("the connection broke")?;
        let response = response.await.doing("no answer")?;
        // An error without an answer comes in the headers alone.
        if let Some(refusal) = refusal(response.headers()) {
            return Err(refusal);
        }
        let ended = response.headers().contains_key("grpc-status");
        Ok(Answers { body: response.into_body(), buffer: BytesMut::new(), ended })
    }

    /// Calls a method that answers once.
    ///
    /// # Errors
    /// As [`Self::call`], and when there is no answer.
    pub(crate) async fn unary(&self, method: &RpcPath, framed: Bytes) -> Result<Bytes> {
        let mut answers = self.call(method, framed).await?;
        let answer = answers.next().await?.ok_or_else(|| Failure::new("an empty answer"))?;
        match answers.next().await? {
            None => Ok(answer),
            Some(_) => Err(Failure::new("two answers where one belongs")),
        }
    }
}

/// The answers of one call.
#[derive(Debug)]
pub(crate) struct Answers {
    body: RecvStream,
    buffer: BytesMut,
    ended: bool,
}

impl Answers {
    /// The next message; none once the server ended well.
    ///
    /// # Errors
    /// When the call failed.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(message) = take(&mut self.buffer) {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(chunk) = self.body.data().await else { break };
            let mut chunk = chunk.doing("the answer broke off")?;
            self.body.flow_control().release_capacity(chunk.len()).doing("flow control")?;
            if self.buffer.is_empty()
                && let Some(length) = message_length(&chunk)
                && chunk.len() == PREFIX + length
            {
                // A whole message in one frame: the usual case of short answers, without a copy.
                chunk.advance(PREFIX);
                return Ok(Some(chunk));
            }
            self.buffer.extend_from_slice(&chunk);
        }
        let trailers = self.body.trailers().await.doing("no trailers")?.unwrap_or_default();
        if let Some(refusal) = refusal(&trailers) {
            return Err(refusal);
        }
        if !trailers.contains_key("grpc-status") || !self.buffer.is_empty() {
            return Err(Failure::new("the answer was cut short"));
        }
        self.ended = true;
        Ok(None)
    }
}

fn message_length(bytes: &[u8]) -> Option<usize> {
    let length: [u8; 4] = bytes.get(1..PREFIX)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(length)).ok()
}

fn take(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = message_length(buffer)?;
    if buffer.len() < PREFIX + length {
        return None;
    }
    buffer.advance(PREFIX);
    Some(buffer.split_to(length).freeze())
}

fn refusal(headers: &HeaderMap) -> Option<Failure> {
    let status = headers.get("grpc-status")?.to_str().unwrap_or("?");
    if status == "0" {
        return None;
    }
    let message = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
    Some(Failure::new(format!("the server answered with status {status}: {message}")))
}

/// A message with its prefix, ready to send.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut framed);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_proto::google::bigtable::v2::ReadRowsRequest;

    #[test]
    fn a_framed_message_is_taken_back_only_when_it_is_whole() {
        let request = ReadRowsRequest { table_name: "t".repeat(300), ..ReadRowsRequest::default() };
        let framed = frame(&request);
        let mut buffer = BytesMut::from(&framed[..framed.len() - 1]);
        assert_eq!(take(&mut buffer), None);
        buffer.extend_from_slice(&framed[framed.len() - 1..]);
        buffer.extend_from_slice(b"next");
        let message = take(&mut buffer).unwrap();
        assert_eq!(ReadRowsRequest::decode(message).unwrap(), request);
        assert_eq!(&buffer[..], b"next");
    }

    #[test]
    fn only_status_zero_is_success() {
        let mut headers = HeaderMap::new();
        assert!(refusal(&headers).is_none());
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(refusal(&headers).is_none());
        headers.insert("grpc-status", HeaderValue::from_static("9"));
        headers.insert("grpc-message", HeaderValue::from_static("locked"));
        assert_eq!(refusal(&headers).unwrap().to_string(), "the server answered with status 9: locked");
    }
}
