//! A process group of this machine with its pipes and its directory, and who hears what it writes.
//!
//! Invariant: the group is gone when its owner is, and its directory after it. Lines that are written before
//! the group belongs to a worker reach no worker's log.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};

use claviger_core::{Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStdin};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::scratch::Dir;
use crate::limits;
use crate::worker::Core;

/// Standard output and standard error.
const OUTPUTS: usize = 2;

/// A process group that runs.
pub(super) struct Running {
    pub(super) child: Child,
    /// Held until the end: waiting for a child closes what it still has of its pipes.
    pub(super) stdin: Option<ChildStdin>,
    pub(super) group: Group,
    pub(super) readers: Vec<JoinHandle<()>>,
    /// After the group, so that nobody writes there any more when it goes.
    pub(super) dir: Dir,
}

impl Running {
    /// Starts a program in its directory, which is also where its temporary files go.
    ///
    /// # Errors
    /// `FailedPrecondition` for a program that cannot be run.
    pub(super) fn spawn(
        program: &Path,
        arguments: &[String],
        variables: &BTreeMap<String, String>,
        dir: Dir,
        output: &Arc<Output>,
    ) -> Result<Self> {
        let mut command = tokio::process::Command::new(program);
        command.args(arguments);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"CLAVIGER_") {
                command.env_remove(name);
            }
        }
        command.env("PYTHONUNBUFFERED", "1").envs(of_directory(&dir, variables));
        command.current_dir(dir.path()).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            let program = program.display();
            Error::precondition(format!("the worker's command {program} cannot be run: {error}"))
        })?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(tokio::spawn(read(stdout, output.clone())));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(tokio::spawn(read(stderr, output.clone())));
        }
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, group: Group(pid), readers, dir })
    }

    /// Ends the group and returns when its first process is gone.
    pub(super) async fn end(mut self) {
        self.group.signal(Signal::KILL);
        // After KILL the wait is short.
        let _ = self.child.wait().await;
        self.over();
    }

    /// Clears up behind a first process that is gone.
    pub(super) fn over(&mut self) {
        self.group.end();
        for reader in &self.readers {
            reader.abort();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.end();
    }
}

/// The variables of a process: given ones come before those of its directory.
pub(super) fn of_directory(dir: &Dir, given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let temporary = dir.path().join("tmp").to_string_lossy().into_owned();
    let mut all = BTreeMap::from([("TMPDIR".to_owned(), temporary)]);
    all.extend(given.clone());
    all
}

/// A process group; killed when dropped, unless it is known to be gone.
pub(super) struct Group(Option<Pid>);

impl Group {
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // It may be gone by itself.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Ends what is left of it. Its number may be given to others from now on.
    pub(super) fn end(&mut self) {
        self.signal(Signal::KILL);
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// Who hears what a process writes.
pub(super) struct Output {
    worker: OnceLock<Arc<Core>>,
    /// How many outputs are the worker's by now.
    heard: watch::Sender<usize>,
}

impl Output {
    /// All of it is a worker's.
    pub(super) fn of(worker: &Arc<Core>) -> Arc<Self> {
        Arc::new(Self { worker: OnceLock::from(worker.clone()), heard: watch::Sender::new(OUTPUTS) })
    }

    /// Nobody's, until it is given to a worker.
    pub(super) fn unheard() -> Arc<Self> {
        Arc::new(Self { worker: OnceLock::new(), heard: watch::Sender::new(0) })
    }

    /// Gives it to a worker; of each output what comes after a line with the worker's [`mark`].
    pub(super) fn give(&self, worker: &Arc<Core>) {
        // It is given once: what has a worker is not a spare any more.
        let _ = self.worker.set(worker.clone());
    }

    /// Returns when all outputs are the worker's.
    pub(super) async fn is_heard(&self) {
        let mut heard = self.heard.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = heard.wait_for(|heard| *heard >= OUTPUTS).await;
    }

    /// Takes a line; says whether the following ones are the worker's.
    fn take(&self, text: String, heard: bool) -> bool {
        match self.worker.get() {
            Some(worker) if heard => worker.wrote(text),
            Some(worker) if text == mark(&worker.id) => {
                self.heard.send_modify(|heard| *heard += 1);
                return true;
            }
            _ => tracing::debug!(text, "a spare worker wrote"),
        }
        heard
    }
}

/// What a spare writes to each output once it is this worker.
pub(super) fn mark(worker: &str) -> String {
    format!("claviger worker {worker}")
}

/// Reads what a process writes, line by line. A line beyond its limit is cut into several.
async fn read(mut from: impl AsyncRead + Unpin, output: Arc<Output>) {
    let mut heard = *output.heard.borrow() >= OUTPUTS;
    let mut line = Vec::new();
    let mut buffer = vec![0; limits::LOG_BYTES];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let new = buffer.get(..read).unwrap_or_default();
        for piece in new.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") || line.len() >= limits::LOG_BYTES {
                heard = tell(&mut line, &output, heard);
            }
        }
        if read == 0 {
            tell(&mut line, &output, heard);
            return;
        }
    }
}

fn tell(line: &mut Vec<u8>, output: &Output, heard: bool) -> bool {
    let text = String::from_utf8_lossy(line).trim_end().to_owned();
    line.clear();
    if text.is_empty() { heard } else { output.take(text, heard) }
}
