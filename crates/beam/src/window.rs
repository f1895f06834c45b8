//! Windows, and the functions that assign them as far as a runner must know them.
//!
//! Invariant: arithmetic on times saturates at what the wire can say; nothing here overflows on a user's numbers.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use claviger_beam_proto::pipeline;
use claviger_core::{Error, Result};
use prost::Message;

use crate::coder::{Coder, Kind};
use crate::{time, urn, wire};

/// The most windows that sliding windows may assign to one element.
pub const MAX_WINDOWS_PER_ELEMENT: i64 = 1 << 16;

/// A window `[start, end)`, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IntervalWindow {
    /// The first time inside.
    pub start: i64,
    /// The first time past it.
    pub end: i64,
}

impl IntervalWindow {
    /// The window as `interval_window` writes it: its end, then its length.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(18);
        time::put(&mut out, self.end);
        wire::put_varint(&mut out, self.end.wrapping_sub(self.start).cast_unsigned());
        out.freeze()
    }

    /// Takes a window off the front.
    ///
    /// # Errors
    /// The bytes are not a window.
    pub fn read(input: &mut &[u8]) -> Result<Self> {
        let end = time::read(input)?;
        let span = wire::varint(input)?.cast_signed();
        Ok(Self { start: end.wrapping_sub(span), end })
    }

    /// The last time inside.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        self.end.saturating_sub(1)
    }
}

/// What assigns the windows of a strategy.
#[derive(Clone, Debug, PartialEq)]
pub enum WindowFn {
    /// All in one.
    Global,
    /// Side by side.
    Fixed {
        /// The length of each, in milliseconds.
        size: i64,
        /// Where one of them starts.
        offset: i64,
    },
    /// One that starts at each multiple of the period.
    Sliding {
        /// The length of each, in milliseconds.
        size: i64,
        /// From one start to the next.
        period: i64,
        /// Where one of them starts.
        offset: i64,
    },
    /// Open until no element came for a while.
    Sessions {
        /// How long, in milliseconds.
        gap: i64,
    },
    /// A user's: only the SDK can run it.
    Custom {
        /// What to hand to the SDK.
        spec: pipeline::FunctionSpec,
        /// Whether windows have to be merged before grouping.
        merging: bool,
    },
}

impl WindowFn {
    /// The function of a strategy.
    ///
    /// # Errors
    /// `InvalidArgument`: no function, a payload that cannot be read, or a length that is not positive.
    pub fn from_strategy(strategy: &pipeline::WindowingStrategy) -> Result<Self> {
        let spec = strategy
            .window_fn
            .as_ref()
            .ok_or_else(|| Error::invalid("a windowing strategy has no window function"))?;
        let unreadable =
            || Error::invalid(format!("window function {} has a payload that cannot be read", spec.urn));
        let positive = |millis: i64| {
            if millis > 0 {
                return Ok(millis);
            }
            Err(Error::invalid(format!(
                "window function {} needs a length of at least a millisecond",
                spec.urn
            )))
        };
        Ok(match spec.urn.as_str() {
            urn::window_fn::GLOBAL => Self::Global,
            urn::window_fn::FIXED => {
                let payload = pipeline::FixedWindowsPayload::decode(spec.payload.as_ref())
                    .map_err(|error| unreadable().because(error))?;
                let size = positive(duration_millis(payload.size.as_ref()))?;
                Self::Fixed { size, offset: timestamp_millis(payload.offset.as_ref()).rem_euclid(size) }
            }
            urn::window_fn::SLIDING => {
                let payload = pipeline::SlidingWindowsPayload::decode(spec.payload.as_ref())
                    .map_err(|error| unreadable().because(error))?;
                let size = positive(duration_millis(payload.size.as_ref()))?;
                let period = positive(duration_millis(payload.period.as_ref()))?;
                let offset = timestamp_millis(payload.offset.as_ref()).rem_euclid(period);
                Self::Sliding { size, period, offset }
            }
            urn::window_fn::SESSIONS => {
                let payload = pipeline::SessionWindowsPayload::decode(spec.payload.as_ref())
                    .map_err(|error| unreadable().because(error))?;
                Self::Sessions { gap: positive(duration_millis(payload.gap_size.as_ref()))? }
            }
            _ => Self::Custom {
                spec: spec.clone(),
                merging: strategy.merge_status() == pipeline::merge_status::Enum::NeedsMerge,
            },
        })
    }

