//! Frames: what a segment of a log consists of.
//!
//! ```text
//! position 104 of a segment   zero (24 bytes)
//! position 128, and at each multiple of 64 after the frame before:
//!
//!  0  32  head        sealed: number u64, length of the body u64 (both little-endian), and a tag of 16
//! 32   1  mark        0x5a
//! 33   .  body        chunks of 16384 bytes of ciphertext and a tag of 16 each; the last one 1 to 16384
//!  .   1  mark        0x5a
//!  .   .  zero        up to the next multiple of 64
//!
//! after the last frame        zero, to the end of the file
//!
//! index of a chunk for the nonce = (its position / 16) * 2, and 1 more for chunks of a body
//! ```
//!
//! The nonce is bound to the position, so a frame opens at its own place of its own segment only, and a
//! head can be looked for anywhere.
//!
//! **The end.** A process may die while a frame is written: some of its bytes are there and the others zero.
//! Nothing was acknowledged of that frame, and nothing was written after it. So what is not a whole frame is
//! the end of the segment when no later frame follows and it lacks a part: its mark, or all of it within one
//! of the disk's sectors. Anything else was changed.
//!
//! Invariant: no byte of a body is given out before its tag was checked. Reading takes any bytes.

use bytes::Bytes;
use claviger_crypto::cobblestone::{CHUNK, MessageKey, TAG};
use object_store::Result;

use super::super::place::cipher;
use crate::error::{Change, permanent};

/// Where the first frame begins.
pub const START: u64 = 128;
/// Frames begin at multiples of this.
pub const ALIGN: u64 = 64;
/// The longest body.
pub const MAX_BODY: u64 = 1 << 30;

const PLAIN_HEAD: usize = 16;
const HEAD: usize = PLAIN_HEAD + TAG;
const MARK: u8 = 0x5a;
/// Bytes before a body: the head and its mark.
const BEFORE: usize = HEAD + 1;
const BEFORE_U64: u64 = BEFORE as u64;
const CHUNK_U64: u64 = CHUNK as u64;
const TAG_U64: u64 = TAG as u64;
/// Sealed bytes that are written at a time.
const PIECE: usize = 256 * 1024;
/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;
/// Each chunk is at least this long, so that no two have the same index.
const UNIT: u64 = TAG as u64;

/// One frame, as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number.
    pub number: u64,
    /// What it carries.
    pub body: Bytes,
}

/// What is known of a segment's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expected {
    /// It was finished at this length.
    Exactly(u64),
    /// It was durable up to here, and may have gone on.
    AtLeast(u64),
}

#[derive(Clone, Copy)]
enum Kind {
    Head = 0,
    Body = 1,
}

fn index(kind: Kind, position: u64) -> u64 {
    (position / UNIT) << 1 | kind as u64
}

/// Bytes of the body when sealed.
fn sealed_len(body: u64) -> u64 {
    body + TAG_U64 * body.div_ceil(CHUNK_U64)
}

/// Where the frame of a body ends, with its last mark, and where the next one begins.
fn frame_end(position: u64, body: u64) -> (u64, u64) {
    let end = position + BEFORE_U64 + sealed_len(body) + 1;
    (end, end.next_multiple_of(ALIGN))
}

/// Seals the frame at `position` through `out`, whose content goes to `emit` when it gets long; the frame's rest is
/// left in it. Gives the position of the next frame.
///
/// # Errors
/// When the body is empty or too long, and what `emit` answers.
pub fn seal_frame(
    message: &MessageKey,
    position: u64,
    number: u64,
    body: &[u8],
    out: &mut Vec<u8>,
    mut emit: impl FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let len = body.len() as u64;
    if body.is_empty() || len > MAX_BODY {
        return Err(permanent("sealed", format!("a frame cannot hold {len} bytes")));
    }
    let (end, next) = frame_end(position, len);
    out.clear();
    let mut head = [0; PLAIN_HEAD];
    let (front, back) = head.split_at_mut(8);
    front.copy_from_slice(&number.to_le_bytes());
    back.copy_from_slice(&len.to_le_bytes());
    seal_chunk(message, index(Kind::Head, position), &head, out)?;
    out.push(MARK);
    let mut at = position + BEFORE_U64;
    for chunk in body.chunks(CHUNK) {
        seal_chunk(message, index(Kind::Body, at), chunk, out)?;
        at += chunk.len() as u64 + TAG_U64;
        if out.len() >= PIECE {
            emit(out)?;
            out.clear();
        }
    }
    debug_assert_eq!(at + 1, end);
    out.push(MARK);
    let zeroes = usize::try_from(next - end).map_err(|e| permanent("sealed", e))?;
    out.resize(out.len() + zeroes, 0);
    Ok(next)
}

fn seal_chunk(message: &MessageKey, index: u64, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(plain);
    let tag = message.seal_chunk(index, out.get_mut(start..).unwrap_or_default()).map_err(cipher)?;
    out.extend_from_slice(&tag);
    Ok(())
}

