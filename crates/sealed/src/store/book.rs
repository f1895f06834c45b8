//! The ledger in memory, while the store is open.
//!
//! Invariant: a version is in the book before its writing begins, and leaves it only when it is sure
//! that it is not there. So what is on the disk fits the book at every moment, also when a write was
//! given up half way.

use std::collections::HashMap;

use super::ledger::{Entry, Ledger, Version, encode};

/// How far a newly opened store skips ahead, so that it never gives out a sequence that one before it
/// gave out and did not live to note.
pub(super) const SKIP: u64 = 1 << 32;
/// Sequences that may be given out between two writes of the ledger. Well below `SKIP`.
pub(super) const MAX_UNNOTED: u64 = 1 << 31;

#[derive(Debug)]
struct Slot {
    entry: Entry,
    /// Deleted for all readers; the file goes once the ledger says so.
    deleting: bool,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    slots: HashMap<Box<str>, Slot>,
    deleting: usize,
    /// Paths whose files went after the ledger was stored, which still allows them, with the version
    /// of the book at which they went. A new file there must not be mistaken for one that comes back.
    gone: HashMap<Box<str>, u64>,
    next: u64,
    /// `next` as the stored ledger has it.
    noted: u64,
    /// Counts changes, and those that the stored ledger has.
    version: u64,
    stored_version: u64,
    /// Whether this process has skipped ahead and stored that.
    pub(super) writable: bool,
    /// Whether files that the stored ledger allows to be absent could not be removed.
    pub(super) unremoved: bool,
    /// Whether a write of the ledger is planned.
    pub(super) planned: bool,
}

/// What a reader finds in the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Deleting,
    Entry(Entry),
}

/// What the book looked like when it was encoded.
pub(super) struct Snapshot {
    pub(super) ledger: Vec<u8>,
    /// The sequence of the ledger's own file.
    pub(super) sequence: u64,
    next: u64,
    version: u64,
    /// Files that can go once this is stored.
    pub(super) deleting: Vec<Box<str>>,
}

impl Book {
    pub(super) fn new(ledger: Ledger) -> Self {
        let slots = ledger.entries.into_iter().map(|(path, entry)| (path, Slot { entry, deleting: false }));
        Self { slots: slots.collect(), next: ledger.next, noted: ledger.next, ..Self::default() }
    }

    pub(super) fn find(&self, path: &str) -> Found {
        match self.slots.get(path) {
            None => Found::Nothing,
            Some(slot) if slot.deleting => Found::Deleting,
            Some(slot) => Found::Entry(slot.entry.clone()),
        }
    }

    /// The version at a path, when there is no doubt about it.
    pub(super) fn certain(&self, path: &str) -> Option<Version> {
        self.slots.get(path).filter(|slot| !slot.deleting).and_then(|slot| slot.entry.certain())
    }

    /// Whether the stored ledger allows an earlier file at a path that has none now.
    pub(super) fn is_gone(&self, path: &str) -> bool {
        self.gone.contains_key(path)
    }

    /// Whether an object below the prefix is not deleted.
    pub(super) fn any_below(&self, prefix: &str) -> bool {
        let below = |path: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        self.deleting == 0 || self.slots.iter().any(|(path, slot)| !slot.deleting && below(path))
    }

    /// Gives out a sequence.
    pub(super) fn next_sequence(&mut self) -> u64 {
        let sequence = self.next;
        self.next += 1;
        sequence
    }

    /// Whether so many sequences were given out that the ledger must be stored first.
    pub(super) fn is_far_ahead(&self) -> bool {
        self.next - self.noted >= MAX_UNNOTED
    }

    pub(super) fn skip_ahead(&mut self) {
        self.next += SKIP;
        self.version += 1;
    }

    /// Notes that the writing of a version begins.
    pub(super) fn begin(&mut self, path: &str, version: Version) {
        match self.slots.get_mut(path) {
            Some(slot) => {
                slot.entry.doubtful.retain(|doubtful| doubtful.sequence != version.sequence);
                slot.entry.doubtful.push(version);
            }
            None => {
                let entry = Entry { doubtful: vec![version], ..Entry::default() };
                self.slots.insert(path.into(), Slot { entry, deleting: false });
            }
        }
        self.version += 1;
    }

    /// Notes that a version is there, and that no other one is.
    pub(super) fn settle(&mut self, path: &str, version: Version) {
        if let Some(slot) = self.slots.get_mut(path) {
            slot.entry = Entry { settled: Some(version), ..Entry::default() };
        }
        self.version += 1;
    }

    /// Notes that a log's segment is durable up to `len`, and may go on.
    pub(super) fn grow(&mut self, path: &str, sequence: u64, len: u64) {
        if let Some(slot) = self.slots.get_mut(path) {
            match &mut slot.entry.settled {
                Some(version) if version.sequence == sequence => version.len = len,
                _ => slot.entry = Entry::growing(sequence, Some(len)),
            }
        }
        self.version += 1;
    }

    /// What is below a prefix and not deleted.
    pub(super) fn below(&self, prefix: &str) -> Vec<(String, Entry)> {
        let live = self.slots.iter().filter(|(path, slot)| !slot.deleting && path.starts_with(prefix));
        live.map(|(path, slot)| (path.to_string(), slot.entry.clone())).collect()
    }

    /// Notes that the writing of a version failed, so that it is not there for sure.
    pub(super) fn give_up(&mut self, path: &str, sequence: u64) {
        if let Some(slot) = self.slots.get_mut(path) {
            slot.entry.doubtful.retain(|version| version.sequence != sequence);
            if slot.entry == Entry::default() && !slot.deleting {
                self.slots.remove(path);
            }
            self.version += 1;
        }
    }

    /// Hides an object and notes that its file is to go. Answers whether there was one.
    pub(super) fn delete(&mut self, path: &str) -> bool {
        match self.slots.get_mut(path) {
            Some(slot) if !slot.deleting => {
                slot.deleting = true;
                self.deleting += 1;
                self.version += 1;
                true
            }
            _ => false,
        }
    }

    /// Notes that the file of a deleted object is gone.
    pub(super) fn deleted(&mut self, path: &str) {
        if let Some((path, _)) = self.slots.remove_entry(path) {
            self.deleting -= 1;
            self.version += 1;
            self.gone.insert(path, self.version);
        }
    }

    pub(super) fn snapshot(&mut self) -> Snapshot {
        let sequence = self.next_sequence();
        let entries = self.slots.iter().map(|(path, slot)| (path.as_ref(), &slot.entry, slot.deleting));
        let ledger = encode(self.next, entries);
        let deleting = self.slots.iter().filter(|(_, slot)| slot.deleting).map(|(path, _)| path.clone());
        let deleting = if self.deleting == 0 { Vec::new() } else { deleting.collect() };
        Snapshot { ledger, sequence, next: self.next, version: self.version, deleting }
    }

    pub(super) fn stored(&mut self, snapshot: &Snapshot) {
        self.noted = snapshot.next;
        self.stored_version = snapshot.version;
        self.gone.retain(|_, version| *version > snapshot.version);
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether all that was changed up to a version is done.
    pub(super) fn is_done(&self, version: u64) -> bool {
        self.stored_version >= version && !self.unremoved
    }

    /// Whether a ledger file of that sequence was written by this process, if it is authentic.
    pub(super) fn is_own(&self, sequence: u64) -> bool {
        (self.noted..self.next).contains(&sequence)
    }
}
