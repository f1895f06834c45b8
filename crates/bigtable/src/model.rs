//! Bigtable's data model, pure: how a row is stored, changed, merged, collected, filtered and sent.
//!
//! Invariant: nothing here is async, does I/O, reads a clock or draws a random number. Every function is
//! a function of its arguments, and none panics on bytes that it did not write itself.
//!
//! A row is stored as one value, a [`patch`]. Writes are patches too; [`mod@merge`] folds them, oldest first,
//! into one. A read turns the patch into [`Cell`]s ([`row`]), which the family's garbage-collection rule
//! ([`gc`]) and the request's [`filter`] thin out, and the [`chunk`]er cuts them for the wire.

pub mod chunk;
pub mod collect;
pub mod filter;
pub mod gc;
pub mod merge;
pub mod merge_operator;
pub mod mutation;
pub mod patch;
pub mod read_modify_write;
pub mod row;
pub mod row_set;
pub mod schema;
mod wire;

pub use chunk::{Chunk, Chunker};
pub use collect::{Collected, collect};
pub use filter::{Filter, FilterSpec};
pub use gc::GcRule;
pub use merge::{merge, merge_many};
pub use merge_operator::RowMergeOperator;
pub use mutation::{Mutation, TimestampRange, encode_patch};
pub use patch::{CellRef, DeletedColumn, RowPatch, TimeRange};
pub use read_modify_write::{Modified, Rule, RuleChange, read_modify_write};
pub use row::read_row;
pub use row_set::{KeyRange, RowSet, Span};
pub use schema::{Cell, Families, Family, FamilyId, FamilyRank};
