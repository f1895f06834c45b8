//! Bytes into an object: in one request when they are few, else in a resumable upload, piece by piece.
//!
//! Invariant: at most two pieces are in memory. A piece is let go once the server says that it is kept, and the
//! object's checksum is that of the bytes that were read.

use bytes::{Bytes, BytesMut};
use claviger_core::names::CryptoKeyName;
use futures::stream;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::api::{Patience, Storage, checksum, encoded, full, number, shown_checksum, text};
use super::url::CloudUrl;
use crate::failure::Failure;
use crate::progress::Progress;

/// A piece, bytes; Cloud Storage wants a multiple of 256 KiB.
const PIECE_BYTES: usize = 8 << 20;
/// The media type of bytes that nothing is known of.
const UNKNOWN_TYPE: &str = "application/octet-stream";
/// The server's answer when an object is there that must not be.
pub(super) const EXISTS: &str = "conditionNotMet";

/// An object to make.
#[derive(Clone, Debug)]
pub(super) struct NewObject<'a> {
    pub(super) url: &'a CloudUrl,
    /// What is told of it beside its bytes.
    pub(super) fields: Map<String, Value>,
    pub(super) key: Option<&'a CryptoKeyName>,
    /// Only if there is none yet.
    pub(super) no_clobber: bool,
}

/// One upload.
struct Upload<'a> {
    storage: &'a Storage,
    new: &'a NewObject<'a>,
    progress: &'a Progress,
}

/// A piece, and whether the source ends with it.
struct Piece {
    bytes: Bytes,
    last: bool,
}

/// How an upload stands.
enum Standing {
    /// So many bytes are kept.
    Kept(u64),
    Done(Value),
}

/// Makes an object of all that `source` has.
///
/// # Errors
/// What the server refuses; a source that cannot be read; a connection that breaks too often.
pub(super) async fn upload(
    storage: &Storage,
    new: &NewObject<'_>,
    source: impl AsyncRead + Unpin,
    progress: &Progress,
) -> Result<Value, Failure> {
    let upload = Upload { storage, new, progress };
    let mut pieces = Pieces { source, ahead: None, name: new.url.to_string() };
    let first = pieces.next().await?;
    if first.last { upload.at_once(first.bytes).await } else { upload.in_pieces(first, pieces).await }
}

/// Reads a source in pieces, one ahead, so that the last is known to be it.
struct Pieces<R> {
    source: R,
    ahead: Option<Bytes>,
    name: String,
}

impl<R: AsyncRead + Unpin> Pieces<R> {
    async fn read(&mut self) -> Result<Bytes, Failure> {
        // Room for all of it at once: no copy while it grows.
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let mut left = (&mut self.source).take(PIECE_BYTES as u64);
        while piece.len() < PIECE_BYTES {
            match left.read_buf(&mut piece).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    return Err(Failure::local(format!("cannot read what becomes {}: {error}", self.name)));
                }
            }
        }
        Ok(piece.freeze())
    }

    async fn next(&mut self) -> Result<Piece, Failure> {
        let bytes = match self.ahead.take() {
            Some(bytes) => bytes,
            None => self.read().await?,
        };
        if bytes.len() < PIECE_BYTES {
            return Ok(Piece { bytes, last: true });
        }
        let ahead = self.read().await?;
        let last = ahead.is_empty();
        self.ahead = Some(ahead);
        Ok(Piece { bytes, last })
    }
}

