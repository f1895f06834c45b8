//! A stage: its input in units, their bundles on the environment's worker, and what comes back for later.
//!
//! Invariant: a stage is over when each element of its input was in exactly one committed bundle, and so was
//! each element that a bundle put off.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use claviger_beam::Coder;
use claviger_beam_proto::fn_execution::process_bundle_request::{CacheToken, cache_token};
use claviger_beam_proto::fn_execution::process_bundle_split_request::DesiredSplit;
use claviger_beam_proto::fn_execution::{ProcessBundleDescriptor, ProcessBundleResponse};
use claviger_core::{Error, ErrorKind, Result};
use claviger_fusion::Stage;
use claviger_harness::{Bundle, BundleSpec, Worker};
use tokio::task::JoinSet;

use super::bundle::{self, Failure, SetTimers};
use super::graph::{Input, ShuffleKind, Target};
use super::limits::{ERROR_TEXT_BYTES, SPLIT_AFTER, TICK};
use super::merge::Merger;
use super::residual::{Agenda, Residual};
use super::run::Run;
use super::side::SideInputs;
use super::sink::BundleOutputs;
use super::source::{Feed, Work, WorkRange, units};
use super::state::BundleState;
use super::timers::{Families, Fired};
use super::unit::Unit;
use super::{Level, StageProgress, StageState, keyed, metrics};

/// A stage while it runs.
pub(super) struct StageRun {
    pub(super) run: Arc<Run>,
    pub(super) stage: Stage,
    pub(super) input: Input,
    pub(super) coder: Arc<Coder>,
    pub(super) merger: Option<Arc<Merger>>,
    pub(super) sides: Arc<SideInputs>,
    pub(super) families: Families,
    outputs: Arc<HashMap<String, Vec<Target>>>,
    descriptor: Arc<ProcessBundleDescriptor>,
    /// The user's steps by the ids in the descriptor.
    names: HashMap<String, String>,
    /// Side inputs never change, so workers may keep them.
    side_tokens: Vec<CacheToken>,
    running: Mutex<HashMap<u64, Running>>,
    bundles: AtomicU64,
}

/// A bundle under way.
struct Running {
    bundle: Weak<Bundle>,
    worker: Weak<Worker>,
    /// On the clock's `elapsed`.
    since: Duration,
    unit: Option<Arc<Unit>>,
}

/// What a bundle is given besides its elements.
pub(super) struct BundleInput {
    pub(super) feed: Box<dyn Feed>,
    pub(super) timers: Fired,
    pub(super) state: Arc<BundleState>,
    /// What the worker may keep of the user's state.
    pub(super) user_token: Option<Bytes>,
    /// The unit that may be split.
    pub(super) unit: Option<Arc<Unit>>,
}

/// What a bundle gave, apart from its elements. Nothing of it is committed yet.
pub(super) struct Finished {
    pub(super) response: ProcessBundleResponse,
    pub(super) timers: SetTimers,
    number: u64,
    bundle: Arc<Bundle>,
    worker: Arc<Worker>,
    outputs: BundleOutputs,
}

/// Something that came of a task of the stage.
enum News {
    /// A unit is committed; these elements come back.
    Unit(Vec<Residual>),
    /// A unit gave a part of its work away.
    Split(Vec<Work>, Vec<Residual>),
    /// Progress was asked for.
    Progress,
}

