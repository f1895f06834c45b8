//! Bodies of type `multipart/related`: a first part that is read whole, and a second that is streamed.
//!
//! Invariant: memory holds the first part and a few pieces of the second. A body without its last boundary
//! was cut off, and is an error.

use bytes::{Bytes, BytesMut};
use claviger_buckets::ByteStream;
use claviger_core::{Error, Result};
use futures::StreamExt;
use memchr::memmem;

/// The most of a part's headers, bytes.
const HEADER_BYTES: usize = 16 * 1024;

/// A body, its first part read.
pub(super) struct Related {
    /// The first part.
    pub(super) first: Bytes,
    /// The media type of the second part.
    pub(super) content_type: Option<String>,
    /// The second part.
    pub(super) second: ByteStream,
}

/// The boundary that a content type names.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches(|quote| matches!(quote, '"' | '\''));
        (name.trim().eq_ignore_ascii_case("boundary") && (1..=200).contains(&value.len()))
            .then(|| value.to_owned())
    })
}

struct Reader {
    input: ByteStream,
    buffer: BytesMut,
    /// What ends a part: the end of a line, two dashes and the boundary.
    delimiter: Vec<u8>,
    ended: bool,
}

/// Reads a body up to the content of its second part.
///
/// # Errors
/// `InvalidArgument` when it is not of two parts; what the body answers.
pub(super) async fn read(boundary: &str, input: ByteStream, first_bytes: usize) -> Result<Related> {
    let opening = format!("--{boundary}").into_bytes();
    let mut reader = Reader { input, buffer: BytesMut::new(), delimiter: opening, ended: false };
    reader.until_delimiter(HEADER_BYTES).await?;
    // Some clients end lines with one byte, some with two; all lines of a body are alike.
    let line_end: &[u8] = match reader.peek(1).await?.first() {
        Some(b'\n') => b"\n",
        _ => b"\r\n",
    };
    reader.delimiter = [line_end, b"--", boundary.as_bytes()].concat();
    reader.headers(line_end).await?;
    let first = reader.until_delimiter(first_bytes).await?;
    let headers = reader.headers(line_end).await?;
    let content_type = headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-type").then(|| value.trim().to_owned())
    });
    let second = futures::stream::try_unfold(Some(reader), |reader| async move {
        let Some(mut reader) = reader else { return Ok(None) };
        let (bytes, more) = reader.piece().await?;
        Ok(Some((bytes, more.then_some(reader))))
    });
    Ok(Related { first, content_type, second: second.boxed() })
}

impl Reader {
    async fn fill(&mut self) -> Result<()> {
        match self.input.next().await {
            Some(bytes) => self.buffer.extend_from_slice(&bytes?),
            None => self.ended = true,
        }
        Ok(())
    }

    async fn peek(&mut self, count: usize) -> Result<&[u8]> {
        while self.buffer.len() < count && !self.ended {
            self.fill().await?;
        }
        self.buffer.get(..count).ok_or_else(cut_off)
    }

    /// Takes everything up to a delimiter, and the delimiter.
    async fn until_delimiter(&mut self, limit: usize) -> Result<Bytes> {
        let delimiter = self.delimiter.clone();
        self.until(&delimiter, limit).await
    }

    async fn until(&mut self, end: &[u8], limit: usize) -> Result<Bytes> {
        let mut searched = 0;
        loop {
            let start = searched;
            if let Some(at) = self.buffer.get(start..).and_then(|rest| memmem::find(rest, end)) {
                let found = self.buffer.split_to(start + at).freeze();
                drop(self.buffer.split_to(end.len()));
                return Ok(found);
            }
            if self.buffer.len() > limit {
                return Err(Error::invalid(format!("A part of the body is larger than {limit} bytes.")));
            }
            if self.ended {
                return Err(cut_off());
            }
            searched = self.buffer.len().saturating_sub(end.len() - 1);
            self.fill().await?;
        }
    }

    /// The headers of a part, up to the empty line.
    async fn headers(&mut self, line_end: &[u8]) -> Result<String> {
        // The end of the boundary's own line belongs to the search: a part may have no headers.
        let text = self.until(&[line_end, line_end].concat(), HEADER_BYTES).await?;
        String::from_utf8(text.into()).map_err(|_| Error::invalid("The headers of a part are not text."))
    }

    /// Some bytes of the second part, and whether there are more.
    async fn piece(&mut self) -> Result<(Bytes, bool)> {
        loop {
            if let Some(at) = memmem::find(&self.buffer, &self.delimiter) {
                return Ok((self.buffer.split_to(at).freeze(), false));
            }
            let safe = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
            if safe > 0 {
                return Ok((self.buffer.split_to(safe).freeze(), true));
            }
            if self.ended {
                return Err(cut_off());
            }
            self.fill().await?;
        }
    }
}

fn cut_off() -> Error {
    Error::invalid("The multipart body has no end, or not the two parts that an upload needs.")
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    async fn read_in(body: &[u8], piece: usize) -> Result<(String, Option<String>, Vec<u8>)> {
        let pieces: Vec<_> = body.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let related = read("B", futures::stream::iter(pieces).boxed(), 1000).await?;
        let second: Vec<Bytes> = related.second.try_collect().await?;
        Ok((String::from_utf8_lossy(&related.first).into_owned(), related.content_type, second.concat()))
    }

    #[tokio::test]
    async fn both_kinds_of_line_ends_are_read_however_the_body_is_cut() {
        let crlf = b"--B\r\ncontent-type: application/json\r\n\r\n{}\r\n--B\r\nContent-Type: text/x\r\n\r\na\n--B?\r\n--b\r\n--B--";
        let lf = b"--B\nContent-Type: application/json\nMIME-Version: 1.0\n\n{}\n--B\nContent-Type: text/x\n\na\r\n--B--\n";
        for piece in [1, 2, 3, 7, 1000] {
            let (first, kind, second) = read_in(crlf, piece).await.unwrap();
            assert_eq!((first.as_str(), kind.as_deref()), ("{}", Some("text/x")), "{piece}");
            assert_eq!(second, b"a\n--B?\r\n--b", "{piece}");
            let (_, _, second) = read_in(lf, piece).await.unwrap();
            assert_eq!(second, b"a\r", "{piece}");
        }
    }

    #[tokio::test]
    async fn an_empty_second_part_is_an_empty_object() {
        let (_, kind, second) =
            read_in(b"--B\r\nx: y\r\n\r\n{}\r\n--B\r\nx: y\r\n\r\n\r\n--B--", 5).await.unwrap();
        assert_eq!((kind, second.len()), (None, 0));
    }

    #[tokio::test]
    async fn a_body_that_was_cut_off_is_an_error() {
        let whole = b"--B\r\nx: y\r\n\r\n{}\r\n--B\r\nx: y\r\n\r\nabc\r\n--B--";
        for len in 0..whole.len() - 2 {
            assert!(read_in(&whole[..len], 4).await.is_err(), "{len}");
        }
    }

    #[test]
    fn a_boundary_may_be_quoted() {
        assert_eq!(boundary("multipart/related; boundary=\"==x==\""), Some("==x==".into()));
        assert_eq!(boundary("multipart/related; charset=utf-8; Boundary=x"), Some("x".into()));
        assert_eq!(boundary("multipart/related"), None);
    }
}
