//! A worker that is a process of this machine.
//!
//! Invariant: a worker is a process group, and the group is gone when its worker is. Its standard input
//! is a pipe that nobody writes to once it is a worker: our boot program ends the group when the pipe breaks, so
//! that workers do not outlive a server that was killed. The server's own settings are not in its environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use claviger_core::{Error, Result};
use futures::future::join_all;
use rustix::process::Signal;

use super::running::{Output, Running};
use super::scratch::Dir;
use crate::worker::{Core, unavailable};

/// How long to wait for what an ended process wrote last, or for its end once its streams broke.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// A process to start.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) program: PathBuf,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) dir: Dir,
}

/// A process that runs.
pub(crate) struct Process {
    core: Arc<Core>,
    running: Running,
}

/// The arguments of the container contract.
pub(super) fn contract(core: &Core, dir: &Path) -> impl Iterator<Item = String> {
    [
        ("id", core.id.as_str()),
        ("logging_endpoint", &core.endpoint),
        ("artifact_endpoint", &core.endpoint),
        ("provision_endpoint", &core.endpoint),
        ("control_endpoint", &core.endpoint),
        ("semi_persist_dir", &dir.to_string_lossy()),
    ]
    .map(|(name, value)| format!("--{name}={value}"))
    .into_iter()
}

impl Command {
    /// Starts it.
    ///
    /// # Errors
    /// `FailedPrecondition` for a program that cannot be run.
    pub(crate) fn start(self, core: &Arc<Core>) -> Result<Process> {
        let arguments: Vec<String> = contract(core, self.dir.path()).collect();
        let output = Output::of(core);
        let running = Running::spawn(&self.program, &arguments, &self.env, self.dir, &output)?;
        Ok(Process::new(core, running))
    }
}

impl Process {
    /// What runs is a worker from now on.
    pub(super) fn new(core: &Arc<Core>, running: Running) -> Self {
        Self { core: core.clone(), running }
    }

    /// Waits for the end of the process; the error says how it ended and what it wrote last.
    pub(crate) async fn exited(&mut self) -> Error {
        let status = self.running.child.wait().await;
        self.running.group.end();
        tokio::select! {
            _ = join_all(&mut self.running.readers) => {}
            () = self.core.clock.sleep(LAST_WORDS) => {}
        }
        self.running.readers.clear();
        self.ended(status)
    }

    fn ended(&self, status: std::io::Result<ExitStatus>) -> Error {
        let how =
            status.map_or_else(|_| "for an unknown reason".to_owned(), |status| format!("with {status}"));
        let what =
            format!("worker {} ({}) was lost: its process ended {how}", self.core.id, self.core.environment);
        match self.core.tail() {
            Some(tail) => unavailable(format!("{what}; its last output:\n{tail}")),
            None => unavailable(what),
        }
    }

    /// A broken stream is most often the end of the process, which knows more of it.
    pub(crate) async fn explain(&mut self, why: Error) -> Error {
        let core = self.core.clone();
        if why.kind() != claviger_core::ErrorKind::Unavailable {
            return why;
        }
        tokio::select! {
            biased;
            error = self.exited() => error,
            () = core.clock.sleep(LAST_WORDS) => why,
        }
    }

    /// Lets the process end by itself, for its streams are closed; then asks it to; then makes it.
    pub(crate) async fn stop(mut self) {
        let core = self.core.clone();
        for signal in [Signal::TERM, Signal::KILL] {
            tokio::select! {
                biased;
                _ = self.running.child.wait() => break,
                () = core.clock.sleep(core.limits.stop_grace / 2) => self.running.group.signal(signal),
            }
        }
        // After KILL the wait is short.
        let _ = self.running.child.wait().await;
        self.running.over();
    }
}
