//! A stage's input, unit by unit: a range of a log or of a shuffle's partitions, or elements that came back.
//!
//! Invariant: a unit read again gives the same elements in the same order, so an index of an element, as
//! splits use it, means the same element in each attempt.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use claviger_beam::Coder;
use claviger_beam::group::{GroupByKey, KeyGroup};
use claviger_core::{Error, Result};
use claviger_shuffle::{ShuffleReader, Step};

use super::Limits;
use super::element::prefix;
use super::graph::{Input, ShuffleKind, ShuffleStore};
use super::limits::{CHUNK_BYTES, MERGE_BYTES, MERGE_KEYS, SHUFFLE_PARTITIONS, SMALL_INPUT_BYTES};
use super::merge::Merger;

/// Where elements go.
#[async_trait]
pub(super) trait Outlet: Send {
    /// Takes whole elements; false when no more are wanted.
    async fn put(&mut self, chunk: Bytes) -> Result<bool>;
}

/// Where elements come from.
#[async_trait]
pub(super) trait Feed: Send {
    /// Puts all elements into the outlet.
    async fn feed(&mut self, outlet: &mut dyn Outlet) -> Result<()>;
}

/// No elements.
pub(super) struct NoFeed;

#[async_trait]
impl Feed for NoFeed {
    async fn feed(&mut self, _: &mut dyn Outlet) -> Result<()> {
        Ok(())
    }
}

/// Which elements a bundle has.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) range: WorkRange,
    /// The index in the range of the first element.
    pub(super) first: u64,
    /// The index after the last one; none for all.
    pub(super) end: Option<u64>,
    /// Elements that are what was left of a split one, after those of the range.
    pub(super) extra: Vec<Bytes>,
}

#[derive(Clone, Debug)]
pub(super) enum WorkRange {
    /// Parts of a log, of as many.
    Parts(Range<usize>, usize),
    /// Partitions of a shuffle.
    Partitions(Range<usize>),
    /// Elements that came back.
    List(Arc<[Bytes]>),
}

impl Work {
    pub(super) fn whole(range: WorkRange) -> Self {
        Self { range, first: 0, end: None, extra: Vec::new() }
    }

    /// How many elements there are, about; for a worker that is asked to split.
    pub(super) fn elements(&self, input: &Input) -> u64 {
        let all = match (&self.range, input) {
            (WorkRange::Parts(parts, of), Input::Log(store)) => {
                store.log.elements().saturating_mul(parts.len() as u64) / (*of).max(1) as u64
            }
            (WorkRange::Partitions(parts), Input::Groups(store) | Input::Keyed(store)) => {
                store.shuffle.records().saturating_mul(parts.len() as u64) / SHUFFLE_PARTITIONS as u64
            }
            (WorkRange::List(elements), _) => elements.len() as u64,
            _ => 0,
        };
        self.end.unwrap_or(all).saturating_sub(self.first).max(1)
    }
}

/// Cuts an input into units of a good size. An empty input has none.
pub(super) fn units(input: &Input, limits: &Limits) -> Vec<Work> {
    match input {
        Input::Log(store) => {
            let bytes = store.log.bytes();
            let units = count(bytes, store.log.elements(), limits, limits.bundle_bytes);
            (0..units).map(|part| Work::whole(WorkRange::Parts(part..part + 1, units))).collect()
        }
        Input::Groups(store) => partitions(store, limits, limits.bundle_bytes),
        // The state of the keys in work is in memory, but each batch of keys has its own.
        Input::Keyed(store) => partitions(store, limits, limits.bundle_bytes),
    }
}

/// How many units of about `unit` bytes: enough to keep all workers' slots busy, unless the input is small.
fn count(bytes: u64, elements: u64, limits: &Limits, unit: u64) -> usize {
    if elements == 0 {
        return 0;
    }
    let by_size = usize::try_from(bytes.div_ceil(unit.max(1))).unwrap_or(usize::MAX).max(1);
    let wanted = if bytes > SMALL_INPUT_BYTES { by_size.max(limits.bundles_at_once) } else { 1 };
    wanted.min(usize::try_from(elements).unwrap_or(usize::MAX)).min(1 << 20)
}

