//! A server's worth of services in memory, on a clock that the test moves, with a runner that the test plays.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_beam_proto::fn_execution::{StartWorkerRequest, StopWorkerRequest};
use claviger_beam_proto::pipeline::{
    ArtifactFilePayload, ArtifactInformation, ArtifactStagingToRolePayload, Components, Pipeline,
};
use claviger_cmek::Manager;
use claviger_core::names::{CryptoKeyName, LocationName};
use claviger_core::{Caller, Error, ErrorKind, ManualClock, Result, Timestamp};
use claviger_harness::{HarnessConfig, Harnesses, ProcessConfig, WorkerPoolClient};
use claviger_kms::agents::Service;
use claviger_kms::{Binding, Kms, KmsConfig, NewCryptoKey, Policy, PolicyResource, VersionState};
use claviger_sealed::Records;
use claviger_shuffle::Budget;
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::ObjectStore as _;
use object_store::memory::InMemory;
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use tokio::sync::{mpsc, oneshot};

use crate::exec::{JobContext, Limits};
use crate::files::{BucketInfo, CloudFiles};
use crate::job::{Event, Job};
use crate::kept::JobMessage;
use crate::{Config, Dataflow, Graph, JobSpec, JobState, KeyDirectory, Options, Origin, Runner, Sdk};

pub(crate) const REGION: &str = "us-east1";
const START: Timestamp = Timestamp(1_795_404_091_000_000);
const PATIENCE: Duration = Duration::from_secs(20);

struct Directory(Arc<Kms>);

#[async_trait]
impl KeyDirectory for Directory {
    async fn agent(&self, project: &str) -> Result<Caller> {
        self.0.service_agent(Service::Dataflow, project).await
    }

    async fn managed_key(&self, region: &str) -> Result<(CryptoKeyName, Caller)> {
        let key = self.0.managed_key(Service::Dataflow, region).await?;
        let agent = self.0.service_agent(Service::Dataflow, key.project()).await?;
        Ok((key, agent))
    }
}

struct NoPools;

#[async_trait]
impl WorkerPoolClient for NoPools {
    async fn start_worker(&self, _url: &str, _request: StartWorkerRequest) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "no pools here"))
    }

    async fn stop_worker(&self, _url: &str, _request: StopWorkerRequest) -> Result<()> {
        Ok(())
    }
}

/// Buckets in memory.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) buckets: Mutex<HashMap<String, BucketInfo>>,
    pub(crate) files: Mutex<HashMap<(String, String), Bytes>>,
}

#[async_trait]
impl CloudFiles for Files {
    async fn bucket(&self, name: &str) -> Result<BucketInfo> {
        let found = self.buckets.lock().unwrap().get(name).cloned();
        found.ok_or_else(|| Error::not_found("The specified bucket does not exist."))
    }

    async fn open(&self, bucket: &str, object: &str) -> Result<(u64, BoxStream<'static, Result<Bytes>>)> {
        let found = self.files.lock().unwrap().get(&(bucket.to_owned(), object.to_owned())).cloned();
        let bytes = found.ok_or_else(|| Error::not_found(format!("No such object: {bucket}/{object}")))?;
        Ok((bytes.len() as u64, stream::iter([Ok(bytes)]).boxed()))
    }
}

/// A job that runs, as the test plays it.
pub(crate) struct Play {
    pub(crate) context: JobContext,
    end: oneshot::Sender<Result<()>>,
}

impl Play {
    pub(crate) fn end(self, outcome: Result<()>) {
        let _ = self.end.send(outcome);
    }
}

struct Stage(mpsc::UnboundedSender<Play>);

#[async_trait]
impl Runner for Stage {
    async fn run(&self, context: JobContext) -> Result<()> {
        let (end, ended) = oneshot::channel();
        let mut cancel = context.cancel.clone();
        self.0.send(Play { context, end }).map_err(|_| Error::internal("the test is over"))?;
        tokio::select! {
            biased;
            reason = cancel.wait_for(Option::is_some) => Err(reason.unwrap().clone().unwrap()),
            outcome = ended => outcome.unwrap_or_else(|_| Err(Error::internal("the test is over"))),
        }
    }
}

