//! The few shapes that all of Beam's encodings are made of, read off the front of a slice.
//!
//! Invariant: a reader either moves past exactly what it read, or fails; a length is checked against what is there
//! before anything is done with it.

use bytes::BufMut;
use claviger_core::{Error, Result};

/// The most bytes of a variable-length integer.
const MAX_VARINT_BYTES: usize = 10;

/// The error of bytes that end too early.
#[cold]
pub(crate) fn cut_short() -> Error {
    Error::invalid("an encoded element is cut short")
}

/// The error of bytes that do not fit their coder.
#[cold]
pub(crate) fn malformed(what: &str) -> Error {
    Error::invalid(format!("an encoded element is malformed: {what}"))
}

/// Takes `len` bytes.
#[inline]
pub(crate) fn take<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    let (head, tail) = input.split_at_checked(len).ok_or_else(cut_short)?;
    *input = tail;
    Ok(head)
}

/// Takes `N` bytes.
#[inline]
pub(crate) fn array<'a, const N: usize>(input: &mut &'a [u8]) -> Result<&'a [u8; N]> {
    let (head, tail) = input.split_first_chunk::<N>().ok_or_else(cut_short)?;
    *input = tail;
    Ok(head)
}

/// Takes one byte.
#[inline]
pub(crate) fn byte(input: &mut &[u8]) -> Result<u8> {
    let (&head, tail) = input.split_first().ok_or_else(cut_short)?;
    *input = tail;
    Ok(head)
}

/// Takes a byte that is 0 or 1.
#[inline]
pub(crate) fn bool(input: &mut &[u8]) -> Result<bool> {
    match byte(input)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(malformed("a boolean is neither 0 nor 1")),
    }
}

/// Takes a variable-length integer: seven bits a byte, the lowest first.
#[inline]
pub(crate) fn varint(input: &mut &[u8]) -> Result<u64> {
    match input.split_first() {
        Some((&head, tail)) if head < 0x80 => {
            *input = tail;
            Ok(u64::from(head))
        }
        _ => long_varint(input),
    }
}

fn long_varint(input: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for position in 0..MAX_VARINT_BYTES {
        let next = byte(input)?;
        if position + 1 == MAX_VARINT_BYTES && next > 1 {
            break;
        }
        value |= u64::from(next & 0x7f) << (7 * position);
        if next < 0x80 {
            return Ok(value);
        }
    }
    Err(malformed("an integer has more than 64 bits"))
}

/// Takes a length, and what has that length.
#[inline]
pub(crate) fn prefixed<'a>(input: &mut &'a [u8]) -> Result<&'a [u8]> {
    let len = usize::try_from(varint(input)?).map_err(|_| cut_short())?;
    take(input, len)
}

/// Takes a big-endian `int32`.
#[inline]
pub(crate) fn int32(input: &mut &[u8]) -> Result<i32> {
    Ok(i32::from_be_bytes(*array(input)?))
}

/// Appends a variable-length integer.
#[inline]
pub(crate) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Appends a length and the bytes.
pub(crate) fn put_prefixed(out: &mut impl BufMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// A length as the four bytes in front of an iterable.
pub(crate) fn count(len: usize) -> Result<i32> {
    i32::try_from(len).map_err(|_| malformed("more than 2^31 elements in one iterable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_keep_their_value_and_no_longer_ones_are_read() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(varint(&mut bytes.as_slice()).expect("read"), value);
            bytes.pop();
            assert!(varint(&mut bytes.as_slice()).is_err(), "{value} without its last byte");
        }
        assert!(varint(&mut [0xff; 10].as_slice()).is_err());
        assert!(varint(&mut [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2].as_slice()).is_err());
    }

    #[test]
    fn a_length_past_the_end_is_refused() {
        assert!(prefixed(&mut [3, 1, 2].as_slice()).is_err());
        let mut huge = Vec::new();
        put_varint(&mut huge, u64::MAX);
        assert!(prefixed(&mut huge.as_slice()).is_err());
    }
}
