//! All workers of a server: started here, and found again when they connect.
//!
//! Invariant: only a worker that was started here may connect, each stream once, and only until it ends.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use claviger_beam::urn::protocol;
use claviger_beam_proto::fn_execution::{
    Elements, InstructionRequest, InstructionResponse, ProcessBundleDescriptor, ProvisionInfo, StateRequest,
    StateResponse, log_entry,
};
use claviger_beam_proto::pipeline::Environment;
use claviger_core::{Clock, Error, ErrorKind, Result};
use futures::stream::BoxStream;
use prost_types::Struct;
use tokio::sync::watch;

use crate::descriptor::service;
use crate::environment::{Kind, Launcher, ProcessConfig, Started, WorkerPoolClient};
use crate::limits::Limits;
use crate::logging::LogSink;
use crate::source::ArtifactSource;
use crate::worker::{Core, CoreSpec, Life, Worker, unavailable};

/// What workers may rely on beyond the least: small outputs within an answer, metrics by short ids (see
/// [`Worker::monitoring_infos`]), and all of a multimap side input at once. A worker that is not told, as
/// one in LOOPBACK mode, does without.
const CAPABILITIES: [&str; 3] = [
    protocol::CONTROL_RESPONSE_ELEMENTS_EMBEDDING,
    protocol::MONITORING_INFO_SHORT_IDS,
    protocol::MULTIMAP_KEYS_VALUES_SIDE_INPUT,
];

/// What [`Harnesses`] is made of.
pub struct HarnessConfig {
    /// Where workers find our services, as `HOST:PORT`.
    pub endpoint: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Asks the worker pools of EXTERNAL environments.
    pub pools: Arc<dyn WorkerPoolClient>,
    /// How local processes are run.
    pub processes: ProcessConfig,
    /// Limits.
    pub limits: Limits,
}

/// A worker to start.
pub struct WorkerSpec {
    /// The job, as its name begins the worker's.
    pub job_id: String,
    /// Where the worker's code runs.
    pub environment: Environment,
    /// The pipeline's options.
    pub options: Struct,
    /// The files that the environment needs.
    pub artifacts: Arc<dyn ArtifactSource>,
    /// Takes what the worker logs.
    pub logs: Arc<dyn LogSink>,
    /// How long the worker may take from its launch until it connects.
    pub connect_timeout: Duration,
}

/// All workers of a server.
pub struct Harnesses {
    endpoint: String,
    clock: Arc<dyn Clock>,
    limits: Limits,
    launcher: Launcher,
    registry: Arc<Registry>,
}

/// The workers that may connect.
#[derive(Default)]
pub(crate) struct Registry(Mutex<HashMap<String, Arc<Core>>>);

impl Registry {
    fn insert(&self, core: Arc<Core>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(core.id.clone(), core);
    }

    pub(crate) fn remove(&self, id: &str) {
        let removed = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        // Dropped with the lock released.
        drop(removed);
    }

    /// Whether a worker is on its way.
    fn is_starting(&self) -> bool {
        let cores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cores.values().any(|core| matches!(*core.life.borrow(), Life::Starting))
    }

    fn find(&self, id: &str) -> Result<Arc<Core>> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        found.ok_or_else(|| Error::permission_denied("no worker of this id is expected here"))
    }
}

impl Harnesses {
    /// No worker yet. Removes what the workers of an earlier process left behind in memory.
    #[must_use]
    pub fn new(config: HarnessConfig) -> Arc<Self> {
        Arc::new(Self {
            launcher: Launcher::new(config.pools, config.processes, config.clock.clone()),
            endpoint: config.endpoint,
            clock: config.clock,
            limits: config.limits,
            registry: Arc::default(),
        })
    }

    /// Starts a worker and waits until it has connected. Dropping the future ends the worker.
    ///
    /// # Errors
    /// `InvalidArgument` or `Unimplemented` for an environment that cannot be run; `FailedPrecondition` when
    /// the machine lacks what it needs; `Unavailable` when the worker ended before it connected, with the end
    /// of what it wrote; `DeadlineExceeded` when it did not connect in time.
    pub async fn start(&self, spec: WorkerSpec) -> Result<Arc<Worker>> {
        let kind = Kind::of(&spec.environment)?;
        let core = Core::new(CoreSpec {
            id: worker_id(&spec.job_id),
            environment: kind.to_string(),
            endpoint: self.endpoint.clone(),
            options: spec.options,
            artifacts: spec.artifacts,
            logs: spec.logs,
            clock: self.clock.clone(),
            limits: self.limits.clone(),
            registry: Arc::downgrade(&self.registry),
        });
        self.registry.insert(core.clone());
        let (stopped, is_stopped) = watch::channel(false);
        // From here on its drop ends the worker.
        let worker = Worker::new(core.clone(), is_stopped);
        let prepared = self.launcher.prepare(kind, &core).await?;
        let connect = async {
            let started = prepared.start(&core).await?;
            tokio::spawn(watch_over(core.clone(), started, stopped, Arc::downgrade(&self.registry)));
            let mut life = core.life.subscribe();
            let connected = life.wait_for(|life| !matches!(life, Life::Starting)).await;
            match connected.as_deref() {
                Ok(Life::Connected) => Ok(()),
                _ => Err(core.reason()),
            }
        };
        let connected = tokio::select! {
            biased;
            connected = connect => connected,
            () = self.clock.sleep(spec.connect_timeout) => Err(Error::new(
                ErrorKind::DeadlineExceeded,
                format!(
                    "the worker for {} did not connect within {:?}",
                    core.environment, spec.connect_timeout
                ),
            )),
        };
        match connected {
            Ok(()) => Ok(Arc::new(worker)),
            Err(error) => {
                let error = match core.tail() {
                    Some(tail) if error.kind() == ErrorKind::DeadlineExceeded => {
                        Error::new(error.kind(), format!("{error}; its last output:\n{tail}"))
                    }
                    _ => error,
                };
                core.end(error.clone());
                Err(error)
            }
        }
    }

