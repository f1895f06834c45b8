//! Tokens that were found right, by their hash.
//!
//! Invariant: no token is kept. An entry ends with its token and with the rules that it was found under; there is a
//! limit to their number. The parts have locks of their own, so that connections do not wait for one another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use claviger_crypto::{SHA256_BYTES, sha256};

use crate::{Known, LEEWAY_SECONDS};

/// Parts: a power of two.
const PARTS: usize = 32;
/// Entries of one part, at most: about 16,000 of all.
const PART_ENTRIES: usize = 512;

/// The SHA-256 of a token.
pub(crate) type Hash = [u8; SHA256_BYTES];

struct Entry {
    known: Arc<Known>,
    generation: u64,
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct Cache {
    parts: [Mutex<HashMap<Hash, Entry>>; PARTS],
}

impl Cache {
    pub(crate) fn hash(token: &str) -> Hash {
        sha256(&[token.as_bytes()])
    }

    fn part(&self, hash: &Hash) -> std::sync::MutexGuard<'_, HashMap<Hash, Entry>> {
        let at = hash.first().map_or(0, |byte| usize::from(*byte) % PARTS);
        // PARTS are there for each remainder.
        let part = self.parts.get(at).unwrap_or(&self.parts[0]);
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who was found to own the token, under the rules of this generation.
    pub(crate) fn get(&self, hash: &Hash, generation: u64, now: u64) -> Option<Arc<Known>> {
        let part = self.part(hash);
        let entry = part.get(hash).filter(|entry| entry.generation == generation && entry.holds(now))?;
        Some(entry.known.clone())
    }

    pub(crate) fn put(&self, hash: Hash, generation: u64, known: Arc<Known>, now: u64) {
        let mut part = self.part(&hash);
        if part.len() >= PART_ENTRIES {
            part.retain(|_, entry| entry.generation == generation && entry.holds(now));
            if part.len() >= PART_ENTRIES {
                part.clear();
            }
        }
        part.insert(hash, Entry { known, generation });
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap().len()).sum()
    }
}

impl Entry {
    fn holds(&self, now: u64) -> bool {
        now < self.known.expires.saturating_add(LEEWAY_SECONDS)
    }
}
