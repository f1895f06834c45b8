//! The records of a partition, merged from its runs.
//!
//! Invariant: each key comes once, with all its values in the order of (sort, run, place in the run). A
//! reader holds at most one buffer for each run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use claviger_core::{Error, Result};

use super::cursor::{Cursor, Moved};
use super::run::Run;
use crate::block::same;
use crate::budget::Grant;
use crate::space::Space;

/// Reads a partition of a shuffle, key by key.
pub struct ShuffleReader {
    space: Arc<Space>,
    cursors: Vec<Cursor>,
    /// Cursors on the first record of a key that is still to come.
    waiting: BinaryHeap<Reverse<(u64, usize)>>,
    /// Cursors that are on the current key, in the order of their runs; before the first key all.
    active: Vec<usize>,
    /// Which of them gives the next value.
    lead: usize,
    /// The sort whose values are given out, when several cursors are active.
    sort: Vec<u8>,
    key: Bytes,
    hash: u64,
    read_bytes: usize,
    /// Keys that pass before the guard is asked again.
    passes: u32,
    _grant: Grant,
}

/// The guard is asked once for so many keys, beside each read.
const GUARD_KEYS: u32 = 128;

/// What comes next without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The next value of the current key.
    Value {
        /// What orders it.
        sort: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// The current key has no more values.
    EndOfKey,
    /// Blocks have to be read: call [`ShuffleReader::fill`].
    Wait,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value(usize),
    EndOfKey,
    Wait(usize),
}

impl std::fmt::Debug for ShuffleReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShuffleReader({} runs)", self.cursors.len())
    }
}

impl ShuffleReader {
    pub(super) fn new(space: Arc<Space>, runs: &[Arc<Run>], blocks: impl Fn(&Run) -> Range<usize>) -> Self {
        let parts = runs.iter().map(|run| (run.clone(), blocks(run))).filter(|(_, part)| !part.is_empty());
        let stored = |run: &Run, part: &Range<usize>| {
            let len = run.extent.start(part.end) - run.extent.start(part.start);
            if run.extent.is_stored() { usize::try_from(len).unwrap_or(usize::MAX) } else { 0 }
        };
        let lens: Vec<usize> =
            runs.iter().map(|run| stored(run, &blocks(run))).filter(|len| *len > 0).collect();
        let read_bytes = space.budget().read_bytes(lens.len());
        let grant = Grant::new(space.budget().clone(), lens.iter().map(|len| (*len).min(read_bytes)).sum());
        let cursors: Vec<_> = parts.map(|(run, part)| Cursor::new(run, part)).collect();
        Self {
            space,
            waiting: BinaryHeap::with_capacity(cursors.len()),
            active: (0..cursors.len()).collect(),
            lead: cursors.len(),
            cursors,
            sort: Vec::new(),
            key: Bytes::new(),
            hash: 0,
            read_bytes,
            passes: 0,
            _grant: grant,
        }
    }

    /// Goes to the next key, past what is left of the current one; none at the end.
    ///
    /// # Errors
    /// What the guard answers; `DataLoss`, with the file, when it was changed; what the store answers.
    pub async fn next_key(&mut self) -> Result<Option<Bytes>> {
        while let Some(&number) = self.active.last() {
            match self.cursor(number)?.step()? {
                Moved::Same => {}
                Moved::NewKey => self.leave(number)?,
                Moved::End => drop(self.active.pop()),
                Moved::Wait => self.read(number).await?,
            }
        }
        self.begin_key()
    }

    /// The cursor, last of the active ones, is on another key.
    fn leave(&mut self, number: usize) -> Result<()> {
        let hash = self.cursor(number)?.hash;
        self.active.pop();
        self.waiting.push(Reverse((hash, number)));
        Ok(())
    }

    fn begin_key(&mut self) -> Result<Option<Bytes>> {
        if self.passes == 0 {
            self.space.guard()?;
            self.passes = GUARD_KEYS;
        }
        self.passes -= 1;
        let Some(Reverse((hash, first))) = self.waiting.pop() else { return Ok(None) };
        self.active.push(first);
        while let Some(Reverse((same, number))) = self.waiting.peek()
            && *same == hash
        {
            self.active.push(*number);
            self.waiting.pop();
        }
        if self.active.len() > 1 {
            self.keep_least(hash);
        }
        for &number in &self.active {
            if let Some(cursor) = self.cursors.get_mut(number) {
                cursor.is_used = false;
            }
        }
        self.lead = self.active.len();
        self.hash = hash;
        let first = self.active.first().copied().unwrap_or(first);
        self.key = self.cursor(first)?.key.clone();
        Ok(Some(self.key.clone()))
    }

