//! A worker that is a process of this machine.
//!
//! Invariant: a worker is a process group, and the group is gone when its worker is. Its standard input
//! is a pipe that nobody writes to: our boot program ends the group when the pipe breaks, so that workers
//! do not outlive a server that was killed. The server's own settings are not in its environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use claviger_core::{Error, Result};
use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStdin};
use tokio::task::JoinHandle;

use super::scratch::Dir;
use crate::limits;
use crate::worker::{Core, unavailable};

/// How long to wait for what an ended process wrote last, or for its end once its streams broke.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// A process to start.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) program: PathBuf,
    /// Arguments before those of the container contract.
    pub(crate) first: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) dir: Dir,
}

/// A process that runs.
pub(crate) struct Process {
    core: Arc<Core>,
    child: Child,
    /// Held until the end: waiting for a child closes what it still has of its pipes.
    _stdin: Option<ChildStdin>,
    group: Group,
    readers: Vec<JoinHandle<()>>,
    /// After the group, so that nobody writes there any more when it goes.
    _dir: Dir,
}

/// A process group; killed when dropped, unless it is known to be gone.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // It may be gone by itself.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Ends what is left of it. Its number may be given to others from now on.
    fn end(&mut self) {
        self.signal(Signal::KILL);
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

impl Command {
    /// Starts it.
    ///
    /// # Errors
    /// `FailedPrecondition` for a program that cannot be run.
    pub(crate) fn start(self, core: &Arc<Core>) -> Result<Process> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.first);
        let dir = self.dir.path();
        for (name, value) in [
            ("id", core.id.as_str()),
            ("logging_endpoint", &core.endpoint),
            ("artifact_endpoint", &core.endpoint),
            ("provision_endpoint", &core.endpoint),
            ("control_endpoint", &core.endpoint),
            ("semi_persist_dir", &dir.to_string_lossy()),
        ] {
            command.arg(format!("--{name}={value}"));
        }
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"CLAVIGER_") {
                command.env_remove(name);
            }
        }
        command.env("TMPDIR", dir.join("tmp")).env("PYTHONUNBUFFERED", "1").envs(&self.env);
        command.current_dir(dir).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            let program = self.program.display();
            Error::precondition(format!("the worker's command {program} cannot be run: {error}"))
        })?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(tokio::spawn(read(stdout, core.clone())));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(tokio::spawn(read(stderr, core.clone())));
        }
        let stdin = child.stdin.take();
        Ok(Process { core: core.clone(), child, _stdin: stdin, group: Group(pid), readers, _dir: self.dir })
    }
}

impl Process {
    /// Waits for the end of the process; the error says how it ended and what it wrote last.
    pub(crate) async fn exited(&mut self) -> Error {
        let status = self.child.wait().await;
        self.group.end();
        tokio::select! {
            _ = join_all(&mut self.readers) => {}
            () = self.core.clock.sleep(LAST_WORDS) => {}
        }
        self.readers.clear();
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
                _ = self.child.wait() => break,
                () = core.clock.sleep(core.limits.stop_grace / 2) => self.group.signal(signal),
            }
        }
        // After KILL the wait is short.
        let _ = self.child.wait().await;
        self.group.end();
        for reader in &self.readers {
            reader.abort();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.group.end();
    }
}

/// Reads what a process writes, line by line. A line beyond its limit is cut into several.
async fn read(mut from: impl AsyncRead + Unpin, core: Arc<Core>) {
    let mut line = Vec::new();
    let mut buffer = vec![0; limits::LOG_BYTES];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let new = buffer.get(..read).unwrap_or_default();
        for piece in new.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") || line.len() >= limits::LOG_BYTES {
                tell(&mut line, &core);
            }
        }
        if read == 0 {
            tell(&mut line, &core);
            return;
        }
    }
}

fn tell(line: &mut Vec<u8>, core: &Core) {
    let text = String::from_utf8_lossy(line).trim_end().to_owned();
    line.clear();
    if !text.is_empty() {
        core.wrote(text);
    }
}
