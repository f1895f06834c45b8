//! Grouping by key and window: from elements to records that a shuffle sorts, and from sorted records to groups.
//!
//! ```text
//! element  time, windows, pane, key, value          by the input's coder
//! record   key | sort | value                       one for each window of an element
//! group    time, window, pane, key, n, n values     by the output's coder; one for each pane of a window
//! ```
//!
//! The sort bytes hold the window, so that a key's records come window by window, and behind it the time where the
//! output's time depends on it: the first record of a window then tells the time of the whole group. Session
//! windows are written start first, so that windows to be merged follow one another.
//!
//! Invariant: values pass as bytes and are never decoded. In memory are one group, and for windows of a user's own
//! merging all groups of one key; a group of more than [`MAX_GROUP_BYTES`] ends with `ResourceExhausted`.

mod key_group;

pub use key_group::KeyGroup;

use bytes::Bytes;
use claviger_beam_proto::pipeline;
use claviger_core::{Error, Result};

use crate::elements::{Elements, KeyValues};
use crate::time::{self, TIMESTAMP_BYTES};
use crate::trigger::{Firing, Trigger};
use crate::window::{IntervalWindow, WindowFn, WindowKind};
use crate::windowed::HeaderRef;

/// The most bytes of one group. A group is one element, and an element is one message to a worker, which gRPC ends
/// at 2 GiB; iterables that the worker reads piece by piece through the state API would lift this.
pub const MAX_GROUP_BYTES: usize = 1 << 30;
/// A good size for chunks of groups: take them from a [`KeyGroup`] when this many bytes are ready.
pub const CHUNK_BYTES: usize = 1 << 20;

/// How a PCollection is grouped.
#[derive(Debug)]
pub struct GroupByKey {
    input: KeyValues,
    kind: WindowKind,
    merging: Merging,
    output_time: OutputTime,
    trigger: Trigger,
    accumulating: bool,
    empty_on_time: bool,
    /// The one pane that each window has, where it is always the same.
    only: Option<Firing>,
    max_group_bytes: usize,
}

/// How windows become one.
#[derive(Debug)]
enum Merging {
    /// They do not.
    None,
    /// Those that overlap do.
    Sessions,
    /// As the SDK says.
    Sdk(pipeline::FunctionSpec),
}

/// The time of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutputTime {
    EndOfWindow,
    Earliest,
    Latest,
}

/// What a shuffle sorts: by key, then by `sort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The encoded key.
    pub key: &'a [u8],
    /// Orders the records of a key.
    pub sort: &'a [u8],
    /// The encoded value.
    pub value: &'a [u8],
}

impl GroupByKey {
    /// Grouping by a windowing strategy, over a PCollection with that coder on the wire.
    ///
    /// # Errors
    /// `InvalidArgument`: a strategy or a coder that is missing or makes no sense. `Unimplemented`: retractions.
    pub fn new(strategy_id: &str, input_coder_id: &str, components: &pipeline::Components) -> Result<Self> {
        let strategy = components.windowing_strategies.get(strategy_id).ok_or_else(|| {
            Error::invalid(format!("windowing strategy {strategy_id} is not among the components"))
        })?;
        let input = Elements::key_values(input_coder_id, components)?;
        let kind = WindowKind::of(input.elements().window())?;
        let merged = strategy.merge_status() == pipeline::merge_status::Enum::AlreadyMerged;
        let merging = match WindowFn::from_strategy(strategy)? {
            _ if merged => Merging::None,
            WindowFn::Sessions { .. } if kind == WindowKind::Interval => Merging::Sessions,
            WindowFn::Sessions { .. } => {
                return Err(Error::invalid(format!(
                    "the session windows of {input_coder_id} are not intervals"
                )));
            }
            WindowFn::Custom { spec, merging: true } => Merging::Sdk(spec),
            _ => Merging::None,
        };
        let accumulating = match strategy.accumulation_mode() {
            pipeline::accumulation_mode::Enum::Retracting => {
                return Err(Error::unimplemented("Retracting panes are not supported."));
            }
            mode => mode == pipeline::accumulation_mode::Enum::Accumulating,
        };
        let output_time = match strategy.output_time() {
            pipeline::output_time::Enum::EarliestInPane => OutputTime::Earliest,
            pipeline::output_time::Enum::LatestInPane => OutputTime::Latest,
            pipeline::output_time::Enum::EndOfWindow | pipeline::output_time::Enum::Unspecified => {
                OutputTime::EndOfWindow
            }
        };
        let trigger = Trigger::from_proto(strategy.trigger.as_ref())?;
        let empty_on_time = strategy.on_time_behavior() != pipeline::on_time_behavior::Enum::FireIfNonempty;
        let only = match trigger.firings(1, accumulating, empty_on_time)[..] {
            [only] if trigger.distinct_counts() <= 1 => Some(only),
            _ => None,
        };
        let max_group_bytes = MAX_GROUP_BYTES;
        Ok(Self {
            input,
            kind,
            merging,
            output_time,
            trigger,
            accumulating,
            empty_on_time,
            only,
            max_group_bytes,
        })
    }

