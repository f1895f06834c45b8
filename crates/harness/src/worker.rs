//! One worker: its instructions, what waits for their answers, and its end.
//!
//! Invariant: a worker ends once, with one reason, and from then on everything that waits for it has that
//! reason. Answers to what nobody waits for are dropped.

pub(crate) mod streams;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use claviger_beam_proto::fn_execution::{
    HarnessMonitoringInfosRequest, HarnessMonitoringInfosResponse, InstructionRequest, InstructionResponse,
    MonitoringInfosMetadataRequest, MonitoringInfosMetadataResponse, ProcessBundleDescriptor,
    ProcessBundleRequest, RegisterRequest, instruction_request as ask, instruction_response as told,
    process_bundle_request::CacheToken,
};
use claviger_core::{Clock, Error, ErrorKind, Result};
use prost_types::Struct;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::bundle::{Bundle, Running, StateHandler};
use crate::descriptor::{self, Connected};
use crate::harnesses::Registry;
use crate::limits::{self, Limits};
use crate::logging::{LogEntry, LogSink, cut};
use crate::source::ArtifactSource;
use streams::Outgoing;

/// A bundle to run.
pub struct BundleSpec {
    /// The stage. A worker knows a descriptor by its id, so the same id is always the same stage.
    pub descriptor: Arc<ProcessBundleDescriptor>,
    /// Answers what the bundle asks of state and side inputs.
    pub state: Arc<dyn StateHandler>,
    /// What the worker may keep of state between bundles.
    pub cache_tokens: Vec<CacheToken>,
}

/// A worker that runs. Dropping it ends it; [`Worker::stop`] also waits until nothing of it is left.
pub struct Worker {
    core: Arc<Core>,
    stopped: watch::Receiver<bool>,
}

/// What the parts of a worker share.
pub(crate) struct Core {
    pub(crate) id: String,
    /// The environment, for people.
    pub(crate) environment: String,
    pub(crate) endpoint: String,
    pub(crate) options: Struct,
    pub(crate) artifacts: Arc<dyn ArtifactSource>,
    pub(crate) logs: Arc<dyn LogSink>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    pub(crate) control: Outgoing<InstructionRequest>,
    pub(crate) data: Outgoing<claviger_beam_proto::fn_execution::Elements>,
    pub(crate) state_room: Arc<Semaphore>,
    pub(crate) life: watch::Sender<Life>,
    alive: watch::Sender<bool>,
    /// Why the connection broke, where it did: the environment may know more of it.
    pub(crate) broken: watch::Sender<Option<Error>>,
    pub(crate) ended: CancellationToken,
    table: Mutex<Table>,
    instructions: AtomicU64,
    /// The end of what the worker's process wrote.
    output: Mutex<String>,
    registry: Weak<Registry>,
}

/// How far a worker is.
#[derive(Clone, Debug)]
pub(crate) enum Life {
    Starting,
    Connected,
    Ended(Error),
}

#[derive(Default)]
struct Table {
    calls: HashMap<String, oneshot::Sender<Result<InstructionResponse>>>,
    bundles: HashMap<String, Arc<Running>>,
    descriptors: HashMap<String, Arc<Connected>>,
}

/// What a [`Core`] is made of.
pub(crate) struct CoreSpec {
    pub(crate) id: String,
    pub(crate) environment: String,
    pub(crate) endpoint: String,
    pub(crate) options: Struct,
    pub(crate) artifacts: Arc<dyn ArtifactSource>,
    pub(crate) logs: Arc<dyn LogSink>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    pub(crate) registry: Weak<Registry>,
}

