//! A bundle under way: elements in, elements out, state, and the answer that ends it.
//!
//! Invariant: a bundle ends once, answered or failed. What came out of a bundle counts only when it was
//! answered. State is answered in the order in which the bundle asked, since a worker appends without
//! waiting for the clearing before it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_beam_proto::fn_execution::{
    Elements, FinalizeBundleRequest, InstructionResponse, ProcessBundleProgressRequest,
    ProcessBundleProgressResponse, ProcessBundleResponse, ProcessBundleSplitRequest,
    ProcessBundleSplitResponse, StateRequest, StateResponse, elements, instruction_request as ask,
    instruction_response as told, process_bundle_split_request::DesiredSplit,
};
use claviger_core::{Error, ErrorKind, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::descriptor::{Connected, Port};
use crate::limits;
use crate::logging::cut;
use crate::worker::{Core, protocol};

/// Answers what a bundle asks of state and side inputs.
#[async_trait]
pub trait StateHandler: Send + Sync {
    /// The answer to one request; its id is filled in by the caller.
    ///
    /// # Errors
    /// The worker is told the message, and the bundle that fails of it fails with this error.
    async fn handle(&self, request: &StateRequest) -> Result<StateResponse>;
}

/// Elements or timers that came out of a bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleOutput {
    /// The port's transform in the descriptor; for timers, the transform that set them.
    pub transform_id: String,
    /// The family, when these are timers.
    pub timer_family: Option<String>,
    /// Whole elements, one after the other.
    pub data: Bytes,
}

/// A bundle under way; see the module's text. All methods may be called at once from several tasks: the
/// outputs must be taken while inputs are sent, or both sides wait for each other.
///
/// Dropping it forgets the bundle: what still comes of it is thrown away.
pub struct Bundle {
    core: Arc<Core>,
    running: Arc<Running>,
    outputs: tokio::sync::Mutex<Outputs>,
    inputs: tokio::sync::Mutex<Inputs>,
}

/// The part of a bundle that the worker's streams know.
pub(crate) struct Running {
    id: String,
    worker: String,
    connected: Arc<Connected>,
    queue: mpsc::UnboundedSender<Queued>,
    /// Bytes that the queue may hold.
    room: Arc<Semaphore>,
    room_bytes: usize,
    outcome: watch::Sender<Outcome>,
    response: Mutex<Option<ProcessBundleResponse>>,
    handler: Arc<dyn StateHandler>,
    asked: Mutex<Asked>,
}

#[derive(Clone, Debug)]
enum Outcome {
    Running,
    Answered,
    Failed(Error),
}

struct Queued {
    port: Port,
    data: Bytes,
    is_last: bool,
    /// Gives its room back when the element is taken. Elements within an answer have none.
    _room: Option<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct Asked {
    waiting: VecDeque<(StateRequest, mpsc::Sender<StateResponse>, OwnedSemaphorePermit)>,
    is_answering: bool,
    /// The first error of the handler: the true reason of the failure that follows.
    error: Option<Error>,
}

struct Outputs {
    queue: mpsc::UnboundedReceiver<Queued>,
    open: BTreeSet<Port>,
}

#[derive(Default)]
struct Inputs {
    gathered: Elements,
    bytes: usize,
    closed: bool,
}

impl Running {
    /// Fails the bundle, unless it is over.
    pub(crate) fn fail(&self, error: Error) {
        self.finish(Outcome::Failed(error));
    }

    fn finish(&self, end: Outcome) {
        self.outcome.send_if_modified(|outcome| {
            let first = matches!(outcome, Outcome::Running);
            if first {
                *outcome = end;
            }
            first
        });
        if self.failure().is_some() {
            // Whoever delivers must not wait for room that nobody will make.
            self.room.close();
        }
    }

    fn failure(&self) -> Option<Error> {
        match &*self.outcome.borrow() {
            Outcome::Failed(error) => Some(error.clone()),
            Outcome::Running | Outcome::Answered => None,
        }
    }

    /// Returns when the bundle failed, and only then.
    async fn failed(&self) -> Error {
        let mut outcome = self.outcome.subscribe();
        let failed = outcome.wait_for(|outcome| matches!(outcome, Outcome::Failed(_))).await;
        match failed.as_deref() {
            Ok(Outcome::Failed(error)) => error.clone(),
            _ => protocol(&self.worker, "left a bundle without an end"),
        }
    }

