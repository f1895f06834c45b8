//! Uploads: simple, of two parts, and resumable.
//!
//! Invariant: a reply that says bytes were kept is sent after they are durable.

use axum::body::Body;
use claviger_buckets::checksums::Expected;
use claviger_buckets::model::ObjectMetadata;
use claviger_buckets::{ByteStream, Progress, UploadChunk, UploadSpec, WriteRequest};
use claviger_core::Error;
use futures::{StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, LOCATION, RANGE};
use http::{Method, Response, StatusCode};
use serde_json::{Map, Value};

use super::download::sent_sums;
use super::failure::Failure;
use super::{Answer, Call, JSON_BYTES, StorageApi, broken, json, json_body, parse_json, related};

/// What a `Content-Range` of an upload says.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    /// These bytes follow, the first and the last.
    Bytes { first: u64, last: u64, total: Option<u64> },
    /// None follow: how far is it?
    Ask { total: Option<u64> },
}

impl StorageApi {
    pub(super) async fn upload(&self, call: &Call, bucket: &str, body: Body) -> Answer {
        if let Some(id) = call.query.text("upload_id") {
            return match call.method {
                Method::PUT | Method::POST => self.resume(call, bucket, id, body).await,
                Method::DELETE => {
                    self.buckets.cancel_upload(bucket, &id).await?;
                    let mut response = Response::new(Body::empty());
                    // What Cloud Storage answers to a cancelled upload.
                    *response.status_mut() = StatusCode::from_u16(499).unwrap_or(StatusCode::OK);
                    Ok(response)
                }
                _ => Err(Failure::method()),
            };
        }
        if !matches!(call.method, Method::POST | Method::PUT) {
            return Err(Failure::method());
        }
        let kind = call
            .query
            .text("uploadType")
            .or_else(|| call.header("x-goog-upload-protocol").map(str::to_owned));
        match kind.as_deref() {
            Some("media") => {
                let stream = stream(body);
                self.store(call, bucket, Map::new(), call.header("content-type"), stream).await
            }
            Some("multipart") => {
                let content_type = call.header("content-type").unwrap_or_default();
                let boundary = related::boundary(content_type).ok_or_else(|| {
                    Error::invalid("A multipart upload needs a boundary in its Content-Type.")
                })?;
                let parts = related::read(&boundary, stream(body), JSON_BYTES).await?;
                let fields = parse_json(&parts.first)?;
                self.store(call, bucket, fields, parts.content_type.as_deref(), parts.second).await
            }
            Some("resumable") => self.start(call, bucket, body).await,
            Some(other) => Err(Failure::parameter("uploadType", other)),
            None => Err(Failure::required("uploadType")),
        }
    }

    /// An upload in one request.
    async fn store(
        &self,
        call: &Call,
        bucket: &str,
        fields: Map<String, Value>,
        content_type: Option<&str>,
        body: ByteStream,
    ) -> Answer {
        let new = New::read(call, &fields, content_type)?;
        let request = WriteRequest {
            bucket: bucket.to_owned(),
            name: new.name,
            metadata: new.metadata,
            kms_key: new.kms_key,
            conditions: call.query.conditions()?,
            expected: new.expected,
            body,
        };
        let object = self.buckets.write(request).await?;
        self.shown_object(call, bucket, &object).await
    }

    async fn start(&self, call: &Call, bucket: &str, body: Body) -> Answer {
        let fields = json_body(body).await?;
        let new = New::read(call, &fields, call.header("x-upload-content-type"))?;
        let total = call.header("x-upload-content-length").and_then(|total| total.parse().ok());
        let spec = UploadSpec {
            bucket: bucket.to_owned(),
            name: new.name,
            metadata: new.metadata,
            kms_key: new.kms_key,
            conditions: call.query.conditions()?,
            expected: new.expected,
            total,
        };
        let id = self.buckets.start_upload(spec).await?;
        let bucket = json::encode_name(bucket);
        let location =
            format!("{}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={id}", call.origin);
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        for (name, value) in [(LOCATION, &location), (HeaderName::from_static("x-guploader-uploadid"), &id)] {
            let value =
                HeaderValue::from_str(value).map_err(|_| Error::invalid("The Host header has odd bytes."))?;
            headers.insert(name, value);
        }
        Ok(response)
    }

