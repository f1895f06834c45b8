//! An SDK for the tests: a worker in this process that speaks the Fn API over the harness's streams and runs
//! the functions below, known by URN. Values are bytes; a pair is two of them with their lengths.

mod bundle;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_beam_proto::fn_execution::{
    Elements, InstructionResponse, ProcessBundleDescriptor, ProcessBundleSplitResponse, StartWorkerRequest,
    StateGetRequest, StateKey, StateRequest, StateResponse, StopWorkerRequest, instruction_request,
    instruction_response, process_bundle_split_response::ChannelSplit, state_key, state_request,
    state_response,
};
use claviger_core::Result;
use claviger_harness::{Harnesses, WorkerPoolClient};
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::exec::element;

/// What all workers of a test share with it.
pub(super) struct World {
    pub(super) harnesses: OnceLock<Arc<Harnesses>>,
    /// What `test:collect` saw, by step.
    pub(super) collected: Mutex<Vec<(String, Vec<u8>)>>,
    /// Workers that were started.
    pub(super) starts: AtomicUsize,
    /// How often `test:die` still ends its worker.
    pub(super) deaths: AtomicI64,
    /// Elements that `test:gate` lets through.
    pub(super) gate: Semaphore,
    /// Elements that reached a gate.
    pub(super) at_gate: AtomicUsize,
    pub(super) arrived: Notify,
    pub(super) finalized: AtomicUsize,
    pub(super) bundles: AtomicUsize,
    pub(super) user_tokens: Mutex<BTreeSet<Bytes>>,
    /// Workers never connect.
    pub(super) is_silent: std::sync::atomic::AtomicBool,
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            harnesses: OnceLock::new(),
            collected: Mutex::default(),
            starts: AtomicUsize::new(0),
            deaths: AtomicI64::new(0),
            gate: Semaphore::new(0),
            at_gate: AtomicUsize::new(0),
            arrived: Notify::new(),
            finalized: AtomicUsize::new(0),
            bundles: AtomicUsize::new(0),
            user_tokens: Mutex::default(),
            is_silent: false.into(),
        })
    }

    /// What a step collected, sorted, as text.
    pub(super) fn collected(&self, step: &str) -> Vec<String> {
        let collected = self.collected.lock().unwrap();
        let own = collected.iter().filter(|(of, _)| of == step);
        let mut texts: Vec<String> = own.map(|(_, value)| show(value)).collect();
        texts.sort();
        texts
    }

    /// Waits until so many elements reached a gate.
    pub(super) async fn wait_at_gate(&self, elements: usize) {
        loop {
            let arrived = self.arrived.notified();
            if self.at_gate.load(Ordering::SeqCst) >= elements {
                return;
            }
            arrived.await;
        }
    }
}

/// A pair as `key=value`, anything else as it is.
fn show(value: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match unpair(value) {
        Some((key, value)) => format!("{}={}", text(key), text(value)),
        None => text(value.get(1..).unwrap_or_default()),
    }
}

/// Bytes with their length.
pub(super) fn nested(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    element::put_varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

fn unnest<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(element::take_varint(input).ok()?).ok()?;
    element::take(input, length).ok()
}

fn pair(key: &[u8], value: &[u8]) -> Vec<u8> {
    [nested(key), nested(value)].concat()
}

fn unpair(mut input: &[u8]) -> Option<(&[u8], &[u8])> {
    let key = unnest(&mut input)?;
    let value = unnest(&mut input)?;
    input.is_empty().then_some((key, value))
}

#[async_trait]
impl WorkerPoolClient for World {
    async fn start_worker(&self, _: &str, request: StartWorkerRequest) -> Result<()> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        if !self.is_silent.load(Ordering::SeqCst) {
            let harnesses = self.harnesses.get().unwrap().clone();
            let world = WORLD.with(|world| world.borrow().clone()).unwrap();
            tokio::spawn(worker(harnesses, request.worker_id, world));
        }
        Ok(())
    }

    async fn stop_worker(&self, _: &str, _: StopWorkerRequest) -> Result<()> {
        Ok(())
    }
}

thread_local! {
    /// The world of the test that runs on this thread.
    pub(super) static WORLD: std::cell::RefCell<Option<Arc<World>>> = const { std::cell::RefCell::new(None) };
}

/// A worker's side of its streams.
struct Side {
    world: Arc<World>,
    data: UnboundedSender<Result<Elements>>,
    state: UnboundedSender<Result<StateRequest>>,
    descriptors: Mutex<HashMap<String, Arc<ProcessBundleDescriptor>>>,
    inputs: Mutex<HashMap<String, Channel>>,
    asked: Mutex<HashMap<String, oneshot::Sender<StateResponse>>>,
    next: AtomicU64,
    splits: Mutex<HashMap<String, Arc<Mutex<Position>>>>,
    die: Notify,
}

/// Where a bundle is in its input.
struct Position {
    port: String,
    index: i64,
    stop: i64,
}

