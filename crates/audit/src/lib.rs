//! The audit log: who used or changed which key, and what came of it.
//!
//! Invariant: entries are numbered from 1 without gaps, their times never go back along the numbers,
//! and an entry that is there is never written again. An append is durable when it returns.
//! Over the stored entries there is a Merkle tree; [`tlog`] has its proofs, its signed checkpoints and the check of a copy.
//! This crate does not know what it logs. [`Filter`] is the language in which people ask for entries of logs; what
//! an entry shows is up to whoever serves them ([`Fields`]).

mod entry;
mod filter;
mod log;
pub mod tlog;

pub use entry::Entry;
pub use filter::{Fields, Filter, Value};
pub use log::{AuditLog, MAX_PAGE, Order, Scan};
