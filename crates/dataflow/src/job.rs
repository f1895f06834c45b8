//! One job: what it is, where it is in its life, what it said. How it runs is in `life`.
//!
//! Invariants: states and messages have one order, in which every follower sees them. A job that is seen to
//! have ended is durable as such. What its key protects is in memory only while the key is usable.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use claviger_beam_proto::pipeline::{ArtifactInformation, Pipeline};
use claviger_cmek::{Lock, Scope};
use claviger_core::{Error, ErrorKind, Result, Timestamp};
use claviger_sealed::scope::ScopeId;
use claviger_shuffle::Space;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::artifacts::{self, Shelf, Staged};
use crate::create::Graph;
use crate::exec::MetricsSnapshot;
use crate::files::{CloudFiles, CloudName};
use crate::id::JobId;
use crate::journal::Journal;
use crate::kept::{self, DESCRIPTION, Description, Importance, JobMessage, STORY, Story};
use crate::model::{Head, JobState, StateChange};
use crate::options::Options;
use crate::vault::{Part, Place};
use crate::{LOADED, Shared, lock};

/// Where a job's head is among the platform's records.
pub(crate) fn record_key(id: &JobId) -> String {
    format!("dataflow/job/{id}")
}

/// What a job is to run.
pub(crate) struct Input {
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) graph: Option<Graph>,
    pub(crate) options: Options,
    pub(crate) temp_location: Option<String>,
}

struct Inner {
    head: Head,
    /// Here while the job runs, and after it was read.
    journal: Option<Journal>,
    /// The next place among states and messages.
    next: u64,
}

/// A job; see the module's text.
pub struct Job {
    pub(crate) shared: Arc<Shared>,
    id: JobId,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    /// Becomes `Some` when the job has to stop.
    pub(crate) cancel: watch::Sender<Option<Error>>,
    pub(crate) cancelled: AtomicBool,
    pub(crate) halted: AtomicBool,
    scope: OnceLock<Arc<Scope>>,
    kept: tokio::sync::Mutex<Option<Arc<Place>>>,
    work: tokio::sync::Mutex<Option<Arc<Place>>>,
    pub(crate) input: Mutex<Option<Input>>,
    staged: Mutex<Vec<Staged>>,
    artifacts: AtomicUsize,
    /// Held while the record is written, so that the last writer is the latest.
    saving: tokio::sync::Mutex<()>,
    loading: tokio::sync::Mutex<()>,
    /// Waits for the lock of the key while something under it is in memory.
    watching: Mutex<Option<AbortHandle>>,
}

/// What a job says, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It came to another state.
    State(StateChange),
    /// It said something.
    Message(JobMessage),
}

