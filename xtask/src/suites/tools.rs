//! The suites that drive a release server from outside: the official Python clients, `cbt`, `gcloud`, and the
//! crash harness.
//!
//! Invariant: the clients' tests start servers of their own, from the binary that `CLAVIGER_BIN` names; a tool
//! that is not installed is skipped by its own suite, with the reason.

use std::path::Path;
use std::process::Command;

use super::{Bench, Tally, counts};
use crate::failure::Result;
use crate::process::{self, Watch};

/// Rounds of the crash suite.
const CRASH_ROUNDS: &str = "200";

pub(super) fn python(bench: &Bench, watch: &Watch) -> Result<Tally> {
    pytest(bench, watch, "python")
}

pub(super) fn cbt(bench: &Bench, watch: &Watch) -> Result<Tally> {
    if process::which("cbt").is_none() {
        return Ok(Tally::skip("cbt is not installed (gcloud components install cbt)"));
    }
    pytest(bench, watch, "cbt")
}

pub(super) fn gcloud(bench: &Bench, watch: &Watch) -> Result<Tally> {
    if process::which("gcloud").is_none() {
        return Ok(Tally::skip("gcloud is not installed (the Google Cloud CLI)"));
    }
    pytest(bench, watch, "gcloud")
}

/// Runs the tests of one folder of `clients/`.
fn pytest(bench: &Bench, watch: &Watch, name: &str) -> Result<Tally> {
    let clients = bench.workspace.root.join("clients");
    let folder = clients.join(name);
    if !has_tests(&folder) {
        return Ok(Tally::skip(format!("clients/{name} holds no tests")));
    }
    let mut command = bench.python(watch)?.command();
    command.env("CLAVIGER_BIN", &bench.binaries(watch)?.claviger);
    command.args(["-m", "pytest", "-q", "-rsfE", "-p", "no:cacheprovider", "--tb=short", "--color=no"]);
    // Tests of pipelines have an environment and suites of their own.
    command.arg(&folder).arg("--ignore=python/beam").current_dir(&clients);
    let done = process::run(command, &bench.workspace.log(name), watch)?;
    Ok(counts::pytest(&done))
}

fn has_tests(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.filter_map(|entry| entry.ok()).any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("test_") && name.ends_with(".py")
    })
}

/// `kill -9` at many moments under writes and key operations; the harness is part of the bench binary.
pub(super) fn crash(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let binaries = bench.binaries(watch)?;
    let rounds = std::env::var("CLAVIGER_CRASH_ROUNDS").unwrap_or(CRASH_ROUNDS.to_owned());
    let folder = bench.workspace.target.join("xtask/crash");
    let mut command = Command::new(&binaries.bench);
    command.args(["crash", "--rounds", &rounds, "--claviger"]).arg(&binaries.claviger);
    command.arg("--dir").arg(folder);
    let done = process::run(command, &bench.workspace.log("crash"), watch)?;
    Ok(Tally::one(done.success, || done.tail(40)))
}
