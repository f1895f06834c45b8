//! A worker whose every word a test says, and the server side around it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_beam_proto::fn_execution::{
    Elements, InstructionRequest, InstructionResponse, ProcessBundleDescriptor, ProcessBundleResponse,
    RemoteGrpcPort, StartWorkerRequest, StateRequest, StateResponse, StopWorkerRequest, elements,
    instruction_request as ask, instruction_response as told,
};
use claviger_beam_proto::pipeline::{
    ApiServiceDescriptor, ArtifactInformation, Environment, ExternalPayload, FunctionSpec, PTransform,
    ParDoPayload, TimerFamilySpec,
};
use claviger_core::{Clock, Error, Result, SystemClock};
use claviger_harness::{
    ArtifactSource, Bundle, BundleSpec, HarnessConfig, Harnesses, Limits, LogEntry, LogSink, ProcessConfig,
    StateHandler, Worker, WorkerPoolClient, WorkerSpec,
};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use prost::Message as _;
use prost_types::Struct;
use tokio::sync::mpsc;

/// The address of the pool that is none.
pub(crate) const POOL: &str = "pool.example:1";

/// Takes requests to start workers and leaves their connection to the test.
pub(crate) struct Pool {
    started: mpsc::UnboundedSender<String>,
    pub(crate) stopped: Mutex<Vec<String>>,
}

#[async_trait]
impl WorkerPoolClient for Pool {
    async fn start_worker(&self, url: &str, request: StartWorkerRequest) -> Result<()> {
        assert_eq!(url, POOL);
        self.started.send(request.worker_id).map_err(|_| Error::internal("no test"))
    }

    async fn stop_worker(&self, _: &str, request: StopWorkerRequest) -> Result<()> {
        self.stopped.lock().expect("a list").push(request.worker_id);
        Ok(())
    }
}

pub(crate) struct NoFiles;

#[async_trait]
impl ArtifactSource for NoFiles {
    async fn list(&self) -> Result<Vec<ArtifactInformation>> {
        Ok(Vec::new())
    }

    async fn open(&self, _: &ArtifactInformation) -> Result<BoxStream<'static, Result<Bytes>>> {
        Err(Error::not_found("there are no files"))
    }
}

#[derive(Default)]
pub(crate) struct Log(pub(crate) Mutex<Vec<LogEntry>>);

impl LogSink for Log {
    fn log(&self, entry: LogEntry) {
        self.0.lock().expect("the log").push(entry);
    }
}

/// Answers state with what a function says.
pub(crate) struct Answering<F>(pub(crate) F);

#[async_trait]
impl<F: Fn(&StateRequest) -> Result<StateResponse> + Send + Sync> StateHandler for Answering<F> {
    async fn handle(&self, request: &StateRequest) -> Result<StateResponse> {
        (self.0)(request)
    }
}

pub(crate) fn stateless() -> Arc<dyn StateHandler> {
    Arc::new(Answering(|_: &StateRequest| Err(Error::internal("no state here"))))
}

pub(crate) struct World {
    pub(crate) harnesses: Arc<Harnesses>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) log: Arc<Log>,
    pub(crate) scratch: tempfile::TempDir,
    started: tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default(), Arc::new(SystemClock::new()))
    }

    pub(crate) fn with(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        Self::of_python(limits, clock, scratch, Some(PathBuf::from("/no/python")), 1)
    }

    /// Beam's images run with this Python, or with those below `cache` in the scratch directory.
    pub(crate) fn of_python(
        limits: Limits,
        clock: Arc<dyn Clock>,
        scratch: tempfile::TempDir,
        beam_python: Option<PathBuf>,
        spare_workers: usize,
    ) -> Self {
        let (sender, started) = mpsc::unbounded_channel();
        let pool = Arc::new(Pool { started: sender, stopped: Mutex::default() });
        let harnesses = Harnesses::new(HarnessConfig {
            endpoint: "server.example:9".into(),
            clock,
            pools: pool.clone(),
            processes: ProcessConfig {
                scratch: Some(scratch.path().into()),
                owner: "test".into(),
                python_cache: scratch.path().join("cache"),
                beam_python,
                variables: Default::default(),
                spare_workers,
            },
            limits,
        });
        Self { harnesses, pool, log: Arc::default(), scratch, started: started.into() }
    }

    pub(crate) fn spec(&self, environment: Environment) -> WorkerSpec {
        WorkerSpec {
            job_id: "job".into(),
            environment,
            options: Struct::default(),
            artifacts: Arc::new(NoFiles),
            logs: self.log.clone(),
            connect_timeout: Duration::from_secs(60),
        }
    }

    /// The next worker that the pool was asked for.
    pub(crate) async fn asked_for(&self) -> String {
        self.started.lock().await.recv().await.expect("a worker is asked for")
    }

    /// A worker, and the other side of its streams.
    pub(crate) async fn start(&self) -> (Arc<Worker>, Sdk) {
        let connect = async { Sdk::connect(&self.harnesses, &self.asked_for().await) };
        let (worker, sdk) = tokio::join!(self.harnesses.start(self.spec(external())), connect);
        (worker.expect("a worker"), sdk)
    }
}

