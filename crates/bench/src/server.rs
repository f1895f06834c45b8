//! A `claviger serve` of one's own: started on a free port, waited for, killed at will.
//!
//! Invariant: the process does not outlive the value.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::failure::{Doing, Failure, Result};

const READY: &str = "claviger ready ";
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How to start a server.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The `claviger` binary.
    pub(crate) claviger: PathBuf,
    /// Folder of the data, the keys and the diary.
    pub(crate) folder: PathBuf,
    /// Further flags.
    pub(crate) flags: Vec<String>,
}

/// A server that was started and may not be ready yet.
#[derive(Debug)]
pub(crate) struct Starting {
    child: Child,
    started: Instant,
    diary: PathBuf,
}

/// A server that answers.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) authority: String,
    /// From its start to the ready line.
    pub(crate) ready_after: Duration,
}

impl Plan {
    /// Starts the process.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(&self) -> Result<Starting> {
        let diary = self.folder.join("server.log");
        let log = File::options().create(true).append(true).open(&diary).doing("cannot write the diary")?;
        let started = Instant::now();
        let child = Command::new(&self.claviger)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(self.folder.join("data"))
            .arg("--kms-dir")
            .arg(self.folder.join("data-keys"))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .doing(format!("cannot start {}", self.claviger.display()))?;
        Ok(Starting { child, started, diary })
    }
}

impl Starting {
    /// Waits for the ready line.
    ///
    /// # Errors
    /// When the process ends first or takes too long.
    pub(crate) async fn ready(mut self) -> Result<Running> {
        let stdout = self.child.stdout.take().ok_or_else(|| Failure::new("no pipe"))?;
        let mut lines = BufReader::new(stdout).lines();
        let wait = async {
            while let Some(line) = lines.next_line().await.doing("the server's output")? {
                if let Some(address) = line.strip_prefix(READY) {
                    return Ok(address.trim().trim_start_matches("http://").trim_end_matches('/').to_owned());
                }
            }
            Err(Failure::new(format!(
                "the server ended before it was ready; its diary ends with:\n{}",
                self.tail()
            )))
        };
        let authority = match tokio::time::timeout(READY_WITHIN, wait).await {
            Ok(authority) => authority?,
            Err(_) => {
                return Err(Failure::new(format!(
                    "not ready in 30 s; the diary ends with:\n{}",
                    self.tail()
                )));
            }
        };
        let ready_after = self.started.elapsed();
        // The pipe is read to its end, so that the server never waits on it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Running { child: self.child, authority, ready_after })
    }

    /// `kill -9` before it was ready, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.doing("cannot kill the server")
    }

    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.diary).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }
}

impl Running {
    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.doing("cannot kill the server")
    }
}

/// A folder made anew for servers.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn fresh_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).doing(format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).doing(format!("cannot make {}", folder.display()))
}