    /// A worker connects its control stream.
    ///
    /// # Errors
    /// `PermissionDenied` for a worker that is not expected; `AlreadyExists` for a second stream.
    pub fn control(
        &self,
        worker_id: &str,
        responses: BoxStream<'static, Result<InstructionResponse>>,
    ) -> Result<BoxStream<'static, InstructionRequest>> {
        self.registry.find(worker_id)?.connect_control(responses)
    }

    /// A worker asks for the descriptor of a stage.
    ///
    /// # Errors
    /// `PermissionDenied` for a worker that is not expected; `NotFound` for a stage that is not the worker's.
    pub fn descriptor(&self, worker_id: &str, id: &str) -> Result<ProcessBundleDescriptor> {
        let found = self.registry.find(worker_id)?.descriptor(id);
        let found = found.ok_or_else(|| Error::not_found(format!("no stage '{id}' was sent to this worker")));
        Ok(found?.descriptor.clone())
    }

    /// A worker connects its stream of elements.
    ///
    /// # Errors
    /// As [`Harnesses::control`].
    pub fn data(
        &self,
        worker_id: &str,
        incoming: BoxStream<'static, Result<Elements>>,
    ) -> Result<BoxStream<'static, Elements>> {
        self.registry.find(worker_id)?.connect_data(incoming)
    }

    /// A worker connects a stream of state.
    ///
    /// # Errors
    /// `PermissionDenied` for a worker that is not expected.
    pub fn state(
        &self,
        worker_id: &str,
        requests: BoxStream<'static, Result<StateRequest>>,
    ) -> Result<BoxStream<'static, StateResponse>> {
        Ok(self.registry.find(worker_id)?.connect_state(requests))
    }

    /// A worker's log; the returned future ends with it.
    ///
    /// # Errors
    /// `PermissionDenied` for a worker that is not expected.
    pub fn logging(
        &self,
        worker_id: &str,
        lists: BoxStream<'static, Result<log_entry::List>>,
    ) -> Result<impl Future<Output = ()> + Send + 'static> {
        let core = self.registry.find(worker_id)?;
        Ok(async move { core.read_log(lists).await })
    }

    /// What a worker must know before it connects.
    ///
    /// # Errors
    /// `PermissionDenied` for a worker that is not expected; those of its artifacts' source.
    pub async fn provision_info(&self, worker_id: &str) -> Result<ProvisionInfo> {
        let core = self.registry.find(worker_id)?;
        Ok(ProvisionInfo {
            pipeline_options: Some(core.options.clone()),
            logging_endpoint: Some(service(&core.endpoint)),
            artifact_endpoint: Some(service(&core.endpoint)),
            control_endpoint: Some(service(&core.endpoint)),
            dependencies: core.artifacts.list().await?,
            runner_capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            ..ProvisionInfo::default()
        })
    }

    /// The files that a worker may fetch.
    ///
    /// # Errors
    /// `PermissionDenied` for a worker that is not expected.
    pub fn artifacts(&self, worker_id: &str) -> Result<Arc<dyn ArtifactSource>> {
        Ok(self.registry.find(worker_id)?.artifacts.clone())
    }
}

impl fmt::Debug for Harnesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harnesses").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A name that nobody guesses: whoever knows it may connect. It is also a folder's name.
fn worker_id(job: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let job: String = job.trim_start_matches('.').chars().take(80).map(safe).collect();
    format!("{job}-{}", uuid::Uuid::new_v4().simple())
}

/// Ends a worker whose connection breaks or whose process exits, and clears up behind one that ended.
async fn watch_over(
    core: Arc<Core>,
    mut started: Started,
    stopped: watch::Sender<bool>,
    registry: Weak<Registry>,
) {
    let why = tokio::select! {
        () = core.ended.cancelled() => Why::Ended,
        error = started.exited() => Why::Exited(error),
        error = broken(&core) => Why::Broken(error),
    };
    match why {
        Why::Ended => {}
        Why::Exited(error) => core.end(error),
        Why::Broken(error) => core.end(started.explain(error).await),
    }
    let refill = started.stop().await;
    stopped.send_replace(true);
    // A spare is of use where its like was, and not while a worker that is on its way needs the processor.
    let of_use = core.was_connected() && registry.upgrade().is_some_and(|workers| !workers.is_starting());
    if let Some(refill) = refill.filter(|_| of_use) {
        refill.now();
    }
}

/// Why the watch over a worker is over.
enum Why {
    Ended,
    Exited(Error),
    Broken(Error),
}

/// Returns when the worker's connection is gone.
async fn broken(core: &Core) -> Error {
    let mut broken = core.broken.subscribe();
    let broken = broken.wait_for(Option::is_some).await;
    let error = broken.ok().and_then(|error| error.clone());
    error.unwrap_or_else(|| unavailable(format!("worker {} was lost", core.id)))
}