pub(crate) fn external() -> Environment {
    let endpoint = Some(ApiServiceDescriptor { url: POOL.into(), authentication: None });
    let payload = ExternalPayload { endpoint, ..ExternalPayload::default() }.encode_to_vec();
    Environment { urn: "beam:env:external:v1".into(), payload: payload.into(), ..Environment::default() }
}

/// A channel as a stream.
pub(crate) fn receiving<T: Send + 'static>(mut receiver: mpsc::Receiver<T>) -> BoxStream<'static, T> {
    stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()
}

/// The worker's side.
pub(crate) struct Sdk {
    pub(crate) id: String,
    pub(crate) requests: BoxStream<'static, InstructionRequest>,
    pub(crate) responses: mpsc::Sender<Result<InstructionResponse>>,
    pub(crate) incoming: BoxStream<'static, Elements>,
    pub(crate) outgoing: mpsc::Sender<Result<Elements>>,
}

impl Sdk {
    pub(crate) fn connect(harnesses: &Harnesses, id: &str) -> Self {
        let (responses, receiver) = mpsc::channel(1);
        let requests = harnesses.control(id, receiving(receiver)).expect("control");
        let (outgoing, receiver) = mpsc::channel(1);
        let incoming = harnesses.data(id, receiving(receiver)).expect("data");
        Self { id: id.into(), requests, responses, incoming, outgoing }
    }

    /// The next instruction and what it asks.
    pub(crate) async fn request(&mut self) -> (String, ask::Request) {
        let request = self.requests.next().await.expect("an instruction");
        (request.instruction_id, request.request.expect("a request"))
    }

    /// The next bundle's instruction; registrations before it are left unanswered, as they may be.
    pub(crate) async fn bundle(&mut self) -> String {
        loop {
            match self.request().await {
                (id, ask::Request::ProcessBundle(_)) => return id,
                (_, ask::Request::Register(_)) => {}
                (_, other) => panic!("no bundle, but {other:?}"),
            }
        }
    }

    pub(crate) async fn answer(&self, id: &str, response: told::Response) {
        let response =
            InstructionResponse { instruction_id: id.into(), error: String::new(), response: Some(response) };
        self.responses.send(Ok(response)).await.expect("sent");
    }

    pub(crate) async fn done(&self, id: &str) {
        self.answer(id, told::Response::ProcessBundle(ProcessBundleResponse::default())).await;
    }

    pub(crate) async fn fail(&self, id: &str, error: &str) {
        let response = InstructionResponse { instruction_id: id.into(), error: error.into(), response: None };
        self.responses.send(Ok(response)).await.expect("sent");
    }

    pub(crate) async fn send(&self, id: &str, transform: &str, data: &[u8], is_last: bool) {
        self.outgoing.send(Ok(data_message(id, transform, data, is_last))).await.expect("sent");
    }

    /// Closes the outputs of [`stage`].
    pub(crate) async fn close(&self, id: &str) {
        self.send(id, "out", b"", true).await;
        let timers = vec![elements::Timers {
            instruction_id: id.into(),
            transform_id: "do".into(),
            timer_family_id: "family".into(),
            is_last: true,
            ..elements::Timers::default()
        }];
        self.outgoing.send(Ok(Elements { timers, data: Vec::new() })).await.expect("sent");
    }
}

pub(crate) fn data_message(id: &str, transform: &str, data: &[u8], is_last: bool) -> Elements {
    let data = vec![elements::Data {
        instruction_id: id.into(),
        transform_id: transform.into(),
        data: Bytes::copy_from_slice(data),
        is_last,
    }];
    Elements { data, timers: Vec::new() }
}

/// A stage with the ports `in` and `out` and a transform `do` with the timers `family`.
pub(crate) fn stage() -> Arc<ProcessBundleDescriptor> {
    let transform = |urn: &str, payload: Vec<u8>| PTransform {
        unique_name: urn.into(),
        spec: Some(FunctionSpec { urn: urn.into(), payload: payload.into() }),
        ..PTransform::default()
    };
    let port = RemoteGrpcPort::default().encode_to_vec();
    let timers = [("family".to_owned(), TimerFamilySpec::default())].into();
    let pardo = ParDoPayload { timer_family_specs: timers, ..ParDoPayload::default() }.encode_to_vec();
    let mut descriptor = ProcessBundleDescriptor { id: "stage".into(), ..ProcessBundleDescriptor::default() };
    descriptor.transforms.insert("in".into(), transform("beam:runner:source:v1", port.clone()));
    descriptor.transforms.insert("do".into(), transform("beam:transform:pardo:v1", pardo));
    descriptor.transforms.insert("out".into(), transform("beam:runner:sink:v1", port));
    Arc::new(descriptor)
}

pub(crate) async fn process(worker: &Worker, state: Arc<dyn StateHandler>) -> Result<Bundle> {
    worker.process(BundleSpec { descriptor: stage(), state, cache_tokens: Vec::new() }).await
}

/// Lets everything run that can. On a runtime of one thread nothing is left to do afterwards.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}
