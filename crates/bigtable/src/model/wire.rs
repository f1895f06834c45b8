//! Reading and writing the few primitives of the row format: bytes, varints, runs of bytes.
//!
//! Invariant: a [`Reader`] never looks past its slice and never allocates by a length that it read.

use claviger_core::{Error, ErrorKind};

/// Why stored bytes are not a row; becomes an [`Error`] at the edge of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged(pub(crate) &'static str);

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(ErrorKind::DataLoss, format!("A stored row is damaged: {}.", damaged.0))
    }
}

/// A position in a slice of stored bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Damaged> {
        let (first, rest) = self.rest.split_first().ok_or(Damaged("it ends too early"))?;
        self.rest = rest;
        Ok(*first)
    }

    /// An unsigned LEB128 number in its shortest form, so that equal rows have equal bytes.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Damaged> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Damaged("a number is too large"));
            }
            value |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 { Err(Damaged("a number is padded")) } else { Ok(value) };
            }
            shift += 7;
            if shift > 63 {
                return Err(Damaged("a number is too large"));
            }
        }
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32, Damaged> {
        u32::try_from(self.varint()?).map_err(|_| Damaged("a family id is too large"))
    }

    /// A length and that many bytes.
    #[inline]
    pub(crate) fn run(&mut self) -> Result<&'a [u8], Damaged> {
        let len = usize::try_from(self.varint()?).map_err(|_| Damaged("a length is too large"))?;
        let (run, rest) = self.rest.split_at_checked(len).ok_or(Damaged("it ends too early"))?;
        self.rest = rest;
        Ok(run)
    }
}

/// Appends `value` as unsigned LEB128.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // Truncation is the point: the low seven bits, marked as not the last.
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length and the bytes.
#[inline]
pub(crate) fn put_run(out: &mut Vec<u8>, run: &[u8]) {
    put_varint(out, run.len() as u64);
    out.extend_from_slice(run);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_were_written() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint(), Ok(value));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn padded_cut_and_oversized_numbers_are_refused() {
        for bytes in
            [&[0x80, 0x00][..], &[0x80], &[], &[0xff; 11], &[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]]
        {
            assert!(Reader::new(bytes).varint().is_err(), "{bytes:?}");
        }
        assert!(Reader::new(&[5, 1, 2]).run().is_err());
    }
}