    async fn resume(&self, call: &Call, bucket: &str, upload_id: String, body: Body) -> Answer {
        let length: Option<u64> = call.header("content-length").and_then(|length| length.parse().ok());
        let sent = match call.header("content-range") {
            Some(header) => Some(sent(header).ok_or_else(|| {
                Error::invalid(format!("Failed to parse Content-Range header: '{}'", super::short(header)))
            })?),
            None => None,
        };
        let mut chunk = UploadChunk {
            bucket: bucket.to_owned(),
            upload_id,
            offset: 0,
            total: None,
            expected: sent_sums(call),
            last: true,
            body: stream(body),
        };
        let progress = match sent {
            Some(Sent::Ask { total }) => {
                self.buckets.upload_progress(bucket, &chunk.upload_id, total).await?
            }
            Some(Sent::Bytes { first, last, total }) => {
                chunk.offset = first;
                chunk.total = total;
                chunk.last = total.is_some_and(|total| last + 1 == total);
                self.buckets.upload_chunk(chunk).await?
            }
            // All of it comes at once.
            None => {
                chunk.total = length;
                self.buckets.upload_chunk(chunk).await?
            }
        };
        match progress {
            Progress::Done(object) => self.shown_object(call, bucket, &object).await,
            Progress::Incomplete(received) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
                let headers = response.headers_mut();
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                if let Some(last) = received.checked_sub(1)
                    && let Ok(range) = HeaderValue::from_str(&format!("bytes=0-{last}"))
                {
                    headers.insert(RANGE, range);
                }
                Ok(response)
            }
        }
    }
}

/// What a request says about a new object.
struct New {
    name: String,
    metadata: ObjectMetadata,
    expected: Expected,
    kms_key: Option<claviger_core::names::CryptoKeyName>,
}

impl New {
    fn read(call: &Call, fields: &Map<String, Value>, content_type: Option<&str>) -> Result<Self, Failure> {
        let (named, mut metadata, mut expected) = json::new_object(fields)?;
        let name = call.query.text("name").or(named).ok_or_else(|| Failure::required("name"))?;
        let sums = sent_sums(call);
        expected.crc32c = expected.crc32c.or(sums.crc32c);
        expected.md5 = expected.md5.or(sums.md5);
        let content_type = content_type.filter(|kind| !kind.is_empty()).map(str::to_owned);
        metadata.content_type =
            Some(metadata.content_type.or(content_type).unwrap_or_else(json::default_type));
        if let Some(encoding) = call.query.text("contentEncoding") {
            metadata.content_encoding = Some(encoding);
        }
        let kms_key = match call.query.key("kmsKeyName")? {
            Some(key) => Some(key),
            None => json::key_of(fields)?,
        };
        Ok(Self { name, metadata, expected, kms_key })
    }
}

/// The bytes of a request.
fn stream(body: Body) -> ByteStream {
    body.into_data_stream().map_err(|_| broken()).boxed()
}

fn sent(header: &str) -> Option<Sent> {
    let (range, total) = header.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    if range.trim() == "*" {
        return Some(Sent::Ask { total });
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<u64>().ok()?);
    // The end is asked for once more, so it must have a successor.
    (first <= last && last < u64::MAX).then_some(Sent::Bytes { first, last, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_of_uploads_are_read() {
        assert_eq!(sent("bytes 0-9/10"), Some(Sent::Bytes { first: 0, last: 9, total: Some(10) }));
        assert_eq!(sent("bytes 5-9/*"), Some(Sent::Bytes { first: 5, last: 9, total: None }));
        assert_eq!(sent("bytes */10"), Some(Sent::Ask { total: Some(10) }));
        assert_eq!(sent("bytes */*"), Some(Sent::Ask { total: None }));
        for wrong in
            ["", "bytes", "bytes 5-1/9", "bytes a-b/c", "bytes 0-18446744073709551615/*", "items 0-1/2"]
        {
            assert_eq!(sent(wrong), None, "{wrong}");
        }
    }
}
