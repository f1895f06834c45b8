//! The groups of one key, made while its sorted records come in.
//!
//! Invariant: `out` holds finished groups up to `finished`, then at most one whose number of values is still to be
//! written.

use std::collections::BTreeMap;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use claviger_core::{Error, ErrorKind, Result};

use super::{GroupByKey, Merging, OutputTime};
use crate::merge::Merged;
use crate::trigger::Firing;
use crate::window::IntervalWindow;
use crate::{time, wire};

/// The least room that values get at once, once what is there is full, and the most that they get ahead.
const STEP: usize = 64 * 1024;
const MOST_AHEAD: usize = 2 * 1024 * 1024;

/// Groups the records of a key, and then of the next.
pub struct KeyGroup<'g> {
    group: &'g GroupByKey,
    key: Bytes,
    out: BytesMut,
    finished: usize,
    /// How much was taken the last time: about as much will be the next.
    taken: usize,
    /// The window of the group that is being written, as it was sorted.
    window: Vec<u8>,
    /// Its number of values; 0: there is none.
    count: usize,
    /// Where in `out` that number goes.
    count_at: usize,
    /// A group that cannot be written yet.
    pending: Option<Pending>,
    /// All groups of the key, where the SDK merges them.
    waiting: BTreeMap<Bytes, Pending>,
    waiting_bytes: usize,
}

/// A group whose window, panes or time are not yet known.
struct Pending {
    /// Of sessions.
    interval: IntervalWindow,
    count: u64,
    timestamp: i64,
    values: Vec<u8>,
}

impl fmt::Debug for KeyGroup<'_> {
    /// Without keys and values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyGroup")
            .field("ready", &self.finished)
            .field("bytes", &self.out.len())
            .finish_non_exhaustive()
    }
}

impl<'g> KeyGroup<'g> {
    pub(super) fn new(group: &'g GroupByKey, key: Bytes) -> Self {
        Self {
            group,
            key,
            out: BytesMut::new(),
            finished: 0,
            taken: 0,
            window: Vec::new(),
            count: 0,
            count_at: 0,
            pending: None,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
        }
    }

    /// Goes on with another key, after [`KeyGroup::end`]; what is ready stays.
    pub fn begin(&mut self, key: Bytes) {
        self.key = key;
    }

    /// Takes the key's next record: its sort bytes and its value. They come sorted.
    ///
    /// # Errors
    /// `ResourceExhausted`: the group has more bytes than a group may have. `Internal`: sort bytes that
    /// [`GroupByKey::records`] did not make.
    #[inline]
    pub fn push(&mut self, sort: &[u8], value: impl AsRef<[u8]>) -> Result<()> {
        let value = value.as_ref();
        let (window, timestamp) = self.group.split_sort(sort)?;
        match (&self.group.merging, self.group.only) {
            (Merging::None, Some(only)) => self.write(window, timestamp, value, only),
            (Merging::None, None) => self.buffer(window, timestamp, value),
            (Merging::Sessions, _) => self.session(window, timestamp, value),
            (Merging::Sdk(_), _) => self.wait(window, timestamp, value),
        }
    }

    /// Ends the key: what the SDK merged, where [`GroupByKey::needs_merge`] asks for it. Windows that no merge
    /// names stay as they are.
    ///
    /// # Errors
    /// `InvalidArgument`: a merge of a window that the key does not have, or twice of one. Else as
    /// [`KeyGroup::push`].
    pub fn end(&mut self, merged: Option<Vec<Merged>>) -> Result<()> {
        self.close()?;
        if let Some(pending) = self.pending.take() {
            self.emit_pending(pending)?;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let mut results: BTreeMap<Bytes, Pending> = BTreeMap::new();
        for merge in merged.unwrap_or_default() {
            for original in merge.originals {
                let part = waiting.remove(&original).ok_or_else(|| {
                    Error::invalid("the worker merged a window that it was not asked about, or one twice")
                })?;
                self.join(&mut results, merge.result.clone(), part);
            }
        }
        for (window, part) in waiting {
            self.join(&mut results, window, part);
        }
        results.into_iter().try_for_each(|(window, pending)| self.emit(&window, &pending))
    }

    /// The windows of the key so far, where the SDK merges them.
    #[must_use]
    pub fn windows(&self) -> Vec<Bytes> {
        self.waiting.keys().cloned().collect()
    }

    /// How many bytes of finished groups are ready.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.finished
    }

