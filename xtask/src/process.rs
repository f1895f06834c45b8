//! Running commands: all they print goes into a log file, the last line of it to the terminal while they run.
//!
//! Invariant: a command's words are never lost; a failed one can show its last lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::{Doing, Result};

/// A spinner that shows what goes on; says nothing when the output is not a terminal.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    bar: ProgressBar,
    title: String,
}

impl Watch {
    /// Starts to spin under a title.
    pub(crate) fn new(title: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {wide_msg} {elapsed:.dim}") {
            bar.set_style(style);
        }
        bar.set_message(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, title: title.to_owned() }
    }

    /// Shows one line beside the title.
    pub(crate) fn say(&self, line: &str) {
        let line: String = line.chars().filter(|c| !c.is_control()).take(100).collect();
        self.bar.set_message(format!("{}: {line}", self.title));
    }

    /// Turns into a bar that counts to `total`.
    pub(crate) fn count_to(&self, total: u64) {
        self.bar.set_length(total);
        let template = "{spinner:.cyan} {msg} {bar:30.cyan/dim} {human_pos}/{human_len} {per_sec} {eta:.dim}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_message(self.title.clone());
    }

    /// Moves the bar.
    pub(crate) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Takes the spinner away.
    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Whether it ended with status 0.
    pub(crate) success: bool,
    /// All it printed, both streams in the order in which their lines came.
    pub(crate) text: String,
}

impl Finished {
    /// The last `lines` lines.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let all: Vec<&str> = self.text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }
}

/// Runs a command to its end, keeping all it prints in `log`.
///
/// # Errors
/// When it cannot be started or the log cannot be written; its own failure is in [`Finished::success`].
pub(crate) fn run(mut command: Command, log: &Path, watch: &Watch) -> Result<Finished> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(format!("cannot run {:?}", command.get_program()))?;
    let mut file = File::create(log).doing(format!("cannot write {}", log.display()))?;
    writeln!(file, "$ {shown}")?;
    let (lines, received) = mpsc::channel();
    let readers = [
        child.stdout.take().map(|stream| read_lines(stream, lines.clone())),
        child.stderr.take().map(|stream| read_lines(stream, lines.clone())),
    ];
    drop(lines);
    let mut text = String::new();
    for line in received {
        writeln!(file, "{line}")?;
        if !line.trim().is_empty() {
            watch.say(line.trim());
        }
        text.push_str(&line);
        text.push('\n');
    }
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    let status = child.wait()?;
    Ok(Finished { success: status.success(), text })
}

fn read_lines(stream: impl Read + Send + 'static, lines: mpsc::Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut buffer = Vec::new();
        while reader.read_until(b'\n', &mut buffer).is_ok_and(|n| n > 0) {
            let line = String::from_utf8_lossy(&buffer).trim_end_matches(['\n', '\r']).to_owned();
            if lines.send(line).is_err() {
                return;
            }
            buffer.clear();
        }
    })
}

/// The full path of a program in `PATH`.
pub(crate) fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
