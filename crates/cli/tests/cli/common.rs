//! A server of its own for a test, and the command line against it.
//!
//! Invariant: a server is stopped with SIGTERM, and must end with 0.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What a command did.
pub(crate) struct Done {
    /// Its exit status.
    pub(crate) code: Option<i32>,
    /// What it wrote to standard output.
    pub(crate) out: String,
    /// What it wrote to standard error.
    pub(crate) err: String,
}

impl Done {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    /// The cells of a row of a table, by the row's first cell.
    pub(crate) fn row(&self, first: &str) -> Vec<String> {
        let row = self.out.lines().find(|line| line.split_whitespace().next() == Some(first));
        let row = row.unwrap_or_else(|| panic!("no row {first} in\n{}", self.out));
        row.split_whitespace().map(str::to_owned).collect()
    }
}

/// The binary, without the variables of whoever runs the tests.
pub(crate) fn claviger() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_claviger"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CLAVIGER_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A running server.
pub(crate) struct Server {
    /// Where it answers.
    pub(crate) endpoint: String,
    /// Its folders, and room for a test's files.
    pub(crate) folder: TempDir,
    child: Child,
}

impl Server {
    /// Starts one on new folders.
    pub(crate) fn start() -> Self {
        Self::on(tempfile::tempdir().expect("a folder"))
    }

    fn on(folder: TempDir) -> Self {
        let mut child = claviger()
            .args(["serve", "--listen", "127.0.0.1:0", "--kms-min-destroy-duration", "1s", "--data-dir"])
            .arg(folder.path().join("data"))
            .env("CLAVIGER_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("a line");
        let endpoint =
            line.trim().strip_prefix("claviger ready ").unwrap_or_else(|| panic!("not ready: {line:?}"));
        Self { endpoint: endpoint.to_owned(), folder, child }
    }

    /// Stops it and starts it again on the same folders.
    pub(crate) fn restart(self) -> Self {
        self.restart_after(|_| {})
    }

    /// Stops it, does something to its folders, and starts it again on them.
    pub(crate) fn restart_after(mut self, between: impl FnOnce(&Path)) -> Self {
        self.stop();
        between(self.folder.path());
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        Self::on(folder)
    }

    fn stop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            kill_process(Pid::from_child(&self.child), Signal::TERM).expect("the process is ours");
            let status = self.child.wait().expect("it ends");
            assert_eq!(status.code(), Some(0), "the server did not end cleanly");
        }
    }

    /// Runs one command line; words are parted by blanks.
    pub(crate) fn run(&self, line: &str) -> Done {
        self.fed(line, b"")
    }

    /// As [`Self::run`], with standard input.
    pub(crate) fn fed(&self, line: &str, input: &[u8]) -> Done {
        let mut child = claviger()
            .args(line.split_whitespace())
            .env("CLAVIGER_ENDPOINT", &self.endpoint)
            .env("CLAVIGER_PROJECT", "birds")
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        // A command that reads nothing may be gone already.
        let _ = child.stdin.take().expect("piped").write_all(input);
        Done::of(child.wait_with_output().expect("it ends"))
    }

    /// Runs a command line that must succeed.
    pub(crate) fn ok(&self, line: &str) -> Done {
        let done = self.run(line);
        assert_eq!(done.code, Some(0), "{line}\n{}{}", done.out, done.err);
        done
    }

    /// Runs a command line until it does what is expected: a change of a key is pushed to its data, within
    /// a second.
    pub(crate) fn until(&self, line: &str, expected: impl Fn(&Done) -> bool) -> Done {
        let mut done = self.run(line);
        for _ in 0..1_000 {
            if expected(&done) {
                return done;
            }
            done = self.run(line);
        }
        panic!("{line} still ends with {:?}\n{}{}", done.code, done.out, done.err)
    }

    /// Runs a command line that must be refused with this text; gives standard error.
    pub(crate) fn refused(&self, line: &str, part: &str) -> String {
        let done = self.run(line);
        assert_eq!(done.code, Some(1), "{line}\n{}{}", done.out, done.err);
        assert!(done.err.starts_with("error: ") && done.err.contains(part), "{line}\n{}", done.err);
        done.err
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        } else {
            self.stop();
        }
    }
}