    /// Ends a group at fewer bytes than [`MAX_GROUP_BYTES`].
    #[must_use]
    pub fn with_limit(mut self, max_group_bytes: usize) -> Self {
        self.max_group_bytes = max_group_bytes.min(MAX_GROUP_BYTES);
        self
    }

    /// Gives the records of a chunk's elements to `emit`; how many elements there were.
    ///
    /// # Errors
    /// The bytes are not such elements; what `emit` returns.
    pub fn records(&self, chunk: &[u8], emit: &mut dyn FnMut(Record<'_>) -> Result<()>) -> Result<u64> {
        let plain = self.output_time == OutputTime::EndOfWindow && !matches!(self.merging, Merging::Sessions);
        let window = self.input.elements().window();
        let mut scratch = Vec::new();
        self.input.for_each(chunk, |pair| match pair.header.only_window() {
            Some(sort) if plain => emit(Record { key: pair.key, sort, value: pair.value }),
            _ => pair.header.windows(window, &mut |window| {
                scratch.clear();
                self.put_sort(window, &pair.header, &mut scratch)?;
                emit(Record { key: pair.key, sort: &scratch, value: pair.value })
            }),
        })
    }

    /// Begins to group the records of a key.
    #[must_use]
    pub fn key(&self, key: Bytes) -> KeyGroup<'_> {
        KeyGroup::new(self, key)
    }

    /// The window function whose windows the SDK must merge before a key is finished; see [`crate::merge`].
    #[must_use]
    pub fn needs_merge(&self) -> Option<&pipeline::FunctionSpec> {
        match &self.merging {
            Merging::Sdk(spec) => Some(spec),
            _ => None,
        }
    }

    fn put_sort(&self, window: &[u8], header: &HeaderRef<'_>, out: &mut Vec<u8>) -> Result<()> {
        if matches!(self.merging, Merging::Sessions) {
            let interval = IntervalWindow::read(&mut { window })?;
            out.extend(time::encode(interval.start));
            out.extend(time::encode(interval.end));
        } else {
            out.extend_from_slice(window);
        }
        match self.output_time {
            OutputTime::EndOfWindow => {}
            OutputTime::Earliest => out.extend(header.timestamp()),
            // The latest time sorts first.
            OutputTime::Latest => out.extend(header.timestamp().map(|byte| !byte)),
        }
        Ok(())
    }

    /// Takes a record's sort bytes apart: the window as it was sorted, and the time if that is kept.
    #[inline]
    fn split_sort<'a>(&self, sort: &'a [u8]) -> Result<(&'a [u8], i64)> {
        if self.output_time == OutputTime::EndOfWindow {
            return Ok((sort, 0));
        }
        let (window, &timestamp) = sort
            .split_last_chunk::<TIMESTAMP_BYTES>()
            .ok_or_else(|| Error::internal("a record of a shuffle has no time"))?;
        let earliest = self.output_time == OutputTime::Earliest;
        Ok((window, time::decode(if earliest { timestamp } else { timestamp.map(|byte| !byte) })))
    }

    /// Of two times, the one that a group of both has.
    fn combine(&self, first: i64, second: i64) -> i64 {
        if self.output_time == OutputTime::Earliest { first.min(second) } else { first.max(second) }
    }
}

#[cfg(test)]
mod tests;
