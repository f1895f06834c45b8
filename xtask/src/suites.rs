//! `cargo xtask test`: the suites, one after the other.
//!
//! Invariant: a failing suite stops no other one, what is skipped is named with the reason, and the last line
//! is `N passed, N failed, N skipped`, alone.

mod beam;
mod counts;
mod docs;
mod rust;
mod tools;

use std::cell::OnceCell;
use std::time::Instant;

use crate::failure::{Failure, Result};
use crate::process::Watch;
use crate::python::Python;
use crate::report;
use crate::workspace::{Binaries, Workspace};

/// Characters of a failed test's line in the list at the end.
const MOST_NAME: usize = 200;

/// What a suite found.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Tests that held.
    pub(crate) passed: u64,
    /// Tests that did not.
    pub(crate) failed: u64,
    /// What was not run, each with the reason.
    pub(crate) skipped: Vec<String>,
    /// How many were not run; several may share a reason.
    pub(crate) skipped_count: u64,
    /// What failed as it was known to, each with the reason. They count as not run.
    pub(crate) expected: Vec<String>,
    /// The failed tests by name, where the suite tells.
    pub(crate) broken: Vec<String>,
    /// The words of the failures.
    pub(crate) words: String,
}

impl Tally {
    /// Nothing ran, for one reason.
    pub(crate) fn skip(reason: impl Into<String>) -> Self {
        Self { skipped: vec![reason.into()], skipped_count: 1, ..Self::default() }
    }

    /// One test, which held or did not.
    pub(crate) fn one(held: bool, words: impl FnOnce() -> String) -> Self {
        if held {
            Self { passed: 1, ..Self::default() }
        } else {
            Self { failed: 1, words: words(), ..Self::default() }
        }
    }

    /// Adds the figures of another.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped_count += other.skipped_count;
        self.skipped.extend(other.skipped);
        self.expected.extend(other.expected);
        self.broken.extend(other.broken);
        if !other.words.is_empty() {
            self.words.push_str(&other.words);
            self.words.push('\n');
        }
    }
}

/// What suites share: made at first need.
pub(crate) struct Bench {
    /// The workspace.
    pub(crate) workspace: Workspace,
    binaries: OnceCell<Binaries>,
    python: OnceCell<Python>,
    beam: OnceCell<Python>,
}

impl Bench {
    /// The release binaries.
    ///
    /// # Errors
    /// When the build fails.
    pub(crate) fn binaries(&self, watch: &Watch) -> Result<&Binaries> {
        if self.binaries.get().is_none() {
            let _ = self.binaries.set(self.workspace.build_release(watch)?);
        }
        self.binaries.get().ok_or_else(|| Failure::new("no binaries"))
    }

    /// The Python of the official clients.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn python(&self, watch: &Watch) -> Result<&Python> {
        if self.python.get().is_none() {
            let _ = self.python.set(Python::prepare(&self.workspace, watch)?);
        }
        self.python.get().ok_or_else(|| Failure::new("no Python"))
    }

    /// The Python with Apache Beam.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn beam(&self, watch: &Watch) -> Result<&Python> {
        if self.beam.get().is_none() {
            let _ = self.beam.set(Python::prepare_beam(&self.workspace, watch)?);
        }
        self.beam.get().ok_or_else(|| Failure::new("no Python with Beam"))
    }
}

type Suite = fn(&Bench, &Watch) -> Result<Tally>;

/// The suites in the order in which they run: the quick ones first.
const SUITES: [(&str, Suite); 15] = [
    ("fmt", rust::fmt),
    ("clippy", rust::clippy),
    ("unit", rust::unit),
    ("descriptors", rust::descriptors),
    ("python", tools::python),
    ("cbt", tools::cbt),
    ("gcloud", tools::gcloud),
    ("beam-coders", beam::coders),
    ("beam-workers", beam::workers),
    ("dataflow", beam::dataflow),
    ("beam-portable", beam::portable),
    ("beam-process", beam::process),
    ("beam-validates", beam::validates),
    ("crash", tools::crash),
    ("docs", docs::docs),
];

/// Runs the named suites, or all.
///
/// # Errors
/// When a name is not a suite's.
pub(crate) fn run(names: &[String]) -> Result<bool> {
    if let Some(unknown) = names.iter().find(|name| SUITES.iter().all(|(suite, _)| suite != name)) {
        let known: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
        return Err(Failure::new(format!("there is no suite '{unknown}'; there are: {}", known.join(" "))));
    }
    let bench = Bench {
        workspace: Workspace::find()?,
        binaries: OnceCell::new(),
        python: OnceCell::new(),
        beam: OnceCell::new(),
    };
    let mut total = Tally::default();
    for (name, suite) in SUITES {
        if !names.is_empty() && names.iter().all(|wanted| wanted != name) {
            continue;
        }
        let watch = Watch::new(name);
        let started = Instant::now();
        let tally = suite(&bench, &watch).unwrap_or_else(|failure| Tally {
            failed: 1,
            words: failure.to_string(),
            ..Tally::default()
        });
        watch.done();
        println!("{}", line(name, &tally, &report::time(started.elapsed())));
        for reason in &tally.skipped {
            println!("    skipped: {reason}");
        }
        for reason in &tally.expected {
            println!("    known to fail: {reason}");
        }
        if !tally.words.is_empty() {
            println!("{}", indent(&tally.words));
        }
        if tally.failed > 0 && tally.broken.is_empty() {
            total.broken.push(format!("{name}: see above"));
        }
        let broken = tally.broken.iter().map(|test| format!("{name}: {test}")).collect();
        total.add(Tally { words: String::new(), broken, ..tally });
    }
    println!();
    for test in &total.broken {
        // One line each: whoever reads only the end of a long log must find the names there.
        println!("failed: {}", test.chars().take(MOST_NAME).collect::<String>());
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped_count);
    Ok(total.failed == 0)
}

fn line(name: &str, tally: &Tally, time: &str) -> String {
    let mark = match (tally.failed, tally.passed) {
        (0, 0) => "skip",
        (0, _) => "ok",
        _ => "FAIL",
    };
    let mut counts = format!("{} passed", tally.passed);
    if tally.failed > 0 {
        counts.push_str(&format!(", {} failed", tally.failed));
    }
    if tally.skipped_count > 0 {
        counts.push_str(&format!(", {} skipped", tally.skipped_count));
    }
    format!("{mark:<5}{name:<15}{counts:<34}{time:>12}")
}

fn indent(words: &str) -> String {
    words.lines().map(|line| format!("    | {line}")).collect::<Vec<_>>().join("\n")
}
