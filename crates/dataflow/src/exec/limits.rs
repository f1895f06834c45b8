//! How much of everything a job may have at once.
//!
//! Invariant: each queue and buffer of the executor has its limit here.

use std::time::Duration;

/// A plan's nodes that run at the same time.
pub(super) const NODES_AT_ONCE: usize = 4;
/// Partitions of a shuffle: the most units that a grouped input can be read in.
pub(super) const SHUFFLE_PARTITIONS: usize = 32;
/// Elements are handed on in pieces of about this size.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;
/// An input smaller than this is one bundle until it proves slow.
pub(super) const SMALL_INPUT_BYTES: u64 = 1024 * 1024;
/// A page of state or of a side input aims at this size.
pub(super) const STATE_PAGE_BYTES: usize = 1024 * 1024;
/// How often a running stage is looked at: progress, and slow bundles that can be split.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// A bundle that runs longer than this is split when others could help.
pub(super) const SPLIT_AFTER: Duration = Duration::from_secs(1);
/// Where a plan's outputs may go through flattens, per output.
pub(super) const TARGETS_PER_OUTPUT: usize = 4096;
/// Open readers of a side input that is too large for memory.
pub(super) const SIDE_CURSORS: usize = 16;
/// An error text of user code keeps this many bytes.
pub(super) const ERROR_TEXT_BYTES: usize = 64 * 1024;
/// Keys whose windows the SDK is asked to merge at once.
pub(super) const MERGE_KEYS: usize = 1000;
/// Values of keys whose windows wait for the SDK, bytes; a single key may have more.
pub(super) const MERGE_BYTES: usize = 16 * 1024 * 1024;
/// How often one piece of work is given to another worker; workers count their losses, too.
pub(super) const WORKER_RETRIES: u32 = 8;
/// Keys of the monitoring infos that a job keeps.
pub(super) const METRIC_CELLS: usize = 100_000;

/// The limits that a caller may set; the defaults suit a machine of a few cores.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bundles of one worker at the same time.
    pub bundles_at_once: usize,
    /// Input of one bundle, bytes, about.
    pub bundle_bytes: u64,
    /// Elements of a stateful stage that share a bundle, bytes, about; a key's elements always do.
    pub keyed_batch_bytes: usize,
    /// Keys of a stateful stage that share a bundle.
    pub keyed_batch_keys: usize,
    /// Side inputs held in memory by a job, bytes.
    pub side_input_bytes: usize,
    /// User state held in memory by a job, bytes.
    pub state_bytes: usize,
    /// Timers held in memory by one bundle's keys, bytes.
    pub timer_bytes: usize,
    /// Work that splittable functions put off, held in memory by a stage, bytes.
    pub residual_bytes: usize,
    /// Workers of one environment that may be lost before the job fails.
    pub worker_losses: u32,
    /// How long a worker may take to connect.
    pub connect_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            bundles_at_once: cores.clamp(2, 12),
            bundle_bytes: 64 << 20,
            keyed_batch_bytes: 8 << 20,
            keyed_batch_keys: 10_000,
            side_input_bytes: 256 << 20,
            state_bytes: 256 << 20,
            timer_bytes: 64 << 20,
            residual_bytes: 64 << 20,
            worker_losses: 3,
            connect_timeout: Duration::from_secs(120),
        }
    }
}
