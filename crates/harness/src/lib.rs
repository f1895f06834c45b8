//! The runner's side of Beam's Fn API, and the workers behind it.
//!
//! [`Harnesses`] starts a [`Worker`] for an environment and gives the server's adapters what a connection
//! of that worker says and hears. A [`Worker`] runs [`Bundle`]s: elements go in, elements come out, state is
//! asked for, and an answer ends it.
//!
//! Invariant: messages come and go as streams of this process; nothing here names gRPC. Whatever a worker
//! does, dies of or sends, it costs its own job alone: every buffer has a limit in [`limits`], and the end
//! of a worker fails its bundles at once.

mod bundle;
mod descriptor;
mod environment;
mod harnesses;
pub mod limits;
mod logging;
mod source;
mod worker;

pub use bundle::{Bundle, BundleOutput, StateHandler};
pub use environment::{ProcessConfig, WorkerPoolClient, check as check_environment};
pub use harnesses::{HarnessConfig, Harnesses, WorkerSpec};
pub use limits::Limits;
pub use logging::{LogEntry, LogSink};
pub use source::ArtifactSource;
pub use worker::{BundleSpec, Worker};