    /// Takes the worker's answer.
    pub(crate) fn answered(&self, response: InstructionResponse) {
        if !response.error.is_empty() {
            let text = cut(response.error, limits::ERROR_BYTES);
            let cause = self.asked().error.take();
            self.fail(cause.unwrap_or_else(|| Error::invalid(text)));
            return;
        }
        let Some(told::Response::ProcessBundle(mut response)) = response.response else {
            self.fail(protocol(&self.worker, "answered a bundle with something else"));
            return;
        };
        if let Some(elements) = response.elements.take() {
            for timers in elements.timers {
                let port = (timers.transform_id, Some(timers.timer_family_id));
                self.push(port, timers.timers, timers.is_last, None);
            }
            for data in elements.data {
                self.push((data.transform_id, None), data.data, data.is_last, None);
            }
        }
        *self.response.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
        self.finish(Outcome::Answered);
    }

    /// Puts elements into the queue once there is room.
    pub(crate) async fn deliver(&self, port: Port, data: Bytes, is_last: bool) {
        let cost = data.len().saturating_add(limits::QUEUED_OVERHEAD_BYTES).min(self.room_bytes);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        // Closed: the bundle failed or was dropped.
        let Ok(room) = self.room.clone().acquire_many_owned(cost).await else { return };
        self.push(port, data, is_last, Some(room));
    }

    fn push(&self, port: Port, data: Bytes, is_last: bool, room: Option<OwnedSemaphorePermit>) {
        if !self.connected.outputs.contains(&port) {
            let what = format!("sent elements for '{}', which is no output of the bundle", port.0);
            self.fail(protocol(&self.worker, &what));
            return;
        }
        // A receiver that is gone wants nothing.
        let _ = self.queue.send(Queued { port, data, is_last, _room: room });
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a request for state answered after those before it.
    pub(crate) fn ask(
        self: &Arc<Self>,
        request: StateRequest,
        answers: mpsc::Sender<StateResponse>,
        room: OwnedSemaphorePermit,
    ) {
        let start = {
            let mut asked = self.asked();
            asked.waiting.push_back((request, answers, room));
            !std::mem::replace(&mut asked.is_answering, true)
        };
        if start {
            tokio::spawn(self.clone().answer());
        }
    }

    async fn answer(self: Arc<Self>) {
        loop {
            let next = {
                let mut asked = self.asked();
                let next = asked.waiting.pop_front();
                asked.is_answering = next.is_some();
                next
            };
            let Some((request, answers, _room)) = next else { return };
            let handled = tokio::select! {
                biased;
                error = self.failed() => Err(error),
                handled = self.handler.handle(&request) => handled,
            };
            let response = match handled {
                Ok(response) => StateResponse { id: request.id, ..response },
                Err(error) => {
                    let message = error.message().to_owned();
                    self.asked().error.get_or_insert(error);
                    StateResponse { id: request.id, error: message, response: None }
                }
            };
            // A worker that is gone, or does not read, needs no answer of a bundle that failed.
            tokio::select! {
                biased;
                _ = answers.send(response) => {}
                _ = self.failed() => {}
            }
        }
    }
}

impl Bundle {
    pub(crate) fn new(
        core: Arc<Core>,
        id: String,
        connected: Arc<Connected>,
        handler: Arc<dyn StateHandler>,
    ) -> (Self, Arc<Running>) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let room_bytes = core.limits.bundle_bytes.clamp(1, Semaphore::MAX_PERMITS.min(1 << 31));
        let outputs = Outputs { queue: receiver, open: connected.outputs.clone() };
        let running = Arc::new(Running {
            id,
            worker: core.id.clone(),
            connected,
            queue,
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            outcome: watch::Sender::new(Outcome::Running),
            response: Mutex::default(),
            handler,
            asked: Mutex::default(),
        });
        let bundle = Self {
            core,
            running: running.clone(),
            outputs: outputs.into(),
            inputs: Inputs::default().into(),
        };
        (bundle, running)
    }

    /// The instruction's name, as it is in the worker's log.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.running.id
    }

