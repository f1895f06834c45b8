//! The buffers in which parts of long objects are sealed. They begin where a disk's block would, so that a store can
//! write them past the system's cache, and are used again: memory that a process gets anew is cleared page by page.
//!
//! Invariant: a buffer holds sealed bytes only. None is kept once nobody writes a long object, and at most
//! [`KEPT`] while somebody does.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Buffers that wait to be used again.
const KEPT: usize = 4;
/// What blocks of disks and pages are multiples of, or divide.
pub(crate) const BLOCK: usize = 4096;

static POOL: Mutex<Pool> = Mutex::new(Pool { buffers: Vec::new(), writers: 0 });

struct Pool {
    buffers: Vec<Vec<u8>>,
    writers: usize,
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held by who writes a long object, or many of them: while somebody holds one, the buffers of parts are kept for
/// the next.
#[derive(Debug)]
pub struct Writing(());

impl Writing {
    /// Buffers are kept from now on.
    #[must_use]
    pub fn begin() -> Self {
        pool().writers += 1;
        Self(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut pool = pool();
        pool.writers -= 1;
        if pool.writers == 0 {
            pool.buffers = Vec::new();
        }
    }
}

/// A buffer that is being filled.
pub(crate) struct Part {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Part {
    /// An empty buffer with room for `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        let kept = pool().buffers.pop().filter(|bytes| bytes.len() == len + BLOCK);
        let bytes = kept.unwrap_or_else(|| vec![0; len + BLOCK]);
        let start = bytes.as_ptr().addr().wrapping_neg() % BLOCK;
        Self { bytes, start, end: start }
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// The next `len` bytes, to be filled; fewer if there is no room.
    pub(crate) fn next(&mut self, len: usize) -> &mut [u8] {
        let start = self.end;
        self.end = (start + len).min(self.bytes.len());
        self.bytes.get_mut(start..self.end).unwrap_or_default()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let next = self.next(bytes.len());
        let len = next.len();
        next.copy_from_slice(bytes.get(..len).unwrap_or_default());
    }

    /// Takes what is beyond the first `len` bytes off.
    pub(crate) fn split_off(&mut self, len: usize) -> Self {
        let mut rest = Self::new(self.bytes.len() - BLOCK);
        let at = (self.start + len).min(self.end);
        rest.push(self.bytes.get(at..self.end).unwrap_or_default());
        self.end = at;
        rest
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut pool = pool();
        if pool.writers > 0 && pool.buffers.len() < KEPT {
            pool.buffers.push(bytes);
        }
    }
}

impl From<Part> for Bytes {
    fn from(part: Part) -> Self {
        Self::from_owner(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_begins_at_a_block_and_holds_what_was_put_in() {
        let _writing = Writing::begin();
        for _ in 0..3 {
            let mut part = Part::new(10_000);
            part.push(b"front");
            part.next(5000).fill(7);
            let rest = part.split_off(1000);
            assert_eq!((part.len(), rest.len()), (1000, 4005));
            let bytes = Bytes::from(part);
            assert_eq!(bytes.as_ptr().addr() % BLOCK, 0);
            assert_eq!(bytes[..5], *b"front");
            assert!(bytes[5..].iter().chain(rest.as_ref()).all(|byte| *byte == 7));
        }
        assert_eq!(
            Part::new(10).next(BLOCK * 2).len() / BLOCK,
            0,
            "there is no more room than was asked for"
        );
    }
}