    /// Takes the finished groups: whole elements of the output.
    #[must_use]
    pub fn take(&mut self) -> Bytes {
        self.split().freeze()
    }

    /// Appends the finished groups.
    pub fn drain(&mut self, out: &mut BytesMut) {
        let finished = self.split();
        if out.is_empty() {
            *out = finished;
        } else {
            out.unsplit(finished);
        }
    }

    /// Ends the key and appends its groups: [`KeyGroup::end`] and [`KeyGroup::drain`].
    ///
    /// # Errors
    /// As [`KeyGroup::end`].
    pub fn finish(mut self, merged: Option<Vec<Merged>>, out: &mut BytesMut) -> Result<()> {
        self.end(merged)?;
        self.drain(out);
        Ok(())
    }

    fn split(&mut self) -> BytesMut {
        let at = std::mem::take(&mut self.finished);
        self.count_at = self.count_at.saturating_sub(at);
        self.taken = at.min(MOST_AHEAD);
        self.out.split_to(at)
    }

    /// The usual case: one pane a window, and its time known from the first record.
    #[inline]
    fn write(&mut self, window: &[u8], timestamp: i64, value: &[u8], only: Firing) -> Result<()> {
        if self.count == 0 || self.window != window {
            self.close()?;
            self.window.clear();
            self.window.extend_from_slice(window);
            self.open(window, timestamp, only)?;
        }
        self.count += 1;
        if self.out.len() - self.finished + value.len() > self.group.max_group_bytes {
            return Err(self.too_large());
        }
        if self.out.capacity() - self.out.len() < value.len() {
            // Room that is doubled time and again is copied as often.
            let ahead = self.taken.saturating_sub(self.out.len());
            self.out.reserve(value.len() + ahead.max(STEP));
        }
        self.out.put_slice(value);
        Ok(())
    }

    /// Writes a group up to its values.
    fn open(&mut self, window: &[u8], timestamp: i64, firing: Firing) -> Result<()> {
        let at_end = firing.at_end_of_window || self.group.output_time == OutputTime::EndOfWindow;
        let timestamp = if at_end { self.group.kind.max_timestamp(window)? } else { timestamp };
        time::put(&mut self.out, timestamp);
        self.out.put_i32(1);
        self.out.put_slice(window);
        firing.pane.write(&mut self.out);
        self.out.put_slice(&self.key);
        self.count_at = self.out.len();
        self.out.put_i32(0);
        Ok(())
    }

    /// Writes the number of values of the open group, if there is one.
    fn close(&mut self) -> Result<()> {
        let count = std::mem::take(&mut self.count);
        if count > 0 {
            let count = wire::count(count)?.to_be_bytes();
            let place = self.out.get_mut(self.count_at..).and_then(|rest| rest.first_chunk_mut());
            *place.ok_or_else(|| Error::internal("a group has no place for its number of values"))? = count;
            self.finished = self.out.len();
        }
        Ok(())
    }

    #[cold]
    fn too_large(&self) -> Error {
        Error::new(
            ErrorKind::ResourceExhausted,
            format!(
                "the values of one key in one window have more than {} bytes",
                self.group.max_group_bytes
            ),
        )
    }

