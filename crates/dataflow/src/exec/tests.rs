//! Jobs from pipeline to end, over a worker in this process and a sealed store in memory.

mod faults;
mod flow;
mod pipe;
mod sdk;
mod state;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_beam_proto::pipeline::{ArtifactInformation, Pipeline};
use claviger_core::{Error, ManualClock, Result, Timestamp};
use claviger_fusion::Plan;
use claviger_harness::{ArtifactSource, HarnessConfig, Harnesses, LogEntry, ProcessConfig};
use claviger_shuffle::{Budget, Space};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::sync::watch;

use super::{JobContext, JobEvents, Level, Limits, MetricsSnapshot, StageProgress, run};
use sdk::{WORLD, World};

/// A job's surroundings.
struct Job {
    world: Arc<World>,
    clock: Arc<ManualClock>,
    disk: Arc<InMemory>,
    space: Arc<Space>,
    events: Arc<Events>,
    harnesses: Arc<Harnesses>,
    stop: watch::Sender<Option<Error>>,
    is_locked: Arc<AtomicBool>,
    limits: Limits,
}

#[derive(Default)]
struct Events {
    messages: Mutex<Vec<(Level, String)>>,
    metrics: Mutex<MetricsSnapshot>,
    stages: Mutex<Vec<StageProgress>>,
}

impl JobEvents for Events {
    fn planned(&self, _: &Plan) {}

    fn message(&self, level: Level, text: String) {
        self.messages.lock().unwrap().push((level, text));
    }

    fn stage(&self, progress: StageProgress) {
        self.stages.lock().unwrap().push(progress);
    }

    fn metrics(&self, snapshot: MetricsSnapshot) {
        *self.metrics.lock().unwrap() = snapshot;
    }

    fn harness_log(&self, _: LogEntry) {}
}

struct NoFiles;

#[async_trait]
impl ArtifactSource for NoFiles {
    async fn list(&self) -> Result<Vec<ArtifactInformation>> {
        Ok(Vec::new())
    }

    async fn open(&self, _: &ArtifactInformation) -> Result<BoxStream<'static, Result<Bytes>>> {
        Err(Error::not_found("no files here"))
    }
}

impl Job {
    fn new() -> Self {
        Self::with_memory(64 << 20)
    }

    fn with_memory(bytes: usize) -> Self {
        let world = World::new();
        WORLD.with(|own| *own.borrow_mut() = Some(world.clone()));
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let harnesses = Harnesses::new(HarnessConfig {
            endpoint: "127.0.0.1:1".into(),
            clock: clock.clone(),
            pools: world.clone(),
            processes: ProcessConfig {
                scratch: None,
                owner: "tests".into(),
                python_cache: "/nonexistent".into(),
                beam_python: None,
                variables: std::collections::BTreeMap::new(),
                spare_workers: 0,
            },
            limits: claviger_harness::Limits::default(),
        });
        let _ = world.harnesses.set(harnesses.clone());
        let disk = Arc::new(InMemory::new());
        let is_locked = Arc::new(AtomicBool::new(false));
        let space = Space::new(disk.clone(), "job".into(), Budget::new(bytes), Arc::new(guard(&is_locked)));
        Self {
            world,
            clock,
            disk,
            space,
            events: Arc::default(),
            harnesses,
            stop: watch::Sender::new(None),
            is_locked,
            limits: Limits { bundles_at_once: 2, ..Limits::default() },
        }
    }

    async fn run(&self, pipeline: Pipeline) -> Result<()> {
        let result = run(JobContext {
            id: "job-1".into(),
            pipeline,
            options: prost_types::Struct::default(),
            space: self.space.clone(),
            harnesses: self.harnesses.clone(),
            artifacts: Arc::new(NoFiles),
            events: self.events.clone(),
            cancel: self.stop.subscribe(),
            guard: Arc::new(guard(&self.is_locked)),
            clock: self.clock.clone(),
            limits: self.limits.clone(),
        })
        .await;
        self.is_locked.store(false, Ordering::SeqCst);
        self.space.remove().await.unwrap();
        let left: Vec<_> = self.disk.list(None).try_collect().await.unwrap();
        assert!(left.is_empty(), "files are left: {left:?}");
        result
    }

    /// The sum of the counter that each call of a function adds to.
    fn calls(&self) -> u64 {
        let metrics = self.events.metrics.lock().unwrap();
        let mut payload = &metrics.committed[0].payload[..];
        super::element::take_varint(&mut payload).unwrap()
    }
}

fn guard(is_locked: &Arc<AtomicBool>) -> impl Fn() -> Result<()> + Send + Sync + 'static {
    let is_locked = is_locked.clone();
    move || match is_locked.load(Ordering::SeqCst) {
        true => Err(Error::precondition("key k is disabled").violating("KEY_DISABLED", "k", "disabled")),
        false => Ok(()),
    }
}
