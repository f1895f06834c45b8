//! The Python process that drives the official clients: one JSON command a line, one JSON answer.
//!
//! Invariant: one command at a time; progress lines only move the bar.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::failure::{Doing, Failure, Result};
use crate::process::Watch;
use crate::python::Python;
use crate::server::Server;

/// The running driver.
#[derive(Debug)]
pub(super) struct Driver {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Driver {
    /// Starts the driver and connects its clients to the server.
    ///
    /// # Errors
    /// When Python cannot be started or the clients cannot be made.
    pub(super) fn start(
        python: &Python,
        root: &Path,
        server: &Server,
        project: &str,
        archive: &str,
    ) -> Result<Self> {
        let mut command = python.command();
        command.arg(root.join("clients/python/demo/driver.py"));
        let diary = File::create(server.log.with_file_name("driver.log"))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(diary)
            .spawn()
            .doing("cannot start Python")?;
        let (Some(commands), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new("Python has no pipes"));
        };
        let mut driver = Self { child, commands, answers: BufReader::new(stdout) };
        let connect =
            json!({"do": "connect", "host": server.address(), "project": project, "archive": archive});
        driver.ask("starting the official clients", &connect)?;
        Ok(driver)
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// When the command failed in the client, or the driver ended.
    pub(super) fn ask(&mut self, title: &str, command: &Value) -> Result<Value> {
        writeln!(self.commands, "{command}").doing("the Python driver is gone")?;
        let watch = Watch::new(title);
        let answer = self.answer(&watch);
        watch.done();
        answer
    }

    fn answer(&mut self, watch: &Watch) -> Result<Value> {
        let mut counted = false;
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                return Err(Failure::new(
                    "the Python driver ended; see driver.log beside the server's diary",
                ));
            }
            let mut answer: Value =
                serde_json::from_str(&line).doing(format!("the driver said {}", line.trim()))?;
            if let Some(error) = answer.get("error").and_then(Value::as_str) {
                return Err(Failure::new(error));
            }
            if let (Some(at), Some(of)) =
                (answer.get("at").and_then(Value::as_u64), answer.get("of").and_then(Value::as_u64))
            {
                if !counted {
                    watch.count_to(of);
                    counted = true;
                }
                watch.at(at);
            } else {
                return Ok(answer.get_mut("ok").map(Value::take).unwrap_or_default());
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