async fn worker(harnesses: Arc<Harnesses>, id: String, world: Arc<World>) {
    let (control, responses) = unbounded();
    let (data, elements) = unbounded();
    let (state, requests) = unbounded();
    let mut incoming = harnesses.data(&id, elements.boxed()).unwrap();
    let mut answers = harnesses.state(&id, requests.boxed()).unwrap();
    let mut instructions = harnesses.control(&id, responses.boxed()).unwrap();
    let side = Arc::new(Side {
        world,
        data,
        state,
        descriptors: Mutex::default(),
        inputs: Mutex::default(),
        asked: Mutex::default(),
        next: AtomicU64::new(0),
        splits: Mutex::default(),
        die: Notify::new(),
    });
    let mut bundles = JoinSet::new();
    loop {
        tokio::select! {
            () = side.die.notified() => return,
            Some(elements) = incoming.next() => side.deliver(elements),
            Some(answer) = answers.next() => {
                if let Some(asked) = side.asked.lock().unwrap().remove(&answer.id) {
                    let _ = asked.send(answer);
                }
            }
            instruction = instructions.next() => {
                let Some(instruction) = instruction else { return };
                let id = instruction.instruction_id;
                let respond = |response, error: String| {
                    let response = InstructionResponse { instruction_id: id.clone(), error, response };
                    let _ = control.unbounded_send(Ok(response));
                };
                match instruction.request.unwrap() {
                    instruction_request::Request::Register(register) => {
                        for descriptor in register.process_bundle_descriptor {
                            let id = descriptor.id.clone();
                            side.descriptors.lock().unwrap().insert(id, Arc::new(descriptor));
                        }
                        respond(Some(instruction_response::Response::Register(Default::default())), String::new());
                    }
                    instruction_request::Request::ProcessBundle(request) => {
                        side.world.bundles.fetch_add(1, Ordering::SeqCst);
                        let descriptor =
                            side.descriptors.lock().unwrap()[&request.process_bundle_descriptor_id].clone();
                        let (side, control) = (side.clone(), control.clone());
                        bundles.spawn(async move {
                            let result = bundle::run(side, id.clone(), descriptor, request.cache_tokens).await;
                            let (response, error) = match result {
                                Ok(response) => (Some(instruction_response::Response::ProcessBundle(response)), String::new()),
                                Err(error) => (None, error),
                            };
                            let _ = control.unbounded_send(Ok(InstructionResponse { instruction_id: id, error, response }));
                        });
                    }
                    instruction_request::Request::ProcessBundleSplit(request) => {
                        let position = side.splits.lock().unwrap().get(&request.instruction_id).cloned();
                        let response = position.map_or_else(Default::default, |position| split(&position));
                        respond(Some(instruction_response::Response::ProcessBundleSplit(response)), String::new());
                    }
                    instruction_request::Request::ProcessBundleProgress(_) => {
                        respond(Some(instruction_response::Response::ProcessBundleProgress(Default::default())), String::new());
                    }
                    instruction_request::Request::FinalizeBundle(_) => {
                        side.world.finalized.fetch_add(1, Ordering::SeqCst);
                        respond(Some(instruction_response::Response::FinalizeBundle(Default::default())), String::new());
                    }
                    _ => respond(None, "not known here".into()),
                }
            }
        }
    }
}

/// Keeps the element under way and gives away all after it.
fn split(position: &Mutex<Position>) -> ProcessBundleSplitResponse {
    let mut position = position.lock().unwrap();
    let stop = position.index.max(0) + 1;
    if stop >= position.stop {
        return ProcessBundleSplitResponse::default();
    }
    position.stop = stop;
    let channel_splits = vec![ChannelSplit {
        transform_id: position.port.clone(),
        last_primary_element: stop - 1,
        first_residual_element: stop,
    }];
    ProcessBundleSplitResponse { channel_splits, ..ProcessBundleSplitResponse::default() }
}

impl Side {
    fn deliver(&self, elements: Elements) {
        let mut by_instruction: HashMap<String, Elements> = HashMap::new();
        for data in elements.data {
            by_instruction.entry(data.instruction_id.clone()).or_default().data.push(data);
        }
        for timers in elements.timers {
            by_instruction.entry(timers.instruction_id.clone()).or_default().timers.push(timers);
        }
        for (id, elements) in by_instruction {
            let mut inputs = self.inputs.lock().unwrap();
            let (sender, _) = inputs.entry(id).or_insert_with(channel);
            let _ = sender.unbounded_send(elements);
        }
    }

    fn input(&self, id: &str) -> UnboundedReceiver<Elements> {
        let mut inputs = self.inputs.lock().unwrap();
        inputs.entry(id.to_owned()).or_insert_with(channel).1.take().unwrap()
    }

    async fn ask(
        &self,
        instruction: &str,
        key: StateKey,
        request: state_request::Request,
    ) -> Result<StateResponse, String> {
        let id = format!("s{}", self.next.fetch_add(1, Ordering::SeqCst));
        let (sender, receiver) = oneshot::channel();
        self.asked.lock().unwrap().insert(id.clone(), sender);
        let request = StateRequest {
            id,
            instruction_id: instruction.to_owned(),
            state_key: Some(key),
            request: Some(request),
        };
        let _ = self.state.unbounded_send(Ok(request));
        let response = receiver.await.map_err(|_| "the state stream ended".to_owned())?;
        if response.error.is_empty() { Ok(response) } else { Err(response.error) }
    }

    /// All pages of some state.
    async fn get(&self, instruction: &str, kind: state_key::Type) -> Result<Vec<u8>, String> {
        let (mut all, mut token) = (Vec::new(), Bytes::new());
        loop {
            let get = state_request::Request::Get(StateGetRequest { continuation_token: token });
            let response = self.ask(instruction, StateKey { r#type: Some(kind.clone()) }, get).await?;
            let Some(state_response::Response::Get(page)) = response.response else {
                return Err("no page".into());
            };
            all.extend_from_slice(&page.data);
            if page.continuation_token.is_empty() {
                return Ok(all);
            }
            token = page.continuation_token;
        }
    }
}

/// A bundle's elements: what delivers them, and what takes them until it is taken itself.
type Channel = (UnboundedSender<Elements>, Option<UnboundedReceiver<Elements>>);

fn channel() -> Channel {
    let (sender, receiver) = unbounded();
    (sender, Some(receiver))
}