impl StageRun {
    /// Prepares a stage whose input is complete.
    pub(super) async fn new(
        run: &Arc<Run>,
        stage: &Stage,
        input: &Input,
        sides: &[Arc<super::graph::LogStore>],
        outputs: HashMap<String, Vec<Target>>,
    ) -> Result<Arc<Self>> {
        let components = &run.plan.components;
        let merger = run.merger(input, &stage.environment_id);
        let sides = SideInputs::load(&stage.side_inputs, sides, components, &run.side_bytes).await?;
        let token = run.token();
        let side_tokens = stage.side_inputs.iter().map(|side| CacheToken {
            r#type: Some(cache_token::Type::SideInput(cache_token::SideInput {
                transform_id: side.transform_id.clone(),
                side_input_id: side.tag.clone(),
            })),
            token: token.clone(),
        });
        let coder = match input {
            Input::Log(store) => store.coder.clone(),
            Input::Groups(store) => match &store.kind {
                ShuffleKind::Groups { output, .. } => output.clone(),
                ShuffleKind::Keyed { .. } => {
                    return Err(Error::internal("A stage reads groups of whole elements."));
                }
            },
            Input::Keyed(_) => Coder::from_components(&stage.input.wire_coder_id, components)?,
        };
        Ok(Arc::new(Self {
            run: run.clone(),
            input: input.clone(),
            coder,
            merger,
            sides,
            families: Families::new(&stage.timers, components)?,
            outputs: Arc::new(outputs),
            descriptor: Arc::new(stage.descriptor.clone()),
            names: stage.transforms.iter().cloned().collect(),
            side_tokens: side_tokens.collect(),
            stage: stage.clone(),
            running: Mutex::default(),
            bundles: AtomicU64::new(0),
        }))
    }

    /// Runs the stage to its end.
    pub(super) async fn execute(self: &Arc<Self>) -> Result<()> {
        self.progress(StageState::Running);
        let at_once = self.run.limits.bundles_at_once.max(1);
        let clock = &self.run.clock;
        let mut queue: VecDeque<Work> = units(&self.input, &self.run.limits).into();
        let mut later = Agenda::new(self.run.limits.residual_bytes);
        // Dropped with this future, and then all stop.
        let mut tasks: JoinSet<Result<News>> = JoinSet::new();
        let mut helpers: JoinSet<Result<News>> = JoinSet::new();
        let mut next_tick = clock.elapsed().saturating_add(TICK);
        loop {
            let due = later.take(clock.elapsed());
            if !due.is_empty() {
                queue.push_back(Work::whole(WorkRange::List(due.into())));
            }
            while tasks.len() < at_once
                && let Some(work) = queue.pop_front()
            {
                tasks.spawn(self.clone().unit(work));
            }
            if tasks.is_empty() && helpers.is_empty() && later.is_empty() {
                break;
            }
            let now = clock.elapsed();
            let wait = later.wait(now).unwrap_or(TICK);
            let news = tokio::select! {
                Some(news) = tasks.join_next(), if !tasks.is_empty() => joined(news)?,
                Some(news) = helpers.join_next(), if !helpers.is_empty() => joined(news)?,
                () = clock.sleep(wait), if !later.is_empty() => continue,
                () = clock.sleep(next_tick.saturating_sub(now)), if !tasks.is_empty() => {
                    next_tick = clock.elapsed().saturating_add(TICK);
                    if helpers.is_empty() {
                        self.look(&mut helpers, queue.is_empty() && tasks.len() < at_once);
                    }
                    continue;
                }
            };
            match news {
                News::Unit(residuals) => later.add(clock.elapsed(), residuals)?,
                News::Split(works, residuals) => {
                    queue.extend(works);
                    later.add(clock.elapsed(), residuals)?;
                }
                News::Progress => {}
            }
        }
        self.progress(StageState::Done);
        self.run.events.metrics(self.run.metrics.snapshot());
        Ok(())
    }

    async fn unit(self: Arc<Self>, work: Work) -> Result<News> {
        match (&self.input, &work.range) {
            (Input::Keyed(store), WorkRange::Partitions(parts)) => {
                keyed::run(&self, store, parts.clone()).await?;
                Ok(News::Unit(Vec::new()))
            }
            _ => Ok(News::Unit(Unit::new(work).run(&self).await?)),
        }
    }

    /// Asks for progress, and for a part of the longest bundle when a slot is free.
    fn look(self: &Arc<Self>, helpers: &mut JoinSet<Result<News>>, is_idle: bool) {
        let now = self.run.clock.elapsed();
        let mut oldest: Option<(Duration, Arc<Bundle>, Arc<Unit>)> = None;
        for (number, running) in self.running().iter() {
            let (Some(bundle), Some(worker)) = (running.bundle.upgrade(), running.worker.upgrade()) else {
                continue;
            };
            if let Some(unit) = &running.unit
                && now.saturating_sub(running.since) >= SPLIT_AFTER
                && unit.may_split()
                && oldest.as_ref().is_none_or(|(since, ..)| running.since < *since)
            {
                oldest = Some((running.since, bundle.clone(), unit.clone()));
            }
            helpers.spawn(self.clone().ask_progress(*number, bundle, worker));
        }
        if is_idle && let Some((_, bundle, unit)) = oldest {
            helpers.spawn(self.clone().split(bundle, unit));
        }
    }

    async fn ask_progress(
        self: Arc<Self>,
        number: u64,
        bundle: Arc<Bundle>,
        worker: Arc<Worker>,
    ) -> Result<News> {
        // A bundle that ends meanwhile has no progress to report.
        let Ok(progress) = bundle.progress().await else { return Ok(News::Progress) };
        let environment = &self.stage.environment_id;
        let measured = self
            .run
            .workers
            .measured(environment, &worker, progress.monitoring_infos, progress.monitoring_data)
            .await;
        if let Ok(mut infos) = measured {
            metrics::rename(&mut infos, &self.names);
            let running = self.running();
            if running.contains_key(&number) {
                self.run.metrics.report(number, infos);
            }
        }
        self.run.events.metrics(self.run.metrics.snapshot());
        Ok(News::Progress)
    }

    async fn split(self: Arc<Self>, bundle: Arc<Bundle>, unit: Arc<Unit>) -> Result<News> {
        let port = &self.stage.input.port_transform_id;
        let desired = |elements: u64| {
            let split = DesiredSplit {
                fraction_of_remainder: 0.5,
                allowed_split_points: Vec::new(),
                estimated_input_elements: i64::try_from(elements).unwrap_or(i64::MAX),
            };
            BTreeMap::from([(port.clone(), split)])
        };
        let (works, residuals) =
            unit.split(&self.input, port, |elements| bundle.split(desired(elements))).await;
        Ok(News::Split(works, residuals))
    }

    /// Runs one bundle up to the worker's answer.
    pub(super) async fn process(
        &self,
        worker: &Arc<Worker>,
        input: BundleInput,
    ) -> Result<Finished, Failure> {
        (self.run.guard)()?;
        let mut cache_tokens = self.side_tokens.clone();
        cache_tokens.extend(input.user_token.map(|token| CacheToken {
            r#type: Some(cache_token::Type::UserState(cache_token::UserState {})),
            token,
        }));
        let spec = BundleSpec { descriptor: self.descriptor.clone(), state: input.state, cache_tokens };
        let bundle = Arc::new(worker.process(spec).await.map_err(Failure::of_worker)?);
        let number = self.run.metrics.begin();
        let running = Running {
            bundle: Arc::downgrade(&bundle),
            worker: Arc::downgrade(worker),
            since: self.run.clock.elapsed(),
            unit: input.unit,
        };
        self.running().insert(number, running);
        let _end = End { stage: self, number };
        let mut outputs = BundleOutputs::new(self.outputs.clone());
        let port = &self.stage.input.port_transform_id;
        let (response, timers) = bundle::run(&bundle, port, input.feed, input.timers, &mut outputs).await?;
        Ok(Finished { response, timers, number, bundle, worker: worker.clone(), outputs })
    }

    /// Makes a bundle's output and metrics count, and tells the worker.
    pub(super) async fn commit(&self, finished: Finished) -> Result<()> {
        let Finished { mut response, number, bundle, worker, outputs, .. } = finished;
        (self.run.guard)()?;
        outputs.commit().await?;
        self.bundles.fetch_add(1, Ordering::Relaxed);
        // From here on the bundle counts: a worker that is lost now costs metrics at most.
        let environment = &self.stage.environment_id;
        if let Ok(mut infos) = self.run.workers.measured_by(environment, &worker, &mut response).await {
            metrics::rename(&mut infos, &self.names);
            self.run.metrics.commit(number, infos);
        }
        if response.requires_finalization
            && let Err(error) = bundle.finalize().await
        {
            let text = format!(
                "A bundle of {} was committed but not finalized: {}",
                self.stage.name,
                error.message()
            );
            self.run.events.message(Level::Warning, text);
        }
        Ok(())
    }

    /// The job's error for a failure that is not tried again.
    pub(super) fn error(&self, failure: Failure) -> Error {
        match failure {
            Failure::Fatal(error) => named(&self.stage.name, error),
            Failure::Lost(error) => error,
            Failure::User(error) => {
                let text = tail(error.message(), ERROR_TEXT_BYTES);
                let step = failed_step(text).unwrap_or(match self.stage.transforms.as_slice() {
                    [(_, name)] => name,
                    _ => &self.stage.name,
                });
                Error::new(error.kind(), format!("The step {step} failed: {text}"))
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self, state: StageState) {
        let (elements, bytes) = match &self.input {
            Input::Log(store) => (store.log.elements(), store.log.bytes()),
            Input::Groups(store) | Input::Keyed(store) => (store.shuffle.records(), store.shuffle.bytes()),
        };
        self.run.events.stage(StageProgress {
            name: self.stage.name.clone(),
            state,
            elements,
            bytes,
            bundles: self.bundles.load(Ordering::Relaxed),
        });
    }
}

/// Ends a bundle's entry among those under way.
struct End<'a> {
    stage: &'a StageRun,
    number: u64,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.stage.running().remove(&self.number);
        self.stage.run.metrics.drop(self.number);
    }
}

fn joined(news: Result<Result<News>, tokio::task::JoinError>) -> Result<News> {
    news.map_err(|error| Error::internal("A task of a stage ended early.").because(error))?
}

/// The error with the stage's name, where it is of the stage's own making.
pub(super) fn named(stage: &str, error: Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidArgument | ErrorKind::ResourceExhausted | ErrorKind::Unimplemented => {
            Error::new(error.kind(), format!("{stage}: {}", error.message())).because(error)
        }
        _ => error,
    }
}

/// The step that the SDK names in its error.
fn failed_step(text: &str) -> Option<&str> {
    let (_, rest) = text.rsplit_once("[while running '")?;
    rest.split_once("']").map(|(step, _)| step)
}

/// The end of a text, where traces have what matters.
fn tail(text: &str, bytes: usize) -> &str {
    let start = text.ceil_char_boundary(text.len().saturating_sub(bytes));
    text.get(start..).unwrap_or(text)
}