    /// Sends whole elements to a port. Small ones are gathered; see [`Bundle::flush`]. Waits while the
    /// worker has no room.
    ///
    /// # Errors
    /// The bundle's failure; `ResourceExhausted` for more than [`limits::MESSAGE_BYTES`] at once.
    pub async fn send(&self, transform_id: &str, data: Bytes) -> Result<()> {
        self.gather(data.len(), |id, gathered| {
            let transform_id = transform_id.to_owned();
            gathered.data.push(elements::Data { instruction_id: id, transform_id, data, is_last: false });
        })
        .await
    }

    /// Sends timers that fire to the transform that set them. As [`Bundle::send`].
    ///
    /// # Errors
    /// As [`Bundle::send`].
    pub async fn send_timers(&self, transform_id: &str, family: &str, timers: Bytes) -> Result<()> {
        {
            // A worker may read the timers of a message before its elements, whatever was sent first.
            let mut inputs = self.inputs.lock().await;
            if !inputs.gathered.data.is_empty() {
                self.send_gathered(&mut inputs).await?;
            }
        }
        self.gather(timers.len(), |id, gathered| {
            gathered.timers.push(elements::Timers {
                instruction_id: id,
                transform_id: transform_id.to_owned(),
                timer_family_id: family.to_owned(),
                timers,
                is_last: false,
            });
        })
        .await
    }

