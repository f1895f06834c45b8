//! A worker that does nothing: the SDK's side of the Fn API, over gRPC.
//!
//! Invariant: a bundle's records are sent no faster than the server takes them, and a bundle that went wrong answers
//! with the reason, which fails the job. No elements are kept: those of a bundle pass through one queue of
//! [`WAITING_CHUNKS`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use claviger_beam_proto::fn_execution::beam_fn_control_client::BeamFnControlClient;
use claviger_beam_proto::fn_execution::beam_fn_data_client::BeamFnDataClient;
use claviger_beam_proto::fn_execution::{
    Elements, GetProcessBundleDescriptorRequest, InstructionRequest, InstructionResponse,
    ProcessBundleDescriptor, ProcessBundleResponse, elements, instruction_request as ask,
    instruction_response as told,
};
use claviger_beam_proto::pipeline::MonitoringInfo;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use super::Moment;
use super::elements::{Shape, Tally, Template};
use super::stage::{DRAINED, MADE, Stage};
use crate::failure::{Doing, Failure, Result};
use crate::usage::Tree;

/// Messages that wait for the stream to the server.
const WAITING_MESSAGES: usize = 2;
/// Chunks of elements that wait for their bundle.
const WAITING_CHUNKS: usize = 4;
/// Answers that wait for the stream to the server.
const WAITING_ANSWERS: usize = 64;

/// What a turn tells its workers, and what they tell it.
#[derive(Debug)]
pub(super) struct Told {
    shape: Shape,
    message_bytes: usize,
    server: Tree,
    reading: OnceLock<Moment>,
    drained: Mutex<Tally>,
}

impl Told {
    pub(super) fn new(shape: Shape, message_bytes: usize, server: Tree) -> Self {
        Self { shape, message_bytes, server, reading: OnceLock::new(), drained: Mutex::default() }
    }

    /// When the first bundle of groups began, where one did.
    pub(super) fn reading(&self) -> Option<Moment> {
        self.reading.get().copied()
    }

    /// What the bundles of groups counted.
    pub(super) fn drained(&self) -> Tally {
        *self.drained.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker that is connected.
#[derive(Debug)]
pub(super) struct Worker {
    id: String,
    control: BeamFnControlClient<Channel>,
    instructions: Streaming<InstructionRequest>,
    answers: mpsc::Sender<InstructionResponse>,
    incoming: Streaming<Elements>,
    side: Arc<Side>,
}

/// What the bundles of a worker share.
#[derive(Debug)]
struct Side {
    told: Arc<Told>,
    out: mpsc::Sender<Elements>,
    inputs: Mutex<HashMap<String, Input>>,
}

/// The way of a bundle's elements: a chunk, and whether it is the last. The receiver waits for the bundle.
#[derive(Debug)]
struct Input {
    sender: mpsc::Sender<(Bytes, bool)>,
    receiver: Option<mpsc::Receiver<(Bytes, bool)>>,
}

impl Input {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_CHUNKS);
        Self { sender, receiver: Some(receiver) }
    }
}

/// A call that says which worker it comes from.
fn named<T>(id: &str, message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("worker_id", id.parse().doing("a worker's id")?);
    Ok(request)
}

impl Worker {
    /// Opens the streams to the server at `host:port`.
    ///
    /// # Errors
    /// When it does not let this worker in.
    pub(super) async fn connect(id: &str, authority: &str, told: Arc<Told>) -> Result<Self> {
        let (out, outgoing) = mpsc::channel(WAITING_MESSAGES);
        let data = BeamFnDataClient::new(super::connect(authority).await?);
        let stream = named(id, ReceiverStream::new(outgoing))?;
        let incoming =
            data.max_decoding_message_size(usize::MAX).data(stream).await.doing("Data")?.into_inner();
        // Elements and instructions do not wait for one another.
        let control = BeamFnControlClient::new(super::connect(authority).await?);
        let mut control = control.max_decoding_message_size(usize::MAX);
        let (answers, answered) = mpsc::channel(WAITING_ANSWERS);
        let stream = named(id, ReceiverStream::new(answered))?;
        let instructions = control.control(stream).await.doing("Control")?.into_inner();
        let side = Arc::new(Side { told, out, inputs: Mutex::default() });
        Ok(Self { id: id.to_owned(), control, instructions, answers, incoming, side })
    }