/// All that a test stands on.
pub(crate) struct Stand {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) kms: Arc<Kms>,
    pub(crate) disk: Arc<InMemory>,
    pub(crate) files: Arc<Files>,
    catalog: Arc<InMemory>,
    keys: Arc<Manager>,
    pub(crate) dataflow: Arc<Dataflow>,
    plays: tokio::sync::Mutex<mpsc::UnboundedReceiver<Play>>,
}

impl Stand {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let kms = Box::pin(Kms::open(KmsConfig::default(), Arc::new(InMemory::new()), clock.clone()));
        let (disk, catalog) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
        Self::over(clock, kms.await.unwrap(), disk, catalog, Arc::default()).await
    }

    async fn over(
        clock: Arc<ManualClock>,
        kms: Arc<Kms>,
        disk: Arc<InMemory>,
        catalog: Arc<InMemory>,
        files: Arc<Files>,
    ) -> Self {
        let records = Arc::new(Records::open(catalog.clone(), "records").await.unwrap());
        let config = claviger_cmek::Config::default();
        let keys = Manager::open(records.clone(), kms.clone(), clock.clone(), config).unwrap();
        tokio::spawn(keys.clone().run());
        let (sender, plays) = mpsc::unbounded_channel();
        let harnesses = Harnesses::new(HarnessConfig {
            endpoint: "127.0.0.1:1".to_owned(),
            clock: clock.clone(),
            pools: Arc::new(NoPools),
            processes: ProcessConfig {
                scratch: Some(PathBuf::from("/nowhere")),
                owner: "test".to_owned(),
                python_cache: PathBuf::from("/nowhere"),
                beam_python: None,
                variables: Default::default(),
                spare_workers: 0,
            },
            limits: claviger_harness::Limits::default(),
        });
        let dataflow = Dataflow::open(Config {
            files: disk.clone(),
            records,
            keys: keys.clone(),
            directory: Arc::new(Directory(kms.clone())),
            cloud: Some(files.clone()),
            harnesses,
            runner: Arc::new(Stage(sender)),
            budget: Budget::new(16 << 20),
            limits: Limits::default(),
            clock: clock.clone(),
            room: Arc::new(|| Ok(())),
        });
        let dataflow = Box::pin(dataflow).await.unwrap();
        let plays = tokio::sync::Mutex::new(plays);
        Self { clock, kms, disk, files, catalog, keys, dataflow, plays }
    }

    /// Starts anew on a copy of the files as they are now: what a crash leaves.
    pub(crate) async fn crash(self) -> Self {
        let (disk, catalog) = (Arc::new(self.disk.fork()), Arc::new(self.catalog.fork()));
        Self::over(self.clock, self.kms, disk, catalog, self.files).await
    }

    /// A portable job that waits to be told to run.
    pub(crate) async fn prepared(&self, name: &str) -> Arc<Job> {
        self.dataflow.create(portable(name, None)).await.unwrap()
    }

    /// The next job that runs.
    pub(crate) async fn play(&self) -> Play {
        let mut plays = self.plays.lock().await;
        tokio::time::timeout(PATIENCE, plays.recv()).await.expect("a job runs").expect("a job")
    }

    /// What a job said up to its end, states and texts.
    pub(crate) async fn told(&self, job: &Arc<Job>) -> Vec<String> {
        let mut follower = job.follow().await;
        let mut told = Vec::new();
        let all = async {
            while let Some(event) = follower.next().await {
                told.push(match event {
                    Event::State(change) => format!("{:?}", change.state),
                    Event::Message(message) => message.text,
                });
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("the job ends");
        told
    }

    pub(crate) async fn end_of(&self, job: &Arc<Job>) -> JobState {
        self.told(job).await;
        job.state()
    }

    /// A key that jobs of the project may use.
    pub(crate) async fn key(&self, name: &str, granted: bool) -> CryptoKeyName {
        let admin = Caller::local_admin();
        let place = LocationName::new("p", REGION).unwrap();
        let _ = self.kms.create_key_ring(&admin, &place, "r").await;
        let key = CryptoKeyName::new("p", REGION, "r", name).unwrap();
        self.kms
            .create_crypto_key(&admin, &key.key_ring_name(), name, NewCryptoKey::symmetric())
            .await
            .unwrap();
        if granted {
            let agent = self.kms.service_agent(Service::Dataflow, "p").await.unwrap().principal;
            let role = "roles/cloudkms.cryptoKeyEncrypterDecrypter".to_owned();
            let bindings = vec![Binding { role, members: vec![agent], conditional: false }];
            let policy = Policy { bindings, etag: Vec::new(), ..Policy::default() };
            let resource = PolicyResource::parse(key.as_str()).unwrap();
            self.kms.set_iam_policy(&admin, &resource, policy).await.unwrap();
        }
        key
    }

    /// Sets the state of a key's only version, and waits until its scopes felt it.
    pub(crate) async fn set_enabled(&self, key: &CryptoKeyName, enabled: bool) {
        let state = if enabled { VersionState::Enabled } else { VersionState::Disabled };
        self.kms.update_version_state(&Caller::local_admin(), &key.version_name(1), state).await.unwrap();
        let felt = async {
            while self
                .keys
                .loaded()
                .iter()
                .any(|scope| scope.key() == key && scope.guard().is_ok() != enabled)
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, felt).await.expect("the keys are asked");
    }

    /// The files on the disk below a path.
    pub(crate) async fn on_disk(&self, part: &str) -> Vec<String> {
        let listed: Vec<_> = self.disk.list(None).collect().await;
        let paths = listed.into_iter().map(|meta| meta.unwrap().location.to_string());
        paths.filter(|path| path.contains(part)).collect()
    }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

pub(crate) fn pipeline() -> Pipeline {
    Pipeline { components: Some(Components::default()), ..Pipeline::default() }
}

pub(crate) fn portable(name: &str, kms_key: Option<&CryptoKeyName>) -> JobSpec {
    let options = Struct { fields: [("beam:option:secret:v1".to_owned(), text("hunter2"))].into() };
    JobSpec {
        name: name.to_owned(),
        project: "p".to_owned(),
        region: REGION.to_owned(),
        kms_key: kms_key.map(CryptoKeyName::to_string),
        temp_location: None,
        options: Options::new(options),
        sdk: Sdk::default(),
        origin: Origin::Portable { pipeline: Box::new(pipeline()) },
    }
}

/// A job of the Dataflow API whose graph is gs://temp/pipeline.pb.
pub(crate) fn dataflow(name: &str, request: &str, kms_key: Option<&CryptoKeyName>) -> JobSpec {
    let graph = Graph { url: "gs://temp/pipeline.pb".to_owned(), sha256: String::new() };
    JobSpec {
        temp_location: Some("gs://temp/t".to_owned()),
        origin: Origin::Dataflow {
            graph,
            request: Bytes::from_static(b"request"),
            client_request_id: request.to_owned(),
        },
        ..portable(name, kms_key)
    }
}

/// A file that the submitter has.
pub(crate) fn artifact(name: &str, path: &str, sha256: &str) -> ArtifactInformation {
    let file = ArtifactFilePayload { path: path.to_owned(), sha256: sha256.to_owned() };
    let role = ArtifactStagingToRolePayload { staged_name: name.to_owned() };
    ArtifactInformation {
        type_urn: "beam:artifact:type:file:v1".to_owned(),
        type_payload: file.encode_to_vec().into(),
        role_urn: "beam:artifact:role:staging_to:v1".to_owned(),
        role_payload: role.encode_to_vec().into(),
    }
}

pub(crate) fn all(_: &JobMessage) -> bool {
    true
}
