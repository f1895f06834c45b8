//! A program that says in lines of JSON how far it is, and goes on meanwhile.
//!
//! Invariant: it does not outlive the value that stands for it; what else it says is in its log.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::failure::{Doing, Failure, Result};

/// The last lines of a log that are shown when the program failed.
const TAIL: usize = 20;

/// The running program.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
    log: PathBuf,
}

impl Program {
    /// Starts it; what it writes to its standard error goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started or the log cannot be written.
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let diary = File::create(log).doing(format!("cannot write {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(diary)
            .spawn()
            .doing(format!("cannot start {:?}", command.get_program()))?;
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                    // Libraries print, too.
                    if line.starts_with('{') && sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, lines, log: log.to_owned() })
    }

    /// The next thing that it says; none when it says nothing in this time.
    ///
    /// # Errors
    /// When it ended without a word, or said what is no JSON.
    pub(super) fn next(&mut self, within: Duration) -> Result<Option<Value>> {
        match self.lines.recv_timeout(within) {
            Ok(line) => Ok(Some(serde_json::from_str(&line).doing(format!("the program said {line}"))?)),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().doing("the program was lost")?;
                Err(self.failed(&format!("the program ended early with {status}")))
            }
        }
    }

    /// A failure, with the last that it told its log.
    pub(super) fn failed(&self, what: &str) -> Failure {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n");
        Failure::new(format!("{what}; {} ends with:\n{tail}", self.log.display()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        let log = std::env::temp_dir().join(format!("claviger-program-{:?}", thread::current().id()));
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Program::start(command, &log).unwrap()
    }

    #[test]
    fn a_program_is_heard_line_by_line_and_its_end_shows_its_log() {
        let mut program = shell("echo noise; echo '{\"job\": 1}'; echo why >&2; exit 3");
        let within = Duration::from_secs(20);
        assert_eq!(program.next(within).unwrap().unwrap(), serde_json::json!({"job": 1}));
        let told = program.next(within).unwrap_err().to_string();
        std::fs::remove_file(&program.log).unwrap();
        assert!(told.contains("exit status: 3") && told.contains("why"), "{told}");
    }

    #[test]
    fn a_silent_program_is_not_waited_for() {
        let mut program = shell("exec sleep 60");
        assert!(program.next(Duration::from_millis(1)).unwrap().is_none());
        std::fs::remove_file(&program.log).unwrap();
    }
}