    async fn gather(&self, bytes: usize, add: impl FnOnce(String, &mut Elements)) -> Result<()> {
        if let Some(error) = self.running.failure() {
            return Err(error);
        }
        if bytes > limits::MESSAGE_BYTES - limits::MESSAGE_MARGIN_BYTES {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "an element of about {bytes} bytes is larger than what a worker can be sent at once, {} bytes",
                    limits::MESSAGE_BYTES
                ),
            ));
        }
        if bytes == 0 {
            return Ok(());
        }
        let mut inputs = self.inputs.lock().await;
        if inputs.closed {
            return Err(Error::internal("elements were sent to a bundle whose inputs are closed"));
        }
        // Each message stays within its limit, whatever was gathered before a large element.
        if inputs.bytes.saturating_add(bytes) > limits::MESSAGE_BYTES - limits::MESSAGE_MARGIN_BYTES {
            self.send_gathered(&mut inputs).await?;
        }
        add(self.running.id.clone(), &mut inputs.gathered);
        inputs.bytes += bytes + limits::QUEUED_OVERHEAD_BYTES;
        if inputs.bytes >= self.core.limits.send_bytes {
            self.send_gathered(&mut inputs).await?;
        }
        Ok(())
    }

    /// Sends what was gathered. Whoever waits for the outputs of what it sent calls this first.
    ///
    /// # Errors
    /// The bundle's failure.
    pub async fn flush(&self) -> Result<()> {
        let mut inputs = self.inputs.lock().await;
        self.send_gathered(&mut inputs).await
    }

    async fn send_gathered(&self, inputs: &mut Inputs) -> Result<()> {
        inputs.bytes = 0;
        let gathered = std::mem::take(&mut inputs.gathered);
        if gathered.data.is_empty() && gathered.timers.is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            error = self.running.failed() => Err(error),
            sent = self.core.data.send(gathered) => sent.map_err(|()| self.core.reason()),
        }
    }

    /// Says that all elements and timers were sent, at every port. Once is enough.
    ///
    /// # Errors
    /// The bundle's failure.
    pub async fn close_inputs(&self) -> Result<()> {
        let mut inputs = self.inputs.lock().await;
        if std::mem::replace(&mut inputs.closed, true) {
            return Ok(());
        }
        // In a message of their own: a worker may read the timers of a message before its elements.
        self.send_gathered(&mut inputs).await?;
        for (transform_id, family) in &self.running.connected.inputs {
            let (instruction_id, transform_id) = (self.running.id.clone(), transform_id.clone());
            let gathered = &mut inputs.gathered;
            match family.clone() {
                None => gathered.data.push(elements::Data {
                    instruction_id,
                    transform_id,
                    is_last: true,
                    ..elements::Data::default()
                }),
                Some(timer_family_id) => gathered.timers.push(elements::Timers {
                    instruction_id,
                    transform_id,
                    timer_family_id,
                    is_last: true,
                    ..elements::Timers::default()
                }),
            }
        }
        self.send_gathered(&mut inputs).await
    }

    /// The next elements or timers out of the bundle; none once every port was closed by the worker. The
    /// answer may come before or after. A call that is dropped loses nothing.
    ///
    /// # Errors
    /// The bundle's failure, at once: what is still queued does not count.
    pub async fn next(&self) -> Result<Option<BundleOutput>> {
        let mut outputs = self.outputs.lock().await;
        let Outputs { queue, open } = &mut *outputs;
        loop {
            if open.is_empty() {
                return Ok(None);
            }
            let queued = tokio::select! {
                biased;
                error = self.running.failed() => return Err(error),
                queued = queue.recv() => queued,
                // Answered, but its elements will never come.
                () = self.core.ended.cancelled() => return Err(self.core.reason()),
            };
            // `running` holds the sender.
            let Some(Queued { port, data, is_last, _room }) = queued else { return Ok(None) };
            if !open.contains(&port) {
                let what = format!("sent elements for '{}' after it had closed it", port.0);
                self.running.fail(protocol(&self.running.worker, &what));
                continue;
            }
            if is_last {
                open.remove(&port);
            }
            if !data.is_empty() {
                let (transform_id, timer_family) = port;
                return Ok(Some(BundleOutput { transform_id, timer_family, data }));
            }
        }
    }

    /// The worker's answer, for the first who asks. The outputs are whole once [`Bundle::next`] said so too.
    ///
    /// # Errors
    /// `InvalidArgument` with the worker's text when user code failed; the error of the [`StateHandler`]
    /// when that was the reason; `Unavailable` when the worker was lost, and then a retry on another may work.
    pub async fn result(&self) -> Result<ProcessBundleResponse> {
        let mut outcome = self.running.outcome.subscribe();
        // The sender is in `running`.
        let _ = outcome.wait_for(|outcome| !matches!(outcome, Outcome::Running)).await;
        if let Some(error) = self.running.failure() {
            return Err(error);
        }
        let response = self.running.response.lock().unwrap_or_else(PoisonError::into_inner).take();
        response.ok_or_else(|| Error::internal("the answer of a bundle was taken twice"))
    }

    /// How far the bundle is, with its metrics so far.
    ///
    /// # Errors
    /// As [`Bundle::result`]; a worker may refuse when the bundle is over.
    pub async fn progress(&self) -> Result<ProcessBundleProgressResponse> {
        let instruction_id = self.running.id.clone();
        let request = ProcessBundleProgressRequest { instruction_id };
        match self.core.call(ask::Request::ProcessBundleProgress(request)).await? {
            told::Response::ProcessBundleProgress(response) => Ok(response),
            _ => Err(protocol(&self.running.worker, "answered a question for progress with something else")),
        }
    }

    /// Asks the worker to give up a part of what it has, by the ports' transforms. An empty answer is a no.
    ///
    /// # Errors
    /// As [`Bundle::progress`].
    pub async fn split(&self, desired: BTreeMap<String, DesiredSplit>) -> Result<ProcessBundleSplitResponse> {
        let instruction_id = self.running.id.clone();
        let request = ProcessBundleSplitRequest { instruction_id, desired_splits: desired };
        match self.core.call(ask::Request::ProcessBundleSplit(request)).await? {
            told::Response::ProcessBundleSplit(response) => Ok(response),
            _ => Err(protocol(&self.running.worker, "answered a split with something else")),
        }
    }

    /// Says that the bundle's output is committed; only for a bundle whose answer asks for it.
    ///
    /// # Errors
    /// As [`Bundle::progress`]; the bundle stays committed.
    pub async fn finalize(&self) -> Result<()> {
        let request = FinalizeBundleRequest { instruction_id: self.running.id.clone() };
        match self.core.call(ask::Request::FinalizeBundle(request)).await? {
            told::Response::FinalizeBundle(_) => Ok(()),
            _ => Err(protocol(&self.running.worker, "answered a finalization with something else")),
        }
    }

    /// Fails the bundle from our side: whoever waits for it is told this error. The worker is not told; what
    /// it still sends is thrown away.
    pub fn fail(&self, error: Error) {
        self.running.fail(error);
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.core.forget(&self.running.id);
        self.running.fail(Error::new(ErrorKind::Aborted, "the bundle was dropped"));
        self.running.room.close();
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("id", &self.running.id).field("worker", &self.running.worker).finish()
    }
}
