//! The unwrapped keys of one scope, as a sealed store asks for them.
//!
//! Invariant: one atomic load answers every question, so that each operation can afford to ask. To
//! lock is to put in a set without keys: the last holder of the former set zeroizes them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use claviger_core::{Error, ErrorKind, Result};
use claviger_sealed::scope::{KeyId, ScopeId, ScopeKey, ScopeKeys};

/// The keys that are usable at one moment.
#[derive(Debug)]
pub(crate) struct KeySet {
    /// Why the scope is locked, if it is.
    pub(crate) locked: Option<Error>,
    /// The generation for new files.
    pub(crate) current: KeyId,
    /// Each generation's key, or why it cannot be used.
    pub(crate) keys: Vec<(KeyId, Result<Arc<ScopeKey>>)>,
}

impl KeySet {
    pub(crate) fn key(&self, id: KeyId) -> Option<&Result<Arc<ScopeKey>>> {
        self.keys.iter().find(|(of, _)| *of == id).map(|(_, key)| key)
    }
}

/// The current [`KeySet`] of a scope.
#[derive(Debug)]
pub(crate) struct Keyring {
    scope: ScopeId,
    set: ArcSwap<KeySet>,
}

impl Keyring {
    pub(crate) fn new(scope: ScopeId, set: KeySet) -> Self {
        Self { scope, set: ArcSwap::from_pointee(set) }
    }

    pub(crate) fn replace(&self, set: KeySet) {
        self.set.store(Arc::new(set));
    }

    /// Whether the scope may be used.
    pub(crate) fn guard(&self) -> Result<()> {
        self.set.load().locked.clone().map_or(Ok(()), Err)
    }

    /// The key of a generation, if it is in memory.
    pub(crate) fn held(&self, id: KeyId) -> Option<Arc<ScopeKey>> {
        self.set.load().key(id)?.as_ref().ok().cloned()
    }

    /// What is known of a generation.
    pub(crate) fn entry(&self, id: KeyId) -> Option<Result<Arc<ScopeKey>>> {
        self.set.load().key(id).cloned()
    }
}

impl ScopeKeys for Keyring {
    fn scope(&self) -> &ScopeId {
        &self.scope
    }

    fn current(&self) -> Result<Arc<ScopeKey>> {
        let set = self.set.load();
        if let Some(error) = &set.locked {
            return Err(error.clone());
        }
        // The current generation is in every set that is not locked.
        set.key(set.current).cloned().unwrap_or_else(|| Err(Error::internal("a scope has no current key")))
    }

    fn by_id(&self, id: KeyId) -> Result<Arc<ScopeKey>> {
        let set = self.set.load();
        match (set.key(id), &set.locked) {
            (Some(key), _) => key.clone(),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => {
                Err(Error::new(ErrorKind::DataLoss, format!("{} has no key of generation {id}", self.scope)))
            }
        }
    }
}
