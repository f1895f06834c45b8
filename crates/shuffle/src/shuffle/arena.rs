//! Records in memory that are not sorted yet, in buckets by the hash of their keys.
//!
//! ```text
//! arena   = bucket ...     ranges of hashes, as partitions are, so that buckets follow one another in a run
//! bucket  = chunk ...
//! chunk   = record ...     (a record is never in two chunks)
//! record  = key length | sort length | value length | hash (8) | key | sort | value    (lengths: varints)
//! ```
//!
//! A full bucket fits the processor's cache. Sorting a bucket at a time, when the run is written, reads
//! the memory twice in its order instead of once at random, which takes a third of the time for small
//! records.
//!
//! Invariant: the records of a bucket are in the order of arrival; draining keeps it among those of one
//! key and sort.

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::{Error, ErrorKind, Result};

use crate::block::{Builder, partition, put_varint, same, varint};
use crate::budget::{Budget, Grant};

/// What a bucket of a full run has, and the most buckets.
const BUCKET: usize = 64 * 1024;
const MAX_BUCKETS: usize = 256;
/// A chunk has at most this part of a full bucket, and the limits of its size.
const CHUNK_SHARE: usize = 8;
const MIN_CHUNK: usize = 256;
const MAX_CHUNK: usize = 32 * 1024;
const HASH: usize = size_of::<u64>();
/// Room for the three lengths and the hash.
const HEAD: usize = 3 * 10 + HASH;
/// The most that a record may have: the element's size is the pipeline's affair, but not the server's end.
const RECORD_BYTES: usize = 1 << 30;

#[derive(Debug)]
pub(super) struct Arena {
    buckets: Vec<Bucket>,
    count: usize,
    most_chunk: usize,
    records: u64,
    /// Bytes of all chunks, also what is free in them.
    memory: usize,
    grant: Grant,
}

#[derive(Debug, Default)]
struct Bucket {
    full: Vec<Vec<u8>>,
    open: Vec<u8>,
}

impl Bucket {
    fn chunk(&self, number: u32) -> Option<&Vec<u8>> {
        let number = number as usize;
        if number == self.full.len() { Some(&self.open) } else { self.full.get(number) }
    }

    /// Keeps its chunks for the next one: memory that the machine gives anew has to be wiped by it first.
    fn recycle(self, budget: &Budget, most: usize) {
        for chunk in self.full.into_iter().chain([self.open]) {
            if chunk.capacity() == most {
                budget.keep_spare(chunk);
            }
        }
    }

    fn memory(&self) -> usize {
        self.full.iter().map(Vec::capacity).sum::<usize>() + self.open.capacity()
    }
}

impl Arena {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        let count = (budget.run_bytes() / BUCKET).clamp(1, MAX_BUCKETS);
        let most_chunk = (budget.run_bytes() / count / CHUNK_SHARE).clamp(MIN_CHUNK, MAX_CHUNK);
        let grant = Grant::new(budget.clone(), 0);
        Self { buckets: Vec::new(), count, most_chunk, records: 0, memory: 0, grant }
    }

    /// Gives its content away and is empty.
    pub(super) fn take(&mut self) -> Self {
        let empty = Self::new(&self.grant.budget().clone());
        std::mem::replace(self, empty)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        self.grant.bytes()
    }

    #[inline]
    pub(super) fn push(&mut self, hash: u64, key: &[u8], sort: &[u8], value: &[u8]) -> Result<()> {
        let need = key.len().saturating_add(sort.len()).saturating_add(value.len()).saturating_add(HEAD);
        if self.buckets.is_empty() {
            self.buckets.resize_with(self.count, Bucket::default);
        }
        let number = partition(hash, self.count);
        let bucket = self.buckets.get_mut(number).ok_or_else(broken)?;
        if bucket.open.capacity() - bucket.open.len() < need {
            let more = make_room(bucket, need, self.most_chunk, self.grant.budget())?;
            self.memory += more;
            self.grant.set(self.memory);
        }
        let out = &mut bucket.open;
        put_varint(out, key.len() as u64);
        put_varint(out, sort.len() as u64);
        put_varint(out, value.len() as u64);
        out.extend_from_slice(&hash.to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(sort);
        out.extend_from_slice(value);
        self.records += 1;
        Ok(())
    }

    /// Adds what another one has, as later arrivals.
    pub(super) fn absorb(&mut self, mut other: Self) {
        if other.is_empty() {
            return;
        }
        if self.is_empty() {
            std::mem::swap(self, &mut other);
            return;
        }
        let most = self.most_chunk;
        for (own, others) in self.buckets.iter_mut().zip(&mut other.buckets) {
            let open = std::mem::take(&mut others.open);
            for chunk in others.full.drain(..).chain([open]) {
                if chunk.len() <= own.open.capacity() - own.open.len() {
                    own.open.extend_from_slice(&chunk);
                } else if chunk.len() < most / 2 {
                    // Small chunks of many small bundles are put together.
                    let needs_new = own.open.len() + chunk.len() > most;
                    if needs_new {
                        own.full.push(std::mem::take(&mut own.open));
                    }
                    own.open.reserve_exact((own.open.len() + chunk.len()).max(own.open.capacity()).min(most));
                    own.open.extend_from_slice(&chunk);
                } else {
                    if !own.open.is_empty() {
                        own.full.push(std::mem::take(&mut own.open));
                    }
                    own.full.push(chunk);
                }
            }
        }
        self.records += other.records;
        self.memory = self.buckets.iter().map(Bucket::memory).sum();
        other.grant.set(0);
        self.grant.set(self.memory);
    }

    /// Gives the records to a builder, in the order of runs. With `and_free` each bucket's memory is given
    /// back as soon as it is done.
    pub(super) fn drain(&mut self, and_free: bool) -> Drain<'_> {
        Drain { arena: self, and_free, next: 0, entries: Vec::new(), at: 0 }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for bucket in self.buckets.drain(..) {
            bucket.recycle(self.grant.budget(), self.most_chunk);
        }
    }
}

