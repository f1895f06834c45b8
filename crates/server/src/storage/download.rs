//! Bytes of objects to their readers, whole or in a range.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use claviger_buckets::ByteStream;
use claviger_buckets::checksums::{encode_crc32c, encode_md5};
use claviger_buckets::model::Object;
use claviger_buckets::{RangeWanted, ReadRequest};
use futures::StreamExt;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED,
};
use http::{Method, Response, StatusCode};

use super::{Answer, Call, StorageApi, json};

/// Pieces of a download that are read before they are sent; each has up to a few MiB.
const PIECES_AHEAD: usize = 1;

impl StorageApi {
    /// A download. `xml` is one by a path of the XML API, which shows custom metadata in headers.
    pub(super) async fn download(&self, call: &Call, bucket: &str, name: &str, xml: bool) -> Answer {
        let head = call.method == Method::HEAD;
        let mut conditions = call.query.conditions()?;
        if xml {
            let header = |name: &str| call.header(name).and_then(|value| value.parse().ok());
            conditions.generation_match =
                header("x-goog-if-generation-match").or(conditions.generation_match);
            conditions.metageneration_match =
                header("x-goog-if-metageneration-match").or(conditions.metageneration_match);
        }
        let wanted = call.header("range").and_then(range).unwrap_or_default();
        let read = self
            .buckets
            .read(ReadRequest {
                bucket: bucket.to_owned(),
                name: name.to_owned(),
                generation: call.query.generation()?,
                conditions,
                range: wanted,
            })
            .await?;
        let body = if head { Body::empty() } else { Body::from_stream(pumped(read.body)) };
        let mut response = Response::new(body);
        let (object, served) = (&read.object, read.range);
        let headers = response.headers_mut();
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(served.end - served.start));
        let mut partial = None;
        if wanted != RangeWanted::All {
            partial =
                Some(format!("bytes {}-{}/{}", served.start, served.end.saturating_sub(1), object.size));
        }
        for (name, value) in self::headers(object) {
            // A value that no header can carry is left out.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(name, value);
            }
        }
        if xml {
            for (key, value) in &object.metadata.metadata {
                let name = HeaderName::try_from(format!("x-goog-meta-{}", key.to_lowercase()));
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                    headers.insert(name, value);
                }
            }
        }
        if let Some(value) = partial.as_ref().and_then(|partial| HeaderValue::from_str(partial).ok()) {
            headers.insert(CONTENT_RANGE, value);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(response)
    }
}

fn headers(object: &Object) -> Vec<(HeaderName, String)> {
    let metadata = &object.metadata;
    let custom = |name: &'static str| HeaderName::from_static(name);
    let encoding = metadata.content_encoding.clone();
    let mut hash = format!("crc32c={}", encode_crc32c(object.crc32c));
    if let Some(md5) = &object.md5 {
        hash = format!("{hash},md5={}", encode_md5(md5));
    }
    let kind = metadata.content_type.clone().unwrap_or_else(json::default_type);
    let mut found = vec![
        (CONTENT_TYPE, kind),
        (ETAG, json::object_etag(object)),
        (LAST_MODIFIED, http_date(object.updated)),
        (custom("x-goog-generation"), object.generation.to_string()),
        (custom("x-goog-metageneration"), object.metageneration.to_string()),
        (custom("x-goog-hash"), hash),
        (custom("x-goog-storage-class"), metadata.storage_class.clone().unwrap_or_default()),
        (custom("x-goog-stored-content-length"), object.size.to_string()),
        (custom("x-goog-stored-content-encoding"), encoding.clone().unwrap_or_else(|| "identity".to_owned())),
    ];
    for (name, value) in [
        (CONTENT_ENCODING, encoding),
        (CONTENT_DISPOSITION, metadata.content_disposition.clone()),
        (CONTENT_LANGUAGE, metadata.content_language.clone()),
        (CACHE_CONTROL, metadata.cache_control.clone()),
    ] {
        found.extend(value.map(|value| (name, value)));
    }
    found
}

/// The bytes, read by a task of their own: the connection's thread decrypts nothing, and the next piece is
/// read while one is sent.
fn pumped(mut body: ByteStream) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send {
    let (send, receive) = tokio::sync::mpsc::channel(PIECES_AHEAD);
    tokio::spawn(async move {
        while let Some(piece) = body.next().await {
            let failed = piece.is_err();
            let piece = piece.map_err(|error| {
                // The reader sees a connection that ends early; the log says why.
                tracing::warn!(kind = ?error.kind(), %error, "a download ended early");
                std::io::Error::other(error)
            });
            if send.send(piece).await.is_err() || failed {
                return;
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receive)
}

/// The range that a header names; none when it names several or cannot be read, as RFC 9110 has it.
fn range(header: &str) -> Option<RangeWanted> {
    let (first, last) = header.trim().strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", count) => count.parse().ok().map(RangeWanted::Last),
        (first, "") => first.parse().ok().map(RangeWanted::From),
        (first, last) => Some(RangeWanted::Between(first.parse().ok()?, last.parse().ok()?)),
    }
}

/// A time as HTTP writes it: `Mon, 23 Nov 2026 04:05:06 GMT`.
fn http_date(time: claviger_core::Timestamp) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // `2026-11-23T04:05:06.000Z`
    let text = json::time(time);
    let weekday = usize::try_from(time.micros().div_euclid(86_400_000_000).rem_euclid(7)).unwrap_or(0);
    let month = text.get(5..7).and_then(|month| month.parse::<usize>().ok()).unwrap_or(1);
    let part = |range| text.get(range).unwrap_or_default();
    format!(
        "{}, {} {} {} {} GMT",
        DAYS.get(weekday).copied().unwrap_or_default(),
        part(8..10),
        MONTHS.get(month.saturating_sub(1)).copied().unwrap_or_default(),
        part(0..4),
        part(11..19)
    )
}

/// The checksums that a request's `X-Goog-Hash` and `Content-MD5` name.
pub(super) fn sent_sums(call: &Call) -> claviger_buckets::checksums::Expected {
    let mut found = claviger_buckets::checksums::Expected::default();
    for value in call.headers.get_all("x-goog-hash") {
        for sum in value.to_str().unwrap_or_default().split(',') {
            match sum.trim().split_once('=') {
                Some(("crc32c", sum)) => found.crc32c = Some(sum.to_owned()),
                Some(("md5", sum)) => found.md5 = Some(sum.to_owned()),
                _ => {}
            }
        }
    }
    if let Some(md5) = call.header("content-md5").filter(|md5| STANDARD.decode(md5).is_ok()) {
        found.md5 = Some(md5.to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use claviger_core::Timestamp;

    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        assert_eq!(range("bytes=0-99"), Some(RangeWanted::Between(0, 99)));
        assert_eq!(range("bytes=5-"), Some(RangeWanted::From(5)));
        assert_eq!(range("bytes=-7"), Some(RangeWanted::Last(7)));
        for other in ["", "bytes=", "bytes=a-b", "items=0-1", "bytes=0-1,5-9"] {
            assert_eq!(range(other), None, "{other}");
        }
    }

    #[test]
    fn dates_are_those_of_http() {
        assert_eq!(http_date(Timestamp(784_111_777_000_000)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(json::time(Timestamp(784_111_777_012_345)), "1994-11-06T08:49:37.012Z");
    }
}
