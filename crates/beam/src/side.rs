//! Side inputs: a PCollection taken apart by window, and by key where it is a multimap.
//!
//! Invariant: windows and keys come out as the SDK will name them in its requests for state: windows by the window
//! coder (those that a runner knows are the same in each context), keys in the nested context.

use std::sync::Arc;

use claviger_beam_proto::pipeline;
use claviger_core::{Error, Result};

use crate::coder::Coder;
use crate::elements::{Elements, KeyValues};
use crate::urn;

/// How a side input is read.
#[derive(Debug)]
pub enum SideInput {
    /// All values of a window.
    Iterable(Elements),
    /// The values of a key in a window.
    Multimap(KeyValues),
}

/// A value of a side input, where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The encoded window.
    pub window: &'a [u8],
    /// The encoded key; empty for an iterable.
    pub key: &'a [u8],
    /// The encoded value, as the SDK wants it in answers.
    pub value: &'a [u8],
}

impl SideInput {
    /// A side input of an access pattern, over a PCollection with that coder on the wire.
    ///
    /// # Errors
    /// `Unimplemented`: another access pattern. `InvalidArgument`: a coder that does not fit it.
    pub fn new(access_urn: &str, wire_coder_id: &str, components: &pipeline::Components) -> Result<Self> {
        match access_urn {
            urn::side_input::ITERABLE => Ok(Self::Iterable(Elements::new(wire_coder_id, components)?)),
            urn::side_input::MULTIMAP => Ok(Self::Multimap(Elements::key_values(wire_coder_id, components)?)),
            _ => {
                Err(Error::unimplemented(format!("Side inputs of the kind {access_urn} are not supported.")))
            }
        }
    }

    /// The windows' coder.
    #[must_use]
    pub fn window(&self) -> &Arc<Coder> {
        match self {
            Self::Iterable(elements) => elements.window(),
            Self::Multimap(pairs) => pairs.elements().window(),
        }
    }

    /// Gives each value of a chunk to `visit`, once for each of its windows; how many elements there were.
    ///
    /// # Errors
    /// The bytes are not such elements; what `visit` returns.
    pub fn for_each<'a>(
        &'a self,
        mut chunk: &'a [u8],
        visit: &mut dyn FnMut(Entry<'a>) -> Result<()>,
    ) -> Result<u64> {
        match self {
            Self::Multimap(pairs) => pairs.for_each(chunk, |pair| {
                pair.header.windows(self.window(), &mut |window| {
                    visit(Entry { window, key: pair.key, value: pair.value })
                })
            }),
            Self::Iterable(elements) => {
                let mut count = 0;
                while !chunk.is_empty() {
                    let header = elements.header(&mut chunk)?;
                    let value = elements.value().take(&mut chunk)?;
                    header.windows(self.window(), &mut |window| visit(Entry { window, key: &[], value }))?;
                    count += 1;
                }
                Ok(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::components;
    use crate::urn::coder as urns;
    use crate::window::{IntervalWindow, put_windows};
    use crate::windowed::Pane;

    #[test]
    fn values_are_taken_apart_by_window_and_key() {
        let components = components(&[
            ("bytes", urns::BYTES, &[]),
            ("interval", urns::INTERVAL_WINDOW, &[]),
            ("kv", urns::KV, &["bytes", "bytes"]),
            ("wire", urns::WINDOWED_VALUE, &["kv", "interval"]),
        ]);
        let windows =
            [IntervalWindow { start: 0, end: 10 }.encode(), IntervalWindow { start: 5, end: 15 }.encode()];
        let mut chunk = crate::time::encode(7).to_vec();
        put_windows(&mut chunk, windows.iter().map(AsRef::as_ref)).expect("windows");
        Pane::NO_FIRING.write(&mut chunk);
        chunk.extend(b"\x01k\x02vv");
        let cases = [
            (urn::side_input::MULTIMAP, &b"\x01k"[..], &b"\x02vv"[..]),
            (urn::side_input::ITERABLE, b"", b"\x01k\x02vv"),
        ];
        for (access, key, value) in cases {
            let side = SideInput::new(access, "wire", &components).expect("side input");
            let mut seen = Vec::new();
            let mut visit = |entry| {
                seen.push(entry);
                Ok(())
            };
            assert_eq!(side.for_each(&chunk, &mut visit).expect("read"), 1);
            assert_eq!(seen, windows.each_ref().map(|window| Entry { window, key, value }), "{access}");
        }
        assert!(SideInput::new("beam:side_input:other:v1", "wire", &components).is_err());
    }
}