/// Neighbouring partitions, put together until they are large enough.
fn partitions(store: &ShuffleStore, limits: &Limits, unit: u64) -> Vec<Work> {
    let shuffle = &store.shuffle;
    let wanted = count(shuffle.bytes(), shuffle.records(), limits, unit) as u64;
    if wanted == 0 {
        return Vec::new();
    }
    let sizes: Vec<u64> = (0..shuffle.partitions()).map(|part| shuffle.partition_bytes(part)).collect();
    let target = sizes.iter().sum::<u64>().div_ceil(wanted);
    let mut units = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (part, bytes) in sizes.iter().enumerate() {
        size += bytes;
        let is_last = part + 1 == sizes.len();
        if size > 0 && (size >= target || is_last) {
            units.push(Work::whole(WorkRange::Partitions(start..part + 1)));
            (start, size) = (part + 1, 0);
        }
    }
    units
}

/// The elements of one unit.
pub(super) struct UnitFeed {
    pub(super) input: Input,
    pub(super) coder: Arc<Coder>,
    pub(super) merger: Option<Arc<Merger>>,
    pub(super) work: Work,
}

#[async_trait]
impl Feed for UnitFeed {
    async fn feed(&mut self, outlet: &mut dyn Outlet) -> Result<()> {
        let work = &self.work;
        let left = work.end.map_or(u64::MAX, |end| end.saturating_sub(work.first));
        let mut cut = Cut { outlet, coder: &self.coder, skip: work.first, left };
        match (&work.range, &self.input) {
            (WorkRange::List(elements), _) => list(elements, &mut cut).await?,
            (WorkRange::Parts(parts, of), Input::Log(store)) => {
                'all: for part in parts.clone() {
                    let mut reader = store.log.reader(part, *of)?;
                    while let Some(chunk) = reader.next().await? {
                        if !cut.put(chunk).await? {
                            break 'all;
                        }
                    }
                }
            }
            (WorkRange::Partitions(parts), Input::Groups(store)) => {
                groups(store, parts.clone(), self.merger.as_deref(), &mut cut).await?;
            }
            _ => return Err(Error::internal("A unit of work does not fit its stage's input.")),
        }
        list(&work.extra, outlet).await
    }
}

/// Puts elements together to chunks.
async fn list(elements: &[Bytes], outlet: &mut dyn Outlet) -> Result<()> {
    if let [element] = elements {
        return outlet.put(element.clone()).await.map(drop);
    }
    let mut chunk = BytesMut::new();
    for element in elements {
        chunk.extend_from_slice(element);
        if chunk.len() >= CHUNK_BYTES && !outlet.put(chunk.split().freeze()).await? {
            return Ok(());
        }
    }
    if chunk.is_empty() { Ok(()) } else { outlet.put(chunk.freeze()).await.map(drop) }
}

/// Makes the groups of a shuffle's partitions.
pub(super) async fn groups(
    store: &ShuffleStore,
    partitions: Range<usize>,
    merger: Option<&Merger>,
    outlet: &mut dyn Outlet,
) -> Result<()> {
    let ShuffleKind::Groups { group, .. } = &store.kind else {
        return Err(Error::internal("Groups are read from a shuffle that does not hold them."));
    };
    if let Some(merger) = merger {
        return merged_groups(store, group, partitions, merger, outlet).await;
    }
    let mut keys = group.key(Bytes::new());
    for partition in partitions {
        let mut reader = store.shuffle.reader(partition)?;
        while let Some(key) = reader.next_key().await? {
            keys.begin(key);
            loop {
                match reader.step()? {
                    Step::Value { sort, value } => keys.push(sort, value)?,
                    Step::EndOfKey => break,
                    Step::Wait => reader.fill().await?,
                }
                if keys.ready() >= CHUNK_BYTES && !outlet.put(keys.take()).await? {
                    return Ok(());
                }
            }
            keys.end(None)?;
            if keys.ready() >= CHUNK_BYTES && !outlet.put(keys.take()).await? {
                return Ok(());
            }
        }
    }
    if keys.ready() > 0 { outlet.put(keys.take()).await.map(drop) } else { Ok(()) }
}

