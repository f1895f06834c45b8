//! Byte buffers that are used again, for logs: memory that a process gets anew is cleared page by page, which
//! costs more than all else that is done with it.
//!
//! Invariant: the process keeps at most [`KEPT_BYTES`], however many logs it writes.

use std::sync::{Mutex, PoisonError};

/// Bytes of buffers that nobody uses, and how many buffers that are.
const KEPT_BYTES: usize = 8 * 1024 * 1024;
const KEPT: usize = 16;

static POOL: Mutex<Pool> = Mutex::new(Pool { buffers: Vec::new(), bytes: 0 });

struct Pool {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// An empty buffer.
pub(crate) fn take() -> Vec<u8> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(buffer) = pool.buffers.pop() else { return Vec::new() };
    pool.bytes -= buffer.capacity();
    buffer
}

/// Gives a buffer back.
pub(crate) fn give(mut buffer: Vec<u8>) {
    buffer.clear();
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if buffer.capacity() > 0 && pool.buffers.len() < KEPT && pool.bytes + buffer.capacity() <= KEPT_BYTES {
        pool.bytes += buffer.capacity();
        pool.buffers.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_empty_and_bounded() {
        for _ in 0..2 * KEPT {
            give(vec![1; KEPT_BYTES / 4]);
        }
        give(vec![1; KEPT_BYTES + 1]);
        let mut bytes = 0;
        for _ in 0..4 * KEPT {
            let buffer = take();
            assert!(buffer.is_empty());
            bytes += buffer.capacity();
        }
        // Other tests use it at the same time, and take no more than this one gave.
        assert!(bytes <= 2 * KEPT_BYTES, "{bytes}");
    }
}