    /// Works until the server closes the streams.
    ///
    /// # Errors
    /// When one of them breaks.
    pub(super) async fn work(mut self) -> Result<()> {
        let mut descriptors: HashMap<String, ProcessBundleDescriptor> = HashMap::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(deliver(self.incoming, self.side.clone()));
        loop {
            let instruction = tokio::select! {
                instruction = self.instructions.message() => instruction.doing("the control stream")?,
                Some(ended) = tasks.join_next() => {
                    ended.doing("a task ended badly")??;
                    continue;
                }
            };
            let Some(InstructionRequest { instruction_id, request }) = instruction else { return Ok(()) };
            let response = match request {
                Some(ask::Request::Register(register)) => {
                    let new = register.process_bundle_descriptor.into_iter();
                    descriptors.extend(new.map(|descriptor| (descriptor.id.clone(), descriptor)));
                    told::Response::Register(Default::default())
                }
                Some(ask::Request::ProcessBundle(bundle)) => {
                    let id = bundle.process_bundle_descriptor_id;
                    if !descriptors.contains_key(&id) {
                        let request =
                            GetProcessBundleDescriptorRequest { process_bundle_descriptor_id: id.clone() };
                        let found =
                            self.control.get_process_bundle_descriptor(named(&self.id, request)?).await;
                        descriptors
                            .insert(id.clone(), found.doing("GetProcessBundleDescriptor")?.into_inner());
                    }
                    let stage = descriptors.get(&id).ok_or_else(|| Failure::new("no descriptor"));
                    let stage = stage.and_then(Stage::read);
                    tasks.spawn(bundle_of(instruction_id, stage, self.side.clone(), self.answers.clone()));
                    continue;
                }
                // Nothing to tell, and nothing to give away.
                Some(ask::Request::ProcessBundleProgress(_)) => {
                    told::Response::ProcessBundleProgress(Default::default())
                }
                Some(ask::Request::ProcessBundleSplit(_)) => {
                    told::Response::ProcessBundleSplit(Default::default())
                }
                Some(ask::Request::FinalizeBundle(_)) => told::Response::FinalizeBundle(Default::default()),
                Some(ask::Request::MonitoringInfos(_)) => told::Response::MonitoringInfos(Default::default()),
                Some(ask::Request::HarnessMonitoringInfos(_)) => {
                    told::Response::HarnessMonitoringInfos(Default::default())
                }
                other => {
                    return Err(Failure::new(format!("an instruction that is not known here: {other:?}")));
                }
            };
            answer(&self.answers, instruction_id, Ok(response)).await?;
        }
    }
}

async fn answer(
    answers: &mpsc::Sender<InstructionResponse>,
    instruction_id: String,
    response: Result<told::Response>,
) -> Result<()> {
    let (response, error) = match response {
        Ok(response) => (Some(response), String::new()),
        Err(failure) => (None, failure.to_string()),
    };
    answers.send(InstructionResponse { instruction_id, error, response }).await.doing("the control stream")
}

/// Hands the elements that come to their bundles, whether these have begun or not.
async fn deliver(mut incoming: Streaming<Elements>, side: Arc<Side>) -> Result<()> {
    while let Some(elements) = incoming.message().await.doing("the data stream")? {
        for data in elements.data {
            let sender = side.inputs().entry(data.instruction_id).or_insert_with(Input::new).sender.clone();
            // A bundle that failed takes no more.
            let _ = sender.send((data.data, data.is_last)).await;
        }
    }
    Ok(())
}

/// Runs a bundle and answers.
async fn bundle_of(
    id: String,
    stage: Result<Stage>,
    side: Arc<Side>,
    answers: mpsc::Sender<InstructionResponse>,
) -> Result<()> {
    let ran = match stage {
        Ok(stage) => side.run(&id, &stage).await,
        Err(failure) => Err(failure),
    };
    side.inputs().remove(&id);
    let response = ran.map(|monitoring_infos| {
        told::Response::ProcessBundle(ProcessBundleResponse {
            monitoring_infos,
            ..ProcessBundleResponse::default()
        })
    });
    answer(&answers, id, response).await
}

impl Side {
    fn inputs(&self) -> MutexGuard<'_, HashMap<String, Input>> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, id: &str, stage: &Stage) -> Result<Vec<MonitoringInfo>> {
        let told = &self.told;
        let input = self.inputs().entry(id.to_owned()).or_insert_with(Input::new).receiver.take();
        let mut input = input.ok_or_else(|| Failure::new(format!("the bundle {id} was asked for twice")))?;
        match stage {
            Stage::Generate { step, sink, part } => {
                let mut made = 0;
                while let Some((element, is_last)) = input.recv().await {
                    if !element.is_empty() {
                        let template = Template::new(told.shape, told.message_bytes, &element)?;
                        let mut next = part.start;
                        while next < part.end {
                            let end = part.end.min(next + template.capacity());
                            self.send(id, sink, template.message(next..end), false).await?;
                            made += end - next;
                            next = end;
                        }
                    }
                    if is_last {
                        break;
                    }
                }
                self.send(id, sink, Bytes::new(), true).await?;
                Ok(step.counted(MADE, made, made))
            }
            Stage::Drain { step } => {
                told.reading.get_or_init(|| Moment::now(told.server));
                let mut tally = Tally::default();
                while let Some((chunk, is_last)) = input.recv().await {
                    tally.count(told.shape, &chunk)?;
                    if is_last {
                        break;
                    }
                }
                *told.drained.lock().unwrap_or_else(PoisonError::into_inner) += tally;
                Ok(step.counted(DRAINED, tally.records, tally.groups))
            }
        }
    }

    async fn send(&self, id: &str, sink: &str, data: Bytes, is_last: bool) -> Result<()> {
        let data =
            elements::Data { instruction_id: id.to_owned(), transform_id: sink.to_owned(), data, is_last };
        let elements = Elements { data: vec![data], timers: Vec::new() };
        self.out.send(elements).await.doing("the data stream")
    }
}
