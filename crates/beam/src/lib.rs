//! Apache Beam's model as a runner needs it: coders, windows, triggers, grouping, timers.
//!
//! Invariant: pure. No I/O, no threads, no clock: bytes and messages in, bytes and messages out. The bytes come
//! from workers that run users' code, so nothing here panics on them, and no length is believed before it is checked.
//!
//! What is not here: assigning windows and combining values (the SDK does both), and watermarks that move step by
//! step (they come with streaming; in batch all elements arrive, then time ends).

pub mod coder;
pub mod elements;
pub mod group;
pub mod merge;
pub mod side;
pub mod time;
pub mod timer;
pub mod trigger;
pub mod urn;
pub mod window;
pub mod windowed;
mod wire;

#[cfg(test)]
mod testing;

pub use coder::Coder;
pub use group::GroupByKey;