impl Upload<'_> {
    fn path(&self) -> String {
        format!("/upload/storage/v1/b/{}/o", encoded(&self.new.url.bucket))
    }

    fn query(&self, kind: &str) -> Vec<(&'static str, String)> {
        let mut query = vec![("uploadType", kind.to_owned()), ("name", self.new.url.object.clone())];
        query.extend(self.new.key.map(|key| ("kmsKeyName", key.to_string())));
        if self.new.no_clobber {
            query.push(("ifGenerationMatch", "0".to_owned()));
        }
        query
    }

    async fn at_once(&self, bytes: Bytes) -> Result<Value, Failure> {
        let mut fields = self.new.fields.clone();
        fields.insert("crc32c".into(), shown_checksum(crc32c::crc32c(&bytes)).into());
        let boundary = boundary()?;
        let kind = fields.get("contentType").and_then(Value::as_str).unwrap_or(UNKNOWN_TYPE).to_owned();
        let head = format!(
            "--{boundary}\r\nContent-Type: application/json\r\n\r\n{}\r\n--{boundary}\r\nContent-Type: {kind}\r\n\r\n",
            Value::Object(fields)
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let length = head.len() + bytes.len() + tail.len();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, header(&format!("multipart/related; boundary={boundary}"))?);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        let query = self.query("multipart");
        let mut patience = Patience::default();
        loop {
            let parts = [Bytes::from(head.clone()), bytes.clone(), Bytes::from(tail.clone())];
            let frames = stream::iter(parts.map(|part| Ok(Frame::data(part))));
            let body = BodyExt::boxed(StreamBody::new(frames));
            let request = self.storage.request(Method::POST, &self.path(), &query, headers.clone(), body)?;
            match self.storage.succeed(request).await {
                Ok(response) => {
                    self.progress.advance(bytes.len() as u64);
                    return self.storage.value(response).await;
                }
                Err(failure) => patience.after(failure).await?,
            }
        }
    }

    async fn in_pieces(
        &self,
        first: Piece,
        mut pieces: Pieces<impl AsyncRead + Unpin>,
    ) -> Result<Value, Failure> {
        let session = self.start().await?;
        let made = self.send_all(&session, first, &mut pieces).await;
        if made.is_err() {
            // What was kept is of no use; the server forgets it some day in any case.
            let request =
                self.storage.request(Method::DELETE, &session, &[], HeaderMap::new(), full(Bytes::new()))?;
            let _ = self.storage.send(request).await;
        }
        made
    }

    /// Begins; gives the path that pieces go to.
    async fn start(&self) -> Result<String, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(kind) = self.new.fields.get("contentType").and_then(Value::as_str) {
            headers.insert(HeaderName::from_static("x-upload-content-type"), header(kind)?);
        }
        let body = Value::Object(self.new.fields.clone()).to_string();
        let query = self.query("resumable");
        let mut patience = Patience::default();
        let response = loop {
            let body = full(body.clone());
            let request = self.storage.request(Method::POST, &self.path(), &query, headers.clone(), body)?;
            match self.storage.succeed(request).await {
                Ok(response) => break response,
                Err(failure) => patience.after(failure).await?,
            }
        };
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let location = location.and_then(|location| location.parse::<http::Uri>().ok());
        // The server is where it was reached, whatever it calls itself.
        let path = location.as_ref().and_then(http::Uri::path_and_query).map(ToString::to_string);
        path.ok_or_else(|| Failure::local("the server began an upload without saying where it goes"))
    }

    async fn send_all(
        &self,
        session: &str,
        first: Piece,
        pieces: &mut Pieces<impl AsyncRead + Unpin>,
    ) -> Result<Value, Failure> {
        let (mut offset, mut sum) = (0, 0);
        let mut piece = first;
        loop {
            sum = crc32c::crc32c_append(sum, &piece.bytes);
            let length = piece.bytes.len() as u64;
            let done = self.send_piece(session, offset, &piece).await?;
            offset += length;
            match done {
                Some(object) if piece.last => {
                    if checksum(&object).is_some_and(|said| said != sum) {
                        return self.damaged(&object).await;
                    }
                    return Ok(object);
                }
                Some(_) => return Err(Failure::local("the server ended the upload before all was sent")),
                None => piece = pieces.next().await?,
            }
        }
    }

    /// Sends a piece until all of it is kept; gives the object when that was the last.
    async fn send_piece(&self, session: &str, offset: u64, piece: &Piece) -> Result<Option<Value>, Failure> {
        let end = offset + piece.bytes.len() as u64;
        let total = if piece.last { end.to_string() } else { "*".to_owned() };
        let mut at = offset;
        let mut patience = Patience::default();
        loop {
            let skip = usize::try_from(at - offset).unwrap_or(usize::MAX).min(piece.bytes.len());
            let rest = piece.bytes.slice(skip..);
            let sent = if rest.is_empty() {
                self.put(session, &format!("bytes */{total}"), rest).await
            } else {
                self.put(session, &format!("bytes {at}-{}/{total}", end - 1), rest).await
            };
            let standing = match sent {
                Ok(standing) => standing,
                Err(failure) => {
                    patience.after(failure).await?;
                    // What of it arrived?
                    match self.put(session, &format!("bytes */{total}"), Bytes::new()).await {
                        Ok(standing) => standing,
                        Err(failure) => {
                            patience.after(failure).await?;
                            continue;
                        }
                    }
                }
            };
            match standing {
                Standing::Done(object) => {
                    self.progress.advance(end - at);
                    return Ok(Some(object));
                }
                Standing::Kept(kept) if kept == end && !piece.last => {
                    self.progress.advance(end.saturating_sub(at));
                    return Ok(None);
                }
                Standing::Kept(kept) if kept < offset || kept > end => {
                    return Err(Failure::local(format!(
                        "the server keeps {kept} bytes of {}, of which {offset} were to be there",
                        self.new.url
                    )));
                }
                Standing::Kept(kept) => {
                    if kept > at {
                        self.progress.advance(kept - at);
                        patience = Patience::default();
                    } else {
                        patience.after(self.storage.broke("a part of the upload was not kept")).await?;
                    }
                    at = kept;
                }
            }
        }
    }

    async fn put(&self, session: &str, range: &str, bytes: Bytes) -> Result<Standing, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, header(range)?);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        let request = self.storage.request(Method::PUT, session, &[], headers, full(bytes))?;
        let response = self.storage.send(request).await?;
        if response.status() != StatusCode::PERMANENT_REDIRECT {
            let status = response.status();
            if !status.is_success() {
                let body = response.into_body().collect().await.map(|body| body.to_bytes());
                return Err(Failure::of_json(status.as_u16(), &body.unwrap_or_default()));
            }
            return Ok(Standing::Done(self.storage.value(response).await?));
        }
        Ok(Standing::Kept(kept(&response)))
    }

    /// Removes an object that is not what was sent.
    async fn damaged(&self, object: &Value) -> Result<Value, Failure> {
        let url = CloudUrl { generation: number(object, "generation"), ..self.new.url.clone() };
        self.storage.delete_version(&url).await?;
        Err(Failure::local(format!(
            "{} arrived damaged, with the CRC32C {}; it was deleted",
            self.new.url,
            text(object, "crc32c")
        )))
    }
}

