//! What a KMS elsewhere said and need not be asked again: numbers and names that never change, and leaves of
//! organisation policies until it tells of a change.
//!
//! Invariant: a leave counts only while changes are heard of; while they are not it is good for a silent KMS alone.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use claviger_core::names::CryptoKeyName;
use claviger_kms::agents::Service;

/// Entries of a kind that are kept; with one more all are forgotten.
const KEPT: usize = 10_000;

/// What a policy was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) service: Service,
    pub(super) project: String,
    pub(super) key: Option<CryptoKeyName>,
    pub(super) operation: String,
}

/// When a question was asked, between two changes of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn(u64);

#[derive(Debug, Default)]
struct Leaves {
    given: HashSet<Asked>,
    /// How often policies changed.
    turn: u64,
    /// Whether changes are heard of.
    live: bool,
}

/// See the file's text.
#[derive(Debug, Default)]
pub(super) struct Memory {
    numbers: Mutex<HashMap<String, u64>>,
    managed: Mutex<HashMap<(Service, String), CryptoKeyName>>,
    leaves: Mutex<Leaves>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep<K: Eq + Hash, V>(map: &Mutex<HashMap<K, V>>, key: K, value: V) {
    let mut map = lock(map);
    if map.len() >= KEPT {
        map.clear();
    }
    map.insert(key, value);
}

impl Memory {
    pub(super) fn number(&self, project: &str) -> Option<u64> {
        lock(&self.numbers).get(project).copied()
    }

    pub(super) fn keep_number(&self, project: &str, number: u64) {
        keep(&self.numbers, project.to_owned(), number);
    }

    pub(super) fn managed_key(&self, service: Service, location: &str) -> Option<CryptoKeyName> {
        lock(&self.managed).get(&(service, location.to_owned())).cloned()
    }

    pub(super) fn keep_managed_key(&self, service: Service, location: &str, key: CryptoKeyName) {
        keep(&self.managed, (service, location.to_owned()), key);
    }

    /// Whether a leave counts. Else the turn in which to ask.
    pub(super) fn leave(&self, asked: &Asked) -> Result<(), Turn> {
        let leaves = lock(&self.leaves);
        if leaves.live && leaves.given.contains(asked) { Ok(()) } else { Err(Turn(leaves.turn)) }
    }

    /// Whether a leave was given since the last change that was heard of.
    pub(super) fn had_leave(&self, asked: &Asked) -> bool {
        lock(&self.leaves).given.contains(asked)
    }

    /// Keeps a leave that was asked for in a turn, if policies have not changed since.
    pub(super) fn keep_leave(&self, turn: Turn, asked: Asked) {
        let mut leaves = lock(&self.leaves);
        if leaves.turn != turn.0 {
            return;
        }
        if leaves.given.len() >= KEPT {
            leaves.given.clear();
        }
        leaves.given.insert(asked);
    }

    /// Policies may have changed.
    pub(super) fn forget_leaves(&self) {
        let mut leaves = lock(&self.leaves);
        leaves.turn += 1;
        leaves.given.clear();
    }

    /// Whether changes are heard of from now on.
    pub(super) fn set_live(&self, live: bool) {
        lock(&self.leaves).live = live;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(operation: &str) -> Asked {
        Asked { service: Service::Storage, project: "p".into(), key: None, operation: operation.into() }
    }

    #[test]
    fn a_leave_counts_while_changes_are_heard_of_and_until_one_comes() {
        let memory = Memory::default();
        let turn = memory.leave(&asked("a")).unwrap_err();
        memory.keep_leave(turn, asked("a"));
        assert!(memory.leave(&asked("a")).is_err(), "no change is heard of yet");
        assert!(memory.had_leave(&asked("a")));
        memory.set_live(true);
        assert_eq!(memory.leave(&asked("a")), Ok(()));
        assert!(memory.leave(&asked("b")).is_err());
        memory.forget_leaves();
        assert!(memory.leave(&asked("a")).is_err() && !memory.had_leave(&asked("a")));
    }

    #[test]
    fn a_leave_that_was_asked_for_before_a_change_is_not_kept_after_it() {
        let memory = Memory::default();
        memory.set_live(true);
        let turn = memory.leave(&asked("a")).unwrap_err();
        memory.forget_leaves();
        memory.keep_leave(turn, asked("a"));
        assert!(memory.leave(&asked("a")).is_err());
    }
}
