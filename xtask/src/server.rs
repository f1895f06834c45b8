//! A server for a chore: started on a free port, waited for, stopped at the end.
//!
//! Invariant: a server does not outlive the value that stands for it, unless the chore lets it go on purpose.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Doing, Failure, Result};

/// The start of the line that says where the server answers.
const READY: &str = "claviger ready ";
/// How long a server may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to stop when asked.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Option<Child>,
    /// Where it answers, as `http://127.0.0.1:PORT`.
    pub(crate) endpoint: String,
    /// From its start to the line that says that it is ready.
    pub(crate) ready_after: Duration,
    /// Its diary.
    pub(crate) log: PathBuf,
}

/// Where a server keeps what it keeps.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    /// Sealed data.
    pub(crate) data: PathBuf,
    /// The KMS.
    pub(crate) kms: PathBuf,
}

impl Folders {
    /// Two empty folders under `root`, made anew.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(crate) fn anew(root: &Path) -> Result<Self> {
        if root.exists() {
            std::fs::remove_dir_all(root).doing(format!("cannot empty {}", root.display()))?;
        }
        std::fs::create_dir_all(root).doing(format!("cannot make {}", root.display()))?;
        Ok(Self { data: root.join("data"), kms: root.join("data-keys") })
    }
}

impl Server {
    /// Starts `claviger serve` on a free port and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time; its diary's last lines are shown.
    pub(crate) fn start(claviger: &Path, folders: &Folders, flags: &[&str], log: &Path) -> Result<Self> {
        let mut command = Command::new(claviger);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&folders.data);
        command.arg("--kms-dir").arg(&folders.kms).args(flags);
        Self::spawn(command, log)
    }

    /// Starts any command that prints a line with its address once it is ready.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let diary = File::options()
            .create(true)
            .append(true)
            .open(log)
            .doing(format!("cannot write {}", log.display()))?;
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(diary)
            .spawn()
            .doing(format!("cannot start {:?}", command.get_program()))?;
        let (lines, received) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            // Reads on to the end, so that the server never waits on a full pipe.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                    let _ = lines.send(line);
                }
            });
        }
        let mut server = Self {
            child: Some(child),
            endpoint: String::new(),
            ready_after: Duration::ZERO,
            log: log.to_owned(),
        };
        loop {
            let left = READY_WITHIN.saturating_sub(started.elapsed());
            match received.recv_timeout(left) {
                Ok(line) => {
                    if let Some(endpoint) = line.strip_prefix(READY) {
                        server.endpoint = endpoint.trim().to_owned();
                        server.ready_after = started.elapsed();
                        return Ok(server);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(server.failed("the server was not ready in 30 s"));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(server.failed("the server ended before it was ready"));
                }
            }
        }
    }

    fn failed(&self, what: &str) -> Failure {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        Failure::new(format!("{what}; its diary ends with:\n{tail}"))
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> &str {
        self.endpoint.trim_start_matches("http://").trim_end_matches('/')
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Asks it to stop with SIGTERM and waits for it.
    ///
    /// # Errors
    /// When it does not stop in time or with another status than 0.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().doing("cannot run kill")?;
        let asked = Instant::now();
        while asked.elapsed() < STOP_WITHIN {
            if let Some(status) = child.try_wait()? {
                return if status.success() {
                    Ok(())
                } else {
                    Err(self.failed(&format!("the server stopped with {status}")))
                };
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(self.failed("the server did not stop in 30 s"))
    }

    /// Lets the server run on after the chore.
    pub(crate) fn let_go(mut self) {
        self.child = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
