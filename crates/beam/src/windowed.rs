//! What stands before each value on the wire: its time, its windows, its pane.
//!
//! ```text
//! 8      time (see `time`)
//! 4      number of windows n, big-endian (or -1, then blocks as in an iterable)
//! ...    n windows, each by the window coder
//! 1      timing << 2 | last << 1 | first, and in the high four bits how many indices follow: 0, 1 or 2
//! 0..20  indices, each a variable-length integer
//! ```
//!
//! Invariant: a header that is read and written again has the same bytes, but for windows in blocks and for panes
//! written longer than they need be.

use bytes::{BufMut, Bytes};
use claviger_core::Result;

use crate::coder::Coder;
use crate::{time, wire};

/// When a pane fired, seen from the end of its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timing {
    /// Before the watermark passed the end.
    Early,
    /// As it passed.
    OnTime,
    /// After.
    Late,
    /// Not from a trigger.
    Unknown,
}

/// Which firing of its window a value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pane {
    /// Nothing fired before.
    pub first: bool,
    /// Nothing will fire after.
    pub last: bool,
    /// When.
    pub timing: Timing,
    /// From 0.
    pub index: i64,
    /// From 0 among the panes that are not early; -1 for an early one.
    pub nonspeculative_index: i64,
}

impl Pane {
    /// Of a value that no trigger touched.
    pub const NO_FIRING: Self =
        Self { first: true, last: true, timing: Timing::Unknown, index: 0, nonspeculative_index: 0 };
    /// The only firing of a window.
    pub const ONLY: Self =
        Self { first: true, last: true, timing: Timing::OnTime, index: 0, nonspeculative_index: 0 };

    /// Takes a pane off the front.
    ///
    /// # Errors
    /// The bytes are not a pane.
    #[inline]
    pub fn read(input: &mut &[u8]) -> Result<Self> {
        let byte = wire::byte(input)?;
        let timing = match (byte >> 2) & 3 {
            0 => Timing::Early,
            1 => Timing::OnTime,
            2 => Timing::Late,
            _ => Timing::Unknown,
        };
        let early = timing == Timing::Early;
        let (index, nonspeculative_index) = match byte >> 4 {
            0 => (0, if early { -1 } else { 0 }),
            1 => {
                let index = wire::varint(input)?.cast_signed();
                (index, if early { -1 } else { index })
            }
            2 => (wire::varint(input)?.cast_signed(), wire::varint(input)?.cast_signed()),
            _ => return Err(wire::malformed("a pane of an unknown form")),
        };
        Ok(Self { first: byte & 1 != 0, last: byte & 2 != 0, timing, index, nonspeculative_index })
    }

    /// Appends the pane.
    pub fn write(&self, out: &mut impl BufMut) {
        let byte = u8::from(self.first) | u8::from(self.last) << 1 | (self.timing as u8) << 2;
        let early = self.timing == Timing::Early;
        if !early && (self.index, self.nonspeculative_index) == (0, 0) {
            out.put_u8(byte);
        } else if self.nonspeculative_index == if early { -1 } else { self.index } {
            out.put_u8(byte | 1 << 4);
            wire::put_varint(out, self.index.cast_unsigned());
        } else {
            out.put_u8(byte | 2 << 4);
            wire::put_varint(out, self.index.cast_unsigned());
            wire::put_varint(out, self.nonspeculative_index.cast_unsigned());
        }
    }
}

/// A value's time, windows and pane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The time.
    pub timestamp_millis: i64,
    /// The windows, each as the window coder wrote it.
    pub windows: Vec<Bytes>,
    /// The pane.
    pub pane: Pane,
}

impl Header {
    /// Takes a header off the front.
    ///
    /// # Errors
    /// The bytes are not a header.
    pub fn read(window: &Coder, input: &mut &[u8]) -> Result<Self> {
        let header = HeaderRef::read(window, input)?;
        let mut windows = Vec::new();
        header.windows(window, &mut |window| {
            windows.push(Bytes::copy_from_slice(window));
            Ok(())
        })?;
        Ok(Self { timestamp_millis: header.timestamp_millis(), windows, pane: header.pane()? })
    }

    /// Appends the header.
    ///
    /// # Errors
    /// 2^31 windows and more.
    pub fn write(&self, out: &mut impl BufMut) -> Result<()> {
        time::put(out, self.timestamp_millis);
        out.put_i32(wire::count(self.windows.len())?);
        self.windows.iter().for_each(|window| out.put_slice(window));
        self.pane.write(out);
        Ok(())
    }
}

/// A header where it stands.
#[derive(Clone, Copy, Debug)]
pub struct HeaderRef<'a> {
    timestamp: [u8; time::TIMESTAMP_BYTES],
    /// From after the count to the end of the last window.
    windows: &'a [u8],
    /// -1: in blocks.
    count: i32,
    pane: &'a [u8],
}

impl<'a> HeaderRef<'a> {
    /// Takes a header off the front.
    ///
    /// # Errors
    /// The bytes are not a header.
    #[inline]
    pub fn read(window: &Coder, input: &mut &'a [u8]) -> Result<Self> {
        let timestamp = *wire::array(input)?;
        let count = wire::int32(input)?;
        let start = *input;
        if count == 1 {
            window.skip(input)?;
        } else {
            walk(window, count, input, &mut |_| Ok(()))?;
        }
        let windows = consumed(start, input);
        let start = *input;
        // The usual pane is one byte.
        match start.split_first() {
            Some((&byte, tail)) if byte < 0x10 => *input = tail,
            _ => drop(Pane::read(input)?),
        }
        Ok(Self { timestamp, windows, count, pane: consumed(start, input) })
    }

