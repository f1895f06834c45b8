//! Event time on the wire: milliseconds since 1970 in eight bytes, big-endian, with the sign bit flipped, so that
//! the bytes sort as the times do.
//!
//! Invariant: times are `i64` milliseconds, and named so.

use bytes::BufMut;
use claviger_core::Result;

use crate::wire;

/// Beam's earliest time.
pub const MIN_TIMESTAMP_MILLIS: i64 = -9_223_372_036_854_775;
/// Beam's latest time.
pub const MAX_TIMESTAMP_MILLIS: i64 = 9_223_372_036_854_775;
/// The latest time in the global window: a day before [`MAX_TIMESTAMP_MILLIS`].
pub const GLOBAL_WINDOW_MAX_TIMESTAMP_MILLIS: i64 = 9_223_371_950_454_775;

/// The length of a time on the wire.
pub const TIMESTAMP_BYTES: usize = 8;

const SIGN: u64 = 1 << 63;

/// A time as it stands on the wire.
#[must_use]
pub fn encode(millis: i64) -> [u8; TIMESTAMP_BYTES] {
    (millis.cast_unsigned() ^ SIGN).to_be_bytes()
}

/// A time from the wire.
#[must_use]
pub fn decode(bytes: [u8; TIMESTAMP_BYTES]) -> i64 {
    (u64::from_be_bytes(bytes) ^ SIGN).cast_signed()
}

/// Appends a time.
pub fn put(out: &mut impl BufMut, millis: i64) {
    out.put_slice(&encode(millis));
}

/// Takes a time off the front.
///
/// # Errors
/// The input is cut short.
pub fn read(input: &mut &[u8]) -> Result<i64> {
    Ok(decode(*wire::array(input)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_times_sort_as_times_do() {
        let times =
            [MIN_TIMESTAMP_MILLIS, -1, 0, 1, GLOBAL_WINDOW_MAX_TIMESTAMP_MILLIS, MAX_TIMESTAMP_MILLIS];
        assert!(times.map(encode).is_sorted());
        assert_eq!(times.map(|millis| decode(encode(millis))), times);
        assert_eq!(encode(1000), [0x80, 0, 0, 0, 0, 0, 0x03, 0xe8]);
        assert!(read(&mut [0; 7].as_slice()).is_err());
    }
}