/// How many bytes an answer says are kept.
fn kept(response: &Response<Incoming>) -> u64 {
    let range = response.headers().get(RANGE).and_then(|range| range.to_str().ok());
    range.and_then(kept_in).unwrap_or(0)
}

/// The bytes of a range that begins with the first.
fn kept_in(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes=0-")?.parse::<u64>().ok()?.checked_add(1)
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text)
        .map_err(|_| Failure::usage(format!("'{}' fits in no header", text.escape_debug())))
}

/// What parts of a body are parted by: not in any of them, but for odds of one to 2^128.
fn boundary() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    claviger_crypto::fill_random(&mut bytes)
        .map_err(|error| Failure::local(format!("no random bytes: {error}")))?;
    Ok(format!("claviger-{:032x}", u128::from_be_bytes(bytes)))
}

/// The media type that a file's name says.
pub(super) fn type_of(name: &str) -> String {
    mime_guess::from_path(name).first_raw().unwrap_or(UNKNOWN_TYPE).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn cut(length: usize) -> Vec<(usize, bool)> {
        let bytes = vec![7; length];
        let mut pieces = Pieces { source: bytes.as_slice(), ahead: None, name: String::new() };
        let mut found = Vec::new();
        loop {
            let piece = pieces.next().await.unwrap();
            found.push((piece.bytes.len(), piece.last));
            if piece.last {
                return found;
            }
        }
    }

    #[tokio::test]
    async fn the_last_piece_is_known_to_be_it() {
        assert_eq!(cut(0).await, [(0, true)]);
        assert_eq!(cut(5).await, [(5, true)]);
        assert_eq!(cut(PIECE_BYTES).await, [(PIECE_BYTES, true)]);
        assert_eq!(cut(PIECE_BYTES + 1).await, [(PIECE_BYTES, false), (1, true)]);
        assert_eq!(cut(2 * PIECE_BYTES).await, [(PIECE_BYTES, false), (PIECE_BYTES, true)]);
    }

    #[test]
    fn what_is_kept_is_read_from_the_range() {
        assert_eq!(kept_in("bytes=0-9"), Some(10));
        for wrong in ["", "bytes=1-9", "bytes=0-", "bytes=0-18446744073709551615"] {
            assert_eq!(kept_in(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_files_name_says_its_type() {
        assert_eq!(type_of("d/a.csv"), "text/csv");
        assert_eq!(type_of("a.json"), "application/json");
        assert_eq!(type_of("noidea"), UNKNOWN_TYPE);
    }
}
