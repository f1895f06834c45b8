//! Everything at rest: an object store that encrypts, the local disk under it, and databases on top.
//!
//! Invariant: this is the only crate that touches a disk, and what it writes is sealed.

pub mod append;
mod buffers;
pub mod engine;
mod error;
mod local;
mod parts;
mod records;
pub mod scope;
pub mod store;
mod varint;

pub use error::{Change, Tamper, from_store, is_no_space, lock_error, tamper};
pub use local::{LocalStore, Uncached};
pub use parts::Writing;
pub use records::{RecordBatch, Records};
pub use scope::{FixedKey, KeyId, ScopeId, ScopeKey, ScopeKeys};
pub use store::{SealedOptions, SealedStore};