/// The same where the SDK merges the windows: keys wait together until it is worth asking.
async fn merged_groups(
    store: &ShuffleStore,
    group: &GroupByKey,
    partitions: Range<usize>,
    merger: &Merger,
    outlet: &mut dyn Outlet,
) -> Result<()> {
    let mut waiting = Vec::new();
    let mut bytes = 0;
    for partition in partitions {
        let mut reader = store.shuffle.reader(partition)?;
        while let Some(key) = reader.next_key().await? {
            let mut keys = group.key(key);
            loop {
                match reader.step()? {
                    Step::Value { sort, value } => {
                        bytes += value.len();
                        keys.push(sort, value)?;
                    }
                    Step::EndOfKey => break,
                    Step::Wait => reader.fill().await?,
                }
            }
            waiting.push(keys);
            if waiting.len() >= MERGE_KEYS || bytes >= MERGE_BYTES {
                bytes = 0;
                if !merge(std::mem::take(&mut waiting), merger, outlet).await? {
                    return Ok(());
                }
            }
        }
    }
    merge(waiting, merger, outlet).await.map(drop)
}

async fn merge(waiting: Vec<KeyGroup<'_>>, merger: &Merger, outlet: &mut dyn Outlet) -> Result<bool> {
    let windows: Vec<_> = waiting.iter().map(KeyGroup::windows).collect();
    let merged = if windows.is_empty() { Vec::new() } else { merger.merge(&windows).await? };
    let mut chunk = BytesMut::new();
    for (keys, merged) in waiting.into_iter().zip(merged) {
        keys.finish(Some(merged), &mut chunk)?;
        if chunk.len() >= CHUNK_BYTES && !outlet.put(chunk.split().freeze()).await? {
            return Ok(false);
        }
    }
    if chunk.is_empty() { Ok(true) } else { outlet.put(chunk.freeze()).await }
}

/// Leaves elements out at the beginning and at the end.
struct Cut<'a> {
    outlet: &'a mut dyn Outlet,
    coder: &'a Coder,
    skip: u64,
    left: u64,
}

#[async_trait]
impl Outlet for Cut<'_> {
    async fn put(&mut self, mut chunk: Bytes) -> Result<bool> {
        if self.skip > 0 {
            let (bytes, skipped) = prefix(self.coder, &chunk, self.skip)?;
            self.skip -= skipped;
            let _ = chunk.split_to(bytes);
        }
        if self.left != u64::MAX {
            let (bytes, kept) = prefix(self.coder, &chunk, self.left)?;
            self.left -= kept;
            chunk.truncate(bytes);
        }
        if !chunk.is_empty() && !self.outlet.put(chunk).await? {
            return Ok(false);
        }
        Ok(self.left > 0)
    }
}

/// Reads a partition of whole elements key by key, a batch of keys at a time.
pub(super) struct KeyCursor {
    reader: ShuffleReader,
    is_on_key: bool,
    /// Keys that were given out.
    done: u64,
}

impl KeyCursor {
    /// Stands before the key of this index.
    pub(super) async fn open(store: &ShuffleStore, partition: usize, index: u64) -> Result<Self> {
        let mut reader = store.shuffle.reader(partition)?;
        for _ in 0..index {
            reader.next_key().await?;
        }
        Ok(Self { reader, is_on_key: false, done: index })
    }

    /// The index of the next key.
    pub(super) fn index(&self) -> u64 {
        self.done
    }

    /// Is there another key?
    pub(super) async fn has_more(&mut self) -> Result<bool> {
        if !self.is_on_key {
            self.is_on_key = self.reader.next_key().await?.is_some();
        }
        Ok(self.is_on_key)
    }

    /// Gives out whole keys until the batch is large enough.
    pub(super) async fn batch(
        &mut self,
        max_bytes: usize,
        max_keys: usize,
        outlet: &mut dyn Outlet,
    ) -> Result<()> {
        let (mut bytes, mut keys) = (0, 0);
        let mut chunk = BytesMut::new();
        while bytes < max_bytes && keys < max_keys && self.has_more().await? {
            loop {
                match self.reader.step()? {
                    Step::Value { value, .. } => {
                        bytes += value.len();
                        chunk.extend_from_slice(value);
                    }
                    Step::EndOfKey => break,
                    Step::Wait => self.reader.fill().await?,
                }
                if chunk.len() >= CHUNK_BYTES && !outlet.put(chunk.split().freeze()).await? {
                    return Ok(());
                }
            }
            self.is_on_key = false;
            self.done += 1;
            keys += 1;
        }
        if chunk.is_empty() { Ok(()) } else { outlet.put(chunk.freeze()).await.map(drop) }
    }
}
