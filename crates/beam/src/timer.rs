//! Timers on the wire, in both directions.
//!
//! Invariant: a timer that is read and written again has the same bytes, but for windows in blocks.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use claviger_beam_proto::pipeline;
use claviger_core::{Error, Result};

use crate::coder::{Coder, Kind};
use crate::window::put_windows;
use crate::windowed::{Pane, walk};
use crate::{time, wire};

/// The coder of a timer family.
#[derive(Debug)]
pub struct TimerCoder {
    key: Arc<Coder>,
    window: Arc<Coder>,
}

/// A timer that is set or cleared.
#[derive(Clone, PartialEq, Eq)]
pub struct Timer {
    /// The user's key, as its coder wrote it in the nested context.
    pub key: Bytes,
    /// Tells the timers of a family apart.
    pub tag: Bytes,
    /// The windows, each as the window coder wrote it.
    pub windows: Vec<Bytes>,
    /// None: the timer is cleared.
    pub set: Option<Set>,
}

/// When a timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// The time to fire at, in the family's time domain.
    pub fire_millis: i64,
    /// The event time of what it will put out.
    pub hold_millis: i64,
    /// The pane of the element that set it.
    pub pane: Pane,
}

impl fmt::Debug for Timer {
    /// Without the user's key and tag.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("windows", &self.windows.len())
            .field("set", &self.set)
            .finish_non_exhaustive()
    }
}

impl TimerCoder {
    /// By a coder's id.
    ///
    /// # Errors
    /// `InvalidArgument`: not a timer's coder, or one that cannot be walked.
    pub fn new(id: &str, components: &pipeline::Components) -> Result<Self> {
        let coder = Coder::from_components(id, components)?;
        match coder.kind() {
            Kind::Timer { key, window } if coder.is_walkable() => {
                Ok(Self { key: Arc::clone(key), window: Arc::clone(window) })
            }
            _ => Err(Error::invalid(format!("coder {id} is not one of timers that the runner can read"))),
        }
    }

    /// The windows' coder.
    #[must_use]
    pub fn window(&self) -> &Arc<Coder> {
        &self.window
    }

    /// Takes a timer off the front.
    ///
    /// # Errors
    /// The bytes are not a timer.
    pub fn read(&self, input: &mut &[u8]) -> Result<Timer> {
        let key = Bytes::copy_from_slice(self.key.take(input)?);
        let tag = Bytes::copy_from_slice(wire::prefixed(input)?);
        let count = wire::int32(input)?;
        let mut windows = Vec::new();
        walk(&self.window, count, input, &mut |window| {
            windows.push(Bytes::copy_from_slice(window));
            Ok(())
        })?;
        let set = if wire::bool(input)? {
            None
        } else {
            let (fire_millis, hold_millis) = (time::read(input)?, time::read(input)?);
            Some(Set { fire_millis, hold_millis, pane: Pane::read(input)? })
        };
        Ok(Timer { key, tag, windows, set })
    }
}

impl Timer {
    /// Appends the timer.
    ///
    /// # Errors
    /// 2^31 windows and more.
    pub fn write(&self, out: &mut impl BufMut) -> Result<()> {
        out.put_slice(&self.key);
        wire::put_prefixed(out, &self.tag);
        put_windows(out, self.windows.iter().map(AsRef::as_ref))?;
        out.put_u8(u8::from(self.set.is_none()));
        if let Some(set) = &self.set {
            time::put(out, set.fire_millis);
            time::put(out, set.hold_millis);
            set.pane.write(out);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::components;
    use crate::urn::coder as urns;

    #[test]
    fn timers_are_read_and_written_as_beam_writes_them() {
        let components = components(&[
            ("key", urns::STRING_UTF8, &[]),
            ("global", urns::GLOBAL_WINDOW, &[]),
            ("timer", urns::TIMER, &["key", "global"]),
        ]);
        let coder = TimerCoder::new("timer", &components).expect("coder");
        let mut bytes = b"\x03key\x03tag\0\0\0\x01\0".to_vec();
        bytes.extend(time::encode(1234));
        bytes.extend(time::encode(5678));
        bytes.push(0x0f);
        let cleared = b"\x03key\x03tag\0\0\0\x01\x01";
        let mut input = [bytes.as_slice(), cleared].concat();
        let mut rest = input.as_slice();
        let set = coder.read(&mut rest).expect("a set timer");
        let expected = Set { fire_millis: 1234, hold_millis: 5678, pane: Pane::NO_FIRING };
        assert_eq!(
            (set.key.as_ref(), set.tag.as_ref(), set.set),
            (&b"\x03key"[..], &b"tag"[..], Some(expected))
        );
        let clear = coder.read(&mut rest).expect("a cleared timer");
        assert_eq!((clear.set, rest.len()), (None, 0));
        let mut out = Vec::new();
        set.write(&mut out).expect("write");
        clear.write(&mut out).expect("write");
        assert_eq!(out, input);
        input.pop();
        assert!(coder.read(&mut &input[bytes.len()..]).is_err());
        assert!(TimerCoder::new("key", &components).is_err());
    }
}
