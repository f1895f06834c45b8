//! How a job runs, from being told to until its last state.
//!
//! Invariant: whatever happens, a job that began comes to a last state, with a reason, and nothing that it worked
//! with is left. After the lock of its key nothing of it is written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use claviger_beam_proto::pipeline::Pipeline;
use claviger_cmek::{Lock, Scope};
use claviger_core::{Error, ErrorKind, Result};
use futures::StreamExt as _;
use prost::Message as _;
use sha2::{Digest, Sha256};

use crate::artifacts::{Staging, hex};
use crate::create::Graph;
use crate::exec::{JobContext, Limits};
use crate::files::CloudName;
use crate::job::{Input, Job};
use crate::journal::Recorder;
use crate::kept::Importance;
use crate::keys;
use crate::lock;
use crate::model::{Api, JobState};
use crate::options::Options;

/// How often what a running job said is written.
const WRITE_STORY: Duration = Duration::from_secs(3);
/// A pipeline's graph, bytes.
const GRAPH_BYTES: u64 = 256 << 20;
/// Bundles at once that an option may ask for.
const MOST_BUNDLES: u64 = 256;

impl Job {
    /// Runs a prepared job. Returns once it is durable that it was told to; a job that ended already stays
    /// as it is.
    ///
    /// # Errors
    /// `FailedPrecondition` when it runs already; when the record could not be written.
    pub async fn run(self: &Arc<Self>) -> Result<()> {
        if !self.begin() {
            if self.state().is_terminal() {
                return Ok(());
            }
            return Err(Error::precondition(format!("The job {} was told to run already.", self.id())));
        }
        let job = self.clone();
        self.shared.tasks.spawn(async move { job.live().await });
        self.save().await
    }

    async fn live(self: Arc<Self>) {
        let mut cancel = self.cancel.subscribe();
        let job = self.clone();
        // A task of its own: a panic in it is an error of this job.
        let mut work = tokio::spawn(async move { job.work_through().await });
        let outcome = {
            let lock_watch = self.stop_when_locked();
            let outcome = tokio::select! {
                outcome = &mut work => outcome,
                // While bundles run, the run itself stops them. Before that nobody else would.
                Some(reason) = stopped_early(&self, &mut cancel) => {
                    work.abort();
                    let _ = (&mut work).await;
                    Ok(Err(reason))
                }
            };
            drop(lock_watch);
            outcome
        };
        let outcome = outcome.unwrap_or_else(|panic| {
            Err(Error::internal("The server failed while it ran the job.").because(panic))
        });
        self.finish(outcome).await;
    }

    /// Stops the job as soon as its key is locked.
    fn stop_when_locked(self: &Arc<Self>) -> Option<AbortOnDrop> {
        let scope = self.scope()?.clone();
        let mut watch = scope.watch();
        watch.mark_changed();
        let job = self.clone();
        let task = tokio::spawn(async move {
            loop {
                if *watch.borrow_and_update() == Lock::Locked {
                    job.locked(&scope);
                    return;
                }
                if watch.changed().await.is_err() {
                    return;
                }
            }
        });
        Some(AbortOnDrop(task))
    }

