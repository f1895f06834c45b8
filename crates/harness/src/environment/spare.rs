//! A spare: a process of a Python image that has all imports done before there is a worker for it to be.
//!
//! Invariant: a spare becomes one worker, once, so two jobs never share a process; until then it knows nothing of
//! any job. There is one at most, of the interpreter that was used last, and only for a while. Whatever goes wrong
//! with it costs a worker nothing: the worker is started as without it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use claviger_core::{Clock, Error, Result};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;

use super::process::{Process, contract};
use super::running::{Output, Running, mark, of_directory};
use super::scratch::Scratch;
use crate::limits;
use crate::worker::{Core, unavailable};

/// The name of our boot program in a worker's directory, and the program.
const BOOT: (&str, &str) = ("claviger_boot.py", include_str!("boot.py"));

/// How workers of Python images come to be: a spare where there is one of the interpreter, a new process else.
pub(crate) struct Images {
    scratch: Arc<Scratch>,
    variables: BTreeMap<String, String>,
    clock: Arc<dyn Clock>,
    /// Whether there are spares at all.
    spares: bool,
    kept: Mutex<Option<Kept>>,
}

/// A spare that waits. Whoever drops this ends it.
struct Kept {
    program: PathBuf,
    /// Closed once the spare is gone.
    asked: oneshot::Sender<oneshot::Sender<Spare>>,
}

/// A process that waits for its worker.
struct Spare {
    running: Running,
    output: Arc<Output>,
}

/// Starts the next spare when a worker is gone.
pub(crate) struct Refill {
    images: Weak<Images>,
    program: PathBuf,
}

impl Images {
    pub(crate) fn new(
        scratch: Arc<Scratch>,
        variables: BTreeMap<String, String>,
        clock: Arc<dyn Clock>,
        spares: usize,
    ) -> Arc<Self> {
        let spares = spares.min(limits::SPARE_WORKERS) > 0;
        Arc::new(Self { scratch, variables, clock, spares, kept: Mutex::default() })
    }

    /// Gets a worker a process, with `beam`'s version of Apache Beam or an error in its log.
    ///
    /// # Errors
    /// `FailedPrecondition` for a program that cannot be run, or where there is no room for its files.
    pub(crate) async fn start(
        self: &Arc<Self>,
        program: PathBuf,
        beam: &str,
        core: &Arc<Core>,
    ) -> Result<(Process, Refill)> {
        let version = format!("--beam_version={beam}");
        let process = match self.take(&program, &version, core).await {
            Some(process) => process,
            None => {
                let dir = self.scratch.dir(&core.id)?;
                let boot = dir.write(BOOT.0, BOOT.1)?.to_string_lossy().into_owned();
                let arguments: Vec<String> =
                    [boot, version].into_iter().chain(contract(core, dir.path())).collect();
                let output = Output::of(core);
                Process::new(core, Running::spawn(&program, &arguments, &self.variables, dir, &output)?)
            }
        };
        Ok((process, Refill { images: Arc::downgrade(self), program }))
    }

    /// The spare of this interpreter, made a worker; nothing when there is none, or none that answers.
    async fn take(&self, program: &Path, version: &str, core: &Arc<Core>) -> Option<Process> {
        let kept = self.kept().take_if(|kept| kept.program == program)?;
        let (give, given) = oneshot::channel();
        kept.asked.send(give).ok()?;
        let mut spare = given.await.ok()?;
        match spare.become_worker(version, &self.variables, core).await {
            Ok(()) => {
                tracing::debug!(worker = core.id, "a spare process is the worker");
                Some(Process::new(core, spare.running))
            }
            Err(error) => {
                tracing::debug!(%error, "a spare process is of no use");
                // Its directory has the worker's name, so it goes before the worker gets one.
                spare.running.end().await;
                None
            }
        }
    }

    /// Has a spare of this interpreter and of no other.
    fn refill(&self, program: &Path) {
        if !self.spares {
            return;
        }
        let mut kept = self.kept();
        if kept.as_ref().is_some_and(|kept| kept.program == program && !kept.asked.is_closed()) {
            return;
        }
        match self.spare(program) {
            Ok(spare) => {
                let (asked, asks) = oneshot::channel();
                tokio::spawn(keep(spare, asks, self.clock.clone()));
                *kept = Some(Kept { program: program.to_owned(), asked });
            }
            Err(error) => tracing::warn!(%error, "no spare worker could be started"),
        }
    }

    /// Starts a spare.
    fn spare(&self, program: &Path) -> Result<Spare> {
        let dir = self.scratch.dir(&format!("spare-{}", uuid::Uuid::new_v4().simple()))?;
        let boot = dir.write(BOOT.0, BOOT.1)?.to_string_lossy().into_owned();
        let output = Output::unheard();
        let running = Running::spawn(program, &[boot, "--spare".to_owned()], &self.variables, dir, &output)?;
        Ok(Spare { running, output })
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds a spare until it is asked for, dies, has waited too long or is not wanted any more.
async fn keep(mut spare: Spare, asks: oneshot::Receiver<oneshot::Sender<Spare>>, clock: Arc<dyn Clock>) {
    let asked = tokio::select! {
        biased;
        _ = spare.running.child.wait() => None,
        asked = asks => asked.ok(),
        () = clock.sleep(limits::SPARE_IDLE) => None,
    };
    let unwanted = match asked {
        // Whoever asked may be gone as well.
        Some(asked) => asked.send(spare).err(),
        None => Some(spare),
    };
    if let Some(spare) = unwanted {
        spare.running.end().await;
    }
}

impl Spare {
    /// Tells the process which worker it is, and waits until it says that it is.
    ///
    /// # Errors
    /// `Unavailable` when the process died or does not answer; `FailedPrecondition` when its directory cannot
    /// become the worker's.
    async fn become_worker(
        &mut self,
        version: &str,
        variables: &BTreeMap<String, String>,
        core: &Arc<Core>,
    ) -> Result<()> {
        let Running { child, stdin, dir, .. } = &mut self.running;
        dir.rename(&core.id)?;
        let arguments: Vec<String> =
            std::iter::once(version.to_owned()).chain(contract(core, dir.path())).collect();
        let told = json!({
            "mark": mark(&core.id),
            "directory": dir.path().to_string_lossy(),
            "arguments": arguments,
            "environment": of_directory(dir, variables),
        });
        self.output.give(core);
        let hand_over = async {
            let stdin = stdin.as_mut().ok_or_else(|| Error::internal("a spare without an input"))?;
            let failed = |error: std::io::Error| unavailable("it does not listen").because(error);
            stdin.write_all(format!("{told}\n").as_bytes()).await.map_err(failed)?;
            stdin.flush().await.map_err(failed)?;
            self.output.is_heard().await;
            Ok(())
        };
        tokio::select! {
            biased;
            done = hand_over => done,
            _ = child.wait() => Err(unavailable("it ended")),
            () = core.clock.sleep(limits::SPARE_HAND_OVER) => Err(unavailable("it does not answer")),
        }
    }
}

impl Refill {
    /// Starts the next spare, unless there is one.
    pub(crate) fn now(self) {
        if let Some(images) = self.images.upgrade() {
            images.refill(&self.program);
        }
    }
}

impl fmt::Debug for Refill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refill").field("program", &self.program).finish_non_exhaustive()
    }
}