    /// The time.
    #[must_use]
    pub fn timestamp_millis(&self) -> i64 {
        time::decode(self.timestamp)
    }

    /// The time as it stands.
    #[must_use]
    pub fn timestamp(&self) -> [u8; time::TIMESTAMP_BYTES] {
        self.timestamp
    }

    /// The encoded window, if there is exactly one.
    #[must_use]
    pub fn only_window(&self) -> Option<&'a [u8]> {
        (self.count == 1).then_some(self.windows)
    }

    /// The pane.
    ///
    /// # Errors
    /// Not after a successful [`HeaderRef::read`].
    pub fn pane(&self) -> Result<Pane> {
        Pane::read(&mut &*self.pane)
    }

    /// Gives each encoded window to `visit`.
    ///
    /// # Errors
    /// What `visit` returns.
    pub fn windows(&self, window: &Coder, visit: &mut dyn FnMut(&'a [u8]) -> Result<()>) -> Result<()> {
        walk(window, self.count, &mut { self.windows }, visit)
    }
}

fn consumed<'a>(start: &'a [u8], rest: &[u8]) -> &'a [u8] {
    start.get(..start.len() - rest.len()).unwrap_or_default()
}

/// The most windows of no width (global ones) in one place.
const MAX_EMPTY_WINDOWS: u64 = 1024;

/// Gives each of `count` elements to `visit`; -1: they stand in blocks, each behind its number, the last of none.
pub(crate) fn walk<'a>(
    window: &Coder,
    count: i32,
    input: &mut &'a [u8],
    visit: &mut dyn FnMut(&'a [u8]) -> Result<()>,
) -> Result<()> {
    let mut left = if window.width() == Some(0) { MAX_EMPTY_WINDOWS } else { input.len() as u64 };
    let mut block = |count: u64, input: &mut &'a [u8]| {
        left = left.checked_sub(count).ok_or_else(|| wire::malformed("more windows than bytes"))?;
        (0..count).try_for_each(|_| visit(window.take(input)?))
    };
    if count != -1 {
        return block(u64::try_from(count).map_err(|_| wire::malformed("a count is negative"))?, input);
    }
    loop {
        match wire::varint(input)? {
            0 => return Ok(()),
            count => block(count, input)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{coder, components};

    fn pane(first: bool, last: bool, timing: Timing, index: i64, nonspeculative_index: i64) -> Pane {
        Pane { first, last, timing, index, nonspeculative_index }
    }

    #[test]
    fn panes_are_written_as_beam_writes_them() {
        let cases: [(Pane, &[u8]); 6] = [
            (Pane::NO_FIRING, &[0x0f]),
            (Pane::ONLY, &[0x07]),
            (pane(true, false, Timing::Early, 0, -1), &[0x11, 0]),
            (pane(false, false, Timing::Early, 3, -1), &[0x10, 3]),
            (pane(false, true, Timing::OnTime, 1, 0), &[0x26, 1, 0]),
            (pane(false, false, Timing::Late, 200, 200), &[0x18, 0xc8, 1]),
        ];
        for (pane, expected) in cases {
            let mut bytes = Vec::new();
            pane.write(&mut bytes);
            assert_eq!(bytes, expected, "{pane:?}");
            assert_eq!(Pane::read(&mut bytes.as_slice()).expect("read"), pane);
        }
        assert!(Pane::read(&mut [0x3f, 0, 0].as_slice()).is_err());
    }

    #[test]
    fn a_header_is_written_as_it_was_read() {
        let components = components(&[("w", crate::urn::coder::INTERVAL_WINDOW, &[])]);
        let window = coder("w", &components);
        let header = Header {
            timestamp_millis: -100,
            windows: vec![
                Bytes::copy_from_slice(&crate::window::IntervalWindow { start: 0, end: 10 }.encode()),
                Bytes::copy_from_slice(&crate::window::IntervalWindow { start: -5, end: 1 << 40 }.encode()),
            ],
            pane: Pane::NO_FIRING,
        };
        let mut bytes = Vec::new();
        header.write(&mut bytes).expect("write");
        bytes.push(9);
        let mut input = bytes.as_slice();
        assert_eq!(Header::read(&window, &mut input).expect("read"), header);
        assert_eq!(input, [9]);
    }

    #[test]
    fn windows_in_blocks_are_read_too() {
        let components = components(&[("w", crate::urn::coder::GLOBAL_WINDOW, &[])]);
        let window = coder("w", &components);
        let mut bytes = time::encode(0).to_vec();
        bytes.extend([0xff, 0xff, 0xff, 0xff, 2, 1, 0, 0x0f]);
        let header = Header::read(&window, &mut bytes.as_slice()).expect("read");
        assert_eq!(header.windows.len(), 3);
        // A count of windows without bytes does not make the reader run on.
        let mut hostile = time::encode(0).to_vec();
        hostile.extend([0x7f, 0xff, 0xff, 0xff, 0x0f]);
        assert!(Header::read(&window, &mut hostile.as_slice()).is_err());
    }
}