impl Core {
    pub(crate) fn new(spec: CoreSpec) -> Arc<Self> {
        let ended = CancellationToken::new();
        Arc::new(Self {
            control: Outgoing::new(limits::INSTRUCTIONS, ended.clone()),
            data: Outgoing::new(spec.limits.send_messages.max(1), ended.clone()),
            state_room: Arc::new(Semaphore::new(spec.limits.state_requests.max(1))),
            life: watch::Sender::new(Life::Starting),
            alive: watch::Sender::new(true),
            broken: watch::Sender::new(None),
            ended,
            table: Mutex::default(),
            instructions: AtomicU64::new(0),
            output: Mutex::default(),
            id: spec.id,
            environment: spec.environment,
            endpoint: spec.endpoint,
            options: spec.options,
            artifacts: spec.artifacts,
            logs: spec.logs,
            clock: spec.clock,
            limits: spec.limits,
            registry: spec.registry,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bundle of an instruction, while someone holds it.
    pub(crate) fn bundle(&self, instruction: &str) -> Option<Arc<Running>> {
        self.table().bundles.get(instruction).cloned()
    }

    /// Forgets a bundle.
    pub(crate) fn forget(&self, instruction: &str) {
        self.table().bundles.remove(instruction);
    }

    /// The descriptor that a worker asks for.
    pub(crate) fn descriptor(&self, id: &str) -> Option<Arc<Connected>> {
        self.table().descriptors.get(id).cloned()
    }

    /// Takes a line that the worker's process wrote.
    pub(crate) fn wrote(&self, line: String) {
        {
            let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
            output.push_str(&line);
            output.push('\n');
            let surplus = output.len().saturating_sub(limits::TAIL_BYTES);
            let surplus = output.ceil_char_boundary(surplus);
            output.drain(..surplus);
        }
        self.logs.log(LogEntry::line(&self.id, self.clock.now(), line));
    }

    /// The end of what the worker's process wrote, where it wrote anything.
    pub(crate) fn tail(&self) -> Option<String> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = output.trim_end();
        (!tail.is_empty()).then(|| tail.to_owned())
    }

    /// Why the worker ended, where it did.
    pub(crate) fn death(&self) -> Option<Error> {
        match &*self.life.borrow() {
            Life::Ended(error) => Some(error.clone()),
            Life::Starting | Life::Connected => None,
        }
    }

    /// The reason to give once the worker has ended.
    pub(crate) fn reason(&self) -> Error {
        self.death().unwrap_or_else(|| unavailable(format!("worker {} ended", self.id)))
    }

    /// Ends the worker. The first reason stays.
    pub(crate) fn end(&self, error: Error) {
        let first = self.life.send_if_modified(|life| {
            let first = !matches!(life, Life::Ended(_));
            if first {
                *life = Life::Ended(error.clone());
            }
            first
        });
        if !first {
            return;
        }
        // After the life, so that nothing enters the table behind our back.
        let table = std::mem::take(&mut *self.table());
        for call in table.calls.into_values() {
            // Whoever no longer waits needs no answer.
            let _ = call.send(Err(error.clone()));
        }
        for bundle in table.bundles.into_values() {
            bundle.fail(error.clone());
        }
        self.ended.cancel();
        self.alive.send_replace(false);
        if let Some(registry) = self.registry.upgrade() {
            registry.remove(&self.id);
        }
    }

    /// Says that the connection is gone. Whoever watches over the worker ends it.
    pub(crate) fn lost(&self, why: Error) {
        self.broken.send_if_modified(|broken| {
            let first = broken.is_none();
            if first {
                *broken = Some(why);
            }
            first
        });
    }

    /// Takes the answer to an instruction.
    pub(crate) fn answered(&self, response: InstructionResponse) {
        let bundle = self.bundle(&response.instruction_id);
        if let Some(bundle) = bundle {
            bundle.answered(response);
            return;
        }
        let call = self.table().calls.remove(&response.instruction_id);
        match call {
            Some(call) => drop(call.send(Ok(response))),
            None => tracing::debug!(worker = self.id, "an answer to an instruction that nobody waits for"),
        }
    }

    fn next_instruction(&self) -> String {
        format!("i{}", self.instructions.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Sends an instruction.
    async fn tell(&self, instruction_id: String, request: ask::Request) -> Result<()> {
        let request = InstructionRequest { instruction_id, request: Some(request) };
        self.control.send(request).await.map_err(|_| self.reason())
    }

    /// Sends an instruction and waits for its answer.
    pub(crate) async fn call(&self, request: ask::Request) -> Result<told::Response> {
        let id = self.next_instruction();
        let (sender, receiver) = oneshot::channel();
        {
            let mut table = self.table();
            if let Some(error) = self.death() {
                return Err(error);
            }
            table.calls.insert(id.clone(), sender);
        }
        let _forget = Forget { core: self, id: &id };
        self.tell(id.clone(), request).await?;
        let response = receiver.await.map_err(|_| self.reason())??;
        if !response.error.is_empty() {
            return Err(Error::invalid(cut(response.error, limits::ERROR_BYTES)));
        }
        response.response.ok_or_else(|| protocol(&self.id, "answered an instruction with nothing"))
    }

    /// The descriptor as this worker sees it, and whether it is new to the worker.
    fn connected(&self, descriptor: &ProcessBundleDescriptor) -> Result<(Arc<Connected>, bool)> {
        if let Some(known) = self.descriptor(&descriptor.id) {
            return Ok((known, false));
        }
        let connected = Arc::new(descriptor::connect(descriptor, &self.endpoint)?);
        let mut table = self.table();
        // Two bundles of a new stage may come at once: the first registers.
        if let Some(known) = table.descriptors.get(&descriptor.id) {
            return Ok((known.clone(), false));
        }
        table.descriptors.insert(descriptor.id.clone(), connected.clone());
        Ok((connected, true))
    }
}

/// Takes a call out of the table when nobody waits for it any more.
struct Forget<'a> {
    core: &'a Core,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.core.table().calls.remove(self.id);
    }
}

/// An `Unavailable` error.
pub(crate) fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}

/// What a worker that does not keep to the protocol gets.
pub(crate) fn protocol(worker: &str, what: &str) -> Error {
    Error::invalid(format!("worker {worker} does not keep to the Fn API: it {what}"))
}

impl Worker {
    pub(crate) fn new(core: Arc<Core>, stopped: watch::Receiver<bool>) -> Self {
        Self { core, stopped }
    }

