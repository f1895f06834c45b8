//! Bytes of an object, in order, however often the connection breaks.
//!
//! Invariant: all bytes are of one generation. Whoever reads an object to its end knows that its checksum fits.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderValue, RANGE};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::api::{Patience, Storage, full, object_path};
use super::find::Found;
use crate::client::innermost;
use crate::failure::Failure;

/// Which bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// From this one to the end.
    From(u64),
    /// From this one to that one, which is the last.
    Between(u64, u64),
    /// So many, of the end.
    Last(u64),
}

impl Range {
    /// The first byte, and the one behind the last.
    fn of(self, size: u64) -> (u64, u64) {
        match self {
            Self::From(first) => (first.min(size), size),
            Self::Between(first, last) => (first.min(size), last.saturating_add(1).min(size)),
            Self::Last(count) => (size.saturating_sub(count), size),
        }
    }
}

/// Reads an object.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    storage: &'a Storage,
    found: &'a Found,
    body: Option<Incoming>,
    at: u64,
    end: u64,
    /// Of all bytes so far, where all are read.
    checksum: Option<u32>,
    patience: Patience,
}

impl<'a> Reading<'a> {
    /// Begins to read.
    pub(super) fn new(storage: &'a Storage, found: &'a Found, range: Range) -> Self {
        let (at, end) = range.of(found.size);
        let whole = at == 0 && end == found.size;
        Self {
            storage,
            found,
            body: None,
            at,
            end,
            checksum: whole.then_some(0),
            patience: Patience::default(),
        }
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// What the server refuses; a connection that breaks too often; a checksum that does not fit.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while self.at < self.end {
            match self.piece().await {
                Ok(Some(bytes)) => {
                    self.at += bytes.len() as u64;
                    self.checksum = self.checksum.map(|sum| crc32c::crc32c_append(sum, &bytes));
                    // The connection works.
                    self.patience = Patience::default();
                    return Ok(Some(bytes));
                }
                Ok(None) => {
                    self.body = None;
                    self.patience.after(self.storage.broke("the object ended early")).await?;
                }
                Err(failure) => {
                    self.body = None;
                    self.patience.after(failure).await?;
                }
            }
        }
        match (self.checksum, self.found.checksum) {
            (Some(read), Some(said)) if read != said => Err(Failure::local(format!(
                "{} arrived damaged: its CRC32C is {read:08x} and should be {said:08x}",
                self.found.url
            ))),
            _ => Ok(None),
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.body.is_none() {
            self.body = Some(self.open().await?);
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.storage.broke(&innermost(&error)))?;
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
                return Ok(Some(bytes.slice(..bytes.len().min(wanted))));
            }
        }
        Ok(None)
    }

    async fn open(&self) -> Result<Incoming, Failure> {
        let url = &self.found.url;
        let mut headers = HeaderMap::new();
        // The bytes as they are stored, also of an object that says it is compressed.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let is_part = self.at > 0 || self.end < self.found.size;
        if is_part && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-{}", self.at, self.end - 1)) {
            headers.insert(RANGE, range);
        }
        let mut query = vec![("alt", "media".to_owned())];
        query.extend(url.generation.map(|generation| ("generation", generation.to_string())));
        let path = object_path(&url.bucket, &url.object);
        let request = self.storage.request(Method::GET, &path, &query, headers, full(Bytes::new()))?;
        let response = self.storage.succeed(request).await?;
        if is_part && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(Failure::local(format!("the server sent all of {url} in place of a part")));
        }
        Ok(response.into_body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_stays_within_the_object() {
        for (range, size, expected) in [
            (Range::From(0), 10, (0, 10)),
            (Range::From(12), 10, (10, 10)),
            (Range::Between(2, 4), 10, (2, 5)),
            (Range::Between(2, u64::MAX), 10, (2, 10)),
            (Range::Last(3), 10, (7, 10)),
            (Range::Last(30), 10, (0, 10)),
            (Range::From(0), 0, (0, 0)),
        ] {
            assert_eq!(range.of(size), expected, "{range:?} of {size}");
        }
    }
}
