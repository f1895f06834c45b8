//! The data path: writes, reads, and changes that read first.
//!
//! Invariant: what was acknowledged is durable, and what a read returns is durable too.

pub(crate) mod group;
pub(crate) mod read;
pub(crate) mod rmw;
pub(crate) mod sample;
pub(crate) mod write;
