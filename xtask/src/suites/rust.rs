//! The suites that cargo runs: format, lints, unit tests, and our protos against the official ones.

use std::path::{Path, PathBuf};

use super::{Bench, Tally, counts};
use crate::failure::{Failure, Result};
use crate::process::{self, Watch};

/// Writes the official descriptors of Google's APIs, from packages in the Python environment.
const DUMP: &str = "clients/python/descriptors/dump.py";

/// Writes those of Apache Beam, from the wheel that [`BEAM`] names.
const DUMP_BEAM: &str = "clients/python/descriptors/dump_beam.py";

/// The wheel's name and version, for pip. It is downloaded and not installed: few of its packages matter here.
const BEAM: &str = "clients/python/descriptors/beam.txt";

pub(super) fn fmt(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let mut command = bench.workspace.cargo();
    command.args(["fmt", "--all", "--", "--check", "--color", "never"]);
    let done = process::run(command, &bench.workspace.log("fmt"), watch)?;
    Ok(Tally::one(done.success, || done.tail(40)))
}

pub(super) fn clippy(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let mut command = bench.workspace.cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let done = process::run(command, &bench.workspace.log("clippy"), watch)?;
    Ok(Tally::one(done.success, || done.tail(60)))
}

pub(super) fn unit(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let mut command = bench.workspace.cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    let done = process::run(command, &bench.workspace.log("unit"), watch)?;
    Ok(counts::cargo_test(&done))
}

pub(super) fn descriptors(bench: &Bench, watch: &Watch) -> Result<Tally> {
    let workspace = &bench.workspace;
    let script = workspace.root.join(DUMP);
    if !script.is_file() {
        return Ok(Tally::skip(format!("{DUMP} is not there")));
    }
    let google = workspace.target.join("xtask/official-descriptors.bin");
    let beam = workspace.target.join("xtask/official-beam-descriptors.bin");
    let python = bench.python(watch)?;
    let wheel = beam_wheel(bench, watch)?;
    let mut dump = python.command();
    dump.arg(script).arg(&google);
    let mut dump_beam = python.command();
    dump_beam.arg(workspace.root.join(DUMP_BEAM)).arg(wheel).arg(&beam);
    for (command, log) in [(dump, "descriptors-dump"), (dump_beam, "descriptors-dump-beam")] {
        let done = process::run(command, &workspace.log(log), watch)?;
        if !done.success {
            return Ok(Tally::one(false, || done.tail(40)));
        }
    }
    let mut command = workspace.cargo();
    command.args(["test", "-p", "claviger-proto", "-p", "claviger-beam-proto"]);
    command.args(["--no-fail-fast", "--test", "official_descriptors", "--", "--ignored"]);
    command.env("CLAVIGER_OFFICIAL_DESCRIPTORS", &google);
    command.env("CLAVIGER_OFFICIAL_BEAM_DESCRIPTORS", &beam);
    let done = process::run(command, &workspace.log("descriptors"), watch)?;
    Ok(counts::cargo_test(&done))
}

/// Downloads the wheel of Beam's Python SDK, or takes the one that is there.
fn beam_wheel(bench: &Bench, watch: &Watch) -> Result<PathBuf> {
    let workspace = &bench.workspace;
    let wanted = workspace.root.join(BEAM);
    // A folder for each version: what is in it is never of another.
    let text = std::fs::read_to_string(&wanted)?;
    let line = text.lines().find(|line| line.starts_with("apache-beam=="));
    let line = line.ok_or_else(|| Failure::new(format!("{BEAM} names no apache-beam")))?;
    let folder = workspace.target.join("xtask").join(line);
    if let Some(wheel) = wheel_in(&folder) {
        return Ok(wheel);
    }
    watch.say("downloading the wheel of Apache Beam from PyPI");
    let mut fetch = bench.python(watch)?.command();
    fetch.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    fetch.args(["--only-binary", ":all:", "--dest"]).arg(&folder).arg("-r").arg(&wanted);
    let done = process::run(fetch, &workspace.log("beam-wheel"), watch)?;
    wheel_in(&folder).ok_or_else(|| Failure::new(format!("pip cannot fetch the wheel:\n{}", done.tail(30))))
}

fn wheel_in(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?;
    files.flatten().map(|file| file.path()).find(|path| path.extension().is_some_and(|kind| kind == "whl"))
}