/// Reads a segment's frames, of which the first has the number `first`, and where the last one ends.
///
/// # Errors
/// What was changed, when the file is not what was written.
pub fn read_frames(
    message: &MessageKey,
    file: &[u8],
    first: u64,
    expected: Expected,
) -> std::result::Result<(Vec<Frame>, u64), Change> {
    let segment = Sealed { message, file };
    let mut frames = Vec::new();
    let mut position = START;
    if !segment.is_zero(super::super::header::FRONT as u64, START) {
        return Err(Change::Content);
    }
    let end = loop {
        if expected == Expected::Exactly(position) && segment.len() == position {
            break position;
        }
        match segment.frame(position, first.wrapping_add(frames.len() as u64))? {
            Found::Frame(frame, next) => {
                frames.push(frame);
                position = next;
            }
            Found::Unfinished => break position,
        }
    };
    let expected = match expected {
        Expected::Exactly(len) | Expected::AtLeast(len) if end < len => return Err(Change::Length),
        expected => expected,
    };
    match expected {
        // It goes on after its end.
        Expected::Exactly(len) if len != end || segment.len() != len => Err(Change::Length),
        _ => Ok((frames, end)),
    }
}

/// What is at a place where a frame can begin.
enum Found {
    Frame(Frame, u64),
    /// What a process that died leaves: nothing, or a part of a frame.
    Unfinished,
}

enum Head {
    /// All zero.
    Nothing,
    Of {
        number: u64,
        body: u64,
    },
    Broken,
}

/// The bytes of a segment. What is beyond the file's end counts as zero.
struct Sealed<'a> {
    message: &'a MessageKey,
    file: &'a [u8],
}

impl Sealed<'_> {
    fn len(&self) -> u64 {
        self.file.len() as u64
    }

    /// The bytes of a range that the file has.
    fn bytes(&self, start: u64, end: u64) -> &[u8] {
        let within = |position: u64| usize::try_from(position.min(self.len())).unwrap_or(self.file.len());
        self.file.get(within(start)..within(end)).unwrap_or_default()
    }

    fn byte(&self, position: u64) -> u8 {
        self.bytes(position, position.saturating_add(1)).first().copied().unwrap_or(0)
    }

    fn is_zero(&self, start: u64, end: u64) -> bool {
        self.bytes(start, end).iter().all(|byte| *byte == 0)
    }

    fn head(&self, position: u64) -> Head {
        let bytes = self.bytes(position, position.saturating_add(BEFORE_U64));
        if bytes.iter().all(|byte| *byte == 0) {
            return Head::Nothing;
        }
        let mut plain = [0; PLAIN_HEAD];
        let opened = bytes
            .get(..HEAD)
            .map(|sealed| self.message.open_chunk_to(index(Kind::Head, position), sealed, &mut plain));
        let (front, back) = plain.split_at(8);
        match (opened, front.try_into(), back.try_into()) {
            (Some(Ok(())), Ok(number), Ok(body)) => {
                Head::Of { number: u64::from_le_bytes(number), body: u64::from_le_bytes(body) }
            }
            _ => Head::Broken,
        }
    }

    fn body(&self, position: u64, len: u64) -> Option<Bytes> {
        let sealed = self.bytes(position, position.checked_add(sealed_len(len))?);
        if sealed.len() as u64 != sealed_len(len) {
            return None;
        }
        let mut body = vec![0; usize::try_from(len).ok()?];
        let mut at = position;
        for (sealed, plain) in sealed.chunks(CHUNK + TAG).zip(body.chunks_mut(CHUNK)) {
            self.message.open_chunk_to(index(Kind::Body, at), sealed, plain).ok()?;
            at += sealed.len() as u64;
        }
        Some(body.into())
    }

    fn frame(&self, position: u64, number: u64) -> std::result::Result<Found, Change> {
        match self.head(position) {
            Head::Of { number: found, body: len } => {
                if found != number || len == 0 || len > MAX_BODY {
                    return Err(Change::Content);
                }
                let (end, next) = frame_end(position, len);
                if let Some(body) = self.body(position + BEFORE_U64, len) {
                    // The mark of a frame may be the one byte that did not come any more.
                    let last = match self.byte(end - 1) {
                        MARK => self.is_zero(end, next),
                        mark => mark == 0 && self.is_zero(end, self.len()),
                    };
                    if !last || self.byte(position + HEAD as u64) != MARK {
                        return Err(Change::Content);
                    }
                    return Ok(Found::Frame(Frame { number, body }, next));
                }
                let lacks_a_part = self.byte(end - 1) == 0 || self.lacks_a_sector(position, end);
                self.unfinished(lacks_a_part && self.is_zero(end, self.len()), position)
            }
            Head::Nothing => self.unfinished(true, position),
            Head::Broken => {
                let mark = position + HEAD as u64;
                self.unfinished(self.is_zero(mark, self.len()), position)
            }
        }
    }

    fn unfinished(&self, plausible: bool, position: u64) -> std::result::Result<Found, Change> {
        if !plausible || self.is_followed(position) { Err(Change::Content) } else { Ok(Found::Unfinished) }
    }

    /// Whether a part of the range within one sector is all zero.
    fn lacks_a_sector(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            let until = (at + 1).next_multiple_of(SECTOR).min(end);
            if self.is_zero(at, until) {
                return true;
            }
            at = until;
        }
        false
    }

    /// Whether a frame begins anywhere after `position`.
    fn is_followed(&self, position: u64) -> bool {
        if self.is_zero(position + ALIGN, self.len()) {
            return false;
        }
        let mut at = position + ALIGN;
        while at < self.len() {
            if matches!(self.head(at), Head::Of { .. }) {
                return true;
            }
            at += ALIGN;
        }
        false
    }
}

#[cfg(test)]
mod tests;
