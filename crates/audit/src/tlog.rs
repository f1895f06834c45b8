//! Transparency logs as C2SP specifies them: the tree of RFC 6962, its tiles, signed checkpoints and the checks that
//! a copy of a log must pass.
//!
//! | module | after |
//! | --- | --- |
//! | `tree`, `proof` | RFC 6962 section 2.1, RFC 9162 section 2.1 |
//! | `tile`, `bundle` | <https://c2sp.org/tlog-tiles> |
//! | `note` | <https://c2sp.org/signed-note> |
//! | `checkpoint` | <https://c2sp.org/tlog-checkpoint>, <https://c2sp.org/tlog-cosignature> |
//! | `evidence` | <https://c2sp.org/tlog-proof> |
//!
//! Invariant: nothing here knows what an entry says. Entries are numbered from 1, as everywhere in this crate; the
//! index of an entry in the tree is one less. Whatever bytes arrive, no parser panics, and there is one form of each
//! thing that is read.

mod bundle;
mod checkpoint;
mod edge;
mod evidence;
mod note;
mod proof;
mod tile;
mod tree;
mod verify;

pub use bundle::{Bundle, LEAF_BYTES, encode as encode_bundle};
pub use checkpoint::{Checkpoint, LogKey, SignedCheckpoint};
pub use edge::{Edge, FullTile};
pub use evidence::{Evidence, Source, prove, root_at};
pub use note::{KeyKind, MAX_NOTE_BYTES, Note, NoteSignature, VerifierKey};
pub use proof::{Proof, consistency_ranges, inclusion_ranges};
pub use tile::{Contents, TILE_WIDTH, Tile};
pub use tree::{Hash, fold, peaks};
pub use verify::{Finding, Report, Task, verify, verify_hashes};

#[cfg(test)]
pub(crate) use checkpoint::tests::witness as test_witness;

/// Where a log's newest checkpoint is.
pub const CHECKPOINT_PATH: &str = "checkpoint";

/// A decimal number without needless digits.
fn number(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}