    /// The windows of an element of that time, the latest first; `None` for the global window.
    ///
    /// # Errors
    /// `Unimplemented`: a user's own function. `ResourceExhausted`: more than [`MAX_WINDOWS_PER_ELEMENT`].
    pub fn assign(&self, timestamp: i64) -> Result<Option<Vec<IntervalWindow>>> {
        let from = |start: i64, size: i64| IntervalWindow { start, end: start.saturating_add(size) };
        match *self {
            Self::Global => Ok(None),
            Self::Fixed { size, offset } => Ok(Some(vec![from(start(timestamp, size, offset), size)])),
            Self::Sliding { size, period, offset } => {
                let last = start(timestamp, period, offset);
                let count =
                    size.saturating_sub(timestamp.saturating_sub(last)).saturating_add(period - 1) / period;
                if count > MAX_WINDOWS_PER_ELEMENT {
                    return Err(Error::new(
                        claviger_core::ErrorKind::ResourceExhausted,
                        format!(
                            "sliding windows put an element into more than {MAX_WINDOWS_PER_ELEMENT} windows"
                        ),
                    ));
                }
                let starts = (0..count).map(|back| last.saturating_sub(back.saturating_mul(period)));
                Ok(Some(starts.map(|start| from(start, size)).collect()))
            }
            Self::Sessions { gap } => Ok(Some(vec![from(timestamp, gap)])),
            Self::Custom { ref spec, .. } => Err(Error::unimplemented(format!(
                "The runner cannot run window function {}; only the SDK can.",
                spec.urn
            ))),
        }
    }

    /// The window of a side input that a main input's window looks at, encoded, by Beam's default: the earliest
    /// that holds the main window's last time.
    ///
    /// # Errors
    /// `InvalidArgument`: sessions, which have no such window. Else as [`WindowFn::assign`].
    pub fn side_window(&self, main_max_timestamp: i64) -> Result<Bytes> {
        if matches!(self, Self::Sessions { .. }) {
            return Err(Error::invalid(
                "a side input in session windows has no window for a main input's window",
            ));
        }
        match self.assign(main_max_timestamp)? {
            None => Ok(Bytes::new()),
            Some(windows) => windows
                .last()
                .map(IntervalWindow::encode)
                .ok_or_else(|| Error::invalid("no window of the side input holds the main input's window")),
        }
    }

    /// Whether windows have to be merged before grouping.
    #[must_use]
    pub fn is_merging(&self) -> bool {
        matches!(self, Self::Sessions { .. } | Self::Custom { merging: true, .. })
    }
}

/// The start of the last period that began at or before a time.
fn start(timestamp: i64, period: i64, offset: i64) -> i64 {
    timestamp.saturating_sub(timestamp.saturating_sub(offset).rem_euclid(period))
}

fn duration_millis(duration: Option<&prost_types::Duration>) -> i64 {
    duration.map_or(0, |duration| millis(duration.seconds, duration.nanos))
}

fn timestamp_millis(timestamp: Option<&prost_types::Timestamp>) -> i64 {
    timestamp.map_or(0, |timestamp| millis(timestamp.seconds, timestamp.nanos))
}

fn millis(seconds: i64, nanos: i32) -> i64 {
    seconds.saturating_mul(1000).saturating_add(i64::from(nanos).div_euclid(1_000_000))
}

/// The kinds of windows, by their coder on the wire: enough to know when one ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// `global_window`.
    Global,
    /// `interval_window`.
    Interval,
    /// `custom_window`: the last time stands in front.
    Custom,
}

impl WindowKind {
    /// The kind that a coder writes.
    ///
    /// # Errors
    /// `InvalidArgument`: another coder; one of a user's own must be made a `custom_window` on the wire.
    pub fn of(coder: &Arc<Coder>) -> Result<Self> {
        match coder.kind() {
            Kind::GlobalWindow => Ok(Self::Global),
            Kind::IntervalWindow => Ok(Self::Interval),
            Kind::CustomWindow(window) if window.is_walkable() => Ok(Self::Custom),
            _ => Err(Error::invalid("a window coder does not tell when its windows end")),
        }
    }