    fn locked(&self, scope: &Scope) {
        let why = scope.guard().err().unwrap_or_else(|| Error::precondition("The job's key was locked."));
        // It may be told without the key, since it says nothing of what the key protects.
        let text = self.in_words(why.message());
        self.change_head(|head| {
            if head.reason.is_none() && !head.state().is_terminal() {
                head.lock_reason = Some(text);
            }
        });
        self.unload();
        self.cancel.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(why);
            first
        });
    }

    /// The text of a failure, as the API that the job came by begins it.
    fn in_words(&self, why: &str) -> String {
        match self.head().api {
            Api::Dataflow if !why.starts_with(keys::FAILED) => format!("{}{why}", keys::FAILED),
            _ => why.to_owned(),
        }
    }

    async fn work_through(self: Arc<Self>) -> Result<()> {
        let _turn = match self.shared.turns.clone().try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => {
                self.say(Importance::Basic, "The job waits for others to end.".to_owned());
                let turn = self.shared.turns.clone().acquire_owned().await;
                turn.map_err(|closed| Error::internal("no job can run any more").because(closed))?
            }
        };
        let scope = self.scope().cloned().ok_or_else(|| Error::internal("the job has no scope"))?;
        scope.guard()?;
        let input = lock(&self.input).take().ok_or_else(|| Error::internal("the job has no input"))?;
        let pipeline = Box::pin(self.prepare(&input)).await?;
        let writing = {
            let job = self.clone();
            async move { job.write_description().await }
        };
        let running = Box::pin(self.run_bundles(scope, pipeline, input.options));
        let (written, ran) = tokio::join!(writing, running);
        ran.and(written)
    }

    /// Gets what a job of the Dataflow API is made of: its graph and its files, from buckets.
    async fn prepare(self: &Arc<Self>, input: &Input) -> Result<Pipeline> {
        self.check_temp_bucket(input).await?;
        let pipeline = match (&input.pipeline, &input.graph) {
            (Some(pipeline), _) => return Ok(pipeline.clone()),
            (None, Some(graph)) => self.fetch(graph).await?,
            (None, None) => return Err(Error::invalid("The job has no pipeline.")),
        };
        self.describe(&pipeline);
        let staging = Staging::new(self.clone());
        let environments = pipeline.components.iter().flat_map(|components| components.environments.values());
        let mut taken = Vec::new();
        for info in environments.flat_map(|environment| &environment.dependencies) {
            if taken.contains(info) {
                continue;
            }
            if !staging.take(info).await? {
                return Err(Error::invalid(
                    "A staged file of the job is neither in a bucket (gs://) nor in the pipeline itself.",
                ));
            }
            taken.push(info.clone());
        }
        if !taken.is_empty() {
            self.say(Importance::Detailed, format!("{} staged files were taken.", taken.len()));
        }
        Ok(pipeline)
    }

    async fn check_temp_bucket(&self, input: &Input) -> Result<()> {
        let Some(temp) = input.temp_location.as_deref().and_then(CloudName::parse) else { return Ok(()) };
        let bucket = self.cloud(&temp)?.bucket(&temp.bucket).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::precondition(format!(
                "The temp location {temp} cannot be used: the bucket gs://{} does not exist.",
                temp.bucket
            )),
            _ => error,
        })?;
        let head = self.head();
        if head.kms_key.is_some() {
            keys::check_bucket(&temp.bucket, &bucket, &head.location)?;
        }
        Ok(())
    }

    async fn fetch(&self, graph: &Graph) -> Result<Pipeline> {
        let name = CloudName::file(&graph.url)?;
        let failed = |error: Error| {
            Error::new(error.kind(), format!("The pipeline {name} cannot be read: {}", error.message()))
                .because(error)
        };
        let (length, mut pieces) =
            self.cloud(&name)?.open(&name.bucket, &name.object).await.map_err(failed)?;
        if length > GRAPH_BYTES {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("The pipeline {name} has {length} bytes, and at most {GRAPH_BYTES} are taken."),
            ));
        }
        let mut bytes = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.map_err(failed)?);
        }
        let bytes: Bytes = bytes.freeze();
        let found = hex(&Sha256::digest(&bytes));
        if !graph.sha256.is_empty() && !graph.sha256.eq_ignore_ascii_case(&found) {
            return Err(Error::invalid(format!(
                "The pipeline {name} is corrupt: its SHA-256 is {found} and should be {}.",
                graph.sha256
            )));
        }
        Pipeline::decode(bytes)
            .map_err(|error| Error::invalid(format!("The file {name} is not a pipeline.")).because(error))
    }

    async fn run_bundles(
        self: &Arc<Self>,
        scope: Arc<Scope>,
        pipeline: Pipeline,
        options: Options,
    ) -> Result<()> {
        let config = &self.shared.config;
        let space = self.work().await?;
        let artifacts = self.shelf().await?;
        let limits = limits(&config.limits, &options);
        let guarded = scope.clone();
        let context = JobContext {
            id: self.id().to_string(),
            pipeline,
            options: options.for_workers(),
            space,
            harnesses: config.harnesses.clone(),
            artifacts,
            events: Arc::new(Recorder(self.clone())),
            cancel: self.cancel.subscribe(),
            guard: Arc::new(move || guarded.guard()),
            clock: config.clock.clone(),
            limits,
        };
        if !self.moved(JobState::Running) {
            return Err(crate::job::user_cancelled());
        }
        let mut run = config.runner.run(context);
        loop {
            tokio::select! {
                outcome = &mut run => return outcome,
                () = config.clock.sleep(WRITE_STORY) => self.write_story().await?,
            }
        }
    }

    /// Comes to the last state.
    pub(crate) async fn finish(self: &Arc<Self>, outcome: Result<()>) {
        self.clear_work().await;
        lock(&self.input).take();
        let locked = self.scope().and_then(|scope| scope.guard().err());
        let (state, reason) = match &outcome {
            Ok(()) => (JobState::Done, None),
            Err(_) if locked.is_some() || self.head().lock_reason.is_some() => {
                let now = locked.as_ref().map(|error| self.in_words(error.message()));
                (JobState::Failed, self.head().lock_reason.or(now))
            }
            Err(_) if self.cancelled.load(Ordering::Relaxed) => {
                self.say(Importance::Basic, "The job was cancelled.".to_owned());
                (JobState::Cancelled, None)
            }
            Err(_) if self.halted.load(Ordering::Relaxed) => {
                (JobState::Failed, Some(self.in_words("The server was stopped while the job ran.")))
            }
            Err(error) => {
                if matches!(error.kind(), ErrorKind::Internal | ErrorKind::DataLoss) {
                    tracing::error!(job = %self.id(), kind = ?error.kind(), "a job failed");
                }
                self.say(Importance::Error, self.in_words(error.message()));
                (JobState::Failed, None)
            }
        };
        self.close_journal();
        if locked.is_some() {
            self.unload();
        } else if self.scope().is_some()
            && let Err(error) = self.write_story().await
        {
            tracing::warn!(job = %self.id(), %error, "what a job said could not be stored");
        }
        self.ended(state, reason).await;
        tracing::info!(job = %self.id(), ?state, "a job ended");
        self.keep_loaded();
        let job = self.clone();
        self.shared.tasks.spawn(async move { job.close_kept().await });
    }
}

/// Returns when the job has to stop and does not run bundles, which stop by themselves.
async fn stopped_early(
    job: &Arc<Job>,
    cancel: &mut tokio::sync::watch::Receiver<Option<Error>>,
) -> Option<Error> {
    let reason = match cancel.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone(),
        Err(_) => None,
    };
    match reason {
        Some(reason) if job.head().started.is_none() => Some(reason),
        _ => std::future::pending().await,
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The server's limits, with what the pipeline's options ask for.
fn limits(server: &Limits, options: &Options) -> Limits {
    let mut limits = server.clone();
    if let Some(threads) = options.number("number_of_worker_harness_threads").filter(|threads| *threads > 0) {
        limits.bundles_at_once = usize::try_from(threads.min(MOST_BUNDLES)).unwrap_or(1);
    }
    limits
}
