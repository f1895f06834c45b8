//! The job's workers: one for each environment, started when it is first needed, started again when it is
//! lost.
//!
//! Invariant: a worker that could not be started fails the job: nobody tries again behind its back. Losses
//! are counted for each environment, whoever noticed them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use claviger_beam_proto::fn_execution::ProcessBundleResponse;
use claviger_beam_proto::pipeline::{Environment, MonitoringInfo};
use claviger_core::{Error, ErrorKind, Result};
use claviger_harness::{ArtifactSource, Harnesses, LogEntry, LogSink, Worker, WorkerSpec};
use tokio::sync::Semaphore;

use super::{JobEvents, Level, Limits};

/// The workers of one job.
pub(super) struct Workers {
    job: String,
    options: prost_types::Struct,
    harnesses: Arc<Harnesses>,
    artifacts: Arc<dyn ArtifactSource>,
    events: Arc<dyn JobEvents>,
    limits: Limits,
    places: BTreeMap<String, Place>,
}

/// One environment.
struct Place {
    environment: Environment,
    slots: Arc<Semaphore>,
    state: tokio::sync::Mutex<State>,
    /// Short ids of metrics, as the worker of this id means them.
    metrics: Mutex<(String, HashMap<String, MonitoringInfo>)>,
}

#[derive(Default)]
struct State {
    worker: Option<Arc<Worker>>,
    losses: u32,
    failed: Option<Error>,
}

impl Workers {
    pub(super) fn new(job: &super::JobContext, environments: &BTreeMap<String, Environment>) -> Self {
        let places = environments.iter().map(|(id, environment)| {
            let place = Place {
                environment: environment.clone(),
                slots: Arc::new(Semaphore::new(job.limits.bundles_at_once.max(1))),
                state: tokio::sync::Mutex::default(),
                metrics: Mutex::default(),
            };
            (id.clone(), place)
        });
        Self {
            job: job.id.clone(),
            options: job.options.clone(),
            harnesses: job.harnesses.clone(),
            artifacts: job.artifacts.clone(),
            events: job.events.clone(),
            limits: job.limits.clone(),
            places: places.collect(),
        }
    }

    fn place(&self, environment: &str) -> Result<&Place> {
        self.places.get(environment).ok_or_else(|| {
            Error::invalid(format!("The pipeline has no environment {environment:?}, which a step names."))
        })
    }

    /// Bundles that the environment's worker may have at once.
    pub(super) fn slots(&self, environment: &str) -> Result<Arc<Semaphore>> {
        Ok(self.place(environment)?.slots.clone())
    }

    /// A worker that is alive, started if need be.
    pub(super) async fn get(&self, environment: &str) -> Result<Arc<Worker>> {
        let place = self.place(environment)?;
        let mut state = place.state.lock().await;
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        if let Some(worker) = &state.worker {
            let Some(death) = worker.death() else { return Ok(worker.clone()) };
            state.worker = None;
            self.lost(&mut state, &death)?;
        }
        loop {
            let spec = WorkerSpec {
                job_id: self.job.clone(),
                environment: place.environment.clone(),
                options: self.options.clone(),
                artifacts: self.artifacts.clone(),
                logs: Arc::new(Logs(self.events.clone())),
                connect_timeout: self.limits.connect_timeout,
            };
            match self.harnesses.start(spec).await {
                Ok(worker) => {
                    state.worker = Some(worker.clone());
                    return Ok(worker);
                }
                // It could be started before, so it is worth another try.
                Err(error) if state.losses > 0 && error.kind() == ErrorKind::Unavailable => {
                    self.lost(&mut state, &error)?;
                }
                Err(error) => {
                    let text = format!("A worker could not be started: {}", error.message());
                    let error = Error::new(error.kind(), text).because(error);
                    state.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// Counts a loss; an error when it is one too many.
    fn lost(&self, state: &mut State, death: &Error) -> Result<()> {
        state.losses += 1;
        let (losses, why) = (state.losses, death.message());
        if losses > self.limits.worker_losses {
            let text = format!("Workers were lost {losses} times; the last time: {why}");
            let error = Error::new(ErrorKind::Unavailable, text);
            state.failed = Some(error.clone());
            return Err(error);
        }
        let text = format!("A worker was lost and is started again ({losses}): {why}");
        self.events.message(Level::Warning, text);
        Ok(())
    }

    /// What a bundle measured, with the meaning of short ids looked up.
    pub(super) async fn measured(
        &self,
        environment: &str,
        worker: &Worker,
        infos: Vec<MonitoringInfo>,
        data: BTreeMap<String, bytes::Bytes>,
    ) -> Result<Vec<MonitoringInfo>> {
        // A worker that sends whole infos need not be asked.
        if !infos.is_empty() || data.is_empty() {
            return Ok(infos);
        }
        let place = self.place(environment)?;
        let known = |id: &str| {
            let metrics = place.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            if metrics.0 == worker.id() { metrics.1.get(id).cloned() } else { None }
        };
        let unknown: Vec<String> = data.keys().filter(|id| known(id).is_none()).cloned().collect();
        if !unknown.is_empty() {
            let meanings = worker.monitoring_infos(unknown).await?.monitoring_info;
            let mut metrics = place.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            if metrics.0 != worker.id() {
                *metrics = (worker.id().to_owned(), HashMap::new());
            }
            metrics.1.extend(meanings);
        }
        let infos =
            data.into_iter().filter_map(|(id, payload)| Some(MonitoringInfo { payload, ..known(&id)? }));
        Ok(infos.collect())
    }

    /// As [`Workers::measured`], for the answer that ended a bundle.
    pub(super) async fn measured_by(
        &self,
        environment: &str,
        worker: &Worker,
        response: &mut ProcessBundleResponse,
    ) -> Result<Vec<MonitoringInfo>> {
        let infos = std::mem::take(&mut response.monitoring_infos);
        let data = std::mem::take(&mut response.monitoring_data);
        self.measured(environment, worker, infos, data).await
    }

    /// Stops all workers.
    pub(super) async fn stop(&self) {
        for place in self.places.values() {
            let worker = place.state.lock().await.worker.take();
            if let Some(worker) = worker {
                worker.stop().await;
            }
        }
    }
}

/// Hands the workers' log on.
struct Logs(Arc<dyn JobEvents>);

impl LogSink for Logs {
    fn log(&self, entry: LogEntry) {
        self.0.harness_log(entry);
    }
}
