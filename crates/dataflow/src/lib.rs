//! Pipeline jobs: their life, their key, their execution.
//!
//! A job comes by Beam's Job API or by the Dataflow API and is the same thing from there on: a *head* that the
//! platform keeps, and all else sealed in a scope of the job's own, under its customer's key.
//!
//! ```text
//! Dataflow    what jobs there are; takes new ones (create), finds them after a restart (open)
//!  '- Job     one: its states, messages, metrics (job, journal), its run (life)
//!      '- exec  the plan, the bundles, the workers
//! ```
//!
//! Invariant: nothing here names a wire format, a cipher or a disk; the pipeline's own messages are the domain.
//! A job's state is durable before it is seen to have ended. Without its key nothing but its head can be read.

mod artifacts;
mod create;
pub mod exec;
pub mod files;
mod id;
mod job;
mod journal;
pub mod kept;
mod keys;
mod life;
mod measures;
mod model;
mod open;
mod options;
mod vault;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use claviger_cmek::Manager;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Clock, Error, Result};
use claviger_harness::Harnesses;
use claviger_sealed::Records;
use claviger_shuffle::Budget;
use object_store::ObjectStore;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub use artifacts::Staging;
pub use create::{Graph, JobSpec, Origin};
pub use files::CloudFiles;
pub use id::JobId;
pub use job::{Event, Follower, Job};
pub use kept::{Description, Importance, JobMessage, StageInfo, StageLife, StepInfo, Story, Work};
pub use measures::Measure;
pub use model::{Api, Head, JobState, Reason, Sdk, StateChange};
pub use options::Options;

use exec::{JobContext, Limits};

/// The directory of all jobs' scopes, and the first part of their names.
const SCOPES: &str = "dataflow";
/// Jobs that run at the same time; others wait.
const RUNNING_AT_ONCE: usize = 32;
/// Jobs that a server keeps; the oldest that ended go first.
const JOBS: usize = 10_000;
/// Jobs that are prepared and not told to run; the oldest go first.
const PREPARED: usize = 256;
/// Jobs that ended whose messages and metrics are in memory.
const LOADED: usize = 64;

/// What jobs ask of the key service that the keys' lifecycle does not cover.
#[async_trait]
pub trait KeyDirectory: Send + Sync {
    /// The identity in whose name the keys of a project's jobs are used.
    ///
    /// # Errors
    /// When the project's number could not be assigned.
    async fn agent(&self, project: &str) -> Result<Caller>;

    /// The key that protects what has no customer's key in a region, and who may use it.
    ///
    /// # Errors
    /// When it could not be made.
    async fn managed_key(&self, region: &str) -> Result<(CryptoKeyName, Caller)>;

    /// Whether the policies of a project let something new be under a key, or under none of the customer's.
    /// `operation` names what makes it. Where nobody keeps policies, all is let.
    ///
    /// # Errors
    /// The policy's refusal; silence when whoever keeps the policies does not answer.
    async fn admit(&self, _project: &str, _key: Option<&CryptoKeyName>, _operation: &str) -> Result<()> {
        Ok(())
    }
}

/// Runs jobs: [`Executor`], but for tests.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Runs a job to its end.
    ///
    /// # Errors
    /// As [`exec::run`].
    async fn run(&self, job: JobContext) -> Result<()>;
}

/// Runs jobs by [`exec::run`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Executor;

#[async_trait]
impl Runner for Executor {
    async fn run(&self, job: JobContext) -> Result<()> {
        Box::pin(exec::run(job)).await
    }
}

/// What jobs stand on.
pub struct Config {
    /// The disk, or what serves as one; all that is written there is sealed.
    pub files: Arc<dyn ObjectStore>,
    /// The records of which jobs there are.
    pub records: Arc<Records>,
    /// The scopes and their keys.
    pub keys: Arc<Manager>,
    /// Service agents and managed keys.
    pub directory: Arc<dyn KeyDirectory>,
    /// Files behind `gs://` names; none where no buckets are served.
    pub cloud: Option<Arc<dyn CloudFiles>>,
    /// Where workers come from.
    pub harnesses: Arc<Harnesses>,
    /// Runs the jobs.
    pub runner: Arc<dyn Runner>,
    /// The memory that all shuffles share.
    pub budget: Arc<Budget>,
    /// How much of everything a job may have.
    pub limits: Limits,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Refuses with `ResourceExhausted` while the disk is too full for another job.
    pub room: Arc<dyn Fn() -> Result<()> + Send + Sync>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The jobs of a server; see the crate's text.
pub struct Dataflow {
    shared: Arc<Shared>,
}

/// What all jobs share.
struct Shared {
    config: Config,
    jobs: Mutex<BTreeMap<JobId, Arc<Job>>>,
    /// Which job a staging token belongs to.
    tokens: Mutex<HashMap<String, JobId>>,
    /// Jobs that ended and are loaded; the one that was loaded first stands first.
    loaded: Mutex<VecDeque<Arc<Job>>>,
    turns: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl fmt::Debug for Dataflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataflow").field("jobs", &lock(&self.shared.jobs).len()).finish_non_exhaustive()
    }
}

impl Dataflow {
    /// A job.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no id, `NotFound`.
    pub fn job(&self, id: &str) -> Result<Arc<Job>> {
        let id = JobId::parse(id)?;
        let found = lock(&self.shared.jobs).get(&id).cloned();
        found.ok_or_else(|| Error::not_found(format!("Job not found: {id}")))
    }

    /// All jobs, the newest first. One that is being made shows once it has its key.
    #[must_use]
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        lock(&self.shared.jobs).values().rev().filter(|job| job.is_made()).cloned().collect()
    }

    /// Stops all jobs, as a restart would: those that run end as failed when the server starts again.
    pub async fn close(&self) {
        let stopping = Error::new(claviger_core::ErrorKind::Unavailable, "the server is being stopped");
        let jobs: Vec<_> = lock(&self.shared.jobs).values().cloned().collect();
        for job in jobs {
            job.halt(&stopping);
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
