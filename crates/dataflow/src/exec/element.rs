//! Small readers of encoded bytes that several parts need.
//!
//! Invariant: the bytes come from a worker; a wrong length is an error, never a panic.

use claviger_beam::Coder;
use claviger_core::{Error, Result};

/// The bytes of the first `elements` elements of a chunk, and how many there really are.
pub(super) fn prefix(coder: &Coder, chunk: &[u8], elements: u64) -> Result<(usize, u64)> {
    let mut input = chunk;
    let mut count = 0;
    while count < elements && !input.is_empty() {
        coder.skip(&mut input)?;
        count += 1;
    }
    Ok((chunk.len() - input.len(), count))
}

/// What was taken from `before` to leave `after`.
pub(super) fn consumed<'a>(before: &'a [u8], after: &[u8]) -> &'a [u8] {
    before.get(..before.len().saturating_sub(after.len())).unwrap_or_default()
}

/// Takes bytes off the front.
pub(super) fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (head, tail) = input.split_at_checked(length).ok_or_else(damaged)?;
    *input = tail;
    Ok(head)
}

/// Takes a variable-length integer off the front.
pub(super) fn take_varint(input: &mut &[u8]) -> Result<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?.first().copied().unwrap_or_default();
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged())
}

/// Appends a variable-length integer.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The bytes of a worker end in the middle of something.
pub(super) fn damaged() -> Error {
    Error::invalid("A worker sent bytes that do not follow their coder.")
}