/// Makes room for a record in a bucket; gives the bytes that it takes more.
#[cold]
fn make_room(bucket: &mut Bucket, need: usize, most: usize, budget: &Budget) -> Result<usize> {
    if need > RECORD_BYTES {
        let message = format!("an element with its key has {need} bytes; the most is {RECORD_BYTES}");
        return Err(Error::new(ErrorKind::ResourceExhausted, message));
    }
    let before = bucket.open.capacity();
    let grown = before.saturating_mul(2).clamp(MIN_CHUNK, most).max(bucket.open.len() + need);
    if grown <= most || bucket.open.is_empty() {
        bucket.open.reserve_exact(grown - bucket.open.len());
        return Ok(bucket.open.capacity() - before);
    }
    let spare = if need <= most { budget.spare() } else { None };
    let chunk = spare.unwrap_or_else(|| Vec::with_capacity(need.max(most)));
    bucket.full.push(std::mem::replace(&mut bucket.open, chunk));
    Ok(bucket.open.capacity())
}

/// Where a record is.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    chunk: u32,
    at: u32,
}

#[derive(Clone, Copy, Debug)]
struct Record<'a> {
    hash: u64,
    key: &'a [u8],
    sort: &'a [u8],
    value: &'a [u8],
    end: usize,
}

/// The records of an arena on their way into a run.
pub(super) struct Drain<'a> {
    arena: &'a mut Arena,
    and_free: bool,
    /// The bucket after the one whose entries these are.
    next: usize,
    entries: Vec<Entry>,
    at: usize,
}

impl Drain<'_> {
    /// Goes on until the builder has a piece; none once all records are in it.
    pub(super) fn next_piece(&mut self, builder: &mut Builder) -> Result<Option<Bytes>> {
        loop {
            if let Some(bucket) = self.next.checked_sub(1).and_then(|number| self.arena.buckets.get(number)) {
                for entry in self.entries.get(self.at..).unwrap_or_default() {
                    let record = record_of(bucket, *entry).ok_or_else(broken)?;
                    builder.push(record.hash, record.key, record.sort, record.value);
                    self.at += 1;
                    if let Some(piece) = builder.full_piece() {
                        return Ok(Some(piece));
                    }
                }
            }
            if !self.next_bucket()? {
                return Ok(None);
            }
        }
    }

    fn next_bucket(&mut self) -> Result<bool> {
        if self.and_free
            && let Some(done) = self.next.checked_sub(1)
            && let Some(bucket) = self.arena.buckets.get_mut(done)
        {
            self.arena.memory -= bucket.memory();
            std::mem::take(bucket).recycle(self.arena.grant.budget(), self.arena.most_chunk);
            self.arena.grant.set(self.arena.memory);
        }
        let Some(bucket) = self.arena.buckets.get(self.next) else { return Ok(false) };
        self.entries.clear();
        self.at = 0;
        for (chunk, number) in bucket.full.iter().chain([&bucket.open]).zip(0..) {
            let mut at = 0;
            while at < chunk.len() {
                let record = record_at(chunk, at).ok_or_else(broken)?;
                self.entries.push(Entry { hash: record.hash, chunk: number, at: at as u32 });
                at = record.end;
            }
        }
        self.entries.sort_by_key(|entry| entry.hash);
        for group in self.entries.chunk_by_mut(|a, b| a.hash == b.hash) {
            if group.len() > 1 {
                order(bucket, group)?;
            }
        }
        self.next += 1;
        Ok(true)
    }
}

/// Orders the entries of one hash: usually they have one key and come in the order of their sorts.
fn order(bucket: &Bucket, group: &mut [Entry]) -> Result<()> {
    let mut before: Option<Record<'_>> = None;
    let mut in_order = true;
    for entry in group.iter() {
        let next = record_of(bucket, *entry).ok_or_else(broken)?;
        in_order &= before.is_none_or(|before| {
            if same(before.key, next.key) {
                same(before.sort, next.sort) || before.sort < next.sort
            } else {
                before.key < next.key
            }
        });
        before = Some(next);
    }
    if !in_order {
        let rank = |entry: &Entry| record_of(bucket, *entry).map(|record| (record.key, record.sort));
        group.sort_by(|a, b| rank(a).cmp(&rank(b)));
    }
    Ok(())
}

#[inline]
fn record_of(bucket: &Bucket, entry: Entry) -> Option<Record<'_>> {
    record_at(bucket.chunk(entry.chunk)?, entry.at as usize)
}

#[inline]
fn record_at(chunk: &[u8], at: usize) -> Option<Record<'_>> {
    let (key, at) = varint(chunk, at)?;
    let (sort, at) = varint(chunk, at)?;
    let (value, at) = varint(chunk, at)?;
    let (hash, rest) = chunk.get(at..)?.split_first_chunk::<HASH>()?;
    let (key, rest) = rest.split_at_checked(key as usize)?;
    let (sort, rest) = rest.split_at_checked(sort as usize)?;
    let value = rest.get(..value as usize)?;
    let end = chunk.len() - rest.len() + value.len();
    Some(Record { hash: u64::from_le_bytes(*hash), key, sort, value, end })
}

fn broken() -> Error {
    Error::internal("a record in memory is malformed")
}