    /// Windows that do not merge, but fire more than once or by the number of elements.
    fn buffer(&mut self, window: &[u8], timestamp: i64, value: &[u8]) -> Result<()> {
        if let Some(pending) = self.pending.take_if(|_| self.window != window) {
            self.emit_pending(pending)?;
        }
        if self.pending.is_none() {
            self.window.clear();
            self.window.extend_from_slice(window);
        }
        self.add_pending(IntervalWindow { start: 0, end: 0 }, timestamp, value)
    }

    /// Windows that merge when they overlap; the one that starts first comes first.
    fn session(&mut self, window: &[u8], timestamp: i64, value: &[u8]) -> Result<()> {
        let mut input = window;
        let interval = IntervalWindow { start: time::read(&mut input)?, end: time::read(&mut input)? };
        if let Some(pending) = self.pending.take_if(|pending| pending.interval.end <= interval.start) {
            self.emit_pending(pending)?;
        }
        self.add_pending(interval, timestamp, value)
    }

    fn add_pending(&mut self, interval: IntervalWindow, timestamp: i64, value: &[u8]) -> Result<()> {
        let group = self.group;
        let pending = self.pending.get_or_insert_with(|| Pending::new(interval, timestamp));
        pending.add(group, interval, timestamp, value);
        if pending.values.len() > group.max_group_bytes {
            return Err(self.too_large());
        }
        Ok(())
    }

    fn emit_pending(&mut self, pending: Pending) -> Result<()> {
        if matches!(self.group.merging, Merging::Sessions) {
            let window = pending.interval.encode();
            return self.emit(&window, &pending);
        }
        let window = std::mem::take(&mut self.window);
        let emitted = self.emit(&window, &pending);
        self.window = window;
        emitted
    }

    /// Windows of a user's own merging.
    fn wait(&mut self, window: &[u8], timestamp: i64, value: &[u8]) -> Result<()> {
        let group = self.group;
        self.waiting_bytes = self.waiting_bytes.saturating_add(value.len());
        if self.waiting_bytes > group.max_group_bytes {
            return Err(self.too_large());
        }
        let none = IntervalWindow { start: 0, end: 0 };
        match self.waiting.get_mut(window) {
            Some(pending) => pending.add(group, none, timestamp, value),
            None => {
                let mut pending = Pending::new(none, timestamp);
                pending.add(group, none, timestamp, value);
                self.waiting.insert(Bytes::copy_from_slice(window), pending);
            }
        }
        Ok(())
    }

    fn join(&self, results: &mut BTreeMap<Bytes, Pending>, window: Bytes, part: Pending) {
        match results.get_mut(&window) {
            Some(pending) => {
                pending.count += part.count;
                pending.timestamp = self.group.combine(pending.timestamp, part.timestamp);
                pending.values.extend_from_slice(&part.values);
            }
            None => drop(results.insert(window, part)),
        }
    }

    /// Writes all panes of a group.
    fn emit(&mut self, window: &[u8], pending: &Pending) -> Result<()> {
        let group = self.group;
        let mut pane = |firing: Firing| {
            self.open(window, pending.timestamp, firing)?;
            if firing.with_elements {
                self.out.put_slice(&pending.values);
                self.count = usize::try_from(pending.count).unwrap_or(usize::MAX);
                self.close()?;
            }
            self.finished = self.out.len();
            Ok(())
        };
        if let Some(only) = group.only {
            return pane(only);
        }
        let elements = pending.count.min(group.trigger.distinct_counts());
        group
            .trigger
            .firings(elements, group.accumulating, group.empty_on_time)
            .into_iter()
            .try_for_each(pane)
    }
}

impl Pending {
    fn new(interval: IntervalWindow, timestamp: i64) -> Self {
        Self { interval, count: 0, timestamp, values: Vec::new() }
    }

    fn add(&mut self, group: &GroupByKey, interval: IntervalWindow, timestamp: i64, value: &[u8]) {
        self.interval.end = self.interval.end.max(interval.end);
        self.count += 1;
        self.timestamp = group.combine(self.timestamp, timestamp);
        self.values.extend_from_slice(value);
    }
}
