//! LEB128 numbers of at most 64 bits, without needless bytes: each has one encoding.
//!
//! Invariant: reading takes any bytes, and none beyond the number.

/// Appends a number.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

/// Takes bytes off the front, if there are so many.
pub(crate) fn take<'a>(input: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(len)?;
    *input = rest;
    Some(taken)
}

/// Takes a number off the front.
pub(crate) fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(input, 1)?.first()?;
        let part = u64::from(byte & 0x7f);
        let placed = part << shift;
        if placed >> shift != part || (byte == 0 && shift > 0) {
            return None;
        }
        value |= placed;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