    /// Keeps those cursors active that are on the least key; two keys may have one hash.
    fn keep_least(&mut self, hash: u64) {
        let cursors = &self.cursors;
        let key = |number: &usize| cursors.get(*number).map(|cursor| cursor.key.as_ref()).unwrap_or_default();
        let Some(least) = self.active.iter().map(key).min() else { return };
        if self.active.iter().all(|number| same(key(number), least)) {
            return;
        }
        let waiting = &mut self.waiting;
        self.active.retain(|number| {
            let keep = same(key(number), least);
            if !keep {
                waiting.push(Reverse((hash, *number)));
            }
            keep
        });
    }

    /// The next value of the current key, if it is there without waiting.
    ///
    /// # Errors
    /// `DataLoss` when stored bytes are no records.
    #[inline]
    pub fn step(&mut self) -> Result<Step<'_>> {
        match self.position()? {
            Next::Value(number) => {
                let cursor = self.cursor(number)?;
                cursor.is_used = true;
                Ok(Step::Value { sort: cursor.records.sort(), value: cursor.records.value() })
            }
            Next::EndOfKey => Ok(Step::EndOfKey),
            Next::Wait(_) => Ok(Step::Wait),
        }
    }

    /// Reads what [`Self::step`] waits for; nothing when it does not.
    ///
    /// # Errors
    /// As [`Self::next_key`].
    pub async fn fill(&mut self) -> Result<()> {
        match self.position()? {
            Next::Wait(number) => self.read(number).await,
            Next::Value(_) | Next::EndOfKey => Ok(()),
        }
    }

    /// The sort and value of the next record of the current key; none when it has no more.
    ///
    /// # Errors
    /// As [`Self::next_key`].
    pub async fn next_value(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        loop {
            match self.position()? {
                Next::Value(number) => return self.take(number).map(Some),
                Next::EndOfKey => return Ok(None),
                Next::Wait(number) => self.read(number).await?,
            }
        }
    }

    /// As [`Self::next_value`] without waiting: none when the key has no more values, or when they have
    /// to be read first, which [`Self::next_value`] does.
    ///
    /// # Errors
    /// As [`Self::step`].
    #[inline]
    pub fn try_next_value(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        match self.position()? {
            Next::Value(number) => self.take(number).map(Some),
            Next::EndOfKey | Next::Wait(_) => Ok(None),
        }
    }

    fn take(&mut self, number: usize) -> Result<(Bytes, Bytes)> {
        let cursor = self.cursor(number)?;
        cursor.is_used = true;
        Ok((cursor.records.sort_bytes(), cursor.records.value_bytes()))
    }

    /// Finds the cursor with the next value.
    #[inline]
    fn position(&mut self) -> Result<Next> {
        loop {
            let Some(&number) = self.active.get(self.lead) else {
                if !self.next_sort() {
                    return Ok(Next::EndOfKey);
                }
                continue;
            };
            let cursor = self.cursor(number)?;
            if cursor.is_used {
                match cursor.step()? {
                    Moved::Same => cursor.is_used = false,
                    Moved::Wait => return Ok(Next::Wait(number)),
                    Moved::NewKey => {
                        let hash = cursor.hash;
                        self.waiting.push(Reverse((hash, number)));
                        self.active.remove(self.lead);
                        continue;
                    }
                    Moved::End => {
                        self.active.remove(self.lead);
                        continue;
                    }
                }
            }
            if self.active.len() == 1 || self.has_sort(number) {
                return Ok(Next::Value(number));
            }
            self.lead += 1;
        }
    }

    /// Whether a cursor's record has the sort whose values are given out.
    fn has_sort(&self, number: usize) -> bool {
        self.cursors.get(number).is_some_and(|cursor| same(cursor.records.sort(), &self.sort))
    }

    /// Goes on to the least sort of the active cursors; false when there is none.
    fn next_sort(&mut self) -> bool {
        let cursors = &self.cursors;
        let sort =
            |number: &usize| cursors.get(*number).map(|cursor| cursor.records.sort()).unwrap_or_default();
        let Some(least) = self.active.iter().map(sort).min() else { return false };
        self.sort.clear();
        self.sort.extend_from_slice(least);
        self.lead = 0;
        true
    }

    async fn read(&mut self, number: usize) -> Result<()> {
        let (space, limit) = (self.space.clone(), self.read_bytes);
        self.cursor(number)?.fill(&space, limit).await
    }

    #[inline]
    fn cursor(&mut self, number: usize) -> Result<&mut Cursor> {
        self.cursors.get_mut(number).ok_or_else(|| Error::internal("a run of the reader is not there"))
    }

    /// The current key and its hash.
    pub(super) fn key(&self) -> (u64, &[u8]) {
        (self.hash, &self.key)
    }
}
