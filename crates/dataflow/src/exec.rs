//! The execution of one job: a pipeline becomes a plan, the plan's nodes run in order, bundles go to workers,
//! and what they give is committed to the job's own sealed space.
//!
//! Invariant: the output of a bundle is committed after the worker said that the bundle is done, once, and
//! never after the job was told to stop. Whoever drops the future of [`run`] stops all that it started.

mod bundle;
mod element;
mod graph;
mod keyed;
mod limits;
mod merge;
mod metrics;
mod residual;
mod run;
mod side;
mod sink;
mod source;
mod stage;
mod state;
mod timers;
mod unit;
mod workers;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use claviger_beam_proto::fn_execution::log_entry::severity::Enum as Severity;
use claviger_beam_proto::pipeline;
use claviger_core::{Clock, Error, Result};
use claviger_fusion::{Plan, PlanOptions};
use claviger_harness::{ArtifactSource, Harnesses, LogEntry};
use claviger_shuffle::Space;
use tokio::sync::watch;

pub use limits::Limits;
pub use metrics::MetricsSnapshot;

/// Asks whether the job's key may be used; the error says why not.
pub type Guard = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// All that a job needs to run.
pub struct JobContext {
    /// The job's id, for workers and messages.
    pub id: String,
    /// What to run.
    pub pipeline: pipeline::Pipeline,
    /// The pipeline's options, as the SDK gave them.
    pub options: prost_types::Struct,
    /// The job's place at rest. The caller removes it when the job is over.
    pub space: Arc<Space>,
    /// Where workers come from.
    pub harnesses: Arc<Harnesses>,
    /// The job's staged files.
    pub artifacts: Arc<dyn ArtifactSource>,
    /// Who hears of the job's progress.
    pub events: Arc<dyn JobEvents>,
    /// Becomes `Some` when the job has to stop: cancelled, or its key is locked. The job ends with that error.
    pub cancel: watch::Receiver<Option<Error>>,
    /// Asked before each bundle and each commit.
    pub guard: Guard,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How much of everything.
    pub limits: Limits,
}

/// How grave a message of a job is, as on the job's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who look for a fault of the runner.
    Debug,
    /// More than most want to know.
    Detailed,
    /// What a job does.
    Basic,
    /// Something that may be wrong.
    Warning,
    /// Why a job failed.
    Error,
}

impl From<Severity> for Level {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Unspecified | Severity::Trace | Severity::Debug => Self::Debug,
            Severity::Info => Self::Detailed,
            Severity::Notice => Self::Basic,
            Severity::Warn => Self::Warning,
            Severity::Error | Severity::Critical => Self::Error,
        }
    }
}

/// Where a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageState {
    /// Its input is complete and its bundles run.
    Running,
    /// All its output is committed.
    Done,
}

/// News of a stage.
#[derive(Clone, Debug)]
pub struct StageProgress {
    /// The name that the plan gave it.
    pub name: String,
    /// Where it is.
    pub state: StageState,
    /// Elements in its input, as far as they are known.
    pub elements: u64,
    /// Bytes in its input.
    pub bytes: u64,
    /// Bundles whose output is committed.
    pub bundles: u64,
}

/// Hears of a job's progress. Calls are quick and never block.
pub trait JobEvents: Send + Sync {
    /// The pipeline is valid and this is how it will run.
    fn planned(&self, plan: &Plan);
    /// A sentence for the job's page.
    fn message(&self, level: Level, text: String);
    /// A stage began or ended.
    fn stage(&self, progress: StageProgress);
    /// The metrics as they are now.
    fn metrics(&self, snapshot: MetricsSnapshot);
    /// A line of a worker's log.
    fn harness_log(&self, entry: LogEntry);
}

/// Runs a job to its end.
///
/// # Errors
/// The pipeline cannot be run (the error names the transform), user code failed (the error carries its step and
/// its trace), workers were lost too often or never came, the key was locked, the disk is full, stored bytes
/// are damaged, or the job was told to stop, with the reason given.
pub async fn run(job: JobContext) -> Result<()> {
    let plan = claviger_fusion::plan(&job.pipeline, &PlanOptions::default())?;
    job.events.planned(&plan);
    let mut cancel = job.cancel.clone();
    let events = job.events.clone();
    let run = run::Run::new(job, plan)?;
    let result = tokio::select! {
        biased;
        reason = stopped(&mut cancel) => Err(reason),
        result = run.execute() => result,
    };
    run.workers.stop().await;
    events.metrics(run.metrics.snapshot());
    result
}

/// Waits until the job has to stop and says why. Without a sender left nobody can stop it: waits for ever.
async fn stopped(cancel: &mut watch::Receiver<Option<Error>>) -> Error {
    let reason = match cancel.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone(),
        Err(_) => None,
    };
    match reason {
        Some(reason) => reason,
        None => std::future::pending().await,
    }
}
