//! The API of AWS's KMS, as its mocks speak it: JSON over HTTP/1.1, a connection for each task.
//!
//! Invariant: an answer counts when its status is 200 and it holds what was asked for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::failure::{Doing, Failure, Result};

/// The most that an answer may have.
const ANSWER_BYTES: usize = 1 << 20;

/// A key of a server.
pub(super) struct Target {
    authority: String,
    request: Vec<u8>,
    connection: Option<BufReader<TcpStream>>,
}

impl Target {
    pub(super) fn new(authority: &str, key: &str) -> Self {
        let body = json!({ "KeyId": key, "Plaintext": BASE64.encode(super::plaintext()) });
        Self {
            authority: authority.to_owned(),
            request: request(authority, "Encrypt", &body),
            connection: None,
        }
    }

    /// One call.
    ///
    /// # Errors
    /// When it failed or there is no ciphertext in its answer.
    pub(super) async fn encrypt(&mut self) -> Result<()> {
        let answer = self.ask().await?;
        let sealed = answer.get("CiphertextBlob").and_then(Value::as_str).unwrap_or_default();
        if sealed.len() > super::PLAINTEXT_BYTES {
            Ok(())
        } else {
            Err(Failure::new("an answer without ciphertext"))
        }
    }

    async fn ask(&mut self) -> Result<Value> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let tcp = TcpStream::connect(&self.authority).await;
                let tcp = tcp.doing(format!("cannot connect to {}", self.authority))?;
                tcp.set_nodelay(true).doing("cannot set TCP_NODELAY")?;
                BufReader::new(tcp)
            }
        };
        connection.get_mut().write_all(&self.request).await.doing("cannot send")?;
        let (mut status, mut length, mut closes) = (String::new(), 0, false);
        connection.read_line(&mut status).await.doing("no answer")?;
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).await.doing("a short answer")?;
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().doing("a bad length")?,
                Some(("connection", value)) => closes = value.trim() == "close",
                Some(_) => {}
                None => break,
            }
        }
        if length > ANSWER_BYTES {
            return Err(Failure::new("an answer that is too long"));
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await.doing("a short answer")?;
        if !status.contains(" 200 ") {
            return Err(Failure::new(format!("{}: {}", status.trim(), String::from_utf8_lossy(&body))));
        }
        if !closes && !status.starts_with("HTTP/1.0") {
            self.connection = Some(connection);
        }
        serde_json::from_slice(&body).doing("an answer that is no JSON")
    }
}

/// Makes a key; gives its id.
///
/// # Errors
/// When the server refuses.
pub(super) async fn create_key(authority: &str) -> Result<String> {
    let request = request(authority, "CreateKey", &json!({}));
    let answer = Target { authority: authority.to_owned(), request, connection: None }.ask().await?;
    let id = answer.get("KeyMetadata").and_then(|key| key.get("KeyId")).and_then(Value::as_str);
    id.map(str::to_owned).ok_or_else(|| Failure::new("a key without an id"))
}

fn request(authority: &str, action: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    // A mock looks at the service's name in the signature, and not at the signature.
    format!(
        "POST / HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/x-amz-json-1.1\r\n\
         X-Amz-Target: TrentService.{action}\r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential=bench/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=0\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