/// Follows a job up to its last state.
#[derive(Debug)]
pub struct Follower {
    job: Arc<Job>,
    changed: watch::Receiver<u64>,
    next: u64,
    over: bool,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Job {
    pub(crate) fn new(shared: Arc<Shared>, head: Head, active: Option<(Description, Input)>) -> Arc<Self> {
        let (description, input) = active.unzip();
        Arc::new(Self {
            shared,
            id: head.id.clone(),
            inner: Mutex::new(Inner {
                next: head.next_sequence(),
                head,
                journal: description.map(Journal::begun),
            }),
            changed: watch::Sender::new(0),
            cancel: watch::Sender::new(None),
            cancelled: AtomicBool::new(false),
            halted: AtomicBool::new(false),
            scope: OnceLock::new(),
            kept: tokio::sync::Mutex::new(None),
            work: tokio::sync::Mutex::new(None),
            input: Mutex::new(input),
            staged: Mutex::default(),
            artifacts: AtomicUsize::new(0),
            saving: tokio::sync::Mutex::new(()),
            loading: tokio::sync::Mutex::new(()),
            watching: Mutex::new(None),
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// What is known without its key.
    #[must_use]
    pub fn head(&self) -> Head {
        lock(&self.inner).head.clone()
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> JobState {
        lock(&self.inner).head.state()
    }

    /// The pipeline, its options and the request, as they came.
    ///
    /// # Errors
    /// The lock of the job's key; `FailedPrecondition` where nothing was kept.
    pub async fn description(self: &Arc<Self>) -> Result<Arc<Description>> {
        self.load().await?;
        self.reading(|journal| journal.description.clone())
    }

    /// Reads of the story.
    ///
    /// # Errors
    /// As [`Self::description`].
    pub async fn story<T>(self: &Arc<Self>, read: impl FnOnce(&Story) -> T + Send) -> Result<T> {
        self.load().await?;
        self.reading(|journal| read(&journal.story))
    }

    /// What was measured.
    ///
    /// # Errors
    /// As [`Self::description`].
    pub async fn metrics(self: &Arc<Self>) -> Result<MetricsSnapshot> {
        self.story(Story::metrics).await
    }

    /// The messages from a place on, in order, at most so many. Of a job whose key is locked only the one that
    /// says why it ended.
    ///
    /// # Errors
    /// As [`Self::description`], unless there is such a message.
    pub async fn messages(
        self: &Arc<Self>,
        from: u64,
        count: usize,
        wanted: impl Fn(&JobMessage) -> bool + Send + Sync,
    ) -> Result<Vec<JobMessage>> {
        let reason = self.reason();
        let said = self
            .story(|story| {
                let start = story.messages.partition_point(|message| message.sequence < from);
                let after = story.messages.get(start..).unwrap_or_default();
                after.iter().filter(|message| wanted(message)).take(count).cloned().collect::<Vec<_>>()
            })
            .await;
        let mut said = match (said, &reason) {
            (Ok(said), _) => said,
            (Err(_), Some(_)) => Vec::new(),
            (Err(error), None) => return Err(error),
        };
        said.extend(reason.filter(|reason| reason.sequence >= from && wanted(reason) && said.len() < count));
        Ok(said)
    }

    /// The message that can be told without the key.
    fn reason(&self) -> Option<JobMessage> {
        let inner = lock(&self.inner);
        let reason = inner.head.reason.as_ref()?;
        Some(JobMessage::new(reason.sequence, reason.time, Importance::Error, reason.text.clone()))
    }

    /// Follows the job from its beginning: states and messages.
    pub async fn follow(self: &Arc<Self>) -> Follower {
        // Without its key there are states to follow.
        let _ = self.load().await;
        Follower { job: self.clone(), changed: self.changed.subscribe(), next: 0, over: false }
    }

    /// Stops the job. What it committed is left as it is. To stop a job that ended changes nothing.
    ///
    /// # Errors
    /// When the end of a job that did not run yet could not be made durable.
    pub async fn cancel(self: &Arc<Self>) -> Result<()> {
        match self.state() {
            JobState::Stopped => {
                self.cancelled.store(true, Ordering::Relaxed);
                self.finish(Err(user_cancelled())).await;
            }
            state if state.is_terminal() => {}
            _ => {
                self.cancelled.store(true, Ordering::Relaxed);
                self.moved(JobState::Cancelling);
                self.cancel.send_if_modified(|reason| {
                    let first = reason.is_none();
                    reason.get_or_insert_with(user_cancelled);
                    first
                });
            }
        }
        Ok(())
    }

    /// Stops the job because the process ends.
    pub(crate) fn halt(&self, why: &Error) {
        if !self.state().is_terminal() {
            self.halted.store(true, Ordering::Relaxed);
            self.cancel.send_if_modified(|reason| {
                let first = reason.is_none();
                reason.get_or_insert_with(|| why.clone());
                first
            });
        }
    }

    /// Ends a job that was not told to run.
    pub(crate) async fn give_up(self: &Arc<Self>, error: &Error) {
        if self.state() == JobState::Stopped {
            self.finish(Err(error.clone())).await;
        }
    }

    // What follows is for the parts of this crate.

    pub(crate) fn now(&self) -> Timestamp {
        self.shared.config.clock.now()
    }

    fn reading<T>(&self, read: impl FnOnce(&Journal) -> T) -> Result<T> {
        let inner = lock(&self.inner);
        inner.journal.as_ref().map(read).ok_or_else(|| Error::precondition("The job's key was locked."))
    }

    /// Changes the journal, if it is there and open.
    pub(crate) fn record(&self, change: impl FnOnce(&mut Journal, Timestamp)) {
        let now = self.now();
        if let Some(journal) = lock(&self.inner).journal.as_mut().filter(|journal| !journal.closed) {
            change(journal, now);
        }
    }

    /// Says something.
    pub(crate) fn say(&self, importance: Importance, text: String) {
        let now = self.now();
        {
            let mut inner = lock(&self.inner);
            let sequence = inner.next;
            let Some(journal) = inner.journal.as_mut().filter(|journal| !journal.closed) else { return };
            journal.say(sequence, now, importance, text);
            inner.next += 1;
        }
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Comes to a state that is not the last. False when the job ended, or is being stopped.
    pub(crate) fn moved(&self, state: JobState) -> bool {
        let now = self.now();
        {
            let mut inner = lock(&self.inner);
            let current = inner.head.state();
            if current.is_terminal() || current == state || current == JobState::Cancelling {
                return false;
            }
            if state == JobState::Running {
                inner.head.started = Some(now);
            }
            let sequence = inner.next;
            inner.next += 1;
            inner.head.history.push(StateChange { sequence, state, time: now });
        }
        self.tell();
        true
    }

    /// Takes the step from prepared to pending, which only one caller can.
    pub(crate) fn begin(&self) -> bool {
        let now = self.now();
        {
            let mut inner = lock(&self.inner);
            if inner.head.state() != JobState::Stopped {
                return false;
            }
            let sequence = inner.next;
            inner.next += 1;
            inner.head.history.push(StateChange { sequence, state: JobState::Pending, time: now });
        }
        self.tell();
        true
    }

    /// Comes to its last state, durably first. `reason` is what may be told without the key.
    pub(crate) async fn ended(&self, state: JobState, reason: Option<String>) {
        let _turn = self.saving.lock().await;
        let now = self.now();
        let head = {
            let mut inner = lock(&self.inner);
            if inner.head.state().is_terminal() {
                return;
            }
            let mut head = inner.head.clone();
            if let Some(text) = reason {
                head.reason = Some(crate::model::Reason { sequence: inner.next, time: now, text });
                inner.next += 1;
            }
            head.history.push(StateChange { sequence: inner.next, state, time: now });
            inner.next += 1;
            head
        };
        if let Err(error) = self.shared.config.records.put(&record_key(&self.id), &head).await {
            // It ended all the same; a restart would find it running and say so.
            tracing::error!(job = %self.id, %error, "the end of a job could not be stored");
        }
        lock(&self.inner).head = head;
        self.tell();
    }

    /// Makes the head durable as it is now.
    pub(crate) async fn save(&self) -> Result<()> {
        let _turn = self.saving.lock().await;
        let head = self.head();
        self.shared.config.records.put(&record_key(&self.id), &head).await
    }

    pub(crate) fn change_head(&self, change: impl FnOnce(&mut Head)) {
        change(&mut lock(&self.inner).head);
    }

    /// The scope of a job that was made in this process.
    pub(crate) fn scope(&self) -> Option<&Arc<Scope>> {
        self.scope.get()
    }

    /// Whether it has its key, or never will.
    pub(crate) fn is_made(&self) -> bool {
        self.scope().is_some() || self.state().is_terminal()
    }

    pub(crate) fn set_scope(self: &Arc<Self>, scope: Arc<Scope>) {
        self.unload_when_locked(scope.clone());
        // There is one for a job.
        let _ = self.scope.set(scope);
    }

    fn need_scope(&self) -> Result<&Arc<Scope>> {
        self.scope().ok_or_else(|| Error::precondition("The job has no key."))
    }

    /// The job's place to work in, opened now if need be.
    pub(crate) async fn work(&self) -> Result<Arc<Space>> {
        let scope = self.need_scope()?;
        let mut work = self.work.lock().await;
        if let Some(place) = work.as_ref() {
            return Ok(place.space.clone());
        }
        if self.state().is_terminal() {
            return Err(Error::precondition("The job is over."));
        }
        let place = Arc::new(Place::open(&self.shared.config, scope, Part::Work, false).await?);
        let space = place.space.clone();
        *work = Some(place);
        Ok(space)
    }

    /// The place of what stays, opened now if need be.
    pub(crate) async fn kept(&self) -> Result<Arc<Place>> {
        let scope = self.need_scope()?;
        let mut kept = self.kept.lock().await;
        if let Some(place) = kept.as_ref() {
            return Ok(place.clone());
        }
        let place = Arc::new(Place::open(&self.shared.config, scope, Part::Kept, false).await?);
        *kept = Some(place.clone());
        Ok(place)
    }

    /// Removes all that the job worked with.
    pub(crate) async fn clear_work(&self) {
        lock(&self.staged).clear();
        let Some(place) = self.work.lock().await.take() else { return };
        if let Some(scope) = self.scope() {
            place.remove(&self.shared.config, scope.id().as_str(), Part::Work).await;
        }
    }

    /// Closes the place of what stays.
    pub(crate) async fn close_kept(&self) {
        if let Some(place) = self.kept.lock().await.take() {
            place.close().await;
        }
    }

    pub(crate) fn staged(&self) -> &Mutex<Vec<Staged>> {
        &self.staged
    }

    pub(crate) fn next_artifact(&self) -> Result<usize> {
        let number = self.artifacts.fetch_add(1, Ordering::Relaxed);
        if number < artifacts::limit() { Ok(number) } else { Err(artifacts::too_many()) }
    }

    /// The staged files, for workers.
    pub(crate) async fn shelf(&self) -> Result<Arc<Shelf>> {
        let work = self.work().await?;
        Ok(Arc::new(Shelf { staged: lock(&self.staged).clone(), work }))
    }

    /// The files that the pipeline's environments name, each once.
    pub(crate) fn dependencies(&self) -> Vec<ArtifactInformation> {
        let input = lock(&self.input);
        let components = input.as_ref().and_then(|input| input.pipeline.as_ref()?.components.as_ref());
        let mut found: Vec<ArtifactInformation> = Vec::new();
        for environment in components.iter().flat_map(|components| components.environments.values()) {
            for info in &environment.dependencies {
                if !found.contains(info) {
                    found.push(info.clone());
                }
            }
        }
        found
    }

    /// The buckets that a file is in.
    pub(crate) fn cloud(&self, name: &CloudName) -> Result<&Arc<dyn CloudFiles>> {
        self.shared.config.cloud.as_ref().ok_or_else(|| {
            Error::precondition(format!(
                "{name} cannot be read: this server does not run the service storage."
            ))
        })
    }

    /// Writes the story, if it changed since it was last written.
    pub(crate) async fn write_story(&self) -> Result<()> {
        let story = {
            let mut inner = lock(&self.inner);
            let Some(journal) = inner.journal.as_mut().filter(|journal| journal.changed) else {
                return Ok(());
            };
            journal.changed = false;
            kept::written(&journal.story)
        };
        self.keep(STORY, story).await
    }

    async fn keep(&self, name: &str, content: bytes::Bytes) -> Result<()> {
        self.kept().await?.space.put_blob(name, content).await?;
        self.change_head(|head| head.kept = true);
        Ok(())
    }

    /// Writes the description.
    pub(crate) async fn write_description(&self) -> Result<()> {
        let description = self.reading(|journal| journal.description.clone())?;
        self.keep(DESCRIPTION, kept::written(description.as_ref())).await
    }

    /// Puts the graph into the description, once it is known.
    pub(crate) fn describe(&self, pipeline: &Pipeline) {
        self.record(|journal, _| {
            let known = Description::clone(&journal.description);
            journal.description = Arc::new(Description { pipeline: Some(pipeline.clone()), ..known });
        });
    }

    /// Lets nobody add to the journal.
    pub(crate) fn close_journal(&self) {
        if let Some(journal) = lock(&self.inner).journal.as_mut() {
            journal.closed = true;
        }
    }

    /// Drops what the key protects from memory.
    pub(crate) fn unload(&self) {
        lock(&self.inner).journal = None;
        if let Some(watching) = lock(&self.watching).take() {
            watching.abort();
        }
    }

    /// Reads description and story of a job that ended, unless they are here.
    async fn load(self: &Arc<Self>) -> Result<()> {
        let nothing =
            || Error::precondition(format!("Nothing but its head was kept of the job {}.", self.id));
        let id = self.head().scope.map(ScopeId::new).ok_or_else(nothing)?;
        let scope = match self.scope() {
            Some(scope) => scope.clone(),
            None => self.shared.config.keys.scope(&id).await?,
        };
        scope.guard()?;
        let _turn = self.loading.lock().await;
        if lock(&self.inner).journal.is_some() {
            return Ok(());
        }
        let head = self.head();
        if !head.state().is_terminal() {
            return Err(Error::precondition("The job's key was locked."));
        }
        // Held to the end: no two stores are open on the same files.
        let kept = self.kept.lock().await;
        let place = match kept.as_ref() {
            Some(place) => place.clone(),
            None => Arc::new(Place::open(&self.shared.config, &scope, Part::Kept, head.kept).await?),
        };
        let read = async |name| match place.space.blob(name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        };
        let description = read(DESCRIPTION).await?;
        let description = description
            .map(|bytes| kept::read(DESCRIPTION, bytes, |d: &Description| d.format))
            .transpose()?
            .unwrap_or_default();
        let story = read(STORY).await?;
        let story = story.map(|bytes| kept::read(STORY, bytes, |s: &Story| s.format)).transpose()?;
        place.forget();
        lock(&self.inner).journal = Some(Journal::read(description, story.unwrap_or_default()));
        if let Err(locked) = scope.guard() {
            self.unload();
            return Err(locked);
        }
        self.unload_when_locked(scope);
        self.keep_loaded();
        Ok(())
    }

    /// Sees to it that nothing under the key stays in memory when it is locked.
    fn unload_when_locked(self: &Arc<Self>, scope: Arc<Scope>) {
        let task = tokio::spawn(unload_when_locked(Arc::downgrade(self), scope));
        if let Some(before) = lock(&self.watching).replace(task.abort_handle()) {
            before.abort();
        }
    }

    /// Keeps what a job that ended said in memory, for a while and as long as its key is usable.
    pub(crate) fn keep_loaded(self: &Arc<Self>) {
        let oldest = {
            let mut loaded = lock(&self.shared.loaded);
            loaded.push_back(self.clone());
            if loaded.len() > LOADED { loaded.pop_front() } else { None }
        };
        if let Some(oldest) = oldest {
            oldest.unload();
        }
    }

    /// The first state or message from a place on.
    fn event(&self, from: u64) -> Option<(u64, Event)> {
        let inner = lock(&self.inner);
        let state = inner.head.history.iter().find(|change| change.sequence >= from);
        let state = state.map(|change| (change.sequence, Event::State(*change)));
        let said = inner.journal.as_ref().and_then(|journal| {
            let messages = &journal.story.messages;
            let start = messages.partition_point(|message| message.sequence < from);
            messages.get(start).map(|message| (message.sequence, Event::Message(message.clone())))
        });
        let reason = inner.head.reason.as_ref().filter(|reason| reason.sequence >= from).map(|reason| {
            let text = reason.text.clone();
            let message = JobMessage::new(reason.sequence, reason.time, Importance::Error, text);
            (reason.sequence, Event::Message(message))
        });
        [state, said, reason].into_iter().flatten().min_by_key(|(sequence, _)| *sequence)
    }
}

pub(crate) fn user_cancelled() -> Error {
    Error::new(ErrorKind::Aborted, "The job was cancelled.")
}

async fn unload_when_locked(job: Weak<Job>, scope: Arc<Scope>) {
    let mut watch = scope.watch();
    while *watch.borrow_and_update() != Lock::Locked {
        if watch.changed().await.is_err() {
            return;
        }
    }
    let Some(job) = job.upgrade() else { return };
    // What follows unloads, which must not end this task.
    lock(&job.watching).take();
    let why = scope.guard().err().unwrap_or_else(|| Error::precondition("The job's key was locked."));
    // It would find nothing to run when it is told to.
    if job.state() == JobState::Stopped {
        job.give_up(&why).await;
    }
    job.unload();
}

impl Follower {
    /// What the job says next; waits for it. None after its last state.
    pub async fn next(&mut self) -> Option<Event> {
        while !self.over {
            self.changed.borrow_and_update();
            match self.job.event(self.next) {
                Some((sequence, event)) => {
                    self.next = sequence + 1;
                    self.over = matches!(&event, Event::State(change) if change.state.is_terminal());
                    return Some(event);
                }
                // The job keeps the sender.
                None => self.changed.changed().await.ok()?,
            }
        }
        None
    }
}
