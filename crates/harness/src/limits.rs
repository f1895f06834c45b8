//! What a worker may cost.
//!
//! Invariant: every queue, buffer and message of this crate has its limit here.

use std::time::Duration;

/// The largest message of the data and state services, bytes, either way. An element travels whole in one
/// message, so this is also the limit of an element. A SDK's own limit is protobuf's 2 GiB.
pub const MESSAGE_BYTES: usize = 512 * 1024 * 1024;
/// What a message has beyond the elements in it, bytes.
pub(crate) const MESSAGE_MARGIN_BYTES: usize = 64 * 1024;
/// What an element in a bundle's buffer costs besides its bytes.
pub(crate) const QUEUED_OVERHEAD_BYTES: usize = 64;
/// Instructions that wait for a worker to take them.
pub(crate) const INSTRUCTIONS: usize = 1024;
/// Answers of the state service that wait for a worker to take them.
pub(crate) const STATE_RESPONSES: usize = 64;
/// The longest text of an error that a worker sent which is kept, bytes.
pub(crate) const ERROR_BYTES: usize = 64 * 1024;
/// The longest line of a log that is kept, bytes.
pub(crate) const LOG_BYTES: usize = 32 * 1024;
/// What is kept of the end of a process's output for its error, bytes.
pub(crate) const TAIL_BYTES: usize = 4 * 1024;
/// Entries of one message of the log that are read.
pub(crate) const LOG_ENTRIES: usize = 10_000;
/// Processes that wait to become workers.
pub(crate) const SPARE_WORKERS: usize = 1;
/// How long such a process waits.
pub(crate) const SPARE_IDLE: Duration = Duration::from_secs(10 * 60);
/// How long such a process may take to become a worker. It may still be at its imports, on a machine that is busy.
pub(crate) const SPARE_HAND_OVER: Duration = Duration::from_secs(10);
/// Environments nested in environments.
pub(crate) const ENVIRONMENT_DEPTH: usize = 4;

/// The limits that a test or an operator may move.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Elements sent to a worker are gathered to messages of about this size, bytes.
    pub send_bytes: usize,
    /// Messages of elements that wait for a worker to take them.
    pub send_messages: usize,
    /// Elements of one bundle that came and that nobody took yet, bytes. A single larger one passes. By
    /// default it is room for two messages of a Python worker, which sends 10 MiB at a time.
    ///
    /// All bundles of a worker share one stream: while one bundle's buffer is full, the stream is not read
    /// and the other bundles wait as well. So whoever runs bundles must take the outputs of each, whatever
    /// it waits for elsewhere.
    pub bundle_bytes: usize,
    /// Requests for state of one worker that are not answered yet; past it the stream is not read.
    pub state_requests: usize,
    /// How long a worker may take to end by itself once its job has.
    pub stop_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            send_bytes: 1024 * 1024,
            send_messages: 4,
            bundle_bytes: 24 * 1024 * 1024,
            state_requests: 256,
            stop_grace: Duration::from_secs(2),
        }
    }
}