    /// The name under which the worker connects.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.core.id
    }

    /// The environment, for people: its kind and its image, command or address.
    #[must_use]
    pub fn environment(&self) -> &str {
        &self.core.environment
    }

    /// Turns to false when the worker ended; see [`Worker::death`].
    #[must_use]
    pub fn alive(&self) -> watch::Receiver<bool> {
        self.core.alive.subscribe()
    }

    /// Why the worker ended, where it did.
    #[must_use]
    pub fn death(&self) -> Option<Error> {
        self.core.death()
    }

    /// Starts a bundle.
    ///
    /// # Errors
    /// `Unavailable` when the worker ended; `InvalidArgument` for a descriptor that cannot be read.
    pub async fn process(&self, spec: BundleSpec) -> Result<Bundle> {
        let core = &self.core;
        let (connected, new) = core.connected(&spec.descriptor)?;
        if new {
            // The worker reads its instructions in order, so nobody waits for this one's answer. Should it
            // fail, the worker asks for the descriptor by its id.
            let process_bundle_descriptor = vec![connected.descriptor.clone()];
            let register = RegisterRequest { process_bundle_descriptor };
            core.tell(core.next_instruction(), ask::Request::Register(register)).await?;
        }
        let id = core.next_instruction();
        let (bundle, running) = Bundle::new(core.clone(), id.clone(), connected, spec.state);
        {
            let mut table = core.table();
            if let Some(error) = core.death() {
                return Err(error);
            }
            table.bundles.insert(id.clone(), running);
        }
        let request = ProcessBundleRequest {
            process_bundle_descriptor_id: spec.descriptor.id.clone(),
            cache_tokens: spec.cache_tokens,
            ..ProcessBundleRequest::default()
        };
        core.tell(id, ask::Request::ProcessBundle(request)).await?;
        Ok(bundle)
    }

    /// What short ids of metrics stand for.
    ///
    /// # Errors
    /// `Unavailable` when the worker ended; `InvalidArgument` with the worker's text for an id that it does
    /// not know.
    pub async fn monitoring_infos(&self, ids: Vec<String>) -> Result<MonitoringInfosMetadataResponse> {
        let request = MonitoringInfosMetadataRequest { monitoring_info_id: ids };
        match self.core.call(ask::Request::MonitoringInfos(request)).await? {
            told::Response::MonitoringInfos(response) => Ok(response),
            _ => Err(protocol(self.id(), "answered a question for metrics with something else")),
        }
    }

    /// Metrics of the worker that belong to no bundle, by their short ids.
    ///
    /// # Errors
    /// `Unavailable` when the worker ended; `InvalidArgument` with the worker's text.
    pub async fn harness_monitoring_infos(&self) -> Result<HarnessMonitoringInfosResponse> {
        let request = ask::Request::HarnessMonitoringInfos(HarnessMonitoringInfosRequest {});
        match self.core.call(request).await? {
            told::Response::HarnessMonitoringInfos(response) => Ok(response),
            _ => Err(protocol(self.id(), "answered a question for metrics with something else")),
        }
    }

    /// Ends the worker and waits until its process and files are gone. Bundles under way fail with `Aborted`.
    pub async fn stop(&self) {
        self.end();
        let mut stopped = self.stopped.clone();
        // Without its guardian nothing of it runs.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    fn end(&self) {
        let stopped = format!("worker {} was stopped", self.core.id);
        self.core.end(Error::new(ErrorKind::Aborted, stopped));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = &self.core;
        f.debug_struct("Worker").field("id", &core.id).field("environment", &core.environment).finish()
    }
}