    /// The last time in an encoded window.
    ///
    /// # Errors
    /// The bytes are not a window.
    #[inline]
    pub fn max_timestamp(self, window: &[u8]) -> Result<i64> {
        match self {
            Self::Global => Ok(time::GLOBAL_WINDOW_MAX_TIMESTAMP_MILLIS),
            Self::Interval => Ok(time::read(&mut { window })?.saturating_sub(1)),
            Self::Custom => time::read(&mut { window }),
        }
    }
}

/// Appends windows as a header or a timer has them: their number, then each.
///
/// # Errors
/// 2^31 windows and more.
pub fn put_windows<'a>(
    out: &mut impl BufMut,
    windows: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Result<()> {
    out.put_i32(wire::count(windows.len())?);
    windows.for_each(|window| out.put_slice(window));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strategy(urn: &str, payload: Vec<u8>) -> pipeline::WindowingStrategy {
        let spec = pipeline::FunctionSpec { urn: urn.to_owned(), payload: payload.into() };
        pipeline::WindowingStrategy { window_fn: Some(spec), ..Default::default() }
    }

    fn duration(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos })
    }

    #[test]
    fn known_functions_are_read_and_lengths_of_nothing_refused() {
        let fixed = pipeline::FixedWindowsPayload {
            size: duration(10, 500_000_000),
            offset: Some(prost_types::Timestamp { seconds: 11, nanos: 0 }),
        };
        let read =
            WindowFn::from_strategy(&strategy(urn::window_fn::FIXED, fixed.encode_to_vec())).expect("fixed");
        assert_eq!(read, WindowFn::Fixed { size: 10_500, offset: 500 });
        assert!(WindowFn::from_strategy(&strategy(urn::window_fn::FIXED, Vec::new())).is_err());
        assert!(WindowFn::from_strategy(&strategy(urn::window_fn::SESSIONS, vec![1, 2, 3])).is_err());
        let own =
            WindowFn::from_strategy(&strategy("beam:window_fn:pickled_python:v1", vec![1])).expect("own");
        assert!(own.assign(0).is_err() && !own.is_merging());
    }

    #[test]
    fn elements_fall_into_the_windows_that_hold_their_time() {
        let window = |start, end| IntervalWindow { start, end };
        let fixed = WindowFn::Fixed { size: 10, offset: 3 };
        assert_eq!(fixed.assign(13).expect("assign"), Some(vec![window(13, 23)]));
        assert_eq!(fixed.assign(12).expect("assign"), Some(vec![window(3, 13)]));
        assert_eq!(fixed.assign(-1).expect("assign"), Some(vec![window(-7, 3)]));
        let sliding = WindowFn::Sliding { size: 20, period: 10, offset: 0 };
        assert_eq!(sliding.assign(12).expect("assign"), Some(vec![window(10, 30), window(0, 20)]));
        let gaps = WindowFn::Sliding { size: 3, period: 10, offset: 0 };
        assert_eq!(gaps.assign(12).expect("assign"), Some(vec![window(10, 13)]));
        assert_eq!(gaps.assign(13).expect("assign"), Some(vec![]));
        let many = WindowFn::Sliding { size: i64::MAX, period: 1, offset: 0 };
        assert!(many.assign(0).is_err());
        for function in [fixed, sliding] {
            assert!(function.assign(time::MIN_TIMESTAMP_MILLIS).is_ok());
            assert!(function.assign(i64::MAX).is_ok() && function.assign(i64::MIN).is_ok());
        }
    }

    #[test]
    fn a_side_input_is_looked_at_in_the_earliest_window_that_holds_the_main_windows_end() {
        let sliding = WindowFn::Sliding { size: 20, period: 10, offset: 0 };
        assert_eq!(sliding.side_window(29).expect("map"), IntervalWindow { start: 10, end: 30 }.encode());
        assert_eq!(WindowFn::Global.side_window(29).expect("map"), Bytes::new());
        assert!(WindowFn::Sessions { gap: 5 }.side_window(29).is_err());
    }
}
