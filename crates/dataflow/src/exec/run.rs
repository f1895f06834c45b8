//! The plan's nodes, each as soon as what it reads is complete.
//!
//! Invariant: a node begins after all that it depends on are over, and what it read is released after it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use claviger_beam::{time, windowed};
use claviger_core::{Clock, Error, Result};
use claviger_fusion::{Node, Plan};
use tokio::task::JoinSet;

use super::graph::{Input, ShuffleKind, ShuffleStore, Step, Target, Task, steps};
use super::limits::{NODES_AT_ONCE, SHUFFLE_PARTITIONS};
use super::merge::Merger;
use super::metrics::Metrics;
use super::side::SideBytes;
use super::sink::BundleOutputs;
use super::source::{Outlet, groups};
use super::stage::{StageRun, named};
use super::state::StateBytes;
use super::workers::Workers;
use super::{Guard, JobContext, JobEvents, Limits};

/// A job while it runs.
pub(super) struct Run {
    pub(super) plan: Plan,
    steps: Vec<Step>,
    pub(super) workers: Arc<Workers>,
    pub(super) metrics: Metrics,
    pub(super) events: Arc<dyn JobEvents>,
    pub(super) guard: Guard,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: Limits,
    pub(super) state_bytes: Arc<StateBytes>,
    pub(super) side_bytes: Arc<SideBytes>,
    tokens: AtomicU64,
}

impl Run {
    /// Lays the plan out. Nothing runs yet.
    pub(super) fn new(job: JobContext, plan: Plan) -> Result<Arc<Self>> {
        let steps = steps(&plan, &job.space)?;
        let workers = Workers::new(&job, &plan.components.environments);
        Ok(Arc::new(Self {
            steps,
            workers: Arc::new(workers),
            metrics: Metrics::default(),
            events: job.events,
            guard: job.guard,
            clock: job.clock,
            state_bytes: StateBytes::new(job.limits.state_bytes),
            side_bytes: SideBytes::new(job.limits.side_input_bytes),
            limits: job.limits,
            tokens: AtomicU64::new(0),
            plan,
        }))
    }

    /// Runs all nodes. Dropping the future stops them.
    pub(super) async fn execute(self: &Arc<Self>) -> Result<()> {
        let mut tasks: JoinSet<Result<Option<usize>>> = JoinSet::new();
        // Workers take a while to start, and each one here will be needed.
        for environment in self.plan.environments() {
            let (run, environment) = (self.clone(), environment.to_owned());
            tasks.spawn(async move { run.workers.get(&environment).await.map(|_| None) });
        }
        let mut waiting: Vec<usize> = self.steps.iter().map(|step| step.after.len()).collect();
        let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, step) in self.steps.iter().enumerate() {
            for before in &step.after {
                readers.entry(*before).or_default().push(index);
            }
        }
        let is_free = |(index, count): (usize, &usize)| (*count == 0).then_some(index);
        // The last is taken first: nodes in the order of the plan.
        let mut ready: Vec<usize> = waiting.iter().enumerate().filter_map(is_free).rev().collect();
        let (mut under_way, mut over) = (0, 0);
        // A worker that turns out not to be needed is not waited for.
        while over < self.steps.len() {
            while under_way < NODES_AT_ONCE
                && let Some(index) = ready.pop()
            {
                under_way += 1;
                let run = self.clone();
                tasks.spawn(async move { run.node(index).await.map(|()| Some(index)) });
            }
            let Some(ended) = tasks.join_next().await else {
                return Err(Error::internal("The plan's nodes wait for one another."));
            };
            let ended =
                ended.map_err(|error| Error::internal("A task of the job ended early.").because(error))??;
            let Some(index) = ended else { continue };
            under_way -= 1;
            over += 1;
            let mut freed: Vec<usize> = Vec::new();
            for reader in readers.get(&index).into_iter().flatten() {
                if let Some(count) = waiting.get_mut(*reader) {
                    *count -= 1;
                    if *count == 0 {
                        freed.push(*reader);
                    }
                }
            }
            ready.extend(freed.into_iter().rev());
        }
        Ok(())
    }

    async fn node(self: &Arc<Self>, index: usize) -> Result<()> {
        let (Some(step), Some(node)) = (self.steps.get(index), self.plan.nodes.get(index)) else {
            return Err(Error::internal("The plan lost a node."));
        };
        if let Some(store) = &step.completes {
            store.shuffle.finish().await?;
        }
        match &step.task {
            Task::Nothing => Ok(()),
            Task::Impulse { targets } => {
                let mut outputs = Copied::new(targets);
                outputs.put(impulse()?).await?;
                outputs.0.commit().await
            }
            Task::Copy { from, targets } => {
                if !targets.is_empty() {
                    let merger = self.merger(&Input::Groups(from.clone()), "");
                    let mut outputs = Copied::new(targets);
                    groups(from, 0..SHUFFLE_PARTITIONS, merger.as_deref(), &mut outputs).await?;
                    outputs.0.commit().await?;
                }
                from.release().await
            }
            Task::Stage { input, sides, outputs } => {
                let Node::Stage(stage) = node else {
                    return Err(Error::internal("The plan's nodes are mixed up."));
                };
                let stage_run = StageRun::new(self, stage, input, sides, outputs.clone()).await;
                stage_run.map_err(|error| named(&stage.name, error))?.execute().await?;
                input.release().await?;
                for side in sides {
                    side.release().await?;
                }
                Ok(())
            }
        }
    }

    /// Who merges the windows of an input's groups, if the SDK has to.
    pub(super) fn merger(&self, input: &Input, default_environment: &str) -> Option<Arc<Merger>> {
        let Input::Groups(store) = input else { return None };
        let ShuffleStore { kind: ShuffleKind::Groups { group, strategy, window_coder, .. }, .. } = &**store
        else {
            return None;
        };
        let spec = group.needs_merge()?;
        // Any environment will do for a strategy that names none: its function came from the one SDK there is.
        let environments = self.plan.components.environments.keys();
        let default = environments.map(String::as_str).find(|_| default_environment.is_empty());
        let default = default.unwrap_or(default_environment);
        let components = &self.plan.components;
        Some(Arc::new(Merger::new(&self.workers, components, strategy, window_coder, spec, default)))
    }

    /// A cache token that was not used before.
    pub(super) fn token(&self) -> Bytes {
        Bytes::copy_from_slice(&self.tokens.fetch_add(1, Ordering::Relaxed).to_be_bytes())
    }
}

/// Elements that the runner itself writes.
struct Copied(BundleOutputs);

impl Copied {
    const PORT: &str = "";

    fn new(targets: &[Target]) -> Self {
        Self(BundleOutputs::new(Arc::new(HashMap::from([(Self::PORT.to_owned(), targets.to_vec())]))))
    }
}

#[async_trait]
impl Outlet for Copied {
    async fn put(&mut self, chunk: Bytes) -> Result<bool> {
        self.0.write(Self::PORT, chunk).await?;
        Ok(true)
    }
}

/// The element of an impulse: no bytes, in the global window, at the beginning of time.
fn impulse() -> Result<Bytes> {
    let mut data = BytesMut::new();
    let header = windowed::Header {
        timestamp_millis: time::MIN_TIMESTAMP_MILLIS,
        windows: vec![Bytes::new()],
        pane: windowed::Pane::NO_FIRING,
    };
    header.write(&mut data)?;
    data.put_u8(0);
    Ok(data.freeze())
}
