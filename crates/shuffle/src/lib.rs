//! What a pipeline keeps between its stages: logs of elements and shuffles by key, sealed when they are
//! at rest, under one cap of memory for all jobs.
//!
//! ```text
//! Budget   the cap: who holds most gives way first
//! Space    a job's place at rest: its files, its blobs, its guard
//!  |- Log      elements in the order of their bundles, read in parts
//!  '- Shuffle  records grouped by key, read by partition, ordered by (sort, arrival)
//! ```
//!
//! A bundle writes through a writer of its own. What it wrote shows when it commits, and leaves nothing
//! when it does not. Small data stays in memory; what does not fit goes to the job's object store, which
//! seals it, keys and all. `docs/formats-shuffle.md` has the layout.
//!
//! Invariant: nothing here touches a disk but through the given store, and the guard is asked before each
//! commit, each piece that is stored and each block that is read. No queue waits for room that only its
//! own waiter could make: whoever finds the memory full stores what it or another one holds.

pub mod block;
mod budget;
mod extent;
mod log;
mod shuffle;
mod space;
#[cfg(test)]
mod testing;

pub use budget::Budget;
pub use log::{Log, LogReader, LogWriter};
pub use shuffle::{Shuffle, ShuffleReader, ShuffleWriter, Step};
pub use space::{BlobInfo, BlobWriter, Guard, Space, Stats};
